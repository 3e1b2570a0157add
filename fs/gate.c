/* fs/gate.c - the write gate: admits modifying operations, parks them while closed.
 * Owns:      state (open, closing, closed), counts in flight, the parked list, the gate timer.
 * Called by: the transport around each modifying request; core.c for the operator, core_door.c for the engine.
 * Threads:   as gate.h says. One mutex guards state changes and the parked list; entering and
 *            leaving take it only while the gate is closing.
 * Blocks:    gate_close until drained or out of time; gate_wait_open; nothing else.
 * Errors:    -errno. Allocates only in gate_new; never logs. */
#include "fs/gate.h"
#include "base/clock.h"
#include "base/fault.h"
#include "fs/procsig.h"
#include "fs/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TICK_MS 50u /* heartbeat; the keeper misses us after 3 x 100 ms */
#define KILL_TICK_MS 20u /* how often interrupted callers are looked at */
#define EARLY_MAX 256u /* interrupts that came before their request was parked */
#define KILL_BATCH 32u

/* Counts of one thread: monotonic, a cache line each, so that the hot path shares none. */
struct gate_lane {
	_Alignas(64) _Atomic uint64_t entered;
	_Alignas(64) _Atomic uint64_t left;
};

/* Each connection numbers its own. */
struct request {
	uint64_t unique;
	uint32_t conn;
};

struct gate {
	struct gate_lane lanes[GATE_MAX_LANES];
	_Alignas(64) _Atomic uint32_t state; /* enum gate_state; changed under lock only */
	_Atomic bool frozen;
	_Atomic uint64_t parked_bytes;
	uint64_t budget_b;
	struct shm_head *shm;
	struct gate_hooks hooks;
	pthread_mutex_t lock;
	pthread_cond_t drained; /* a lane left while closing */
	pthread_cond_t opened; /* state became open */
	pthread_cond_t tick; /* wakes the timer: a new deadline, an interrupt, or the end */
	/* under lock: */
	uint64_t gen, deadline_ns;
	struct gate_node *head, **tail;
	uint64_t parked, parked_peak, parked_total, interrupted, by_deadline;
	struct request early[EARLY_MAX];
	unsigned n_early, early_next;
	bool stopping, timer_runs;
	pthread_t timer;
};

static void cond_init_monotonic(pthread_cond_t *c)
{
	pthread_condattr_t a;

	(void)pthread_condattr_init(&a);
	(void)pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
	(void)pthread_cond_init(c, &a);
	(void)pthread_condattr_destroy(&a);
}

/* Wait on c for at most `ms`; the caller looks at BOOTTIME itself afterwards. */
static void cond_wait_ms(pthread_cond_t *c, pthread_mutex_t *m, uint32_t ms)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += ms / 1000;
	t.tv_nsec += (long)(ms % 1000) * 1000000;
	if (t.tv_nsec >= 1000000000) {
		t.tv_sec++;
		t.tv_nsec -= 1000000000;
	}
	(void)pthread_cond_timedwait(c, m, &t);
}

static void gate_publish(struct gate *g, enum gate_state s)
{
	atomic_store(&g->state, (uint32_t)s);
	FAULT("gate.deadline");
	if (s != GATE_OPEN) /* a closed gate without a deadline must not be seen */
		atomic_store(&g->shm->gate_deadline_ns, g->deadline_ns);
	atomic_store(&g->shm->gate_state, (uint32_t)s);
	FAULT("gate.state");
	if (s == GATE_OPEN)
		atomic_store(&g->shm->gate_deadline_ns, 0);
}

struct gate *gate_new(struct shm_head *shm, const struct gate_hooks *hooks, uint64_t budget_b)
{
	struct gate *g = aligned_alloc(64, (sizeof(*g) + 63) / 64 * 64);

	if (!g)
		return NULL;
	memset(g, 0, sizeof(*g));
	g->shm = shm;
	g->hooks = *hooks;
	g->budget_b = budget_b;
	g->gen = shm->gate_gen;
	if (shm->gate_state == GATE_CLOSED) { /* a dead daemon's: same deadline; what was parked is sent again */
		g->state = GATE_CLOSED;
		g->deadline_ns = shm->gate_deadline_ns;
	} else {
		gate_publish(g, GATE_OPEN);
	}
	g->tail = &g->head;
	(void)pthread_mutex_init(&g->lock, NULL);
	cond_init_monotonic(&g->drained);
	cond_init_monotonic(&g->opened);
	cond_init_monotonic(&g->tick);
	return g;
}

