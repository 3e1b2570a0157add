/* tests/unit/fs/test_node.c - nodes and open files as slots: references, handles, the bound of descriptors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "fs/node.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BOUND 8u

struct fixture {
	struct nodes *t;
	int root;
	char dir[64];
};

static int up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	if (!f)
		return -1;
	(void)snprintf(f->dir, sizeof(f->dir), "/tmp/stillfs-node.XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	f->root = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	f->t = nodes_new(BOUND);
	*state = f;
	return f->root >= 0 && f->t ? nodes_add_root(f->t, 0, f->root) : -1;
}

static int down(void **state)
{
	struct fixture *f = *state;
	char command[128];

	nodes_free(f->t);
	(void)close(f->root);
	(void)snprintf(command, sizeof(command), "rm -rf %s", f->dir);
	free(f);
	return system(command);
}

static void make(struct fixture *f, const char *name)
{
	int fd = openat(f->root, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	(void)close(fd);
}

static int path_fd(struct fixture *f, const char *name)
{
	int fd = openat(f->root, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static uint64_t look_up(struct fixture *f, const char *name)
{
	struct stat st;
	uint64_t slot = 0;

	assert_int_equal(node_ref(f->t, 0, path_fd(f, name), &st, &slot), 0);
	return slot;
}

struct counts {
	uint64_t nodes, fds, lookups, files;
};

static struct counts count(struct fixture *f)
{
	struct counts c;

	node_counts(f->t, &c.nodes, &c.fds, &c.lookups, &c.files);
	return c;
}

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static void need_handles(struct fixture *f)
{
	if (!nodes_handles(f->t, 0)) {
		print_message("/tmp has no file handles\n");
		skip();
	}
}

/* Close what the bound wants closed; how many that were. */
static unsigned evict_all(struct fixture *f)
{
	unsigned n = 0;
	int fd, turns = 0;

	while (turns < 4) { /* the first turn of the clock only takes the second chances away */
		fd = node_evict(f->t);
		if (fd < 0) {
			turns++;
			continue;
		}
		assert_int_equal(close(fd), 0);
		n++;
	}
	return n;
}

/* ---- references ---- */

static void the_same_file_is_found_again_under_any_name(void **state)
{
	struct fixture *f = *state;
	uint64_t a, b;

	make(f, "a");
	assert_int_equal(linkat(f->root, "a", f->root, "b", 0), 0);
	a = look_up(f, "a");
	b = look_up(f, "b");
	assert_true(a >= NODE_FIRST);
	assert_int_equal(a, b);
	assert_int_equal(count(f).nodes, 1);
	assert_int_equal(count(f).lookups, 2);
	assert_int_equal(count(f).fds, 1);
}

static void a_node_lives_until_its_last_lookup_is_forgotten(void **state)
{
	struct fixture *f = *state;
	uint64_t a;
	int fd;

	make(f, "a");
	a = look_up(f, "a");
	(void)look_up(f, "a");
	(void)look_up(f, "a");
	assert_int_equal(node_forget(f->t, a, 2), -1);
	assert_non_null(node_at(f->t, a));
	fd = node_forget(f->t, a, 1);
	assert_true(is_open(fd));
	(void)close(fd);
	assert_null(node_at(f->t, a));
	assert_int_equal(count(f).nodes, 0);
	assert_int_equal(count(f).lookups, 0);
	assert_int_equal(count(f).fds, 0);
	assert_int_equal(node_get_fd(f->t, a), -ESTALE);
}

static void forgetting_too_much_forgets_what_there_is(void **state)
{
	struct fixture *f = *state;
	uint64_t a;

	make(f, "a");
	a = look_up(f, "a");
	(void)close(node_forget(f->t, a, 1000));
	assert_int_equal(count(f).lookups, 0);
	assert_int_equal(node_forget(f->t, a, 1), -1);
	assert_int_equal(node_forget(f->t, UINT64_MAX, 1), -1);
	assert_int_equal(count(f).nodes, 0);
}

