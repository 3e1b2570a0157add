/* fs/transport_dev.c - requests from /dev/fuse, their way to who serves them, completions and replies.
 * Owns:      the lanes' inboxes, and the requests until they are given on.
 * Called by: the lanes (lane.c); workers, gate timer and other lanes through lane_push and rq_reply_*.
 * Threads:   a lane's ring is touched by its own thread only.
 * Blocks:    where inplace.c says; opens, closes, allocates and logs nothing between a request and its reply.
 * Errors:    a connection that is gone (ENODEV) ends its mount; the others go on. */
#include "fs/oplog.h"
#include "base/clock.h"
#include "base/fault.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define READ_BATCH 32 /* requests per turn, so that completions are not starved */
#define LONE_RECHECK 16u /* turns */

struct io_uring_sqe *lane_sqe(struct lane *l)
{
	struct io_uring_sqe *s = io_uring_get_sqe(&l->ring);

	while (!s) {
		(void)io_uring_submit(&l->ring);
		s = io_uring_get_sqe(&l->ring);
	}
	return s;
}

/* ---- replies ---- */

static void send_reply(struct rq *r, const void *data, size_t len)
{
	/* ENOENT: the caller is gone. Anything else means that the connection is: nobody waits. */
	if (write(r->lane->fd[r->m->idx], data, len) < 0) {
	}
}

void rq_finish(struct rq *r, unsigned gate_lane)
{
	struct core *c = r->core;

	if (r->gated)
		gate_leave(c->gate, gate_lane);
	opstat_answered(r, gate_lane);
	rq_put(r);
}

void rq_reply_err(struct rq *r, int error, unsigned gate_lane)
{
	struct fuse_out_header h = { .len = sizeof(h), .error = error > 0 ? -error : error,
				     .unique = rq_head(r)->unique };

	send_reply(r, &h, sizeof(h));
	rq_finish(r, gate_lane);
}

void rq_reply_out(struct rq *r, const void *out, size_t size, unsigned gate_lane)
{
	struct {
		struct fuse_out_header h;
		unsigned char out[256];
	} m = { .h = { .len = (uint32_t)(sizeof(m.h) + size), .unique = rq_head(r)->unique } };

	memcpy(m.out, out, size);
	send_reply(r, &m, m.h.len);
	rq_finish(r, gate_lane);
}

void rq_reply_payload(struct rq *r, size_t len, unsigned gate_lane)
{
	struct fuse_out_header h = { .len = (uint32_t)(sizeof(h) + len),
				     .unique = rq_head(r)->unique };

	/* last: this overwrites the request's head */
	memcpy(r->buf + SLOT_OUT, &h, sizeof(h));
	send_reply(r, r->buf + SLOT_OUT, h.len);
	rq_finish(r, gate_lane);
}

/* ---- the inbox ---- */

void lane_push(struct rq *r)
{
	struct lane *l = r->lane;
	uint64_t one = 1;

	r->next = NULL;
	(void)pthread_mutex_lock(&l->inbox_lock);
	*l->inbox_tail = r;
	l->inbox_tail = &r->next;
	atomic_store(&l->inbox_full, true);
	(void)pthread_mutex_unlock(&l->inbox_lock);
	if (write(l->efd, &one, sizeof(one)) < 0) {
		/* EAGAIN: the counter is at its maximum, so the lane is awake anyway */
	}
	/* it sits in a call: the other one takes what it has (lane_loop). The order of these two looks, and of the
	 * lane's own in inplace_serve, lets one of them see the other */
	if (inplace_sits(l) && write(l->core->lane[1].efd, &one, sizeof(one)) < 0) {
		/* as above */
	}
}

static struct rq *inbox_take(struct lane *l)
{
	struct rq *r;

	(void)pthread_mutex_lock(&l->inbox_lock);
	r = l->inbox;
	l->inbox = NULL;
	l->inbox_tail = &l->inbox;
	atomic_store(&l->inbox_full, false);
	(void)pthread_mutex_unlock(&l->inbox_lock);
	return r;
}

/* ---- dispatch ---- */

static void do_forget(struct lane *l, unsigned pair, uint64_t nodeid, uint64_t n, uint32_t count)
{
	struct core *c = l->core;

	closer_fd(c->closer, node_forget_msg(c->nodes, node_slot(pair, nodeid), n, l->rec, count));
}

/* A FORGET is lost to the kernel once it is read: a successor must find it in the slot, and how many of its
 * entries were applied. */
static void forget_arm(struct lane *l, struct rq *r)
{
	rq_head(r)->opcode = 0;
	((volatile unsigned char *)r->buf)[SLOT_PAYLOAD] = 0;
	if (!r->present)
		r->present = (uint32_t)(SLOT_PAYLOAD + PAGE - SLOT_IN);
	l->rec->split = r->present;
	/* no barrier needed: what a dead thread has stored is seen in its program order */
	atomic_store_explicit(&l->rec->n_refs, 0, memory_order_release);
	atomic_store_explicit(&l->rec->slot, (uint32_t)(r - l->core->rqs) + 1, memory_order_release);
}

