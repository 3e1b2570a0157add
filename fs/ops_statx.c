/* fs/ops_statx.c - STATX (Linux 6.6), which brings the time of birth.
 * Served from the raw request, as libfuse 3.14 does not know the opcode.
 * Threads: workers. Blocks: one statx on the backing. Errors: the backing's errno; never ENOSYS, after which the
 *          kernel would not ask any more. */
#include "fs/ops.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(sizeof(((struct proto_statx_out *)0)->stat) == sizeof(struct statx), "FUSE has statx(2)'s layout");

static int fill(struct rq *r, uint64_t slot, struct proto_statx_out *out)
{
	struct core *c = r->m->core;
	struct statx *x = &out->stat;
	int fd = node_get_fd(c->nodes, slot), e = 0;

	if (fd < 0)
		return fd;
	if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, x) < 0)
		e = -errno;
	node_put_fd(c->nodes, slot);
	/* what follows the device numbers is reserved in the protocol; the mask tells the kernel what counts */
	memset(&x->stx_mnt_id, 0, sizeof(*x) - offsetof(struct statx, stx_mnt_id));
	x->stx_mask &= STATX_BASIC_STATS | STATX_BTIME;
	out->attr_valid = (uint64_t)ops_attr_timeout(c, slot);
	return e;
}

static void fill_link(struct rq *r, struct statx *x)
{
	x->stx_mask = STATX_BASIC_STATS;
	x->stx_ino = NODE_CTL_ID;
	x->stx_mode = S_IFLNK | 0777;
	x->stx_nlink = 1;
	x->stx_size = strlen(r->m->core->control_dir);
}

void ops_statx(struct rq *r)
{
	const struct fuse_in_header *h = rq_head(r);
	struct {
		struct fuse_out_header h;
		struct proto_statx_out out;
	} reply = { .h = { .unique = h->unique } };

	if (h->nodeid == NODE_CTL_ID)
		fill_link(r, &reply.out.stat);
	else
		reply.h.error = fill(r, node_slot(r->m->idx, h->nodeid), &reply.out);
	reply.h.len = reply.h.error ? sizeof(reply.h) : sizeof(reply);
	if (write(r->lane->fd[r->m->idx], &reply, reply.h.len) < 0) {
		/* the caller is gone, or the mount is */
	}
}
