/* tests/conformance/fs/random_data.c - operations on open files and mappings. */
#include "random.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define SECTOR 4096u

static struct both *rnd_open(struct world *w)
{
	for (unsigned i = 0; i < N_FDS * 2; i++) {
		struct both *f = &w->f[rnd(w, N_FDS)];

		if (f->fd[0] >= 0)
			return f;
	}
	return NULL;
}

/* Which file it is about, for -v. */
static void show(struct world *w, int fd)
{
	struct stat st;

	if (w->verbose && fstat(fd, &st) == 0)
		(void)printf("    fd %d, file %lu of %ld bytes\n", fd, st.st_ino, st.st_size);
}

static void close_both(struct world *w, struct both *f)
{
	for (unsigned i = 0; i < w->sides; i++) {
		(void)close(f->fd[i]);
		f->fd[i] = -1;
	}
}

static void op_open(struct world *w)
{
	static const int flags[] = { O_RDONLY, O_RDWR, O_RDWR, O_RDWR | O_CREAT, O_RDWR | O_CREAT, O_WRONLY | O_CREAT,
				     O_RDWR | O_CREAT | O_TRUNC, O_RDWR | O_DIRECT, O_RDWR | O_CREAT | O_DIRECT,
				     O_WRONLY | O_APPEND | O_CREAT, O_RDWR | O_DSYNC, O_RDONLY | O_DIRECT,
				     O_RDWR | O_CREAT | O_EXCL, O_RDONLY | O_NOFOLLOW, O_RDWR | O_TMPFILE };
	struct both *f = &w->f[rnd(w, N_FDS)];
	int flag = flags[rnd(w, sizeof(flags) / sizeof(flags[0]))];
	const char *name = flag & __O_TMPFILE ? "d1" : rnd_name(w);
	unsigned mode = rnd(w, 8) ? 0644 : rnd(w, 01000);

	if (f->fd[0] >= 0)
		close_both(w, f);
	doing(w, "open %s %o %o", name, flag, mode);
	f->flags = flag;
	EACH(w, (f->fd[i] = openat(dir, name, flag | O_NONBLOCK, mode)) < 0 ? -1 : 0);
}

/* A place in the file: aligned for direct I/O, but now and then not. */
static void place(struct world *w, const struct both *f, off_t *at, size_t *n)
{
	*at = rnd(w, FILE_B);
	*n = rnd(w, 4) ? 1 + rnd(w, 20000) : 1 + rnd(w, IO_B - 1);
	if (f->flags & O_DIRECT && (f->flags & O_APPEND || rnd(w, 10))) {
		*at &= ~(off_t)(SECTOR - 1);
		*n = (*n + SECTOR - 1) & ~(size_t)(SECTOR - 1);
		if (*n > IO_B)
			*n = IO_B;
	}
}

static void op_write(struct world *w, struct both *f)
{
	unsigned char c = (unsigned char)(1 + rnd(w, 255));
	off_t at;
	size_t n;

	place(w, f, &at, &n);
	for (unsigned i = 0; i < w->sides; i++)
		for (size_t k = 0; k < n; k++)
			w->buf[i][k] = (char)(c + k / 512);
	doing(w, "write %zu at %ld flags %o", n, at, f->flags);
	if (rnd(w, 12) == 0) {
		struct iovec v[SIDES] = { { w->buf[0], n }, { w->buf[1], n } };

		EACH(w, pwritev2(f->fd[i], &v[i], 1, at, RWF_DSYNC));
	} else {
		EACH(w, pwrite(f->fd[i], buf, n, at));
	}
}

static void op_read(struct world *w, struct both *f)
{
	ssize_t got = 0;
	off_t at;
	size_t n;

	place(w, f, &at, &n);
	doing(w, "read %zu at %ld flags %o", n, at, f->flags);
	memset(w->buf[0], 0, n);
	if (w->sides > 1)
		memset(w->buf[1], 0, n);
	EACH(w, got = pread(f->fd[i], buf, n, at));
	if (got > 0)
		same_bytes(w, w->buf[0], w->buf[1], (size_t)got);
}

