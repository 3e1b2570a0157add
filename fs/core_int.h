/* fs/core_int.h - what the files of the data side share: the core, its mounts, lanes and requests.
 * Private to core*.c, pool.c, balance.c, session.c, lane.c, transport_dev.c, inplace.c, idlepoll.c, opstat.c, worker.c, data.c, closer.c, ops_*.c.
 *
 * A request's life: a lane (transport thread) reads it into a slot of the pool; the gate admits or
 * parks it; READ, WRITE, FSYNC and FALLOCATE go to the lane's io_uring (data.c), everything else to a worker,
 * which feeds it to libfuse (ops_*.c). Its reply is written to the /dev/fuse descriptor that it was
 * read from: the kernel does not find it on another clone. */
#ifndef STILLFS_FS_CORE_INT_H
#define STILLFS_FS_CORE_INT_H

#define FUSE_USE_VERSION 314
#include <fuse3/fuse_lowlevel.h>

#include "fs/core.h"
#include "fs/balance.h"
#include "fs/early.h"
#include "fs/idlepoll.h"
#include "fs/lane.h"
#include "fs/node.h"
#include "fs/opstat.h"
#include "fs/proto.h"
#include "fs/seal.h"

#include <liburing.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#define CTL_LINK_NAME ".stillfs"
#define POSITION_NAME ".stillfs-position"

/* Payload at a page boundary, so that it can go to the device as it is; heads lie before it. */
#define SLOT_PAYLOAD 4096u
#define SLOT_STRIDE (SLOT_PAYLOAD + PROTO_MAX_PAYLOAD + 4096u)
#define SLOT_IN (SLOT_PAYLOAD - PROTO_WRITE_HEAD) /* where a request is read to */
#define SLOT_OUT (SLOT_PAYLOAD - sizeof(struct fuse_out_header)) /* where a READ's reply starts */

#define PAGE 4096u
#define MAX_LANES 64u
#define MAX_WORKERS 16u
#define OPSTAT_TIMER (MAX_LANES + MAX_WORKERS) /* the gate timer's place among the lanes and workers */
#define OPSTAT_THREADS (OPSTAT_TIMER + 1)
/* Workers that stay free for operations that modify nothing: a frozen or full filesystem must not stop lookups. */
#define FLOW_WORKERS 4u
#define MODIFY_FIRST 4u /* operations that modify and go before those, which a gate that closes waits for */
/* fallocate in one piece of this size: the gate is entered anew for each, so that a huge range cannot
 * outlast the drain. */
#define FALLOC_PIECE (1ull << 30)
#define COPY_PIECE (8u << 20)

struct mnt; /* one BACKING/MOUNTPOINT pair */

enum rq_next { /* what a worker does with a request */
	RQ_LIBFUSE, /* feed it to libfuse */
	RQ_OPEN_FD, /* open the descriptor that data.c misses, then back to its lane */
	RQ_KILL_SUID, /* clear set-id bits, then back to its lane */
};

struct rq {
	struct gate_node gn; /* first member */
	struct rq *next; /* queues */
	struct core *core;
	struct mnt *m;
	struct lane *lane; /* that read it */
	unsigned char *buf; /* SLOT_STRIDE bytes */
	uint32_t len, present; /* of the request; bytes from SLOT_IN used before, whose pages are there */
	uint32_t opcode;
	bool gated; /* counted in the gate: leave once answered */
	uint64_t start_ns; /* when it was read; 0: not known yet */
	uint8_t next_step; /* enum rq_next */
	bool suid_done;
	uint64_t begun_ns; /* FSYNC that was expected; early_synced */
	/* FALLOCATE in pieces */
	uint64_t done_b;
	int fd;
};

