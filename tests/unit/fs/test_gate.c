/* tests/unit/fs/test_gate.c - closing, draining, opening, parking, deadlines, interrupts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "gate_fixture.h"
#include "base/clock.h"

#include <errno.h>
#include <stdatomic.h>
#include <unistd.h>

#define LONG_MS 40000u /* ends by opening, or the test has failed */

static void close_now(struct gate_fixture *f, struct gate_ticket *t)
{
	assert_int_equal(gate_close(f->g, 1000, LONG_MS, NULL, t), 0);
}

/* ---- entering, parking, order ---- */

static void an_open_gate_counts_in_and_out_by_any_lane(void **state)
{
	struct gate_fixture *f = *state;

	assert_true(gate_enter(f->g, 0));
	assert_true(gate_enter(f->g, GATE_MAX_LANES - 1));
	assert_int_equal(gate_fixture_status(f).inflight, 2);
	gate_leave(f->g, 7);
	gate_leave(f->g, 0);
	assert_int_equal(gate_fixture_status(f).inflight, 0);
}

static void a_closed_gate_counts_nobody_in(void **state)
{
	struct gate_fixture *f = *state;
	struct gate_ticket t;

	close_now(f, &t);
	assert_false(gate_enter(f->g, 0));
	assert_int_equal(gate_fixture_status(f).inflight, 0);
	assert_int_equal(gate_fixture_status(f).state, GATE_CLOSED);
	assert_int_equal(gate_open(f->g, &t), 0);
	assert_true(gate_enter(f->g, 0));
	gate_leave(f->g, 0);
}

static void parked_requests_come_back_in_the_order_of_their_arrival(void **state)
{
	struct gate_fixture *f = *state;
	struct gate_node n[20] = { 0 };
	struct gate_ticket t;

	close_now(f, &t);
	for (unsigned i = 0; i < 20; i++) {
		n[i].unique = 100 - i;
		assert_true(gate_park(f->g, &n[i], GATE_MODIFY));
	}
	assert_int_equal(gate_fixture_status(f).parked, 20);
	assert_int_equal(gate_fixture_back(f), 0);
	assert_int_equal(gate_open(f->g, &t), 0);
	assert_int_equal(gate_fixture_back(f), 20);
	for (unsigned i = 0; i < 20; i++)
		assert_ptr_equal(f->back[i], &n[i]);
	assert_int_equal(gate_fixture_status(f).parked, 0);
	assert_int_equal(gate_fixture_status(f).parked_peak, 20);
	assert_int_equal(gate_fixture_status(f).parked_total, 20);
}

static void an_open_gate_parks_nothing(void **state)
{
	struct gate_fixture *f = *state;
	struct gate_node n = { .unique = 1 };
	struct gate_ticket t;

	assert_false(gate_park(f->g, &n, GATE_MODIFY));
	close_now(f, &t);
	assert_int_equal(gate_open(f->g, &t), 0);
	assert_false(gate_park(f->g, &n, GATE_MODIFY));
	assert_int_equal(gate_fixture_status(f).parked_total, 0);
}

static void the_payload_budget_counts_what_is_parked(void **state)
{
	struct gate_fixture *f = *state;
	struct gate_node n[3] = { { .unique = 1, .bytes = BUDGET_B }, { .unique = 2, .bytes = 1, .pid = PID_KILLED },
				  { .unique = 3, .bytes = 5 } };
	struct gate_ticket t;

	close_now(f, &t);
	assert_true(gate_park(f->g, &n[0], GATE_MODIFY));
	assert_false(gate_full(f->g));
	assert_true(gate_park(f->g, &n[1], GATE_MODIFY));
	assert_true(gate_full(f->g));
	gate_interrupt(f->g, 0, 2);
	assert_true(SOON(!gate_full(f->g))); /* the killed one gives its byte back */
	assert_true(gate_park(f->g, &n[2], GATE_MODIFY));
	assert_int_equal(gate_fixture_status(f).parked_bytes, BUDGET_B + 5);
	assert_int_equal(gate_open(f->g, &t), 0);
	assert_false(gate_full(f->g));
	assert_int_equal(gate_fixture_status(f).parked_bytes, 0);
}

/* ---- closing and opening ---- */

struct closer {
	struct gate_fixture *f;
	pthread_t thread;
	uint32_t drain_ms;
	const _Atomic int *abort_flag;
	struct gate_ticket t;
	int result;
};

