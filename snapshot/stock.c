/* snapshot/stock.c - the control files list.all and list.all.json: the catalog's sets, and what else the provider has: sets of
 * other lineages, and orphans, which are of this lineage and have no record. They are shown; nothing here touches them.
 * Owns:      e->stock: what the last look at the provider found.
 * Called by: the tables of files.c, which ask for a look by being read; run_db.c on the engine's thread.
 * Threads:   control threads render with the engine's lock held. Blocks: stock_look up to LOOK_MS, between two runs; a
 *            request waits for it; an abort ends it.
 * Errors:    in `status`. Rhythm: PAUSE_S apart, and only while somebody reads. */
#include "snapshot/list.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_MS 20000u
#define PAUSE_S 60u

/* ---- looking ---- */

uint64_t stock_due(const struct engine *e)
{
	if (!e->stock.asked || e->running || e->rescan.running)
		return UINT64_MAX;
	return e->stock.looked_ns ? e->stock.looked_ns + PAUSE_S * NS_PER_S : 0;
}

void stock_look(struct engine *e)
{
	struct snap_error err = { 0 };
	struct haul *h = NULL;
	bool due;

	(void)pthread_mutex_lock(&e->lock);
	due = !e->queued && !e->stopping && stock_due(e) <= clock_boot_ns();
	if (due) {
		e->stock.asked = false;
		e->stock.running = true;
	}
	(void)pthread_mutex_unlock(&e->lock);
	if (!due)
		return;
	if (e->prov->scan)
		h = haul_in(e, "", "", LOOK_MS, "list.all", &err);
	else
		snap_error_set(&err, -EOPNOTSUPP, "provider %s tells of no other sets", e->prov->name);
	(void)pthread_mutex_lock(&e->lock);
	haul_free(e->stock.all);
	e->stock.all = h;
	e->stock.error = err;
	e->stock.looked_ns = clock_boot_ns();
	e->stock.when = clock_utc();
	e->stock.running = false;
	(void)pthread_mutex_unlock(&e->lock);
}

/* Lock held. */
static void ask(struct engine *e)
{
	e->stock.asked = !e->stock.looked_ns || clock_boot_ns() > e->stock.looked_ns + PAUSE_S * NS_PER_S;
	if (e->stock.asked)
		(void)pthread_cond_signal(&e->work);
}

void stock_status(const struct engine *e, struct vbuf *out)
{
	char t[CLOCK_ISO_MAX];

	vbuf_printf(out, "list_all_looked %s%s%s\n",
		    e->stock.running || e->stock.asked ? "looking" : e->stock.when.tv_sec ? clock_iso(e->stock.when, t) : "never",
		    e->stock.error.code ? " failed: " : "", e->stock.error.code ? e->stock.error.msg : "");
}

/* ---- whose is what ---- */

static int by_id(const void *a, const void *b)
{
	return strcmp((*(struct set *const *)a)->id, (*(struct set *const *)b)->id);
}

/* The catalog's sets, in its order, then the provider's that have no record here. n_own: of the catalog. NULL: out of
 * memory. n log n. */
static struct set **gather(struct engine *e, size_t *n_own, size_t *n)
{
	size_t own = catalog_count(e->cat), all = own + (e->stock.all ? e->stock.all->n : 0), at = 0;
	struct set **v = calloc(all + 1, sizeof(struct set *)), **known = calloc(own + 1, sizeof(struct set *));

	for (size_t i = 0; v && known && i < own; i++) {
		known[i] = catalog_at(e->cat, i);
		if (known[i]->state != SET_DELETING)
			v[at++] = known[i];
	}
	*n_own = at;
	if (v && known) {
		qsort(known, own, sizeof(*known), by_id);
		for (size_t i = 0; i < all - own; i++)
			if (!own || !bsearch(&e->stock.all->v[i], known, own, sizeof(*known), by_id))
				v[at++] = e->stock.all->v[i];
	} else {
		free(v);
		v = NULL;
	}
	*n = at;
	free(known);
	return v;
}

/* own: has a record here; other: another lineage's; orphan: this one's, and no record knows it; unknown: it does not say. */
static const char *whose(const struct engine *e, const struct set *s, bool recorded)
{
	if (!*s->lineage)
		return "unknown";
	if (strcmp(s->lineage, catalog_lineage(e->cat)) != 0)
		return "other";
	return recorded ? "own" : "orphan";
}

/* ---- the files ---- */

static void row(const struct engine *e, const struct set *s, bool recorded, const int w[3], struct vbuf *out)
{
	char t[CLOCK_ISO_MAX], age[32], size[16], pos[160];

	list_age(s->created, age);
	list_size(s->size_b, size);
	list_position(s->position, pos, sizeof(pos));
	clock_iso(s->created, t);
	(void)snprintf(t + 19, sizeof(t) - 19, "Z");
	vbuf_printf(out, "%-*s  %-*s  %s  %5s  %-8s  %3u  %8s  %-*s  %-32s  %s\n", w[0], s->name, w[1], s->class, t, age,
		    set_state_name(s->state), s->volumes, s->size_b ? size : "-", w[2], pos, *s->lineage ? s->lineage : "-",
		    whose(e, s, recorded));
}

static int widest(int w, const char *text)
{
	return (int)strlen(text) > w ? (int)strlen(text) : w;
}

int stock_show(struct engine *e, const char *set, struct vbuf *out)
{
	cleanup_free struct set **v = NULL;
	int w[3] = { 4, 5, 8 };
	size_t n_own, n = 0;
	char pos[160];

	(void)pthread_mutex_lock(&e->lock);
	ask(e);
	v = gather(e, &n_own, &n);
	for (size_t i = 0; v && i < n; i++) {
		list_position(v[i]->position, pos, sizeof(pos));
		w[0] = widest(w[0], v[i]->name);
		w[1] = widest(w[1], v[i]->class);
		w[2] = widest(w[2], pos);
	}
	vbuf_printf(out, "%-*s  %-*s  %-20s  %5s  %-8s  %3s  %8s  %-*s  %-32s  %s\n", w[0], "NAME", w[1], "CLASS", "CREATED", "AGE",
		    "STATE", "VOL", "SIZE", w[2], "POSITION", "LINEAGE", "WHOSE");
	for (size_t i = 0; v && i < n; i++)
		row(e, v[i], i < n_own, w, out);
	(void)pthread_mutex_unlock(&e->lock);
	return v ? 0 : -ENOMEM;
}

int stock_show_json(struct engine *e, const char *set, struct vbuf *out)
{
	cleanup_free struct set **v = NULL;
	size_t n_own, n = 0;

	(void)pthread_mutex_lock(&e->lock);
	ask(e);
	v = gather(e, &n_own, &n);
	for (size_t i = 0; v && i < n && vbuf_error(out) == 0; i++) {
		set_json(v[i], out);
		if (vbuf_error(out) == 0)
			out->len--; /* the closing brace */
		vbuf_printf(out, ",\"whose\":\"%s\"}\n", whose(e, v[i], i < n_own));
	}
	(void)pthread_mutex_unlock(&e->lock);
	return v ? 0 : -ENOMEM;
}
