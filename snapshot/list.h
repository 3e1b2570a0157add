/* snapshot/list.h - the listings, and what of the source's binary logs they say. Private to the engine's files. */
#ifndef STILLFS_SNAPSHOT_LIST_H
#define STILLFS_SNAPSHOT_LIST_H

#include "snapshot/engine_int.h"

/* Has the server still the binary logs from a set's own position on? NONE: the set records none. */
enum binlogs { BINLOGS_NONE, BINLOGS_YES, BINLOGS_NO, BINLOGS_UNKNOWN };

/* list.c: the control files list and list.json */
int list_show(struct engine *e, const char *set, struct vbuf *out);
int list_show_json(struct engine *e, const char *set, struct vbuf *out);

/* binlogs.c; the engine's lock held, but for binlogs_look */
void binlogs_ask(struct engine *e, bool now); /* somebody wants to know; now: what was seen is out of date */
uint64_t binlogs_due(const struct engine *e); /* when a look is due, CLOCK_BOOTTIME; UINT64_MAX: none is */
void binlogs_look(struct engine *e); /* if it is due. The engine's thread, between runs, the lock not held */
/* For each set of the catalog, by its index; freed by the caller. NULL: out of memory. n log n. */
enum binlogs *binlogs_judge(const struct engine *e);
const char *binlogs_name(enum binlogs b); /* - yes no unknown */
void binlogs_status(const struct engine *e, struct vbuf *out);

#endif
