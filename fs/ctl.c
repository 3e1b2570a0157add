/* fs/ctl.c - the control tree: a libfuse session of its own, independent of the gate.
 * Owns:      the session, its threads, last_error, the event stream.
 * Called by: main.c. Threads: CTL_THREADS, which run the handlers of ctl_tree.c and ctl_open.c; none waits for
 *            anything long.
 * Blocks:    ctl_start in mount(2), ctl_stop until the threads have ended.
 * Errors:    every refused operation leaves last_error and an event. */
#include "fs/ctl_int.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/statdev.h"
#include "fs/mount_check.h"
#include "fs/proto.h"
#include "fs/recover.h"
#include "fs/tables.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <unistd.h>

#define INIT_MS 10000 /* the kernel sends it at once */

/* ---- events and last_error ---- */

void ctl_event(struct ctl *c, const char *type, const char *members)
{
	events_add(c->events, c->d.name, type, members);
	ctl_events_wake(c);
}

void ctl_report(struct ctl *c, const char *file, const struct snap_error *err)
{
	struct snap_error name = { 0 };
	struct vbuf b = VBUF_INIT;

	snap_error_set(&name, -EINVAL, "%s", file); /* for its cleaning: it may be a name that was refused */
	(void)pthread_mutex_lock(&c->lock);
	c->last.when = clock_utc();
	(void)snprintf(c->last.file, sizeof(c->last.file), "%.63s", name.msg);
	c->last.err = *err;
	(void)pthread_mutex_unlock(&c->lock);
	vbuf_puts(&b, "\"file\":\"");
	vbuf_json(&b, name.msg);
	vbuf_printf(&b, "\",\"errno\":%d,\"message\":\"", -err->code);
	vbuf_json(&b, err->msg);
	vbuf_puts(&b, "\"");
	ctl_event(c, "error", vbuf_text(&b));
	vbuf_free(&b);
}

int ctl_refuse(struct ctl *c, const char *file, int code, const char *what)
{
	struct snap_error err = { 0 };

	snap_error_set(&err, code, "%s: %s", file, what);
	ctl_report(c, file, &err);
	return -code;
}

/* ---- life ---- */

struct ctl *ctl_new(const struct ctl_deps *d, struct snap_error *err)
{
	struct ctl *c = calloc(1, sizeof(*c));
	pthread_condattr_t a;

	if (c)
		c->events = events_over(d->tables->events, d->tables->events_b);
	if (!c || !c->events) {
		free(c);
		snap_error_set(err, -ENOMEM, "start the control tree: out of memory");
		return NULL;
	}
	c->d = *d;
	c->shared = d->tables->ctl;
	c->gid = (gid_t)conf_num(d->conf, "control_gid");
	c->start_ns = clock_boot_ns();
	c->start_utc = clock_utc();
	(void)pthread_mutex_init(&c->lock, NULL);
	(void)pthread_mutex_init(&c->turn, NULL);
	(void)pthread_condattr_init(&a);
	(void)pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&c->work, &a);
	(void)pthread_condattr_destroy(&a);
	if (ctl_files_init(c, err) < 0) {
		ctl_free(c);
		return NULL;
	}
	return c;
}

#define CTL_BUF_B (4u << 20) /* address space; only what a request needs is touched */

static void *ctl_run(void *arg)
{
	struct ctl *c = arg;
	/* Shared memory: a fork for a child would leave private pages to be copied at the next write, which a thread
	 * that is being killed cannot do (io_read). libfuse asks for one request at the most, about 1 MiB. */
	void *shared = mmap(NULL, CTL_BUF_B, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct fuse_buf b = { .mem = shared == MAP_FAILED ? NULL : shared }; /* NULL: libfuse takes its own */

	(void)pthread_setname_np(pthread_self(), "ctl");
	while (!fuse_session_exited(c->se)) {
		int n = fuse_session_receive_buf(c->se, &b);

		if (n == -EINTR)
			continue;
		if (n <= 0)
			break;
		ctl_handle_request(b.mem);
		fuse_session_process_buf(c->se, &b);
	}
	if (shared == MAP_FAILED)
		free(b.mem);
	else
		(void)munmap(shared, CTL_BUF_B);
	return NULL;
}

/* ---- the session ---- */

static ssize_t io_read(int fd, void *buf, size_t len, void *userdata)
{
	volatile char *touch = buf;

	/* A thread that is being killed while it reads cannot bring in a page: the kernel would answer the request
	 * with EIO. So the pages of a request are there beforehand. */
	for (size_t at = 0; at < len && at < 2 * CTL_WRITE_MAX; at += 4096)
		touch[at] = 0;
	return read(fd, buf, len < CTL_BUF_B ? len : CTL_BUF_B);
}

static ssize_t io_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	struct ctl *c = userdata;

	/* the kernel has its answer to INIT from an earlier daemon */
	return c->replaying ? ((const struct fuse_out_header *)iov[0].iov_base)->len : writev(fd, iov, count);
}

/* libfuse's side, over fd, which it closes at the end. */
static int libfuse_open(struct ctl *c, int fd, struct snap_error *err)
{
	static const struct fuse_custom_io io = { .writev = io_writev, .read = io_read };
	char *argv[] = { (char *)(uintptr_t) "stillfs", NULL };
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);
	struct fuse_lowlevel_ops ops = { 0 }; /* libfuse copies it */

	ctl_tree_ops(&ops);
	ctl_open_ops(&ops);
	c->se = fuse_session_new(&args, &ops, sizeof(ops), c);
	fuse_opt_free_args(&args);
	if (!c->se || fuse_session_custom_io(c->se, &io, fd) < 0) {
		(void)close(fd);
		return snap_error_set(err, -ENOMEM, "mount %s: libfuse refused to make a session",
				      c->d.control_dir);
	}
	return 0;
}

