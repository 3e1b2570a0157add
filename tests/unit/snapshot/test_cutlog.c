/* tests/unit/snapshot/test_cutlog.c - the journal of a cut-over: cut at every byte, changed at every byte, on a disk that is
 * full or fails, and with another process that wants it. */
#include "tests/unit/snapshot/unit.h"
#include "snapshot/cutover/cutlog.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char top[256], dir[300];
static struct snap_error err;
static int fail_sync;

int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
	if (fail_sync && --fail_sync == 0) {
		errno = EIO;
		return -1;
	}
	return __real_fsync(fd);
}

static int setup(void **state)
{
	scratch_make(top, sizeof(top));
	(void)snprintf(dir, sizeof(dir), "%s/a/b", top);
	snap_error_clear(&err);
	fail_sync = 0;
	return 0;
}

static int teardown(void **state)
{
	scratch_remove(top);
	return 0;
}

static struct cutlog *opened(bool write)
{
	struct cutlog *l = cutlog_open(dir, write, &err);

	if (!l)
		fail_msg("%s", err.msg);
	return l;
}

static void assert_line(struct cutlog *l, size_t i, const char *step, const char *text)
{
	assert_string_equal(cutlog_line(l, i).step, step);
	assert_string_equal(cutlog_line(l, i).text, text);
	assert_int_equal(strlen(cutlog_line(l, i).time), 24);
}

