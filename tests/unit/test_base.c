/* tests/unit/test_base.c - the text buffer and the operator's error. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/error.h"
#include "base/vbuf.h"

#include <errno.h>
#include <string.h>

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_deepest_layer_speaks_first),
		cmocka_unit_test(a_long_message_says_that_it_was_cut),
		cmocka_unit_test(text_grows_past_every_step),
		cmocka_unit_test(the_first_error_sticks),
		cmocka_unit_test(json_always_parses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
