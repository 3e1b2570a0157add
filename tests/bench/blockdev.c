/* tests/bench/blockdev.c - a block device with a cloud volume's latency and limits, for measurements: a FUSE
 * filesystem that serves one file `image` out of memory; a loop device with direct I/O goes on top of it.
 * Owns:      the image's memory and the mount; ends when it is unmounted.
 * Called by: tests/bench/lib/device.py.
 * Threads:   each reads requests from a descriptor of its own and keeps its pending ones in a heap by deadline;
 *            a waiting request occupies memory, no thread. They run at real-time priority, as an interrupt would.
 * Blocks:    in epoll_pwait2 only, until a request arrives or the next deadline.
 * Errors:    printed; exit 1. Prints "ready" when the mount answers, and operations and CPU at its end. */
#include "fs/proto.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_THREADS 16
#define IMAGE_NODE 2u
#define MERGED (256u << 10) /* EBS counts up to 256 KiB as one I/O */
#define LONG_TIMEOUT 86400u

/* What a finished request is answered with. */
enum reply { REPLY_DONE, REPLY_DATA, REPLY_WRITTEN };

struct pending {
	uint64_t due, unique, offset;
	uint32_t size;
	enum reply reply;
};

struct queue {
	pthread_t thread;
	int fd, epfd;
	unsigned char *buf; /* a request; its payload starts at a page */
	struct pending *heap;
	size_t n, cap;
	uint64_t early; /* how late the last sleeps ended, on average: sleep so much less */
	uint64_t reads, writes;
};

static struct {
	unsigned char *image;
	uint64_t size;
	uint64_t latency_ns, flush_ns, burst_ns, spin_ns;
	uint64_t iops, bytes_per_s;
	unsigned threads;
	bool flush;
	_Atomic bool armed; /* latency and limits hold; after SIGUSR1 with armed=0 */
	pthread_mutex_t lock; /* of the two below */
	uint64_t iops_at, bytes_at; /* when the budget of each limit is used up to */
} dev = { .lock = PTHREAD_MUTEX_INITIALIZER, .burst_ns = 10 * NS_PER_MS, .threads = 1, .armed = true };

