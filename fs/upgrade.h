/* fs/upgrade.h - another binary goes on with the mounts: the keeper asks it whether it can (a trial that changes
 * nothing), ends the daemon, and becomes it by exec, with all descriptors and tables; its daemon takes over as after a
 * death. When that does not come up, the keeper becomes the old binary again, whose daemon takes over.
 * Threads: the keeper's loop; upgrade_render and upgrade_ask the control tree's. Errors: in shm->upgrade. */
#ifndef STILLFS_FS_UPGRADE_H
#define STILLFS_FS_UPGRADE_H

#include "fs/opts.h"
#include "fs/shm.h"
#include "fs/tables.h"

#include <sys/types.h>

#define UPGRADE_ARG "--take-over=" /* N: descriptor of the head; main() of the new binary */
#define UPGRADE_TRIAL "--trial" /* only say whether it can: the version, or why not; exit code 0 or 1 */

/* ---- the daemon's ---- */

/* Ask the keeper for it. -EBUSY: one is under way. Returns at once. */
int upgrade_ask(struct shm_head *shm);
bool upgrade_running(struct shm_head *shm);
void upgrade_render(struct shm_head *shm, struct vbuf *out); /* one line: none, running, done ..., failed ... */

/* ---- the keeper's ---- */

/* Once, at the start of the first: what a successor needs besides the tables. 0 or -errno. */
int upgrade_note(struct shm_head *shm, const struct opts *o, const struct door_pair *pairs, unsigned n,
		 int log_fd);
/* The daemon has asked: true when it is to be ended now. Blocks for some 10 ms, 5 s at the most. */
bool upgrade_wanted(struct shm_head *shm);
/* The daemon has ended: was that for an upgrade? Then this process becomes the new binary; when that fails, true: this
 * one goes on, with another daemon. */
bool upgrade_go(struct shm_head *shm);
/* Since this binary was started by an upgrade: its daemon serves, or has not come up (goes back; returns only when that
 * fails). Both do nothing at other times. */
void upgrade_done(struct shm_head *shm);
void upgrade_back(struct shm_head *shm, const char *why);
bool upgrade_overdue(struct shm_head *shm, uint64_t since_ns); /* its daemon had its time */

/* ---- the new binary's ---- */

/* Map the head behind fd and read what upgrade_note left. On success the tables can be mapped (tables_new). *n pairs
 * whose strings are in the head. -EPROTO: other tables; the sentence says which. */
int upgrade_inherit(int fd, struct shm_head **shm, struct opts *o, struct door_pair *pairs, unsigned *n,
		    struct snap_error *err);

#endif
