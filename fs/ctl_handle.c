/* fs/ctl_handle.c - the control tree's open files and commands in shared memory, so that they outlive a daemon.
 * Owns:      struct ctl_shared, with the control tree's lock for who takes a slot.
 * Called by: ctl_open.c, ctl_tree.c, ctl_wait.c on control threads; ctl.c at a take-over.
 * Blocks:    never. Allocates nothing.
 * Order:     a slot is filled, then `ino` or `unique` is stored; a successor asks the kernel whether the reply
 *            that an unfinished one belongs to has arrived (as recover.c does). */
#include "fs/ctl_int.h"
#include "base/fault.h"
#include "fs/proto.h"
#include "fs/recover.h"
#include "fs/tables.h"

#include <errno.h>
#include <unistd.h>

static _Thread_local const struct fuse_in_header *raw_head;
static _Thread_local uint64_t current;

void ctl_handle_request(const void *raw)
{
	raw_head = raw;
	current = raw ? raw_head->unique : 0;
}

/* ---- open files ---- */

int64_t ctl_handle_new(struct ctl *c, uint64_t ino, int acc, void *obj)
{
	int64_t fh = -ENFILE;

	(void)pthread_mutex_lock(&c->lock);
	for (uint32_t i = 0; i < CTL_HANDLES && fh < 0; i++) {
		struct ctl_handle *h = &c->shared->handle[i];

		if (h->ino)
			continue;
		h->gen = (h->gen + 1) & INT32_MAX;
		h->seen = 0;
		h->acc = (uint32_t)acc;
		h->polled = false;
		h->opening = current;
		c->obj[i] = obj;
		FAULT("ctl.handle");
		h->ino = ino;
		FAULT("ctl.opened");
		fh = (int64_t)((uint64_t)h->gen << 32 | i);
	}
	(void)pthread_mutex_unlock(&c->lock);
	return fh;
}

struct ctl_handle *ctl_handle_at(struct ctl *c, uint64_t fh)
{
	uint32_t i = (uint32_t)fh;
	struct ctl_handle *h = i < CTL_HANDLES ? &c->shared->handle[i] : NULL;

	return h && h->ino && h->gen == fh >> 32 ? h : NULL;
}

void ctl_handle_answered(struct ctl *c, uint64_t fh)
{
	struct ctl_handle *h = ctl_handle_at(c, fh);

	/* it may be released, and its slot another's, by now: that one's generation differs */
	if (h)
		h->opening = 0;
}

void ctl_handle_polled(struct ctl *c, uint64_t fh)
{
	const struct fuse_poll_in *in = (const void *)(raw_head + 1);
	struct ctl_handle *h = ctl_handle_at(c, fh);

	if (!h)
		return;
	h->poll_kh = in->kh;
	h->polled = true;
}

void *ctl_handle_obj(struct ctl *c, uint64_t fh)
{
	void *obj;

	(void)pthread_mutex_lock(&c->lock);
	obj = ctl_handle_at(c, fh) ? c->obj[(uint32_t)fh] : NULL;
	(void)pthread_mutex_unlock(&c->lock);
	return obj;
}

bool ctl_handle_set(struct ctl *c, uint64_t fh, void *obj)
{
	bool set;

	(void)pthread_mutex_lock(&c->lock);
	set = ctl_handle_at(c, fh) && !c->obj[(uint32_t)fh];
	if (set)
		c->obj[(uint32_t)fh] = obj;
	(void)pthread_mutex_unlock(&c->lock);
	return set;
}

void *ctl_handle_drop(struct ctl *c, uint64_t fh)
{
	struct ctl_handle *h;
	void *obj = NULL;

	(void)pthread_mutex_lock(&c->lock);
	h = ctl_handle_at(c, fh); /* a release that is sent again finds it free, or of another generation */
	if (h) {
		obj = c->obj[(uint32_t)fh];
		c->obj[(uint32_t)fh] = NULL;
		h->ino = 0;
	}
	(void)pthread_mutex_unlock(&c->lock);
	return obj;
}

/* ---- commands ---- */

static struct ctl_op *find_orphan(struct ctl *c)
{
	for (unsigned i = 0; current & PROTO_UNIQUE_RESEND && i < CTL_OPS; i++) {
		struct ctl_op *op = &c->shared->op[i];

		if (!op->orphan || (op->unique | PROTO_UNIQUE_RESEND) != current)
			continue;
		op->unique = current;
		FAULT("ctl.claim");
		op->orphan = 0;
		return op;
	}
	return NULL;
}

struct ctl_op *ctl_op_begin(struct ctl *c, bool *again)
{
	struct ctl_op *op;

	(void)pthread_mutex_lock(&c->lock);
	op = find_orphan(c);
	*again = op != NULL;
	for (unsigned i = 0; i < CTL_OPS && !op; i++)
		if (!c->shared->op[i].unique) {
			op = &c->shared->op[i];
			op->stage = CTL_DOING;
			op->result = 0;
			op->orphan = 0;
			op->unique = current;
			FAULT("ctl.begun");
		}
	(void)pthread_mutex_unlock(&c->lock);
	return op;
}

int ctl_op_done(struct ctl_op *op, int result)
{
	FAULT("ctl.done");
	op->result = result;
	op->stage = CTL_DONE;
	FAULT("ctl.result");
	return result;
}

void ctl_op_end(struct ctl_op *op)
{
	FAULT("ctl.replied");
	op->unique = 0;
}

/* ---- take-over ---- */

/* Who polls has asked the dead daemon to be told: told now, he asks again. */
static void wake_poller(int fd, struct ctl_handle *h)
{
	struct {
		struct fuse_out_header h;
		struct fuse_notify_poll_wakeup_out out;
	} m = { .h = { .len = sizeof(m), .error = FUSE_NOTIFY_POLL }, .out = { .kh = h->poll_kh } };

	h->polled = false;
	/* refused when he has gone */
	if (write(fd, &m, sizeof(m)) < 0) {
	}
}

void ctl_handle_recover(struct ctl *c)
{
	int fd = c->d.shm->ctl.dev_fd;

	for (unsigned i = 0; i < CTL_HANDLES; i++) {
		struct ctl_handle *h = &c->shared->handle[i];

		if (h->ino && h->polled)
			wake_poller(fd, h);
		if (!h->ino || !h->opening)
			continue;
		if (recover_waiting(fd, h->opening))
			h->ino = 0; /* nobody has it: the open is sent again */
		h->opening = 0;
	}
	for (unsigned i = 0; i < CTL_OPS; i++) {
		struct ctl_op *op = &c->shared->op[i];

		if (!op->unique || op->orphan)
			continue;
		if (recover_waiting(fd, op->unique))
			op->orphan = 1;
		else
			op->unique = 0;
	}
}
