/* tests/harness/fake_provider.c - see fake_provider.h. A set is the file NAME with "ID STATE", STATE 0 before it is complete. */
#include "tests/harness/fake_provider.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int self;
static unsigned polls;

static bool defect(const char *name)
{
	const char *d = getenv("STILLFS_FAKE_DEFECT");

	return d && strcmp(d, name) == 0;
}

static void path_of(const char *name, char *buf, size_t cap)
{
	(void)snprintf(buf, cap, "%s/%s", getenv("STILLFS_FAKE_DIR"), name);
}

/* 0, -ENOENT. */
static int get(const char *name, char id[80], int *state)
{
	char path[512];
	FILE *f;
	int n;

	path_of(name, path, sizeof(path));
	f = fopen(path, "re");
	if (!f)
		return -ENOENT;
	n = fscanf(f, "%79s %d", id, state);
	(void)fclose(f);
	return n == 2 ? 0 : -EIO;
}

static int put(const char *name, const char *id, int state)
{
	char path[512];
	FILE *f;

	path_of(name, path, sizeof(path));
	f = fopen(path, "we");
	if (!f)
		return -errno;
	(void)fprintf(f, "%s %d\n", id, state);
	return fclose(f) ? -EIO : 0;
}

static int drop(const char *name)
{
	char path[512];

	path_of(name, path, sizeof(path));
	return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

static void *fake_open(const struct door *d, struct snap_error *err)
{
	return &self;
}

static void fake_close(void *p)
{
}

static int fake_preflight(void *p, struct prov_run *r, uint32_t hold_ms, uint32_t max_ms, struct snap_error *err)
{
	r->ref = malloc(1);
	if (defect("preflight takes"))
		return put(r->name, r->set_id, 1);
	return 0;
}

static int fake_trigger(void *p, struct prov_run *r, uint32_t max_ms, struct snap_error *err)
{
	const struct timespec tick = { .tv_nsec = 1000000 };

	polls = 0;
	for (int i = 0; defect("deaf to cancel") && i < 5500; i++)
		(void)nanosleep(&tick, NULL);
	if (r->cancelled(r) && !defect("deaf to cancel"))
		return snap_error_set(err, -ECANCELED, "cancelled");
	return put(r->name, r->set_id, defect("complete at once in list") ? 1 : 0);
}

static int fake_poll(void *p, struct prov_run *r, uint32_t max_ms, struct prov_progress *out, struct snap_error *err)
{
	char id[80];
	int state = 0, got = get(r->name, id, &state);

	if (got < 0)
		return snap_error_set(err, -EIO, "%s has gone", r->name);
	polls++;
	*out = (struct prov_progress){ .percent = defect("percent falls") ? 90 - 40 * (polls - 1) : polls * 33, .volumes = 1 };
	if (polls >= 3) {
		*out = (struct prov_progress){ .percent = 100, .complete = true, .volumes = 1 };
		return put(r->name, r->set_id, 1);
	}
	return 0;
}

static int fake_resume(void *p, struct prov_run *r, uint32_t max_ms, struct snap_error *err)
{
	char id[80];
	int state, got = get(r->name, id, &state);

	r->ref = malloc(1);
	if (defect("resumes nothing"))
		return 0;
	if (got < 0)
		return defect("no sentence") ? got : snap_error_set(err, -ENOENT, "%s is not there", r->name);
	if (strcmp(id, r->set_id) != 0 && !defect("resumes another's"))
		return snap_error_set(err, -ESTALE, "%s is another's", r->name);
	return 0;
}

static void fake_finish(void *p, struct prov_run *r)
{
	free(r->ref);
	r->ref = NULL;
}

static int fake_discard(void *p, struct prov_run *r, struct snap_error *err)
{
	if (!defect("discard leaks"))
		fake_finish(p, r);
	return defect("discard leaves") ? 0 : drop(r->name);
}

static int fake_remove(void *p, const char *name, const char *set_id, uint32_t max_ms, struct snap_error *err)
{
	char id[80];
	int state;

	if (get(name, id, &state) < 0)
		return defect("remove once only") ? snap_error_set(err, -ENOENT, "%s is not there", name) : 0;
	if (strcmp(id, set_id) != 0 && !defect("removes another's"))
		return snap_error_set(err, -ESTALE, "%s is another's", name);
	return defect("remove leaves") ? 0 : drop(name);
}

static int fake_list(void *p, int (*fn)(void *arg, const char *name, const char *set_id, bool complete), void *arg, uint32_t max_ms,
		     struct snap_error *err)
{
	DIR *dir = opendir(getenv("STILLFS_FAKE_DIR"));
	struct dirent *e;
	char id[80];
	int state;

	while (dir && (e = readdir(dir)))
		if (e->d_name[0] != '.' && get(e->d_name, id, &state) == 0) {
			(void)fn(arg, e->d_name, id, state);
			if (defect("listed twice"))
				(void)fn(arg, e->d_name, id, state);
		}
	if (dir)
		(void)closedir(dir);
	return 0;
}

const struct prov_ops fake_provider = {
	.name = "fake",
	.open = fake_open,
	.close = fake_close,
	.preflight = fake_preflight,
	.trigger = fake_trigger,
	.poll = fake_poll,
	.resume = fake_resume,
	.discard = fake_discard,
	.finish = fake_finish,
	.remove = fake_remove,
	.list = fake_list,
};
