/* fs/inplace.c - a caller who is alone is served by the lane itself, in a plain system call; buffered writes of others, too.
 * Owns:      the lanes' struct inplace, and what the guard's timer is set to.
 * Called by: the lanes (lane.c, transport_dev.c).
 * Threads:   lane 0 serves; lane 1 is woken by the guard.
 * Blocks:    inplace_serve, for as long as the backing takes. It therefore runs only while nobody else is known who would
 *            wait: lane 0 fetches alone, requests come one at a time, none is in flight, the gate is open; and after
 *            inplace_enter, with several callers, for what seldom takes long. A guard stands behind both: GUARD_NS after
 *            such a call began lane 1 starts to fetch, so that a backing that stalls holds back one request, as it
 *            would without us.
 * Errors:    the operation's.
 *
 * Why: a synchronous call is the cheapest way to do one thing. An asynchronous direct write completes through a kernel
 * worker, fdatasync on io_uring runs on another, and a metadata operation costs waking a worker of ours and its
 * answer: each one or two wake-ups of a CPU, in a path that a single caller waits for (docs/performance.md). With
 * several callers none of this pays, as the lane is awake anyway and its sleep would delay the others: but for buffered
 * writes, which do not sleep but for rare reasons (inplace_enter; data.c, write_at_once). */
#include "fs/oplog.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define GUARD_NS 4000000ull
#define SINCE_NOW 1u /* it has just sat down: no time that the clock shows */
#define LONG_NS 30000u /* somebody may have come meanwhile: look */
#define MEAN_MAX_NS 10000000u /* one that hung counts no more than that */
#define FAST_NS 70000u /* a device that answers before a lane would fall asleep (balance.c) */
#define SLOW_NS 4000000u /* a buffered write that took so long waited for something */
#define SLOW_MEAN_NS 200000u /* as did many of them that took so long in the mean */
#define SYNC_NS 50000u
#define VOLUME_NS 250000u /* no volume that is reached by a network answers sooner; memory and a local disk do */
#define QUICK_GAIN 4u /* so one in five will do */
#define QUICK_MIN 16u
#define QUICK_MAX 64u
#define BAR_MIN_NS 100000000ull
#define BAR_MAX_NS 600000000000ull
#define PENALTY_MIN 64u
#define PENALTY_MAX 4096u
#define PENALTY_MAX_NS 200000000ull /* which few operations would make long */

static _Thread_local struct lane *serving; /* this thread's lane, while libfuse serves on it and has not answered */

void inplace_init(struct lane *l)
{
	if (l->idx == 0 && l->core->n_lanes > 1)
		l->inplace.rec = oplog_take(l->core->oplog);
	l->inplace.penalty = PENALTY_MIN;
	l->inplace.bar_ns = BAR_MIN_NS;
	l->inplace.sync_ns = SYNC_NS * 10; /* not before it was seen */
}

/* What is over in moments, wherever the backing answers from memory, or waits for the device alone. */
static bool suits(uint32_t opcode)
{
	switch (opcode) {
	case FUSE_WRITE:
	case FUSE_FSYNC:
	case FUSE_LOOKUP:
	case FUSE_GETATTR:
	case FUSE_READLINK:
	case FUSE_SYMLINK:
	case FUSE_MKNOD:
	case FUSE_MKDIR:
	case FUSE_UNLINK:
	case FUSE_RMDIR:
	case FUSE_RENAME:
	case FUSE_RENAME2:
	case FUSE_LINK:
	case FUSE_OPEN:
	case FUSE_CREATE:
	case FUSE_RELEASE:
	case FUSE_STATFS:
	case FUSE_SETXATTR:
	case FUSE_GETXATTR:
	case FUSE_LISTXATTR:
	case FUSE_REMOVEXATTR:
	case FUSE_OPENDIR:
	case FUSE_READDIR:
	case FUSE_READDIRPLUS:
	case FUSE_RELEASEDIR:
	case FUSE_ACCESS:
		return true;
	default:
		return false;
	}
}

/* A direct write to a device so fast that its completion is there while the lane still looks, and of a caller who is
 * looked for: no kernel worker's wake-up is saved by sleeping in the call, and the lane's own would be paid. Its time is
 * measured either way. */
static bool found_spinning(struct lane *l, const struct rq *r)
{
	const struct fuse_write_in *in = rq_args_const(r);
	struct inplace *p = &l->inplace;

	if (!(in->flags & O_DIRECT) || in->write_flags & FUSE_WRITE_CACHE)
		return false;
	p->direct_ns = balance_now_ns();
	return p->write_ns < FAST_NS && balance_quick(l);
}