static void *closer_run(void *arg)
{
	struct closer *c = arg;

	c->result = gate_close(c->f->g, c->drain_ms, LONG_MS, c->abort_flag, &c->t);
	return NULL;
}

static void closer_start(struct closer *c)
{
	assert_int_equal(pthread_create(&c->thread, NULL, closer_run, c), 0);
	assert_true(SOON(!gate_is_open(c->f->g)));
}

static void closing_waits_for_what_is_in_flight(void **state)
{
	struct closer c = { .f = *state, .drain_ms = LONG_MS };
	struct gate_node n = { .unique = 1 };

	assert_true(gate_enter(c.f->g, 3));
	closer_start(&c);
	assert_int_equal(gate_fixture_status(c.f).state, GATE_CLOSING);
	assert_int_equal(c.f->shm.gate_state, GATE_CLOSING);
	assert_false(gate_enter(c.f->g, 1));
	assert_true(gate_park(c.f->g, &n, GATE_MODIFY));
	gate_leave(c.f->g, 3);
	assert_int_equal(pthread_join(c.thread, NULL), 0);
	assert_int_equal(c.result, 0);
	assert_int_equal(gate_fixture_status(c.f).state, GATE_CLOSED);
	assert_int_equal(gate_fixture_back(c.f), 0);
	assert_int_equal(gate_open(c.f->g, &c.t), 0);
	assert_int_equal(gate_fixture_back(c.f), 1);
}

static void a_drain_that_fails_opens_the_gate_again(void **state)
{
	struct closer c = { .f = *state, .drain_ms = 100, .t = { .gen = 77 } };
	struct gate_node n = { .unique = 1 };

	assert_true(gate_enter(c.f->g, 0));
	closer_start(&c);
	assert_true(gate_park(c.f->g, &n, GATE_MODIFY));
	assert_int_equal(pthread_join(c.thread, NULL), 0);
	assert_int_equal(c.result, -ETIMEDOUT);
	assert_int_equal(c.t.gen, 77); /* filled on success only */
	assert_true(gate_is_open(c.f->g));
	assert_int_equal(gate_fixture_back(c.f), 1);
	assert_int_equal(gate_fixture_status(c.f).opened_by_deadline, 0);
	gate_leave(c.f->g, 0);
}

static void an_operator_who_opens_ends_a_drain(void **state)
{
	struct closer c = { .f = *state, .drain_ms = LONG_MS };

	assert_true(gate_enter(c.f->g, 0));
	closer_start(&c);
	assert_int_equal(gate_open_any(c.f->g), 0);
	assert_int_equal(pthread_join(c.thread, NULL), 0);
	assert_int_equal(c.result, -ETIMEDOUT);
	gate_leave(c.f->g, 0);
	assert_int_equal(gate_open_any(c.f->g), 0); /* it is open */
}

static void an_abort_ends_a_drain(void **state)
{
	_Atomic int flag = 0;
	struct closer c = { .f = *state, .drain_ms = LONG_MS, .abort_flag = &flag, .t = { .gen = 77 } };
	struct gate_node n = { .unique = 1 };

	assert_true(gate_enter(c.f->g, 0));
	closer_start(&c);
	assert_true(gate_park(c.f->g, &n, GATE_MODIFY));
	atomic_store(&flag, ECANCELED);
	assert_int_equal(pthread_join(c.thread, NULL), 0);
	assert_int_equal(c.result, -ECANCELED);
	assert_int_equal(c.t.gen, 77);
	assert_true(gate_is_open(c.f->g));
	assert_int_equal(c.f->shm.gate_state, GATE_OPEN);
	assert_int_equal(gate_fixture_back(c.f), 1);
	assert_int_equal(gate_fixture_status(c.f).opened_by_deadline, 0);
	gate_leave(c.f->g, 0);
	assert_int_equal(gate_close(c.f->g, 1000, LONG_MS, &flag, &c.t), -ECANCELED); /* also with nothing in flight */
	assert_true(gate_is_open(c.f->g));
	atomic_store(&flag, 0);
	assert_int_equal(gate_close(c.f->g, 1000, LONG_MS, &flag, &c.t), 0);
	assert_int_equal(gate_open(c.f->g, &c.t), 0);
}

static void a_second_closer_is_refused_and_changes_nothing(void **state)
{
	struct gate_fixture *f = *state;
	struct gate_ticket t, other = { .gen = 77 };

	close_now(f, &t);
	assert_int_equal(gate_close(f->g, 1000, 1, NULL, &other), -EBUSY);
	assert_int_equal(other.gen, 77);
	assert_int_equal(gate_fixture_status(f).deadline_ns, t.deadline_ns);
	assert_int_equal(gate_open(f->g, &t), 0);
}

