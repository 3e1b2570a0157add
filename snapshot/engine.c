/* snapshot/engine.c - the engine's thread and its life: one snapshot at a time, completions, removals.
 * Owns:      catalog, provider, coordinator, executors, the engine's thread.
 * Called by: main.c (life); run.c and files.c for events and records. What others ask is engine_request.c's, its end
 *            engine_stop.c's.
 * Threads:   the API from any; one mutex guards what engine_int.h lists. Callbacks are called without it.
 * Blocks:    engine_save writes one small file.
 * Errors:    -errno with the sentence. */
#include "snapshot/list.h"
#include "snapshot/engine_recover.h"
#include "snapshot/prune.h"
#include "base/clock.h"
#include "base/hex.h"
#include "base/log.h"
#include "snapshot/child.h"
#include "snapshot/fence/keep.h"
#include "snapshot/verify/verify.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAIT_MAX_MS 10000u

/* ---- events, records ---- */

void engine_event(struct engine *e, const struct set *s, const char *step, double ms)
{
	char text[512];
	int n;

	n = snprintf(text, sizeof(text), "\"set\":\"%s\",\"step\":\"%s\"", s->name, step);
	if (ms >= 0)
		n += snprintf(text + n, sizeof(text) - (size_t)n, ",\"ms\":%.3f", ms);
	e->door.ops->event(e->door.fs, "snapshot", text);
}

void engine_step(struct engine *e, const char *step)
{
	(void)pthread_mutex_lock(&e->lock);
	e->step = step;
	(void)pthread_mutex_unlock(&e->lock);
}

int engine_save(struct engine *e, struct set *s, struct snap_error *err)
{
	struct vbuf b = VBUF_INIT;
	char id[33];
	int r;

	(void)pthread_mutex_lock(&e->save_lock);
	(void)pthread_mutex_lock(&e->lock);
	set_json(s, &b);
	memcpy(id, s->id, sizeof(id));
	(void)pthread_mutex_unlock(&e->lock);
	vbuf_puts(&b, "\n");
	r = vbuf_error(&b) ? snap_error_set(err, vbuf_error(&b), "record %s: out of memory", id) :
			     catalog_write(e->cat, id, vbuf_text(&b), err);
	(void)pthread_mutex_unlock(&e->save_lock);
	vbuf_free(&b);
	return r;
}

/* ---- the thread ---- */

/* What `snapshot` and `status` say of the last one. */
static void set_last(struct engine *e, const struct set *s)
{
	if (s->state == SET_COMPLETE || s->state == SET_FAILED)
		metrics_set(&e->metrics, s);
	files_render_last(e, s);
	(void)snprintf(e->last_name, sizeof(e->last_name), "%s", s->name);
	e->last_state = s->state;
	e->step = e->n_completing ? "completing" : "idle";
}

static void one_snapshot(struct engine *e, struct request *q)
{
	struct snap_error err = { 0 };
	struct set *s;
	struct run *r;

	(void)pthread_mutex_lock(&e->lock);
	s = e->running;
	(void)pthread_mutex_unlock(&e->lock);
	engine_event(e, s, "begin", -1);
	engine_clean_yield(e);
	r = run_begin(e, s, &err);
	(void)pthread_mutex_lock(&e->lock);
	e->running = NULL;
	if (r) {
		binlogs_ask(e, true);
		*run_next(r) = e->completing;
		e->completing = r;
		e->n_completing++;
		if (atomic_load(&e->abort_flag) == ECANCELED)
			run_cancel(r);
	}
	if (!e->stopping)
		atomic_store(&e->abort_flag, 0); /* it was for this run only */
	set_last(e, s);
	(void)pthread_mutex_unlock(&e->lock);
	if (r) {
		/* not before: a writer that comes back may ask for the next one at once */
		engine_notify(e, s->id, 0, NULL);
		return;
	}
	log_error("snapshot %s failed: %s", s->name, err.msg);
	if (!q->reported)
		e->door.ops->report(e->door.fs, q->file, &err);
	engine_notify(e, s->id, err.code, &err);
}

