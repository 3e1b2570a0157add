/* snapshot/catalog.h - the record of sets: one JSON file a set below state_dir/sets, written to a temporary
 * name, synced, renamed, directory synced: at any instant a file is old or new, never half.
 * Threads: in memory: guarded by the engine's lock. catalog_write: any one thread at a time a set.
 * Blocks:  load and write do file I/O, never on a backing that can be frozen. */
#ifndef STILLFS_SNAPSHOT_CATALOG_H
#define STILLFS_SNAPSHOT_CATALOG_H

#include "snapshot/set.h"

struct catalog;

/* Make state_dir/sets and the lineage when missing; read all sets. Files that are no records of ours
 * are renamed to NAME.bad and counted. */
struct catalog *catalog_open(const char *state_dir, struct snap_error *err);
struct catalog *catalog_free(struct catalog *c);
const char *catalog_lineage(const struct catalog *c);
unsigned catalog_bad(const struct catalog *c); /* files set aside at opening */
bool catalog_aside(const struct catalog *c); /* any lies aside, of this opening or an earlier one */
size_t catalog_count(const struct catalog *c);
struct set *catalog_at(const struct catalog *c, size_t i); /* by creation */
struct set *catalog_find(const struct catalog *c, const char *name); /* not those being deleted; hashed */
struct set *catalog_by_id(const struct catalog *c, const char *id); /* also those being deleted; linear */
struct set *catalog_by_seq(const struct catalog *c, uint64_t seq); /* also those being deleted; log n */
/* Put a new set in: gives it seq and id. It is the catalog's then; its name stays from now on. -ENOMEM. */
int catalog_add(struct catalog *c, struct set *s);
/* Put a set in that has an id and a lineage already: gives it seq. It is the catalog's then. -ENOMEM. */
int catalog_import(struct catalog *c, struct set *s);
/* Be of this lineage from now on, on disk, too. 32 hex digits. */
int catalog_adopt(struct catalog *c, const char *lineage, struct snap_error *err);
/* Take a set out and free it; its file is the caller's to remove first. */
void catalog_drop(struct catalog *c, struct set *s);
/* Write text as file `name` of the directory dir whole or not at all: temporary name, sync, rename, sync. -errno */
int catalog_put_file(int dir, const char *name, const char *text);
/* Write text (set_json) as set `id`'s record. */
int catalog_write(const struct catalog *c, const char *id, const char *text, struct snap_error *err);
int catalog_unlink(const struct catalog *c, const char *id, struct snap_error *err);
/* Can a record be written now? Before a snapshot begins. */
int catalog_probe(const struct catalog *c, struct snap_error *err);
int catalog_random_id(char out[33]); /* 32 hex digits from OpenSSL; -EIO */

#endif
