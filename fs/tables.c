/* fs/tables.c - see tables.h. Mapped without reserve: memory is touched as used. */
#include "fs/tables.h"
#include "base/fault.h"
#include "fs/core_int.h"
#include "fs/ctl_handle.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

void *tables_map(const char *name, size_t size, int32_t *fd)
{
	int made = fd && *fd ? *fd : memfd_create(name, MFD_CLOEXEC);
	struct stat st;
	void *p;

	if (made < 0)
		return NULL;
	if (fd && *fd) {
		if (fstat(made, &st) < 0 || st.st_size != (off_t)size) {
			errno = EPROTO;
			return NULL;
		}
	} else if (ftruncate(made, (off_t)size) < 0) {
		(void)close(made);
		return NULL;
	}
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, made, 0);
	if (fd)
		*fd = made;
	else
		(void)close(made);
	/* sparse, of many GiB in all: a dump of a crash would fill them, and has callers' data in it */
	if (p != MAP_FAILED && madvise(p, size, MADV_DONTDUMP) < 0) {
		/* a kernel that cannot: large dumps */
	}
	return p == MAP_FAILED ? NULL : p;
}

static int32_t *map_fd(struct tables *t, enum shm_map which)
{
	return t->head ? &t->head->map_fd[which] : NULL;
}

int tables_nodes(struct tables *t)
{
	t->node = tables_map("stillfs-nodes", (size_t)TABLES_NODES * sizeof(struct node), map_fd(t, SHM_MAP_NODES));
	t->file = tables_map("stillfs-files", (size_t)TABLES_FILES * sizeof(struct ofile), map_fd(t, SHM_MAP_FILES));
	t->journal = tables_map("stillfs-journal", sizeof(*t->journal), map_fd(t, SHM_MAP_JOURNAL));
	t->fd_node = tables_map("stillfs-descriptors", TABLES_FDS * sizeof(uint32_t), map_fd(t, SHM_MAP_FDS));
	t->hash = tables_map("stillfs-hash", TABLES_HASH * sizeof(uint32_t), map_fd(t, SHM_MAP_HASH));
	t->rec = tables_map("stillfs-ops", REC_COUNT * sizeof(struct op_rec), map_fd(t, SHM_MAP_OPS));
	if (!t->node || !t->file || !t->journal || !t->fd_node || !t->hash || !t->rec)
		return -errno;
	if (!t->journal->f_used) { /* new */
		t->journal->n_used = NODE_FIRST;
		t->journal->f_used = 1; /* file handle 0 is never given out */
	}
	return 0;
}

void tables_free_nodes(struct tables *t)
{
	if (t->node)
		(void)munmap(t->node, (size_t)TABLES_NODES * sizeof(struct node));
	if (t->file)
		(void)munmap(t->file, (size_t)TABLES_FILES * sizeof(struct ofile));
	if (t->journal)
		(void)munmap(t->journal, sizeof(*t->journal));
	if (t->fd_node)
		(void)munmap((void *)(uintptr_t)t->fd_node, TABLES_FDS * sizeof(uint32_t));
	if (t->hash)
		(void)munmap((void *)(uintptr_t)t->hash, TABLES_HASH * sizeof(uint32_t));
	if (t->rec)
		(void)munmap(t->rec, REC_COUNT * sizeof(struct op_rec));
}

static uint32_t bucket(uint64_t dev, uint64_t ino)
{
	uint64_t x = ino * 0x9e3779b97f4a7c15ull ^ dev * 0xc2b2ae3d27d4eb4full;

	return (uint32_t)(x >> 32) & (TABLES_HASH - 1);
}

/* A store that stays behind all before it: a daemon that dies leaves its stores in this order. */
static void put(_Atomic uint32_t *word, uint32_t value)
{
	atomic_store_explicit(word, value, memory_order_release);
}

/* Out of its chain, if it is in one, and to the head of the free list; any number of times. Between the steps the
 * slot is in the chain, or in none, or at the head: never in two places, as its own `next` leads nobody who does not
 * come through it, and nothing is left dangling behind it. */
static void set_free(const struct tables *t, uint32_t slot)
{
	_Atomic uint32_t *p = &t->hash[bucket(t->node[slot].dev, t->node[slot].ino)];

	if (t->journal->free_head == slot)
		return;
	while (*p && *p != slot)
		p = &t->node[*p].next;
	if (*p)
		put(p, t->node[slot].next);
	FAULT("free.unhashed");
	put(&t->node[slot].next, t->journal->free_head);
	FAULT("free.next");
	put(&t->journal->free_head, slot);
	FAULT("free.head");
}

static void moved(const struct tables *t)
{
	put(&t->journal->moving, 0);
	FAULT("moving.done");
}

