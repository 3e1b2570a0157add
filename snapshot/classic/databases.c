/* snapshot/classic/databases.c - the databases that are locked around the freeze, by the coordinators of the daemon.
 * Called by: main.c, one thread. Blocks: as the coordinators do, each call within its limit.
 * Errors:    -errno with the sentence. A server that writes elsewhere than on what is frozen is no failure here, as in the
 *            classic tool: it keeps its lock until the snapshots are begun. */
#include "snapshot/classic/classic.h"
#include "base/clock.h"
#include "snapshot/coord_mysql.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CALL_MS 30000u
#define UNLOCK_MS 5000u

struct one {
	const struct coord_ops *ops;
	void *c;
	bool elsewhere; /* it writes to files that are not frozen */
	bool prepared, locked;
};

struct dbs {
	unsigned n;
	bool any_frozen;
	int result; /* of an early unlock */
	struct snap_error why;
	struct one v[2];
};

struct dbs *dbs_free(struct dbs *d)
{
	for (unsigned i = 0; d && i < d->n; i++)
		d->v[i].ops->close(d->v[i].c);
	free(d);
	return NULL;
}

static int add(struct dbs *d, const char *name, const struct door *door, struct snap_error *err)
{
	struct one *o = &d->v[d->n];

	o->ops = coordinator_find(name);
	if (!o->ops)
		return snap_error_set(err, -EOPNOTSUPP, "this build of stillfs has no %s", name);
	o->c = o->ops->open(door, err);
	if (!o->c)
		return err->code;
	d->n++;
	return 0;
}

struct dbs *dbs_open(const struct door *frozen, bool mysql, bool mongo, struct snap_error *err)
{
	struct dbs *d = calloc(1, sizeof(*d));
	int r = d ? 0 : snap_error_set(err, -ENOMEM, "out of memory");

	if (d)
		d->any_frozen = frozen->n_pairs > 0;
	if (r == 0 && mongo) /* the daemon's order: unlocked in reverse */
		r = add(d, "mongodb", frozen, err);
	if (r == 0 && mysql)
		r = add(d, "mysql", frozen, err);
	return r == 0 ? d : dbs_free(d);
}

bool dbs_any(const struct dbs *d)
{
	return d->n > 0;
}

/* Connected, allowed to, and nothing would block the lock. */
static int ready(struct dbs *d, struct one *o, struct snap_error *err)
{
	struct snap_error why = { 0 };
	int r = o->ops->recover ? o->ops->recover(o->c, CALL_MS, err) : 0;

	if (r == 0)
		r = o->ops->preflight(o->c, CALL_MS, &why);
	if (r == -EXDEV) { /* asked last of what matters: it is connected and may lock */
		o->elsewhere = true;
		if (d->any_frozen)
			classic_say("warning: %s; it stays locked until EC2 has answered", why.msg);
		return 0;
	}
	return r < 0 ? snap_error_set(err, r, "%s", why.code ? why.msg : err->msg) : 0;
}

int dbs_preflight(struct dbs *d, struct snap_error *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < d->n; i++)
		r = ready(d, &d->v[i], err);
	for (unsigned i = 0; r == 0 && i < d->n; i++) {
		d->v[i].prepared = true;
		if (d->v[i].ops->prepare)
			r = d->v[i].ops->prepare(d->v[i].c, "classic", CALL_MS, err);
	}
	return r;
}

static void pause_ms(uint32_t ms)
{
	const struct timespec tick = { .tv_nsec = 20 * NS_PER_MS };

	for (uint64_t end = clock_boot_ns() + ms * NS_PER_MS; clock_boot_ns() < end && !classic_stop;)
		(void)nanosleep(&tick, NULL);
}

static int lock_all(struct dbs *d, uint32_t lock_ms, struct snap_error *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < d->n; i++) {
		r = d->v[i].ops->lock(d->v[i].c, CALL_MS, lock_ms, err);
		d->v[i].locked = r == 0;
	}
	for (unsigned i = d->n; r < 0 && i-- > 0;) {
		struct snap_error ignored = { 0 };

		if (d->v[i].locked)
			(void)d->v[i].ops->unlock(d->v[i].c, UNLOCK_MS, &ignored);
		d->v[i].locked = false;
	}
	return r;
}

int dbs_lock(struct dbs *d, unsigned tries, uint32_t sleep_ms, uint32_t lock_ms, struct vbuf *pos, struct snap_error *err)
{
	struct snap_error why = { 0 };
	int r = 0;

	if (tries == 0) /* the position of what is not locked is no position */
		return snap_error_set(err, -EINVAL, "no try at the lock is allowed: give --lock-tries a whole number from 1");
	for (unsigned i = 0; i < tries; i++) {
		why = (struct snap_error){ 0 };
		r = classic_stop ? snap_error_set(&why, -ECANCELED, "interrupted") : lock_all(d, lock_ms, &why);
		if (r != -EAGAIN || i + 1 == tries)
			break;
		classic_say("%s; trying again in %g s", why.msg, sleep_ms / 1000.0);
		pause_ms(sleep_ms);
	}
	for (unsigned i = 0; r == 0 && i < d->n; i++)
		r = d->v[i].ops->position(d->v[i].c, CALL_MS, pos, &why);
	return r < 0 ? snap_error_set(err, r, "%s", why.msg) : 0;
}

bool dbs_unlock_frozen(struct dbs *d)
{
	bool held = false;

	for (unsigned i = d->n; i-- > 0;) {
		struct one *o = &d->v[i];

		if (!o->locked || o->elsewhere || o->ops != &coord_mysql) { /* MongoDB deletes a file as it lets go */
			held |= o->locked;
			continue;
		}
		o->locked = false;
		d->result = o->ops->unlock(o->c, UNLOCK_MS, &d->why);
	}
	return !held && d->n > 0;
}

int dbs_unlock(struct dbs *d, int result, struct snap_error *err)
{
	struct snap_error ignored = { 0 };
	int r = d->result;

	if (r < 0)
		(void)snap_error_set(err, r, "%s", d->why.msg);
	for (unsigned i = d->n; i-- > 0;) {
		struct one *o = &d->v[i];
		int one = o->locked ? o->ops->unlock(o->c, UNLOCK_MS, err) : 0;

		o->locked = false;
		r = r < 0 ? r : one;
	}
	for (unsigned i = d->n; i-- > 0;) {
		struct one *o = &d->v[i];

		if (o->prepared && o->ops->finish && o->ops->finish(o->c, result < 0 ? result : r, CALL_MS, &ignored) < 0)
			classic_say("warning: %s", ignored.msg);
		o->prepared = false;
	}
	return r;
}
