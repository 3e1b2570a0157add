/* snapshot/local/tree.h - walking, removing and describing directory trees for the local provider.
 * Never follows a symlink, never leaves a filesystem. Blocks: file I/O. Errors: -errno with the sentence. */
#ifndef STILLFS_SNAPSHOT_TREE_H
#define STILLFS_SNAPSHOT_TREE_H

#include "base/door.h"

#include <sys/stat.h>

#define TREE_DEPTH 64

/* One thing in a tree. */
struct tree_entry {
	char *rel; /* path below the root, "" for the root itself */
	struct stat st;
	size_t link_to; /* regular files: index of the first name of the same file, or SIZE_MAX */
};

struct tree {
	struct tree_entry *v;
	size_t n, cap;
	uint64_t bytes; /* of regular files, each counted once */
	size_t files;
};

void tree_free(struct tree *t);
/* All below rootfd, parents before children, the root first. what: for messages. -EXDEV: a filesystem is
 * mounted inside; -ELOOP: deeper than TREE_DEPTH. `stop` may be NULL: asked now and then. */
int tree_read(int rootfd, const char *what, struct tree *t, bool (*stop)(const void *arg), const void *stop_arg,
	      struct snap_error *err);
/* rm -rf of name below dirfd; 0 when it is not there. */
int tree_remove(int dirfd, const char *name, struct snap_error *err);

#endif
