/* snapshot/prune_run.c - carry a plan out. See prune.h, prune_int.h.
 * Called by: prune_files.c (apply), engine.c (auto_prune, and what became of each removal).
 * Threads:   a control thread, or the engine's. Blocks: for small files, never with the engine's lock.
 * Errors:    -errno with the sentence; one set that cannot go stops no other.
 *
 * Order: the plan is written to the journal, which is the moment it counts; then its sets leave the tree; then each is
 * removed at the provider, said in the log, and its record unlinked. Who dies in between goes on after the start: what is
 * in the journal and still has a record is removed again, which the providers take for done, and logged once. */
#include "snapshot/prune.h"
#include "snapshot/orphans.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BY_FORCE "delete --force"
#define HELD_S 3600u /* so long it is not asked again whether a set can go now */

static void event(struct engine *e, const char *step, const char *set, const struct snap_error *err)
{
	struct vbuf b = VBUF_INIT;

	vbuf_printf(&b, "\"step\":\"%s\",\"plan\":\"%s\"", step, e->prune->run_id);
	if (set)
		vbuf_printf(&b, ",\"set\":\"%s\"", set);
	if (err) {
		vbuf_printf(&b, ",\"errno\":%d,\"message\":\"", -err->code);
		vbuf_json(&b, err->msg);
		vbuf_puts(&b, "\"");
	}
	if (vbuf_error(&b) == 0)
		e->door.ops->event(e->door.fs, "prune", vbuf_text(&b));
	vbuf_free(&b);
}

/* ---- apply ---- */

