/* snapshot/ebs_tool/share.c - what everything here needs: progress, programs, pauses that a signal ends, the members of a
 * set. See tool.h. */
#include "snapshot/ebs_tool/tool.h"
#include "base/clock.h"

#include <errno.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

extern char **environ;
volatile int tool_stop;
void (*tool_listener)(const char *text);

bool tool_cancelled(const struct prov_run *r)
{
	return tool_stop;
}

struct api tool_api(struct tool *t, uint32_t max_ms)
{
	return (struct api){ .e = t->e, .stop = &t->run, .deadline_ns = clock_boot_ns() + max_ms * NS_PER_MS };
}

void tool_say(const char *fmt, ...)
{
	char text[2000]; /* a position may be long */
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (tool_listener)
		tool_listener(text);
	else
		(void)fprintf(stderr, "%s\n", text);
}

void tool_sleep_ms(unsigned ms)
{
	const struct timespec tick = { .tv_nsec = 20000000 };

	for (uint64_t end = clock_boot_ns() + ms * NS_PER_MS; clock_boot_ns() < end && !tool_stop;)
		(void)nanosleep(&tick, NULL);
}

int tool_exec(const char *const argv[], struct snap_error *err)
{
	char **args = (char **)(uintptr_t)argv; /* posix_spawn does not change them */
	posix_spawn_file_actions_t fds;
	int status = 0, r = posix_spawn_file_actions_init(&fds);
	pid_t pid;

	if (r == 0) {
		r = posix_spawn_file_actions_adddup2(&fds, 2, 1); /* stdout is ours */
		if (r == 0)
			r = posix_spawnp(&pid, argv[0], &fds, NULL, args, environ);
		(void)posix_spawn_file_actions_destroy(&fds);
	}
	if (r)
		return snap_error_set(err, -r, "run %s: %s; install it", argv[0], strerror(r));
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	return snap_error_set(err, -EIO, "%s failed, see above", argv[0]);
}

uint32_t tool_number(const char *option, const char *text, uint32_t min, uint32_t max, struct snap_error *err)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	if (!*text || *end || v < min || v > max) {
		snap_error_set(err, -EINVAL, "%s %.40s: expected a number from %u to %u", option, text, min, max);
		return 0;
	}
	return (uint32_t)v;
}

/* ---- the set ---- */

static int by_volume(const void *a, const void *b)
{
	int c = strcmp(((const struct member *)a)->was, ((const struct member *)b)->was);

	return c ? c : strcmp(((const struct member *)a)->snap, ((const struct member *)b)->snap);
}

static void read_first(const struct xml_elem *e, struct members *out)
{
	const struct xml_elem *i = xml_find(e, "tagSet/item");
	const char *last;
	char key[40], end;
	unsigned of;

	for (; i && out->n_tags < 50; i = xml_next(i)) {
		if (xml_text(i, "key", out->ours[out->n_tags][0], 260) == 0 && strncmp(out->ours[out->n_tags][0], "aws:", 4) != 0) {
			(void)xml_text(i, "value", out->ours[out->n_tags][1], 260);
			out->n_tags++;
		}
	}
	for (unsigned k = 0; k < TOOL_PAIRS; k++) {
		(void)snprintf(key, sizeof(key), "stillfs:pair.%u", k);
		api_tag(e, key, out->pair[k], sizeof(out->pair[k]));
		if (*out->pair[k])
			out->n_pairs = k + 1;
	}
	/* the last one says of how many, when there was no room for all */
	out->of_pairs = out->n_pairs;
	last = out->n_pairs ? strrchr(out->pair[out->n_pairs - 1], ';') : NULL;
	if (last && sscanf(last, ";of=%u%c", &of, &end) == 1 && of > out->n_pairs && of <= TOOL_PAIRS)
		out->of_pairs = of;
}

struct reading {
	struct tool *t;
	struct members *out;
};

static int read_members(void *arg, const struct xml_elem *root, struct snap_error *err)
{
	const struct xml_elem *i = xml_find(root, "snapshotSet/item");
	struct reading *r = arg;
	char text[300];

	for (; i; i = xml_next(i)) {
		size_t n = strlen(r->t->e->region);
		struct member *m = &r->out->m[r->out->n];
		struct snap s;

		api_tag(i, "stillfs:copied-from", text, sizeof(text));
		if (strncmp(text, r->t->e->region, n) == 0 && text[n] == ' ')
			continue;
		if (r->out->n == VOLS_MAX)
			return snap_error_set(err, -E2BIG, "set %s has more than %d snapshots", r->t->id, VOLS_MAX);
		api_read_snap(i, &s);
		if (!r->out->n)
			read_first(i, r->out);
		(void)snprintf(m->snap, sizeof(m->snap), "%s", s.id);
		/* a copy's own volume id means nothing: its original's is in a tag */
		api_tag(i, "stillfs:volume", text, sizeof(text));
		(void)snprintf(m->was, sizeof(m->was), "%.23s", *text ? text : s.volume);
		(void)xml_text(i, "encrypted", text, sizeof(text));
		m->encrypted = strcmp(text, "true") == 0;
		m->size_gib = s.size_gib;
		m->percent = s.percent;
		r->out->n++;
	}
	return 0;
}

static int keep(void *arg, struct set *s)
{
	struct members *out = arg;

	set_free(out->set);
	out->set = s;
	return 0;
}

int tool_members(struct tool *t, struct members *out, struct snap_error *err)
{
	struct api a = tool_api(t, 60000);
	struct reading rd = { t, out };
	struct vbuf form = VBUF_INIT;
	int r = api_connect(&a, false, err);

	if (r == 0)
		r = scan_sets(&a, "", "", t->id, keep, out, err);
	if (r == 0) {
		ec2_arg(&form, "self", "Owner.1");
		ec2_arg(&form, "tag:stillfs:id", "Filter.1.Name");
		ec2_arg(&form, t->id, "Filter.1.Value.1");
		r = api_pages(&a, "DescribeSnapshots", &form, read_members, &rd, err);
		vbuf_free(&form);
	}
	if (r < 0)
		return r;
	if (!out->set || !out->n)
		return snap_error_set(err, -ENOENT, "no snapshots of set %s in %s; was it copied there?", t->id, t->e->region);
	qsort(out->m, out->n, sizeof(out->m[0]), by_volume);
	if (out->set->state == SET_PENDING && !t->pending_too)
		return snap_error_set(err, -EAGAIN, "set %s is not complete yet (%u %%): AWS makes volumes of complete snapshots only; try "
						    "later", out->set->name, out->set->progress);
	if (out->set->state != SET_COMPLETE && !t->pending_too)
		return snap_error_set(err, -EIO, "set %s is no good: %.300s", out->set->name, out->set->error);
	return 0;
}

