/* tests/unit/snapshot/fake_tape.c - the tape, the faults and the clock of fake.h. Linked with --wrap for
 * the clock, for waiting, and for the catalog's writes. */
#include "tests/unit/snapshot/fake.h"
#include "tests/unit/snapshot/unit.h"
#include "base/clock.h"
#include "snapshot/catalog.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define TAPE_MAX 8192

int __real_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t);
int __real_nanosleep(const struct timespec *want, struct timespec *left);
int __wrap_nanosleep(const struct timespec *want, struct timespec *left);
int __real_pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *t);
int __wrap_pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *t);
int __wrap_fsync(int fd);
int __real_catalog_write(const struct catalog *c, const char *id, const char *text, struct snap_error *err);
int __wrap_catalog_write(const struct catalog *c, const char *id, const char *text, struct snap_error *err);
int __real_catalog_probe(const struct catalog *c, struct snap_error *err);
int __wrap_catalog_probe(const struct catalog *c, struct snap_error *err);

struct fault {
	enum { GO, FAIL, FAIL_ONCE, STALL, STALL_STILL } mode;
	int code;
	unsigned inside; /* calls that stall now */
	void (*hook)(void *arg);
	void *hook_arg;
};

static const char *const call_names[ON_CALLS] = {
	"probe", "save", "db_preflight", "preflight", "presync", "lock", "position", "close",
	"unlock", "sync", "freeze", "trigger", "thaw", "open", "poll", "resume", "leave", "discard",
	"finish", "remove", "sever", "event", "report",
};

struct fake_world fake;
static pthread_mutex_t world = PTHREAD_MUTEX_INITIALIZER;
static struct fake_entry tape[TAPE_MAX];
static int n_tape;
static struct fault faults[ON_CALLS];
static char violations[2048];
static _Atomic uint64_t clock_ahead; /* ns */
static _Atomic uint64_t clock_held; /* ns; 0: it runs */

/* ---- the clock ---- */

int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
	int r = __real_clock_gettime(id, t);
	uint64_t ahead = atomic_load(&clock_ahead), held = atomic_load(&clock_held);

	if (id == CLOCK_BOOTTIME) {
		if (held)
			*t = (struct timespec){ .tv_sec = (time_t)(held / NS_PER_S), .tv_nsec = (long)(held % NS_PER_S) };
		t->tv_sec += (time_t)(ahead / NS_PER_S);
		t->tv_nsec += (long)(ahead % NS_PER_S);
		t->tv_sec += t->tv_nsec / (long)NS_PER_S;
		t->tv_nsec %= (long)NS_PER_S;
	}
	return r;
}

void fake_clock_skip(uint64_t ms)
{
	atomic_fetch_add(&clock_ahead, ms * NS_PER_MS);
}

void fake_clock_hold(void)
{
	struct timespec t;

	(void)__real_clock_gettime(CLOCK_BOOTTIME, &t);
	atomic_store(&clock_held, (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec);
}

void fake_clock_run(void)
{
	atomic_store(&clock_held, 0);
}

/* The engine's pauses take a millisecond, and the clock shows two hundred. */
int __wrap_nanosleep(const struct timespec *want, struct timespec *left)
{
	const struct timespec ms = { .tv_nsec = 1000000 };

	fake_clock_skip(200);
	return __real_nanosleep(&ms, left);
}

/* Waiters look often: they sleep by the real clock, and their deadline is on ours. */
int __wrap_pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *t)
{
	struct timespec soon;

	(void)__real_clock_gettime(CLOCK_MONOTONIC, &soon);
	soon.tv_nsec += 2000000;
	soon.tv_sec += soon.tv_nsec / (long)NS_PER_S;
	soon.tv_nsec %= (long)NS_PER_S;
	return __real_pthread_cond_timedwait(c, m, &soon);
}

int __wrap_fsync(int fd)
{
	return 0; /* durability is test_catalog's */
}

/* ---- the tape ---- */

void fake_lock_world(void)
{
	(void)pthread_mutex_lock(&world);
}

void fake_unlock_world(void)
{
	(void)pthread_mutex_unlock(&world);
}

static void violate(const char *fmt, va_list ap)
{
	size_t n = strlen(violations);

	(void)vsnprintf(violations + n, sizeof(violations) - n, fmt, ap);
	n = strlen(violations);
	(void)snprintf(violations + n, sizeof(violations) - n, "\n");
}

void fake_violate(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	violate(fmt, ap);
	va_end(ap);
}

static void record(enum fake_call c, bool end, const char *text, uint32_t a, uint32_t b)
{
	struct fake_entry *e = &tape[n_tape];

	if (n_tape == TAPE_MAX)
		return;
	*e = (struct fake_entry){ .call = c, .end = end, .locked = fake.locked, .gate_closed = fake.gate_closed,
				  .frozen = fake.frozen, .a = a, .b = b };
	(void)snprintf(e->text, sizeof(e->text), "%s", text ? text : "");
	n_tape++;
}

