/* tests/unit/snapshot/fake_door.c - the gate and the freeze of fake.h, the configuration, the fixture,
 * and the child that syncs. Like the real gate this one opens on its own at its deadline. */
#include "tests/unit/snapshot/fake.h"
#include "tests/unit/snapshot/unit.h"
#include "base/clock.h"
#include "snapshot/child.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct conf_key table[] = {
	{ "state_dir", CONF_PATH, "", NULL, 0, 0, "", "" },
	{ "gate_timeout", CONF_MS, "10", NULL, 100, 50000, "", "" },
	{ "drain_timeout", CONF_MS, "500ms", NULL, 10, 60000, "", "" },
	{ "presync_timeout", CONF_MS, "60", NULL, 100, 3600000, "", "" },
	{ "retention", CONF_LIST, "", NULL, 0, 0, "", "" },
	{ "auto_prune", CONF_BOOL, "no", NULL, 0, 0, "", "" },
	{ "auto_verify", CONF_BOOL, "no", NULL, 0, 0, "", "" },
	{ "verify.server", CONF_PATH, "", NULL, 0, 0, "", "" },
	{ "verify.root", CONF_PATH, "", NULL, 0, 0, "", "" },
	{ "verify.timeout", CONF_MS, "3600", NULL, 1000, 604800000, "", "" },
	{ "freeze", CONF_BOOL, "no", NULL, 0, 0, "", "" },
	{ "provider", CONF_STRING, "fake", NULL, 0, 0, "", "" },
	{ "db", CONF_STRING, "fake", NULL, 0, 0, "", "" },
	{ "hook.pre", CONF_PATH, "", NULL, 0, 0, "", "" },
	{ "hook.locked", CONF_PATH, "", NULL, 0, 0, "", "" },
	{ "hook.post", CONF_PATH, "", NULL, 0, 0, "", "" },
	{ "db.lock_timeout", CONF_MS, "2", NULL, 100, 30000, "", "" },
	{ "db.lock_patience", CONF_MS, "8ms", NULL, 0, 1000, "", "" },
	{ "db.lock_tries", CONF_COUNT, "3", NULL, 1, 20, "", "" },
	{ NULL, CONF_STRING, NULL, NULL, 0, 0, NULL, NULL },
};

/* The deadline opens it. World locked. */
static void gate_tick(void)
{
	if (fake.gate_closed && clock_boot_ns() >= fake.gate_deadline)
		fake.gate_closed = false;
}

static int gate_close(void *fs, uint32_t drain_ms, uint32_t hold_ms, const _Atomic int *abort_flag, struct gate_ticket *t)
{
	uint64_t drained_by = clock_boot_ns() + drain_ms * NS_PER_MS;
	int r = fake_enter_until(ON_CLOSE, "", drain_ms, hold_ms, drained_by, abort_flag);

	fake_lock_world();
	if (drain_ms < 1 || drain_ms > 60000 || hold_ms < 1 || hold_ms > 50000)
		fake_violate("close the gate: drain %u ms, hold %u ms", drain_ms, hold_ms);
	if (fake.gate_closed)
		fake_violate("close the gate: it is closed");
	if (r == 0 && clock_boot_ns() >= drained_by)
		r = -ETIMEDOUT;
	else if (r == 0 && abort_flag && atomic_load(abort_flag))
		r = -ECANCELED;
	if (r == 0) {
		fake.gate_closed = true;
		fake.gate_gen++;
		fake.gate_deadline = clock_boot_ns() + hold_ms * NS_PER_MS;
		*t = (struct gate_ticket){ .gen = fake.gate_gen, .closed_ns = clock_boot_ns(),
					   .deadline_ns = fake.gate_deadline };
	}
	fake_unlock_world();
	fake_leave(ON_CLOSE);
	return r;
}

static uint32_t gate_left_ms(void *fs, const struct gate_ticket *t)
{
	uint32_t left;

	fake_lock_world();
	gate_tick();
	left = fake.gate_closed && t->gen == fake.gate_gen ? clock_left_ms(fake.gate_deadline) : 0;
	fake_unlock_world();
	return left;
}

static int gate_open(void *fs, const struct gate_ticket *t)
{
	int r = fake_enter(ON_OPEN, "", 0, 0);

	fake_lock_world();
	gate_tick();
	if (fake.frozen)
		fake_violate("the gate opens while the backing is frozen");
	if (t->gen != fake.gate_gen)
		fake_violate("open: another closing's ticket");
	if (r == 0 && !fake.gate_closed)
		r = -ETIMEDOUT;
	fake.gate_closed = false;
	fake_unlock_world();
	fake_leave(ON_OPEN);
	return r;
}