static void an_old_ticket_opens_nothing(void **state)
{
	struct gate_fixture *f = *state;
	struct gate_ticket first, second;

	close_now(f, &first);
	assert_int_equal(gate_open(f->g, &first), 0);
	assert_int_equal(gate_open(f->g, &first), -ETIMEDOUT);
	close_now(f, &second);
	assert_int_equal(gate_open(f->g, &first), -ETIMEDOUT);
	assert_int_equal(gate_left_ms(f->g, &first), 0);
	assert_false(gate_is_open(f->g));
	assert_in_range(gate_left_ms(f->g, &second), 1, LONG_MS);
	assert_int_equal(gate_open(f->g, &second), 0);
	assert_int_equal(gate_left_ms(f->g, &second), 0);
}

static void times_out_of_range_are_refused(void **state)
{
	static const uint32_t bad[][2] = { { 0, 100 }, { 60001, 100 }, { 100, 0 }, { 100, GATE_MAX_MS + 1 } };
	struct gate_fixture *f = *state;
	struct gate_ticket t;

	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(gate_close(f->g, bad[i][0], bad[i][1], NULL, &t), -EINVAL);
	assert_true(gate_is_open(f->g));
	assert_int_equal(gate_close(f->g, 60000, GATE_MAX_MS, NULL, &t), 0);
	assert_int_equal(gate_open(f->g, &t), 0);
}

static void the_timer_opens_at_the_deadline_and_not_before(void **state)
{
	struct gate_fixture *f = *state;
	struct gate_node n = { .unique = 1 };
	struct gate_ticket t;

	assert_int_equal(gate_close(f->g, 1000, 200, NULL, &t), 0);
	assert_int_equal(f->shm.gate_deadline_ns, t.deadline_ns);
	if (gate_park(f->g, &n, GATE_MODIFY)) {
		assert_true(SOON(gate_fixture_back(f) == 1));
		assert_true(f->back_ns >= t.deadline_ns);
	}
	assert_true(SOON(gate_is_open(f->g)));
	assert_int_equal(gate_fixture_status(f).opened_by_deadline, 1);
	assert_int_equal(gate_open(f->g, &t), -ETIMEDOUT);
	assert_int_equal(f->shm.gate_state, GATE_OPEN);
	assert_int_equal(f->shm.gate_deadline_ns, 0);
}

static void the_deadline_counts_from_the_call_and_ends_a_drain(void **state)
{
	struct gate_fixture *f = *state;
	struct gate_ticket t;

	assert_true(gate_enter(f->g, 0));
	assert_int_equal(gate_close(f->g, 60000, 100, NULL, &t), -ETIMEDOUT);
	assert_true(gate_is_open(f->g));
	assert_int_equal(gate_fixture_status(f).opened_by_deadline, 1);
	gate_leave(f->g, 0);
}

static void stopping_opens_for_good(void **state)
{
	struct gate_fixture *f = *state;
	struct gate_node n = { .unique = 1 };
	struct gate_ticket t;

	close_now(f, &t);
	assert_true(gate_park(f->g, &n, GATE_MODIFY));
	gate_stop(f->g);
	assert_true(gate_is_open(f->g));
	assert_int_equal(gate_fixture_back(f), 1);
	assert_int_equal(gate_open(f->g, &t), -ETIMEDOUT);
	assert_int_equal(gate_close(f->g, 1000, 1000, NULL, &t), -EBUSY);
	assert_false(gate_wait_open(f->g));
}

static void *wait_open_run(void *arg)
{
	return (void *)(uintptr_t)(gate_wait_open(arg) ? 1 : 2);
}

static void who_waits_for_the_opening_is_woken_by_it(void **state)
{
	struct gate_fixture *f = *state;
	struct gate_ticket t;
	pthread_t thread;
	void *result;

	assert_true(gate_wait_open(f->g));
	close_now(f, &t);
	assert_int_equal(pthread_create(&thread, NULL, wait_open_run, f->g), 0);
	assert_int_equal(gate_open(f->g, &t), 0);
	assert_int_equal(pthread_join(thread, &result), 0);
	assert_ptr_equal(result, (void *)1);
}

static void the_timer_shows_that_it_lives(void **state)
{
	struct gate_fixture *f = *state;
	uint64_t seen;

	assert_true(SOON(atomic_load(&f->shm.heartbeat_ns) != 0));
	seen = atomic_load(&f->shm.heartbeat_ns);
	assert_true(SOON(atomic_load(&f->shm.heartbeat_ns) > seen));
}

