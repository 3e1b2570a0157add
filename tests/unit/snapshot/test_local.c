/* tests/unit/snapshot/test_local.c - the provider `local` on plain directories, by byte copies where the
 * filesystem has no reflinks: the clone, its manifest, discard, remove and list. */
#include "tests/unit/snapshot/local_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

static void a_clone_equals_its_tree(void **state)
{
	char file[256], value[8] = "", path[200], buf[200];
	int has_xattr;

	make_tree();
	path_of(file, sizeof(file), at.backing[0], "zero");
	has_xattr = setxattr(file, "user.test", "kept", 4, 0) == 0;
	synced = 0;
	take_local("one", ID_A);
	assert_int_equal(synced, 1);
	assert_clone("one", "data", 0);
	ok(prov_local.data_path(at.p, "one", buf, sizeof(buf)));
	(void)snprintf(path, sizeof(path), "%s/one/data", at.snaps);
	assert_string_equal(buf, path);
	if (has_xattr) {
		path_of(file, sizeof(file), path, "zero");
		assert_int_equal(getxattr(file, "user.test", value, sizeof(value)), 4);
		assert_string_equal(value, "kept");
	}
	assert_int_equal(prov_local.data_path(at.p, "two", buf, sizeof(buf)), -ENOENT);
}

/* owner, user 1234, group, mask, others; the kernel's form */
static const unsigned char acl[] = { 2, 0, 0, 0, 1, 0, 7, 0, 0xff, 0xff, 0xff, 0xff, 2, 0, 7, 0, 0xd2, 4, 0, 0, 4, 0, 5, 0,
				     0xff, 0xff, 0xff, 0xff, 16, 0, 7, 0, 0xff, 0xff, 0xff, 0xff, 32, 0, 0, 0, 0xff, 0xff, 0xff, 0xff };

static void put_attr(const char *a, const char *b, const char *name, const void *value, size_t n)
{
	char path[300];

	path_of(path, sizeof(path), a, b);
	assert_int_equal(setxattr(path, name, value, n, 0), 0);
}

/* path below the clone has this value of the attribute; n < 0: has it not. */
static void assert_attr(const char *rel, const char *name, const void *value, ssize_t n)
{
	char path[300], have[512];

	(void)snprintf(path, sizeof(path), "%s/one/data/%s", at.snaps, rel);
	assert_int_equal(getxattr(path, name, have, sizeof(have)), n);
	if (n > 0)
		assert_memory_equal(have, value, n);
}

static void need_attrs(void)
{
	if (setxattr(at.backing[0], "system.posix_acl_default", acl, sizeof(acl), 0) == 0 && setxattr(at.dir, "user.x", "", 0, 0) == 0 &&
	    removexattr(at.backing[0], "system.posix_acl_default") == 0)
		return;
	print_message("no attributes here\n");
	skip();
}

static void directories_have_the_attributes_of_the_point(void **state)
{
	const char *b = at.backing[0];
	char path[200];

	need_attrs();
	make_tree();
	put_attr(b, "", "user.test", "early", 5);
	put_attr(b, "sub", "user.gone", "", 0);
	ok(preflight("one", ID_A));
	put_attr(b, "", "user.test", "point", 5);
	put_attr(b, "", "system.posix_acl_default", acl, sizeof(acl));
	put_attr(b, "sub", "system.posix_acl_default", acl, sizeof(acl));
	put_attr(b, "sub/deep", "user.deep", "yes", 3);
	path_of(path, sizeof(path), b, "sub");
	assert_int_equal(removexattr(path, "user.gone"), 0);
	ok(prov_local.trigger(at.p, &at.run, 1000, &at.err));
	put_attr(b, "", "user.test", "later", 5);
	complete();
	assert_attr("", "user.test", "point", 5);
	assert_attr("", "system.posix_acl_default", acl, sizeof(acl));
	assert_attr("sub", "system.posix_acl_default", acl, sizeof(acl));
	assert_attr("sub", "user.gone", NULL, -1);
	assert_attr("sub/deep", "user.deep", "yes", 3);
	/* nothing was inherited by what was made below them */
	assert_attr("sub/deep", "system.posix_acl_default", NULL, -1);
	assert_attr("sub/deep/x", "system.posix_acl_access", NULL, -1);
	assert_attr("data.ibd", "system.posix_acl_access", NULL, -1);
}