static void a_slot_used_again_has_another_generation(void **state)
{
	struct fixture *f = *state;
	uint64_t a, b, generation;

	make(f, "a");
	make(f, "b");
	a = look_up(f, "a");
	generation = node_at(f->t, a)->generation;
	(void)close(node_forget(f->t, a, 1));
	b = look_up(f, "b");
	assert_int_equal(b, a);
	assert_int_equal(node_at(f->t, b)->generation, generation + 1);
	assert_int_equal(node_at(f->t, b)->writers, 0);
}

static void roots_have_fixed_ids_and_are_never_forgotten(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(node_slot(0, NODE_ROOT_ID), NODE_ROOT_ID);
	assert_int_equal(node_slot(3, NODE_ROOT_ID), NODE_ROOT_ID + 3);
	assert_int_equal(node_slot(3, 77), 77);
	assert_int_equal(node_forget(f->t, NODE_ROOT_ID, 1), -1);
	assert_non_null(node_at(f->t, NODE_ROOT_ID));
	assert_int_equal(node_get_fd(f->t, NODE_ROOT_ID), f->root);
	node_put_fd(f->t, NODE_ROOT_ID);
	assert_int_equal(look_up(f, "."), NODE_ROOT_ID);
	assert_int_equal(count(f).nodes, 0);
	assert_null(node_at(f->t, 0));
	assert_null(node_at(f->t, UINT64_MAX));
}

static void a_new_file_with_a_used_inode_number_is_another_node(void **state)
{
	struct fixture *f = *state;
	struct stat st;
	uint64_t old, new;
	ino_t ino;
	bool same = false;

	need_handles(f);
	make(f, "a");
	old = look_up(f, "a");
	ino = (ino_t)node_at(f->t, old)->ino;
	/* the descriptor would keep the inode: as if it had been evicted before the unlink */
	assert_int_equal(close(node_at(f->t, old)->fd), 0);
	node_at(f->t, old)->fd = -1;
	assert_int_equal(unlinkat(f->root, "a", 0), 0);
	for (int i = 0; i < 2000 && !same; i++) {
		char name[32];

		(void)snprintf(name, sizeof(name), "n%d", i);
		make(f, name);
		assert_int_equal(fstatat(f->root, name, &st, 0), 0);
		same = st.st_ino == ino;
		if (same)
			assert_int_equal(renameat(f->root, name, f->root, "again"), 0);
	}
	if (!same) {
		print_message("/tmp does not use inode numbers again\n");
		skip();
	}
	new = look_up(f, "again");
	assert_int_equal(node_at(f->t, new)->ino, ino);
	assert_int_not_equal(new, old);
	assert_int_equal(node_get_fd(f->t, old), -ESTALE); /* not the new file's */
}

static void a_file_that_cannot_be_looked_at_is_no_node(void **state)
{
	struct fixture *f = *state;
	struct stat st;
	uint64_t slot = 0;

	assert_int_equal(node_ref(f->t, 0, -1, &st, &slot), -EBADF);
	assert_int_equal(count(f).nodes, 0);
}

static void set_id_bits_are_noticed(void **state)
{
	struct fixture *f = *state;

	make(f, "a");
	assert_int_equal(fchmodat(f->root, "a", 04755, 0), 0);
	assert_true(node_at(f->t, look_up(f, "a"))->flags & NODE_SUID);
	make(f, "b");
	assert_false(node_at(f->t, look_up(f, "b"))->flags & NODE_SUID);
}

/* ---- descriptors ---- */

static void the_bound_closes_descriptors_and_handles_open_them_again(void **state)
{
	struct fixture *f = *state;
	uint64_t slot[40];
	struct stat st;
	char name[8];
	int fd;

	need_handles(f);
	for (int i = 0; i < 40; i++) {
		(void)snprintf(name, sizeof(name), "f%d", i);
		make(f, name);
		slot[i] = look_up(f, name);
	}
	assert_int_equal(count(f).fds, 40);
	assert_int_equal(evict_all(f), 40 - BOUND);
	assert_int_equal(count(f).fds, BOUND);
	assert_int_equal(count(f).nodes, 40);
	for (int i = 0; i < 40; i++) {
		fd = node_get_fd(f->t, slot[i]);
		assert_int_equal(fstat(fd, &st), 0);
		assert_int_equal(st.st_ino, node_at(f->t, slot[i])->ino);
		node_put_fd(f->t, slot[i]);
	}
	assert_int_equal(evict_all(f), 40 - BOUND);
}

