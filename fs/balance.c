/* fs/balance.c - how many lanes fetch requests: as few as keep up; and how long one looks before it sleeps.
 * Owns:      nothing; the number of active lanes and lane 0's struct balance.
 * Called by: the lanes (lane.c), around their sleeps and once a turn.
 * Threads:   a lane publishes how long it was awake; lane 0 decides, and the gate timer when lane 0 is stuck.
 * Blocks:    never; allocates and logs nothing.
 *
 * Why: a lane that is awake takes the next request without being woken and batches its system calls. Requests
 * spread over two half-idle lanes cost a wake-up each instead, and the CPU that those burn is the database's
 * (docs/performance.md has the measurement). So lane 0 works alone until it is awake nearly all of the time while
 * the CPUs have time left for another: if it had to wait for its CPU, another lane would only take one from
 * the database. Or until many requests are at the backing while CPUs are idle (second_pays). */
#include "fs/core_int.h"
#include "base/clock.h"

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define WINDOW_NS 5000000ull
#define SATURATED_PCT 90u /* of the active lanes' time */
#define SLACK_PCT 60u /* of the time of one lane fewer */
#define OWN_CPU_PCT 80u /* of its waking time a lane must really have run, or the CPUs are short */
#define GROW_AFTER 2u /* windows */
#define SHRINK_AFTER 10u
#define HELP_WINDOWS 4u
#define DEEP 6u /* requests at the backing at once */
#define STUCK_NS 20000000ull /* in one turn of lane 0 */

/* Spinning: an idle CPU takes tens of microseconds to wake, more than a fast device needs for a request. Each
 * look is followed by sched_yield, so that whoever wants this CPU has it at once: the block layer's worker, or the
 * client itself. It ends where it would cost somebody something: a slower device (a cloud volume) under a single
 * caller misses SPIN_NS, and while the CPUs are busy a lane that yields waits its turn behind the others, where one
 * that slept would be let in at once. With several requests at the backing a look nearly always finds something and
 * costs more than it saves: the CPU that it takes is what the workers and callers of the others wait for. Nor is there
 * anything to save where idle CPUs poll (idlepoll.c). And who does something else between his requests has no use for a
 * lane that is awake for the backing's answer alone: looking pays where the next request comes soon as well. That is
 * learned for each kind of request, as a log's write is followed by its fsync at once, and that by nothing for long. */
#define SPIN_NS 80000u
#define SCORE_MAX 64u
#define MISS_COST 2u
#define SOON_MIN 8u
#define SLEPT_NS 120000u /* within this after a sleep: waking up a caller and a lane may have taken a third of it */
#define TRY_EACH 64u /* sleeps */
#define ALONE 1u /* requests at the backing */
#define SPARE_PCT 50u /* of one CPU: from here on there is time for a second lane */
#define SHORT_PCT 30u
#define AMPLE_PCT 100u /* and from here on to look */
#define AMPLE_NOT_PCT 70u

