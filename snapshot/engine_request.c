/* snapshot/engine_request.c - what others ask of the engine, who waits for it, and the sets as the tree shows them.
 * Owns:      the list of waiters; the accepted request until the engine's thread takes it.
 * Called by: the control tree; engine.c to answer waiters.
 * Threads:   any; the engine's mutex guards what engine_int.h lists. Callbacks are called without it.
 * Blocks:    never; rmdir writes one small file.
 * Errors:    -errno with the sentence. */
#include "snapshot/engine_int.h"
#include "snapshot/prune.h"
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- waiters ---- */

/* Take the waiters that match out of the list. id NULL: all; set_id NULL: all sets. Lock held. */
static struct waiter *take_waiters(struct engine *e, const char *set_id, uint64_t id)
{
	struct waiter *taken = NULL, **p = &e->waiters;

	while (*p) {
		struct waiter *w = *p;

		if ((set_id && strcmp(w->set_id, set_id) != 0) || (id && w->id != id)) {
			p = &w->next;
			continue;
		}
		*p = w->next;
		w->next = taken;
		taken = w;
	}
	return taken;
}

static void answer_all(struct waiter *w, int result, const struct snap_error *err)
{
	while (w) {
		struct waiter *next = w->next;

		w->cb(w->arg, result, err);
		free(w);
		w = next;
	}
}

void engine_notify(struct engine *e, const char *id, int result, const struct snap_error *err)
{
	struct waiter *w;

	(void)pthread_mutex_lock(&e->lock);
	w = take_waiters(e, id, 0);
	(void)pthread_mutex_unlock(&e->lock);
	answer_all(w, result, err);
}

/* ---- requests ---- */

static struct waiter *waiter_new(struct engine *e, engine_done cb, void *arg, const char *set_id, bool own)
{
	struct waiter *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->id = e->next_waiter++;
	w->cb = cb;
	w->arg = arg;
	w->own = own;
	(void)snprintf(w->set_id, sizeof(w->set_id), "%s", set_id);
	w->next = e->waiters;
	e->waiters = w;
	return w;
}

static int choose_name(struct engine *e, struct snap_request *r, struct snap_error *err)
{
	struct timespec now = clock_utc();
	const struct set *s;
	char when[17];
	struct tm tm;

	if (!r->name[0]) {
		(void)gmtime_r(&now.tv_sec, &tm);
		(void)strftime(when, sizeof(when), "%Y%m%dT%H%M%SZ", &tm);
		(void)snprintf(r->name, sizeof(r->name), "%.46s-%s", r->class, when);
	}
	for (size_t i = 0; (s = catalog_at(e->cat, i)) != NULL; i++)
		if (s->state == SET_DELETING && strcmp(s->name, r->name) == 0)
			return snap_error_set(err, -EBUSY, "snapshot %s: the data of a deleted set of this name is still "
							   "being removed; try later", r->name);
	if (catalog_find(e->cat, r->name))
		return snap_error_set(err, -EEXIST, "snapshot %s: a set of this name exists; choose another name",
				      r->name);
	return 0;
}

/* Accept a request. Lock held. On 0 the set is in the catalog and its run begins at once. */
static int accept_request(struct engine *e, struct snap_request *r, const char *file, bool reported,
			  struct snap_error *err)
{
	struct request *q;
	struct set *s;
	int ret;

	if (e->stopping)
		return snap_error_set(err, -ESHUTDOWN, "snapshot: stillfs is stopping");
	if (!e->door.n_pairs)
		return snap_error_set(err, -EOPNOTSUPP, "snapshot: this is a catalog without a BACKING; sets are taken where the database is");
	if (e->rescan.running)
		return snap_error_set(err, -EBUSY, "snapshot: the catalog is being rebuilt; read `rescan` and try again when it is done");
	if (e->running)
		return snap_error_set(err, -EBUSY, "snapshot: %s is running; wait for it (cat snapshots/%s/wait) or "
						   "write to abort", e->running->name, e->running->name);
	if (exec_stuck(e->prov_exec) || exec_stuck(e->db_exec))
		return snap_error_set(err, -EBUSY, "snapshot: a call to the %s of an earlier run has not come back yet; "
						   "look at it before trying again",
				      exec_stuck(e->prov_exec) ? "provider" : "database");
	ret = choose_name(e, r, err);
	if (ret < 0)
		return ret;
	q = calloc(1, sizeof(*q));
	s = set_new();
	if (s)
		memcpy(s->name, r->name, sizeof(s->name)); /* before it is in the catalog, which finds it by that */
	if (!q || !s || set_text(&s->description, r->description) < 0 || set_text(&s->tags, r->tags) < 0 ||
	    (ret = catalog_add(e->cat, s)) < 0) {
		set_free(s);
		free(q);
		return snap_error_set(err, ret ? ret : -ENOMEM, "snapshot: out of memory");
	}
	memcpy(s->class, r->class, sizeof(s->class));
	(void)snprintf(s->provider, sizeof(s->provider), "%s", e->prov->name);
	(void)snprintf(s->db, sizeof(s->db), "%s", conf_str(e->door.conf, "db"));
	s->pin = r->pin;
	s->created = clock_utc();
	q->r = *r;
	q->file = file;
	q->reported = reported;
	e->queued = q;
	e->running = s;
	atomic_store(&e->urgent, true);
	atomic_store(&e->abort_flag, 0);
	(void)pthread_cond_signal(&e->work);
	return 0;
}

