/* fs/opstat.c - see opstat.h. The data path reads the clock once for all requests that a lane reads in one go, and once for
 * all completions that it finds in one go; operations served in place use the readings that are made there anyway. */
#include "fs/core_int.h"

#include <stdio.h>

static const char *const kind_names[OPS_KINDS] = { "read", "write", "fsync", "fallocate", "lookup", "open", "close", "getattr",
						   "setattr", "readdir", "name", "other" };

static enum opstat_kind kind_of(uint32_t opcode)
{
	switch (opcode) {
	case FUSE_READ:
		return OPS_READ;
	case FUSE_WRITE:
		return OPS_WRITE;
	case FUSE_FSYNC:
	case FUSE_FSYNCDIR:
		return OPS_FSYNC;
	case FUSE_FALLOCATE:
		return OPS_FALLOCATE;
	case FUSE_LOOKUP:
		return OPS_LOOKUP;
	case FUSE_OPEN:
	case FUSE_CREATE:
	case FUSE_OPENDIR:
	case PROTO_TMPFILE:
		return OPS_OPEN;
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
		return OPS_CLOSE;
	case FUSE_GETATTR:
	case PROTO_STATX:
		return OPS_GETATTR;
	case FUSE_SETATTR:
		return OPS_SETATTR;
	case FUSE_READDIR:
	case FUSE_READDIRPLUS:
		return OPS_READDIR;
	case FUSE_MKNOD:
	case FUSE_MKDIR:
	case FUSE_SYMLINK:
	case FUSE_LINK:
	case FUSE_UNLINK:
	case FUSE_RMDIR:
	case FUSE_RENAME:
	case FUSE_RENAME2:
		return OPS_NAME;
	default:
		return OPS_OTHER;
	}
}

static unsigned bucket_of(uint64_t ns)
{
	unsigned k = (ns >> (OPSTAT_SHIFT + 1)) ? 63u - (unsigned)__builtin_clzll(ns) - OPSTAT_SHIFT : 0;

	return k < OPSTAT_BUCKETS ? k : OPSTAT_BUCKETS;
}

void opstat_answered(struct rq *r, unsigned by)
{
	struct core *c = r->core;
	struct opstat *s = &c->opstat[by];
	enum opstat_kind k = kind_of(r->opcode);
	struct lane *l = by < MAX_LANES ? &c->lane[by] : NULL;
	uint64_t now, took;

	if (l && k > OPS_FALLOCATE)
		l->clock_ns = 0; /* served in place by libfuse, which has not read it */
	now = l ? lane_now(l) : balance_now_ns();
	took = r->start_ns && now > r->start_ns ? now - r->start_ns : 0;
	count_add(&s->kind[k].bucket[bucket_of(took)], 1);
	count_add(&s->kind[k].sum_ns, took);
}

/* ---- the text ---- */

static void put_kind(const struct opstat *sum, enum opstat_kind k, const char *name, struct vbuf *out)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < OPSTAT_BUCKETS; i++) {
		n += sum->kind[k].bucket[i];
		vbuf_printf(out, "stillfs_operation_seconds_bucket{name=\"%s\",kind=\"%s\",le=\"%.9g\"} %lu\n", name, kind_names[k],
			    (double)(1ull << (OPSTAT_SHIFT + 1 + i)) / 1e9, n);
	}
	n += sum->kind[k].bucket[OPSTAT_BUCKETS];
	vbuf_printf(out, "stillfs_operation_seconds_bucket{name=\"%s\",kind=\"%s\",le=\"+Inf\"} %lu\n"
			 "stillfs_operation_seconds_sum{name=\"%s\",kind=\"%s\"} %.9f\n"
			 "stillfs_operation_seconds_count{name=\"%s\",kind=\"%s\"} %lu\n", name, kind_names[k], n, name, kind_names[k],
		    (double)sum->kind[k].sum_ns / 1e9, name, kind_names[k], n);
}

static void add(struct opstat *sum, const struct opstat *s)
{
	for (unsigned k = 0; k < OPS_KINDS; k++) {
		for (unsigned i = 0; i <= OPSTAT_BUCKETS; i++)
			count_add(&sum->kind[k].bucket[i], s->kind[k].bucket[i]);
		count_add(&sum->kind[k].sum_ns, s->kind[k].sum_ns);
	}
	count_add(&sum->read_b, s->read_b);
	count_add(&sum->written_b, s->written_b);
}

/* Summed over all threads. */
void core_metrics(struct core *c, const char *name, struct vbuf *out)
{
	struct opstat sum = { 0 };

	for (unsigned i = 0; i < OPSTAT_THREADS; i++)
		if (i < c->n_lanes || i >= MAX_LANES)
			add(&sum, &c->opstat[i]);
	vbuf_puts(out, "# HELP stillfs_operation_seconds How long operations took, by kind, waiting at the gate included.\n"
		       "# TYPE stillfs_operation_seconds histogram\n");
	for (unsigned k = 0; k < OPS_KINDS; k++)
		put_kind(&sum, (enum opstat_kind)k, name, out);
	vbuf_printf(out, "# HELP stillfs_read_bytes_total Bytes read through the mounts.\n"
			 "# TYPE stillfs_read_bytes_total counter\nstillfs_read_bytes_total{name=\"%s\"} %lu\n"
			 "# HELP stillfs_written_bytes_total Bytes written through the mounts.\n"
			 "# TYPE stillfs_written_bytes_total counter\nstillfs_written_bytes_total{name=\"%s\"} %lu\n", name, sum.read_b,
		    name, sum.written_b);
}
