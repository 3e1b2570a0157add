/* tests/unit/snapshot/test_engine_abort.c - abort, Ctrl-C and stop at each step over fakes, and that
 * everybody who waits is answered exactly once. Here the clock stands still: what comes back did not
 * wait for a deadline. */
#include "tests/unit/snapshot/drive.h"
#include "base/clock.h"
#include "snapshot/engine_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Calls that hang; the abort must get past them. */
static const struct hang {
	const char *abort_name, *cancel_name, *stop_name, *signal_name;
	enum fake_call call;
	bool after; /* the trigger is over: Ctrl-C changes nothing any more */
	bool stays; /* the call does not come back by itself: an executor is stuck */
} hangs[] = {
#define HANG(name) "abort_in_" name, "ctrl_c_in_" name, "stop_in_" name, "signal_in_" name
	{ HANG("db_preflight"), ON_DB_PREFLIGHT, false, true },
	{ HANG("preflight"), ON_PREFLIGHT, false, true },
	{ HANG("presync"), ON_PRESYNC, false, false },
	{ HANG("lock"), ON_LOCK, false, true },
	{ HANG("position"), ON_POSITION, false, true },
	{ HANG("drain"), ON_CLOSE, false, false },
	{ HANG("sync"), ON_SYNC, false, false },
	{ HANG("trigger"), ON_TRIGGER, false, true },
	{ HANG("poll"), ON_POLL, true, true },
};

static const struct hang deaf[] = {
	{ .stop_name = "stop_in_a_save", .call = ON_SAVE },
	{ .stop_name = "stop_in_an_event", .call = ON_EVENT },
	{ .stop_name = "stop_in_the_opening_of_the_gate", .call = ON_OPEN },
};

static void assert_free(struct rig *r, enum fake_call c)
{
	assert_false(fake_gate_closed());
	assert_false(fake_locked());
	assert_false(fake_frozen());
	if (c != ON_TRIGGER && c != ON_POLL)
		assert_false(file_there(r->f.backing, POSITION_FILE));
}

static void begin_and_hang(struct rig *r, const struct hang *h, struct asker *a)
{
	fake_conf(&r->f, "drain_timeout", "60"); /* by the clock, which stands still only where a test holds it */
	rig_start(r);
	fake_stall_still(h->call);
	assert_int_equal(ask(r, "one", a), 0);
	fake_wait_stalled(h->call);
	if (h->after)
		assert_int_equal(answer_of(a), 0);
}

static void an_abort_gets_past_a_call_that_hangs(void **state)
{
	struct rig *r = *state;
	const struct hang *h = r->param;
	struct asker a, w;

	begin_and_hang(r, h, &a);
	if (!h->stays)
		fake_clock_hold();
	assert_int_equal(engine_abort(r->e, &r->err), 0);
	until_state(r, "one", "failed");
	if (!h->after) {
		assert_int_equal(answer_of(&a), -ECANCELED);
		fake_clock_run();
		assert_string_equal(a.msg, "snapshot one: aborted by an operator");
	}
	assert_shows(r, "one", "last_error", "snapshot one: aborted by an operator");
	assert_free(r, h->call);
	assert_int_equal(ask(r, "two", &w), h->stays ? -EBUSY : 0);
	fake_release(h->call);
	if (!h->stays)
		assert_int_equal(answer_of(&w), 0);
	until_idle(r);
	assert_false(fake_has_data("one"));
	assert_nothing_held(r);
	snap_error_clear(&r->err);
	assert_int_equal(engine_abort(r->e, &r->err), -ENOENT);
	assert_string_equal(r->err.msg, "abort: no snapshot is running");
	take(r, "three", "");
}

