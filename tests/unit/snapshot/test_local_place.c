/* tests/unit/snapshot/test_local_place.c - the provider `local`: where it refuses to put clones, when it
 * stops, and sets of several pairs. */
#include "tests/unit/snapshot/local_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static void refused(int code, const char *says)
{
	assert_int_equal(preflight("one", ID_A), code);
	assert_int_equal(at.err.code, code);
	assert_says(at.err.msg, says);
	snap_error_clear(&at.err);
	ok(prov_local.discard(at.p, &at.run, &at.err));
}

static void a_place_below_the_backing_is_refused(void **state)
{
	char path[200];

	path_of(path, sizeof(path), at.backing[0], "snaps");
	give("local_dir", path);
	refused(-EINVAL, "lies below the backing");
	assert_int_equal(entries(at.backing[0]), 0); /* before anything was made */
}

static void a_link_into_the_backing_is_no_way_round(void **state)
{
	char path[200];

	path_of(path, sizeof(path), at.dir, "link");
	assert_int_equal(symlink(at.backing[0], path), 0);
	give("local_dir", path);
	refused(-EINVAL, "lies below the backing");
}

static void a_place_beside_the_backing_with_its_name_in_front_is_taken(void **state)
{
	assert_int_equal(rmdir(at.backing[1]), 0);
	make_file("x", 1); /* a.snapshots begins with the name of a */
	take_local("one", ID_A);
	assert_clone("one", "data", 0);
}

static void a_place_without_a_parent_is_refused(void **state)
{
	char path[200];

	path_of(path, sizeof(path), at.dir, "no/such/place");
	give("local_dir", path);
	refused(-ENOENT, "create its parent first");
}

static void a_place_on_another_filesystem_is_refused(void **state)
{
	at.door.pairs[0].backing_dev++;
	refused(-EXDEV, "is not on the filesystem of");
	assert_int_equal(entries(at.snaps), -1);
}

static void a_name_in_the_way_is_refused_and_kept(void **state)
{
	char path[200];

	assert_int_equal(mkdir(at.snaps, 0700), 0);
	path_of(path, sizeof(path), at.snaps, "one");
	assert_int_equal(mkdir(path, 0700), 0);
	file_put(path, "precious", "kept");
	refused(-EEXIST, "exists already and belongs to no set; move it away");
	assert_true(file_there(path, "precious"));
	assert_int_equal(entries(at.snaps), 1);
}

static void a_clone_that_would_hold_too_long_is_refused(void **state)
{
	make_tree();
	open_local();
	at.run = (struct prov_run){ .name = "one", .set_id = ID_A, .door = &at.door, .cancelled = cancelled };
	assert_int_equal(prov_local.preflight(at.p, &at.run, 1, 1000, &at.err), -EFBIG);
	assert_says(at.err.msg, "more than half of gate_timeout (0.0 s)");
	snap_error_clear(&at.err);
	ok(prov_local.discard(at.p, &at.run, &at.err));
	assert_int_equal(entries(at.snaps), 0);
}

static void bytes_are_copied_only_when_allowed(void **state)
{
	make_file("x", 1);
	give("local_copy", "no");
	if (preflight("one", ID_A) == 0) {
		ok(prov_local.discard(at.p, &at.run, &at.err));
		print_message("this filesystem clones\n");
		skip();
	}
	snap_error_clear(&at.err);
	ok(prov_local.discard(at.p, &at.run, &at.err));
	refused(-EOPNOTSUPP, "cannot clone files (reflink); use XFS or btrfs, or allow byte copies with local_copy=yes");
	assert_int_equal(entries(at.snaps), 0);
}

static void no_place(const char *value, const char *says)
{
	snap_error_clear(&at.err);
	give("local_dir", value);
	assert_null(prov_local.open(&at.door, &at.err));
	assert_int_equal(at.err.code, -EINVAL);
	assert_says(at.err.msg, says);
}

static void places_are_absolute_and_as_many_as_pairs(void **state)
{
	no_place("relative/path", "local_dir=relative/path: expected an absolute path");
	give_defaults();
	at.door.n_pairs = 1;
	give("local_dir", "/one");
	no_place("/two", "give one, or one for each of the 1 pairs");
}

/* ---- stop ---- */

static void a_run_that_is_stopped_stops(void **state)
{
	make_tree();
	at.cancel = true;
	refused(-ECANCELED, "stopped");
	at.cancel = false;
	ok(preflight("one", ID_A));
	at.cancel = true;
	assert_int_equal(prov_local.trigger(at.p, &at.run, 1000, &at.err), -ECANCELED);
	snap_error_clear(&at.err);
	ok(prov_local.discard(at.p, &at.run, &at.err));
	assert_int_equal(entries(at.snaps), 0);
}

/* ---- several pairs ---- */

static void two_pairs_in_one_place_are_one_set(void **state)
{
	at.door.n_pairs = 2;
	make_tree();
	file_put(at.backing[1], "redo", "log");
	give("local_dir", at.snaps);
	take_local("one", ID_A);
	assert_clone("one", "data/0-a", 0);
	assert_clone("one", "data/1-b", 1);
	assert_int_equal(sha256sum("one"), 0);
	ok(prov_local.remove(at.p, "one", ID_A, 1000, &at.err));
	assert_int_equal(entries(at.snaps), 0);
}

