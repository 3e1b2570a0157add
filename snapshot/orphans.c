/* snapshot/orphans.c - see orphans.h.
 * Owns:      e->orphans: what the last look at the provider found of this lineage.
 * Called by: prune*.c, which ask by being read or applied; run_db.c and engine.c on the engine's thread.
 * Blocks:    orphans_look up to LOOK_MS, between two runs; orphans_record for a small file each.
 * Errors:    in the plan's head and in `status`: what is not known is not deleted.
 *
 * A running attempt is none of these: its record is written before anything is made. What counts as certain: the lineage, an
 * origin (prune_origin) that is this stillfs's on this machine, a time, and no damaged record that it could belong to. */
#include "snapshot/orphans.h"
#include "base/clock.h"
#include "base/log.h"
#include "snapshot/list.h"
#include "snapshot/prune.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_MS 20000u
#define PAUSE_S 60u

/* ---- looking ---- */

void orphans_ask(struct engine *e, bool prune)
{
	if (!e->prov->scan || !e->door.n_pairs)
		return;
	e->orphans.then_prune |= prune;
	if (!prune && e->orphans.looked_ns && clock_boot_ns() <= e->orphans.looked_ns + PAUSE_S * NS_PER_S)
		return;
	e->orphans.asked = true;
	(void)pthread_cond_signal(&e->work);
}

uint64_t orphans_due(const struct engine *e)
{
	return e->orphans.asked && !e->running && !e->rescan.running ? 0 : UINT64_MAX;
}

void orphans_look(struct engine *e)
{
	struct snap_error err = { 0 };
	char lineage[33];
	bool due, prune;
	struct haul *h;

	(void)pthread_mutex_lock(&e->lock);
	due = !e->queued && !e->stopping && orphans_due(e) == 0;
	memcpy(lineage, catalog_lineage(e->cat), sizeof(lineage));
	(void)pthread_mutex_unlock(&e->lock);
	if (!due)
		return;
	h = haul_in(e, lineage, "", LOOK_MS, "orphans", &err);
	(void)pthread_mutex_lock(&e->lock);
	haul_free(e->orphans.all);
	e->orphans.all = h;
	e->orphans.error = err;
	e->orphans.looked_ns = clock_boot_ns();
	e->orphans.asked = false;
	prune = e->orphans.then_prune;
	e->orphans.then_prune = false;
	(void)pthread_mutex_unlock(&e->lock);
	if (prune && h)
		prune_auto(e, false);
}

/* ---- judging ---- */

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The newest complete set's time, which ages count from; false: there is none. */
static bool newest(const struct engine *e, int64_t now, int64_t *out)
{
	struct set *s;
	bool any = false;

	for (size_t i = 0; (s = catalog_at(e->cat, i)) != NULL; i++)
		if (s->state == SET_COMPLETE && strcmp(s->lineage, catalog_lineage(e->cat)) == 0 && s->created.tv_sec <= now &&
		    (!any || s->created.tv_sec > *out)) {
			*out = s->created.tv_sec;
			any = true;
		}
	return any;
}

static const struct ret_rule *rule(const struct engine *e)
{
	const struct ret_policy *p = &e->prune->policy;

	for (unsigned i = 0; i < p->n; i++)
		if (p->rule[i].key == RET_ORPHAN_AGE)
			return &p->rule[i];
	return NULL;
}

bool orphans_ruled(const struct engine *e)
{
	return rule(e) != NULL;
}

static enum orphan_why judge(const struct engine *e, const struct set *s, int64_t now, const int64_t *ref)
{
	const struct ret_rule *r = rule(e);

	if (s->state == SET_COMPLETE)
		return ORPHAN_COMPLETE;
	if (s->state != SET_FAILED)
		return ORPHAN_PENDING;
	if (!*prune_origin(e) || strcmp(s->origin, prune_origin(e)) != 0)
		return ORPHAN_UNSURE;
	if (catalog_aside(e->cat))
		return ORPHAN_ASIDE;
	if (!s->created.tv_sec || s->created.tv_sec > now)
		return ORPHAN_UNDATED;
	if (!r)
		return ORPHAN_NO_RULE;
	if (!ref)
		return ORPHAN_NO_SET;
	return *ref - s->created.tv_sec <= (int64_t)r->n ? ORPHAN_YOUNG : ORPHAN_GOES;
}

