/* snapshot/coord_group.c - all coordinators of the configuration as one: those that `db` names, and the hooks.
 * Owns:      its members.
 * Called by: the engine on its database thread; sever from any.
 * Order:     mongodb, mysql, hooks: MongoDB's lock writes out first and takes long, so the short one comes after
 *            it; a hook runs when everything is locked. Released in reverse, since the answer to MongoDB's unlock
 *            can wait for the gate.
 * Blocks:    as its members do, one after the other, within one deadline.
 * Errors:    the first; every member that is locked is released all the same. */
#include "snapshot/coordinator.h"

#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MEMBERS_MAX 4

struct member {
	const struct coord_ops *ops;
	void *self;
	bool locked, prepared;
};

struct group {
	struct member m[MEMBERS_MAX];
	unsigned n;
	uint32_t timeout_ms; /* db.lock_timeout */
	struct coord_lock told;
};

static const char *const order[] = { "mongodb", "mysql" };

static uint32_t left(uint64_t end_ns)
{
	uint64_t now = clock_boot_ns();

	return now < end_ns ? (uint32_t)((end_ns - now) / NS_PER_MS) + 1 : 1;
}

static uint64_t end_of(uint32_t max_ms)
{
	return clock_boot_ns() + max_ms * NS_PER_MS;
}

static int rank(const char *name)
{
	for (int i = 0; i < (int)(sizeof(order) / sizeof(order[0])); i++)
		if (strcmp(order[i], name) == 0)
			return i;
	return 0;
}

/* ---- life ---- */

static void group_close(void *self)
{
	struct group *g = self;

	for (unsigned i = g->n; i-- > 0;)
		g->m[i].ops->close(g->m[i].self);
	free(g);
}

static int add(struct group *g, const char *name, const struct door *d, struct snap_error *err)
{
	const struct coord_ops *ops = coordinator_find(name);
	struct member m = { .ops = ops };
	unsigned at = g->n;

	if (!ops)
		return snap_error_set(err, -EINVAL, "db=%s: unknown; this build has: none, mysql%s", name,
				      coordinator_find("mongodb") ? ", mongodb" : "");
	for (unsigned i = 0; i < g->n; i++)
		if (g->m[i].ops == ops)
			return snap_error_set(err, -EINVAL, "db: %s is named twice", name);
	if (g->n == MEMBERS_MAX)
		return snap_error_set(err, -EINVAL, "db: at most %d databases under one gate", MEMBERS_MAX);
	m.self = ops->open(d, err);
	if (!m.self)
		return err && err->code ? err->code : -ENOMEM;
	for (; at > 0 && strcmp(name, "hook") != 0 && rank(g->m[at - 1].ops->name) > rank(name); at--)
		g->m[at] = g->m[at - 1];
	g->m[at] = m;
	g->n++;
	return 0;
}

static void *group_open(const struct door *d, struct snap_error *err)
{
	const char *p = conf_str(d->conf, "db");
	struct group *g = calloc(1, sizeof(*g));
	char name[24];
	int r = 0;

	if (!g) {
		snap_error_set(err, -ENOMEM, "start the engine: out of memory");
		return NULL;
	}
	g->timeout_ms = (uint32_t)conf_num(d->conf, "db.lock_timeout");
	for (bool more = true; more && r == 0;) {
		size_t n = strcspn(p, ",+");

		(void)memcpy(name, p, n < sizeof(name) ? n : sizeof(name) - 1);
		name[n < sizeof(name) ? n : sizeof(name) - 1] = '\0';
		more = p[n] != '\0';
		p += n + more;
		r = strcmp(name, "hook") == 0 ? snap_error_set(err, -EINVAL, "db=hook: unknown; hooks are set by hook.pre, "
									     "hook.locked and hook.post") :
						add(g, name, d, err);
	}
	if (r == 0 && (*conf_str(d->conf, "hook.pre") || *conf_str(d->conf, "hook.locked") ||
		       *conf_str(d->conf, "hook.post")))
		r = add(g, "hook", d, err);
	if (r == 0)
		return g;
	group_close(g);
	return NULL;
}

/* ---- calls ---- */

static int group_preflight(void *self, uint32_t max_ms, struct snap_error *err)
{
	struct group *g = self;
	uint64_t end = end_of(max_ms);
	int r = 0;

	for (unsigned i = 0; r == 0 && i < g->n; i++)
		r = g->m[i].ops->preflight(g->m[i].self, left(end), err);
	return r;
}

static int group_prepare(void *self, const char *set, uint32_t max_ms, struct snap_error *err)
{
	struct group *g = self;
	uint64_t end = end_of(max_ms);
	int r = 0;

	/* hooks first: what they do may take long, and a database is looked at last before it is locked */
	for (unsigned i = g->n; r == 0 && i-- > 0;) {
		if (!g->m[i].ops->prepare)
			continue;
		g->m[i].prepared = true;
		r = g->m[i].ops->prepare(g->m[i].self, set, left(end), err);
	}
	return r;
}

