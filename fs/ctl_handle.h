/* fs/ctl_handle.h - the control tree's open files and commands in shared memory, across a daemon's death.
 * Private to ctl*.c; tables.c knows their size. Threads: any. Blocks: never. */
#ifndef STILLFS_FS_CTL_HANDLE_H
#define STILLFS_FS_CTL_HANDLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct ctl;

#define CTL_HANDLES 4096u /* open files and directories */
#define CTL_OPS 1088u /* every request that waits, and the threads */
#define CTL_EVENTS_B (4u << 20)

/* An open file or directory, in shared memory: what is needed to render it again in a new daemon. */
struct ctl_handle {
	_Atomic uint64_t ino; /* 0: free; stored last */
	_Atomic uint64_t opening; /* unique of the request whose reply gives it out; 0: it was answered */
	_Atomic uint64_t seen; /* events: bytes that this reader has had */
	_Atomic uint32_t gen; /* the upper half of fh */
	_Atomic uint64_t poll_kh; /* the kernel's name of who polls it */
	_Atomic bool polled;
	uint32_t acc; /* O_ACCMODE bits */
};

/* A command that must not be carried out twice, in shared memory from before its effect until after its reply. */
enum ctl_stage { CTL_DOING, CTL_ACCEPTED, CTL_DONE };
struct ctl_op {
	_Atomic uint64_t unique; /* 0: free */
	_Atomic uint32_t stage; /* enum ctl_stage */
	_Atomic int32_t result; /* of CTL_DONE: 0 or -errno */
	_Atomic uint32_t orphan; /* a dead daemon's, until it is sent again */
};

struct ctl_shared {
	struct ctl_handle handle[CTL_HANDLES];
	struct ctl_op op[CTL_OPS];
};

void ctl_handle_request(const void *raw); /* this thread serves it now; NULL: none. Borrowed until the next call */
void ctl_handle_polled(struct ctl *c, uint64_t fh); /* the current request, a POLL, wants to be notified */
int64_t ctl_handle_new(struct ctl *c, uint64_t ino, int acc, void *obj); /* fh, or -ENFILE */
void ctl_handle_answered(struct ctl *c, uint64_t fh); /* the kernel knows it */
struct ctl_handle *ctl_handle_at(struct ctl *c, uint64_t fh); /* NULL: not open */
void *ctl_handle_obj(struct ctl *c, uint64_t fh);
bool ctl_handle_set(struct ctl *c, uint64_t fh, void *obj); /* false: somebody was quicker */
void *ctl_handle_drop(struct ctl *c, uint64_t fh); /* its object, to be freed */
struct ctl_op *ctl_op_begin(struct ctl *c, bool *again); /* NULL: none left */
int ctl_op_done(struct ctl_op *op, int result); /* before the reply; returns result */
void ctl_op_end(struct ctl_op *op); /* after it */
void ctl_handle_recover(struct ctl *c);

#endif