int engine_snapshot(struct engine *e, const char *text, size_t len, engine_done cb, void *arg, uint64_t *id,
		    struct snap_error *err)
{
	struct snap_request r;
	struct waiter *w = NULL;
	int ret = snap_parse(text, len, &r, err);

	if (ret < 0)
		return ret;
	*id = 0;
	(void)pthread_mutex_lock(&e->lock);
	ret = accept_request(e, &r, "snapshot", !r.nowait, err);
	if (ret == 0 && !r.nowait) {
		w = waiter_new(e, cb, arg, e->running->id, true);
		if (w)
			*id = w->id;
	}
	(void)pthread_mutex_unlock(&e->lock);
	if (ret == 0 && !w)
		cb(arg, 0, NULL); /* nowait; or no memory to wait with: it runs, `wait` tells */
	return ret;
}

int engine_wait(struct engine *e, const char *name, engine_done cb, void *arg, uint64_t *id,
		struct snap_error *err)
{
	struct snap_error why = { 0 };
	struct waiter *w = NULL;
	struct set *s;
	int ret = 0;

	*id = 0;
	(void)pthread_mutex_lock(&e->lock);
	s = catalog_find(e->cat, name);
	if (!s) {
		ret = -ENOENT;
	} else if (s == e->running) { /* also between its end and the answer: its record may still fail */
		w = waiter_new(e, cb, arg, s->id, false);
		if (w)
			*id = w->id;
		else
			ret = -ENOMEM;
	} else if (s->state == SET_FAILED) {
		snap_error_set(&why, s->error_code ? s->error_code : -EIO, "%s", s->error);
	}
	(void)pthread_mutex_unlock(&e->lock);
	if (ret == 0 && !w)
		cb(arg, why.code, why.code ? &why : NULL);
	if (ret < 0)
		snap_error_set(err, ret, "snapshots/%s: %s", name, strerror(-ret));
	return ret;
}

/* Lock held, so that what is aborted is still what was meant. */
static void abort_one(struct engine *e, _Atomic int *flag, int why)
{
	int none = 0;

	(void)atomic_compare_exchange_strong(flag, &none, why);
	(void)pthread_cond_signal(&e->work);
	exec_kick(e->db_exec);
	exec_kick(e->prov_exec);
}

void engine_cancel(struct engine *e, uint64_t id)
{
	struct waiter *w;

	(void)pthread_mutex_lock(&e->lock);
	w = take_waiters(e, NULL, id);
	if (w && w->own && e->running && strcmp(e->running->id, w->set_id) == 0)
		abort_one(e, &e->abort_flag, EINTR);
	(void)pthread_mutex_unlock(&e->lock);
	answer_all(w, -EINTR, NULL);
}

void engine_interrupt(struct engine *e, uint64_t id)
{
	(void)pthread_mutex_lock(&e->lock);
	for (struct waiter *w = e->waiters; w; w = w->next)
		if (w->id == id && w->own && e->running && strcmp(e->running->id, w->set_id) == 0)
			abort_one(e, &e->abort_flag, EINTR);
	(void)pthread_mutex_unlock(&e->lock);
}

/* A set that nobody completes now. Lock held; none is being completed. */
static const struct set *pending(const struct engine *e)
{
	const struct set *s;

	for (size_t i = 0; (s = catalog_at(e->cat, i)) != NULL && s->state != SET_PENDING;)
		i++;
	return s;
}

int engine_abort(struct engine *e, struct snap_error *err)
{
	int r = 0;

	(void)pthread_mutex_lock(&e->lock);
	if (e->running)
		abort_one(e, &e->abort_flag, ECANCELED);
	else if (e->n_completing)
		abort_one(e, &e->abort_completing, ECANCELED);
	else if (prune_foreign(e) && pending(e))
		r = snap_error_set(err, -EPERM, "abort: %s is pending since state_dir was on another machine, which may have completed it; when "
						"the sets are this one's, `echo adopt > prune` first", pending(e)->name);
	else
		r = snap_error_set(err, -ENOENT, "abort: no snapshot is running");
	(void)pthread_mutex_unlock(&e->lock);
	return r;
}

