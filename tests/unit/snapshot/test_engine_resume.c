/* tests/unit/snapshot/test_engine_resume.c - over fakes: sets that outlive the process. Pending ones are taken up by the
 * next, in the background; what failed ones may have left is removed in the background, and looked for again where it
 * may show up late. */
#include "tests/unit/snapshot/drive.h"
#include "snapshot/engine_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FOREVER 1000000u /* polls */

static void provide(struct rig *r, const char *name)
{
	fake_conf(&r->f, "provider", name);
}

/* A set whose point is fixed and which stays pending. */
static void begin(struct rig *r, const char *name)
{
	struct asker a;
	char text[80];

	fake_polls(FOREVER);
	(void)snprintf(text, sizeof(text), "%s\n", name);
	assert_int_equal(ask(r, text, &a), 0);
	assert_int_equal(answer_of(&a), 0);
	assert_shows(r, name, "state", "pending\n");
}

static bool is_clean(void *arg)
{
	struct rig *r = arg;
	char *s = show(r, NULL, "list.json");
	bool clean = !strstr(s, "\"leftover\":true");

	free(s);
	return clean;
}

struct later {
	enum fake_call call;
	unsigned n;
};

/* The clock runs meanwhile. */
static bool has_come(void *arg)
{
	const struct later *l = arg;

	fake_clock_skip(1000);
	return fake_end(l->call, l->n - 1) >= 0;
}

static void until_later(enum fake_call c, unsigned n)
{
	wait_until(has_come, &(struct later){ .call = c, .n = n }, "a later call");
}

static void until_clean(struct rig *r)
{
	wait_until(is_clean, r, "nothing left over");
}

/* ---- pending sets ---- */

static void a_stop_leaves_a_pending_set_and_the_next_start_completes_it(void **state)
{
	struct rig *r = *state;

	rig_start(r);
	begin(r, "one");
	fake_wait_ended(ON_POLL, 1);
	rig_stop(r);
	assert_int_equal(fake_count(ON_LEAVE), 1);
	assert_int_equal(fake_count(ON_DISCARD), 0);
	assert_true(fake_has_data("one"));
	fake_polls(3);
	rig_start(r);
	until_state(r, "one", "complete");
	until_idle(r);
	assert_int_equal(fake_count(ON_RESUME), 1);
	assert_true(fake_end(ON_RESUME, 0) < fake_event("complete"));
	assert_int_equal(fake_count(ON_FINISH), 1);
	assert_int_equal(fake_count(ON_DISCARD) + fake_count(ON_REMOVE), 0);
	assert_shows(r, "one", "position", "binlog_pos 4711\n");
	assert_shows(r, "one", "log", " resumed\n");
	take(r, "two", "");
}

static void a_crash_leaves_it_too(void **state)
{
	struct rig *r = *state;

	rig_start(r);
	take(r, "one", "");
	die_and_restart(r, "one", "pending");
	until_state(r, "one", "complete");
	assert_int_equal(fake_count(ON_RESUME), 1);
	assert_true(fake_has_data("one"));
	assert_int_equal(engine_rmdir(r->e, "one", NULL), -EBUSY); /* the floor */
}

static void several_are_taken_up_each_for_itself(void **state)
{
	struct rig *r = *state;

	rig_start(r);
	begin(r, "one");
	begin(r, "two");
	rig_stop(r);
	fake_polls(1);
	fake_fail_once(ON_RESUME, -ENODATA);
	rig_start(r);
	until_idle(r); /* first: nothing is left over before one has failed */
	until_clean(r);
	assert_int_equal(fake_count(ON_RESUME), 2);
	assert_int_equal(fake_has_data("one") + fake_has_data("two"), 1);
}

static void a_provider_that_cannot_say_now_is_asked_again_and_nothing_is_lost(void **state)
{
	struct rig *r = *state;
	struct asker a;
	unsigned tries, minutes = 0;

	provide(r, "remote");
	rig_start(r);
	begin(r, "one");
	rig_stop(r);
	fake_fail(ON_RESUME, -EAGAIN);
	rig_start(r);
	fake_wait_ended(ON_RESUME, 1);
	for (; minutes < 300 || (fake_count(ON_RESUME) <= 20 && minutes < 20000); minutes++) {
		fake_clock_skip(60000);
		(void)usleep(3000);
	}
	tries = fake_count(ON_RESUME);
	assert_true(tries > 20 && tries < minutes + 20); /* once a minute at the most, and at the first few times sooner */
	assert_shows(r, "one", "state", "pending\n");
	assert_shows(r, "one", "progress", "not taken up yet, asked again every 60 s at the most: resume: told to fail");
	assert_int_equal(engine_rmdir(r->e, "one", NULL), -EBUSY);
	fake_polls(1);
	assert_int_equal(ask(r, "two\n", &a), 0); /* others go on meanwhile */
	assert_int_equal(answer_of(&a), 0);
	until_state(r, "two", "complete");
	fake_clear(ON_RESUME);
	until_later(ON_RESUME, fake_count(ON_RESUME) + 1);
	until_state(r, "one", "complete");
	assert_int_equal(fake_count(ON_REMOVE) + fake_count(ON_DISCARD), 0);
}

