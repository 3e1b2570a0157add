/* fs/seal.h - the mounts unwritable (fence "on hard"): every operation that would change a backing gets EROFS, until it is
 * taken away. Never set while a process has a file open, so that a server that runs is never hit; who would keep it over
 * processes is the engine (base/door.h).
 * Threads: any. Blocks: seal_door only. */
#ifndef STILLFS_FS_SEAL_H
#define STILLFS_FS_SEAL_H

#include "base/error.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct lane;
struct rq;

struct seal {
	_Atomic bool on;
	_Atomic uint64_t refused; /* operations, since it was set */
	pthread_mutex_t lock;
	bool named; /* who is filled; under lock, as who */
	char who[64];
};

static inline bool seal_stands(const struct seal *s)
{
	return atomic_load_explicit(&s->on, memory_order_acquire);
}

void seal_init(struct seal *s);
/* Would this request change a backing, or open a file for that? Then it is answered. Lanes, after the gate has let it in. */
bool seal_refuses(struct lane *l, struct rq *r);

/* As door_ops has them; fs is the core. */
int seal_door(void *fs, bool on, struct snap_error *err);
uint64_t seal_refused(void *fs, char *who, size_t cap);

#endif
