/* snapshot/files.c - the engine's virtual files: one renderer and one parser each.
 * Threads: control threads, with the engine's lock held while a set is read. Blocks: writes save one
 * small record. Keys of JSON: only append. */
#include "snapshot/list.h"
#include "snapshot/prune.h"
#include "snapshot/prune_int.h"
#include "base/clock.h"
#include "snapshot/fence/keep.h"
#include "snapshot/verify/verify.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Find a set and hold the lock; NULL: not held. */
static struct set *get(struct engine *e, const char *name)
{
	struct set *s;

	(void)pthread_mutex_lock(&e->lock);
	s = catalog_find(e->cat, name);
	if (!s)
		(void)pthread_mutex_unlock(&e->lock);
	return s;
}

static void put_ms(struct vbuf *out, double ms)
{
	if (ms < 0)
		vbuf_puts(out, "-");
	else
		vbuf_printf(out, "%.1f", ms);
}

/* ---- attribute files ---- */

#define ATTR(fname, expr)                                                                          \
	static int show_##fname(struct engine *e, const char *name, struct vbuf *out)              \
	{                                                                                          \
		struct set *s = get(e, name);                                                      \
		char t[CLOCK_ISO_MAX];                                                             \
                                                                                                   \
		if (!s)                                                                            \
			return -ENOENT;                                                            \
		(void)t;                                                                           \
		expr;                                                                              \
		(void)pthread_mutex_unlock(&e->lock);                                              \
		return 0;                                                                          \
	}

ATTR(id, vbuf_printf(out, "%s\n", s->id))
ATTR(state, vbuf_printf(out, "%s\n", set_state_name(s->state)))
ATTR(created, vbuf_printf(out, "%s\n", clock_iso(s->created, t)))
ATTR(description, vbuf_printf(out, "%s\n", s->description))
ATTR(tags, vbuf_puts(out, s->tags))
ATTR(position, vbuf_puts(out, s->position))
ATTR(volumes, vbuf_printf(out, "%u\n", s->volumes))
ATTR(size, vbuf_printf(out, "%llu\n", (unsigned long long)s->size_b))
ATTR(last_error, vbuf_printf(out, "%s\n", *s->error ? s->error : "none"))
ATTR(server, vbuf_puts(out, s->layout))
ATTR(log, vbuf_puts(out, vbuf_text(&s->log)))
ATTR(pin, vbuf_puts(out, s->pin ? "yes\n" : "no\n"))
ATTR(lock_ms, {
	put_ms(out, s->lock_ms);
	vbuf_puts(out, "\n");
})
ATTR(hold_ms, {
	put_ms(out, s->hold_ms);
	vbuf_puts(out, "\n");
})
ATTR(lock_given_up, {
	vbuf_printf(out, "%u ", s->given_up);
	put_ms(out, s->given_up_ms);
	vbuf_puts(out, "\n");
})
ATTR(progress, {
	vbuf_printf(out, "%u\n", s->progress);
	if (*s->detail)
		vbuf_printf(out, "%s\n", s->detail);
})

/* Say what somebody has changed in a set. No lock held. */
static void changed(struct engine *e, const char *name, const char *step)
{
	char text[DOOR_NAME_MAX + 64];

	(void)snprintf(text, sizeof(text), "\"set\":\"%s\",\"step\":\"%s\"", name, step);
	e->door.ops->event(e->door.fs, "snapshot", text);
}

/* Change a set under the lock, then save it; put it back if it could not be saved. */
static int change_text(struct engine *e, const char *name, bool tags, const char *text, struct snap_error *err)
{
	struct set *s = get(e, name);
	char **field, *old, *fresh;
	bool same;
	int r;

	if (!s)
		return -ENOENT;
	field = tags ? &s->tags : &s->description;
	fresh = strdup(text);
	old = *field;
	same = strcmp(old, text) == 0;
	if (fresh)
		*field = fresh;
	(void)pthread_mutex_unlock(&e->lock);
	if (!fresh)
		return -ENOMEM;
	r = engine_save(e, s, err);
	(void)pthread_mutex_lock(&e->lock);
	if (r < 0 && *field == fresh)
		*field = old;
	else
		fresh = old;
	(void)pthread_mutex_unlock(&e->lock);
	free(fresh);
	if (r == 0 && !same)
		changed(e, name, tags ? "tags" : "description");
	return r;
}

