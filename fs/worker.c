/* fs/worker.c - threads for operations that may block: everything that is not a plain data request.
 * Owns:      the worker threads and their queue.
 * Called by: lanes, to push; libfuse's handlers run here, and answer before they return.
 * Threads:   up to MAX_WORKERS; FLOW_WORKERS of them never take a modifying operation, so that a backing
 *            that blocks writers does not stop lookups and reads of directories. Nor do those hold back what modifies,
 *            which a gate that closes waits for: MODIFY_FIRST of it go before them.
 * Blocks:    the workers do, in system calls on the backing; workers_push never. */
#include "fs/oplog.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct queue {
	struct rq *head, **tail;
};

struct worker_pool {
	struct core *core;
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct queue flow, modify;
	unsigned n, sleeping, modifying, max_modifying;
	bool stopping;
	pthread_t thread[MAX_WORKERS];
	struct worker_arg {
		struct worker_pool *p;
		unsigned gate_lane;
	} arg[MAX_WORKERS];
};

static _Thread_local struct rq *current;

struct rq *worker_current(void)
{
	return current;
}

static void queue_init(struct queue *q)
{
	q->head = NULL;
	q->tail = &q->head;
}

static void queue_put(struct queue *q, struct rq *r)
{
	r->next = NULL;
	*q->tail = r;
	q->tail = &r->next;
}

static struct rq *queue_get(struct queue *q)
{
	struct rq *r = q->head;

	q->head = r->next;
	if (!q->head)
		q->tail = &q->head;
	return r;
}

void workers_push(struct worker_pool *p, struct rq *r, enum rq_next step)
{
	bool wake;

	r->next_step = (uint8_t)step;
	(void)pthread_mutex_lock(&p->lock);
	queue_put(r->gated ? &p->modify : &p->flow, r);
	wake = p->sleeping > 0;
	(void)pthread_mutex_unlock(&p->lock);
	if (wake)
		(void)pthread_cond_signal(&p->work);
}

/* Its own flags, with or without O_DIRECT. Two workers may do it at once for one file: the loser closes its own. */
int file_open_other(struct core *c, uint64_t fh)
{
	struct ofile *f = ofile_at(c->nodes, fh);
	int other = -1, fd, empty = -1;
	_Atomic int32_t *want;
	char path[32];

	if (!f)
		return -EBADF;
	want = atomic_load(&f->fd_dir) < 0 ? &f->fd_dir : &f->fd_buf;
	other = want == &f->fd_dir ? f->fd_buf : f->fd_dir;
	if (other < 0)
		return -EBADF;
	/* from the other descriptor, so that it is the same file even if its node's is gone */
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", other);
	fd = open(path, (int)(want == &f->fd_dir ? f->flags | O_DIRECT : f->flags & ~(uint32_t)O_DIRECT) |
			O_CLOEXEC);
	if (fd < 0 && errno == EINVAL && want == &f->fd_dir)
		fd = fcntl(other, F_DUPFD_CLOEXEC, 0); /* no direct I/O on this backing */
	if (fd < 0)
		return -errno;
	if (!atomic_compare_exchange_strong(want, &empty, fd))
		(void)close(fd); /* never the last one */
	return 0;
}

static int open_missing(struct core *c, struct rq *r)
{
	return file_open_other(c, r->opcode == FUSE_READ ? ((struct fuse_read_in *)rq_args(r))->fh :
							   ((struct fuse_write_in *)rq_args(r))->fh);
}

/* Set-id bits go when somebody without CAP_FSETID writes; we have it, so the backing keeps them. */
static int kill_suid(struct core *c, struct rq *r)
{
	struct ofile *f = ofile_at(c->nodes, ((struct fuse_write_in *)rq_args(r))->fh);
	struct node *n = f ? node_at(c->nodes, f->node) : NULL;
	struct stat st;
	mode_t mode;
	int fd;

	if (!n)
		return -EBADF;
	fd = f->fd_buf >= 0 ? f->fd_buf : f->fd_dir;
	if (fstat(fd, &st) < 0)
		return -errno;
	mode = st.st_mode & 07777 & ~(mode_t)S_ISUID;
	if (st.st_mode & S_IXGRP)
		mode &= ~(mode_t)S_ISGID;
	if (mode != (st.st_mode & 07777) && fchmod(fd, mode) < 0)
		return -errno;
	if (!(mode & (S_ISUID | S_ISGID)))
		atomic_fetch_and(&n->flags, ~(uint32_t)NODE_SUID);
	/* the kernel does not know that the mode has changed. Attributes only: this waits for nobody */
	(void)fuse_lowlevel_notify_inval_inode(r->m->se, rq_head(r)->nodeid, -1, 0);
	r->suid_done = true;
	return 0;
}

