/* snapshot/fence/keep_work.c - see keep.h: puts up, looks after and takes down what the control file asked for.
 * Called by: engine.c, on its thread.
 * Threads:   the calls into the side run on the database thread, and what they find is put in there, under k->lock, so
 *            that one which comes back late is not lost.
 * Blocks:    as long as the database takes, within the bounds below; the connection is cut then.
 * Errors:    in the file, in last_error, and an event. */
#include "snapshot/fence/keep_int.h"
#include "base/fault.h"
#include "base/log.h"
#include "snapshot/journal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define POLL_MS 1000u
#define AGAIN_MS 5000u /* after one that failed half-way: each try ends sessions */
#define LOOK_MS 4000u /* of one look; the connection is cut then */
#define WORK_MS 60000u /* of on, until the sessions are gone */
#define WORD_MAX 512u /* of a session's names; of a program's more than a server keeps unless it is told to */
#define SESSIONS_MAX 65536u /* bytes of the list */

void fence_keep_tell(struct fence_keep *k, const char *what, const struct snap_error *why)
{
	struct vbuf b = VBUF_INIT;

	vbuf_printf(&b, "\"state\":\"%s\"", what);
	if (why && why->code) {
		vbuf_puts(&b, ",\"error\":\"");
		vbuf_json(&b, why->msg);
		vbuf_puts(&b, "\"");
	}
	k->e->door.ops->event(k->e->door.fs, "fence", vbuf_text(&b));
	vbuf_free(&b);
}

/* ---- what the side tells during a call ---- */

static int on_record(void *arg, const char *lines, struct snap_error *err)
{
	return fence_keep_save(arg, lines, err);
}

/* Names are what a client called itself. The journal is made of lines, and so is the file. */
static void put_session(struct vbuf *out, const struct fence_session *s)
{
	const struct {
		const char *before, *text;
	} parts[] = { { "ended_session ", s->user }, { "@", s->host }, { " program=", s->program }, { " db=", s->db } };

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		vbuf_puts(out, parts[i].before);
		vbuf_word(out, parts[i].text, WORD_MAX);
	}
	vbuf_puts(out, "\n");
}

static void on_ended(void *arg, const struct fence_session *s)
{
	struct fence_keep *k = arg;

	(void)pthread_mutex_lock(&k->lock);
	k->n_ended++;
	if (k->sessions.len < SESSIONS_MAX)
		put_session(&k->sessions, s);
	(void)pthread_mutex_unlock(&k->lock);
}

static void on_note(void *arg, const char *sentence)
{
	struct fence_keep *k = arg;

	log_warn("%s", sentence);
	(void)pthread_mutex_lock(&k->lock);
	vbuf_puts(&k->notes, "note ");
	vbuf_line(&k->notes, sentence);
	vbuf_puts(&k->notes, "\n");
	(void)pthread_mutex_unlock(&k->lock);
}

static bool on_cancelled(void *arg)
{
	struct fence_keep *k = arg;
	bool wanted;

	(void)pthread_mutex_lock(&k->lock);
	wanted = k->want; /* off may be asked for while it is being put up */
	(void)pthread_mutex_unlock(&k->lock);
	return !wanted || atomic_load(&k->stop);
}

static struct fence_opts opts(struct fence_keep *k)
{
	return (struct fence_opts){ .max_ms = WORK_MS, .record = on_record, .ended = on_ended, .note = on_note,
				    .cancelled = on_cancelled, .arg = k };
}

/* ---- the database thread ---- */

static void count(struct fence_keep *k, bool first)
{
	long long refused, denied;

	k->side->counts(k->self, &refused, &denied);
	(void)pthread_mutex_lock(&k->lock);
	if (first) {
		k->refused = refused < 0 ? -1 : 0;
		k->denied = denied < 0 ? -1 : 0;
	} else { /* a server that was restarted counts from 0 */
		if (refused >= 0 && k->refused >= 0)
			k->refused += refused >= k->refused_at ? refused - k->refused_at : refused;
		if (denied >= 0 && k->denied >= 0)
			k->denied += denied >= k->denied_at ? denied - k->denied_at : denied;
	}
	k->refused_at = refused;
	k->denied_at = denied;
	(void)pthread_mutex_unlock(&k->lock);
}

