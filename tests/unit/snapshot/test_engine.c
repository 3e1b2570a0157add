/* tests/unit/snapshot/test_engine.c - one snapshot over fakes: its order, and each of its steps failing and
 * stalling. Whatever happens, afterwards nothing is held, the set says why, and the next one works. */
#include "tests/unit/snapshot/drive.h"
#include "snapshot/engine_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- all is well ---- */

static void assert_order(const int *at, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (at[i] < 0)
			fail_msg("step %zu did not happen", i);
		if (i && at[i - 1] >= at[i])
			fail_msg("step %zu came before step %zu", i, i - 1);
	}
}

static void the_steps_come_in_their_order(void **state)
{
	struct rig *r = *state;

	fake_conf(&r->f, "freeze", "yes");
	rig_start(r);
	take(r, "one", "");
	assert_order((const int[]){ fake_begin(ON_PROBE, 0), fake_begin(ON_DB_PREFLIGHT, 0), fake_begin(ON_PREFLIGHT, 0),
				    fake_begin(ON_PRESYNC, 0), fake_begin(ON_LOCK, 0), fake_end(ON_LOCK, 0),
				    fake_begin(ON_POSITION, 0), fake_end(ON_POSITION, 0), fake_begin(ON_CLOSE, 0),
				    fake_end(ON_CLOSE, 0), fake_event("unlock_sent"), fake_begin(ON_SYNC, 0),
				    fake_begin(ON_FREEZE, 0), fake_begin(ON_TRIGGER, 0), fake_end(ON_TRIGGER, 0),
				    fake_begin(ON_THAW, 0), fake_begin(ON_OPEN, 0), fake_event("fixed"),
				    fake_begin(ON_POLL, 0), fake_event("complete"), fake_begin(ON_FINISH, 0) }, 21);
	assert_true(fake_begin(ON_UNLOCK, 0) > fake_end(ON_CLOSE, 0));
	assert_true(fake_end(ON_UNLOCK, 0) < fake_event("fixed"));
	assert_int_equal(fake_count(ON_DISCARD), 0);
	assert_int_equal(fake_count(ON_SEVER), 0);
	assert_nothing_held(r);
}

static void the_database_lock_is_over_before_the_slow_part(void **state)
{
	struct rig *r = *state;

	rig_start(r);
	take(r, "one", "");
	assert_true(fake_at(fake_begin(ON_CLOSE, 0)).locked);
	assert_false(fake_at(fake_begin(ON_TRIGGER, 0)).locked);
	assert_true(fake_at(fake_begin(ON_TRIGGER, 0)).gate_closed);
	assert_false(fake_at(fake_begin(ON_POLL, 0)).gate_closed);
}

static void skip_five_seconds(void *arg)
{
	fake_clock_skip(5000);
}

static void what_the_lock_does_before_it_makes_others_wait_is_no_part_of_its_time(void **state)
{
	struct rig *r = *state;
	char *ms;

	rig_start(r);
	fake_clock_hold();
	fake_hook(ON_LOCK, skip_five_seconds, NULL);
	take(r, "one", "");
	ms = show(r, "one", "lock_ms");
	assert_true(strtod(ms, NULL) >= 0 && strtod(ms, NULL) < 5000);
	free(ms);
	fake_clock_run();
}

static void every_wait_has_its_time(void **state)
{
	struct rig *r = *state;
	struct fake_entry close, trigger, lock;

	fake_conf(&r->f, "gate_timeout", "50");
	fake_conf(&r->f, "drain_timeout", "250ms");
	fake_conf(&r->f, "db.lock_timeout", "3");
	rig_start(r);
	take(r, "one", "");
	close = fake_at(fake_begin(ON_CLOSE, 0));
	trigger = fake_at(fake_begin(ON_TRIGGER, 0));
	lock = fake_at(fake_begin(ON_LOCK, 0));
	assert_int_equal(close.a, 250);
	assert_int_equal(close.b, 50000);
	assert_in_range(trigger.a, 1, 49900); /* ends before the gate's own deadline */
	assert_int_equal(lock.a, 3000 + COORD_TRIES_MS);
	assert_int_equal(lock.b, 250 + 1500); /* told to the server: drain, and a moment */
	assert_in_range(fake_at(fake_begin(ON_PRESYNC, 0)).a, 1, 60000);
	assert_in_range(fake_at(fake_begin(ON_SYNC, 0)).a, 1, 49900);
}