static void ctrl_c_aborts_before_the_trigger_alone(void **state)
{
	struct rig *r = *state;
	const struct hang *h = r->param;
	struct asker a;

	begin_and_hang(r, h, &a);
	engine_cancel(r->e, a.id);
	if (!h->after) {
		assert_int_equal(answer_of(&a), -EINTR); /* before anything is unwound */
		until_state(r, "one", "failed");
		assert_free(r, h->call);
		fake_release(h->call);
		until_idle(r);
		assert_shows(r, "one", "last_error", "snapshot one: interrupted by its caller");
		assert_false(fake_has_data("one"));
	} else {
		assert_shows(r, "one", "state", "pending\n");
		fake_release(h->call);
		until_state(r, "one", "complete");
	}
	assert_int_equal(atomic_load(&a.answers), 1);
	until_idle(r);
	take(r, "two", "");
}

static void who_may_ask_again_is_answered_when_the_run_has_ended(void **state)
{
	struct rig *r = *state;
	const struct hang *h = r->param;
	struct asker a, b;

	begin_and_hang(r, h, &a);
	if (!h->after && !h->stays)
		fake_clock_hold(); /* or its own deadline ends it */
	engine_interrupt(r->e, a.id);
	if (!h->after) {
		assert_int_equal(answer_of(&a), -EINTR);
		fake_clock_run();
		assert_shows(r, "one", "state", "failed\n");
		assert_shows(r, "one", "last_error", "snapshot one: interrupted by its caller");
		assert_free(r, h->call);
		assert_int_equal(ask(r, "two", &b), h->stays ? -EBUSY : 0);
		if (h->stays)
			assert_non_null(strstr(r->err.msg, "has not come back yet"));
		fake_release(h->call);
		if (!h->stays)
			assert_int_equal(answer_of(&b), 0);
	} else {
		assert_shows(r, "one", "state", "pending\n");
		fake_release(h->call);
		until_state(r, "one", "complete");
	}
	until_idle(r);
	assert_int_equal(atomic_load(&a.answers), 1);
	take(r, "three", "");
}

static void an_interrupt_that_comes_too_late_is_answered_with_what_was_done(void **state)
{
	struct rig *r = *state;
	struct asker a, w;

	begin_and_hang(r, &(struct hang){ .call = ON_UNLOCK }, &a);
	fake_wait_ended(ON_OPEN, 1);
	assert_int_equal(ask_wait(r, "one", &w), 0);
	engine_interrupt(r->e, w.id); /* a reader of `wait` aborts nothing */
	engine_interrupt(r->e, 123456);
	engine_interrupt(r->e, a.id);
	fake_release(ON_UNLOCK);
	assert_int_equal(answer_of(&a), 0);
	assert_int_equal(answer_of(&w), 0);
	until_state(r, "one", "complete");
	until_idle(r);
}

static void a_stop_does_not_wait_for_a_call_that_hangs(void **state)
{
	struct rig *r = *state;
	const struct hang *h = r->param;
	struct asker a, w, late;

	begin_and_hang(r, h, &a);
	if (!h->after)
		assert_int_equal(ask_wait(r, "one", &w), 0);
	/* more than a call that completes a set is given to come back */
	if (h->stays)
		assert_int_equal(engine_stop(r->e, 10000), -ETIMEDOUT);
	else
		assert_int_equal(rig_stop_at_a_standstill(r, 10000), 0);
	assert_free(r, h->call);
	if (!h->after) {
		assert_int_equal(answer_of(&a), -ESHUTDOWN);
		assert_int_equal(answer_of(&w), -ESHUTDOWN);
	}
	assert_shows(r, "one", "state", h->after ? "pending\n" : "failed\n");
	assert_shows(r, "one", "last_error", h->after ? "none" : "snapshot one: stillfs is stopping");
	assert_int_equal(ask(r, "two", &late), -ESHUTDOWN);
	fake_release(h->call);
	rig_stop(r);
	assert_int_equal(atomic_load(&a.answers), 1);
	assert_int_equal(fake_has_data("one"), h->after);
	if (!h->after)
		return;
	assert_int_equal(fake_count(ON_DISCARD), 0); /* the call that came back late let go, and took nothing away */
	assert_int_equal(fake_count(ON_FINISH), 1);
	rig_start(r);
	until_state(r, "one", "complete");
}

