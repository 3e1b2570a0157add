/* snapshot/run.c - one snapshot, step by step, and its unwinding.
 * Owns:      what a run holds: the database's lock, the closed gate, the freeze, the position files, the
 *            provider's run. Each is released by an explicit statement on the one way out.
 * Called by: engine.c on the engine's thread.
 * Blocks:    every wait has a deadline and ends within a moment of an abort. Calls into provider and
 *            coordinator run on their executors; one that does not come back is left there.
 * Errors:    the set's, with the sentence.
 *
 * Order (design.md, section 5): preflight, pre-sync, lock, position, gate closed and drained, unlock
 * sent, position file, sync or freeze where asked, trigger, thaw, gate open, unlock's answer, completion.
 * Invariants: the gate is never closed without a deadline; the lock is never held across the trigger;
 * nothing of ours writes to a frozen filesystem. */
#include "snapshot/engine_int.h"
#include "base/clock.h"
#include "base/log.h"
#include "snapshot/child.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PREFLIGHT_MS 60000u
#define PRESYNC_SHORT_MS 50.0 /* dirty data that takes no longer may be left to the hold */
#define PRESYNC_TIMES 4
#define UNLOCK_WAIT_MS 50u
#define UNLOCK_LATE_MS 5000u
#define TRIGGER_MARGIN_MS 100u
#define POLL_MS 200u /* a new snapshot waits for no more than this slice */
#define DISCARD_MS 60000u
#define ABORT_WAIT_MS 400u /* an answer that is due gets this long once the run is aborted */

/* Outlives the engine's interest when the provider's call is stuck. */
struct prov_ctx {
	struct prov_run pr;
	char name[DOOR_NAME_MAX + 1], id[33], lineage[33];
	_Atomic bool cancel;
	const struct prov_ops *ops;
	struct prov_progress progress;
};

struct run {
	struct run *next; /* the engine's list of those being completed */
	struct engine *e;
	struct set *s;
	struct snap_error *err;
	struct snap_error own_err; /* err, once the point is fixed */
	const _Atomic int *abort; /* the engine's flag for where this run is */
	bool canceled; /* run_cancel */
	struct prov_ctx *pc;
	bool prov_begun, locked, gate_closed, frozen, position_files;
	bool drain_failed; /* the gate is open again, and so is the lock */
	bool lock_lost; /* the server, or we by cutting the connection, ended the lock early */
	bool call_late; /* the last call had not come back when it was given up */
	struct gate_ticket ticket;
	struct job *unlock;
	uint64_t lock_ns, start_ns;
	struct vbuf position;
};

static double ms_since(uint64_t ns)
{
	return (double)(clock_boot_ns() - ns) / 1e6;
}

/* One line of the set's log, and an event. */
static void note(struct run *r, const char *step, double ms)
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

static int aborted(struct run *r)
{
	int why = atomic_load(r->abort);

	if (!why)
		return 0;
	return snap_error_set(r->err, -why, "snapshot %s: %s", r->s->name,
			      why == EINTR ? "interrupted by its caller" :
			      why == ESHUTDOWN ? "stillfs is stopping" : "aborted by an operator");
}

static int sleep_ms(struct run *r, uint32_t ms)
{
	const struct timespec pause = { .tv_nsec = 5000000 };
	uint64_t end = clock_boot_ns() + ms * NS_PER_MS;

	while (clock_boot_ns() < end && !atomic_load(&r->e->abort_flag))
		(void)nanosleep(&pause, NULL);
	return aborted(r);
}

/* ---- bounded calls ---- */

/* Wait for the end of what must be done in any case. 0; -ETIMEDOUT, soon when an operator aborts or stillfs
 * stops. A caller's Ctrl-C is no reason: it came too late, or the run is being unwound because of it. */
static int wait_end(struct run *r, struct exec *x, struct job *j, uint32_t max_ms)
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

/* Make a call on executor x and wait. The job's result; or its deadline or an abort, and then the call is
 * left to itself. The caller drops the job. */