static void steps_are_read_back_by_another_process(void **state)
{
	struct cutlog *l = opened(true);
	struct stat st;

	assert_int_equal(cutlog_id(l), 0);
	assert_true(cutlog_ended(l));
	assert_int_equal(cutlog_begin(l, "from=/a b to=/c", &err), 0);
	assert_int_equal(cutlog_add(l, "fencing", "", &err), 0);
	assert_int_equal(cutlog_add(l, "final", "0-1-5,\n0-2-7 #deadbeef", &err), 0);
	l = cutlog_close(l);
	l = opened(true);
	assert_int_equal(cutlog_id(l), 1);
	assert_false(cutlog_ended(l));
	assert_int_equal(cutlog_lines(l), 3);
	assert_line(l, 0, "begin", "from=/a b to=/c");
	assert_line(l, 1, "fencing", "");
	assert_line(l, 2, "final", "0-1-5, 0-2-7 #deadbeef");
	assert_string_equal(cutlog_last(l, "begin"), "from=/a b to=/c");
	assert_null(cutlog_last(l, "fence"));
	assert_int_equal(stat(dir, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	cutlog_close(l);
}

static void one_that_has_not_ended_keeps_the_next_from_beginning(void **state)
{
	struct cutlog *l = opened(true);

	assert_int_equal(cutlog_begin(l, "one", &err), 0);
	assert_int_equal(cutlog_begin(l, "two", &err), -EEXIST);
	assert_says(err.msg, "cut-over 1 has not ended");
	snap_error_clear(&err);
	assert_int_equal(cutlog_add(l, "end", "aborted", &err), 0);
	assert_int_equal(cutlog_begin(l, "two", &err), 0);
	assert_int_equal(cutlog_id(l), 2);
	assert_int_equal(cutlog_select(l, 1, &err), 0);
	assert_true(cutlog_ended(l));
	assert_line(l, 0, "begin", "one");
	assert_int_equal(cutlog_select(l, 3, &err), -ENOENT);
	snap_error_clear(&err);
	assert_int_equal(cutlog_select(l, 2, &err), 0);
	assert_int_equal(cutlog_add(l, "end", "", &err), 0);
	assert_int_equal(cutlog_lines(l), 2);
	cutlog_close(l);
}

static void one_process_at_a_time(void **state)
{
	struct cutlog *l = opened(true), *reader;

	assert_null(cutlog_open(dir, true, &err));
	assert_int_equal(err.code, -EBUSY);
	reader = opened(false);
	assert_true(cutlog_busy(reader));
	cutlog_close(l);
	assert_false(cutlog_busy(reader));
	cutlog_close(reader);
	cutlog_close(opened(true));
}

static void a_reader_makes_nothing(void **state)
{
	struct cutlog *l = opened(false);

	assert_int_equal(cutlog_id(l), 0);
	assert_false(cutlog_busy(l));
	assert_false(file_there(top, "a"));
	cutlog_close(l);
}

static void three_steps(void)
{
	struct cutlog *l = opened(true);

	assert_int_equal(cutlog_begin(l, "x", &err), 0);
	assert_int_equal(cutlog_add(l, "fencing", "", &err), 0);
	assert_int_equal(cutlog_add(l, "sending", "y", &err), 0);
	cutlog_close(l);
}

/* The steps whose line is whole are there, no more and no less; and the next one can be written. */
static void cut_at_every_byte(void **state)
{
	char path[340];
	char *whole;
	size_t len;

	three_steps();
	whole = file_get(dir, "1.journal");
	len = strlen(whole);
	(void)snprintf(path, sizeof(path), "%s/1.journal", dir);
	for (size_t cut = 0; cut < len; cut++) {
		unsigned lines = 0;
		struct cutlog *l;

		for (size_t i = 0; i < cut; i++)
			lines += whole[i] == '\n';
		file_put(dir, "1.journal", whole);
		assert_int_equal(truncate(path, (off_t)cut), 0);
		l = opened(true);
		assert_int_equal(cutlog_lines(l), lines);
		assert_int_equal(cutlog_id(l), lines ? 1 : 0);
		if (lines) {
			assert_int_equal(cutlog_add(l, "again", "", &err), 0);
			assert_line(l, lines, "again", "");
		} else {
			assert_int_equal(cutlog_begin(l, "again", &err), 0);
			assert_int_equal(cutlog_id(l), 1);
		}
		cutlog_close(l);
		l = opened(false);
		assert_int_equal(cutlog_lines(l), lines + 1);
		cutlog_close(l);
	}
	free(whole);
}

static void a_byte_that_changed_is_found(void **state)
{
	char *whole;
	size_t len;

	three_steps();
	whole = file_get(dir, "1.journal");
	len = strlen(whole);
	for (size_t i = 0; i < len; i++) {
		char *bad = strdup(whole);
		struct cutlog *l;

		bad[i] = bad[i] == '7' ? 'q' : '7';
		file_put(dir, "1.journal", bad);
		snap_error_clear(&err);
		l = cutlog_open(dir, false, &err);
		if (i < len - 1) {
			assert_null(l);
			assert_int_equal(err.code, -EIO);
			assert_says(err.msg, "damaged");
		} else { /* without its newline the last line is a torn one */
			assert_int_equal(cutlog_lines(l), 2);
		}
		cutlog_close(l);
		free(bad);
	}
	free(whole);
}

/* The file grew before its data came: zeros. */
static void zeros_at_the_end_are_a_torn_line(void **state)
{
	char path[340];
	struct cutlog *l;

	three_steps();
	(void)snprintf(path, sizeof(path), "%s/1.journal", dir);
	assert_int_equal(truncate(path, 4096), 0);
	l = opened(true);
	assert_int_equal(cutlog_lines(l), 3);
	assert_int_equal(cutlog_add(l, "end", "", &err), 0);
	cutlog_close(l);
	l = opened(false);
	assert_true(cutlog_ended(l));
	cutlog_close(l);
}

static void a_failed_sync_is_the_end_of_the_journal(void **state)
{
	struct cutlog *l = opened(true);

	assert_int_equal(cutlog_begin(l, "x", &err), 0);
	fail_sync = 1;
	assert_int_equal(cutlog_add(l, "sending", "", &err), -ESTALE);
	snap_error_clear(&err);
	assert_int_equal(cutlog_add(l, "unfencing", "", &err), -ESTALE);
	assert_says(err.msg, "a sync failed");
	assert_int_equal(cutlog_lines(l), 1);
	cutlog_close(l);
}

static void a_relative_directory_is_refused(void **state)
{
	assert_null(cutlog_open("cutover", true, &err));
	assert_int_equal(err.code, -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(steps_are_read_back_by_another_process, setup, teardown),
		cmocka_unit_test_setup_teardown(one_that_has_not_ended_keeps_the_next_from_beginning, setup, teardown),
		cmocka_unit_test_setup_teardown(one_process_at_a_time, setup, teardown),
		cmocka_unit_test_setup_teardown(a_reader_makes_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(cut_at_every_byte, setup, teardown),
		cmocka_unit_test_setup_teardown(a_byte_that_changed_is_found, setup, teardown),
		cmocka_unit_test_setup_teardown(zeros_at_the_end_are_a_torn_line, setup, teardown),
		cmocka_unit_test_setup_teardown(a_failed_sync_is_the_end_of_the_journal, setup, teardown),
		cmocka_unit_test_setup_teardown(a_relative_directory_is_refused, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
