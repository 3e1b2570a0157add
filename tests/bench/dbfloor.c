/* tests/bench/dbfloor.c - preloaded into a database server: what Linux' FUSE costs it at least, whatever file system
 * stands behind. The server works on the native directory. Around each of its reads, writes and fsyncs there
 *  - the same call is made on a mount that answers at once and keeps nothing (floor.c): the price of a message, and
 *  - the file is locked as the kernel's FUSE does it (fs/fuse/file.c, 6.18): fsync and a write that extends the file for
 *    one alone, another write to a file opened with FOPEN_PARALLEL_DIRECT_WRITES shared, from before the message to after
 *    the file system is done.
 * It is no more than that: asynchronous I/O (io_submit, io_uring), opens and names go by it and cost nothing.
 * Owns:      descriptors of files on that mount, until the process ends.
 * Called by: the server, through its libc's names. STILLFS_FLOOR: that mount. STILLFS_FLOOR_OF: the directory meant.
 * Threads:   any. Blocks: as FUSE would. Errors: of the server's own calls only; what is wrong with the floor ends it. */
#undef _FILE_OFFSET_BITS /* both names of a call are made here, each by its own */

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FILES 4096u
#define FLOOR_SIZE (1u << 30) /* of each file there */

struct file {
	_Atomic uint64_t ino; /* 0: free */
	pthread_rwlock_t lock;
	int fd;
};

static struct file files[FILES];
static pthread_mutex_t adding = PTHREAD_MUTEX_INITIALIZER;
static const char *floor_dir;
static dev_t dev;

static void die(const char *what)
{
	perror(what);
	abort();
}

__attribute__((constructor)) static void begin(void)
{
	const char *of = getenv("STILLFS_FLOOR_OF");
	struct stat st;

	floor_dir = getenv("STILLFS_FLOOR");
	if (!floor_dir || !of)
		return;
	if (stat(of, &st) < 0)
		die(of);
	dev = st.st_dev;
}

static struct file *add(uint64_t ino)
{
	pthread_rwlockattr_t attr;
	char path[4096];
	unsigned i = (unsigned)ino % FILES;

	(void)pthread_mutex_lock(&adding);
	while (files[i].ino && files[i].ino != ino)
		i = (i + 1) % FILES;
	if (!files[i].ino) {
		(void)pthread_rwlockattr_init(&attr);
		(void)pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
		(void)pthread_rwlock_init(&files[i].lock, &attr);
		(void)snprintf(path, sizeof(path), "%s/%lu", floor_dir, (unsigned long)ino);
		files[i].fd = open(path, O_RDWR | O_CLOEXEC);
		if (files[i].fd < 0)
			die(path);
		files[i].ino = ino;
	}
	(void)pthread_mutex_unlock(&adding);
	return &files[i];
}

/* NULL: not one of the files that are meant. */
static struct file *file_of(int fd, struct stat *st)
{
	unsigned i;

	if (!dev || fstat(fd, st) < 0 || !S_ISREG(st->st_mode) || st->st_dev != dev)
		return NULL;
	for (i = (unsigned)st->st_ino % FILES; files[i].ino; i = (i + 1) % FILES)
		if (files[i].ino == st->st_ino)
			return &files[i];
	return add(st->st_ino);
}

static long there(size_t n, off_t at)
{
	return (long)((size_t)at % (FLOOR_SIZE - n)) & ~4095l;
}

static ssize_t one_write(int fd, const void *data, size_t n, off_t at, bool moves)
{
	struct stat st;
	struct file *f = file_of(fd, &st);
	ssize_t r;

	if (f) {
		if (moves && fcntl(fd, F_GETFL) & O_APPEND)
			at = st.st_size;
		else if (moves)
			at = lseek(fd, 0, SEEK_CUR);
		if (at + (off_t)n > st.st_size)
			(void)pthread_rwlock_wrlock(&f->lock);
		else
			(void)pthread_rwlock_rdlock(&f->lock);
		if (syscall(SYS_pwrite64, f->fd, data, n, there(n, at)) < 0)
			die("floor: write");
	}
	r = moves ? syscall(SYS_write, fd, data, n) : syscall(SYS_pwrite64, fd, data, n, at);
	if (f)
		(void)pthread_rwlock_unlock(&f->lock);
	return r;
}

/* What is opened for reading only is cached there. */
static ssize_t one_read(int fd, void *data, size_t n, off_t at, bool moves)
{
	struct stat st;
	struct file *f = file_of(fd, &st);
	int flags = f ? fcntl(fd, F_GETFL) : 0;

	if (flags & (O_WRONLY | O_RDWR | O_DIRECT) && syscall(SYS_pread64, f->fd, data, n, there(n, moves ? 0 : at)) < 0)
		die("floor: read");
	return moves ? syscall(SYS_read, fd, data, n) : syscall(SYS_pread64, fd, data, n, at);
}

static int one_sync(int fd, int call)
{
	struct stat st;
	struct file *f = file_of(fd, &st);
	int r;

	if (f) {
		(void)pthread_rwlock_wrlock(&f->lock);
		if (syscall(call, f->fd) < 0)
			die("floor: fsync");
	}
	r = (int)syscall(call, fd);
	if (f)
		(void)pthread_rwlock_unlock(&f->lock);
	return r;
}

ssize_t write(int fd, const void *data, size_t n) { return one_write(fd, data, n, 0, true); }
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { return one_write(fd, data, n, at, false); }
ssize_t pwrite64(int fd, const void *data, size_t n, off_t at) { return one_write(fd, data, n, at, false); }
ssize_t read(int fd, void *data, size_t n) { return one_read(fd, data, n, 0, true); }
ssize_t pread(int fd, void *data, size_t n, off_t at) { return one_read(fd, data, n, at, false); }
ssize_t pread64(int fd, void *data, size_t n, off_t at) { return one_read(fd, data, n, at, false); }
int fsync(int fd) { return one_sync(fd, SYS_fsync); }
int fdatasync(int fd) { return one_sync(fd, SYS_fdatasync); }
