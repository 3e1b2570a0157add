/* tests/unit/snapshot/test_retention.c - the policy's text, and what it says in the cases an operator would think of.
 * The random ones are in tests/integration/test_retention_rules.py. */
#include "tests/unit/snapshot/unit.h"
#include "snapshot/retention.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DAY 86400
#define NOW 1767225600 /* 2026-01-01T00:00:00Z */

static struct ret_policy p;
static struct snap_error err;

static int edit(const char *text)
{
	snap_error_clear(&err);
	return ret_edit(&p, "retention", text, strlen(text), &err);
}

static void must(const char *text)
{
	if (edit(text) < 0)
		fail_msg("%s", err.msg);
}

static void assert_policy(const char *want)
{
	struct vbuf b = VBUF_INIT;

	ret_print(&p, &b);
	assert_string_equal(vbuf_text(&b), want);
	vbuf_free(&b);
}

static int setup(void **state)
{
	ret_init(&p);
	return 0;
}

static void lines_change_what_they_name(void **state)
{
	must("keep_last 7\n");
	must("keep_daily 30\nkeep_last 3\nnightly.keep_weekly all\n");
	assert_policy("policy\ntimezone UTC\nkeep_last 3\nkeep_daily 30\nnightly.keep_weekly all\n");
	must("-keep_daily\ntimezone Europe/Berlin\nkeep_within 336h\n\n# a remark\n  min_keep\t2 \n");
	assert_policy("policy\ntimezone Europe/Berlin\nkeep_last 3\nkeep_within 2w\nmin_keep 2\nnightly.keep_weekly all\n");
}

static void tags_add_up(void **state)
{
	must("keep_tag why:audit\nkeep_tag keep\n");
	must("keep_tag why:law\n");
	assert_policy("policy\ntimezone UTC\nkeep_tag keep\nkeep_tag why:audit\nkeep_tag why:law\n");
	must("-keep_tag why:audit\n");
	assert_policy("policy\ntimezone UTC\nkeep_tag keep\nkeep_tag why:law\n");
	must("-keep_tag\n");
	assert_policy("policy\ntimezone UTC\n");
}

static void what_was_read_can_be_written_back(void **state)
{
	struct vbuf b = VBUF_INIT;
	static struct ret_policy before;

	must("timezone America/New_York\nkeep_last 7\na.b.keep_hourly 48\nkeep_tag k:v=w\nmax_age 90d\nmin_keep 3\n"
	     "failed_age 36h\nmanual.keep_yearly all\nkeep_within 90m\n");
	ret_print(&p, &b);
	before = p;
	must(vbuf_text(&b));
	assert_true(ret_equal(&p, &before));
	must("keep_last 8\nx.keep_last 1\n");
	assert_false(ret_equal(&p, &before));
	must(vbuf_text(&b)); /* it is the whole policy: what came since goes */
	assert_true(ret_equal(&p, &before));
	vbuf_free(&b);
}

static void wrong_text_changes_nothing_and_says_what_is_wrong(void **state)
{
	static const struct {
		const char *text, *words;
	} cases[] = {
		{ "keep_last 7", "retention: the last line does not end with a newline: it may be half of one" },
		{ "", "retention: nothing was written" },
		{ "keep_last\n", "retention: keep_last: its value is missing" },
		{ "keep_last 0\n", "keep_last \"0\": expected a number from 1 to 1000000, or all; -keep_last takes the rule away" },
		{ "keep_last -1\n", "expected a number" },
		{ "keep_last 7x\n", "expected a number" },
		{ "keep_last 99999999999999999999\n", "expected a number" },
		{ "keep_last 7 8\n", "line 1: expected one KEY VALUE a line" },
		{ "keep_lst 7\n", "retention: \"keep_lst\": unknown; the keys are keep_last" },
		{ "keep_last=7\n", "unknown; the keys are" },
		{ "keep_within 7\n", "keep_within \"7\": expected a number with m, h, d, w or y, such as 36h or 7d" },
		{ "keep_within 7d1\n", "such as 36h" },
		{ "max_age 101y\n", "at most 100y" },
		{ "-keep_daily\n", "-keep_daily: there is no such rule" },
		{ "-keep_last 7\n", "-keep_last takes no value" },
		{ ".keep_last 7\n", "what stands before .keep_last is no name of a class" },
		{ "a/b.keep_last 7\n", "is no name of a class" },
		{ "keep_tag :v\n", "keep_tag \":v\": expected KEY or KEY:VALUE" },
		{ "timezone Mars/Olympus\n", "timezone Mars/Olympus: there is no such zone in /usr/share/zoneinfo" },
		{ "timezone ../../etc/passwd\n", "expected a name such as UTC" },
		{ "timezone\n", "its value is missing" },
		{ "keep_last 3\npolicy\n", "line 2: \"policy\" stands alone in the first line" },
		{ "\x7f\x45LF\x02\x01\n", "unknown" },
	};

	must("keep_last 5\n");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char text[256];

		assert_int_equal(edit(cases[i].text), -EINVAL);
		assert_says(err.msg, cases[i].words);
		/* nor does what stands before it */
		(void)snprintf(text, sizeof(text), "keep_weekly 3\n%s", cases[i].text);
		if (*cases[i].text)
			assert_int_equal(edit(text), -EINVAL);
		assert_policy("policy\ntimezone UTC\nkeep_last 5\n");
	}
}