static void the_image_carries_its_position(void **state)
{
	struct rig *r = *state;
	char expect[256], *id;

	rig_start(r);
	take(r, "one", "");
	id = show(r, "one", "id");
	(void)snprintf(expect, sizeof(expect), "set one\nid %slineage ", id);
	assert_says(fake_position_seen(), expect);
	assert_says(fake_position_seen(), "\nbinlog_file bin.000007\nbinlog_pos 4711\n");
	assert_shows(r, "one", "position", "binlog_file bin.000007\nbinlog_pos 4711\n");
	assert_shows(r, NULL, "list", "bin.000007:4711");
	assert_nothing_held(r);
	free(id);
}

static void complete_comes_only_when_the_provider_says_so(void **state)
{
	struct rig *r = *state;
	struct asker a;

	fake_polls(3);
	rig_start(r);
	fake_stall_still(ON_POLL);
	assert_int_equal(ask(r, "one", &a), 0);
	assert_int_equal(answer_of(&a), 0); /* the point is fixed: nobody waits for completion */
	fake_wait_stalled(ON_POLL);
	assert_shows(r, "one", "state", "pending\n");
	fake_release(ON_POLL);
	until_state(r, "one", "complete");
	assert_int_equal(fake_count(ON_POLL), 3);
	assert_shows(r, "one", "progress", "100\n");
}

static void a_set_being_completed_does_not_hold_up_the_next(void **state)
{
	struct rig *r = *state;
	struct asker a, b;

	fake_polls(100000);
	rig_start(r);
	assert_int_equal(ask(r, "one", &a), 0);
	assert_int_equal(answer_of(&a), 0);
	assert_int_equal(ask(r, "two", &b), 0);
	assert_int_equal(answer_of(&b), 0);
	assert_shows(r, "one", "state", "pending\n");
	fake_polls(0);
	until_state(r, "one", "complete");
	until_state(r, "two", "complete");
}

/* ---- each step fails, each step stalls ---- */

enum how { BY_CALL, BY_DEADLINE }; /* a stalled call is left behind, or keeps its own deadline */

static const struct step {
	const char *fails, *stalls; /* the tests' names */
	enum fake_call call;
	int fail;
	const char *says; /* the sentence of the failure */
	enum how how;
	int stalled; /* the code after a stall, 0: not applicable */
	const char *stalled_says;
} steps[] = {
#define STEP(name, call) name "_fails", name "_stalls", call
	{ STEP("probe", ON_PROBE), -ENOSPC, "the catalog: told to fail", BY_DEADLINE, 0, NULL },
	{ STEP("db_preflight", ON_DB_PREFLIGHT), -ECONNREFUSED, "database preflight: told to fail", BY_CALL,
	  -ETIMEDOUT, "database preflight: no answer within its time" },
	{ STEP("preflight", ON_PREFLIGHT), -EXDEV, "provider preflight: told to fail", BY_CALL, -ETIMEDOUT,
	  "provider preflight: no answer within its time" },
	{ STEP("presync", ON_PRESYNC), -EIO, "sync: told to fail", BY_DEADLINE, -ETIMEDOUT, "sync: told to fail" },
	{ STEP("lock", ON_LOCK), -EACCES, "lock: told to fail", BY_CALL, -ETIMEDOUT,
	  "database lock: no answer within its time" },
	{ STEP("position", ON_POSITION), -EACCES, "position: told to fail", BY_CALL, -ETIMEDOUT,
	  "position: no answer within its time" },
	{ STEP("close", ON_CLOSE), -EBUSY, "it is closed already, by hand", BY_DEADLINE, -ETIMEDOUT,
	  "writes in flight did not end within 500 ms" },
	{ STEP("unlock", ON_UNLOCK), -ENOLCK, "unlock: told to fail", BY_CALL, -ETIMEDOUT,
	  "unlock the database: no answer in time" },
	{ STEP("sync", ON_SYNC), -EIO, "sync: told to fail", BY_DEADLINE, -ETIMEDOUT, "sync: told to fail" },
	{ STEP("freeze", ON_FREEZE), -EBUSY, "freeze: told to fail", BY_DEADLINE, -ETIMEDOUT,
	  "freeze: told to fail" },
	{ STEP("trigger", ON_TRIGGER), -EIO, "trigger: told to fail", BY_CALL, -ETIMEDOUT,
	  "provider: no answer within its time" },
	{ STEP("thaw", ON_THAW), -ETIMEDOUT, "thaw: told to fail", BY_DEADLINE, 0, NULL },
	{ STEP("open", ON_OPEN), -ETIMEDOUT, "the gate had opened before the consistency point was fixed", BY_DEADLINE,
	  0, NULL },
};

