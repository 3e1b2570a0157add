/* fs/core_door.c - the door to the engine: gate, freeze and seal, as door.h has them.
 * Owns:      nothing.
 * Called by: the engine, through core_door_ops.
 * Threads:   the engine's. Blocks: until the gate has drained; until the keeper has answered, at most the time that is given.
 * Errors:    -errno with the operator's sentence. */
#include "fs/core_int.h"
#include "base/clock.h"

#include <errno.h>
#include <string.h>

static int door_gate_close(void *fs, uint32_t drain_ms, uint32_t hold_ms, const _Atomic int *abort_flag,
			   struct gate_ticket *t)
{
	return gate_close(((struct core *)fs)->gate, drain_ms, hold_ms, abort_flag, t);
}

static uint32_t door_gate_left_ms(void *fs, const struct gate_ticket *t)
{
	return gate_left_ms(((struct core *)fs)->gate, t);
}

static int door_gate_open(void *fs, const struct gate_ticket *t)
{
	return gate_open(((struct core *)fs)->gate, t);
}

/* Ask the keeper and wait for its answer: want is odd for freeze, even for thaw. */
static int ask_keeper(struct core *c, uint32_t want, uint32_t max_ms)
{
	struct shm_freeze *f = &c->shm->freeze;
	uint64_t give_up = clock_boot_ns() + max_ms * NS_PER_MS;
	uint32_t seen;

	atomic_store(&f->want, want);
	shm_wake(&f->want);
	while ((seen = atomic_load(&f->done)) != want) {
		if (clock_boot_ns() > give_up)
			return -ETIMEDOUT;
		shm_wait(&f->done, seen, 10);
	}
	return atomic_load(&f->result);
}

static int door_thaw(void *fs, struct snap_error *err)
{
	struct core *c = fs;
	uint32_t want = atomic_load(&c->shm->freeze.want);
	int r;

	if (!(want & 1))
		return 0;
	r = ask_keeper(c, want + 1, 5000);
	gate_set_frozen(c->gate, false);
	if (r < 0)
		snap_error_set(err, r, "thaw the backing: %s",
			       r == -ETIMEDOUT ? "the keeper had thawed it before" : strerror(-r));
	return r;
}

static int door_freeze(void *fs, uint32_t max_ms, struct snap_error *err)
{
	struct core *c = fs;
	struct shm_freeze *f = &c->shm->freeze;
	uint32_t want = atomic_load(&f->want);
	int64_t at;
	int r;

	if (gate_is_open(c->gate) || want & 1)
		return snap_error_set(err, -EINVAL, "freeze the backing: the gate is not closed");
	gate_set_frozen(c->gate, true); /* first: no fsync may reach the frozen filesystem */
	atomic_store(&f->deadline_ns, clock_boot_ns() + max_ms * NS_PER_MS);
	r = ask_keeper(c, want + 1, max_ms);
	if (r == 0)
		return 0;
	at = atomic_load(&f->sysfail);
	snap_error_set(err, r, r == -EBUSY ? "freeze %s: somebody else has frozen it; thaw it (fsfreeze -u) "
					     "and try again" :
			       r == -ETIMEDOUT ? "freeze %s: not done in time; it is thawed again" :
						 "freeze %s: refused by the kernel; set freeze=no",
		       c->mnt[at >= 0 && at < c->n_mnt ? at : 0].pair->backing);
	(void)door_thaw(c, NULL);
	gate_set_frozen(c->gate, false);
	return r;
}

void core_door_ops(struct core *c, struct door_ops *ops, void **fs)
{
	*ops = (struct door_ops){
		.gate_close = door_gate_close,
		.gate_left_ms = door_gate_left_ms,
		.gate_open = door_gate_open,
		.freeze = door_freeze,
		.thaw = door_thaw,
		.seal = seal_door,
		.refused = seal_refused,
	};
	*fs = c;
}
