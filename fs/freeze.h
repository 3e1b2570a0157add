/* fs/freeze.h - the freeze guard: FIFREEZE and FITHAW of the backings, in the keeper, which survives the
 * daemon. Whoever freezes may die and leave the filesystem frozen, and only a process that holds a
 * descriptor from before can thaw it. */
#ifndef STILLFS_FS_FREEZE_H
#define STILLFS_FS_FREEZE_H

#include "fs/shm.h"

#define FREEZE_SILENCE_MS 300u /* three heartbeats of 100 ms missed: the daemon is as good as dead */

/* Start the freezer and guard threads. fds: one descriptor of each backing, kept open by the caller
 * for good; n <= DOOR_MAX_PAIRS. Backings on one filesystem are frozen once. 0 or -errno. */
int freeze_start(struct shm_head *shm, const int *fds, unsigned n);
/* The daemon is dead: thaw now. Returns at once; freeze_idle says when it is done. */
void freeze_daemon_gone(struct shm_head *shm);
/* A new daemon is about to start, after freeze_idle: it finds nothing frozen and nothing asked for. */
void freeze_daemon_new(struct shm_head *shm);
/* Is nothing frozen by us, and no FIFREEZE pending? */
bool freeze_idle(void);

#endif