void gate_free(struct gate *g)
{
	if (!g)
		return;
	(void)pthread_cond_destroy(&g->drained);
	(void)pthread_cond_destroy(&g->opened);
	(void)pthread_cond_destroy(&g->tick);
	(void)pthread_mutex_destroy(&g->lock);
	free(g);
}

/* Increment first, look second: the closer stores the flag first and looks at the counters second,
 * so one of the two always sees the other (both sequentially consistent). */
bool gate_enter(struct gate *g, unsigned lane)
{
	atomic_fetch_add(&g->lanes[lane].entered, 1);
	if (atomic_load(&g->state) == GATE_OPEN)
		return true;
	gate_leave(g, lane);
	return false;
}

void gate_leave(struct gate *g, unsigned lane)
{
	atomic_fetch_add(&g->lanes[lane].left, 1);
	if (atomic_load(&g->state) == GATE_CLOSING) {
		(void)pthread_mutex_lock(&g->lock);
		(void)pthread_cond_signal(&g->drained);
		(void)pthread_mutex_unlock(&g->lock);
	}
}

/* Operations in flight, never too few: `left` is read before `entered`, both only grow, so an
 * operation that is counted out was counted in before. */
static uint64_t gate_inflight(const struct gate *g)
{
	uint64_t left = 0, entered = 0;

	for (unsigned i = 0; i < GATE_MAX_LANES; i++)
		left += atomic_load(&g->lanes[i].left);
	for (unsigned i = 0; i < GATE_MAX_LANES; i++)
		entered += atomic_load(&g->lanes[i].entered);
	return entered - left;
}

bool gate_is_open(const struct gate *g)
{
	return atomic_load(&g->state) == GATE_OPEN;
}

bool gate_frozen(const struct gate *g)
{
	return atomic_load(&g->frozen);
}

bool gate_full(const struct gate *g)
{
	return atomic_load_explicit(&g->parked_bytes, memory_order_relaxed) > g->budget_b;
}

static bool is_request(const struct gate_node *n, struct request r)
{
	return n->unique == r.unique && n->conn == r.conn;
}

/* Was an interrupt for it seen before it was parked? Forgets it. Caller holds the lock. */
static bool early_take(struct gate *g, const struct gate_node *n)
{
	for (unsigned i = 0; i < g->n_early; i++)
		if (is_request(n, g->early[i])) {
			g->early[i] = (struct request){ 0 };
			return true;
		}
	return false;
}

bool gate_park(struct gate *g, struct gate_node *n, enum gate_class class)
{
	bool held;

	(void)pthread_mutex_lock(&g->lock);
	/* The opener clears state and frozen under this lock: looked at again here, or a request parked
	 * just after opening would sleep until the next snapshot. */
	held = class == GATE_SYNC ? atomic_load(&g->frozen) :
				    atomic_load(&g->state) != GATE_OPEN;
	if (held) {
		n->next = NULL;
		n->looked_at = false;
		n->interrupted = g->n_early && early_take(g, n);
		g->interrupted += n->interrupted;
		*g->tail = n;
		g->tail = &n->next;
		atomic_fetch_add(&g->parked_bytes, n->bytes);
		g->parked_total++;
		if (++g->parked > g->parked_peak)
			g->parked_peak = g->parked;
	}
	(void)pthread_mutex_unlock(&g->lock);
	return held;
}

void gate_interrupt(struct gate *g, uint32_t conn, uint64_t unique)
{
	const struct request r = { unique, conn };
	struct gate_node *n;

	if (gate_is_open(g) && !gate_frozen(g))
		return; /* nothing is parked, and what is in flight ends by itself */
	(void)pthread_mutex_lock(&g->lock);
	for (n = g->head; n && !is_request(n, r); n = n->next)
		;
	if (n && !n->interrupted) {
		n->interrupted = true;
		g->interrupted++;
		(void)pthread_cond_signal(&g->tick);
	} else if (!n) {
		/* another thread may be about to park it */
		g->early[g->early_next] = r;
		g->early_next = (g->early_next + 1) % EARLY_MAX;
		if (g->n_early < EARLY_MAX)
			g->n_early++;
	}
	(void)pthread_mutex_unlock(&g->lock);
}

