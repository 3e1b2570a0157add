/* tests/unit/snapshot/test_cutover_compare.c - the preflight's judgement of what two servers say of themselves, and the
 * arguments of stillfs-cutover with what its journal keeps of them. */
#include "tests/unit/snapshot/unit.h"
#include "snapshot/cutover/args.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

volatile int tool_stop;

void tool_say(const char *fmt, ...)
{
}

void report_sessions(struct cut *c, const char *lines)
{
}

static struct facts a, b;
static struct link ab, ba;
static struct opts o;
static struct snap_error err;

static struct facts facts(bool mariadb, const char *id, const char *executed, const char *grants)
{
	struct facts f = { .mariadb = mariadb, .version = mariadb ? 101119 : 90700, .gtid_mode = "ON", .strict = "ON", .log_bin = "ON",
			   .log_updates = "ON", .increment = "2", .offset = "1", .read_only = "OFF", .super_read_only = "OFF",
			   .events = "OFF", .semi_sync = "OFF" };

	(void)snprintf(f.text, sizeof(f.text), "%s", mariadb ? "10.11.19-MariaDB" : "9.7.0");
	(void)snprintf(f.id, sizeof(f.id), "server-%s", id);
	(void)snprintf(f.server_id, sizeof(f.server_id), "%s", id);
	(void)snprintf(f.domain, sizeof(f.domain), "%s", id);
	if (!mariadb)
		(void)snprintf(f.uuid, sizeof(f.uuid), "uuid-%s", id);
	f.executed = gtid_parse(mariadb ? GTID_MARIADB : GTID_MYSQL, executed, &err);
	f.slave_pos = mariadb ? gtid_parse(GTID_MARIADB, "", &err) : NULL;
	vbuf_puts(&f.grants, grants);
	return f;
}

static void site(bool mariadb)
{
	facts_free(&a);
	facts_free(&b);
	a = facts(mariadb, "1", mariadb ? "1-1-100,2-2-7" : "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-100", "");
	b = facts(mariadb, "2", mariadb ? "1-1-90,2-2-7" : "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-90", "GRANT ALL PRIVILEGES");
	(void)snprintf(b.read_only, sizeof(b.read_only), "ON");
	(void)snprintf(b.offset, sizeof(b.offset), "2");
	ab = (struct link){ .there = true, .io = true, .sql = true, .gtid = true, .lag = "0", .delay = "0" };
	ba = (struct link){ .there = mariadb, .io = true, .sql = true, .gtid = true, .lag = "0" };
	memset(&o, 0, sizeof(o));
	o.max_lag_s = 10;
}

static int setup(void **state)
{
	snap_error_clear(&err);
	site(true);
	return 0;
}

static int teardown(void **state)
{
	facts_free(&a);
	facts_free(&b);
	return 0;
}

/* How many are bad; `part` is in what was found. */
static unsigned judged(const char *part)
{
	struct vbuf out = VBUF_INIT;
	unsigned n = compare_facts(&a, &b, &ab, &ba, &o, &out);

	assert_says(vbuf_text(&out), part);
	vbuf_free(&out);
	return n;
}

static void set_of(struct facts *f, const char *executed)
{
	gtid_free(f->executed);
	f->executed = gtid_parse(f->mariadb ? GTID_MARIADB : GTID_MYSQL, executed, &err);
	assert_non_null(f->executed);
}

#define TEXT(field, value) (void)snprintf(field, sizeof(field), "%s", value)

static void healthy_servers_pass(void **state)
{
	assert_int_equal(judged("ok transactions: B has nothing that A has not, and lacks 1-1-91..100 now\n"), 0);
	assert_int_equal(judged("ok auto-increment: increment 2, offsets 1 and 2\n"), 0);
	site(false);
	assert_int_equal(judged("warn way-back: A does not follow B"), 0);
}

