/* tests/unit/fs/test_balance.c - when a lane looks for its next event before it sleeps. */
#include "fs/core_int.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>

#define TRIES 64u /* without success so far, one sleep in so many looks */
#define SOON_MIN 8u /* requests in a row that came soon, and it is taken for granted */
#define SOON_NS 80000u
#define SLEPT_NS 120000u

static int setup(void **state)
{
	struct core *c = calloc(1, sizeof(*c));

	if (!c)
		return -1;
	c->lane[0].core = c;
	c->lane[0].spin.soon[AFTER_OTHER] = SOON_MIN;
	atomic_store(&c->balance.ample_cpu, true);
	*state = c;
	return 0;
}

static int teardown(void **state)
{
	free(*state);
	return 0;
}

static unsigned looks(struct lane *l, unsigned sleeps)
{
	unsigned n = 0;

	for (unsigned i = 0; i < sleeps; i++)
		n += balance_spin_wanted(l);
	return n;
}

static void a_single_caller_is_looked_for(void **state)
{
	struct lane *l = &((struct core *)*state)->lane[0];

	balance_looked(l, true);
	for (l->inflight = 0; l->inflight <= 1; l->inflight++)
		assert_int_equal(looks(l, 10), 10);
}

static void several_requests_at_the_backing_are_slept_for(void **state)
{
	struct lane *l = &((struct core *)*state)->lane[0];

	balance_looked(l, true);
	l->inflight = 2;
	assert_int_equal(looks(l, 2 * TRIES), 0);
	l->inflight = 1;
	assert_true(balance_spin_wanted(l));
}

static void busy_cpus_are_left_alone(void **state)
{
	struct core *c = *state;

	balance_looked(&c->lane[0], true);
	atomic_store(&c->balance.ample_cpu, false);
	assert_int_equal(looks(&c->lane[0], 2 * TRIES), 0);
}

static void what_never_finds_is_tried_now_and_then(void **state)
{
	struct lane *l = &((struct core *)*state)->lane[0];

	balance_looked(l, true);
	balance_looked(l, false);
	assert_int_equal(looks(l, 4 * TRIES), 4);
	balance_looked(l, true);
	assert_int_equal(looks(l, 4), 4);
}

/* A lane that has just served what it fetched, and fetches this so much later. */
static void comes_after(struct lane *l, bool looked, uint64_t after_ns, uint32_t opcode)
{
	l->inflight = 0;
	balance_rests(l);
	if (looked)
		balance_spins(l);
	balance_spun(l);
	assert_int_not_equal(l->spin.rest_ns, 0);
	l->clock_ns = l->spin.rest_ns + after_ns;
	balance_came(l, opcode);
	assert_int_equal(l->spin.rest_ns, 0);
}

static void comes(struct lane *l, uint64_t after_ns, uint32_t opcode)
{
	comes_after(l, true, after_ns, opcode);
}

static void a_sleep_may_last_a_little_longer(void **state)
{
	struct lane *l = &((struct core *)*state)->lane[0];

	comes(l, 0, FUSE_READ);
	for (unsigned i = 0; i < SOON_MIN; i++)
		comes_after(l, false, SLEPT_NS - 1, FUSE_READ); /* two CPUs had to be woken meanwhile */
	assert_true(balance_quick(l));
	comes_after(l, false, SLEPT_NS, FUSE_READ);
	assert_false(balance_quick(l));
}

static void a_caller_who_stays_away_is_not_looked_for(void **state)
{
	struct lane *l = &((struct core *)*state)->lane[0];

	comes(l, 0, FUSE_READ); /* from now on what comes follows a read */
	balance_looked(l, true);
	for (unsigned i = 0; i < SOON_MIN; i++) {
		assert_false(balance_quick(l));
		assert_int_equal(looks(l, TRIES), 0);
		comes(l, SOON_NS - 1, FUSE_READ);
	}
	assert_true(balance_quick(l));
	assert_int_equal(looks(l, TRIES), TRIES);
	l->inflight = 1;
	assert_int_equal(looks(l, TRIES), TRIES);
	for (unsigned i = 0; i < 100; i++)
		comes(l, 1, FUSE_READ);
	for (unsigned i = 0; i < 64 - SOON_MIN; i++)
		comes(l, SOON_NS, FUSE_READ);
	assert_true(balance_quick(l)); /* it went far up, though not for ever */
	comes(l, SOON_NS, FUSE_READ);
	assert_false(balance_quick(l));
	l->inflight = 1; /* nor is the backing's answer looked for then */
	assert_int_equal(looks(l, TRIES), 0);
}

static void a_log_is_looked_for_after_its_write_and_not_after_its_fsync(void **state)
{
	struct lane *l = &((struct core *)*state)->lane[0];

	balance_looked(l, true);
	comes(l, 0, FUSE_WRITE);
	for (unsigned i = 0; i < 3 * SOON_MIN; i++) {
		comes(l, 1000, FUSE_FSYNC);
		comes(l, 300000, FUSE_WRITE);
	}
	assert_true(balance_quick(l));
	assert_true(balance_spin_wanted(l));
	comes(l, 1000, FUSE_FSYNC);
	assert_false(balance_quick(l));
	assert_false(balance_spin_wanted(l));
}

static void a_rest_begins_when_nothing_is_at_the_backing(void **state)
{
	struct lane *l = &((struct core *)*state)->lane[0];
	uint64_t began;

	l->inflight = 1;
	balance_rests(l);
	balance_came(l, FUSE_READ);
	assert_int_equal(l->spin.rest_ns, 0);
	assert_int_equal(l->spin.soon[AFTER_OTHER], SOON_MIN); /* nothing learned */
	l->inflight = 0;
	balance_rests(l);
	began = l->spin.rest_ns;
	balance_rests(l); /* it woke up for something else */
	assert_true(l->spin.rest_ns == began);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_single_caller_is_looked_for, setup, teardown),
		cmocka_unit_test_setup_teardown(several_requests_at_the_backing_are_slept_for, setup, teardown),
		cmocka_unit_test_setup_teardown(busy_cpus_are_left_alone, setup, teardown),
		cmocka_unit_test_setup_teardown(what_never_finds_is_tried_now_and_then, setup, teardown),
		cmocka_unit_test_setup_teardown(a_caller_who_stays_away_is_not_looked_for, setup, teardown),
		cmocka_unit_test_setup_teardown(a_sleep_may_last_a_little_longer, setup, teardown),
		cmocka_unit_test_setup_teardown(a_log_is_looked_for_after_its_write_and_not_after_its_fsync, setup, teardown),
		cmocka_unit_test_setup_teardown(a_rest_begins_when_nothing_is_at_the_backing, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
