/* snapshot/cutover/mongo.c - the check, the change and the look afterwards (mongo.h). A fault point between any two things
 * that are done (base/fault.h). Facts: manual of MongoDB, replSetFreeze, replSetStepDown. */
#include "snapshot/cutover/mongo_int.h"
#include "base/clock.h"
#include "base/fault.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define POLL_MS 20

static void pause_ms(uint32_t ms)
{
	struct timespec t = { ms / 1000, (long)(ms % 1000) * 1000000 };

	(void)nanosleep(&t, NULL);
}

/* ---- the check ---- */

struct findings {
	struct vbuf *out;
	unsigned refused;
	char first[300]; /* the first that refuses */
};

__attribute__((format(printf, 2, 3))) static void refuse(struct findings *f, const char *fmt, ...)
{
	char text[600];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	vbuf_printf(f->out, "bad %s\n", text);
	if (f->refused++ == 0)
		(void)snprintf(f->first, sizeof(f->first), "%.299s", text);
}

static void check_member(const struct mgs_member *a, const struct mgs_member *b, uint32_t max_lag_s, struct findings *f)
{
	int64_t lag_ms = a->optime_ms - b->optime_ms;

	if (!a->primary)
		refuse(f, "primary: %s is not it: name the primary as --from", a->host);
	if (!b->secondary || !b->healthy)
		refuse(f, "secondary: %s is no healthy secondary", b->host);
	if (b->arbiter || b->priority <= 0)
		refuse(f, "priority: %s cannot be elected (%s): give it a priority with rs.reconfig", b->host,
		       b->arbiter ? "an arbiter" : b->hidden ? "hidden, priority 0" : "priority 0");
	if (b->delay_s > 0)
		refuse(f, "delay: %s is %lld s behind by its configuration", b->host, (long long)b->delay_s);
	if (lag_ms > (int64_t)max_lag_s * 1000)
		refuse(f, "lag: %s is %.1f s behind, more than --max-lag %u", b->host, (double)lag_ms / 1000, max_lag_s);
	else
		vbuf_printf(f->out, "ok lag: %s is %.1f s behind\n", b->host, lag_ms > 0 ? (double)lag_ms / 1000 : 0.0);
}

/* A member of a higher priority calls for an election as soon as it has caught up, and takes the writes away again. */
static void check_priorities(const struct mongo_set *set, const struct mgs_member *b, struct findings *f)
{
	for (size_t i = 0; i < set->n; i++)
		if (set->member[i].priority > b->priority)
			refuse(f, "priority: %s has priority %g, %s only %g: the set would go back to it; change that with rs.reconfig",
			       set->member[i].host, set->member[i].priority, b->host, b->priority);
}

static void check_majority(const struct mongo_set *set, struct findings *f)
{
	int64_t all = 0, up = 0;

	for (size_t i = 0; i < set->n; i++) {
		all += set->member[i].votes;
		up += set->member[i].healthy ? set->member[i].votes : 0;
		if (!set->member[i].healthy)
			vbuf_printf(f->out, "warn member: %s is not healthy\n", set->member[i].host);
	}
	if (up * 2 <= all)
		refuse(f, "majority: only %lld of %lld votes are healthy: nobody could be elected", (long long)up, (long long)all);
}

/* Those that have to be frozen have to be reached. */
static void check_rivals(struct mongo_set *set, struct findings *f)
{
	for (size_t i = 0; i < set->n; i++) {
		struct snap_error why = { 0 };

		if (!mongo_set_rival(set, &set->member[i]))
			continue;
		if (mongo_set_reach(set, &set->member[i], &why) < 0)
			refuse(f, "rival: %s could be elected instead, and cannot be told not to: %.200s", set->member[i].host, why.msg);
		else
			vbuf_printf(f->out, "ok rival: %s will be kept from standing for election\n", set->member[i].host);
	}
}

/* 0, -EPERM with the first finding that refuses, or that the set cannot be asked. */
static int check(struct mongo_cut *m, struct mongo_set *set, struct vbuf *out, struct snap_error *err)
{
	struct findings f = { out, 0, "" };
	struct mgs_member *a, *b;
	int r = mongo_set_open(m, set, err);

	if (r < 0)
		return r;
	a = mgs_find(set->member, set->n, set->from_host);
	b = mgs_find(set->member, set->n, set->to_host);
	if (!a || !b)
		return snap_error_set(err, -ENOENT, "%.200s is not in the set's configuration", a ? set->to_host : set->from_host);
	check_member(a, b, m->max_lag_s, &f);
	check_priorities(set, b, &f);
	check_majority(set, &f);
	check_rivals(set, &f);
	return f.refused ? snap_error_set(err, -EPERM, "refused: %.280s", f.first) : vbuf_error(out);
}

int mongo_cut_check(struct mongo_cut *m, struct vbuf *findings, struct snap_error *err)
{
	struct mongo_set set = { 0 };
	int r = check(m, &set, findings, err);

	mongo_set_close(&set);
	return r;
}

/* ---- the change ---- */

/* Those that were frozen; it ends by itself after MONGO_FREEZE_S when one is not reached. */
static void thaw(struct mongo_set *set)
{
	struct snap_error ignored = { 0 };

	for (size_t i = 0; i < set->n; i++)
		if (set->member[i].c)
			(void)mgs_freeze(set->member[i].c, set->member[i].host, 0, NULL, &ignored);
}

static int freeze_rivals(struct mongo_set *set, struct snap_error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < set->n; i++)
		if (mongo_set_rival(set, &set->member[i]))
			r = mgs_freeze(set->member[i].c, set->member[i].host, MONGO_FREEZE_S, NULL, err);
	return r;
}