struct mnt {
	struct core *core;
	unsigned idx;
	struct door_pair *pair;
	struct fuse_session *se;
	int dev_fd; /* the first /dev/fuse descriptor; lane 0 reads it */
	bool mounted;
	_Atomic bool gone; /* a lane has seen ENODEV */
	uint64_t offered; /* flags of the kernel's INIT */
	bool parallel_dirops; /* as the kernel was told */
	bool allow_mmap; /* FUSE_DIRECT_IO_ALLOW_MMAP is on */
	bool replaying; /* INIT of an earlier daemon: the reply goes nowhere */
};

struct worker_pool;
struct closer;

struct core {
	const struct conf *conf;
	struct shm_head *shm;
	const struct tables *tab;
	bool again; /* an earlier daemon has died */
	struct gate *gate;
	struct nodes *nodes;
	struct oplog *oplog;
	int *held; /* descriptors of a dead daemon that may not be closed while the gate is */
	size_t n_held;
	unsigned n_mnt, n_lanes;
	struct mnt mnt[DOOR_MAX_PAIRS];
	struct lane lane[MAX_LANES];
	struct balance balance;
	struct idlepoll idlepoll;
	struct early early;
	struct opstat opstat[OPSTAT_THREADS];
	struct worker_pool *workers;
	struct closer *closer;
	struct seal seal;
	const char *control_dir;
	unsigned char *pool_mem;
	struct rq *rqs;
	uint32_t n_rqs;
	pthread_mutex_t pool_lock;
	struct rq *pool_first;
	_Atomic uint32_t pool_left; /* not counting the lanes' own */
	_Atomic bool stopping;
	_Atomic unsigned ended; /* mounts whose connection is gone */
	int end_fd;
	struct gate_ticket op_ticket; /* the operator's own closing */
	_Atomic bool op_closed;
};

/* pool.c: request slots. A lane keeps some of its own; rq_put gives to the calling lane, or to the pool. */
int pool_new(struct core *c, struct snap_error *err);
void pool_free(struct core *c);
struct rq *rq_get(struct lane *l); /* the calling thread's own lane. NULL: none left */
void rq_put(struct rq *r);
void pool_thread_is(struct lane *l); /* this thread is that lane's */
uint32_t pool_count(const struct core *c); /* free slots */

/* inplace.c: a lane that serves one caller at a time makes the system call itself. */
void inplace_init(struct lane *l); /* on its own thread */
bool inplace_wanted(struct lane *l, const struct rq *r);
bool inplace_looks(const struct lane *l); /* look for the next request, without the ring */
bool inplace_serve(struct lane *l, struct rq *r); /* false: something has come meanwhile, serve it the other way */
bool inplace_enter(struct lane *l); /* may it make a call for one of several callers now? Then inplace_leave follows */
uint64_t inplace_leave(struct lane *l); /* ns since then */
bool inplace_sync(struct lane *l); /* inplace_enter for such an fsync */
/* One has ended, either way: it took took_ns, and the device, from the beginning of its writeback, no longer than device_ns. */
void inplace_synced(struct lane *l, uint64_t took_ns, uint64_t device_ns);
bool inplace_device_quick(const struct lane *l); /* it often takes less than a volume's latency for them */
bool inplace_sits(const struct lane *l); /* it makes such a call now; any thread */
int inplace_done(struct lane *l, struct rq *r, int64_t res); /* res: of the call. The result or -errno */
void inplace_replies(const struct rq *r); /* an operation of libfuse's is about to be answered; any thread */
void inplace_measure(struct lane *l); /* a direct write has ended */
uint64_t inplace_stuck_ms(const struct lane *l); /* how long the call has lasted that is made now; any thread */
void inplace_guard(struct core *c); /* lane 1: the guard has gone off */

/* Add to a counter that one thread writes and others only read: no locked instruction. */
static inline void count_add(_Atomic uint64_t *n, uint64_t more)
{
	atomic_store_explicit(n, atomic_load_explicit(n, memory_order_relaxed) + more, memory_order_relaxed);
}