/* Open and let everything go. Caller holds the lock; returns with it released. */
static void gate_open_unlock(struct gate *g)
{
	struct gate_node *first = g->head;

	g->head = NULL;
	g->tail = &g->head;
	g->parked = 0;
	g->interrupted = 0;
	g->n_early = 0;
	g->early_next = 0;
	g->deadline_ns = 0;
	atomic_store(&g->parked_bytes, 0);
	atomic_store(&g->frozen, false);
	g->shm->gate_by = SHM_GATE_ENGINE;
	gate_publish(g, GATE_OPEN);
	(void)pthread_cond_broadcast(&g->opened);
	(void)pthread_cond_broadcast(&g->drained);
	(void)pthread_mutex_unlock(&g->lock);
	if (first)
		g->hooks.resubmit(g->hooks.arg, first);
}

int gate_close(struct gate *g, uint32_t drain_ms, uint32_t hold_ms, const _Atomic int *abort_flag, struct gate_ticket *t)
{
	uint64_t now = clock_boot_ns(), give_up = now + drain_ms * NS_PER_MS, gen, left;
	bool aborted;

	if (drain_ms < 1 || drain_ms > 60000 || hold_ms < 1 || hold_ms > GATE_MAX_MS)
		return -EINVAL;
	(void)pthread_mutex_lock(&g->lock);
	if (!gate_is_open(g) || g->stopping) {
		(void)pthread_mutex_unlock(&g->lock);
		return -EBUSY;
	}
	gen = ++g->gen;
	g->shm->gate_gen = gen;
	g->deadline_ns = now + hold_ms * NS_PER_MS;
	gate_publish(g, GATE_CLOSING);
	(void)pthread_cond_signal(&g->tick);
	/* seen at zero once is drained: what is counted after that only looks in and leaves (gate_enter) */
	while ((left = gate_inflight(g)) && clock_boot_ns() < give_up && g->gen == gen &&
	       atomic_load(&g->state) == GATE_CLOSING && !(abort_flag && atomic_load(abort_flag)))
		/* every leave signals; the short bound is for one that read the state just before, and for an abort */
		cond_wait_ms(&g->drained, &g->lock, 2);
	aborted = abort_flag && atomic_load(abort_flag);
	if (g->gen != gen || atomic_load(&g->state) != GATE_CLOSING) {
		(void)pthread_mutex_unlock(&g->lock); /* opened by deadline or operator */
		return -ETIMEDOUT;
	}
	if (left || aborted) {
		gate_open_unlock(g);
		return aborted ? -ECANCELED : -ETIMEDOUT;
	}
	gate_publish(g, GATE_CLOSED);
	*t = (struct gate_ticket){ .gen = gen, .closed_ns = clock_boot_ns(),
				   .deadline_ns = g->deadline_ns };
	(void)pthread_mutex_unlock(&g->lock);
	return 0;
}

uint32_t gate_left_ms(struct gate *g, const struct gate_ticket *t)
{
	bool ours;

	(void)pthread_mutex_lock(&g->lock);
	ours = g->gen == t->gen && !gate_is_open(g);
	(void)pthread_mutex_unlock(&g->lock);
	return ours ? clock_left_ms(t->deadline_ns) : 0;
}

int gate_open(struct gate *g, const struct gate_ticket *t)
{
	(void)pthread_mutex_lock(&g->lock);
	if (g->gen != t->gen || gate_is_open(g)) {
		(void)pthread_mutex_unlock(&g->lock);
		return -ETIMEDOUT;
	}
	gate_open_unlock(g);
	return 0;
}

int gate_open_any(struct gate *g)
{
	(void)pthread_mutex_lock(&g->lock);
	if (gate_is_open(g))
		(void)pthread_mutex_unlock(&g->lock);
	else
		gate_open_unlock(g);
	return 0;
}

void gate_set_frozen(struct gate *g, bool frozen)
{
	(void)pthread_mutex_lock(&g->lock);
	/* parked fsyncs stay parked after a thaw until the gate opens, a moment later */
	if (!gate_is_open(g))
		atomic_store(&g->frozen, frozen);
	(void)pthread_mutex_unlock(&g->lock);
}

bool gate_wait_open(struct gate *g)
{
	bool go;

	(void)pthread_mutex_lock(&g->lock);
	while (!gate_is_open(g) && !g->stopping)
		cond_wait_ms(&g->opened, &g->lock, 1000);
	go = !g->stopping;
	(void)pthread_mutex_unlock(&g->lock);
	return go;
}

