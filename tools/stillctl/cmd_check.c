/* tools/stillctl/cmd_check.c - is there a backup that is young enough? One line, and an exit code that monitoring
 * understands: 0 good, 1 warning, 2 critical, 3 it cannot be said. See ctl.h. */
#include <json-c/json.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl.h"

#define UNKNOWN 3

struct newest {
	char name[80];
	int64_t created; /* 0: none */
};

struct seen {
	struct newest complete, verified, any;
	bool any_failed; /* the newest of all has failed */
};

static int unknown(const char *what, const char *a, const char *b)
{
	printf("UNKNOWN: %s%s%s\n", what, a, b);
	return UNKNOWN;
}

/* "26h", "8d", "90m", "3600" in seconds; -1: no time. */
static int64_t parse_time(const char *text)
{
	static const char units[] = "smhdw";
	static const int s[] = { 1, 60, 3600, 86400, 604800 };
	char *end;
	long long n = strtoll(text, &end, 10);
	const char *unit = *end ? strchr(units, *end) : units;

	if (end == text || n < 1 || n > 1000000000 || !unit || (*end && end[1]))
		return -1;
	return n * s[unit - units];
}

static const char *age_text(int64_t s, char buf[32])
{
	if (s < 2 * 3600)
		(void)snprintf(buf, 32, "%lldm", (long long)s / 60);
	else if (s < 48 * 3600)
		(void)snprintf(buf, 32, "%lldh", (long long)s / 3600);
	else
		(void)snprintf(buf, 32, "%lldd", (long long)s / 86400);
	return buf;
}

static const char *text_of(struct json_object *o, const char *key)
{
	struct json_object *v = json_object_object_get(o, key);

	return v ? json_object_get_string(v) : "";
}

static void note(struct newest *n, struct json_object *o, int64_t created)
{
	if (created < n->created)
		return;
	n->created = created;
	(void)snprintf(n->name, sizeof(n->name), "%s", text_of(o, "name"));
}

/* Sets of other lineages are somebody else's backups. */
static int read_sets(const char *lineage, struct seen *seen)
{
	char *text = ctl_slurp("list.json"), *save = NULL;

	if (!text)
		return -1;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		struct json_object *o = json_tokener_parse(line);
		int64_t created = o ? json_object_get_int64(json_object_object_get(o, "created_ns")) / 1000000000 : 0;
		const char *state = o ? text_of(o, "state") : "";
		bool complete = strcmp(state, "complete") == 0;

		if (o && strcmp(text_of(o, "lineage"), lineage) == 0) {
			if (created >= seen->any.created)
				seen->any_failed = strcmp(state, "failed") == 0;
			note(&seen->any, o, created);
			if (complete)
				note(&seen->complete, o, created);
			if (complete && strcmp(text_of(o, "verified"), "yes") == 0)
				note(&seen->verified, o, created);
		}
		json_object_put(o);
	}
	free(text);
	return 0;
}

/* The value of a key of `status`. */
static bool status_of(const char *status, const char *key, char *buf, size_t cap)
{
	size_t n = strlen(key);

	for (const char *p = status; *p; p += strcspn(p, "\n"), p += *p == '\n')
		if (strncmp(p, key, n) == 0 && p[n] == ' ') {
			(void)snprintf(buf, cap, "%.*s", (int)strcspn(p + n + 1, "\n"), p + n + 1);
			return true;
		}
	return false;
}

struct verdict {
	int code;
	char text[700];
};

static void say(struct verdict *v, int code, const char *a, const char *b, const char *c)
{
	size_t n = strlen(v->text);

	v->code = code > v->code ? code : v->code;
	(void)snprintf(v->text + n, sizeof(v->text) - n, "%s%s%s%s", n ? "; " : "", a, b, c);
}

static void judge(struct verdict *v, const struct seen *s, const char *status, int64_t max, int64_t max_verified)
{
	int64_t now = time(NULL), age = now - s->complete.created, verified = now - s->verified.created;
	char buf[32], off[300] = "", left[32] = "0";

	if (!s->complete.created)
		say(v, 2, "there is no complete set", "", "");
	else
		say(v, max >= 0 && age > max ? 2 : 0, s->complete.name, " is the newest complete set, ", age_text(age, buf));
	if (s->complete.created && max >= 0 && age > max)
		say(v, 2, "that is too old", "", "");
	if (max_verified >= 0 && !s->verified.created)
		say(v, 1, "no set is verified", "", "");
	else if (s->verified.created)
		say(v, max_verified >= 0 && verified > max_verified ? 1 : 0, s->verified.name, " is the newest verified one, ",
		    age_text(verified, buf));
	if (max_verified >= 0 && s->verified.created && verified > max_verified)
		say(v, 1, "that is too old", "", "");
	if (s->any_failed)
		say(v, 1, s->any.name, ", the last one, has failed", "");
	if (status_of(status, "auto_prune", off, sizeof(off)) && strncmp(off, "off: ", 5) == 0 && strcmp(off + 5, "auto_prune=no") != 0)
		say(v, 1, "auto_prune is ", off, "");
	if (status_of(status, "prune_left", left, sizeof(left)) && strcmp(left, "0") != 0)
		say(v, 0, left, " sets are still being removed", "");
}

int cmd_check(int argc, char **argv)
{
	static const char *const words[] = { "OK", "WARNING", "CRITICAL" };
	int64_t max = 26 * 3600, max_verified = -1, now = time(NULL);
	struct verdict v = { 0 };
	struct seen seen = { 0 };
	char *status, lineage[64] = "";

	for (int i = 0; i < argc; i += 2) {
		bool verified = strcmp(argv[i], "--max-verified-age") == 0;
		int64_t t = i + 1 < argc ? parse_time(argv[i + 1]) : -1;

		if ((!verified && strcmp(argv[i], "--max-age") != 0) || t < 0)
			return unknown("usage: stillctl check [--max-age TIME] [--max-verified-age TIME], with times such as 26h; wrong: ",
				       argv[i], "");
		*(verified ? &max_verified : &max) = t;
	}
	if (ctl_find() != 0)
		return unknown("no stillfs answers", "", "");
	status = ctl_slurp("status");
	if (!status || !status_of(status, "lineage", lineage, sizeof(lineage)) || read_sets(lineage, &seen) < 0) {
		free(status);
		return unknown("the control files cannot be read", "", "");
	}
	judge(&v, &seen, status, max, max_verified);
	free(status);
	if (ctl_json)
		printf("{\"status\":\"%s\",\"code\":%d,\"age\":%lld,\"verified_age\":%lld,\"message\":\"%s\"}\n", words[v.code], v.code,
		       seen.complete.created ? (long long)(now - seen.complete.created) : -1,
		       seen.verified.created ? (long long)(now - seen.verified.created) : -1, v.text);
	else
		printf("%s: %s | age=%llds;;%lld\n", words[v.code], v.text,
		       seen.complete.created ? (long long)(now - seen.complete.created) : -1, (long long)max);
	return v.code;
}

/* Sets of all lineages are no answer: the youngest may be somebody else's. */
int check_remote(const struct ctl_remote *r, const struct command *c, int argc, char **argv)
{
	int code;

	if (!r->lineage)
		return unknown("check --provider needs --lineage ID: which sets are yours, see `lineage` in status", "", "");
	code = ctl_run_remote(r, c, argc, argv);
	return code < 0 ? unknown("the catalog of ", r->provider, " could not be read") : code;
}
