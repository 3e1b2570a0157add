/* fs/tables.h - the tables that outlive a daemon: made and mapped by the keeper before the first one, so that
 * each successor, a child of the keeper, has them at the same place.
 * The slots are the truth. Every change is an order of stores after which a reader that finds the writer
 * dead, between any two of them, knows what to do (recover.c); where one store is not enough there is a
 * journal of one entry.
 * Threads: as node.h and oplog.h say. Only lock-free atomics and plain words; no pointers. */
#ifndef STILLFS_FS_TABLES_H
#define STILLFS_FS_TABLES_H

#include "base/conf.h"
#include "fs/node.h"
#include "fs/shm.h"

#define TABLES_NODES (16u << 20) /* sparse: touched as used */
#define TABLES_FILES (1u << 20)
#define TABLES_HASH (1u << 22) /* chains; sparse */
#define TABLES_FDS (1u << 20) /* descriptors; the daemon's limit (main.c) */
#define REC_REFS 1000u /* entries that one READDIRPLUS may count */
#define REC_LANES SHM_MAX_LANES /* the first records: one for each lane, for FORGET */
#define REC_COUNT 512u
#define REC_NONE UINT32_MAX

enum rec_stage {
	REC_NEW, /* nothing was done on the backing */
	REC_DOING, /* the system call may have been made */
	REC_DID, /* it was, with `result` */
};

/* One operation that must not happen twice, from before its first effect until after its reply; or a lane's
 * FORGET. A dead daemon's record is its successor's business. */
struct op_rec {
	_Atomic uint64_t unique; /* of the request; 0: free. Stored last, cleared first */
	uint32_t opcode, pair;
	int32_t dev_fd; /* that the request was read from */
	/* left by a dead daemon, its tables' part undone; until the kernel sends the request again. 0: not */
	_Atomic uint64_t orphan_ns;
	_Atomic uint32_t stage; /* enum rec_stage */
	_Atomic int32_t result; /* 0 or -errno */
	uint64_t pre; /* before: RENAME: the source's inode number; SETXATTR, REMOVEXATTR: 1: it existed */
	_Atomic uint32_t file; /* slot of the open file that it made */
	_Atomic uint32_t n_refs; /* lookups it has counted; of a lane: entries of the FORGET that are applied */
	_Atomic uint32_t slot; /* of a lane: request slot that is being read into, + 1 */
	uint32_t split; /* of a lane: so much of the request lies in the slot, the rest in the lane's landing */
	uint32_t refs[REC_REFS]; /* slots of nodes */
};

/* The journal: one change of a lookup count at a time, under the node table's lock. While `valid`, it is to be
 * (re)done, which may happen any number of times. */
struct node_journal {
	_Atomic uint32_t n_used, f_used; /* slots below were used before */
	_Atomic uint32_t fd_used; /* and of fd_node */
	_Atomic uint32_t valid;
	uint32_t slot;
	uint64_t nlookup; /* the new count */
	uint64_t nodes_then, lookups_then; /* and the totals */
	uint32_t rec, count; /* this record's n_refs becomes count; REC_NONE: no record */
	bool ref; /* and its last entry is slot */
	uint64_t n_nodes, n_lookups; /* totals over the slots in use */
	/* The slot that is on its way between free list and hash; 0: none. Where it belongs says its lookup count, and
	 * no other slot's place is in doubt: so a successor looks at this one alone. */
	_Atomic uint32_t moving;
	_Atomic uint32_t free_head;
	uint32_t epoch; /* grows with each daemon */
};

struct tables {
	struct shm_head *head;
	struct node *node;
	struct ofile *file;
	struct node_journal *journal;
	/* For each descriptor number the slot of the node that has it, stored before node.fd: it counts only where that
	 * says so too. So what nodes have open is found without a walk over all that are known. */
	_Atomic uint32_t *fd_node; /* TABLES_FDS */
	_Atomic uint32_t *hash; /* TABLES_HASH: the first slot of each chain, 0: none */
	struct op_rec *rec; /* REC_COUNT */
	unsigned char *pool; /* request slots (pool.c): a FORGET is lost to the kernel once it is read */
	size_t pool_b;
	size_t landing; /* in it: those of the lanes */
	void *events; /* events.c */
	size_t events_b;
	struct ctl_shared *ctl; /* ctl_handle.c */
};

/* Nodes, files and journal only. 0 or -ENOMEM. */
int tables_nodes(struct tables *t);
/* All of them, pool and control tree's too. Called by the keeper, once. */
int tables_new(struct tables *t, struct shm_head *head, const struct conf *conf);
void tables_free_nodes(struct tables *t);
/* Change a lookup count, and a record's count with it (rec NULL: none; ref: its last entry becomes slot): both
 * happen or none. When the count becomes 0 the slot is free and found no more, its descriptor the caller's. One at
 * a time, as all that follows. */
void tables_set_lookups(const struct tables *t, uint32_t slot, uint64_t nlookup, struct op_rec *rec,
			uint32_t count, bool ref);
void tables_redo(const struct tables *t); /* what a dead daemon had begun of all this */
/* A slot nobody uses, 0: none. It is on its way: to be filled, hashed by tables_hash, and counted by
 * tables_set_lookups before anything else is done here. */
uint32_t tables_take(const struct tables *t);
void tables_hash(const struct tables *t, uint32_t slot); /* by its dev and ino */
uint32_t tables_first(const struct tables *t, uint64_t dev, uint64_t ino); /* of the chain; next is node.next */
uint32_t tables_holder(const struct tables *t, uint32_t fd); /* the slot in use that has this descriptor, 0: none */
/* Every slot is in the one list or chain where it belongs, and the totals are theirs. Walks over all: for tests. */
bool tables_whole(const struct tables *t);
size_t pool_size_b(const struct conf *conf); /* pool.c: how much memory its slots take */
size_t pool_landing(const struct conf *conf, unsigned lane); /* where a lane's landing is in it */
/* Made when *fd is 0, else what an earlier binary has made is mapped; fd NULL: nobody else maps it. NULL: errno */
void *tables_map(const char *name, size_t size, int32_t *fd);

#endif
