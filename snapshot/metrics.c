/* snapshot/metrics.c - the engine's part of `metrics`, in Prometheus' text format 0.0.4. See metrics.h.
 * Called by: engine.c when a set has ended; fs/metrics.c through engine_metrics.
 * Counters begin at 0 with each daemon, as Prometheus expects of a restart. */
#include "snapshot/metrics.h"
#include "base/clock.h"
#include "snapshot/engine_int.h"
#include "snapshot/fence/keep.h"
#include "snapshot/orphans.h"
#include "snapshot/prune.h"
#include "snapshot/prune_int.h"

#include <stdio.h>
#include <string.h>

static const double bounds[METRICS_BOUNDS] = { 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 50 };

static void observe(struct histogram *h, double ms)
{
	unsigned i = 0;

	if (ms < 0)
		return; /* did not happen */
	while (i < METRICS_BOUNDS && ms / 1000 > bounds[i])
		i++;
	h->bucket[i]++;
	h->count++;
	h->sum_s += ms / 1000;
}

void metrics_set(struct metrics *m, const struct set *s)
{
	if (s->state == SET_COMPLETE)
		m->complete++;
	else
		m->failed++;
	observe(&m->lock, s->lock_ms);
	observe(&m->hold, s->hold_ms);
	m->given_up += s->given_up;
	observe(&m->given_up_s, s->given_up_ms);
	observe(&m->stall, s->hold_ms < 0 ? -1 : s->hold_ms + (s->drain_ms > 0 ? s->drain_ms : 0));
}

static void put_head(struct vbuf *out, const char *metric, const char *type, const char *help)
{
	vbuf_printf(out, "# HELP stillfs_%s %s\n# TYPE stillfs_%s %s\n", metric, help, metric, type);
}

static void put_one(struct engine *e, struct vbuf *out, const char *metric, const char *type, const char *help, double v)
{
	put_head(out, metric, type, help);
	vbuf_printf(out, "stillfs_%s{name=\"%s\"} %.17g\n", metric, e->door.name, v);
}

static void put_histogram(struct engine *e, struct vbuf *out, const char *metric, const char *help,
			  const struct histogram *h)
{
	uint64_t sum = 0;

	put_head(out, metric, "histogram", help);
	for (unsigned i = 0; i < METRICS_BOUNDS; i++) {
		sum += h->bucket[i];
		vbuf_printf(out, "stillfs_%s_bucket{name=\"%s\",le=\"%g\"} %llu\n", metric, e->door.name, bounds[i],
			    (unsigned long long)sum);
	}
	vbuf_printf(out, "stillfs_%s_bucket{name=\"%s\",le=\"+Inf\"} %llu\nstillfs_%s_sum{name=\"%s\"} %.17g\n"
			 "stillfs_%s_count{name=\"%s\"} %llu\n", metric, e->door.name, (unsigned long long)h->count, metric,
		    e->door.name, h->sum_s, metric, e->door.name, (unsigned long long)h->count);
}