static int call(struct run *r, struct exec *x, struct job *j, uint64_t deadline_ns, const char *what)
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
		return aborted(r);
	if (w < 0)
		return snap_error_set(r->err, w, "%s: no answer within its time", what);
	if (j->result < 0)
		return snap_error_set(r->err, j->result, "%s",
				      j->err.code ? j->err.msg : strerror(-j->result));
	return 0;
}

static void do_coord_preflight(struct job *j)
{
	struct engine *e = j->self;

	j->result = e->coord->preflight(e->coord_self, j->max_ms, &j->err);
}

static void do_lock(struct job *j)
{
	struct engine *e = j->self;

	j->result = e->coord->lock(e->coord_self, j->max_ms, j->extra_ms, &j->err);
}

static void do_position(struct job *j)
{
	struct engine *e = j->self;

	j->result = e->coord->position(e->coord_self, j->max_ms, &j->text, &j->err);
}

static void do_unlock(struct job *j)
{
	struct engine *e = j->self;

	j->result = e->coord->unlock(e->coord_self, j->max_ms, &j->err);
}

static void do_prov_preflight(struct job *j)
{
	struct engine *e = j->self;
	struct prov_ctx *p = j->arg;

	j->result = e->prov->preflight(e->prov_self, &p->pr, j->extra_ms, j->max_ms, &j->err);
}

static void do_trigger(struct job *j)
{
	struct engine *e = j->self;
	struct prov_ctx *p = j->arg;

	j->result = e->prov->trigger(e->prov_self, &p->pr, j->max_ms, &j->err);
}

static void do_poll(struct job *j)
{
	struct engine *e = j->self;
	struct prov_ctx *p = j->arg;

	j->result = e->prov->poll(e->prov_self, &p->pr, j->max_ms, &p->progress, &j->err);
}

/* The run is over and failed: take away what the provider made. */
static void do_discard(struct job *j)
{
	struct engine *e = j->self;
	struct prov_ctx *p = j->arg;

	run_clean_backings(&e->door); /* a stuck call may have kept the position file from being removed */
	j->result = e->prov->discard(e->prov_self, &p->pr, &j->err);
	if (j->result < 0)
		log_error("discard snapshot %s: %s", p->name, j->err.msg);
	free(p);
}

static bool prov_cancelled(const struct prov_run *pr)
{
	const struct prov_ctx *p = (const void *)((const char *)pr - offsetof(struct prov_ctx, pr));

	return atomic_load(&p->cancel);
}

static struct job *db_job(struct run *r, void (*fn)(struct job *), uint32_t max_ms)
{
	return job_new(fn, r->e, max_ms);
}

/* An abandoned provider call discards its run itself, once it comes back. */
static struct job *prov_job(struct run *r, void (*fn)(struct job *), uint32_t max_ms)
{
	struct job *j = job_new(fn, r->e, max_ms);

	if (j) {
		j->arg = r->pc;
		j->orphan = do_discard;
	}
	return j;
}

/* After a provider call that failed: if it is still running, its run is no longer ours. */
static void prov_call_done(struct run *r, struct job *j)
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

/* ---- steps ---- */

/* A mount that was taken away by hand: what was to go through it passes by the gate now. */
static int check_mounted(struct run *r)
{
	const struct door *d = &r->e->door;
	struct stat st;

	for (unsigned i = 0; i < d->n_pairs; i++)
		if (stat(d->pairs[i].mountpoint, &st) < 0 || st.st_dev != d->pairs[i].mount_dev)
			return snap_error_set(r->err, -ENODEV, "%s is not mounted any more, so writes to it pass by the gate: stop "
							       "the database, unmount the others, mount all again",
					      d->pairs[i].mountpoint);
	return 0;
}