static int write_pin(struct engine *e, const char *name, const char *text, size_t len, struct snap_error *err)
{
	char word[8] = "", rest[2];
	struct set *s;
	bool pin, old;
	int r;

	if (sscanf(text, "%7s %1s", word, rest) != 1 || (strcmp(word, "yes") != 0 && strcmp(word, "no") != 0))
		return snap_error_set(err, -EINVAL, "pin: expected yes or no");
	pin = strcmp(word, "yes") == 0;
	s = get(e, name);
	if (!s)
		return -ENOENT;
	old = s->pin;
	s->pin = pin;
	(void)pthread_mutex_unlock(&e->lock);
	r = engine_save(e, s, err);
	if (r < 0) {
		(void)pthread_mutex_lock(&e->lock);
		s->pin = old;
		(void)pthread_mutex_unlock(&e->lock);
	} else if (old != pin && e->prov->note_pin) {
		(void)pthread_mutex_lock(&e->lock);
		s->pin_due = e->pins_due = true;
		(void)pthread_cond_signal(&e->work);
		(void)pthread_mutex_unlock(&e->lock);
	}
	if (r == 0 && old != pin)
		changed(e, name, pin ? "pin" : "unpin");
	return r;
}

static int write_description(struct engine *e, const char *name, const char *text, size_t len,
			     struct snap_error *err)
{
	char buf[SNAP_DESCRIPTION_MAX + 1];

	if (len && text[len - 1] == '\n')
		len--;
	if (len > SNAP_DESCRIPTION_MAX)
		return snap_error_set(err, -EINVAL, "description: longer than %d bytes", SNAP_DESCRIPTION_MAX);
	memcpy(buf, text, len);
	buf[len] = '\0';
	if (!snap_text_ok(buf))
		return snap_error_set(err, -EINVAL, "description: one line of UTF-8 without control characters is "
						    "expected");
	return change_text(e, name, false, buf, err);
}

/* Lines "key:value" replace all tags. */
static int write_tags(struct engine *e, const char *name, const char *text, size_t len, struct snap_error *err)
{
	char line[512];
	struct vbuf b = VBUF_INIT;
	unsigned n = 0;
	int r = 0;

	while (r == 0 && *text) {
		size_t l = strcspn(text, "\n");

		(void)snprintf(line, sizeof(line), "%.*s", (int)(l < sizeof(line) ? l : sizeof(line) - 1), text);
		text += l + (text[l] == '\n');
		if (!*line)
			continue;
		if (!snap_tag_ok(line) || ++n > SNAP_TAGS_MAX)
			r = snap_error_set(err, -EINVAL, "tags: \"%.100s\": expected at most %d lines KEY:VALUE in UTF-8", line,
					   SNAP_TAGS_MAX);
		vbuf_printf(&b, "%s\n", line);
	}
	if (r == 0)
		r = vbuf_error(&b);
	if (r == 0)
		r = change_text(e, name, true, vbuf_text(&b), err);
	vbuf_free(&b);
	return r;
}

/* ---- the root's files ---- */

/* `snapshot`: one flat-keyed block about the last one. Lock held. */
void files_render_last(struct engine *e, const struct set *s)
{
	char t[CLOCK_ISO_MAX];
	struct vbuf *b = &e->last;

	vbuf_free(b);
	vbuf_printf(b, "name %s\nstate %s\ncreated %s\nlock_ms ", s->name, set_state_name(s->state),
		    clock_iso(s->created, t));
	put_ms(b, s->lock_ms);
	vbuf_puts(b, "\nhold_ms ");
	put_ms(b, s->hold_ms);
	vbuf_printf(b, "\nlock_given_up %u ", s->given_up);
	put_ms(b, s->given_up_ms);
	vbuf_printf(b, "\nvolumes %u\nsize %llu\n%s", s->volumes, (unsigned long long)s->size_b, s->position);
	if (*s->error)
		vbuf_printf(b, "last_error %s\n", s->error);
}

static int show_snapshot(struct engine *e, const char *name, struct vbuf *out)
{
	(void)pthread_mutex_lock(&e->lock);
	if (e->running)
		vbuf_printf(out, "name %s\nstate %s\nstep %s\n", e->running->name,
			    set_state_name(e->running->state), e->step);
	else
		vbuf_puts(out, e->last.len ? vbuf_text(&e->last) : "none\n");
	(void)pthread_mutex_unlock(&e->lock);
	return 0;
}

