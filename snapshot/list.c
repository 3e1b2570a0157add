/* snapshot/list.c - the control files list and list.json. Columns and keys: only append.
 * Called by: the tables of files.c. Threads: control threads, with the engine's lock held while the sets are read.
 * Blocks:    never. What is not known by now is asked for on the engine's thread. */
#include "snapshot/list.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "snapshot/fence/fence.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void list_age(struct timespec created, char buf[32])
{
	long s = clock_utc().tv_sec - created.tv_sec;

	if (s < 120)
		(void)snprintf(buf, 32, "%lds", s < 0 ? 0 : s);
	else if (s < 7200)
		(void)snprintf(buf, 32, "%ldm", s / 60);
	else if (s < 48 * 3600)
		(void)snprintf(buf, 32, "%ldh", s / 3600);
	else
		(void)snprintf(buf, 32, "%ldd", s / 86400);
}

void list_size(uint64_t b, char buf[16])
{
	static const char units[] = "BKMGTP";
	double v = (double)b;
	int u = 0;

	for (; v >= 1024 && u < 5; u++)
		v /= 1024;
	(void)snprintf(buf, 16, u ? "%.1f%c" : "%.0f%c", v, units[u]);
}

/* The position in one column: file:offset, or "unknown", or "-". */
void list_position(const char *p, char *buf, size_t cap)
{
	char file[NAME_MAX + 1], pos[24];

	(void)snprintf(buf, cap, "%s", *p ? "unknown" : "-");
	if (fence_record_get(p, "binlog_file", file, sizeof(file)) && fence_record_get(p, "binlog_pos", pos, sizeof(pos)))
		(void)snprintf(buf, cap, "%s:%s", file, pos);
}

static void list_row(struct vbuf *out, const struct set *s, enum binlogs logs, int name_w, int class_w, int pos_w)
{
	char t[CLOCK_ISO_MAX], age[32], size[16], lock[24] = "-", hold[24] = "-", pos[160];

	list_age(s->created, age);
	list_size(s->size_b, size);
	list_position(s->position, pos, sizeof(pos));
	if (s->lock_ms >= 0)
		(void)snprintf(lock, sizeof(lock), "%.1f", s->lock_ms);
	if (s->hold_ms >= 0)
		(void)snprintf(hold, sizeof(hold), "%.1f", s->hold_ms);
	clock_iso(s->created, t);
	t[19] = 'Z';
	t[20] = '\0';
	vbuf_printf(out, "%-*s  %-*s  %s  %5s  %-8s  %3u  %8s  %7s  %7s  %-3s  %-*s  %-8s  %s\n", name_w, s->name, class_w,
		    s->class, t, age, set_state_name(s->state), s->volumes, size, lock, hold,
		    s->pin ? "pin" : "-", pos_w, pos, set_verified_name(s->verified), binlogs_name(logs));
}

int list_show(struct engine *e, const char *set, struct vbuf *out)
{
	int name_w = 4, class_w = 5, pos_w = 8;
	cleanup_free enum binlogs *logs = NULL;
	char pos[160];
	struct set *s;

	(void)pthread_mutex_lock(&e->lock);
	binlogs_ask(e, false);
	logs = binlogs_judge(e);
	for (size_t i = 0; (s = catalog_at(e->cat, i)) != NULL; i++) {
		list_position(s->position, pos, sizeof(pos));
		pos_w = (int)strlen(pos) > pos_w ? (int)strlen(pos) : pos_w;
		name_w = (int)strlen(s->name) > name_w ? (int)strlen(s->name) : name_w;
		class_w = (int)strlen(s->class) > class_w ? (int)strlen(s->class) : class_w;
	}
	vbuf_printf(out, "%-*s  %-*s  %-20s  %5s  %-8s  %3s  %8s  %7s  %7s  %-3s  %-*s  %-8s  %s\n", name_w, "NAME", class_w,
		    "CLASS", "CREATED", "AGE", "STATE", "VOL", "SIZE", "LOCK_MS", "HOLD_MS", "PIN", pos_w, "POSITION", "VERIFIED",
		    "BINLOGS");
	for (size_t i = 0; logs && (s = catalog_at(e->cat, i)) != NULL; i++)
		if (s->state != SET_DELETING)
			list_row(out, s, logs[i], name_w, class_w, pos_w);
	(void)pthread_mutex_unlock(&e->lock);
	return logs ? 0 : -ENOMEM;
}

/* A set as in its record, and then what is not recorded. */
static void row_json(struct vbuf *out, const struct set *s, enum binlogs logs)
{
	set_json(s, out);
	if (vbuf_error(out))
		return;
	out->len--; /* the closing brace */
	vbuf_puts(out, ",\"binlogs\":");
	if (logs == BINLOGS_NONE)
		vbuf_puts(out, "null}\n");
	else
		vbuf_printf(out, "\"%s\"}\n", binlogs_name(logs));
}

int list_show_json(struct engine *e, const char *set, struct vbuf *out)
{
	cleanup_free enum binlogs *logs = NULL;
	struct set *s;

	(void)pthread_mutex_lock(&e->lock);
	binlogs_ask(e, false);
	logs = binlogs_judge(e);
	for (size_t i = 0; logs && (s = catalog_at(e->cat, i)) != NULL; i++)
		if (s->state != SET_DELETING)
			row_json(out, s, logs[i]);
	(void)pthread_mutex_unlock(&e->lock);
	return logs ? 0 : -ENOMEM;
}
