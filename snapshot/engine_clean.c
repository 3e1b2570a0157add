/* snapshot/engine_clean.c - data that must go: of deleted sets, and what failed ones may have left at the provider.
 * Owns:      the one removal that is on its way.
 * Called by: engine.c, on the engine's thread.
 * Threads:   a provider with PROV_REMOVE_APART is called on a thread of its own, and nobody waits for it; another on the
 *            provider's thread, and the engine waits.
 * Blocks:    for one removal at a time, up to REMOVE_MS and LATE_MS, ended early only by a stop; a request waits for that one.
 *            One apart: a request waits YIELD_MS for it, then runs beside it.
 * Errors:    those of a deleted set are reported; a set is tried again with growing pauses and hinders no other.
 *
 * A removal that found nothing is not the end of it at a remote provider: what a lost request made may show up some
 * time later. So what a failed set left is looked for once more, UNSURE_S after the first time. */
#include "snapshot/list.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "snapshot/orphans.h"
#include "snapshot/prune.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAUSE_FIRST_S 60u
#define PAUSE_MAX_S 900u
#define UNSURE_S 120u
#define REMOVE_MS 30000u
#define LATE_MS 5000u /* for a provider that keeps its time */
#define YIELD_MS 2000u

static bool apart(const struct engine *e)
{
	return e->prov->features & PROV_REMOVE_APART;
}

static bool wanted(const struct engine *e, const struct set *s)
{
	return (s->state == SET_DELETING || (s->state == SET_FAILED && s->leftover)) && strcmp(s->provider, e->prov->name) == 0 &&
	       !prune_foreign(e);
}

uint64_t engine_clean_due(struct engine *e)
{
	uint64_t due = UINT64_MAX;
	struct set *s;

	if (e->removal.job)
		return e->removal.back ? 0 : UINT64_MAX;
	for (size_t i = 0; (s = catalog_at(e->cat, i)) != NULL; i++)
		if (wanted(e, s) && s->clean_ns < due)
			due = s->clean_ns;
	return due;
}

static struct set *next(struct engine *e)
{
	uint64_t now = clock_boot_ns();
	struct set *s;

	for (size_t i = 0; !e->queued && !e->stopping && (s = catalog_at(e->cat, i)) != NULL; i++)
		if (wanted(e, s) && s->clean_ns <= now)
			return s;
	return NULL;
}

/* Lock held. */
static void later(struct set *s, uint32_t seconds)
{
	s->clean_ns = clock_boot_ns() + seconds * NS_PER_S;
}

/* Could something of it still show up? Then it is looked for once more. */
static bool unsure(struct engine *e, struct set *s)
{
	uint64_t now = clock_boot_ns();
	bool is;

	(void)pthread_mutex_lock(&e->lock);
	if (!s->sure_ns)
		s->sure_ns = now + UNSURE_S * NS_PER_S;
	is = s->leftover && e->prov->features & PROV_REMOTE && now < s->sure_ns;
	if (is)
		s->clean_ns = s->sure_ns;
	(void)pthread_mutex_unlock(&e->lock);
	return is;
}

/* The provider has nothing of s any more. */
static int forget(struct engine *e, struct set *s, struct snap_error *err)
{
	char name[DOOR_NAME_MAX + 1], id[33], text[128];
	bool deleted;

	(void)pthread_mutex_lock(&e->lock);
	deleted = s->state == SET_DELETING;
	if (!deleted) {
		s->leftover = false;
		(void)set_text(&s->detail, "");
	}
	(void)pthread_mutex_unlock(&e->lock);
	if (!deleted) {
		if (engine_save(e, s, err) < 0) {
			(void)pthread_mutex_lock(&e->lock);
			s->leftover = true; /* as the record says */
			(void)pthread_mutex_unlock(&e->lock);
			return err->code;
		}
		engine_event(e, s, "cleaned", -1);
		return 0;
	}
	memcpy(name, s->name, sizeof(name));
	memcpy(id, s->id, sizeof(id));
	prune_removed(e, s);
	FAULT("clean.logged");
	if (catalog_unlink(e->cat, id, err) < 0)
		return err->code;
	FAULT("clean.unlinked");
	(void)snprintf(text, sizeof(text), "\"set\":\"%s\",\"step\":\"removed\"", name);
	(void)pthread_mutex_lock(&e->lock);
	catalog_drop(e->cat, s);
	haul_forget(e->stock.all, id);
	haul_forget(e->orphans.all, id);
	(void)pthread_mutex_unlock(&e->lock);
	FAULT("clean.dropped");
	e->door.ops->event(e->door.fs, "snapshot", text);
	prune_dropped(e, id, name);
	FAULT("clean.told");
	return 0;
}

