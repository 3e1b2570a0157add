/* snapshot/exec.h - a thread that makes one slow call at a time for somebody who will not wait for ever.
 * A call that outlives its waiter goes on; until it returns the executor is `stuck` and takes no other.
 * Threads: exec_* from the engine's threads. Blocks: exec_wait until done, deadline or abort. */
#ifndef STILLFS_SNAPSHOT_EXEC_H
#define STILLFS_SNAPSHOT_EXEC_H

#include "base/door.h"

#include <pthread.h>

struct exec;

/* One call. Made by job_new; freed when both the executor and the waiter have let go. */
struct job {
	void (*fn)(struct job *j); /* runs on the executor: fills result and err */
	void (*orphan)(struct job *j); /* runs there afterwards if the waiter has gone; or NULL */
	void *self, *arg;
	uint32_t max_ms, extra_ms;
	struct vbuf text;
	int result;
	struct snap_error err;
	uint64_t start_ns, end_ns;
	/* under the executor's lock: */
	int refs;
	bool done, abandoned;
};

struct exec *exec_new(const char *name); /* name: of the thread, <= 15 characters. NULL: errno */
/* Ends the thread; -EBUSY when a call is stuck in it: it is left, the process is about to exit. */
int exec_free(struct exec *x);
struct job *job_new(void (*fn)(struct job *j), void *self, uint32_t max_ms); /* NULL: out of memory */
/* Start it; the caller keeps a reference for exec_wait or job_drop. -EBUSY: stuck. */
int exec_post(struct exec *x, struct job *j);
/* Wait until done (0), `deadline_ns` (-ETIMEDOUT), or *abort_flag (-ECANCELED; NULL: cannot be aborted). */
int exec_wait(struct exec *x, struct job *j, uint64_t deadline_ns, const _Atomic int *abort_flag);
void exec_kick(struct exec *x); /* waiters look at their abort flag */
void job_drop(struct exec *x, struct job *j); /* let go: done or not; harmless on NULL */
/* Let go of a call that may still run: *still says whether it does (then `orphan` runs after it). */
void job_abandon(struct exec *x, struct job *j, bool *still);
bool exec_stuck(struct exec *x); /* a call runs whose waiter has gone */

#endif
