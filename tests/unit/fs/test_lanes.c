/* tests/unit/fs/test_lanes.c - the lanes that fetch requests are as many as are counted, whoever counts (two threads, as lane 0
 * and the watch are), and as many as pay. The file under test is included: growing and shrinking are its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fs/balance.c"

#include <pthread.h>
#include <stdio.h>
#include <sys/eventfd.h>

#define ROUNDS 20000
#define LANES 2

static struct core *core_fixture(void)
{
	struct core *c = calloc(1, sizeof(*c));

	assert_non_null(c);
	c->n_lanes = LANES;
	for (unsigned i = 0; i < LANES; i++) {
		c->lane[i].core = c;
		c->lane[i].idx = i;
		c->lane[i].efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		assert_true(c->lane[i].efd >= 0);
	}
	balance_init(c);
	atomic_store(&c->balance.all_run, true);
	return c;
}

static void core_done(struct core *c)
{
	for (unsigned i = 0; i < LANES; i++)
		(void)close(c->lane[i].efd);
	balance_free(c);
	free(c);
}

static unsigned count_active(struct core *c)
{
	unsigned n = 0;

	for (unsigned i = 0; i < LANES; i++)
		n += balance_active(&c->lane[i]);
	return n;
}

static void a_second_lane_is_called_and_retires(void **state)
{
	struct core *c = core_fixture();
	uint64_t called = 0;

	assert_int_equal(count_active(c), 1);
	assert_true(balance_active(&c->lane[0]));
	balance_help(c);
	assert_int_equal(count_active(c), 2);
	assert_int_equal(read(c->lane[1].efd, &called, sizeof(called)), sizeof(called));
	balance_help(c); /* there is one: nobody is called */
	assert_int_equal(read(c->lane[1].efd, &called, sizeof(called)), -1);
	shrink(c, 2);
	shrink(c, 2); /* too late: not one more */
	assert_int_equal(atomic_load(&c->balance.n_active), 1);
	assert_true(balance_active(&c->lane[0]));
	core_done(c);
}

struct watch {
	struct core *c;
	_Atomic unsigned round; /* in which it is to call for help */
	_Atomic unsigned done;
};

/* Calls for help as soon as one lane is alone. */
static void *watch_run(void *arg)
{
	struct watch *w = arg;

	for (unsigned i = 1; i <= ROUNDS; i++) {
		while (atomic_load(&w->round) != i)
			(void)sched_yield();
		while (atomic_load(&w->c->balance.n_active) != 1)
			;
		balance_help(w->c);
		atomic_store(&w->done, i);
	}
	return NULL;
}

static void a_lane_that_is_called_while_it_retires_is_active(void **state)
{
	struct watch w = { .c = core_fixture() };
	pthread_t t;

	balance_help(w.c);
	assert_int_equal(pthread_create(&t, NULL, watch_run, &w), 0);
	for (unsigned i = 1; i <= ROUNDS; i++) {
		atomic_store(&w.round, i);
		shrink(w.c, 2);
		while (atomic_load(&w.done) != i)
			(void)sched_yield();
		assert_int_equal(atomic_load(&w.c->balance.n_active), 2);
		assert_int_equal(count_active(w.c), 2);
	}
	(void)pthread_join(t, NULL);
	core_done(w.c);
}

/* So many windows with a lane that is half busy. */
static void pass(struct core *c, unsigned windows, unsigned deep)
{
	for (unsigned i = 0; i < windows; i++) {
		atomic_store(&c->lane[i % LANES].peak, deep);
		decide(c, WINDOW_NS, WINDOW_NS / 2, false);
	}
}

static void many_callers_have_a_second_lane_while_cpus_are_idle(void **state)
{
	struct core *c = core_fixture();

	pass(c, 100, DEEP);
	assert_int_equal(count_active(c), 1); /* nobody has said that there is a CPU for it */
	atomic_store(&c->balance.spare_cpu, true);
	pass(c, 100, DEEP - 1);
	assert_int_equal(count_active(c), 1);
	pass(c, GROW_AFTER, DEEP);
	assert_int_equal(count_active(c), 2);
	pass(c, 100, DEEP);
	assert_int_equal(count_active(c), 2);
	pass(c, SHRINK_AFTER, DEEP - 1);
	assert_int_equal(count_active(c), 1);
	pass(c, GROW_AFTER, DEEP);
	atomic_store(&c->balance.spare_cpu, false);
	pass(c, SHRINK_AFTER - 1, DEEP);
	assert_int_equal(count_active(c), 2);
	pass(c, 1, DEEP);
	assert_int_equal(count_active(c), 1);
	core_done(c);
}

static void who_slept_for_long_needs_no_second_lane(void **state)
{
	struct core *c = core_fixture();

	atomic_store(&c->balance.spare_cpu, true);
	pass(c, GROW_AFTER, DEEP);
	assert_int_equal(count_active(c), 2);
	decide(c, (uint64_t)SHRINK_AFTER * WINDOW_NS, WINDOW_NS / 2, false);
	assert_int_equal(count_active(c), 1);
	core_done(c);
}

/* Twenty looks, 50 ms apart, with so much idle time of all CPUs and so much spent in looking in each. */
static void look_on(struct core *c, unsigned idle_ms, unsigned spun_ms)
{
	static uint64_t idle_ticks;
	char line[64];

	for (unsigned i = 0; i < 20; i++) {
		idle_ticks += idle_ms * NS_PER_MS / c->balance.tick_ns;
		(void)snprintf(line, sizeof(line), "cpu  0 0 0 %lu 0 0\n", 1000000 + idle_ticks);
		assert_int_equal(pwrite(c->balance.stat_fd, line, strlen(line), 0), strlen(line));
		count_add(&c->lane[0].spin.cpu_ns, spun_ms * NS_PER_MS);
		c->balance.looked_ns = balance_now_ns() - 50 * NS_PER_MS;
		count_add(&c->balance.turn_ns, 1);
		look_at_load(c);
	}
}

/* What looking takes is nobody else's, and still no reason to go on with it while others want the CPUs: a lane that looked for
 * a single caller did so for eight as well, as what it took was taken for spare. */
static void who_looks_leaves_off_when_others_want_the_cpus(void **state)
{
	struct core *c = core_fixture();
	FILE *file = tmpfile();

	assert_non_null(file);
	(void)close(c->balance.stat_fd);
	c->balance.stat_fd = dup(fileno(file));
	c->balance.tick_ns = 10 * NS_PER_MS;
	look_on(c, 70, 20);
	assert_true(atomic_load(&c->balance.spare_cpu) && atomic_load(&c->balance.ample_cpu));
	look_on(c, 20, 20);
	assert_true(atomic_load(&c->balance.ample_cpu)); /* to go on takes less than to begin */
	look_on(c, 10, 20);
	assert_true(atomic_load(&c->balance.spare_cpu));
	assert_false(atomic_load(&c->balance.ample_cpu));
	look_on(c, 0, 10);
	assert_false(atomic_load(&c->balance.spare_cpu));
	(void)fclose(file);
	core_done(c);
}

int main(void)
{
	static const struct CMUnitTest all[] = {
		cmocka_unit_test(a_second_lane_is_called_and_retires),
		cmocka_unit_test(a_lane_that_is_called_while_it_retires_is_active),
		cmocka_unit_test(many_callers_have_a_second_lane_while_cpus_are_idle),
		cmocka_unit_test(who_slept_for_long_needs_no_second_lane),
		cmocka_unit_test(who_looks_leaves_off_when_others_want_the_cpus),
	};

	return cmocka_run_group_tests_name("lanes", all, NULL, NULL);
}