/* *wait_s: for how long the set may be about to change from now on. */
static int step_down(const struct mongo_cut *m, struct mongo_set *set, uint32_t *wait_s, struct snap_error *err)
{
	int code = 0, r = mgs_step_down(set->from, (int32_t)(MONGO_FREEZE_S + m->catch_up_s), (int32_t)m->catch_up_s, &code, err);

	*wait_s = m->elect_s + (r < 0 ? m->catch_up_s : 0);
	return code ? r : 0; /* without an answer only the set can tell: it may still be waiting for a secondary */
}

/* Whom the named member takes for the primary, asked now. */
static enum mongo_outcome look(struct mongo_set *set, char *primary, size_t cap)
{
	struct snap_error ignored = { 0 };
	enum mongo_outcome found = MONGO_NONE;
	mongoc_client_t *ask[] = { set->to, set->from };

	*primary = '\0';
	for (size_t i = 0; found == MONGO_NONE && i < 2; i++) {
		bson_t h;

		if (mgl_hello(ask[i], &h, &ignored) == 0) {
			(void)snprintf(primary, cap, "%s", mgl_text(&h, "primary"));
			if (i == 0 && strcmp(mgl_role(&h), "primary") == 0)
				found = MONGO_DONE;
			else if (i == 1 && strcmp(mgl_role(&h), "primary") == 0)
				found = MONGO_STAYED;
			else if (*primary && strcmp(primary, set->from_host) != 0 && strcmp(primary, set->to_host) != 0)
				found = MONGO_OTHER;
		}
		snap_error_clear(&ignored);
		bson_destroy(&h);
	}
	return found;
}

/* A member that still believes in the old primary is no news: it is heard when the time is over. */
static enum mongo_outcome wait_for_primary(struct mongo_set *set, uint32_t wait_s, char *primary, size_t cap)
{
	uint64_t end = clock_boot_ns() + wait_s * NS_PER_S;
	enum mongo_outcome o;

	for (;;) {
		o = look(set, primary, cap);
		if (o == MONGO_DONE || clock_boot_ns() >= end)
			return o;
		pause_ms(POLL_MS);
	}
}

static enum mongo_outcome tell(const struct mongo_set *set, enum mongo_outcome o, const char *primary, struct snap_error *err)
{
	if (o == MONGO_STAYED)
		snap_error_set(err, -EAGAIN, "%.200s is the primary still", set->from_host);
	else if (o == MONGO_OTHER)
		snap_error_set(err, -EREMCHG, "%.200s was elected, not %.200s: it takes the writes now", primary, set->to_host);
	else if (o == MONGO_NONE)
		snap_error_set(err, -ETIMEDOUT, "nobody is seen to be the primary; the set elects one as soon as a majority can: look at "
						"rs.status()");
	return o;
}

/* Before the step down. *err says why. */
static enum mongo_outcome back_out(const struct mongo_cut *m, struct mongo_set *set, struct snap_error *err)
{
	struct snap_error ignored = { 0 };

	thaw(set);
	(void)m->note(m->c, "end", err->msg, &ignored);
	return MONGO_STAYED;
}

static enum mongo_outcome change(const struct mongo_cut *m, struct mongo_set *set, struct snap_error *err)
{
	struct snap_error why = { 0 };
	char primary[256];
	enum mongo_outcome o;
	uint32_t wait_s = 0;
	int r = m->note(m->c, "freezing", set->name, err);

	FAULT("mongo.freezing");
	r = r < 0 ? r : freeze_rivals(set, err);
	FAULT("mongo.frozen");
	if (r == 0 && m->cancelled(m->c))
		r = snap_error_set(err, -ECANCELED, "interrupted before %.200s was asked to step down", set->from_host);
	r = r < 0 ? r : m->note(m->c, "sending", set->to_host, err);
	if (r < 0)
		return back_out(m, set, err);
	FAULT("mongo.sending");
	if (step_down(m, set, &wait_s, &why) < 0) {
		snap_error_set(err, why.code, "%.350s; %.100s stays the primary", why.msg, set->from_host);
		return back_out(m, set, err);
	}
	FAULT("mongo.stepped");
	o = wait_for_primary(set, wait_s, primary, sizeof(primary));
	thaw(set);
	FAULT("mongo.elected");
	/* nobody: the set elects one yet, and it may be the named one */
	(void)m->note(m->c, o == MONGO_DONE ? "open" : o == MONGO_NONE ? "nobody" : "end", o == MONGO_DONE ? set->to_host : primary, &why);
	return tell(set, o, primary, err);
}

enum mongo_outcome mongo_cut_run(struct mongo_cut *m, struct vbuf *findings, struct snap_error *err)
{
	struct mongo_set set = { 0 };
	enum mongo_outcome o = MONGO_REFUSED;

	if (check(m, &set, findings, err) == 0)
		o = change(m, &set, err);
	mongo_set_close(&set);
	return o;
}

enum mongo_outcome mongo_cut_look(struct mongo_cut *m, uint32_t stay_s, struct snap_error *err)
{
	uint64_t stay = clock_boot_ns() + stay_s * NS_PER_S, elect = stay + (stay_s ? m->elect_s * NS_PER_S : 0);
	struct mongo_set set = { 0 };
	enum mongo_outcome o = MONGO_NONE;
	char primary[256];

	if (mongo_set_open(m, &set, err) == 0) {
		o = look(&set, primary, sizeof(primary));
		while ((o == MONGO_STAYED && clock_boot_ns() < stay) || (o == MONGO_NONE && clock_boot_ns() < elect)) {
			pause_ms(POLL_MS);
			o = look(&set, primary, sizeof(primary));
		}
		(void)tell(&set, o, primary, err);
	}
	mongo_set_close(&set);
	return o;
}
