/* tests/unit/snapshot/cutover_fake.h - two servers of a fake for the steps of a cut-over: at a call of its table it fails before or
 * after it has done what was asked, does nothing and says it did, a server is gone, or the program dies. After every effect
 * it fails the test when two servers are writable, or B is opened without all that A has. */
#ifndef STILLFS_TESTS_UNIT_SNAPSHOT_CUTOVER_FAKE_H
#define STILLFS_TESTS_UNIT_SNAPSHOT_CUTOVER_FAKE_H

#include "snapshot/cutover/steps.h"

/* ..._GONE: the server answers no more, from before or after this call on, until the operator acts */
enum mode { NONE, FAIL_BEFORE, FAIL_AFTER, LIE, DIE_BEFORE, DIE_AFTER, A_GONE, B_GONE, B_GONE_AFTER, MODES };
enum op { NOTE, FENCE, UNFENCE, FINAL, COMPARE, CONFIRM, OPEN, IS_OPEN, SHUT, EXTRA, HOOK, RETIRE };

struct cutover_world {
	bool a_fenced, b_open, retired;
	int a_has, b_has; /* transactions 1..n */
	unsigned hooks;
	char line[64][40]; /* the journal */
	unsigned lines;
	/* the fault */
	unsigned calls, at, at2; /* which call */
	enum mode mode, mode2;
	enum op hit; /* what was called then */
	bool dead, cancel, broken, idle, b_slow, b_gone, a_gone, lose;
	uint64_t now;
};

extern struct cutover_world w; /* the test's to set and to look at */
extern const struct steps_ops cutover_fake;

#endif
