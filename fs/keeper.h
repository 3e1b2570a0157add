/* fs/keeper.h - the parent process: starts the daemon, shares its descriptor table, guards freezes,
 * and ends the mounts cleanly when the daemon dies. */
#ifndef STILLFS_FS_KEEPER_H
#define STILLFS_FS_KEEPER_H

#include "fs/shm.h"

struct keeper_conf {
	struct shm_head *shm; /* from keeper_shm */
	int (*daemon)(void *arg); /* runs in the daemon's process; its result is the exit code */
	void *arg;
	unsigned n;
	int backing_fds[DOOR_MAX_PAIRS];
	const char *mounts[DOOR_MAX_PAIRS + 1]; /* mountpoints, control tree first; n + 1 of them */
	int log_fd;
};

/* The shared head, zeroed. NULL: errno. */
struct shm_head *keeper_shm(void);
/* Run as the keeper until the daemon has ended and all is undone. Returns the exit code. Blocks the
 * process's signals for itself. */
int keeper_run(const struct keeper_conf *k);

#endif
