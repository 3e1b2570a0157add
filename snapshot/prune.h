/* snapshot/prune.h - what the engine asks of prune. See prune_int.h for the rest. */
#ifndef STILLFS_SNAPSHOT_PRUNE_H
#define STILLFS_SNAPSHOT_PRUNE_H

#include "snapshot/engine_int.h"

struct prune;

/* From engine_new, with the catalog open: the policy, whose machine this is, and what an unfinished prune has condemned
 * (those sets become SET_DELETING). File I/O. -EINVAL a wrong policy in the configuration. */
int prune_open(struct engine *e, struct snap_error *err);
void prune_free(struct prune *p); /* NULL is harmless */
/* May this set be deleted? Lock held. what: begins the sentence. force: the floor does not count.
 * -EBUSY pinned, held, being taken, the floor; -EPERM another lineage's, or this machine has not adopted the sets. */
int prune_may_delete(struct engine *e, const struct set *s, bool force, const char *what, struct snap_error *err);
bool prune_foreign(const struct engine *e); /* state_dir comes from another machine, and nobody has said adopt. Lock held */
/* Adopted, or prune_open: what an unfinished prune has condemned goes on. Lock not held; a small file. */
int prune_resume(struct engine *e, struct snap_error *err);
/* auto_prune. completed: a set is complete, so leftovers are looked for, too, and it comes again. Engine's thread, lock not held */
void prune_auto(struct engine *e, bool completed);
/* Of this stillfs on this machine: 32 hex digits, the same at each start; "": the machine has no id. Any thread. */
const char *prune_origin(const struct engine *e);
/* A set's data is gone; its record goes next. Engine's thread, lock not held. */
void prune_removed(struct engine *e, struct set *s);
void prune_dropped(struct engine *e, const char *id, const char *name); /* and now the record is gone, too */
/* Its data could not be removed. True: it cannot go now (locked, in use) and is a set again. */
bool prune_failed(struct engine *e, struct set *s, const struct snap_error *err);
void prune_status(struct engine *e, struct vbuf *out); /* lines of `status`. Lock held */

#endif
