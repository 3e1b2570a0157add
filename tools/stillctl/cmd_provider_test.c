/* tools/stillctl/cmd_provider_test.c - stillctl provider-test: does an executable keep the contract of provider=exec
 * (docs/exec-provider.md)? Takes a set of the given backing through it, and removes it again.
 * Blocks as the script does, at most 60 s a call. One thread. */
#include "ctl.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CALL_MS 60000
#define OUTPUT_MAX (1 << 20)
#define ID "00000000000000005374696c6c46732e" /* no real set has it: they are random */
#define FOREIGN_ID "ffffffffffffffff5374696c6c46732e"
#define LINEAGE "11111111111111115374696c6c46732e"
#define ORIGIN "22222222222222225374696c6c46732e"

static const char *script, *backing;
static char **options;
static int n_options;
static unsigned n_failed;
static char name[64];

static int64_t now_ms(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void say(bool ok, const char *what)
{
	const char *on = !ctl_color ? "" : ok ? "\033[32m" : "\033[31m";

	printf("%s%s%s  %s\n", on, ok ? "ok    " : "FAILED", *on ? "\033[0m" : "", what);
	(void)fflush(stdout);
	n_failed += !ok;
}

static void put(struct json_object *o, const char *key, const char *value)
{
	json_object_object_add(o, key, json_object_new_string(value));
}

static struct json_object *request(const char *verb, const char *set, const char *id)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array(), *pair = json_object_new_object();
	struct json_object *opt = json_object_new_object();

	json_object_object_add(o, "contract", json_object_new_int(1));
	put(o, "verb", verb);
	put(o, "stillfs", "provider-test");
	put(o, "name", set);
	put(o, "id", id);
	put(o, "lineage", LINEAGE);
	put(o, "origin", ORIGIN);
	put(o, "class", "manual");
	put(o, "description", "stillctl provider-test");
	json_object_object_add(o, "tags", json_object_new_object());
	json_object_object_add(o, "position", json_object_new_object());
	json_object_object_add(o, "max_ms", json_object_new_int(CALL_MS));
	json_object_object_add(o, "hold_ms", json_object_new_int(10000));
	put(pair, "backing", backing);
	put(pair, "mountpoint", backing);
	json_object_array_add(list, pair);
	json_object_object_add(o, "pairs", list);
	for (int i = 0; i < n_options; i++) {
		char key[200];

		(void)snprintf(key, sizeof(key), "%.*s", (int)strcspn(options[i], "="), options[i]);
		put(opt, key, options[i] + strcspn(options[i], "=") + 1);
	}
	json_object_object_add(o, "options", opt);
	return o;
}

static pid_t start(const char *verb, const char *text, int *out)
{
	int in = memfd_create("request", MFD_CLOEXEC), p[2];
	pid_t pid;

	if (in < 0 || write(in, text, strlen(text)) < 0 || lseek(in, 0, SEEK_SET) < 0 || pipe2(p, O_CLOEXEC) < 0)
		return -1;
	pid = fork();
	if (pid == 0) {
		char path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", lang[] = "LC_ALL=C.UTF-8";
		char *argv[] = { (char *)(uintptr_t)script, (char *)(uintptr_t)verb, NULL }, *env[] = { path, lang, NULL };

		(void)setpgid(0, 0);
		if (dup2(in, 0) == 0 && dup2(p[1], 1) == 1)
			(void)execve(script, argv, env);
		_exit(127);
	}
	(void)close(in);
	(void)close(p[1]);
	*out = p[0];
	return pid;
}

/* Exit code, or -1: killed, no JSON, too much. *answer: to be put back, or NULL. */
static int run(const char *verb, const char *text, struct json_object **answer)
{
	int64_t end = now_ms() + CALL_MS;
	char *buf = calloc(1, OUTPUT_MAX + 1);
	int out = -1, status = 0, left;
	pid_t pid = buf ? start(verb, text, &out) : -1;
	ssize_t n = 1;
	size_t len = 0;

	*answer = NULL;
	if (pid < 0) {
		free(buf);
		return -1;
	}
	while (n > 0 && len < OUTPUT_MAX && (left = (int)(end - now_ms())) > 0) {
		struct pollfd p = { .fd = out, .events = POLLIN };

		if (poll(&p, 1, left) == 1 && (n = read(out, buf + len, OUTPUT_MAX - len)) > 0)
			len += (size_t)n;
	}
	if (n != 0)
		(void)kill(-pid, SIGKILL);
	(void)close(out);
	(void)waitpid(pid, &status, 0);
	*answer = json_tokener_parse(buf);
	if (*answer && !json_object_is_type(*answer, json_type_object)) {
		json_object_put(*answer);
		*answer = NULL;
	}
	free(buf);
	if (!WIFEXITED(status) || n != 0)
		return -1;
	return WEXITSTATUS(status) == 0 && !*answer ? -1 : WEXITSTATUS(status);
}

static int call(const char *verb, const char *id, struct json_object **answer)
{
	struct json_object *o = request(verb, name, id);
	int r = run(verb, json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN), answer);

	json_object_put(o);
	return r;
}

static int plain(const char *verb, const char *id)
{
	struct json_object *answer;
	int r = call(verb, id, &answer);

	json_object_put(answer);
	return r;
}