static void into_mean(uint64_t *mean_ns, uint64_t took_ns)
{
	*mean_ns = *mean_ns - *mean_ns / 8 + (took_ns > MEAN_MAX_NS ? MEAN_MAX_NS : took_ns) / 8;
}

void inplace_measure(struct lane *l)
{
	struct inplace *p = &l->inplace;

	into_mean(&p->write_ns, balance_now_ns() - p->direct_ns);
	p->direct_ns = 0;
}

/* A poll of ours would take the wake-up for a request that nobody fetches then: with several mounts the others'. */
static bool polls(const struct lane *l)
{
	for (unsigned i = 0; i < l->core->n_mnt; i++)
		if (l->armed[i])
			return true;
	return false;
}

/* Does it alone fetch, with another lane there whom the guard could wake, and has nothing that this one could not get at? */
static bool alone(struct lane *l)
{
	return !l->in_hand && atomic_load_explicit(&l->core->balance.n_active, memory_order_relaxed) == 1 &&
	       atomic_load(&l->core->balance.all_run) && !atomic_load(&l->inbox_full) && gate_is_open(l->core->gate);
}

static bool wanted(struct lane *l, const struct rq *r)
{
	struct inplace *p = &l->inplace;

	if (!p->rec || l->inflight || !l->lone[r->m->idx] || !suits(r->opcode) || polls(l))
		return false;
	if (p->skip && atomic_load_explicit(&l->core->balance.turn_ns, memory_order_relaxed) < p->skip_ns) {
		p->skip--;
		return false;
	}
	if (r->opcode == FUSE_WRITE && found_spinning(l, r))
		return false;
	return alone(l);
}

bool inplace_wanted(struct lane *l, const struct rq *r)
{
	return l->inplace.last = wanted(l, r);
}

bool inplace_looks(const struct lane *l)
{
	return l->inplace.last && !l->inflight &&
	       atomic_load_explicit(&l->core->balance.n_active, memory_order_relaxed) == 1;
}

/* Set ahead of time, and seldom: a call that has ended by then finds the guard looking for nothing. */
static void set_guard(struct inplace *p, int fd, uint64_t now)
{
	struct itimerspec at = { .it_value = { .tv_nsec = (long)GUARD_NS } };

	if (p->guard_ns > now + GUARD_NS / 2)
		return;
	p->guard_ns = now + GUARD_NS;
	(void)timerfd_settime(fd, 0, &at, NULL);
}

bool inplace_sits(const struct lane *l)
{
	return atomic_load(&l->inplace.since_ns) != 0;
}

/* From now on it sits in a call, with the guard behind it. False: something has come meanwhile. */
static bool sit_down(struct lane *l)
{
	struct inplace *p = &l->inplace;
	uint64_t now;

	atomic_store(&p->since_ns, SINCE_NOW); /* before the guard is set: whenever it goes off, it finds somebody who sits */
	now = balance_now_ns();
	set_guard(p, l->core->balance.guard_fd, now);
	atomic_store(&p->since_ns, now);
	if (!atomic_load(&l->inbox_full)) /* after the store, see lane_push */
		return true;
	atomic_store(&p->since_ns, 0);
	return false;
}

bool inplace_serve(struct lane *l, struct rq *r)
{
	struct inplace *p = &l->inplace;

	if (!sit_down(l))
		return false;
	if (!r->start_ns)
		r->start_ns = atomic_load_explicit(&p->since_ns, memory_order_relaxed);
	balance_spun(l);
	balance_sleeps(l); /* waiting for the backing is no work that another lane could share */
	count_add(&p->n_calls, 1);
	switch (r->opcode) {
	case FUSE_WRITE:
	case FUSE_FSYNC:
		p->on = true;
		data_start(l, r);
		p->on = false;
		break;
	default:
		count_add(&l->n_meta, 1);
		r->next_step = RQ_LIBFUSE;
		serving = l;
		worker_serve(l->core, r, p->rec, l->idx);
		serving = NULL;
	}
	atomic_store(&p->since_ns, 0);
	balance_woke(l);
	balance_helped(l->core);
	return true;
}

/* ---- buffered writes, and fsyncs, of one of several callers ---- */