static void tried(struct engine *e, struct set *s, const struct snap_error *err)
{
	bool deleted;

	(void)pthread_mutex_lock(&e->lock);
	deleted = s->state == SET_DELETING;
	s->clean_pause_s = !s->clean_pause_s ? PAUSE_FIRST_S :
			   2 * s->clean_pause_s < PAUSE_MAX_S ? 2 * s->clean_pause_s : PAUSE_MAX_S;
	later(s, s->clean_pause_s);
	if (!deleted)
		(void)set_text(&s->detail, err->msg);
	(void)pthread_mutex_unlock(&e->lock);
	if (deleted) {
		e->door.ops->report(e->door.fs, "snapshots", err);
		(void)prune_failed(e, s, err); /* it is tried again, or is a set again */
	}
	log_warn("snapshot %s: its data is not removed yet: %s", s->name, err->msg);
}

/* ---- the call ---- */

struct removal {
	char name[DOOR_NAME_MAX + 1], id[33];
};

static void do_remove(struct job *j)
{
	struct engine *e = j->self;
	struct removal *m = j->arg;

	FAULT("clean.asking");
	j->result = e->prov->remove(e->prov_self, m->name, m->id, j->max_ms, &j->err);
	FAULT("clean.removed");
	free(m);
	if (!apart(e))
		return;
	(void)pthread_mutex_lock(&e->lock);
	e->removal.back = true;
	(void)pthread_cond_signal(&e->work);
	(void)pthread_mutex_unlock(&e->lock);
}

/* Begin to remove s. The job, or NULL with *err. */
static struct job *ask(struct engine *e, struct set *s, struct snap_error *err)
{
	struct removal *m = calloc(1, sizeof(*m));
	struct job *j = m ? job_new(do_remove, e, REMOVE_MS) : NULL;

	if (!j) {
		free(m);
		snap_error_set(err, -ENOMEM, "remove %s: out of memory", s->name);
		return NULL;
	}
	memcpy(m->name, s->name, sizeof(m->name));
	memcpy(m->id, s->id, sizeof(m->id));
	j->arg = m;
	(void)pthread_mutex_lock(&e->lock);
	memcpy(e->removal.name, s->name, sizeof(e->removal.name));
	memcpy(e->removal.id, s->id, sizeof(e->removal.id));
	e->removal.since_ns = clock_boot_ns();
	e->removal.back = false;
	(void)pthread_mutex_unlock(&e->lock);
	if (exec_post(apart(e) ? e->apart_exec : e->prov_exec, j) == 0)
		return j;
	free(m);
	job_drop(e->prov_exec, j); /* nobody else knows it */
	snap_error_set(err, -EBUSY, "remove %s: the provider is busy with a call that has not come back", s->name);
	return NULL;
}

static int answer(const struct job *j, struct snap_error *err)
{
	return j->result < 0 ? snap_error_set(err, j->result, "%s", j->err.code ? j->err.msg : strerror(-j->result)) : 0;
}

static void removal_ended(struct engine *e)
{
	(void)pthread_mutex_lock(&e->lock);
	e->removal.job = NULL;
	e->removal.name[0] = '\0';
	(void)pthread_mutex_unlock(&e->lock);
}

