/* snapshot/rescan.c - the catalog rebuilt from the provider's own records (tags), after it was lost or on another host.
 * Owns:      what was asked for and what came of it, under the engine's lock.
 * Called by: the control file `rescan`; the engine's thread carries it out; the pins that go to the provider, too.
 * Blocks:    rescan_run as long as the provider lists, on its own thread; an abort ends the wait.
 * Errors:    in the control file `rescan`, in last_error. Sets of this catalog are never overwritten but where nobody
 *            follows them: pending ones of an earlier life, and those in doubt (engine_recover.c). */
#include "snapshot/list.h"
#include "base/clock.h"
#include "base/hex.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCAN_MS 600000u
#define PIN_MS 60000u

/* ---- into the catalog ---- */

static bool is_followed(struct engine *e, const struct set *s)
{
	for (struct run *r = e->completing; r; r = *run_next(r))
		if (run_set(r) == s)
			return true;
	return s == e->running;
}

/* Its record says that it was begun. Somebody has seen the end of its hold when the provider's says how long it was. */
static bool settle_doubt(struct set *have, const struct set *now)
{
	if (have->state != SET_FAILED || now->state != SET_COMPLETE || now->hold_ms < 0 || set_text(&have->position, now->position) < 0)
		return false;
	have->doubt = false;
	have->state = SET_COMPLETE;
	have->progress = 100;
	have->volumes = now->volumes;
	have->size_b = now->size_b;
	have->lock_ms = now->lock_ms;
	have->hold_ms = now->hold_ms;
	have->error_code = 0;
	(void)set_text(&have->error, "");
	return true;
}

/* The state of a set that nobody follows. Lock held. True: it has changed. */
static bool refresh(struct engine *e, struct set *have, const struct set *now)
{
	bool foreign = !e->door.n_pairs;

	if (have->doubt)
		return settle_doubt(have, now);
	if (is_followed(e, have) || have->state == SET_DELETING || (have->state != SET_PENDING && !foreign))
		return false;
	if (have->state == now->state && have->progress == now->progress && have->pin == now->pin)
		return false;
	have->state = now->state;
	have->progress = now->progress;
	have->volumes = now->volumes;
	have->size_b = now->size_b;
	have->error_code = now->error_code;
	have->pin = foreign ? now->pin : have->pin;
	(void)set_text(&have->error, now->error);
	return true;
}

/* Lock held. A set of the same name from another lineage: its id tells them apart. */
static int add_new(struct engine *e, struct set *s)
{
	if (catalog_find(e->cat, s->name)) {
		char name[sizeof(s->name)];

		(void)snprintf(name, sizeof(name), "%.55s.%.8s", s->name, s->id);
		memcpy(s->name, name, sizeof(s->name));
		if (catalog_find(e->cat, s->name))
			return -EEXIST;
	}
	return catalog_import(e->cat, s);
}

struct tally {
	unsigned found, added, changed, gone;
};

static int merge(struct engine *e, struct haul *h, struct tally *t, struct snap_error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < h->n; i++) {
		struct set *s = h->v[i], *have, *save = NULL;

		(void)pthread_mutex_lock(&e->lock);
		have = catalog_by_id(e->cat, s->id);
		t->found++;
		if (have) {
			save = refresh(e, have, s) ? have : NULL;
			t->changed += save != NULL;
		} else if ((r = add_new(e, s)) == 0) {
			h->v[i] = NULL; /* the catalog's now */
			save = s;
			t->added++;
		}
		(void)pthread_mutex_unlock(&e->lock);
		set_free(save == s ? NULL : h->v[i]);
		h->v[i] = NULL;
		if (r < 0)
			return snap_error_set(err, r, "rescan: %s", strerror(-r));
		if (save)
			r = engine_save(e, save, err);
	}
	return r;
}

