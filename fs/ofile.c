/* fs/ofile.c - open files, and what they mean for their node's caching.
 * Owns:      the slots' free list. Threads: any, under the node table's mutex; ofile_at takes none.
 * Blocks:    never. Errors: -ENFILE. */
#include "fs/node_int.h"
#include "base/fault.h"

#include <errno.h>

int node_opened(struct nodes *t, uint64_t slot, bool writable, bool want_cached)
{
	struct node *n = &t->node[slot];
	int mode = 0;

	(void)pthread_mutex_lock(&t->lock);
	node_counts_of(t, n);
	if (writable) {
		n->writers++;
		n->unsettled++;
	} else if (want_cached && !n->writers) {
		mode = n->cached_once && n->cached_at == n->writes ? 2 : 1;
		n->cached_at = n->writes;
		n->cached_once = true;
	}
	(void)pthread_mutex_unlock(&t->lock);
	return mode;
}

void node_closed(struct nodes *t, uint64_t slot, bool writable)
{
	(void)pthread_mutex_lock(&t->lock);
	node_counts_of(t, &t->node[slot]);
	if (writable && t->node[slot].writers)
		t->node[slot].writers--;
	(void)pthread_mutex_unlock(&t->lock);
}

int64_t ofile_new(struct nodes *t, uint64_t node, bool writable)
{
	struct ofile *f;
	uint32_t i;
	int64_t fh = -ENFILE;

	(void)pthread_mutex_lock(&t->lock);
	if (t->sealed && writable) {
		(void)pthread_mutex_unlock(&t->lock);
		return -EROFS;
	}
	i = t->f_free;
	if (i)
		t->f_free = t->f_next[i];
	else if (t->journal->f_used < TABLES_FILES)
		i = t->journal->f_used++;
	if (i) {
		f = &t->file[i];
		f->gen = (f->gen + 1) & INT32_MAX;
		f->fd_buf = -1;
		f->fd_dir = -1;
		f->flags = 0;
		f->writable = false;
		f->closing = false;
		f->dir_off = 0;
		f->next = 0;
		FAULT("file.filled");
		/* before the slot counts: whoever finds it in use must know whose it is */
		if (node_mine)
			node_mine->file = i;
		FAULT("file.record");
		f->node = (uint32_t)node;
		FAULT("file.node");
		t->n_files++;
		fh = (int64_t)((uint64_t)f->gen << 32 | i);
	}
	(void)pthread_mutex_unlock(&t->lock);
	return fh;
}

struct ofile *ofile_at(struct nodes *t, uint64_t fh)
{
	uint32_t i = (uint32_t)fh;

	return i > 0 && i < TABLES_FILES && t->file[i].node && t->file[i].gen == fh >> 32 ? &t->file[i] : NULL;
}

struct ofile *ofile_slot(struct nodes *t, uint32_t i)
{
	return &t->file[i];
}

uint32_t ofile_used(struct nodes *t)
{
	return t->journal->f_used;
}

void ofile_drop(struct nodes *t, uint32_t i)
{
	struct node *n = &t->node[t->file[i].node];

	(void)pthread_mutex_lock(&t->lock);
	node_counts_of(t, n);
	if (t->file[i].writable && n->unsettled)
		n->unsettled--;
	t->file[i].node = 0;
	t->f_next[i] = t->f_free;
	t->f_free = i;
	t->n_files--;
	(void)pthread_mutex_unlock(&t->lock);
}

void ofile_unmake(struct nodes *t, uint32_t i)
{
	t->file[i].closing = true; /* from here on it is a successor's closer's, until it is dropped */
	if (node_mine)
		node_mine->file = 0;
	ofile_drop(t, i);
}

/* ---- sealed ---- */

/* The lock is held. */
static uint64_t regular_open(const struct nodes *t)
{
	uint64_t n = 0;

	for (uint32_t i = 1; i < t->journal->f_used; i++)
		if (t->file[i].node && !t->file[i].closing && S_ISREG(t->node[t->file[i].node].type))
			n++;
	return n;
}

uint64_t nodes_open_files(struct nodes *t)
{
	uint64_t n;

	(void)pthread_mutex_lock(&t->lock);
	n = regular_open(t);
	(void)pthread_mutex_unlock(&t->lock);
	return n;
}

uint64_t nodes_seal(struct nodes *t)
{
	uint64_t n;

	(void)pthread_mutex_lock(&t->lock);
	n = regular_open(t);
	t->sealed = n == 0;
	(void)pthread_mutex_unlock(&t->lock);
	return n;
}

void nodes_seal_set(struct nodes *t, bool sealed)
{
	(void)pthread_mutex_lock(&t->lock);
	t->sealed = sealed;
	(void)pthread_mutex_unlock(&t->lock);
}
