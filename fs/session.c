/* fs/session.c - one FUSE connection per mount: /dev/fuse, mount(2), libfuse fed by us, INIT.
 * Owns:      the libfuse session and its first descriptor.
 * Called by: core.c. libfuse's writev callback runs on the worker (or, for INIT, the main) thread.
 * Threads:   open and close from the main thread.
 * Blocks:    mount(2) and the wait for INIT, which the kernel sends at once. */
#include "fs/core_int.h"
#include "base/cleanup.h"
#include "base/statdev.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

static bool differs; /* main thread: an answer to INIT is not an earlier daemon's, of another binary */

/* libfuse's reply: to the descriptor (clone) that the request was read from, because the kernel looks
 * for it only there. INIT is answered on the first one, with the flags that libfuse 3.14 does not know. */
static ssize_t io_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	struct mnt *m = userdata;
	struct rq *r = worker_current();
	const struct fuse_out_header *h = iov[0].iov_base;
	struct shm_mnt *saved = &m->core->shm->mnt[m->idx];
	struct fuse_init_out *out;

	if (h->unique == 0) /* a notification */
		return writev(m->dev_fd, iov, count);
	if (r) {
		inplace_replies(r);
		return writev(r->lane->fd[m->idx], iov, count);
	}
	if (count >= 2 && iov[1].iov_len >= sizeof(*out) && !h->error) {
		out = iov[1].iov_base;
		if (m->offered & PROTO_DIRECT_IO_ALLOW_MMAP) {
			out->flags |= FUSE_INIT_EXT;
			out->flags2 |= (uint32_t)(PROTO_DIRECT_IO_ALLOW_MMAP >> 32);
			m->allow_mmap = true;
		}
		/* wanted, and never said by libfuse 3.14: lookups and listings of one directory then wait for each other */
		out->flags |= (uint32_t)m->offered & FUSE_PARALLEL_DIROPS;
		m->parallel_dirops = out->flags & FUSE_PARALLEL_DIROPS;
		out->max_background = 65535; /* it limits asynchronous reads too: no cap */
		out->congestion_threshold = 65535;
	}
	if (count >= 2 && iov[1].iov_len <= sizeof(saved->answer)) {
		if (m->replaying)
			differs = memcmp(saved->answer, iov[1].iov_base, iov[1].iov_len) != 0;
		else
			memcpy(saved->answer, iov[1].iov_base, iov[1].iov_len);
	}
	return m->replaying ? h->len : writev(fd, iov, count); /* the kernel has its answer from an earlier daemon */
}

/* libfuse never reads by itself: our transport feeds it. */
static ssize_t io_read(int fd, void *buf, size_t len, void *userdata)
{
	errno = EINVAL;
	return -1;
}

/* What the kernel offers, and libfuse's answer to it. */
static void take_init(struct mnt *m, void *buf, size_t n)
{
	const struct fuse_init_in *in = (const void *)((char *)buf + sizeof(struct fuse_in_header));
	struct fuse_buf b = { .mem = buf, .size = n };

	m->offered = in->flags;
	if (in->flags & FUSE_INIT_EXT && n >= sizeof(struct fuse_in_header) + sizeof(*in))
		m->offered |= (uint64_t)in->flags2 << 32;
	fuse_session_process_buf(m->se, &b);
}

static int read_init(struct mnt *m, struct snap_error *err)
{
	static const struct timespec limit = { .tv_sec = 10 };
	static _Alignas(8) char buf[SLOT_PAYLOAD * 4]; /* one mount at a time */
	struct pollfd p = { .fd = m->dev_fd, .events = POLLIN };
	const struct fuse_in_header *h = (const void *)buf;
	struct shm_mnt *saved = &m->core->shm->mnt[m->idx];
	ssize_t n;

	if (ppoll(&p, 1, &limit, NULL) <= 0)
		return snap_error_set(err, -ETIMEDOUT, "mount %s: the kernel sent no INIT within 10 s",
				      m->pair->mountpoint);
	n = read(m->dev_fd, buf, sizeof(buf));
	if (n < (ssize_t)(sizeof(*h) + 16) || h->opcode != FUSE_INIT)
		return snap_error_set(err, -EPROTO, "mount %s: the first request is not INIT",
				      m->pair->mountpoint);
	if ((size_t)n <= sizeof(saved->init)) {
		memcpy(saved->init, buf, (size_t)n);
		saved->init_len = (uint32_t)n;
	}
	take_init(m, buf, (size_t)n);
	return 0;
}

