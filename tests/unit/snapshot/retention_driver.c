/* tests/unit/snapshot/retention_driver.c - asks retention.c about sets that stand on stdin, for the oracle of
 * tests/integration/test_retention_rules.py.
 *   now SECONDS | rule LINE | set NAME CLASS CREATED SEQ STATE PIN VERIFIED HELD TAGS | judge | offset ZONE SECONDS
 * STATE: complete, failed, running; PIN ...: 0 or 1; TAGS: a:b,c:d or -. `judge` answers NAME keep|delete floor|- a set,
 * then `.`, and forgets rules and sets. */
#include "snapshot/retention.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SETS 4096

struct row {
	char name[80], class[80], tags[256];
};

static struct ret_policy policy;
static struct ret_set sets[SETS];
static struct row rows[SETS];
static struct ret_result out[SETS];
static size_t n;
static int64_t now;

static void add_set(const char *line)
{
	char state[16];
	long long created, seq;
	int pin, verified, held;
	struct row *r = &rows[n];

	if (n == SETS || sscanf(line, "%79s %79s %lld %lld %15s %d %d %d %255s", r->name, r->class, &created, &seq, state, &pin,
				&verified, &held, r->tags) != 9)
		abort();
	for (char *p = r->tags; *p; p++)
		if (*p == ',')
			*p = '\n';
	if (strcmp(r->tags, "-") == 0)
		r->tags[0] = '\0';
	sets[n++] = (struct ret_set){ .name = r->name, .class = r->class, .tags = r->tags, .created = created,
				      .seq = (uint64_t)seq, .complete = strcmp(state, "complete") == 0,
				      .failed = strcmp(state, "failed") == 0, .pin = pin, .verified = verified, .held = held };
}

static void judge(void)
{
	struct snap_error err = { 0 };
	struct zone *z = zone_load(policy.timezone, &err);

	if (!z || ret_judge(&policy, z, sets, n, now, out) < 0)
		abort();
	for (size_t i = 0; i < n; i++)
		printf("%s %s %s\n", sets[i].name, out[i].keep ? "keep" : "delete", out[i].floor ? "floor" : "-");
	printf(".\n");
	(void)fflush(stdout);
	zone_free(z);
	ret_init(&policy);
	n = 0;
}

static void offset(const char *line)
{
	struct snap_error err = { 0 };
	char name[64];
	long long t;
	struct zone *z;

	if (sscanf(line, "%63s %lld", name, &t) != 2 || !(z = zone_load(name, &err)))
		abort();
	printf("%d\n", zone_offset(z, t));
	(void)fflush(stdout);
	zone_free(z);
}

int main(void)
{
	struct snap_error err = { 0 };
	static char line[1024];

	ret_init(&policy);
	while (fgets(line, sizeof(line), stdin)) {
		if (strncmp(line, "now ", 4) == 0)
			now = atoll(line + 4);
		else if (strncmp(line, "set ", 4) == 0)
			add_set(line + 4);
		else if (strncmp(line, "offset ", 7) == 0)
			offset(line + 7);
		else if (strcmp(line, "judge\n") == 0)
			judge();
		else if (strncmp(line, "rule ", 5) != 0 || ret_edit(&policy, "rule", line + 5, strlen(line + 5), &err) < 0) {
			fprintf(stderr, "%s%s\n", line, err.msg);
			return 1;
		}
	}
	return 0;
}
