/* fs/ctl_open.c - the control tree's open files: rendered whole at open, one command a write.
 * Owns:      struct copen, one for each open file.
 * Called by: libfuse's handlers on control threads.
 * Blocks:    a write as long as its file's parser (ctl_files.c); what waits for the engine is ctl_wait.c's.
 * Errors:    every refused operation leaves last_error and an event. */
#include "fs/ctl_int.h"
#include "fs/upgrade.h"

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

static void copen_drop(struct ctl *c, uint64_t fh)
{
	struct copen *o = ctl_handle_drop(c, fh);

	if (o)
		copen_put(o);
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

/* The object of an open file: NULL with *r: -ENOENT, -ENOMEM, or the renderer's. */
static struct copen *copen_new(struct ctl *c, const struct ctl_where *w, int acc, int *r)
{
	struct copen *o = calloc(1, sizeof(*o));

	*r = -ENOMEM;
	if (!o)
		return NULL;
	o->f = w->f;
	o->users = 1;
	memcpy(o->set, w->set.name, sizeof(o->set));
	*r = acc != O_WRONLY && (w->f->kind == FILE_PLAIN || w->f->kind == FILE_SNAPSHOT) ? render(c, o) : 0;
	if (*r < 0) {
		copen_put(o);
		return NULL;
	}
	return o;
}

static void c_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct ctl *c = ctl_of(req);
	int acc = fi->flags & O_ACCMODE, r;
	struct copen *o;
	struct ctl_where w;
	int64_t fh;

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
	o = copen_new(c, &w, acc, &r);
	fh = o ? ctl_handle_new(c, ino, acc, o) : r;
	if (fh < 0) {
		fuse_reply_err(req, (int)-fh);
		if (o)
			copen_put(o);
		return;
	}
	fi->fh = (uint64_t)fh;
	fi->direct_io = 1;
	fi->nonseekable = w.f->kind == FILE_WAIT;
	if (fuse_reply_open(req, fi) < 0)
		copen_drop(c, (uint64_t)fh);
	else
		ctl_handle_answered(c, (uint64_t)fh);
}

/* The open file, with a use of it counted, to be given back by copen_put. After a take-over it is rendered again at the
 * first use: a reader in the midst of a file may see another state's second half. NULL: answered. */
static struct copen *copen_get(fuse_req_t req, uint64_t fh)
{
	struct ctl *c = ctl_of(req);
	struct copen *o = ctl_handle_obj(c, fh);
	struct ctl_handle *h = ctl_handle_at(c, fh);
	struct ctl_where w;
	int r = -ESTALE;

	if (!o && h && ctl_tree_find(c, h->ino, &w) && w.f) {
		o = copen_new(c, &w, (int)h->acc, &r);
		if (o && !ctl_handle_set(c, fh, o)) {
			copen_put(o);
			o = ctl_handle_obj(c, fh);
		}
	}
	if (!o)
		fuse_reply_err(req, -r);
	else
		(void)atomic_fetch_add(&o->users, 1);
	return o;
}

static void c_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	copen_drop(ctl_of(req), fi->fh);
	fuse_reply_err(req, 0);
}

static void read_open(fuse_req_t req, struct copen *o, size_t size, off_t off, const struct fuse_file_info *fi)
{
	static const char fixed[] = CTL_FIXED;
	struct ctl *c = ctl_of(req);
	size_t n;

	if (o->f->kind == FILE_EVENTS) {
		ctl_wait_events(c, req, (uint64_t)off, size, fi->flags & O_NONBLOCK,
				&ctl_handle_at(c, fi->fh)->seen);
	} else if (o->f->kind == FILE_WAIT && off == 0) {
		ctl_wait_set(c, req, o->set, size);
	} else if (o->f->kind == FILE_WAIT) { /* the rest, for who reads it in pieces */
		n = (size_t)off < sizeof(fixed) - 1 ? sizeof(fixed) - 1 - (size_t)off : 0;
		fuse_reply_buf(req, fixed + sizeof(fixed) - 1 - n, n < size ? n : size);
	} else {
		n = (size_t)off < o->text.len ? o->text.len - (size_t)off : 0;
		fuse_reply_buf(req, vbuf_text(&o->text) + (n ? off : 0), n < size ? n : size);
	}
}

static void c_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct copen *o = copen_get(req, fi->fh);

	if (!o)
		return;
	read_open(req, o, size, off, fi);
	copen_put(o);
}

