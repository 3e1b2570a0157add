/* fs/ctl.c - the control tree: a libfuse session of its own, independent of the gate.
 * Owns:      the session, its threads, last_error, the event stream.
 * Called by: main.c; handlers by libfuse. Threads: CTL_THREADS, no handler waits for anything long.
 * Blocks:    ctl_start in mount(2), ctl_stop until the threads have ended.
 * Errors:    every refused operation leaves last_error and an event. */
#include "fs/ctl_int.h"
#include "base/clock.h"
#include "base/log.h"
#include "fs/mount_check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#define EVENTS_RING (4u << 20)

/* An open file: rendered once, whole. */
struct copen {
	const struct cfile *f;
	char set[DOOR_NAME_MAX + 1];
	struct vbuf text;
	_Atomic uint64_t seen; /* events: bytes that this reader has had */
};

/* ---- events and last_error ---- */

void ctl_event(struct ctl *c, const char *type, const char *members)
{
	events_add(c->events, c->d.name, type, members);
	ctl_events_wake(c);
}

void ctl_report(struct ctl *c, const char *file, const struct snap_error *err)
{
	struct vbuf b = VBUF_INIT;

	(void)pthread_mutex_lock(&c->lock);
	c->last.when = clock_utc();
	(void)snprintf(c->last.file, sizeof(c->last.file), "%s", file);
	c->last.err = *err;
	(void)pthread_mutex_unlock(&c->lock);
	vbuf_puts(&b, "\"file\":\"");
	vbuf_json(&b, file);
	vbuf_printf(&b, "\",\"errno\":%d,\"message\":\"", -err->code);
	vbuf_json(&b, err->msg);
	vbuf_puts(&b, "\"");
	ctl_event(c, "error", vbuf_text(&b));
	vbuf_free(&b);
}

static int refuse(struct ctl *c, const char *file, int code, const char *what)
{
	struct snap_error err = { 0 };

	snap_error_set(&err, code, "%s: %s", file, what);
	ctl_report(c, file, &err);
	return -code;
}

/* ---- nodes ---- */

struct where {
	const struct cfile *f; /* NULL: a directory */
	struct set_view set; /* name "" in the root */
	uint64_t ino;
};

struct by_ino {
	uint64_t ino;
	struct set_view *out;
};

static int match_ino(void *arg, const struct set_view *v)
{
	struct by_ino *b = arg;

	if (v->ino != b->ino)
		return 0;
	*b->out = *v;
	return 1;
}

/* What node `ino` is; false: gone. */
static bool find_node(struct ctl *c, fuse_ino_t ino, struct where *w)
{
	struct by_ino b = { .ino = ino >> 8, .out = &w->set };
	unsigned i = (unsigned)(ino & 255);

	memset(w, 0, sizeof(*w));
	w->ino = ino;
	if (ino == INO_ROOT || ino == INO_SNAPSHOTS)
		return true;
	if (ino < 256) {
		if (ino < INO_FILE || ino - INO_FILE >= c->n_root)
			return false;
		w->f = &c->root[ino - INO_FILE];
		return true;
	}
	(void)engine_each_set(c->engine, match_ino, &b);
	if (!w->set.name[0] || i > c->n_set)
		return false;
	w->f = i ? &c->set[i - 1] : NULL;
	return true;
}

static int count_set(void *arg, const struct set_view *v)
{
	return 0;
}

static void fill_stat(struct ctl *c, const struct where *w, struct stat *st)
{
	memset(st, 0, sizeof(*st));
	st->st_ino = w->ino;
	st->st_gid = c->gid;
	st->st_nlink = 1;
	st->st_atim = st->st_mtim = st->st_ctim = c->start_utc;
	if (!w->f) {
		st->st_mode = S_IFDIR | 0755 | (c->gid && w->ino == INO_SNAPSHOTS ? 0020 : 0);
		st->st_nlink = 2;
		if (w->ino == INO_ROOT)
			st->st_nlink = 3;
		if (w->ino == INO_SNAPSHOTS)
			st->st_nlink += (nlink_t)engine_each_set(c->engine, count_set, NULL);
	} else if (w->f->kind == FILE_DATA) {
		st->st_mode = S_IFLNK | 0777;
		st->st_size = (off_t)strlen(w->set.data);
	} else {
		st->st_mode = S_IFREG | w->f->mode;
		if (w->f->kind == FILE_EVENTS)
			st->st_size = (off_t)events_end(c->events);
	}
	if (w->set.name[0])
		st->st_atim = st->st_mtim = st->st_ctim = w->set.created;
}

