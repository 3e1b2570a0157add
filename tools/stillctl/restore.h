/* tools/stillctl/restore.h - what the files of `stillctl restore` share: restore_set.c (find the set and hold it),
 * cmd_restore_local.c (--to), restore_place.c (--in-place), restore_advice.c (what to do next). See ctl.h. */
#ifndef STILLFS_TOOLS_RESTORE_H
#define STILLFS_TOOLS_RESTORE_H

#include <limits.h>

#include "base/door.h"

/* One pair's clone. */
struct restore_part {
	char *mountpoint; /* that it was taken of */
	char name[NAME_MAX + 1]; /* in the set's data: "1-redo"; "" when it is data itself, of a set of one pair */
	char *path; /* of the clone */
	char *place; /* the local_dir that it lies in, without links */
	int src, hold; /* descriptors of the clone and of its set's directory, which is locked shared: no removal meanwhile */
};

struct restore {
	const char *name;
	char id[33];
	char *dir; /* of the set, in the first pair's local_dir: its manifest is there */
	int hold; /* descriptor of it, locked */
	unsigned n;
	struct restore_part part[DOOR_MAX_PAIRS];
};

/* Open and hold a set's data. Says why not, and returns 1; restore_release in any case. */
int restore_find(const char *name, struct restore *r);
void restore_release(struct restore *r);
/* The mountpoints in the lines of `status` or of a set's `server`, malloc'ed; how many. */
unsigned restore_mountpoints(const char *lines, char *out[DOOR_MAX_PAIRS]);
/* Is everything of it still there? Else says what is not, and returns 1. */
int restore_is_there(const struct restore *r);
/* Into the live mount, with the database down. Says why not. */
int restore_in_place(const struct restore *r);
/* What to do before a server starts on it, and how to make it a replica. to: where it is; NULL: in place. */
void restore_advice(const struct restore *r, const char *to);

#endif