/* An errno that says, of a command that a dead daemon may have carried out, that it did. */
static bool was_carried_out(const struct ctl *c, const struct copen *o, int r)
{
	return (r == -EBUSY && strcmp(o->f->name, "gate") == 0) || (r == -ENOENT && strcmp(o->f->name, "abort") == 0) ||
	       (r == -EBUSY && strcmp(o->f->name, "upgrade") == 0 && upgrade_running(c->d.shm));
}

static int carry_out(struct ctl *c, struct copen *o, const char *text, size_t size, struct snap_error *err)
{
	int r;

	if (o->f->write)
		return o->f->write(c, text, size, err);
	if (strcmp(o->f->name, "doctor") == 0) {
		(void)pthread_mutex_lock(&c->turn);
		r = ctl_upgrade_refuse(c, "doctor", err);
		r = r < 0 ? r : o->f->ef->write(c->engine, NULL, text, size, err);
		(void)pthread_mutex_unlock(&c->turn);
		return r;
	}
	return o->f->ef->write(c->engine, o->set[0] ? o->set : NULL, text, size, err);
}

static void command(fuse_req_t req, struct copen *o, const char *text, size_t size, struct ctl_op *op, bool again)
{
	struct snap_error err = { 0 };
	struct ctl *c = ctl_of(req);
	char name[160];
	int r;

	r = again && op->stage == CTL_DONE ? op->result : carry_out(c, o, text, size, &err);
	if (again && was_carried_out(c, o, r))
		r = 0;
	(void)ctl_op_done(op, r);
	if (r < 0) {
		(void)snprintf(name, sizeof(name), "%s%s%s%s", o->set[0] ? "snapshots/" : "", o->set,
			       o->set[0] ? "/" : "", o->f->name);
		snap_error_set(&err, r, "%s: %s", name, strerror(-r));
		ctl_report(c, name, &err);
		fuse_reply_err(req, -r);
	} else {
		fuse_reply_write(req, size);
	}
	ctl_op_end(op);
}

/* One write is one whole command; the trailing newline may be missing. */
static void write_open(fuse_req_t req, struct copen *o, const char *buf, size_t size, off_t off)
{
	struct ctl *c = ctl_of(req);
	struct ctl_op *op = NULL;
	bool again;
	char *text;

	/* `>>` writes at the end of what stat shows, 0; anything else is not a command of its own */
	if (off != 0 || size > CTL_WRITE_MAX || memchr(buf, 0, size)) {
		fuse_reply_err(req, ctl_refuse(c, o->f->name, -EINVAL,
					   off ? "write the whole command at once, at the start of the file" :
						 "a command is text of at most 8192 bytes"));
		return;
	}
	text = strndup(buf, size);
	if (text)
		op = ctl_op_begin(c, &again);
	if (!op)
		fuse_reply_err(req, text ? EAGAIN : ENOMEM);
	else if (o->f->kind == FILE_SNAPSHOT)
		ctl_wait_snapshot(c, req, text, size, op, again);
	else
		command(req, o, text, size, op, again);
	free(text);
}

static void c_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
		    struct fuse_file_info *fi)
{
	struct copen *o = copen_get(req, fi->fh);

	if (!o)
		return;
	write_open(req, o, buf, size, off);
	copen_put(o);
}

static void c_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct fuse_pollhandle *ph)
{
	struct copen *o = copen_get(req, fi->fh);
	struct ctl *c = ctl_of(req);

	if (!o) {
		if (ph)
			fuse_pollhandle_destroy(ph);
		return;
	}
	if (o->f->kind != FILE_EVENTS) {
		if (ph)
			fuse_pollhandle_destroy(ph);
		fuse_reply_poll(req, POLLIN | POLLOUT);
	} else {
		if (ph) {
			ctl_handle_polled(c, fi->fh);
			ctl_events_poll(c, ph);
		}
		fuse_reply_poll(req, events_end(c->events) > atomic_load(&ctl_handle_at(c, fi->fh)->seen) ? POLLIN : 0);
	}
	copen_put(o);
}

void ctl_open_ops(struct fuse_lowlevel_ops *ops)
{
	ops->open = c_open;
	ops->release = c_release;
	ops->read = c_read;
	ops->write = c_write;
	ops->poll = c_poll;
}
