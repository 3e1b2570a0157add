/* snapshot/ebs/wipe.h - memory for libraries that see keys and tokens and do not wipe what they free: libcurl's buffers and
 * headers, libxml2's input. Threads: any. Blocks: no. */
#ifndef STILLFS_SNAPSHOT_EBS_WIPE_H
#define STILLFS_SNAPSHOT_EBS_WIPE_H

#include <stddef.h>

void wipe_free(void *p);
void *wipe_realloc(void *p, size_t n); /* never in place: what it leaves behind is wiped. NULL: out of memory, p stays */

#endif