static void die(const char *what)
{
	fprintf(stderr, "blockdev: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* ---- limits ---- */

/* Charge one budget; returns when the charge is covered. Unused budget is kept for burst_ns only. */
static uint64_t charge(uint64_t *at, uint64_t now, uint64_t cost_ns)
{
	uint64_t floor = now - dev.burst_ns;

	*at = (*at > floor ? *at : floor) + cost_ns;
	return *at > now ? *at : now;
}

static uint64_t deadline(uint64_t now, uint32_t size)
{
	uint64_t a = now, b = now, units = (size + MERGED - 1) / MERGED;

	if (!dev.armed)
		return now;
	if (dev.iops || dev.bytes_per_s) {
		(void)pthread_mutex_lock(&dev.lock);
		if (dev.iops)
			a = charge(&dev.iops_at, now, units * NS_PER_S / dev.iops);
		if (dev.bytes_per_s)
			b = charge(&dev.bytes_at, now, size * NS_PER_S / dev.bytes_per_s);
		(void)pthread_mutex_unlock(&dev.lock);
	}
	return (a > b ? a : b) + dev.latency_ns;
}

/* ---- the heap of pending requests ---- */

static void heap_push(struct queue *q, struct pending p)
{
	size_t i = q->n++;

	if (q->n > q->cap) {
		q->cap = q->cap ? 2 * q->cap : 1024;
		q->heap = realloc(q->heap, q->cap * sizeof(*q->heap));
		if (!q->heap)
			die("out of memory");
	}
	for (; i && q->heap[(i - 1) / 2].due > p.due; i = (i - 1) / 2)
		q->heap[i] = q->heap[(i - 1) / 2];
	q->heap[i] = p;
}

static struct pending heap_pop(struct queue *q)
{
	struct pending top = q->heap[0], last = q->heap[--q->n];
	size_t i = 0, child;

	for (;;) {
		child = 2 * i + 1;
		if (child + 1 < q->n && q->heap[child + 1].due < q->heap[child].due)
			child++;
		if (child >= q->n || q->heap[child].due >= last.due)
			break;
		q->heap[i] = q->heap[child];
		i = child;
	}
	q->heap[i] = last;
	return top;
}

/* ---- replies ---- */

static void reply(const struct queue *q, uint64_t unique, int error, const void *data, size_t size)
{
	struct fuse_out_header h = { .len = (uint32_t)(sizeof(h) + size), .error = -error, .unique = unique };
	struct iovec iov[2] = { { &h, sizeof(h) }, { (void *)(uintptr_t)data, size } };

	if (writev(q->fd, iov, size ? 2 : 1) < 0 && errno != ENOENT && errno != ENODEV)
		die("reply");
}

static void finish(const struct queue *q, const struct pending *p)
{
	struct fuse_write_out out = { .size = p->size };

	switch (p->reply) {
	case REPLY_DATA:
		reply(q, p->unique, 0, dev.image + p->offset, p->size);
		break;
	case REPLY_WRITTEN:
		reply(q, p->unique, 0, &out, sizeof(out));
		break;
	case REPLY_DONE:
		reply(q, p->unique, 0, NULL, 0);
		break;
	}
}

static void later(struct queue *q, struct pending p)
{
	if (p.due <= now_ns())
		finish(q, &p);
	else
		heap_push(q, p);
}

/* ---- requests ---- */

static struct fuse_attr attributes(uint64_t node)
{
	bool image = node == IMAGE_NODE;

	return (struct fuse_attr){ .ino = node, .size = image ? dev.size : 0, .blocks = image ? dev.size / 512 : 0,
				   .mode = image ? S_IFREG | 0600 : S_IFDIR | 0700, .nlink = 1, .blksize = 4096 };
}

static void do_init(const struct queue *q, const struct fuse_in_header *h)
{
	const struct fuse_init_in *in = (const void *)(h + 1);
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = in->max_readahead,
		.flags = in->flags & (FUSE_ASYNC_READ | FUSE_ASYNC_DIO | FUSE_BIG_WRITES | FUSE_MAX_PAGES),
		.max_background = 4096, .congestion_threshold = 4096,
		.max_write = PROTO_MAX_PAYLOAD, .max_pages = PROTO_MAX_PAYLOAD / 4096, .time_gran = 1,
	};

	reply(q, h->unique, 0, &out, sizeof(out));
	(void)puts("ready");
	(void)fflush(stdout);
}

static void do_transfer(struct queue *q, const struct fuse_in_header *h)
{
	const struct fuse_read_in *in = (const void *)(h + 1); /* a write's begins alike */
	struct pending p = { .unique = h->unique, .offset = in->offset, .size = in->size };

	if (in->offset > dev.size || in->size > dev.size - in->offset || in->size > PROTO_MAX_PAYLOAD) {
		reply(q, h->unique, EINVAL, NULL, 0);
		return;
	}
	p.due = deadline(now_ns(), in->size);
	if (h->opcode == FUSE_READ) {
		p.reply = REPLY_DATA;
		q->reads++;
	} else {
		p.reply = REPLY_WRITTEN;
		q->writes++;
		memcpy(dev.image + in->offset, (const char *)h + PROTO_WRITE_HEAD, in->size);
	}
	later(q, p);
}

/* The loop device's discard and write-zeroes. */
static void do_fallocate(const struct queue *q, const struct fuse_in_header *h)
{
	const struct fuse_fallocate_in *in = (const void *)(h + 1);
	unsigned char *p = dev.image + in->offset;

	if (in->offset > dev.size || in->length > dev.size - in->offset) {
		reply(q, h->unique, EINVAL, NULL, 0);
	} else if (!(in->mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))) {
		reply(q, h->unique, EOPNOTSUPP, NULL, 0);
	} else {
		if ((in->offset | in->length) & 4095 || madvise(p, in->length, MADV_DONTNEED) < 0)
			memset(p, 0, in->length);
		reply(q, h->unique, 0, NULL, 0);
	}
}

static void do_name(const struct queue *q, const struct fuse_in_header *h)
{
	struct fuse_entry_out entry = { .nodeid = IMAGE_NODE, .entry_valid = LONG_TIMEOUT, .attr_valid = LONG_TIMEOUT,
					.attr = attributes(IMAGE_NODE) };
	struct fuse_attr_out attr = { .attr_valid = LONG_TIMEOUT, .attr = attributes(h->nodeid) };

	if (h->opcode == FUSE_GETATTR)
		reply(q, h->unique, 0, &attr, sizeof(attr));
	else if (strcmp((const char *)(h + 1), "image") == 0)
		reply(q, h->unique, 0, &entry, sizeof(entry));
	else
		reply(q, h->unique, ENOENT, NULL, 0);
}