static void assert_failed(struct rig *r, const char *set, int code, const char *says, struct asker *a)
{
	char want[64];

	assert_int_equal(answer_of(a), code);
	assert_says(a->msg, says);
	assert_shows(r, set, "state", "failed\n");
	assert_shows(r, set, "last_error", says);
	(void)snprintf(want, sizeof(want), "\"error_code\":%d,", code);
	assert_shows(r, NULL, "list.json", want);
}

static void a_step_that_fails_fails_the_set(void **state)
{
	struct rig *r = *state;
	const struct step *s = r->param;
	struct asker a;

	fake_conf(&r->f, "freeze", "yes");
	rig_start(r);
	fake_fail(s->call, s->fail);
	assert_int_equal(ask(r, "one", &a), 0);
	assert_failed(r, "one", s->fail, s->says, &a);
	assert_nothing_held(r);
	assert_int_equal(fake_count(ON_DISCARD), s->call > ON_DB_PREFLIGHT); /* as soon as it began */
	assert_false(fake_has_data("one"));
	assert_int_equal(fake_count(ON_POLL) + fake_count(ON_FINISH), 0);
	if (s->call < ON_TRIGGER && s->call != ON_UNLOCK)
		assert_int_equal(fake_count(ON_TRIGGER), 0);
	if (s->call < ON_CLOSE)
		assert_int_equal(fake_count(ON_CLOSE), 0);
	fake_clear(s->call);
	take(r, "two", "");
}

static void assert_refused_while_it_hangs(struct rig *r, enum fake_call c)
{
	struct asker b;
	bool prov = c == ON_PREFLIGHT || c == ON_TRIGGER;

	assert_int_equal(ask(r, "meanwhile", &b), -EBUSY);
	assert_says(r->err.msg, prov ? "a call to the provider of an earlier run has not come back yet" :
				       "a call to the database of an earlier run has not come back yet");
	assert_null(show(r, "meanwhile", "state"));
	assert_shows(r, NULL, "status", prov ? "provider_call stuck" : "database_call stuck");
	assert_int_equal(b.answers, 0);
}

static void a_step_that_stalls_is_left_behind(void **state)
{
	struct rig *r = *state;
	const struct step *s = r->param;
	struct asker a;

	fake_conf(&r->f, "freeze", "yes");
	rig_start(r);
	fake_stall(s->call);
	assert_int_equal(ask(r, "one", &a), 0);
	assert_failed(r, "one", s->stalled, s->stalled_says, &a);
	assert_false(fake_gate_closed());
	assert_false(fake_locked());
	assert_false(fake_frozen());
	if (s->call != ON_TRIGGER) /* whose thread is the one that removes it: when it comes back */
		assert_false(file_there(r->f.backing, POSITION_FILE));
	if (s->how == BY_CALL) {
		assert_refused_while_it_hangs(r, s->call);
		/* the connection is cut: that ends a lock which the late call may have got */
		if (s->call != ON_PREFLIGHT && s->call != ON_TRIGGER)
			assert_true(fake_count(ON_SEVER) > 0);
	}
	fake_release(s->call);
	until_idle(r);
	assert_nothing_held(r);
	assert_false(fake_has_data("one")); /* discarded, at the latest by the call itself */
	assert_int_equal(fake_count(ON_DISCARD), s->call > ON_DB_PREFLIGHT);
	take(r, "two", "");
}

/* ---- what is particular to a step ---- */

