/* tools/stillctl/restore.h - what the files of `stillctl restore` share: cmd_restore_local.c (find the set, --to),
 * restore_place.c (--in-place), restore_advice.c (what to do next). See ctl.h. */
#ifndef STILLFS_TOOLS_RESTORE_H
#define STILLFS_TOOLS_RESTORE_H

#include <limits.h>

struct restore {
	const char *name;
	char data[PATH_MAX]; /* its clone */
	char dir[PATH_MAX]; /* of the set */
	int src, hold; /* descriptors of both; hold is locked shared: it cannot be removed meanwhile */
};

/* Open a set's data. Says why not, and returns 1. */
int restore_find(const char *name, struct restore *r);
/* Into the live mount, with the database down. Says why not. */
int restore_in_place(const struct restore *r);
/* What to do before a server starts on it, and how to make it a replica. to: where it is; NULL: in place. */
void restore_advice(const struct restore *r, const char *to);

#endif
