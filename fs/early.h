/* fs/early.h - writeback that begins with the write, for files whose every write is followed by an fsync; early.c.
 * Private like core_int.h, which includes it. Threads: any lane. Blocks: never. */
#ifndef STILLFS_FS_EARLY_H
#define STILLFS_FS_EARLY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define EARLY_SLOTS 1024u

/* What is known of the files that fall on a slot: their buffered writes since the last fsync, how many there were
 * before that one, and how often in a row it was as many. A guess: what two lanes do at once may miscount it. */
struct early {
	_Atomic uint16_t slot[EARLY_SLOTS];
};

/* A buffered write of `size` bytes to the file of node `node`. True: most likely nothing is written to it before its
 * next fsync, so begin writeback now. */
bool early_written(struct early *e, uint64_t node, uint32_t size);
bool early_synced(struct early *e, uint64_t node); /* an fsync of it has come. True: when it was expected, so its writeback
						    * has begun, but where data.c saw no gain in that */

#endif
