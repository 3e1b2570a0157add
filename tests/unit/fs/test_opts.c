/* tests/unit/fs/test_opts.c - the command line, the configuration file, and the one table that both read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "fs/opts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char conf_dir[] = "/tmp/stillfs-opts.XXXXXX";
static struct opts o;
static struct snap_error err;

static int parse_argv(int argc, char **argv)
{
	opts_free(&o);
	snap_error_clear(&err);
	return opts_parse(&o, argc, argv, conf_dir, &err);
}

/* "stillfs -o OPTION... /b /m/orders" */
static int parse(const char *options)
{
	char copy[1024];
	char *argv[] = { (char[]){ "stillfs" }, (char[]){ "-o" }, copy, (char[]){ "/b" }, (char[]){ "/m/orders" } };

	(void)snprintf(copy, sizeof(copy), "%s", options);
	return parse_argv(5, argv);
}

static void write_conf(const char *name, const char *text)
{
	char path[128];
	FILE *out;

	(void)snprintf(path, sizeof(path), "%s/%s.conf", conf_dir, name);
	out = fopen(path, "w");
	assert_non_null(out);
	assert_true(fputs(text, out) >= 0);
	assert_int_equal(fclose(out), 0);
}

static void refused(const char *options, int code, const char *sentence)
{
	assert_int_equal(parse(options), code);
	assert_int_equal(err.code, code);
	assert_string_equal(err.msg, sentence);
}