uint32_t tables_take(const struct tables *t)
{
	struct node_journal *j = t->journal;
	uint32_t slot = j->free_head;

	if (slot) {
		put(&j->moving, slot);
		FAULT("take.moving");
		put(&j->free_head, t->node[slot].next);
	} else if (j->n_used < TABLES_NODES) {
		slot = j->n_used;
		put(&j->moving, slot);
		FAULT("take.new");
		put(&j->n_used, slot + 1);
	}
	FAULT("take.taken");
	return slot;
}

void tables_hash(const struct tables *t, uint32_t slot)
{
	_Atomic uint32_t *first = &t->hash[bucket(t->node[slot].dev, t->node[slot].ino)];

	put(&t->node[slot].next, *first);
	FAULT("hash.next");
	put(first, slot);
	FAULT("hash.first");
}

uint32_t tables_first(const struct tables *t, uint64_t dev, uint64_t ino)
{
	return t->hash[bucket(dev, ino)];
}

uint32_t tables_holder(const struct tables *t, uint32_t fd)
{
	uint32_t slot = t->fd_node[fd];
	const struct node *n = &t->node[slot];

	return slot && n->nlookup && n->fd == (int32_t)fd ? slot : 0;
}

static void apply(const struct tables *t)
{
	struct node_journal *j = t->journal;
	struct op_rec *rec = j->rec == REC_NONE ? NULL : &t->rec[j->rec];

	if (!j->nlookup)
		t->node[j->slot].fd = -1;
	FAULT("journal.fd");
	if (rec && j->ref)
		rec->refs[j->count - 1] = j->slot;
	if (rec)
		rec->n_refs = j->count;
	FAULT("journal.count");
	t->node[j->slot].nlookup = j->nlookup;
	j->n_nodes = j->nodes_then;
	j->n_lookups = j->lookups_then;
	FAULT("journal.done");
	/* the death of a thread leaves its stores in program order: the compiler must, too */
	atomic_signal_fence(memory_order_seq_cst);
	atomic_store(&t->journal->valid, 0);
	FAULT("journal.over");
}

void tables_set_lookups(const struct tables *t, uint32_t slot, uint64_t nlookup, struct op_rec *rec,
			uint32_t count, bool ref)
{
	struct node_journal *j = t->journal;
	uint64_t before = t->node[slot].nlookup;

	if (before && !nlookup)
		put(&j->moving, slot);
	j->slot = slot;
	j->nlookup = nlookup;
	j->nodes_then = j->n_nodes + (nlookup != 0) - (before != 0);
	j->lookups_then = j->n_lookups + nlookup - before;
	j->rec = rec ? (uint32_t)(rec - t->rec) : REC_NONE;
	j->count = count;
	j->ref = ref;
	FAULT("journal.filled");
	atomic_store(&j->valid, 1);
	atomic_signal_fence(memory_order_seq_cst);
	FAULT("journal.valid");
	apply(t);
	if (j->moving && !nlookup)
		set_free(t, slot);
	moved(t);
}

void tables_redo(const struct tables *t)
{
	uint32_t slot;

	if (t->journal->valid)
		apply(t);
	slot = t->journal->moving;
	/* one in use is in its chain: it was hashed before it was counted, and is counted out before it leaves */
	if (slot && slot < t->journal->n_used && !t->node[slot].nlookup)
		set_free(t, slot);
	moved(t);
}

bool tables_whole(const struct tables *t)
{
	const struct node_journal *j = t->journal;
	uint64_t nodes = 0, lookups = 0, hashed = 0, spare = 0, room = TABLES_NODES;

	for (uint32_t i = NODE_FIRST; i < j->n_used; i++) {
		const struct node *n = &t->node[i];
		uint32_t k = n->nlookup ? tables_first(t, n->dev, n->ino) : i;

		for (; k && k != i && room; room--)
			k = t->node[k].next;
		if (k != i)
			return false; /* in use, and not found */
		nodes += n->nlookup != 0;
		lookups += n->nlookup;
	}
	for (uint32_t b = 0; b < TABLES_HASH; b++)
		for (uint32_t k = t->hash[b]; k && hashed <= nodes; k = t->node[k].next)
			hashed++;
	for (uint32_t k = j->free_head; k && spare < j->n_used; k = t->node[k].next)
		spare += t->node[k].nlookup ? j->n_used : 1;
	return hashed == nodes && spare + nodes == j->n_used - NODE_FIRST && j->n_nodes == nodes && j->n_lookups == lookups;
}

int tables_new(struct tables *t, struct shm_head *head, const struct conf *conf)
{
	t->head = head;
	t->pool_b = pool_size_b(conf);
	t->landing = pool_landing(conf, 0);
	t->pool = tables_map("stillfs-requests", t->pool_b, map_fd(t, SHM_MAP_REQUESTS));
	t->events_b = CTL_EVENTS_B;
	t->events = tables_map("stillfs-events", t->events_b, map_fd(t, SHM_MAP_EVENTS));
	t->ctl = tables_map("stillfs-control", sizeof(struct ctl_shared), map_fd(t, SHM_MAP_CONTROL));
	if (!t->pool || !t->events || !t->ctl)
		return -errno;
	return tables_nodes(t);
}
