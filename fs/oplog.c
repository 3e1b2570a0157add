/* fs/oplog.c - see oplog.h.
 * Owns:      which record is whose; the records are the keeper's (tables.h).
 * Order:     a record is filled, then `unique` is stored: it counts. Its effects follow, each after the store
 *            that announces it. The reply is written, then `unique` is cleared. A successor asks the kernel
 *            (recover.c) whether the reply had arrived: so death between the two is no question. */
#include "fs/oplog.h"
#include "base/fault.h"

#include <errno.h>
#include <stdlib.h>

struct oplog {
	struct op_rec *rec;
	pthread_mutex_t lock;
	unsigned next; /* records from here on were not given to a thread */
	_Atomic unsigned orphans;
};

static _Thread_local struct op_rec *cur;
static _Thread_local enum rec_stage was; /* what an earlier daemon had done of it */

struct oplog *oplog_new(const struct tables *t)
{
	struct oplog *o = calloc(1, sizeof(*o));

	if (!o)
		return NULL;
	o->rec = t->rec;
	o->next = REC_LANES;
	(void)pthread_mutex_init(&o->lock, NULL);
	for (unsigned i = REC_LANES; i < REC_COUNT; i++)
		o->orphans += o->rec[i].unique != 0;
	return o;
}

void oplog_free(struct oplog *o)
{
	if (o)
		(void)pthread_mutex_destroy(&o->lock);
	free(o);
}

struct op_rec *oplog_take(struct oplog *o)
{
	struct op_rec *rec = NULL;

	(void)pthread_mutex_lock(&o->lock);
	for (; o->next < REC_COUNT && !rec; o->next++)
		if (!o->rec[o->next].unique)
			rec = &o->rec[o->next];
	(void)pthread_mutex_unlock(&o->lock);
	return rec;
}

struct op_rec *oplog_lane(struct oplog *o, unsigned lane)
{
	return &o->rec[lane];
}

static bool counts(uint32_t opcode)
{
	switch (opcode) {
	case FUSE_LOOKUP:
	case FUSE_MKNOD:
	case FUSE_MKDIR:
	case FUSE_SYMLINK:
	case FUSE_LINK:
	case FUSE_UNLINK:
	case FUSE_RMDIR:
	case FUSE_RENAME:
	case FUSE_RENAME2:
	case FUSE_CREATE:
	case PROTO_TMPFILE:
	case FUSE_OPEN:
	case FUSE_OPENDIR:
	case FUSE_READDIRPLUS:
	case FUSE_SETXATTR:
	case FUSE_REMOVEXATTR:
		return true;
	default:
		return false;
	}
}

/* The record of an operation that the kernel sends again. It goes on being used, so that a second death
 * still finds what the first attempt did. */
static struct op_rec *find_orphan(struct oplog *o, struct rq *r)
{
	uint64_t unique = rq_head(r)->unique;

	if (!(unique & PROTO_UNIQUE_RESEND) || !atomic_load(&o->orphans))
		return NULL;
	for (unsigned i = REC_LANES; i < REC_COUNT; i++) {
		struct op_rec *rec = &o->rec[i];

		if (!rec->orphan_ns || rec->pair != r->m->idx || rec->opcode != r->opcode ||
		    (rec->unique | PROTO_UNIQUE_RESEND) != unique)
			continue;
		rec->unique = unique;
		rec->dev_fd = r->lane->fd[r->m->idx];
		FAULT("oplog.claim");
		rec->orphan_ns = 0; /* last: an orphan is not asked for at the kernel */
		atomic_fetch_sub(&o->orphans, 1);
		return rec;
	}
	return NULL;
}

void oplog_begin(struct oplog *o, struct op_rec *own, struct rq *r)
{
	was = REC_NEW;
	if (!counts(r->opcode))
		return;
	cur = find_orphan(o, r);
	if (cur) {
		was = (enum rec_stage)cur->stage;
	} else if (own) {
		cur = own;
		cur->opcode = r->opcode;
		cur->pair = r->m->idx;
		cur->dev_fd = r->lane->fd[r->m->idx];
		cur->stage = REC_NEW;
		cur->result = 0;
		cur->pre = 0;
		cur->file = 0;
		cur->n_refs = 0;
		cur->orphan_ns = 0;
		FAULT("oplog.filled");
		cur->unique = rq_head(r)->unique;
	}
	FAULT("oplog.begun");
	node_record(cur);
}

void oplog_end(void)
{
	if (cur) {
		FAULT("oplog.replied");
		cur->unique = 0;
	}
	cur = NULL;
	node_record(NULL);
}

bool oplog_known(int *result)
{
	if (was != REC_DID)
		return false;
	*result = cur->result;
	return true;
}

bool oplog_again(void)
{
	return was == REC_DOING;
}

void oplog_doing(uint64_t pre)
{
	if (!cur || was != REC_NEW)
		return;
	cur->pre = pre;
	atomic_signal_fence(memory_order_seq_cst);
	cur->stage = REC_DOING;
	FAULT("oplog.doing");
}

uint64_t oplog_pre(void)
{
	return cur ? cur->pre : 0;
}

int oplog_did(int r, int ours)
{
	FAULT("oplog.done");
	if (was == REC_DOING && ours && r == -ours)
		r = 0;
	if (cur) {
		cur->result = r;
		FAULT("oplog.result");
		cur->stage = REC_DID;
		FAULT("oplog.did");
	}
	return r;
}

bool oplog_room(void)
{
	return !cur || cur->n_refs < REC_REFS;
}