static double seconds(struct timespec t)
{
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void put_sets(struct engine *e, struct vbuf *out)
{
	static const enum set_state states[] = { SET_RUNNING, SET_PENDING, SET_COMPLETE, SET_FAILED, SET_DELETING };
	uint64_t n[SET_DELETING + 1] = { 0 }, pinned = 0;
	double complete = 0, verified = 0, bytes = 0;
	struct set *s;

	for (size_t i = 0; (s = catalog_at(e->cat, i)) != NULL; i++) {
		double t = seconds(s->created);

		if (strcmp(s->lineage, catalog_lineage(e->cat)) != 0)
			continue;
		n[s->state]++;
		if (s->state != SET_COMPLETE)
			continue;
		pinned += s->pin;
		bytes += (double)s->size_b;
		complete = t > complete ? t : complete;
		verified = set_is_verified(s) && t > verified ? t : verified;
	}
	put_head(out, "sets", "gauge", "Sets of this lineage in the catalog, by state.");
	for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
		vbuf_printf(out, "stillfs_sets{name=\"%s\",state=\"%s\"} %llu\n", e->door.name, set_state_name(states[i]),
			    (unsigned long long)n[states[i]]);
	put_one(e, out, "sets_pinned", "gauge", "Complete sets that are pinned.", (double)pinned);
	put_one(e, out, "sets_bytes", "gauge", "Logical bytes of all complete sets.", bytes);
	/* absent when there is none: an alert asks for absence, and a 0 would be the year 1970 */
	if (complete > 0) {
		put_one(e, out, "newest_complete_timestamp_seconds", "gauge", "When the newest complete set was taken.", complete);
		put_one(e, out, "newest_complete_age_seconds", "gauge", "Age of the newest complete set.",
			seconds(clock_utc()) - complete);
	}
	if (verified > 0) {
		put_one(e, out, "newest_verified_timestamp_seconds", "gauge", "When the newest verified set was taken.", verified);
		put_one(e, out, "newest_verified_age_seconds", "gauge", "Age of the newest verified set.",
			seconds(clock_utc()) - verified);
	}
}

static void put_prune(struct engine *e, struct vbuf *out)
{
	const struct prune *p = e->prune;

	put_one(e, out, "auto_prune", "gauge", "1 when sets are pruned by themselves.", prune_off(e) ? 0 : 1);
	put_one(e, out, "prune_runs_total", "counter", "Plans carried out.", (double)p->runs);
	put_one(e, out, "prune_removed_total", "counter", "Sets removed, by plans and by hand.", (double)p->removed);
	put_one(e, out, "prune_failed_total", "counter", "Removals that failed and are tried again.", (double)p->failed);
	put_one(e, out, "prune_skipped_total", "counter", "Removals that the provider does not allow now.", (double)p->skipped);
	put_one(e, out, "prune_left", "gauge", "Sets that a plan has condemned and that are not gone yet.",
		(double)p->n_journal);
}

void engine_metrics(struct engine *e, struct vbuf *out)
{
	const struct metrics *m = &e->metrics;

	(void)pthread_mutex_lock(&e->lock);
	put_head(out, "snapshots_total", "counter", "Snapshots that have ended, by outcome.");
	vbuf_printf(out, "stillfs_snapshots_total{name=\"%s\",outcome=\"complete\"} %llu\n"
			 "stillfs_snapshots_total{name=\"%s\",outcome=\"failed\"} %llu\n", e->door.name,
		    (unsigned long long)m->complete, e->door.name, (unsigned long long)m->failed);
	put_one(e, out, "snapshot_running", "gauge", "1 while a snapshot is before its consistency point.", e->running != NULL);
	put_histogram(e, out, "lock_seconds", "How long the database was locked.", &m->lock);
	put_one(e, out, "lock_given_up_total", "counter", "Tries for the lock that were given up because it was not had soon.",
		(double)m->given_up);
	put_histogram(e, out, "lock_given_up_seconds", "The longest hold-up by a try that was given up, of each snapshot with one.",
		      &m->given_up_s);
	put_histogram(e, out, "hold_seconds", "How long the gate was closed, from drained to open.", &m->hold);
	put_histogram(e, out, "stall_seconds", "How long a write could be held up: drain and hold.", &m->stall);
	put_one(e, out, "fence", "gauge", "1 while clients of the database are fenced, or to be.", strcmp(fence_keep_state(e->fence), "off") != 0);
	put_one(e, out, "fence_verified", "gauge", "1 while the fence is up and was found so at the last look.",
		strcmp(fence_keep_state(e->fence), "on") == 0 || strcmp(fence_keep_state(e->fence), "on hard") == 0);
	put_sets(e, out);
	put_prune(e, out);
	orphans_metrics(e, out);
	(void)pthread_mutex_unlock(&e->lock);
}
