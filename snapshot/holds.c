/* snapshot/holds.c - what keeps the sets of a plan from being removed, asked of the provider before anybody tries: a lock, an
 * image, a restore. See prune_int.h.
 * Owns:      e->holds. What is told is kept in the sets, as a failed removal's reason is, and plans go by it.
 * Called by: prune_files.c when somebody reads the plan; run_db.c on the engine's thread, between two runs.
 * Blocks:    holds_look up to LOOK_MS; a request ends it at once, and it is made again afterwards.
 * Errors:    in the plan's head. What is not known keeps no set: its removal asks again, before anything of it goes. */
#include "snapshot/prune.h"
#include "snapshot/orphans.h"
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_MS 20000u
#define PAUSE_S 60u
#define TOLD_S 3600u /* so long an answer counts */
#define SETS_MAX 500u /* of one look; those that were asked about longest ago come next */

struct look {
	struct prov_run pr; /* first: cancelled gets it */
	struct engine *e;
	size_t n;
	char (*ids)[33];
	char (*why)[200];
	bool *told;
};

/* Would it go, or is it kept for nothing else than what was told? */
static bool in_question(const struct plan *pl, size_t i)
{
	const struct set *s = pl->set[i];

	if (s->state != SET_COMPLETE && s->state != SET_FAILED)
		return false;
	return !pl->out[i].keep || (s->held && s->held_told && pl->in[i].held && !pl->out[i].rules && pl->out[i].why == RET_BY_HELD);
}

static bool stale(const struct set *s, uint64_t now)
{
	return !s->asked_ns || now > s->asked_ns + PAUSE_S * NS_PER_S;
}

void holds_ask(struct engine *e, const struct plan *pl)
{
	uint64_t now = clock_boot_ns();
	bool any = false;

	if (!e->prov->holds || now < e->holds.not_before_ns)
		return;
	for (size_t i = 0; i < pl->n && !any; i++)
		any = in_question(pl, i) && stale(pl->set[i], now);
	if (!any)
		return;
	e->holds.asked = true;
	(void)pthread_cond_signal(&e->work);
}

uint64_t holds_due(const struct engine *e)
{
	return e->holds.asked && !e->running && !e->rescan.running ? 0 : UINT64_MAX;
}

void holds_line(struct engine *e, const struct plan *pl, struct vbuf *out)
{
	size_t n = 0;

	if (!e->prov->holds)
		return;
	for (size_t i = 0; i < pl->n; i++)
		n += pl->set[i]->held_told && pl->in[i].held;
	if (e->holds.asked)
		vbuf_puts(out, "holds looking\n");
	else if (e->holds.error.code)
		vbuf_printf(out, "holds unknown: %s\n", e->holds.error.msg);
	else
		vbuf_printf(out, "holds %zu\n", n);
}

/* ---- looking ---- */

static void look_free(struct look *l)
{
	free(l->ids);
	free(l->why);
	free(l->told);
	free(l);
}

static bool cancelled(const struct prov_run *r)
{
	const struct look *l = (const struct look *)(const void *)r;

	return atomic_load(&l->e->urgent) || atomic_load(&l->e->abort_flag);
}

static void told(void *arg, size_t i, const char *why)
{
	struct look *l = arg;

	(void)snprintf(l->why[i], sizeof(l->why[i]), "%s", why);
	l->told[i] = true;
}

static void do_look(struct job *j)
{
	struct look *l = j->arg;

	j->result = l->e->prov->holds(l->e->prov_self, &l->pr, (const char(*)[33])l->ids, l->n, told, l, j->max_ms, &j->err);
}

static void drop_look(struct job *j)
{
	look_free(j->arg);
}

/* Lock held. NULL: out of memory. */
static struct look *begin(struct engine *e, const struct plan *pl)
{
	struct look *l = calloc(1, sizeof(*l));
	uint64_t now = clock_boot_ns();

	if (!l)
		return NULL;
	l->e = e;
	l->pr.cancelled = cancelled;
	l->ids = calloc(SETS_MAX, sizeof(*l->ids));
	l->why = calloc(SETS_MAX, sizeof(*l->why));
	l->told = calloc(SETS_MAX, sizeof(*l->told));
	if (!l->ids || !l->why || !l->told) {
		look_free(l);
		return NULL;
	}
	for (size_t i = 0; i < pl->n && l->n < SETS_MAX; i++)
		if (in_question(pl, i) && stale(pl->set[i], now))
			memcpy(l->ids[l->n++], pl->set[i]->id, sizeof(*l->ids));
	return l;
}

/* Lock held. */
static void settle(struct engine *e, const struct look *l)
{
	uint64_t now = clock_boot_ns();

	for (size_t i = 0; i < l->n; i++) {
		struct set *s = catalog_by_id(e->cat, l->ids[i]);
		char *why;

		if (!s || (s->state != SET_COMPLETE && s->state != SET_FAILED))
			continue;
		s->asked_ns = now;
		/* what a removal has met, and this question may not see, stands for its hour */
		if (!l->told[i] || (s->held && !s->held_told && now < s->held_ns))
			continue;
		why = l->why[i][0] ? strdup(l->why[i]) : NULL;
		free(s->held);
		s->held = why;
		s->held_told = why != NULL;
		s->held_ns = why ? now + TOLD_S * NS_PER_S : 0;
	}
}

static int ask(struct engine *e, struct look *l, bool *still, struct snap_error *err)
{
	struct job *j = job_new(do_look, e, LOOK_MS);
	int r;

	if (!j)
		return snap_error_set(err, -ENOMEM, "out of memory");
	j->arg = l;
	j->orphan = drop_look;
	r = exec_post(e->prov_exec, j);
	if (r < 0) {
		job_drop(e->prov_exec, j);
		return snap_error_set(err, r, "the provider is busy with a call that has not come back");
	}
	r = exec_wait(e->prov_exec, j, clock_boot_ns() + LOOK_MS * NS_PER_MS, &e->abort_flag);
	if (r < 0)
		snap_error_set(err, r, "%s", strerror(-r));
	else if (j->result < 0)
		r = snap_error_set(err, j->result, "%s", j->err.code ? j->err.msg : strerror(-j->result));
	job_abandon(e->prov_exec, j, still);
	return r;
}

void holds_look(struct engine *e)
{
	struct snap_error err = { 0 };
	struct look *l = NULL;
	struct plan pl = { 0 };
	bool still = false;
	int r = 0;

	(void)pthread_mutex_lock(&e->lock);
	if (!e->queued && !e->stopping && holds_due(e) == 0) {
		r = plan_make(e, &pl, false, &err);
		l = r == 0 ? begin(e, &pl) : NULL;
		e->holds.asked = l && l->n;
		if (!l)
			e->holds.error = err;
	}
	plan_free(&pl);
	(void)pthread_mutex_unlock(&e->lock);
	if (!l)
		return;
	r = l->n ? ask(e, l, &still, &err) : 0;
	(void)pthread_mutex_lock(&e->lock);
	if (r != -ECANCELED || !e->queued) { /* else it stays asked for, and follows the request */
		e->holds.asked = false;
		e->holds.error = err;
		e->holds.not_before_ns = r < 0 ? clock_boot_ns() + PAUSE_S * NS_PER_S : 0;
	}
	if (r == 0)
		settle(e, l);
	(void)pthread_mutex_unlock(&e->lock);
	if (!still)
		look_free(l);
}