static bool is_prov(enum fake_call c)
{
	return c == ON_PREFLIGHT || c == ON_TRIGGER || c == ON_POLL || c == ON_RESUME || c == ON_LEAVE || c == ON_DISCARD ||
	       (c == ON_REMOVE && !fake.apart);
}

static bool is_db(enum fake_call c)
{
	return c == ON_DB_PREFLIGHT || c == ON_LOCK || c == ON_POSITION || c == ON_UNLOCK;
}

static void on_thread(enum fake_call c, const char *want)
{
	char name[16] = "";

	(void)pthread_getname_np(pthread_self(), name, sizeof(name));
	if (strcmp(name, want) != 0)
		fake_violate("%s on the thread \"%s\"", call_names[c], name);
}

/* What holds for every call, whatever the test. */
static void check_call(enum fake_call c)
{
	bool held = fake.locked && !fake.unlocking;

	if (is_prov(c)) {
		on_thread(c, "provider");
		if (fake.prov_calls)
			fake_violate("two calls of the provider at once: %s", call_names[c]);
		if (held)
			fake_violate("%s while the database lock is held", call_names[c]);
		if (fake.gate_closed && c != ON_TRIGGER && c != ON_DISCARD)
			fake_violate("%s while the gate is closed", call_names[c]);
	}
	if (c == ON_REMOVE && fake.apart)
		on_thread(c, "removal");
	if (is_db(c)) {
		on_thread(c, "database");
		if (fake.db_calls)
			fake_violate("two calls of the database at once: %s", call_names[c]);
		if (c != ON_UNLOCK && (fake.gate_closed || fake.prov_calls))
			fake_violate("%s while the gate is closed or the provider works", call_names[c]);
		if (c == ON_LOCK && fake.locked)
			fake_violate("locked twice");
		if (c == ON_POSITION && !fake.locked && !fake.cut)
			fake_violate("position without the lock");
	}
	if ((c == ON_SAVE || c == ON_PROBE || c == ON_PRESYNC) && (fake.gate_closed || fake.locked))
		fake_violate("%s while something is held", call_names[c]);
	if ((c == ON_SYNC || c == ON_FREEZE || c == ON_TRIGGER) && !fake.gate_closed)
		fake_violate("%s while the gate is open", call_names[c]);
	if ((c == ON_SYNC || c == ON_FREEZE) && held)
		fake_violate("%s while the database lock is held", call_names[c]);
}

/* How fast the clock runs meanwhile, ms a ms: a poll has an hour; an unlock's answer is not waited for
 * before the gate is open. World locked. */
static uint64_t pace(enum fake_call c)
{
	if (faults[c].mode != STALL || (c == ON_UNLOCK && fake.gate_closed))
		return 0;
	return c == ON_POLL ? 300000 : 500;
}

/* Stay until released, or as long as the caller says. World locked. */
static void stall(enum fake_call c, uint64_t deadline_ns, const _Atomic int *abort_flag)
{
	const struct timespec ms = { .tv_nsec = 1000000 };

	faults[c].inside++;
	while ((faults[c].mode == STALL || faults[c].mode == STALL_STILL) && clock_boot_ns() < deadline_ns &&
	       !(abort_flag && atomic_load(abort_flag))) {
		fake_clock_skip(pace(c));
		fake_unlock_world();
		(void)__real_nanosleep(&ms, NULL);
		fake_lock_world();
	}
	faults[c].inside--;
}

int fake_enter_until(enum fake_call c, const char *text, uint32_t a, uint32_t b, uint64_t deadline_ns,
		     const _Atomic int *abort_flag)
{
	struct fault *f = &faults[c];
	void (*hook)(void *arg);
	void *arg;
	int r = 0;

	fake_lock_world();
	check_call(c);
	record(c, false, text, a, b);
	fake.prov_calls += is_prov(c);
	fake.db_calls += is_db(c);
	if (c == ON_UNLOCK || (c == ON_EVENT && strcmp(text, "unlock_sent") == 0))
		fake.unlocking = true;
	else if (c == ON_LOCK)
		fake.unlocking = fake.cut = false;
	hook = f->hook;
	arg = f->hook_arg;
	f->hook = NULL;
	if (hook) {
		fake_unlock_world();
		hook(arg);
		fake_lock_world();
	}
	stall(c, deadline_ns, abort_flag);
	if (f->mode == FAIL || f->mode == FAIL_ONCE)
		r = f->code;
	if (f->mode == FAIL_ONCE)
		f->mode = GO;
	fake_unlock_world();
	return r;
}

int fake_enter(enum fake_call c, const char *text, uint32_t a, uint32_t b)
{
	return fake_enter_until(c, text, a, b, UINT64_MAX, NULL);
}