static void what_only_b_has_is_named(void **state)
{
	set_of(&b, "1-1-90,2-2-8");
	assert_int_equal(judged("bad transactions: B has executed what A has not: 2-2-8"), 1);
	TEXT(o.accept, "transactions"); /* nobody can answer for that */
	assert_int_equal(judged("bad transactions: "), 1);
	site(false);
	set_of(&b, "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-90,4e11fa47-71ca-11e1-9e33-c80aa9429562:1-3");
	assert_int_equal(judged("bad transactions: B has executed what A has not: 4e11fa47-71ca-11e1-9e33-c80aa9429562:1-3;"), 1);
}

static void a_binary_log_that_lacks_what_was_replicated_is_said(void **state)
{
	site(false);
	TEXT(a.log_updates, "OFF");
	assert_int_equal(judged("warn updates: A does not write what it gets from B"), 0);
	TEXT(a.log_updates, "ON");
	TEXT(b.log_updates, "OFF");
	assert_int_equal(judged("warn updates: B does not write what it gets from A"), 0);
}

static void two_writable_servers_are_refused(void **state)
{
	TEXT(b.read_only, "OFF");
	assert_int_equal(judged("bad writes: B is not read-only"), 1);
	TEXT(b.read_only, "ON");
	TEXT(a.read_only, "ON");
	assert_int_equal(judged("bad writes: A is read-only now"), 1);
}

static void one_server_under_two_names_is_found(void **state)
{
	TEXT(b.id, a.id);
	assert_int_equal(judged("bad identity: A and B are the same server"), 1);
	TEXT(b.id, "server-2");
	TEXT(b.server_id, "1");
	assert_int_equal(judged("bad identity: A and B both have server_id 1"), 1);
	b.mariadb = false;
	assert_int_equal(judged("bad kind: A is 10.11.19-MariaDB and B is "), 2);
}

static void replication_has_to_be_whole(void **state)
{
	ab.sql = false;
	TEXT(ab.error, "Error 'Duplicate entry'");
	TEXT(ab.lag, "");
	assert_int_equal(judged("receiver runs, applier does not run: Error 'Duplicate entry'"), 2);
	site(true);
	TEXT(ab.lag, "11");
	assert_int_equal(judged("bad lag: B is 11 s behind A, more than --max-lag 10"), 1);
	TEXT(ab.lag, "10");
	TEXT(ab.delay, "60");
	assert_int_equal(judged("bad delay: B's applier waits 60 s on purpose"), 1);
	ab.there = false;
	assert_int_equal(judged("bad replication: B has no channel that has reached A"), 1);
	site(true);
	ab.gtid = false;
	assert_int_equal(judged("CHANGE MASTER TO MASTER_USE_GTID=slave_pos"), 1);
	site(true);
	TEXT(a.log_updates, "OFF");
	assert_int_equal(judged("bad gtid: A has log_slave_updates off"), 1);
	site(false);
	TEXT(b.gtid_mode, "OFF_PERMISSIVE");
	assert_int_equal(judged("bad gtid: B has gtid_mode OFF_PERMISSIVE"), 1);
}

static void some_can_be_answered_for(void **state)
{
	TEXT(b.offset, "3"); /* 3 % 2 == 1 */
	assert_int_equal(judged("bad auto-increment: "), 1);
	TEXT(o.accept, "filters,auto-increment");
	assert_int_equal(judged("warn auto-increment: "), 0);
	TEXT(ab.filter, "Replicate_Do_DB=shop");
	assert_int_equal(judged("warn filters: B leaves out what A has: Replicate_Do_DB=shop"), 0);
	TEXT(o.accept, "filter,auto-increments");
	assert_int_equal(judged("bad filters: "), 2);
	ba.there = false; /* a simple replica: A gives out no more numbers */
	ab.filter[0] = '\0';
	assert_int_equal(judged("warn way-back: "), 0);
	site(true);
	TEXT(b.domain, "1");
	assert_int_equal(judged("bad domain: "), 1);
	a.prepared_xa = 2;
	assert_int_equal(judged("bad xa: A has 2 prepared XA transactions"), 2);
}