/* FORGET, BATCH_FORGET and INTERRUPT have no reply and need no worker. */
static bool no_reply(struct lane *l, struct rq *r)
{
	const struct fuse_in_header *h = rq_head(r);
	const struct fuse_batch_forget_in *b = rq_args(r);
	const struct fuse_forget_one *one = (const void *)(b + 1);

	if (r->opcode == FUSE_FORGET) {
		do_forget(l, r->m->idx, h->nodeid, ((const struct fuse_forget_in *)rq_args(r))->nlookup, 1);
	} else if (r->opcode == FUSE_BATCH_FORGET) {
		for (uint32_t i = 0; i < b->count; i++)
			do_forget(l, r->m->idx, one[i].nodeid, one[i].nlookup, i + 1);
	} else if (r->opcode == FUSE_INTERRUPT) {
		gate_interrupt(l->core->gate, r->m->idx, ((const struct fuse_interrupt_in *)rq_args(r))->unique);
	} else {
		atomic_store_explicit(&l->rec->slot, 0, memory_order_release);
		return false;
	}
	FAULT("forget.applied");
	atomic_store_explicit(&l->rec->slot, 0, memory_order_release); /* before another lane can read into it */
	rq_put(r);
	return true;
}

/* Admit or park. true: go on. */
static bool admit(struct lane *l, struct rq *r)
{
	struct gate *g = l->core->gate;
	enum gate_class class = gate_classify(r->opcode, rq_args(r),
					      r->len - sizeof(struct fuse_in_header));

	if (class == GATE_FLOW || r->gated)
		return true;
	if (!r->start_ns && !gate_is_open(g))
		r->start_ns = lane_now(l);
	for (;;) {
		if (class == GATE_SYNC && !gate_frozen(g))
			return true;
		if (class == GATE_MODIFY && gate_enter(g, l->idx)) {
			r->gated = true;
			return true;
		}
		r->gn.unique = rq_head(r)->unique;
		r->gn.conn = r->m->idx;
		r->gn.pid = rq_head(r)->pid;
		r->gn.bytes = r->len;
		if (gate_park(g, &r->gn, class))
			return false;
	}
}

static void dispatch(struct lane *l, struct rq *r)
{
	FAULT_ASKED_BY(rq_head(r)->pid);
	if (!admit(l, r))
		return;
	/* after it: whoever was let in before the seal has been waited for */
	if (seal_stands(&l->core->seal) && seal_refuses(l, r))
		return;
	if (inplace_wanted(l, r) && inplace_serve(l, r))
		return;
	if (!r->start_ns)
		r->start_ns = lane_now(l);
	switch (r->opcode) {
	case FUSE_READ:
	case FUSE_WRITE:
	case FUSE_FSYNC:
	case FUSE_FALLOCATE:
		data_start(l, r);
		return;
	default:
		count_add(&l->n_meta, 1);
		workers_push(l->core->workers, r, RQ_LIBFUSE);
	}
}

/* ---- the loop ---- */

static void lane_ended(struct lane *l, unsigned i)
{
	struct core *c = l->core;
	uint64_t one = 1;

	l->readable[i] = false;
	l->ended[i] = true;
	if (atomic_exchange(&c->mnt[i].gone, true))
		return;
	if (atomic_fetch_add(&c->ended, 1) + 1 == c->n_mnt && write(c->end_fd, &one, sizeof(one)) < 0) {
		/* an eventfd whose counter is full is readable all the same */
	}
}

/* Read one request. A thread that is being killed cannot bring a page in, and the kernel answers the request that it is
 * copying there with EIO. So nothing is read into memory that this daemon has not used before: the rest of a request
 * that is larger than any before it in this slot goes to the lane's landing, and is moved. */
static ssize_t read_one(struct lane *l, unsigned i, struct rq *r)
{
	struct iovec v[2];
	ssize_t n;

	forget_arm(l, r);
	v[0] = (struct iovec){ r->buf + SLOT_IN, r->present };
	v[1] = (struct iovec){ l->landing, SLOT_STRIDE - SLOT_IN - r->present };
	n = readv(l->fd[i], v, 2);
	FAULT("lane.read");
	if (n > (ssize_t)r->present) {
		memcpy(r->buf + SLOT_IN + r->present, l->landing, (size_t)n - r->present);
		r->present = (uint32_t)(((size_t)n + SLOT_IN + PAGE - 1) / PAGE * PAGE - SLOT_IN);
	}
	return n;
}

