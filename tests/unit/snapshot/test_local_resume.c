/* tests/unit/snapshot/test_local_resume.c - a clone whose process has gone: taken up from its marks, or refused where
 * nobody can know that it is whole. */
#include "tests/unit/snapshot/local_rig.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TO_CLONED 3 /* polls of no slice: name, attributes, mark */
#define TO_SYNCED 5

static void polls(int n)
{
	struct prov_progress p;

	while (n-- > 0)
		ok(prov_local.poll(at.p, &at.run, 0, &p, &at.err));
}

/* The process dies, another one begins. */
static void die(void)
{
	prov_local.finish(at.p, &at.run);
	assert_null(at.run.ref);
	prov_local.close(at.p);
	open_local();
}

static int resume(void)
{
	snap_error_clear(&at.err);
	return prov_local.resume(at.p, &at.run, 1000, &at.err);
}

static void gone_after_removal(const char *name)
{
	prov_local.finish(at.p, &at.run);
	snap_error_clear(&at.err);
	ok(prov_local.remove(at.p, name, ID_A, 1000, &at.err));
	assert_int_equal(entries(at.snaps), 0);
}

static void a_clone_is_taken_up_from_any_step_after_its_mark(void **state)
{
	char set[200];

	make_tree();
	for (int n = 0; n < 12; n++) {
		trigger("one", ID_A);
		polls(n);
		die();
		if (n < TO_CLONED) {
			assert_int_equal(resume(), -ENODATA);
			assert_says(at.err.msg, n ? "or the attributes of its files were not set" : "there is no clone of it in");
			gone_after_removal("one");
			continue;
		}
		ok(resume());
		complete();
		assert_clone("one", "data", 0);
		assert_int_equal(sha256sum("one"), 0);
		path_of(set, sizeof(set), at.snaps, "one");
		assert_int_equal(entries(set), 5); /* id origin data complete manifest.sha256 */
		gone_after_removal("one");
	}
}

static void a_clean_stop_leaves_a_clone_that_can_be_taken_up(void **state)
{
	make_tree();
	for (int n = 0; n < 7; n++) {
		trigger("one", ID_A);
		polls(n);
		ok(prov_local.leave(at.p, &at.run, 1000, &at.err));
		assert_null(at.run.ref);
		prov_local.close(at.p);
		open_local();
		ok(resume());
		complete();
		assert_clone("one", "data", 0);
		gone_after_removal("one");
	}
}

static void after_a_power_failure_only_what_was_synced_counts(void **state)
{
	char set[200];

	make_tree();
	for (int n = TO_CLONED; n <= TO_SYNCED; n++) {
		trigger("one", ID_A);
		polls(n);
		die();
		path_of(set, sizeof(set), at.snaps, "one");
		file_put(set, "cloned", ID_A " 00000000-0000-0000-0000-000000000000");
		assert_int_equal(resume(), n == TO_SYNCED ? 0 : -ENODATA);
		if (n < TO_SYNCED)
			assert_says(at.err.msg, "was not on the disk yet when the host stopped");
		gone_after_removal("one");
	}
}

static void a_set_that_is_complete_but_not_recorded_is_complete(void **state)
{
	struct prov_progress p = { 0 };

	make_tree();
	trigger("one", ID_A);
	complete();
	ok(resume());
	ok(prov_local.poll(at.p, &at.run, 0, &p, &at.err));
	assert_true(p.complete && p.size_b > 0 && p.volumes == 1);
	assert_int_equal(sha256sum("one"), 0);
}

static void another_sets_clone_is_not_taken_up(void **state)
{
	make_tree();
	take_local("one", ID_B);
	at.run.set_id = ID_A;
	assert_int_equal(resume(), -ENODATA);
	snap_error_clear(&at.err);
	assert_int_equal(prov_local.remove(at.p, "one", ID_A, 1000, &at.err), -ESTALE);
	assert_clone("one", "data", 0);
}

static void two_pairs_in_two_places_are_one_set(void **state)
{
	char path[300], sub[80];

	(void)snprintf(path, sizeof(path), "%s/a.snapshots\n%s/b.snapshots", at.dir, at.dir);
	at.door.n_pairs = 2;
	for (char *p = path, *next; p; p = next) {
		next = strchr(p, '\n');
		if (next)
			*next++ = '\0';
		give("local_dir", p);
	}
	make_tree();
	file_put(at.backing[1], "other", "2");
	trigger("one", ID_A);
	polls(TO_CLONED);
	die();
	ok(resume());
	complete();
	assert_clone("one", "data/0-a", 0);
	(void)snprintf(path, sizeof(path), "%s/b.snapshots/one", at.dir);
	(void)snprintf(sub, sizeof(sub), "data/1-b");
	assert_true(file_there(path, "data/1-b/other"));
	assert_int_equal(sha256sum("one"), 0);
}

static void pairs_that_share_a_place_are_one_set(void **state)
{
	char path[300];

	at.door.n_pairs = 3;
	for (int i = 0; i < 3; i++) {
		(void)snprintf(path, sizeof(path), "%s/%c.snapshots", at.dir, i ? 'b' : 'a');
		give("local_dir", path);
	}
	make_tree();
	file_put(at.backing[1], "other", "2");
	file_put(at.backing[2], "third", "3");
	for (int made = 1; made >= 0; made--) {
		trigger("one", ID_A);
		polls(TO_CLONED);
		die();
		path_of(path, sizeof(path), at.snaps, "one/data/2-c");
		if (!made)
			assert_int_equal(unlink(path), 0); /* it was another version that died */
		ok(resume());
		complete();
		path_of(path, sizeof(path), at.snaps, "one");
		assert_true(file_there(path, "data/1-b/other") && file_there(path, "data/2-c/third"));
		assert_int_equal(sha256sum("one"), 0);
		gone_after_removal("one");
	}
}

static void a_slice_that_is_ended_is_asked_again(void **state)
{
	make_tree();
	trigger("one", ID_A);
	polls(TO_SYNCED);
	die();
	at.cancel = true;
	assert_int_equal(resume(), -EAGAIN);
	at.cancel = false;
	ok(resume());
	complete();
	assert_clone("one", "data", 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, local_setup, local_teardown)
		T(a_clone_is_taken_up_from_any_step_after_its_mark),
		T(a_clean_stop_leaves_a_clone_that_can_be_taken_up),
		T(after_a_power_failure_only_what_was_synced_counts),
		T(a_set_that_is_complete_but_not_recorded_is_complete),
		T(another_sets_clone_is_not_taken_up),
		T(two_pairs_in_two_places_are_one_set),
		T(pairs_that_share_a_place_are_one_set),
		T(a_slice_that_is_ended_is_asked_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
