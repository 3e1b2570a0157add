/* snapshot/run_complete.c - a run after its consistency point: followed, taken up from a process that is gone, left for
 * the next one, ended and recorded.
 * Owns:      the run until it has ended; the provider's run to its finish, leave or discard.
 * Called by: engine.c and run.c on the engine's thread.
 * Blocks:    a slice of completion a call, less when a request waits; a moment when stillfs stops.
 * Errors:    the set's, with the sentence.
 *
 * What a failed run has made is accounted for at any instant: its record says `leftover` before anything is removed,
 * and no more only when the provider has said that all is gone. engine_clean.c removes what is left. */
#include "snapshot/run_int.h"
#include "snapshot/begun.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define POLL_MS 200u /* a new snapshot waits for no more than this slice */
#define RESUME_MS 20000u
#define RESUME_FIRST_MS 1000u
#define RESUME_MAX_MS 60000u
#define CALL_MAX_S 3600u
#define STUCK_MS 200u
#define LEAVE_MS 2000u
#define DISCARD_MS 60000u

static void do_poll(struct job *j)
{
	struct engine *e = j->self;
	struct prov_ctx *p = j->arg;

	j->result = e->prov->poll(e->prov_self, &p->pr, j->max_ms, &p->progress, &j->err);
}

static void do_resume(struct job *j)
{
	struct engine *e = j->self;
	struct prov_ctx *p = j->arg;

	j->result = e->prov->resume(e->prov_self, &p->pr, RESUME_MS, &j->err);
}

static void do_leave(struct job *j)
{
	struct engine *e = j->self;
	struct prov_ctx *p = j->arg;

	j->result = e->prov->leave(e->prov_self, &p->pr, j->max_ms, &j->err);
	if (j->result < 0)
		log_warn("snapshot %s: %s", p->name, j->err.msg);
	run_ctx_free(p);
}

/* ---- the end ---- */

static void let_go(struct run *r)
{
	r->e->prov->finish(r->e->prov_self, &r->pc->pr);
	run_ctx_free(r->pc);
	r->pc = NULL;
}

/* 0: the provider has nothing of it any more. */
static int discard(struct run *r)
{
	struct engine *e = r->e;
	struct job *j;
	int ret;

	if (!r->pc)
		return -EBUSY; /* the stuck call will discard it */
	if (r->resuming) {
		let_go(r);
		return -EAGAIN; /* by name and id, in the background */
	}
	engine_step(e, "discarding");
	j = job_new(run_do_discard, e, DISCARD_MS);
	if (j)
		j->arg = r->pc;
	if (!j || exec_post(e->prov_exec, j) < 0) {
		job_drop(e->prov_exec, j);
		let_go(r);
		return -EAGAIN;
	}
	r->pc = NULL; /* the job's */
	ret = run_wait_end(r, e->prov_exec, j, DISCARD_MS);
	if (ret == 0)
		ret = j->result;
	job_drop(e->prov_exec, j);
	return ret;
}

static void fail(struct run *r, int ret)
{
	(void)pthread_mutex_lock(&r->e->lock);
	r->s->state = SET_FAILED;
	r->s->leftover = r->prov_begun;
	r->s->error_code = ret;
	(void)set_text(&r->s->error, r->err->msg);
	(void)pthread_mutex_unlock(&r->e->lock);
}

void run_finish(struct run *r, int ret)
{
	struct snap_error save = { 0 };
	struct engine *e = r->e;

	(void)pthread_mutex_lock(&e->lock);
	if (ret == 0) {
		r->s->state = SET_COMPLETE;
		r->s->progress = 100;
		r->s->error_code = 0;
		(void)set_text(&r->s->error, "");
	}
	r->s->ended = clock_utc();
	(void)set_text(&r->s->detail, "");
	(void)pthread_mutex_unlock(&e->lock);
	if (ret < 0)
		fail(r, ret);
	run_note(r, ret < 0 ? "failed" : "complete", run_ms_since(r->start_ns));
	if (engine_save(e, r->s, &save) == 0) {
		begun_forget(r->s->id);
	} else if (ret == 0) {
		/* not recorded is not complete: nothing could find or prune it */
		ret = snap_error_set(r->err, save.code, "%s", save.msg);
		fail(r, ret);
	}
	if (ret == 0) {
		let_go(r);
	} else if (!r->prov_begun) {
		run_ctx_free(r->pc);
		r->pc = NULL;
	} else if (discard(r) == 0) {
		(void)pthread_mutex_lock(&e->lock);
		r->s->leftover = false;
		(void)pthread_mutex_unlock(&e->lock);
		if (engine_save(e, r->s, &save) < 0)
			log_warn("%s", save.msg); /* the next start finds nothing to remove */
	}
}

/* ---- calls ---- */

static bool stopping(const struct run *r)
{
	return atomic_load(r->abort) == ESHUTDOWN;
}

/* A slice of completion. When stillfs stops the call is told, and has a moment to come back. */
static int call(struct run *r, void (*fn)(struct job *), const char *what)
{
	struct job *j = run_prov_job(r, fn, POLL_MS);
	int ret;

	atomic_store(&r->pc->cancel, false);
	ret = run_call(r, r->e->prov_exec, j, clock_boot_ns() + CALL_MAX_S * NS_PER_S, what);
	if (j && r->call_late && stopping(r)) {
		atomic_store(&r->pc->keep, true);
		atomic_store(&r->pc->cancel, true);
		(void)exec_wait(r->e->prov_exec, j, clock_boot_ns() + LEAVE_MS * NS_PER_MS, NULL);
	}
	run_prov_call_done(r, j);
	return ret;
}