static void what_the_place_hands_down_is_not_in_the_clone(void **state)
{
	need_attrs();
	make_tree();
	assert_int_equal(mkdir(at.snaps, 0700), 0);
	put_attr(at.snaps, "", "system.posix_acl_default", acl, sizeof(acl));
	take_local("one", ID_A);
	assert_clone("one", "data", 0);
	assert_attr("", "system.posix_acl_default", NULL, -1);
	assert_attr("", "system.posix_acl_access", NULL, -1);
	assert_attr("sub/deep", "system.posix_acl_default", NULL, -1);
	assert_attr("data.ibd", "system.posix_acl_access", NULL, -1);
}

static void holes_stay_holes(void **state)
{
	struct stat st;
	char path[200];

	make_tree();
	take_local("one", ID_A);
	(void)snprintf(path, sizeof(path), "%s/one/data/sparse", at.snaps);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 5 << 20);
	assert_true(st.st_blocks * 512 < st.st_size / 4);
}

static void sha256sum_checks_the_manifest(void **state)
{
	char set[200], path[300], *text;
	unsigned lines = 0;

	make_tree();
	take_local("one", ID_A);
	assert_int_equal(sha256sum("one"), 0);
	path_of(set, sizeof(set), at.snaps, "one");
	text = file_get(set, "manifest.sha256");
	for (const char *p = text; *p; p++)
		lines += *p == '\n';
	assert_int_equal(lines, 10); /* each name of each regular file: 8, and two more of data.ibd */
	free(text);
	path_of(path, sizeof(path), set, "data/sub/deep");
	file_put(path, "x", "changed");
	assert_int_not_equal(sha256sum("one"), 0);
}

/* ---- between preflight and trigger the database goes on ---- */

/* What was prepared as one kind of thing is another by now. */
static void prepare_kinds(void)
{
	make_dir("dir to link");
	make_file("dir to link/x", 1);
	make_dir("dir to fifo");
	make_dir("dir to name");
	make_file("dir to name/x", 1);
	make_file("file to fifo", 1);
	make_file("file to link", 1);
}

static void make_kinds_change(int d)
{
	assert_int_equal(unlinkat(d, "dir to link/x", 0), 0);
	assert_int_equal(unlinkat(d, "dir to link", AT_REMOVEDIR), 0);
	assert_int_equal(symlinkat("zero", d, "dir to link"), 0);
	assert_int_equal(unlinkat(d, "dir to fifo", AT_REMOVEDIR), 0);
	assert_int_equal(mkfifoat(d, "dir to fifo", 0600), 0);
	assert_int_equal(unlinkat(d, "dir to name/x", 0), 0);
	assert_int_equal(unlinkat(d, "dir to name", AT_REMOVEDIR), 0);
	assert_int_equal(linkat(d, "data.ibd", d, "dir to name", 0), 0);
	assert_int_equal(unlinkat(d, "file to fifo", 0), 0);
	assert_int_equal(mkfifoat(d, "file to fifo", 0600), 0);
	assert_int_equal(unlinkat(d, "file to link", 0), 0);
	assert_int_equal(symlinkat("sub", d, "file to link"), 0);
}

static void the_clone_is_of_the_trigger_and_not_of_the_preflight(void **state)
{
	int d = at.door.pairs[0].backing_fd;

	make_tree();
	prepare_kinds();
	ok(preflight("one", ID_A));
	make_file("new", 100); /* appears */
	make_dir("newdir");
	make_file("newdir/x", 5);
	assert_int_equal(unlinkat(d, "back\\slash", 0), 0); /* goes */
	assert_int_equal(unlinkat(d, "empty", AT_REMOVEDIR), 0); /* a directory becomes a file */
	make_file("empty", 3);
	assert_int_equal(unlinkat(d, "line\nfeed", 0), 0); /* a file becomes a directory */
	make_dir("line\nfeed");
	make_file("line\nfeed/inside", 9);
	assert_int_equal(unlinkat(d, "dangling", 0), 0); /* a link elsewhere */
	assert_int_equal(symlinkat("zero", d, "dangling"), 0);
	make_kinds_change(d);
	assert_int_equal(renameat(d, "sub/deep", d, "moved"), 0);
	make_file("a name with blanks", 7000); /* grows */
	assert_int_equal(unlinkat(d, "third", 0), 0); /* one name less */
	assert_int_equal(linkat(d, "new", d, "new too", 0), 0);
	ok(prov_local.trigger(at.p, &at.run, 1000, &at.err));
	complete();
	assert_clone("one", "data", 0);
	assert_int_equal(sha256sum("one"), 0);
}