static void a_policy_is_no_longer_than_one_write(void **state)
{
	char line[300];

	for (int i = 0; i < 100; i++) {
		memset(line, 'v', sizeof(line));
		(void)snprintf(line, 20, "keep_tag k%03d:", i);
		line[strlen(line)] = 'v';
		(void)snprintf(line + 250, 2, "\n");
		if (edit(line) < 0)
			break;
	}
	assert_says(err.msg, "the policy is longer than 8192 bytes");
}

/* ---- judging ---- */

static struct ret_set sets[64];
static struct ret_result out[64];
static size_t n;

static struct ret_set *add(const char *name, const char *class, int64_t created)
{
	sets[n] = (struct ret_set){ .name = name, .class = class, .tags = "", .created = created, .seq = n + 1,
				    .complete = true };
	return &sets[n++];
}

static void judge(void)
{
	struct zone *z = zone_load(p.timezone, &err);

	assert_non_null(z);
	assert_int_equal(ret_judge(&p, z, sets, n, NOW, out), 0);
	zone_free(z);
}

static bool kept(const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(sets[i].name, name) == 0)
			return out[i].keep;
	fail_msg("no set %s", name);
	return false;
}

static int setup_sets(void **state)
{
	n = 0;
	ret_init(&p);
	return 0;
}

static void an_empty_policy_deletes_nothing(void **state)
{
	must("max_age 1h\nmin_keep 1\n");
	assert_true(ret_empty(&p));
	add("a", "nightly", NOW - 300 * DAY);
	add("b", "nightly", NOW - DAY);
	judge();
	assert_true(kept("a") && kept("b"));
	assert_int_equal(out[0].why, RET_BY_NO_RULE);
	must("keep_last 1\n-max_age\n");
	judge();
	assert_false(kept("a"));
}

static void manual_sets_go_only_by_a_rule_of_their_name(void **state)
{
	must("keep_last 1\n");
	add("a", "manual", NOW - 3 * DAY);
	add("b", "manual", NOW - 2 * DAY);
	add("c", "nightly", NOW - DAY);
	judge();
	assert_true(kept("a") && kept("b") && kept("c"));
	must("manual.keep_last 1\n");
	judge();
	assert_true(!kept("a") && kept("b"));
}

static void ages_count_from_the_newest_complete_set(void **state)
{
	must("keep_within 5d\n");
	add("old", "n", NOW - 16 * DAY);
	add("a", "n", NOW - 15 * DAY);
	add("b", "n", NOW - 10 * DAY);
	for (int i = 9; i >= 0; i--) {
		struct ret_set *s = add("failed", "n", NOW - i * DAY);

		s->complete = false;
		s->failed = true;
	}
	judge();
	assert_true(kept("a") && kept("b"));
	assert_false(kept("old"));
}

static void keep_rules_win_over_max_age(void **state)
{
	must("keep_last 1\nkeep_tag law\nmax_age 10d\n");
	add("tagged", "n", NOW - 400 * DAY)->tags = "x:y\nlaw:1\n";
	add("older", "n", NOW - 12 * DAY);
	add("younger", "n", NOW - 9 * DAY);
	add("newest", "n", NOW - DAY);
	judge();
	assert_true(kept("tagged") && kept("younger") && kept("newest"));
	assert_false(kept("older"));
}

static void a_set_from_the_future_neither_goes_nor_costs_another_one(void **state)
{
	must("keep_last 2\nkeep_within 3d\n");
	add("gone", "n", NOW - 30 * DAY);
	add("a", "n", NOW - 3 * DAY);
	add("future", "n", NOW + 3000ll * DAY);
	add("b", "n", NOW - 2 * DAY);
	add("c", "n", NOW - DAY);
	judge();
	assert_true(kept("a") && kept("b") && kept("c") && kept("future"));
	assert_false(kept("gone"));
	assert_true(out[2].why & RET_BY_FUTURE);
	assert_true(out[4].why & RET_BY_NEWEST);
}

static void every_rule_that_keeps_a_set_is_named(void **state)
{
	must("keep_last 1\nkeep_daily 1\nmin_keep 1\n");
	add("a", "n", NOW - DAY)->pin = true;
	sets[0].verified = true;
	judge();
	assert_int_equal(out[0].rules, 7);
	assert_int_equal(out[0].why, RET_BY_PIN | RET_BY_NEWEST | RET_BY_VERIFIED);
	assert_true(out[0].floor);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(lines_change_what_they_name, setup),
		cmocka_unit_test_setup(tags_add_up, setup),
		cmocka_unit_test_setup(what_was_read_can_be_written_back, setup),
		cmocka_unit_test_setup(wrong_text_changes_nothing_and_says_what_is_wrong, setup),
		cmocka_unit_test_setup(a_policy_is_no_longer_than_one_write, setup),
		cmocka_unit_test_setup(an_empty_policy_deletes_nothing, setup_sets),
		cmocka_unit_test_setup(manual_sets_go_only_by_a_rule_of_their_name, setup_sets),
		cmocka_unit_test_setup(ages_count_from_the_newest_complete_set, setup_sets),
		cmocka_unit_test_setup(keep_rules_win_over_max_age, setup_sets),
		cmocka_unit_test_setup(a_set_from_the_future_neither_goes_nor_costs_another_one, setup_sets),
		cmocka_unit_test_setup(every_rule_that_keeps_a_set_is_named, setup_sets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
