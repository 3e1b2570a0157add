/* snapshot/engine_stop.c - the end of the engine's threads, within a bound that no call can stretch.
 * Owns:      nothing.
 * Called by: main.c. Threads: one at a time; the engine's own go on meanwhile.
 * Blocks:    up to the bound.
 * Errors:    -ETIMEDOUT: something goes on. What it may still use is not freed; the caller exits, or calls again. */
#include "snapshot/engine_int.h"
#include "base/clock.h"
#include "snapshot/fence/keep.h"
#include "snapshot/verify/verify.h"

#include <errno.h>

#define LOOK_MS 100u /* BOOTTIME may run while MONOTONIC stands */

bool engine_await_end(struct engine *e, const bool *ended, uint64_t deadline_ns)
{
	bool is;

	(void)pthread_mutex_lock(&e->lock);
	while (!*ended && clock_left_ms(deadline_ns))
		engine_wait_on(e, &e->ended, deadline_ns, LOOK_MS);
	is = *ended;
	(void)pthread_mutex_unlock(&e->lock);
	return is;
}

/* Nobody posts calls any more. */
static int end_executors(struct engine *e)
{
	int a, b, c;

	if (e->db_exec && exec_stuck(e->db_exec))
		e->coord->sever(e->coord_self);
	a = exec_free(e->db_exec);
	b = exec_free(e->prov_exec);
	c = exec_free(e->apart_exec);
	if (a == 0)
		e->db_exec = NULL;
	if (b == 0)
		e->prov_exec = NULL;
	if (c == 0)
		e->apart_exec = NULL;
	return a < 0 || b < 0 || c < 0 ? -ETIMEDOUT : 0;
}

static void end_waits(struct engine *e)
{
	(void)pthread_mutex_lock(&e->lock);
	e->stopping = true;
	atomic_store(&e->abort_flag, ESHUTDOWN);
	atomic_store(&e->abort_completing, ESHUTDOWN);
	(void)pthread_cond_signal(&e->work);
	(void)pthread_mutex_unlock(&e->lock);
	fence_keep_stop(e->fence);
	if (e->db_exec)
		exec_kick(e->db_exec);
	if (e->prov_exec)
		exec_kick(e->prov_exec);
}

int engine_stop(struct engine *e, uint32_t max_ms)
{
	uint64_t deadline = clock_boot_ns() + max_ms * NS_PER_MS;
	struct snap_error err = { 0 };
	bool verifies;

	snap_error_set(&err, -ESHUTDOWN, "stillfs is stopping");
	end_waits(e);
	/* its waits for calls end now; a drain, a call's last moment, a disk that does not answer may take longer */
	if (e->started && engine_await_end(e, &e->thread_ended, deadline)) {
		(void)pthread_join(e->thread, NULL);
		e->started = false;
	}
	verifies = !verify_stop(e, deadline);
	engine_notify(e, NULL, -ESHUTDOWN, &err);
	if (!e->started && !verifies)
		return end_executors(e);
	if (e->started && e->db_exec)
		e->coord->sever(e->coord_self); /* ends the lock that this thread may hold */
	return -ETIMEDOUT;
}
