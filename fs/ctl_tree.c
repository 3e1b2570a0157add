/* fs/ctl_tree.c - the control tree's nodes and directories: what an inode number means, attributes, listings,
 * mkdir and rmdir of sets.
 * Owns:      the numbering of nodes, the listings of open directories.
 * Called by: libfuse's handlers on control threads; ctl_open.c for ctl_tree_find.
 * Blocks:    never; mkdir and rmdir ask the engine, which queues.
 * Errors:    every refused operation leaves last_error and an event. */
#include "fs/ctl_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- nodes ---- */

bool ctl_tree_find(struct ctl *c, fuse_ino_t ino, struct ctl_where *w)
{
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
	if (i > c->n_set || engine_get_ino(c->engine, ino >> 8, &w->set) < 0)
		return false;
	w->f = i ? &c->set[i - 1] : NULL;
	return true;
}

static void fill_stat(struct ctl *c, const struct ctl_where *w, struct stat *st)
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
			st->st_nlink = 1; /* not counted (as on btrfs): each look-up below it asks */
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

static void reply_entry(fuse_req_t req, struct ctl *c, const struct ctl_where *w)
{
	struct fuse_entry_param e = { .ino = w->ino };

	fill_stat(c, w, &e.attr);
	fuse_reply_entry(req, &e);
}

static bool look_up(struct ctl *c, fuse_ino_t parent, const char *name, struct ctl_where *w)
{
	struct ctl_where p;
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
	} else if (parent >= 256 && !(parent & 255) && ctl_tree_find(c, parent, &p)) {
		w->set = p.set;
		w->f = ctl_find(c->set, c->n_set, name, &i);
		if (w->f && (w->f->kind != FILE_DATA || p.set.has_data))
			w->ino = parent + 1 + i;
	}
	return w->ino != 0;
}

static void c_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct ctl_where w;

	if (look_up(ctl_of(req), parent, name, &w))
		reply_entry(req, ctl_of(req), &w);
	else
		fuse_reply_err(req, ENOENT);
}

static void c_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct ctl_where w;
	struct stat st;

	if (!ctl_tree_find(ctl_of(req), ino, &w)) {
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
	struct ctl_where w;

	if (ctl_tree_find(ctl_of(req), ino, &w) && w.f && w.f->kind == FILE_DATA && w.set.has_data)
		fuse_reply_readlink(req, w.set.data);
	else
		fuse_reply_err(req, EINVAL);
}

/* ---- directories ---- */

/* An open directory. */
struct listing {
	struct vbuf text;
	_Atomic unsigned users; /* the open directory, and handlers that reply from `text` */
};

/* A release can overtake the handler whose reply allowed it: the last of them frees. */
static void listing_put(struct listing *d)
{
	if (atomic_fetch_sub(&d->users, 1) != 1)
		return;
	vbuf_free(&d->text);
	free(d);
}

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

/* Rendered whole, so that a reader never sees half of two states. NULL with *r. */
static struct listing *listing_new(fuse_req_t req, fuse_ino_t ino, int *r)
{
	struct ctl *c = ctl_of(req);
	struct listing *d = calloc(1, sizeof(*d));
	struct list_ctx l = { .req = req, .c = c, .out = d ? &d->text : NULL };
	struct ctl_where w;

	*r = d ? -ENOENT : -ENOMEM;
	if (!d || !ctl_tree_find(c, ino, &w) || w.f) {
		free(d);
		return NULL;
	}
	d->users = 1;
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
	*r = vbuf_error(l.out);
	if (*r < 0) {
		listing_put(d);
		return NULL;
	}
	return d;
}

static void listing_drop(struct ctl *c, uint64_t fh)
{
	struct listing *d = ctl_handle_drop(c, fh);

	if (d)
		listing_put(d);
}

static void c_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct ctl *c = ctl_of(req);
	int r;
	struct listing *d = listing_new(req, ino, &r);
	int64_t fh = d ? ctl_handle_new(c, ino, 0, d) : r;

	if (fh < 0) {
		fuse_reply_err(req, (int)-fh);
		if (d)
			listing_put(d);
		return;
	}
	fi->fh = (uint64_t)fh;
	if (fuse_reply_open(req, fi) < 0)
		listing_drop(c, (uint64_t)fh);
	else
		ctl_handle_answered(c, (uint64_t)fh);
}

