/* tests/unit/snapshot/test_exec_provider.c - the provider exec against scripts that fail, hang, write junk and too much:
 * what the run says, that nobody is left behind, and what others can see of the request. */
#include "tests/unit/snapshot/unit.h"
#include "snapshot/exec_provider/exec_provider.h"
#include "base/clock.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define ID "00112233445566778899aabbccddeeff"

static const struct conf_key table[] = {
	{ "exec.script", CONF_PATH, "", NULL, 0, 0, "", "" },
	{ "exec.option", CONF_LIST, "", NULL, 0, 0, "", "" },
	{ NULL, CONF_STRING, NULL, NULL, 0, 0, NULL, NULL },
};

static struct {
	struct conf *conf;
	struct door door;
	char dir[64], script[128];
	void *p;
	struct prov_run run;
	struct snap_error err;
	bool cancel;
} at;

static bool cancelled(const struct prov_run *r)
{
	return at.cancel;
}

/* $V is the verb, $D the scratch directory, and the request is in $D/request. */
static void script(const char *body)
{
	char text[2000];

	(void)snprintf(text, sizeof(text), "#!/bin/sh\nV=$1 D=%s\ncat >$D/request\necho \"$V $#\" >>$D/calls\n%s\n", at.dir, body);
	file_put(at.dir, "script", text);
	assert_int_equal(chmod(at.script, 0700), 0);
}

static int setup(void **state)
{
	log_quiet();
	memset(&at, 0, sizeof(at));
	scratch_make(at.dir, sizeof(at.dir));
	(void)snprintf(at.script, sizeof(at.script), "%s/script", at.dir);
	at.conf = conf_new(table, NULL);
	assert_int_equal(conf_set(at.conf, "test", "exec.script", at.script, NULL), 0);
	assert_int_equal(conf_set(at.conf, "test", "exec.option", "password=hidden words", NULL), 0);
	at.door = (struct door){ .name = "orders", .n_pairs = 1, .conf = at.conf };
	at.door.pairs[0].backing = "/back";
	at.door.pairs[0].mountpoint = "/mnt";
	script("echo {}");
	at.p = prov_exec.open(&at.door, &at.err);
	assert_non_null(at.p);
	at.run = (struct prov_run){ .name = "nightly", .set_id = ID, .lineage = ID, .door = &at.door, .cancelled = cancelled,
				    .class = "daily", .description = "d", .tags = "team:db\n", .position = "binlog_file b.1\n" };
	return 0;
}

static int teardown(void **state)
{
	prov_exec.finish(at.p, &at.run);
	prov_exec.close(at.p);
	conf_free(at.conf);
	scratch_remove(at.dir);
	return 0;
}

static int preflight(void)
{
	snap_error_clear(&at.err);
	prov_exec.finish(at.p, &at.run);
	return prov_exec.preflight(at.p, &at.run, 10000, 5000, &at.err);
}

static int trigger(uint32_t ms)
{
	snap_error_clear(&at.err);
	return prov_exec.trigger(at.p, &at.run, ms, &at.err);
}

static int no_set(void *arg, const char *name, const char *id, bool complete)
{
	return 0;
}

/* Any verb but poll, which judges for itself. */
static int verb(int which)
{
	if (which == 0)
		return preflight();
	if (which == 1)
		return trigger(3000);
	snap_error_clear(&at.err);
	return which == 2 ? prov_exec.remove(at.p, "nightly", ID, 3000, &at.err) : prov_exec.list(at.p, no_set, NULL, 3000, &at.err);
}

static const char *const verbs[] = { "preflight", "trigger", "remove", "list" };

