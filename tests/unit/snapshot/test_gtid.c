/* tests/unit/snapshot/test_gtid.c - sets of transactions: what servers print, what is no set, and random sets against
 * an oracle that has a bit for each transaction. */
#include "tests/unit/snapshot/unit.h"
#include "snapshot/cutover/gtid.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define U1 "3e11fa47-71ca-11e1-9e33-c80aa9429562"
#define U2 "3e11fa47-71ca-11e1-9e33-c80aa9429563"

static struct snap_error err;

static struct gtid_set *must(enum gtid_kind kind, const char *text)
{
	struct gtid_set *s;

	snap_error_clear(&err);
	s = gtid_parse(kind, text, &err);
	if (!s)
		fail_msg("%s", err.msg);
	return s;
}

static void assert_prints(const struct gtid_set *s, const char *want)
{
	struct vbuf b = VBUF_INIT;

	gtid_print(s, &b);
	assert_string_equal(vbuf_text(&b), want);
	vbuf_free(&b);
}

static void assert_normal(enum gtid_kind kind, const char *text, const char *want)
{
	struct gtid_set *s = must(kind, text);

	assert_prints(s, want);
	gtid_free(s);
}

static void assert_refused(enum gtid_kind kind, const char *text)
{
	struct gtid_set *s;

	snap_error_clear(&err);
	s = gtid_parse(kind, text, &err);
	if (s)
		fail_msg("\"%s\" was taken", text);
	assert_int_equal(err.code, -EINVAL);
	assert_says(err.msg, "gtid set: \"");
}

static void what_servers_print_is_read(void **state)
{
	assert_normal(GTID_MYSQL, "", "");
	assert_normal(GTID_MYSQL, " \n", "");
	assert_normal(GTID_MYSQL, U1 ":1-5:7,\n" U2 ":1", U1 ":1-5:7," U2 ":1");
	assert_normal(GTID_MYSQL, U1 ":1-3:5:Blue:1-9:red_2:4", U1 ":1-3:5," U1 ":blue:1-9," U1 ":red_2:4");
	assert_normal(GTID_MYSQL, U1 ":blue:1-9", U1 ":blue:1-9");
	/* by 9.7, of one server with two tags and of another's without and with one */
	assert_normal(GTID_MYSQL, U1 ":1-3:_r2:1-2:blue:1,\n" U2 ":7:other:5", U1 ":1-3," U1 ":_r2:1-2," U1 ":blue:1," U2 ":7," U2 ":other:5");
	assert_normal(GTID_MYSQL, U1 ":9223372036854775806", U1 ":9223372036854775806");
	assert_normal(GTID_MYSQL, U1 ":blue:9223372036854775806", U1 ":blue:9223372036854775806");
	assert_normal(GTID_MARIADB, "", "");
	assert_normal(GTID_MARIADB, "1-12-3,0-2-100, 0-1-9223372036854775806", "0-1-9223372036854775806,0-2-100,1-12-3");
	assert_normal(GTID_MARIADB, "4294967295-4294967295-1", "4294967295-4294967295-1");
}

static void runs_that_touch_are_joined(void **state)
{
	assert_normal(GTID_MYSQL, U2 ":4:1-2:3:9-12:10," U1 ":1,3E11FA47-71CA-11E1-9E33-C80AA9429563:5-6",
		      U1 ":1," U2 ":1-6:9-12");
	assert_normal(GTID_MYSQL, " " U1 " : 1 - 3 : 4 ,\r\n\t" U2 ":1 ", U1 ":1-4," U2 ":1");
	/* a tag's runs are its own, in any order and case, and with blanks and line breaks where the server takes them */
	assert_normal(GTID_MYSQL, U1 ":blue:3:Blue:1:red:2:BLUE:2", U1 ":blue:1-3," U1 ":red:2");
	assert_normal(GTID_MYSQL, U1 "\n:\n blue\t: 1 - 3\n:4 :\nred :9 ,\n" U1 ":5", U1 ":5," U1 ":blue:1-4," U1 ":red:9");
	assert_normal(GTID_MYSQL, U1 ":blue:1," U2 ":blue:2," U1 ":blue:2", U1 ":blue:1-2," U2 ":blue:2");
	assert_normal(GTID_MYSQL, U1 ":a2345678901234567890123456789012:1:_:2", U1 ":_:2," U1 ":a2345678901234567890123456789012:1");
}

