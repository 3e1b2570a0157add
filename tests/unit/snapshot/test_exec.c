/* tests/unit/snapshot/test_exec.c - a thread for slow calls: what is waited for, what is left behind. */
#include "tests/unit/snapshot/unit.h"
#include "base/clock.h"
#include "snapshot/exec.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

static _Atomic int hold, inside, calls, orphans;
static char thread_name[16];

static int setup(void **state)
{
	hold = inside = calls = orphans = 0;
	*state = exec_new("unit-test");
	return *state ? 0 : -1;
}

static bool has_ended(void *arg)
{
	return exec_free(arg) == 0;
}

static int teardown(void **state)
{
	atomic_store(&hold, 0);
	wait_until(has_ended, *state, "the executor's end");
	return 0;
}

/* Stays while `hold` is set. */
static void work(struct job *j)
{
	atomic_fetch_add(&inside, 1);
	(void)pthread_getname_np(pthread_self(), thread_name, sizeof(thread_name));
	while (atomic_load(&hold))
		(void)usleep(200);
	vbuf_puts(&j->text, "text of a call"); /* freed with the job, whoever lets go last */
	j->result = -ENOSPC;
	snap_error_set(&j->err, -ENOSPC, "no room");
	atomic_fetch_add(&calls, 1);
}

static void orphan(struct job *j)
{
	assert_true(j->result == -ENOSPC);
	atomic_fetch_add(&orphans, 1);
}

static struct job *post(struct exec *x)
{
	struct job *j = job_new(work, NULL, 0);

	assert_non_null(j);
	j->orphan = orphan;
	assert_int_equal(exec_post(x, j), 0);
	return j;
}

static uint64_t in_ms(uint64_t ms)
{
	return clock_boot_ns() + ms * NS_PER_MS;
}

static bool is_inside(void *arg)
{
	return atomic_load(&inside) > 0;
}

static bool is_free(void *arg)
{
	return !exec_stuck(arg);
}

static void a_call_answers(void **state)
{
	struct exec *x = *state;
	struct job *j = post(x);

	assert_int_equal(exec_wait(x, j, in_ms(60000), NULL), 0);
	assert_int_equal(j->result, -ENOSPC);
	assert_string_equal(j->err.msg, "no room");
	assert_string_equal(vbuf_text(&j->text), "text of a call");
	assert_string_equal(thread_name, "unit-test");
	assert_true(j->end_ns >= j->start_ns && j->start_ns > 0);
	job_drop(x, j);
	assert_int_equal(orphans, 0);
	assert_false(exec_stuck(x));
}

static void calls_come_one_after_the_other(void **state)
{
	struct exec *x = *state;

	for (int i = 0; i < 200; i++) {
		struct job *j = post(x);

		assert_int_equal(exec_wait(x, j, in_ms(60000), NULL), 0);
		job_drop(x, j);
	}
	assert_int_equal(calls, 200);
}

static void a_late_call_is_left_behind_and_cleans_up_itself(void **state)
{
	struct exec *x = *state;
	struct job *j, *second;

	atomic_store(&hold, 1);
	j = post(x);
	assert_int_equal(exec_wait(x, j, in_ms(5), NULL), -ETIMEDOUT);
	job_drop(x, j);
	assert_true(exec_stuck(x));
	second = job_new(work, NULL, 0);
	assert_int_equal(exec_post(x, second), -EBUSY);
	job_drop(x, second); /* never posted: gone with this */
	assert_int_equal(orphans, 0); /* not before the call is over */
	atomic_store(&hold, 0);
	wait_until(is_free, x, "the late call");
	assert_int_equal(orphans, 1);
	j = post(x); /* and the executor is as new */
	assert_int_equal(exec_wait(x, j, in_ms(60000), NULL), 0);
	job_drop(x, j);
	assert_int_equal(orphans, 1);
}

static void a_late_call_that_was_waited_for_again_is_no_orphan(void **state)
{
	struct exec *x = *state;
	struct job *j;

	atomic_store(&hold, 1);
	j = post(x);
	assert_int_equal(exec_wait(x, j, in_ms(5), NULL), -ETIMEDOUT);
	assert_false(exec_stuck(x)); /* its waiter is still there */
	atomic_store(&hold, 0);
	assert_int_equal(exec_wait(x, j, in_ms(60000), NULL), 0);
	assert_int_equal(j->result, -ENOSPC);
	job_drop(x, j);
	assert_int_equal(orphans, 0);
}

static void a_past_deadline_still_takes_an_answer_that_is_there(void **state)
{
	struct exec *x = *state;
	_Atomic int abort_flag = EINTR;
	struct job *j = post(x);

	assert_int_equal(exec_wait(x, j, in_ms(60000), NULL), 0);
	assert_int_equal(exec_wait(x, j, 0, &abort_flag), 0);
	job_drop(x, j);
}

struct abort_it {
	struct exec *x;
	_Atomic int flag;
};

static void *abort_it(void *arg)
{
	struct abort_it *a = arg;

	wait_until(is_inside, NULL, "the call");
	atomic_store(&a->flag, ECANCELED);
	exec_kick(a->x);
	return NULL;
}

static void an_abort_ends_the_wait(void **state)
{
	struct abort_it a = { .x = *state };
	pthread_t t;
	struct job *j;

	atomic_store(&hold, 1);
	j = post(a.x);
	assert_int_equal(pthread_create(&t, NULL, abort_it, &a), 0);
	assert_int_equal(exec_wait(a.x, j, in_ms(60000), &a.flag), -ECANCELED);
	(void)pthread_join(t, NULL);
	job_drop(a.x, j);
	assert_true(exec_stuck(a.x));
	assert_int_equal(exec_free(a.x), -EBUSY); /* it is left; again when it is over: teardown */
}

static void abandon_says_whether_the_call_still_runs(void **state)
{
	struct exec *x = *state;
	struct job *j;
	bool still;

	atomic_store(&hold, 1);
	j = post(x);
	job_abandon(x, j, &still);
	assert_true(still);
	atomic_store(&hold, 0);
	wait_until(is_free, x, "the call");
	assert_int_equal(orphans, 1);
	j = post(x);
	assert_int_equal(exec_wait(x, j, in_ms(60000), NULL), 0);
	job_abandon(x, j, &still);
	assert_false(still);
	j = job_new(work, NULL, 0);
	job_abandon(x, j, &still); /* never posted */
	assert_false(still);
	job_drop(x, NULL);
	assert_int_equal(orphans, 1);
}

/* The call comes back just when its waiter gives up: either he has the answer, or the orphan runs. */
static void a_photo_finish_has_one_winner(void **state)
{
	struct exec *x = *state;
	int left = 0;

	for (int i = 0; i < 2000; i++) {
		struct job *j = post(x);
		bool still;

		for (volatile int spin = 0; spin < i; spin++) {
		}
		job_abandon(x, j, &still);
		left += still;
		wait_until(is_free, x, "the call");
		assert_int_equal(orphans, left);
	}
	assert_in_range(left, 0, 2000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(a_call_answers),
		T(calls_come_one_after_the_other),
		T(a_late_call_is_left_behind_and_cleans_up_itself),
		T(a_late_call_that_was_waited_for_again_is_no_orphan),
		T(a_past_deadline_still_takes_an_answer_that_is_there),
		T(an_abort_ends_the_wait),
		T(abandon_says_whether_the_call_still_runs),
		T(a_photo_finish_has_one_winner),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
