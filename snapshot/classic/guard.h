/* snapshot/classic/guard.h - freezes filesystems in a process of its own, which outlives the program that asked: it thaws
 * when asked, at the deadline, and when the program has died in any way. When the guard itself dies, the program thaws.
 * Threads: guard_start before any thread is started; the rest from one thread.
 * Blocks:  as said; touches no file while something is frozen.
 * Errors:  -errno with the sentence. Somebody else's freeze (EBUSY) is never thawed. */
#ifndef STILLFS_SNAPSHOT_CLASSIC_GUARD_H
#define STILLFS_SNAPSHOT_CLASSIC_GUARD_H

#include "base/error.h"
#include "base/fsfreeze.h"

#define GUARD_MAX FSFREEZE_MAX /* filesystems */

struct guard; /* body in guard.c */

/* Start the process. fd[i]: a directory on each filesystem, name[i] for sentences; borrowed. NULL: *err. */
struct guard *guard_start(unsigned n, const int *fd, const char *const *name, struct snap_error *err);
/* FIFREEZE all, in their order; on failure none stays frozen. deadline_ns (CLOCK_BOOTTIME): when they are thawed in any case,
 * also while the freeze is still being made. -EBUSY, -EOPNOTSUPP, -ETIMEDOUT. Blocks until the deadline at the most. */
int guard_freeze(struct guard *g, uint64_t deadline_ns, struct snap_error *err);
/* Thaw. 0: they were frozen until now; -ETIMEDOUT: they had been thawed before, at the deadline or by somebody. Returns
 * when nothing is frozen any more, which takes as long as the kernel takes. Harmless when nothing was frozen: 0. */
int guard_thaw(struct guard *g, struct snap_error *err);
struct guard *guard_end(struct guard *g); /* thaws, ends the process, frees; NULL is harmless; returns NULL */

#endif
