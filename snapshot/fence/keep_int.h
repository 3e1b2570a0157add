/* snapshot/fence/keep_int.h - shared by keep.c (life, journal), keep_work.c and keep_hard.c (what is done), and
 * keep_file.c (what is asked for).
 * Private to them. What lies under k->lock is anybody's; the rest says whose it is. */
#ifndef STILLFS_SNAPSHOT_FENCE_KEEP_INT_H
#define STILLFS_SNAPSHOT_FENCE_KEEP_INT_H

#include "base/clock.h"
#include "snapshot/engine_int.h"
#include "snapshot/fence/keep.h"
#include "snapshot/fence/side.h"

enum todo { DO_NOTHING, DO_CHECK, DO_ON, DO_RETIRE, DO_OFF, DO_HARD };
enum stand { IS_OFF, IS_TURNING_ON, IS_ON, IS_UNREACHABLE, IS_LOST, IS_HALF, IS_TURNING_OFF, IS_HARD };

struct fence_keep {
	struct engine *e;
	const struct fence_side *side; /* NULL: there is nothing that can be fenced */
	void *self;
	_Atomic int stop; /* errno: stillfs stops */
	struct vbuf record; /* of the fence; the database thread's own; while hard, which has no work for it, the engine's */
	uint64_t told_ns; /* hard: no report of refused operations before; the engine's thread's own */
	pthread_mutex_t lock;
	/* under lock: */
	enum todo asked;
	enum stand stand;
	bool want, retired, busy, hard; /* hard: the backings are sealed */
	bool retiring; /* for the journal, which says so before anybody else is told */
	uint64_t due_ns;
	char since[CLOCK_ISO_MAX], verified[CLOCK_ISO_MAX];
	struct snap_error last; /* of the last work that failed; code 0: none */
	struct vbuf sessions, notes, found; /* lines */
	unsigned n_ended, renewed;
	long long refused, denied, refused_at, denied_at; /* since the fence is up, and the server's count at the last look */
};

/* ---- keep.c ---- */
const char *fence_keep_stand_name(enum stand s);
/* The journal, with this record of the fence: on disk when it returns 0. Takes k->lock. */
int fence_keep_save(struct fence_keep *k, const char *record, struct snap_error *err);
/* Cut the journal off before its first line of an ended session; those go to *sessions (may be NULL). How many. Earlier releases
 * wrote there what clients called themselves, newlines and all: no line behind it is believed but as one of a session. */
size_t fence_keep_head(struct vbuf *text, struct vbuf *sessions);

/* ---- keep_work.c ---- */
void fence_keep_tell(struct fence_keep *k, const char *what, const struct snap_error *why); /* an event */
/* It did not work: shown, reported and told, once for each state and error. */
void fence_keep_failed(struct fence_keep *k, enum stand s, const char *event, const struct snap_error *why);
void fence_keep_is_off(struct fence_keep *k);
void fence_keep_retire(struct fence_keep *k);
void fence_keep_again(struct fence_keep *k); /* done for now: when is the next work due? */

/* ---- keep_hard.c; the engine's thread ---- */
bool fence_hard_work(struct fence_keep *k); /* false: it is none of `on hard` */

#endif