static void stands(struct fence_keep *k, const char *event)
{
	char now[CLOCK_ISO_MAX];

	(void)pthread_mutex_lock(&k->lock);
	k->stand = k->want ? IS_ON : k->stand; /* else off was asked for meanwhile */
	(void)snprintf(k->verified, sizeof(k->verified), "%s", clock_iso(clock_utc(), now));
	k->last = (struct snap_error){ 0 };
	(void)pthread_mutex_unlock(&k->lock);
	if (event)
		fence_keep_tell(k, event, NULL);
}

/* It did not work; what is changed by now stays in the journal, and the engine comes by again. */
void fence_keep_failed(struct fence_keep *k, enum stand s, const char *event, const struct snap_error *why)
{
	bool news;

	(void)pthread_mutex_lock(&k->lock);
	news = k->stand != s || k->last.code != why->code;
	if (k->want || s == IS_OFF || s == IS_TURNING_OFF)
		k->stand = s;
	k->last = *why;
	(void)pthread_mutex_unlock(&k->lock);
	if (!news)
		return; /* the same, each second */
	log_error("%s", why->msg);
	k->e->door.ops->report(k->e->door.fs, "fence", why);
	fence_keep_tell(k, event, why);
}

static void turn_on(struct fence_keep *k, const char *event)
{
	struct snap_error why = { 0 };
	struct fence_opts o = opts(k);
	bool fresh = fence_record_state(vbuf_text(&k->record)) == FENCE_OFF;
	int r;

	(void)pthread_mutex_lock(&k->lock);
	vbuf_free(&k->notes); /* of an earlier one */
	(void)pthread_mutex_unlock(&k->lock);
	r = k->side->on(k->self, &o, &k->record, &why);

	if (r == 0) {
		if (fresh)
			count(k, true);
		stands(k, event);
		return;
	}
	if (fresh && !k->record.len) { /* refused, and nothing changed */
		(void)pthread_mutex_lock(&k->lock);
		k->want = false;
		k->since[0] = '\0';
		(void)pthread_mutex_unlock(&k->lock);
		(void)journal_drop(k->e->door.conf, "fence", NULL); /* of a write that failed after all was written */
		fence_keep_failed(k, IS_OFF, "refused", &why);
		return;
	}
	fence_keep_failed(k, IS_HALF, "half", &why);
}

void fence_keep_is_off(struct fence_keep *k)
{
	(void)pthread_mutex_lock(&k->lock);
	k->retired = false;
	k->stand = IS_OFF;
	k->last = (struct snap_error){ 0 };
	k->since[0] = k->verified[0] = '\0';
	vbuf_free(&k->notes);
	(void)pthread_mutex_unlock(&k->lock);
	fence_keep_tell(k, "off", NULL);
}

static void turn_off(struct fence_keep *k)
{
	struct snap_error why = { 0 };
	struct fence_opts o = opts(k);
	int r = fence_keep_save(k, vbuf_text(&k->record), &why); /* off is wanted: a successor must not put it up again */

	if (r == 0)
		r = k->side->off(k->self, &o, &k->record, &why);
	if (r == 0)
		r = journal_drop(k->e->door.conf, "fence", &why);
	FAULT("fence.dropped");
	if (r < 0) {
		fence_keep_failed(k, IS_TURNING_OFF, "not off", &why);
		return;
	}
	fence_keep_is_off(k);
}

static void look(struct fence_keep *k, enum stand was)
{
	struct snap_error why = { 0 };
	int r = k->side->verify(k->self, vbuf_text(&k->record), &why);

	if (r == 0) {
		count(k, false);
		stands(k, was == IS_ON ? NULL : "verified");
		return;
	}
	if (r != -ESTALE && r != -EOPNOTSUPP) {
		fence_keep_failed(k, IS_UNREACHABLE, "unreachable", &why);
		return;
	}
	fence_keep_failed(k, IS_LOST, "lost", &why);
	if (r == -EOPNOTSUPP || on_cancelled(k))
		return;
	(void)pthread_mutex_lock(&k->lock);
	k->renewed++;
	(void)pthread_mutex_unlock(&k->lock);
	turn_on(k, "renewed");
}

static void on_check_note(void *arg, const char *sentence)
{
	vbuf_puts(arg, "check_note ");
	vbuf_line(arg, sentence);
	vbuf_puts(arg, "\n");
}

