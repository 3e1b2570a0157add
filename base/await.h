/* base/await.h - wait for a child process, up to a deadline. Threads: any. Blocks: up to the deadline; its end is noticed at once where
 * the kernel has a descriptor to spare for it. Errors: as said. */
#ifndef STILLFS_BASE_AWAIT_H
#define STILLFS_BASE_AWAIT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* The child exits with 0 or an errno. *ended true: it has, and is collected; 0, its -errno, -EIO when a signal ended it, or
 * -ECHILD: somebody else has collected it. *ended false: it goes on and is still the caller's to kill and to collect;
 * -ETIMEDOUT at deadline_ns (CLOCK_BOOTTIME), or -ECANCELED some milliseconds after *stop is not 0 (NULL: nothing stops it). */
int await_child(pid_t pid, uint64_t deadline_ns, const _Atomic int *stop, bool *ended);

#endif
