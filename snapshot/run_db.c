/* snapshot/run_db.c - what the coordinator does around the hold: prepare, finish, recovery.
 * Owns:      nothing; a change that prepare made is the coordinator's, and in its journal.
 * Called by: run.c around run_hold, engine.c between runs; on the engine's thread.
 * Blocks:    up to the limits below; prepare as long as the configuration lets it wait for blockers.
 * Errors:    prepare's fail the set. Finish's do not: what the set shows is fixed; they are reported, and tried
 *            again from the journal. */
#include "snapshot/run_int.h"
#include "snapshot/list.h"
#include "snapshot/orphans.h"
#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <string.h>

#define PREPARE_MS 900000u /* above the longest db.blockers wait, an applier's stop and a hook together */
#define FINISH_MS 30000u
#define RECOVER_MS 5000u
#define RECOVER_PAUSE_MS 50000u /* the engine comes by every minute */

static void do_prepare(struct job *j)
{
	struct engine *e = j->self;

	j->result = e->coord->prepare(e->coord_self, j->arg, j->max_ms, &j->err);
}

static void do_finish(struct job *j)
{
	struct engine *e = j->self;

	j->result = e->coord->finish(e->coord_self, (int)(intptr_t)j->arg, j->max_ms, &j->err);
}

static void do_recover(struct job *j)
{
	struct engine *e = j->self;

	j->result = e->coord->recover(e->coord_self, j->max_ms, &j->err);
}

int run_db_prepare(struct run *r)
{
	struct engine *e = r->e;
	uint64_t t = clock_boot_ns();
	struct job *j;
	int ret;

	if (!e->coord->prepare)
		return 0;
	engine_step(e, "preparing");
	r->db_prepared = true;
	j = run_db_job(r, do_prepare, PREPARE_MS);
	if (j)
		j->arg = r->s->name;
	ret = run_call(r, e->db_exec, j, t + PREPARE_MS * NS_PER_MS, "database preparation");
	if (r->call_late) {
		e->coord->sever(e->coord_self);
		(void)exec_wait(e->db_exec, j, clock_boot_ns() + 2 * NS_PER_S, NULL); /* finish is next in line */
	}
	job_drop(e->db_exec, j);
	run_note(r, ret < 0 ? "prepare_failed" : "prepared", run_ms_since(t));
	return ret;
}

static void report(struct engine *e, const struct snap_error *err)
{
	log_warn("%s", err->msg);
	e->door.ops->report(e->door.fs, "snapshot", err);
}

void run_db_finish(struct run *r, int result)
{
	struct engine *e = r->e;
	struct snap_error why = { 0 };
	struct job *j;

	if (!r->db_prepared)
		return;
	r->db_prepared = false;
	j = job_new(do_finish, e, FINISH_MS);
	if (j)
		j->arg = (void *)(intptr_t)result;
	if (!j || exec_post(e->db_exec, j) < 0)
		snap_error_set(&why, -EBUSY, "database: what was changed for snapshot %s is changed back later", r->s->name);
	else if (run_wait_end(r, e->db_exec, j, FINISH_MS) < 0)
		snap_error_set(&why, -ETIMEDOUT, "database: what was changed for snapshot %s is not changed back yet",
			       r->s->name);
	else if (j->result < 0)
		snap_error_set(&why, j->result, "%s", j->err.code ? j->err.msg : strerror(-j->result));
	job_drop(e->db_exec, j);
	run_note(r, why.code ? "finish_failed" : "finished", -1);
	if (why.code) {
		e->db_recover_due = true;
		e->db_recover_ns = clock_boot_ns() + RECOVER_PAUSE_MS * NS_PER_MS;
		report(e, &why);
	}
}

static void recover_one(struct engine *e)
{
	struct job *j;

	if (!e->db_recover_due || !e->coord->recover) {
		e->db_recover_due = false;
		return;
	}
	if (clock_boot_ns() < e->db_recover_ns)
		return;
	e->db_recover_ns = clock_boot_ns() + RECOVER_PAUSE_MS * NS_PER_MS;
	j = job_new(do_recover, e, RECOVER_MS);
	if (j && exec_post(e->db_exec, j) == 0 &&
	    exec_wait(e->db_exec, j, clock_boot_ns() + RECOVER_MS * NS_PER_MS, &e->abort_completing) == 0) {
		e->db_recover_due = j->result < 0;
		if (j->result < 0)
			report(e, &j->err);
	}
	job_drop(e->db_exec, j);
}

uint64_t run_db_due(const struct engine *e)
{
	uint64_t due = binlogs_due(e), stock = stock_due(e), orphans = orphans_due(e);

	due = stock < due ? stock : due;
	due = orphans < due ? orphans : due;
	due = holds_due(e) < due ? holds_due(e) : due;
	return e->db_recover_due && e->db_recover_ns < due ? e->db_recover_ns : due;
}

bool run_db_chores(struct engine *e)
{
	bool look;

	recover_one(e);
	(void)pthread_mutex_lock(&e->lock);
	look = e->doctor_running && !e->queued;
	(void)pthread_mutex_unlock(&e->lock);
	if (look)
		doctor_look(e);
	binlogs_look(e);
	stock_look(e);
	orphans_look(e);
	holds_look(e);
	return !e->db_recover_due;
}
