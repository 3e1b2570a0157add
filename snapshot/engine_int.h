/* snapshot/engine_int.h - what the engine's files share: engine.c (thread, life), engine_clean.c (removals), engine_stop.c (end),
 * engine_recover.c (what the last process left), engine_request.c (API, waiters), run*.c (one snapshot, step by step), files.c (virtual files). Private to them. */
#ifndef STILLFS_SNAPSHOT_ENGINE_INT_H
#define STILLFS_SNAPSHOT_ENGINE_INT_H

#include "snapshot/catalog.h"
#include "snapshot/coordinator.h"
#include "snapshot/exec.h"
#include "snapshot/metrics.h"
#include "snapshot/provider.h"
#include "snapshot/seen.h"
#include "snapshot/snap_parse.h"

#include <pthread.h>
#include <stdatomic.h>

#define POSITION_FILE ".stillfs-position"

struct waiter {
	struct waiter *next;
	uint64_t id;
	engine_done cb;
	void *arg;
	char set_id[33]; /* of the set it waits for; "" while its request is queued */
	bool own; /* its Ctrl-C aborts the run */
};

struct request {
	struct snap_request r;
	char set_name[DOOR_NAME_MAX + 1];
	const char *file; /* that asked, for last_error: a literal */
	bool reported; /* somebody waits and reports the failure */
};

struct prune;

struct engine {
	struct door door;
	const struct prov_ops *prov;
	void *prov_self;
	const struct coord_ops *coord;
	void *coord_self;
	struct exec *db_exec, *prov_exec, *apart_exec; /* apart: removals of a provider with PROV_REMOVE_APART */
	struct verify *verify; /* verify/verify.c */
	struct fence_keep *fence; /* fence/keep.c */
	pthread_t thread;
	bool started; /* and not joined yet */
	/* 0, or what they fail with: ECANCELED, EINTR (the run alone), ESHUTDOWN. The run until its point is fixed;
	 * and those being completed, which somebody else's Ctrl-C must not touch */
	_Atomic int abort_flag, abort_completing;
	_Atomic bool urgent; /* a request waits: slices of completion end early */
	pthread_mutex_t lock;
	pthread_cond_t work, ended; /* ended: of a thread that engine_stop waits for */
	/* under lock: */
	bool thread_ended;
	struct catalog *cat;
	struct prune *prune; /* retention: prune.h */
	struct metrics metrics;
	struct waiter *waiters;
	uint64_t next_waiter;
	struct request *queued; /* accepted, not begun; one at the most */
	struct run *completing; /* the engine thread's own */
	struct {
		char name[DOOR_NAME_MAX + 1], id[33]; /* of the set whose data is being removed; "": none */
		uint64_t since_ns; /* CLOCK_BOOTTIME */
		bool back; /* the call apart is */
		struct job *job; /* the call apart; the engine thread's own */
	} removal;
	struct set *running; /* from its acceptance until the point is fixed or it has failed */
	unsigned n_completing;
	bool stopping, pins_due, adopted; /* adopted: what waited for it is due */
	struct {
		bool due, running, adopt;
		char lineage[33]; /* "": of all */
		struct vbuf last; /* what `rescan` shows */
	} rescan;
	_Atomic bool rescan_all; /* without a BACKING and a lineage: whatever the provider has */
	const char *step; /* a literal, for status */
	struct vbuf last; /* what `snapshot` shows */
	char last_name[DOOR_NAME_MAX + 1];
	enum set_state last_state;
	bool doctor_running; /* asked for, or at it */
	struct vbuf doctor; /* what the last look found */
	struct seen_logs binlogs;
	struct seen_sets stock;
	struct seen_orphans orphans;
	struct seen_holds holds;
	bool db_recover_due; /* the engine thread's own, as this: */
	uint64_t db_recover_ns; /* not before */
	pthread_mutex_t save_lock; /* one writer of a record at a time */
};

/* engine.c */
void engine_event(struct engine *e, const struct set *s, const char *step, double ms);
int engine_save(struct engine *e, struct set *s, struct snap_error *err); /* lock not held */
void engine_step(struct engine *e, const char *step);
/* Wait on a condition until due_ns (CLOCK_BOOTTIME; UINT64_MAX: none), at the most max_ms. Lock held. */
void engine_wait_on(struct engine *e, pthread_cond_t *cond, uint64_t due_ns, uint32_t max_ms);

/* engine_stop.c */
/* Wait for *ended, set under the lock with a signal to e->ended as a thread's last act. False: not by then. Lock not held. */
bool engine_await_end(struct engine *e, const bool *ended, uint64_t deadline_ns);

/* engine_clean.c: data of deleted sets, and what failed ones may have left. The engine's thread. */
void engine_clean(struct engine *e); /* all that is due; a request ends it early */
void engine_clean_yield(struct engine *e); /* a run begins: a removal apart has a moment to end */
void engine_clean_leave(struct engine *e); /* stillfs ends: the next goes on */
void engine_clean_status(struct engine *e, struct vbuf *out); /* lines of `status`. Lock held */
uint64_t engine_clean_due(struct engine *e); /* when the next is due, CLOCK_BOOTTIME; UINT64_MAX: none. Lock held */

/* engine_request.c */
/* Answer those who wait for set `id` (NULL: all): fixed (0) or failed. Lock not held. */
void engine_notify(struct engine *e, const char *id, int result, const struct snap_error *err);

/* Delete a set, as rmdir does. what: begins the sentence, and says who (a literal). force: the floor does not count. */
int engine_delete(struct engine *e, const char *name, bool force, const char *what, struct snap_error *err);
void engine_wake_removals(struct engine *e); /* sets became SET_DELETING. Lock held */

/* run.c: one snapshot up to its consistency point; s is in the catalog, state SET_RUNNING. NULL: it failed, all
 * is undone and *err says why. Else it is SET_PENDING, and run_poll completes it. */
struct run;
struct run *run_begin(struct engine *e, struct set *s, struct snap_error *err);
/* Take up a set that is SET_PENDING in the catalog; run_poll resumes it in the background. NULL: out of memory. */
struct run *run_again(struct engine *e, struct set *s);
/* One slice of completion. True: the run has ended (complete, failed with *err, or stillfs stops and it stays pending:
 * -ESHUTDOWN) and is freed. */
bool run_poll(struct run *r, struct snap_error *err);
uint64_t run_due_ns(const struct run *r); /* when run_poll has something to do; 0: now */
/* stillfs ends: the set stays pending for the next process. Frees r. */
void run_leave(struct run *r);
struct set *run_set(const struct run *r);
struct run **run_next(struct run *r); /* link of the engine's list */
void run_cancel(struct run *r); /* an abort came too late for run_begin: the next run_poll fails it */
void run_clean_backings(const struct door *d); /* position files that a dead process left */

/* run_db.c: between runs: what a coordinator's journal says is still changed is changed back; the doctor's look.
 * False: something is left, try again later. */
bool run_db_chores(struct engine *e);
uint64_t run_db_due(const struct engine *e); /* when they have something to do; lock held */

/* rescan.c */
void rescan_run(struct engine *e); /* on the engine's thread */
void rescan_pins(struct engine *e);
int rescan_show(struct engine *e, const char *set, struct vbuf *out);
int rescan_write(struct engine *e, const char *set, const char *text, size_t len, struct snap_error *err);

/* files.c */
void files_render_last(struct engine *e, const struct set *s); /* lock held */

#endif
