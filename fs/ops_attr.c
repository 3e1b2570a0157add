/* fs/ops_attr.c - attributes, extended attributes, file system statistics.
 * Threads: workers; admitted by the gate. Blocks: system calls on the backing.
 * Errors:  the backing's errno. Rights were checked by the kernel (default_permissions). */
#include "fs/ops.h"
#include "fs/oplog.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

static int open_file_fd(struct core *c, const struct fuse_file_info *fi)
{
	const struct ofile *f = fi ? ofile_at(c->nodes, fi->fh) : NULL;

	return !f ? -1 : f->fd_buf >= 0 ? f->fd_buf : f->fd_dir;
}

void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct ops_node n;
	struct stat st = { 0 };

	if (ino == NODE_CTL_ID) {
		st.st_ino = NODE_CTL_ID;
		st.st_mode = S_IFLNK | 0777;
		st.st_nlink = 1;
		st.st_size = (off_t)strlen(ops_mnt(req)->core->control_dir);
		fuse_reply_attr(req, &st, 1);
		return;
	}
	if (!ops_node_get(req, ino, &n))
		return;
	if (fstat(n.fd, &st) < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_attr(req, &st, OPS_TIMEOUT_S);
	ops_node_done(&n);
}

static int set_size(struct ops_node *n, off_t size, struct fuse_file_info *fi)
{
	char path[OPS_PROC_MAX];
	int fd = open_file_fd(n->c, fi), r, e;

	if (fd >= 0 && (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY)
		return ftruncate(fd, size);
	fd = open(ops_proc_path(n->fd, path), O_WRONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return -1;
	r = ftruncate(fd, size);
	e = errno;
	closer_fd(n->c->closer, fd);
	errno = e;
	return r;
}

static int set_times(struct ops_node *n, const struct stat *a, int to_set)
{
	struct timespec t[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_nsec = UTIME_OMIT } };

	if (to_set & FUSE_SET_ATTR_ATIME_NOW)
		t[0].tv_nsec = UTIME_NOW;
	else if (to_set & FUSE_SET_ATTR_ATIME)
		t[0] = a->st_atim;
	if (to_set & FUSE_SET_ATTR_MTIME_NOW)
		t[1].tv_nsec = UTIME_NOW;
	else if (to_set & FUSE_SET_ATTR_MTIME)
		t[1] = a->st_mtim;
	return utimensat(n->fd, "", t, AT_EMPTY_PATH);
}

static int set_attrs(struct ops_node *n, const struct stat *a, int to_set, struct fuse_file_info *fi)
{
	char path[OPS_PROC_MAX];

	/* order as a system call would leave them: owner clears set-id bits, mode may set them again */
	if (to_set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID) &&
	    fchownat(n->fd, "", to_set & FUSE_SET_ATTR_UID ? a->st_uid : (uid_t)-1,
		     to_set & FUSE_SET_ATTR_GID ? a->st_gid : (gid_t)-1, AT_EMPTY_PATH) < 0)
		return -1;
	if (to_set & FUSE_SET_ATTR_MODE) {
		struct node *nd = node_at(n->c->nodes, n->slot);

		if (chmod(ops_proc_path(n->fd, path), a->st_mode & 07777) < 0)
			return -1;
		if (nd && S_ISREG(nd->type) && a->st_mode & (S_ISUID | S_ISGID))
			atomic_fetch_or(&nd->flags, (uint32_t)NODE_SUID);
	}
	if (to_set & FUSE_SET_ATTR_SIZE && set_size(n, a->st_size, fi) < 0)
		return -1;
	if (to_set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME) && set_times(n, a, to_set) < 0)
		return -1;
	return 0;
}

void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
		struct fuse_file_info *fi)
{
	struct ops_node n;
	struct stat st;

	if (!ops_node_get(req, ino, &n))
		return;
	if (set_attrs(&n, attr, to_set, fi) < 0 || fstat(n.fd, &st) < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_attr(req, &st, OPS_TIMEOUT_S);
	ops_node_done(&n);
}

void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct mnt *m = ops_mnt(req);
	struct statvfs s;

	if (fstatvfs(m->pair->backing_fd, &s) < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_statfs(req, &s);
}

/* Extended attributes of symlinks cannot be reached through a descriptor: as on most filesystems,
 * users may not set any there. */
static bool xattr_node(fuse_req_t req, fuse_ino_t ino, struct ops_node *n, int link_errno)
{
	const struct node *nd;

	if (!ops_node_get(req, ino, n))
		return false;
	nd = node_at(n->c->nodes, n->slot);
	if (nd && S_ISLNK(nd->type)) {
		fuse_reply_err(req, link_errno);
		ops_node_done(n);
		return false;
	}
	return true;
}

void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
		 int flags)
{
	char path[OPS_PROC_MAX];
	struct ops_node n;
	bool had;
	int r;

	if (!xattr_node(req, ino, &n, EPERM))
		return;
	(void)ops_proc_path(n.fd, path);
	if (!oplog_known(&r)) {
		had = flags & XATTR_CREATE && getxattr(path, name, NULL, 0) >= 0;
		oplog_doing(had);
		r = setxattr(path, name, value, size, flags) < 0 ? -errno : 0;
		r = oplog_did(r, flags & XATTR_CREATE && !oplog_pre() ? EEXIST : 0);
	}
	fuse_reply_err(req, -r);
	ops_node_done(&n);
}

void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	char path[OPS_PROC_MAX];
	struct ops_node n;
	int r;

	if (!xattr_node(req, ino, &n, EPERM))
		return;
	(void)ops_proc_path(n.fd, path);
	if (!oplog_known(&r)) {
		oplog_doing(getxattr(path, name, NULL, 0) >= 0);
		r = removexattr(path, name) < 0 ? -errno : 0;
		r = oplog_did(r, oplog_pre() ? ENODATA : 0);
	}
	fuse_reply_err(req, -r);
	ops_node_done(&n);
}

/* name NULL: list */
static void get_xattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	char path[OPS_PROC_MAX], *buf = NULL;
	struct ops_node n;
	ssize_t r;

	if (!xattr_node(req, ino, &n, name ? ENODATA : 0))
		return;
	if (size && !(buf = malloc(size))) {
		fuse_reply_err(req, ENOMEM);
		ops_node_done(&n);
		return;
	}
	(void)ops_proc_path(n.fd, path);
	r = name ? getxattr(path, name, buf, size) : listxattr(path, buf, size);
	if (r < 0)
		fuse_reply_err(req, errno);
	else if (size)
		fuse_reply_buf(req, buf, (size_t)r);
	else
		fuse_reply_xattr(req, (size_t)r);
	free(buf);
	ops_node_done(&n);
}

void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	get_xattr(req, ino, name, size);
}

void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	get_xattr(req, ino, NULL, size);
}
