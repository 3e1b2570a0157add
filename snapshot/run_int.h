/* snapshot/run_int.h - what the files of a run share: run.c (from preflight to the fixed point), run_hold.c (the hold),
 * run_complete.c (what follows), run_call.c (bounded calls). Private to them; everything here is used on the engine's thread. */
#ifndef STILLFS_SNAPSHOT_RUN_INT_H
#define STILLFS_SNAPSHOT_RUN_INT_H

#include "snapshot/engine_int.h"
#include "base/clock.h"

/* Outlives the engine's interest when the provider's call is stuck. */
struct prov_ctx {
	struct prov_run pr;
	char name[DOOR_NAME_MAX + 1], id[33], lineage[33], class[DOOR_NAME_MAX + 1];
	char *description, *tags, *position; /* its own: the set may be gone before a stuck call is */
	_Atomic bool cancel;
	_Atomic bool keep; /* the set stays pending: a call that comes back late discards nothing */
	const _Atomic bool *urgent; /* NULL until the point is fixed */
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
	bool resuming; /* another process fixed the point, and the provider has not taken the set up yet */
	uint64_t due_ns; /* of the next try to resume */
	uint32_t pause_ms;
	struct prov_ctx *pc;
	bool prov_begun, locked, gate_closed, frozen, position_files;
	bool db_prepared; /* finish is due */
	bool drain_failed; /* the gate is open again, and so is the lock */
	bool lock_lost; /* the server, or we by cutting the connection, ended the lock early */
	bool call_late; /* the last call had not come back when it was given up */
	struct gate_ticket ticket;
	struct job *unlock;
	uint64_t unlock_by_ns; /* how long the hold waits for it */
	uint64_t lock_ns, start_ns;
	uint64_t ready_ns; /* when the provider's preflight had ended */
	struct vbuf position;
};

static inline double run_ms_since(uint64_t ns)
{
	return (double)(clock_boot_ns() - ns) / 1e6;
}

/* run_call.c */
void run_note(struct run *r, const char *step, double ms); /* one line of the set's log, and an event; ms < 0: none */
void run_remark(struct run *r, const char *text); /* one line of the set's log */
int run_aborted(struct run *r); /* 0, or what the run fails with, recorded */
int run_sleep_ms(struct run *r, uint32_t ms); /* as run_aborted */
/* Make a call on executor x and wait. The job's result; or its deadline or an abort, and then the call is
 * left to itself. The caller drops the job. */
int run_call(struct run *r, struct exec *x, struct job *j, uint64_t deadline_ns, const char *what);
/* Wait for the end of what must be done in any case. 0; -ETIMEDOUT, soon when an operator aborts or stillfs
 * stops. A caller's Ctrl-C is no reason: it came too late, or the run is being unwound because of it. */
int run_wait_end(struct run *r, struct exec *x, struct job *j, uint32_t max_ms);
struct job *run_db_job(struct run *r, void (*fn)(struct job *), uint32_t max_ms);
/* An abandoned provider call discards its run itself, once it comes back. */
struct job *run_prov_job(struct run *r, void (*fn)(struct job *), uint32_t max_ms);
/* After a provider call that failed: if it is still running, its run is no longer ours. */
void run_prov_call_done(struct run *r, struct job *j);
void run_ctx_free(struct prov_ctx *p); /* NULL is harmless */
bool run_prov_cancelled(const struct prov_run *pr);
/* The run is over and failed: take away what the provider made. A job of the provider's executor. */
void run_do_discard(struct job *j);
int run_sync_result(struct run *r, int ret); /* the child says that it was stopped, the set says why */

/* run_db.c: before the hold and after it. */
int run_db_prepare(struct run *r);
void run_db_finish(struct run *r, int result); /* harmless when prepare was not called */

/* run.c */
/* Is pair i mounted still, by us? 0, -ENODEV with the sentence. */
int run_check_mounted(const struct door *d, unsigned i, struct snap_error *err);
struct run *run_new(struct engine *e, struct set *s); /* NULL: out of memory */
void run_free(struct run *r);

/* run_complete.c: the end of a run, with its record; 0 or why it failed. */
void run_finish(struct run *r, int ret);

/* run_hold.c: lock, position, hold, trigger, and everything released again; once more when only the drain failed.
 * 0: the point is fixed. */
int run_hold(struct run *r);

/* doctor.c: everything that preflight looks at, as findings in e->doctor; ends doctor_running. */
void doctor_look(struct engine *e);

#endif
