/* fs/pool.c - the pool of request slots, and the few that each lane keeps for itself.
 * Owns:      which slot is free. Their memory is the keeper's (tables.c): address space for all that may be parked,
 *            touched only as used.
 * Called by: lanes to take; whoever has answered a request, to give back.
 * Threads:   a lane's own list is its thread's; the pool's list is under one mutex, which a lane takes once for
 *            SLOTS_BATCH slots. Last in, first out: memory that was just used is used again.
 * Blocks:    never for long. Allocates in pool_new only.
 * Errors:    -ENOMEM with the operator's sentence. */
#include "fs/core_int.h"
#include "fs/tables.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define POOL_SPARE 1024u /* slots for what flows while max_parked requests wait */
#define SLOTS_BATCH 32u

static _Thread_local struct lane *mine;

static size_t slots(const struct conf *conf)
{
	return conf_num(conf, "max_parked") + POOL_SPARE;
}

size_t pool_size_b(const struct conf *conf)
{
	return (slots(conf) + MAX_LANES) * SLOT_STRIDE;
}

size_t pool_landing(const struct conf *conf, unsigned lane)
{
	return (slots(conf) + lane) * SLOT_STRIDE;
}

void pool_thread_is(struct lane *l)
{
	volatile unsigned char *p = l->core->pool_mem + pool_landing(l->core->conf, l->idx);

	mine = l;
	l->landing = l->core->pool_mem + pool_landing(l->core->conf, l->idx);
	for (size_t i = 0; i < SLOT_STRIDE; i += 4096)
		p[i] = 0;
}

int pool_new(struct core *c, struct snap_error *err)
{
	size_t n = slots(c->conf);

	c->pool_mem = c->tab->pool;
	c->rqs = calloc(n, sizeof(struct rq));
	if (!c->rqs)
		return snap_error_set(err, -ENOMEM,
				      "reserve address space for %zu requests: %s; lower max_parked", n,
				      strerror(ENOMEM));
	c->n_rqs = (uint32_t)n;
	for (size_t i = n; i-- > 0;) {
		struct rq *r = &c->rqs[i];

		r->core = c;
		r->buf = c->pool_mem + i * SLOT_STRIDE;
		r->next = c->pool_first;
		c->pool_first = r;
	}
	c->pool_left = c->n_rqs;
	return 0;
}

void pool_free(struct core *c)
{
	free(c->rqs);
}

/* Up to SLOTS_BATCH slots from the pool. */
static void refill(struct lane *l)
{
	struct core *c = l->core;
	unsigned n = 0;

	(void)pthread_mutex_lock(&c->pool_lock);
	for (struct rq *r; n < SLOTS_BATCH && (r = c->pool_first); n++) {
		c->pool_first = r->next;
		r->next = l->slots;
		l->slots = r;
	}
	(void)pthread_mutex_unlock(&c->pool_lock);
	atomic_fetch_sub_explicit(&c->pool_left, n, memory_order_relaxed);
	atomic_store_explicit(&l->n_slots, n, memory_order_relaxed);
}

struct rq *rq_get(struct lane *l)
{
	struct rq *r;

	if (!l->slots)
		refill(l);
	r = l->slots;
	if (r) {
		l->slots = r->next;
		atomic_store_explicit(&l->n_slots, l->n_slots - 1, memory_order_relaxed);
	}
	return r;
}

static void give(struct core *c, struct rq *first, struct rq *last, unsigned n)
{
	(void)pthread_mutex_lock(&c->pool_lock);
	last->next = c->pool_first;
	c->pool_first = first;
	(void)pthread_mutex_unlock(&c->pool_lock);
	atomic_fetch_add_explicit(&c->pool_left, n, memory_order_relaxed);
}

/* Half of a lane's slots go back, those used longest ago. */
static void spill(struct lane *l)
{
	struct rq *keep = l->slots, *last;

	for (unsigned i = 1; i < SLOTS_BATCH; i++)
		keep = keep->next;
	for (last = keep->next; last->next; last = last->next)
		;
	give(l->core, keep->next, last, l->n_slots - SLOTS_BATCH);
	keep->next = NULL;
	atomic_store_explicit(&l->n_slots, SLOTS_BATCH, memory_order_relaxed);
}

void rq_put(struct rq *r)
{
	struct lane *l = mine;

	if (!l) {
		give(r->core, r, r, 1);
		return;
	}
	r->next = l->slots;
	l->slots = r;
	atomic_store_explicit(&l->n_slots, l->n_slots + 1, memory_order_relaxed);
	if (l->n_slots >= 2 * SLOTS_BATCH)
		spill(l);
}

uint32_t pool_count(const struct core *c)
{
	uint32_t n = atomic_load(&c->pool_left);

	for (unsigned i = 0; i < c->n_lanes; i++)
		n += atomic_load(&c->lane[i].n_slots);
	return n;
}
