/* tests/unit/snapshot/test_snap_parse.c - writes to `snapshot`: what is taken, and what is refused with
 * which sentence. */
#include "tests/unit/snapshot/unit.h"
#include "snapshot/set.h"
#include "snapshot/snap_parse.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define N62 "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
#define X10 "xxxxxxxxxx"
#define X50 X10 X10 X10 X10 X10
#define X250 X50 X50 X50 X50 X50

static const struct good {
	const char *text;
	const char *name, *class, *description, *tags;
	bool pin, nowait;
} good[] = {
	{ "", "", "manual", "", "", false, false },
	{ "\n", "", "manual", "", "", false, false },
	{ "  \t \n", "", "manual", "", "", false, false },
	{ "a", "a", "manual", "", "", false, false },
	{ "nightly-1.2_3\n", "nightly-1.2_3", "manual", "", "", false, false },
	{ N62 "._\n", N62 "._", "manual", "", "", false, false },
	{ "\t one \t pin  nowait \n", "one", "manual", "", "", true, true },
	{ "pin pin\n", "", "manual", "", "", true, false },
	{ "class=nightly\n", "", "nightly", "", "", false, false },
	{ "class=a class=b\n", "", "b", "", "", false, false },
	{ "class=" N62 "\n", NULL, NULL, NULL, NULL, false, false }, /* 62 > 47 */
	{ "class=ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstu\n", "",
	  "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstu", "", "", false, false }, /* 47 */
	{ "x description=\"before the upgrade\"\n", "x", "manual", "before the upgrade", "", false, false },
	{ "x description=word\n", "x", "manual", "word", "", false, false },
	{ "x description=\n", "x", "manual", "", "", false, false },
	{ "x \"description=whole word quoted\"\n", "x", "manual", "whole word quoted", "", false, false },
	{ "x description=a\" b \"c\n", "x", "manual", "a b c", "", false, false },
	{ "x description=\"say \\\"hi\\\" \\\\ \\n\"\n", "x", "manual", "say \"hi\" \\ n", "", false, false },
	{ "x description=a\\b\n", "x", "manual", "a\\b", "", false, false }, /* outside quotes: itself */
	{ "x description=\"\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80\"\n", "x", "manual",
	  "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", "", false, false },
	{ "x description=" X250 "yyyyy\n", "x", "manual", X250 "yyyyy", "", false, false }, /* 255 */
	{ "\"quoted\" \"pin\"\n", "quoted", "manual", "", "", true, false },
	{ "x tag=a:b tag=c:\n", "x", "manual", "", "a:b\nc:\n", false, false },
	{ "x tag=\"a key:a value:with colon\"\n", "x", "manual", "", "a key:a value:with colon\n", false, false },
	{ "x tag=AWS:x\n", "x", "manual", "", "AWS:x\n", false, false },
	{ "tag=a:b\n", "", "manual", "", "a:b\n", false, false },
};

static const struct bad {
	const char *text;
	size_t len; /* 0: strlen */
	const char *says;
} bad[] = {
	{ ".hidden\n", 0, "bad name \".hidden\": expected a letter or digit, then at most 63 of letters, digits, . _ -" },
	{ "-x\n", 0, "bad name \"-x\"" },
	{ "_x\n", 0, "bad name \"_x\"" },
	{ "a/b\n", 0, "bad name \"a/b\"" },
	{ "\"a b\"\n", 0, "bad name \"a b\"" },
	{ "..\n", 0, "bad name \"..\"" },
	{ "\xc3\xa9\n", 0, "bad name" },
	{ "\"\"\n", 0, "bad name \"\"" },
	{ N62 "xyz\n", 0, "bad name" }, /* 65 */
	{ "a b\n", 0, "unknown word \"b\"; expected [NAME] [class=C]" },
	{ "pin name\n", 0, "unknown word \"name\"" }, /* a name comes first */
	{ "a Pin\n", 0, "unknown word \"Pin\"" },
	{ "a=b\n", 0, "unknown word \"a=b\"" },
	{ "x clas=b\n", 0, "unknown word \"clas=b\"" },
	{ "class=\n", 0, "class=: expected a letter or digit, then at most 46" },
	{ "class=.x\n", 0, "class=.x: expected" },
	{ "class=ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuv\n", 0, "at most 46" }, /* 48 */
	{ "x description=" X250 "yyyyyy\n", 0, "the description is longer than 255 bytes" },
	{ "x description=" X250 X250 X250 X250 "0123456789012345678901234\n", 0, "a word too long" },
	{ "x description=\"open\n", 0, "a quote is open" },
	{ "x description=\"open\\\"\n", 0, "a quote is open" },
	{ "x \"\n", 0, "a quote is open" },
	{ "x description=\xff\n", 0, "the description is not UTF-8" },
	{ "x description=\"\xc3\"\n", 0, "the description is not UTF-8" }, /* cut */
	{ "x description=\xc0\xaf\n", 0, "the description is not UTF-8" }, /* a slash, overlong */
	{ "x description=\xed\xa0\x80\n", 0, "the description is not UTF-8" }, /* a surrogate */
	{ "x tag=k:\xff\n", 0, "in UTF-8" },
	{ "x\ny\n", 0, "a control character" },
	{ "x\n\n", 0, "a control character" },
	{ "x\r\n", 0, "a control character" },
	{ "x description=\"\x1b[31m\"\n", 0, "a control character" },
	{ "x description=\x7f\n", 0, "a control character" },
	{ "x description=\"\\\t\"\n", 0, "a control character" },
	{ "x\0y\n", 4, "a control character" },
	{ "\0", 1, "a control character" },
	{ "x tag=a\n", 0, "tag=a: expected KEY:VALUE" },
	{ "x tag=:v\n", 0, "tag=:v: expected KEY:VALUE" },
	{ "x tag=aws:x\n", 0, "not beginning with aws:" },
	{ "x tag=" X50 X50 X10 X10 "12345678:v\n", 0, "expected KEY:VALUE" }, /* a key of 128 */
	{ "x tag=k:" X250 "123456\n", 0, "expected KEY:VALUE" }, /* a value of 256 */
};