static void what_is_no_set_is_refused(void **state)
{
	static const char *const mysql[] = {
		",", U1, U1 ":", U1 ":0", U1 ":1-", U1 ":5-3", U1 ":-1", U1 ":1,", U1 ":1,," U2 ":1", U1 ":1 2", U1 ":1;" U2 ":1",
		"3e11fa47-71ca-11e1-9e33-c80aa942956:1", "3e11fa47+71ca-11e1-9e33-c80aa9429562:1", U1 ":blue", U1 ":blue:", U1 ":1:blue",
		U1 ":blue:red:1", U1 ":9223372036854775807", U1 ":1-99999999999999999999", U1 ":2blue:1", U1 ":bl-ue:1", U1 ":1::2",
		U1 ":a23456789012345678901234567890123:1", "0-1-5", U1 ":1\x01",
		U1 ":blue:0", U1 ":blue:5-3", U1 ":blue:1-", U1 ":blue:1:", U1 ":blue::1", U1 ":blue:1:red", U1 ":blue:1,:2", U1 ":bl ue:1",
		U1 ":blue 1", U1 ":$:1", U1 ":bl\xc3\xbc:1", U1 ":blue:9223372036854775807", U1 ":a2345678901234567890123456789012x:1",
		"blue:1", U1 ",blue:1", U1 ":blue:1 " U2 ":blue:1",
	};
	static const char *const mariadb[] = {
		"0", "0-1", "0-1-", "0-1-0", "-1-1", "0-1-5,", ",0-1-5", "0-1-5,,0-2-1", "0-1-5 0-2-5", "0-1-5,0-1-7", "4294967296-1-1",
		"0-4294967296-1", "0-1-9223372036854775807", "0--1-5", "a-1-5", "0-1-5..", "0-1-5..3", "0-1-5x", U1 ":1",
	};

	for (size_t i = 0; i < sizeof(mysql) / sizeof(mysql[0]); i++)
		assert_refused(GTID_MYSQL, mysql[i]);
	for (size_t i = 0; i < sizeof(mariadb) / sizeof(mariadb[0]); i++)
		assert_refused(GTID_MARIADB, mariadb[i]);
}

static void a_domain_does_not_hide_another_servers_transactions(void **state)
{
	struct gtid_set *a = must(GTID_MARIADB, "0-1-100,0-2-90"), *b = must(GTID_MARIADB, "0-1-100,0-2-101");
	struct gtid_set *only = gtid_subtract(b, a, &err);

	assert_true(gtid_contains(b, a));
	assert_false(gtid_contains(a, b));
	assert_prints(only, "0-2-91..101");
	gtid_free(a);
	gtid_free(b);
	gtid_free(only);
}

static void a_tag_is_a_source_of_its_own(void **state)
{
	struct gtid_set *a = must(GTID_MYSQL, U1 ":1-10"), *b = must(GTID_MYSQL, U1 ":1-10:x:1");

	assert_true(gtid_contains(b, a));
	assert_false(gtid_contains(a, b));
	gtid_free(a);
	gtid_free(b);
}

static void what_one_has_under_a_tag_alone_is_named_with_it(void **state)
{
	struct gtid_set *a = must(GTID_MYSQL, U1 ":1-10:x:1-4:y:1"), *b = must(GTID_MYSQL, U1 ":1-9:x:1-5," U2 ":x:1");
	struct gtid_set *only_a = gtid_subtract(a, b, &err), *only_b = gtid_subtract(b, a, &err), *both = gtid_union(a, b, &err);

	assert_prints(only_a, U1 ":10," U1 ":y:1");
	assert_prints(only_b, U1 ":x:5," U2 ":x:1");
	assert_prints(both, U1 ":1-10," U1 ":x:1-5," U1 ":y:1," U2 ":x:1");
	gtid_free(a);
	gtid_free(b);
	gtid_free(only_a);
	gtid_free(only_b);
	gtid_free(both);
}