static void reply_entry(fuse_req_t req, struct ctl *c, const struct where *w)
{
	struct fuse_entry_param e = { .ino = w->ino };

	fill_stat(c, w, &e.attr);
	fuse_reply_entry(req, &e);
}

static bool look_up(struct ctl *c, fuse_ino_t parent, const char *name, struct where *w)
{
	struct where p;
	unsigned i;

	memset(w, 0, sizeof(*w));
	if (parent == INO_ROOT) {
		if (strcmp(name, "snapshots") == 0)
			w->ino = INO_SNAPSHOTS;
		else if ((w->f = ctl_find(c->root, c->n_root, name, &i)))
			w->ino = INO_FILE + i;
	} else if (parent == INO_SNAPSHOTS) {
		if (engine_get_set(c->engine, name, &w->set) == 0)
			w->ino = INO_SET(w->set.ino);
	} else if (parent >= 256 && !(parent & 255) && find_node(c, parent, &p)) {
		w->set = p.set;
		w->f = ctl_find(c->set, c->n_set, name, &i);
		if (w->f && (w->f->kind != FILE_DATA || p.set.has_data))
			w->ino = parent + 1 + i;
	}
	return w->ino != 0;
}

static struct ctl *ctl_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

static void c_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct where w;

	if (look_up(ctl_of(req), parent, name, &w))
		reply_entry(req, ctl_of(req), &w);
	else
		fuse_reply_err(req, ENOENT);
}

static void c_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct where w;
	struct stat st;

	if (!find_node(ctl_of(req), ino, &w)) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	fill_stat(ctl_of(req), &w, &st);
	fuse_reply_attr(req, &st, 0);
}

/* `echo x > file` truncates first; times may be touched; nothing else changes. */
static void c_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
		      struct fuse_file_info *fi)
{
	if (to_set & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID))
		fuse_reply_err(req, EPERM);
	else
		c_getattr(req, ino, fi);
}

static void c_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct where w;

	if (find_node(ctl_of(req), ino, &w) && w.f && w.f->kind == FILE_DATA && w.set.has_data)
		fuse_reply_readlink(req, w.set.data);
	else
		fuse_reply_err(req, EINVAL);
}

/* ---- files ---- */

static bool readable(const struct cfile *f)
{
	return f->kind != FILE_PLAIN || f->render || (f->ef && f->ef->render);
}

static bool writable(const struct cfile *f)
{
	return f->kind == FILE_SNAPSHOT || f->write || (f->ef && f->ef->write);
}

static int render(struct ctl *c, struct copen *o)
{
	int r = 0;

	if (o->f->render)
		r = o->f->render(c, &o->text);
	else if (o->f->ef && o->f->ef->render)
		r = o->f->ef->render(c->engine, o->set[0] ? o->set : NULL, &o->text);
	return r < 0 ? r : vbuf_error(&o->text);
}

static void c_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct ctl *c = ctl_of(req);
	int acc = fi->flags & O_ACCMODE, r = 0;
	struct copen *o;
	struct where w;

	if (!find_node(c, ino, &w) || !w.f) {
		fuse_reply_err(req, w.ino && !w.f ? EISDIR : ENOENT);
		return;
	}
	if ((acc != O_WRONLY && !readable(w.f)) || (acc != O_RDONLY && !writable(w.f))) {
		fuse_reply_err(req, refuse(c, w.f->name, -EACCES,
					   acc == O_RDONLY ? "this file can only be written" :
							     "this file can only be read"));
		return;
	}
	o = calloc(1, sizeof(*o));
	if (!o) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	o->f = w.f;
	memcpy(o->set, w.set.name, sizeof(o->set));
	if (acc != O_WRONLY && (w.f->kind == FILE_PLAIN || w.f->kind == FILE_SNAPSHOT))
		r = render(c, o);
	fi->fh = (uint64_t)(uintptr_t)o;
	fi->direct_io = 1;
	fi->nonseekable = w.f->kind == FILE_WAIT;
	if (r < 0 || fuse_reply_open(req, fi) < 0) {
		if (r < 0)
			fuse_reply_err(req, -r);
		vbuf_free(&o->text);
		free(o);
	}
}

