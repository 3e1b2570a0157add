/* snapshot/child.h - syncfs in a child process: it may sleep for long, or block on a filesystem that this
 * daemon itself serves, and can be left behind. */
#ifndef STILLFS_SNAPSHOT_CHILD_H
#define STILLFS_SNAPSHOT_CHILD_H

#include "base/door.h"

/* syncfs of the mounts (mounts true: their dirty mapped pages, before the gate closes), then of the
 * backings. 0; -ETIMEDOUT; -ECANCELED; the child's errno. The child is killed when it is not waited for. */
int child_sync(const struct door *d, bool mounts, uint64_t deadline_ns, const _Atomic int *abort_flag,
	       struct snap_error *err);
void child_reap(void); /* collect children that were left behind, if they have ended */

#endif
