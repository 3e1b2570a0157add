/* fs/policy.c - how the kernel schedules the lanes.
 * Owns:      nothing.
 * Called by: a lane when it starts; the status.
 * Threads:   policy_set on the lane's own thread, before it serves; the rest any.
 * Blocks:    never.
 * Errors:    what the kernel refuses stays as it was, and the status names what is in force. */
#include "fs/core_int.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

/* struct sched_attr in its first size, sched_setattr(2): glibc has it since 2.41, and the kernel's header defines
 * struct sched_param a second time. */
struct attr {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

/* The shortest that the kernel gives (sched_attr.sched_runtime of a thread that is not a deadline's: the kernel takes
 * it since 6.12, an older one ignores it). Of those that want a CPU the one whose slice would be over first comes next, so a
 * lane need not wait until several clients have had the milliseconds of theirs; it seldom runs for as long as this. */
#define SLICE_NS 100000ull

/* SCHED_BATCH: a lane that wakes does not push aside whoever runs on its CPU, but comes when that one sleeps or has used up
 * its slice: the completions of several requests are reaped in one go, and a caller who has just been answered is not
 * interrupted by the next answer. What the operator has chosen for the daemon (chrt, CPUSchedulingPolicy=, nice) stays. The
 * ring's workers are made by the lane, and inherit this. */
static bool set_batch_and_slice(void)
{
	struct attr a = { .size = sizeof(a) };

	if (syscall(SYS_sched_getattr, 0, &a, sizeof(a), 0) < 0)
		return false;
	a.policy = SCHED_BATCH; /* its nice value stays */
	a.runtime = SLICE_NS;
	return syscall(SYS_sched_setattr, 0, &a, 0) == 0;
}

void policy_set(struct lane *l)
{
	const struct sched_param none = { 0 };
	struct attr a = { .size = sizeof(a) };

	if (sched_getscheduler(0) == SCHED_OTHER && !set_batch_and_slice() && sched_setscheduler(0, SCHED_BATCH, &none) < 0) {
		/* status names the policy that is in force */
	}
	l->policy = sched_getscheduler(0);
	if (l->policy == SCHED_BATCH && syscall(SYS_sched_getattr, 0, &a, sizeof(a), 0) == 0)
		l->slice_us = (unsigned)(a.runtime / 1000);
}

const char *policy_name(const struct lane *l)
{
	static const char *const names[] = { [SCHED_OTHER] = "other", [SCHED_FIFO] = "fifo", [SCHED_RR] = "rr",
					     [SCHED_BATCH] = "batch", [SCHED_IDLE] = "idle" };
	int p = l->policy & ~SCHED_RESET_ON_FORK;

	return p >= 0 && (size_t)p < sizeof(names) / sizeof(*names) && names[p] ? names[p] : "unknown";
}