static void good_requests_are_taken_whole(void **state)
{
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		const struct good *g = &good[i];
		struct snap_error err = { 0 };
		struct snap_request r;
		int ret = snap_parse(g->text, strlen(g->text), &r, &err);

		if (!g->name) {
			assert_int_equal(ret, -EINVAL);
			continue;
		}
		if (ret < 0)
			fail_msg("%s: %s", g->text, err.msg);
		assert_string_equal(r.name, g->name);
		assert_string_equal(r.class, g->class);
		assert_string_equal(r.description, g->description);
		assert_string_equal(r.tags, g->tags);
		assert_int_equal(r.pin, g->pin);
		assert_int_equal(r.nowait, g->nowait);
		assert_int_equal(err.code, 0);
	}
}

static void bad_requests_are_refused_and_change_nothing(void **state)
{
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		const struct bad *b = &bad[i];
		struct snap_error err = { 0 };
		static struct snap_request r, before;
		int ret;

		memset(&r, 'x', sizeof(r));
		before = r;
		ret = snap_parse(b->text, b->len ? b->len : strlen(b->text), &r, &err);
		if (ret != -EINVAL)
			fail_msg("taken: %s", b->text);
		assert_int_equal(err.code, -EINVAL);
		assert_says(err.msg, "snapshot: ");
		assert_says(err.msg, b->says);
		assert_memory_equal(&r, &before, sizeof(r));
	}
}

/* No byte behind `len` is looked at: the sanitizer watches the end of the block. */
static void the_text_need_not_end_in_nul(void **state)
{
	static const char text[] = "one description=\"a b\" tag=k:v pin";

	for (size_t len = 0; len < sizeof(text); len++) {
		char *exact = test_malloc(len + 1);
		struct snap_error err = { 0 };
		struct snap_request r;

		memcpy(exact + 1, text, len);
		(void)snap_parse(exact + 1, len, &r, &err);
		test_free(exact);
	}
}

static void no_more_tags_than_the_provider_takes(void **state)
{
	struct snap_error err = { 0 };
	static struct snap_request r;
	static char text[8192];
	size_t n = 0;

	for (int i = 0; i < SNAP_TAGS_MAX; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "tag=k%d:v ", i);
	assert_int_equal(snap_parse(text, n, &r, &err), 0);
	n += (size_t)snprintf(text + n, sizeof(text) - n, "tag=one:more");
	assert_int_equal(snap_parse(text, n, &r, &err), -EINVAL);
	assert_string_equal(err.msg, "snapshot: more than 40 tags, or too long");
}

static void tags_too_long_together_are_refused(void **state)
{
	struct snap_error err = { 0 };
	static struct snap_request r;
	static char text[16384];
	size_t n = 0;

	for (int i = 0; i < 15; i++) /* 15 * (4 + 250 + 1) = 3825 fit into 4096, a 17th does not */
		n += (size_t)snprintf(text + n, sizeof(text) - n, "tag=k%02d:" X250 " ", i);
	assert_int_equal(snap_parse(text, n, &r, &err), 0);
	assert_int_equal(strlen(r.tags), 15 * (4 + 250 + 1));
	n += (size_t)snprintf(text + n, sizeof(text) - n, "tag=k15:" X250 " tag=k16:" X250);
	assert_int_equal(snap_parse(text, n, &r, &err), -EINVAL);
	assert_says(err.msg, "or too long");
}

static void every_control_byte_and_half_character_is_refused(void **state)
{
	for (int c = 0; c < 256; c++) {
		char text[] = { 'x', ' ', 'd', 'e', 's', 'c', 'r', 'i', 'p', 't', 'i', 'o', 'n', '=', '"', (char)c, '"' };
		struct snap_error err = { 0 };
		struct snap_request r;
		int want = c < 0x20 || c >= 0x7f || c == '"' || c == '\\' ? -EINVAL : 0;

		/* a tab is white space outside quotes and a control byte inside */
		assert_int_equal(snap_parse(text, sizeof(text), &r, &err), want);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_requests_are_taken_whole),
		cmocka_unit_test(bad_requests_are_refused_and_change_nothing),
		cmocka_unit_test(the_text_need_not_end_in_nul),
		cmocka_unit_test(no_more_tags_than_the_provider_takes),
		cmocka_unit_test(tags_too_long_together_are_refused),
		cmocka_unit_test(every_control_byte_and_half_character_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