/* The ids of the plan and of what earlier ones have left. NULL: out of memory. Lock held. */
static char (*condemned(struct engine *e, const struct plan *pl, size_t *n))[33]
{
	struct prune *p = e->prune;
	char(*ids)[33] = calloc(p->n_journal + pl->n_delete + pl->n_orphans_delete + 1, sizeof(*ids));

	*n = 0;
	if (!ids)
		return NULL;
	for (size_t i = 0; i < p->n_journal; i++)
		memcpy(ids[(*n)++], p->journal[i], 33);
	for (size_t i = 0; i < pl->n; i++)
		if (!pl->out[i].keep)
			memcpy(ids[(*n)++], pl->set[i]->id, 33);
	for (size_t i = 0; i < pl->n_orphans; i++)
		if (pl->orphan[i].why == ORPHAN_GOES)
			memcpy(ids[(*n)++], pl->orphan[i].s->id, 33);
	return ids;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* They leave the tree. What was pinned while the journal was written stays, and out of the journal. Lock held. True:
 * the journal on disk names too many. */
static bool mark(struct engine *e, const char *by)
{
	struct prune *p = e->prune;
	size_t n = 0, had = p->n_journal;
	char(*left)[33] = calloc(had + 1, sizeof(*left));
	struct set *s;

	orphans_condemn(e, by);
	qsort(p->journal, had, sizeof(*p->journal), by_text);
	for (size_t i = 0; (s = catalog_at(e->cat, i)) != NULL; i++) {
		if (!bsearch(s->id, p->journal, had, sizeof(*p->journal), by_text))
			continue;
		if ((s->state == SET_COMPLETE || s->state == SET_FAILED) && !s->pin && !s->verifying) {
			s->gone_from = s->state;
			s->gone_by = by;
			s->state = SET_DELETING;
		}
		if (left && s->state == SET_DELETING)
			memcpy(left[n++], s->id, sizeof(s->id));
	}
	if (!left)
		return false; /* then what is left in it is struck at the next start */
	free(p->journal);
	p->journal = left;
	p->n_journal = n;
	return n < had;
}

/* 1: it counts already, since a process before this one. */
static int check_plan(struct engine *e, const struct plan *pl, const char *id, struct snap_error *err)
{
	if (prune_foreign(e))
		return snap_error_set(err, -EPERM, "prune: state_dir comes from another machine, whose sets these may be; when they are "
						   "this one's, `echo adopt > prune`");
	if (ret_empty(&e->prune->policy))
		return snap_error_set(err, -EINVAL, "prune: no keep_* rule is set, and an empty policy deletes nothing; write one to "
						    "retention, such as keep_last 7");
	if (id && strcmp(id, pl->id) != 0 && strcmp(id, e->prune->earlier) == 0)
		return 1;
	if (id && strcmp(id, pl->id) != 0)
		return snap_error_set(err, -EAGAIN, "prune: the plan is %s now, not %.20s; read prune again", pl->id, id);
	return 0;
}

/* io held, so that the policy stays. */
static void log_run(struct engine *e, const char *id, const char *by, size_t n_delete, size_t n_keep)
{
	const struct ret_policy *p = &e->prune->policy;
	struct vbuf b = VBUF_INIT;

	for (unsigned i = 0; i < p->n; i++) {
		vbuf_puts(&b, ", ");
		ret_rule_print(&p->rule[i], &b);
	}
	store_log(e->prune, "run %s by %s: delete %zu, keep %zu; policy timezone %s%.600s", id, by, n_delete, n_keep, p->timezone,
		  vbuf_text(&b));
	vbuf_free(&b);
}

/* io held. */
static int apply(struct engine *e, const char *id, const char *by, struct snap_error *err)
{
	struct prune *p = e->prune;
	char(*ids)[33] = NULL;
	char plan_id[PLAN_ID_LEN + 1] = "", was[PLAN_ID_LEN + 1];
	size_t n = 0, n_delete = 0, n_keep = 0;
	bool stale = false;
	struct plan pl;
	int r;

	(void)pthread_mutex_lock(&e->lock);
	r = plan_make(e, &pl, true, err);
	if (r == 0)
		r = check_plan(e, &pl, id, err);
	if (r == 0) {
		n_delete = pl.n_delete + pl.n_orphans_delete;
		n_keep = pl.n + pl.n_orphans - n_delete;
		memcpy(plan_id, pl.id, sizeof(plan_id));
		ids = n_delete ? condemned(e, &pl, &n) : NULL;
		if (n_delete && !ids)
			r = snap_error_set(err, -ENOMEM, "prune: out of memory");
	}
	plan_free(&pl);
	memcpy(was, p->journal_plan, sizeof(was));
	if (ids)
		memcpy(p->journal_plan, plan_id, sizeof(p->journal_plan));
	(void)pthread_mutex_unlock(&e->lock);
	FAULT("prune.planned");
	if (r == 0 && n_delete)
		r = store_journal(p, ids, n, err);
	FAULT("prune.counts");
	if (r) {
		free(ids);
		memcpy(p->journal_plan, was, sizeof(was)); /* io is held: nobody else writes it */
		return r < 0 ? r : 0;
	}
	(void)pthread_mutex_lock(&e->lock);
	memcpy(p->run_id, plan_id, sizeof(p->run_id));
	p->run_when = clock_utc();
	p->run_removed = p->run_failed = p->run_skipped = 0;
	p->runs++;
	if (ids) {
		free(p->journal);
		p->journal = ids;
		p->n_journal = n;
		stale = mark(e, by);
		FAULT("prune.marked");
		engine_wake_removals(e);
	}
	(void)pthread_mutex_unlock(&e->lock);
	orphans_record(e);
	if (stale && store_journal(p, p->journal, p->n_journal, err) < 0)
		return err->code;
	log_run(e, plan_id, by, n_delete, n_keep);
	FAULT("prune.begun");
	event(e, "apply", NULL, NULL);
	return 0;
}

int prune_apply(struct engine *e, const char *id, const char *by, struct snap_error *err)
{
	int r;

	(void)pthread_mutex_lock(&e->prune->io);
	r = apply(e, id, by, err);
	(void)pthread_mutex_unlock(&e->prune->io);
	return r;
}

void prune_auto(struct engine *e, bool completed)
{
	struct snap_error err = { 0 };
	struct plan pl = { 0 };
	bool due;

	(void)pthread_mutex_lock(&e->lock);
	due = !prune_off(e) && plan_make(e, &pl, true, &err) == 0 && pl.n_delete + pl.n_orphans_delete;
	if (completed && orphans_ruled(e))
		orphans_ask(e, true);
	plan_free(&pl);
	(void)pthread_mutex_unlock(&e->lock);
	if (due && prune_apply(e, NULL, "auto_prune", &err) < 0)
		e->door.ops->report(e->door.fs, "prune", &err);
}

int prune_force(struct engine *e, const char *name, struct snap_error *err)
{
	return engine_delete(e, name, true, BY_FORCE, err);
}

/* ---- what became of it ---- */

void prune_removed(struct engine *e, struct set *s)
{
	struct prune *p = e->prune;
	const char *by = s->gone_by ? s->gone_by : "rmdir";
	bool planned = strcmp(by, "rmdir") != 0 && strcmp(by, BY_FORCE) != 0 && strcmp(by, BY_ORPHAN) != 0;
	char created[CLOCK_ISO_MAX];

	(void)pthread_mutex_lock(&p->io);
	if (!store_logged(p, s->id))
		store_log(p, "removed %s %s class %s created %s: %s%s%s", s->id, s->name, s->class, clock_iso(s->created, created),
			  !planned ? s->orphan ? "an orphan, " : "" : s->orphan ? "an orphan, older than orphan_age, " : s->gone_from == SET_FAILED ? "failed, and older than failed_age, " : "no rule keeps it, ",
			  planned ? "prune by " : "", by);
	(void)pthread_mutex_unlock(&p->io);
}

/* Where in the journal an id is; n_journal: nowhere. Lock held. */
static size_t journal_at(const struct prune *p, const char *id)
{
	size_t i = 0;

	while (i < p->n_journal && strcmp(p->journal[i], id) != 0)
		i++;
	return i;
}

/* Take an id out of the journal. False: it was not in it. io and lock held. */
static bool strike(struct prune *p, const char *id)
{
	size_t i = journal_at(p, id);

	if (i == p->n_journal)
		return false;
	memmove(p->journal + i, p->journal + i + 1, (p->n_journal - i - 1) * sizeof(*p->journal));
	p->n_journal--;
	return true;
}

static void settle(struct engine *e, const char *id, bool gone, bool rewrite)
{
	struct prune *p = e->prune;
	struct snap_error err = { 0 };
	bool ours, last;

	(void)pthread_mutex_lock(&p->io);
	(void)pthread_mutex_lock(&e->lock);
	ours = strike(p, id);
	last = ours && !p->n_journal;
	p->removed += gone;
	p->run_removed += gone && ours;
	(void)pthread_mutex_unlock(&e->lock);
	FAULT("prune.struck");
	if ((last || (ours && rewrite)) && store_journal(p, p->journal, p->n_journal, &err) < 0)
		log_error("%s", err.msg); /* what is in it and has no record is passed over at the start */
	FAULT("prune.settled");
	if (last)
		store_log(p, "end %s: removed %u, skipped %u, failed %u", *p->run_id ? p->run_id : "of an interrupted run", p->run_removed,
			  p->run_skipped, p->run_failed);
	(void)pthread_mutex_unlock(&p->io);
	if (last)
		event(e, "end", NULL, NULL);
}

void prune_dropped(struct engine *e, const char *id, const char *name)
{
	event(e, "removed", name, NULL);
	settle(e, id, true, false);
}

bool prune_failed(struct engine *e, struct set *s, const struct snap_error *err)
{
	struct prune *p = e->prune;
	bool held = err->code == -EBUSY && !exec_stuck(e->prov_exec) && (s->gone_from == SET_COMPLETE || s->gone_from == SET_FAILED);
	struct snap_error own = { 0 };
	bool planned;
	char id[33];

	(void)pthread_mutex_lock(&e->lock);
	s->tries++;
	free(s->held);
	s->held = strdup(err->msg);
	s->held_told = false;
	s->held_ns = clock_boot_ns() + HELD_S * NS_PER_S;
	memcpy(id, s->id, sizeof(id));
	held = held && s->held;
	planned = journal_at(p, id) < p->n_journal; /* and not by hand meanwhile */
	p->run_failed += planned && !held;
	p->run_skipped += planned && held;
	p->failed += !held;
	p->skipped += held;
	if (held)
		s->state = s->gone_from;
	(void)pthread_mutex_unlock(&e->lock);
	(void)pthread_mutex_lock(&p->io);
	store_log(p, "%s %s %s: %s%s", held ? "skipped" : "failed", id, s->name, err->msg, held ? "" : "; it is tried again");
	(void)pthread_mutex_unlock(&p->io);
	event(e, held ? "skipped" : "failed", s->name, err);
	if (!held)
		return false;
	if (engine_save(e, s, &own) < 0)
		log_error("%s", own.msg);
	settle(e, id, false, true);
	return true;
}
