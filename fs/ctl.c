/* fs/ctl.c - the control tree: a libfuse session of its own, independent of the gate.
 * Owns:      the session, its threads, last_error, the event stream.
 * Called by: main.c. Threads: CTL_THREADS, which run the handlers of ctl_tree.c and ctl_open.c; none waits for
 *            anything long.
 * Blocks:    ctl_start in mount(2), ctl_stop until the threads have ended.
 * Errors:    every refused operation leaves last_error and an event. */
#include "fs/ctl_int.h"
#include "base/clock.h"
#include "base/log.h"
#include "fs/mount_check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#define EVENTS_RING (4u << 20)

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

	if (c)
		c->events = events_new(EVENTS_RING);
	if (!c || !c->events) {
		free(c);
		snap_error_set(err, -ENOMEM, "start the control tree: out of memory");
		return NULL;
	}
	c->d = *d;
	c->gid = (gid_t)conf_num(d->conf, "control_gid");
	c->start_ns = clock_boot_ns();
	c->start_utc = clock_utc();
	(void)pthread_mutex_init(&c->lock, NULL);
	(void)pthread_cond_init(&c->work, NULL);
	if (ctl_files_init(c, err) < 0) {
		ctl_free(c);
		return NULL;
	}
	return c;
}

static void *ctl_run(void *arg)
{
	struct ctl *c = arg;
	struct fuse_buf b = { 0 };

	(void)pthread_setname_np(pthread_self(), "ctl");
	while (!fuse_session_exited(c->se)) {
		int n = fuse_session_receive_buf(c->se, &b);

		if (n == -EINTR)
			continue;
		if (n <= 0)
			break;
		fuse_session_process_buf(c->se, &b);
	}
	free(b.mem);
	return NULL;
}

static int mount_tree(struct ctl *c, struct snap_error *err)
{
	char *argv[] = { (char *)(uintptr_t) "stillfs", (char *)(uintptr_t) "-oallow_other,default_permissions,"
							"fsname=stillfs,subtype=stillfs-control", NULL };
	struct fuse_args args = FUSE_ARGS_INIT(2, argv);
	struct fuse_lowlevel_ops ops = { 0 }; /* libfuse copies it */

	ctl_tree_ops(&ops);
	ctl_open_ops(&ops);
	/* ours also when a daemon that was killed left it */
	c->made_dir = access(c->d.control_dir, F_OK) < 0 || strncmp(c->d.control_dir, "/run/stillfs/", 13) == 0;
	if (check_mkdirs(c->d.control_dir, 0755, err) < 0)
		return err->code;
	c->se = fuse_session_new(&args, &ops, sizeof(ops), c);
	fuse_opt_free_args(&args);
	if (!c->se)
		return snap_error_set(err, -ENOMEM, "mount %s: libfuse refused to make a session",
				      c->d.control_dir);
	if (fuse_session_mount(c->se, c->d.control_dir) != 0)
		return snap_error_set(err, -EIO, "mount the control tree on %s: refused; if a dead mount is there, "
						 "umount it", c->d.control_dir);
	c->mounted = true;
	return 0;
}

int ctl_start(struct ctl *c, struct engine *engine, struct snap_error *err)
{
	uint32_t n = atomic_load(&c->d.shm->n_dev_fds);
	int r;

	c->engine = engine;
	if (mount_tree(c, err) < 0)
		return err->code;
	if (n < SHM_MAX_DEV_FDS) {
		atomic_store(&c->d.shm->dev_fds[n], fuse_session_fd(c->se));
		atomic_store(&c->d.shm->n_dev_fds, n + 1);
	}
	r = ctl_helper_start(c);
	while (r == 0 && c->n_threads < CTL_THREADS) {
		r = -pthread_create(&c->thread[c->n_threads], NULL, ctl_run, c);
		c->n_threads += r == 0;
	}
	if (r < 0)
		return snap_error_set(err, r, "start the control tree: %s", strerror(-r));
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
	if (c->mounted)
		fuse_session_unmount(c->se); /* sees that it is gone, and frees what it noted of it */
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
	(void)pthread_cond_destroy(&c->work);
	free(c);
}
