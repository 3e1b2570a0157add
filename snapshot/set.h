/* snapshot/set.h - one snapshot set: its record, its JSON form, its names.
 * Owned by the catalog; guarded by the engine's lock. No I/O. */
#ifndef STILLFS_SNAPSHOT_SET_H
#define STILLFS_SNAPSHOT_SET_H

#include "base/door.h"

enum set_state {
	SET_RUNNING, /* before the consistency point is fixed */
	SET_PENDING, /* the point is fixed, volumes are being completed */
	SET_COMPLETE,
	SET_FAILED,
	SET_DELETING, /* gone from the tree, its data being removed */
};

/* What verify found (docs/control-files.md). */
enum set_verified {
	VERIFIED_NO, /* never tried */
	VERIFIED_YES, /* a server recovered it and all its tables are good */
	VERIFIED_FILES, /* its files are as recorded; it has no server that could be started */
	VERIFIED_FAILED,
};

struct set {
	char name[DOOR_NAME_MAX + 1];
	char id[33]; /* 32 hex digits */
	char class[DOOR_NAME_MAX + 1];
	char lineage[33];
	struct set *same_hash; /* catalog.c's */
	uint64_t seq; /* order of creation and inode number, >= 1 */
	enum set_state state;
	struct timespec created, ended;
	bool pin, pin_due; /* due: the provider has to be told (not recorded) */
	bool orphan; /* it had no record before its data was condemned; SET_DELETING */
	bool leftover; /* failed, and the provider may still have something of it */
	bool doubt; /* failed, and it may be complete elsewhere: nothing of it is removed by itself */
	unsigned progress; /* percent */
	unsigned volumes;
	uint64_t size_b;
	double lock_ms, hold_ms, drain_ms, presync_ms; /* < 0: did not happen */
	unsigned given_up; /* tries for the lock that made others wait and were given up */
	double given_up_ms; /* the longest of them; < 0: none */
	char provider[16], db[16];
	char *description; /* these: malloc'ed, never NULL */
	char *tags; /* "key:value" lines */
	char *position; /* "key value" lines */
	char *layout; /* how to start its server: "mountpoint PATH" lines, and the coordinator's */
	enum set_verified verified;
	struct timespec verified_at;
	char *verified_note; /* why not, or what was seen */
	bool verifying; /* or waiting for it; in memory only */
	char *error; /* the failure's sentence, "" */
	char *detail; /* what completion is at */
	int error_code; /* 0 or -errno */
	struct vbuf log; /* a line per step */
	/* not recorded: */
	const char *gone_by; /* who deleted it, a literal */
	enum set_state gone_from; /* what a set that is being deleted was before */
	char *held; /* why its data could not be removed, NULL */
	char origin[33]; /* as the provider's records tell: prune_origin of whoever made it; "": they do not */
	uint64_t held_ns; /* until when that is believed, CLOCK_BOOTTIME */
	bool held_told; /* the provider told so when it was asked (holds.c); false: a removal has failed */
	uint64_t asked_ns; /* when it was asked last, CLOCK_BOOTTIME; 0: never */
	unsigned tries; /* to remove it */
	/* of engine_clean.c: when its data is removed (CLOCK_BOOTTIME), and the pause after a failure */
	uint64_t clean_ns, sure_ns; /* sure: from then on nothing of it shows up any more; 0: not set */
	uint32_t clean_pause_s;
};

struct set *set_new(void); /* NULL: out of memory */
void set_free(struct set *s);
int set_text(char **field, const char *text); /* replace; 0 or -ENOMEM */
bool set_is_verified(const struct set *s);
const char *set_state_name(enum set_state s);
const char *set_verified_name(enum set_verified v); /* no yes files failed */
bool set_name_ok(const char *name); /* [A-Za-z0-9][A-Za-z0-9._-]{0,63} */
/* One JSON object, no newline. */
void set_json(const struct set *s, struct vbuf *out);
/* From a catalog file's text. -EINVAL: not a record of ours; -ENOMEM. */
int set_from_json(const char *text, struct set **out);

#endif