/* ---- nothing is left ---- */

static void discard_leaves_nothing_at_any_point(void **state)
{
	struct prov_progress p;

	make_tree();
	for (int polls = -2; polls < 6; polls++) {
		ok(preflight("one", ID_A));
		if (polls > -2)
			ok(prov_local.trigger(at.p, &at.run, 1000, &at.err));
		for (int i = 0; i < polls; i++)
			ok(prov_local.poll(at.p, &at.run, 0, &p, &at.err));
		ok(prov_local.discard(at.p, &at.run, &at.err));
		assert_null(at.run.ref);
		assert_int_equal(entries(at.snaps), 0);
		ok(prov_local.discard(at.p, &at.run, &at.err)); /* and again: nothing to do */
	}
	take_local("one", ID_A);
	assert_clone("one", "data", 0);
}

static void remove_takes_the_set_and_nothing_else(void **state)
{
	char outside[200], path[200];

	make_tree();
	path_of(outside, sizeof(outside), at.dir, "outside");
	assert_int_equal(mkdir(outside, 0700), 0);
	file_put(outside, "precious", "kept");
	path_of(path, sizeof(path), at.backing[0], "way out");
	assert_int_equal(symlink(outside, path), 0);
	take_local("one", ID_A);
	take_local("two", ID_B);
	assert_int_equal(entries(at.snaps), 2);
	assert_int_equal(prov_local.remove(at.p, "one", ID_B, 1000, &at.err), -ESTALE);
	assert_says(at.err.msg, "its file id differs); it was left alone");
	assert_clone("one", "data", 0);
	snap_error_clear(&at.err);
	ok(prov_local.remove(at.p, "one", ID_A, 1000, &at.err));
	assert_int_equal(entries(at.snaps), 1);
	assert_true(file_there(outside, "precious"));
	assert_clone("two", "data", 0);
	ok(prov_local.remove(at.p, "one", ID_A, 1000, &at.err)); /* gone already */
	ok(prov_local.remove(at.p, "never", ID_A, 1000, &at.err));
	ok(prov_local.remove(at.p, "two", ID_B, 1000, &at.err));
	assert_int_equal(entries(at.snaps), 0);
}

static void remove_finds_what_a_dead_process_left(void **state)
{
	char from[200], to[200];

	make_tree();
	take_local("one", ID_A);
	path_of(from, sizeof(from), at.snaps, "one");
	path_of(to, sizeof(to), at.snaps, ".trash-" ID_A); /* it died in a removal */
	assert_int_equal(rename(from, to), 0);
	ok(preflight("two", ID_B)); /* and one in preflight */
	prov_local.finish(at.p, &at.run);
	assert_int_equal(entries(at.snaps), 2);
	ok(prov_local.remove(at.p, "one", ID_A, 1000, &at.err));
	ok(prov_local.remove(at.p, "two", ID_B, 1000, &at.err));
	assert_int_equal(entries(at.snaps), 0);
}

/* ---- list ---- */

static void list_tells_complete_from_partial(void **state)
{
	struct prov_progress p;
	char path[200];

	make_tree();
	open_local();
	assert_string_equal(list_sets(), ""); /* no directory yet */
	take_local("one", ID_A);
	path_of(path, sizeof(path), at.snaps, "somebody's");
	assert_int_equal(mkdir(path, 0700), 0);
	file_put(at.snaps, "a file", "");
	assert_string_equal(list_sets(), "[one 0123 complete]");
	trigger("two", ID_B);
	assert_says(list_sets(), "[one 0123 complete]");
	assert_says(list_sets(), "[.partial-" ID_B " fedc partial]");
	ok(prov_local.poll(at.p, &at.run, 0, &p, &at.err)); /* it has its name now, and no manifest */
	assert_says(list_sets(), "[two fedc partial]");
	complete();
	assert_says(list_sets(), "[two fedc complete]");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, local_setup, local_teardown)
		T(a_clone_equals_its_tree),
		T(directories_have_the_attributes_of_the_point),
		T(what_the_place_hands_down_is_not_in_the_clone),
		T(holes_stay_holes),
		T(sha256sum_checks_the_manifest),
		T(the_clone_is_of_the_trigger_and_not_of_the_preflight),
		T(discard_leaves_nothing_at_any_point),
		T(remove_takes_the_set_and_nothing_else),
		T(remove_finds_what_a_dead_process_left),
		T(list_tells_complete_from_partial),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
