/* fs/ops_xattr.c - extended attributes, POSIX ACLs among them.
 * Threads: workers; admitted by the gate. Blocks: system calls on the backing.
 * Errors:  the backing's errno. Rights were checked by the kernel (default_permissions, and those of the namespaces).
 *
 * A path in /proc names the very file behind a descriptor, also a symlink. */
#include "fs/ops.h"
#include "fs/oplog.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#define GROUPS_MAX 1024
#define TRUSTED "trusted."

static bool in_group(fuse_req_t req, gid_t gid)
{
	gid_t groups[GROUPS_MAX];
	int n;

	if (fuse_req_ctx(req)->gid == gid)
		return true;
	n = fuse_req_getgroups(req, GROUPS_MAX, groups);
	for (int i = 0; i < n && i < GROUPS_MAX; i++)
		if (groups[i] == gid)
			return true;
	return false;
}

/* An ACL set by somebody who is not in the file's group takes its set-gid bit away: the backing would do so, but
 * finds us to be root. */
static int drop_setgid(fuse_req_t req, int fd, const char *path, const char *name)
{
	struct stat st;

	if (strcmp(name, "system.posix_acl_access") != 0 || fuse_req_ctx(req)->uid == 0)
		return 0;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!(st.st_mode & S_ISGID) || in_group(req, st.st_gid))
		return 0;
	return chmod(path, st.st_mode & 07777 & ~(mode_t)S_ISGID) < 0 ? -errno : 0;
}

void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
		 int flags)
{
	char path[OPS_PROC_MAX];
	struct ops_node n;
	bool had;
	int r;

	if (!ops_node_get(req, ino, &n))
		return;
	(void)ops_proc_path(n.fd, path);
	if (!oplog_known(&r)) {
		had = flags & XATTR_CREATE && getxattr(path, name, NULL, 0) >= 0;
		oplog_doing(had);
		r = setxattr(path, name, value, size, flags) < 0 ? -errno : 0;
		if (r == 0)
			r = drop_setgid(req, n.fd, path, name);
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

	if (!ops_node_get(req, ino, &n))
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

/* The names without those that only root sees. In place; the new length. */
static ssize_t hide_trusted(char *list, ssize_t len)
{
	char *out = list;

	for (char *p = list, *end = list + (len > 0 ? len : 0); p < end;) {
		size_t n = strlen(p) + 1;

		if (strncmp(p, TRUSTED, strlen(TRUSTED)) != 0) {
			memmove(out, p, n);
			out += n;
		}
		p += n;
	}
	return len < 0 ? len : out - list;
}

static void reply_value(fuse_req_t req, const char *buf, ssize_t r, size_t size)
{
	if (r < 0)
		fuse_reply_err(req, errno);
	else if (size)
		fuse_reply_buf(req, buf, (size_t)r);
	else
		fuse_reply_xattr(req, (size_t)r);
}

void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	char path[OPS_PROC_MAX], *buf;
	struct ops_node n;

	if (!ops_node_get(req, ino, &n))
		return;
	buf = malloc(size + 1);
	if (buf)
		reply_value(req, buf, getxattr(ops_proc_path(n.fd, path), name, buf, size), size);
	else
		fuse_reply_err(req, ENOMEM);
	free(buf);
	ops_node_done(&n);
}

void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	bool all = fuse_req_ctx(req)->uid == 0;
	size_t cap = all ? size : XATTR_LIST_MAX; /* of a user's, only what is left counts */
	char path[OPS_PROC_MAX], *buf;
	struct ops_node n;
	ssize_t r;

	if (!ops_node_get(req, ino, &n))
		return;
	buf = malloc(cap + 1);
	if (buf) {
		r = listxattr(ops_proc_path(n.fd, path), buf, cap);
		if (!all)
			r = hide_trusted(buf, r);
		if (size && r > (ssize_t)size) {
			errno = ERANGE;
			r = -1;
		}
		reply_value(req, buf, r, size);
	} else {
		fuse_reply_err(req, ENOMEM);
	}
	free(buf);
	ops_node_done(&n);
}