static void op_size(struct world *w, struct both *f)
{
	static const int modes[] = { 0, 0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
				     FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE,
				     FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE };
	off_t at = rnd(w, FILE_B), n = 1 + rnd(w, 200000);
	int mode = modes[rnd(w, 7)];

	if (rnd(w, 2)) {
		doing(w, "ftruncate %ld", at);
		EACH(w, ftruncate(f->fd[i], at));
	} else {
		doing(w, "fallocate %x at %ld %ld", mode, at, n);
		EACH(w, fallocate(f->fd[i], mode, at, n));
	}
}

/* The first byte of what SEEK_DATA passes over that is not zero, and where: -1, there is none. */
static ssize_t in_a_hole(struct world *w, const struct both *f, unsigned i, off_t at, unsigned char *byte)
{
	off_t data = lseek(f->fd[i], at, SEEK_DATA);
	ssize_t n = pread(f->fd[i], w->buf[i], data < 0 || data - at > IO_B ? IO_B : (size_t)(data - at), at);

	for (ssize_t k = 0; k < n; k++)
		if (w->buf[i][k]) {
			*byte = (unsigned char)w->buf[i][k];
			return k;
		}
	return -1;
}

/* Where unwritten blocks end depends on what the page cache holds of them; but what is passed over must be zero. Of several
 * programs in one directory another may write there between the two calls, though not each time. */
static void seek_data(struct world *w, struct both *f, off_t at)
{
	unsigned tries = w->sides > 1 ? 1 : 20;
	unsigned char byte = 0;
	ssize_t k = -1;

	for (unsigned n = 0; n < tries; n++) {
		EACH(w, fsync(f->fd[i])); /* what a mapping has made dirty is data at once natively, and here when written */
		k = -1;
		for (unsigned i = 0; i < w->sides && k < 0; i++)
			k = in_a_hole(w, f, i, at, &byte);
		if (k < 0)
			return;
	}
	differ(w, "byte %zd of a hole is %02x", at + k, byte);
}

static void op_sync(struct world *w, struct both *f)
{
	off_t at = rnd(w, FILE_B);
	struct stat st;

	switch (rnd(w, 5)) {
	case 0:
		doing(w, "fsync");
		EACH(w, fsync(f->fd[i]));
		return;
	case 1:
		doing(w, "fdatasync");
		EACH(w, fdatasync(f->fd[i]));
		return;
	case 2:
		doing(w, "seek end");
		if (fstat(f->fd[0], &st) == 0 && S_ISREG(st.st_mode))
			EACH(w, lseek(f->fd[i], 0, SEEK_END));
		return;
	case 3:
		doing(w, "seek data %ld", at);
		if (fstat(f->fd[0], &st) == 0 && S_ISREG(st.st_mode) && !(f->flags & (O_DIRECT | O_WRONLY)))
			seek_data(w, f, at);
		return;
	default:
		doing(w, "fstat");
		EACH(w, fstat(f->fd[i], &st) < 0 ? -1 : S_ISDIR(st.st_mode) ? (long)st.st_mode :
			(long)(st.st_size * 1000 + st.st_nlink) ^ (long)st.st_mode << 40 ^ (long)st.st_uid << 48);
		return;
	}
}

static void op_setfl(struct world *w, struct both *f)
{
	int flags = (rnd(w, 2) ? O_DIRECT : 0) | (rnd(w, 6) ? 0 : O_APPEND);

	doing(w, "setfl %o", flags);
	EACH(w, fcntl(f->fd[i], F_SETFL, flags | O_NONBLOCK));
	f->flags = (f->flags & ~(O_DIRECT | O_APPEND)) | flags;
}

static bool same_file(const struct both *f, const struct both *g)
{
	struct stat a, b;

	return fstat(f->fd[0], &a) < 0 || fstat(g->fd[0], &b) < 0 || a.st_ino == b.st_ino;
}