static int write_abort(struct engine *e, const char *name, const char *text, size_t len, struct snap_error *err)
{
	return engine_abort(e, err);
}

void engine_status(struct engine *e, struct vbuf *out)
{
	size_t n = 0;
	struct set *s;

	(void)pthread_mutex_lock(&e->lock);
	for (size_t i = 0; (s = catalog_at(e->cat, i)) != NULL; i++)
		n += s->state != SET_DELETING;
	vbuf_printf(out, "state %s\n", e->step);
	if (e->running)
		vbuf_printf(out, "running %s\n", e->running->name);
	vbuf_printf(out, "provider %s\ndb %s\nsets %zu\nlineage %s\ncatalog_bad_files %u\n", e->prov->name,
		    conf_str(e->door.conf, "db"), n, catalog_lineage(e->cat), catalog_bad(e->cat));
	vbuf_printf(out, "last_snapshot %s\n", e->last_name[0] ? e->last_name : "none");
	if (e->last_name[0])
		vbuf_printf(out, "last_snapshot_state %s\n", set_state_name(e->last_state));
	engine_clean_status(e, out);
	prune_status(e, out);
	binlogs_status(e, out);
	stock_status(e, out);
	(void)pthread_mutex_unlock(&e->lock);
	vbuf_printf(out, "fence %s\n", fence_keep_state(e->fence));
	vbuf_printf(out, "provider_call %s\ndatabase_call %s\n", exec_stuck(e->prov_exec) ? "stuck" : "ok",
		    exec_stuck(e->db_exec) ? "stuck" : "ok");
	e->coord->status(e->coord_self, out);
}

/* `doctor`: a write asks for a look at the database, which the engine's thread takes between runs. */
static int show_doctor(struct engine *e, const char *name, struct vbuf *out)
{
	(void)pthread_mutex_lock(&e->lock);
	vbuf_puts(out, e->doctor_running ? "running\n" : e->doctor.len ? vbuf_text(&e->doctor) : "none\n");
	(void)pthread_mutex_unlock(&e->lock);
	return 0;
}

static int write_doctor(struct engine *e, const char *name, const char *text, size_t len, struct snap_error *err)
{
	int r = 0;

	if (strcmp(text, "run\n") != 0 && strcmp(text, "run") != 0)
		return snap_error_set(err, -EINVAL, "doctor: expected run");
	(void)pthread_mutex_lock(&e->lock);
	if (e->doctor_running)
		r = snap_error_set(err, -EBUSY, "doctor: it is looking already; read doctor until it is done");
	e->doctor_running = true;
	(void)pthread_cond_signal(&e->work);
	(void)pthread_mutex_unlock(&e->lock);
	return r;
}

const struct engine_file engine_root_files[] = {
	{ "doctor", show_doctor, write_doctor },
	{ "snapshot", show_snapshot, NULL },
	{ "abort", NULL, write_abort },
	{ "fence", fence_keep_show, fence_keep_write },
	{ "list", list_show, NULL },
	{ "list.json", list_show_json, NULL },
	{ "list.all", stock_show, NULL },
	{ "list.all.json", stock_show_json, NULL },
	{ "retention", prune_show_policy, prune_write_policy },
	{ "prune", prune_show, prune_write },
	{ "prune.log", prune_show_log, NULL },
	{ "rescan", rescan_show, rescan_write },
	{ "verify", verify_render, verify_write },
	{ NULL, NULL, NULL },
};

const struct engine_file engine_set_files[] = {
	{ "id", show_id, NULL },
	{ "state", show_state, NULL },
	{ "progress", show_progress, NULL },
	{ "created", show_created, NULL },
	{ "description", show_description, write_description },
	{ "tags", show_tags, write_tags },
	{ "pin", show_pin, write_pin },
	{ "position", show_position, NULL },
	{ "lock_ms", show_lock_ms, NULL },
	{ "hold_ms", show_hold_ms, NULL },
	{ "lock_given_up", show_lock_given_up, NULL },
	{ "volumes", show_volumes, NULL },
	{ "size", show_size, NULL },
	{ "verified", verify_render_set, NULL },
	{ "verify.log", verify_render_log, NULL },
	{ "server", show_server, NULL },
	{ "last_error", show_last_error, NULL },
	{ "log", show_log, NULL },
	{ NULL, NULL, NULL },
};
