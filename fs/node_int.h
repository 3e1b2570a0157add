/* fs/node_int.h - what the files of the node table share. Private to node.c, ofile.c. */
#ifndef STILLFS_FS_NODE_INT_H
#define STILLFS_FS_NODE_INT_H

#include "fs/node.h"
#include "fs/tables.h"

#include <pthread.h>

#define MAX_PAIRS 8

struct nodes {
	struct node *node; /* shared: TABLES_NODES slots */
	struct ofile *file; /* shared: TABLES_FILES slots */
	struct node_journal *journal; /* shared */
	struct tables tab;
	bool own; /* mapped by itself */
	uint32_t *f_next; /* private: free open files */
	pthread_mutex_t lock;
	uint32_t f_free;
	uint32_t hand; /* of the eviction clock: a descriptor's number */
	size_t fd_bound, n_fds; /* cached descriptors that could be closed */
	uint64_t n_files, kept;
	bool sealed; /* under lock */
	int root_fd[MAX_PAIRS];
	bool handles[MAX_PAIRS];
};

void node_counts_of(const struct nodes *t, struct node *n); /* its counts are this daemon's. Lock held */

extern _Thread_local struct op_rec *node_mine; /* the operation that this thread works for */

#endif
