/* snapshot/binlogs.c - does the server still have the binary logs from each set's position on? See list.h.
 * Owns:      e->binlogs: what the coordinator has listed last, and when.
 * Called by: list.c, which asks; run_db.c on the engine's thread; engine.c.
 * Blocks:    binlogs_look up to LOOK_MS and SEVER_MS; nothing else. A call that hangs is severed, which no lock can mind: the
 *            engine is between two runs.
 * Errors:    in `status`; the answers are `unknown` then.
 *
 * Rhythm: after a snapshot, and while somebody reads the listings PAUSE_S apart. What was seen is believed for BELIEF_S. */
#include "snapshot/list.h"
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_MS 5000u
#define SEVER_MS 2000u
#define PAUSE_S 60u
#define BELIEF_S 600u

/* ---- looking ---- */

void binlogs_ask(struct engine *e, bool now)
{
	e->binlogs.asked = true;
	if (now)
		e->binlogs.looked_ns = 0;
	(void)pthread_cond_signal(&e->work);
}

uint64_t binlogs_due(const struct engine *e)
{
	if (!e->binlogs.asked || !e->coord->logs || e->running)
		return UINT64_MAX;
	return e->binlogs.looked_ns ? e->binlogs.looked_ns + PAUSE_S * NS_PER_S : 0;
}

static void do_logs(struct job *j)
{
	struct engine *e = j->self;

	j->result = e->coord->logs(e->coord_self, j->max_ms, &j->text, &j->err);
}

static int call(struct engine *e, struct job *j, struct snap_error *err)
{
	int r = exec_post(e->db_exec, j);

	if (r < 0)
		return snap_error_set(err, r, "an earlier call has not come back yet");
	r = exec_wait(e->db_exec, j, clock_boot_ns() + LOOK_MS * NS_PER_MS, &e->abort_completing);
	if (r == 0 && j->result < 0)
		return snap_error_set(err, j->result, "%s", j->err.code ? j->err.msg : strerror(-j->result));
	if (r < 0) {
		e->coord->sever(e->coord_self); /* the next one to need a connection makes a new one */
		(void)exec_wait(e->db_exec, j, clock_boot_ns() + SEVER_MS * NS_PER_MS, NULL);
		return snap_error_set(err, r, "no answer in time");
	}
	return 0;
}

void binlogs_look(struct engine *e)
{
	struct snap_error err = { 0 };
	struct vbuf text = VBUF_INIT;
	struct job *j;
	bool due;

	(void)pthread_mutex_lock(&e->lock);
	due = !e->queued && !e->stopping && binlogs_due(e) <= clock_boot_ns();
	if (due)
		e->binlogs.asked = false;
	(void)pthread_mutex_unlock(&e->lock);
	if (!due)
		return;
	j = job_new(do_logs, e, LOOK_MS);
	if (!j)
		snap_error_set(&err, -ENOMEM, "out of memory");
	else if (call(e, j, &err) == 0)
		vbuf_puts(&text, vbuf_text(&j->text));
	job_drop(e->db_exec, j);
	(void)pthread_mutex_lock(&e->lock);
	vbuf_free(&e->binlogs.text);
	e->binlogs.text = text;
	e->binlogs.error = err;
	e->binlogs.looked_ns = e->binlogs.seen_ns = clock_boot_ns();
	e->binlogs.when = clock_utc();
	(void)pthread_mutex_unlock(&e->lock);
}

void binlogs_status(const struct engine *e, struct vbuf *out)
{
	char t[CLOCK_ISO_MAX];

	vbuf_printf(out, "binlogs_looked %s%s%s\n", e->binlogs.when.tv_sec ? clock_iso(e->binlogs.when, t) : "never",
		    e->binlogs.error.code ? " failed: " : "", e->binlogs.error.code ? e->binlogs.error.msg : "");
}

/* ---- judging ---- */

struct log {
	char name[128];
	uint64_t at; /* size, or a position in it */
};

struct logs {
	struct log *v; /* by name */
	size_t n;
	char id[64], uuid[64];
};

/* Logs of one name are numbered: the longer number is the greater one. */
static int by_name(const void *a, const void *b)
{
	const struct log *x = a, *y = b;
	size_t lx = strlen(x->name), ly = strlen(y->name);

	return lx != ly ? (lx < ly ? -1 : 1) : strcmp(x->name, y->name);
}

/* Of one series: the same name but for the number. */
static bool one_series(const struct log *a, const struct log *b)
{
	const char *x = strrchr(a->name, '.'), *y = strrchr(b->name, '.');

	return x && y && x - a->name == y - b->name && memcmp(a->name, b->name, (size_t)(x - a->name)) == 0;
}

