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
	_Atomic uint64_t begun_ns[EARLY_SLOTS]; /* when writeback began that no fsync has waited for yet; 0: none */
};

/* A buffered write of `size` bytes to the file of node `node`. True: most likely nothing is written to it before its
 * next fsync, so begin writeback now. */
bool early_written(struct early *e, uint64_t node, uint32_t size);
void early_begun(struct early *e, uint64_t node, uint64_t now_ns); /* so it has */

/* An fsync of it has come. 0, or where it was expected, since when its device is at work for it: since writeback began,
 * or from now on. */
uint64_t early_synced(struct early *e, uint64_t node, uint64_t now_ns);

#endif