/* ---- freeze ---- */

static void syncs_are_held_only_while_the_backing_is_frozen(void **state)
{
	struct gate_fixture *f = *state;
	struct gate_node n[2] = { { .unique = 1 }, { .unique = 2 } };
	struct gate_ticket t;

	gate_set_frozen(f->g, true); /* open: nothing of ours is frozen */
	assert_false(gate_frozen(f->g));
	close_now(f, &t);
	assert_false(gate_park(f->g, &n[0], GATE_SYNC));
	gate_set_frozen(f->g, true);
	assert_true(gate_frozen(f->g));
	assert_true(gate_park(f->g, &n[0], GATE_SYNC));
	gate_set_frozen(f->g, false);
	assert_false(gate_park(f->g, &n[1], GATE_SYNC));
	assert_int_equal(gate_fixture_back(f), 0); /* until the gate opens, a moment later */
	gate_set_frozen(f->g, true);
	assert_int_equal(gate_open(f->g, &t), 0);
	assert_int_equal(gate_fixture_back(f), 1);
	assert_false(gate_frozen(f->g));
	assert_false(gate_park(f->g, &n[1], GATE_SYNC));
}

/* ---- interrupts ---- */

static void only_callers_that_are_being_killed_are_let_go(void **state)
{
	static const uint32_t pids[] = { PID_SURVIVES, PID_KILLED, PID_UNREADABLE, PID_THREAD_KILLED, PID_GONE,
					 PID_KILLED };
	struct gate_fixture *f = *state;
	struct gate_node n[6] = { 0 };
	struct gate_ticket t;

	close_now(f, &t);
	for (unsigned i = 0; i < 6; i++) {
		n[i].unique = 10 + i;
		n[i].pid = pids[i];
		assert_true(gate_park(f->g, &n[i], GATE_MODIFY));
	}
	for (unsigned i = 0; i < 5; i++) /* not the last: its signal came without an interrupt yet */
		gate_interrupt(f->g, 0, 10 + i);
	assert_true(SOON(gate_fixture_killed(f) == 3));
	assert_int_equal(gate_fixture_status(f).parked, 3);
	assert_int_equal(gate_fixture_back(f), 0);
	assert_int_equal(gate_open(f->g, &t), 0);
	assert_int_equal(gate_fixture_killed(f), 3);
	for (unsigned i = 0; i < 3; i++)
		assert_true(f->killed[i] == &n[1] || f->killed[i] == &n[3] || f->killed[i] == &n[4]);
	/* those who survive their signal keep their place */
	assert_int_equal(gate_fixture_back(f), 3);
	assert_ptr_equal(f->back[0], &n[0]);
	assert_ptr_equal(f->back[1], &n[2]);
	assert_ptr_equal(f->back[2], &n[5]);
}

static void a_killed_caller_is_found_behind_many_who_survive(void **state)
{
	struct gate_fixture *f = *state;
	static struct gate_node n[201];
	struct gate_ticket t;

	close_now(f, &t);
	for (unsigned i = 0; i < 201; i++) {
		n[i] = (struct gate_node){ .unique = i + 1, .pid = i < 200 ? PID_SURVIVES : PID_GONE };
		assert_true(gate_park(f->g, &n[i], GATE_MODIFY));
		gate_interrupt(f->g, 0, i + 1);
	}
	assert_true(SOON(gate_fixture_killed(f) == 1));
	assert_ptr_equal(f->killed[0], &n[200]);
	assert_int_equal(gate_fixture_status(f).parked, 200);
	assert_int_equal(gate_open(f->g, &t), 0);
	for (unsigned i = 0; i < NOTED_MAX; i++)
		assert_ptr_equal(f->back[i], &n[i]);
}

static void an_interrupt_that_came_before_its_request_was_parked_counts(void **state)
{
	struct gate_fixture *f = *state;
	struct gate_node n = { .unique = 5, .pid = PID_KILLED };
	struct gate_ticket t;

	close_now(f, &t);
	gate_interrupt(f->g, 0, 5);
	assert_true(gate_park(f->g, &n, GATE_MODIFY));
	assert_true(SOON(gate_fixture_killed(f) == 1));
	assert_int_equal(gate_open(f->g, &t), 0);
	assert_int_equal(gate_fixture_back(f), 0);
}

