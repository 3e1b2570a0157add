/* snapshot/metrics.h - what the engine counts for the control file `metrics`. Private to the engine's files.
 * Threads: any, with the engine's lock held. Never blocks, allocates nothing but the text. */
#ifndef STILLFS_SNAPSHOT_METRICS_H
#define STILLFS_SNAPSHOT_METRICS_H

#include "snapshot/set.h"

#define METRICS_BOUNDS 14u

struct histogram {
	uint64_t bucket[METRICS_BOUNDS + 1], count; /* the last bucket: above all bounds */
	double sum_s;
};

struct metrics {
	uint64_t complete, failed, given_up;
	struct histogram lock, hold, stall, given_up_s;
};

/* A set is complete or has failed. Failed ones count for the times they had. */
void metrics_set(struct metrics *m, const struct set *s);

#endif