static void two_pairs_in_two_places_are_one_set(void **state)
{
	char other[200], path[256];
	struct stat st;

	at.door.n_pairs = 2;
	make_tree();
	file_put(at.backing[1], "redo", "log");
	path_of(other, sizeof(other), at.dir, "b.snapshots"); /* both by default */
	take_local("one", ID_A);
	assert_clone("one", "data/0-a", 0);
	(void)snprintf(path, sizeof(path), "%s/one/data/1-b", at.snaps);
	assert_int_equal(lstat(path, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	(void)snprintf(path, sizeof(path), "%s/one/data/1-b/", at.snaps); /* what it points to */
	(void)count_tree(at.backing[1], path);
	assert_int_equal(sha256sum("one"), 0);
	assert_string_equal(list_sets(), "[one 0123 complete]");
	ok(prov_local.remove(at.p, "one", ID_A, 1000, &at.err));
	assert_int_equal(entries(at.snaps), 0);
	assert_int_equal(entries(other), 0);
}

/* A and B for the first two pairs, the third in B. */
static void give_a_b_b(char b[200])
{
	char path[200];

	path_of(path, sizeof(path), at.dir, "a.snapshots");
	path_of(b, 200, at.dir, "b.snapshots");
	at.door.n_pairs = 3;
	give("local_dir", path);
	give("local_dir", b);
	give("local_dir", b);
	make_tree();
	file_put(at.backing[1], "redo", "log");
	file_put(at.backing[2], "undo", "more");
}

static int lock_set(const char *place, int how)
{
	char path[256];
	int fd;

	path_of(path, sizeof(path), place, "one");
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0 && flock(fd, how | LOCK_NB) == 0);
	return fd;
}

static void remove_waits(int code)
{
	snap_error_clear(&at.err);
	assert_int_equal(prov_local.remove(at.p, "one", ID_A, 1000, &at.err), code);
	assert_int_equal(at.err.code, code);
	assert_says(at.err.msg, "it is being restored or verified");
}

static void a_held_place_keeps_all_of_the_set(void **state)
{
	char b[200];

	give_a_b_b(b);
	take_local("one", ID_A);
	for (int i = 0; i < 2; i++) {
		int fd = lock_set(i ? b : at.snaps, LOCK_SH);

		remove_waits(-EBUSY);
		assert_int_equal(entries(at.snaps), 1);
		assert_int_equal(entries(b), 1);
		assert_int_equal(sha256sum("one"), 0);
		(void)close(fd);
	}
	snap_error_clear(&at.err);
	ok(prov_local.remove(at.p, "one", ID_A, 1000, &at.err));
	assert_int_equal(entries(at.snaps), 0);
	assert_int_equal(entries(b), 0);
}

static void a_held_set_in_one_place_is_a_set_still(void **state)
{
	int fd;

	at.door.n_pairs = 2;
	make_tree();
	give("local_dir", at.snaps);
	take_local("one", ID_A);
	fd = lock_set(at.snaps, LOCK_SH);
	remove_waits(-EBUSY);
	assert_int_equal(sha256sum("one"), 0);
	(void)close(fd);
}

static void what_is_held_after_a_part_has_gone_is_no_set(void **state)
{
	char b[200], from[256], to[256];
	int fd;

	give_a_b_b(b);
	take_local("one", ID_A);
	path_of(from, sizeof(from), b, "one");
	path_of(to, sizeof(to), b, ".trash-" ID_A); /* a removal died */
	assert_int_equal(rename(from, to), 0);
	fd = lock_set(at.snaps, LOCK_SH);
	remove_waits(-EAGAIN);
	assert_int_equal(entries(at.snaps), 1);
	(void)close(fd);
	snap_error_clear(&at.err);
	ok(prov_local.remove(at.p, "one", ID_A, 1000, &at.err));
	assert_int_equal(entries(at.snaps), 0);
	assert_int_equal(entries(b), 0);
}

static void three_pairs_in_two_places_are_one_set(void **state)
{
	char b[200], path[256];

	give_a_b_b(b);
	take_local("one", ID_A);
	assert_clone("one", "data/0-a", 0);
	for (int i = 1; i < 3; i++) {
		(void)snprintf(path, sizeof(path), "%s/one/data/%d-%c/", at.snaps, i, 'a' + i); /* by its link */
		(void)count_tree(at.backing[i], path);
	}
	assert_int_equal(sha256sum("one"), 0);
	ok(prov_local.remove(at.p, "one", ID_A, 1000, &at.err));
	assert_int_equal(entries(at.snaps), 0);
	assert_int_equal(entries(b), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, local_setup, local_teardown)
		T(a_place_below_the_backing_is_refused),
		T(a_link_into_the_backing_is_no_way_round),
		T(a_place_beside_the_backing_with_its_name_in_front_is_taken),
		T(a_place_without_a_parent_is_refused),
		T(a_place_on_another_filesystem_is_refused),
		T(a_name_in_the_way_is_refused_and_kept),
		T(a_clone_that_would_hold_too_long_is_refused),
		T(bytes_are_copied_only_when_allowed),
		T(places_are_absolute_and_as_many_as_pairs),
		T(a_run_that_is_stopped_stops),
		T(two_pairs_in_one_place_are_one_set),
		T(two_pairs_in_two_places_are_one_set),
		T(three_pairs_in_two_places_are_one_set),
		T(a_held_place_keeps_all_of_the_set),
		T(a_held_set_in_one_place_is_a_set_still),
		T(what_is_held_after_a_part_has_gone_is_no_set),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
