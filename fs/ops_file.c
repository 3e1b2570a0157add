/* fs/ops_file.c - open, create, release and what works on an open file but is not hot.
 * Threads: workers; admitted by the gate. Blocks: system calls on the backing.
 * Errors:  the backing's errno.
 *
 * The caching mode belongs to the inode and the request: every writable open is direct (with parallel
 * writes); a read-only one is cached while the inode has no writer, and keeps the cache only if nothing
 * was written since. Before Linux 6.6 (no FUSE_DIRECT_IO_ALLOW_MMAP) direct writes leave stale pages, so
 * there every open is direct. */
#include "fs/guard.h"
#include "fs/ops.h"
#include "fs/oplog.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* What the backing's descriptor must not have: FUSE gives each append its offset, O_TRUNC happens once,
 * and the path that is opened is a magic link. */
#define OPEN_STRIP (O_APPEND | O_NOFOLLOW | O_CREAT | O_EXCL | O_NOCTTY | O_NONBLOCK)

static bool can_write(int flags)
{
	return (flags & O_ACCMODE) != O_RDONLY;
}

/* Make the open file of node `slot` over fd (taken over). Fills *out; -errno. */
static int file_new(struct mnt *m, uint64_t slot, int fd, int flags, struct fuse_open_out *out)
{
	struct core *c = m->core;
	int64_t fh = ofile_new(c->nodes, slot, can_write(flags));
	struct ofile *f;
	int mode, r;

	memset(out, 0, sizeof(*out));
	if (fh < 0) {
		closer_fd(c->closer, fd);
		return (int)fh;
	}
	r = guard_take(fd, flags);
	if (r < 0) {
		closer_fd(c->closer, fd);
		ofile_unmake(c->nodes, (uint32_t)fh);
		return r;
	}
	f = ofile_at(c->nodes, (uint64_t)fh);
	f->flags = (uint32_t)(flags & ~(OPEN_STRIP | O_TRUNC | O_DIRECT | O_TMPFILE)); /* for its other descriptor */
	f->writable = can_write(flags);
	if (flags & O_DIRECT)
		f->fd_dir = fd;
	else
		f->fd_buf = fd;
	mode = node_opened(c->nodes, slot, f->writable, m->allow_mmap && !(flags & O_DIRECT));
	out->fh = (uint64_t)fh;
	out->open_flags = mode == 0 ? FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES :
			  mode == 2 ? FOPEN_KEEP_CACHE :
				      0;
	return 0;
}

static void file_release(struct core *c, uint64_t fh)
{
	struct ofile *f = ofile_at(c->nodes, fh);

	/* a RELEASE that is sent again after a take-over finds it closing, or another generation in the slot */
	if (!f || atomic_exchange(&f->closing, true))
		return;
	node_closed(c->nodes, f->node, f->writable);
	closer_file(c->closer, (uint32_t)fh);
}

static int open_node(int node_fd, int flags)
{
	char path[OPS_PROC_MAX];
	int fd = open(ops_proc_path(node_fd, path), (flags & ~OPEN_STRIP) | O_CLOEXEC);

	/* a backing without direct I/O: fcntl could not set it there, but an open would fail natively */
	return fd < 0 ? -errno : fd;
}

void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fuse_open_out out;
	struct ops_node n;
	int fd, r;

	if (!ops_node_get(req, ino, &n))
		return;
	fd = open_node(n.fd, fi->flags);
	r = fd < 0 ? fd : file_new(n.m, n.slot, fd, fi->flags, &out);
	if (r < 0)
		fuse_reply_err(req, -r);
	else if (fuse_reply_buf(req, (const char *)&out, sizeof(out)) < 0)
		file_release(n.c, out.fh);
	ops_node_done(&n);
}

struct create_out {
	struct fuse_entry_out entry;
	struct fuse_open_out open;
};

/* Enter the file just made, open as fd, into both tables. path_fd: O_PATH of it, taken over. */
static int create_done(struct mnt *m, int fd, int path_fd, int flags, struct create_out *out)
{
	struct fuse_entry_param e;
	int r = path_fd < 0 ? path_fd : ops_ref(m, path_fd, &e);

	if (r < 0) {
		closer_fd(m->core->closer, fd);
		return r;
	}
	r = file_new(m, e.ino, fd, flags, &out->open);
	e.attr_timeout = ops_attr_timeout(m->core, e.ino);
	if (r < 0) /* the record would have a successor take it back once more */
		closer_fd(m->core->closer, node_unref(m->core->nodes, e.ino));
	else
		ops_entry_out(&out->entry, &e);
	return r;
}

static int path_of(int fd)
{
	char path[OPS_PROC_MAX];
	int p = open(ops_proc_path(fd, path), O_PATH | O_CLOEXEC);

	return p < 0 ? -errno : p;
}