static void c_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct copen *o = (struct copen *)(uintptr_t)fi->fh;

	vbuf_free(&o->text);
	free(o);
	fuse_reply_err(req, 0);
}

static void c_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct copen *o = (struct copen *)(uintptr_t)fi->fh;
	struct ctl *c = ctl_of(req);
	size_t n;

	if (o->f->kind == FILE_EVENTS) {
		ctl_wait_events(c, req, (uint64_t)off, size, fi->flags & O_NONBLOCK, &o->seen);
		return;
	}
	if (o->f->kind == FILE_WAIT && off == 0) {
		ctl_wait_set(c, req, o->set, size);
		return;
	}
	n = (size_t)off < o->text.len ? o->text.len - (size_t)off : 0;
	fuse_reply_buf(req, vbuf_text(&o->text) + (n ? off : 0), n < size ? n : size);
}

/* One write is one whole command; the trailing newline may be missing. */
static void c_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
		    struct fuse_file_info *fi)
{
	struct copen *o = (struct copen *)(uintptr_t)fi->fh;
	struct snap_error err = { 0 };
	struct ctl *c = ctl_of(req);
	char *text;
	int r;

	/* `>>` writes at the end of what stat shows, 0; anything else is not a command of its own */
	if (off != 0 || size > CTL_WRITE_MAX || memchr(buf, 0, size)) {
		fuse_reply_err(req, refuse(c, o->f->name, -EINVAL,
					   off ? "write the whole command at once, at the start of the file" :
						 "a command is text of at most 8192 bytes"));
		return;
	}
	text = strndup(buf, size);
	if (!text) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	if (o->f->kind == FILE_SNAPSHOT) {
		ctl_wait_snapshot(c, req, text, size);
		free(text);
		return;
	}
	r = o->f->write ? o->f->write(c, text, size, &err) :
			  o->f->ef->write(c->engine, o->set[0] ? o->set : NULL, text, size, &err);
	free(text);
	if (r < 0) {
		char name[160];

		(void)snprintf(name, sizeof(name), "%s%s%s%s", o->set[0] ? "snapshots/" : "", o->set,
			       o->set[0] ? "/" : "", o->f->name);
		snap_error_set(&err, r, "%s: %s", name, strerror(-r));
		ctl_report(c, name, &err);
		fuse_reply_err(req, -r);
	} else {
		fuse_reply_write(req, size);
	}
}

static void c_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct fuse_pollhandle *ph)
{
	struct copen *o = (struct copen *)(uintptr_t)fi->fh;
	struct ctl *c = ctl_of(req);

	if (o->f->kind != FILE_EVENTS) {
		if (ph)
			fuse_pollhandle_destroy(ph);
		fuse_reply_poll(req, POLLIN | POLLOUT);
		return;
	}
	if (ph)
		ctl_events_poll(c, ph);
	fuse_reply_poll(req, events_end(c->events) > atomic_load(&o->seen) ? POLLIN : 0);
}

/* ---- directories ---- */

struct list_ctx {
	fuse_req_t req;
	struct ctl *c;
	struct vbuf *out;
	off_t off;
};

static void add(struct list_ctx *l, const char *name, uint64_t ino, mode_t type)
{
	struct stat st = { .st_ino = ino, .st_mode = type };
	size_t n = fuse_add_direntry(l->req, NULL, 0, name, NULL, 0);
	char buf[512];

	(void)fuse_add_direntry(l->req, buf, sizeof(buf), name, &st, ++l->off);
	vbuf_add(l->out, buf, n);
}

static int add_set(void *arg, const struct set_view *v)
{
	add(arg, v->name, INO_SET(v->ino), S_IFDIR);
	return 0;
}