/* A filesystem that somebody mounted inside the backing later on: its handles say nothing below our root. */
static void a_file_of_another_filesystem_keeps_its_descriptor(void **state)
{
	struct fixture *f = *state;
	struct stat st, again;
	uint64_t slot = 0;
	int other = memfd_create("other", MFD_CLOEXEC), fd;
	char path[48], name[16];

	need_handles(f);
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", other);
	fd = open(path, O_PATH | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(node_ref(f->t, 0, fd, &st, &slot), 0);
	for (unsigned i = 0; i < 3 * BOUND; i++) {
		(void)snprintf(name, sizeof(name), "f%u", i);
		make(f, name);
		(void)look_up(f, name);
	}
	(void)evict_all(f);
	fd = node_get_fd(f->t, slot);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &again), 0);
	assert_true(again.st_dev == st.st_dev && again.st_ino == st.st_ino);
	node_put_fd(f->t, slot);
	(void)close(other);
}

static void a_descriptor_in_use_is_not_evicted(void **state)
{
	struct fixture *f = *state;
	uint64_t slot[20];
	char name[8];
	int fd;

	need_handles(f);
	for (int i = 0; i < 20; i++) {
		(void)snprintf(name, sizeof(name), "f%d", i);
		make(f, name);
		slot[i] = look_up(f, name);
	}
	fd = node_get_fd(f->t, slot[0]);
	assert_int_equal(node_get_fd(f->t, slot[0]), fd);
	assert_int_equal(evict_all(f), 20 - BOUND);
	assert_true(is_open(fd));
	assert_int_equal(node_at(f->t, slot[0])->fd, fd);
	node_put_fd(f->t, slot[0]);
	for (int i = 20; i < 40; i++) { /* one of two users is left: still pinned */
		(void)snprintf(name, sizeof(name), "f%d", i);
		make(f, name);
		(void)look_up(f, name);
	}
	(void)evict_all(f);
	assert_true(is_open(fd));
	assert_int_equal(node_at(f->t, slot[0])->fd, fd);
	node_put_fd(f->t, slot[0]);
}

/* As a walk over a big tree does it: many lookups, then evictions until there is none to be made. */
static void the_bound_holds_with_many_known_files_and_what_is_used_stays(void **state)
{
	struct fixture *f = *state;
	uint64_t hot;
	char name[16];
	int fd;

	need_handles(f);
	make(f, "hot");
	hot = look_up(f, "hot");
	for (int i = 0; i < 20000; i++) {
		(void)snprintf(name, sizeof(name), "f%d", i);
		make(f, name);
		(void)look_up(f, name);
		assert_int_equal(unlinkat(f->root, name, 0), 0); /* keeps the directory small */
		if (i % 25)
			continue;
		fd = node_get_fd(f->t, hot);
		assert_true(fd >= 0);
		node_put_fd(f->t, hot);
		while ((fd = node_evict(f->t)) >= 0)
			(void)close(fd);
		assert_true(count(f).fds <= BOUND);
		assert_true(node_at(f->t, hot)->fd >= 0);
	}
	assert_int_equal(count(f).nodes, 20001);
}

static void below_the_bound_nothing_is_evicted(void **state)
{
	struct fixture *f = *state;
	char name[8];

	for (unsigned i = 0; i < BOUND; i++) {
		(void)snprintf(name, sizeof(name), "f%u", i);
		make(f, name);
		(void)look_up(f, name);
	}
	assert_int_equal(evict_all(f), 0);
}

static void an_unlinked_file_keeps_its_descriptor(void **state)
{
	struct fixture *f = *state;
	uint64_t slot;
	struct stat st;
	char name[8];
	int fd;

	need_handles(f);
	make(f, "gone");
	slot = look_up(f, "gone");
	fd = path_fd(f, "gone");
	assert_int_equal(unlinkat(f->root, "gone", 0), 0);
	assert_int_equal(node_unlinked(f->t, 0, fd), fd); /* it has one already: ours is for the closer */
	(void)close(fd);
	assert_true(node_at(f->t, slot)->flags & NODE_UNLINKED);
	for (int i = 0; i < 40; i++) {
		(void)snprintf(name, sizeof(name), "f%d", i);
		make(f, name);
		(void)look_up(f, name);
	}
	assert_int_equal(evict_all(f), 40 - BOUND);
	fd = node_get_fd(f->t, slot);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_nlink, 0);
	node_put_fd(f->t, slot);
	assert_int_equal(count(f).fds, BOUND + 1);
	(void)close(node_forget(f->t, slot, 1));
	assert_int_equal(count(f).fds, BOUND);
}

