/* tests/unit/snapshot/test_conf.c - base/conf.c: what each type takes, what it refuses and how it says so. */
#include "tests/unit/snapshot/unit.h"
#include "base/conf.h"

#include <errno.h>
#include <string.h>

static const struct conf_key table[] = {
	{ "name", CONF_STRING, "", NULL, 0, 0, "", "" },
	{ "lock", CONF_STRING, "auto", "auto|backup|none", 0, 0, "", "" },
	{ "dir", CONF_PATH, "", NULL, 0, 0, "", "" },
	{ "freeze", CONF_BOOL, "no", NULL, 0, 0, "", "" },
	{ "tries", CONF_COUNT, "3", NULL, 1, 20, "", "" },
	{ "timeout", CONF_MS, "10", NULL, 100, 50000, "", "" },
	{ "bytes", CONF_SIZE, "1G", NULL, 1024, UINT64_MAX, "", "" },
	{ "pair", CONF_LIST, "", NULL, 0, 0, "", "" },
	{ NULL, CONF_STRING, NULL, NULL, 0, 0, NULL, NULL },
};

static int setup(void **state)
{
	*state = conf_new(table, NULL);
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	conf_free(*state);
	return 0;
}

static const struct given {
	const char *key, *value;
	int code;
	uint64_t num; /* of a number, when code is 0 */
	const char *text; /* of a text when code is 0, else what the message says behind "KEY=VALUE: " */
} given[] = {
	{ "freeze", "yes", 0, 1, NULL }, { "freeze", "true", 0, 1, NULL }, { "freeze", "on", 0, 1, NULL },
	{ "freeze", "1", 0, 1, NULL }, { "freeze", "no", 0, 0, NULL }, { "freeze", "false", 0, 0, NULL },
	{ "freeze", "off", 0, 0, NULL }, { "freeze", "0", 0, 0, NULL },
	{ "freeze", "", -EINVAL, 0, "expected yes or no" }, { "freeze", "Yes", -EINVAL, 0, "expected yes or no" },
	{ "freeze", "2", -EINVAL, 0, "expected yes or no" },
	{ "tries", "1", 0, 1, NULL }, { "tries", "20", 0, 20, NULL }, { "tries", "007", 0, 7, NULL },
	{ "tries", "0", -ERANGE, 0, "expected a number from 1 to 20" },
	{ "tries", "21", -ERANGE, 0, "expected a number from 1 to 20" },
	{ "tries", "18446744073709551617", -ERANGE, 0, "expected a number" }, /* would be 1 */
	{ "tries", "-1", -EINVAL, 0, "expected a number" }, { "tries", "+1", -EINVAL, 0, "expected a number" },
	{ "tries", " 1", -EINVAL, 0, "expected a number" }, { "tries", "1 ", -EINVAL, 0, "expected a number" },
	{ "tries", "1k", -EINVAL, 0, "expected a number" }, { "tries", "0x10", -EINVAL, 0, "expected a number" },
	{ "tries", "", -EINVAL, 0, "expected a number" },
	{ "timeout", "1", 0, 1000, NULL }, { "timeout", "0.5", 0, 500, NULL }, { "timeout", "100ms", 0, 100, NULL },
	{ "timeout", "2s", 0, 2000, NULL }, { "timeout", "0.5m", 0, 30000, NULL }, { "timeout", "50", 0, 50000, NULL },
	{ "timeout", "0.0001h", 0, 360, NULL },
	{ "timeout", "99ms", -ERANGE, 0, "expected a time from 0.1 to 50 s" },
	{ "timeout", "50.1", -ERANGE, 0, "expected a time from 0.1 to 50 s" },
	{ "timeout", "1h", -ERANGE, 0, "expected a time" }, { "timeout", "1e300", -ERANGE, 0, "expected a time" },
	{ "timeout", "inf", -EINVAL, 0, "expected a time" }, { "timeout", "nan", -EINVAL, 0, "expected a time" },
	{ "timeout", "0x10", -EINVAL, 0, "expected a time" }, { "timeout", "-1", -EINVAL, 0, "expected a time" },
	{ "timeout", "1 s", -EINVAL, 0, "expected a time" }, { "timeout", "1min", -EINVAL, 0, "expected a time" },
	{ "timeout", "1d", -EINVAL, 0, "expected a time" }, { "timeout", "", -EINVAL, 0, "expected a time" },
	{ "bytes", "1024", 0, 1024, NULL }, { "bytes", "1K", 0, 1024, NULL }, { "bytes", "1k", 0, 1024, NULL },
	{ "bytes", "2M", 0, 2u << 20, NULL }, { "bytes", "3GiB", 0, 3ull << 30, NULL }, { "bytes", "4TB", 0, 4ull << 40, NULL },
	{ "bytes", "16777215T", 0, 16777215ull << 40, NULL },
	{ "bytes", "16777217T", -ERANGE, 0, "expected a number" }, /* 2^64 and 1T */
	{ "bytes", "1023", -ERANGE, 0, "expected a number from 1024 to 18446744073709551615" },
	{ "bytes", "1P", -EINVAL, 0, "expected a number" }, { "bytes", "1KB ", -EINVAL, 0, "expected a number" },
	{ "bytes", "K", -EINVAL, 0, "expected a number" }, { "bytes", "1.5G", -EINVAL, 0, "expected a number" },
	{ "dir", "/a b", 0, 0, "/a b" }, { "dir", "", 0, 0, "" },
	{ "dir", "a", -EINVAL, 0, "expected an absolute path" }, { "dir", "./a", -EINVAL, 0, "expected an absolute path" },
	{ "lock", "backup", 0, 0, "backup" }, { "lock", "none", 0, 0, "none" },
	{ "lock", "back", -EINVAL, 0, "expected one of auto|backup|none" },
	{ "lock", "auto|backup", -EINVAL, 0, "expected one of" }, { "lock", "", -EINVAL, 0, "expected one of" },
	{ "lock", "|", -EINVAL, 0, "expected one of" },
	{ "name", "any text = \"x\"", 0, 0, "any text = \"x\"" }, { "name", "", 0, 0, "" },
	{ "name", "two\nlines", -EINVAL, 0, "expected text without control characters" }, { "name", "bell\a", -EINVAL, 0, "expected" },
	{ "name", "\x7f", -EINVAL, 0, "expected" }, { "pair", "/a:/b\n/c:/d", -EINVAL, 0, "without control characters" },
};