/* The time, read once for what a lane does in one go: clock_ns is made 0 where something new begins. */
static inline uint64_t lane_now(struct lane *l)
{
	if (!l->clock_ns)
		l->clock_ns = balance_now_ns();
	return l->clock_ns;
}

static inline struct fuse_in_header *rq_head(struct rq *r)
{
	return (struct fuse_in_header *)(void *)(r->buf + SLOT_IN);
}

static inline const void *rq_args_const(const struct rq *r)
{
	return r->buf + SLOT_IN + sizeof(struct fuse_in_header);
}

static inline void *rq_args(struct rq *r)
{
	return r->buf + SLOT_IN + sizeof(struct fuse_in_header);
}

int lane_start(struct lane *l); /* lane.c */

/* transport_dev.c; the first four on the lane's own thread */
bool lane_fetch(struct lane *l, unsigned i, bool *starved); /* of mount i. False: there may be more */
void lane_arm(struct lane *l); /* what it is to be woken by, before it waits */
void lane_reap(struct lane *l); /* what the ring has completed */
bool lane_serve_inbox(struct lane *l, struct lane *of); /* true: something was there */
struct io_uring_sqe *lane_sqe(struct lane *l); /* never NULL: submits when the queue is full; its own thread too */
void lane_push(struct rq *r); /* hand a request (back) to its lane; any thread */
/* Answer with an error or an empty success (error 0), leave the gate by `gate_lane`, free. Any thread. */
void rq_reply_err(struct rq *r, int error, unsigned gate_lane);
void rq_reply_out(struct rq *r, const void *out, size_t size, unsigned gate_lane);
/* `len` bytes of payload in place. */
void rq_reply_payload(struct rq *r, size_t len, unsigned gate_lane);
void rq_finish(struct rq *r, unsigned gate_lane); /* answered already: leave, free */

/* data.c: start an operation on the lane's ring; runs on the lane. */
void data_start(struct lane *l, struct rq *r);
void data_complete(struct lane *l, struct rq *r, int res);

/* worker.c */
struct worker_pool *workers_start(struct core *c); /* NULL; errno */
void workers_push(struct worker_pool *p, struct rq *r, enum rq_next step); /* never blocks */
void workers_stop(struct worker_pool *p);
int file_open_other(struct core *c, uint64_t fh); /* the descriptor that an open file has not yet; 0 or -errno */
struct rq *worker_current(void); /* the request that this thread serves */
/* Serve on the calling thread, which then has a umask of its own (worker_prepare) and the record rec. */
void worker_serve(struct core *c, struct rq *r, struct op_rec *rec, unsigned gate_lane);
void worker_prepare(void);

/* closer.c: closes that may write (XFS frees preallocation at the last close, inodes of
 * unlinked files are freed) wait until the gate is open, and count as modifying. */
struct closer *closer_start(struct core *c);
void closer_file(struct closer *x, uint32_t i); /* close an open file's descriptors, free its slot */
void closer_fd(struct closer *x, int fd); /* -1 is harmless */
void closer_stop(struct closer *x); /* closes all that waits */
uint64_t closer_waiting(struct closer *x);

/* session.c */
int session_open(struct core *c, struct mnt *m, struct snap_error *err); /* /dev/fuse, mount, INIT */
int session_resume(struct mnt *m, struct snap_error *err); /* an earlier daemon's, from shared memory */
void session_close(struct mnt *m);
int session_clone(struct mnt *m); /* one more descriptor for the same connection */

/* ops_*.c */
extern const struct fuse_lowlevel_ops ops_table;
struct mnt *ops_mnt(fuse_req_t req);
void ops_cred_enter_nobody(void); /* the calling thread, until leave, which keeps errno; where l->nobody is not 0 */
void ops_cred_leave_nobody(void);
void ops_cred_nobody(struct lane *l); /* registers l->nobody; from the lane's own thread */
void ops_tmpfile(struct rq *r); /* raw: libfuse 3.14 does not know the opcodes */
void ops_statx(struct rq *r);

#endif
