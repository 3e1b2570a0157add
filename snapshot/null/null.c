/* snapshot/null/null.c - a provider for tests only (meson -Dtest_providers=true): it takes nothing, but waits,
 * fails or hangs when told.
 * STILLFS_NULL_CTL names a text file that is read at each call; its lines are
 *     CALL delay_ms N     wait so long first, whatever the deadline
 *     CALL fail ERRNO     then answer -ERRNO (a number)
 *     CALL hang           wait until the line is gone, deaf to deadline and cancel
 *     poll pending        never complete
 *     CALL write          write into the first backing (hangs when it is frozen)
 * STILLFS_NULL_LOG names a file to which each call appends "TIME_NS CALL NAME", so that tests can see order. */
#include "snapshot/null/null.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct null {
	const struct door *d;
};

static void log_call(const char *call, const char *name)
{
	const char *path = getenv("STILLFS_NULL_LOG");
	FILE *f = path ? fopen(path, "ae") : NULL;

	if (!f)
		return;
	fprintf(f, "%llu %s %s\n", (unsigned long long)clock_boot_ns(), call, name);
	(void)fclose(f);
}

/* The argument of line "CALL WORD [N]" in the control file; -1: no such line. */
static long ctl(const char *call, const char *word)
{
	const char *path = getenv("STILLFS_NULL_CTL");
	FILE *f = path ? fopen(path, "re") : NULL;
	char line[128], c[32], w[32];
	long n, found = -1;
	int got;

	while (f && fgets(line, sizeof(line), f)) {
		n = 0;
		got = sscanf(line, "%31s %31s %ld", c, w, &n);
		if (got >= 2 && strcmp(c, call) == 0 && strcmp(w, word) == 0)
			found = n;
	}
	if (f)
		(void)fclose(f);
	return found;
}

static int act(struct null *p, const char *call, const char *name, struct snap_error *err)
{
	struct timespec pause = { .tv_nsec = 5000000 };
	long ms = ctl(call, "delay_ms"), e;

	log_call(call, name);
	if (ms > 0) {
		pause = (struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };
		(void)nanosleep(&pause, NULL);
		pause = (struct timespec){ .tv_nsec = 5000000 };
	}
	while (ctl(call, "hang") >= 0)
		(void)nanosleep(&pause, NULL);
	if (ctl(call, "write") >= 0) {
		cleanup_fd int fd = openat(p->d->pairs[0].backing_fd, ".null-probe", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

		if (fd >= 0 && write(fd, "x", 1) == 1)
			(void)unlinkat(p->d->pairs[0].backing_fd, ".null-probe", 0);
	}
	e = ctl(call, "fail");
	log_call("end", call);
	return e > 0 ? snap_error_set(err, (int)-e, "null: %s told to fail: %s", call, strerror((int)e)) : 0;
}

static void *null_open(const struct door *d, struct snap_error *err)
{
	struct null *p = calloc(1, sizeof(*p));

	if (p)
		p->d = d;
	else
		snap_error_set(err, -ENOMEM, "provider null: out of memory");
	return p;
}

static int null_preflight(void *self, struct prov_run *r, uint32_t hold_ms, uint32_t max_ms, struct snap_error *err)
{
	return act(self, "preflight", r->name, err);
}

static int null_trigger(void *self, struct prov_run *r, uint32_t max_ms, struct snap_error *err)
{
	return act(self, "trigger", r->name, err);
}

static int null_poll(void *self, struct prov_run *r, uint32_t max_ms, struct prov_progress *out,
		     struct snap_error *err)
{
	struct null *p = self;

	struct timespec pause = { .tv_nsec = 20000000 };
	int ret = act(self, "poll", r->name, err);
	bool pending = ctl("poll", "pending") >= 0;

	*out = (struct prov_progress){ .percent = pending ? 50 : 100, .complete = !pending, .volumes = p->d->n_pairs };
	if (pending)
		(void)nanosleep(&pause, NULL);
	return ret;
}

static int null_resume(void *self, struct prov_run *r, uint32_t max_ms, struct snap_error *err)
{
	return act(self, "resume", r->name, err);
}

static int null_discard(void *self, struct prov_run *r, struct snap_error *err)
{
	return act(self, "discard", r->name, err);
}

static void null_finish(void *self, struct prov_run *r)
{
	log_call("finish", r->name);
}

static int null_remove(void *self, const char *name, const char *id, uint32_t max_ms, struct snap_error *err)
{
	return act(self, "remove", name, err);
}

static int null_list(void *self, int (*fn)(void *arg, const char *name, const char *set_id, bool complete),
		     void *arg, uint32_t max_ms, struct snap_error *err)
{
	return act(self, "list", "-", err);
}

const struct prov_ops prov_null = {
	.name = "null",
	.features = PROV_REMOVE_APART,
	.open = null_open,
	.close = free,
	.preflight = null_preflight,
	.trigger = null_trigger,
	.poll = null_poll,
	.resume = null_resume,
	.discard = null_discard,
	.finish = null_finish,
	.remove = null_remove,
	.list = null_list,
};
