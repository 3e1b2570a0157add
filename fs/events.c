/* fs/events.c - see events.h. One mutex; the ring holds the last bytes of an endless file. */
#include "fs/events.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/vbuf.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* What outlives a daemon. A line counts once `end` is stored, which happens last. */
struct stream {
	_Atomic uint64_t end, seq;
	char ring[];
};

struct events {
	pthread_mutex_t lock;
	struct stream *s;
	size_t cap;
	bool own; /* s is */
};

struct events *events_over(void *mem, size_t mem_b)
{
	struct events *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->s = mem;
	e->cap = mem_b - sizeof(struct stream);
	(void)pthread_mutex_init(&e->lock, NULL);
	return e;
}

struct events *events_new(size_t ring_b)
{
	void *mem = calloc(1, sizeof(struct stream) + ring_b);
	struct events *e = mem ? events_over(mem, sizeof(struct stream) + ring_b) : NULL;

	if (e)
		e->own = true;
	else
		free(mem);
	return e;
}

void events_free(struct events *e)
{
	if (!e)
		return;
	(void)pthread_mutex_destroy(&e->lock);
	if (e->own)
		free(e->s);
	free(e);
}

static void ring_put(struct events *e, const char *data, size_t len)
{
	uint64_t end = e->s->end;

	for (size_t i = 0; i < len;) {
		size_t at = (size_t)(end % e->cap), n = e->cap - at;

		if (n > len - i)
			n = len - i;
		memcpy(e->s->ring + at, data + i, n);
		end += n;
		i += n;
	}
	FAULT("events.copied");
	e->s->end = end;
	FAULT("events.end");
}

void events_add(struct events *e, const char *name, const char *type, const char *members)
{
	struct vbuf b = VBUF_INIT;
	char when[CLOCK_ISO_MAX];

	(void)pthread_mutex_lock(&e->lock);
	if (strlen(members) > e->cap / 2)
		members = "\"error\":\"event too long, dropped\"";
	vbuf_printf(&b, "{\"seq\":%llu,\"time\":\"%s\",\"name\":\"", (unsigned long long)++e->s->seq,
		    clock_iso(clock_utc(), when));
	vbuf_json(&b, name);
	vbuf_printf(&b, "\",\"type\":\"%s\"%s%s}\n", type, *members ? "," : "", members);
	if (vbuf_error(&b) == 0)
		ring_put(e, vbuf_text(&b), b.len);
	(void)pthread_mutex_unlock(&e->lock);
	vbuf_free(&b);
}

uint64_t events_end(struct events *e)
{
	uint64_t end;

	(void)pthread_mutex_lock(&e->lock);
	end = e->s->end;
	(void)pthread_mutex_unlock(&e->lock);
	return end;
}

size_t events_read(struct events *e, uint64_t off, char *buf, size_t cap)
{
	uint64_t first;
	size_t n = 0;

	(void)pthread_mutex_lock(&e->lock);
	first = e->s->end > e->cap ? e->s->end - e->cap : 0;
	if (off < e->s->end)
		n = e->s->end - off < cap ? (size_t)(e->s->end - off) : cap;
	for (size_t i = 0; i < n; i++)
		buf[i] = off + i < first ? '\n' : e->s->ring[(off + i) % e->cap];
	(void)pthread_mutex_unlock(&e->lock);
	return n;
}