/* The open directory, with a use of it counted; rendered again at the first use after a take-over. NULL: answered. */
static struct listing *listing_get(fuse_req_t req, fuse_ino_t ino, uint64_t fh)
{
	struct ctl *c = ctl_of(req);
	struct listing *d = ctl_handle_obj(c, fh);
	int r = -ESTALE;

	if (!d && ctl_handle_at(c, fh)) {
		d = listing_new(req, ino, &r);
		if (d && !ctl_handle_set(c, fh, d)) {
			listing_put(d);
			d = ctl_handle_obj(c, fh);
		}
	}
	if (!d)
		fuse_reply_err(req, -r);
	else
		(void)atomic_fetch_add(&d->users, 1);
	return d;
}

static void c_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct listing *d = listing_get(req, ino, fi->fh);
	const struct vbuf *b;
	size_t at = 0, end;

	if (!d)
		return;
	b = &d->text;
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
	listing_put(d);
}

static void c_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	listing_drop(ctl_of(req), fi->fh);
	fuse_reply_err(req, 0);
}

/* What an upgrade must not meet takes its turn; a removal, which waits for state_dir, holds up nobody's. */
static int carry_out(struct ctl *c, const char *name, bool make, struct snap_error *err)
{
	int r;

	if (!make)
		return engine_rmdir(c->engine, name, err);
	(void)pthread_mutex_lock(&c->turn);
	r = ctl_upgrade_refuse(c, "mkdir", err);
	r = r < 0 ? r : engine_mkdir(c->engine, name, err);
	(void)pthread_mutex_unlock(&c->turn);
	return r;
}

static void name_op(fuse_req_t req, fuse_ino_t parent, const char *name, bool make)
{
	struct ctl *c = ctl_of(req);
	struct snap_error err = { 0 };
	char file[160];
	struct ctl_where w;
	struct ctl_op *op;
	bool again;
	int r;

	if (parent != INO_SNAPSHOTS) {
		fuse_reply_err(req, ctl_refuse(c, name, -EPERM,
					   "directories are made and removed in snapshots/ only"));
		return;
	}
	op = ctl_op_begin(c, &again);
	if (!op) {
		fuse_reply_err(req, EAGAIN);
		return;
	}
	r = again && op->stage == CTL_DONE ? op->result : carry_out(c, name, make, &err);
	if (again && r == (make ? -EEXIST : -ENOENT))
		r = 0; /* a dead daemon has done it */
	(void)ctl_op_done(op, r);
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
	ctl_op_end(op);
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
	fuse_reply_err(req, ctl_refuse(ctl_of(req), name, -EPERM,
				   "control files cannot be removed; rmdir snapshots/NAME deletes a set"));
}

static void c_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
		     struct fuse_file_info *fi)
{
	fuse_reply_err(req, ctl_refuse(ctl_of(req), name, -EPERM, "no such control file, and none can be made"));
}

static void c_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
		     const char *newname, unsigned flags)
{
	fuse_reply_err(req, ctl_refuse(ctl_of(req), name, -EPERM,
				       "neither control files nor sets can be renamed; write to the file itself"));
}

static void c_symlink(fuse_req_t req, const char *link, fuse_ino_t parent, const char *name)
{
	c_create(req, parent, name, 0, NULL);
}

static void c_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	c_create(req, parent, name, mode, NULL);
}

void ctl_tree_ops(struct fuse_lowlevel_ops *ops)
{
	ops->lookup = c_lookup;
	ops->getattr = c_getattr;
	ops->setattr = c_setattr;
	ops->readlink = c_readlink;
	ops->opendir = c_opendir;
	ops->readdir = c_readdir;
	ops->releasedir = c_releasedir;
	ops->mkdir = c_mkdir;
	ops->rmdir = c_rmdir;
	ops->unlink = c_unlink;
	ops->create = c_create;
	ops->rename = c_rename;
	ops->symlink = c_symlink;
	ops->mknod = c_mknod;
}