static int make_dir(void **state)
{
	return mkdtemp(conf_dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	char command[128];

	opts_free(&o);
	(void)snprintf(command, sizeof(command), "rm -rf %s", conf_dir);
	return system(command);
}

static int no_files(void **state)
{
	char command[128];

	(void)snprintf(command, sizeof(command), "rm -f %s/*", conf_dir);
	return system(command);
}

/* ---- -o ---- */

static void commas_part_options_and_a_backslash_takes_their_meaning(void **state)
{
	assert_int_equal(parse("db=mysql,db.socket=/a\\,b,log_file=/c\\\\d,,local_dir=/e\\f"), 0);
	assert_string_equal(conf_str(o.conf, "db"), "mysql");
	assert_string_equal(conf_str(o.conf, "db.socket"), "/a,b");
	assert_string_equal(conf_str(o.conf, "log_file"), "/c\\d");
	assert_string_equal(conf_str(o.conf, "local_dir"), "/e\\f"); /* before other letters it is one */
}

static void a_value_may_hold_equals_signs(void **state)
{
	assert_int_equal(parse("db.socket=/a=b=c"), 0);
	assert_string_equal(conf_str(o.conf, "db.socket"), "/a=b=c");
}

static void the_last_of_several_wins(void **state)
{
	char *argv[] = { (char[]){ "stillfs" }, (char[]){ "-ogate_timeout=3,gate_timeout=4" }, (char[]){ "/b" }, (char[]){ "/m/x" },
			 (char[]){ "-o" }, (char[]){ "gate_timeout=5" } };

	assert_int_equal(parse_argv(6, argv), 0);
	assert_int_equal(conf_num(o.conf, "gate_timeout"), 5000);
}

static void what_mount_and_fstab_add_is_ignored(void **state)
{
	assert_int_equal(parse("rw,defaults,auto,noauto,nofail,_netdev,user,nouser,dev,suid,exec,async,atime,relatime,noatime,"
			       "nodiratime,allow_other,default_permissions,x-systemd.requires=a,comment=b c,db=none"), 0);
	assert_string_equal(conf_str(o.conf, "db"), "none");
}

static void what_a_database_cannot_have_is_refused(void **state)
{
	static const char *const words[] = { "ro", "noexec", "nosuid", "nodev" };

	for (int i = 0; i < 4; i++) {
		char want[128];

		(void)snprintf(want, sizeof(want), "-o: %s is not supported: a database directory is mounted as it is",
			       words[i]);
		refused(words[i], -EINVAL, want);
	}
}

static void an_unknown_option_names_the_nearest(void **state)
{
	refused("gate_timeot=3", -ENOENT, "-o: unknown option \"gate_timeot\"; did you mean \"gate_timeout\"?");
	refused("foo=1", -ENOENT, "-o: unknown option \"foo\"; --help lists them");
	refused("db_socket=/a", -ENOENT, "-o: unknown option \"db_socket\"; did you mean \"db.socket\"?");
	refused("colour=red", -ENOENT, "-o: unknown option \"colour\"; --help lists them");
	refused("freeze", -EINVAL, "-o: \"freeze\" has no value; write freeze=VALUE");
}

static void values_their_type_refuses_are_named_with_what_was_expected(void **state)
{
	refused("freeze=maybe", -EINVAL, "-o: freeze=maybe: expected yes or no");
	refused("gate_timeout=0", -ERANGE, "-o: gate_timeout=0: expected a time from 0.1 to 50 s");
	refused("gate_timeout=50001ms", -ERANGE, "-o: gate_timeout=50001ms: expected a time from 0.1 to 50 s");
	refused("gate_timeout=-1", -EINVAL, "-o: gate_timeout=-1: expected a time from 0.1 to 50 s");
	refused("gate_timeout=1x", -EINVAL, "-o: gate_timeout=1x: expected a time from 0.1 to 50 s");
	refused("threads=65", -ERANGE, "-o: threads=65: expected a number from 0 to 64");
	refused("threads=1.5", -EINVAL, "-o: threads=1.5: expected a number from 0 to 64");
	refused("threads=", -EINVAL, "-o: threads=: expected a number from 0 to 64");
	refused("threads=99999999999999999999", -ERANGE, "-o: threads=99999999999999999999: expected a number from 0 to 64");
	refused("state_dir=var", -EINVAL, "-o: state_dir=var: expected an absolute path");
	refused("db.lock=ftwr", -EINVAL, "-o: db.lock=ftwr: expected one of auto|ftwrl|backup|none");
	refused("parked_bytes=1", -ERANGE, "-o: parked_bytes=1: expected a number from 1048576 to 18446744073709551615");
	refused("parked_bytes=18446744073709551615G", -ERANGE,
		"-o: parked_bytes=18446744073709551615G: expected a number from 1048576 to 18446744073709551615");
}

static void times_and_sizes_take_units(void **state)
{
	assert_int_equal(parse("gate_timeout=1.5,drain_timeout=20ms,presync_timeout=2m,parked_bytes=2M,db.blocker_age=1h"), 0);
	assert_int_equal(conf_num(o.conf, "gate_timeout"), 1500);
	assert_int_equal(conf_num(o.conf, "drain_timeout"), 20);
	assert_int_equal(conf_num(o.conf, "presync_timeout"), 120000);
	assert_int_equal(conf_num(o.conf, "parked_bytes"), 2 << 20);
	assert_int_equal(conf_num(o.conf, "db.blocker_age"), 3600000);
}

/* ---- the file ---- */

static void options_given_override_the_file_and_the_file_the_defaults(void **state)
{
	write_conf("orders", "# a comment\n; another\n\ngate_timeout = 7\nthreads=3\ndb = mysql\n");
	assert_int_equal(parse("threads=4"), 0);
	assert_int_equal(conf_num(o.conf, "gate_timeout"), 7000);
	assert_int_equal(conf_num(o.conf, "threads"), 4);
	assert_string_equal(conf_str(o.conf, "db"), "mysql");
	assert_int_equal(conf_num(o.conf, "max_parked"), 8192);
	assert_true(conf_is_set(o.conf, "gate_timeout"));
	assert_false(conf_is_set(o.conf, "max_parked"));
}

static void the_name_chooses_the_file(void **state)
{
	write_conf("orders", "threads = 3\n");
	write_conf("other", "threads = 5\n");
	assert_int_equal(parse("threads=4,name=other"), 0);
	assert_int_equal(conf_num(o.conf, "threads"), 4);
	assert_int_equal(parse("name=other"), 0);
	assert_int_equal(conf_num(o.conf, "threads"), 5);
	assert_string_equal(conf_str(o.conf, "control_dir"), "/run/stillfs/other");
	assert_string_equal(conf_str(o.conf, "state_dir"), "/var/lib/stillfs/other");
}

static void mistakes_in_the_file_name_the_file(void **state)
{
	char want[256];
	static const struct {
		const char *text, *message;
		int code;
	} cases[] = {
		{ "threds = 3\n", "unknown option \"threds\"; did you mean \"threads\"?", -ENOENT },
		{ "threads = x\n", "threads=x: expected a number from 0 to 64", -EINVAL },
		{ "name = a\n", "name belongs to -o: it chose this file", -EINVAL },
		{ "[a]\nthreads = 3\n", "section [a]: the file has none; write \"option = value\" lines only", -EINVAL },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		write_conf("orders", cases[i].text);
		(void)snprintf(want, sizeof(want), "%s/orders.conf: %s", conf_dir, cases[i].message);
		refused("db=none", cases[i].code, want);
	}
	write_conf("orders", "threads = 3\nnonsense\n");
	(void)snprintf(want, sizeof(want), "%s/orders.conf:2: not an \"option = value\" line, or longer than 200 characters",
		       conf_dir);
	refused("db=none", -EINVAL, want);
}

/* ---- names and pairs ---- */

static void names_are_letters_digits_and_three_signs(void **state)
{
	char longest[66];

	memset(longest, 'a', 65);
	longest[65] = '\0';
	assert_false(opts_name_ok(longest));
	longest[64] = '\0';
	assert_true(opts_name_ok(longest));
	assert_true(opts_name_ok("A-b_c.9"));
	assert_true(opts_name_ok("0"));
	assert_false(opts_name_ok(""));
	assert_false(opts_name_ok(".hidden"));
	assert_false(opts_name_ok("-a"));
	assert_false(opts_name_ok("a/b"));
	assert_false(opts_name_ok("a b"));
	assert_false(opts_name_ok("\xc3\xa9"));
	refused("name=a/b", -EINVAL, "name \"a/b\": expected a letter or digit, then at most 63 of letters, digits, . _ -; "
				     "give one with -o name=NAME");
}

static void the_name_is_the_mountpoints_last_part(void **state)
{
	char *argv[] = { (char[]){ "stillfs" }, (char[]){ "/b" }, (char[]){ "/var/lib/mysql//" } };

	assert_int_equal(parse_argv(3, argv), 0);
	assert_string_equal(conf_str(o.conf, "name"), "mysql");
	argv[2] = (char[]){ "/" };
	assert_int_equal(parse_argv(3, argv), -EINVAL);
}

static void pairs_are_listed_in_their_order(void **state)
{
	assert_int_equal(parse("pair=/c:/m/c,pair=/d:/m/d:e"), 0);
	assert_int_equal(o.n_pairs, 3);
	assert_string_equal(o.backing[0], "/b");
	assert_string_equal(o.mountpoint[0], "/m/orders");
	assert_string_equal(o.backing[1], "/c");
	assert_string_equal(o.mountpoint[1], "/m/c");
	assert_string_equal(o.backing[2], "/d");
	assert_string_equal(o.mountpoint[2], "/m/d:e");
	refused("pair=/c", -EINVAL, "pair=/c: expected BACKING:MOUNTPOINT");
	refused("pair=:/c", -EINVAL, "pair=:/c: expected BACKING:MOUNTPOINT");
	refused("pair=/c:", -EINVAL, "pair=/c:: expected BACKING:MOUNTPOINT");
}

static void more_than_eight_pairs_are_refused(void **state)
{
	char text[512] = "";

	for (int i = 1; i < DOOR_MAX_PAIRS; i++)
		(void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "pair=/b%d:/m%d,", i, i);
	assert_int_equal(parse(text), 0);
	assert_int_equal(o.n_pairs, DOOR_MAX_PAIRS);
	(void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "pair=/last:/m");
	refused(text, -E2BIG, "more than 8 pairs");
}

/* ---- the command line ---- */

static void actions_and_wrong_words(void **state)
{
	char *argv[] = { (char[]){ "stillfs" }, (char[]){ "-f" }, (char[]){ "/b" }, (char[]){ "/m/x" }, (char[]){ "/more" } };

	assert_int_equal(parse_argv(4, argv), 0);
	assert_int_equal(o.action, OPTS_RUN);
	assert_true(o.foreground);
	assert_int_equal(parse_argv(5, argv), -EINVAL);
	assert_string_equal(err.msg, "too many arguments: /more; more directories go under -o pair=BACKING:MOUNTPOINT");
	assert_int_equal(parse_argv(3, argv), -EINVAL);
	assert_string_equal(err.msg, "BACKING and MOUNTPOINT are needed, or --catalog-only NAME; see --help");
	argv[1] = (char[]){ "--force" };
	assert_int_equal(parse_argv(4, argv), -EINVAL);
	assert_string_equal(err.msg, "unknown argument --force; see --help");
	argv[1] = (char[]){ "-o" };
	assert_int_equal(parse_argv(2, argv), -EINVAL);
	assert_string_equal(err.msg, "a value is missing after -o; see --help");
	argv[1] = (char[]){ "--catalog-only" };
	assert_int_equal(parse_argv(2, argv), -EINVAL);
	assert_string_equal(err.msg, "a value is missing after --catalog-only; see --help");
	argv[1] = (char[]){ "--list-options" };
	assert_int_equal(parse_argv(2, argv), 0);
	assert_int_equal(o.action, OPTS_LIST);
	argv[1] = (char[]){ "--help" };
	assert_int_equal(parse_argv(2, argv), 0);
	assert_int_equal(o.action, OPTS_HELP);
	argv[1] = (char[]){ "--version" };
	assert_int_equal(parse_argv(2, argv), 0);
	assert_int_equal(o.action, OPTS_VERSION);
}

/* ---- the table ---- */

static void every_option_takes_its_own_default_and_says_what_it_is(void **state)
{
	struct conf *c = conf_new(opts_table, &err);

	assert_non_null(c);
	for (const struct conf_key *k = opts_table; k->name; k++) {
		snap_error_clear(&err);
		if (conf_set(c, "default", k->name, k->def, &err) < 0)
			fail_msg("%s", err.msg);
		assert_true(k->arg && *k->arg && k->help && *k->help);
		assert_int_equal(strspn(k->name, "abcdefghijklmnopqrstuvwxyz_."), strlen(k->name));
		for (const struct conf_key *other = k + 1; other->name; other++)
			assert_string_not_equal(k->name, other->name);
	}
	conf_free(c);
}

/* docs/control-files.md has this line; the control file itself is no stillfs.conf. */
static void the_control_file_config_becomes_a_file_as_the_document_says(void **state)
{
	struct vbuf before = VBUF_INIT, after = VBUF_INIT;
	char command[256];

	assert_int_equal(parse("pair=/c:/d,pair=/e:/f,gate_timeout=5,db.blockers=wait:30,hook.pre=/bin/echo a = b"), 0);
	conf_render(o.conf, &before);
	write_conf("orders", vbuf_text(&before));
	assert_int_equal(parse("idle_poll=no"), -ENOENT);
	assert_non_null(strstr(err.msg, "unknown option \"pair /c\""));
	(void)snprintf(command, sizeof(command), "cd %s && mv orders.conf config && sed -n '/^name /d; s/ / = /p' config > orders.conf", conf_dir);
	assert_int_equal(system(command), 0);
	if (parse("idle_poll=no") < 0)
		fail_msg("%s", err.msg);
	conf_render(o.conf, &after);
	assert_string_equal(vbuf_text(&after), vbuf_text(&before));
	vbuf_free(&before);
	vbuf_free(&after);
}

#define TEST(name) cmocka_unit_test_setup(name, no_files)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(commas_part_options_and_a_backslash_takes_their_meaning),
		TEST(a_value_may_hold_equals_signs),
		TEST(the_last_of_several_wins),
		TEST(what_mount_and_fstab_add_is_ignored),
		TEST(what_a_database_cannot_have_is_refused),
		TEST(an_unknown_option_names_the_nearest),
		TEST(values_their_type_refuses_are_named_with_what_was_expected),
		TEST(times_and_sizes_take_units),
		TEST(options_given_override_the_file_and_the_file_the_defaults),
		TEST(the_name_chooses_the_file),
		TEST(mistakes_in_the_file_name_the_file),
		TEST(names_are_letters_digits_and_three_signs),
		TEST(the_name_is_the_mountpoints_last_part),
		TEST(pairs_are_listed_in_their_order),
		TEST(more_than_eight_pairs_are_refused),
		TEST(actions_and_wrong_words),
		TEST(the_control_file_config_becomes_a_file_as_the_document_says),
		TEST(every_option_takes_its_own_default_and_says_what_it_is),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
