/* fs/data.c - READ, WRITE, FSYNC and FALLOCATE: straight from the request to the lane's io_uring.
 * Owns:      nothing; uses the request's payload buffer in place.
 * Called by: the lane (transport_dev.c), for admitted requests and for completions.
 * Threads:   the lane's own. Blocks: where inplace.c says; allocates and logs nothing.
 * Errors:    the backing's errno is the caller's. */
#include "fs/core_int.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/uio.h>
#include <unistd.h>

#define AT_ONCE_MAX 65536u
/* Requests at the backing. With more the device has enough to do, and there may be no room for one more in its queue, which
 * the call that begins writeback would wait for. */
#define FEW 8u

/* The descriptor that this request's own flags ask for: MySQL opens buffered and sets O_DIRECT by
 * fcntl afterwards, which shows in each READ and WRITE, not in OPEN. */
static int pick_fd(struct lane *l, const struct ofile *f, uint32_t flags)
{
	bool direct = flags & O_DIRECT;
	int fd = direct ? atomic_load_explicit(&f->fd_dir, memory_order_acquire) :
			  atomic_load_explicit(&f->fd_buf, memory_order_acquire);

	if (fd >= 0)
		count_add(direct ? &l->n_direct : &l->n_buffered, 1);
	return fd;
}

/* Any descriptor of the file: for fsync and fallocate it makes no difference. */
static int any_fd(const struct ofile *f)
{
	int fd = atomic_load_explicit(&f->fd_buf, memory_order_acquire);

	return fd >= 0 ? fd : atomic_load_explicit(&f->fd_dir, memory_order_acquire);
}

static struct io_uring_sqe *data_sqe(struct lane *l, struct rq *r)
{
	struct io_uring_sqe *s = lane_sqe(l);

	if (++l->inflight > atomic_load_explicit(&l->peak, memory_order_relaxed))
		atomic_store_explicit(&l->peak, l->inflight, memory_order_relaxed);
	return s;
}

static void submit_read(struct lane *l, struct rq *r)
{
	const struct fuse_read_in *in = rq_args(r);
	struct io_uring_sqe *s = data_sqe(l, r);

	io_uring_prep_read(s, r->fd, r->buf + SLOT_PAYLOAD + r->done_b, in->size - (uint32_t)r->done_b, in->offset + r->done_b);
	io_uring_sqe_set_data(s, r);
}

static void start_read(struct lane *l, struct rq *r)
{
	const struct fuse_read_in *in = rq_args(r);
	struct ofile *f = ofile_at(l->core->nodes, in->fh);

	if (!f || in->size > PROTO_MAX_PAYLOAD) {
		rq_reply_err(r, f ? EINVAL : EBADF, l->idx);
		return;
	}
	r->fd = pick_fd(l, f, in->flags);
	if (r->fd < 0) {
		workers_push(l->core->workers, r, RQ_OPEN_FD);
		return;
	}
	count_add(&l->n_read, 1);
	submit_read(l, r);
}

/* pwritev2(RWF_DSYNC) on a file that was opened without O_DSYNC shows in the request's flags only. */
static int rwf_of(uint32_t flags)
{
	return (flags & O_SYNC) == O_SYNC ? RWF_SYNC : flags & O_DSYNC ? RWF_DSYNC : 0;
}

/* ext4's reserved blocks are for fsuid 0: everybody else's requests run as nobody. Whose a page of a mapping is, is
 * not known. */
static void as_caller(struct lane *l, struct rq *r, struct io_uring_sqe *s, bool writeback)
{
	if (writeback || rq_head(r)->uid != 0)
		s->personality = l->nobody;
}

/* Is it a copy that is then written through? A mapping's pages bring no flags, but their file's descriptor has its own. */
static bool waits_for_device(struct lane *l, const struct fuse_write_in *in)
{
	const struct ofile *f;

	if (!(in->write_flags & FUSE_WRITE_CACHE))
		return rwf_of(in->flags) && !(in->flags & O_DIRECT);
	f = ofile_at(l->core->nodes, in->fh);
	return f && rwf_of(f->flags);
}

