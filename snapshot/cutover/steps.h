/* snapshot/cutover/steps.h - a cut-over from server A to server B as a machine of steps over a table of operations. Pure: it
 * calls the table and nothing else, so it is tested with a fake that fails, lies and dies at every step.
 * What holds at every moment, whoever dies: at most one of A and B takes writes. A is fenced before B is opened, and the
 * journal says "sending" before the statement that opens B is sent. Before that any failure unfences A; from there on A
 * is not unfenced but by resolve. Whoever opens B later first waits until it has executed all that A has by then. Where B's
 * state cannot be told, both stay closed and that is what the journal says.
 * Threads: one. Blocks: as the operations do. */
#ifndef STILLFS_SNAPSHOT_CUTOVER_STEPS_H
#define STILLFS_SNAPSHOT_CUTOVER_STEPS_H

#include "base/error.h"
#include "base/vbuf.h"

#include <stdbool.h>
#include <stdint.h>

/* Where a cut-over is, by its journal. */
enum steps_at {
	AT_BEGUN, /* nothing was changed */
	AT_FENCED, /* A is fenced, or being fenced; nothing was sent to B */
	AT_UNFENCING, /* given up; A is being unfenced */
	AT_SENDING, /* the point of no return is behind: B may be open */
	AT_UNCERTAIN, /* the same, and it was found that B's state cannot be told; or a resolve did not come to its end */
	AT_OPEN, /* B is open; the hook is due */
	AT_HOOKED, /* the hook has done its work; A is to be retired */
	AT_END,
};

/* How a call ended. */
enum steps_result {
	STEPS_DONE, /* B takes the writes, the hook has run, A is retired */
	STEPS_DONE_BUT, /* B takes the writes; the hook or the retirement failed: resume tries again */
	STEPS_ABORTED, /* A takes the writes, B was not touched */
	STEPS_STUCK, /* given up before the point, and A could not be unfenced: abort tries again */
	STEPS_UNCERTAIN, /* A fenced, B not known to be open: only resolve ends it */
	STEPS_REFUSED, /* not what can be done from here; nothing was changed */
};

/* All: 0, or -errno with the sentence, and then nothing is known of the effect but by asking again. All can be called
 * again. Each ends within a time of its own. A is the server that took the writes, B the one that is to. */
struct steps_ops {
	/* A line of the journal. -ESTALE: it is not known whether it is on the disk; any other: it is not. */
	int (*note)(void *c, const char *step, const char *text, struct snap_error *err);
	int (*fence)(void *c, struct snap_error *err); /* A */
	int (*unfence)(void *c, struct snap_error *err); /* A; harmless when it is not fenced */
	int (*final)(void *c, struct vbuf *set, struct snap_error *err); /* all that A has executed */
	/* Does B lack anything of the set? -EEXIST: B has what the set has not; *behind is told then too. */
	int (*compare)(void *c, const char *set, bool *behind, struct snap_error *err);
	/* Is A fenced, asked anew, and has it executed nothing but `set` (NULL: whatever)? -EPERM: no. */
	int (*confirm)(void *c, const char *set, struct snap_error *err);
	int (*open)(void *c, struct snap_error *err); /* have B take writes */
	int (*is_open)(void *c, bool *yes, struct snap_error *err); /* does B? asked anew */
	int (*shut)(void *c, struct snap_error *err); /* have B take none, and see that it does not */
	/* Before A is opened again: has B executed anything that A has not? -EEXIST. */
	int (*extra)(void *c, struct snap_error *err);
	int (*hook)(void *c, struct snap_error *err);
	int (*retire)(void *c, struct snap_error *err); /* A: mark it, see whether it follows B */
	bool (*cancelled)(void *c); /* the operator wishes to stop: heard before the point */
	uint64_t (*now_ms)(void *c);
	void (*pause)(void *c, uint32_t ms);
};

struct steps {
	const struct steps_ops *ops;
	void *c;
	uint32_t catch_up_ms; /* how long B may take to execute what A had */
	uint32_t verify_ms; /* how long B is asked whether it is open */
	bool skip_hook; /* resume: the hook is not run (again) */
};

/* Where one is after a journal's line, when it was `at` before it. The first line is "begin". */
enum steps_at steps_after(enum steps_at at, const char *step);
const char *steps_name(enum steps_at at);

/* Go on from `at` to the end; from AT_UNFENCING: end the abort. */
enum steps_result steps_run(const struct steps *s, enum steps_at at, struct snap_error *err);
/* Before the point: unfence A. After it: STEPS_REFUSED. */
enum steps_result steps_abort(const struct steps *s, enum steps_at at, struct snap_error *err);
/* The operator decides, from AT_SENDING on. The other server must be seen closed first, or be down by the operator's word
 * (other_down). Refused when the other has executed what the one has not, unless `lose`; B is waited for first. */
enum steps_result steps_resolve(const struct steps *s, enum steps_at at, bool b, bool other_down, bool lose,
				struct snap_error *err);

#endif
