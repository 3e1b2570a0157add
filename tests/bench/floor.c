/* tests/bench/floor.c - the least that a mount through /dev/fuse costs: files without contents whose READ and WRITE
 * are answered at once. What it loses against native no daemon on this transport can win back: but for what comes of
 * reading each request into the same memory, which a daemon with several requests on their way cannot do (-b: into that
 * many buffers in turn).
 * Owns:      the mount; ends when it is unmounted.
 * Called by: tests/bench/lib/views.py.
 * Threads:   one for each CPU, each reading a descriptor of its own: read, answer, read.
 * Blocks:    in read(2). Errors: printed; exit 1. */
#include "fs/proto.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_THREADS 64
#define LONG_TIMEOUT 86400u
#define BUFFER_SIZE (4096u + PROTO_MAX_PAYLOAD)
#define MAX_BUFFERS 1024u

struct lane {
	pthread_t thread;
	int fd;
	unsigned char *buf; /* n_buffers of BUFFER_SIZE */
};

static uint64_t file_size = 1ull << 30;
static unsigned n_buffers = 1;
static unsigned char zeroes[PROTO_MAX_PAYLOAD];

static void die(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void reply(const struct lane *l, uint64_t unique, int error, const void *data, size_t size)
{
	struct fuse_out_header h = { .len = (uint32_t)(sizeof(h) + size), .error = -error, .unique = unique };
	struct iovec iov[2] = { { &h, sizeof(h) }, { (void *)(uintptr_t)data, size } };

	if (writev(l->fd, iov, size ? 2 : 1) < 0 && errno != ENOENT && errno != ENODEV)
		die("reply");
}

/* A file's node is the sum of its name: the few names of a run differ. */
static uint64_t node_of(const char *name)
{
	uint64_t n = 5381;

	for (; *name; name++)
		n = n * 33 + (unsigned char)*name;
	return n | 2;
}

static struct fuse_attr attributes(uint64_t node)
{
	bool root = node == FUSE_ROOT_ID;

	return (struct fuse_attr){ .ino = node, .size = root ? 0 : file_size, .blocks = root ? 0 : file_size / 512,
				   .mode = root ? S_IFDIR | 0755 : S_IFREG | 0644, .nlink = 1, .blksize = 4096 };
}

static void do_init(const struct lane *l, const struct fuse_in_header *h)
{
	const struct fuse_init_in *in = (const void *)(h + 1);
	uint64_t offered = in->flags | (in->flags & FUSE_INIT_EXT ? (uint64_t)in->flags2 << 32 : 0);
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_readahead = in->max_readahead,
		.flags = in->flags & (FUSE_ASYNC_READ | FUSE_ASYNC_DIO | FUSE_BIG_WRITES | FUSE_MAX_PAGES |
				      FUSE_PARALLEL_DIROPS | FUSE_INIT_EXT),
		.flags2 = (uint32_t)((offered & PROTO_DIRECT_IO_ALLOW_MMAP) >> 32),
		.max_background = 65535, .congestion_threshold = 65535,
		.max_write = PROTO_MAX_PAYLOAD, .max_pages = PROTO_MAX_PAYLOAD / 4096, .time_gran = 1,
	};

	reply(l, h->unique, 0, &out, sizeof(out));
	(void)puts("ready");
	(void)fflush(stdout);
}

static void do_open(const struct lane *l, const struct fuse_in_header *h)
{
	const struct fuse_open_in *in = (const void *)(h + 1);
	bool writes = (in->flags & O_ACCMODE) != O_RDONLY;
	struct fuse_open_out out = { .open_flags = writes || in->flags & O_DIRECT ?
			FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES : FOPEN_KEEP_CACHE };

	reply(l, h->unique, 0, &out, sizeof(out));
}

static void do_attr(const struct lane *l, const struct fuse_in_header *h)
{
	uint64_t node = h->opcode == FUSE_LOOKUP ? node_of((const char *)(h + 1)) : h->nodeid;
	struct fuse_entry_out entry = { .nodeid = node, .entry_valid = LONG_TIMEOUT, .attr_valid = LONG_TIMEOUT,
					.attr = attributes(node) };
	struct fuse_attr_out attr = { .attr_valid = LONG_TIMEOUT, .attr = attributes(node) };

	if (h->opcode == FUSE_LOOKUP)
		reply(l, h->unique, 0, &entry, sizeof(entry));
	else
		reply(l, h->unique, 0, &attr, sizeof(attr));
}

