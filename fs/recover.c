/* fs/recover.c - see recover.h.
 * Owns:      nothing; one thread, nobody else uses the tables yet.
 * Errors:    none: what cannot be repaired was not begun.
 *
 * Why the kernel is asked: between the write of a reply and the store that clears its record the daemon may die.
 * The kernel knows whether the reply came: an answer to an interrupt of a request (FUSE_INT_REQ_BIT) that it
 * does not wait for is refused with ENOENT, and one that it waits for changes nothing. Until the
 * resend a request that was read cannot be withdrawn, so its answer is exact. */
#include "fs/recover.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "fs/core_int.h"

#include <dirent.h>
#include <errno.h>
#include <linux/close_range.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define NOTIFY_RESEND 7 /* FUSE_NOTIFY_RESEND, Linux 6.9 */
#define INT_REQ_BIT 1u /* FUSE_INT_REQ_BIT of fs/fuse/fuse_dev_i.h: in `unique`, an answer to an interrupt */
#define ORPHAN_S 600u /* nobody waits that long to be read: its caller was killed after the resend */
#define MAX_FDS TABLES_FDS

/* ---- the tables ---- */

static uint64_t less(uint64_t have, uint64_t n)
{
	return have > n ? have - n : 0;
}

/* The entries of a FORGET that were not applied. It was lost to the kernel once it was read. */
static void finish_forget(const struct tables *t, struct op_rec *rec)
{
	unsigned char *buf = t->pool + (size_t)(rec->slot - 1) * SLOT_STRIDE + SLOT_IN;
	const unsigned char *landing = t->pool + t->landing + (size_t)(rec - t->rec) * SLOT_STRIDE;
	const struct fuse_in_header *h = (const void *)buf;
	const struct fuse_forget_in *single = (const void *)(h + 1);
	const struct fuse_batch_forget_in *batch = (const void *)(h + 1);
	const struct fuse_forget_one *one = (const void *)(batch + 1);
	uint32_t n = h->opcode == FUSE_FORGET ? 1 : h->opcode == FUSE_BATCH_FORGET ? batch->count : 0;

	if (h->opcode == FUSE_BATCH_FORGET && h->len > rec->split && h->len <= SLOT_STRIDE - SLOT_IN)
		memcpy(buf + rec->split, landing, h->len - rec->split); /* again, if it was done */
	for (uint32_t i = rec->n_refs; i < n; i++) {
		uint64_t id = h->opcode == FUSE_FORGET ? h->nodeid : one[i].nodeid;
		uint64_t by = h->opcode == FUSE_FORGET ? single->nlookup : one[i].nlookup;

		if (id >= NODE_FIRST && id < TABLES_NODES && t->node[id].nlookup)
			tables_set_lookups(t, (uint32_t)id, less(t->node[id].nlookup, by), rec, i + 1, false);
	}
	rec->slot = 0;
}

bool recover_waiting(int dev_fd, uint64_t unique)
{
	struct fuse_out_header h = { .len = sizeof(h), .error = -EINTR, .unique = unique | INT_REQ_BIT };

	return write(dev_fd, &h, sizeof(h)) == (ssize_t)sizeof(h);
}

/* The kernel has not been told of what this operation made in the tables. Its lookups go last to first; the
 * descriptors that this leaves without an owner are closed by recover_descriptors. */
static void undo(const struct tables *t, struct op_rec *rec)
{
	struct ofile *f = &t->file[rec->file];

	for (uint32_t n; (n = rec->n_refs) > 0;) {
		uint32_t slot = rec->refs[n - 1];

		tables_set_lookups(t, slot, less(t->node[slot].nlookup, 1), rec, n - 1, false);
	}
	if (rec->file && f->node) {
		/* a cached open that nobody had: the pages are older than it says */
		t->node[f->node].cached_once = false;
		FAULT("recover.file");
		f->closing = true;
	}
	rec->file = 0;
}

static void repair_record(const struct tables *t, struct op_rec *rec)
{
	uint64_t now = clock_boot_ns();

	if (rec->orphan_ns) {
		if (now - rec->orphan_ns > ORPHAN_S * NS_PER_S)
			rec->unique = rec->orphan_ns = 0;
		return;
	}
	if (!recover_waiting(rec->dev_fd, rec->unique)) {
		rec->unique = 0; /* it was answered */
		return;
	}
	undo(t, rec);
	FAULT("recover.undone");
	rec->orphan_ns = now;
}

void recover_tables(const struct tables *t)
{
	tables_redo(t);
	for (unsigned i = 0; i < REC_LANES; i++)
		if (t->rec[i].slot)
			finish_forget(t, &t->rec[i]);
	FAULT("recover.forgets");
	for (unsigned i = REC_LANES; i < REC_COUNT; i++)
		if (t->rec[i].unique)
			repair_record(t, &t->rec[i]);
#ifdef STILLFS_FAULT_POINTS
	if (!tables_whole(t)) {
		log_error("hash, free list or totals of the nodes are wrong");
		abort();
	}
#endif
}

/* ---- descriptors ---- */