static int step_preflight(struct run *r)
{
	struct engine *e = r->e;
	uint32_t hold = (uint32_t)conf_num(e->door.conf, "gate_timeout");
	uint64_t t = clock_boot_ns();
	struct job *j;
	int ret;

	engine_step(e, "preflight");
	ret = check_mounted(r);
	if (ret == 0)
		ret = catalog_probe(e->cat, r->err);
	if (ret < 0)
		return ret;
	if (conf_bool(e->door.conf, "freeze") && e->prov->features & PROV_LIVE_FS)
		return snap_error_set(r->err, -EINVAL, "freeze=yes cannot be used with provider=%s", e->prov->name);
	j = db_job(r, do_coord_preflight, PREFLIGHT_MS);
	ret = call(r, e->db_exec, j, clock_boot_ns() + PREFLIGHT_MS * NS_PER_MS, "database preflight");
	if (r->call_late)
		e->coord->sever(e->coord_self);
	job_drop(e->db_exec, j);
	note(r, "preflight_db", ms_since(t));
	if (ret < 0)
		return ret;
	t = clock_boot_ns();
	j = prov_job(r, do_prov_preflight, PREFLIGHT_MS);
	if (j)
		j->extra_ms = hold;
	r->prov_begun = true;
	ret = call(r, e->prov_exec, j, clock_boot_ns() + PREFLIGHT_MS * NS_PER_MS, "provider preflight");
	prov_call_done(r, j);
	note(r, "preflight_provider", ms_since(t));
	return ret;
}

/* The child says that it was stopped, the set says why. */
static int sync_result(struct run *r, int ret)
{
	if (ret != -ECANCELED)
		return ret;
	snap_error_clear(r->err);
	return aborted(r);
}

/* Write out what is dirty before anything is held, until little is left. */
static int step_presync(struct run *r)
{
	uint64_t start = clock_boot_ns(), t;
	double ms = 1e9;
	int ret = 0;

	engine_step(r->e, "presync");
	for (int i = 0; ret == 0 && i < PRESYNC_TIMES && ms > PRESYNC_SHORT_MS; i++) {
		t = clock_boot_ns();
		ret = child_sync(&r->e->door, true, start + conf_num(r->e->door.conf, "presync_timeout") * NS_PER_MS, &r->e->abort_flag, r->err);
		ms = ms_since(t);
	}
	ret = sync_result(r, ret);
	r->s->presync_ms = ms_since(start);
	note(r, "presync", r->s->presync_ms);
	return ret;
}

static int step_lock(struct run *r)
{
	struct engine *e = r->e;
	const struct conf *c = e->door.conf;
	uint32_t max = (uint32_t)conf_num(c, "db.lock_timeout"), ret_ms = max + 1000;
	uint64_t tries = conf_num(c, "db.lock_tries");
	struct job *j;
	int ret;

	engine_step(e, "locking");
	for (uint64_t i = 0;; i++) {
		j = db_job(r, do_lock, max);
		/* the server ends the lock by itself when we fall silent for this long */
		if (j)
			j->extra_ms = (uint32_t)conf_num(c, "drain_timeout") + 1500;
		r->lock_ns = clock_boot_ns();
		ret = call(r, e->db_exec, j, clock_boot_ns() + ret_ms * NS_PER_MS, "database lock");
		if (r->call_late)
			e->coord->sever(e->coord_self);
		job_drop(e->db_exec, j);
		if (ret != -EAGAIN || i + 1 >= tries || aborted(r))
			break;
		snap_error_clear(r->err);
		note(r, "lock_retry", ms_since(r->lock_ns));
		if (sleep_ms(r, 1000) < 0)
			break;
	}
	/* a call that was cut off may have taken the lock: sever has ended it, unlock is harmless */
	r->locked = ret == 0;
	if (ret < 0)
		return r->err->code ? r->err->code : ret;
	note(r, "locked", ms_since(r->lock_ns));
	j = db_job(r, do_position, 2000);
	ret = call(r, e->db_exec, j, clock_boot_ns() + 2000 * NS_PER_MS, "position");
	if (r->call_late)
		e->coord->sever(e->coord_self);
	if (ret == 0)
		vbuf_puts(&r->position, vbuf_text(&j->text));
	job_drop(e->db_exec, j);
	return ret;
}

