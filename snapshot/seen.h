/* snapshot/seen.h - what the engine's last looks have found, for the listings: parts of struct engine, under its lock. */
#ifndef STILLFS_SNAPSHOT_SEEN_H
#define STILLFS_SNAPSHOT_SEEN_H

#include "base/error.h"
#include "base/vbuf.h"

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct haul; /* list.h */

/* binlogs.c: which binary logs the server has */
struct seen_logs {
	bool asked;
	uint64_t looked_ns, seen_ns; /* CLOCK_BOOTTIME; looked_ns 0: look now */
	struct timespec when;
	struct vbuf text; /* the coordinator's lines */
	struct snap_error error; /* of the last look */
};

/* stock.c: which sets the provider has */
struct seen_sets {
	bool asked, running;
	uint64_t looked_ns; /* CLOCK_BOOTTIME, 0: never */
	struct timespec when;
	struct haul *all; /* NULL: not known */
	struct snap_error error;
};

/* orphans.c: what the provider has of this lineage */
struct seen_orphans {
	bool asked, then_prune;
	uint64_t looked_ns; /* CLOCK_BOOTTIME, 0: never */
	struct haul *all; /* NULL: not known */
	struct snap_error error;
};

/* holds.c: what keeps sets of the plan from being removed */
struct seen_holds {
	bool asked;
	uint64_t not_before_ns; /* CLOCK_BOOTTIME: a look that failed is not repeated at once */
	struct snap_error error;
};

#endif