int session_clone(struct mnt *m)
{
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	uint32_t from = (uint32_t)m->dev_fd;

	if (fd < 0)
		return -errno;
	if (ioctl(fd, FUSE_DEV_IOC_CLONE, &from) < 0) {
		int e = -errno;

		(void)close(fd);
		return e;
	}
	return fd;
}

/* What the backing's mount forbids, the mount forbids. */
static unsigned long kept_flags(unsigned long f)
{
	return (f & ST_NOSUID ? MS_NOSUID : 0ul) | (f & ST_NODEV ? MS_NODEV : 0ul) | (f & ST_NOEXEC ? MS_NOEXEC : 0ul);
}

static int do_mount(struct mnt *m, struct snap_error *err)
{
	char data[256];
	struct statvfs v;
	struct stat st;
	uint64_t id;
	int r;

	if (fstat(m->pair->backing_fd, &st) < 0 || fstatvfs(m->pair->backing_fd, &v) < 0)
		return snap_error_set(err, -errno, "stat %s: %s", m->pair->backing, strerror(errno));
	(void)snprintf(data, sizeof(data),
		       "fd=%d,rootmode=%o,user_id=0,group_id=0,default_permissions,allow_other",
		       m->dev_fd, st.st_mode & S_IFMT);
	if (mount(m->pair->backing, m->pair->mountpoint, "fuse.stillfs", kept_flags(v.f_flag), data) < 0)
		return snap_error_set(err, -errno, "mount %s on %s: %s", m->pair->backing,
				      m->pair->mountpoint, strerror(errno));
	m->mounted = true;
	r = statdev_mount(m->pair->mountpoint, &id);
	if (r < 0)
		return snap_error_set(err, r, "look at the mount on %s: %s", m->pair->mountpoint, strerror(-r));
	m->core->shm->mnt[m->idx].mount_id = id;
	return 0;
}

/* libfuse's side, over fd, which it closes at the end. */
static int libfuse_open(struct mnt *m, int fd, struct snap_error *err)
{
	static const struct fuse_custom_io io = { .writev = io_writev, .read = io_read };
	char *argv[] = { (char *)(uintptr_t) "stillfs", NULL };
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);
	int r;

	m->se = fuse_session_new(&args, &ops_table, sizeof(ops_table), m);
	fuse_opt_free_args(&args);
	if (!m->se)
		return snap_error_set(err, -ENOMEM, "mount %s: libfuse refused to make a session",
				      m->pair->mountpoint);
	r = fuse_session_custom_io(m->se, &io, fd);
	if (r < 0)
		return snap_error_set(err, r, "mount %s: libfuse refused our transport",
				      m->pair->mountpoint);
	m->dev_fd = fd;
	return 0;
}

int session_open(struct core *c, struct mnt *m, struct snap_error *err)
{
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK), r;

	if (fd < 0)
		return snap_error_set(err, -errno, "open /dev/fuse: %s; load the fuse module",
				      strerror(errno));
	r = libfuse_open(m, fd, err);
	if (r < 0) {
		(void)close(fd);
		return r;
	}
	r = do_mount(m, err);
	return r < 0 ? r : read_init(m, err);
}

int session_resume(struct mnt *m, struct snap_error *err)
{
	const struct shm_mnt *saved = &m->core->shm->mnt[m->idx];
	_Alignas(8) unsigned char buf[sizeof(saved->init)];
	int r = libfuse_open(m, saved->dev_fd, err);

	if (r < 0)
		return r;
	m->mounted = true;
	m->replaying = true;
	memcpy(buf, saved->init, saved->init_len);
	take_init(m, buf, saved->init_len);
	m->replaying = false;
	return !differs ? 0 : snap_error_set(err, -EPROTO, "take over %s: this binary would agree on other things with the "
						   "kernel than the one that mounted it", m->pair->mountpoint);
}

void session_close(struct mnt *m)
{
	if (m->se)
		fuse_session_destroy(m->se);
	m->se = NULL;
	m->dev_fd = -1;
}