static void handle(struct queue *q, const struct fuse_in_header *h)
{
	struct fuse_open_out open_out = { .open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES };
	struct fuse_statfs_out statfs_out = { .st = { .bsize = 4096, .frsize = 4096, .namelen = 255 } };

	switch (h->opcode) {
	case FUSE_READ:
	case FUSE_WRITE:
		do_transfer(q, h);
		break;
	case FUSE_FSYNC:
		if (dev.flush) {
			later(q, (struct pending){ now_ns() + dev.flush_ns, h->unique, 0, 0, REPLY_DONE });
			break;
		}
		/* the kernel then asks no more: a flush costs nothing, as without a volatile cache */
		reply(q, h->unique, ENOSYS, NULL, 0);
		break;
	case FUSE_LOOKUP:
	case FUSE_GETATTR:
		do_name(q, h);
		break;
	case FUSE_OPEN:
	case FUSE_OPENDIR:
		reply(q, h->unique, 0, &open_out, sizeof(open_out));
		break;
	case FUSE_STATFS:
		reply(q, h->unique, 0, &statfs_out, sizeof(statfs_out));
		break;
	case FUSE_FALLOCATE:
		do_fallocate(q, h);
		break;
	case FUSE_INIT:
		do_init(q, h);
		break;
	case FUSE_READDIR:
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
	case FUSE_DESTROY:
		reply(q, h->unique, 0, NULL, 0);
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT: /* it completes soon anyway */
		break;
	default:
		reply(q, h->unique, ENOSYS, NULL, 0);
		break;
	}
}

/* ---- the loop ---- */

/* Sleep until a request arrives or the next deadline has come. The sleep is set to end as much before the
 * deadline as sleeps ended late lately (waking an idle CPU takes its time); what is left is spun, at most
 * spin_ns. */
static void wait_for_work(struct queue *q)
{
	struct epoll_event e;
	struct timespec t;
	uint64_t now = now_ns(), due = q->n ? q->heap[0].due : 0, until;

	if (!q->n) {
		(void)epoll_pwait2(q->epfd, &e, 1, NULL, NULL);
		return;
	}
	until = due - (q->early < dev.spin_ns ? q->early : dev.spin_ns);
	if (now < until) {
		t = (struct timespec){ .tv_sec = (time_t)((until - now) / NS_PER_S),
				       .tv_nsec = (long)((until - now) % NS_PER_S) };
		if (epoll_pwait2(q->epfd, &e, 1, &t, NULL) != 0)
			return;
		now = now_ns();
		q->early = (7 * q->early + (now > until ? now - until : 0)) / 8;
	}
	while (now < due)
		now = now_ns();
}

/* false: unmounted. */
static bool fetch(struct queue *q)
{
	struct fuse_in_header *h = (void *)(q->buf + 4096 - PROTO_WRITE_HEAD);
	ssize_t n;

	for (int batch = 0; batch < 16; batch++) {
		n = read(q->fd, h, PROTO_WRITE_HEAD + PROTO_MAX_PAYLOAD);
		if (n < 0) {
			if (errno == ENODEV)
				return false;
			if (errno == EAGAIN)
				return true;
			if (errno != EINTR && errno != ENOENT)
				die("read /dev/fuse");
			continue;
		}
		if ((size_t)n >= sizeof(*h))
			handle(q, h);
	}
	return true;
}

static void *serve(void *arg)
{
	struct queue *q = arg;
	struct sched_param sp = { .sched_priority = 1 };

	(void)pthread_setname_np(pthread_self(), "blockdev");
	(void)prctl(PR_SET_TIMERSLACK, 1);
	if (pthread_setschedparam(pthread_self(), SCHED_FIFO, &sp) != 0)
		fputs("blockdev: no real-time priority\n", stderr);
	for (;;) {
		struct pending p;

		while (q->n && q->heap[0].due <= now_ns()) {
			p = heap_pop(q);
			finish(q, &p);
		}
		if (!fetch(q))
			return NULL;
		if (!q->n || q->heap[0].due > now_ns())
			wait_for_work(q);
	}
}

/* ---- start and end ---- */

