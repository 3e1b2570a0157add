/* tests/unit/snapshot/test_engine_sets.c - sets over fakes after their run: what may be deleted and what
 * not, what a restart makes of sets that a dead process left, and the files one can write. */
#include "tests/unit/snapshot/drive.h"
#include "snapshot/engine_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void until_removed(unsigned n)
{
	fake_wait_ended(ON_REMOVE, n);
	fake_wait_event("removed");
}

/* ---- deletion ---- */

static void the_newest_complete_set_is_the_floor(void **state)
{
	struct rig *r = *state;
	struct asker a;

	rig_start(r);
	take(r, "one", "");
	assert_int_equal(engine_rmdir(r->e, "one", &r->err), -EBUSY);
	assert_string_equal(r->err.msg, "rmdir snapshots/one: it is the newest complete set, which is always kept; take a "
					"newer one first");
	fake_fail(ON_TRIGGER, -EIO);
	assert_int_equal(ask(r, "two", &a), 0); /* a failed one is no newer one */
	assert_int_equal(answer_of(&a), -EIO);
	until_idle(r);
	snap_error_clear(&r->err);
	assert_int_equal(engine_rmdir(r->e, "one", &r->err), -EBUSY);
	assert_int_equal(engine_rmdir(r->e, "two", NULL), 0); /* and may go */
	until_removed(1);
	fake_clear(ON_TRIGGER);
	take(r, "three", "");
	assert_int_equal(engine_rmdir(r->e, "one", NULL), 0);
	fake_wait_ended(ON_REMOVE, 2);
	assert_int_equal(engine_rmdir(r->e, "three", NULL), -EBUSY);
	assert_true(fake_has_data("three"));
}

static void a_pinned_set_stays(void **state)
{
	struct rig *r = *state;

	rig_start(r);
	take(r, "one", "pin");
	take(r, "two", "");
	take(r, "three", "");
	assert_shows(r, "one", "pin", "yes\n");
	assert_int_equal(engine_rmdir(r->e, "one", &r->err), -EBUSY);
	assert_string_equal(r->err.msg, "rmdir snapshots/one: it is pinned; `echo no > snapshots/one/pin` first");
	assert_int_equal(put(r, "two", "pin", "yes\n"), 0);
	assert_int_equal(engine_rmdir(r->e, "two", NULL), -EBUSY);
	assert_int_equal(put(r, "one", "pin", "no\n"), 0);
	assert_int_equal(engine_rmdir(r->e, "one", NULL), 0);
	until_removed(1);
	assert_false(fake_has_data("one"));
	assert_true(fake_has_data("two"));
	assert_int_equal(fake_count(ON_REMOVE), 1);
}

static void a_deleted_set_is_gone_at_once_and_its_data_later(void **state)
{
	struct rig *r = *state;
	struct set_view v;
	struct asker a;

	rig_start(r);
	take(r, "one", "");
	take(r, "two", "");
	fake_stall_still(ON_REMOVE);
	assert_int_equal(engine_rmdir(r->e, "one", NULL), 0);
	assert_int_equal(engine_get_set(r->e, "one", &v), -ENOENT);
	assert_int_equal(engine_rmdir(r->e, "one", NULL), -ENOENT);
	assert_int_equal(ask_wait(r, "one", &a), -ENOENT);
	fake_wait_stalled(ON_REMOVE);
	assert_true(fake_has_data("one"));
	assert_int_equal(ask(r, "one", &a), -EBUSY); /* not the same name yet */
	assert_says(r->err.msg, "the data of a deleted set of this name is still being removed; try later");
	fake_release(ON_REMOVE);
	until_removed(1);
	assert_false(fake_has_data("one"));
	assert_int_equal(ask(r, "one", &a), 0);
	assert_int_equal(answer_of(&a), 0);
	until_state(r, "one", "complete");
}

static void a_removal_that_fails_is_reported_and_tried_again(void **state)
{
	struct rig *r = *state;

	rig_start(r);
	take(r, "one", "");
	take(r, "two", "");
	fake_fail_once(ON_REMOVE, -EIO);
	assert_int_equal(engine_rmdir(r->e, "one", NULL), 0);
	fake_wait_ended(ON_REPORT, 1);
	assert_int_equal(fake_count(ON_REMOVE), 1); /* not at once */
	fake_clock_skip(60000);
	until_removed(2);
	assert_int_equal(fake_count(ON_REPORT), 1);
	assert_says(fake_at(fake_begin(ON_REPORT, 0)).text, "remove: told to fail");
	assert_false(fake_has_data("one"));
}

