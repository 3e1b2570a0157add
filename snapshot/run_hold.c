/* snapshot/run_hold.c - the hold of a run: lock, closed gate, position files, freeze, trigger, and all of it undone.
 * Owns:      what the hold takes: the database's lock, the closed gate, the freeze, the position files. Each is
 *            released by an explicit statement on the one way out.
 * Called by: run.c on the engine's thread.
 * Blocks:    every wait has a deadline and ends within a moment of an abort.
 * Errors:    the set's, with the sentence. */
#include "snapshot/run_int.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "snapshot/child.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define UNLOCK_WAIT_MS 50u
#define UNLOCK_LATE_MS 5000u
#define TRIGGER_MARGIN_MS 100u

static void do_lock(struct job *j)
{
	struct engine *e = j->self;

	j->result = e->coord->lock(e->coord_self, j->max_ms, j->extra_ms, &j->err);
	FAULT("hold.lock");
}

static void do_position(struct job *j)
{
	struct engine *e = j->self;

	j->result = e->coord->position(e->coord_self, j->max_ms, &j->text, &j->err);
	FAULT("hold.position");
}

static void do_unlock(struct job *j)
{
	struct engine *e = j->self;

	FAULT("hold.unlock");
	j->result = e->coord->unlock(e->coord_self, j->max_ms, &j->err);
	FAULT("hold.unlocked");
}

static void do_trigger(struct job *j)
{
	struct engine *e = j->self;
	struct prov_ctx *p = j->arg;

	FAULT("hold.trigger");
	j->result = e->prov->trigger(e->prov_self, &p->pr, j->max_ms, &j->err);
	FAULT("hold.triggered");
}

/* What the last try of ours came to: when others began to wait, and what it had given up before. Not after a call that
 * was cut off. */
static void note_lock(struct run *r)
{
	struct engine *e = r->e;
	struct coord_lock told = { .began_ns = r->lock_ns };
	double ms;

	if (r->call_late || !e->coord->lock_told)
		return;
	e->coord->lock_told(e->coord_self, &told);
	r->lock_ns = told.began_ns;
	if (!told.given_up)
		return;
	ms = (double)told.longest_ns / 1e6;
	(void)pthread_mutex_lock(&e->lock);
	r->s->given_up += told.given_up;
	r->s->given_up_ms = ms > r->s->given_up_ms ? ms : r->s->given_up_ms;
	(void)pthread_mutex_unlock(&e->lock);
	run_note(r, "lock_given_up", ms);
}

static int step_lock(struct run *r)
{
	struct engine *e = r->e;
	const struct conf *c = e->door.conf;
	uint32_t max = (uint32_t)conf_num(c, "db.lock_timeout") + (conf_num(c, "db.lock_patience") ? COORD_TRIES_MS : 0);
	uint32_t ret_ms = max + 1000;
	uint64_t tries = conf_num(c, "db.lock_tries"), t;
	struct job *j;
	int ret;

	engine_step(e, "locking");
	for (uint64_t i = 0;; i++) {
		j = run_db_job(r, do_lock, max);
		/* the server ends the lock by itself when we fall silent for this long */
		if (j)
			j->extra_ms = (uint32_t)conf_num(c, "drain_timeout") + 1500;
		r->lock_ns = clock_boot_ns();
		ret = run_call(r, e->db_exec, j, clock_boot_ns() + ret_ms * NS_PER_MS, "database lock");
		if (r->call_late)
			e->coord->sever(e->coord_self);
		job_drop(e->db_exec, j);
		note_lock(r);
		if (ret != -EAGAIN || i + 1 >= tries || run_aborted(r))
			break;
		snap_error_clear(r->err);
		run_note(r, "lock_retry", run_ms_since(r->lock_ns));
		if (run_sleep_ms(r, 1000) < 0)
			break;
	}
	/* a call that was cut off may have taken the lock: sever has ended it, unlock is harmless */
	r->locked = ret == 0;
	if (ret < 0)
		return r->err->code ? r->err->code : ret;
	run_note(r, "locked", run_ms_since(r->lock_ns));
	FAULT("hold.locked");
	t = clock_boot_ns();
	j = run_db_job(r, do_position, 2000);
	ret = run_call(r, e->db_exec, j, clock_boot_ns() + 2000 * NS_PER_MS, "position");
	if (r->call_late)
		e->coord->sever(e->coord_self);
	if (ret == 0)
		vbuf_puts(&r->position, vbuf_text(&j->text));
	job_drop(e->db_exec, j);
	if (ret == 0)
		run_note(r, "position", run_ms_since(t));
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
	r->unlock = run_db_job(r, do_unlock, UNLOCK_LATE_MS);
	if (!r->unlock || exec_post(r->e->db_exec, r->unlock) < 0) {
		/* an earlier call hangs there: the server ends the lock when the socket goes */
		r->e->coord->sever(r->e->coord_self);
		job_drop(r->e->db_exec, r->unlock);
		r->unlock = NULL;
		lose_lock(r, -ENOLCK, "unlock the database: its connection hangs and was cut");
		return;
	}
	run_note(r, "unlock_sent", -1);
	r->unlock_by_ns = clock_boot_ns() + UNLOCK_WAIT_MS * NS_PER_MS;
	FAULT("hold.unlock_sent");
}