/* What comes from a third server while A is fenced is no write that the cut-over may lose, but it is one more. */
static void other_sources_are_to_rest(void **state)
{
	TEXT(ba.others, "\"c\" from 10.0.0.3:3306");
	assert_int_equal(judged("warn channels: A follows others than B, by channel \"c\" from 10.0.0.3:3306: start its applier "), 0);
	ba.others_run = true;
	assert_int_equal(judged("bad channels: A follows others than B, by channel \"c\" from 10.0.0.3:3306: a transaction "), 1);
	TEXT(ab.others, "\"d\" from 10.0.0.4:3306");
	ab.others_run = true;
	assert_int_equal(judged("bad channels: B follows others than A, by channel \"d\" "), 2);
	TEXT(o.accept, "channels");
	assert_int_equal(judged("warn channels: B follows others than A, by channel \"d\" "), 0);
	site(true);
	TEXT(ab.others, "\"\" from 10.0.0.1:3306");
	ab.others_run = true;
	ab.there = false;
	assert_int_equal(judged("bad replication: B has no channel that has reached A"), 1);
}

static void missing_privileges_are_named(void **state)
{
	vbuf_free(&b.grants);
	vbuf_puts(&b.grants, "GRANT SELECT, RELOAD\n");
	assert_int_equal(judged("GRANT READ ONLY ADMIN ON *.* TO it"), 1);
	site(false);
	vbuf_free(&b.grants);
	vbuf_puts(&b.grants, "GRANT SYSTEM_VARIABLES_ADMIN\n");
	assert_int_equal(judged("GRANT CONNECTION_ADMIN ON *.* TO it"), 1);
}

/* ---- arguments ---- */

static char top[256], cnf1[300], cnf2[300];
static struct cut c;
static struct args args;

static int with_files(void **state)
{
	scratch_make(top, sizeof(top));
	(void)snprintf(cnf1, sizeof(cnf1), "%s/a b%%.cnf", top);
	(void)snprintf(cnf2, sizeof(cnf2), "%s/b.cnf", top);
	file_put(top, "a b%.cnf", "[client]\n");
	file_put(top, "b.cnf", "[client]\n");
	(void)chmod(cnf1, 0600);
	(void)chmod(cnf2, 0600);
	memset(&c, 0, sizeof(c));
	memset(&args, 0, sizeof(args));
	snap_error_clear(&err);
	return 0;
}

static int without_files(void **state)
{
	scratch_remove(top);
	return 0;
}

static int read_words(unsigned n, const char *const *words)
{
	char *argv[24];

	memset(&c, 0, sizeof(c));
	memset(&args, 0, sizeof(args));
	snap_error_clear(&err);
	for (unsigned i = 0; i < n; i++)
		argv[i] = (char *)(uintptr_t)words[i];
	return args_read(&c, &args, (int)n, argv, &err);
}
#define READ(...) read_words(sizeof((const char *[]){ __VA_ARGS__ }) / sizeof(char *), (const char *[]){ __VA_ARGS__ })

static void a_resume_does_as_the_run_was_told(void **state)
{
	struct vbuf kept = VBUF_INIT;

	assert_int_equal(READ("--from", cnf1, "--to", cnf2, "--hook", "/x y", "--catch-up", "7", "--no-persist", "--allow", "root@localhost"), 0);
	assert_int_equal(args.command, CMD_RUN);
	assert_int_equal(c.o.catch_up_ms, 7000);
	assert_int_equal(c.o.io_s, 5);
	args_put(&c, &kept);
	assert_null(strstr(vbuf_text(&kept), "x y")); /* blanks part its words */
	assert_int_equal(READ("resume", "--catch-up", "9", "--skip-hook"), 0);
	assert_int_equal(args.command, CMD_RESUME);
	assert_int_equal(args_recall(&c, vbuf_text(&kept), &err), 0);
	assert_string_equal(c.a.file, cnf1);
	assert_string_equal(c.b.file, cnf2);
	assert_string_equal(c.o.hook, "/x y");
	assert_string_equal(c.o.allow, "root@localhost");
	assert_true(c.o.no_persist && c.o.skip_hook);
	assert_int_equal(c.o.catch_up_ms, 9000); /* said anew */
	vbuf_free(&kept);
}