/* Numbers of requests come again; an interrupt belongs to one hold. */
static void an_early_interrupt_is_forgotten_at_opening(void **state)
{
	struct gate_fixture *f = *state;
	struct gate_node old = { .unique = 5, .pid = PID_KILLED }, fence = { .unique = 6, .pid = PID_KILLED };
	struct gate_ticket t;

	gate_interrupt(f->g, 0, 5); /* the gate is open: whatever it was for is on its way */
	close_now(f, &t);
	gate_interrupt(f->g, 0, 5);
	assert_int_equal(gate_open(f->g, &t), 0);
	close_now(f, &t);
	assert_true(gate_park(f->g, &old, GATE_MODIFY));
	assert_true(gate_park(f->g, &fence, GATE_MODIFY));
	gate_interrupt(f->g, 0, 6);
	assert_true(SOON(gate_fixture_killed(f) == 1));
	assert_ptr_equal(f->killed[0], &fence);
	assert_int_equal(gate_open(f->g, &t), 0);
	assert_int_equal(gate_fixture_back(f), 1);
}

static void early_interrupts_beyond_the_memory_push_out_the_oldest(void **state)
{
	struct gate_fixture *f = *state;
	struct gate_node oldest = { .unique = 1, .pid = PID_KILLED }, newest = { .unique = 257, .pid = PID_KILLED };
	struct gate_ticket t;

	close_now(f, &t);
	for (uint64_t u = 1; u <= 257; u++)
		gate_interrupt(f->g, 0, u);
	assert_true(gate_park(f->g, &oldest, GATE_MODIFY));
	assert_true(gate_park(f->g, &newest, GATE_MODIFY));
	assert_true(SOON(gate_fixture_killed(f) == 1));
	assert_ptr_equal(f->killed[0], &newest);
	assert_int_equal(gate_open(f->g, &t), 0);
}

/* Each connection counts its requests itself: two of the same number wait here, and one's caller is being killed. */
static void an_interrupt_is_of_its_own_connection(void **state)
{
	struct gate_fixture *f = *state;
	struct gate_node other = { .unique = 5, .conn = 0, .pid = PID_KILLED }, its = { .unique = 5, .conn = 1, .pid = PID_KILLED };
	struct gate_node late = { .unique = 6, .conn = 1, .pid = PID_KILLED };
	struct gate_ticket t;

	close_now(f, &t);
	assert_true(gate_park(f->g, &other, GATE_MODIFY));
	assert_true(gate_park(f->g, &its, GATE_MODIFY));
	gate_interrupt(f->g, 1, 5);
	assert_true(SOON(gate_fixture_killed(f) == 1));
	assert_ptr_equal(f->killed[0], &its);
	gate_interrupt(f->g, 0, 6); /* before its request comes */
	assert_true(gate_park(f->g, &late, GATE_MODIFY));
	assert_int_equal(gate_open(f->g, &t), 0);
	assert_int_equal(gate_fixture_killed(f), 1);
	assert_int_equal(gate_fixture_back(f), 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, gate_fixture_up, gate_fixture_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(an_open_gate_counts_in_and_out_by_any_lane),
		TEST(a_closed_gate_counts_nobody_in),
		TEST(parked_requests_come_back_in_the_order_of_their_arrival),
		TEST(an_open_gate_parks_nothing),
		TEST(the_payload_budget_counts_what_is_parked),
		TEST(closing_waits_for_what_is_in_flight),
		TEST(a_drain_that_fails_opens_the_gate_again),
		TEST(an_operator_who_opens_ends_a_drain),
		TEST(an_abort_ends_a_drain),
		TEST(a_second_closer_is_refused_and_changes_nothing),
		TEST(an_old_ticket_opens_nothing),
		TEST(times_out_of_range_are_refused),
		TEST(the_timer_opens_at_the_deadline_and_not_before),
		TEST(the_deadline_counts_from_the_call_and_ends_a_drain),
		TEST(stopping_opens_for_good),
		TEST(who_waits_for_the_opening_is_woken_by_it),
		TEST(the_timer_shows_that_it_lives),
		TEST(syncs_are_held_only_while_the_backing_is_frozen),
		TEST(only_callers_that_are_being_killed_are_let_go),
		TEST(a_killed_caller_is_found_behind_many_who_survive),
		TEST(an_interrupt_that_came_before_its_request_was_parked_counts),
		TEST(an_early_interrupt_is_forgotten_at_opening),
		TEST(early_interrupts_beyond_the_memory_push_out_the_oldest),
		TEST(an_interrupt_is_of_its_own_connection),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