/* A disk that does not answer, the gate, the events: no call of these can be left, but the caller of stop can. */
static void a_stop_keeps_its_bound_whatever_its_thread_sits_in(void **state)
{
	struct rig *r = *state;
	const struct hang *h = r->param;
	struct asker a;

	rig_start(r);
	fake_stall(h->call);
	assert_int_equal(ask(r, "one", &a), 0);
	fake_wait_stalled(h->call);
	assert_int_equal(engine_stop(r->e, 1000), -ETIMEDOUT);
	assert_int_equal(fake_end(h->call, 0), -1); /* it sits there still */
	assert_int_equal(answer_of(&a), -ESHUTDOWN);
	assert_int_equal(engine_stop(r->e, 1), -ETIMEDOUT);
	fake_release(h->call);
	rig_stop(r);
	assert_int_equal(atomic_load(&a.answers), 1);
	assert_false(fake_gate_closed());
	assert_false(fake_locked());
}

/* ---- the way out hangs, too ---- */

static void an_abort_does_not_wait_for_the_unlock(void **state)
{
	struct rig *r = *state;
	struct asker a;

	begin_and_hang(r, &(struct hang){ .call = ON_UNLOCK }, &a);
	assert_int_equal(engine_abort(r->e, &r->err), 0);
	assert_int_equal(answer_of(&a), -ECANCELED);
	assert_free(r, ON_UNLOCK);
	assert_int_equal(fake_count(ON_SEVER), 1); /* which ends the lock */
	fake_release(ON_UNLOCK);
	until_idle(r);
	assert_false(fake_has_data("one"));
	take(r, "two", "");
}

static void ctrl_c_leaves_the_unlock_its_time(void **state)
{
	struct rig *r = *state;
	struct asker a;

	begin_and_hang(r, &(struct hang){ .call = ON_UNLOCK }, &a);
	fake_wait_ended(ON_OPEN, 1);
	engine_cancel(r->e, a.id);
	assert_int_equal(answer_of(&a), -EINTR);
	fake_release(ON_UNLOCK);
	until_state(r, "one", "complete");
	assert_int_equal(fake_count(ON_SEVER), 0);
}

static void a_stop_waits_for_neither_unlock_nor_discard(void **state)
{
	struct rig *r = *state;
	struct asker a;
	uint64_t t;

	begin_and_hang(r, &(struct hang){ .call = ON_UNLOCK }, &a);
	fake_stall_still(ON_DISCARD);
	t = clock_boot_ns();
	assert_int_equal(engine_stop(r->e, 1000), -ETIMEDOUT);
	assert_true(clock_boot_ns() - t < 5 * NS_PER_S); /* which the unlock alone would have had */
	assert_int_equal(answer_of(&a), -ESHUTDOWN);
	assert_free(r, ON_UNLOCK);
	fake_release(ON_UNLOCK);
	fake_release(ON_DISCARD);
	rig_stop(r);
	assert_false(fake_has_data("one"));
}

static void an_abort_does_not_wait_for_the_discard(void **state)
{
	struct rig *r = *state;
	struct asker a, b;

	rig_start(r);
	fake_fail(ON_TRIGGER, -EIO);
	fake_stall_still(ON_DISCARD);
	assert_int_equal(ask(r, "one", &a), 0);
	fake_wait_stalled(ON_DISCARD);
	assert_int_equal(engine_abort(r->e, &r->err), 0);
	assert_int_equal(answer_of(&a), -EIO); /* the first reason stands */
	assert_int_equal(ask(r, "two", &b), -EBUSY);
	fake_release(ON_DISCARD);
	fake_clear(ON_TRIGGER);
	until_idle(r);
	assert_false(fake_has_data("one"));
	assert_int_equal(fake_count(ON_DISCARD), 1);
	take(r, "two", "");
}

/* ---- asked for inside a call, which then goes on ---- */

static void abort_now(void *arg)
{
	struct rig *r = arg;

	(void)engine_abort(r->e, NULL);
}