/* One slice of completion for each set whose point is fixed. */
static void complete_some(struct engine *e)
{
	struct run **p = &e->completing;

	while (*p) {
		struct run *r = *p, *next = *run_next(r);
		struct set *s = run_set(r);
		struct snap_error err = { 0 };

		if (run_due_ns(r) > clock_boot_ns() || !run_poll(r, &err)) {
			p = run_next(r);
			continue;
		}
		*p = next;
		(void)pthread_mutex_lock(&e->lock);
		if (!--e->n_completing) {
			int canceled = ECANCELED;

			(void)atomic_compare_exchange_strong(&e->abort_completing, &canceled, 0);
		}
		set_last(e, s);
		(void)pthread_mutex_unlock(&e->lock);
		if (err.code == -ESHUTDOWN) {
			log_info("snapshot %s is pending; the next start goes on with it", s->name);
		} else if (err.code < 0) {
			log_error("snapshot %s failed: %s", s->name, err.msg);
			e->door.ops->report(e->door.fs, "snapshot", &err);
		} else {
			log_info("snapshot %s complete: lock %.1f ms, hold %.1f ms", s->name, s->lock_ms, s->hold_ms);
			verify_completed(e, s); /* first: it is kept while it is verified */
			prune_auto(e, true);
		}
	}
}

/* When there is something to do. Lock held; the list is this thread's own. */
static uint64_t next_due(struct engine *e)
{
	uint64_t due = e->queued || e->doctor_running || e->rescan.due || e->pins_due || e->adopted ? 0 : engine_clean_due(e);

	if (run_db_due(e) < due)
		due = run_db_due(e);
	if (fence_keep_due_ns(e->fence) < due)
		due = fence_keep_due_ns(e->fence);
	for (struct run *r = e->completing; r; r = *run_next(r))
		if (run_due_ns(r) < due)
			due = run_due_ns(r);
	return due;
}

void engine_wait_on(struct engine *e, pthread_cond_t *cond, uint64_t due_ns, uint32_t max_ms)
{
	uint32_t ms = due_ns == UINT64_MAX ? max_ms : clock_left_ms(due_ns);
	struct timespec t;

	if (ms > max_ms)
		ms = max_ms;
	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += ms / 1000;
	t.tv_nsec += (long)(ms % 1000 + 1) * 1000000;
	t.tv_sec += t.tv_nsec / 1000000000;
	t.tv_nsec %= 1000000000;
	(void)pthread_cond_timedwait(cond, &e->lock, &t);
}

/* What is not complete stays pending: the next process goes on with it. */
static void leave_all(struct engine *e)
{
	while (e->completing) {
		struct run *r = e->completing;

		e->completing = *run_next(r);
		run_leave(r);
	}
}

static void *engine_run(void *arg)
{
	struct engine *e = arg;

	e->db_recover_due = true; /* what a dead process left of a database's state */
	(void)pthread_setname_np(pthread_self(), "engine");
	(void)pthread_mutex_lock(&e->lock);
	while (!e->stopping) {
		struct request *q = e->queued;
		bool rescan = e->rescan.due, pins = e->pins_due, adopted = e->adopted;
		uint64_t due = next_due(e);

		if (due > clock_boot_ns()) {
			engine_wait_on(e, &e->work, due, WAIT_MAX_MS);
			continue;
		}
		e->queued = NULL;
		e->rescan.due = e->pins_due = e->adopted = false;
		atomic_store(&e->urgent, false);
		(void)pthread_mutex_unlock(&e->lock);
		if (q)
			one_snapshot(e, q);
		free(q);
		if (adopted)
			engine_recover_adopted(e);
		if (rescan)
			rescan_run(e);
		if (pins)
			rescan_pins(e);
		complete_some(e);
		engine_clean(e);
		if (atomic_load(&e->abort_completing) != ESHUTDOWN) { /* a call begun now would be left, and keep the stop waiting */
			(void)run_db_chores(e);
			fence_keep_work(e->fence);
		}
		child_reap();
		(void)pthread_mutex_lock(&e->lock);
	}
	(void)pthread_mutex_unlock(&e->lock);
	leave_all(e);
	engine_clean_leave(e);
	(void)pthread_mutex_lock(&e->lock);
	e->thread_ended = true;
	(void)pthread_cond_broadcast(&e->ended);
	(void)pthread_mutex_unlock(&e->lock);
	return NULL;
}

/* ---- life ---- */