static void a_set_that_cannot_be_taken_up_fails_and_is_removed(void **state)
{
	struct rig *r = *state;
	struct asker w;

	rig_start(r);
	begin(r, "one");
	rig_stop(r);
	fake_fail_once(ON_RESUME, -ENODATA);
	rig_start(r);
	until_state(r, "one", "failed");
	until_clean(r);
	assert_shows(r, "one", "last_error", "stillfs ended before the set was complete, and it cannot be taken up: resume: told to fail");
	assert_int_equal(ask_wait(r, "one", &w), 0);
	assert_int_equal(w.result, -ENODATA);
	assert_false(fake_has_data("one"));
	assert_int_equal(fake_count(ON_DISCARD), 0);
	assert_int_equal(fake_count(ON_REMOVE), 1);
	fake_wait_event("cleaned");
	assert_true(fake_event("cleaned") > fake_event("failed"));
}

static void an_abort_fails_a_set_that_is_not_taken_up_yet(void **state)
{
	struct rig *r = *state;

	rig_start(r);
	begin(r, "one");
	rig_stop(r);
	fake_fail(ON_RESUME, -EAGAIN);
	rig_start(r);
	fake_wait_ended(ON_RESUME, 1);
	assert_int_equal(engine_abort(r->e, &r->err), 0);
	until_state(r, "one", "failed");
	until_clean(r);
	assert_shows(r, "one", "last_error", "snapshot one: aborted by an operator");
	assert_false(fake_has_data("one"));
}

static void a_shutdown_that_finds_the_mount_busy_spares_pending_sets(void **state)
{
	struct rig *r = *state;
	struct asker a;

	rig_start(r);
	begin(r, "one");
	engine_unwind(r->e); /* nothing runs */
	fake_stall_still(ON_TRIGGER);
	assert_int_equal(ask(r, "two\n", &a), 0);
	fake_wait_stalled(ON_TRIGGER);
	engine_unwind(r->e);
	assert_int_equal(answer_of(&a), -ESHUTDOWN);
	fake_release(ON_TRIGGER);
	until_state(r, "two", "failed");
	assert_shows(r, "one", "state", "pending\n");
	fake_polls(1);
	until_state(r, "one", "complete");
	until_idle(r);
	take(r, "three", ""); /* it goes on being served */
}

struct hang {
	const char *provider;
	enum fake_call call;
};

static void a_call_that_hangs_at_the_start_keeps_nobody_waiting(void **state)
{
	struct rig *r = *state;
	const struct hang *h = r->param;
	bool pending = h->call == ON_RESUME;

	provide(r, h->provider);
	rig_start(r);
	take(r, "one", "");
	fake_stall_still(h->call);
	die_and_restart(r, "one", pending ? "pending" : "running");
	fake_wait_stalled(h->call); /* and rig_start has returned */
	assert_shows(r, "one", "state", pending ? "pending\n" : "failed\n");
	assert_int_equal(engine_stop(r->e, 1000), -ETIMEDOUT);
	fake_release(h->call);
	rig_stop(r);
	rig_start(r);
	if (pending)
		until_state(r, "one", "complete");
	until_later(h->call, !pending && h->provider[0] == 'r' ? 3 : 2);
	until_clean(r);
	assert_int_equal(fake_has_data("one"), pending);
}

static void sets_of_another_provider_are_left_to_it(void **state)
{
	struct rig *r = *state;

	rig_start(r);
	take(r, "old", "");
	begin(r, "one");
	rig_stop(r);
	provide(r, "remote");
	rig_start(r);
	assert_shows(r, "one", "state", "pending\n");
	assert_shows(r, "one", "progress", "made by provider=fake, which alone can complete it");
	assert_int_equal(engine_rmdir(r->e, "old", &r->err), -EOPNOTSUPP);
	assert_says(r->err.msg, "it was made by provider=fake, which alone can remove its data");
	assert_int_equal(fake_count(ON_RESUME), 0);
	rig_stop(r);
	provide(r, "fake");
	fake_polls(1);
	rig_start(r);
	until_state(r, "one", "complete");
}

