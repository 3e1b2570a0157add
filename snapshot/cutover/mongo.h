/* snapshot/cutover/mongo.h - have a named member of a MongoDB replica set become its primary. The set itself sees to it that
 * there is one primary and that no write acknowledged by a majority is lost (manual, "Replica Set Elections"); what is
 * added here: that it is *this* member, caught up, and that whoever watches is told what came of it.
 *   every other electable member is frozen (replSetFreeze), the primary steps down (replSetStepDown waits until a
 *   secondary has caught up, then refuses writes), the named member stands for election.
 * All of it expires by itself after frozen_s: a program that dies leaves nothing to undo.
 * Roles of the account, on every member: clusterManager and clusterMonitor on admin.
 * Threads: one. Blocks: network, within the bounds given. Errors: -errno with the sentence. */
#ifndef STILLFS_SNAPSHOT_CUTOVER_MONGO_H
#define STILLFS_SNAPSHOT_CUTOVER_MONGO_H

#include "base/error.h"
#include "base/vbuf.h"

#include <stdbool.h>
#include <stdint.h>

struct mongo_cut {
	const char *from, *to; /* files with the URI of the primary, and of the member that is to be it */
	uint32_t max_lag_s; /* refused when the named member is further behind */
	uint32_t catch_up_s; /* how long the primary waits for it to catch up, while writes go on */
	uint32_t elect_s; /* how long to wait for the election */
	/* A line of the journal, on disk when it returns 0. */
	int (*note)(void *c, const char *step, const char *text, struct snap_error *err);
	bool (*cancelled)(void *c); /* heard until the primary is asked to step down */
	void *c;
	char from_host[256], to_host[256]; /* filled by every call: as the set calls them */
};

enum mongo_outcome {
	MONGO_DONE, /* the named member is the primary */
	MONGO_REFUSED, /* nothing was changed */
	MONGO_STAYED, /* the old primary is the primary still */
	MONGO_OTHER, /* somebody else is */
	MONGO_NONE, /* nobody was seen to be; the set elects one */
};

/* Is this file's first line a MongoDB URI? Tells sides of the one kind from the other. */
bool mongo_cut_is_uri(const char *path);
/* Every finding as a line, "bad NAME: ...", "warn NAME: ..." or "ok NAME: ...". 0: nothing refuses; -EPERM; -errno when the set cannot be
 * asked. Changes nothing. */
int mongo_cut_check(struct mongo_cut *m, struct vbuf *findings, struct snap_error *err);
/* Check, and do it. */
enum mongo_outcome mongo_cut_run(struct mongo_cut *m, struct vbuf *findings, struct snap_error *err);
/* After a run that did not come to its end: who is the primary? Changes nothing. stay_s: for how long a step down that was
 * asked for may still come; that long an unchanged set is no answer, and elect_s longer one without a primary. */
enum mongo_outcome mongo_cut_look(struct mongo_cut *m, uint32_t stay_s, struct snap_error *err);

#endif
