/* base/statdev.h - on which filesystem a path lies, without asking that filesystem: it may be one that does not answer, or our own.
 * Threads: any. Blocks: not on the last component; names before it that lie below a mount of ours are asked of the daemon, so
 * its own threads may only come with a mountpoint, or a link of /proc. Errors: -errno. */
#ifndef STILLFS_BASE_STATDEV_H
#define STILLFS_BASE_STATDEV_H

#include <stdbool.h>
#include <stdint.h>

/* dev: as stat's st_dev. type: S_IFMT bits; NULL: not wanted. Follows symlinks. 0 or -errno. */
int statdev(const char *path, uint64_t *dev, unsigned *type);
/* Which mount: a number that none has after it, from Linux 6.8 on; before, one that may come again. */
int statdev_mount(const char *path, uint64_t *id);
/* Is anything mounted at it? False also when it cannot be told (before Linux 5.8). */
bool statdev_is_mountpoint(const char *path);

#endif
