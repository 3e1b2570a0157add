/* tests/unit/snapshot/test_cutover_steps.c - the machine of a cut-over over two servers of a fake: at every call of it the
 * fake fails before or after it has done what was asked, does nothing and says it did, or the program dies; then the
 * operator resumes, aborts or resolves, with one more failure in that. After every effect: never two writable servers,
 * B never opened without all that A had. At every end: it is told truly who takes writes. */
#include "tests/unit/snapshot/unit.h"
#include "tests/unit/snapshot/cutover_fake.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct steps s = { .ops = &cutover_fake, .catch_up_ms = 2000, .verify_ms = 300 };
static struct snap_error err;

static void fresh(void)
{
	memset(&w, 0, sizeof(w));
	memset(&err, 0, sizeof(err));
	w.a_has = 40;
	w.b_has = 20;
	(void)snprintf(w.line[w.lines++], sizeof(w.line[0]), "begin");
}

static enum steps_at where(void)
{
	enum steps_at at = AT_END;

	for (unsigned i = 0; i < w.lines; i++)
		at = steps_after(at, w.line[i]);
	return at;
}

static bool ended(void)
{
	return strcmp(w.line[w.lines - 1], "end") == 0;
}

/* Nothing fails any more, and the dead program is started anew. */
static void heal(void)
{
	w.at = w.at2 = 0;
	w.dead = w.b_gone = w.a_gone = w.broken = false;
	memset(&err, 0, sizeof(err));
}

static bool noted(const char *step)
{
	for (unsigned i = 0; i < w.lines; i++)
		if (strcmp(w.line[i], step) == 0)
			return true;
	return false;
}

/* Did it tell the truth? Not of a program that died: it told nothing. */
static void assert_true_word(enum steps_result r)
{
	if (w.dead)
		return;
	switch (r) {
	case STEPS_DONE:
		assert_true(w.b_open && w.a_fenced && w.retired);
		assert_int_equal(err.code, 0);
		break;
	case STEPS_DONE_BUT:
		assert_true(w.b_open && w.a_fenced && err.code);
		break;
	case STEPS_ABORTED:
		assert_true(!w.a_fenced && !w.b_open);
		break;
	case STEPS_STUCK:
		assert_true(!w.b_open && err.code);
		break;
	case STEPS_UNCERTAIN:
	case STEPS_REFUSED:
	default:
		assert_true(err.code != 0);
		assert_true(r == STEPS_REFUSED || w.a_fenced || noted("reopening")); /* the answer to its unfencing may be lost */
	}
}

/* ---- the straight way ---- */

static void all_goes_well(void **state)
{
	static const char *const want[] = { "begin", "fencing", "fenced", "final", "caught_up", "sending", "open", "hook", "hooked",
					    "end" };

	fresh();
	assert_int_equal(steps_run(&s, AT_BEGUN, &err), STEPS_DONE);
	assert_true_word(STEPS_DONE);
	assert_int_equal(w.hooks, 1);
	assert_int_equal(w.lines, sizeof(want) / sizeof(want[0]));
	for (unsigned i = 0; i < w.lines; i++)
		assert_string_equal(w.line[i], want[i]);
}

static void b_that_does_not_catch_up_gives_the_writes_back(void **state)
{
	fresh();
	w.b_slow = true;
	assert_int_equal(steps_run(&s, AT_BEGUN, &err), STEPS_ABORTED);
	assert_int_equal(err.code, -ETIMEDOUT);
	assert_says(err.msg, "--catch-up");
	assert_true_word(STEPS_ABORTED);
}

static void the_operators_interrupt_is_heard_before_the_point(void **state)
{
	fresh();
	w.cancel = true;
	assert_int_equal(steps_run(&s, AT_BEGUN, &err), STEPS_ABORTED);
	assert_int_equal(err.code, -ECANCELED);
}

static void what_only_b_has_refuses(void **state)
{
	fresh();
	w.b_has = 1000;
	assert_int_equal(steps_run(&s, AT_BEGUN, &err), STEPS_ABORTED);
	assert_int_equal(err.code, -EEXIST);
}

static void b_gone_after_the_point_is_uncertain_until_resolved(void **state)
{
	for (int way = 0; way < 3; way++) {
		fresh();
		strcpy(w.line[w.lines++], "fencing");
		strcpy(w.line[w.lines++], "sending");
		w.a_fenced = w.b_gone = true;
		w.b_has = w.a_has;
		assert_int_equal(steps_run(&s, where(), &err), STEPS_UNCERTAIN);
		assert_true_word(STEPS_UNCERTAIN);
		heal();
		assert_int_equal(steps_run(&s, where(), &err), STEPS_REFUSED);
		assert_says(err.msg, "resolve");
		snap_error_clear(&err);
		assert_int_equal(steps_abort(&s, where(), &err), STEPS_REFUSED);
		heal();
		if (way == 0) {
			assert_int_equal(steps_resolve(&s, where(), true, false, false, &err), STEPS_DONE);
		} else if (way == 1) {
			assert_int_equal(steps_resolve(&s, where(), false, false, false, &err), STEPS_ABORTED);
			assert_true(!w.a_fenced && !w.b_open);
		} else {
			w.b_gone = true;
			assert_int_equal(steps_resolve(&s, where(), false, false, false, &err), STEPS_UNCERTAIN);
			assert_true(w.a_fenced);
			snap_error_clear(&err);
			assert_int_equal(steps_resolve(&s, where(), false, true, false, &err), STEPS_ABORTED);
			assert_true(!w.a_fenced);
		}
		assert_true(ended());
	}
}

