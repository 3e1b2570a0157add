/* snapshot/verify/clean.c - what verifications that died have left: clones of clones on the disk, volumes at the provider.
 * Called by verify.c on its thread. See process.h. */
#include "snapshot/verify/process.h"
#include "base/clock.h"
#include "base/log.h"
#include "snapshot/verify/verify_int.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TICK_MS 100
#define CLEAN_TRIES 100 /* a killed server takes a moment to end */
#define CLEAN_TRIES_STOP 20 /* the next start cleans what is left then */
#define AGAIN_MS 60000u /* volumes that could not be removed */
#define BUSY_MS 2000u /* another process removes them */
#define SWEEP_MS 300000u

void clean_set(struct engine *e, const struct vspec *place)
{
	const struct timespec pause = { .tv_nsec = TICK_MS * 1000000 };
	struct snap_error err = { 0 };
	bool stop = false;

	for (int i = 0; i < CLEAN_TRIES && !(stop && i >= CLEAN_TRIES_STOP); i++) {
		snap_error_clear(&err);
		if (verify_remove_places(place, &err) == 0)
			return;
		(void)nanosleep(&pause, NULL);
		(void)pthread_mutex_lock(&e->lock);
		stop = e->stopping;
		(void)pthread_mutex_unlock(&e->lock);
	}
	e->door.ops->report(e->door.fs, "verify", &err);
}

bool clean_find_place(struct engine *e, const struct set *s, struct vspec *v)
{
	struct snap_error ignored = { 0 };
	static char none[1];

	memset(v, 0, sizeof(*v));
	memcpy(v->id, s->id, sizeof(v->id));
	for (const char *l = s->layout; l && *l; l = strchr(l, '\n') ? strchr(l, '\n') + 1 : NULL)
		if (strncmp(l, "mountpoint ", 11) == 0 && v->n_pairs < DOOR_MAX_PAIRS)
			v->mountpoint[v->n_pairs++] = none; /* only their number counts */
	while (v->n_pairs < e->door.n_pairs && !strstr(s->layout, "mountpoint "))
		v->mountpoint[v->n_pairs++] = none;
	return e->prov->data_path && e->prov->data_path(e->prov_self, s->name, v->data, sizeof(v->data)) == 0 &&
	       verify_find_places(v, &ignored) == 0;
}

void clean_all(struct engine *e)
{
	struct vspec *v = calloc(1, sizeof(*v));
	bool there = true;

	for (size_t i = 0; v && there; i++) {
		struct set *s;
		struct stat st;

		(void)pthread_mutex_lock(&e->lock);
		s = e->stopping ? NULL : catalog_at(e->cat, i);
		there = s != NULL;
		if (s && (s->state != SET_COMPLETE || !clean_find_place(e, s, v)))
			v->n_pairs = 0;
		(void)pthread_mutex_unlock(&e->lock);
		if (there && v->n_pairs && stat(v->work[0], &st) == 0)
			clean_set(e, v);
	}
	free(v);
}

/* ---- volumes ---- */

/* One journal. 0: it is gone; else when to look again, milliseconds. */
static uint32_t clean_journal(struct engine *e, const char *id, const char *path, struct vbuf *left)
{
	struct vbuf order = VBUF_INIT;
	struct verdict v = { .position = VBUF_INIT };
	struct snap_error err = { 0 };
	int fd = -1, r = order_clean(e, id, &order);
	pid_t pid = r < 0 ? -1 : process_spawn(&order, true, &fd, &err);

	if (pid > 0) {
		(void)process_follow(e, pid, fd, clock_boot_ns() + SWEEP_MS * NS_PER_MS, true, &v, &err);
		(void)close(fd);
	}
	vbuf_free(&order);
	vbuf_free(&v.position);
	if (v.left[0])
		vbuf_printf(left, "left %s: %s\n", id, v.left);
	if (access(path, F_OK) < 0 && errno == ENOENT) {
		log_info("verify: what the verification of set %s had left at the provider is gone", id);
		return 0;
	}
	return v.left[0] ? AGAIN_MS : BUSY_MS;
}

static bool is_set(struct engine *e, const char *id)
{
	bool is;

	(void)pthread_mutex_lock(&e->lock);
	is = catalog_by_id(e->cat, id) != NULL;
	(void)pthread_mutex_unlock(&e->lock);
	return is;
}

uint64_t clean_volumes(struct engine *e, struct vbuf *left)
{
	char dir[PATH_MAX], id[33];
	static char path[PATH_MAX + 300]; /* one thread */
	struct dirent *f;
	uint32_t wait = 0;
	DIR *d;

	order_dir(e, dir);
	d = e->prov->features & PROV_VOLUMES ? opendir(dir) : NULL;
	while (d && (f = readdir(d))) {
		uint32_t ms;

		(void)snprintf(id, sizeof(id), "%.32s", f->d_name);
		(void)snprintf(path, sizeof(path), "%s/%s", dir, f->d_name);
		if (strlen(id) != 32)
			continue;
		if (strcmp(f->d_name + 32, ".log") == 0 && !is_set(e, id))
			(void)unlink(path);
		if (strcmp(f->d_name + 32, ".journal") != 0)
			continue;
		ms = clean_journal(e, id, path, left);
		wait = wait && (!ms || wait < ms) ? wait : ms;
	}
	if (d)
		(void)closedir(d);
	return wait ? clock_boot_ns() + wait * NS_PER_MS : UINT64_MAX;
}
