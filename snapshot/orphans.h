/* snapshot/orphans.h - orphans: what the provider has of this lineage and no record of the catalog accounts for. Leftovers of
 * sets that never became whole go by the rule orphan_age; a complete one is a set whose record was lost, and goes by its id
 * alone, said by a person. Private to the engine's files.
 * Locks: the engine's lock is held by callers, but for orphans_look, orphans_record and orphans_delete. */
#ifndef STILLFS_SNAPSHOT_ORPHANS_H
#define STILLFS_SNAPSHOT_ORPHANS_H

#include "snapshot/prune_int.h"

/* Why an orphan stays; GOES: it does not. */
enum orphan_why {
	ORPHAN_GOES,
	ORPHAN_COMPLETE,
	ORPHAN_PENDING,
	ORPHAN_UNSURE, /* nothing says that this stillfs of this machine made it */
	ORPHAN_ASIDE, /* a damaged record lies aside, and it may be of that */
	ORPHAN_UNDATED, /* no time, or one in the future */
	ORPHAN_NO_RULE,
	ORPHAN_NO_SET, /* no complete set to count its age from */
	ORPHAN_YOUNG,
};

struct orphan {
	const struct set *s; /* of the last look, valid while the lock is held */
	enum orphan_why why;
};

/* Those of the last look that the catalog does not know, judged; n_delete: those that go. 0, -ENOMEM. n log n. */
int orphans_judge(const struct engine *e, struct orphan **out, size_t *n, size_t *n_delete);
void orphans_reason(const struct engine *e, const struct orphan *o, struct vbuf *out);
/* One word or more for `status` and the plan's head: their number, `looking`, or `unknown: REASON`. */
void orphans_count(const struct engine *e, struct vbuf *out);
void orphans_metrics(const struct engine *e, struct vbuf *out); /* absent while it is not known */

bool orphans_ruled(const struct engine *e); /* the policy has an orphan_age */

/* The look at the provider, at most one a minute. */
void orphans_ask(struct engine *e, bool prune); /* somebody wants to know; prune: auto_prune goes on with what is found */
uint64_t orphans_due(const struct engine *e); /* CLOCK_BOOTTIME; UINT64_MAX: none is due */
void orphans_look(struct engine *e); /* if it is due. The engine's thread, between runs, the lock not held */

/* Those whose ids are in the journal get a place in the catalog, as sets that are being deleted. */
void orphans_condemn(struct engine *e, const char *by);
/* And then a record on disk; only with that is anything of them removed. File I/O; prune's io held, the engine's lock not. */
void orphans_record(struct engine *e);
/* `delete ID orphan`: that one, whole or not. -ENOENT, -EPERM another lineage's or machine's state_dir, -EBUSY pending. */
int orphans_delete(struct engine *e, const char *id, struct snap_error *err);

#endif
