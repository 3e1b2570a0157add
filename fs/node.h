/* fs/node.h - what the kernel knows of us: nodes (looked-up files) and open files, as slots of a
 * memfd mapping. Ids are indices, never pointers, so that they outlive the daemon's memory.
 * The slots are the truth; hash and free list lie beside them (tables.h), so that a successor need not walk over
 * all that is known.
 *
 * A node is found by a file handle (name_to_handle_at), so that a million looked-up files do not need a
 * million descriptors; the O_PATH descriptor of a node is a cache of bounded size. Where the
 * filesystem has no handles, or the file may be unlinked, the descriptor is kept.
 * Threads: all calls from any thread. Blocks: node_get_fd may open; nothing else does I/O. */
#ifndef STILLFS_FS_NODE_H
#define STILLFS_FS_NODE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#define NODE_HANDLE_MAX 40
#define NODE_ROOT_ID 1u /* FUSE_ROOT_ID; slot 1 + pair */
#define NODE_CTL_ID 15u /* the .stillfs symlink of every root */
#define NODE_FIRST 16u

enum node_flag {
	NODE_KEEP_FD = 1, /* no handle: the descriptor is all we have */
	NODE_UNLINKED = 2, /* no name left: the descriptor keeps it alive */
	NODE_SUID = 4, /* has set-id bits: writes by others clear them */
};

struct node {
	_Atomic uint64_t nlookup; /* 0: slot is free */
	uint64_t ino, dev;
	_Atomic uint64_t generation; /* of the slot, for the kernel */
	_Atomic uint32_t flags; /* enum node_flag */
	_Atomic int32_t fd; /* O_PATH, or -1 */
	_Atomic uint32_t next; /* in the chain of its hash, or in the free list */
	/* The daemon that the counts marked * are of: those of an earlier one mean 0. Under the table's lock */
	_Atomic uint32_t epoch;
	uint32_t pins; /* * users of fd; under the table's lock */
	uint32_t type; /* S_IFMT bits */
	uint8_t pair, h_len, recent;
	int32_t h_type;
	unsigned char handle[NODE_HANDLE_MAX];
	uint32_t writers; /* * open files that can write; under the table's lock */
	_Atomic uint32_t unsettled; /* * the same, until the backing's descriptor is closed: its blocks may change */
	_Atomic uint64_t writes; /* grows with each write */
	uint64_t cached_at; /* `writes` at the last cached open */
	bool cached_once;
};

/* One open file or directory. FUSE's fh is its index, below the generation: a RELEASE that the kernel sends
 * again after a take-over must not meet the slot's next owner. */
struct ofile {
	_Atomic uint32_t node; /* 0: slot is free; stored last */
	_Atomic uint32_t gen; /* grows before each use of the slot */
	_Atomic bool closing; /* released: its descriptors are the closer's */
	_Atomic int32_t fd_buf, fd_dir; /* buffered and O_DIRECT descriptors, -1: not opened (yet) */
	/* Written by the thread that opens, read by those that serve it: the kernel lies between, which learns fh from the
	 * former's answer. Atomic so that the order shows in the program too. */
	_Atomic uint32_t flags; /* of the open, without O_TRUNC O_CREAT O_EXCL */
	_Atomic bool writable;
	uint32_t next; /* free list, closer's list */
	_Atomic int64_t dir_off; /* directories: where fd_buf stands; the kernel serialises readers */
};

struct nodes;
struct tables;
struct op_rec;

struct nodes *nodes_new(size_t fd_bound); /* over tables of its own. NULL: no memory; errno */
/* Over these tables (borrowed), with whatever a dead daemon left in them. Counts what may have to be repaired as
 * it is: recover.c comes before. */
struct nodes *nodes_over(const struct tables *tables, size_t fd_bound);
/* What this thread's node_ref and ofile_new make is the doing of this operation. NULL: of none. */
void node_record(struct op_rec *rec);
void nodes_free(struct nodes *t);
/* The root of pair `p`: fd is the O_RDONLY descriptor of the backing (borrowed, also used for
 * open_by_handle_at). Once per pair, before serving. 0 or -errno. */
int nodes_add_root(struct nodes *t, unsigned p, int fd);
struct node *node_at(struct nodes *t, uint64_t slot); /* NULL: no such slot in use */
uint64_t node_slot(unsigned pair, uint64_t nodeid); /* FUSE id -> slot */
/* One lookup more of the file behind fd (O_PATH, taken over in any case). Fills *st and *slot.
 * 0; -ENFILE table full; -errno of fstat. */
int node_ref(struct nodes *t, unsigned pair, int fd, struct stat *st, uint64_t *slot);
/* n lookups fewer. A descriptor to close, or -1: the caller hands it to the closer. */
int node_forget(struct nodes *t, uint64_t slot, uint64_t n);
/* The last lookup that this thread's operation has counted, which nobody will hear of: it goes from the record, too. */
int node_unref(struct nodes *t, uint64_t slot);
/* n lookups fewer, as entry `count` (from 1) of a FORGET message under record `rec`. */
int node_forget_msg(struct nodes *t, uint64_t slot, uint64_t n, struct op_rec *rec, uint32_t count);
/* A descriptor of the node, to be given back by node_put_fd. >= 0 or -errno. */
int node_get_fd(struct nodes *t, uint64_t slot);
void node_put_fd(struct nodes *t, uint64_t slot);
/* The file behind fd (O_PATH, taken over) has lost its last name, or is about to: keep it reachable while the
 * kernel knows it. Returns a descriptor for the closer, or -1. */
int node_unlinked(struct nodes *t, unsigned pair, int fd);
/* It has not lost it after all. fd: O_PATH of it, or the node's own; borrowed. */
void node_linked(struct nodes *t, unsigned pair, int fd);
/* A descriptor that the bound wants closed, or -1. */
int node_evict(struct nodes *t);
/* Account an open. Returns the FOPEN_ cache decision: 0 direct, 1 cached, 2 cached and still valid. */
int node_opened(struct nodes *t, uint64_t slot, bool writable, bool want_cached);
void node_closed(struct nodes *t, uint64_t slot, bool writable);
bool node_unsettled(struct nodes *t, const struct node *n); /* somebody may be changing its blocks */
void node_counts(struct nodes *t, uint64_t *nodes, uint64_t *fds, uint64_t *lookups, uint64_t *files);
bool nodes_handles(struct nodes *t, unsigned pair);

/* Open files. */
int64_t ofile_new(struct nodes *t, uint64_t node, bool writable); /* fh, -ENFILE; -EROFS when sealed */
/* Sealed: no file can be opened for writing. Only while no regular file is open at all: how many are, 0: done. At one instant. */
uint64_t nodes_seal(struct nodes *t);
void nodes_seal_set(struct nodes *t, bool sealed); /* whatever is open */
uint64_t nodes_open_files(struct nodes *t); /* regular ones that were not released yet */
struct ofile *ofile_at(struct nodes *t, uint64_t fh); /* NULL: not open */
struct ofile *ofile_slot(struct nodes *t, uint32_t i); /* by its index alone */
uint32_t ofile_used(struct nodes *t); /* slots below were used before */
void ofile_drop(struct nodes *t, uint32_t i); /* descriptors are already closed */
/* What ofile_new has just made for this thread's operation, and nobody will hear of. Its slot may be another's at once: so the
 * operation's record leads no successor there. */
void ofile_unmake(struct nodes *t, uint32_t i);

#endif
