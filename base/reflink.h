/* base/reflink.h - a tree of files copied by reflink, with owners, modes, times, extended attributes, hard links
 * and symbolic links. For restore (tools/) and for the clone of a clone that is verified (snapshot/).
 * Threads: any, no globals. Blocks: file I/O. Never follows a symbolic link below the roots, never leaves the
 * source's filesystem. Errors: -errno with the operator's sentence. */
#ifndef STILLFS_BASE_REFLINK_H
#define STILLFS_BASE_REFLINK_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct reflink {
	bool copy; /* allow byte copies where the filesystem cannot share blocks; holes are kept */
	/* asked before each file and, when copying, each 64 MiB; true: stop with -ECANCELED. May be NULL */
	bool (*stop)(void *arg, const struct reflink *r);
	void *arg;
	/* so far; sockets and device nodes are left out */
	size_t files;
	uint64_t bytes;
};

/* Everything below directory src into the empty directory dst, whose own attributes become src's at the end.
 * what: the source's name for messages. -EXDEV, -EOPNOTSUPP: blocks cannot be shared and copy is false. */
int reflink_tree(int src, int dst, const char *what, struct reflink *r, struct snap_error *err);
/* rm -rf of name below dirfd, on one filesystem; 0 when it is not there. */
int reflink_remove(int dirfd, const char *name, struct snap_error *err);

#endif
