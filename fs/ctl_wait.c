/* fs/ctl_wait.c - control requests that are answered later: writes to `snapshot`, reads of `wait` and
 * `events`.
 * Owns:      the slots and the helper thread, which does what a FUSE handler or an interrupt function must not:
 *            look what a signal means, cancel at the engine, notify pollers.
 * Threads:   handlers, the engine's callbacks, the helper. A request is answered by whoever takes it
 *            out of its slot, under the lock.
 * Blocks:    never. */
#include "fs/ctl_int.h"
#include "base/clock.h"
#include "base/fault.h"
#include "fs/procsig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_MS 20u /* at an interrupted writer of `snapshot`: the kernel tells of the first signal alone */

/* ---- slots ---- */

static struct slot *slot_new(struct ctl *c, fuse_req_t req, enum file_kind kind)
{
	struct slot *s = NULL;

	(void)pthread_mutex_lock(&c->lock);
	for (unsigned i = 0; i < CTL_SLOTS && !s && !c->stopping; i++)
		if (!c->slots[i].req)
			s = &c->slots[i];
	if (s)
		*s = (struct slot){ .req = req, .c = c, .kind = kind, .pid = (uint32_t)fuse_req_ctx(req)->pid };
	(void)pthread_mutex_unlock(&c->lock);
	if (!s)
		fuse_reply_err(req, EAGAIN);
	return s;
}

/* The request, if nobody has answered it; the slot is free then. */
static fuse_req_t slot_take(struct slot *s)
{
	fuse_req_t req;

	(void)pthread_mutex_lock(&s->c->lock);
	req = s->req;
	s->req = NULL;
	(void)pthread_mutex_unlock(&s->c->lock);
	return req;
}

/* A signal. May run with libfuse's locks held, and just after the answer: only marks. */
static void on_interrupt(fuse_req_t req, void *data)
{
	struct slot *s = data;

	(void)pthread_mutex_lock(&s->c->lock);
	if (s->req == req) {
		s->interrupted = true;
		s->c->cancel_due = true;
		(void)pthread_cond_signal(&s->c->work);
	}
	(void)pthread_mutex_unlock(&s->c->lock);
}

/* ---- snapshot and wait ---- */

/* The engine's answer: exactly once for each registration. */
static void on_done(void *arg, int result, const struct snap_error *err)
{
	static const char fixed[] = CTL_FIXED;
	struct slot *s = arg;
	struct ctl *c = s->c;
	enum file_kind kind = s->kind;
	size_t size = s->size;
	struct ctl_op *op = s->op;
	fuse_req_t req;

	if (result < 0 && result != -EINTR && err && kind == FILE_SNAPSHOT)
		ctl_report(c, "snapshot", err);
	req = slot_take(s);
	if (!req)
		return;
	if (op)
		(void)ctl_op_done(op, result);
	if (result < 0)
		fuse_reply_err(req, -result);
	else if (kind == FILE_SNAPSHOT)
		fuse_reply_write(req, size);
	else
		fuse_reply_buf(req, fixed, size < sizeof(fixed) - 1 ? size : sizeof(fixed) - 1);
	if (op)
		ctl_op_end(op);
}

/* A signal that came before the slot was complete. Caller holds the lock. */
static void wake_interrupted(struct slot *s)
{
	if (s->interrupted) {
		s->c->cancel_due = true;
		(void)pthread_cond_signal(&s->c->work);
	}
}

/* The engine has taken it under `id`: pass an interrupt on that came meanwhile. */
static void slot_known(struct slot *s, fuse_req_t req, uint64_t id)
{
	(void)pthread_mutex_lock(&s->c->lock);
	if (s->req == req) { /* not answered yet */
		s->id = id;
		wake_interrupted(s);
	}
	(void)pthread_mutex_unlock(&s->c->lock);
}

/* Sent again after a take-over: the snapshot that it had begun has failed with the daemon, or goes on if its point was
 * recorded just before; no second one is taken. */
static void answer_again(struct ctl *c, fuse_req_t req, size_t len, struct ctl_op *op)
{
	struct snap_error err = { 0 };
	int r = op->stage == CTL_DONE ? op->result : -ESHUTDOWN;

	(void)ctl_op_done(op, r);
	if (r < 0) {
		snap_error_set(&err, r, "snapshot: the daemon died while it was taken: %s; take it again, unless "
					    "`snapshots` has it as pending or complete",
			       c->d.shm->last_death);
		ctl_report(c, "snapshot", &err);
		fuse_reply_err(req, -r);
	} else {
		fuse_reply_write(req, len);
	}
	ctl_op_end(op);
}