/* The lock ended otherwise than by our unlock. Says more than a drain that failed meanwhile. */
static void lose_lock(struct run *r, int code, const char *why)
{
	if (r->drain_failed)
		snap_error_clear(r->err);
	r->lock_lost = true;
	snap_error_set(r->err, code, "%s", why);
}

/* Send the unlock; its answer is collected later. The gate's state does not matter to it. */
static void send_unlock(struct run *r)
{
	if (!r->locked)
		return;
	r->locked = false;
	r->unlock = db_job(r, do_unlock, UNLOCK_LATE_MS);
	if (!r->unlock || exec_post(r->e->db_exec, r->unlock) < 0) {
		/* an earlier call hangs there: the server ends the lock when the socket goes */
		r->e->coord->sever(r->e->coord_self);
		job_drop(r->e->db_exec, r->unlock);
		r->unlock = NULL;
		lose_lock(r, -ENOLCK, "unlock the database: its connection hangs and was cut");
		return;
	}
	note(r, "unlock_sent", -1);
	(void)exec_wait(r->e->db_exec, r->unlock, clock_boot_ns() + UNLOCK_WAIT_MS * NS_PER_MS, NULL);
}

/* Collect the unlock's answer; one that shows that the lock was not ours fails the set. */
static void collect_unlock(struct run *r)
{
	struct job *j = r->unlock;

	r->unlock = NULL;
	if (!j)
		return;
	if (wait_end(r, r->e->db_exec, j, UNLOCK_LATE_MS) < 0) {
		r->e->coord->sever(r->e->coord_self);
		if (atomic_load(r->abort) != EINTR)
			(void)aborted(r);
		lose_lock(r, -ETIMEDOUT, "unlock the database: no answer in time; the connection was cut, which ends "
					 "the lock");
	} else {
		r->s->lock_ms = (double)(j->end_ns - r->lock_ns) / 1e6;
		note(r, "unlocked", r->s->lock_ms);
		if (j->result < 0)
			lose_lock(r, j->result, j->err.code ? j->err.msg : "unlock the database failed");
	}
	job_drop(r->e->db_exec, j);
}

static int step_close(struct run *r)
{
	const struct door *d = &r->e->door;
	uint32_t hold = (uint32_t)conf_num(d->conf, "gate_timeout");
	uint32_t drain = (uint32_t)conf_num(d->conf, "drain_timeout");
	uint64_t t = clock_boot_ns();
	int ret;

	engine_step(r->e, "closing");
	ret = d->ops->gate_close(d->fs, drain, hold, &r->ticket);
	r->gate_closed = ret == 0;
	r->drain_failed = ret == -ETIMEDOUT;
	r->s->drain_ms = ms_since(t);
	note(r, ret == 0 ? "drained" : "drain_failed", r->s->drain_ms);
	if (ret == -EBUSY)
		return snap_error_set(r->err, ret, "close the gate: it is closed already, by hand; write `open` to "
						   "gate first");
	if (ret < 0)
		return snap_error_set(r->err, ret, "close the gate: writes in flight did not end within %u ms; the "
						   "device is slow or stuck; try later or raise drain_timeout",
				      drain);
	return 0;
}

static uint32_t left_ms(struct run *r)
{
	const struct door *d = &r->e->door;
	uint32_t left = d->ops->gate_left_ms(d->fs, &r->ticket);

	return left > TRIGGER_MARGIN_MS ? left - TRIGGER_MARGIN_MS : 0;
}

/* Write the position file straight into each backing. On the provider's thread: on a filesystem that
 * somebody else has frozen it blocks until that one thaws. */
