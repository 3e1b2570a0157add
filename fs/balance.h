/* fs/balance.h - how many lanes fetch requests, how long one looks before it sleeps, how it is scheduled; balance.c.
 * Private like core_int.h, which includes it. Threads: a lane calls for itself; lane 0 and the gate timer decide; what
 * is another thread's says so. Blocks: never. Units: nanoseconds of CLOCK_MONOTONIC. */
#ifndef STILLFS_FS_BALANCE_H
#define STILLFS_FS_BALANCE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct core;
struct lane;

/* Of lane 0, which decides for all. */
struct balance {
	uint64_t start_ns, busy_ns, own_busy_ns, own_cpu_ns; /* at the window's start */
	unsigned saturated, slack; /* windows in a row */
	_Atomic unsigned n_active;
	_Atomic uint64_t turn_ns; /* when lane 0 began its turn */
	int stat_fd; /* the watch's, and what it saw last */
	uint64_t tick_ns, looked_ns, idle_ns, spun_ns, seen_turn_ns;
	unsigned spare_pct; /* of one CPU */
	_Atomic bool spare_cpu; /* half a CPU and more */
	_Atomic bool ample_cpu; /* a whole one */
	int guard_fd; /* a timer that wakes lane 1 while lane 0 sits in a system call; see inplace.c */
	_Atomic bool all_run; /* every lane has been started */
};

/* Lane 0 always fetches. */
bool balance_active(const struct lane *l); /* does it fetch requests? Those that do are the first ones. Any thread */
void balance_init(struct core *c);
void balance_policy(struct lane *l); /* of scheduling; on the lane's own thread */
const char *balance_policy_name(const struct core *c);
void balance_free(struct core *c);
void balance_woke(struct lane *l); /* after a sleep */
void balance_turn(struct lane *l); /* once a turn: lane 0 decides */
void balance_sleeps(struct lane *l); /* before a sleep */
void balance_rests(struct lane *l); /* balance_sleeps where it has fetched all there was, before it looks or waits */
void balance_came(struct lane *l, uint32_t opcode); /* has fetched this */
bool balance_quick(const struct lane *l); /* will a request come soon, and has the machine a CPU for looking till then? */
bool balance_spin_wanted(struct lane *l); /* does looking before this sleep pay? */
bool balance_looking(struct lane *l, uint64_t start); /* look once more (after a yield), all being submitted? */
void balance_spins(struct lane *l); /* looking begins; balance_spun: it ends, or what was found is served */
void balance_spun(struct lane *l);
void balance_looked(struct lane *l, bool found);
bool balance_event(const struct lane *l); /* the ring has one */
void balance_helped(struct core *c); /* the call that balance_help was for has ended */
void balance_watch(struct core *c); /* from the gate timer: a lane that is stuck gets help */
void balance_help(struct core *c); /* lane 0 sits in a call: another lane fetches from now on */
uint64_t balance_now_ns(void);

#endif