static void every_verb_fails_with_the_scripts_code_and_words(void **state)
{
	static const struct {
		const char *body, *says;
		int code;
	} t[] = {
		{ "echo first >&2; echo the last line >&2; exit 3", "ended with code 3: the last line", -EIO },
		{ "exit 75", "ended with code 75", -EAGAIN },
		{ "exit 65", "ended with code 65", -ESTALE },
		{ "exit 66", "ended with code 66", -ENODATA },
		{ "kill -SEGV $$", "was ended by signal 11", -EIO },
		{ "echo not json", "its output is no JSON object", -EPROTO },
		{ "echo [1]", "its output is no JSON object", -EPROTO },
		{ "true", "its output is no JSON object", -EPROTO },
		{ "head -c 3000000 /dev/zero", "wrote more than 1048576 bytes", -EMSGSIZE },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		for (int v = 0; v < 4; v++) {
			script(t[i].body);
			if (verb(v) != t[i].code || !strstr(at.err.msg, t[i].says) || !strstr(at.err.msg, verbs[v]))
				fail_msg("%s, row %zu: %d: %s", verbs[v], i, at.err.code, at.err.msg);
		}
}

static bool gone(void *arg)
{
	char *text = file_get(at.dir, "child");
	pid_t pid = (pid_t)(text ? strtol(text, NULL, 10) : 0);

	free(text);
	return pid > 0 && kill(pid, 0) < 0;
}

static void a_script_that_hangs_is_killed_with_its_group_before_the_hold_ends(void **state)
{
	uint64_t t;

	assert_int_equal(preflight(), 0);
	script("trap '' TERM INT; sleep 100 & echo $! >$D/child; echo waiting >&2; wait");
	t = clock_boot_ns();
	assert_int_equal(trigger(700), -ETIMEDOUT);
	assert_true(clock_boot_ns() - t < 700 * NS_PER_MS);
	assert_says(at.err.msg, "trigger had not ended after");
	assert_says(at.err.msg, "and was killed: waiting");
	wait_until(gone, NULL, "the end of the script's child");
}

static void a_run_that_is_given_up_kills_the_script(void **state)
{
	assert_int_equal(preflight(), 0);
	script("sleep 100 & echo $! >$D/child; wait");
	at.cancel = true;
	assert_int_equal(trigger(5000), -ECANCELED);
	at.cancel = false;
	script("(sleep 100 >/dev/null 2>&1 & echo $! >$D/child); echo {}"); /* and who is left behind goes, too */
	assert_int_equal(trigger(5000), 0);
	wait_until(gone, NULL, "the end of what was left behind");
}

static void the_request_is_on_stdin_and_nowhere_else(void **state)
{
	char *text;

	script("tr '\\0' '\\n' </proc/$$/cmdline >$D/seen; env >>$D/seen; echo {}");
	assert_int_equal(preflight(), 0);
	text = file_get(at.dir, "seen");
	assert_null(strstr(text, "hidden"));
	assert_null(strstr(text, ID));
	free(text);
	text = file_get(at.dir, "request");
	assert_says(text, "\"password\":\"hidden words\"");
	assert_says(text, "\"contract\":1,\"verb\":\"preflight\",\"stillfs\":\"orders\",\"name\":\"nightly\",\"id\":\"" ID "\"");
	assert_says(text, "\"pairs\":[{\"backing\":\"\\/back\",\"mountpoint\":\"\\/mnt\"}]");
	assert_says(text, "\"tags\":{\"team\":\"db\"},\"position\":{\"binlog_file\":\"b.1\"}");
	assert_says(text, "\"hold_ms\":10000");
	free(text);
	text = file_get(at.dir, "calls");
	assert_string_equal(text, "preflight 1\n");
	free(text);
}

static void poll_follows_what_cannot_be_known_now_and_fails_only_for_certain(void **state)
{
	struct prov_progress p;

	assert_int_equal(preflight(), 0);
	script("echo '{\"complete\":false,\"percent\":30,\"size\":4096,\"volumes\":2,\"detail\":\"a\\nb\"}'");
	assert_int_equal(prov_exec.poll(at.p, &at.run, 20000, &p, &at.err), 0);
	assert_true(!p.complete && p.percent == 30 && p.size_b == 4096 && p.volumes == 2);
	assert_string_equal(p.detail, "a b");
	script("echo busy >&2; exit 75");
	assert_int_equal(prov_exec.poll(at.p, &at.run, 20000, &p, &at.err), 0);
	assert_says(p.detail, "progress unknown: ");
	assert_true(!p.complete && p.percent == 30);
	script("echo '{\"complete\":1}'");
	assert_int_equal(prov_exec.poll(at.p, &at.run, 20000, &p, &at.err), -EPROTO);
	snap_error_clear(&at.err);
	script("echo gone >&2; exit 66");
	assert_int_equal(prov_exec.poll(at.p, &at.run, 20000, &p, &at.err), -ENODATA);
	snap_error_clear(&at.err);
	script("echo '{\"complete\":true}'");
	assert_int_equal(prov_exec.poll(at.p, &at.run, 20000, &p, &at.err), 0);
	assert_true(p.complete && p.percent == 100);
}

static void resume_is_a_question_of_progress(void **state)
{
	script("exit 75");
	assert_int_equal(prov_exec.resume(at.p, &at.run, 1000, &at.err), -EAGAIN);
	snap_error_clear(&at.err);
	script("exit 66");
	assert_int_equal(prov_exec.resume(at.p, &at.run, 1000, &at.err), -ENODATA);
	snap_error_clear(&at.err);
	script("echo '{\"complete\":false}'");
	assert_int_equal(prov_exec.resume(at.p, &at.run, 1000, &at.err), 0);
}

static void a_script_that_others_may_change_is_refused(void **state)
{
	static const struct {
		mode_t mode;
		int code;
	} t[] = { { 0600, -EACCES }, { 0722, -EPERM }, { 0770, -EPERM } };

	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(chmod(at.script, t[i].mode), 0);
		snap_error_clear(&at.err);
		assert_null(prov_exec.open(&at.door, &at.err));
		assert_int_equal(at.err.code, t[i].code);
		assert_int_equal(preflight(), t[i].code); /* also when it has become so */
	}
	assert_int_equal(conf_set(at.conf, "test", "exec.option", "novalue", NULL), 0);
	snap_error_clear(&at.err);
	assert_null(prov_exec.open(&at.door, &at.err));
	assert_says(at.err.msg, "exec.option=novalue: expected KEY=VALUE");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(every_verb_fails_with_the_scripts_code_and_words),
		T(a_script_that_hangs_is_killed_with_its_group_before_the_hold_ends),
		T(a_run_that_is_given_up_kills_the_script),
		T(the_request_is_on_stdin_and_nowhere_else),
		T(poll_follows_what_cannot_be_known_now_and_fails_only_for_certain),
		T(resume_is_a_question_of_progress),
		T(a_script_that_others_may_change_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
