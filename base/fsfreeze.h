/* base/fsfreeze.h - FIFREEZE and FITHAW of several filesystems, by two threads: the freezer sits in FIFREEZE, which cannot be
 * interrupted; the guard decides when it ends, whatever the freezer does. Who the guard is and when it thaws is its process's
 * matter: the keeper's in fs/freeze.c, that of ec2-consistent-snapshot in snapshot/classic/guard.c.
 * Threads: fsfreeze_all the freezer; the rest the guard, or where the guard lets it. A filesystem's state is one atomic word that
 *          the freezer alone moves to OURS or FAILED and the guard alone back to IDLE.
 * Blocks:  as said. Allocates nothing; touches no file but one of /sys. Somebody else's freeze (EBUSY) is never thawed. */
#ifndef STILLFS_BASE_FSFREEZE_H
#define STILLFS_BASE_FSFREEZE_H

#include <stdbool.h>
#include <stdint.h>

#define FSFREEZE_MAX 40 /* filesystems */

enum fsfreeze_state { FSFREEZE_IDLE, FSFREEZE_PENDING, FSFREEZE_OURS, FSFREEZE_FAILED };

struct fsfreeze {
	unsigned n;
	int fd[FSFREEZE_MAX]; /* a directory on each, borrowed */
	_Atomic uint32_t state[FSFREEZE_MAX]; /* enum fsfreeze_state */
	_Atomic int32_t error[FSFREEZE_MAX];
	_Atomic uint32_t busy; /* between fsfreeze_begin and the end of fsfreeze_all */
	_Atomic int hurry; /* descriptor of what makes it quick; 0: none */
};

/* The guard, before it tells the freezer to go: from now on fsfreeze_thaw waits for the freezer's end. */
void fsfreeze_begin(struct fsfreeze *z);
/* The freezer: freeze all in their order, as long as that takes the kernel; stop at the first refusal, and leave what was
 * frozen until then to the guard. */
void fsfreeze_all(struct fsfreeze *z);
bool fsfreeze_ended(const struct fsfreeze *z); /* fsfreeze_all has, and the states stay as they are */
/* When it has: 0, or the -errno of the refusal and which filesystem that was. *frozen (or NULL): bit i, it is ours. */
int fsfreeze_outcome(const struct fsfreeze *z, unsigned *which, uint64_t *frozen);
/* Returns when no FIFREEZE is pending and nothing that we froze is frozen: a FITHAW during a pending FIFREEZE fails and the freeze
 * still completes, so it is repeated until both calls have come back. True: somebody thawed one of ours before. */
bool fsfreeze_thaw(struct fsfreeze *z);
bool fsfreeze_idle(const struct fsfreeze *z); /* is nothing frozen by us, and no FIFREEZE pending? */

#endif
