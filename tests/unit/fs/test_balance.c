/* tests/unit/fs/test_balance.c - when a lane looks for its next event before it sleeps. */
#include "fs/core_int.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>

#define TRIES 64u /* without success so far, one sleep in so many looks */

static int setup(void **state)
{
	struct core *c = calloc(1, sizeof(*c));

	if (!c)
		return -1;
	c->lane[0].core = c;
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_single_caller_is_looked_for, setup, teardown),
		cmocka_unit_test_setup_teardown(several_requests_at_the_backing_are_slept_for, setup, teardown),
		cmocka_unit_test_setup_teardown(busy_cpus_are_left_alone, setup, teardown),
		cmocka_unit_test_setup_teardown(what_never_finds_is_tried_now_and_then, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