static void a_lock_not_got_in_time_is_tried_again(void **state)
{
	struct rig *r = *state;
	struct asker a;

	rig_start(r);
	fake_fail_once(ON_LOCK, -EAGAIN);
	take(r, "one", "");
	assert_int_equal(fake_count(ON_LOCK), 2);
	fake_fail(ON_LOCK, -EAGAIN);
	assert_int_equal(ask(r, "two", &a), 0);
	assert_failed(r, "two", -EAGAIN, "lock: told to fail", &a);
	assert_nothing_held(r);
	assert_int_equal(fake_count(ON_LOCK), 2 + 3); /* db.lock_tries */
	assert_int_equal(fake_count(ON_CLOSE), 1);
}

static void a_failed_drain_is_tried_once_more(void **state)
{
	struct rig *r = *state;
	struct asker a;
	int close;

	rig_start(r);
	fake_fail_once(ON_CLOSE, -ETIMEDOUT);
	take(r, "one", "");
	close = fake_begin(ON_CLOSE, 0);
	assert_true(fake_begin(ON_UNLOCK, 0) > close);
	assert_true(fake_begin(ON_LOCK, 1) > fake_end(ON_UNLOCK, 0)); /* the application ran in between */
	assert_int_equal(fake_count(ON_OPEN), 1); /* a drain that failed has opened the gate itself */
	assert_null(strstr(strstr(fake_position_seen(), "binlog_pos") + 1, "binlog_pos")); /* not of both tries */
	fake_fail(ON_CLOSE, -ETIMEDOUT);
	assert_int_equal(ask(r, "two", &a), 0);
	assert_failed(r, "two", -ETIMEDOUT, "did not end within 500 ms", &a);
	assert_nothing_held(r);
	assert_int_equal(fake_count(ON_CLOSE), 2 + 2);
}

static void a_lock_lost_in_a_failed_drain_is_not_tried_again(void **state)
{
	struct rig *r = *state;
	struct asker a;

	rig_start(r);
	fake_fail(ON_CLOSE, -ETIMEDOUT);
	fake_fail(ON_UNLOCK, -ENOLCK);
	assert_int_equal(ask(r, "one", &a), 0);
	assert_failed(r, "one", -ENOLCK, "unlock: told to fail", &a);
	assert_nothing_held(r);
	assert_int_equal(fake_count(ON_CLOSE), 1);
}

static void the_gate_does_not_wait_for_the_unlock(void **state)
{
	struct rig *r = *state;
	struct asker a;

	rig_start(r);
	fake_stall_still(ON_UNLOCK);
	assert_int_equal(ask(r, "one", &a), 0);
	fake_wait_stalled(ON_UNLOCK);
	fake_wait_ended(ON_OPEN, 1);
	assert_false(fake_gate_closed());
	assert_int_equal(fake_end(ON_UNLOCK, 0), -1);
	fake_release(ON_UNLOCK); /* late, and the lock was ours: that is no failure */
	assert_int_equal(answer_of(&a), 0);
	until_state(r, "one", "complete");
}

static void a_trigger_that_comes_back_late_leaves_nothing(void **state)
{
	struct rig *r = *state;
	struct asker a;

	rig_start(r);
	fake_stall(ON_TRIGGER);
	assert_int_equal(ask(r, "one", &a), 0);
	assert_int_equal(answer_of(&a), -ETIMEDOUT);
	assert_true(fake_has_data("one"));
	fake_release(ON_TRIGGER);
	until_idle(r);
	assert_false(fake_has_data("one"));
	assert_nothing_held(r);
	assert_int_equal(fake_count(ON_DISCARD), 1);
	assert_int_equal(fake_count(ON_FINISH), 0);
	assert_shows(r, "one", "state", "failed\n");
}

/* ---- the position file ---- */

static void make_link(void *arg)
{
	const struct rig *r = arg;
	char path[200];

	(void)snprintf(path, sizeof(path), "%s/%s", r->f.backing, POSITION_FILE);
	assert_int_equal(symlink("../state/lineage", path), 0);
}

static void a_planted_link_is_not_followed(void **state)
{
	struct rig *r = *state;
	char *before, *after;
	struct asker a;

	rig_start(r);
	before = file_get(r->f.state, "lineage");
	fake_hook(ON_PRESYNC, make_link, r);
	assert_int_equal(ask(r, "one", &a), 0);
	assert_failed(r, "one", -ELOOP, "/.stillfs-position: ", &a);
	assert_nothing_held(r);
	after = file_get(r->f.state, "lineage");
	assert_string_equal(before, after);
	take(r, "two", "");
	free(before);
	free(after);
}