/* After the mount: before it, /dev/fuse wakes nobody. */
static void queue_start(struct queue *q)
{
	struct epoll_event e = { .events = EPOLLIN | EPOLLEXCLUSIVE };

	q->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (q->epfd < 0 || epoll_ctl(q->epfd, EPOLL_CTL_ADD, q->fd, &e) < 0)
		die("epoll");
	if (pthread_create(&q->thread, NULL, serve, q) != 0)
		die("start a thread");
}

static void queue_open(struct queue *q, int from)
{
	uint32_t fd = (uint32_t)from;

	q->fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (q->fd < 0 || (from >= 0 && ioctl(q->fd, FUSE_DEV_IOC_CLONE, &fd) < 0))
		die("/dev/fuse");
	if (posix_memalign((void **)&q->buf, 4096, 4096 + PROTO_MAX_PAYLOAD) != 0)
		die("out of memory");
}

static bool option(const char *text)
{
	char name[32];
	unsigned long long v;

	if (sscanf(text, "%31[a-z_]=%llu", name, &v) != 2)
		return false;
	if (strcmp(name, "size_mb") == 0)
		dev.size = v << 20;
	else if (strcmp(name, "latency_us") == 0)
		dev.latency_ns = v * 1000;
	else if (strcmp(name, "iops") == 0)
		dev.iops = v;
	else if (strcmp(name, "mbps") == 0)
		dev.bytes_per_s = v << 20;
	else if (strcmp(name, "burst_ms") == 0)
		dev.burst_ns = v * NS_PER_MS;
	else if (strcmp(name, "spin_us") == 0)
		dev.spin_ns = v * 1000;
	else if (strcmp(name, "armed") == 0)
		dev.armed = v != 0;
	else if (strcmp(name, "threads") == 0 && v >= 1 && v <= MAX_THREADS)
		dev.threads = (unsigned)v;
	else if (strcmp(name, "flush_us") == 0) {
		dev.flush = true;
		dev.flush_ns = v * 1000;
	} else
		return false;
	return true;
}

static void arm(int sig)
{
	dev.armed = true;
}

static void say_end(const struct queue *q)
{
	struct rusage u;
	uint64_t reads = 0, writes = 0, cpu;

	(void)getrusage(RUSAGE_SELF, &u);
	cpu = (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 +
	      (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
	for (unsigned i = 0; i < dev.threads; i++) {
		reads += q[i].reads;
		writes += q[i].writes;
	}
	printf("reads %llu writes %llu cpu_ms %llu cpu_us_per_op %.2f\n", (unsigned long long)reads,
	       (unsigned long long)writes, (unsigned long long)cpu / 1000,
	       reads + writes ? (double)cpu / (double)(reads + writes) : 0.0);
}

int main(int argc, char **argv)
{
	static struct queue q[MAX_THREADS];
	char data[96];
	int bad = 0;

	dev.size = 4096ull << 20;
	for (int i = 1; i < argc - 1; i++)
		bad += !option(argv[i]);
	if (argc < 2 || bad) {
		fputs("usage: blockdev [size_mb=N] [latency_us=N] [iops=N] [mbps=N] [burst_ms=N] [flush_us=N] "
		      "[spin_us=N] [threads=N] [armed=0] MOUNTPOINT\n", stderr);
		return 2;
	}
	(void)signal(SIGUSR1, arm);
	(void)signal(SIGINT, SIG_IGN); /* what is mounted on it must be unmounted first */
	(void)prctl(PR_SET_IO_FLUSHER, 1);
	dev.image = mmap(NULL, dev.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (dev.image == MAP_FAILED)
		die("map the image");
	(void)madvise(dev.image, dev.size, MADV_HUGEPAGE);
	queue_open(&q[0], -1);
	(void)snprintf(data, sizeof(data), "fd=%d,rootmode=40700,user_id=0,group_id=0", q[0].fd);
	if (mount("blockdev", argv[argc - 1], "fuse.blockdev", MS_NOSUID | MS_NODEV, data) < 0)
		die("mount");
	for (unsigned i = 1; i < dev.threads; i++)
		queue_open(&q[i], q[0].fd);
	for (unsigned i = 0; i < dev.threads; i++)
		queue_start(&q[i]);
	for (unsigned i = 0; i < dev.threads; i++)
		(void)pthread_join(q[i].thread, NULL);
	say_end(q);
	return 0;
}
