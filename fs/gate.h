/* fs/gate.h - the write gate: admits modifying operations, parks them while closed.
 * One gate for all mounts of a daemon, in the transport, before libfuse.
 * Threads: gate_enter/gate_leave/gate_park from transport threads and workers; gate_close from one thread
 *          at a time (a second closer gets -EBUSY); gate_open from any, also the gate timer's.
 * Blocks:  enter, leave, park and open never; close until drained or drain_ms.
 * Allocates only in gate_new; never logs. */
#ifndef STILLFS_FS_GATE_H
#define STILLFS_FS_GATE_H

#include "base/door.h"

#include <stdbool.h>
#include <stdint.h>

#define GATE_MAX_MS 50000u
#define GATE_MAX_LANES 128u /* threads that enter or leave */

struct gate;
struct shm_head;

enum gate_state { GATE_OPEN = 0, GATE_CLOSING = 1, GATE_CLOSED = 2 };

/* What an opcode does, from the one table in gate_ops.c */
enum gate_class {
	GATE_FLOW, /* never held: reads, lookups, getattr ... */
	GATE_MODIFY, /* held while closing or closed */
	GATE_SYNC, /* fsync: held only while the backing is frozen */
};

/* A parked request, embedded in the transport's request slot. */
struct gate_node {
	struct gate_node *next;
	uint64_t unique; /* FUSE request */
	uint32_t pid; /* caller's thread id, for the SIGKILL test */
	uint32_t bytes; /* payload, for the budget */
	bool interrupted; /* FUSE_INTERRUPT came for it */
};

struct gate_status {
	enum gate_state state;
	uint64_t gen;
	uint64_t deadline_ns; /* 0 when open */
	uint64_t inflight; /* modifying operations between enter and leave */
	uint64_t parked, parked_bytes, parked_peak, parked_total;
	uint64_t opened_by_deadline; /* times */
};

#endif
