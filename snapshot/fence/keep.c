/* snapshot/fence/keep.c - see keep.h: a fence's life, and its journal over the lives of the process.
 * Owns:      the journal "fence" in state_dir: what is wanted, since when, the fence's record, the sessions that ended.
 * Called by: engine.c (life), keep_work.c (the journal).
 * Threads:   fence_keep_stop and fence_keep_save: any. The rest before the engine's threads, or after them.
 * Errors:    -errno with the sentence. */
#include "snapshot/fence/keep_int.h"
#include "base/fault.h"
#include "base/log.h"
#include "snapshot/journal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SESSION "ended_session "

const char *fence_keep_stand_name(enum stand s)
{
	static const char *const names[] = { "off", "turning on", "on", "on unreachable", "on lost", "on half", "turning off", "on hard" };

	return names[s];
}

int fence_keep_save(struct fence_keep *k, const char *record, struct snap_error *err)
{
	struct vbuf b = VBUF_INIT;
	int r;

	(void)pthread_mutex_lock(&k->lock);
	vbuf_printf(&b, "want %s\nsince %s\n%s", k->want ? "on" : "off", k->since, k->retired || k->retiring ? "retired yes\n" : "");
	vbuf_puts(&b, k->hard ? "hard yes\n" : "");
	vbuf_puts(&b, record);
	vbuf_puts(&b, vbuf_text(&k->sessions));
	(void)pthread_mutex_unlock(&k->lock);
	r = vbuf_error(&b) ? snap_error_set(err, -ENOMEM, "fence: journal: out of memory") :
			     journal_put(k->e->door.conf, "fence", vbuf_text(&b), err);
	vbuf_free(&b);
	FAULT("fence.saved");
	return r;
}

/* ---- life ---- */

struct fence_keep *fence_keep_open(struct engine *e, struct snap_error *err)
{
	struct fence_keep *k = calloc(1, sizeof(*k));

	if (!k) {
		snap_error_set(err, -ENOMEM, "fence: out of memory");
		return NULL;
	}
	k->e = e;
	k->due_ns = UINT64_MAX;
	k->refused = k->denied = -1;
	(void)pthread_mutex_init(&k->lock, NULL);
	k->side = fence_side_find(e->door.conf);
	if (k->side) {
		k->self = k->side->open(e->door.conf, err);
		if (!k->self) {
			k->side = NULL;
			fence_keep_free(k);
			return NULL;
		}
	}
	return k;
}

void fence_keep_free(struct fence_keep *k)
{
	if (!k)
		return;
	if (k->side)
		k->side->close(k->self);
	vbuf_free(&k->record);
	vbuf_free(&k->sessions);
	vbuf_free(&k->notes);
	vbuf_free(&k->found);
	(void)pthread_mutex_destroy(&k->lock);
	free(k);
}

size_t fence_keep_head(struct vbuf *text, struct vbuf *sessions)
{
	const char *first = NULL;
	size_t n = 0, len;

	for (const char *p = vbuf_text(text); *p; p += len) {
		len = strcspn(p, "\n");
		len += p[len] == '\n';
		if (strncmp(p, SESSION, strlen(SESSION)) != 0)
			continue;
		first = first ? first : p;
		n++;
		if (sessions)
			vbuf_add(sessions, p, len);
	}
	if (first) {
		text->len = (size_t)(first - text->data);
		text->data[text->len] = '\0';
	}
	return n;
}

/* A line of the journal's head, with its newline. */
static void take_line(struct fence_keep *k, const char *line, size_t n)
{
	static const char *const own[] = { "want ", "since ", "retired ", "hard ", NULL };

	for (int i = 0; own[i]; i++)
		if (strncmp(line, own[i], strlen(own[i])) == 0)
			return;
	vbuf_add(&k->record, line, n);
}

int fence_keep_load(struct fence_keep *k, struct snap_error *err)
{
	struct vbuf text = VBUF_INIT;
	char value[32] = "";
	int r = journal_get(k->e->door.conf, "fence", &text, err);

	if (r < 0 || !text.len) {
		vbuf_free(&text);
		return r;
	}
	k->n_ended = (unsigned)fence_keep_head(&text, &k->sessions);
	(void)fence_record_get(vbuf_text(&text), "want", value, sizeof(value));
	if (strcmp(value, "on") != 0 && strcmp(value, "off") != 0)
		r = snap_error_set(err, -EINVAL, "fence: the journal of the fence in state_dir says neither want on nor want off: look at it");
	k->want = strcmp(value, "on") == 0;
	k->hard = k->want && fence_record_get(vbuf_text(&text), "hard", value, sizeof(value));
	k->retired = fence_record_get(vbuf_text(&text), "retired", value, sizeof(value));
	(void)fence_record_get(vbuf_text(&text), "since", k->since, sizeof(k->since));
	for (const char *p = vbuf_text(&text); r == 0 && *p;) {
		size_t n = strcspn(p, "\n") + 1;

		take_line(k, p, n);
		p += n;
	}
	if (r == 0 && !k->side && k->record.len)
		r = snap_error_set(err, -EINVAL, "fence: state_dir says that a database is fenced, and db= names none that can be: start with "
						 "db= as it was, and take the fence down first");
	k->stand = !k->want ? IS_TURNING_OFF : k->hard ? IS_HARD : fence_record_state(vbuf_text(&k->record)) == FENCE_ON ? IS_UNREACHABLE : IS_TURNING_ON;
	k->refused = k->hard ? 0 : -1;
	k->due_ns = 0;
	if (r == 0)
		log_info("fence: an earlier process left it %s", fence_keep_stand_name(k->stand));
	vbuf_free(&text);
	return r;
}

void fence_keep_stop(struct fence_keep *k)
{
	atomic_store(&k->stop, ESHUTDOWN);
	if (k->side)
		k->side->sever(k->self);
}