static void keep(uint64_t *bits, int fd)
{
	if (fd >= 0 && (unsigned)fd < MAX_FDS)
		bits[(unsigned)fd / 64] |= 1ull << ((unsigned)fd % 64);
}

/* Where 0 says that there is none. */
static void keep_made(uint64_t *bits, int fd)
{
	if (fd > 0)
		keep(bits, fd);
}

static bool kept(const uint64_t *bits, unsigned fd)
{
	return fd < MAX_FDS && bits[fd / 64] >> (fd % 64) & 1;
}

static void mark(const struct tables *t, uint64_t *bits)
{
	struct shm_head *h = t->head;

	for (unsigned i = 0; i < sizeof(h->base_fds) / sizeof(h->base_fds[0]); i++)
		bits[i] = h->base_fds[i];
	keep_made(bits, h->ctl.dev_fd);
	for (unsigned i = 0; i < DOOR_MAX_PAIRS; i++) {
		keep_made(bits, h->mnt[i].dev_fd);
		for (unsigned l = 0; l < SHM_MAX_LANES; l++)
			keep_made(bits, h->lane_fd[l][i]);
	}
	for (unsigned i = 0; i < SHM_MAX_RINGS; i++)
		keep_made(bits, h->ring_pipe[i]);
	for (uint32_t fd = 0; fd < t->journal->fd_used; fd++)
		if (tables_holder(t, fd))
			keep(bits, (int)fd);
	for (uint32_t i = 1; i < t->journal->f_used; i++)
		if (t->file[i].node) {
			keep(bits, t->file[i].fd_buf);
			keep(bits, t->file[i].fd_dir);
		}
}

static bool is_on(int fd, const uint64_t *devs, unsigned n)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return false;
	for (unsigned i = 0; i < n; i++)
		if (st.st_dev == devs[i])
			return true;
	return false;
}

static void close_unkept(const uint64_t *bits)
{
	unsigned from = 0;

	for (unsigned w = 0; w < MAX_FDS / 64; w++)
		for (uint64_t b = bits[w]; b; b &= b - 1) {
			unsigned fd = w * 64 + (unsigned)__builtin_ctzll(b);

			if (fd > from)
				(void)close_range(from, fd - 1, 0);
			from = fd + 1;
		}
	(void)close_range(from, ~0u, 0);
}

/* One by one, because some must stay. NULL also when nothing was held. */
static int *close_but(const uint64_t *bits, const uint64_t *devs, unsigned n, size_t *n_held)
{
	DIR *d = opendir("/proc/self/fd");
	int *held = NULL, *more;

	if (!d) { /* rather a close that may wait than a dead ring that stays */
		log_warn("take over: list the open files: %s; those of the backing are closed at once", strerror(errno));
		close_unkept(bits);
		return NULL;
	}
	for (struct dirent *e; (e = readdir(d));) {
		int fd = atoi(e->d_name);

		if (e->d_name[0] == '.' || fd == dirfd(d) || kept(bits, (unsigned)fd))
			continue;
		more = is_on(fd, devs, n) ? realloc(held, (*n_held + 1) * sizeof(int)) : NULL;
		if (!more) {
			(void)close(fd);
			continue;
		}
		held = more;
		held[(*n_held)++] = fd;
	}
	(void)closedir(d);
	return held;
}

int *recover_descriptors(const struct tables *t, bool hold, const uint64_t *devs, unsigned n, size_t *n_held)
{
	uint64_t *bits = calloc(MAX_FDS / 64, sizeof(uint64_t));
	int *held = NULL;

	*n_held = 0;
	if (!bits)
		return NULL;
	mark(t, bits);
	if (hold)
		held = close_but(bits, devs, n, n_held);
	else
		close_unkept(bits);
	free(bits);
	return held;
}

/* ---- the kernel ---- */

int recover_wait_rings(struct shm_head *head, uint32_t max_ms)
{
	uint64_t give_up = clock_boot_ns() + max_ms * NS_PER_MS;

	for (unsigned i = 0; i < SHM_MAX_RINGS; i++) {
		struct pollfd p = { .fd = head->ring_pipe[i] };

		if (!p.fd)
			continue;
		while (!(p.revents & (POLLHUP | POLLNVAL))) {
			if (poll(&p, 1, (int)clock_left_ms(give_up)) == 0 && clock_boot_ns() >= give_up)
				return -ETIMEDOUT;
		}
		head->ring_pipe[i] = 0;
		if (p.revents & POLLHUP)
			(void)close(p.fd);
	}
	return 0;
}

void recover_resend_one(const struct shm_mnt *m)
{
	const struct fuse_out_header h = { .len = sizeof(h), .error = NOTIFY_RESEND };

	/* refused when it was unmounted meanwhile: nobody waits then */
	if (m->dev_fd && write(m->dev_fd, &h, sizeof(h)) < 0) {
	}
}

void recover_resend(struct shm_head *head)
{
	for (unsigned i = 0; i < DOOR_MAX_PAIRS; i++)
		recover_resend_one(&head->mnt[i]);
}