/* Rendered whole at opendir, so that a reader never sees half of two states. */
static void c_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct ctl *c = ctl_of(req);
	struct vbuf *b = calloc(1, sizeof(*b));
	struct list_ctx l = { .req = req, .c = c, .out = b };
	struct where w;

	if (!b || !find_node(c, ino, &w) || w.f) {
		fuse_reply_err(req, b ? ENOENT : ENOMEM);
		free(b);
		return;
	}
	add(&l, ".", ino, S_IFDIR);
	add(&l, "..", ino >= 256 ? INO_SNAPSHOTS : INO_ROOT, S_IFDIR);
	if (ino == INO_ROOT) {
		for (unsigned i = 0; i < c->n_root; i++)
			add(&l, c->root[i].name, INO_FILE + i, S_IFREG);
		add(&l, "snapshots", INO_SNAPSHOTS, S_IFDIR);
	} else if (ino == INO_SNAPSHOTS) {
		(void)engine_each_set(c->engine, add_set, &l);
	} else {
		for (unsigned i = 0; i < c->n_set; i++)
			if (c->set[i].kind != FILE_DATA || w.set.has_data)
				add(&l, c->set[i].name, ino + 1 + i,
				    c->set[i].kind == FILE_DATA ? S_IFLNK : S_IFREG);
	}
	fi->fh = (uint64_t)(uintptr_t)b;
	if (vbuf_error(b) || fuse_reply_open(req, fi) < 0) {
		if (vbuf_error(b))
			fuse_reply_err(req, ENOMEM);
		vbuf_free(b);
		free(b);
	}
}

static void c_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	const struct vbuf *b = (const struct vbuf *)(uintptr_t)fi->fh;
	size_t at = 0, end;

	/* skip `off` entries, then as many whole ones as fit */
	while (at < b->len && off > 0) {
		uint32_t namelen;

		memcpy(&namelen, b->data + at + 16, sizeof(namelen));
		at += (24 + namelen + 7) / 8 * 8;
		off--;
	}
	for (end = at; end < b->len;) {
		uint32_t namelen;
		size_t n;

		memcpy(&namelen, b->data + end + 16, sizeof(namelen));
		n = (24 + namelen + 7) / 8 * 8;
		if (end + n - at > size)
			break;
		end += n;
	}
	fuse_reply_buf(req, vbuf_text(b) + at, end - at);
}

static void c_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct vbuf *b = (struct vbuf *)(uintptr_t)fi->fh;

	vbuf_free(b);
	free(b);
	fuse_reply_err(req, 0);
}

static void name_op(fuse_req_t req, fuse_ino_t parent, const char *name, bool make)
{
	struct ctl *c = ctl_of(req);
	struct snap_error err = { 0 };
	char file[160];
	struct where w;
	int r;

	if (parent != INO_SNAPSHOTS) {
		fuse_reply_err(req, refuse(c, name, -EPERM,
					   "directories are made and removed in snapshots/ only"));
		return;
	}
	r = make ? engine_mkdir(c->engine, name, &err) : engine_rmdir(c->engine, name, &err);
	if (r < 0) {
		(void)snprintf(file, sizeof(file), "snapshots/%.100s", name);
		snap_error_set(&err, r, "%s %s: %s", make ? "mkdir" : "rmdir", file, strerror(-r));
		ctl_report(c, file, &err);
		fuse_reply_err(req, -r);
	} else if (!make) {
		fuse_reply_err(req, 0);
	} else if (look_up(c, parent, name, &w)) {
		reply_entry(req, c, &w);
	} else {
		fuse_reply_err(req, EIO); /* removed again meanwhile */
	}
}

static void c_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	name_op(req, parent, name, true);
}

static void c_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	name_op(req, parent, name, false);
}

static void c_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	fuse_reply_err(req, refuse(ctl_of(req), name, -EPERM,
				   "control files cannot be removed; rmdir snapshots/NAME deletes a set"));
}

static void c_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
		     struct fuse_file_info *fi)
{
	fuse_reply_err(req, refuse(ctl_of(req), name, -EPERM, "no such control file, and none can be made"));
}

static const struct fuse_lowlevel_ops ctl_ops = {
	.lookup = c_lookup,
	.getattr = c_getattr,
	.setattr = c_setattr,
	.readlink = c_readlink,
	.open = c_open,
	.release = c_release,
	.read = c_read,
	.write = c_write,
	.poll = c_poll,
	.opendir = c_opendir,
	.readdir = c_readdir,
	.releasedir = c_releasedir,
	.mkdir = c_mkdir,
	.rmdir = c_rmdir,
	.unlink = c_unlink,
	.create = c_create,
};

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

	c->made_dir = access(c->d.control_dir, F_OK) < 0;
	if (check_mkdirs(c->d.control_dir, 0755, err) < 0)
		return err->code;
	c->se = fuse_session_new(&args, &ctl_ops, sizeof(ctl_ops), c);
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