/* A run in which the first call of that operation fails. */
static void run_failing(enum op op)
{
	unsigned k = 0;

	do { /* find its call */
		fresh();
		w.at = ++k;
		w.mode = FAIL_BEFORE;
		(void)steps_run(&s, AT_BEGUN, &err);
	} while (w.hit != op);
}

static void a_statement_that_fails_is_sent_again(void **state)
{
	run_failing(OPEN);
	assert_true_word(STEPS_DONE);
}

static void a_again_is_refused_when_b_has_taken_writes(void **state)
{
	fresh();
	w.at = 10;
	w.mode = DIE_AFTER;
	(void)steps_run(&s, AT_BEGUN, &err);
	w.b_open = w.a_fenced = true;
	heal();
	w.lines = 1;
	strcpy(w.line[w.lines++], "open");
	w.b_has = w.a_has + 5;
	assert_int_equal(steps_resolve(&s, where(), false, false, false, &err), STEPS_UNCERTAIN);
	assert_int_equal(err.code, -EEXIST);
	assert_true(w.a_fenced);
	heal();
	assert_int_equal(steps_resolve(&s, where(), false, false, true, &err), STEPS_ABORTED);
	assert_true(!w.a_fenced && !w.b_open);
}

static void a_hook_that_fails_is_run_again_or_skipped(void **state)
{
	struct steps skip = s;

	skip.skip_hook = true;
	for (int way = 0; way < 2; way++) {
		run_failing(HOOK);
		assert_true_word(STEPS_DONE_BUT);
		assert_false(ended());
		heal();
		assert_int_equal(steps_abort(&s, where(), &err), STEPS_REFUSED);
		heal();
		assert_int_equal(steps_run(way ? &skip : &s, where(), &err), STEPS_DONE);
		assert_int_equal(w.hooks, way ? 0 : 1);
		assert_true(ended());
	}
}

/* A was restarted without its fence after the point, and clients have written to it since: B lacks that. */
static void past_the_point_a_wrote_on(bool a_fenced)
{
	fresh();
	strcpy(w.line[w.lines++], "fencing");
	strcpy(w.line[w.lines++], "sending");
	w.idle = true; /* what it has is to be counted */
	w.a_fenced = a_fenced;
	w.a_has = 45;
	w.b_has = 40;
}

static void b_by_resolve_executes_first_what_a_took_after_the_point(void **state)
{
	past_the_point_a_wrote_on(false);
	assert_int_equal(steps_run(&s, where(), &err), STEPS_UNCERTAIN);
	heal();
	assert_int_equal(steps_resolve(&s, where(), true, false, false, &err), STEPS_DONE);
	assert_true_word(STEPS_DONE);
	assert_int_equal(w.b_has >= 45, 1);
}

static void b_by_resume_executes_first_what_a_took_before_it_was_fenced_again(void **state)
{
	past_the_point_a_wrote_on(true);
	assert_int_equal(steps_run(&s, where(), &err), STEPS_DONE);
	assert_true_word(STEPS_DONE);
	assert_int_equal(w.b_has >= 45, 1);
}

static void b_that_lacks_what_a_took_is_opened_by_lose_alone(void **state)
{
	for (int resume = 0; resume < 2; resume++) {
		past_the_point_a_wrote_on(true);
		w.b_slow = true;
		assert_int_equal(resume ? steps_run(&s, where(), &err) : steps_resolve(&s, where(), true, false, false, &err),
				 STEPS_UNCERTAIN);
		assert_int_equal(err.code, -ETIMEDOUT);
		assert_says(err.msg, "--lose");
		assert_true(w.a_fenced && !w.b_open);
		heal();
		w.lose = true;
		assert_int_equal(steps_resolve(&s, where(), true, false, true, &err), STEPS_DONE);
		assert_true_word(STEPS_DONE);
	}
}

/* Opened, written to, and shut again by a resolve that did not come to its end: what only B has is no reason against B. */
static void b_that_has_more_than_a_is_opened_again(void **state)
{
	past_the_point_a_wrote_on(true);
	w.b_has = 50;
	assert_int_equal(steps_resolve(&s, where(), true, false, false, &err), STEPS_DONE);
	assert_true_word(STEPS_DONE);
}

