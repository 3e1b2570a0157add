/* fs/ops_name.c - operations on names: lookup, make, link, remove, rename.
 * Threads: workers; admitted by the gate. Blocks: system calls on the backing.
 * Errors:  the backing's errno. A file that loses its last name keeps a descriptor while the kernel knows
 *          it (node_unlinked), because its handle alone would not keep it alive. */
#include "fs/ops.h"
#include "base/fault.h"
#include "fs/oplog.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void reply_ctl_link(fuse_req_t req)
{
	struct fuse_entry_param e = { .ino = NODE_CTL_ID, .attr_timeout = 1, .entry_timeout = 1 };

	e.attr.st_ino = NODE_CTL_ID;
	e.attr.st_mode = S_IFLNK | 0777;
	e.attr.st_nlink = 1;
	e.attr.st_size = (off_t)strlen(ops_mnt(req)->core->control_dir);
	fuse_reply_entry(req, &e);
}

static void reply_negative(fuse_req_t req)
{
	struct fuse_entry_param e = { .entry_timeout = OPS_TIMEOUT_S };

	fuse_reply_entry(req, &e); /* ino 0: remembered as missing */
}

void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct ops_node p;
	int fd;

	if (ops_reserved(ops_mnt(req), parent, name)) {
		if (strcmp(name, CTL_LINK_NAME) == 0)
			reply_ctl_link(req);
		else
			fuse_reply_err(req, ENOENT);
		return;
	}
	if (!ops_node_get(req, parent, &p))
		return;
	fd = openat(p.fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0)
		ops_reply_entry_fd(req, p.m, fd);
	else if (errno == ENOENT)
		reply_negative(req);
	else
		fuse_reply_err(req, errno);
	ops_node_done(&p);
}

/* Answer with the entry of a name just made. */
static void reply_made(fuse_req_t req, struct ops_node *p, const char *name)
{
	int fd = openat(p->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		fuse_reply_err(req, errno);
	else
		ops_reply_entry_fd(req, p->m, fd);
}

enum make { MAKE_NOD, MAKE_DIR, MAKE_LINK };

static void make(fuse_req_t req, enum make what, fuse_ino_t parent, const char *name, mode_t mode,
		 dev_t rdev, const char *target)
{
	struct ops_node p;
	int r;

	if (ops_reserved(ops_mnt(req), parent, name)) {
		fuse_reply_err(req, EPERM);
		return;
	}
	if (!ops_node_get(req, parent, &p))
		return;
	if (!oplog_known(&r)) {
		oplog_doing(0);
		ops_cred_enter(req);
		r = what == MAKE_DIR ? mkdirat(p.fd, name, mode) :
		    what == MAKE_NOD ? mknodat(p.fd, name, mode, rdev) :
				       symlinkat(target, p.fd, name);
		r = r < 0 ? -errno : 0;
		ops_cred_leave();
		/* the kernel makes only what it knows to be missing */
		r = oplog_did(r, EEXIST);
	}
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		reply_made(req, &p, name);
	ops_node_done(&p);
}

void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	make(req, MAKE_NOD, parent, name, mode, rdev, NULL);
}

void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	make(req, MAKE_DIR, parent, name, mode, 0, NULL);
}

void op_symlink(fuse_req_t req, const char *link, fuse_ino_t parent, const char *name)
{
	make(req, MAKE_LINK, parent, name, 0, 0, link);
}

void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent, const char *newname)
{
	char path[OPS_PROC_MAX];
	struct ops_node n, p;
	int r;

	if (ops_reserved(ops_mnt(req), newparent, newname)) {
		fuse_reply_err(req, EPERM);
		return;
	}
	if (!ops_node_get(req, ino, &n))
		return;
	if (!ops_node_get(req, newparent, &p)) {
		ops_node_done(&n);
		return;
	}
	if (!oplog_known(&r)) {
		oplog_doing(0);
		/* AT_EMPTY_PATH works for symlinks too; a file without a name (O_TMPFILE) goes by /proc */
		r = linkat(n.fd, "", p.fd, newname, AT_EMPTY_PATH);
		if (r < 0 && errno == ENOENT)
			r = linkat(AT_FDCWD, ops_proc_path(n.fd, path), p.fd, newname, AT_SYMLINK_FOLLOW);
		r = oplog_did(r < 0 ? -errno : 0, EEXIST);
	}
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		reply_made(req, &p, newname);
	ops_node_done(&p);
	ops_node_done(&n);
}