/* ---- taken up ---- */

struct run *run_again(struct engine *e, struct set *s)
{
	struct run *r = run_new(e, s);
	struct timespec now = clock_utc();
	int64_t age = (now.tv_sec - s->created.tv_sec) * (int64_t)NS_PER_S + now.tv_nsec - s->created.tv_nsec;

	if (!r)
		return NULL;
	if (set_text(&r->pc->position, s->position) < 0) {
		run_ctx_free(r->pc);
		run_free(r);
		return NULL;
	}
	r->pc->pr.position = r->pc->position;
	r->pc->urgent = &e->urgent;
	r->err = &r->own_err;
	r->abort = &e->abort_completing;
	r->prov_begun = r->resuming = true;
	r->pc->pr.lock_ms = s->lock_ms;
	r->pc->pr.hold_ms = s->hold_ms;
	r->pc->pr.timed = true;
	r->start_ns -= (uint64_t)(age > 0 ? age : 0); /* wraps when this host was started since; so does the difference */
	return r;
}

static void ask_again_later(struct run *r)
{
	struct engine *e = r->e;
	char text[SNAP_ERROR_MAX + 64];

	if (!r->pause_ms)
		r->pause_ms = RESUME_FIRST_MS;
	else if (!atomic_load(&e->urgent)) /* or it was cut short for a request */
		r->pause_ms = 2 * r->pause_ms < RESUME_MAX_MS ? 2 * r->pause_ms : RESUME_MAX_MS;
	r->due_ns = clock_boot_ns() + r->pause_ms * NS_PER_MS;
	(void)snprintf(text, sizeof(text), "not taken up yet, asked again every %u s at the most: %s", RESUME_MAX_MS / 1000,
		       r->err->msg);
	(void)pthread_mutex_lock(&e->lock);
	(void)set_text(&r->s->detail, text);
	(void)pthread_mutex_unlock(&e->lock);
	log_warn("snapshot %s: %s", r->s->name, text);
	snap_error_clear(r->err);
}

/* 0: taken up; 1: asked again later; else why it fails. */
static int resume(struct run *r)
{
	struct snap_error why;
	int ret = call(r, do_resume, "take up the set");

	if (ret == 0) {
		r->resuming = false;
		run_note(r, "resumed", -1);
		return 0;
	}
	if (r->pc && !r->call_late && (ret == -EAGAIN || ret == -EBUSY || ret == -ENOMEM)) {
		ask_again_later(r);
		return 1;
	}
	if (r->call_late)
		return ret;
	why = *r->err;
	snap_error_clear(r->err);
	return snap_error_set(r->err, ret, "stillfs ended before the set was complete, and it cannot be taken up: %s", why.msg);
}

/* ---- followed ---- */

uint64_t run_due_ns(const struct run *r)
{
	return r->canceled || atomic_load(r->abort) ? 0 : r->due_ns;
}

bool run_poll(struct run *r, struct snap_error *err)
{
	struct engine *e = r->e;
	int ret = run_aborted(r);

	if (r->canceled)
		ret = snap_error_set(r->err, -ECANCELED, "snapshot %s: aborted by an operator", r->s->name);
	if (ret == 0 && exec_stuck(e->prov_exec)) { /* another run's call, which is no fault of this set */
		r->due_ns = clock_boot_ns() + STUCK_MS * NS_PER_MS;
		return false;
	}
	if (ret == 0 && r->resuming)
		ret = resume(r);
	if (ret == 1)
		return false;
	if (ret == 0)
		ret = call(r, do_poll, "completion");
	if (ret == -ESHUTDOWN && stopping(r)) {
		*err = r->own_err;
		run_leave(r);
		return true;
	}
	if (ret == 0) {
		struct prov_progress *p = &r->pc->progress;

		if (p->note[0])
			run_remark(r, p->note);
		p->note[0] = '\0';
		r->due_ns = 0;
		(void)pthread_mutex_lock(&e->lock);
		r->s->progress = p->percent;
		r->s->size_b = p->size_b;
		r->s->volumes = p->volumes;
		(void)set_text(&r->s->detail, p->detail);
		(void)pthread_mutex_unlock(&e->lock);
		if (!p->complete)
			return false;
	}
	run_finish(r, ret);
	*err = r->own_err;
	run_free(r);
	return true;
}

/* ---- left ---- */

void run_leave(struct run *r)
{
	struct engine *e = r->e;
	struct job *j = NULL;

	if (r->pc && !r->resuming && e->prov->leave) {
		j = job_new(do_leave, e, LEAVE_MS);
		if (j)
			j->arg = r->pc;
		if (j && exec_post(e->prov_exec, j) == 0) {
			r->pc = NULL; /* the job's */
			(void)exec_wait(e->prov_exec, j, clock_boot_ns() + LEAVE_MS * NS_PER_MS, NULL);
		}
		job_drop(e->prov_exec, j);
	}
	if (r->pc)
		let_go(r);
	run_free(r);
}
