/* snapshot/engine_clean.c - data that must go: of deleted sets, and what failed ones may have left at the provider.
 * Called by: engine.c, on the engine's thread; run_remove makes the call on the provider's.
 * Blocks:    for one removal at a time, ended early only by a stop; a request waits for that one.
 * Errors:    those of a deleted set are reported; a set is tried again with growing pauses and hinders no other.
 *
 * A removal that found nothing is not the end of it at a remote provider: what a lost request made may show up some
 * time later. So what a failed set left is looked for once more, UNSURE_S after the first time. */
#include "snapshot/list.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "snapshot/orphans.h"
#include "snapshot/prune.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define PAUSE_FIRST_S 60u
#define PAUSE_MAX_S 900u
#define UNSURE_S 120u

static bool wanted(const struct engine *e, const struct set *s)
{
	return (s->state == SET_DELETING || (s->state == SET_FAILED && s->leftover)) && strcmp(s->provider, e->prov->name) == 0;
}

uint64_t engine_clean_due(struct engine *e)
{
	uint64_t due = UINT64_MAX;
	struct set *s;

	for (size_t i = 0; (s = catalog_at(e->cat, i)) != NULL; i++)
		if (wanted(e, s) && s->clean_ns < due)
			due = s->clean_ns;
	return due;
}

static struct set *next(struct engine *e)
{
	uint64_t now = clock_boot_ns();
	struct set *s;

	for (size_t i = 0; !e->queued && !e->stopping && (s = catalog_at(e->cat, i)) != NULL; i++)
		if (wanted(e, s) && s->clean_ns <= now)
			return s;
	return NULL;
}

/* Lock held. */
static void later(struct set *s, uint32_t seconds)
{
	s->clean_ns = clock_boot_ns() + seconds * NS_PER_S;
}

/* Could something of it still show up? Then it is looked for once more. */
static bool unsure(struct engine *e, struct set *s)
{
	uint64_t now = clock_boot_ns();
	bool is;

	(void)pthread_mutex_lock(&e->lock);
	if (!s->sure_ns)
		s->sure_ns = now + UNSURE_S * NS_PER_S;
	is = s->leftover && e->prov->features & PROV_REMOTE && now < s->sure_ns;
	if (is)
		s->clean_ns = s->sure_ns;
	(void)pthread_mutex_unlock(&e->lock);
	return is;
}

/* The provider has nothing of s any more. */
static int forget(struct engine *e, struct set *s, struct snap_error *err)
{
	char name[DOOR_NAME_MAX + 1], id[33], text[128];
	bool deleted;

	(void)pthread_mutex_lock(&e->lock);
	deleted = s->state == SET_DELETING;
	if (!deleted) {
		s->leftover = false;
		(void)set_text(&s->detail, "");
	}
	(void)pthread_mutex_unlock(&e->lock);
	if (!deleted) {
		if (engine_save(e, s, err) < 0) {
			(void)pthread_mutex_lock(&e->lock);
			s->leftover = true; /* as the record says */
			(void)pthread_mutex_unlock(&e->lock);
			return err->code;
		}
		engine_event(e, s, "cleaned", -1);
		return 0;
	}
	memcpy(name, s->name, sizeof(name));
	memcpy(id, s->id, sizeof(id));
	prune_removed(e, s);
	FAULT("clean.logged");
	if (catalog_unlink(e->cat, id, err) < 0)
		return err->code;
	FAULT("clean.unlinked");
	(void)snprintf(text, sizeof(text), "\"set\":\"%s\",\"step\":\"removed\"", name);
	(void)pthread_mutex_lock(&e->lock);
	catalog_drop(e->cat, s);
	stock_forget(e, id);
	orphans_forget(e, id);
	(void)pthread_mutex_unlock(&e->lock);
	FAULT("clean.dropped");
	e->door.ops->event(e->door.fs, "snapshot", text);
	prune_dropped(e, id, name);
	FAULT("clean.told");
	return 0;
}

static void tried(struct engine *e, struct set *s, const struct snap_error *err)
{
	bool deleted;

	(void)pthread_mutex_lock(&e->lock);
	deleted = s->state == SET_DELETING;
	s->clean_pause_s = !s->clean_pause_s ? PAUSE_FIRST_S :
			   2 * s->clean_pause_s < PAUSE_MAX_S ? 2 * s->clean_pause_s : PAUSE_MAX_S;
	later(s, s->clean_pause_s);
	if (!deleted)
		(void)set_text(&s->detail, err->msg);
	(void)pthread_mutex_unlock(&e->lock);
	if (deleted) {
		e->door.ops->report(e->door.fs, "snapshots", err);
		(void)prune_failed(e, s, err); /* it is tried again, or is a set again */
	}
	log_warn("snapshot %s: its data is not removed yet: %s", s->name, err->msg);
}

static void clean_one(struct engine *e, struct set *s)
{
	char name[DOOR_NAME_MAX + 1], id[33];
	struct snap_error err = { 0 };
	int r;

	memcpy(name, s->name, sizeof(name));
	memcpy(id, s->id, sizeof(id));
	FAULT("clean.asking");
	r = run_remove(e, name, id, &err);
	FAULT("clean.removed");
	if (r == -ECANCELED && atomic_load(&e->abort_completing)) { /* somebody's abort, or the end */
		(void)pthread_mutex_lock(&e->lock);
		later(s, 1);
		(void)pthread_mutex_unlock(&e->lock);
		return;
	}
	if (r == -ESTALE && s->leftover && s->state == SET_FAILED) {
		log_warn("snapshot %s: %s", name, err.msg); /* nothing of this set is there */
		snap_error_clear(&err);
		r = 0;
	}
	if (r == 0 && unsure(e, s))
		return;
	if (r < 0 || forget(e, s, &err) < 0)
		tried(e, s, &err);
}

void engine_clean(struct engine *e)
{
	struct set *s;

	for (;;) {
		(void)pthread_mutex_lock(&e->lock);
		s = next(e);
		if (s && exec_stuck(e->prov_exec)) { /* not until that call has come back */
			later(s, 1);
			(void)pthread_mutex_unlock(&e->lock);
			continue;
		}
		(void)pthread_mutex_unlock(&e->lock);
		if (!s)
			return;
		clean_one(e, s);
	}
}