void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	       struct fuse_file_info *fi)
{
	struct create_out out;
	struct ops_node p;
	int fd = -1, r;

	if (ops_reserved(ops_mnt(req), parent, name)) {
		fuse_reply_err(req, EPERM);
		return;
	}
	if (!ops_node_get(req, parent, &p))
		return;
	if (!oplog_known(&r) || r == 0) {
		/* sent again after a take-over: what is there by now is this very file */
		int excl = oplog_again() || oplog_known(&r) ? 0 : fi->flags & O_EXCL;

		oplog_doing(0);
		ops_cred_enter(req);
		fd = openat(p.fd, name, (fi->flags & ~OPEN_STRIP) | excl | O_CREAT | O_NOFOLLOW | O_CLOEXEC, mode);
		r = fd < 0 ? -errno : 0;
		ops_cred_leave();
		oplog_did(r, 0);
	}
	if (r == 0)
		r = create_done(p.m, fd, path_of(fd), fi->flags, &out);
	if (r < 0) {
		fuse_reply_err(req, -r);
	} else if (fuse_reply_buf(req, (const char *)&out, sizeof(out)) < 0) {
		file_release(p.c, out.open.fh);
		ops_forget_one(p.m, out.entry.nodeid);
	}
	ops_node_done(&p);
}

/* O_TMPFILE (Linux 6.2): the same messages as CREATE, under an opcode that libfuse 3.14 does not know,
 * so it is served from the raw request. */
void ops_tmpfile(struct rq *r)
{
	const struct fuse_in_header *h = rq_head(r);
	const struct fuse_create_in *in = rq_args(r);
	struct core *c = r->m->core;
	struct {
		struct fuse_out_header h;
		struct create_out out;
	} reply = { .h = { .unique = h->unique, .len = sizeof(reply.h) } };
	uint64_t slot = node_slot(r->m->idx, h->nodeid);
	int dir = node_get_fd(c->nodes, slot), fd, e;

	if (dir < 0) {
		e = dir;
	} else {
		ops_cred_raw(h->uid, h->gid, in->umask);
		fd = openat(dir, ".", ((int)in->flags & ~OPEN_STRIP) | O_TMPFILE | O_CLOEXEC, in->mode);
		e = fd < 0 ? -errno : 0;
		ops_cred_leave();
		if (e == 0)
			e = create_done(r->m, fd, path_of(fd), (int)in->flags, &reply.out);
		node_put_fd(c->nodes, slot);
	}
	reply.h.error = e;
	if (e == 0)
		reply.h.len = sizeof(reply);
	if (write(r->lane->fd[r->m->idx], &reply, reply.h.len) < 0 && e == 0) {
		file_release(c, reply.out.open.fh);
		ops_forget_one(r->m, reply.out.entry.nodeid);
	}
}

void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct core *c = ops_mnt(req)->core;

	/* answered at once; the close itself may have to wait for the gate */
	file_release(c, fi->fh);
	fuse_reply_err(req, 0);
}

static int file_fd(struct core *c, uint64_t fh)
{
	const struct ofile *f = ofile_at(c->nodes, fh);

	return !f ? -1 : f->fd_buf >= 0 ? f->fd_buf : f->fd_dir;
}

void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	int fd = file_fd(ops_mnt(req)->core, fi->fh);
	off_t r = fd < 0 ? -1 : lseek(fd, off, whence);

	if (fd < 0)
		fuse_reply_err(req, EBADF);
	else if (r < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_lseek(req, r);
}

/* Between direct descriptors the backing copies whole blocks only. */
static int buffered_fd(struct core *c, uint64_t fh)
{
	const struct ofile *f = ofile_at(c->nodes, fh);
	int r = f && f->fd_buf < 0 ? file_open_other(c, fh) : 0;

	return !f ? -EBADF : r < 0 ? r : f->fd_buf;
}

void op_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in, struct fuse_file_info *fi_in,
			fuse_ino_t ino_out, off_t off_out, struct fuse_file_info *fi_out, size_t len,
			int flags)
{
	struct core *c = ops_mnt(req)->core;
	int in = buffered_fd(c, fi_in->fh), out = buffered_fd(c, fi_out->fh);
	struct ofile *f = ofile_at(c->nodes, fi_out->fh);
	ssize_t n;

	if (in < 0 || out < 0) {
		fuse_reply_err(req, in < 0 ? -in : -out);
		return;
	}
	/* a short answer is a legal one, and a long copy must not outlast the drain */
	ops_cred_enter(req); /* reserved blocks bind him */
	n = copy_file_range(in, &off_in, out, &off_out, len > COPY_PIECE ? COPY_PIECE : len,
			    (unsigned)flags);
	n = n < 0 ? -errno : n;
	ops_cred_leave();
	if (n < 0) {
		fuse_reply_err(req, (int)-n);
		return;
	}
	atomic_fetch_add(&node_at(c->nodes, f->node)->writes, 1);
	fuse_reply_write(req, (size_t)n);
}
