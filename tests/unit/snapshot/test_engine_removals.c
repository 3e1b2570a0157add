/* tests/unit/snapshot/test_engine_removals.c - removals that hang, last and fail: what they hold up, what `status` says of
 * them, and that none comes beside a call about the same set. */
#include "tests/unit/snapshot/drive.h"
#include "snapshot/engine_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void start_with_two(struct rig *r, const char *provider)
{
	fake_conf(&r->f, "provider", provider);
	rig_start(r);
	take(r, "old", "");
	take(r, "new", "");
}

static void delete_and_hang(struct rig *r, const char *set)
{
	fake_stall_still(ON_REMOVE);
	assert_int_equal(engine_rmdir(r->e, set, &r->err), 0);
	fake_wait_stalled(ON_REMOVE);
}

static void assert_status(struct rig *r, const char *has, const char *has_not)
{
	char *s = show(r, NULL, "status");

	if (!strstr(s, has) || (has_not && strstr(s, has_not)))
		fail_msg("status: %s", s);
	free(s);
}

struct status_has {
	struct rig *r;
	const char *text;
};

static bool status_has(void *arg)
{
	const struct status_has *w = arg;
	char *s = show(w->r, NULL, "status");
	bool has = strstr(s, w->text) != NULL;

	free(s);
	return has;
}

static void until_status(struct rig *r, const char *text)
{
	wait_until(status_has, &(struct status_has){ r, text }, text);
}

static void a_removal_apart_that_hangs_holds_up_no_snapshot(void **state)
{
	struct rig *r = *state;

	start_with_two(r, "apart");
	assert_status(r, "removals_left 0\n", "removing ");
	delete_and_hang(r, "old");
	assert_status(r, "removals_left 1\nremoving old for ", NULL);
	take(r, "one", "");
	assert_int_equal(fake_end(ON_REMOVE, 0), -1);
	assert_status(r, "removals_left 1\nremoving old for ", "provider_call stuck");
	fake_release(ON_REMOVE);
	fake_wait_event("removed");
	assert_status(r, "removals_left 0\n", "removing ");
	assert_false(fake_has_data("old"));
	assert_int_equal(fake_count(ON_REMOVE), 1);
}

static void an_abort_does_not_touch_a_removal_apart(void **state)
{
	struct rig *r = *state;
	struct asker a;

	start_with_two(r, "apart");
	delete_and_hang(r, "old");
	fake_stall_still(ON_PRESYNC);
	assert_int_equal(ask(r, "one", &a), 0);
	fake_wait_stalled(ON_PRESYNC);
	assert_int_equal(engine_abort(r->e, &r->err), 0);
	assert_int_equal(answer_of(&a), -ECANCELED);
	fake_release(ON_PRESYNC);
	assert_status(r, "removing old for ", NULL);
	fake_release(ON_REMOVE);
	fake_wait_event("removed");
	assert_int_equal(fake_count(ON_REMOVE), 1);
}

static void a_removal_apart_that_fails_is_reported_and_tried_again(void **state)
{
	struct rig *r = *state;

	start_with_two(r, "apart");
	fake_fail_once(ON_REMOVE, -EIO);
	assert_int_equal(engine_rmdir(r->e, "old", &r->err), 0);
	fake_wait_ended(ON_REPORT, 1);
	assert_says(fake_at(fake_begin(ON_REPORT, 0)).text, "remove: told to fail");
	assert_status(r, "removals_left 1\n", "removing ");
	fake_clock_skip(61000);
	fake_wait_event("removed");
	assert_int_equal(fake_count(ON_REMOVE), 2);
	assert_false(fake_has_data("old"));
}

/* The trigger of `one` was given up and goes on: nobody may remove `one` beside it, `old` may go. */
static void no_removal_comes_beside_a_call_about_the_same_set(void **state)
{
	struct rig *r = *state;
	struct asker a;

	start_with_two(r, "apart");
	fake_stall_still(ON_TRIGGER);
	assert_int_equal(ask(r, "one", &a), 0);
	fake_wait_stalled(ON_TRIGGER);
	assert_int_equal(engine_abort(r->e, &r->err), 0);
	assert_int_equal(answer_of(&a), -ECANCELED);
	assert_int_equal(engine_rmdir(r->e, "one", &r->err), 0);
	assert_int_equal(engine_rmdir(r->e, "old", &r->err), 0);
	fake_wait_event("removed");
	assert_string_equal(fake_at(fake_begin(ON_REMOVE, 0)).text, "old");
	fake_clock_skip(10000);
	until_status(r, "removals_left 1\n");
	assert_int_equal(fake_count(ON_REMOVE), 1);
	fake_release(ON_TRIGGER);
	until_status(r, "provider_call ok\n");
	fake_clock_skip(10000);
	until_status(r, "removals_left 0\n");
	assert_int_equal(fake_count(ON_REMOVE), 2);
	assert_false(fake_has_data("one"));
}

static void a_stop_leaves_a_removal_apart_to_the_next(void **state)
{
	struct rig *r = *state;

	start_with_two(r, "apart");
	delete_and_hang(r, "old");
	assert_int_equal(engine_stop(r->e, 60000), -ETIMEDOUT); /* its thread has ended, the call has not */
	assert_int_equal(fake_end(ON_REMOVE, 0), -1);
	fake_release(ON_REMOVE);
	rig_stop(r);
	rig_start(r);
	fake_wait_event("removed");
	assert_int_equal(fake_count(ON_REMOVE), 2);
}

/* A provider whose calls come one after the other: the snapshot waits, but no longer than the removal may last. */
static void a_removal_that_outlasts_its_time_is_left_and_the_snapshot_refused(void **state)
{
	struct rig *r = *state;
	struct asker a, b;

	start_with_two(r, "fake");
	delete_and_hang(r, "old");
	assert_status(r, "removals_left 1\nremoving old for ", "provider_call stuck");
	assert_int_equal(ask(r, "one", &a), 0);
	assert_int_equal(atomic_load(&a.answers), 0);
	fake_clock_skip(36000);
	assert_int_equal(answer_of(&a), -EBUSY);
	assert_says(a.msg, "an earlier call has not come back yet");
	assert_int_equal(ask(r, "two", &b), -EBUSY);
	assert_status(r, "provider_call stuck", "removing ");
	fake_release(ON_REMOVE);
	until_idle(r);
	take(r, "three", "");
	fake_clock_skip(61000);
	fake_wait_event("removed");
	assert_false(fake_has_data("old"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
		T(a_removal_apart_that_hangs_holds_up_no_snapshot),
		T(an_abort_does_not_touch_a_removal_apart),
		T(a_removal_apart_that_fails_is_reported_and_tried_again),
		T(no_removal_comes_beside_a_call_about_the_same_set),
		T(a_stop_leaves_a_removal_apart_to_the_next),
		T(a_removal_that_outlasts_its_time_is_left_and_the_snapshot_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
