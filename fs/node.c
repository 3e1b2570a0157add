/* fs/node.c - the tables of nodes and open files, in shared memory.
 * Owns:      the O_PATH descriptors of nodes, the free list of files. The tables are the keeper's.
 * Called by: operations (ops_*.c), the data path (ofile_at only), core.c.
 * Threads:   any; one mutex. ofile_at and node_at take none: a slot in use does not move.
 * Blocks:    node_get_fd and node_ref do short system calls; the mutex is never held over one.
 * Errors:    -errno. Allocates only in nodes_new. */
#include "fs/node_int.h"
#include "base/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

_Thread_local struct op_rec *node_mine;

struct handle { /* struct file_handle with room */
	unsigned int bytes;
	int type;
	unsigned char data[NODE_HANDLE_MAX];
};

static void *map_private(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static bool evictable(const struct node *n)
{
	return !(n->flags & (NODE_KEEP_FD | NODE_UNLINKED));
}

/* Give slot i this descriptor. Lock held. */
static void give_fd_locked(struct nodes *t, uint32_t i, int fd)
{
	if (fd >= (int)TABLES_FDS) /* above the limit: cannot be */
		return;
	if (fd >= (int)t->journal->fd_used)
		t->journal->fd_used = (uint32_t)fd + 1;
	t->tab.fd_node[fd] = i;
	FAULT("node.fd");
	t->node[i].fd = fd;
}

static void count_anew(const struct nodes *t, struct node *n)
{
	n->pins = n->writers = 0;
	n->unsettled = 0;
	n->epoch = t->journal->epoch;
}

/* What an earlier daemon counted for itself is over. */
void node_counts_of(const struct nodes *t, struct node *n)
{
	if (n->epoch != t->journal->epoch)
		count_anew(t, n);
}

bool node_unsettled(struct nodes *t, const struct node *n)
{
	return n->epoch == t->journal->epoch && n->unsettled;
}

/* What is private from what is shared: by descriptors and open files, for everybody waits meanwhile, and of a million
 * known files a few thousand have either. */
static void rebuild(struct nodes *t)
{
	t->journal->epoch++;
	for (uint32_t fd = 0; fd < t->journal->fd_used; fd++) {
		uint32_t i = tables_holder(&t->tab, fd);

		if (!i)
			continue;
		if (evictable(&t->node[i]))
			t->n_fds++;
		else
			t->kept++;
	}
	for (uint32_t i = t->journal->f_used; i-- > 1;) {
		struct ofile *f = &t->file[i];

		if (!f->node) {
			t->f_next[i] = t->f_free;
			t->f_free = i;
			continue;
		}
		t->n_files++;
		node_counts_of(t, &t->node[f->node]);
		if (f->writable && !f->closing)
			t->node[f->node].writers++;
		if (f->writable)
			t->node[f->node].unsettled++;
	}
}

struct nodes *nodes_over(const struct tables *tables, size_t fd_bound)
{
	struct nodes *t = map_private(sizeof(*t));

	if (!t)
		return NULL;
	t->tab = *tables;
	t->node = tables->node;
	t->file = tables->file;
	t->journal = tables->journal;
	t->f_next = map_private((size_t)TABLES_FILES * sizeof(uint32_t));
	t->fd_bound = fd_bound;
	(void)pthread_mutex_init(&t->lock, NULL);
	for (unsigned i = 0; i < MAX_PAIRS; i++)
		t->root_fd[i] = -1;
	if (!t->f_next) {
		nodes_free(t);
		errno = ENOMEM;
		return NULL;
	}
	rebuild(t);
	return t;
}

struct nodes *nodes_new(size_t fd_bound)
{
	struct tables own = { 0 };
	struct nodes *t = tables_nodes(&own) == 0 ? nodes_over(&own, fd_bound) : NULL;

	if (t)
		t->own = true;
	else
		tables_free_nodes(&own);
	return t;
}

void nodes_free(struct nodes *t)
{
	if (!t)
		return;
	for (uint32_t fd = 0; fd < t->journal->fd_used; fd++)
		if (tables_holder(&t->tab, fd))
			(void)close((int)fd);
	if (t->own)
		tables_free_nodes(&t->tab);
	if (t->f_next)
		(void)munmap(t->f_next, (size_t)TABLES_FILES * sizeof(uint32_t));
	(void)pthread_mutex_destroy(&t->lock);
	(void)munmap(t, sizeof(*t));
}

void node_record(struct op_rec *rec)
{
	node_mine = rec;
}

static int get_handle(int fd, struct handle *h)
{
	int mount_id;

	memset(h, 0, sizeof(*h));
	h->bytes = NODE_HANDLE_MAX;
	return name_to_handle_at(fd, "", (struct file_handle *)h, &mount_id, AT_EMPTY_PATH);
}

int nodes_add_root(struct nodes *t, unsigned p, int fd)
{
	struct node *n = &t->node[NODE_ROOT_ID + p];
	struct stat st;
	struct handle h;
	int probe = -1;

	if (fstat(fd, &st) < 0)
		return -errno;
	t->root_fd[p] = fd;
	if (get_handle(fd, &h) == 0)
		probe = open_by_handle_at(fd, (struct file_handle *)&h, O_PATH | O_CLOEXEC);
	t->handles[p] = probe >= 0;
	if (probe >= 0)
		(void)close(probe);
	n->ino = st.st_ino;
	n->dev = st.st_dev;
	n->type = S_IFDIR;
	n->pair = (uint8_t)p;
	n->fd = fd;
	n->flags = NODE_KEEP_FD;
	n->nlookup = 1;
	return 0;
}

bool nodes_handles(struct nodes *t, unsigned pair)
{
	return t->handles[pair];
}

uint64_t node_slot(unsigned pair, uint64_t nodeid)
{
	return nodeid == NODE_ROOT_ID ? NODE_ROOT_ID + pair : nodeid;
}

struct node *node_at(struct nodes *t, uint64_t slot)
{
	return slot > 0 && slot < TABLES_NODES && t->node[slot].nlookup ? &t->node[slot] : NULL;
}

/* The slot of this very file (number, generation within the handle), 0: unknown. Lock held. */
static uint32_t find_locked(struct nodes *t, unsigned pair, const struct stat *st, const struct handle *h)
{
	for (uint32_t i = tables_first(&t->tab, st->st_dev, st->st_ino); i; i = t->node[i].next) {
		const struct node *n = &t->node[i];

		if (n->ino == st->st_ino && n->dev == st->st_dev && n->pair == pair &&
		    n->h_len == h->bytes &&
		    memcmp(n->handle, h->data, h->bytes) == 0)
			return i;
	}
	return 0;
}

/* One lookup more, counted for this thread's operation. Lock held. */
static void ref_locked(struct nodes *t, uint32_t slot)
{
	tables_set_lookups(&t->tab, slot, t->node[slot].nlookup + 1, node_mine,
			   node_mine ? node_mine->n_refs + 1 : 0, true);
}

/* Fill a fresh slot. Lock held. */
static void slot_fill_locked(struct nodes *t, uint32_t i, unsigned pair, int fd, const struct stat *st,
			     const struct handle *h)
{
	struct node *n = &t->node[i];

	n->generation++; /* alone: one that dies here must not give an old one out again */
	n->ino = st->st_ino;
	n->dev = st->st_dev;
	count_anew(t, n);
	n->writes = n->cached_at = 0;
	n->cached_once = false;
	n->type = st->st_mode & S_IFMT;
	n->pair = (uint8_t)pair;
	n->h_len = (uint8_t)h->bytes;
	n->h_type = h->type;
	memcpy(n->handle, h->data, h->bytes);
	give_fd_locked(t, i, fd);
	n->recent = 0; /* until it is used: a walk over many files must not drive out what is in use */
	n->flags = (t->handles[pair] && h->bytes ? 0 : NODE_KEEP_FD) |
		   (st->st_mode & (S_ISUID | S_ISGID) && S_ISREG(st->st_mode) ? NODE_SUID : 0);
	tables_hash(&t->tab, i);
	if (evictable(n))
		t->n_fds++;
	else
		t->kept++;
	FAULT("node.filled");
	ref_locked(t, i); /* last: it is what makes the slot count */
}

int node_ref(struct nodes *t, unsigned pair, int fd, struct stat *st, uint64_t *slot)
{
	struct handle h;
	uint32_t i;
	int spare = -1;

	if (fstat(fd, st) < 0) {
		int e = -errno;

		(void)close(fd);
		return e;
	}
	/* handles are opened below the root's mount: one of another filesystem, mounted inside the backing
	 * later on, would be taken for a file of this one */
	if (get_handle(fd, &h) < 0 || st->st_dev != t->node[NODE_ROOT_ID + pair].dev)
		h.bytes = 0;
	(void)pthread_mutex_lock(&t->lock);
	if (st->st_ino == t->node[NODE_ROOT_ID + pair].ino &&
	    st->st_dev == t->node[NODE_ROOT_ID + pair].dev) {
		/* ".." of a child, asked for by an exporter: the root has its fixed id */
		*slot = NODE_ROOT_ID;
		(void)pthread_mutex_unlock(&t->lock);
		(void)close(fd);
		return 0;
	}
	i = find_locked(t, pair, st, &h);
	if (i) {
		struct node *n = &t->node[i];

		ref_locked(t, i);
		n->recent = 1;
		if (n->fd < 0) {
			give_fd_locked(t, i, fd);
			t->n_fds++;
		} else {
			spare = fd;
		}
		if (st->st_nlink && (n->flags & NODE_UNLINKED)) { /* linked again: O_TMPFILE */
			n->flags &= ~(uint32_t)NODE_UNLINKED;
			if (evictable(n)) {
				t->kept--;
				t->n_fds++;
			}
		}
		if (S_ISREG(st->st_mode) && st->st_mode & (S_ISUID | S_ISGID))
			n->flags |= NODE_SUID;
	} else {
		i = tables_take(&t->tab);
		if (i)
			slot_fill_locked(t, i, pair, fd, st, &h);
		else
			spare = fd;
	}
	(void)pthread_mutex_unlock(&t->lock);
	/* another descriptor of a file that n->fd holds: closing it is never the last close */
	if (spare >= 0)
		(void)close(spare);
	*slot = i;
	return i ? 0 : -ENFILE;
}

int node_forget_msg(struct nodes *t, uint64_t slot, uint64_t n, struct op_rec *rec, uint32_t count)
{
	struct node *nd;
	int fd = -1;

	if (slot < NODE_FIRST || slot >= TABLES_NODES)
		return -1; /* roots and the control link are never forgotten */
	(void)pthread_mutex_lock(&t->lock);
	nd = &t->node[slot];
	if (nd->nlookup) {
		if (n > nd->nlookup)
			n = nd->nlookup;
		if (nd->nlookup == n) {
			fd = nd->fd;
			if (!evictable(nd))
				t->kept--;
			else if (fd >= 0)
				t->n_fds--;
		}
		tables_set_lookups(&t->tab, (uint32_t)slot, nd->nlookup - n, rec, count, false);
	}
	(void)pthread_mutex_unlock(&t->lock);
	return fd;
}

int node_forget(struct nodes *t, uint64_t slot, uint64_t n)
{
	return node_forget_msg(t, slot, n, NULL, 0);
}

int node_unref(struct nodes *t, uint64_t slot)
{
	struct op_rec *rec = node_mine && node_mine->n_refs ? node_mine : NULL;

	return node_forget_msg(t, slot, 1, rec, rec ? rec->n_refs - 1 : 0);
}

int node_get_fd(struct nodes *t, uint64_t slot)
{
	struct handle h;
	struct node *n;
	int fd, root;

	(void)pthread_mutex_lock(&t->lock);
	n = node_at(t, slot);
	if (!n) {
		(void)pthread_mutex_unlock(&t->lock);
		return -ESTALE;
	}
	n->recent = 1;
	node_counts_of(t, n);
	n->pins++;
	fd = n->fd;
	root = t->root_fd[n->pair];
	h.bytes = n->h_len;
	h.type = n->h_type;
	memcpy(h.data, n->handle, sizeof(h.data));
	(void)pthread_mutex_unlock(&t->lock);
	if (fd >= 0)
		return fd;
	fd = open_by_handle_at(root, (struct file_handle *)&h, O_PATH | O_CLOEXEC);
	if (fd < 0) {
		int e = -errno;

		node_put_fd(t, slot);
		return e;
	}
	(void)pthread_mutex_lock(&t->lock);
	if (n->fd < 0) {
		give_fd_locked(t, (uint32_t)slot, fd);
		t->n_fds++;
	} else { /* somebody was quicker */
		(void)close(fd);
		fd = n->fd;
	}
	(void)pthread_mutex_unlock(&t->lock);
	return fd;
}

void node_put_fd(struct nodes *t, uint64_t slot)
{
	(void)pthread_mutex_lock(&t->lock);
	node_counts_of(t, &t->node[slot]);
	if (t->node[slot].pins)
		t->node[slot].pins--;
	(void)pthread_mutex_unlock(&t->lock);
}

int node_unlinked(struct nodes *t, unsigned pair, int fd)
{
	struct stat st;
	struct handle h;
	uint32_t i = 0;

	if (fstat(fd, &st) < 0)
		return fd;
	if (get_handle(fd, &h) < 0 || st.st_dev != t->node[NODE_ROOT_ID + pair].dev)
		h.bytes = 0;
	(void)pthread_mutex_lock(&t->lock);
	i = find_locked(t, pair, &st, &h);
	if (i) {
		struct node *n = &t->node[i];

		if (evictable(n)) {
			if (n->fd >= 0)
				t->n_fds--;
			t->kept++;
		}
		/* the descriptor first: flagged without one it would be out of reach */
		if (n->fd < 0) {
			give_fd_locked(t, i, fd);
			fd = -1;
		}
		FAULT("node.held");
		n->flags |= NODE_UNLINKED;
	}
	(void)pthread_mutex_unlock(&t->lock);
	return fd;
}

void node_linked(struct nodes *t, unsigned pair, int fd)
{
	struct stat st;
	struct handle h;
	struct node *n;
	uint32_t i;

	if (fstat(fd, &st) < 0)
		return;
	if (get_handle(fd, &h) < 0 || st.st_dev != t->node[NODE_ROOT_ID + pair].dev)
		h.bytes = 0;
	(void)pthread_mutex_lock(&t->lock);
	i = find_locked(t, pair, &st, &h);
	n = i ? &t->node[i] : NULL;
	if (n && n->flags & NODE_UNLINKED) {
		n->flags &= ~(uint32_t)NODE_UNLINKED;
		if (evictable(n)) {
			t->kept--;
			t->n_fds++;
		}
	}
	(void)pthread_mutex_unlock(&t->lock);
}

/* The clock goes over descriptors, not over nodes: of a million known files a few thousand have one, and these have
 * small numbers. So a descriptor is found in a few steps, and in two turns at the most: the first takes the second
 * chance from all that were used since. */
int node_evict(struct nodes *t)
{
	int fd = -1;

	(void)pthread_mutex_lock(&t->lock);
	for (uint64_t k = 2ull * t->journal->fd_used; k && fd < 0 && t->n_fds > t->fd_bound; k--) {
		struct node *n;
		uint32_t i;

		t->hand = t->hand + 1 < t->journal->fd_used ? t->hand + 1 : 0;
		i = tables_holder(&t->tab, t->hand);
		n = &t->node[i];
		if (!i || !evictable(n))
			continue;
		node_counts_of(t, n);
		if (n->pins)
			continue;
		if (n->recent) {
			n->recent = 0;
			continue;
		}
		fd = n->fd;
		n->fd = -1;
		t->n_fds--;
	}
	(void)pthread_mutex_unlock(&t->lock);
	return fd;
}

void node_counts(struct nodes *t, uint64_t *nodes, uint64_t *fds, uint64_t *lookups, uint64_t *files)
{
	(void)pthread_mutex_lock(&t->lock);
	*nodes = t->journal->n_nodes;
	*fds = t->n_fds + t->kept;
	*lookups = t->journal->n_lookups;
	*files = t->n_files;
	(void)pthread_mutex_unlock(&t->lock);
}
