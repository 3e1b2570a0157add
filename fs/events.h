/* fs/events.h - the event stream: JSON lines in a ring, read at absolute offsets.
 * Threads: any. Blocks: never (readers wait in ctl.c). Allocates only in events_new. */
#ifndef STILLFS_FS_EVENTS_H
#define STILLFS_FS_EVENTS_H

#include <stddef.h>
#include <stdint.h>

struct events;

struct events *events_new(size_t ring_b); /* NULL: out of memory */
/* Over shared memory (borrowed, zeroed at first), which a dead daemon may have left in any state. */
struct events *events_over(void *mem, size_t mem_b);
void events_free(struct events *e);
/* Append one line: {"seq":..,"time":..,"name":..,"type":..[,members]}. name and type are plain words.
 * members: JSON members or "". Longer than half the ring: dropped, with an event that says so. */
void events_add(struct events *e, const char *name, const char *type, const char *members);
uint64_t events_end(struct events *e); /* bytes since the start: the file's size */
/* Copy from absolute offset `off`; what the ring has lost reads as newlines. Returns bytes, 0 at the end. */
size_t events_read(struct events *e, uint64_t off, char *buf, size_t cap);

#endif