static void make_fifo(void *arg)
{
	const struct rig *r = arg;
	char path[200];

	(void)snprintf(path, sizeof(path), "%s/%s", r->f.backing, POSITION_FILE);
	assert_int_equal(mkfifo(path, 0600), 0);
}

static void skip_the_hold(void *arg)
{
	fake_clock_skip(10000);
}

/* A fifo without a reader blocks its writer as a frozen filesystem does. */
static void a_backing_frozen_by_somebody_else_blocks_nobody(void **state)
{
	struct rig *r = *state;
	struct asker a, b;
	char path[200];
	int fd;

	rig_start(r);
	(void)snprintf(path, sizeof(path), "%s/%s", r->f.backing, POSITION_FILE);
	fake_hook(ON_PRESYNC, make_fifo, r);
	fake_hook(ON_UNLOCK, skip_the_hold, NULL);
	assert_int_equal(ask(r, "one", &a), 0);
	assert_int_equal(answer_of(&a), -ETIMEDOUT);
	assert_says(a.msg, "(is it frozen by somebody else?)");
	assert_false(fake_gate_closed());
	assert_false(fake_locked());
	assert_int_equal(ask(r, "two", &b), -EBUSY);
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* thaw */
	assert_true(fd >= 0);
	until_idle(r);
	(void)close(fd);
	assert_nothing_held(r);
	assert_int_equal(fake_count(ON_TRIGGER), 0);
	assert_false(fake_has_data("one"));
	take(r, "two", "");
}

/* ---- records ---- */

static void a_point_that_cannot_be_recorded_is_none(void **state)
{
	struct rig *r = *state;
	struct asker a;

	rig_start(r);
	fake_fail_once(ON_SAVE, -ENOSPC); /* the first record: before anything is done */
	assert_int_equal(ask(r, "one", &a), 0);
	assert_failed(r, "one", -ENOSPC, ".json: told to fail", &a);
	assert_nothing_held(r);
	assert_int_equal(fake_count(ON_DB_PREFLIGHT) + fake_count(ON_PREFLIGHT), 0);
	take(r, "two", "");
}

static void break_saves(void *arg)
{
	fake_fail_once(ON_SAVE, -EIO);
}

static void a_save_that_fails_after_the_hold_fails_the_set(void **state)
{
	struct rig *r = *state;
	struct asker a;

	rig_start(r);
	fake_hook(ON_OPEN, break_saves, NULL);
	assert_int_equal(ask(r, "one", &a), 0);
	assert_failed(r, "one", -EIO, ".json: told to fail", &a);
	assert_nothing_held(r);
	assert_int_equal(fake_count(ON_TRIGGER), 1);
	assert_int_equal(fake_count(ON_DISCARD), 1);
	assert_false(fake_has_data("one"));
	take(r, "two", "");
}

static void a_save_that_fails_at_the_end_fails_the_set(void **state)
{
	struct rig *r = *state;
	struct asker a;

	rig_start(r);
	fake_hook(ON_POLL, break_saves, NULL);
	assert_int_equal(ask(r, "one", &a), 0);
	assert_int_equal(answer_of(&a), 0);
	until_state(r, "one", "failed");
	fake_wait_ended(ON_REPORT, 1);
	until_idle(r);
	assert_int_equal(fake_count(ON_REPORT), 1); /* nobody waits any more: last_error has it */
	assert_says(fake_at(fake_begin(ON_REPORT, 0)).text, ".json: told to fail");
	assert_int_equal(fake_at(fake_begin(ON_REPORT, 0)).a, EIO);
	assert_int_equal(fake_count(ON_FINISH), 0);
	assert_false(fake_has_data("one"));
}

static void a_disk_that_hangs_while_saving_holds_nothing(void **state)
{
	struct rig *r = *state;
	struct asker a, w;

	rig_start(r);
	fake_stall_still(ON_SAVE);
	assert_int_equal(ask(r, "one", &a), 0);
	fake_wait_stalled(ON_SAVE);
	assert_nothing_held(r);
	assert_int_equal(ask(r, "two", &w), -EBUSY);
	assert_says(r->err.msg, "one is running");
	assert_shows(r, NULL, "status", "running one");
	fake_release(ON_SAVE);
	assert_int_equal(answer_of(&a), 0);
}

