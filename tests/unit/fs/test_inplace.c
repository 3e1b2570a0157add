/* tests/unit/fs/test_inplace.c - when a lane makes a call itself while other requests are on their way, and when not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "fs/core_int.h"
#include "gate_fixture.h"

#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000u

static struct core *core_over(struct gate_fixture *f)
{
	struct core *c = calloc(1, sizeof(*c));

	assert_non_null(c);
	c->n_lanes = 2;
	c->gate = f->g;
	atomic_store(&c->balance.n_active, 1);
	c->balance.guard_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	assert_true(c->balance.guard_fd >= 0);
	atomic_store(&c->balance.all_run, true);
	c->lane[0].core = c;
	c->lane[0].inplace.rec = (struct op_rec *)c; /* lane 0's; never used here */
	c->lane[0].inplace.bar_ns = 100 * MS;
	return c;
}

static void core_done(struct core *c)
{
	(void)close(c->balance.guard_fd);
	free(c);
}

static bool enters(struct lane *l)
{
	if (!inplace_enter(l))
		return false;
	(void)inplace_leave(l);
	return true;
}

/* A call that takes so long. */
static void slow(struct lane *l, long ms)
{
	struct timespec t = { .tv_nsec = ms * (long)MS };
	uint64_t fetched = balance_now_ns();

	l->clock_ns = fetched;
	assert_true(inplace_enter(l));
	(void)nanosleep(&t, NULL);
	assert_true(inplace_leave(l) >= (uint64_t)ms * MS);
	assert_true(lane_now(l) >= fetched + (uint64_t)ms * MS); /* metrics would have it for a call of no time */
}

static void one_lane_that_fetches_alone_may(void **state)
{
	struct core *c = core_over(*state);
	struct lane *l = &c->lane[0];

	assert_true(enters(l));
	atomic_store(&c->balance.n_active, 2);
	assert_false(enters(l));
	atomic_store(&c->balance.n_active, 1);
	atomic_store(&l->inbox_full, true);
	assert_false(enters(l));
	atomic_store(&l->inbox_full, false);
	atomic_store(&c->balance.all_run, false); /* nobody there whom the guard could wake */
	assert_false(enters(l));
	atomic_store(&c->balance.all_run, true);
	l->inplace.rec = NULL; /* any other lane's */
	assert_false(enters(l));
	core_done(c);
}

static void not_while_the_gate_is_closed(void **state)
{
	struct gate_fixture *f = *state;
	struct core *c = core_over(f);
	struct gate_ticket t = { 0 };

	assert_int_equal(gate_close(f->g, 1000, 10000, NULL, &t), 0);
	assert_false(enters(&c->lane[0]));
	assert_int_equal(gate_open(f->g, &t), 0);
	assert_true(enters(&c->lane[0]));
	core_done(c);
}

static void nor_with_a_poll_that_takes_others_wake_ups(void **state)
{
	struct core *c = core_over(*state);

	c->n_mnt = 2;
	c->lane[0].armed[1] = true;
	assert_false(enters(&c->lane[0]));
	c->lane[0].armed[1] = false;
	assert_true(enters(&c->lane[0]));
	core_done(c);
}

/* They would wait for this call, as no other lane knows of them. */
static void nor_with_more_requests_in_its_hands(void **state)
{
	struct core *c = core_over(*state);
	struct lane *l = &c->lane[0];
	struct mnt m = { .core = c };
	struct rq r = { .m = &m, .opcode = FUSE_FSYNC };

	l->lone[0] = true;
	l->in_hand = true;
	assert_false(enters(l));
	assert_false(inplace_wanted(l, &r));
	l->in_hand = false;
	assert_true(enters(l));
	assert_true(inplace_wanted(l, &r));
	core_done(c);
}

static void a_slow_call_bars_the_next_ones_for_longer_each_time(void **state)
{
	struct core *c = core_over(*state);
	struct lane *l = &c->lane[0];
	uint64_t first;

	slow(l, 6);
	assert_false(enters(l));
	assert_int_equal(atomic_load(&l->inplace.n_slow), 1);
	first = l->inplace.bar_ns;
	l->inplace.barred_ns = 0; /* it is over */
	slow(l, 6);
	assert_true(l->inplace.bar_ns == first * 2);
	l->inplace.barred_ns = 0;
	for (unsigned i = 0; i < 20; i++)
		assert_true(enters(l));
	assert_true(l->inplace.bar_ns < first * 2); /* forgiven by and by */
	for (unsigned i = 0; i < 40; i++) {
		l->inplace.barred_ns = 0;
		l->inplace.mean_ns = MS;
		assert_true(enters(l));
	}
	assert_true(l->inplace.bar_ns == 600000ull * MS); /* ten minutes at most */
	core_done(c);
}

static void many_that_wait_a_little_bar_as_well(void **state)
{
	struct core *c = core_over(*state);
	struct lane *l = &c->lane[0];
	unsigned n = 0;

	while (n < 50 && inplace_enter(l)) {
		usleep(1000);
		(void)inplace_leave(l);
		n++;
	}
	assert_true(n >= 1 && n < 10);
	core_done(c);
}

/* The freeze of a filesystem may wait for what this lane has on its way, and the call for its thaw. */
static void not_while_anything_of_its_own_is_on_its_way(void **state)
{
	struct core *c = core_over(*state);
	struct lane *l = &c->lane[0];

	l->inplace.sync_ns = 0;
	l->inflight = 1;
	assert_false(enters(l));
	assert_false(inplace_sync(l));
	l->inflight = 0;
	assert_true(enters(l));
	assert_true(inplace_sync(l));
	(void)inplace_leave(l);
	core_done(c);
}