static void a_deletion_that_cannot_be_recorded_does_not_happen(void **state)
{
	struct rig *r = *state;

	rig_start(r);
	take(r, "one", "");
	take(r, "two", "");
	fake_fail(ON_SAVE, -ENOSPC);
	assert_int_equal(engine_rmdir(r->e, "one", &r->err), -ENOSPC);
	assert_shows(r, "one", "state", "complete\n");
	assert_int_equal(put(r, "one", "pin", "yes"), -ENOSPC);
	assert_shows(r, "one", "pin", "no\n");
	assert_int_equal(put(r, "one", "description", "new"), -ENOSPC);
	assert_shows(r, "one", "description", "\n");
	fake_clear(ON_SAVE);
	assert_int_equal(fake_count(ON_REMOVE), 0);
	assert_true(fake_has_data("one"));
}

/* ---- a restart ---- */

static void a_set_without_a_point_is_failed_and_removed(void **state)
{
	struct rig *r = *state;
	struct asker w;

	rig_start(r);
	take(r, "one", "");
	take(r, "two", "");
	file_put(r->f.backing, POSITION_FILE, "left");
	die_and_restart(r, "two", "running");
	assert_false(file_there(r->f.backing, POSITION_FILE));
	assert_shows(r, "two", "state", "failed\n");
	assert_shows(r, "two", "last_error", "stillfs ended before the consistency point was fixed\n");
	assert_int_equal(ask_wait(r, "two", &w), 0);
	assert_int_equal(w.result, -ESHUTDOWN);
	fake_wait_event("cleaned");
	assert_false(fake_has_data("two"));
	assert_true(fake_has_data("one"));
	assert_int_equal(fake_count(ON_RESUME), 0);
	assert_int_equal(engine_rmdir(r->e, "one", NULL), -EBUSY); /* the floor again */
	take(r, "three", "");
}

static void a_deletion_goes_on_after_a_restart(void **state)
{
	struct rig *r = *state;

	rig_start(r);
	take(r, "one", "");
	take(r, "two", "");
	die_and_restart(r, "one", "deleting");
	until_removed(1);
	assert_false(fake_has_data("one"));
	assert_true(fake_has_data("two"));
	assert_null(show(r, "one", "state"));
}

static void sets_and_their_order_survive_a_restart(void **state)
{
	struct rig *r = *state;
	char *before, *after;

	rig_start(r);
	take(r, "zz", "class=nightly description=\"first one\" tag=env:prod tag=a:b pin");
	take(r, "aa", "");
	before = show(r, NULL, "list.json");
	rig_stop(r);
	rig_start(r);
	after = show(r, NULL, "list.json");
	assert_string_equal(before, after);
	assert_true(strstr(after, "\"zz\"") < strstr(after, "\"aa\""));
	assert_shows(r, "zz", "description", "first one\n");
	assert_shows(r, "zz", "tags", "env:prod\na:b\n");
	assert_int_equal(engine_rmdir(r->e, "aa", NULL), -EBUSY);
	free(before);
	free(after);
}

/* ---- writable files ---- */

static void tags_are_replaced_whole_or_not_at_all(void **state)
{
	struct rig *r = *state;

	rig_start(r);
	take(r, "one", "tag=a:b");
	assert_int_equal(put(r, "one", "tags", "c:d\n\ne:f\n"), 0);
	assert_shows(r, "one", "tags", "c:d\ne:f\n");
	assert_int_equal(put(r, "one", "tags", "g:h\nno colon\n"), -EINVAL);
	assert_says(r->err.msg, "tags: \"no colon\": expected at most 40 lines KEY:VALUE");
	assert_shows(r, "one", "tags", "c:d\ne:f\n");
	assert_int_equal(put(r, "one", "tags", ""), 0);
	rig_stop(r);
	rig_start(r);
	{
		char *t = show(r, "one", "tags");

		assert_string_equal(t, "");
		free(t);
	}
}