static void b_by_resolve_with_a_down_is_not_compared(void **state)
{
	past_the_point_a_wrote_on(true);
	w.a_has = 40;
	w.a_gone = true;
	assert_int_equal(steps_resolve(&s, where(), true, false, false, &err), STEPS_UNCERTAIN);
	assert_false(w.b_open);
	snap_error_clear(&err);
	assert_int_equal(steps_resolve(&s, where(), true, true, false, &err), STEPS_DONE);
	assert_true(w.b_open);
}

/* ---- every fault at every call ---- */

enum { BY_RESUME, BY_ABORT, BY_RESOLVE_A, BY_RESOLVE_B, WAYS };

static enum steps_result act(int way)
{
	switch (way) {
	case BY_RESUME:
		return steps_run(&s, where(), &err);
	case BY_ABORT:
		return steps_abort(&s, where(), &err);
	default:
		return steps_resolve(&s, where(), way == BY_RESOLVE_B, false, way == BY_RESOLVE_A, &err);
	}
}

/* With nothing failing any more there is always a way to the end, and then one server takes writes. */
static void assert_can_be_ended(void)
{
	for (int way = 0; way < WAYS && !ended(); way++) {
		heal();
		assert_true_word(act(way));
	}
	assert_true(ended());
	assert_true(w.a_fenced == w.b_open);
}

static unsigned calls_of_a_run(void)
{
	fresh();
	(void)steps_run(&s, AT_BEGUN, &err);
	return w.calls;
}

static void one_fault_at_every_call(void **state)
{
	unsigned n = calls_of_a_run();

	for (unsigned k = 1; k <= n + 4; k++)
		for (enum mode m = FAIL_BEFORE; m < MODES; m++)
			for (int idle = 0; idle < 2; idle++) {
				fresh();
				w.idle = idle;
				w.at = k;
				w.mode = m;
				assert_true_word(steps_run(&s, AT_BEGUN, &err));
				assert_can_be_ended();
			}
}

/* The second in what the operator does about the first; or in the same run. */
static void two_faults_at_every_pair_of_calls(void **state)
{
	unsigned n = calls_of_a_run();

	for (unsigned k = 1; k <= n; k++)
		for (unsigned k2 = k + 1; k2 <= k + n; k2++)
			for (enum mode m = FAIL_BEFORE; m < MODES; m++)
				for (enum mode m2 = FAIL_BEFORE; m2 < MODES; m2++)
					for (int way = 0; way < WAYS; way++) {
						fresh();
						w.idle = (k + k2) % 2;
						w.at = k;
						w.mode = m;
						w.at2 = k2;
						w.mode2 = m2;
						assert_true_word(steps_run(&s, AT_BEGUN, &err));
						w.dead = w.broken = false; /* started anew */
						memset(&err, 0, sizeof(err));
						if (!ended())
							assert_true_word(act(way));
						assert_can_be_ended();
					}
}

/* B, or A, goes away at a call and stays away until the operator is asked. */
static void a_server_that_stays_away(void **state)
{
	unsigned n = calls_of_a_run();

	for (unsigned k = 1; k <= n; k++)
		for (int which = 0; which < 2; which++) {
			fresh();
			w.at = k;
			w.mode = DIE_AFTER;
			(void)steps_run(&s, AT_BEGUN, &err);
			heal();
			w.a_gone = which == 0;
			w.b_gone = which == 1;
			for (int way = 0; way < WAYS; way++) {
				memset(&err, 0, sizeof(err));
				if (!ended())
					assert_true_word(act(way));
			}
			assert_can_be_ended();
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_goes_well),
		cmocka_unit_test(b_that_does_not_catch_up_gives_the_writes_back),
		cmocka_unit_test(the_operators_interrupt_is_heard_before_the_point),
		cmocka_unit_test(what_only_b_has_refuses),
		cmocka_unit_test(b_gone_after_the_point_is_uncertain_until_resolved),
		cmocka_unit_test(a_statement_that_fails_is_sent_again),
		cmocka_unit_test(a_again_is_refused_when_b_has_taken_writes),
		cmocka_unit_test(a_hook_that_fails_is_run_again_or_skipped),
		cmocka_unit_test(b_by_resolve_executes_first_what_a_took_after_the_point),
		cmocka_unit_test(b_by_resume_executes_first_what_a_took_before_it_was_fenced_again),
		cmocka_unit_test(b_that_lacks_what_a_took_is_opened_by_lose_alone),
		cmocka_unit_test(b_that_has_more_than_a_is_opened_again),
		cmocka_unit_test(b_by_resolve_with_a_down_is_not_compared),
		cmocka_unit_test(one_fault_at_every_call),
		cmocka_unit_test(two_faults_at_every_pair_of_calls),
		cmocka_unit_test(a_server_that_stays_away),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
