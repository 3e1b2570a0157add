/* fs/oplog.h - operations that must not happen twice: a record of each in shared memory, from before its
 * first effect until after its reply. When the daemon dies meanwhile, the kernel sends the request again (with
 * PROTO_UNIQUE_RESEND in `unique`), and the record tells the successor how far it had come.
 * Threads: workers; one operation each. Blocks: never. */
#ifndef STILLFS_FS_OPLOG_H
#define STILLFS_FS_OPLOG_H

#include "fs/core_int.h"
#include "fs/tables.h"

struct oplog;

struct oplog *oplog_new(const struct tables *t); /* NULL: out of memory */
void oplog_free(struct oplog *o);
struct op_rec *oplog_take(struct oplog *o); /* a record for a worker thread, for its life; NULL: none left */
struct op_rec *oplog_lane(struct oplog *o, unsigned lane);
/* Around the serving of a request. begin does nothing for operations that may happen twice. */
void oplog_begin(struct oplog *o, struct op_rec *own, struct rq *r);
void oplog_end(void);

/* For handlers, of the operation that this thread serves:
 * Was its system call made before, with a known result (0 or -errno)? Then it must not be made again. */
bool oplog_known(int *result);
bool oplog_again(void); /* it may have been made before, with an unknown result */
void oplog_doing(uint64_t pre); /* it is made now. pre: see struct op_rec */
uint64_t oplog_pre(void); /* of the first attempt */
/* It was made: r is 0 or -errno. Returns r, but 0 where `ours` is the error that only an earlier attempt of this
 * very operation can have caused (nobody else changes the backing). */
int oplog_did(int r, int ours);
bool oplog_room(void); /* can one more lookup be counted? */

#endif
