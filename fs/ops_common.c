/* fs/ops_common.c - what every handler needs: nodes of a request, the caller's identity, replies; and the
 * table that libfuse gets.
 * Threads: workers. Blocks: short system calls on the backing. Errors: answered, never swallowed. */
#include "fs/ops.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct mnt *ops_mnt(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

#define OPS_EVICT_MAX 2048 /* more than one readdirplus can add (REC_REFS) */

bool ops_node_get(fuse_req_t req, fuse_ino_t ino, struct ops_node *n)
{
	n->m = ops_mnt(req);
	n->c = n->m->core;
	n->slot = node_slot(n->m->idx, ino);
	n->fd = ino == NODE_CTL_ID ? -EPERM : node_get_fd(n->c->nodes, n->slot);
	if (n->fd >= 0)
		return true;
	fuse_reply_err(req, -n->fd);
	return false;
}

void ops_node_done(struct ops_node *n)
{
	int old;

	node_put_fd(n->c->nodes, n->slot);
	/* keep the cache within its bound; a readdirplus may have added many at once */
	for (int i = 0; i < OPS_EVICT_MAX; i++) {
		old = node_evict(n->c->nodes);
		if (old < 0)
			return;
		/* at a closed gate the closer waits, and somebody may walk a million files meanwhile. This
		 * close writes nothing: the file has a name, and O_PATH is no open file to its filesystem */
		if (gate_is_open(n->c->gate))
			closer_fd(n->c->closer, old);
		else
			(void)close(old);
	}
}

const char *ops_proc_path(int fd, char buf[OPS_PROC_MAX])
{
	(void)snprintf(buf, OPS_PROC_MAX, "/proc/self/fd/%d", fd);
	return buf;
}

/* The position file exists in the backing during a hold only, and is never shown: so nothing of it has to be
 * invalidated in the kernel, which would wait for the directory's lock, which a parked create holds. */
bool ops_reserved(const struct mnt *m, fuse_ino_t parent, const char *name)
{
	return parent == FUSE_ROOT_ID && name[0] == '.' &&
	       (strcmp(name, CTL_LINK_NAME) == 0 || strcmp(name, POSITION_NAME) == 0);
}

/* ---- identity ---- */

/* setfsuid to another user drops these from the effective set; the kernel has checked the caller's rights
 * (default_permissions), and the backing must not find another answer. Raw calls: per thread. */
#define CAPS_MAKE                                                                      \
	(1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH | 1u << CAP_FOWNER | 1u << CAP_MKNOD | \
	 1u << CAP_FSETID /* the set-gid bit of a group that the caller is in only supplementarily */)
/* Not CAP_FOWNER: XFS lets its owner go over a quota. */
#define CAPS_CHOWN (1u << CAP_CHOWN)

static void keep_caps(uint32_t caps)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2];

	if (syscall(SYS_capget, &h, d) < 0)
		return;
	d[0].effective |= caps & d[0].permitted;
	(void)syscall(SYS_capset, &h, d);
}

void ops_cred_raw(uint32_t uid, uint32_t gid, uint32_t mask)
{
	(void)umask(mask & 0777);
	(void)syscall(SYS_setfsgid, gid);
	if (uid) {
		(void)syscall(SYS_setfsuid, uid);
		keep_caps(CAPS_MAKE);
	}
}

void ops_cred_chown(fuse_req_t req)
{
	uid_t uid = fuse_req_ctx(req)->uid;

	if (uid) {
		(void)syscall(SYS_setfsuid, uid);
		keep_caps(CAPS_CHOWN);
	}
}

void ops_cred_enter(fuse_req_t req)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	ops_cred_raw(ctx->uid, ctx->gid, ctx->umask);
}

#define NOBODY 0xfffffffeu /* no user has it, nor the ids that a filesystem may reserve blocks for */

void ops_cred_enter_nobody(void)
{
	(void)syscall(SYS_setfsuid, NOBODY);
	keep_caps(1u << CAP_FSETID); /* set-id bits go where the kernel asks for it, see worker.c */
}

void ops_cred_leave_nobody(void)
{
	int e = errno; /* of the call between */

	ops_cred_leave();
	errno = e;
}

void ops_cred_nobody(struct lane *l)
{
	int id = 0;

	(void)syscall(SYS_setfsuid, NOBODY);
	if ((uint32_t)syscall(SYS_setfsuid, -1) == NOBODY) { /* not in a user namespace without that id */
		ops_cred_enter_nobody();
		id = io_uring_register_personality(&l->ring);
	}
	l->nobody = id > 0 ? (uint16_t)id : 0;
	ops_cred_leave();
}

void ops_cred_leave(void)
{
	(void)syscall(SYS_setfsuid, 0);
	(void)syscall(SYS_setfsgid, 0);
	(void)umask(0);
}

/* ---- entries ---- */

