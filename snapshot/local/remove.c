/* snapshot/local/remove.c - a set's data goes, from every local_dir that it lies in.
 * Owns:      local_dir/.trash-ID. Called by: the engine, through prov_local, on the thread for removals.
 * Blocks:    while files are unlinked.
 * Errors:    -errno with the sentence; -EBUSY only while the set is whole.
 *
 * Who restores or verifies a set holds a lock on its directory. All are asked for before the first is renamed. */
#include "snapshot/local/local_int.h"
#include "base/cleanup.h"
#include "base/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

/* A local_dir, and in it NAME. */
struct place {
	bool own; /* no earlier pair has the same */
	int base; /* -1: it is not there */
	int set; /* the set's directory; -1: none of that name and id */
	bool stale; /* NAME is another set */
};

/* Something has gone already: not "held" in the words of provider.h. */
static int partly(int r, struct snap_error *err)
{
	if (r != -EBUSY)
		return r;
	if (err)
		err->code = -EAGAIN;
	return -EAGAIN;
}

static int open_place(const struct local *l, unsigned i, const char *name, const char *id, struct place *p, struct snap_error *err)
{
	char found[33];

	p->base = local_open_base(l, i);
	if (p->base < 0)
		return errno == ENOENT ? 0 : snap_error_set(err, -errno, "open local_dir %s: %s", l->dir[i], strerror(errno));
	p->set = openat(p->base, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (p->set < 0 && errno != ENOENT && errno != ENOTDIR && errno != ELOOP)
		return snap_error_set(err, -errno, "open %s/%s: %s", l->dir[i], name, strerror(errno));
	if (p->set >= 0 && (local_read_id(p->set, found) < 0 || strcmp(found, id) != 0)) {
		p->stale = true;
		(void)close(p->set);
		p->set = -1;
	}
	return 0;
}

/* Find and lock all of it. *whole: nothing of it has gone. */
static int hold_all(const struct local *l, const char *name, const char *id, struct place *p, bool *whole, struct snap_error *err)
{
	const char *held = NULL;

	*whole = true;
	for (unsigned i = 0; i < l->n_dirs; i++) {
		int r;

		p[i].own = local_own_base(l, i);
		if (!p[i].own)
			continue;
		r = open_place(l, i, name, id, &p[i], err);
		if (r < 0)
			return r;
		if (p[i].set < 0)
			*whole = false;
		else if (flock(p[i].set, LOCK_EX | LOCK_NB) < 0)
			held = l->dir[i];
	}
	if (!held)
		return 0;
	snap_error_set(err, -EBUSY, "remove %s/%s: it is being restored or verified; tried again later", held, name);
	return *whole ? -EBUSY : partly(-EBUSY, err);
}

/* In one place: NAME if it is this set's, and whatever a crash left of it. -ESTALE: NAME is another set, and was left
 * alone. */
static int remove_in(const char *dir, const struct place *p, const char *name, const char *id, bool *whole, struct snap_error *err)
{
	char part[64], trash[64];
	int r;

	local_partial_name(part, id);
	(void)snprintf(trash, sizeof(trash), ".trash-%.32s", id);
	/* one rename makes it no set any more, whatever happens then */
	if (p->set >= 0 && renameat(p->base, name, p->base, trash) < 0) {
		r = snap_error_set(err, -errno, "rename %s/%s: %s", dir, name, strerror(errno));
		return *whole ? r : partly(r, err);
	}
	*whole = false;
	FAULT("local.trashed");
	r = tree_remove(p->base, trash, err);
	FAULT("local.emptied");
	if (r == 0)
		r = tree_remove(p->base, part, err);
	r = partly(r, err);
	if (r == 0 && fsync(p->base) < 0)
		r = snap_error_set(err, -errno, "sync %s: %s", dir, strerror(errno));
	if (r == 0 && p->stale)
		r = snap_error_set(err, -ESTALE, "remove %s/%s: it is not the set %s (its file id differs); it was left alone",
				   dir, name, id);
	return r;
}

int local_remove(void *self, const char *name, const char *id, uint32_t max_ms, struct snap_error *err)
{
	const struct local *l = self;
	struct place p[DOOR_MAX_PAIRS];
	bool whole;
	int r, one;

	for (unsigned i = 0; i < DOOR_MAX_PAIRS; i++)
		p[i] = (struct place){ .base = -1, .set = -1 };
	r = hold_all(l, name, id, p, &whole, err);
	for (unsigned i = l->n_dirs; i-- > 0 && (r == 0 || r == -ESTALE);) { /* the first holds the links: last */
		one = p[i].own && p[i].base >= 0 ? remove_in(l->dir[i], &p[i], name, id, &whole, err) : 0;
		r = one < 0 ? one : r;
	}
	for (unsigned i = 0; i < l->n_dirs; i++) {
		if (p[i].set >= 0)
			(void)close(p[i].set);
		if (p[i].base >= 0)
			(void)close(p[i].base);
	}
	return r;
}

int local_discard(void *self, struct prov_run *r, struct snap_error *err)
{
	int ret;

	local_finish(self, r);
	ret = local_remove(self, r->name, r->set_id, 60000, err);
	if (ret == -ESTALE) { /* a name in the way was the failure: only what is ours has gone */
		snap_error_clear(err);
		ret = 0;
	}
	return ret;
}
