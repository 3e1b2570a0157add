/* snapshot/fence/keep.h - the engine's fence: what the control file `fence` asks for, kept over restarts of stillfs and of
 * the server, and looked after each second while it is up. It never expires.
 * Threads: one lock of its own. Blocks: fence_keep_work, on the engine's thread, as long as the database takes, within
 *          bounds; fence_keep_load reads a small file. The others never. */
#ifndef STILLFS_SNAPSHOT_FENCE_KEEP_H
#define STILLFS_SNAPSHOT_FENCE_KEEP_H

#include "base/door.h"

struct fence_keep;

struct fence_keep *fence_keep_open(struct engine *e, struct snap_error *err); /* NULL with *err */
void fence_keep_free(struct fence_keep *k); /* harmless on NULL */
int fence_keep_sealed(const struct conf *c, struct snap_error *err); /* engine_sealed, base/door.h */
/* The journal of an earlier process; before the engine's thread begins. -EIO, -EINVAL: it cannot be read. */
int fence_keep_load(struct fence_keep *k, struct snap_error *err);
uint64_t fence_keep_due_ns(struct fence_keep *k); /* when fence_keep_work has something to do; UINT64_MAX: nothing */
void fence_keep_work(struct fence_keep *k); /* engine's thread, no snapshot before its point */
/* stillfs stops: what is going on ends soon, half done; the next process goes on with it. */
void fence_keep_stop(struct fence_keep *k);

/* The control file. A write is taken or refused at once; what it asked for is done when a read says so. */
int fence_keep_show(struct engine *e, const char *set, struct vbuf *out);
int fence_keep_write(struct engine *e, const char *set, const char *text, size_t len, struct snap_error *err);
const char *fence_keep_state(struct fence_keep *k); /* a literal, for status */

#endif