/* Does list give back what orphans are known by? */
static struct {
	bool any, right; /* any of the three; all three, as they were given */
} told;

static void look_at(struct json_object *s)
{
	struct json_object *created = json_object_object_get(s, "created");
	const char *lineage = json_object_get_string(json_object_object_get(s, "lineage"));
	const char *origin = json_object_get_string(json_object_object_get(s, "origin"));
	int64_t age = (int64_t)time(NULL) - json_object_get_int64(created);

	told.any = lineage || origin || created;
	told.right = lineage && origin && strcmp(lineage, LINEAGE) == 0 && strcmp(origin, ORIGIN) == 0 &&
		     json_object_is_type(created, json_type_int) && age >= -60 && age < 3600;
}

/* 0: not listed; 1: listed, not complete; 2: complete; -1: no list. */
static int listed(void)
{
	struct json_object *answer, *sets;
	int found = call("list", ID, &answer) == 0 ? 0 : -1;

	sets = json_object_object_get(answer, "sets");
	if (found == 0 && !json_object_is_type(sets, json_type_array))
		found = -1;
	for (size_t i = 0; found == 0 && i < json_object_array_length(sets); i++) {
		struct json_object *s = json_object_array_get_idx(sets, i);
		const char *id = json_object_get_string(json_object_object_get(s, "id"));

		if (id && strcmp(id, ID) == 0)
			look_at(s);
		if (id && strcmp(id, ID) == 0)
			found = json_object_get_boolean(json_object_object_get(s, "complete")) ? 2 : 1;
	}
	json_object_put(answer);
	return found;
}

/* Until complete: 0; else -1. */
static int follow(void)
{
	const struct timespec pause = { .tv_nsec = 200000000 };
	int64_t end = now_ms() + CALL_MS;
	bool complete = false;

	while (!complete && now_ms() < end) {
		struct json_object *answer, *done;

		if (call("poll", ID, &answer) != 0) {
			json_object_put(answer);
			return -1;
		}
		done = json_object_object_get(answer, "complete");
		complete = json_object_get_boolean(done);
		if (!json_object_is_type(done, json_type_boolean)) {
			json_object_put(answer);
			return -1;
		}
		json_object_put(answer);
		if (!complete)
			(void)nanosleep(&pause, NULL);
	}
	return complete ? 0 : -1;
}

static void wrong_calls(void)
{
	struct json_object *answer;

	say(plain("no-such-verb", ID) > 0, "an unknown verb fails");
	say(run("list", "no json", &answer) > 0, "a request that is no JSON fails");
	json_object_put(answer);
	say(plain("poll", ID) == 66, "poll of a set that is not there: 66");
	say(plain("remove", ID) == 0, "remove of a set that is not there: 0");
}

static void say_told(const char *when)
{
	char text[160];

	(void)snprintf(text, sizeof(text), "list tells lineage, origin and created of a set %s, as they were given", when);
	if (told.any)
		say(told.right, text);
	else
		printf("note    list does not tell lineage, origin and created: list.all cannot say whose a set is, and orphan_age removes none\n");
}

static void whole_life(void)
{
	char text[80];
	int64_t t;
	int r;

	say(plain("preflight", ID) == 0, "preflight");
	if (listed() > 0) /* a script may make nothing before trigger */
		say_told("before its trigger");
	say(plain("remove", ID) == 0 && listed() == 0, "remove after preflight leaves nothing");
	say(plain("preflight", ID) == 0, "preflight again");
	t = now_ms();
	r = plain("trigger", ID);
	(void)snprintf(text, sizeof(text), "trigger (%lld ms with writes held)", (long long)(now_ms() - t));
	say(r == 0, text);
	say(follow() == 0, "poll until complete");
	say(plain("poll", ID) == 0, "poll of a complete set");
	say(listed() == 2, "list shows it as complete");
	say_told("that is complete");
	say(plain("poll", FOREIGN_ID) == 65 || plain("poll", FOREIGN_ID) == 66, "poll with another id: 65 or 66");
	say(plain("remove", FOREIGN_ID) == 65, "remove with another id: 65");
	say(listed() == 2, "and it is still there");
	say(plain("remove", ID) == 0, "remove");
	say(listed() == 0, "list shows it no more");
	say(plain("remove", ID) == 0, "remove again: 0");
}

int cmd_provider_test(int argc, char **argv)
{
	script = argv[0];
	backing = argv[1];
	options = argv + 2;
	n_options = argc - 2;
	if (script[0] != '/' || access(script, X_OK) < 0)
		return ctl_fail("provider-test: not an absolute path of an executable: ", script), 2;
	if (backing[0] != '/')
		return ctl_fail("provider-test: BACKING is not an absolute path: ", backing), 2;
	for (int i = 0; i < n_options; i++)
		if (!strchr(options[i], '=') || options[i][0] == '=') {
			(void)ctl_fail("provider-test: an option is KEY=VALUE: ", options[i]);
			return 2;
		}
	(void)snprintf(name, sizeof(name), "provider-test-%d", (int)getpid());
	wrong_calls();
	whole_life();
	if (n_failed)
		printf("%u of the contract's points failed; docs/exec-provider.md\n", n_failed);
	return n_failed ? 1 : 0;
}
