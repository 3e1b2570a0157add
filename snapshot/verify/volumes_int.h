/* snapshot/verify/volumes_int.h - what volumes.c and left.c share. Private to the process that verifies one set. */
#ifndef STILLFS_SNAPSHOT_VERIFY_VOLUMES_INT_H
#define STILLFS_SNAPSHOT_VERIFY_VOLUMES_INT_H

#include "snapshot/ebs_tool/tool.h"
#include "snapshot/verify/verify_int.h"

#define LEFT_SURE_S 60 /* what a request without an answer made is described by then */

/* The journal of s, locked. -EBUSY: another process works on it. */
int left_open(const struct vspec *s, int *fd, struct snap_error *err);
int left_begin(int fd, const char *mark, const char *region, struct snap_error *err);
/* Remove everything the journal tells of, then the journal; 0: nothing is left. -EAGAIN: something is, or may be; *err names
 * it; to be called again later. after_death: steps may have been made that nobody has undone. */
int left_sweep(const struct vspec *s, struct tool *t, int fd, bool after_death, struct snap_error *err);

#endif
