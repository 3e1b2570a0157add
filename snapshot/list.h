/* snapshot/list.h - the listings, and what of the source's binary logs they say. Private to the engine's files. */
#ifndef STILLFS_SNAPSHOT_LIST_H
#define STILLFS_SNAPSHOT_LIST_H

#include "snapshot/engine_int.h"

/* Has the server still the binary logs from a set's own position on? NONE: the set records none. */
enum binlogs { BINLOGS_NONE, BINLOGS_YES, BINLOGS_NO, BINLOGS_UNKNOWN };

/* list.c: the control files list and list.json */
int list_show(struct engine *e, const char *set, struct vbuf *out);
int list_show_json(struct engine *e, const char *set, struct vbuf *out);

/* haul.c: what the provider has, collected on its thread */
struct haul {
	char lineage[33], name[DOOR_NAME_MAX + 1];
	struct set **v;
	size_t n, cap;
};
/* As prov_ops.scan; what: begins the sentence. The engine's thread, the lock not held. NULL with *err. */
struct haul *haul_in(struct engine *e, const char *lineage, const char *name, uint32_t max_ms, const char *what, struct snap_error *err);
void haul_free(struct haul *h);
/* The first of that id, the caller's now. NULL: none, or no h. */
struct set *haul_take(struct haul *h, const char *id);
void haul_forget(struct haul *h, const char *id); /* its data is gone */

/* stock.c: list.all, list.all.json, and the looks at the provider that they need; the engine's lock held, but for stock_look */
int stock_show(struct engine *e, const char *set, struct vbuf *out);
int stock_show_json(struct engine *e, const char *set, struct vbuf *out);
uint64_t stock_due(const struct engine *e); /* when a look is due, CLOCK_BOOTTIME; UINT64_MAX: none is */
void stock_look(struct engine *e); /* if it is due. The engine's thread, between runs */
void stock_status(const struct engine *e, struct vbuf *out);
void list_age(struct timespec created, char buf[32]); /* as the column AGE, SIZE, POSITION */
void list_size(uint64_t b, char buf[16]);
void list_position(const char *position, char *buf, size_t cap);

/* binlogs.c; the engine's lock held, but for binlogs_look */
void binlogs_ask(struct engine *e, bool now); /* somebody wants to know; now: what was seen is out of date */
uint64_t binlogs_due(const struct engine *e); /* when a look is due, CLOCK_BOOTTIME; UINT64_MAX: none is */
void binlogs_look(struct engine *e); /* if it is due. The engine's thread, between runs, the lock not held */
/* For each set of the catalog, by its index; freed by the caller. NULL: out of memory. n log n. */
enum binlogs *binlogs_judge(const struct engine *e);
const char *binlogs_name(enum binlogs b); /* - yes no unknown */
void binlogs_status(const struct engine *e, struct vbuf *out);

#endif
