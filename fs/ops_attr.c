/* fs/ops_attr.c - attributes, file system statistics.
 * Threads: workers; admitted by the gate. Blocks: system calls on the backing.
 * Errors:  the backing's errno. Rights were checked by the kernel (default_permissions). */
#include "fs/ops.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
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
		fuse_reply_attr(req, &st, ops_attr_timeout(n.c, n.slot));
	ops_node_done(&n);
}

static int set_size(struct ops_node *n, off_t size, struct fuse_file_info *fi)
{
	static const struct timespec mtime_now[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_nsec = UTIME_NOW } };
	char path[OPS_PROC_MAX];
	int fd = open_file_fd(n->c, fi);
	struct stat st;

	if (fd >= 0 && (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY)
		return ftruncate(fd, size);
	/* not ftruncate: that sets the times also where the size stays. But open(O_TRUNC), which comes like this too,
	 * sets them on an empty file */
	if (fstat(n->fd, &st) < 0 || truncate(ops_proc_path(n->fd, path), size) < 0)
		return -1;
	return size || st.st_size ? 0 : utimensat(n->fd, "", mtime_now, AT_EMPTY_PATH);
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

/* As the caller, so that the new owner's quota binds him. */
static int set_owner(fuse_req_t req, struct ops_node *n, uid_t uid, gid_t gid)
{
	int r, e;

	ops_cred_chown(req);
	r = fchownat(n->fd, "", uid, gid, AT_EMPTY_PATH);
	e = errno;
	ops_cred_leave();
	errno = e;
	return r;
}

#define SET_KNOWN                                                                                   \
	(FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID | FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_SIZE |          \
	 FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME_NOW)

static int set_attrs(fuse_req_t req, struct ops_node *n, const struct stat *a, int to_set,
		     struct fuse_file_info *fi)
{
	char path[OPS_PROC_MAX];

	/* order as a system call would leave them: owner clears set-id bits, mode may set them again */
	/* chown(-1, -1) comes without any of them, and moves ctime */
	if ((to_set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID) || !(to_set & SET_KNOWN)) &&
	    set_owner(req, n, to_set & FUSE_SET_ATTR_UID ? a->st_uid : (uid_t)-1,
		      to_set & FUSE_SET_ATTR_GID ? a->st_gid : (gid_t)-1) < 0)
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
	if (set_attrs(req, &n, attr, to_set, fi) < 0 || fstat(n.fd, &st) < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_attr(req, &st, ops_attr_timeout(n.c, n.slot));
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