/* Before a name goes: have the node of what it names hold it, if this is its last name. Before, because a
 * successor could not any more. A descriptor of it, -1: nothing to hold. *mine: to be closed afterwards. */
static int hold_last(struct ops_node *p, const char *name, int *mine)
{
	struct stat st;
	int fd = openat(p->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);

	*mine = -1;
	if (fd >= 0 && (fstat(fd, &st) < 0 || (st.st_nlink > 1 && !S_ISDIR(st.st_mode)))) {
		(void)close(fd); /* other names remain: never the last close */
		fd = -1;
	}
	if (fd >= 0)
		*mine = node_unlinked(p->c->nodes, p->m->idx, fd);
	FAULT("name.held");
	return fd;
}

static void held_done(struct ops_node *p, int fd, int mine, bool gone)
{
	if (fd >= 0 && !gone)
		node_linked(p->c->nodes, p->m->idx, fd);
	closer_fd(p->c->closer, mine);
}

static void remove_name(fuse_req_t req, fuse_ino_t parent, const char *name, int flags)
{
	struct ops_node p;
	int fd, mine, r;

	if (ops_reserved(ops_mnt(req), parent, name)) {
		fuse_reply_err(req, EPERM);
		return;
	}
	if (!ops_node_get(req, parent, &p))
		return;
	if (!oplog_known(&r)) {
		fd = hold_last(&p, name, &mine);
		oplog_doing(0);
		r = oplog_did(unlinkat(p.fd, name, flags) < 0 ? -errno : 0, ENOENT);
		held_done(&p, fd, mine, r == 0);
	}
	fuse_reply_err(req, -r);
	ops_node_done(&p);
}

void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	remove_name(req, parent, name, 0);
}

void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	remove_name(req, parent, name, AT_REMOVEDIR);
}

static uint64_t ino_of(const struct ops_node *dir, const char *name)
{
	struct stat st;

	return fstatat(dir->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ? 0 : st.st_ino;
}

/* Has an earlier attempt done it? The new name is what the old one was, and the old one is not any more (two names of
 * one file: renaming does nothing, and may do it again). */
static bool was_renamed(struct ops_node *p, const char *name, struct ops_node *q, const char *newname)
{
	return oplog_pre() && ino_of(q, newname) == oplog_pre() && ino_of(p, name) != oplog_pre();
}

static int do_rename(fuse_req_t req, struct ops_node *p, const char *name, struct ops_node *q,
		     const char *newname, unsigned int flags)
{
	int fd = -1, mine = -1, r;
	struct stat st;

	if (!(flags & RENAME_EXCHANGE))
		fd = hold_last(q, newname, &mine);
	oplog_doing(ino_of(p, name));
	if (flags & RENAME_WHITEOUT)
		ops_cred_enter(req); /* it makes a node, which is the caller's */
	r = renameat2(p->fd, name, q->fd, newname, flags) < 0 ? -errno : 0;
	if (flags & RENAME_WHITEOUT)
		ops_cred_leave();
	(void)oplog_did(r, 0);
	/* renaming a file over itself, or over another name of it, removes nothing */
	held_done(q, fd, mine, r == 0 && fd >= 0 && (fstat(fd, &st) < 0 || st.st_nlink == 0));
	return r;
}

void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
	       const char *newname, unsigned int flags)
{
	struct ops_node p, q;
	int r;

	if (ops_reserved(ops_mnt(req), parent, name) ||
	    ops_reserved(ops_mnt(req), newparent, newname)) {
		fuse_reply_err(req, EPERM);
		return;
	}
	if (!ops_node_get(req, parent, &p))
		return;
	if (!ops_node_get(req, newparent, &q)) {
		ops_node_done(&p);
		return;
	}
	if (!oplog_known(&r)) {
		if (oplog_again() && was_renamed(&p, name, &q, newname))
			r = oplog_did(0, 0);
		else
			r = do_rename(req, &p, name, &q, newname, flags);
	}
	fuse_reply_err(req, -r);
	ops_node_done(&q);
	ops_node_done(&p);
}

void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	char text[4097];
	struct ops_node n;
	ssize_t len;

	if (ino == NODE_CTL_ID) {
		fuse_reply_readlink(req, ops_mnt(req)->core->control_dir);
		return;
	}
	if (!ops_node_get(req, ino, &n))
		return;
	len = readlinkat(n.fd, "", text, sizeof(text) - 1);
	if (len < 0) {
		fuse_reply_err(req, errno);
	} else {
		text[len] = '\0';
		fuse_reply_readlink(req, text);
	}
	ops_node_done(&n);
}