void gate_get_status(struct gate *g, struct gate_status *out)
{
	(void)pthread_mutex_lock(&g->lock);
	*out = (struct gate_status){
		.state = (enum gate_state)atomic_load(&g->state),
		.gen = g->gen,
		.deadline_ns = g->deadline_ns,
		.inflight = gate_inflight(g),
		.parked = g->parked,
		.parked_bytes = atomic_load(&g->parked_bytes),
		.parked_peak = g->parked_peak,
		.parked_total = g->parked_total,
		.opened_by_deadline = g->by_deadline,
	};
	(void)pthread_mutex_unlock(&g->lock);
}

/* ---- the gate timer ---- */

/* Take the parked request off the list. Caller holds the lock. */
static struct gate_node *parked_take(struct gate *g, struct request r)
{
	for (struct gate_node **p = &g->head; *p; p = &(*p)->next) {
		struct gate_node *n = *p;

		if (!is_request(n, r))
			continue;
		*p = n->next;
		if (!n->next)
			g->tail = p;
		g->parked--;
		g->interrupted -= n->interrupted;
		atomic_fetch_sub(&g->parked_bytes, n->bytes);
		return n;
	}
	return NULL;
}

/* Free those callers that are being killed, a batch of those interrupted at a time: INTERRUPT comes for any signal, and a
 * write to a regular file must not fail with EINTR for one that the caller survives. Caller holds the lock, which is
 * dropped meanwhile. */
static void reap_killed(struct gate *g)
{
	struct {
		struct request r;
		uint32_t pid;
	} seen[KILL_BATCH];
	unsigned n_seen = 0;
	struct gate_node *n;

	for (n = g->head; n && n_seen < KILL_BATCH; n = n->next)
		if (n->interrupted && !n->looked_at) {
			seen[n_seen].r = (struct request){ n->unique, n->conn };
			seen[n_seen++].pid = n->pid;
			n->looked_at = true;
		}
	for (n = n ? NULL : g->head; n; n = n->next)
		n->looked_at = false; /* that was the last of them: from the first again */
	(void)pthread_mutex_unlock(&g->lock);
	for (unsigned i = 0; i < n_seen; i++) {
		if (procsig_of(seen[i].pid) != PROCSIG_DIES)
			continue;
		(void)pthread_mutex_lock(&g->lock);
		n = parked_take(g, seen[i].r);
		(void)pthread_mutex_unlock(&g->lock);
		if (n)
			g->hooks.kill(g->hooks.arg, n);
	}
	(void)pthread_mutex_lock(&g->lock);
}

static void *gate_timer(void *arg)
{
	struct gate *g = arg;
	uint32_t ms;

	(void)pthread_setname_np(pthread_self(), "gate-timer");
	(void)pthread_mutex_lock(&g->lock);
	while (!g->stopping) {
		atomic_store(&g->shm->heartbeat_ns, clock_boot_ns());
		if (!gate_is_open(g) && clock_boot_ns() >= g->deadline_ns) {
			g->by_deadline++;
			gate_open_unlock(g);
			(void)pthread_mutex_lock(&g->lock);
			continue;
		}
		ms = TICK_MS;
		if (g->hooks.tick) {
			(void)pthread_mutex_unlock(&g->lock);
			g->hooks.tick(g->hooks.arg);
			(void)pthread_mutex_lock(&g->lock);
		}
		if (g->interrupted) {
			reap_killed(g);
			ms = KILL_TICK_MS;
		}
		if (!gate_is_open(g) && clock_left_ms(g->deadline_ns) < ms)
			ms = clock_left_ms(g->deadline_ns);
		if (ms && !g->stopping)
			cond_wait_ms(&g->tick, &g->lock, ms);
	}
	(void)pthread_mutex_unlock(&g->lock);
	return NULL;
}

int gate_start(struct gate *g)
{
	int r = pthread_create(&g->timer, NULL, gate_timer, g);

	g->timer_runs = r == 0;
	return -r;
}

void gate_stop(struct gate *g)
{
	(void)gate_open_any(g);
	(void)pthread_mutex_lock(&g->lock);
	g->stopping = true;
	(void)pthread_cond_broadcast(&g->tick);
	(void)pthread_cond_broadcast(&g->opened);
	(void)pthread_mutex_unlock(&g->lock);
	if (g->timer_runs)
		(void)pthread_join(g->timer, NULL);
	g->timer_runs = false;
}