void ctl_wait_snapshot(struct ctl *c, fuse_req_t req, const char *text, size_t len, struct ctl_op *op, bool again)
{
	struct snap_error err = { 0 };
	struct slot *s;
	uint64_t id = 0;
	int r;

	if (again && op->stage != CTL_DOING) {
		answer_again(c, req, len, op);
		return;
	}
	s = slot_new(c, req, FILE_SNAPSHOT);
	if (!s) {
		ctl_op_end(op);
		return;
	}
	s->op = op;
	s->size = len;
	op->stage = CTL_ACCEPTED; /* before: the engine may begin at once */
	FAULT("ctl.accepted");
	fuse_req_interrupt_func(req, on_interrupt, s);
	(void)pthread_mutex_lock(&c->turn);
	r = ctl_upgrade_refuse(c, "snapshot", &err);
	if (r == 0)
		r = engine_snapshot(c->engine, text, len, on_done, s, &id, &err);
	(void)pthread_mutex_unlock(&c->turn);
	if (r < 0) {
		ctl_report(c, "snapshot", &err);
		if (slot_take(s)) {
			(void)ctl_op_done(op, r);
			fuse_reply_err(req, -r);
			ctl_op_end(op);
		}
	} else {
		slot_known(s, req, id);
	}
}

void ctl_wait_set(struct ctl *c, fuse_req_t req, const char *set, size_t size)
{
	struct slot *s = slot_new(c, req, FILE_WAIT);
	struct snap_error err = { 0 };
	uint64_t id = 0;
	int r;

	if (!s)
		return;
	s->size = size;
	fuse_req_interrupt_func(req, on_interrupt, s);
	r = engine_wait(c->engine, set, on_done, s, &id, &err);
	if (r < 0) {
		if (slot_take(s))
			fuse_reply_err(req, -r);
	} else {
		slot_known(s, req, id);
	}
}

/* ---- events ---- */

