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
	t->rec = tables_map("stillfs-ops", REC_COUNT * sizeof(struct op_rec), map_fd(t, SHM_MAP_OPS));
	if (!t->node || !t->file || !t->journal || !t->fd_node || !t->rec)
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
	if (t->rec)
		(void)munmap(t->rec, REC_COUNT * sizeof(struct op_rec));
}

static void apply(const struct tables *t)
{
	const struct node_journal *j = t->journal;
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
	FAULT("journal.done");
	/* the death of a thread leaves its stores in program order: the compiler must, too */
	atomic_signal_fence(memory_order_seq_cst);
	atomic_store(&t->journal->valid, 0);
}

void tables_set_lookups(const struct tables *t, uint32_t slot, uint64_t nlookup, struct op_rec *rec,
			uint32_t count, bool ref)
{
	struct node_journal *j = t->journal;

	j->slot = slot;
	j->nlookup = nlookup;
	j->rec = rec ? (uint32_t)(rec - t->rec) : REC_NONE;
	j->count = count;
	j->ref = ref;
	FAULT("journal.filled");
	atomic_store(&j->valid, 1);
	atomic_signal_fence(memory_order_seq_cst);
	FAULT("journal.valid");
	apply(t);
}

void tables_redo(const struct tables *t)
{
	if (t->journal->valid)
		apply(t);
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