/* A replica made from a copy at 0-2-100 does not know that 0-1-50 was before it. */
static void what_was_before_a_replicas_beginning_is_not_missing(void **state)
{
	struct gtid_set *a = must(GTID_MARIADB, "0-1-50,0-2-120,0-3-110,1-1-7"), *pos = must(GTID_MARIADB, "0-2-100");
	struct gtid_set *missing = gtid_subtract(a, pos, &err);

	assert_prints(missing, "0-1-50,0-2-101..120,0-3-110,1-1-7");
	gtid_drop_before(missing, pos, a);
	assert_prints(missing, "0-2-101..120,0-3-110,1-1-7");
	gtid_free(pos);
	/* a position that the source has not is no place in its log */
	pos = must(GTID_MARIADB, "0-2-200,0-9-60");
	gtid_free(missing);
	missing = gtid_subtract(a, pos, &err);
	gtid_drop_before(missing, pos, a);
	assert_prints(missing, "0-1-50,0-3-110,1-1-7");
	gtid_free(a);
	gtid_free(pos);
	gtid_free(missing);
}

/* ---- against an oracle ---- */

#define SOURCES 4
#define TOP 24

struct oracle {
	bool has[SOURCES][TOP + 1];
};

static const char *const names[SOURCES] = { U1, U1 ":blue", U2, U2 ":z" };
static const char *const pairs[SOURCES] = { "0-1", "0-2", "1-1", "10-9" };

static void random_mysql(struct oracle *o, struct vbuf *out)
{
	static const char *const blanks[] = { "", "", " ", "\n", "\t " };
	unsigned runs = (unsigned)rand() % 12;

	memset(o, 0, sizeof(*o));
	for (unsigned i = 0; i < runs; i++) {
		unsigned s = (unsigned)rand() % SOURCES, from = 1 + (unsigned)rand() % TOP, to = from + (unsigned)rand() % 5;

		to = to > TOP ? TOP : to;
		vbuf_printf(out, "%s%s%s:%s%u", i ? "," : "", blanks[rand() % 5], names[s], blanks[rand() % 5], from);
		if (to > from || rand() % 2)
			vbuf_printf(out, "-%u%s", to, blanks[rand() % 5]);
		for (unsigned k = from; k <= to; k++)
			o->has[s][k] = true;
	}
}

static void random_mariadb(struct oracle *o, struct vbuf *out)
{
	unsigned first = (unsigned)rand() % SOURCES;

	memset(o, 0, sizeof(*o));
	for (unsigned i = 0; i < SOURCES; i++) {
		unsigned s = (first + i) % SOURCES, to = (unsigned)rand() % (TOP + 1);

		if (!to)
			continue;
		vbuf_printf(out, "%s%s-%u", out->len ? "," : "", pairs[s], to);
		for (unsigned k = 1; k <= to; k++)
			o->has[s][k] = true;
	}
}

/* Every transaction by itself is in the set exactly when the oracle has it. */
static void assert_is(enum gtid_kind kind, const struct gtid_set *s, const struct oracle *o)
{
	char text[80];

	for (unsigned i = 0; i < SOURCES; i++)
		for (unsigned k = 1; k <= TOP; k++) {
			struct gtid_set *one;

			if (kind == GTID_MYSQL)
				(void)snprintf(text, sizeof(text), "%s:%u", names[i], k);
			else
				(void)snprintf(text, sizeof(text), "%s-%u..%u", pairs[i], k, k);
			one = must(kind, text);
			assert_int_equal(gtid_contains(s, one), o->has[i][k]);
			gtid_free(one);
		}
}