static void reply_events(struct ctl *c, fuse_req_t req, uint64_t off, size_t size,
			 _Atomic uint64_t *seen)
{
	char *buf = malloc(size);
	size_t n;

	if (!buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	n = events_read(c->events, off, buf, size);
	atomic_store(seen, off + n); /* before the reply: the open file may be released after it */
	fuse_reply_buf(req, buf, n);
	free(buf);
}

void ctl_wait_events(struct ctl *c, fuse_req_t req, uint64_t off, size_t size, bool nonblock,
		     _Atomic uint64_t *seen)
{
	struct slot *s;

	if (off < events_end(c->events)) {
		reply_events(c, req, off, size, seen);
		return;
	}
	if (nonblock) {
		fuse_reply_err(req, EAGAIN);
		return;
	}
	s = slot_new(c, req, FILE_EVENTS);
	if (!s)
		return;
	fuse_req_interrupt_func(req, on_interrupt, s);
	(void)pthread_mutex_lock(&c->lock);
	s->off = off;
	s->seen = seen;
	s->size = size; /* complete now: events_wake and the helper may take it */
	wake_interrupted(s);
	(void)pthread_mutex_unlock(&c->lock);
	ctl_events_wake(c); /* one may have come between the look and the slot */
}

void ctl_events_wake(struct ctl *c)
{
	uint64_t end = events_end(c->events);

	for (unsigned i = 0; i < CTL_SLOTS; i++) {
		struct slot *s = &c->slots[i];
		fuse_req_t req = NULL;
		_Atomic uint64_t *seen = NULL;
		uint64_t off = 0;
		size_t size = 0;

		(void)pthread_mutex_lock(&c->lock);
		if (s->req && s->kind == FILE_EVENTS && s->size && s->off < end) {
			req = s->req;
			off = s->off;
			size = s->size;
			seen = s->seen;
			s->req = NULL;
		}
		(void)pthread_mutex_unlock(&c->lock);
		if (req)
			reply_events(c, req, off, size, seen);
	}
	(void)pthread_mutex_lock(&c->lock);
	if (c->n_poll) {
		c->poll_due = true;
		(void)pthread_cond_signal(&c->work);
	}
	(void)pthread_mutex_unlock(&c->lock);
}

void ctl_events_poll(struct ctl *c, struct fuse_pollhandle *ph)
{
	struct fuse_pollhandle *old = NULL;

	(void)pthread_mutex_lock(&c->lock);
	if (c->n_poll == sizeof(c->poll) / sizeof(c->poll[0])) {
		old = c->poll[0]; /* the oldest poller is woken early, and polls again */
		memmove(c->poll, c->poll + 1, sizeof(c->poll) - sizeof(c->poll[0]));
		c->n_poll--;
	}
	c->poll[c->n_poll++] = ph;
	(void)pthread_mutex_unlock(&c->lock);
	if (old)
		fuse_pollhandle_destroy(old);
}

/* ---- the helper ---- */

/* Reads can be made again at will: any signal ends them. */
static void interrupt_read(struct ctl *c, struct slot *s)
{
	fuse_req_t req = s->kind == FILE_EVENTS ? s->req : NULL;
	uint64_t id = s->id;

	s->interrupted = false;
	if (req)
		s->req = NULL;
	(void)pthread_mutex_unlock(&c->lock);
	if (req)
		fuse_reply_err(req, EINTR);
	else
		engine_cancel(c->engine, id);
	(void)pthread_mutex_lock(&c->lock);
}

/* A writer of `snapshot` must not be answered EINTR for a signal that it survives: it may write the same again at once,
 * and would meet its own set. */
static void interrupt_write(struct ctl *c, struct slot *s)
{
	fuse_req_t req = s->req;
	uint64_t id = s->id;
	uint32_t pid = s->pid;
	bool asked = s->asked;
	enum procsig what;

	s->look_ns = clock_boot_ns() + LOOK_MS * NS_PER_MS;
	(void)pthread_mutex_unlock(&c->lock);
	what = pid ? procsig_of(pid) : PROCSIG_ASKED; /* of another pid namespace: nobody can look */
	if (what == PROCSIG_DIES)
		engine_cancel(c->engine, id);
	else if (what == PROCSIG_ASKED && !asked)
		engine_interrupt(c->engine, id);
	(void)pthread_mutex_lock(&c->lock);
	if (s->req == req && s->id == id && what == PROCSIG_ASKED)
		s->asked = true;
}

/* Go through the interrupted requests. false: none has to be looked at again. Caller holds the lock, which is dropped
 * meanwhile. */
static bool do_interrupts(struct ctl *c)
{
	bool again = false;

	c->cancel_due = false;
	for (unsigned i = 0; i < CTL_SLOTS; i++) {
		struct slot *s = &c->slots[i];

		if (!s->req || !s->interrupted || !(s->kind == FILE_EVENTS ? s->size : s->id))
			continue; /* not complete: fuse_req_interrupt_func may still be at it, with its lock; wake_interrupted follows */
		if (s->kind != FILE_SNAPSHOT) {
			interrupt_read(c, s);
			continue;
		}
		if (s->look_ns <= clock_boot_ns())
			interrupt_write(c, s);
		again |= s->req && s->interrupted;
	}
	return again;
}

static void wait_work(struct ctl *c, bool again)
{
	struct timespec t;

	if (!again) {
		(void)pthread_cond_wait(&c->work, &c->lock);
		return;
	}
	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_nsec += (long)LOOK_MS * 1000000;
	t.tv_sec += t.tv_nsec / 1000000000;
	t.tv_nsec %= 1000000000;
	(void)pthread_cond_timedwait(&c->work, &c->lock, &t);
}

static void *helper_run(void *arg)
{
	struct ctl *c = arg;
	bool again = false;

	(void)pthread_setname_np(pthread_self(), "ctl-helper");
	(void)pthread_mutex_lock(&c->lock);
	while (!c->stopping) {
		if (c->cancel_due || again)
			again = do_interrupts(c);
		if (c->poll_due && c->n_poll) {
			struct fuse_pollhandle *ph = c->poll[--c->n_poll];

			(void)pthread_mutex_unlock(&c->lock);
			(void)fuse_lowlevel_notify_poll(ph);
			fuse_pollhandle_destroy(ph);
			(void)pthread_mutex_lock(&c->lock);
			continue;
		}
		c->poll_due = false;
		if (!c->cancel_due && !c->stopping)
			wait_work(c, again);
	}
	(void)pthread_mutex_unlock(&c->lock);
	return NULL;
}

int ctl_helper_start(struct ctl *c)
{
	int r = pthread_create(&c->helper, NULL, helper_run, c);

	c->helper_runs = r == 0;
	return -r;
}

void ctl_helper_stop(struct ctl *c)
{
	(void)pthread_mutex_lock(&c->lock);
	c->stopping = true;
	(void)pthread_cond_signal(&c->work);
	(void)pthread_mutex_unlock(&c->lock);
	if (c->helper_runs)
		(void)pthread_join(c->helper, NULL);
	c->helper_runs = false;
	for (unsigned i = 0; i < CTL_SLOTS; i++) {
		fuse_req_t req;

		if (!c->slots[i].c)
			continue;
		req = slot_take(&c->slots[i]);
		if (req)
			fuse_reply_err(req, ESHUTDOWN);
	}
	while (c->n_poll)
		fuse_pollhandle_destroy(c->poll[--c->n_poll]);
}
