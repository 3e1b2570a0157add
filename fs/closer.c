/* fs/closer.c - closes descriptors of the backing away from the data path, and never at a closed gate.
 * The last close of a file can write (XFS frees preallocation; an unlinked inode is freed) and
 * blocks on a frozen filesystem. So RELEASE and FORGET are answered at once and closed here.
 * Owns:      one thread; open files between RELEASE and the close; loose descriptors.
 * Threads:   any may hand over, which never blocks and never allocates: open files are chained through
 *            their slots, loose descriptors go to a ring with a place for each that can be open.
 * Errors:    a failed close of a file that was fsynced or not is nobody's to see: as close(2) on exit. */
#include "fs/core_int.h"
#include "base/fault.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define CLOSER_LANE (MAX_LANES + MAX_WORKERS)
#define LOOSE_MAX (1u << 20) /* as many as descriptors can be open */

struct closer {
	struct core *core;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t work;
	uint32_t first, last; /* open files, chained by .next; 0: none */
	int *loose; /* a ring */
	uint32_t loose_head, loose_n;
	uint64_t waiting;
	bool stopping, runs;
};

void closer_file(struct closer *x, uint32_t i)
{
	(void)pthread_mutex_lock(&x->lock);
	ofile_slot(x->core->nodes, i)->next = 0;
	if (x->last)
		ofile_slot(x->core->nodes, x->last)->next = i;
	else
		x->first = i;
	x->last = i;
	x->waiting++;
	(void)pthread_cond_signal(&x->work);
	(void)pthread_mutex_unlock(&x->lock);
}

void closer_fd(struct closer *x, int fd)
{
	if (fd < 0)
		return;
	(void)pthread_mutex_lock(&x->lock);
	/* cannot overflow: the ring has a place for every descriptor that RLIMIT_NOFILE allows */
	x->loose[(x->loose_head + x->loose_n++) % LOOSE_MAX] = fd;
	x->waiting++;
	(void)pthread_cond_signal(&x->work);
	(void)pthread_mutex_unlock(&x->lock);
}

uint64_t closer_waiting(struct closer *x)
{
	uint64_t n;

	(void)pthread_mutex_lock(&x->lock);
	n = x->waiting;
	(void)pthread_mutex_unlock(&x->lock);
	return n;
}

/* Take one thing to close. Caller holds the lock. */
static bool take(struct closer *x, uint32_t *file, int *fd)
{
	*file = x->first;
	*fd = -1;
	if (x->first) {
		x->first = ofile_slot(x->core->nodes, x->first)->next;
		if (!x->first)
			x->last = 0;
	} else if (x->loose_n) {
		*fd = x->loose[x->loose_head];
		x->loose_head = (x->loose_head + 1) % LOOSE_MAX;
		x->loose_n--;
	} else {
		return false;
	}
	x->waiting--;
	return true;
}

/* Out of the table first: a successor closes what no table names, and must not close a number that
 * is somebody else's by then. */
static void close_in(_Atomic int32_t *at)
{
	int fd = *at;

	*at = -1;
	FAULT("closer.out");
	if (fd >= 0)
		(void)close(fd);
	FAULT("closer.closed");
}

static void close_one(struct closer *x, uint32_t file, int fd)
{
	struct ofile *f;

	if (file) {
		f = ofile_slot(x->core->nodes, file);
		close_in(&f->fd_buf);
		close_in(&f->fd_dir);
		ofile_drop(x->core->nodes, file);
	} else {
		(void)close(fd);
	}
}

static void *closer_run(void *arg)
{
	struct closer *x = arg;
	struct gate *g = x->core->gate;
	bool entered;
	uint32_t file;
	int fd;

	(void)pthread_setname_np(pthread_self(), "closer");
	(void)pthread_mutex_lock(&x->lock);
	for (;;) {
		if (!x->first && !x->loose_n) {
			if (x->stopping)
				break;
			(void)pthread_cond_wait(&x->work, &x->lock);
			continue;
		}
		(void)pthread_mutex_unlock(&x->lock);
		/* counted as modifying, so that the drain waits for it */
		entered = false;
		while (!(entered = gate_enter(g, CLOSER_LANE)) && gate_wait_open(g))
			;
		(void)pthread_mutex_lock(&x->lock);
		if (take(x, &file, &fd)) {
			(void)pthread_mutex_unlock(&x->lock);
			close_one(x, file, fd);
			(void)pthread_mutex_lock(&x->lock);
		}
		if (entered)
			gate_leave(g, CLOSER_LANE);
	}
	(void)pthread_mutex_unlock(&x->lock);
	return NULL;
}

/* What a dead daemon had not closed yet. */
static void inherit(struct closer *x)
{
	struct core *c = x->core;

	for (uint32_t i = 1; i < ofile_used(c->nodes); i++) {
		struct ofile *f = ofile_slot(c->nodes, i);

		if (f->node && f->closing)
			closer_file(x, i);
	}
	for (size_t i = 0; i < c->n_held; i++)
		closer_fd(x, c->held[i]);
	free(c->held);
	c->held = NULL;
	c->n_held = 0;
}

struct closer *closer_start(struct core *c)
{
	struct closer *x = calloc(1, sizeof(*x));
	int r;

	if (!x)
		return NULL;
	x->core = c;
	x->loose = calloc(LOOSE_MAX, sizeof(int)); /* touched as used */
	(void)pthread_mutex_init(&x->lock, NULL);
	(void)pthread_cond_init(&x->work, NULL);
	if (x->loose)
		inherit(x);
	r = x->loose ? pthread_create(&x->thread, NULL, closer_run, x) : ENOMEM;
	x->runs = r == 0;
	if (r) {
		closer_stop(x);
		errno = r;
		return NULL;
	}
	return x;
}

void closer_stop(struct closer *x)
{
	if (!x)
		return;
	(void)pthread_mutex_lock(&x->lock);
	x->stopping = true;
	(void)pthread_cond_signal(&x->work);
	(void)pthread_mutex_unlock(&x->lock);
	if (x->runs)
		(void)pthread_join(x->thread, NULL);
	(void)pthread_cond_destroy(&x->work);
	(void)pthread_mutex_destroy(&x->lock);
	free(x->loose);
	free(x);
}
