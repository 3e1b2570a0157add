/* fs/guard.h - locks on the backing's own files, so that a second server on the bare BACKING does not get its own.
 * Locks that the mount's users take stay in the kernel, on the mount's inodes: whoever opens the backing beside the
 * mount would not meet them. So each file that is open for writing through the mount is locked shared in the
 * backing: by flock, and by an open file description lock where it can be read too. They go with the descriptor. */
#ifndef STILLFS_FS_GUARD_H
#define STILLFS_FS_GUARD_H

/* fd: of the backing, opened with these open(2) flags. Nothing for read-only ones.
 * 0; -EBUSY: somebody holds a lock on it in the backing. A filesystem without locks gives 0.
 * Never waits for a lock. */
int guard_take(int fd, int flags);

#endif
