/* snapshot/engine_recover.c - what a process that is gone left half-way: sets without a point fail, pending ones are taken up.
 * Owns:      nothing. See engine_recover.h.
 * Called by: engine.c, at the start and when somebody has said `adopt`.
 * Threads:   before there are any, or the engine's.
 * Blocks:    for a small file a set. The provider is not asked: a network that is away, or a removal that hangs, must not keep
 *            the mount from starting.
 * Errors:    -errno with the sentence.
 *
 * Nothing is taken up or removed while state_dir is another machine's. A set that is `running` in the record may have been
 * completed all the same: by the machine that this one is a copy of, or, when the record was read from an image, long ago by
 * this one (begun.h). It fails here, in doubt: whether the data go is somebody's decision. Provider `local` is no such case on
 * its own machine: what has no point is not yet under the set's name there. */
#include "snapshot/engine_recover.h"
#include "snapshot/begun.h"
#include "snapshot/list.h"
#include "snapshot/prune.h"
#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static bool in_doubt(const struct engine *e, const struct set *s)
{
	bool live = strcmp(s->provider, e->prov->name) == 0 && e->prov->features & PROV_LIVE_FS;

	return prune_foreign(e) || (!begun_here(s->id) && !live);
}

static int fail_begun(struct engine *e, struct set *s, struct snap_error *err)
{
	int r;

	s->doubt = in_doubt(e, s);
	(void)set_text(&s->error, !s->doubt ? "stillfs ended before the consistency point was fixed" :
					      "begun, and nobody here knows whether its point was fixed, since the record is from before a boot, from an "
					      "image, or from another machine; nothing of it is removed by itself: if it is complete, `rescan` (provider "
					      "ebs) says so; rmdir removes it");
	s->error_code = -ESHUTDOWN;
	s->state = SET_FAILED;
	s->leftover = !s->doubt;
	s->ended = clock_utc();
	if (s->doubt)
		log_warn("snapshot %s: %s", s->name, s->error);
	r = engine_save(e, s, err);
	if (r == 0)
		begun_forget(s->id);
	return r;
}

/* It stays pending: the sentence says why. */
static void leave(struct engine *e, struct set *s, const char *text)
{
	(void)pthread_mutex_lock(&e->lock);
	(void)set_text(&s->detail, text);
	(void)pthread_mutex_unlock(&e->lock);
	log_warn("snapshot %s: %s", s->name, text);
}

static int take_up(struct engine *e, struct set *s, struct snap_error *err)
{
	char text[160];
	struct run *r;

	if (strcmp(s->provider, e->prov->name) != 0) {
		(void)snprintf(text, sizeof(text), "made by provider=%s, which alone can complete it; start stillfs with that", s->provider);
		leave(e, s, text);
		return 0;
	}
	r = run_again(e, s);
	if (!r)
		return snap_error_set(err, -ENOMEM, "take up snapshot %s: out of memory", s->name);
	*run_next(r) = e->completing;
	e->completing = r;
	(void)pthread_mutex_lock(&e->lock);
	(void)set_text(&s->detail, "");
	e->n_completing++;
	e->step = e->running ? e->step : "completing";
	(void)pthread_mutex_unlock(&e->lock);
	return 0;
}

int engine_recover(struct engine *e, struct snap_error *err)
{
	struct set *s;
	int r = 0;

	/* without a BACKING these are another host's */
	for (size_t i = 0; r == 0 && e->door.n_pairs && (s = catalog_at(e->cat, i)) != NULL; i++)
		if (s->state == SET_RUNNING)
			r = fail_begun(e, s, err);
		else if (s->state == SET_PENDING && prune_foreign(e))
			leave(e, s, "state_dir comes from another machine, which may complete it; when the sets are this one's, `echo adopt > prune`");
		else if (s->state == SET_PENDING)
			r = take_up(e, s, err);
	return r;
}

static bool is_followed(const struct engine *e, const struct set *s)
{
	struct run *r = e->completing;

	while (r && run_set(r) != s)
		r = *run_next(r);
	return r;
}

void engine_recover_adopted(struct engine *e)
{
	struct snap_error err = { 0 };
	struct set *s;
	bool waits;
	int r;

	if (!e->door.n_pairs)
		return;
	r = prune_resume(e, &err);
	for (size_t i = 0; r == 0; i++) {
		(void)pthread_mutex_lock(&e->lock);
		s = catalog_at(e->cat, i);
		waits = s && s->state == SET_PENDING && !is_followed(e, s);
		(void)pthread_mutex_unlock(&e->lock);
		if (!s)
			break;
		if (waits)
			r = take_up(e, s, &err);
	}
	if (r == 0)
		return;
	log_error("adopt: %s; the next start goes on", err.msg);
	e->door.ops->report(e->door.fs, "prune", &err);
}
