/* fs/keeper.h - the parent process: starts the daemon, shares its descriptor table, guards freezes. When the daemon
 * dies it starts another, which takes over; where that cannot be, it ends the mounts cleanly. */
#ifndef STILLFS_FS_KEEPER_H
#define STILLFS_FS_KEEPER_H

#include "fs/shm.h"

struct keeper_conf {
	struct shm_head *shm; /* from keeper_shm */
	/* runs in the daemon's process; again: an earlier one has died. Its result is the exit code */
	int (*daemon)(void *arg, bool again);
	void *arg;
	unsigned n;
	int backing_fds[DOOR_MAX_PAIRS];
	const char *mounts[DOOR_MAX_PAIRS + 1]; /* mountpoints, control tree first; n + 1 of them */
	int log_fd;
	bool heir; /* another binary's keeper was before: its daemon has ended */
	/* Map the tables (tables.h): after the keeper's memory is locked, for they are touched as used. 0 or -errno */
	int (*tables)(void *arg);
};

/* The shared head, zeroed. NULL: errno. */
struct shm_head *keeper_shm(void);
/* Run as the keeper until the daemon has ended and all is undone. Returns the exit code. Blocks the
 * process's signals for itself. */
int keeper_run(const struct keeper_conf *k);

#endif