/* ---- requests meanwhile ---- */

static void ask_within(void *arg)
{
	struct rig *r = arg;
	static struct asker a;

	assert_int_equal(ask(r, "two nowait\n", &a), 0);
}

static void a_request_ends_a_slice_of_completion(void **state)
{
	struct rig *r = *state;

	rig_start(r);
	begin(r, "one");
	assert_false(fake.hurried);
	fake_hook(ON_POLL, ask_within, r);
	fake_wait_ended(ON_TRIGGER, 2);
	assert_true(fake.hurried);
	fake_polls(1);
	until_state(r, "two", "complete");
	until_state(r, "one", "complete");
}

/* ---- what failed sets leave ---- */

static void what_a_discard_could_not_remove_is_removed_later(void **state)
{
	struct rig *r = *state;
	struct asker a;

	rig_start(r);
	fake_fail(ON_TRIGGER, -EIO);
	fake_fail(ON_DISCARD, -ENETUNREACH);
	fake_fail(ON_REMOVE, -ENETUNREACH);
	assert_int_equal(ask(r, "one\n", &a), 0);
	assert_int_equal(answer_of(&a), -EIO);
	until_later(ON_REMOVE, 2); /* the pause begins somewhat after the call's end */
	assert_shows(r, "one", "progress", "remove: told to fail");
	assert_true(fake_has_data("one"));
	fake_clear(ON_REMOVE);
	rig_stop(r); /* the record says that something is left */
	rig_start(r);
	until_clean(r);
	assert_false(fake_has_data("one"));
	assert_shows(r, "one", "progress", "0\n");
}

static void what_may_show_up_late_is_looked_for_again(void **state)
{
	struct rig *r = *state;
	struct asker a;
	unsigned n;

	provide(r, "remote");
	rig_start(r);
	take(r, "old", "");
	fake_fail(ON_TRIGGER, -EIO);
	fake_fail(ON_DISCARD, -EAGAIN);
	assert_int_equal(ask(r, "one\n", &a), 0);
	assert_int_equal(answer_of(&a), -EIO);
	fake_wait_ended(ON_REMOVE, 1); /* found what there was, and cannot be sure */
	(void)usleep(50000);
	assert_int_equal(fake_count(ON_REMOVE), 1);
	assert_shows(r, NULL, "list.json", "\"leftover\":true");
	assert_int_equal(engine_rmdir(r->e, "one", NULL), 0); /* nor does its deletion forget it before */
	fake_wait_ended(ON_REMOVE, 2);
	(void)usleep(50000);
	assert_int_equal(fake_event("removed"), -1);
	n = fake_count(ON_REMOVE);
	until_later(ON_REMOVE, n + 1);
}

int main(void)
{
	static const struct hang hangs[] = {
		{ .provider = "fake", .call = ON_RESUME },
		{ .provider = "remote", .call = ON_RESUME },
		{ .provider = "fake", .call = ON_REMOVE },
		{ .provider = "remote", .call = ON_REMOVE },
	};
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
		T(a_stop_leaves_a_pending_set_and_the_next_start_completes_it),
		T(a_crash_leaves_it_too),
		T(several_are_taken_up_each_for_itself),
		T(a_provider_that_cannot_say_now_is_asked_again_and_nothing_is_lost),
		T(a_set_that_cannot_be_taken_up_fails_and_is_removed),
		T(an_abort_fails_a_set_that_is_not_taken_up_yet),
		T(a_shutdown_that_finds_the_mount_busy_spares_pending_sets),
		rig_test("a_resume_that_hangs", a_call_that_hangs_at_the_start_keeps_nobody_waiting, &hangs[0]),
		rig_test("a_resume_that_hangs_far_away", a_call_that_hangs_at_the_start_keeps_nobody_waiting, &hangs[1]),
		rig_test("a_removal_that_hangs", a_call_that_hangs_at_the_start_keeps_nobody_waiting, &hangs[2]),
		rig_test("a_removal_that_hangs_far_away", a_call_that_hangs_at_the_start_keeps_nobody_waiting, &hangs[3]),
		T(sets_of_another_provider_are_left_to_it),
		T(a_request_ends_a_slice_of_completion),
		T(what_a_discard_could_not_remove_is_removed_later),
		T(what_may_show_up_late_is_looked_for_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
