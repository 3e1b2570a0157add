/* fs/lane.c - a lane: a thread that fetches requests, has the backing's I/O and all that it waits for on one io_uring,
 * and sleeps or looks for what comes next.
 * Owns:      the lanes' threads and rings.
 * Called by: core.c to start.
 * Threads:   a lane's ring is touched by its own thread only.
 * Blocks:    in io_uring_enter only, when it has nothing to do, and where inplace.c says.
 * Errors:    lane_start's: -errno. A connection that is gone ends its mount; the others go on. */
#include "fs/oplog.h"
#include "base/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define RING_WORKERS 256u

/* True: an event came while looking for it, nothing has to be waited for. */
static bool spin(struct lane *l)
{
	if (!balance_spin_wanted(l))
		return false;
	if (io_uring_sq_ready(&l->ring))
		(void)io_uring_submit(&l->ring);
	balance_spins(l);
	for (uint64_t start = balance_now_ns(); balance_looking(l, start);)
		;
	balance_spun(l);
	if (!balance_event(l))
		return false;
	balance_looked(l, true);
	(void)io_uring_get_events(&l->ring);
	return true;
}

/* One caller, who is served in place: his next request is looked for where it comes, without a poll of the ring. Nor
 * has the caller to wake anybody then. True: a request was served. */
static bool look(struct lane *l)
{
	uint64_t seen = l->n_fetched, start;
	bool starved = false;

	if (!inplace_looks(l) || !balance_spin_wanted(l))
		return false;
	if (io_uring_sq_ready(&l->ring))
		(void)io_uring_submit(&l->ring);
	balance_rests(l);
	balance_spins(l);
	start = balance_now_ns();
	while (l->n_fetched == seen && !starved && balance_looking(l, start)) {
		for (unsigned i = 0; i < l->core->n_mnt; i++)
			if (!l->armed[i] && !l->ended[i] && !starved)
				(void)lane_fetch(l, i, &starved);
	}
	balance_spun(l);
	balance_woke(l);
	if (l->n_fetched == seen)
		return false;
	balance_looked(l, true);
	return true;
}

static void lane_wait(struct lane *l, bool idle, bool starved)
{
	struct __kernel_timespec ts = { .tv_nsec = 2000000 };
	struct io_uring_cqe *cqe;

	if (!idle) {
		if (l->defer && !io_uring_sq_ready(&l->ring) && !balance_event(l))
			return; /* served in place: the ring has nothing */
		if (l->defer)
			(void)io_uring_submit_and_get_events(&l->ring);
		else if (io_uring_sq_ready(&l->ring))
			(void)io_uring_submit(&l->ring);
		return;
	}
	balance_rests(l);
	if (l->defer && !starved && spin(l)) {
		/* looking is not work: it must not call for another lane */
	} else if (starved) /* slots come back from other lanes, which do not wake this one */
		(void)io_uring_submit_and_wait_timeout(&l->ring, &cqe, 1, &ts, NULL);
	else
		(void)io_uring_submit_and_wait(&l->ring, 1);
	balance_woke(l);
}

/* Made on the lane's own thread: with SINGLE_ISSUER the ring belongs to the thread that made it. */
static int ring_open(struct lane *l)
{
	struct io_uring_params p = { .flags = IORING_SETUP_SINGLE_ISSUER |
					      IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE |
					      IORING_SETUP_TASKRUN_FLAG,
				     .cq_entries = 8192 };
	int r = io_uring_queue_init_params(1024, &l->ring, &p);

	l->defer = r == 0;
	if (r == 0)
		return 0;
	memset(&p, 0, sizeof(p)); /* a kernel that does not know these flags */
	p.flags = IORING_SETUP_CQSIZE;
	p.cq_entries = 8192;
	return io_uring_queue_init_params(1024, &l->ring, &p);
}

/* Fsyncs, and writes that cannot go at once, wait on workers of the ring's, four for each CPU if nothing is said: as many
 * files of one pair, frozen or on a volume that hangs, would be enough to hold back every fsync of the others. A worker is
 * made when all others wait. */
static void ring_workers(struct lane *l)
{
	unsigned n[2] = { RING_WORKERS, RING_WORKERS };

	if (io_uring_register_iowq_max_workers(&l->ring, n) < 0) {
		/* before Linux 5.15: four for each CPU */
	}
}

/* Have the ring hold the write end of a pipe: it hangs up when the ring is gone with all that it had in flight, which
 * a successor waits for. */
static int ring_watch(struct lane *l)
{
	_Atomic int32_t *at = l->core->shm->ring_pipe;
	int p[2], none = 0, r;

	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	for (unsigned i = 0; i < SHM_MAX_RINGS; i++, none = 0)
		if (atomic_compare_exchange_strong(&at[i], &none, p[0]))
			break;
	FAULT("ring.pipe");
	r = io_uring_register_files(&l->ring, &p[1], 1);
	(void)close(p[1]);
	return r;
}

static void lane_loop(struct lane *l)
{
	struct core *c = l->core;

	while (!atomic_load(&c->stopping)) {
		bool idle = true, starved = false;

		balance_turn(l);

		idle = !lane_serve_inbox(l, l);
		if (l->idx == 1 && inplace_sits(&c->lane[0]) && lane_serve_inbox(l, &c->lane[0]))
			idle = false;
		for (unsigned i = 0; i < c->n_mnt; i++)
			if (l->readable[i] && !lane_fetch(l, i, &starved))
				idle = false;
		if (idle && l->efd_armed && !starved && look(l))
			idle = false;
		if (idle) {
			lane_arm(l);
			idle = !atomic_load(&l->inbox_full);
		}
		lane_wait(l, idle, starved);
		lane_reap(l);
	}
}

static void *lane_run(void *arg)
{
	struct lane *l = arg;
	char name[16];

	(void)snprintf(name, sizeof(name), "lane-%u", l->idx);
	(void)pthread_setname_np(pthread_self(), name);
	balance_policy(l);
	l->ring_error = ring_open(l);
	/* a child that syncs (base/, hooks) would keep the ring, and what it holds, beyond our death by its mapping */
	if (l->ring_error == 0)
		l->ring_error = io_uring_ring_dontfork(&l->ring);
	if (l->ring_error == 0)
		ring_workers(l);
	if (l->ring_error == 0 && l->core->shm->takeover == SHM_TAKEOVER_YES)
		l->ring_error = ring_watch(l);
	(void)sem_post(&l->ready);
	if (l->ring_error < 0)
		return NULL;
	ops_cred_nobody(l);
	pool_thread_is(l);
	worker_prepare();
	inplace_init(l);
	balance_woke(l);
	lane_loop(l);
	io_uring_queue_exit(&l->ring);
	return NULL;
}

int lane_start(struct lane *l)
{
	int r;

	l->rec = oplog_lane(l->core->oplog, l->idx);
	l->inbox_tail = &l->inbox;
	(void)pthread_mutex_init(&l->inbox_lock, NULL);
	(void)sem_init(&l->ready, 0, 0);
	l->efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->efd < 0)
		return -errno;
	for (unsigned i = 0; i < l->core->n_mnt; i++)
		l->readable[i] = l->idx == 0;
	r = pthread_create(&l->thread, NULL, lane_run, l);
	if (r)
		return -r;
	l->runs = true;
	while (sem_wait(&l->ready) < 0)
		;
	return l->ring_error;
}