static int group_unlock(void *self, uint32_t max_ms, struct snap_error *err)
{
	struct group *g = self;
	uint64_t end = end_of(max_ms);
	int r = 0, one;

	for (unsigned i = g->n; i-- > 0;) {
		if (!g->m[i].locked)
			continue;
		g->m[i].locked = false;
		one = g->m[i].ops->unlock(g->m[i].self, left(end), err);
		r = r ? r : one;
	}
	return r;
}

static int group_lock(void *self, uint32_t max_ms, uint32_t lock_ms, struct snap_error *err)
{
	struct group *g = self;
	uint64_t end = end_of(max_ms);
	int r = 0;

	g->told = (struct coord_lock){ .began_ns = clock_boot_ns() };
	for (unsigned i = 0; r == 0 && i < g->n; i++) {
		uint32_t ms = left(end);

		/* no time for pauses in which the first is locked */
		r = g->m[i].ops->lock(g->m[i].self, i && ms > g->timeout_ms ? g->timeout_ms : ms, lock_ms, err);
		g->m[i].locked = r == 0;
		if (i == 0 && g->m[i].ops->lock_told)
			g->m[i].ops->lock_told(g->m[i].self, &g->told);
	}
	if (r < 0)
		(void)group_unlock(g, max_ms, err); /* err holds why the lock failed */
	return r;
}

static void group_lock_told(void *self, struct coord_lock *out)
{
	*out = ((const struct group *)self)->told;
}

static int group_position(void *self, uint32_t max_ms, struct vbuf *out, struct snap_error *err)
{
	struct group *g = self;
	uint64_t end = end_of(max_ms);
	int r = 0;

	for (unsigned i = 0; r == 0 && i < g->n; i++)
		r = g->m[i].ops->position(g->m[i].self, left(end), out, err);
	return r;
}

static void group_sever(void *self)
{
	struct group *g = self;

	for (unsigned i = 0; i < g->n; i++)
		g->m[i].ops->sever(g->m[i].self);
}

static void group_status(void *self, struct vbuf *out)
{
	struct group *g = self;

	for (unsigned i = 0; i < g->n; i++)
		g->m[i].ops->status(g->m[i].self, out);
}

/* Of the databases that have one; a set of several is restored by its documentation. */
static void group_layout(void *self, struct vbuf *out)
{
	struct group *g = self;

	for (unsigned i = 0; i < g->n; i++)
		if (g->m[i].ops->layout)
			g->m[i].ops->layout(g->m[i].self, out);
}

static int group_finish(void *self, int result, uint32_t max_ms, struct snap_error *err)
{
	struct group *g = self;
	uint64_t end = end_of(max_ms);
	int r = 0, one;

	for (unsigned i = 0; i < g->n; i++) {
		if (!g->m[i].prepared)
			continue;
		g->m[i].prepared = false;
		one = g->m[i].ops->finish(g->m[i].self, result, left(end), err);
		r = r ? r : one;
	}
	return r;
}

static int group_recover(void *self, uint32_t max_ms, struct snap_error *err)
{
	struct group *g = self;
	uint64_t end = end_of(max_ms);
	int r = 0, one;

	for (unsigned i = 0; i < g->n; i++) {
		g->m[i].prepared = false;
		one = g->m[i].ops->recover ? g->m[i].ops->recover(g->m[i].self, left(end), err) : 0;
		r = r ? r : one;
	}
	return r;
}

static int group_examine(void *self, uint32_t max_ms, struct vbuf *out, struct snap_error *err)
{
	struct group *g = self;
	uint64_t end = end_of(max_ms);
	struct snap_error why;
	int bad = 0, one;

	for (unsigned i = 0; i < g->n; i++) {
		why = (struct snap_error){ 0 };
		if (g->m[i].ops->examine)
			one = g->m[i].ops->examine(g->m[i].self, left(end), out, &why);
		else
			one = g->m[i].ops->preflight(g->m[i].self, left(end), &why);
		if (one < 0)
			vbuf_printf(out, "bad %s: %s\n", g->m[i].ops->name, why.code ? why.msg : strerror(-one));
		else if (!g->m[i].ops->examine)
			vbuf_printf(out, "ok db=%s\n", g->m[i].ops->name);
		bad += one < 0 ? 1 : one;
	}
	return bad;
}

/* Of the one database that has such logs. */
static int group_logs(void *self, uint32_t max_ms, struct vbuf *out, struct snap_error *err)
{
	struct group *g = self;

	for (unsigned i = 0; i < g->n; i++)
		if (g->m[i].ops->logs)
			return g->m[i].ops->logs(g->m[i].self, max_ms, out, err);
	return 0;
}

const struct coord_ops coord_group = {
	.name = "group",
	.open = group_open,
	.close = group_close,
	.preflight = group_preflight,
	.lock = group_lock,
	.lock_told = group_lock_told,
	.position = group_position,
	.unlock = group_unlock,
	.sever = group_sever,
	.status = group_status,
	.layout = group_layout,
	.prepare = group_prepare,
	.finish = group_finish,
	.recover = group_recover,
	.examine = group_examine,
	.logs = group_logs,
};