static void assert_survives_printing(enum gtid_kind kind, const struct gtid_set *s)
{
	struct vbuf b = VBUF_INIT;
	struct gtid_set *again;

	gtid_print(s, &b);
	if (kind == GTID_MARIADB && strstr(vbuf_text(&b), "..")) { /* a difference may have two runs of one source */
		vbuf_free(&b);
		return;
	}
	again = must(kind, vbuf_text(&b));
	assert_prints(again, vbuf_text(&b));
	gtid_free(again);
	vbuf_free(&b);
}

static void one_round(enum gtid_kind kind)
{
	struct oracle x, y, minus, both;
	struct vbuf tx = VBUF_INIT, ty = VBUF_INIT;
	struct gtid_set *a, *b, *d, *u;
	bool inside = true, none = true;

	(kind == GTID_MYSQL ? random_mysql : random_mariadb)(&x, &tx);
	(kind == GTID_MYSQL ? random_mysql : random_mariadb)(&y, &ty);
	if (rand() % 4 == 0) { /* equal, or nearly */
		y = x;
		vbuf_free(&ty);
		vbuf_puts(&ty, vbuf_text(&tx));
	}
	for (unsigned i = 0; i < SOURCES; i++)
		for (unsigned k = 0; k <= TOP; k++) {
			minus.has[i][k] = x.has[i][k] && !y.has[i][k];
			both.has[i][k] = x.has[i][k] || y.has[i][k];
			inside = inside && !minus.has[i][k];
			none = none && !x.has[i][k];
		}
	a = must(kind, vbuf_text(&tx));
	b = must(kind, vbuf_text(&ty));
	d = gtid_subtract(a, b, &err);
	u = gtid_union(a, b, &err);
	assert_is(kind, a, &x);
	assert_is(kind, d, &minus);
	assert_is(kind, u, &both);
	assert_int_equal(gtid_contains(b, a), inside);
	assert_int_equal(gtid_empty(d), inside);
	assert_int_equal(gtid_empty(a), none);
	assert_survives_printing(kind, a);
	assert_survives_printing(kind, d);
	assert_survives_printing(kind, u);
	gtid_free(a);
	gtid_free(b);
	gtid_free(d);
	gtid_free(u);
	vbuf_free(&tx);
	vbuf_free(&ty);
}

static void random_sets_are_what_an_oracle_says(void **state)
{
	srand(20251);
	for (unsigned i = 0; i < 1500; i++) {
		one_round(GTID_MYSQL);
		one_round(GTID_MARIADB);
	}
}

/* No text makes it read past its end: run under the sanitizers, too. */
static void texts_with_a_byte_changed_are_read_or_refused(void **state)
{
	static const char bytes[] = ":-,. 019aZ_\n\x7f";

	srand(7);
	for (unsigned i = 0; i < 20000; i++) {
		enum gtid_kind kind = i % 2 ? GTID_MYSQL : GTID_MARIADB;
		char *text = strdup(i % 2 ? U1 ":1-3:5:blue:1-9," U2 ":7" : "0-1-5,10-2-7,1-1-9");
		struct gtid_set *s;

		for (unsigned k = 0; k < 1 + i % 3; k++)
			text[(unsigned)rand() % strlen(text)] = bytes[(unsigned)rand() % (sizeof(bytes) - 1)];
		if (i % 5 == 0)
			text[(unsigned)rand() % strlen(text)] = '\0';
		snap_error_clear(&err);
		s = gtid_parse(kind, text, &err);
		assert_int_equal(s != NULL, err.code == 0);
		gtid_free(s);
		free(text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_servers_print_is_read),
		cmocka_unit_test(runs_that_touch_are_joined),
		cmocka_unit_test(what_is_no_set_is_refused),
		cmocka_unit_test(a_domain_does_not_hide_another_servers_transactions),
		cmocka_unit_test(a_tag_is_a_source_of_its_own),
		cmocka_unit_test(what_one_has_under_a_tag_alone_is_named_with_it),
		cmocka_unit_test(what_was_before_a_replicas_beginning_is_not_missing),
		cmocka_unit_test(random_sets_are_what_an_oracle_says),
		cmocka_unit_test(texts_with_a_byte_changed_are_read_or_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