/* Sets that are in the catalog and no more at the provider. A catalog without a BACKING forgets them. */
static int forget_gone(struct engine *e, char (*ids)[33], size_t n_ids, struct tally *t, struct snap_error *err)
{
	struct set *s;
	char id[33];
	int r = 0;

	for (size_t i = 0; r == 0; i++) {
		bool seen = false;

		(void)pthread_mutex_lock(&e->lock);
		s = catalog_at(e->cat, i);
		for (size_t k = 0; s && k < n_ids && !seen; k++)
			seen = strcmp(s->id, ids[k]) == 0;
		if (s)
			memcpy(id, s->id, sizeof(id));
		seen = seen || !s || s->state == SET_DELETING || s->state == SET_FAILED || is_followed(e, s);
		(void)pthread_mutex_unlock(&e->lock);
		if (!s)
			break;
		if (seen)
			continue;
		t->gone++;
		if (e->door.n_pairs)
			continue;
		r = catalog_unlink(e->cat, id, err);
		(void)pthread_mutex_lock(&e->lock);
		if (r == 0)
			catalog_drop(e->cat, s);
		(void)pthread_mutex_unlock(&e->lock);
		i--;
	}
	return r;
}

/* Nothing of our lineage: is there one that a lost state_dir had? */
static void say_lineages(struct engine *e, struct vbuf *out)
{
	struct snap_error ignored = { 0 };
	struct haul *h = haul_in(e, "", e->door.name, SCAN_MS, "rescan", &ignored);

	for (size_t i = 0; h && i < h->n; i++) {
		unsigned sets = 0;
		bool first = true;

		for (size_t k = 0; k < h->n; k++) {
			bool same = strcmp(h->v[k]->lineage, h->v[i]->lineage) == 0;

			first = first && (!same || k >= i);
			sets += same;
		}
		if (first && strcmp(h->v[i]->lineage, catalog_lineage(e->cat)) != 0)
			vbuf_printf(out, "other_lineage %s %u\n", h->v[i]->lineage, sets);
	}
	haul_free(h);
}

static int run(struct engine *e, const char *lineage, struct tally *t, struct snap_error *err)
{
	struct haul *h = haul_in(e, lineage, "", SCAN_MS, "rescan", err);
	char (*ids)[33] = h ? calloc(h->n + 1, sizeof(*ids)) : NULL;
	int r = !h ? err->code : ids ? 0 : snap_error_set(err, -ENOMEM, "rescan: out of memory");
	size_t n = h ? h->n : 0;

	for (size_t i = 0; r == 0 && i < n; i++)
		memcpy(ids[i], h->v[i]->id, sizeof(ids[i]));
	if (r == 0)
		r = merge(e, h, t, err);
	if (r == 0)
		r = forget_gone(e, ids, n, t, err);
	free(ids);
	haul_free(h);
	return r;
}

void rescan_run(struct engine *e)
{
	struct snap_error err = { 0 };
	struct vbuf out = VBUF_INIT;
	struct tally t = { 0 };
	char lineage[33];
	int r = 0;

	(void)pthread_mutex_lock(&e->lock);
	memcpy(lineage, e->rescan.lineage, sizeof(lineage));
	e->step = "rescanning";
	if (e->rescan.adopt)
		r = catalog_adopt(e->cat, lineage, &err);
	(void)pthread_mutex_unlock(&e->lock);
	if (r == 0)
		r = run(e, lineage, &t, &err);
	vbuf_printf(&out, "state %s\n", r < 0 ? "failed" : "done");
	if (r < 0)
		vbuf_printf(&out, "message %s\n", err.msg);
	vbuf_printf(&out, "found %u\nadded %u\nchanged %u\nmissing %u\n", t.found, t.added, t.changed, t.gone);
	if (r == 0 && !t.found && *lineage)
		say_lineages(e, &out);
	if (r < 0) {
		log_error("%s", err.msg);
		e->door.ops->report(e->door.fs, "rescan", &err);
	} else {
		log_info("rescan: %u sets found, %u added, %u changed, %u missing", t.found, t.added, t.changed, t.gone);
	}
	(void)pthread_mutex_lock(&e->lock);
	vbuf_free(&e->rescan.last);
	e->rescan.last = out;
	e->rescan.running = false;
	e->step = e->n_completing ? "completing" : "idle";
	(void)pthread_mutex_unlock(&e->lock);
	e->door.ops->event(e->door.fs, "rescan", r < 0 ? "\"ok\":false" : "\"ok\":true");
}

/* ---- the control file ---- */

int rescan_show(struct engine *e, const char *set, struct vbuf *out)
{
	(void)pthread_mutex_lock(&e->lock);
	vbuf_puts(out, e->rescan.running ? "state running\n" : e->rescan.last.len ? vbuf_text(&e->rescan.last) : "none\n");
	(void)pthread_mutex_unlock(&e->lock);
	return 0;
}