static void do_write_position(struct job *j)
{
	const struct door *d = &((struct engine *)j->self)->door;

	for (unsigned i = 0; i < d->n_pairs; i++) {
		int fd = openat(d->pairs[i].backing_fd, POSITION_FILE,
				O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
		ssize_t n = fd < 0 ? -1 : write(fd, vbuf_text(&j->text), j->text.len);

		if (n < 0)
			j->result = -errno;
		else if (n != (ssize_t)j->text.len)
			j->result = -ENOSPC;
		if (fd >= 0 && close(fd) < 0 && j->result == 0)
			j->result = -errno;
		if (j->result < 0) {
			snap_error_set(&j->err, j->result, "write %s/%s: %s", d->pairs[i].backing, POSITION_FILE,
				       strerror(-j->result));
			return;
		}
	}
}

static void do_remove_position(struct job *j)
{
	run_clean_backings(&((struct engine *)j->self)->door);
}

/* The write came back after its run had been given up. */
static void late_position(struct job *j)
{
	do_remove_position(j);
	do_discard(j);
}

static int write_position_files(struct run *r)
{
	struct job *j = prov_job(r, do_write_position, 0);
	int ret;

	if (j) {
		j->orphan = late_position;
		vbuf_printf(&j->text, "set %s\nid %s\nlineage %s\n%s", r->s->name, r->s->id,
			    catalog_lineage(r->e->cat), vbuf_text(&r->position));
	}
	if (j && vbuf_error(&j->text))
		ret = snap_error_set(r->err, -ENOMEM, "position file: out of memory");
	else
		ret = call(r, r->e->prov_exec, j, clock_boot_ns() + left_ms(r) * NS_PER_MS,
			   "write of the position file into the backing (is it frozen by somebody else?)");
	prov_call_done(r, j);
	r->position_files = r->pc != NULL;
	return ret;
}

static void remove_position_files(struct run *r)
{
	struct job *j;

	if (!r->position_files)
		return;
	r->position_files = false;
	j = job_new(do_remove_position, r->e, 0);
	if (!j || exec_post(r->e->prov_exec, j) < 0 ||
	    exec_wait(r->e->prov_exec, j, clock_boot_ns() + NS_PER_S, NULL) < 0)
		log_warn("snapshot %s: %s is removed later", r->s->name, POSITION_FILE);
	job_drop(r->e->prov_exec, j);
}

/* The gate is closed and the lock has been sent away: fix the consistency point. */
static int step_trigger(struct run *r)
{
	struct engine *e = r->e;
	const struct door *d = &e->door;
	struct job *j;
	uint64_t t;
	int ret;

	engine_step(e, "holding");
	ret = write_position_files(r);
	if (ret == 0 && e->prov->features & PROV_SYNC_FIRST) {
		t = clock_boot_ns();
		ret = sync_result(r, child_sync(d, false, t + left_ms(r) * NS_PER_MS, &e->abort_flag, r->err));
		note(r, "synced", ms_since(t));
	}
	if (ret == 0 && conf_bool(d->conf, "freeze")) {
		t = clock_boot_ns();
		r->frozen = true;
		ret = d->ops->freeze(d->fs, left_ms(r), r->err);
		note(r, ret < 0 ? "freeze_failed" : "frozen", ms_since(t));
	}
	if (ret == 0)
		ret = aborted(r);
	if (ret < 0)
		return ret;
	if (!left_ms(r))
		return snap_error_set(r->err, -ETIMEDOUT, "snapshot %s: gate_timeout was over before the provider "
							  "could be called", r->s->name);
	t = clock_boot_ns();
	note(r, "trigger", -1);
	j = prov_job(r, do_trigger, left_ms(r));
	ret = call(r, e->prov_exec, j, t + left_ms(r) * NS_PER_MS, "provider");
	prov_call_done(r, j);
	note(r, ret < 0 ? "trigger_failed" : "triggered", ms_since(t));
	return ret;
}

/* Undo what the hold has, in reverse order, failed or not. */
static void end_hold(struct run *r)
{
	const struct door *d = &r->e->door;
	int ret;

	if (r->frozen) {
		ret = d->ops->thaw(d->fs, r->err);
		note(r, ret < 0 ? "thaw_late" : "thawed", -1);
		r->frozen = false;
	}
	remove_position_files(r);
	if (r->gate_closed) {
		r->gate_closed = false;
		ret = d->ops->gate_open(d->fs, &r->ticket);
		r->s->hold_ms = ms_since(r->ticket.closed_ns);
		note(r, ret < 0 ? "gate_was_open" : "gate_open", r->s->hold_ms);
		if (ret < 0)
			snap_error_set(r->err, ret, "snapshot %s: the gate had opened before the consistency point was "
						    "fixed (gate_timeout %g s, or by hand); raise gate_timeout, at "
						    "most 50", r->s->name,
				       (double)conf_num(d->conf, "gate_timeout") / 1000);
	}
	send_unlock(r); /* only if the hold was never reached */
	collect_unlock(r);
}

/* Lock, position, hold, trigger. */
static int hold_once(struct run *r)
{
	int ret = step_lock(r);

	if (ret == 0)
		ret = step_close(r);
	if (ret == 0) {
		send_unlock(r);
		ret = r->err->code;
	}
	if (ret == 0)
		ret = step_trigger(r);
	end_hold(r);
	return r->err->code;
}

static int step_hold(struct run *r)
{
	int ret = hold_once(r);

	/* a drain that failed held nothing but the lock, and that is released: once more, later */
	if (ret < 0 && r->drain_failed && !r->lock_lost && !atomic_load(&r->e->abort_flag)) {
		r->drain_failed = false;
		snap_error_clear(r->err);
		vbuf_free(&r->position);
		if (sleep_ms(r, 1000) == 0)
			ret = hold_once(r);
	}
	return r->err->code ? r->err->code : ret;
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
	ret = engine_save(e, r->s, r->err);
	if (ret < 0)
		return ret;
	engine_event(e, r->s, "fixed", ms_since(r->start_ns));
	return 0;
}

static void finish(struct run *r, int ret)
{
	struct engine *e = r->e;
	struct snap_error save = { 0 };
	struct job *j;

	(void)pthread_mutex_lock(&e->lock);
	r->s->state = ret < 0 ? SET_FAILED : SET_COMPLETE;
	r->s->progress = ret < 0 ? r->s->progress : 100;
	r->s->ended = clock_utc();
	r->s->error_code = ret;
	(void)set_text(&r->s->error, ret < 0 ? r->err->msg : "");
	(void)set_text(&r->s->detail, "");
	(void)pthread_mutex_unlock(&e->lock);
	note(r, ret < 0 ? "failed" : "complete", ms_since(r->start_ns));
	if (engine_save(e, r->s, &save) < 0 && ret == 0) {
		/* not recorded is not complete: nothing could find or prune it */
		ret = snap_error_set(r->err, save.code, "%s", save.msg);
		(void)pthread_mutex_lock(&e->lock);
		r->s->state = SET_FAILED;
		r->s->error_code = ret;
		(void)set_text(&r->s->error, r->err->msg);
		(void)pthread_mutex_unlock(&e->lock);
	}
	if (!r->pc)
		return; /* the stuck call will discard it */
	if (ret == 0) {
		e->prov->finish(e->prov_self, &r->pc->pr);
		free(r->pc);
		return;
	}
	if (!r->prov_begun) {
		free(r->pc);
		return;
	}
	engine_step(e, "discarding");
	j = job_new(do_discard, e, DISCARD_MS);
	if (!j) {
		log_error("discard snapshot %s: out of memory; its data is removed at the next start", r->s->name);
		free(r->pc);
		return;
	}
	j->arg = r->pc;
	if (exec_post(e->prov_exec, j) == 0)
		(void)wait_end(r, e->prov_exec, j, DISCARD_MS);
	job_drop(e->prov_exec, j);
}

static struct run *run_new(struct engine *e, struct set *s)
{
	struct run *r = calloc(1, sizeof(*r));
	struct prov_ctx *p = calloc(1, sizeof(*p));

	if (!r || !p) {
		free(r);
		free(p);
		return NULL;
	}
	memcpy(p->name, s->name, sizeof(p->name));
	memcpy(p->id, s->id, sizeof(p->id));
	memcpy(p->lineage, s->lineage, sizeof(p->lineage));
	p->pr = (struct prov_run){ .name = p->name, .set_id = p->id, .lineage = p->lineage,
				   .door = &e->door, .cancelled = prov_cancelled };
	*r = (struct run){ .e = e, .s = s, .pc = p, .abort = &e->abort_flag, .start_ns = clock_boot_ns() };
	return r;
}

static void run_free(struct run *r)
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
	ret = engine_save(e, s, err);
	if (ret == 0)
		ret = step_preflight(r);
	if (ret == 0)
		ret = step_presync(r);
	if (ret == 0)
		ret = step_hold(r);
	if (ret == 0)
		ret = step_fixed(r);
	r->err = &r->own_err; /* err is the caller's */
	r->abort = &e->abort_completing;
	if (ret == 0)
		return r;
	r->own_err = *err;
	finish(r, ret);
	run_free(r);
	return NULL;
}