/* Nothing may be on its way at the backing: what this lane's ring has, nobody else can complete. Its callers would wait for
 * this call; and on a filesystem that somebody freezes, both for ever: the freeze waits for direct writes that have begun,
 * which end on this lane (kiocb_end_write in the ring's task work, up to 6.18 at least), and the call for the thaw. */
bool inplace_enter(struct lane *l)
{
	struct inplace *p = &l->inplace;

	if (!p->rec || l->inflight || polls(l) || !alone(l))
		return false;
	if (p->barred_ns && balance_now_ns() < p->barred_ns)
		return false;
	p->barred_ns = 0;
	return sit_down(l);
}

uint64_t inplace_leave(struct lane *l)
{
	struct inplace *p = &l->inplace;
	uint64_t now = balance_now_ns(), took = now - atomic_load_explicit(&p->since_ns, memory_order_relaxed);

	atomic_store(&p->since_ns, 0);
	l->clock_ns = now; /* what is answered now, and what was fetched with it, has waited for this call */
	balance_helped(l->core);
	p->mean_ns = p->mean_ns - p->mean_ns / 16 + took / 16;
	if (took > SLOW_NS || p->mean_ns > SLOW_MEAN_NS) {
		count_add(&p->n_slow, 1);
		p->mean_ns = 0;
		p->barred_ns = now + p->bar_ns;
		p->bar_ns = p->bar_ns < BAR_MAX_NS / 2 ? p->bar_ns * 2 : BAR_MAX_NS;
	} else if (p->bar_ns > BAR_MIN_NS) {
		p->bar_ns -= BAR_MIN_NS / 1000;
	}
	return took;
}

/* An fsync whose writeback had begun is over in moments on a device without latency: sooner than a worker of the ring's
 * would wake. A volume's latency is for the worker. */
bool inplace_sync(struct lane *l)
{
	return l->inplace.sync_ns < SYNC_NS && inplace_enter(l);
}

/* A short fsync whose caller came late after its writes says nothing of the device. */
void inplace_synced(struct lane *l, uint64_t took_ns, uint64_t device_ns)
{
	struct inplace *p = &l->inplace;

	into_mean(&p->sync_ns, took_ns);
	if (took_ns >= VOLUME_NS)
		p->quick -= p->quick > 0;
	else if (device_ns < VOLUME_NS && p->quick < QUICK_MAX)
		p->quick += QUICK_GAIN;
}

/* By how many are quick, not by the mean: with busy CPUs that says how long one waits for those. */
bool inplace_device_quick(const struct lane *l)
{
	return l->inplace.quick >= QUICK_MIN;
}

/* Before the reply, which brings the caller's next request: whoever is there now has waited behind this call. */
static void ask_who_waited(struct lane *l, const struct rq *r, uint64_t now)
{
	struct inplace *p = &l->inplace;
	struct pollfd at = { .fd = l->fd[r->m->idx], .events = POLLIN };

	if (now - atomic_load_explicit(&p->since_ns, memory_order_relaxed) < LONG_NS)
		return;
	if (poll(&at, 1, 0) == 1) {
		count_add(&p->n_waited, 1);
		p->skip = p->penalty;
		p->skip_ns = now + PENALTY_MAX_NS;
		if (p->penalty < PENALTY_MAX)
			p->penalty *= 2;
	} else if (p->penalty > PENALTY_MIN) {
		p->penalty--;
	}
}

int inplace_done(struct lane *l, struct rq *r, int64_t res)
{
	int result = res < 0 ? -errno : (int)res;

	if (l->inplace.direct_ns)
		inplace_measure(l);
	l->clock_ns = balance_now_ns();
	ask_who_waited(l, r, l->clock_ns);
	return result;
}

void inplace_replies(const struct rq *r)
{
	struct lane *l = serving;

	serving = NULL;
	if (l)
		ask_who_waited(l, r, balance_now_ns());
}

uint64_t inplace_stuck_ms(const struct lane *l)
{
	uint64_t since = atomic_load(&l->inplace.since_ns), now = balance_now_ns();

	return since > SINCE_NOW && since < now ? (now - since) / 1000000 : 0;
}

void inplace_guard(struct core *c)
{
	uint64_t since = atomic_load(&c->lane[0].inplace.since_ns);
	uint64_t expired;

	if (read(c->balance.guard_fd, &expired, sizeof(expired)) < 0) {
		/* EAGAIN: set anew meanwhile */
	}
	if (since && balance_now_ns() - since > GUARD_NS / 2 - 100000)
		balance_help(c);
}