static void a_poll_that_fails_fails_the_set_and_is_reported(void **state)
{
	struct rig *r = *state;
	struct asker a;

	rig_start(r);
	fake_fail(ON_POLL, -EIO);
	assert_int_equal(ask(r, "one", &a), 0);
	assert_int_equal(answer_of(&a), 0);
	until_state(r, "one", "failed");
	fake_wait_ended(ON_REPORT, 1);
	until_idle(r);
	assert_shows(r, "one", "last_error", "poll: told to fail");
	assert_says(fake_at(fake_begin(ON_REPORT, 0)).text, "poll: told to fail");
	assert_int_equal(fake_count(ON_DISCARD), 1);
	assert_false(fake_has_data("one"));
	fake_clear(ON_POLL);
	take(r, "two", "");
}

static void a_poll_that_stalls_fails_the_set_after_an_hour(void **state)
{
	struct rig *r = *state;
	struct asker a;

	rig_start(r);
	fake_stall(ON_POLL);
	assert_int_equal(ask(r, "one", &a), 0);
	assert_int_equal(answer_of(&a), 0);
	until_state(r, "one", "failed");
	assert_shows(r, "one", "last_error", "completion: no answer within its time");
	assert_int_equal(ask(r, "two", &a), -EBUSY);
	fake_release(ON_POLL);
	until_idle(r);
	assert_int_equal(fake_count(ON_DISCARD), 1);
	assert_int_equal(fake_count(ON_FINISH), 0);
	assert_false(fake_has_data("one"));
	take(r, "two", "");
}

static void freeze_is_refused_with_a_provider_that_writes_there(void **state)
{
	struct rig *r = *state;
	struct snap_error err = { 0 };

	fake_conf(&r->f, "freeze", "yes");
	fake_conf(&r->f, "provider", "live");
	assert_null(engine_new(&r->f.door, &err));
	assert_int_equal(err.code, -EINVAL);
	assert_string_equal(err.msg, "freeze=yes cannot be used with provider=live");
}

int main(void)
{
	static const struct CMUnitTest once[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
		T(the_steps_come_in_their_order),
		T(the_database_lock_is_over_before_the_slow_part),
		T(what_the_lock_does_before_it_makes_others_wait_is_no_part_of_its_time),
		T(every_wait_has_its_time),
		T(the_image_carries_its_position),
		T(complete_comes_only_when_the_provider_says_so),
		T(a_set_being_completed_does_not_hold_up_the_next),
		T(a_lock_not_got_in_time_is_tried_again),
		T(a_failed_drain_is_tried_once_more),
		T(a_lock_lost_in_a_failed_drain_is_not_tried_again),
		T(the_gate_does_not_wait_for_the_unlock),
		T(a_trigger_that_comes_back_late_leaves_nothing),
		T(a_planted_link_is_not_followed),
		T(a_backing_frozen_by_somebody_else_blocks_nobody),
		T(a_point_that_cannot_be_recorded_is_none),
		T(a_save_that_fails_after_the_hold_fails_the_set),
		T(a_save_that_fails_at_the_end_fails_the_set),
		T(a_disk_that_hangs_while_saving_holds_nothing),
		T(a_poll_that_fails_fails_the_set_and_is_reported),
		T(a_poll_that_stalls_fails_the_set_after_an_hour),
		T(freeze_is_refused_with_a_provider_that_writes_there),
	};
	struct CMUnitTest all[sizeof(once) / sizeof(once[0]) + 2 * sizeof(steps) / sizeof(steps[0])];
	size_t n = sizeof(once) / sizeof(once[0]);

	memcpy(all, once, sizeof(once));
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		all[n++] = rig_test(steps[i].fails, a_step_that_fails_fails_the_set, &steps[i]);
		if (steps[i].stalled)
			all[n++] = rig_test(steps[i].stalls, a_step_that_stalls_is_left_behind, &steps[i]);
	}
	return _cmocka_run_group_tests("engine", all, n, NULL, NULL);
}