static int fake_freeze(void *fs, uint32_t max_ms, struct snap_error *err)
{
	uint64_t end = clock_boot_ns() + max_ms * NS_PER_MS;
	int r = fake_enter_until(ON_FREEZE, "", max_ms, 0, end, NULL);

	if (r == 0 && clock_boot_ns() >= end)
		r = -ETIMEDOUT;
	fake_lock_world();
	fake.frozen = r == 0;
	fake_unlock_world();
	fake_leave(ON_FREEZE);
	return r < 0 ? snap_error_set(err, r, "freeze: told to fail: %s", strerror(-r)) : 0;
}

static int fake_thaw(void *fs, struct snap_error *err)
{
	int r = fake_enter(ON_THAW, "", 0, 0);

	fake_lock_world();
	fake.frozen = false;
	fake_unlock_world();
	fake_leave(ON_THAW);
	return r < 0 ? snap_error_set(err, r, "thaw: told to fail: %s", strerror(-r)) : 0;
}

static void fake_door_event(void *fs, const char *type, const char *members)
{
	const char *step = strstr(members, "\"step\":\"");
	char word[64] = "";

	if (step)
		(void)sscanf(step + 8, "%63[^\"]", word);
	(void)fake_enter(ON_EVENT, word, 0, 0);
	fake_leave(ON_EVENT);
}

static void fake_report(void *fs, const char *file, const struct snap_error *err)
{
	(void)fake_enter(ON_REPORT, err->msg, (uint32_t)-err->code, 0);
	fake_leave(ON_REPORT);
}

/* The fence that the engine's tests do not put up. */
static int fake_seal(void *fs, bool on, struct snap_error *err)
{
	fake_violate("seal: nobody asked for it");
	return 0;
}

static uint64_t fake_refused(void *fs, char *who, size_t cap)
{
	*who = '\0';
	return 0;
}

const struct door_ops fake_door_ops = {
	.gate_close = gate_close,
	.gate_left_ms = gate_left_ms,
	.gate_open = gate_open,
	.freeze = fake_freeze,
	.thaw = fake_thaw,
	.event = fake_door_event,
	.report = fake_report,
	.seal = fake_seal,
	.refused = fake_refused,
};

/* ---- the child: keeps its deadline and its abort, as the real one does ---- */


int child_sync(const struct door *d, bool mounts, uint64_t deadline_ns, const _Atomic int *abort_flag,
	       struct snap_error *err)
{
	enum fake_call c = mounts ? ON_PRESYNC : ON_SYNC;
	int r = fake_enter_until(c, "", clock_left_ms(deadline_ns), 0, deadline_ns, abort_flag);

	fake_leave(c);
	if (r == 0 && abort_flag && atomic_load(abort_flag))
		r = -ECANCELED;
	else if (r == 0 && clock_boot_ns() >= deadline_ns)
		r = -ETIMEDOUT;
	return r < 0 ? snap_error_set(err, r, "sync: told to fail: %s", strerror(-r)) : 0;
}

void child_reap(void)
{
}

/* ---- the fixture ---- */

void fake_setup(struct fake_fixture *f)
{
	struct snap_error err = { 0 };
	struct stat st;

	fake_forget();
	scratch_make(f->dir, sizeof(f->dir));
	(void)snprintf(f->backing, sizeof(f->backing), "%s/backing", f->dir);
	(void)snprintf(f->state, sizeof(f->state), "%s/state", f->dir);
	assert_int_equal(mkdir(f->backing, 0700), 0);
	assert_int_equal(mkdir(f->state, 0700), 0);
	f->conf = conf_new(table, &err);
	assert_non_null(f->conf);
	fake_conf(f, "state_dir", f->state);
	f->door = (struct door){ .ops = &fake_door_ops, .name = "test", .conf = f->conf, .n_pairs = 1 };
	f->door.pairs[0].backing = f->backing;
	f->door.pairs[0].mountpoint = f->backing;
	f->door.pairs[0].backing_fd = open(f->backing, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(fstat(f->door.pairs[0].backing_fd, &st), 0);
	f->door.pairs[0].backing_dev = f->door.pairs[0].mount_dev = st.st_dev;
}

void fake_teardown(struct fake_fixture *f)
{
	assert_string_equal(fake_violations(), "");
	assert_false(fake_locked());
	assert_false(fake_gate_closed());
	assert_false(fake_frozen());
	(void)close(f->door.pairs[0].backing_fd);
	conf_free(f->conf);
	scratch_remove(f->dir);
}

void fake_conf(struct fake_fixture *f, const char *key, const char *value)
{
	assert_int_equal(conf_set(f->conf, "test", key, value, NULL), 0);
}

bool fake_gate_closed(void)
{
	bool closed;

	fake_lock_world();
	gate_tick();
	closed = fake.gate_closed;
	fake_unlock_world();
	return closed;
}

bool fake_locked(void)
{
	bool locked;

	fake_lock_world();
	locked = fake.locked;
	fake_unlock_world();
	return locked;
}

bool fake_frozen(void)
{
	bool frozen;

	fake_lock_world();
	frozen = fake.frozen;
	fake_unlock_world();
	return frozen;
}