bool engine_idle(struct engine *e)
{
	bool idle;

	(void)pthread_mutex_lock(&e->lock);
	idle = !e->running && !e->doctor_running && (strcmp(e->step, "idle") == 0 || strcmp(e->step, "completing") == 0);
	(void)pthread_mutex_unlock(&e->lock);
	return idle;
}

void engine_unwind(struct engine *e)
{
	(void)pthread_mutex_lock(&e->lock);
	if (e->running)
		abort_one(e, &e->abort_flag, ESHUTDOWN);
	(void)pthread_mutex_unlock(&e->lock);
}

int engine_mkdir(struct engine *e, const char *name, struct snap_error *err)
{
	struct snap_request r = { .class = "manual" };
	int ret;

	if (!set_name_ok(name))
		return snap_error_set(err, -EINVAL, "mkdir snapshots/%.70s: bad name: expected a letter or digit, then "
						    "at most 63 of letters, digits, . _ -", name);
	(void)snprintf(r.name, sizeof(r.name), "%s", name);
	(void)pthread_mutex_lock(&e->lock);
	ret = accept_request(e, &r, "snapshots", false, err);
	(void)pthread_mutex_unlock(&e->lock);
	return ret;
}

void engine_wake_removals(struct engine *e)
{
	(void)pthread_cond_signal(&e->work);
}

int engine_delete(struct engine *e, const char *name, bool force, const char *what, struct snap_error *err)
{
	char where[160];
	struct set *s;
	int ret;

	(void)snprintf(where, sizeof(where), "%s snapshots/%.70s", what, name);
	(void)pthread_mutex_lock(&e->lock);
	s = catalog_find(e->cat, name);
	ret = s ? prune_may_delete(e, s, force, where, err) : snap_error_set(err, -ENOENT, "%s: no such set", where);
	if (ret == 0) {
		s->gone_from = s->state;
		s->gone_by = what;
		s->state = SET_DELETING;
		s->clean_ns = UINT64_MAX; /* not before that is recorded */
	}
	(void)pthread_mutex_unlock(&e->lock);
	if (ret == 0) {
		ret = engine_save(e, s, err);
		(void)pthread_mutex_lock(&e->lock);
		if (ret < 0)
			s->state = s->gone_from;
		s->clean_ns = 0;
		engine_wake_removals(e);
		(void)pthread_mutex_unlock(&e->lock);
	}
	return ret;
}

int engine_rmdir(struct engine *e, const char *name, struct snap_error *err)
{
	return engine_delete(e, name, false, "rmdir", err);
}

/* ---- views ---- */

static void view(const struct set *s, struct set_view *v)
{
	v->has_data = false;
	v->data[0] = '\0';
	memcpy(v->name, s->name, sizeof(v->name));
	v->ino = s->seq;
	v->created = s->created;
}

/* Asks the filesystem: not for each of thousands. */
static void view_data(struct engine *e, const struct set *s, struct set_view *v)
{
	if ((s->state == SET_COMPLETE || s->state == SET_PENDING) && e->prov->data_path)
		v->has_data = e->prov->data_path(e->prov_self, s->name, v->data, sizeof(v->data)) == 0;
}

size_t engine_each_set(struct engine *e, int (*fn)(void *arg, const struct set_view *v), void *arg)
{
	struct set_view v;
	struct set *s;
	size_t n = 0;

	(void)pthread_mutex_lock(&e->lock);
	for (size_t i = 0; (s = catalog_at(e->cat, i)) != NULL; i++) {
		if (s->state == SET_DELETING)
			continue;
		n++;
		if (!fn)
			continue;
		view(s, &v);
		if (fn(arg, &v))
			break;
	}
	(void)pthread_mutex_unlock(&e->lock);
	return n;
}

static int get(struct engine *e, const struct set *s, struct set_view *v)
{
	if (!s || s->state == SET_DELETING)
		return -ENOENT;
	view(s, v);
	view_data(e, s, v);
	return 0;
}

int engine_get_set(struct engine *e, const char *name, struct set_view *v)
{
	int r;

	(void)pthread_mutex_lock(&e->lock);
	r = get(e, catalog_find(e->cat, name), v);
	(void)pthread_mutex_unlock(&e->lock);
	return r;
}

int engine_get_ino(struct engine *e, uint64_t ino, struct set_view *v)
{
	int r;

	(void)pthread_mutex_lock(&e->lock);
	r = get(e, catalog_by_seq(e->cat, ino), v);
	(void)pthread_mutex_unlock(&e->lock);
	return r;
}