/* The value of a line "KEY VALUE"; false: there is none. */
static bool line(const char *text, const char *key, char *buf, size_t cap)
{
	size_t n = strlen(key);

	for (; *text; text += strcspn(text, "\n"), text += *text == '\n')
		if (strncmp(text, key, n) == 0 && text[n] == ' ') {
			(void)snprintf(buf, cap, "%.*s", (int)strcspn(text + n + 1, "\n"), text + n + 1);
			return true;
		}
	return false;
}

static bool read_logs(const char *text, struct logs *l)
{
	size_t lines = 1;

	for (const char *p = text; *p; p++)
		lines += *p == '\n';
	*l = (struct logs){ .v = calloc(lines, sizeof(*l->v)) };
	if (!l->v)
		return false;
	(void)line(text, "server_id", l->id, sizeof(l->id));
	(void)line(text, "server_uuid", l->uuid, sizeof(l->uuid));
	for (const char *p = text; *p; p += strcspn(p, "\n"), p += *p == '\n') {
		unsigned long long size;

		if (sscanf(p, "binlog %127s %llu", l->v[l->n].name, &size) == 2)
			l->v[l->n++].at = size;
	}
	qsort(l->v, l->n, sizeof(*l->v), by_name);
	return true;
}

/* Was the set taken of the server that was asked? */
static bool same_server(const struct logs *l, const char *position)
{
	char own[64];

	if (*l->uuid && line(position, "server_uuid", own, sizeof(own)))
		return strcmp(own, l->uuid) == 0;
	return line(position, "server_id", own, sizeof(own)) && strcmp(own, l->id) == 0;
}

/* next: the position of a younger set of this server, or the logs' end. It cannot be before this one's unless the logs were
 * begun anew in between, and then a log of the same name is another one. */
static enum binlogs judge(const struct logs *l, const struct set *s, struct log *next, bool fresh)
{
	struct log own = { 0 }, *found;
	char pos[32], off[8];

	if (!line(s->position, "binlog_file", own.name, sizeof(own.name)) || !line(s->position, "binlog_pos", pos, sizeof(pos)))
		return line(s->position, "binlog", off, sizeof(off)) ? BINLOGS_NO : BINLOGS_NONE;
	own.at = strtoull(pos, NULL, 10);
	if (!fresh || !same_server(l, s->position))
		return BINLOGS_UNKNOWN;
	if (*next->name && one_series(next, &own) && (by_name(&own, next) > 0 || (by_name(&own, next) == 0 && own.at > next->at))) {
		*next = (struct log){ 0 }; /* nor is anything known of the older ones that would lie before this one */
		(void)snprintf(next->name, sizeof(next->name), ".");
	}
	if (strcmp(next->name, ".") == 0)
		return BINLOGS_UNKNOWN;
	found = l->n ? bsearch(&own, l->v, l->n, sizeof(*l->v), by_name) : NULL;
	*next = own;
	return found && own.at <= found->at ? BINLOGS_YES : BINLOGS_NO;
}

struct aged {
	const struct set *s;
	size_t at;
};

static int youngest_first(const void *a, const void *b)
{
	const struct set *x = ((const struct aged *)a)->s, *y = ((const struct aged *)b)->s;

	if (x->created.tv_sec != y->created.tv_sec)
		return x->created.tv_sec > y->created.tv_sec ? -1 : 1;
	return x->seq > y->seq ? -1 : 1;
}

enum binlogs *binlogs_judge(const struct engine *e)
{
	size_t n = catalog_count(e->cat);
	enum binlogs *out = calloc(n + 1, sizeof(*out));
	struct aged *order = calloc(n + 1, sizeof(*order));
	struct logs l = { 0 };
	bool fresh = e->binlogs.when.tv_sec && !e->binlogs.error.code &&
		     clock_boot_ns() - e->binlogs.seen_ns < BELIEF_S * NS_PER_S;
	struct log next = { 0 };

	if (!out || !order || !read_logs(vbuf_text(&e->binlogs.text), &l)) {
		free(out);
		free(order);
		return NULL;
	}
	for (size_t i = 0; i < n; i++)
		order[i] = (struct aged){ catalog_at(e->cat, i), i };
	qsort(order, n, sizeof(*order), youngest_first);
	if (l.n)
		next = l.v[l.n - 1];
	for (size_t i = 0; i < n; i++)
		out[order[i].at] = judge(&l, order[i].s, &next, fresh);
	free(order);
	free(l.v);
	return out;
}

const char *binlogs_name(enum binlogs b)
{
	static const char *const names[] = { "-", "yes", "no", "unknown" };

	return names[b];
}