/* Read requests of mount i until there are none, the batch is full, or no slot is left. Returns false
 * when there may be more. Where requests come one at a time, the second read, which finds none, is left out:
 * arming the poll looks once more anyway. That arming is owed then, also by a lane that retires meanwhile: one
 * poll's wake-up may stand for several requests (io_uring leaves the entry queued until its task work runs, and
 * wake-ups for others end there too), so whoever was woken either sees the queue empty or looks again. */
bool lane_fetch(struct lane *l, unsigned i, bool *starved)
{
	struct core *c = l->core;
	int k;

	l->clock_ns = 0;
	for (k = 0; k < READ_BATCH; k++) {
		struct rq *r;

		if (k == 1 && l->lone[i] && balance_active(l) && ++l->lone_turns % LONE_RECHECK) {
			l->readable[i] = false;
			l->unseen[i] = true;
			return true;
		}
		r = gate_full(c->gate) ? NULL : rq_get(l);
		ssize_t n;

		if (!r) {
			*starved = true;
			return true;
		}
		n = read_one(l, i, r);
		if (n < (ssize_t)sizeof(struct fuse_in_header)) {
			int e = n < 0 ? errno : EIO;

			atomic_store_explicit(&l->rec->slot, 0, memory_order_release);
			rq_put(r);
			if (k)
				l->lone[i] = k == 1;
			if (e == EAGAIN)
				l->readable[i] = false;
			else if (e == ENODEV || e == EBADF)
				lane_ended(l, i);
			else
				continue; /* ENOENT, EINTR: that request was withdrawn */
			return true;
		}
		l->n_fetched++;
		r->lane = l;
		r->m = &c->mnt[i];
		r->len = (uint32_t)n;
		r->opcode = rq_head(r)->opcode;
		r->gated = false;
		r->suid_done = false;
		r->done_b = 0;
		r->start_ns = 0;
		if (no_reply(l, r))
			continue;
		balance_came(l, r->opcode);
		dispatch(l, r);
	}
	l->lone[i] = false;
	return false;
}

void lane_arm(struct lane *l)
{
	struct io_uring_sqe *s;

	for (unsigned i = 0; i < l->core->n_mnt; i++) {
		if (l->armed[i] || l->readable[i] || l->ended[i] || !(l->unseen[i] || balance_active(l)))
			continue;
		l->unseen[i] = false;
		s = lane_sqe(l);
		/* exclusive: one lane wakes for one request */
		io_uring_prep_poll_add(s, l->fd[i], POLLIN);
		s->poll32_events |= 1u << 28; /* EPOLLEXCLUSIVE */
		io_uring_sqe_set_data64(s, TAG_POLL + i);
		l->armed[i] = true;
	}
	if (l->idx == 1 && !l->guard_armed && l->core->balance.guard_fd >= 0) {
		s = lane_sqe(l);
		io_uring_prep_poll_add(s, l->core->balance.guard_fd, POLLIN);
		io_uring_sqe_set_data64(s, TAG_GUARD);
		l->guard_armed = true;
	}
	if (!l->efd_armed) {
		s = lane_sqe(l);
		io_uring_prep_poll_add(s, l->efd, POLLIN);
		io_uring_sqe_set_data64(s, TAG_INBOX);
		l->efd_armed = true;
	}
}

void lane_reap(struct lane *l)
{
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;
	uint64_t v;

	l->clock_ns = 0;
	io_uring_for_each_cqe(&l->ring, head, cqe) {
		uint64_t tag = io_uring_cqe_get_data64(cqe);

		n++;
		if (tag == TAG_INBOX) {
			l->efd_armed = false;
			if (read(l->efd, &v, sizeof(v)) < 0) {
				/* EAGAIN: taken already; the inbox is looked at in any case */
			}
		} else if (tag == TAG_GUARD) {
			l->guard_armed = false;
			inplace_guard(l->core);
		} else if (tag == TAG_WRITEBACK) {
			/* not begun: its fsync will do it all */
		} else if (tag < TAG_POLL + DOOR_MAX_PAIRS) {
			l->armed[tag - TAG_POLL] = false;
			l->readable[tag - TAG_POLL] = true; /* also on error: read() names it */
		} else {
			l->inflight--;
			/* cqe_advance follows after the loop; completions only queue new entries */
			data_complete(l, (struct rq *)(uintptr_t)tag, cqe->res);
		}
	}
	io_uring_cq_advance(&l->ring, n);
}

/* Serve what waits for `of`, on this lane. */
bool lane_serve_inbox(struct lane *l, struct lane *of)
{
	bool any = false;

	for (struct rq *r = inbox_take(of), *next; r; r = next) {
		next = r->next;
		l->in_hand = next != NULL;
		any = true;
		l->spin.rest_ns = 0; /* the next request comes after this */
		dispatch(l, r);
	}
	return any;
}
