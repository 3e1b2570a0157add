/* snapshot/cutover/steps.c - see steps.h. Called by: stillfs-cutover; tests with a fake table. A fault point between any
 * two things that are done (base/fault.h). */
#include "snapshot/cutover/steps.h"
#include "base/fault.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define POLL_MS 5u
#define SENDS 3u

static const struct {
	const char *step;
	enum steps_at at;
} after[] = {
	{ "begin", AT_BEGUN }, { "fencing", AT_FENCED }, { "unfencing", AT_UNFENCING }, { "sending", AT_SENDING },
	{ "uncertain", AT_UNCERTAIN }, { "resolving", AT_UNCERTAIN }, { "reopening", AT_UNCERTAIN }, { "open", AT_OPEN },
	{ "hooked", AT_HOOKED }, { "end", AT_END },
};

enum steps_at steps_after(enum steps_at at, const char *step)
{
	for (size_t i = 0; i < sizeof(after) / sizeof(after[0]); i++)
		if (strcmp(after[i].step, step) == 0)
			return after[i].at;
	return at; /* a remark: fenced, final, caught_up, hook, hook_failed, ... */
}

const char *steps_name(enum steps_at at)
{
	static const char *const names[] = { "begun", "fenced", "unfencing", "sending", "uncertain", "open", "hooked", "ended" };

	return names[at];
}

static int note(const struct steps *s, const char *step, const char *text, struct snap_error *err)
{
	return s->ops->note(s->c, step, text, err);
}

/* What is only to be known later: its failure is no reason to do anything else. */
static void remark(const struct steps *s, const char *step, const char *text)
{
	struct snap_error ignored = { 0 };

	(void)s->ops->note(s->c, step, text, &ignored);
}

/* ---- back ---- */

/* Nothing was sent. *err says why; the journal too. */
static enum steps_result give_up(const struct steps *s, struct snap_error *err)
{
	struct snap_error why = { 0 };
	char text[SNAP_ERROR_MAX + 16];

	remark(s, "unfencing", err->msg);
	FAULT("cut.unfencing");
	if (s->ops->unfence(s->c, &why) < 0) {
		(void)snprintf(text, sizeof(text), "%.250s", err->code ? err->msg : "given up");
		snap_error_clear(err);
		snap_error_set(err, why.code, "%s; and A could not be unfenced: %.230s", text, why.msg);
		return STEPS_STUCK;
	}
	FAULT("cut.unfenced");
	(void)snprintf(text, sizeof(text), "aborted %s", err->msg);
	remark(s, "end", text);
	return STEPS_ABORTED;
}

static enum steps_result uncertain(const struct steps *s, struct snap_error *err)
{
	remark(s, "uncertain", err->msg);
	return STEPS_UNCERTAIN;
}

/* ---- forward ---- */

/* past: the point is behind. B may have been open by then, so what only B has is no reason against it. */
static int wait_for_b(const struct steps *s, const char *set, bool past, struct snap_error *err)
{
	uint64_t end = s->ops->now_ms(s->c) + s->catch_up_ms;
	bool behind = true;
	int r = 0;

	for (;;) {
		if (s->ops->cancelled(s->c))
			return snap_error_set(err, -ECANCELED, "interrupted while B was catching up");
		r = s->ops->compare(s->c, set, &behind, err);
		if (r == -EEXIST && past) {
			snap_error_clear(err);
			r = 0;
		}
		if (r < 0 || !behind)
			return r;
		if (s->ops->now_ms(s->c) >= end)
			return snap_error_set(err, -ETIMEDOUT, "B has not executed all that A %s within %u s; let it catch up, or give "
							       "--catch-up more%s", past ? "has" : "had", s->catch_up_ms / 1000,
					      past ? "; resolve --writable B --lose gives up what B lacks" : "");
		s->ops->pause(s->c, POLL_MS);
	}
}