static uint64_t thread_cpu_ns(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

uint64_t balance_now_ns(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

void balance_init(struct core *c)
{
	atomic_store(&c->balance.n_active, 1);
	c->balance.tick_ns = NS_PER_S / (uint64_t)sysconf(_SC_CLK_TCK);
	c->balance.stat_fd = open("/proc/stat", O_RDONLY | O_CLOEXEC);
	c->balance.guard_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
}

void balance_free(struct core *c)
{
	if (c->balance.stat_fd > 0)
		(void)close(c->balance.stat_fd);
	if (c->balance.guard_fd > 0)
		(void)close(c->balance.guard_fd);
}

/* A lane that wakes does not push aside whoever runs on its CPU, but comes when that one sleeps or has used up its
 * slice: the completions of several requests are reaped in one go, and a caller who has just been answered is not
 * interrupted by the next answer. What the operator has chosen for the daemon (chrt, CPUSchedulingPolicy=) stays. */
void balance_policy(struct lane *l)
{
	const struct sched_param none = { 0 };

	if (sched_getscheduler(0) == SCHED_OTHER && sched_setscheduler(0, SCHED_BATCH, &none) < 0) {
		/* status names the policy that is in force */
	}
	l->policy = sched_getscheduler(0);
}

const char *balance_policy_name(const struct core *c)
{
	static const char *const names[] = { [SCHED_OTHER] = "other", [SCHED_FIFO] = "fifo", [SCHED_RR] = "rr",
					     [SCHED_BATCH] = "batch", [SCHED_IDLE] = "idle" };
	int p = c->lane[0].policy & ~SCHED_RESET_ON_FORK;

	return p >= 0 && (size_t)p < sizeof(names) / sizeof(*names) && names[p] ? names[p] : "unknown";
}

void balance_woke(struct lane *l)
{
	atomic_store_explicit(&l->awake_ns, balance_now_ns(), memory_order_relaxed);
}

static void sleeps_from(struct lane *l, uint64_t now)
{
	uint64_t since = atomic_load_explicit(&l->awake_ns, memory_order_relaxed);

	if (!since)
		return;
	count_add(&l->busy_ns, now - since);
	atomic_store_explicit(&l->awake_ns, 0, memory_order_relaxed);
}

void balance_sleeps(struct lane *l)
{
	sleeps_from(l, balance_now_ns());
}

/* Time awake up to now. Of another lane it may be off by the sleep that begins just now: no matter. */
static uint64_t busy_until(const struct lane *l, uint64_t now)
{
	uint64_t busy = atomic_load_explicit(&l->busy_ns, memory_order_relaxed);
	uint64_t since = atomic_load_explicit(&l->awake_ns, memory_order_relaxed);

	return since && since < now ? busy + (now - since) : busy;
}

/* Their number alone says it: a flag for each would be a second store, and what lane 0 and the watch do at the same time
 * could leave the number at two and the second lane without its flag. */
bool balance_active(const struct lane *l)
{
	return l->idx < atomic_load(&l->core->balance.n_active);
}

static void grow(struct core *c, unsigned n)
{
	struct lane *l = &c->lane[n];
	uint64_t one = 1;

	/* lane 0 and the watch may both want this: one of them does it, once there are lanes to wake */
	if (!atomic_load(&c->balance.all_run) ||
	    !atomic_compare_exchange_strong(&c->balance.n_active, &n, n + 1))
		return;
	if (write(l->efd, &one, sizeof(one)) < 0) {
		/* a full counter wakes it too */
	}
}

/* The lane that retires need not be told: it serves what it has polled for, and polls no more. */
static void shrink(struct core *c, unsigned n)
{
	(void)atomic_compare_exchange_strong(&c->balance.n_active, &n, n - 1); /* or somebody else has changed it */
}

/* How many requests were at the backing at once since the last time. Another lane may raise its own just now: no matter. */
static unsigned depth(struct core *c)
{
	unsigned all = 0;

	for (unsigned i = 0; i < c->n_lanes; i++)
		all += atomic_exchange_explicit(&c->lane[i].peak, 0, memory_order_relaxed);
	return all;
}

/* A second lane while CPUs are idle: what one of many callers waits for is the requests that the only lane serves before
 * his, and nobody wants the CPU that a second one takes. */
static bool second_pays(struct core *c, unsigned n)
{
	unsigned deep = depth(c); /* each time, as it begins anew */

	return n <= 2 && deep >= DEEP && atomic_load_explicit(&c->balance.spare_cpu, memory_order_relaxed);
}

static void decide(struct core *c, uint64_t span, uint64_t busy, bool short_of_cpu)
{
	struct balance *b = &c->balance;
	unsigned n = atomic_load(&b->n_active), windows = (unsigned)(span / WINDOW_NS);
	bool second = second_pays(c, n);

	if ((n == 1 && second) || (busy * 100 >= span * n * SATURATED_PCT && !short_of_cpu))
		b->saturated++;
	else
		b->saturated = 0;
	/* a window that was slept through says nothing about load: it is a slack one, as long as it was */
	if (n > 1 && !second && (busy * 100 < span * (n - 1) * SLACK_PCT || short_of_cpu))
		b->slack += windows < SHRINK_AFTER ? windows : SHRINK_AFTER;
	else
		b->slack = 0;
	if (b->saturated >= GROW_AFTER && n < c->n_lanes)
		grow(c, n);
	else if (b->slack >= SHRINK_AFTER)
		shrink(c, n);
	else
		return;
	b->saturated = b->slack = 0;
}

/* Lane 1 was only called for one call that took long. */
void balance_helped(struct core *c)
{
	struct balance *b = &c->balance;

	if (atomic_load_explicit(&b->n_active, memory_order_relaxed) == 2 && b->slack < SHRINK_AFTER - HELP_WINDOWS)
		b->slack = SHRINK_AFTER - HELP_WINDOWS;
}

void balance_turn(struct lane *l)
{
	struct core *c = l->core;
	struct balance *b = &c->balance;
	uint64_t now, busy = 0, own, cpu;

	if (l->idx)
		return;
	now = balance_now_ns();
	atomic_store_explicit(&b->turn_ns, now, memory_order_relaxed);
	if (c->n_lanes == 1 || now - b->start_ns < WINDOW_NS)
		return;
	for (unsigned i = 0; i < c->n_lanes; i++)
		busy += busy_until(&c->lane[i], now);
	own = busy_until(l, now);
	cpu = thread_cpu_ns();
	decide(c, now - b->start_ns, busy - b->busy_ns,
	       (cpu - b->own_cpu_ns) * 100 < (own - b->own_busy_ns) * OWN_CPU_PCT);
	b->start_ns = now;
	b->busy_ns = busy;
	b->own_busy_ns = own;
	b->own_cpu_ns = cpu;
}

/* Time that all CPUs together were idle since the start, in clock ticks; 0: not known. The first line is
 * "cpu user nice system idle iowait ...", proc(5). */
static uint64_t idle_ticks(int fd)
{
	char text[128], *p = text;
	uint64_t v[5] = { 0 };
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	if (n < 5)
		return 0;
	text[n] = '\0';
	p += strcspn(p, " ");
	for (int i = 0; i < 5; i++)
		v[i] = strtoull(p, &p, 10);
	return v[3] + v[4];
}

static void keep_flag(_Atomic bool *flag, unsigned pct, unsigned on, unsigned off)
{
	if (pct >= on)
		atomic_store(flag, true);
	else if (pct < off)
		atomic_store(flag, false);
}

/* Half a CPU that nobody wants, or a whole one, counting what the lanes burn in looking: a moving mean over a few ticks. As it
 * counts, the bound for looking must be well above what a lane burns, or a lane that looks would find a busy machine idle. */
static void look_at_load(struct core *c)
{
	struct balance *b = &c->balance;
	uint64_t now = balance_now_ns(), turn = atomic_load(&b->turn_ns), idle, spun = 0, pct;

	/* The file has a line for each CPU, made anew at each read: not for a mount that nobody uses. */
	if (turn == b->seen_turn_ns)
		return;
	b->seen_turn_ns = turn;
	idle = b->stat_fd < 0 ? 0 : idle_ticks(b->stat_fd) * b->tick_ns;
	if (idle && idle < b->idle_ns) /* the wait for I/O that is part of it may run backwards, proc(5) */
		idle = b->idle_ns;
	for (unsigned i = 0; i < c->n_lanes; i++)
		spun += c->lane[i].spin.cpu_ns;
	if (idle && b->looked_ns && now > b->looked_ns) {
		pct = (idle - b->idle_ns + spun - b->spun_ns) * 100 / (now - b->looked_ns); /* of one CPU */
		b->spare_pct = (b->spare_pct * 3 + (pct > 1000 ? 1000 : (unsigned)pct)) / 4;
		keep_flag(&b->spare_cpu, b->spare_pct, SPARE_PCT, SHORT_PCT);
		keep_flag(&b->ample_cpu, b->spare_pct, AMPLE_PCT, AMPLE_NOT_PCT);
	}
	b->looked_ns = now;
	b->idle_ns = idle;
	b->spun_ns = spun;
}

void balance_watch(struct core *c)
{
	uint64_t since = atomic_load(&c->lane[0].awake_ns), turn = atomic_load(&c->balance.turn_ns);

	look_at_load(c);
	/* nothing on a lane should block, but all requests would wait behind what does */
	if ((since && turn && balance_now_ns() - turn > STUCK_NS) || inplace_stuck_ms(&c->lane[0]) * 1000000 > STUCK_NS)
		balance_help(c);
}

void balance_help(struct core *c)
{
	if (atomic_load(&c->balance.n_active) == 1 && c->n_lanes > 1)
		grow(c, 1);
}

/* ---- spinning ---- */

static bool may_spin(const struct core *c)
{
	return atomic_load_explicit(&c->balance.ample_cpu, memory_order_relaxed) && !idlepoll_on(&c->idlepoll);
}

void balance_rests(struct lane *l)
{
	uint64_t now = balance_now_ns();

	sleeps_from(l, now);
	if (l->inflight || l->spin.rest_ns)
		return;
	l->spin.rest_ns = now;
	l->spin.looked = false;
}

void balance_came(struct lane *l, uint32_t opcode)
{
	struct spin *s = &l->spin;
	unsigned *soon = &s->soon[s->after];

	switch (opcode) {
	case FUSE_READ:
		s->after = AFTER_READ;
		break;
	case FUSE_WRITE:
		s->after = AFTER_WRITE;
		break;
	case FUSE_FSYNC:
		s->after = AFTER_FSYNC;
		break;
	default:
		s->after = AFTER_OTHER;
		break;
	}
	if (!s->rest_ns)
		return;
	if (lane_now(l) - s->rest_ns >= (s->looked ? SPIN_NS : SLEPT_NS))
		*soon -= *soon > 0;
	else
		*soon += *soon < SCORE_MAX;
	s->rest_ns = 0;
}

bool balance_quick(const struct lane *l)
{
	return l->spin.soon[l->spin.after] >= SOON_MIN && may_spin(l->core);
}

bool balance_spin_wanted(struct lane *l)
{
	struct spin *s = &l->spin;

	if (l->inflight > ALONE || !balance_quick(l))
		return false;
	return s->score || ++s->skipped % TRY_EACH == 0;
}

bool balance_event(const struct lane *l)
{
	return __atomic_load_n(l->ring.sq.kflags, __ATOMIC_ACQUIRE) & IORING_SQ_TASKRUN ||
	       io_uring_cq_ready(&l->ring);
}

void balance_spins(struct lane *l)
{
	l->spin.cpu0_ns = thread_cpu_ns();
	l->spin.looked = true;
}

void balance_spun(struct lane *l)
{
	if (l->spin.cpu0_ns)
		count_add(&l->spin.cpu_ns, thread_cpu_ns() - l->spin.cpu0_ns);
	l->spin.cpu0_ns = 0;
}

bool balance_looking(struct lane *l, uint64_t start)
{
	if (balance_event(l))
		return false;
	if (balance_now_ns() - start > SPIN_NS) {
		balance_looked(l, false);
		return false;
	}
	(void)sched_yield();
	return true;
}

void balance_looked(struct lane *l, bool found)
{
	struct spin *s = &l->spin;

	count_add(found ? &s->n_hits : &s->n_misses, 1);
	if (found && s->score < SCORE_MAX)
		s->score++;
	else if (!found)
		s->score = s->score > MISS_COST ? s->score - MISS_COST : 0;
}
