/* tests/unit/snapshot/drive.h - drive an engine over the fakes: start it, ask for snapshots, see answers.
 * Test thread only. */
#ifndef STILLFS_TESTS_DRIVE_H
#define STILLFS_TESTS_DRIVE_H

#include "tests/unit/snapshot/fake.h"
#include "tests/unit/snapshot/unit.h"

#include <stdatomic.h>

/* Somebody who waits. Answers are counted: exactly one must come. */
struct asker {
	_Atomic unsigned answers;
	_Atomic int result;
	uint64_t id; /* for engine_cancel */
	char msg[SNAP_ERROR_MAX];
};

struct rig {
	const void *param; /* the test's initial state */
	struct fake_fixture f;
	struct engine *e;
	struct snap_error err; /* of the last call that failed at once */
};

/* cmocka fixtures: *state becomes a struct rig with its world, and no engine yet. */
int rig_setup(void **state);
int rig_teardown(void **state); /* stops the engine when the test has not */
/* A test of that name with that param. */
struct CMUnitTest rig_test(const char *name, CMUnitTestFunction fn, const void *param);
void rig_start(struct rig *r);
void rig_stop(struct rig *r); /* -> 0, and freed */
/* engine_stop while the clock stands, on which its own bound is, too: one that waits for what never comes would not fail, but
 * hang, so the clock goes on after half a minute. */
int rig_stop_at_a_standstill(struct rig *r, uint32_t max_ms);

int ask(struct rig *r, const char *text, struct asker *a); /* what engine_snapshot says at once */
int ask_wait(struct rig *r, const char *set, struct asker *a);
int answer_of(struct asker *a); /* waits for it */
void take(struct rig *r, const char *name, const char *words); /* a whole snapshot up to `complete` */
void until_state(struct rig *r, const char *set, const char *state);
/* As if the process had died while the set's record said so, and another one began. */
void die_and_restart(struct rig *r, const char *set, const char *as);
void until_idle(struct rig *r); /* no call hangs, nothing completes */
/* A file of the set, or of the root (set NULL); malloc'ed. */
char *show(struct rig *r, const char *set, const char *file);
#define assert_shows(r, set, file, part)                                                           \
	do {                                                                                       \
		char *shown_ = show(r, set, file);                                                 \
		assert_says(shown_, part);                                                         \
		free(shown_);                                                                      \
	} while (0)
int put(struct rig *r, const char *set, const char *file, const char *text); /* write to it */
void assert_nothing_held(struct rig *r); /* gate open, lock released, thawed, no position file */

#endif