static void an_unlinked_file_without_a_descriptor_takes_the_one_it_is_given(void **state)
{
	struct fixture *f = *state;
	uint64_t slot;
	struct stat st;
	int fd;

	need_handles(f);
	make(f, "gone");
	slot = look_up(f, "gone");
	for (int i = 0; i < 20; i++) {
		char name[8];

		(void)snprintf(name, sizeof(name), "f%d", i);
		make(f, name);
		(void)look_up(f, name);
	}
	/* the clock comes to the oldest first */
	(void)evict_all(f);
	assert_int_equal(node_at(f->t, slot)->fd, -1);
	fd = path_fd(f, "gone");
	assert_int_equal(unlinkat(f->root, "gone", 0), 0);
	assert_int_equal(node_unlinked(f->t, 0, fd), -1);
	assert_int_equal(node_get_fd(f->t, slot), fd);
	assert_int_equal(fstat(fd, &st), 0);
	node_put_fd(f->t, slot);
}

static void an_unlinked_file_nobody_knows_is_the_callers_to_close(void **state)
{
	struct fixture *f = *state;
	int fd;

	make(f, "gone");
	fd = path_fd(f, "gone");
	assert_int_equal(unlinkat(f->root, "gone", 0), 0);
	assert_int_equal(node_unlinked(f->t, 0, fd), fd);
	assert_int_equal(count(f).fds, 0);
	(void)close(fd);
}

