/* tests/unit/snapshot/cutover_fake.c - see cutover_fake.h. */
#include "tests/unit/snapshot/unit.h"
#include "tests/unit/snapshot/cutover_fake.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cutover_world w;

static void world_check(const char *when)
{
	if (!w.a_fenced && w.b_open)
		fail_msg("two writable servers after %s (fault %d at call %u, %d at %u)", when, w.mode, w.at, w.mode2, w.at2);
}

/* What this call shall do; counts it. */
static enum mode enter_op(enum op op)
{
	unsigned k = ++w.calls;

	if (w.dead)
		return DIE_BEFORE;
	if (!w.a_fenced && !w.idle)
		w.a_has++; /* its clients write */
	if (w.b_open)
		w.b_has++;
	if (k == w.at || k == w.at2) {
		enum mode m = k == w.at ? w.mode : w.mode2;

		w.hit = op;
		w.dead = m == DIE_BEFORE || m == DIE_AFTER;
		w.a_gone = w.a_gone || m == A_GONE;
		w.b_gone = w.b_gone || m == B_GONE || m == B_GONE_AFTER;
		return m == A_GONE || m == B_GONE ? NONE : m;
	}
	return NONE;
}

static enum mode enter(enum op op)
{
	bool of_a = op == FENCE || op == UNFENCE || op == FINAL || op == CONFIRM || op == EXTRA;
	bool of_b = op == COMPARE || op == OPEN || op == IS_OPEN || op == SHUT || op == EXTRA;
	bool late = w.calls + 1 == w.at ? w.mode == B_GONE_AFTER : w.calls + 1 == w.at2 && w.mode2 == B_GONE_AFTER;
	enum mode m = enter_op(op);

	return (of_a && w.a_gone) || (of_b && w.b_gone && !late) ? FAIL_BEFORE : m;
}

static int leave(enum mode m, struct snap_error *err)
{
	world_check("a call");
	return m == NONE || m == LIE ? 0 : snap_error_set(err, -ECONNRESET, "the fake failed");
}

static bool does(enum mode m)
{
	return m == NONE || m == FAIL_AFTER || m == DIE_AFTER || m == B_GONE_AFTER;
}

static int f_note(void *c, const char *step, const char *text, struct snap_error *err)
{
	enum mode m = enter(NOTE);

	if (m == LIE || m == B_GONE_AFTER)
		m = NONE; /* a disk that lies is not survived */
	if (w.broken && m == NONE)
		return snap_error_set(err, -ESTALE, "a sync failed");
	if (does(m) && w.lines < 64)
		(void)snprintf(w.line[w.lines++], sizeof(w.line[0]), "%s", step);
	w.broken = w.broken || m == FAIL_AFTER;
	if (m == FAIL_AFTER)
		return snap_error_set(err, -ESTALE, "sync failed"); /* the line may be found, or not */
	return leave(m, err);
}

static int f_fence(void *c, struct snap_error *err)
{
	enum mode m = enter(FENCE);

	if (does(m))
		w.a_fenced = true;
	return leave(m, err);
}

static int f_unfence(void *c, struct snap_error *err)
{
	enum mode m = enter(UNFENCE);

	if (m == LIE)
		m = FAIL_BEFORE; /* it asks the server afterwards: the operation's own */
	if (does(m))
		w.a_fenced = false;
	return leave(m, err);
}

static int f_final(void *c, struct vbuf *set, struct snap_error *err)
{
	enum mode m = enter(FINAL);

	if (does(m))
		vbuf_printf(set, "%d", w.a_has);
	return leave(m, err);
}

static int f_compare(void *c, const char *set, bool *behind, struct snap_error *err)
{
	enum mode m = enter(COMPARE);

	if (does(m)) {
		if (w.b_has < w.a_has && !w.b_slow)
			w.b_has += 1 + (w.a_has - w.b_has) / 2; /* it replicates meanwhile */
		*behind = w.b_has < atoi(set);
		if (w.b_has > atoi(set))
			return snap_error_set(err, -EEXIST, "B has more");
	}
	return leave(m, err);
}

static int f_confirm(void *c, const char *set, struct snap_error *err)
{
	enum mode m = enter(CONFIRM);

	if (m == LIE)
		m = FAIL_BEFORE; /* it is what a lie is found out with */
	if (does(m) && (!w.a_fenced || (set && atoi(set) != w.a_has)))
		return snap_error_set(err, -EPERM, "A is not fenced");
	return leave(m, err);
}

static int f_open(void *c, struct snap_error *err)
{
	enum mode m = enter(OPEN);

	if (does(m)) {
		if (!w.b_open && w.b_has < w.a_has && !w.lose)
			fail_msg("B opened without %d transactions of A", w.a_has - w.b_has);
		w.b_open = true;
	}
	return leave(m, err);
}

static int f_is_open(void *c, bool *yes, struct snap_error *err)
{
	enum mode m = enter(IS_OPEN);

	if (does(m))
		*yes = w.b_open;
	return leave(m, err);
}

static int f_shut(void *c, struct snap_error *err)
{
	enum mode m = enter(SHUT);

	if (m == LIE)
		m = FAIL_BEFORE; /* it asks afterwards */
	if (does(m))
		w.b_open = false;
	return leave(m, err);
}

static int f_extra(void *c, struct snap_error *err)
{
	enum mode m = enter(EXTRA);

	if (does(m) && w.b_has > w.a_has)
		return snap_error_set(err, -EEXIST, "B has more");
	return leave(m, err);
}

static int f_hook(void *c, struct snap_error *err)
{
	enum mode m = enter(HOOK);

	assert_true(w.dead || w.b_open);
	w.hooks += does(m);
	return leave(m, err);
}

static int f_retire(void *c, struct snap_error *err)
{
	enum mode m = enter(RETIRE);

	if (m == LIE)
		m = NONE; /* it changes what is written down, not who writes */
	w.retired = w.retired || does(m) || w.a_gone;
	return leave(m, err);
}

static bool f_cancelled(void *c)
{
	return w.cancel;
}

static uint64_t f_now(void *c)
{
	return w.now;
}

static void f_pause(void *c, uint32_t ms)
{
	w.now += ms;
}

const struct steps_ops cutover_fake = {
	.note = f_note, .fence = f_fence, .unfence = f_unfence, .final = f_final, .compare = f_compare, .confirm = f_confirm,
	.open = f_open, .is_open = f_is_open, .shut = f_shut, .extra = f_extra, .hook = f_hook, .retire = f_retire,
	.cancelled = f_cancelled, .now_ms = f_now, .pause = f_pause,
};