static void each_type_takes_its_own(void **state)
{
	for (size_t i = 0; i < sizeof(given) / sizeof(given[0]); i++) {
		const struct given *g = &given[i];
		struct conf *c = conf_new(table, NULL);
		struct snap_error err = { 0 };
		int r = conf_set(c, "here", g->key, g->value, &err);

		if (r != g->code)
			fail_msg("%s=%s: %d, not %d", g->key, g->value, r, g->code);
		assert_int_equal(conf_is_set(c, g->key), g->code == 0);
		if (r < 0) {
			assert_int_equal(strncmp(err.msg, "here: ", 6), 0);
			assert_says(err.msg, g->text);
		} else if (g->text) {
			assert_string_equal(conf_str(c, g->key), g->text);
		} else if (strcmp(g->key, "freeze") == 0) {
			assert_int_equal(conf_bool(c, g->key), g->num);
		} else {
			assert_true(conf_num(c, g->key) == g->num);
		}
		conf_free(c);
	}
}

static void a_refused_value_leaves_the_one_before(void **state)
{
	struct conf *c = *state;

	assert_int_equal(conf_set(c, "-o", "timeout", "20", NULL), 0);
	assert_int_equal(conf_set(c, "-o", "timeout", "1h", NULL), -ERANGE);
	assert_int_equal(conf_num(c, "timeout"), 20000);
	assert_int_equal(conf_set(c, "-o", "timeout", "30", NULL), 0); /* the last one counts */
	assert_int_equal(conf_num(c, "timeout"), 30000);
}

static void an_unknown_key_names_its_neighbour(void **state)
{
	struct snap_error err = { 0 };
	char longest[200];

	assert_int_equal(conf_set(*state, "/etc/a.conf:3", "timeoout", "1", &err), -ENOENT);
	assert_string_equal(err.msg, "/etc/a.conf:3: unknown option \"timeoout\"; did you mean \"timeout\"?");
	snap_error_clear(&err);
	assert_int_equal(conf_set(*state, "-o", "something else", "1", &err), -ENOENT);
	assert_string_equal(err.msg, "-o: unknown option \"something else\"; --help lists them");
	snap_error_clear(&err);
	memset(longest, 'x', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	assert_int_equal(conf_set(*state, "-o", longest, "1", &err), -ENOENT);
	assert_says(err.msg, "--help lists them");
	assert_int_equal(conf_set(*state, "-o", "", "1", NULL), -ENOENT);
}

static void a_list_collects_and_renders_a_line_each(void **state)
{
	struct vbuf b = VBUF_INIT;

	assert_int_equal(conf_set(*state, "-o", "pair", "/a:/b", NULL), 0);
	assert_int_equal(conf_set(*state, "-o", "pair", "/c:/d", NULL), 0);
	assert_int_equal(conf_set(*state, "-o", "freeze", "on", NULL), 0);
	assert_string_equal(conf_str(*state, "pair"), "/a:/b\n/c:/d");
	conf_render(*state, &b);
	assert_string_equal(vbuf_text(&b), "name\nlock auto\ndir\nfreeze yes\ntries 3\ntimeout 10\nbytes 1G\n"
					   "pair /a:/b\npair /c:/d\n");
	vbuf_free(&b);
}

static void a_default_that_its_type_refuses_is_found_at_start(void **state)
{
	static const struct conf_key wrong[] = {
		{ "tries", CONF_COUNT, "99", NULL, 1, 20, "", "" },
		{ NULL, CONF_STRING, NULL, NULL, 0, 0, NULL, NULL },
	};
	struct snap_error err = { 0 };

	assert_null(conf_new(wrong, &err));
	assert_int_equal(err.code, -ERANGE);
	assert_string_equal(err.msg, "option tries: default \"99\" is refused");
	assert_null(conf_free(NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(each_type_takes_its_own),
		T(a_refused_value_leaves_the_one_before),
		T(an_unknown_key_names_its_neighbour),
		T(a_list_collects_and_renders_a_line_each),
		T(a_default_that_its_type_refuses_is_found_at_start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
