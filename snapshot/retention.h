/* snapshot/retention.h - the retention policy and what it says of a list of sets.
 * Pure: no I/O, no clock, no globals (but for zone_load in ret_edit, when the zone changes). Any thread.
 *
 * A policy is lines `[CLASS.]KEY VALUE`:
 *   keep_last N                        the N newest complete sets (N: 1..1000000, or all)
 *   keep_hourly N ... keep_yearly N    the newest of each of the N newest hours, days, weeks (ISO, from Monday), months,
 *                                      years that hold a set, in the policy's time zone
 *   keep_within TIME                   those no older than TIME (36h, 7d, 2w, 1y)
 *   keep_tag KEY[:VALUE]               those with this tag; may come several times
 *   max_age TIME                       what no keep_* rule keeps goes only when it is older than TIME
 *   min_keep N                         the floor: the N newest complete sets of the class cannot be deleted at all
 *   failed_age TIME                    failed sets older than TIME go; without it they stay
 *   orphan_age TIME                    leftovers at the provider that no record accounts for; of all classes alike
 * and `timezone NAME`. A rule counts within each class; without a prefix for every class but `manual`.
 * Ages count from the newest complete set. A class to which no keep_* rule applies loses nothing. */
#ifndef STILLFS_SNAPSHOT_RETENTION_H
#define STILLFS_SNAPSHOT_RETENTION_H

#include "base/door.h"
#include "snapshot/zone.h"

#define RET_RULES_MAX 64u
#define RET_TAG_MAX 384u
#define RET_TEXT_MAX 8192u /* a policy's text is one write */
#define RET_ALL UINT64_MAX

enum ret_key {
	RET_LAST,
	RET_HOURLY,
	RET_DAILY,
	RET_WEEKLY,
	RET_MONTHLY,
	RET_YEARLY,
	RET_WITHIN,
	RET_TAG, /* up to here: keep_* */
	RET_MAX_AGE,
	RET_MIN_KEEP,
	RET_FAILED_AGE,
	RET_ORPHAN_AGE, /* orphans.h; says nothing of sets */
	RET_KEYS,
};

struct ret_rule {
	enum ret_key key;
	char class[DOOR_NAME_MAX + 1]; /* "": every class but manual */
	uint64_t n; /* a number or RET_ALL; seconds; 0 with RET_TAG */
	char tag[RET_TAG_MAX];
};

struct ret_policy {
	char timezone[ZONE_NAME_MAX + 1];
	unsigned n;
	struct ret_rule rule[RET_RULES_MAX]; /* by class, key, tag; no two alike */
};

/* As the caller knows a set. Borrowed. */
struct ret_set {
	const char *name, *class, *tags; /* tags: "key:value" lines */
	int64_t created; /* seconds since 1970 */
	uint64_t seq; /* decides between equal times */
	bool complete, failed; /* neither: being taken */
	bool pin, verified;
	bool held; /* the provider or a restore holds it */
};

/* Why a set is kept, beside rules. */
enum ret_why {
	RET_BY_PIN = 1,
	RET_BY_NEWEST = 2, /* the newest complete one */
	RET_BY_VERIFIED = 4, /* the newest verified one */
	RET_BY_HELD = 8,
	RET_BY_RUNNING = 16,
	RET_BY_FUTURE = 32, /* created later than now: the clock was wrong, so nothing can be said of it */
	RET_BY_NO_RULE = 64, /* no keep_* rule applies to its class */
	RET_BY_FAILED = 128, /* failed, and no failed_age says that it goes */
};

struct ret_result {
	bool keep, floor; /* floor: cannot be deleted by hand either */
	unsigned why; /* enum ret_why */
	uint64_t rules; /* bit i: rule i keeps it */
};

void ret_init(struct ret_policy *p); /* empty, UTC */
/* Apply lines to a policy, all or none: `KEY VALUE` sets (keep_tag adds), `-KEY` takes away (keep_tag: `-keep_tag TAG`
 * one of them); blank lines and `#...` are skipped; `policy` in the first line begins with an empty one. The last line
 * must end: it may be half of one. -EINVAL with the sentence. where: starts the sentence, e.g. "retention". */
int ret_edit(struct ret_policy *p, const char *where, const char *text, size_t len, struct snap_error *err);
/* Text that ret_edit makes the same policy of. */
void ret_print(const struct ret_policy *p, struct vbuf *out);
void ret_rule_print(const struct ret_rule *r, struct vbuf *out); /* one rule, no newline */
bool ret_empty(const struct ret_policy *p); /* no keep_* rule at all */
bool ret_equal(const struct ret_policy *a, const struct ret_policy *b);

/* What the policy says of n sets in any order. out: one for each. 0, -ENOMEM. n log n. */
int ret_judge(const struct ret_policy *p, const struct zone *z, const struct ret_set *sets, size_t n, int64_t now,
	      struct ret_result *out);

#endif