void ops_attr(struct fuse_attr *a, const struct stat *st)
{
	memset(a, 0, sizeof(*a));
	a->ino = st->st_ino;
	a->size = (uint64_t)st->st_size;
	a->blocks = (uint64_t)st->st_blocks;
	a->atime = (uint64_t)st->st_atim.tv_sec;
	a->mtime = (uint64_t)st->st_mtim.tv_sec;
	a->ctime = (uint64_t)st->st_ctim.tv_sec;
	a->atimensec = (uint32_t)st->st_atim.tv_nsec;
	a->mtimensec = (uint32_t)st->st_mtim.tv_nsec;
	a->ctimensec = (uint32_t)st->st_ctim.tv_nsec;
	a->mode = st->st_mode;
	a->nlink = (uint32_t)st->st_nlink;
	a->uid = st->st_uid;
	a->gid = st->st_gid;
	a->rdev = (uint32_t)st->st_rdev;
	a->blksize = (uint32_t)st->st_blksize;
}

double ops_attr_timeout(struct core *c, uint64_t slot)
{
	const struct node *n = node_at(c->nodes, slot);

	return n && node_unsettled(c->nodes, n) ? OPS_UNSETTLED_S : OPS_TIMEOUT_S;
}

void ops_entry_out(struct fuse_entry_out *o, const struct fuse_entry_param *e)
{
	memset(o, 0, sizeof(*o));
	o->nodeid = e->ino;
	o->generation = e->generation;
	o->entry_valid = (uint64_t)e->entry_timeout;
	o->attr_valid = (uint64_t)e->attr_timeout;
	ops_attr(&o->attr, &e->attr);
}

int ops_ref(struct mnt *m, int fd, struct fuse_entry_param *e)
{
	uint64_t slot;
	int r;

	memset(e, 0, sizeof(*e));
	r = node_ref(m->core->nodes, m->idx, fd, &e->attr, &slot);
	if (r < 0)
		return r;
	e->ino = slot;
	e->generation = slot < NODE_FIRST ? 0 : node_at(m->core->nodes, slot)->generation;
	e->attr_timeout = ops_attr_timeout(m->core, node_slot(m->idx, slot));
	e->entry_timeout = OPS_TIMEOUT_S;
	return 0;
}

void ops_forget_one(struct mnt *m, fuse_ino_t ino)
{
	closer_fd(m->core->closer, node_forget(m->core->nodes, node_slot(m->idx, ino), 1));
}

void ops_reply_entry_fd(fuse_req_t req, struct mnt *m, int fd)
{
	struct fuse_entry_param e;
	int r = ops_ref(m, fd, &e);

	if (r < 0)
		fuse_reply_err(req, -r);
	else if (fuse_reply_entry(req, &e) < 0)
		ops_forget_one(m, e.ino);
}

/* ---- libfuse ---- */

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	static const unsigned want[] = { FUSE_CAP_ASYNC_READ, FUSE_CAP_PARALLEL_DIROPS, FUSE_CAP_ASYNC_DIO,
					 FUSE_CAP_READDIRPLUS, FUSE_CAP_READDIRPLUS_AUTO,
					 FUSE_CAP_POSIX_ACL, FUSE_CAP_DONT_MASK,
					 FUSE_CAP_CACHE_SYMLINKS };
	/* the kernel's own locks and splices: nobody but this machine's processes asks for locks. A truncation of
	 * its own, after the open, is what takes set-id bits away and sets the times as natively */
	static const unsigned avoid[] = { FUSE_CAP_POSIX_LOCKS, FUSE_CAP_FLOCK_LOCKS,
					  FUSE_CAP_WRITEBACK_CACHE, FUSE_CAP_SPLICE_READ,
					  FUSE_CAP_SPLICE_WRITE, FUSE_CAP_SPLICE_MOVE,
					  FUSE_CAP_AUTO_INVAL_DATA, FUSE_CAP_ATOMIC_O_TRUNC };

	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++)
		if (conn->capable & want[i])
			conn->want |= want[i];
	for (size_t i = 0; i < sizeof(avoid) / sizeof(avoid[0]); i++)
		conn->want &= ~avoid[i];
	conn->max_write = PROTO_MAX_PAYLOAD;
	conn->time_gran = 1;
}

const struct fuse_lowlevel_ops ops_table = {
	.init = op_init,
	.lookup = op_lookup,
	.getattr = op_getattr,
	.setattr = op_setattr,
	.readlink = op_readlink,
	.mknod = op_mknod,
	.mkdir = op_mkdir,
	.unlink = op_unlink,
	.rmdir = op_rmdir,
	.symlink = op_symlink,
	.rename = op_rename,
	.link = op_link,
	.open = op_open,
	.release = op_release,
	.opendir = op_opendir,
	.readdir = op_readdir,
	.readdirplus = op_readdirplus,
	.releasedir = op_release,
	.fsyncdir = op_fsyncdir,
	.statfs = op_statfs,
	.setxattr = op_setxattr,
	.getxattr = op_getxattr,
	.listxattr = op_listxattr,
	.removexattr = op_removexattr,
	.create = op_create,
	.copy_file_range = op_copy_file_range,
	.lseek = op_lseek,
};