int orphans_judge(const struct engine *e, struct orphan **out, size_t *n, size_t *n_delete)
{
	const struct haul *h = e->orphans.all;
	size_t known = 0, n_sets = catalog_count(e->cat);
	const char **ids = calloc(n_sets + 1, sizeof(*ids));
	struct orphan *v = calloc((h ? h->n : 0) + 1, sizeof(*v));
	int64_t now = clock_utc().tv_sec, ref = 0;
	bool any = newest(e, now, &ref);

	*n = *n_delete = 0;
	*out = v;
	if (!ids || !v) {
		free(ids);
		return -ENOMEM;
	}
	for (; known < n_sets; known++)
		ids[known] = catalog_at(e->cat, known)->id;
	qsort(ids, known, sizeof(*ids), by_text);
	for (size_t i = 0; h && i < h->n; i++) {
		const char *id = h->v[i]->id;

		if ((known && bsearch(&id, ids, known, sizeof(*ids), by_text)) || strcmp(h->v[i]->lineage, catalog_lineage(e->cat)) != 0)
			continue;
		v[*n] = (struct orphan){ h->v[i], judge(e, h->v[i], now, any ? &ref : NULL) };
		*n_delete += v[(*n)++].why == ORPHAN_GOES;
	}
	free(ids);
	return 0;
}

void orphans_reason(const struct engine *e, const struct orphan *o, struct vbuf *out)
{
	static const char *const why[] = {
		[ORPHAN_GOES] = "left of a set that never became complete, and older than orphan_age",
		[ORPHAN_COMPLETE] = "complete, so its record was lost; only `delete ID orphan` removes it",
		[ORPHAN_PENDING] = "not complete yet",
		[ORPHAN_UNSURE] = "nothing says that it was made by this stillfs on this machine; only `delete ID orphan` removes it",
		[ORPHAN_ASIDE] = "a damaged record lies aside in state_dir, which may be its own",
		[ORPHAN_UNDATED] = "it has no time, or one in the future",
		[ORPHAN_NO_RULE] = "no orphan_age is set",
		[ORPHAN_NO_SET] = "there is no complete set to count its age from",
	};

	vbuf_printf(out, "orphan %s: ", o->s->id);
	if (o->why == ORPHAN_YOUNG)
		ret_rule_print(rule(e), out);
	else
		vbuf_puts(out, why[o->why]);
}

void orphans_count(const struct engine *e, struct vbuf *out)
{
	struct orphan *v = NULL;
	size_t n = 0, go;

	if (!e->prov->scan || !e->door.n_pairs)
		vbuf_printf(out, "unknown: provider %s tells of no other sets", e->prov->name);
	else if (e->orphans.asked)
		vbuf_puts(out, "looking");
	else if (e->orphans.error.code)
		vbuf_printf(out, "unknown: %s", e->orphans.error.msg);
	else if (!e->orphans.looked_ns)
		vbuf_puts(out, "unknown: nobody has looked yet");
	else if (orphans_judge(e, &v, &n, &go) == 0)
		vbuf_printf(out, "%zu", n);
	free(v);
}

void orphans_metrics(const struct engine *e, struct vbuf *out)
{
	struct orphan *v = NULL;
	size_t n = 0, go = 0, complete = 0;

	if (e->orphans.looked_ns && !e->orphans.error.code && orphans_judge(e, &v, &n, &go) == 0) {
		for (size_t i = 0; i < n; i++)
			complete += v[i].why == ORPHAN_COMPLETE;
		vbuf_printf(out, "# HELP stillfs_orphans Data of this lineage at the provider that no record accounts for, at the last look.\n"
				 "# TYPE stillfs_orphans gauge\nstillfs_orphans{name=\"%s\",state=\"complete\"} %zu\n"
				 "stillfs_orphans{name=\"%s\",state=\"leftover\"} %zu\n", e->door.name, complete, e->door.name, n - complete);
	}
	free(v);
}