static void look_who(struct fence_keep *k)
{
	struct snap_error why = { 0 };
	struct vbuf found = VBUF_INIT, notes = VBUF_INIT;
	struct fence_opts o = { .note = on_check_note, .arg = &notes };
	int r = k->side->check(k->self, &o, &found, &why);
	size_t n;

	if (r < 0 && !found.len)
		vbuf_printf(&found, "%s\n", why.msg);
	(void)pthread_mutex_lock(&k->lock);
	vbuf_free(&k->found);
	for (const char *p = vbuf_text(&found); *p; p += n) {
		n = strcspn(p, "\n") + 1; /* each line has one */
		vbuf_puts(&k->found, "check ");
		vbuf_add(&k->found, p, n);
	}
	if (r == 0)
		vbuf_puts(&k->found, "check ok\n");
	vbuf_puts(&k->found, vbuf_text(&notes));
	(void)pthread_mutex_unlock(&k->lock);
	vbuf_free(&found);
	vbuf_free(&notes);
}

void fence_keep_retire(struct fence_keep *k)
{
	struct snap_error why = { 0 };
	int r;

	(void)pthread_mutex_lock(&k->lock);
	k->retiring = true;
	(void)pthread_mutex_unlock(&k->lock);
	r = fence_keep_save(k, vbuf_text(&k->record), &why);
	(void)pthread_mutex_lock(&k->lock);
	k->retiring = false;
	k->retired = k->retired || r == 0;
	if (r < 0)
		k->last = why;
	(void)pthread_mutex_unlock(&k->lock);
	if (r == 0)
		fence_keep_tell(k, "retired", NULL);
	else
		k->e->door.ops->report(k->e->door.fs, "fence", &why);
}

void fence_keep_again(struct fence_keep *k)
{
	(void)pthread_mutex_lock(&k->lock);
	k->busy = false;
	k->due_ns = UINT64_MAX;
	if (k->want || k->hard || k->record.len)
		k->due_ns = clock_boot_ns() + (k->stand == IS_HALF ? AGAIN_MS : POLL_MS) * NS_PER_MS;
	(void)pthread_mutex_unlock(&k->lock);
}

static void do_work(struct job *j)
{
	struct fence_keep *k = j->self;
	enum stand was;
	enum todo what;
	bool want;

	(void)pthread_mutex_lock(&k->lock);
	what = k->asked;
	k->asked = DO_NOTHING;
	want = k->want;
	was = k->stand;
	(void)pthread_mutex_unlock(&k->lock);
	if (what == DO_CHECK)
		look_who(k);
	else if (what == DO_RETIRE && want)
		fence_keep_retire(k);
	else if (!want && (what == DO_OFF || k->record.len))
		turn_off(k);
	else if (want && fence_record_state(vbuf_text(&k->record)) != FENCE_ON)
		turn_on(k, "on");
	else if (want)
		look(k, was);
	fence_keep_again(k);
}

/* ---- the engine's thread ---- */

uint64_t fence_keep_due_ns(struct fence_keep *k)
{
	uint64_t due;

	(void)pthread_mutex_lock(&k->lock);
	due = k->busy ? UINT64_MAX : k->asked != DO_NOTHING ? 0 : k->due_ns;
	(void)pthread_mutex_unlock(&k->lock);
	return due;
}

void fence_keep_work(struct fence_keep *k)
{
	bool slow;
	struct job *j;

	if (fence_keep_due_ns(k) > clock_boot_ns())
		return;
	if (fence_hard_work(k))
		return;
	j = job_new(do_work, k, WORK_MS);
	if (!j)
		return;
	(void)pthread_mutex_lock(&k->lock);
	k->busy = true;
	slow = k->asked != DO_NOTHING || k->stand != IS_ON;
	(void)pthread_mutex_unlock(&k->lock);
	if (exec_post(k->e->db_exec, j) < 0) {
		(void)pthread_mutex_lock(&k->lock);
		k->busy = false;
		k->due_ns = clock_boot_ns() + POLL_MS * NS_PER_MS; /* somebody's call is stuck there */
		(void)pthread_mutex_unlock(&k->lock);
	} else if (exec_wait(k->e->db_exec, j, clock_boot_ns() + (slow ? WORK_MS + LOOK_MS : LOOK_MS) * NS_PER_MS,
			     &k->stop) < 0) {
		k->side->sever(k->self);
		(void)exec_wait(k->e->db_exec, j, clock_boot_ns() + LOOK_MS * NS_PER_MS, NULL);
	}
	job_drop(k->e->db_exec, j);
}