static void pin_and_description_take_one_value(void **state)
{
	static const char *const bad_pins[] = { "", "\n", "maybe", "yes no", "YES", "yesyes", "1" };
	struct rig *r = *state;
	char longest[258];

	rig_start(r);
	take(r, "one", "");
	for (size_t i = 0; i < sizeof(bad_pins) / sizeof(bad_pins[0]); i++) {
		assert_int_equal(put(r, "one", "pin", bad_pins[i]), -EINVAL);
		assert_string_equal(r->err.msg, "pin: expected yes or no");
	}
	memset(longest, 'x', 257);
	longest[257] = '\0';
	assert_int_equal(put(r, "one", "description", longest + 2), 0); /* 255 */
	assert_int_equal(put(r, "one", "description", longest + 1), -EINVAL);
	assert_int_equal(put(r, "one", "description", "two\nlines"), -EINVAL);
	assert_int_equal(put(r, "one", "description", "bell\a"), -EINVAL);
	assert_int_equal(put(r, "one", "description", "last \"word\"\n"), 0);
	assert_shows(r, "one", "description", "last \"word\"\n");
	assert_int_equal(put(r, "none", "pin", "yes"), -ENOENT);
	assert_int_equal(put(r, "none", "tags", "a:b"), -ENOENT);
}

static void mkdir_checks_the_name(void **state)
{
	struct rig *r = *state;

	rig_start(r);
	assert_int_equal(engine_mkdir(r->e, ".x", &r->err), -EINVAL);
	assert_says(r->err.msg, "mkdir snapshots/.x: bad name");
	snap_error_clear(&r->err);
	assert_int_equal(engine_mkdir(r->e, "one", NULL), 0);
	until_state(r, "one", "complete");
	until_idle(r);
	assert_int_equal(engine_mkdir(r->e, "one", &r->err), -EEXIST);
	assert_int_equal(engine_rmdir(r->e, "none", NULL), -ENOENT);
}

static int names_of(void *arg, const struct set_view *v)
{
	char *all = arg;

	(void)strcat(strcat(all, v->name), v->has_data ? "+ " : " ");
	return 0;
}

static void views_come_in_order_of_creation_and_one_by_one_with_their_data(void **state)
{
	struct rig *r = *state;
	char all[200] = "";
	struct set_view v;
	struct asker a;

	rig_start(r);
	take(r, "zz", "");
	fake_fail(ON_TRIGGER, -EIO);
	assert_int_equal(ask(r, "mm", &a), 0);
	assert_int_equal(answer_of(&a), -EIO);
	fake_clear(ON_TRIGGER);
	until_idle(r);
	take(r, "aa", "");
	assert_int_equal(engine_each_set(r->e, names_of, all), 3);
	assert_string_equal(all, "zz mm aa ");
	assert_int_equal(engine_get_set(r->e, "aa", &v), 0);
	assert_int_equal(v.ino, 3);
	assert_string_equal(v.data, "/clones/aa");
	assert_int_equal(engine_get_ino(r->e, 1, &v), 0);
	assert_string_equal(v.name, "zz");
	assert_true(v.has_data);
	assert_int_equal(engine_get_set(r->e, "mm", &v), 0);
	assert_false(v.has_data);
	assert_int_equal(engine_get_ino(r->e, 4, &v), -ENOENT);
	assert_int_equal(engine_each_set(r->e, NULL, NULL), 3);
}

static void tries_that_were_given_up_are_recorded_and_counted(void **state)
{
	struct rig *r = *state;

	rig_start(r);
	take(r, "one", "");
	assert_shows(r, "one", "lock_given_up", "0 -\n");
	fake.given_up = 2;
	fake.given_up_ns = 9500000;
	fake_fail_once(ON_LOCK, -EAGAIN);
	take(r, "two", "");
	assert_shows(r, "two", "lock_given_up", "4 9.5\n"); /* those of a lock that was not had, too */
	assert_shows(r, "two", "log", "lock_given_up 9.500 ms\n");
	assert_shows(r, NULL, "list.json", "\"lock_given_up\":4,\"lock_given_up_ms\":9.500,");
	assert_shows(r, NULL, "snapshot", "lock_given_up 4 9.5\n");
	fake_conf(&r->f, "db.lock_patience", "0");
	take(r, "three", "");
	assert_int_equal(fake_at(fake_begin(ON_LOCK, 3)).a, 2000); /* no time for tries that are not made */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
		T(tries_that_were_given_up_are_recorded_and_counted),
		T(the_newest_complete_set_is_the_floor),
		T(a_pinned_set_stays),
		T(a_deleted_set_is_gone_at_once_and_its_data_later),
		T(a_removal_that_fails_is_reported_and_tried_again),
		T(a_deletion_that_cannot_be_recorded_does_not_happen),
		T(a_set_without_a_point_is_failed_and_removed),
		T(a_deletion_goes_on_after_a_restart),
		T(sets_and_their_order_survive_a_restart),
		T(tags_are_replaced_whole_or_not_at_all),
		T(pin_and_description_take_one_value),
		T(mkdir_checks_the_name),
		T(views_come_in_order_of_creation_and_one_by_one_with_their_data),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