static void an_abort_during_each_call_unwinds_what_is_held(void **state)
{
	static const enum fake_call calls[] = { ON_PROBE, ON_DB_PREFLIGHT, ON_PREFLIGHT, ON_PRESYNC, ON_LOCK,
						ON_POSITION, ON_CLOSE, ON_SYNC, ON_FREEZE };
	struct rig *r = *state;
	struct asker a;
	char name[16];

	fake_conf(&r->f, "freeze", "yes");
	rig_start(r);
	for (unsigned i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		(void)snprintf(name, sizeof(name), "set%u", i);
		fake_hook(calls[i], abort_now, r);
		assert_int_equal(ask(r, name, &a), 0);
		assert_int_equal(answer_of(&a), -ECANCELED);
		until_idle(r);
		assert_nothing_held(r);
		assert_false(fake_has_data(name));
		assert_int_equal(fake_count(ON_TRIGGER), 0);
	}
	take(r, "last", "");
}

struct interrupter {
	struct rig *r;
	struct asker *a;
};

static void cancel_now(void *arg)
{
	const struct interrupter *i = arg;

	engine_cancel(i->r->e, i->a->id);
}

static void ctrl_c_after_the_trigger_lets_the_run_go_on(void **state)
{
	static const enum fake_call calls[] = { ON_THAW, ON_OPEN, ON_POLL };
	struct rig *r = *state;
	struct asker a;
	char name[16];

	fake_conf(&r->f, "freeze", "yes");
	rig_start(r);
	for (unsigned i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		struct interrupter c = { r, &a };

		(void)snprintf(name, sizeof(name), "set%u", i);
		fake_hook(calls[i], cancel_now, &c);
		assert_int_equal(ask(r, name, &a), 0);
		assert_int_equal(answer_of(&a), calls[i] == ON_POLL ? 0 : -EINTR);
		until_state(r, name, "complete");
		until_idle(r);
		assert_int_equal(atomic_load(&a.answers), 1);
		assert_true(fake_has_data(name));
	}
}

/* ---- one snapshot's abort is not another's ---- */

static void ctrl_c_of_one_leaves_the_completion_of_another_alone(void **state)
{
	struct rig *r = *state;
	struct asker a, b;

	rig_start(r);
	fake_polls(1000000);
	assert_int_equal(ask(r, "one", &a), 0);
	assert_int_equal(answer_of(&a), 0);
	fake_stall_still(ON_PRESYNC);
	assert_int_equal(ask(r, "two", &b), 0);
	fake_wait_stalled(ON_PRESYNC);
	engine_cancel(r->e, b.id);
	assert_int_equal(answer_of(&b), -EINTR);
	until_state(r, "two", "failed");
	fake_release(ON_PRESYNC);
	assert_shows(r, "one", "state", "pending\n");
	fake_polls(0);
	until_state(r, "one", "complete");
}

static void an_abort_means_the_run_and_not_what_completes(void **state)
{
	struct rig *r = *state;
	struct asker a, b;

	rig_start(r);
	fake_polls(1000000);
	assert_int_equal(ask(r, "one", &a), 0);
	assert_int_equal(answer_of(&a), 0);
	fake_stall_still(ON_PRESYNC);
	assert_int_equal(ask(r, "two", &b), 0);
	fake_wait_stalled(ON_PRESYNC);
	assert_int_equal(engine_abort(r->e, NULL), 0);
	assert_int_equal(answer_of(&b), -ECANCELED);
	fake_release(ON_PRESYNC);
	assert_shows(r, "one", "state", "pending\n");
	fake_polls(0);
	until_state(r, "one", "complete");
}

static void an_aborted_run_does_not_hinder_a_removal(void **state)
{
	struct rig *r = *state;
	struct asker a;

	rig_start(r);
	take(r, "old", "");
	take(r, "new", "");
	fake_hook(ON_PRESYNC, abort_now, r);
	assert_int_equal(ask(r, "gone", &a), 0);
	assert_int_equal(answer_of(&a), -ECANCELED);
	until_idle(r);
	assert_int_equal(engine_rmdir(r->e, "old", &r->err), 0);
	fake_wait_event("removed");
	assert_int_equal(fake_count(ON_REMOVE), 1);
	assert_int_equal(fake_count(ON_REPORT), 0);
}