/* Up to the point of no return, not beyond. */
static int approach(const struct steps *s, struct snap_error *err)
{
	struct vbuf set = VBUF_INIT;
	int r;

	r = note(s, "fencing", "", err);
	FAULT("cut.fencing");
	r = r < 0 ? r : s->ops->fence(s->c, err);
	FAULT("cut.fenced");
	r = r < 0 ? r : note(s, "fenced", "", err);
	r = r < 0 ? r : s->ops->final(s->c, &set, err);
	r = r < 0 ? r : vbuf_error(&set);
	r = r < 0 ? r : note(s, "final", vbuf_text(&set), err);
	FAULT("cut.final");
	r = r < 0 ? r : wait_for_b(s, vbuf_text(&set), false, err);
	r = r < 0 ? r : note(s, "caught_up", "", err);
	FAULT("cut.caught_up");
	r = r < 0 ? r : s->ops->confirm(s->c, vbuf_text(&set), err);
	if (r == 0 && s->ops->cancelled(s->c))
		r = snap_error_set(err, -ECANCELED, "interrupted before B was opened");
	FAULT("cut.confirmed");
	vbuf_free(&set);
	return r;
}

/* After the point: A is fenced now, but a restart or a resolve may have opened it in between, and B is not to be opened without
 * what A acknowledged then. */
static int catch_up_again(const struct steps *s, struct snap_error *err)
{
	struct vbuf set = VBUF_INIT;
	int r = s->ops->confirm(s->c, NULL, err);

	r = r < 0 ? r : s->ops->final(s->c, &set, err);
	if (r == 0 && vbuf_error(&set) < 0)
		r = snap_error_set(err, -ENOMEM, "A's transactions: out of memory");
	if (r == 0)
		remark(s, "final", vbuf_text(&set));
	r = r < 0 ? r : wait_for_b(s, vbuf_text(&set), true, err);
	if (r == 0)
		remark(s, "caught_up", "");
	r = r < 0 ? r : s->ops->confirm(s->c, vbuf_text(&set), err);
	vbuf_free(&set);
	return r;
}

/* Ask until B answers, for verify_ms at the most. */
static int ask_b(const struct steps *s, bool *yes, struct snap_error *err)
{
	uint64_t end = s->ops->now_ms(s->c) + s->verify_ms;
	int r;

	for (;;) {
		snap_error_clear(err);
		*yes = false;
		r = s->ops->is_open(s->c, yes, err);
		if (r == 0 || s->ops->now_ms(s->c) >= end)
			return r;
		s->ops->pause(s->c, 20 * POLL_MS);
	}
}

/* The journal says "sending". 0: B is open. */
static int open_b(const struct steps *s, struct snap_error *err)
{
	struct snap_error sent = { 0 };
	bool yes = false;
	int r = 0;

	for (unsigned i = 0; i < SENDS; i++) {
		snap_error_clear(&sent);
		r = s->ops->open(s->c, &sent);
		FAULT("cut.sent");
		r = ask_b(s, &yes, err);
		if (r < 0 || yes)
			return r;
	}
	return snap_error_set(err, sent.code ? sent.code : -EIO, "B does not take writes although it was told to: %s",
			      sent.code ? sent.msg : "it says that it is read-only");
}

/* B is open: the rest. Nothing here can make two servers writable. */
static enum steps_result finish(const struct steps *s, enum steps_at at, struct snap_error *err)
{
	enum steps_result result = STEPS_DONE;

	if (at == AT_OPEN) {
		remark(s, "hook", s->skip_hook ? "skipped" : "");
		FAULT("cut.hook");
		if (!s->skip_hook && s->ops->hook(s->c, err) < 0) {
			remark(s, "hook_failed", err->msg);
			result = STEPS_DONE_BUT;
		} else {
			remark(s, "hooked", "");
		}
		FAULT("cut.hooked");
	}
	if (s->ops->retire(s->c, err) < 0) { /* err keeps what came first */
		remark(s, "retire_failed", err->msg);
		result = STEPS_DONE_BUT;
	}
	FAULT("cut.retired");
	if (result == STEPS_DONE)
		remark(s, "end", "done");
	return result;
}

static enum steps_result opened(const struct steps *s, struct snap_error *err)
{
	FAULT("cut.seen");
	snap_error_clear(err);
	remark(s, "open", "");
	FAULT("cut.open");
	return finish(s, AT_OPEN, err);
}

/* A predecessor may have sent, or not; it may have failed to write down that it gave up. */
static enum steps_result go_on_sending(const struct steps *s, struct snap_error *err)
{
	bool yes = false;
	int r = ask_b(s, &yes, err);

	if (r == 0 && yes)
		return opened(s, err);
	r = r < 0 ? r : catch_up_again(s, err);
	r = r < 0 ? r : open_b(s, err);
	return r < 0 ? uncertain(s, err) : opened(s, err);
}

