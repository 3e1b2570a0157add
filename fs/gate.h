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
#include <stddef.h>
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
	uint64_t unique; /* FUSE request, of its connection */
	uint32_t conn; /* number of the connection */
	uint32_t pid; /* caller's thread id, for the SIGKILL test */
	uint32_t bytes; /* payload, for the budget */
	bool interrupted; /* FUSE_INTERRUPT came for it */
	bool looked_at; /* the timer's, in one round of the SIGKILL test */
};

/* What the gate asks of its transport; set once in gate_new. Called without the gate's lock. */
struct gate_hooks {
	void *arg;
	/* The gate is open: dispatch these again, in this order (they enter the gate anew). Must not block. */
	void (*resubmit)(void *arg, struct gate_node *first);
	/* The caller is being killed: answer EINTR and free. */
	void (*kill)(void *arg, struct gate_node *n);
	/* From the gate timer, about every 50 ms; may be NULL. Must not block. */
	void (*tick)(void *arg);
};

struct gate_status {
	enum gate_state state;
	uint64_t gen;
	uint64_t deadline_ns; /* 0 when open */
	uint64_t inflight; /* modifying operations between enter and leave */
	uint64_t parked, parked_bytes, parked_peak, parked_total;
	uint64_t opened_by_deadline; /* times */
};

/* budget_b: payload bytes that may be parked (gate_full). NULL: out of memory. */
struct gate *gate_new(struct shm_head *shm, const struct gate_hooks *hooks, uint64_t budget_b);
/* Start the gate timer: deadlines, heartbeat, the SIGKILL test. 0 or -errno. */
int gate_start(struct gate *g);
void gate_stop(struct gate *g); /* opens first; ends the timer */
void gate_free(struct gate *g);

/* Count one modifying operation in. false: the gate is not open, nothing is counted: park it.
 * lane: 0..GATE_MAX_LANES-1, one per thread that calls enter or leave. */
bool gate_enter(struct gate *g, unsigned lane);
void gate_leave(struct gate *g, unsigned lane); /* any lane, not only the one that entered */
/* false: the gate has opened meanwhile (or nothing is frozen any more): enter again. */
bool gate_park(struct gate *g, struct gate_node *n, enum gate_class class);
bool gate_frozen(const struct gate *g);
void gate_set_frozen(struct gate *g, bool frozen); /* GATE_SYNC is held while true; ends at opening */
bool gate_is_open(const struct gate *g);
bool gate_full(const struct gate *g); /* the payload budget is used up: fetch no more requests */
/* FUSE_INTERRUPT for `unique` of connection `conn`. Remembered for a while when it is not parked yet. */
void gate_interrupt(struct gate *g, uint32_t conn, uint64_t unique);
/* As in door_ops (base/door.h). */
int gate_close(struct gate *g, uint32_t drain_ms, uint32_t hold_ms, const _Atomic int *abort_flag, struct gate_ticket *t);
uint32_t gate_left_ms(struct gate *g, const struct gate_ticket *t);
int gate_open(struct gate *g, const struct gate_ticket *t);
int gate_open_any(struct gate *g); /* whoever closed it; 0, also when it was open */
void gate_get_status(struct gate *g, struct gate_status *out);
/* Wait until the gate is open; false when stopping. For the closer thread. */
bool gate_wait_open(struct gate *g);

/* gate_ops.c: what a raw request does. args: bytes after the header, len of them. Pure. */
enum gate_class gate_classify(uint32_t opcode, const void *args, size_t len);

#endif