void fake_leave(enum fake_call c)
{
	fake_lock_world();
	fake.prov_calls -= is_prov(c);
	fake.db_calls -= is_db(c);
	record(c, true, NULL, 0, 0);
	fake_unlock_world();
}

/* ---- faults ---- */

static void arm(enum fake_call c, int mode, int code)
{
	fake_lock_world();
	faults[c].mode = mode;
	faults[c].code = code;
	fake_unlock_world();
}

void fake_fail(enum fake_call c, int code)
{
	arm(c, FAIL, code);
}

void fake_fail_once(enum fake_call c, int code)
{
	arm(c, FAIL_ONCE, code);
}

void fake_stall(enum fake_call c)
{
	arm(c, STALL, 0);
}

void fake_stall_still(enum fake_call c)
{
	arm(c, STALL_STILL, 0);
}

void fake_release(enum fake_call c)
{
	arm(c, GO, 0);
}

void fake_clear(enum fake_call c)
{
	arm(c, GO, 0);
}

void fake_hook(enum fake_call c, void (*fn)(void *arg), void *arg)
{
	fake_lock_world();
	faults[c].hook = fn;
	faults[c].hook_arg = arg;
	fake_unlock_world();
}

static bool is_stalled(void *arg)
{
	bool in;

	fake_lock_world();
	in = faults[*(enum fake_call *)arg].inside > 0;
	fake_unlock_world();
	return in;
}

void fake_wait_stalled(enum fake_call c)
{
	wait_until(is_stalled, &c, call_names[c]);
}

void fake_polls(unsigned n)
{
	fake_lock_world();
	fake.polls_needed = n;
	fake_unlock_world();
}

/* ---- what happened ---- */

void fake_forget(void)
{
	fake_lock_world();
	memset(&fake, 0, sizeof(fake));
	memset(faults, 0, sizeof(faults));
	fake.polls_needed = 1;
	atomic_store(&clock_held, 0);
	n_tape = 0;
	violations[0] = '\0';
	fake_unlock_world();
}

const char *fake_violations(void)
{
	return violations;
}

static int nth(enum fake_call c, bool end, unsigned n)
{
	int found = -1;

	fake_lock_world();
	for (int i = 0; found < 0 && i < n_tape; i++)
		if (tape[i].call == c && tape[i].end == end && n-- == 0)
			found = i;
	fake_unlock_world();
	return found;
}

unsigned fake_count(enum fake_call c)
{
	unsigned n = 0;

	while (nth(c, false, n) >= 0)
		n++;
	return n;
}

int fake_begin(enum fake_call c, unsigned n)
{
	return nth(c, false, n);
}

int fake_end(enum fake_call c, unsigned n)
{
	return nth(c, true, n);
}

struct fake_entry fake_at(int index)
{
	struct fake_entry e;

	fake_lock_world();
	e = tape[index < 0 ? TAPE_MAX - 1 : index];
	fake_unlock_world();
	return e;
}

int fake_event(const char *step)
{
	int found = -1;

	fake_lock_world();
	for (int i = 0; found < 0 && i < n_tape; i++)
		if (tape[i].call == ON_EVENT && !tape[i].end && strcmp(tape[i].text, step) == 0)
			found = i;
	fake_unlock_world();
	return found;
}

struct ended {
	enum fake_call call;
	unsigned n;
	const char *step;
};

static bool has_ended(void *arg)
{
	const struct ended *w = arg;

	return w->step ? fake_event(w->step) >= 0 : nth(w->call, true, w->n - 1) >= 0;
}

void fake_wait_ended(enum fake_call c, unsigned n)
{
	wait_until(has_ended, &(struct ended){ .call = c, .n = n }, call_names[c]);
}

void fake_wait_event(const char *step)
{
	wait_until(has_ended, &(struct ended){ .step = step }, step);
}

/* ---- the catalog's writes ---- */

int __wrap_catalog_write(const struct catalog *c, const char *id, const char *text, struct snap_error *err)
{
	bool complete = strstr(text, "\"state\":\"complete\"") != NULL, polled = false;
	int r = fake_enter(ON_SAVE, id, 0, 0);

	fake_lock_world();
	for (unsigned i = 0; i < fake.n_completed; i++)
		polled = polled || strcmp(fake.completed[i], id) == 0;
	if (complete && !polled)
		fake_violate("%s is recorded as complete, and no poll said so", id);
	fake_unlock_world();
	r = r < 0 ? snap_error_set(err, r, "write %s.json: told to fail: %s", id, strerror(-r)) :
		    __real_catalog_write(c, id, text, err);
	fake_leave(ON_SAVE);
	return r;
}

int __wrap_catalog_probe(const struct catalog *c, struct snap_error *err)
{
	int r = fake_enter(ON_PROBE, "", 0, 0);

	r = r < 0 ? snap_error_set(err, r, "the catalog: told to fail: %s", strerror(-r)) :
		    __real_catalog_probe(c, err);
	fake_leave(ON_PROBE);
	return r;
}
