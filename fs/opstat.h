/* fs/opstat.h - how many operations of each kind there were, how long they took, how many bytes they moved.
 * Time: from reading the request, or where requests are read in one go the first of them, until the reply is written;
 * waiting at the gate included. Nanoseconds of balance_now_ns().
 * Threads: each thread that answers requests has a struct opstat of its own, by its index at the gate, and one more is
 * the gate timer's; nobody else writes it, anybody reads. No lock, no locked instruction. Blocks: never. */
#ifndef STILLFS_FS_OPSTAT_H
#define STILLFS_FS_OPSTAT_H

#include <stdatomic.h>
#include <stdint.h>

enum opstat_kind {
	OPS_READ, OPS_WRITE, OPS_FSYNC, OPS_FALLOCATE, OPS_LOOKUP, OPS_OPEN, OPS_CLOSE, OPS_GETATTR, OPS_SETATTR, OPS_READDIR,
	OPS_NAME, /* made, removed, renamed, linked */
	OPS_OTHER, OPS_KINDS
};

#define OPSTAT_BUCKETS 22u /* the first below 2^(OPSTAT_SHIFT + 1) ns, each next one twice as far; then the rest */
#define OPSTAT_SHIFT 13u

struct opstat {
	struct {
		_Atomic uint64_t bucket[OPSTAT_BUCKETS + 1], sum_ns;
	} kind[OPS_KINDS];
	_Atomic uint64_t read_b, written_b;
};

struct rq;

/* r is answered; by: the thread's index. Fetches the time only where the thread has not read it lately. */
void opstat_answered(struct rq *r, unsigned by);

#endif
