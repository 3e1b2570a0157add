/* tests/unit/snapshot/test_fence_record.c - the fence's record, and the list of accounts that are let through. */
#include "tests/unit/snapshot/unit.h"
#include "snapshot/fence/fence.h"

#include <errno.h>
#include <string.h>

static void a_record_is_off_half_or_on(void **state)
{
	assert_int_equal(fence_record_state(""), FENCE_OFF);
	assert_int_equal(fence_record_state("server mysql x\nread_only OFF\n"), FENCE_HALF);
	assert_int_equal(fence_record_state("server mysql x\nundone yes\nnot_done yes\n"), FENCE_HALF);
	assert_int_equal(fence_record_state("server mysql x\ndone yes\n"), FENCE_ON);
	assert_int_equal(fence_record_state("done yes"), FENCE_ON);
}

static void a_key_is_a_whole_word_at_the_start_of_a_line(void **state)
{
	const char *record = "persisted_read_only -\nsuper_read_only ON\nread_only OFF\ninclude /a b/c\n";
	char v[32];

	assert_true(fence_record_get(record, "read_only", v, sizeof(v)));
	assert_string_equal(v, "OFF");
	assert_true(fence_record_get(record, "persisted_read_only", v, sizeof(v)));
	assert_string_equal(v, "-");
	assert_true(fence_record_get(record, "include", v, sizeof(v)));
	assert_string_equal(v, "/a b/c");
	assert_false(fence_record_get(record, "read", v, sizeof(v)));
	assert_false(fence_record_get(record, "OFF", v, sizeof(v)));
	assert_true(fence_record_get(record, "include", v, 4));
	assert_string_equal(v, "/a ");
}

static void a_line_that_is_dropped_leaves_the_others_as_they_are(void **state)
{
	static const struct {
		const char *before, *after;
	} records[] = {
		{ "", "" },
		{ "done yes\n", "" },
		{ "server x\ndone yes\nread_only OFF\n", "server x\nread_only OFF\n" },
		{ "undone yes\nwhat is done yes\ndone yes", "undone yes\nwhat is done yes\n" },
		{ "server x\ndoner yes", "server x\ndoner yes" },
	};

	for (size_t i = 0; i < sizeof(records) / sizeof(records[0]); i++) {
		struct vbuf b = VBUF_INIT;

		vbuf_puts(&b, records[i].before);
		fence_record_drop(&b, "done");
		assert_string_equal(vbuf_text(&b), records[i].after);
		assert_int_equal(vbuf_error(&b), 0);
		vbuf_free(&b);
	}
}

static const struct {
	const char *list, *user, *host;
	bool allowed;
} lists[] = {
	{ "", "root", "localhost", false },
	{ "root@localhost", "root", "localhost", true },
	{ "root@localhost", "root", "LOCALHOST", true },
	{ "root@localhost", "Root", "localhost", false },
	{ "root@localhost", "root", "localhost.example", false },
	{ "root@localhost", "root", "", false },
	{ "a@b, 'root'@'localhost' ,c@d", "root", "localhost", true },
	{ "`root`@`%`", "root", "10.1.2.3", true },
	{ "root@%", "root", "%", true },
	{ "root@10.1.%", "root", "10.1.2.3", true },
	{ "root@10.1.%", "root", "10.11.2.3", false },
	{ "root@10.1.%", "toor", "10.1.2.3", false },
	{ "root@10._.2", "root", "10.1.2", true },
	{ "root@10._.2", "root", "10.12.2", false },
	{ "root@%.example", "root", "a.b.example", true },
	{ "root@%.example", "root", "a.b.example.org", false },
	{ "odd@name@host", "odd@name", "host", true },
	{ "odd@name@host", "odd", "host", false },
	{ "@localhost", "", "localhost", true }, /* the anonymous account */
	{ "root", "root", "localhost", false },
	{ "root@", "root", "", false },
	{ ",,", "", "", false },
};

static void an_account_is_let_through_by_user_and_host(void **state)
{
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
		if (fence_allowed(lists[i].list, lists[i].user, lists[i].host) != lists[i].allowed)
			fail_msg("\"%s\": %s@%s: expected %d", lists[i].list, lists[i].user, lists[i].host, lists[i].allowed);
}

static void an_entry_without_a_host_is_refused(void **state)
{
	static const char *const bad[] = { "root", "a@b,root", "root@", "a@b, root ,c@d", NULL };
	struct snap_error err;

	for (int i = 0; bad[i]; i++) {
		err = (struct snap_error){ 0 };
		assert_int_equal(fence_allow_check(bad[i], &err), -EINVAL);
		assert_non_null(strstr(err.msg, "root"));
		assert_non_null(strstr(err.msg, "USER@HOST"));
	}
	assert_int_equal(fence_allow_check("", &err), 0);
	assert_int_equal(fence_allow_check("a@b, ,c@d,", &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_record_is_off_half_or_on),
		cmocka_unit_test(a_key_is_a_whole_word_at_the_start_of_a_line),
		cmocka_unit_test(a_line_that_is_dropped_leaves_the_others_as_they_are),
		cmocka_unit_test(an_account_is_let_through_by_user_and_host),
		cmocka_unit_test(an_entry_without_a_host_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