/* An fsync that its caller asked for right after the write. */
static void ended(struct lane *l, uint64_t took_ns)
{
	inplace_synced(l, took_ns, took_ns);
}

static void an_fsync_is_made_where_it_was_short(void **state)
{
	struct core *c = core_over(*state);
	struct lane *l = &c->lane[0];
	unsigned n;

	l->inplace.sync_ns = MS;
	assert_false(inplace_sync(l)); /* not before it was seen */
	for (n = 0; n < 100 && !inplace_sync(l); n++)
		ended(l, 20000);
	assert_true(n > 5 && n < 100);
	(void)inplace_leave(l);
	for (n = 0; n < 100; n++) { /* a volume's latency */
		if (!inplace_sync(l))
			break;
		(void)inplace_leave(l);
		ended(l, 500000);
	}
	assert_true(n < 3);
	core_done(c);
}

/* Somebody waits behind a lone caller's call that takes so long. */
static void is_waited_for(struct lane *l, struct rq *r)
{
	uint64_t one = 1;

	assert_true(inplace_wanted(l, r));
	atomic_store(&l->inplace.since_ns, balance_now_ns() - MS);
	assert_int_equal(write(l->fd[0], &one, sizeof(one)), sizeof(one));
	assert_int_equal(inplace_done(l, r, 0), 0);
	assert_int_equal(read(l->fd[0], &one, sizeof(one)), sizeof(one));
	atomic_store(&l->inplace.since_ns, 0);
}

static void who_waited_has_the_next_ones_go_the_other_way_for_a_while(void **state)
{
	struct core *c = core_over(*state);
	struct lane *l = &c->lane[0];
	struct mnt m = { .core = c };
	struct rq r = { .m = &m, .opcode = FUSE_FSYNC };
	unsigned n;

	l->lone[0] = true;
	l->inplace.penalty = 64;
	l->fd[0] = eventfd(0, EFD_CLOEXEC);
	assert_true(l->fd[0] >= 0);
	is_waited_for(l, &r);
	for (n = 0; n < 1000 && !inplace_wanted(l, &r); n++)
		;
	assert_int_equal(n, 64);
	is_waited_for(l, &r);
	assert_false(inplace_wanted(l, &r));
	atomic_store(&c->balance.turn_ns, l->clock_ns + 199 * MS); /* what few operations would make long, time ends */
	assert_false(inplace_wanted(l, &r));
	atomic_store(&c->balance.turn_ns, l->clock_ns + 200 * MS);
	assert_true(inplace_wanted(l, &r));
	(void)close(l->fd[0]);
	core_done(c);
}

static void a_device_is_quick_while_one_fsync_in_five_is(void **state)
{
	struct core *c = core_over(*state);
	struct lane *l = &c->lane[0];

	assert_false(inplace_device_quick(l)); /* not before it was seen */
	for (int i = 0; i < 4; i++)
		ended(l, 40000);
	assert_true(inplace_device_quick(l));
	for (int i = 0; i < 1000; i++)
		ended(l, i % 5 ? 3 * MS : 40000); /* the others waited for a CPU */
	assert_true(inplace_device_quick(l));
	for (int i = 0; i < 64; i++)
		ended(l, 400000); /* a volume */
	assert_false(inplace_device_quick(l));
	for (int i = 0; i < 1000; i++)
		ended(l, i % 20 ? 400000 : 5000); /* where a few find that all is there already */
	assert_false(inplace_device_quick(l));
	core_done(c);
}

static void callers_who_come_late_make_no_device_quick(void **state)
{
	struct core *c = core_over(*state);
	struct lane *l = &c->lane[0];

	for (int i = 0; i < 1000; i++)
		inplace_synced(l, 5000, 400000); /* it had ended by the time they came */
	assert_false(inplace_device_quick(l));
	for (int i = 0; i < 4; i++)
		ended(l, 40000);
	for (int i = 0; i < 1000; i++)
		inplace_synced(l, 5000, 400000);
	assert_true(inplace_device_quick(l)); /* nor slow */
	core_done(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(one_lane_that_fetches_alone_may, gate_fixture_up, gate_fixture_down),
		cmocka_unit_test_setup_teardown(not_while_the_gate_is_closed, gate_fixture_up, gate_fixture_down),
		cmocka_unit_test_setup_teardown(nor_with_a_poll_that_takes_others_wake_ups, gate_fixture_up, gate_fixture_down),
		cmocka_unit_test_setup_teardown(nor_with_more_requests_in_its_hands, gate_fixture_up, gate_fixture_down),
		cmocka_unit_test_setup_teardown(a_slow_call_bars_the_next_ones_for_longer_each_time, gate_fixture_up, gate_fixture_down),
		cmocka_unit_test_setup_teardown(many_that_wait_a_little_bar_as_well, gate_fixture_up, gate_fixture_down),
		cmocka_unit_test_setup_teardown(not_while_anything_of_its_own_is_on_its_way, gate_fixture_up, gate_fixture_down),
		cmocka_unit_test_setup_teardown(an_fsync_is_made_where_it_was_short, gate_fixture_up, gate_fixture_down),
		cmocka_unit_test_setup_teardown(a_device_is_quick_while_one_fsync_in_five_is, gate_fixture_up, gate_fixture_down),
		cmocka_unit_test_setup_teardown(callers_who_come_late_make_no_device_quick, gate_fixture_up, gate_fixture_down),
		cmocka_unit_test_setup_teardown(who_waited_has_the_next_ones_go_the_other_way_for_a_while, gate_fixture_up, gate_fixture_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