/* Collect the unlock's answer; one that shows that the lock was not ours fails the set. */
static void collect_unlock(struct run *r)
{
	struct job *j = r->unlock;

	r->unlock = NULL;
	if (!j)
		return;
	if (run_wait_end(r, r->e->db_exec, j, UNLOCK_LATE_MS) < 0) {
		r->e->coord->sever(r->e->coord_self);
		if (atomic_load(r->abort) != EINTR)
			(void)run_aborted(r);
		lose_lock(r, -ETIMEDOUT, "unlock the database: no answer in time; the connection was cut, which ends "
					 "the lock");
	} else {
		r->s->lock_ms = (double)(j->end_ns - r->lock_ns) / 1e6;
		run_note(r, "unlocked", r->s->lock_ms);
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
	FAULT("hold.closing");
	ret = d->ops->gate_close(d->fs, drain, hold, r->abort, &r->ticket);
	r->gate_closed = ret == 0;
	r->drain_failed = ret == -ETIMEDOUT;
	r->s->drain_ms = run_ms_since(t);
	FAULT("hold.closed");
	run_note(r, ret == 0 ? "drained" : "drain_failed", r->s->drain_ms);
	if (ret == -ECANCELED)
		return run_aborted(r);
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
	run_do_discard(j);
}

static int write_position_files(struct run *r)
{
	struct job *j = run_prov_job(r, do_write_position, 0);
	int ret;

	if (j) {
		j->orphan = late_position;
		vbuf_printf(&j->text, "set %s\nid %s\nlineage %s\n%s", r->s->name, r->s->id,
			    catalog_lineage(r->e->cat), vbuf_text(&r->position));
	}
	if (j && vbuf_error(&j->text))
		ret = snap_error_set(r->err, -ENOMEM, "position file: out of memory");
	else
		ret = run_call(r, r->e->prov_exec, j, clock_boot_ns() + left_ms(r) * NS_PER_MS,
			   "write of the position file into the backing (is it frozen by somebody else?)");
	run_prov_call_done(r, j);
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
	ret = write_position_files(r); /* while the unlock is on its way */
	FAULT("hold.files");
	if (r->unlock)
		(void)exec_wait(e->db_exec, r->unlock, r->unlock_by_ns, NULL);
	if (ret == 0 && e->prov->features & PROV_SYNC_FIRST) {
		t = clock_boot_ns();
		ret = run_sync_result(r, child_sync(d, false, t + left_ms(r) * NS_PER_MS, &e->abort_flag, r->err));
		run_note(r, "synced", run_ms_since(t));
	}
	if (ret == 0 && conf_bool(d->conf, "freeze")) {
		t = clock_boot_ns();
		r->frozen = true;
		ret = d->ops->freeze(d->fs, left_ms(r), r->err);
		FAULT("hold.frozen");
		run_note(r, ret < 0 ? "freeze_failed" : "frozen", run_ms_since(t));
	}
	if (ret == 0)
		ret = run_aborted(r);
	if (ret < 0)
		return ret;
	if (!left_ms(r))
		return snap_error_set(r->err, -ETIMEDOUT, "snapshot %s: gate_timeout was over before the provider "
							  "could be called", r->s->name);
	if (set_text(&r->pc->position, vbuf_text(&r->position)) < 0)
		return snap_error_set(r->err, -ENOMEM, "snapshot %s: out of memory", r->s->name);
	r->pc->pr.position = r->pc->position; /* no call of the provider runs now */
	t = clock_boot_ns();
	run_note(r, "trigger", -1);
	j = run_prov_job(r, do_trigger, left_ms(r));
	ret = run_call(r, e->prov_exec, j, t + left_ms(r) * NS_PER_MS, "provider");
	run_prov_call_done(r, j);
	run_note(r, ret < 0 ? "trigger_failed" : "triggered", run_ms_since(t));
	return ret;
}

/* Undo what the hold has, in reverse order, failed or not. */
static void end_hold(struct run *r)
{
	const struct door *d = &r->e->door;
	int ret;

	if (r->frozen) {
		ret = d->ops->thaw(d->fs, r->err);
		run_note(r, ret < 0 ? "thaw_late" : "thawed", -1);
		r->frozen = false;
		FAULT("hold.thawed");
	}
	remove_position_files(r);
	FAULT("hold.cleaned");
	if (r->gate_closed) {
		r->gate_closed = false;
		ret = d->ops->gate_open(d->fs, &r->ticket);
		FAULT("hold.open");
		r->s->hold_ms = run_ms_since(r->ticket.closed_ns);
		run_note(r, ret < 0 ? "gate_was_open" : "gate_open", r->s->hold_ms);
		if (ret < 0)
			snap_error_set(r->err, ret, "snapshot %s: the gate had opened before the consistency point was "
						    "fixed (gate_timeout %g s, or by hand); raise gate_timeout, at "
						    "most 50", r->s->name,
				       (double)conf_num(d->conf, "gate_timeout") / 1000);
	}
	send_unlock(r); /* only if the hold was never reached */
	collect_unlock(r);
	FAULT("hold.ended");
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

int run_hold(struct run *r)
{
	int ret = hold_once(r);

	/* a drain that failed held nothing but the lock, and that is released: once more, later */
	if (ret < 0 && r->drain_failed && !r->lock_lost && !atomic_load(&r->e->abort_flag)) {
		r->drain_failed = false;
		snap_error_clear(r->err);
		vbuf_free(&r->position);
		if (run_sleep_ms(r, 1000) == 0)
			ret = hold_once(r);
	}
	return r->err->code ? r->err->code : ret;
}