/* What came of it. */
static void settle(struct engine *e, struct set *s, int r, struct snap_error *err)
{
	if (r == -ESTALE && s->leftover && s->state == SET_FAILED) {
		log_warn("snapshot %s: %s", s->name, err->msg); /* nothing of this set is there */
		snap_error_clear(err);
		r = 0;
	}
	if (r == 0 && unsure(e, s))
		return;
	if (r < 0 || forget(e, s, err) < 0)
		tried(e, s, err);
}

/* On the provider's thread, waited for. */
static void clean_one(struct engine *e, struct set *s)
{
	struct snap_error err = { 0 };
	struct job *j = ask(e, s, &err);
	int r = err.code;

	if (j) {
		r = exec_wait(e->prov_exec, j, clock_boot_ns() + (REMOVE_MS + LATE_MS) * NS_PER_MS, &e->abort_completing);
		if (r == 0)
			r = answer(j, &err);
		else
			snap_error_set(&err, r, "remove %s: not finished", s->name);
		job_drop(e->prov_exec, j);
	}
	removal_ended(e);
	if (r == -ECANCELED && atomic_load(&e->abort_completing)) { /* somebody's abort, or the end */
		(void)pthread_mutex_lock(&e->lock);
		later(s, 1);
		(void)pthread_mutex_unlock(&e->lock);
		return;
	}
	settle(e, s, r, &err);
}

/* ---- apart ---- */

static void begin_apart(struct engine *e, struct set *s)
{
	struct snap_error err = { 0 };
	struct job *j = ask(e, s, &err);

	(void)pthread_mutex_lock(&e->lock);
	e->removal.job = j;
	(void)pthread_mutex_unlock(&e->lock);
	if (j)
		return;
	removal_ended(e);
	settle(e, s, err.code, &err);
}

/* True: none is on its way any more. */
static bool end_apart(struct engine *e)
{
	struct snap_error err = { 0 };
	struct set *its;
	struct job *j;
	bool back;
	int r;

	(void)pthread_mutex_lock(&e->lock);
	j = e->removal.job;
	back = e->removal.back;
	its = j && back ? catalog_by_id(e->cat, e->removal.id) : NULL;
	(void)pthread_mutex_unlock(&e->lock);
	if (!j)
		return true;
	if (!back)
		return false;
	(void)exec_wait(e->apart_exec, j, UINT64_MAX, NULL); /* its last instructions */
	r = answer(j, &err);
	job_drop(e->apart_exec, j);
	removal_ended(e);
	if (its)
		settle(e, its, r, &err);
	return true;
}

void engine_clean_yield(struct engine *e)
{
	if (e->removal.job)
		(void)exec_wait(e->apart_exec, e->removal.job, clock_boot_ns() + YIELD_MS * NS_PER_MS, &e->abort_flag);
}

void engine_clean_leave(struct engine *e)
{
	if (end_apart(e))
		return;
	job_drop(e->apart_exec, e->removal.job);
	removal_ended(e);
}

/* A call that was given up may still be about this very set. Lock held. */
static bool must_wait(struct engine *e, const struct set *s)
{
	return exec_stuck(e->prov_exec) && !(apart(e) && s->state == SET_DELETING && s->gone_from == SET_COMPLETE);
}

void engine_clean(struct engine *e)
{
	struct set *s;

	while (end_apart(e)) {
		(void)pthread_mutex_lock(&e->lock);
		s = next(e);
		if (s && must_wait(e, s)) {
			later(s, 1);
			(void)pthread_mutex_unlock(&e->lock);
			continue;
		}
		(void)pthread_mutex_unlock(&e->lock);
		if (!s)
			return;
		if (apart(e))
			begin_apart(e, s);
		else
			clean_one(e, s);
	}
}

void engine_clean_status(struct engine *e, struct vbuf *out)
{
	struct set *s;
	size_t n = 0;

	for (size_t i = 0; (s = catalog_at(e->cat, i)) != NULL; i++)
		n += wanted(e, s);
	vbuf_printf(out, "removals_left %zu\n", n);
	if (e->removal.name[0])
		vbuf_printf(out, "removing %s for %llu s\n", e->removal.name,
			    (unsigned long long)((clock_boot_ns() - e->removal.since_ns) / NS_PER_S));
}
