/* snapshot/run.c - one snapshot, step by step: what comes before the hold (run_hold.c), and the fixed point's record.
 * Completion is run_complete.c's.
 * Owns:      the run, and the provider's run from preflight to its finish or discard.
 * Called by: engine.c on the engine's thread.
 * Blocks:    every wait has a deadline and ends within a moment of an abort. Calls into provider and
 *            coordinator run on their executors; one that does not come back is left there.
 * Errors:    the set's, with the sentence.
 *
 * Order (design.md, section 8): preflight, pre-sync, lock, position, gate closed and drained, unlock
 * sent, position file, sync or freeze where asked, trigger, thaw, gate open, unlock's answer, completion.
 * Invariants: the gate is never closed without a deadline; the lock is never held across the trigger;
 * nothing of ours writes to a frozen filesystem. */
#include "snapshot/run_int.h"
#include "snapshot/begun.h"
#include "snapshot/prune.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/statdev.h"
#include "snapshot/child.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WARM_AFTER_MS 3000u
#define WARM_MS 10000u
#define PREFLIGHT_MS 60000u
#define PRESYNC_SHORT_MS 50.0 /* dirty data that takes no longer may be left to the hold */
#define PRESYNC_TIMES 4

static void do_coord_preflight(struct job *j)
{
	struct engine *e = j->self;

	j->result = e->coord->preflight(e->coord_self, j->max_ms, &j->err);
}

static void do_prov_preflight(struct job *j)
{
	struct engine *e = j->self;
	struct prov_ctx *p = j->arg;

	j->result = e->prov->preflight(e->prov_self, &p->pr, j->extra_ms, j->max_ms, &j->err);
}

static void do_prov_warm(struct job *j)
{
	struct engine *e = j->self;
	struct prov_ctx *p = j->arg;

	j->result = e->prov->warm(e->prov_self, &p->pr, j->max_ms, &j->err);
}

/* ---- steps ---- */

/* A mount that was taken away by hand: what was to go through it passes by the gate now. */
int run_check_mounted(const struct door *d, unsigned i, struct snap_error *err)
{
	uint64_t dev;

	if (statdev(d->pairs[i].mountpoint, &dev, NULL) < 0 || dev != d->pairs[i].mount_dev)
		return snap_error_set(err, -ENODEV, "%s is not mounted any more, so writes to it pass by the gate: stop "
						    "the database, unmount the others, mount all again",
				      d->pairs[i].mountpoint);
	return 0;
}

/* How to start a server on a clone of this set, for who verifies or restores it. */
static int keep_layout(struct run *r)
{
	struct engine *e = r->e;
	struct vbuf b = VBUF_INIT;
	int ret;

	for (unsigned i = 0; i < e->door.n_pairs; i++)
		vbuf_printf(&b, "mountpoint %s\n", e->door.pairs[i].mountpoint);
	if (e->coord->layout)
		e->coord->layout(e->coord_self, &b);
	ret = vbuf_error(&b);
	(void)pthread_mutex_lock(&e->lock);
	if (ret == 0)
		ret = set_text(&r->s->layout, vbuf_text(&b));
	(void)pthread_mutex_unlock(&e->lock);
	vbuf_free(&b);
	return ret < 0 ? snap_error_set(r->err, ret, "snapshot %s: out of memory", r->s->name) : 0;
}

static int step_preflight(struct run *r)
{
	struct engine *e = r->e;
	uint32_t hold = (uint32_t)conf_num(e->door.conf, "gate_timeout");
	uint64_t t = clock_boot_ns();
	struct job *j;
	int ret = 0;

	engine_step(e, "preflight");
	if (exec_stuck(e->prov_exec)) /* since the request was accepted: it waited for a removal */
		return snap_error_set(r->err, -EBUSY, "provider: an earlier call has not come back yet; try later");
	for (unsigned i = 0; ret == 0 && i < e->door.n_pairs; i++)
		ret = run_check_mounted(&e->door, i, r->err);
	if (ret == 0)
		ret = catalog_probe(e->cat, r->err);
	if (ret < 0)
		return ret;
	if (conf_bool(e->door.conf, "freeze") && e->prov->features & PROV_LIVE_FS)
		return snap_error_set(r->err, -EINVAL, "freeze=yes cannot be used with provider=%s", e->prov->name);
	j = run_db_job(r, do_coord_preflight, PREFLIGHT_MS);
	ret = run_call(r, e->db_exec, j, clock_boot_ns() + PREFLIGHT_MS * NS_PER_MS, "database preflight");
	if (r->call_late)
		e->coord->sever(e->coord_self);
	job_drop(e->db_exec, j);
	run_note(r, "preflight_db", run_ms_since(t));
	if (ret == 0)
		ret = keep_layout(r);
	if (ret < 0)
		return ret;
	t = clock_boot_ns();
	j = run_prov_job(r, do_prov_preflight, PREFLIGHT_MS);
	if (j)
		j->extra_ms = hold;
	r->prov_begun = true;
	ret = run_call(r, e->prov_exec, j, clock_boot_ns() + PREFLIGHT_MS * NS_PER_MS, "provider preflight");
	run_prov_call_done(r, j);
	run_note(r, "preflight_provider", run_ms_since(t));
	r->ready_ns = clock_boot_ns();
	return ret;
}

/* Writing out and waiting for the database took long: a connection that was idle may be gone. */
static int step_warm(struct run *r)
{
	uint64_t t = clock_boot_ns();
	struct job *j;
	int ret;

	if (!r->e->prov->warm || t - r->ready_ns < WARM_AFTER_MS * NS_PER_MS)
		return 0;
	j = run_prov_job(r, do_prov_warm, WARM_MS);
	ret = run_call(r, r->e->prov_exec, j, t + WARM_MS * NS_PER_MS, "provider, once more before the hold");
	run_prov_call_done(r, j);
	run_note(r, "warm_provider", run_ms_since(t));
	return ret;
}

