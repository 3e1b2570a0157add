/* snapshot/run_call.c - how a run waits: bounded calls into provider and coordinator, its log, its abort flag.
 * Owns:      nothing; a provider's call that does not come back takes the run's prov_ctx with it.
 * Called by: run.c and run_hold.c on the engine's thread; run_do_discard on the provider's.
 * Blocks:    run_call and run_wait_end up to their deadline, or a moment after an abort.
 * Errors:    the set's, with the sentence. */
#include "snapshot/run_int.h"
#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define ABORT_WAIT_MS 400u /* an answer that is due gets this long once the run is aborted */

void run_note(struct run *r, const char *step, double ms)
{
	char when[CLOCK_ISO_MAX];

	(void)pthread_mutex_lock(&r->e->lock);
	vbuf_printf(&r->s->log, "%s %s", clock_iso(clock_utc(), when), step);
	if (ms >= 0)
		vbuf_printf(&r->s->log, " %.3f ms", ms);
	vbuf_puts(&r->s->log, "\n");
	(void)pthread_mutex_unlock(&r->e->lock);
	engine_event(r->e, r->s, step, ms);
}

void run_remark(struct run *r, const char *text)
{
	char when[CLOCK_ISO_MAX];

	(void)pthread_mutex_lock(&r->e->lock);
	vbuf_printf(&r->s->log, "%s note: %s\n", clock_iso(clock_utc(), when), text);
	(void)pthread_mutex_unlock(&r->e->lock);
	log_warn("snapshot %s: %s", r->s->name, text);
}

int run_aborted(struct run *r)
{
	int why = atomic_load(r->abort);

	if (!why)
		return 0;
	return snap_error_set(r->err, -why, "snapshot %s: %s", r->s->name,
			      why == EINTR ? "interrupted by its caller" :
			      why == ESHUTDOWN ? "stillfs is stopping" : "aborted by an operator");
}

int run_sleep_ms(struct run *r, uint32_t ms)
{
	const struct timespec pause = { .tv_nsec = 5000000 };
	uint64_t end = clock_boot_ns() + ms * NS_PER_MS;

	while (clock_boot_ns() < end && !atomic_load(&r->e->abort_flag))
		(void)nanosleep(&pause, NULL);
	return run_aborted(r);
}

/* ---- bounded calls ---- */

int run_wait_end(struct run *r, struct exec *x, struct job *j, uint32_t max_ms)
{
	uint64_t start = clock_boot_ns(), end = start + max_ms * NS_PER_MS, slice;
	int why, w;

	do {
		why = atomic_load(r->abort);
		if (!why)
			why = atomic_load(&r->e->abort_flag); /* of the next one, which waits for this end */
		if ((why == ECANCELED || why == ESHUTDOWN) && max_ms > ABORT_WAIT_MS)
			end = start + ABORT_WAIT_MS * NS_PER_MS;
		slice = clock_boot_ns() + 50 * NS_PER_MS;
		w = exec_wait(x, j, slice < end ? slice : end, NULL);
	} while (w < 0 && clock_boot_ns() < end);
	return w;
}

int run_call(struct run *r, struct exec *x, struct job *j, uint64_t deadline_ns, const char *what)
{
	int w;

	r->call_late = false;
	if (!j)
		return snap_error_set(r->err, -ENOMEM, "%s: out of memory", what);
	if (exec_post(x, j) < 0)
		return snap_error_set(r->err, -EBUSY, "%s: an earlier call has not come back yet; try later", what);
	w = exec_wait(x, j, deadline_ns, r->abort);
	r->call_late = w < 0;
	if (w == -ECANCELED)
		return run_aborted(r);
	if (w < 0)
		return snap_error_set(r->err, w, "%s: no answer within its time", what);
	if (j->result < 0)
		return snap_error_set(r->err, j->result, "%s",
				      j->err.code ? j->err.msg : strerror(-j->result));
	return 0;
}

void run_do_discard(struct job *j)
{
	struct engine *e = j->self;
	struct prov_ctx *p = j->arg;

	if (atomic_load(&p->keep)) { /* the next process takes the set up */
		e->prov->finish(e->prov_self, &p->pr);
		run_ctx_free(p);
		return;
	}
	run_clean_backings(&e->door); /* a stuck call may have kept the position file from being removed */
	j->result = e->prov->discard(e->prov_self, &p->pr, &j->err);
	if (j->result < 0)
		log_error("discard snapshot %s: %s", p->name, j->err.msg);
	run_ctx_free(p);
}

void run_ctx_free(struct prov_ctx *p)
{
	if (!p)
		return;
	free(p->description);
	free(p->tags);
	free(p->position);
	free(p);
}

bool run_prov_cancelled(const struct prov_run *pr)
{
	const struct prov_ctx *p = (const void *)((const char *)pr - offsetof(struct prov_ctx, pr));

	return atomic_load(&p->cancel) || (p->urgent && atomic_load(p->urgent));
}

struct job *run_db_job(struct run *r, void (*fn)(struct job *), uint32_t max_ms)
{
	return job_new(fn, r->e, max_ms);
}

struct job *run_prov_job(struct run *r, void (*fn)(struct job *), uint32_t max_ms)
{
	struct job *j = job_new(fn, r->e, max_ms);

	if (j) {
		j->arg = r->pc;
		j->orphan = run_do_discard;
	}
	return j;
}

void run_prov_call_done(struct run *r, struct job *j)
{
	bool left;

	if (!j)
		return;
	atomic_store(&r->pc->cancel, r->err->code != 0);
	left = r->err->code && exec_wait(r->e->prov_exec, j, clock_boot_ns() + 200 * NS_PER_MS, NULL) < 0;
	if (left) {
		/* between the wait and the drop it may have come back: job_drop decides under its lock */
		job_abandon(r->e->prov_exec, j, &left);
		if (left)
			r->pc = NULL;
		return;
	}
	job_drop(r->e->prov_exec, j);
}

int run_sync_result(struct run *r, int ret)
{
	if (ret != -ECANCELED)
		return ret;
	snap_error_clear(r->err);
	return run_aborted(r);
}