/* No BACKING: the catalog is what the provider knows, of one lineage or of all. */
static int catalog_only(struct engine *e, struct snap_error *err)
{
	const char *lineage = conf_str(e->door.conf, "lineage");

	if (!e->prov->scan || e->prov->features & PROV_SCAN_LISTS)
		return snap_error_set(err, -EINVAL, "--catalog-only: provider=%s keeps no records that could be read; use provider=ebs",
				      e->prov->name);
	if (*lineage && !hex_is(lineage, 32))
		return snap_error_set(err, -EINVAL, "lineage=%.60s: expected 32 hexadecimal digits, as `status` shows them", lineage);
	e->rescan_all = !*lineage;
	e->rescan.due = e->rescan.running = true;
	(void)snprintf(e->rescan.lineage, sizeof(e->rescan.lineage), "%s", lineage);
	return *lineage ? catalog_adopt(e->cat, lineage, err) : 0;
}

struct engine *engine_new(const struct door *d, struct snap_error *err)
{
	const char *prov = conf_str(d->conf, "provider");
	struct engine *e = calloc(1, sizeof(*e));
	pthread_condattr_t a;

	if (!e) {
		snap_error_set(err, -ENOMEM, "start the engine: out of memory");
		return NULL;
	}
	e->door = *d;
	e->step = "idle";
	e->next_waiter = 1;
	(void)pthread_mutex_init(&e->lock, NULL);
	(void)pthread_mutex_init(&e->save_lock, NULL);
	(void)pthread_condattr_init(&a);
	(void)pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&e->work, &a);
	(void)pthread_cond_init(&e->ended, &a);
	(void)pthread_condattr_destroy(&a);
	e->prov = provider_find(prov);
	e->coord = &coord_group;
	if (!e->prov)
		snap_error_set(err, -EINVAL, "provider=%s: unknown; this build has: local, ebs, exec", prov);
	else if (conf_bool(d->conf, "freeze") && e->prov->features & PROV_LIVE_FS)
		snap_error_set(err, -EINVAL, "freeze=yes cannot be used with provider=%s", prov);
	else if ((e->prov_self = e->prov->open(&e->door, err)) &&
		 (e->coord_self = e->coord->open(&e->door, err)))
		e->cat = catalog_open(conf_str(d->conf, "state_dir"), err);
	if (e->cat && !d->n_pairs && catalog_only(e, err) < 0)
		e->cat = catalog_free(e->cat);
	if (e->cat)
		e->fence = fence_keep_open(e, err);
	if (!e->fence || prune_open(e, err) < 0) {
		engine_free(e);
		return NULL;
	}
	run_clean_backings(&e->door);
	return e;
}

int engine_sealed(const struct conf *c, struct snap_error *err)
{
	return fence_keep_sealed(c, err);
}

int engine_start(struct engine *e, struct snap_error *err)
{
	int r;

	e->db_exec = exec_new("database");
	e->prov_exec = exec_new("provider");
	e->apart_exec = exec_new("removal");
	if (!e->db_exec || !e->prov_exec || !e->apart_exec)
		return snap_error_set(err, -errno, "start the engine's threads: %s", strerror(errno));
	r = engine_recover(e, err);
	if (r == 0)
		r = fence_keep_load(e->fence, err);
	if (r == 0)
		r = verify_start(e, err);
	if (r < 0)
		return r;
	r = pthread_create(&e->thread, NULL, engine_run, e);
	if (r)
		return snap_error_set(err, -r, "start the engine's thread: %s", strerror(r));
	e->started = true;
	return 0;
}

void engine_free(struct engine *e)
{
	if (!e)
		return;
	leave_all(e); /* of an engine whose thread never began */
	if (e->coord_self)
		e->coord->close(e->coord_self);
	if (e->prov_self)
		e->prov->close(e->prov_self);
	(void)exec_free(e->db_exec);
	(void)exec_free(e->prov_exec);
	(void)exec_free(e->apart_exec);
	fence_keep_free(e->fence);
	prune_free(e->prune);
	catalog_free(e->cat);
	free(e->queued);
	vbuf_free(&e->last);
	vbuf_free(&e->doctor);
	vbuf_free(&e->binlogs.text);
	haul_free(e->stock.all);
	haul_free(e->orphans.all);
	vbuf_free(&e->rescan.last);
	(void)pthread_mutex_destroy(&e->lock);
	(void)pthread_mutex_destroy(&e->save_lock);
	(void)pthread_cond_destroy(&e->work);
	(void)pthread_cond_destroy(&e->ended);
	free(e);
}