/* Write out what is dirty before anything is held, until little is left. */
static int step_presync(struct run *r)
{
	uint64_t start = clock_boot_ns(), t;
	double ms = 1e9;
	int ret = 0;

	engine_step(r->e, "presync");
	FAULT("run.presync");
	for (int i = 0; ret == 0 && i < PRESYNC_TIMES && ms > PRESYNC_SHORT_MS; i++) {
		t = clock_boot_ns();
		ret = child_sync(&r->e->door, true, start + conf_num(r->e->door.conf, "presync_timeout") * NS_PER_MS, &r->e->abort_flag, r->err);
		ms = run_ms_since(t);
	}
	ret = run_sync_result(r, ret);
	r->s->presync_ms = run_ms_since(start);
	run_note(r, "presync", r->s->presync_ms);
	FAULT("run.synced");
	return ret;
}

/* The point is fixed: record that. engine.c tells the waiters, once the next snapshot can be taken. */
static int step_fixed(struct run *r)
{
	struct engine *e = r->e;
	int ret;

	(void)pthread_mutex_lock(&e->lock);
	ret = set_text(&r->s->position, vbuf_text(&r->position));
	r->s->state = SET_PENDING;
	(void)pthread_mutex_unlock(&e->lock);
	if (ret < 0)
		return snap_error_set(r->err, ret, "snapshot %s: out of memory", r->s->name);
	FAULT("run.point");
	begun_forget(r->s->id); /* first: who dies in between leaves a doubt, and no point is taken for none */
	ret = engine_save(e, r->s, r->err);
	if (ret < 0)
		return ret;
	FAULT("run.fixed");
	engine_event(e, r->s, "fixed", run_ms_since(r->start_ns));
	FAULT("run.told");
	return 0;
}

struct run *run_new(struct engine *e, struct set *s)
{
	struct run *r = calloc(1, sizeof(*r));
	struct prov_ctx *p = calloc(1, sizeof(*p));

	if (p) {
		(void)pthread_mutex_lock(&e->lock); /* both can be written meanwhile */
		p->description = strdup(s->description);
		p->tags = strdup(s->tags);
		(void)pthread_mutex_unlock(&e->lock);
		p->position = strdup("");
	}
	if (!r || !p || !p->description || !p->tags || !p->position) {
		free(r);
		run_ctx_free(p);
		return NULL;
	}
	memcpy(p->name, s->name, sizeof(p->name));
	memcpy(p->id, s->id, sizeof(p->id));
	memcpy(p->lineage, s->lineage, sizeof(p->lineage));
	memcpy(p->class, s->class, sizeof(p->class));
	p->pr = (struct prov_run){ .name = p->name, .set_id = p->id, .lineage = p->lineage, .origin = prune_origin(e), .class = p->class,
				   .description = p->description, .tags = p->tags, .position = p->position,
				   .door = &e->door, .cancelled = run_prov_cancelled, .pin = s->pin, .created = s->created };
	*r = (struct run){ .e = e, .s = s, .pc = p, .abort = &e->abort_flag, .start_ns = clock_boot_ns() };
	return r;
}

void run_free(struct run *r)
{
	vbuf_free(&r->position);
	free(r);
}

struct run *run_begin(struct engine *e, struct set *s, struct snap_error *err)
{
	struct run *r = run_new(e, s);
	int ret;

	if (!r) {
		snap_error_set(err, -ENOMEM, "snapshot %s: out of memory", s->name);
		(void)pthread_mutex_lock(&e->lock);
		s->state = SET_FAILED;
		s->error_code = err->code;
		(void)set_text(&s->error, err->msg);
		(void)pthread_mutex_unlock(&e->lock);
		return NULL;
	}
	r->err = err;
	ret = begun_note(s->id);
	if (ret < 0)
		log_warn("snapshot %s: shm_open: %s; should stillfs die in it, what it made is not removed by itself", s->name, strerror(-ret));
	ret = engine_save(e, s, err);
	if (ret == 0)
		ret = step_preflight(r);
	if (ret == 0)
		ret = step_presync(r);
	if (ret == 0)
		ret = run_db_prepare(r);
	if (ret == 0)
		ret = step_warm(r);
	if (ret == 0)
		ret = run_hold(r);
	if (ret == 0)
		ret = step_fixed(r);
	run_db_finish(r, ret);
	if (r->pc) {
		r->pc->pr.lock_ms = s->lock_ms;
		r->pc->pr.hold_ms = s->hold_ms;
		r->pc->pr.timed = true;
	}
	r->err = &r->own_err; /* err is the caller's */
	r->abort = &e->abort_completing;
	if (ret == 0) {
		r->pc->urgent = &e->urgent; /* no call of the provider runs now */
		return r;
	}
	r->own_err = *err;
	run_finish(r, ret);
	run_free(r);
	return NULL;
}

struct set *run_set(const struct run *r)
{
	return r->s;
}

void run_cancel(struct run *r)
{
	r->canceled = true;
}

struct run **run_next(struct run *r)
{
	return &r->next;
}

void run_clean_backings(const struct door *d)
{
	for (unsigned i = 0; i < d->n_pairs; i++)
		if (unlinkat(d->pairs[i].backing_fd, POSITION_FILE, 0) < 0 && errno != ENOENT)
			log_warn("remove %s/%s: %s", d->pairs[i].backing, POSITION_FILE, strerror(errno));
}