static struct io_uring_sqe *submit_write(struct lane *l, struct rq *r)
{
	const struct fuse_write_in *in = rq_args(r);
	struct io_uring_sqe *s = data_sqe(l, r);

	io_uring_prep_write(s, r->fd, r->buf + SLOT_PAYLOAD + r->done_b,
			    in->size - (uint32_t)r->done_b, in->offset + r->done_b);
	s->rw_flags = rwf_of(in->flags);
	if (waits_for_device(l, in))
		s->flags |= IOSQE_ASYNC; /* or the ring would wait here: it tries the copy at once, and syncs after it */
	as_caller(l, r, s, in->write_flags & FUSE_WRITE_CACHE);
	io_uring_sqe_set_data(s, r);
	return s;
}

/* A worker of the ring's begins it, as it may wait for room in the device's queue, right after the write and before
 * its reply. Nobody waits for it: not the gate, as what it writes is the write's, nor the lane, which is told of a
 * failure only, such as that of a write that was cut short. */
static void submit_writeback(struct lane *l, const struct rq *r, struct io_uring_sqe *write)
{
	struct io_uring_sqe *s;

	write->flags |= IOSQE_IO_LINK;
	s = lane_sqe(l);
	io_uring_prep_sync_file_range(s, r->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
	s->flags |= IOSQE_CQE_SKIP_SUCCESS;
	io_uring_sqe_set_data64(s, TAG_WRITEBACK);
}

/* In place; as the ring would do it (submit_write). */
static ssize_t write_now(struct lane *l, struct rq *r)
{
	const struct fuse_write_in *in = rq_args(r);
	struct iovec iov = { .iov_base = r->buf + SLOT_PAYLOAD, .iov_len = in->size };
	bool as_nobody = l->nobody && (in->write_flags & FUSE_WRITE_CACHE || rq_head(r)->uid != 0);
	ssize_t n;

	if (as_nobody)
		ops_cred_enter_nobody();
	n = pwritev2(r->fd, &iov, 1, (off_t)in->offset, rwf_of(in->flags));
	if (as_nobody)
		ops_cred_leave_nobody();
	return n;
}

/* What is wrong with it the fsync that follows meets, too. */
static void writeback_now(const struct rq *r)
{
	(void)sync_file_range(r->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

/* Made in place for one of several callers. */
static void complete_beside(struct lane *l, struct rq *r, int res)
{
	count_add(&l->inplace.n_calls, 1);
	count_add(&l->inplace.n_beside, 1);
	data_complete(l, r, res);
}

/* A buffered write is a copy: mostly it is made at once. The ring would try the same, and give what does not go at once
 * to a worker, which costs two wake-ups: also where it is only that the file's time changes, with each tick of the clock,
 * which the kernel (up to 6.18) does not do without leave to wait. False: leave it to the ring. */
static bool write_at_once(struct lane *l, struct rq *r, bool writeback)
{
	ssize_t n;
	int e;

	if (!inplace_enter(l))
		return false;
	n = write_now(l, r);
	e = n < 0 ? errno : 0;
	if (writeback && !e)
		writeback_now(r);
	(void)inplace_leave(l);
	complete_beside(l, r, e ? -e : (int)n);
	return true;
}

/* Writeback of a mapping has no open flags of its own, and its pages have been dirty for long; what is written through
 * (O_DSYNC) waits for the device. */
static bool is_copy(const struct fuse_write_in *in)
{
	return !(in->flags & O_DIRECT || in->write_flags & FUSE_WRITE_CACHE || rwf_of(in->flags));
}

/* Where no CPU is idle an fsync that ends sooner gains nothing: whoever waits for it waits for a CPU, and a group commit that
 * begins sooner is a smaller one, of which there are more. But on a device that answers in moments the lane makes an fsync
 * itself whose writeback has begun, and that saves CPU. */
static bool begins_early(struct lane *l, const struct ofile *f, uint32_t size)
{
	return early_written(&l->core->early, f->node, size) && l->inflight <= FEW &&
	       (atomic_load_explicit(&l->core->balance.spare_cpu, memory_order_relaxed) || inplace_device_quick(l));
}

static void start_write(struct lane *l, struct rq *r)
{
	const struct fuse_write_in *in = rq_args(r);
	struct ofile *f = ofile_at(l->core->nodes, in->fh);
	struct node *n = f ? node_at(l->core->nodes, f->node) : NULL;
	struct io_uring_sqe *s;
	bool copy, writeback;
	ssize_t done;

	if (!n || in->size > PROTO_MAX_PAYLOAD || r->len < PROTO_WRITE_HEAD + in->size) {
		rq_reply_err(r, n ? EINVAL : EBADF, l->idx);
		return;
	}
	if (in->write_flags & FUSE_WRITE_KILL_SUIDGID && n->flags & NODE_SUID && !r->suid_done) {
		workers_push(l->core->workers, r, RQ_KILL_SUID);
		return;
	}
	/* a mapping's pages are buffered ones */
	r->fd = pick_fd(l, f, in->write_flags & FUSE_WRITE_CACHE ? 0 : in->flags);
	if (r->fd < 0) {
		workers_push(l->core->workers, r, RQ_OPEN_FD);
		return;
	}
	count_add(&l->n_write, 1);
	atomic_fetch_add_explicit(&n->writes, 1, memory_order_relaxed);
	copy = is_copy(in);
	writeback = copy && begins_early(l, f, in->size);
	if (writeback) {
		early_begun(&l->core->early, f->node, r->start_ns);
		count_add(&l->n_early, 1);
	}
	if (l->inplace.on) {
		done = write_now(l, r);
		if (writeback && done > 0)
			writeback_now(r);
		data_complete(l, r, inplace_done(l, r, done));
		return;
	}
	if (copy && in->size <= AT_ONCE_MAX && write_at_once(l, r, writeback))
		return;
	s = submit_write(l, r);
	if (writeback)
		submit_writeback(l, r, s);
}

static int sync_fd(struct rq *r)
{
	const struct fuse_fsync_in *in = rq_args(r);

	return in->fsync_flags & FUSE_FSYNC_FDATASYNC ? fdatasync(r->fd) : fsync(r->fd);
}

/* As write_at_once. */
static void sync_at_once(struct lane *l, struct rq *r)
{
	int e = sync_fd(r) < 0 ? errno : 0;
	uint64_t took;

	took = inplace_leave(l);
	inplace_synced(l, took, lane_now(l) - r->begun_ns);
	r->begun_ns = 0; /* counted */
	count_add(&l->inplace.n_beside_syncs, 1);
	complete_beside(l, r, -e);
}

static void start_fsync(struct lane *l, struct rq *r)
{
	const struct fuse_fsync_in *in = rq_args(r);
	struct ofile *f = ofile_at(l->core->nodes, in->fh);
	struct io_uring_sqe *s;

	r->fd = f ? any_fd(f) : -1;
	if (r->fd < 0) {
		rq_reply_err(r, EBADF, l->idx);
		return;
	}
	count_add(&l->n_fsync, 1);
	r->begun_ns = early_synced(&l->core->early, f->node, r->start_ns);
	if (l->inplace.on) {
		data_complete(l, r, inplace_done(l, r, sync_fd(r)));
		return;
	}
	if (r->begun_ns && inplace_sync(l)) {
		sync_at_once(l, r);
		return;
	}
	s = data_sqe(l, r);
	io_uring_prep_fsync(s, r->fd,
			    in->fsync_flags & FUSE_FSYNC_FDATASYNC ? IORING_FSYNC_DATASYNC : 0);
	io_uring_sqe_set_data(s, r);
}

static void submit_falloc(struct lane *l, struct rq *r)
{
	const struct fuse_fallocate_in *in = rq_args(r);
	uint64_t left = in->length - r->done_b;
	int mode = (int)in->mode;
	struct io_uring_sqe *s;

	if (left > FALLOC_PIECE) {
		left = FALLOC_PIECE;
		/* the size changes with the last piece, so that a failure before it leaves it alone */
		mode |= FALLOC_FL_KEEP_SIZE;
	}
	s = data_sqe(l, r);
	io_uring_prep_rw(IORING_OP_FALLOCATE, s, r->fd, (const void *)(uintptr_t)left,
			 (unsigned)mode, in->offset + r->done_b);
	as_caller(l, r, s, false);
	/* liburing's own helper takes a 32-bit-safe off_t; the kernel reads addr as the length */
	io_uring_sqe_set_data(s, r);
	r->done_b += left;
}

static void start_falloc(struct lane *l, struct rq *r)
{
	const struct fuse_fallocate_in *in = rq_args(r);
	struct ofile *f = ofile_at(l->core->nodes, in->fh);
	struct node *n = f ? node_at(l->core->nodes, f->node) : NULL;

	r->fd = f ? any_fd(f) : -1;
	if (!n || r->fd < 0) {
		rq_reply_err(r, EBADF, l->idx);
		return;
	}
	count_add(&l->n_falloc, r->done_b == 0);
	atomic_fetch_add_explicit(&n->writes, 1, memory_order_relaxed);
	submit_falloc(l, r);
}

void data_start(struct lane *l, struct rq *r)
{
	switch (r->opcode) {
	case FUSE_READ:
		start_read(l, r);
		break;
	case FUSE_WRITE:
		start_write(l, r);
		break;
	case FUSE_FSYNC:
		start_fsync(l, r);
		break;
	default:
		start_falloc(l, r);
		break;
	}
}

/* Is it the end of the file, or was there an error behind what was read? To the page cache a short answer is the end, which it
 * then believes for as long as it believes the size; a process asks again itself, as natively. Most ends need no second look,
 * as they lie within a page. */
static bool may_have_failed(const struct fuse_read_in *in, const struct rq *r)
{
	return r->done_b < in->size && (in->offset + r->done_b) % PAGE == 0 && !(in->read_flags & FUSE_READ_LOCKOWNER);
}

static void complete_read(struct lane *l, struct rq *r, int res)
{
	if (res < 0) { /* the page cache then asks for each page */
		rq_reply_err(r, res, l->idx);
		return;
	}
	r->done_b += (unsigned)res;
	if (res > 0 && may_have_failed(rq_args(r), r)) {
		submit_read(l, r);
		return;
	}
	count_add(&l->core->opstat[l->idx].read_b, r->done_b);
	rq_reply_payload(r, (size_t)r->done_b, l->idx);
}

/* A write that the backing took in part goes on: writeback of mapped pages has nobody who would. */
static void complete_write(struct lane *l, struct rq *r, int res)
{
	const struct fuse_write_in *in = rq_args(r);
	struct fuse_write_out out = { 0 };

	if (l->inplace.direct_ns)
		inplace_measure(l);
	if (res > 0) {
		r->done_b += (unsigned)res;
		if (r->done_b < in->size) {
			(void)submit_write(l, r);
			return;
		}
	} else if (res < 0 && (!r->done_b || in->write_flags & FUSE_WRITE_CACHE)) {
		rq_reply_err(r, res, l->idx);
		return;
	}
	out.size = (uint32_t)r->done_b;
	count_add(&l->core->opstat[l->idx].written_b, r->done_b);
	rq_reply_out(r, &out, sizeof(out), l->idx);
}

static void complete_falloc(struct lane *l, struct rq *r, int res)
{
	const struct fuse_fallocate_in *in = rq_args(r);

	if (res < 0 || r->done_b >= in->length) {
		rq_reply_err(r, res < 0 ? res : 0, l->idx);
		return;
	}
	/* out of the gate and in again: a closing gate need not wait for the whole range */
	gate_leave(l->core->gate, l->idx);
	r->gated = false;
	lane_push(r);
}

/* An fsync that was expected has ended. */
static void learn_sync(struct lane *l, const struct rq *r)
{
	uint64_t now = balance_now_ns();

	inplace_synced(l, now - r->start_ns, now - r->begun_ns);
}

void data_complete(struct lane *l, struct rq *r, int res)
{
	switch (r->opcode) {
	case FUSE_READ:
		complete_read(l, r, res);
		break;
	case FUSE_WRITE:
		complete_write(l, r, res);
		break;
	case FUSE_FALLOCATE:
		complete_falloc(l, r, res);
		break;
	default:
		if (r->begun_ns)
			learn_sync(l, r);
		rq_reply_err(r, res < 0 ? res : 0, l->idx);
		break;
	}
}
