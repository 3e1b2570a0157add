/* fs/ops_dir.c - directories: open, read (plain and with attributes), fsync.
 * Threads: workers; the kernel serialises readers of one open directory. Blocks: system calls on the
 * backing. Cookies are the backing's own d_off, stable while entries come and go. */
#include "fs/ops.h"
#include "fs/oplog.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DIR_BUF 32768

void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fuse_open_out out = { 0 };
	struct ops_node n;
	int64_t fh = -ENOMEM;
	int fd;

	if (!ops_node_get(req, ino, &n))
		return;
	fd = openat(n.fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) {
		fuse_reply_err(req, errno);
	} else if ((fh = ofile_new(n.c->nodes, n.slot, false)) < 0) {
		closer_fd(n.c->closer, fd);
		fuse_reply_err(req, (int)-fh);
	} else {
		ofile_at(n.c->nodes, (uint64_t)fh)->fd_buf = fd;
		out.fh = (uint64_t)fh;
		if (fuse_reply_buf(req, (const char *)&out, sizeof(out)) < 0)
			closer_file(n.c->closer, (uint32_t)out.fh);
	}
	ops_node_done(&n);
}

/* struct linux_dirent64 of getdents64(2), which glibc calls dirent64 */
static size_t add_entry(fuse_req_t req, struct ops_node *n, char *buf, size_t left, const struct dirent64 *d,
			bool plus)
{
	struct fuse_entry_param e = { .attr = { .st_ino = d->d_ino,
						.st_mode = (mode_t)d->d_type << 12 } };
	bool dots = strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0;
	size_t size;
	int fd;

	if (!plus)
		return fuse_add_direntry(req, buf, left, d->d_name, &e.attr, d->d_off);
	size = fuse_add_direntry_plus(req, NULL, 0, d->d_name, NULL, 0);
	if (size > left || !oplog_room())
		return left + 1; /* before the lookup is counted */
	if (!dots) {
		fd = openat(n->fd, d->d_name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (fd >= 0 && ops_ref(n->m, fd, &e) < 0) {
			e = (struct fuse_entry_param){ .attr = { .st_ino = d->d_ino } };
			e.attr.st_mode = (mode_t)d->d_type << 12;
		} /* gone meanwhile: an entry without a node, the kernel looks it up when asked */
	}
	return fuse_add_direntry_plus(req, buf, left, d->d_name, &e, d->d_off);
}

/* Fill buf from directory f. Returns the bytes used, or -errno when nothing could be read. */
static ssize_t fill(fuse_req_t req, fuse_ino_t ino, struct ops_node *n, struct ofile *f, char *buf,
		    size_t size, off_t off, bool plus)
{
	_Alignas(8) char raw[DIR_BUF / 8];
	size_t used = 0;
	long got;

	while (used < size) {
		if (f->dir_off != off && lseek(f->fd_buf, off, SEEK_SET) < 0)
			return used ? (ssize_t)used : -errno;
		f->dir_off = -1;
		got = syscall(SYS_getdents64, f->fd_buf, raw, sizeof(raw));
		if (got < 0)
			return used ? (ssize_t)used : -errno;
		if (got == 0)
			return (ssize_t)used;
		for (long p = 0; p < got;) {
			const struct dirent64 *d = (const void *)(raw + p);
			size_t s;

			p += d->d_reclen;
			if (!ops_reserved(n->m, ino, d->d_name)) {
				s = add_entry(req, n, buf + used, size - used, d, plus);
				if (s > size - used)
					return (ssize_t)used;
				used += s;
			}
			off = d->d_off;
		}
		f->dir_off = off;
	}
	return (ssize_t)used;
}

static void read_dir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi,
		     bool plus)
{
	struct ops_node n;
	struct ofile *f;
	char *buf;
	ssize_t r;

	if (!ops_node_get(req, ino, &n))
		return;
	f = ofile_at(n.c->nodes, fi->fh);
	buf = malloc(size);
	if (!f || !buf) {
		fuse_reply_err(req, f ? ENOMEM : EBADF);
	} else {
		r = fill(req, ino, &n, f, buf, size, off, plus);
		if (r < 0)
			fuse_reply_err(req, (int)-r);
		else
			fuse_reply_buf(req, buf, (size_t)r);
	}
	free(buf);
	ops_node_done(&n);
}

void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	read_dir(req, ino, size, off, fi, false);
}

void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	read_dir(req, ino, size, off, fi, true);
}

void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	const struct ofile *f = ofile_at(ops_mnt(req)->core->nodes, fi->fh);
	int r;

	if (!f) {
		fuse_reply_err(req, EBADF);
		return;
	}
	r = datasync ? fdatasync(f->fd_buf) : fsync(f->fd_buf);
	fuse_reply_err(req, r < 0 ? errno : 0);
}