static int read_init(struct ctl *c, int fd, struct snap_error *err)
{
	static _Alignas(8) char buf[16384];
	struct shm_mnt *saved = &c->d.shm->ctl;
	struct pollfd p = { .fd = fd, .events = POLLIN };
	struct fuse_buf b = { .mem = buf };
	ssize_t n = poll(&p, 1, INIT_MS) > 0 ? read(fd, buf, sizeof(buf)) : -1;

	if (n < (ssize_t)sizeof(struct fuse_in_header) || (size_t)n > sizeof(saved->init))
		return snap_error_set(err, -EPROTO, "mount %s: the kernel sent no INIT", c->d.control_dir);
	memcpy(saved->init, buf, (size_t)n);
	saved->init_len = (uint32_t)n;
	b.size = (size_t)n;
	fuse_session_process_buf(c->se, &b);
	return 0;
}

static int mount_tree(struct ctl *c, struct snap_error *err)
{
	char data[128];
	uint64_t id;
	int fd, r;

	/* ours also when a daemon that was killed left it */
	c->made_dir = access(c->d.control_dir, F_OK) < 0 || strncmp(c->d.control_dir, "/run/stillfs/", 13) == 0;
	if (check_mkdirs(c->d.control_dir, 0755, err) < 0)
		return err->code;
	fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return snap_error_set(err, -errno, "open /dev/fuse: %s", strerror(errno));
	if (libfuse_open(c, fd, err) < 0)
		return err->code;
	(void)snprintf(data, sizeof(data),
		       "fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other", fd);
	if (mount("stillfs", c->d.control_dir, "fuse.stillfs-control", MS_NOSUID | MS_NODEV, data) < 0)
		return snap_error_set(err, -errno, "mount the control tree on %s: %s; if a dead mount is there, "
						   "umount it", c->d.control_dir, strerror(errno));
	c->mounted = true;
	c->d.shm->ctl.dev_fd = fd;
	r = statdev_mount(c->d.control_dir, &id);
	if (r < 0)
		return snap_error_set(err, r, "look at the mount on %s: %s", c->d.control_dir, strerror(-r));
	c->d.shm->ctl.mount_id = id;
	return read_init(c, fd, err);
}

static int resume_tree(struct ctl *c, struct snap_error *err)
{
	const struct shm_mnt *saved = &c->d.shm->ctl;
	_Alignas(8) unsigned char buf[sizeof(saved->init)];
	struct fuse_buf b = { .mem = buf, .size = saved->init_len };

	if (libfuse_open(c, saved->dev_fd, err) < 0)
		return err->code;
	c->made_dir = true;
	c->mounted = true;
	c->replaying = true;
	memcpy(buf, saved->init, saved->init_len);
	fuse_session_process_buf(c->se, &b);
	c->replaying = false;
	ctl_handle_recover(c);
	recover_resend_one(saved);
	return 0;
}

static void taken_over(struct ctl *c)
{
	const struct shm_upgrade *u = &c->d.shm->upgrade;
	struct vbuf b = VBUF_INIT;

	if (atomic_load(&u->state) == SHM_UPGRADE_RUNNING) {
		vbuf_printf(&b, "\"from\":\"%s\",\"to\":\"%s\"", u->from, u->to);
		ctl_event(c, "upgrade", vbuf_text(&b));
		vbuf_free(&b);
		return;
	}
	vbuf_printf(&b, "\"restarts\":%u,\"death\":\"", c->d.shm->restarts);
	vbuf_json(&b, c->d.shm->last_death);
	vbuf_puts(&b, "\"");
	ctl_event(c, "takeover", vbuf_text(&b));
	vbuf_free(&b);
}

int ctl_start(struct ctl *c, struct engine *engine, struct snap_error *err)
{
	int r;

	c->engine = engine;
	if ((c->d.again ? resume_tree(c, err) : mount_tree(c, err)) < 0)
		return err->code;
	r = ctl_helper_start(c);
	while (r == 0 && c->n_threads < CTL_THREADS) {
		r = -pthread_create(&c->thread[c->n_threads], NULL, ctl_run, c);
		c->n_threads += r == 0;
	}
	if (r < 0)
		return snap_error_set(err, r, "start the control tree: %s", strerror(-r));
	if (c->d.again)
		taken_over(c);
	else
		ctl_event(c, "start", "");
	return 0;
}

void ctl_stop(struct ctl *c)
{
	ctl_helper_stop(c);
	if (c->mounted) {
		fuse_session_exit(c->se);
		/* lazily: a shell may stand in the control tree, and no data depends on it; by force, so
		 * that our threads' reads end even then */
		if (umount2(c->d.control_dir, MNT_FORCE | MNT_DETACH) < 0 && errno != EINVAL)
			log_warn("unmount %s: %s", c->d.control_dir, strerror(errno));
	}
	for (unsigned i = 0; i < c->n_threads; i++)
		(void)pthread_join(c->thread[i], NULL);
	c->n_threads = 0;
	if (c->se)
		fuse_session_destroy(c->se);
	c->se = NULL;
	c->mounted = false;
	if (c->made_dir)
		(void)rmdir(c->d.control_dir); /* a mount that is still there keeps it */
}

void ctl_free(struct ctl *c)
{
	if (!c)
		return;
	events_free(c->events);
	(void)pthread_mutex_destroy(&c->lock);
	(void)pthread_mutex_destroy(&c->turn);
	(void)pthread_cond_destroy(&c->work);
	free(c);
}