static void op_copy(struct world *w, struct both *from, struct both *to)
{
	off_t in = rnd(w, FILE_B), out = rnd(w, FILE_B);
	size_t n = 1 + rnd(w, 100000);

	/* through a direct descriptor XFS refuses what is not aligned; the mount copies by a buffered one */
	if ((to->flags | from->flags) & O_DIRECT)
		return;
	if (rnd(w, 3)) {
		doing(w, "copy_file_range %ld to %ld %zu", in, out, n);
		EACH(w, ({
			     loff_t a = in, b = out;
			     copy_file_range(from->fd[i], &a, to->fd[i], &b, n, 0);
		     }));
	} else if (!same_file(from, to)) { /* pages are moved, not copied: an overlap has no defined result */
		doing(w, "sendfile %ld %zu", in, n);
		EACH(w, ({
			     off_t a = in;
			     (void)lseek(to->fd[i], out, SEEK_SET);
			     sendfile(to->fd[i], from->fd[i], &a, n);
		     }));
	}
}

static void unmap(struct world *w, struct mapping *m)
{
	for (unsigned i = 0; i < w->sides && m->at[i]; i++) {
		(void)munmap(m->at[i], MAP_B);
		(void)close(m->fd[i]);
		m->at[i] = NULL;
	}
}

/* How much of a mapping may be touched: whole pages would raise SIGBUS beyond the end, and bytes in the last page
 * beyond it are not the file's. */
static size_t map_size(struct world *w, const struct mapping *m)
{
	struct stat st;
	off_t least = MAP_B;

	for (unsigned i = 0; i < w->sides; i++)
		if (fstat(m->fd[i], &st) < 0 || st.st_size < least)
			least = st.st_size;
	return (size_t)least;
}

static void op_map(struct world *w, struct both *f)
{
	struct mapping *m = &w->m[rnd(w, N_MAPS)];
	struct stat st;
	size_t size, at, n;
	char c = (char)rnd(w, 256);

	if (!m->at[0]) {
		if ((f->flags & O_ACCMODE) != O_RDWR || fstat(f->fd[0], &st) < 0 || !S_ISREG(st.st_mode))
			return;
		doing(w, "mmap");
		for (unsigned i = 0; i < w->sides; i++) {
			m->fd[i] = dup(f->fd[i]);
			m->at[i] = mmap(NULL, MAP_B, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd[i], 0);
			if (m->at[i] == MAP_FAILED)
				differ(w, "mmap: %s", strerrorname_np(errno));
		}
		return;
	}
	if (w->sides == 1) /* somebody else may truncate it */
		return;
	size = map_size(w, m);
	show(w, m->fd[0]);
	if (rnd(w, 12) == 0 || size == 0) {
		doing(w, "munmap");
		unmap(w, m);
		return;
	}
	at = rnd(w, (uint32_t)size);
	n = 1 + rnd(w, (uint32_t)(size - at));
	if (rnd(w, 2)) {
		doing(w, "store %zu at %zu", n, at);
		for (unsigned i = 0; i < w->sides; i++)
			memset(m->at[i] + at, c, n);
	} else {
		doing(w, "load %zu at %zu", n, at);
		same_bytes(w, m->at[0] + at, m->at[w->sides - 1] + at, n);
	}
	if (rnd(w, 8) == 0)
		EACH(w, msync(m->at[i], MAP_B, MS_SYNC));
}

void random_data(struct world *w)
{
	struct both *f = rnd_open(w), *g = rnd_open(w);

	if (!f || !g || rnd(w, 12) == 0) {
		op_open(w);
		return;
	}
	show(w, f->fd[0]);
	switch (rnd(w, 16)) {
	case 0: case 1: case 2: case 3:
		op_write(w, f);
		break;
	case 4: case 5: case 6: case 7:
		op_read(w, f);
		break;
	case 8: case 9:
		op_size(w, f);
		break;
	case 10:
		op_sync(w, f);
		break;
	case 11:
		op_setfl(w, f);
		break;
	case 12:
		op_copy(w, f, g);
		break;
	default:
		op_map(w, f);
		break;
	}
}

void random_close_all(struct world *w)
{
	for (unsigned k = 0; k < N_MAPS; k++)
		unmap(w, &w->m[k]);
	for (unsigned k = 0; k < N_FDS; k++)
		if (w->f[k].fd[0] >= 0)
			close_both(w, &w->f[k]);
}