/* ---- removing ---- */

/* A place in the catalog for s, which is taken over. The journal or the caller says that it goes; the removal begins when it
 * has a record. Lock held. */
static int enter(struct engine *e, struct set *s, const char *by)
{
	s->state = s->gone_from = SET_DELETING;
	s->gone_by = by;
	s->orphan = true;
	s->clean_ns = UINT64_MAX;
	if (!set_name_ok(s->name)) /* a leftover without a name of its own is removed by its id alone */
		memcpy(s->name, s->id, sizeof(s->id));
	if (!set_name_ok(s->class))
		(void)snprintf(s->class, sizeof(s->class), "orphan");
	return catalog_import(e->cat, s);
}

void orphans_condemn(struct engine *e, const char *by)
{
	struct prune *p = e->prune;
	struct orphan *v = NULL;
	size_t n = 0, go, k;

	if (orphans_judge(e, &v, &n, &go) < 0)
		n = 0;
	for (size_t i = 0; i < n; i++) { /* and no set that has a record: what was seen has all of them */
		for (k = 0; k < p->n_journal && strcmp(p->journal[k], v[i].s->id) != 0;)
			k++;
		if (k < p->n_journal) {
			struct set *s = haul_take(e->orphans.all, p->journal[k]);

			if (enter(e, s, by) < 0)
				set_free(s); /* out of memory: the next look finds it again */
		}
	}
	free(v);
}

/* The next that was entered and has no record yet. */
static struct set *unrecorded(struct engine *e)
{
	struct set *s;

	(void)pthread_mutex_lock(&e->lock);
	for (size_t i = 0; (s = catalog_at(e->cat, i)) != NULL && (!s->orphan || s->clean_ns != UINT64_MAX);)
		i++;
	(void)pthread_mutex_unlock(&e->lock);
	return s;
}

void orphans_record(struct engine *e)
{
	struct snap_error err = { 0 };
	struct set *s;

	while ((s = unrecorded(e)) != NULL) {
		if (engine_save(e, s, &err) < 0)
			log_warn("prune: %s; the orphan %s is removed all the same, and is an orphan again if stillfs ends before", err.msg, s->id);
		(void)pthread_mutex_lock(&e->lock);
		s->clean_ns = 0;
		(void)pthread_mutex_unlock(&e->lock);
	}
	(void)pthread_mutex_lock(&e->lock);
	engine_wake_removals(e);
	(void)pthread_mutex_unlock(&e->lock);
}

int orphans_delete(struct engine *e, const char *id, struct snap_error *err)
{
	struct orphan *v = NULL;
	const struct set *found = NULL;
	size_t n = 0, go;
	struct set *s;
	int r;

	(void)pthread_mutex_lock(&e->prune->io);
	(void)pthread_mutex_lock(&e->lock);
	r = orphans_judge(e, &v, &n, &go);
	for (size_t i = 0; r == 0 && !found && i < n; i++)
		if (strcmp(v[i].s->id, id) == 0)
			found = v[i].s;
	if (r < 0)
		snap_error_set(err, r, "prune: out of memory");
	else if (prune_foreign(e))
		r = snap_error_set(err, -EPERM, "prune: state_dir comes from another machine, whose sets these may be; when they are this "
						"one's, `echo adopt > prune`");
	else if (!found)
		r = snap_error_set(err, -ENOENT, "prune: no orphan of this lineage with the id %.40s was seen at the last look; "
						 "read prune, and again a moment later", id);
	else if (found->state == SET_PENDING || found->state == SET_RUNNING)
		r = snap_error_set(err, -EBUSY, "prune: orphan %s is not complete yet", id);
	s = r == 0 ? haul_take(e->orphans.all, id) : NULL;
	if (s && enter(e, s, BY_ORPHAN) < 0) {
		set_free(s);
		r = snap_error_set(err, -ENOMEM, "prune: out of memory");
	}
	(void)pthread_mutex_unlock(&e->lock);
	free(v);
	if (r == 0)
		orphans_record(e);
	(void)pthread_mutex_unlock(&e->prune->io);
	return r;
}
