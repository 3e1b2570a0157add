/* fs/ctl_open.c - the control tree's open files: rendered whole at open, one command a write.
 * Owns:      struct copen, one for each open file.
 * Called by: libfuse's handlers on control threads.
 * Blocks:    a write as long as its file's parser (ctl_files.c); what waits for the engine is ctl_wait.c's.
 * Errors:    every refused operation leaves last_error and an event. */
#include "fs/ctl_int.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* An open file: rendered once, whole. */
struct copen {
	const struct cfile *f;
	char set[DOOR_NAME_MAX + 1];
	struct vbuf text;
	_Atomic uint64_t seen; /* events: bytes that this reader has had */
	_Atomic unsigned users; /* the open file, and handlers that reply from `text` */
};

/* A release can overtake the handler whose reply allowed it: the last of them frees. */
static void copen_put(struct copen *o)
{
	if (atomic_fetch_sub(&o->users, 1) != 1)
		return;
	vbuf_free(&o->text);
	free(o);
}

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
	struct ctl_where w;

	if (!ctl_tree_find(c, ino, &w) || !w.f) {
		fuse_reply_err(req, w.ino && !w.f ? EISDIR : ENOENT);
		return;
	}
	if ((acc != O_WRONLY && !readable(w.f)) || (acc != O_RDONLY && !writable(w.f))) {
		fuse_reply_err(req, ctl_refuse(c, w.f->name, -EACCES,
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
	o->users = 1;
	memcpy(o->set, w.set.name, sizeof(o->set));
	if (acc != O_WRONLY && (w.f->kind == FILE_PLAIN || w.f->kind == FILE_SNAPSHOT))
		r = render(c, o);
	fi->fh = (uint64_t)(uintptr_t)o;
	fi->direct_io = 1;
	fi->nonseekable = w.f->kind == FILE_WAIT;
	if (r < 0 || fuse_reply_open(req, fi) < 0) {
		if (r < 0)
			fuse_reply_err(req, -r);
		copen_put(o);
	}
}

static void c_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	copen_put((struct copen *)(uintptr_t)fi->fh);
	fuse_reply_err(req, 0);
}

static void c_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct copen *o = (struct copen *)(uintptr_t)fi->fh;
	static const char fixed[] = CTL_FIXED;
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
	if (o->f->kind == FILE_WAIT) { /* the rest, for who reads it in pieces */
		n = (size_t)off < sizeof(fixed) - 1 ? sizeof(fixed) - 1 - (size_t)off : 0;
		fuse_reply_buf(req, fixed + sizeof(fixed) - 1 - n, n < size ? n : size);
		return;
	}
	n = (size_t)off < o->text.len ? o->text.len - (size_t)off : 0;
	(void)atomic_fetch_add(&o->users, 1);
	fuse_reply_buf(req, vbuf_text(&o->text) + (n ? off : 0), n < size ? n : size);
	copen_put(o);
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
		fuse_reply_err(req, ctl_refuse(c, o->f->name, -EINVAL,
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

void ctl_open_ops(struct fuse_lowlevel_ops *ops)
{
	ops->open = c_open;
	ops->release = c_release;
	ops->read = c_read;
	ops->write = c_write;
	ops->poll = c_poll;
}