static int ask(struct engine *e, const char *lineage, bool adopt, struct snap_error *err)
{
	int r = 0;

	(void)pthread_mutex_lock(&e->lock);
	if (e->rescan.running || e->running)
		r = snap_error_set(err, -EBUSY, "rescan: %s; try again when it is done",
				   e->rescan.running ? "one is under way" : "a snapshot is running");
	else if (adopt && strcmp(lineage, catalog_lineage(e->cat)) != 0 && catalog_count(e->cat) && e->door.n_pairs)
		r = snap_error_set(err, -EBUSY, "rescan: this catalog has sets of its own lineage, %s; another one can be taken over into "
						"an empty catalog only", catalog_lineage(e->cat));
	if (r == 0) {
		(void)snprintf(e->rescan.lineage, sizeof(e->rescan.lineage), "%s", lineage);
		e->rescan.adopt = adopt;
		e->rescan.running = e->rescan.due = true;
		(void)pthread_cond_signal(&e->work);
	}
	(void)pthread_mutex_unlock(&e->lock);
	return r;
}

int rescan_write(struct engine *e, const char *set, const char *text, size_t len, struct snap_error *err)
{
	char word[64] = "", rest[2], own[33];
	int n = sscanf(text, "%63s %1s", word, rest);

	if (!e->prov->scan || e->prov->features & PROV_SCAN_LISTS)
		return snap_error_set(err, -EOPNOTSUPP, "rescan: provider %s keeps no records that a catalog could be made from", e->prov->name);
	(void)pthread_mutex_lock(&e->lock);
	memcpy(own, catalog_lineage(e->cat), sizeof(own));
	(void)pthread_mutex_unlock(&e->lock);
	if (n <= 0)
		return ask(e, e->rescan_all ? "" : own, false, err);
	if (n != 1 || strncmp(word, "lineage=", 8) != 0 || !hex_is(word + 8, 32))
		return snap_error_set(err, -EINVAL, "rescan: expected nothing, or lineage= and 32 hexadecimal digits");
	e->rescan_all = false;
	return ask(e, word + 8, true, err);
}

/* ---- pins at the provider ---- */

struct pin_job {
	char id[33];
	bool pin;
};

static void do_pin(struct job *j)
{
	struct engine *e = j->self;
	struct pin_job *p = j->arg;

	j->result = e->prov->note_pin(e->prov_self, p->id, p->pin, j->max_ms, &j->err);
	free(p);
}

/* The catalog's word counts; the provider's copy is for other hosts, and may fail. */
static void one_pin(struct engine *e, const char *id, bool pin)
{
	struct pin_job *p = calloc(1, sizeof(*p));
	struct job *j = p ? job_new(do_pin, e, PIN_MS) : NULL;
	struct snap_error err = { 0 };

	if (!j) {
		free(p);
		return;
	}
	memcpy(p->id, id, sizeof(p->id));
	p->pin = pin;
	j->arg = p;
	if (exec_post(e->prov_exec, j) < 0) {
		free(p);
		snap_error_set(&err, -EBUSY, "pin: the provider is busy, so only this catalog knows of it");
	} else if (exec_wait(e->prov_exec, j, clock_boot_ns() + PIN_MS * NS_PER_MS, &e->abort_flag) == 0 && j->result < 0) {
		snap_error_set(&err, j->result, "pin: only this catalog knows of it: %.300s", j->err.msg);
	}
	if (err.code < 0)
		e->door.ops->report(e->door.fs, "pin", &err);
	job_drop(e->prov_exec, j);
}

void rescan_pins(struct engine *e)
{
	for (;;) {
		struct set *s = NULL;
		char id[33];
		bool pin = false;

		(void)pthread_mutex_lock(&e->lock);
		for (size_t i = 0; !e->stopping && (s = catalog_at(e->cat, i)) != NULL && !s->pin_due; i++)
			;
		if (s) {
			s->pin_due = false;
			pin = s->pin;
			memcpy(id, s->id, sizeof(id));
		}
		(void)pthread_mutex_unlock(&e->lock);
		if (!s)
			return;
		if (e->prov->note_pin)
			one_pin(e, id, pin);
	}
}