/* ---- waiters ---- */

static void stall_saves(void *arg)
{
	fake_stall_still(ON_SAVE);
}

static void everybody_is_answered_exactly_once(void **state)
{
	struct rig *r = *state;
	struct asker own, w[5], late;

	rig_start(r);
	fake_stall_still(ON_TRIGGER);
	assert_int_equal(ask(r, "one", &own), 0);
	for (int i = 0; i < 5; i++)
		assert_int_equal(ask_wait(r, "one", &w[i]), 0);
	fake_wait_stalled(ON_TRIGGER);
	engine_cancel(r->e, w[4].id); /* a reader of `wait` who goes aborts nothing */
	assert_int_equal(answer_of(&w[4]), -EINTR);
	engine_cancel(r->e, w[4].id);
	engine_cancel(r->e, 123456);
	fake_release(ON_TRIGGER);
	assert_int_equal(answer_of(&own), 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(answer_of(&w[i]), 0);
	until_state(r, "one", "complete");
	assert_int_equal(ask_wait(r, "one", &late), 0);
	assert_int_equal(late.answers, 1); /* at once */
	assert_int_equal(late.result, 0);
	assert_int_equal(ask_wait(r, "none", &late), -ENOENT);
	assert_int_equal(late.answers, 0);
	rig_stop(r);
	assert_int_equal(own.answers + w[0].answers + w[1].answers + w[2].answers + w[3].answers + w[4].answers, 6);
}

static void nobody_hears_of_a_point_before_it_is_recorded(void **state)
{
	struct rig *r = *state;
	struct asker own, w;

	rig_start(r);
	fake_hook(ON_OPEN, stall_saves, NULL);
	assert_int_equal(ask(r, "one", &own), 0);
	fake_wait_stalled(ON_SAVE);
	assert_shows(r, "one", "state", "pending\n");
	assert_int_equal(ask_wait(r, "one", &w), 0);
	assert_int_equal(w.answers, 0);
	fake_fail_once(ON_SAVE, -EIO);
	assert_int_equal(answer_of(&own), -EIO);
	assert_int_equal(answer_of(&w), -EIO);
	assert_says(w.msg, ".json: told to fail");
}

static void a_waiter_of_a_failed_set_hears_why(void **state)
{
	struct rig *r = *state;
	struct asker own, w;

	rig_start(r);
	fake_fail(ON_TRIGGER, -EIO);
	assert_int_equal(ask(r, "one", &own), 0);
	assert_int_equal(answer_of(&own), -EIO);
	assert_int_equal(ask_wait(r, "one", &w), 0);
	assert_int_equal(w.result, -EIO);
	assert_string_equal(w.msg, "trigger: told to fail: Input/output error");
}

static void nowait_returns_at_once_and_its_failure_is_reported(void **state)
{
	struct rig *r = *state;
	struct asker a;

	rig_start(r);
	fake_stall_still(ON_PRESYNC);
	assert_int_equal(ask(r, "one nowait", &a), 0);
	assert_int_equal(a.answers, 1);
	assert_int_equal(a.result, 0);
	fake_wait_stalled(ON_PRESYNC);
	fake_fail(ON_TRIGGER, -ENOSPC);
	fake_release(ON_PRESYNC);
	until_state(r, "one", "failed");
	fake_wait_ended(ON_REPORT, 1);
	until_idle(r);
	assert_int_equal(fake_count(ON_REPORT), 1);
	assert_says(fake_at(fake_begin(ON_REPORT, 0)).text, "trigger: told to fail");
	assert_int_equal(atomic_load(&a.answers), 1);
	fake_clear(ON_TRIGGER);
	assert_int_equal(engine_mkdir(r->e, "two", &r->err), 0); /* returns at once, too */
	until_state(r, "two", "complete");
}

static void a_second_request_is_refused_while_one_runs(void **state)
{
	struct rig *r = *state;
	struct asker a, b;

	rig_start(r);
	fake_stall_still(ON_TRIGGER);
	assert_int_equal(ask(r, "one", &a), 0);
	fake_wait_stalled(ON_TRIGGER);
	assert_int_equal(ask(r, "two", &b), -EBUSY);
	assert_string_equal(r->err.msg, "snapshot: one is running; wait for it (cat snapshots/one/wait) or write to abort");
	snap_error_clear(&r->err);
	assert_int_equal(engine_mkdir(r->e, "two", &r->err), -EBUSY);
	assert_int_equal(engine_rmdir(r->e, "one", NULL), -EBUSY);
	assert_int_equal(b.answers, 0);
	assert_null(show(r, "two", "state"));
	fake_release(ON_TRIGGER);
	assert_int_equal(answer_of(&a), 0);
	until_state(r, "one", "complete");
	assert_int_equal(ask(r, "one", &b), -EEXIST);
	assert_says(r->err.msg, "a set of this name exists");
}

/* Stop between acceptance and beginning: the engine's thread is busy with a removal. */
static void a_request_that_never_began_is_answered(void **state)
{
	struct rig *r = *state;
	struct asker a;

	rig_start(r);
	take(r, "old", "");
	take(r, "new", "");
	fake_stall_still(ON_REMOVE);
	assert_int_equal(engine_rmdir(r->e, "old", NULL), 0);
	fake_wait_stalled(ON_REMOVE);
	assert_int_equal(ask(r, "one", &a), 0);
	assert_int_equal(engine_stop(r->e, 1000), -ETIMEDOUT);
	assert_int_equal(answer_of(&a), -ESHUTDOWN);
	fake_release(ON_REMOVE);
	rig_stop(r);
	assert_int_equal(a.answers, 1);
}

int main(void)
{
	static const struct CMUnitTest once[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
		T(an_abort_does_not_wait_for_the_unlock),
		T(ctrl_c_leaves_the_unlock_its_time),
		T(an_interrupt_that_comes_too_late_is_answered_with_what_was_done),
		T(a_stop_waits_for_neither_unlock_nor_discard),
		T(an_abort_does_not_wait_for_the_discard),
		T(nobody_hears_of_a_point_before_it_is_recorded),
		T(an_abort_during_each_call_unwinds_what_is_held),
		T(ctrl_c_after_the_trigger_lets_the_run_go_on),
		T(ctrl_c_of_one_leaves_the_completion_of_another_alone),
		T(an_abort_means_the_run_and_not_what_completes),
		T(an_aborted_run_does_not_hinder_a_removal),
		T(everybody_is_answered_exactly_once),
		T(a_waiter_of_a_failed_set_hears_why),
		T(nowait_returns_at_once_and_its_failure_is_reported),
		T(a_second_request_is_refused_while_one_runs),
		T(a_request_that_never_began_is_answered),
	};
	size_t n = sizeof(once) / sizeof(once[0]), n_hangs = sizeof(hangs) / sizeof(hangs[0]);
	struct CMUnitTest all[sizeof(once) / sizeof(once[0]) + 4 * sizeof(hangs) / sizeof(hangs[0]) +
			       sizeof(deaf) / sizeof(deaf[0])];

	memcpy(all, once, sizeof(once));
	for (size_t i = 0; i < n_hangs; i++) {
		const struct hang *h = &hangs[i];

		all[n++] = rig_test(h->abort_name, an_abort_gets_past_a_call_that_hangs, h);
		all[n++] = rig_test(h->cancel_name, ctrl_c_aborts_before_the_trigger_alone, h);
		all[n++] = rig_test(h->stop_name, a_stop_does_not_wait_for_a_call_that_hangs, h);
		all[n++] = rig_test(h->signal_name, who_may_ask_again_is_answered_when_the_run_has_ended, h);
	}
	for (size_t i = 0; i < sizeof(deaf) / sizeof(deaf[0]); i++)
		all[n++] = rig_test(deaf[i].stop_name, a_stop_keeps_its_bound_whatever_its_thread_sits_in, &deaf[i]);
	return _cmocka_run_group_tests("engine_abort", all, n, NULL, NULL);
}
