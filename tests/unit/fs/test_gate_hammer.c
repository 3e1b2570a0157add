/* tests/unit/fs/test_gate_hammer.c - many threads enter and park while one closes and opens thousands of times:
 * every request ends exactly once, none runs while the gate is closed, none stays parked at the open gate. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "fs/gate.h"
#include "fs/shm.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 6u
#define DEPTH 16u /* requests of one thread that can be parked or queued at once */
#define ROUNDS 20000u
#define BUDGET_S 20u /* for all rounds: a busy machine, or a sanitizer, does fewer */
#define STUCK_S 60u /* without one request that ends */

struct request {
	struct gate_node gn; /* first member */
	struct lane *lane;
	struct request *next; /* inbox */
	_Atomic unsigned ended; /* of this use */
	bool busy; /* the lane's own */
};

struct lane {
	struct hammer *h;
	unsigned idx;
	pthread_t thread;
	pthread_mutex_t lock;
	struct request *inbox;
	struct request r[DEPTH];
};

struct hammer {
	struct gate *g;
	struct shm_head shm;
	_Atomic bool held; /* between gate_close's return and gate_open */
	_Atomic bool stop;
	_Atomic uint64_t ran, ran_while_held, ended_twice, resubmitted;
	struct lane lane[THREADS];
};

static void on_resubmit(void *arg, struct gate_node *first)
{
	struct hammer *h = arg;

	for (struct gate_node *n = first, *next; n; n = next) {
		struct request *r = (struct request *)(void *)n;

		next = n->next;
		(void)pthread_mutex_lock(&r->lane->lock);
		r->next = r->lane->inbox;
		r->lane->inbox = r;
		(void)pthread_mutex_unlock(&r->lane->lock);
		atomic_fetch_add(&h->resubmitted, 1);
	}
}

static void on_kill(void *arg, struct gate_node *n)
{
	abort(); /* nobody is interrupted */
}

/* Run it, or leave it to the gate. */
static void dispatch(struct lane *l, struct request *r)
{
	struct hammer *h = l->h;

	while (!gate_enter(h->g, l->idx))
		if (gate_park(h->g, &r->gn, GATE_MODIFY))
			return;
	if (atomic_load(&h->held))
		atomic_fetch_add(&h->ran_while_held, 1);
	if (atomic_fetch_add(&r->ended, 1) != 0)
		atomic_fetch_add(&h->ended_twice, 1);
	r->busy = false;
	atomic_fetch_add(&h->ran, 1);
	if (atomic_load(&h->held))
		atomic_fetch_add(&h->ran_while_held, 1);
	/* by another lane's counter now and then, as workers do */
	gate_leave(h->g, atomic_load(&h->ran) % 5 ? l->idx : THREADS);
}

static bool take_inbox(struct lane *l)
{
	struct request *r;

	(void)pthread_mutex_lock(&l->lock);
	r = l->inbox;
	l->inbox = NULL;
	(void)pthread_mutex_unlock(&l->lock);
	if (!r)
		return false;
	for (struct request *next; r; r = next) {
		next = r->next;
		dispatch(l, r);
	}
	return true;
}

static bool any_busy(const struct lane *l)
{
	for (unsigned i = 0; i < DEPTH; i++)
		if (l->r[i].busy)
			return true;
	return false;
}

static void *lane_run(void *arg)
{
	struct lane *l = arg;
	uint64_t unique = l->idx + 1, end;

	while (!atomic_load(&l->h->stop)) {
		bool idle = !take_inbox(l);

		for (unsigned i = 0; i < DEPTH; i++) {
			struct request *r = &l->r[i];

			if (r->busy)
				continue;
			idle = false;
			r->busy = true;
			atomic_store(&r->ended, 0);
			r->gn = (struct gate_node){ .unique = unique += THREADS, .bytes = 1 };
			dispatch(l, r);
			if (i % 4 == 0)
				sched_yield(); /* two processors, and the closer wants its turn */
		}
		if (idle)
			sched_yield();
	}
	end = clock_boot_ns() + STUCK_S * NS_PER_S;
	while (any_busy(l) && clock_boot_ns() < end)
		if (!take_inbox(l))
			sched_yield();
	return NULL;
}

static void start(struct hammer *h)
{
	const struct gate_hooks hooks = { .arg = h, .resubmit = on_resubmit, .kill = on_kill };

	h->g = gate_new(&h->shm, &hooks, UINT64_MAX);
	assert_non_null(h->g);
	assert_int_equal(gate_start(h->g), 0);
	for (unsigned i = 0; i < THREADS; i++) {
		struct lane *l = &h->lane[i];

		l->h = h;
		l->idx = i;
		(void)pthread_mutex_init(&l->lock, NULL);
		for (unsigned k = 0; k < DEPTH; k++)
			l->r[k].lane = l;
		assert_int_equal(pthread_create(&l->thread, NULL, lane_run, l), 0);
	}
}

/* Let `n` more requests end; false: nothing moves any more. */
static bool progress(struct hammer *h, uint64_t n)
{
	uint64_t seen = atomic_load(&h->ran), want = seen + n, now, end = clock_boot_ns() + STUCK_S * NS_PER_S;

	while ((now = atomic_load(&h->ran)) < want && clock_boot_ns() < end) {
		if (now != seen)
			end = clock_boot_ns() + STUCK_S * NS_PER_S;
		seen = now;
		sched_yield();
	}
	return now >= want;
}

static void every_request_ends_exactly_once_and_none_during_a_hold(void **state)
{
	struct hammer *h = calloc(1, sizeof(*h));
	uint64_t end = clock_boot_ns() + BUDGET_S * NS_PER_S, left_parked = 0, rounds = 0;
	struct gate_status s;
	struct gate_ticket t;

	assert_non_null(h);
	start(h);
	for (; rounds < ROUNDS && clock_boot_ns() < end; rounds++) {
		assert_int_equal(gate_close(h->g, 60000, 50000, NULL, &t), 0);
		atomic_store(&h->held, true);
		if (rounds % 8 == 0) /* long enough for all of them to arrive */
			for (unsigned i = 0; i < 50; i++)
				sched_yield();
		atomic_store(&h->held, false);
		assert_int_equal(gate_open(h->g, &t), 0);
		assert_true(progress(h, rounds % 16));
		gate_get_status(h->g, &s);
		left_parked += s.parked;
	}
	atomic_store(&h->stop, true);
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(h->lane[i].thread, NULL), 0);
	gate_get_status(h->g, &s);
	assert_int_equal(left_parked, 0);
	assert_int_equal(s.parked, 0);
	assert_int_equal(s.inflight, 0);
	assert_int_equal(atomic_load(&h->ran_while_held), 0);
	assert_int_equal(atomic_load(&h->ended_twice), 0);
	assert_int_equal(s.opened_by_deadline, 0);
	assert_true(s.parked_total > rounds / 8); /* or the test met no closed gate */
	assert_int_equal(atomic_load(&h->resubmitted), s.parked_total);
	for (unsigned i = 0; i < THREADS; i++)
		assert_false(any_busy(&h->lane[i]));
	gate_stop(h->g);
	gate_free(h->g);
	free(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_request_ends_exactly_once_and_none_during_a_hold),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