static void wrong_usage_is_said(void **state)
{
	static const char *const nothing[] = { NULL };

	assert_int_equal(read_words(0, nothing), -EINVAL);
	assert_int_equal(READ("--from", cnf1), -EINVAL);
	assert_int_equal(READ("restart"), -EINVAL);
	assert_int_equal(READ("resolve"), -EINVAL);
	assert_int_equal(READ("resolve", "--writable", "C"), -EINVAL);
	assert_int_equal(READ("resolve", "--writable"), -EINVAL);
	assert_int_equal(READ("reopen", "--force"), -EINVAL);
	assert_int_equal(READ("--from", cnf1, "--to", cnf2, "--catch-up", "0"), -EINVAL);
	assert_int_equal(READ("--from", cnf1, "--to", cnf2, "--catch-up", "1x"), -EINVAL);
	assert_int_equal(READ("--from", cnf1, "--to", cnf2, "--hook"), -EINVAL);
	assert_int_equal(READ("--from", cnf1, "--to", cnf2, "--password=x"), -EINVAL);
	assert_says(err.msg, "unknown argument --password=x");
	assert_int_equal(READ("--from", "b/a.cnf", "--to", cnf2), -EINVAL);
	assert_says(err.msg, "give an absolute path");
	assert_int_equal(READ("--from", cnf1, "--to", cnf2, "--journal", "here"), -EINVAL);
	assert_int_equal(READ("--from", "/nowhere/x.cnf", "--to", cnf2), -ENOENT);
	(void)chmod(cnf1, 0604);
	assert_int_equal(READ("--from", cnf1, "--to", cnf2), -EPERM);
	assert_says(err.msg, "chmod 600");
}

/* A control tree leads to the server of its stillfs. */
static void a_stillfs_names_its_server(void **state)
{
	file_put(top, "config", "name x\ndb mysql\ndb.defaults_file /etc/my.cnf\ndb.socket /run/sock\ndb.tls verify\n");
	assert_int_equal(READ("--from", top, "--to", cnf2, "--check"), 0);
	assert_int_equal(args.command, CMD_CHECK);
	assert_string_equal(c.a.file, "/etc/my.cnf");
	assert_string_equal(c.a.socket, "/run/sock");
	assert_string_equal(c.a.tls, "verify");
	assert_string_equal(c.a.control, top);
	file_put(top, "config", "name x\ndb none\ndb.socket /run/sock\n");
	assert_int_equal(READ("--from", top, "--to", cnf2, "--check"), 0);
	assert_string_equal(c.a.control, ""); /* its fence is of nothing */
	file_put(top, "config", "name x\n");
	assert_int_equal(READ("--from", top, "--to", cnf2), -EINVAL);
	assert_says(err.msg, "neither db.defaults_file nor db.socket");
	assert_int_equal(READ("--from", "no-such-stillfs", "--to", cnf2), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(healthy_servers_pass, setup, teardown),
		cmocka_unit_test_setup_teardown(what_only_b_has_is_named, setup, teardown),
		cmocka_unit_test_setup_teardown(a_binary_log_that_lacks_what_was_replicated_is_said, setup, teardown),
		cmocka_unit_test_setup_teardown(two_writable_servers_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(one_server_under_two_names_is_found, setup, teardown),
		cmocka_unit_test_setup_teardown(replication_has_to_be_whole, setup, teardown),
		cmocka_unit_test_setup_teardown(some_can_be_answered_for, setup, teardown),
		cmocka_unit_test_setup_teardown(other_sources_are_to_rest, setup, teardown),
		cmocka_unit_test_setup_teardown(missing_privileges_are_named, setup, teardown),
		cmocka_unit_test_setup_teardown(a_resume_does_as_the_run_was_told, with_files, without_files),
		cmocka_unit_test_setup_teardown(wrong_usage_is_said, with_files, without_files),
		cmocka_unit_test_setup_teardown(a_stillfs_names_its_server, with_files, without_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