static void handle(const struct lane *l, const struct fuse_in_header *h)
{
	const struct fuse_read_in *in = (const void *)(h + 1); /* a write's begins alike */
	struct fuse_write_out written = { 0 };
	struct fuse_statfs_out statfs_out = { .st = { .bsize = 4096, .frsize = 4096, .namelen = 255 } };

	switch (h->opcode) {
	case FUSE_READ:
		reply(l, h->unique, 0, zeroes, in->size);
		break;
	case FUSE_WRITE:
		written.size = in->size;
		reply(l, h->unique, 0, &written, sizeof(written));
		break;
	case FUSE_LOOKUP:
	case FUSE_GETATTR:
	case FUSE_SETATTR:
		do_attr(l, h);
		break;
	case FUSE_OPEN:
	case FUSE_OPENDIR:
		do_open(l, h);
		break;
	case FUSE_INIT:
		do_init(l, h);
		break;
	case FUSE_STATFS:
		reply(l, h->unique, 0, &statfs_out, sizeof(statfs_out));
		break;
	case FUSE_FSYNC:
	case FUSE_FALLOCATE:
	case FUSE_READDIR:
	case FUSE_FLUSH:
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
	case FUSE_DESTROY:
		reply(l, h->unique, 0, NULL, 0);
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		break;
	default:
		reply(l, h->unique, ENOSYS, NULL, 0);
		break;
	}
}

static void *serve(void *arg)
{
	struct lane *l = arg;
	struct fuse_in_header *h;
	ssize_t n;

	for (unsigned i = 0;; i = (i + 1) % n_buffers) {
		h = (void *)(l->buf + (size_t)i * BUFFER_SIZE + 4096 - PROTO_WRITE_HEAD);
		n = read(l->fd, h, PROTO_WRITE_HEAD + PROTO_MAX_PAYLOAD);
		if (n >= (ssize_t)sizeof(*h))
			handle(l, h);
		else if (n < 0 && errno == ENODEV)
			return NULL;
		else if (n < 0 && errno != EINTR && errno != ENOENT && errno != EAGAIN)
			die("read /dev/fuse");
	}
}

static void lane_open(struct lane *l, int from)
{
	uint32_t fd = (uint32_t)from;

	l->fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (l->fd < 0 || (from >= 0 && ioctl(l->fd, FUSE_DEV_IOC_CLONE, &fd) < 0))
		die("/dev/fuse");
	if (posix_memalign((void **)&l->buf, 4096, (size_t)n_buffers * BUFFER_SIZE) != 0)
		die("out of memory");
}

int main(int argc, char **argv)
{
	static struct lane lane[MAX_THREADS];
	long n = sysconf(_SC_NPROCESSORS_ONLN);
	char data[96];

	if (argc == 4 && strcmp(argv[1], "-b") == 0)
		n_buffers = (unsigned)strtoul(argv[2], NULL, 10);
	if ((argc != 2 && argc != 4) || n_buffers < 1 || n_buffers > MAX_BUFFERS) {
		fputs("usage: floor [-b BUFFERS] MOUNTPOINT\n", stderr);
		return 2;
	}
	n = n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : n;
	(void)signal(SIGINT, SIG_IGN); /* it ends with its mount */
	lane_open(&lane[0], -1);
	(void)snprintf(data, sizeof(data), "fd=%d,rootmode=40755,user_id=0,group_id=0,allow_other", lane[0].fd);
	if (mount("floor", argv[argc - 1], "fuse.floor", MS_NOSUID | MS_NODEV, data) < 0)
		die("mount");
	for (long i = 1; i < n; i++)
		lane_open(&lane[i], lane[0].fd);
	for (long i = 0; i < n; i++)
		if (pthread_create(&lane[i].thread, NULL, serve, &lane[i]) != 0)
			die("start a thread");
	for (long i = 0; i < n; i++)
		(void)pthread_join(lane[i].thread, NULL);
	return 0;
}
