/* tests/unit/fs/test_early.c - which write is taken for the last one before an fsync. */
#include "fs/early.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>

#define NODE 7u
#define NOW 5000u

/* `writes` writes and an fsync: which of the writes begins writeback, counted from 1; 0: none, -1: more than one. */
static int group(struct early *e, unsigned writes, uint32_t size)
{
	int begun = 0;

	for (unsigned i = 1; i <= writes; i++)
		if (early_written(e, NODE, size))
			begun = begun ? -1 : (int)i;
	/* the fsync is told of it when it was the last one */
	assert_int_equal(early_synced(e, NODE, NOW), begun == (int)writes ? NOW : 0);
	return begun;
}

static int groups(struct early *e, unsigned n, unsigned writes)
{
	int begun = 0;

	for (unsigned i = 0; i < n; i++)
		begun = group(e, writes, 4096);
	return begun;
}

static struct early *fresh(void)
{
	struct early *e = calloc(1, sizeof(*e));

	assert_non_null(e);
	return e;
}

static void a_habit_is_three_groups_alike(void **state)
{
	struct early *e = fresh();

	/* the first one says how many writes, three more that it was no chance */
	for (int i = 0; i < 4; i++)
		assert_int_equal(group(e, 1, 4096), 0);
	assert_int_equal(group(e, 1, 4096), 1);
	free(e);
}

static void the_last_write_of_a_group_begins_it(void **state)
{
	struct early *e = fresh();

	assert_int_equal(groups(e, 5, 3), 3);
	assert_int_equal(groups(e, 20, 3), 3);
	free(e);
}

static void what_is_never_synced_begins_nothing(void **state)
{
	struct early *e = fresh();

	for (int i = 0; i < 1000; i++)
		assert_false(early_written(e, NODE, 4096));
	free(e);
}

static void groups_that_differ_begin_little(void **state)
{
	struct early *e = fresh();
	unsigned begun = 0;

	for (unsigned i = 0; i < 1000; i++)
		begun += group(e, 1 + i % 2, 4096) != 0;
	assert_int_equal(begun, 0);
	free(e);
}

static void a_habit_outlives_one_exception_and_not_two(void **state)
{
	struct early *e = fresh();

	assert_int_equal(groups(e, 20, 1), 1);
	(void)group(e, 2, 4096); /* the exception */
	assert_int_equal(group(e, 1, 4096), 0); /* one write is an exception now */
	assert_int_equal(groups(e, 4, 1), 1);
	assert_int_equal(groups(e, 20, 1), 1);
	(void)group(e, 2, 4096);
	(void)group(e, 3, 4096);
	assert_int_equal(groups(e, 4, 1), 0);
	free(e);
}

static void large_and_many_writes_are_no_log(void **state)
{
	struct early *e = fresh();

	for (int i = 0; i < 50; i++)
		assert_int_equal(group(e, 1, 1u << 20), 0);
	assert_int_equal(groups(e, 50, 8), 0);
	assert_int_equal(groups(e, 50, 100), 0);
	assert_int_equal(groups(e, 5, 7), 7);
	assert_int_equal(groups(e, 20, 1), 1); /* a log with a habit, and then two large transactions */
	assert_int_equal(group(e, 100, 4096), 1); /* the first write of the first one looks like its usual */
	assert_int_equal(group(e, 100, 4096), 0);
	assert_int_equal(groups(e, 20, 1), 1);
	for (int i = 0; i < 2; i++)
		assert_int_equal(group(e, 1, 1u << 20), 0);
	free(e);
}

static void an_fsync_of_nothing_changes_nothing(void **state)
{
	struct early *e = fresh();

	assert_int_equal(groups(e, 10, 1), 1);
	for (int i = 0; i < 10; i++)
		assert_int_equal(early_synced(e, NODE, NOW), 0);
	assert_int_equal(group(e, 1, 4096), 1);
	free(e);
}

static void an_fsync_is_told_since_when_the_device_is_at_work(void **state)
{
	struct early *e = fresh();

	assert_int_equal(groups(e, 10, 1), 1);
	assert_true(early_written(e, NODE, 4096));
	early_begun(e, NODE, 4000);
	assert_int_equal(early_synced(e, NODE, NOW), 4000);
	assert_true(early_written(e, NODE, 4096)); /* and nobody begins it */
	assert_int_equal(early_synced(e, NODE, NOW), NOW);
	assert_true(early_written(e, NODE, 4096));
	early_begun(e, NODE, 4000);
	assert_false(early_written(e, NODE, 4096)); /* more is written: what has begun is not all that it waits for */
	assert_int_equal(early_synced(e, NODE, NOW), 0);
	(void)early_written(e, NODE, 4096);
	assert_int_equal(early_synced(e, NODE, NOW), 0);
	assert_int_equal(groups(e, 5, 1), 1); /* nor was that left behind for the next one that is expected */
	free(e);
}

static void files_are_told_apart(void **state)
{
	struct early *e = fresh();

	assert_int_equal(groups(e, 10, 1), 1);
	assert_false(early_written(e, NODE + 1, 4096));
	assert_int_equal(early_synced(e, NODE + 1, NOW), 0);
	assert_int_equal(group(e, 1, 4096), 1);
	free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_habit_is_three_groups_alike),
		cmocka_unit_test(the_last_write_of_a_group_begins_it),
		cmocka_unit_test(what_is_never_synced_begins_nothing),
		cmocka_unit_test(groups_that_differ_begin_little),
		cmocka_unit_test(a_habit_outlives_one_exception_and_not_two),
		cmocka_unit_test(large_and_many_writes_are_no_log),
		cmocka_unit_test(an_fsync_of_nothing_changes_nothing),
		cmocka_unit_test(an_fsync_is_told_since_when_the_device_is_at_work),
		cmocka_unit_test(files_are_told_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