bool run_poll(struct run *r, struct snap_error *err)
{
	struct engine *e = r->e;
	struct prov_ctx *p = r->pc;
	struct job *j = NULL;
	int ret = 0;

	if (r->canceled) {
		ret = snap_error_set(r->err, -ECANCELED, "snapshot %s: aborted by an operator", r->s->name);
	} else {
		j = prov_job(r, do_poll, POLL_MS);
		ret = call(r, e->prov_exec, j, clock_boot_ns() + 3600 * NS_PER_S, "completion");
		prov_call_done(r, j);
	}
	if (ret == 0) {
		(void)pthread_mutex_lock(&e->lock);
		r->s->progress = p->progress.percent;
		r->s->size_b = p->progress.size_b;
		r->s->volumes = p->progress.volumes;
		(void)set_text(&r->s->detail, p->progress.detail);
		(void)pthread_mutex_unlock(&e->lock);
		if (!p->progress.complete)
			return false;
	}
	finish(r, ret);
	*err = r->own_err;
	run_free(r);
	return true;
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

/* ---- removal ---- */

struct removal {
	char name[DOOR_NAME_MAX + 1], id[33];
};

static void do_remove(struct job *j)
{
	struct engine *e = j->self;
	struct removal *m = j->arg;

	j->result = e->prov->remove(e->prov_self, m->name, m->id, j->max_ms, &j->err);
	free(m);
}

int run_remove(struct engine *e, const char *name, const char *id, struct snap_error *err)
{
	struct removal *m = calloc(1, sizeof(*m));
	struct job *j = m ? job_new(do_remove, e, 600000) : NULL;
	int ret;

	if (!j) {
		free(m);
		return snap_error_set(err, -ENOMEM, "remove %s: out of memory", name);
	}
	(void)snprintf(m->name, sizeof(m->name), "%s", name);
	(void)snprintf(m->id, sizeof(m->id), "%s", id);
	j->arg = m;
	ret = exec_post(e->prov_exec, j);
	if (ret < 0) {
		free(m);
		snap_error_set(err, ret, "remove %s: the provider is busy with a call that has not come back", name);
	} else {
		ret = exec_wait(e->prov_exec, j, clock_boot_ns() + 600 * NS_PER_S, &e->abort_completing);
		if (ret < 0)
			snap_error_set(err, ret, "remove %s: not finished", name);
		else if (j->result < 0)
			ret = snap_error_set(err, j->result, "%s", j->err.code ? j->err.msg : strerror(-j->result));
	}
	job_drop(e->prov_exec, j);
	return ret;
}

void run_clean_backings(const struct door *d)
{
	for (unsigned i = 0; i < d->n_pairs; i++)
		if (unlinkat(d->pairs[i].backing_fd, POSITION_FILE, 0) < 0 && errno != ENOENT)
			log_warn("remove %s/%s: %s", d->pairs[i].backing, POSITION_FILE, strerror(errno));
}
