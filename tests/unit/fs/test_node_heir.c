/* tests/unit/fs/test_node_heir.c - the node table in the hands of one daemon after the other: hash, free list and
 * totals stay with the slots. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "fs/node.h"
#include "fs/recover.h"
#include "fs/tables.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BOUND 8u
#define FILES 300u

struct fixture {
	struct tables tab;
	struct nodes *t;
	int root;
	char dir[64];
};

/* The next daemon; of the one before only the tables are left. */
static void heir(struct fixture *f)
{
	f->t = nodes_over(&f->tab, BOUND);
	assert_non_null(f->t);
	assert_int_equal(nodes_add_root(f->t, 0, f->root), 0);
}

static int up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char name[16];

	if (!f)
		return -1;
	(void)snprintf(f->dir, sizeof(f->dir), "/tmp/stillfs-heir.XXXXXX");
	if (!mkdtemp(f->dir) || tables_nodes(&f->tab) < 0)
		return -1;
	f->root = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (unsigned i = 0; i < FILES; i++) {
		(void)snprintf(name, sizeof(name), "%u", i);
		(void)close(openat(f->root, name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	}
	heir(f);
	*state = f;
	return f->root >= 0 ? 0 : -1;
}

static int down(void **state)
{
	struct fixture *f = *state;
	char command[128];

	nodes_free(f->t);
	tables_free_nodes(&f->tab);
	(void)close(f->root);
	(void)snprintf(command, sizeof(command), "rm -rf %s", f->dir);
	free(f);
	return system(command);
}

static uint64_t look_up(struct fixture *f, unsigned i)
{
	struct stat st;
	uint64_t slot = 0;
	char name[16];

	(void)snprintf(name, sizeof(name), "%u", i);
	assert_int_equal(node_ref(f->t, 0, openat(f->root, name, O_PATH | O_CLOEXEC), &st, &slot), 0);
	return slot;
}

static void forget(struct fixture *f, uint64_t slot, uint64_t n)
{
	int fd = node_forget(f->t, slot, n);

	if (fd >= 0)
		(void)close(fd);
}

static void lists_and_totals_follow_the_slots(void **state)
{
	struct fixture *f = *state;
	uint64_t slot[FILES] = { 0 }, known[FILES] = { 0 }, nodes, fds, lookups, files, want_nodes = 0, want = 0;
	unsigned seed = 7;

	for (unsigned step = 0; step < 20000; step++) {
		unsigned i = (unsigned)rand_r(&seed) % FILES;
		int fd;

		if (rand_r(&seed) % 2) {
			uint64_t s = look_up(f, i);

			assert_true(!known[i] || s == slot[i]);
			slot[i] = s;
			want_nodes += !known[i];
			known[i]++;
			want++;
		} else if (known[i]) {
			uint64_t n = 1 + (unsigned)rand_r(&seed) % known[i];

			forget(f, slot[i], n);
			known[i] -= n;
			want_nodes -= !known[i];
			want -= n;
		}
		while ((fd = node_evict(f->t)) >= 0)
			(void)close(fd);
		if (step % 1000 == 0) {
			heir(f);
			assert_true(tables_whole(&f->tab));
		}
	}
	node_counts(f->t, &nodes, &fds, &lookups, &files);
	assert_int_equal(nodes, want_nodes);
	assert_int_equal(lookups, want);
	assert_true(want_nodes > 50);
	for (unsigned i = 0; i < FILES; i++)
		if (known[i])
			forget(f, slot[i], known[i]);
	node_counts(f->t, &nodes, &fds, &lookups, &files);
	assert_int_equal(nodes + lookups + fds, 0);
	assert_true(tables_whole(&f->tab));
	assert_true(f->tab.journal->n_used <= NODE_FIRST + FILES); /* slots are used again */
}

/* The operation of this thread, of a request that the kernel still waits for, says whom it may ask. */
static struct op_rec *begin(struct fixture *f, unsigned i)
{
	struct op_rec *rec = &f->tab.rec[REC_LANES + i];

	rec->dev_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	assert_true(rec->dev_fd >= 0);
	rec->unique = 2 + 2 * i;
	node_record(rec);
	return rec;
}

static void end(struct op_rec *rec)
{
	node_record(NULL);
	rec->unique = rec->orphan_ns = 0;
	(void)close(rec->dev_fd);
}

static void what_was_taken_back_already_is_not_taken_from_another(void **state)
{
	struct fixture *f = *state;
	struct op_rec *rec = begin(f, 0);
	uint64_t a = look_up(f, 1);
	int64_t refused = ofile_new(f->t, a, true), fh;

	ofile_unmake(f->t, (uint32_t)refused); /* its open is refused; the answer is not written yet */
	(void)close(node_unref(f->t, a));
	node_record(NULL);
	a = look_up(f, 1); /* another's, answered */
	fh = ofile_new(f->t, a, true);
	assert_int_equal((uint32_t)fh, (uint32_t)refused);
	recover_tables(&f->tab); /* and death */
	assert_false(ofile_at(f->t, (uint64_t)fh)->closing);
	assert_int_equal(node_at(f->t, a)->nlookup, 1);
	end(rec);
	heir(f);
	ofile_drop(f->t, (uint32_t)fh);
	forget(f, a, 1);
}

static void what_a_dead_daemon_counted_for_itself_is_over(void **state)
{
	struct fixture *f = *state;
	uint64_t a = look_up(f, 1);
	int64_t fh;

	(void)node_opened(f->t, a, true, false);
	(void)node_opened(f->t, a, true, false); /* died before it had a file */
	fh = ofile_new(f->t, a, false);
	ofile_at(f->t, (uint64_t)fh)->writable = true;
	assert_true(node_get_fd(f->t, a) >= 0);
	heir(f);
	assert_int_equal(node_at(f->t, a)->writers, 1); /* of the file that is open */
	assert_int_equal(node_at(f->t, a)->pins, 0);
	assert_true(node_unsettled(f->t, node_at(f->t, a)));
	node_closed(f->t, a, true);
	ofile_drop(f->t, (uint32_t)fh);
	assert_false(node_unsettled(f->t, node_at(f->t, a)));
	(void)node_opened(f->t, a, true, false);
	assert_true(node_unsettled(f->t, node_at(f->t, a)));
	heir(f);
	assert_false(node_unsettled(f->t, node_at(f->t, a)));
	assert_int_equal(node_opened(f->t, a, false, true), 1); /* no writer beside it */
	forget(f, a, 1);
}

static void one_that_died_on_its_way_is_put_where_it_belongs(void **state)
{
	struct fixture *f = *state;
	uint64_t a = look_up(f, 1), b = look_up(f, 2), c;
	uint32_t slot;

	forget(f, a, 1);
	slot = tables_take(&f->tab); /* and died */
	assert_int_equal(slot, a);
	assert_false(tables_whole(&f->tab));
	tables_redo(&f->tab);
	assert_true(tables_whole(&f->tab));
	slot = tables_take(&f->tab);
	f->tab.node[slot].ino = f->tab.node[b].ino; /* and died when it was found already, before it was counted */
	f->tab.node[slot].dev = f->tab.node[b].dev;
	tables_hash(&f->tab, slot);
	tables_redo(&f->tab);
	tables_redo(&f->tab);
	assert_true(tables_whole(&f->tab));
	heir(f);
	c = look_up(f, 2);
	assert_int_equal(c, b);
	assert_int_equal(look_up(f, 1), a);
	forget(f, a, 1);
	forget(f, b, 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, up, down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(lists_and_totals_follow_the_slots),
		TEST(what_was_taken_back_already_is_not_taken_from_another),
		TEST(what_a_dead_daemon_counted_for_itself_is_over),
		TEST(one_that_died_on_its_way_is_put_where_it_belongs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
