/* tests/unit/fs/test_workers.c - whom the workers serve first, over requests that wait for a slow backing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "fs/oplog.h"

#include <limits.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define CALLERS 40u /* more than there are workers: somebody always waits */
#define ENOUGH 60000u

static struct worker_pool *pool;
static _Atomic unsigned limit, served, at_modified; /* what flows: until now, and when what modifies began, or one that blocked ended */
static _Atomic bool modify_blocks, blocked_ends;

/* ---- what the workers call ---- */

struct op_rec *__wrap_oplog_take(struct oplog *o);
void __wrap_oplog_begin(struct oplog *o, struct op_rec *rec, struct rq *r);
void __wrap_oplog_end(void);
void __wrap_fuse_session_process_buf(struct fuse_session *se, const struct fuse_buf *b);
void __wrap_rq_finish(struct rq *r, unsigned gate_lane);

struct op_rec *__wrap_oplog_take(struct oplog *o)
{
	return NULL;
}

void __wrap_oplog_begin(struct oplog *o, struct op_rec *rec, struct rq *r)
{
}

void __wrap_oplog_end(void)
{
}

void __wrap_fuse_session_process_buf(struct fuse_session *se, const struct fuse_buf *b)
{
	const struct timespec device = { .tv_nsec = 50000 };

	if (worker_current()->gated && !modify_blocks)
		at_modified = served;
	(void)nanosleep(&device, NULL);
	while (worker_current()->gated && modify_blocks && !blocked_ends)
		(void)nanosleep(&device, NULL);
}

/* Each caller comes back at once. */
void __wrap_rq_finish(struct rq *r, unsigned gate_lane)
{
	if (r->gated && modify_blocks)
		at_modified = served;
	else if (!r->gated && ++served < limit)
		workers_push(pool, r, RQ_LIBFUSE);
}

/* ---- */

static struct rq *requests(struct core *c, struct mnt *m, unsigned n, bool gated)
{
	struct rq *r = calloc(n, sizeof(*r));

	assert_non_null(r);
	m->core = c;
	for (unsigned i = 0; i < n; i++)
		r[i] = (struct rq){ .core = c, .m = m, .gated = gated };
	return r;
}

static void wait_until_served(unsigned n)
{
	const struct timespec pause = { .tv_nsec = 1000000 };

	while (served < n)
		(void)nanosleep(&pause, NULL);
}

static void begin(struct core *c)
{
	served = at_modified = 0;
	limit = ENOUGH;
	modify_blocks = blocked_ends = false;
	pool = workers_start(c);
	assert_non_null(pool);
}

static void who_looks_up_without_end_holds_back_nobody_who_modifies(void **state)
{
	static struct core c;
	static struct mnt m;
	struct rq *flow = requests(&c, &m, CALLERS, false), *modify = requests(&c, &m, 1, true);
	unsigned pushed;

	begin(&c);
	limit = UINT_MAX;
	for (unsigned i = 0; i < CALLERS; i++)
		workers_push(pool, &flow[i], RQ_LIBFUSE);
	wait_until_served(100);
	pushed = served;
	workers_push(pool, modify, RQ_LIBFUSE);
	limit = pushed + ENOUGH;
	wait_until_served(pushed + ENOUGH);
	workers_stop(pool);
	assert_in_range(at_modified, pushed, pushed + ENOUGH / 2);
	free(flow);
	free(modify);
}

static void what_modifies_and_blocks_holds_back_nobody_who_looks_up(void **state)
{
	static struct core c;
	static struct mnt m;
	struct rq *flow = requests(&c, &m, CALLERS, false), *modify = requests(&c, &m, CALLERS, true);

	begin(&c);
	modify_blocks = true;
	for (unsigned i = 0; i < CALLERS; i++)
		workers_push(pool, &modify[i], RQ_LIBFUSE);
	for (unsigned i = 0; i < CALLERS; i++)
		workers_push(pool, &flow[i], RQ_LIBFUSE);
	wait_until_served(ENOUGH);
	blocked_ends = true;
	workers_stop(pool);
	assert_in_range(at_modified, ENOUGH, served); /* none of them was over before */
	free(flow);
	free(modify);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_looks_up_without_end_holds_back_nobody_who_modifies),
		cmocka_unit_test(what_modifies_and_blocks_holds_back_nobody_who_looks_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
