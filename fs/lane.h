/* fs/lane.h - a lane: one thread of the transport, its ring and its descriptors. Private like core_int.h, which
 * includes it. Threads: written by the lane itself but where a field is atomic or under inbox_lock. */
#ifndef STILLFS_FS_LANE_H
#define STILLFS_FS_LANE_H

#include "base/door.h"

#include <liburing.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct core;
struct rq;
struct op_rec;

/* What a lane fetched last tells when the next request comes. */
enum lane_after { AFTER_OTHER, AFTER_READ, AFTER_WRITE, AFTER_FSYNC, N_AFTER };

/* Of a lane: whether looking for the next event before sleeping pays; see balance.c. */
struct spin {
	enum lane_after after; /* this is what was fetched last */
	unsigned soon[N_AFTER]; /* how reliably the next request comes soon then */
	uint64_t rest_ns; /* has nothing to do since, 0: it has */
	bool looked; /* it has looked since then, not only slept */
	unsigned score; /* of looking, where requests come soon: 0: it does not pay, and is tried now and then */
	unsigned skipped; /* sleeps since the last try */
	uint64_t cpu0_ns; /* the thread's at the start of this looking, 0: does not look */
	_Atomic uint64_t n_hits, n_misses, cpu_ns;
};

/* Of lane 0: whether an operation is served by the lane itself, in a system call that may sleep; see inplace.c. */
struct inplace {
	struct op_rec *rec; /* of libfuse's operations */
	bool last; /* the last request was served so */
	bool on; /* data.c: make the call now */
	unsigned skip, penalty; /* operations that are not served so after somebody waited, */
	uint64_t skip_ns; /* at most until then */
	_Atomic uint64_t since_ns; /* in such a call since, 0: not */
	uint64_t guard_ns; /* when the guard wakes */
	uint64_t write_ns, direct_ns; /* of direct writes: a moving mean; when the last one began, 0: not measured */
	uint64_t sync_ns; /* how long fsyncs take whose writeback had begun: a moving mean */
	unsigned quick; /* how many of them took less than a volume's latency: a score */
	/* calls for one of several callers: how long they take; none is made before this time; how long the next bar is */
	uint64_t mean_ns, barred_ns, bar_ns;
	_Atomic uint64_t n_calls, n_waited, n_beside, n_beside_syncs, n_slow;
};

/* user_data of the ring's entries that are not requests; requests are pointers, above these */
enum { TAG_INBOX = 1, TAG_GUARD = 2, TAG_WRITEBACK = 3, TAG_POLL = 16 };

struct lane {
	struct core *core;
	unsigned idx; /* also the gate's lane */
	pthread_t thread;
	bool runs;
	struct io_uring ring;
	uint16_t nobody; /* the ring's credentials for callers that are not root; 0: none */
	struct op_rec *rec; /* for FORGET */
	int policy; /* of scheduling, sched(7); read by status once the lane is ready */
	bool defer; /* IORING_SETUP_DEFER_TASKRUN */
	sem_t ready; /* the thread has opened its ring, or failed to */
	int ring_error;
	int efd; /* wakes the lane for its inbox */
	int fd[DOOR_MAX_PAIRS]; /* a clone of each mount's /dev/fuse */
	bool readable[DOOR_MAX_PAIRS], armed[DOOR_MAX_PAIRS], ended[DOOR_MAX_PAIRS];
	bool efd_armed, guard_armed;
	pthread_mutex_t inbox_lock;
	struct rq *inbox, **inbox_tail;
	_Atomic bool inbox_full;
	unsigned inflight; /* on the ring */
	_Atomic unsigned peak; /* the most of them since balance.c looked */
	unsigned char *landing; /* where the part of a request goes whose pages may not be there; see fetch() */
	struct rq *slots; /* free ones of its own: the pool's lock is taken once for many */
	_Atomic unsigned n_slots;
	bool lone[DOOR_MAX_PAIRS]; /* requests come one at a time: do not look for a second */
	unsigned lone_turns;
	uint64_t n_fetched;
	bool in_hand; /* more of what was in the inbox: no other lane can take it */
	uint64_t clock_ns; /* see lane_now() */
	bool unseen[DOOR_MAX_PAIRS]; /* there may be more requests: the poll must be armed */
	/* balance.c: how busy it is */
	_Atomic uint64_t busy_ns; /* awake until it last fell asleep */
	_Atomic uint64_t awake_ns; /* awake since, 0: asleep */
	struct spin spin;
	struct inplace inplace;
	/* per lane: no shared cache line */
	_Atomic uint64_t n_read, n_write, n_fsync, n_falloc, n_direct, n_buffered, n_early, n_meta;
};

#endif
