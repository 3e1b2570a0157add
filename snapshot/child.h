/* snapshot/child.h - what may sleep for long, or wait for a filesystem that this daemon itself serves, is done in a child
 * process, which can be left behind: a thread of ours that waited for our own answer could not be killed, and whoever
 * waits for the daemon's end would wait for ever. Threads: any. */
#ifndef STILLFS_SNAPSHOT_CHILD_H
#define STILLFS_SNAPSHOT_CHILD_H

#include "base/door.h"

/* syncfs of the mounts (mounts true: their dirty mapped pages, before the gate closes), then of the
 * backings. 0; -ETIMEDOUT; -ECANCELED; the child's errno. The child is killed when it is not waited for. */
int child_sync(const struct door *d, bool mounts, uint64_t deadline_ns, const _Atomic int *abort_flag,
	       struct snap_error *err);
/* devs[i]: the device of what paths[i] leads to or, if there is none, of its directory; 0: of neither. 0; -ETIMEDOUT; -ECANCELED;
 * the child's errno. */
int child_devs(char *const *paths, uint64_t *devs, size_t n, uint64_t deadline_ns, struct snap_error *err);
void child_reap(void); /* collect children that were left behind, if they have ended */

#endif
