/* fs/events.c - see events.h. One mutex; the ring holds the last bytes of an endless file. */
#include "fs/events.h"
#include "base/clock.h"
#include "base/vbuf.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct events {
	pthread_mutex_t lock;
	uint64_t end, seq;
	size_t cap;
	char ring[];
};

struct events *events_new(size_t ring_b)
{
	struct events *e = calloc(1, sizeof(*e) + ring_b);

	if (!e)
		return NULL;
	e->cap = ring_b;
	(void)pthread_mutex_init(&e->lock, NULL);
	return e;
}

void events_free(struct events *e)
{
	if (e)
		(void)pthread_mutex_destroy(&e->lock);
	free(e);
}

static void ring_put(struct events *e, const char *data, size_t len)
{
	for (size_t i = 0; i < len;) {
		size_t at = (size_t)(e->end % e->cap), n = e->cap - at;

		if (n > len - i)
			n = len - i;
		memcpy(e->ring + at, data + i, n);
		e->end += n;
		i += n;
	}
}

void events_add(struct events *e, const char *name, const char *type, const char *members)
{
	struct vbuf b = VBUF_INIT;
	char when[CLOCK_ISO_MAX];

	(void)pthread_mutex_lock(&e->lock);
	if (strlen(members) > e->cap / 2)
		members = "\"error\":\"event too long, dropped\"";
	vbuf_printf(&b, "{\"seq\":%llu,\"time\":\"%s\",\"name\":\"", (unsigned long long)++e->seq,
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
	end = e->end;
	(void)pthread_mutex_unlock(&e->lock);
	return end;
}

size_t events_read(struct events *e, uint64_t off, char *buf, size_t cap)
{
	uint64_t first;
	size_t n = 0;

	(void)pthread_mutex_lock(&e->lock);
	first = e->end > e->cap ? e->end - e->cap : 0;
	if (off < e->end)
		n = e->end - off < cap ? (size_t)(e->end - off) : cap;
	for (size_t i = 0; i < n; i++)
		buf[i] = off + i < first ? '\n' : e->ring[(off + i) % e->cap];
	(void)pthread_mutex_unlock(&e->lock);
	return n;
}
