/* fs/idlepoll.h - idle CPUs poll instead of halting while operations come (option idle_poll); see idlepoll.c.
 * Threads: the gate timer; idlepoll_on and idlepoll_status are anybody's. Blocks: never. Errors: in `status`. */
#ifndef STILLFS_FS_IDLEPOLL_H
#define STILLFS_FS_IDLEPOLL_H

#include "base/vbuf.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct core;

struct idlepoll {
	bool wanted;
	int fd; /* where it is on */
	uint64_t looked_ns, seen; /* operations until then */
	unsigned slow; /* looks in a row */
	_Atomic bool on;
	_Atomic int error; /* why it cannot, or 0 */
};

void idlepoll_init(struct core *c);
void idlepoll_free(struct core *c); /* when the gate timer has ended */
void idlepoll_tick(struct core *c);
void idlepoll_status(const struct core *c, struct vbuf *out);

static inline bool idlepoll_on(const struct idlepoll *p)
{
	return atomic_load_explicit(&p->on, memory_order_relaxed);
}

#endif