static void a_nameless_file_that_gets_a_name_can_be_evicted_again(void **state)
{
	struct fixture *f = *state;
	uint64_t slot;
	char path[64];
	int fd, w;

	need_handles(f);
	w = openat(f->root, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (w < 0) {
		print_message("/tmp has no O_TMPFILE\n");
		skip();
	}
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", w);
	fd = open(path, O_PATH | O_CLOEXEC);
	assert_int_equal(node_ref(f->t, 0, fd, &(struct stat){ 0 }, &slot), 0);
	assert_int_equal(node_unlinked(f->t, 0, dup(fd)) >= 0, 1);
	assert_true(node_at(f->t, slot)->flags & NODE_UNLINKED);
	assert_int_equal(linkat(AT_FDCWD, path, f->root, "named", AT_SYMLINK_FOLLOW), 0);
	(void)close(w);
	assert_int_equal(look_up(f, "named"), slot);
	assert_false(node_at(f->t, slot)->flags & NODE_UNLINKED);
	assert_int_equal(count(f).fds, 1);
}

/* ---- opens ---- */

static void caches_are_kept_only_while_nobody_writes(void **state)
{
	struct fixture *f = *state;
	struct node *n;
	uint64_t a;

	make(f, "a");
	a = look_up(f, "a");
	n = node_at(f->t, a);
	assert_int_equal(node_opened(f->t, a, false, true), 1); /* the first: what the kernel has is not known */
	assert_int_equal(node_opened(f->t, a, false, true), 2); /* nothing was written since */
	assert_int_equal(node_opened(f->t, a, false, false), 0); /* O_DIRECT was asked for */
	atomic_fetch_add(&n->writes, 1);
	assert_int_equal(node_opened(f->t, a, false, true), 1); /* written since: drop the old pages */
	assert_int_equal(node_opened(f->t, a, false, true), 2);
	assert_int_equal(node_opened(f->t, a, true, true), 0); /* a writer is never cached */
	assert_int_equal(node_opened(f->t, a, false, true), 0); /* nor is a reader beside it */
	assert_int_equal(node_opened(f->t, a, true, false), 0);
	node_closed(f->t, a, true);
	assert_int_equal(node_opened(f->t, a, false, true), 0); /* one writer is left */
	node_closed(f->t, a, false);
	node_closed(f->t, a, true);
	assert_int_equal(node_opened(f->t, a, false, true), 2); /* it wrote nothing */
	node_closed(f->t, a, true); /* one too many */
	assert_int_equal(n->writers, 0);
}

static void sealed_only_while_no_file_is_open_and_then_none_for_writing(void **state)
{
	struct fixture *f = *state;
	int64_t a, d = ofile_new(f->t, NODE_ROOT_ID, false);
	uint64_t file;

	make(f, "sealed");
	file = look_up(f, "sealed");
	a = ofile_new(f->t, file, false);
	assert_true(a > 0 && d > 0);
	assert_int_equal(nodes_open_files(f->t), 1); /* a directory is none */
	assert_int_equal(nodes_seal(f->t), 1);
	ofile_drop(f->t, (uint32_t)a);
	a = ofile_new(f->t, file, true);
	assert_true(a > 0); /* it was not sealed */
	ofile_at(f->t, (uint64_t)a)->closing = true;
	assert_int_equal(nodes_seal(f->t), 0); /* released: nobody has it open */
	assert_int_equal(ofile_new(f->t, file, true), -EROFS);
	assert_true(ofile_new(f->t, file, false) > 0);
	assert_int_equal(nodes_open_files(f->t), 1);
	nodes_seal_set(f->t, false);
	assert_true(ofile_new(f->t, file, true) > 0);
}

static void open_files_are_slots_that_are_used_again(void **state)
{
	struct fixture *f = *state;
	int64_t a = ofile_new(f->t, 20, false), b = ofile_new(f->t, 21, false), old = a;

	assert_true(a > 0 && b > 0 && a != b);
	assert_int_equal(ofile_at(f->t, (uint64_t)a)->node, 20);
	assert_int_equal(ofile_at(f->t, (uint64_t)a)->fd_buf, -1);
	assert_int_equal(ofile_at(f->t, (uint64_t)a)->fd_dir, -1);
	assert_int_equal(count(f).files, 2);
	ofile_at(f->t, (uint64_t)a)->writable = true;
	ofile_at(f->t, (uint64_t)a)->dir_off = 5;
	ofile_at(f->t, (uint64_t)a)->flags = 7;
	ofile_drop(f->t, (uint32_t)a);
	assert_null(ofile_at(f->t, (uint64_t)a));
	assert_null(ofile_at(f->t, 0));
	assert_null(ofile_at(f->t, UINT64_MAX));
	a = ofile_new(f->t, 22, false);
	assert_int_equal((uint32_t)a, (uint32_t)old);
	assert_int_not_equal(a, old); /* what is said of the former file does not reach this one */
	assert_null(ofile_at(f->t, (uint64_t)old));
	assert_false(ofile_at(f->t, (uint64_t)a)->writable);
	assert_int_equal(ofile_at(f->t, (uint64_t)a)->dir_off, 0);
	assert_int_equal(ofile_at(f->t, (uint64_t)a)->flags, 0);
	assert_int_equal(count(f).files, 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, up, down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_same_file_is_found_again_under_any_name),
		TEST(a_node_lives_until_its_last_lookup_is_forgotten),
		TEST(forgetting_too_much_forgets_what_there_is),
		TEST(a_slot_used_again_has_another_generation),
		TEST(roots_have_fixed_ids_and_are_never_forgotten),
		TEST(a_new_file_with_a_used_inode_number_is_another_node),
		TEST(a_file_that_cannot_be_looked_at_is_no_node),
		TEST(set_id_bits_are_noticed),
		TEST(the_bound_closes_descriptors_and_handles_open_them_again),
		TEST(a_file_of_another_filesystem_keeps_its_descriptor),
		TEST(a_descriptor_in_use_is_not_evicted),
		TEST(the_bound_holds_with_many_known_files_and_what_is_used_stays),
		TEST(below_the_bound_nothing_is_evicted),
		TEST(an_unlinked_file_keeps_its_descriptor),
		TEST(an_unlinked_file_without_a_descriptor_takes_the_one_it_is_given),
		TEST(an_unlinked_file_nobody_knows_is_the_callers_to_close),
		TEST(a_nameless_file_that_gets_a_name_can_be_evicted_again),
		TEST(caches_are_kept_only_while_nobody_writes),
		TEST(open_files_are_slots_that_are_used_again),
		TEST(sealed_only_while_no_file_is_open_and_then_none_for_writing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