void worker_serve(struct core *c, struct rq *r, struct op_rec *rec, unsigned gate_lane)
{
	struct fuse_buf b = { .size = r->len, .mem = r->buf + SLOT_IN };
	int e;

	switch ((enum rq_next)r->next_step) {
	case RQ_OPEN_FD:
	case RQ_KILL_SUID:
		e = r->next_step == RQ_OPEN_FD ? open_missing(c, r) : kill_suid(c, r);
		if (e < 0)
			rq_reply_err(r, e, gate_lane);
		else
			lane_push(r);
		return;
	case RQ_LIBFUSE:
		break;
	}
	current = r;
	oplog_begin(c->oplog, rec, r);
	if (r->opcode == PROTO_TMPFILE)
		ops_tmpfile(r);
	else if (r->opcode == PROTO_STATX)
		ops_statx(r);
	else
		fuse_session_process_buf(r->m->se, &b);
	oplog_end();
	current = NULL;
	rq_finish(r, gate_lane);
}

/* A umask of its own, so that creating files can take the caller's. */
void worker_prepare(void)
{
	if (unshare(CLONE_FS) < 0) {
		/* only without the right to: the mask is then 0 and the kernel's is used (session.c) */
	}
}

/* The queue to serve next, or NULL. Under the lock. */
static struct queue *next_queue(struct worker_pool *p)
{
	bool flow = p->flow.head != NULL;

	if (p->modify.head && p->modifying < (flow ? MODIFY_FIRST : p->max_modifying))
		return &p->modify;
	return flow ? &p->flow : NULL;
}

static void *worker_run(void *arg)
{
	const struct worker_arg *a = arg;
	struct worker_pool *p = a->p;
	struct op_rec *rec = oplog_take(p->core->oplog);
	struct queue *q;
	struct rq *r;

	(void)pthread_setname_np(pthread_self(), "worker");
	worker_prepare();
	(void)pthread_mutex_lock(&p->lock);
	for (;;) {
		q = next_queue(p);
		if (!q && p->stopping)
			break;
		if (!q) {
			p->sleeping++;
			(void)pthread_cond_wait(&p->work, &p->lock);
			p->sleeping--;
			continue;
		}
		r = queue_get(q);
		p->modifying += q == &p->modify;
		(void)pthread_mutex_unlock(&p->lock);
		worker_serve(p->core, r, rec, a->gate_lane);
		(void)pthread_mutex_lock(&p->lock);
		p->modifying -= q == &p->modify;
	}
	(void)pthread_mutex_unlock(&p->lock);
	return NULL;
}

struct worker_pool *workers_start(struct core *c)
{
	struct worker_pool *p = calloc(1, sizeof(*p));
	int r = 0;

	if (!p)
		return NULL;
	p->core = c;
	(void)pthread_mutex_init(&p->lock, NULL);
	(void)pthread_cond_init(&p->work, NULL);
	queue_init(&p->flow);
	queue_init(&p->modify);
	p->max_modifying = MAX_WORKERS - FLOW_WORKERS;
	for (; p->n < MAX_WORKERS && r == 0; p->n += r == 0) {
		p->arg[p->n].p = p;
		p->arg[p->n].gate_lane = MAX_LANES + p->n;
		r = pthread_create(&p->thread[p->n], NULL, worker_run, &p->arg[p->n]);
	}
	if (r) {
		workers_stop(p);
		errno = r;
		return NULL;
	}
	return p;
}

void workers_stop(struct worker_pool *p)
{
	if (!p)
		return;
	(void)pthread_mutex_lock(&p->lock);
	p->stopping = true;
	(void)pthread_cond_broadcast(&p->work);
	(void)pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->n; i++)
		(void)pthread_join(p->thread[i], NULL);
	(void)pthread_cond_destroy(&p->work);
	(void)pthread_mutex_destroy(&p->lock);
	free(p);
}
