/* tests/unit/snapshot/fake.h - a gate, a provider, a database and a clock that do what a test says.
 * Every call of the engine is one line of one tape, with what was held at that moment. Each call can
 * succeed, fail with an errno, or stall until it is released; a test can also run a function inside it.
 * What must never happen (a lock held across a provider's call, a save while the gate is closed ...) is
 * looked for at each call, and fake_violations() says what was found.
 * The clock (CLOCK_BOOTTIME) runs ahead while something stalls, so that no test waits for a deadline.
 * One world a process. Threads: any. */
#ifndef STILLFS_TESTS_FAKE_H
#define STILLFS_TESTS_FAKE_H

#include "snapshot/coordinator.h"
#include "snapshot/provider.h"

enum fake_call {
	ON_PROBE, /* catalog_probe */
	ON_SAVE, /* catalog_write */
	ON_DB_PREFLIGHT,
	ON_PREFLIGHT,
	ON_PRESYNC, /* child_sync of mounts and backings */
	ON_LOCK,
	ON_POSITION,
	ON_CLOSE,
	ON_UNLOCK,
	ON_SYNC, /* child_sync of the backings, in the hold */
	ON_FREEZE,
	ON_TRIGGER,
	ON_THAW,
	ON_OPEN,
	ON_POLL,
	ON_RESUME,
	ON_LEAVE,
	ON_DISCARD,
	ON_FINISH,
	ON_REMOVE,
	ON_SEVER,
	ON_EVENT,
	ON_REPORT,
	ON_CALLS,
};

/* One call's beginning or end. */
struct fake_entry {
	enum fake_call call;
	bool end;
	bool locked, gate_closed, frozen; /* at this moment */
	uint32_t a, b; /* times given to the call: drain and hold, max_ms, lock_ms */
	char text[128]; /* name of the set, step of the event, sentence of the report */
};

/* ---- the world ---- */

struct fake_fixture {
	char dir[64]; /* scratch: state/ backing/ */
	char backing[96], state[96];
	struct conf *conf;
	struct door door;
};

/* Directories, an empty tape, no faults. `freeze` etc. are set with fake_conf before the engine is made. */
void fake_setup(struct fake_fixture *f);
void fake_teardown(struct fake_fixture *f); /* asserts that nothing is held and nothing was violated */
void fake_conf(struct fake_fixture *f, const char *key, const char *value);

/* ---- faults ---- */

void fake_fail(enum fake_call c, int code); /* -errno, each time until fake_clear */
void fake_fail_once(enum fake_call c, int code);
/* Stay in the call until released (then it succeeds) or told to fail, whatever its deadline says. While it stalls the
 * clock runs. */
void fake_stall(enum fake_call c);
void fake_stall_still(enum fake_call c); /* the same, and the clock stands */
void fake_release(enum fake_call c); /* also takes the fault away */
void fake_clear(enum fake_call c);
void fake_hook(enum fake_call c, void (*fn)(void *arg), void *arg); /* inside the call, once */
void fake_wait_stalled(enum fake_call c); /* until somebody is in it; fails the test after a minute */
void fake_wait_ended(enum fake_call c, unsigned n); /* until n of them are over */
void fake_wait_event(const char *step);
void fake_polls(unsigned n); /* how many polls it takes to complete */
void fake_clock_skip(uint64_t ms);
/* It does not go on by itself meanwhile: a call that comes back is never too late, however slow the machine. */
void fake_clock_hold(void);
void fake_clock_run(void);

/* ---- what happened ---- */

const char *fake_violations(void); /* "" when all was well */
unsigned fake_count(enum fake_call c); /* beginnings */
/* Index in the tape of the nth (from 0) beginning or end, -1 when there is none. */
int fake_begin(enum fake_call c, unsigned nth);
int fake_end(enum fake_call c, unsigned nth);
struct fake_entry fake_at(int index);
int fake_event(const char *step); /* index of the first event of that step */
bool fake_gate_closed(void);
bool fake_locked(void);
bool fake_frozen(void);
bool fake_has_data(const char *set_name); /* the provider has something of this set */
const char *fake_position_seen(void); /* the position file as the last trigger saw it */

/* ---- between the fakes ---- */

int fake_enter(enum fake_call c, const char *text, uint32_t a, uint32_t b); /* what the call answers */
/* The same for a call that keeps its deadline and its abort. */
int fake_enter_until(enum fake_call c, const char *text, uint32_t a, uint32_t b, uint64_t deadline_ns,
		     const _Atomic int *abort_flag);
void fake_leave(enum fake_call c);
void fake_violate(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void fake_lock_world(void);
void fake_unlock_world(void);
void fake_forget(void); /* an empty tape, no faults, nothing held */

struct fake_world {
	bool locked, unlocking, gate_closed, frozen;
	bool cut; /* the connection that locked was severed */
	uint64_t severed, gate_deadline, gate_gen;
	uint64_t lock_began; /* all that a test does inside ON_LOCK is over then */
	unsigned given_up; /* what lock tells of its tries */
	uint64_t given_up_ns;
	int prov_calls, db_calls; /* in progress */
	char data[64][33]; /* ids the provider has something of */
	char data_name[64][DOOR_NAME_MAX + 1];
	char completed[64][33]; /* ids whose poll said complete */
	unsigned n_data, n_completed, polls;
	_Atomic unsigned polls_needed; /* a test changes it while the provider is asked */
	bool apart; /* the provider is one with PROV_REMOVE_APART */
	bool hurried; /* a poll was asked to end its slice */
	char position[4096];
};
extern struct fake_world fake; /* guarded by fake_lock_world */
extern const struct door_ops fake_door_ops;

#endif
