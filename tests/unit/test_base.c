/* tests/unit/test_base.c - the text buffer, the operator's error, and waiting for a child. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/await.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/vbuf.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void the_deepest_layer_speaks_first(void **state)
{
	struct snap_error e = { 0, "" };

	assert_int_equal(snap_error_set(&e, -ENOSPC, "no room in %s", "/a"), -ENOSPC);
	assert_int_equal(snap_error_set(&e, -EIO, "snapshot failed"), -ENOSPC);
	assert_string_equal(e.msg, "no room in /a");
	snap_error_clear(&e);
	assert_int_equal(snap_error_set(&e, 0, "a success is no error"), -EIO);
	assert_int_equal(snap_error_set(NULL, -EBUSY, "nobody listens"), -EBUSY);
}

static void a_long_message_says_that_it_was_cut(void **state)
{
	struct snap_error e = { 0, "" };
	char text[2 * SNAP_ERROR_MAX];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	snap_error_set(&e, -EIO, "%s", text);
	assert_int_equal(strlen(e.msg), SNAP_ERROR_MAX - 1);
	assert_string_equal(e.msg + SNAP_ERROR_MAX - 4, "...");
}

static void text_grows_past_every_step(void **state)
{
	struct vbuf b = VBUF_INIT;

	assert_string_equal(vbuf_text(&b), "");
	for (int i = 0; i < 1000; i++)
		vbuf_printf(&b, "%04d\n", i);
	assert_int_equal(vbuf_error(&b), 0);
	assert_int_equal(b.len, 5000);
	assert_string_equal(vbuf_text(&b) + 4995, "0999\n");
	vbuf_free(&b);
	assert_null(b.data);
}

static void the_first_error_sticks(void **state)
{
	struct vbuf b = VBUF_INIT;

	vbuf_puts(&b, "kept");
	vbuf_add(&b, "x", SIZE_MAX / 2);
	vbuf_puts(&b, "not added");
	assert_int_equal(vbuf_error(&b), -ENOMEM);
	assert_string_equal(vbuf_text(&b), "kept");
	vbuf_free(&b);
}

static void json_always_parses(void **state)
{
	struct vbuf b = VBUF_INIT;

	vbuf_json(&b, "a\"b\\c\n\x01\x7f\xc3\xa9\xff\xed\xa0\x80");
	assert_string_equal(vbuf_text(&b), "a\\\"b\\\\c\\n\\u0001\\u007f\xc3\xa9\xef\xbf\xbd"
					   "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
	vbuf_free(&b);
}

static void what_others_chose_stays_within_its_line(void **state)
{
	static const struct {
		const char *text, *line, *word;
	} texts[] = {
		{ "", "", "-" },
		{ "cron", "cron", "cron" },
		{ "x\nhard yes\ty\x7f\x01", "x_hard yes_y__", "x_hard_yes_y__" },
		{ "\xc3\xa9t\xc3\xa9", "\xc3\xa9t\xc3\xa9", "\xc3\xa9t\xc3\xa9" },
		{ "more than twenty bytes of it", "more than twenty bytes of it", "more_than_twenty_byt" },
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct vbuf line = VBUF_INIT, word = VBUF_INIT;

		vbuf_line(&line, texts[i].text);
		vbuf_word(&word, texts[i].text, 20);
		assert_string_equal(vbuf_text(&line), texts[i].line);
		assert_string_equal(vbuf_text(&word), texts[i].word);
		vbuf_free(&line);
		vbuf_free(&word);
	}
}

/* A child that exits with `code`, or sleeps (-1). */
static pid_t child(int code)
{
	pid_t pid = fork();

	if (pid == 0) {
		if (code < 0)
			(void)pause();
		_exit(code);
	}
	assert_true(pid > 0);
	return pid;
}

static int waited(pid_t pid, uint64_t ms, const _Atomic int *stop, bool *ended)
{
	return await_child(pid, clock_boot_ns() + ms * NS_PER_MS, stop, ended);
}

static void killed(pid_t pid)
{
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void a_childs_end_is_its_errno(void **state)
{
	bool ended = false;
	pid_t pid;

	assert_int_equal(waited(child(0), 10000, NULL, &ended), 0);
	assert_true(ended);
	ended = false;
	assert_int_equal(waited(child(ETIMEDOUT), 10000, NULL, &ended), -ETIMEDOUT);
	assert_true(ended); /* its own */
	pid = child(-1);
	assert_int_equal(kill(pid, SIGKILL), 0);
	ended = false;
	assert_int_equal(waited(pid, 10000, NULL, &ended), -EIO);
	assert_true(ended);
	assert_int_equal(waited(pid, 10000, NULL, &ended), -ECHILD);
	assert_true(ended); /* not to be killed: it may be anybody by now */
}

static void a_child_that_goes_on_is_the_callers(void **state)
{
	_Atomic int stop = 0;
	pid_t pid = child(-1);
	bool ended = true;

	assert_int_equal(waited(pid, 20, &stop, &ended), -ETIMEDOUT);
	assert_false(ended);
	assert_int_equal(waited(pid, 0, NULL, &ended), -ETIMEDOUT);
	stop = 1;
	ended = true;
	assert_int_equal(waited(pid, 10000, &stop, &ended), -ECANCELED);
	assert_false(ended);
	killed(pid);
}

/* A process with no descriptor to spare waits all the same. */
static void without_a_descriptor_it_looks(void **state)
{
	struct rlimit before, none;
	pid_t pid = child(ENOSPC);
	bool ended = false;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	none = (struct rlimit){ .rlim_max = before.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	assert_int_equal(waited(pid, 10000, NULL, &ended), -ENOSPC);
	assert_true(ended);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_deepest_layer_speaks_first),
		cmocka_unit_test(a_long_message_says_that_it_was_cut),
		cmocka_unit_test(text_grows_past_every_step),
		cmocka_unit_test(the_first_error_sticks),
		cmocka_unit_test(json_always_parses),
		cmocka_unit_test(what_others_chose_stays_within_its_line),
		cmocka_unit_test(a_childs_end_is_its_errno),
		cmocka_unit_test(a_child_that_goes_on_is_the_callers),
		cmocka_unit_test(without_a_descriptor_it_looks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