enum steps_result steps_run(const struct steps *s, enum steps_at at, struct snap_error *err)
{
	int r;

	switch (at) {
	case AT_BEGUN:
	case AT_FENCED:
		r = approach(s, err);
		if (r < 0) {
			(void)snap_error_set(err, r, "the journal or memory failed: %s", strerror(-r));
			return give_up(s, err);
		}
		r = note(s, "sending", "", err);
		if (r == -ESTALE) /* a later reader may find that it was sent */
			return uncertain(s, err);
		if (r < 0)
			return give_up(s, err);
		FAULT("cut.sending");
		return open_b(s, err) < 0 ? uncertain(s, err) : opened(s, err);
	case AT_UNFENCING:
		snap_error_set(err, -ECANCELED, "it had been given up before");
		return give_up(s, err);
	case AT_SENDING:
		return go_on_sending(s, err);
	case AT_OPEN:
	case AT_HOOKED:
		return finish(s, at, err);
	case AT_UNCERTAIN:
		snap_error_set(err, -EPERM, "it is not known whether B takes writes: look at it, then stillctl cutover resolve "
					    "--writable A or --writable B");
		return STEPS_REFUSED;
	case AT_END:
	default:
		snap_error_set(err, -ENOENT, "no cut-over is under way");
		return STEPS_REFUSED;
	}
}

/* ---- the operator's decisions ---- */

enum steps_result steps_abort(const struct steps *s, enum steps_at at, struct snap_error *err)
{
	if (at == AT_BEGUN || at == AT_FENCED || at == AT_UNFENCING) {
		snap_error_set(err, -ECANCELED, "aborted by the operator");
		return give_up(s, err);
	}
	if (at == AT_END)
		snap_error_set(err, -ENOENT, "no cut-over is under way");
	else
		snap_error_set(err, -EPERM, "B was told to take writes, or may have been: there is no way back but stillctl cutover "
					    "resolve --writable A; stillctl cutover resume goes on");
	return STEPS_REFUSED;
}

/* B shut first, then A opened. */
static enum steps_result resolve_a(const struct steps *s, bool other_down, bool lose, struct snap_error *err)
{
	struct snap_error why = { 0 };
	int r = other_down ? 0 : s->ops->shut(s->c, err);

	FAULT("cut.shut");
	if (r == 0 && !lose)
		r = other_down ? 0 : s->ops->extra(s->c, err);
	r = r < 0 ? r : note(s, "reopening", "A", err);
	FAULT("cut.reopening");
	r = r < 0 ? r : s->ops->unfence(s->c, err);
	FAULT("cut.reopened");
	if (r < 0)
		return uncertain(s, err);
	if (note(s, "end", "resolved A", &why) < 0)
		remark(s, "end", "resolved A");
	return STEPS_ABORTED;
}

/* A seen fenced first, and B to lack nothing of it, then B opened. One that is open already is not shut for what it lacks. */
static enum steps_result resolve_b(const struct steps *s, bool other_down, bool lose, struct snap_error *err)
{
	int r = other_down ? 0 : s->ops->fence(s->c, err); /* puts up again what is missing */
	bool as_it_is = lose;

	if (r == 0 && !other_down && !lose)
		r = ask_b(s, &as_it_is, err);
	if (r == 0 && !other_down)
		r = as_it_is ? s->ops->confirm(s->c, NULL, err) : catch_up_again(s, err);
	r = r < 0 ? r : open_b(s, err);
	return r < 0 ? uncertain(s, err) : opened(s, err);
}

enum steps_result steps_resolve(const struct steps *s, enum steps_at at, bool b, bool other_down, bool lose, struct snap_error *err)
{
	int r;

	if (at != AT_SENDING && at != AT_UNCERTAIN && at != AT_OPEN && at != AT_HOOKED) {
		snap_error_set(err, at == AT_END ? -ENOENT : -EPERM, at == AT_END ? "no cut-over is under way" :
			       "nothing was sent to B yet: stillctl cutover abort gives the writes back to A, resume goes on");
		return STEPS_REFUSED;
	}
	r = note(s, "resolving", b ? "B" : "A", err);
	FAULT("cut.resolving");
	if (r < 0)
		return uncertain(s, err);
	return b ? resolve_b(s, other_down, lose, err) : resolve_a(s, other_down, lose, err);
}
