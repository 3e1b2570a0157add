/* fs/ctl_int.h - what the files of the control tree share: ctl.c (session, events,
 * last_error), ctl_tree.c (nodes, directories), ctl_open.c (open files), ctl_files.c (the table, renderers, parsers),
 * ctl_wait.c (requests that wait). Private to them. */
#ifndef STILLFS_FS_CTL_INT_H
#define STILLFS_FS_CTL_INT_H

#define FUSE_USE_VERSION 314
#include <fuse3/fuse_lowlevel.h>

#include "fs/ctl.h"
#include "fs/ctl_handle.h"
#include "fs/events.h"

#include <pthread.h>
#include <stdatomic.h>

/* Node ids are computed, so nothing is counted and nothing forgotten. */
#define INO_ROOT 1u
#define INO_FILE 2u /* + index in the root's table */
#define INO_SNAPSHOTS 200u
#define INO_SET(set_ino) ((uint64_t)(set_ino) << 8) /* the directory; + 1 + index: its files */

#define CTL_MAX_FILES 64u
#define CTL_WRITE_MAX 8192u /* longest command */
#define CTL_SLOTS 1024u
#define CTL_FIXED "fixed\n" /* what `wait` says */
#define CTL_THREADS 6u

enum file_kind {
	FILE_PLAIN, /* rendered at open, one command a write */
	FILE_SNAPSHOT, /* a write waits for the consistency point */
	FILE_WAIT, /* a read waits for it */
	FILE_EVENTS, /* a stream */
	FILE_DATA, /* a symlink */
};

struct cfile {
	const char *name;
	enum file_kind kind;
	mode_t mode; /* of root's: group bits come with control_gid */
	/* one of the two, the control tree's own or the engine's */
	int (*render)(struct ctl *c, struct vbuf *out);
	int (*write)(struct ctl *c, const char *text, size_t len, struct snap_error *err);
	const struct engine_file *ef;
};

/* A request that is answered later. Slots are never freed, because libfuse may call an interrupt
 * function just after the request was answered. */
struct slot {
	fuse_req_t req; /* NULL: free */
	struct ctl *c;
	struct ctl_op *op; /* snapshot */
	uint64_t id; /* the engine's, 0: not known yet */
	uint64_t look_ns; /* snapshot: when to look again what an interrupted caller is about to do */
	uint32_t pid; /* snapshot: the caller's thread */
	uint64_t off; /* events */
	_Atomic uint64_t *seen; /* events: the open file's */
	size_t size; /* of the read, or written */
	enum file_kind kind;
	bool interrupted;
	bool asked; /* snapshot: the engine knows that somebody wants its caller to end */
};

struct ctl {
	struct ctl_deps d;
	struct ctl_shared *shared;
	void *obj[CTL_HANDLES]; /* of each handle; NULL: not rendered in this daemon. Under lock */
	bool replaying; /* INIT of an earlier daemon: the reply goes nowhere */
	struct engine *engine;
	struct events *events;
	struct fuse_session *se;
	bool mounted, made_dir;
	pthread_t thread[CTL_THREADS], helper;
	unsigned n_threads;
	bool helper_runs;
	gid_t gid;
	uint64_t start_ns;
	struct timespec start_utc;
	struct cfile root[CTL_MAX_FILES], set[CTL_MAX_FILES];
	unsigned n_root, n_set;
	pthread_mutex_t turn; /* an upgrade is asked for, or the engine for what an upgrade must not meet: one at a time */
	pthread_mutex_t lock;
	/* under lock: */
	struct slot slots[CTL_SLOTS];
	pthread_cond_t work; /* for the helper: interrupts, poll notifications */
	bool cancel_due, poll_due, stopping;
	struct fuse_pollhandle *poll[16];
	unsigned n_poll;
	struct {
		struct timespec when;
		char file[64];
		struct snap_error err;
	} last;
};

/* What a node id means. */
struct ctl_where {
	const struct cfile *f; /* NULL: a directory */
	struct set_view set; /* name "" in the root */
	uint64_t ino;
};

static inline struct ctl *ctl_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

/* ctl.c: leave last_error and an event. Returns the errno (> 0) to answer with. */
int ctl_refuse(struct ctl *c, const char *file, int code, const char *what);

/* ctl_tree.c, ctl_open.c: put their handlers into the table. */
void ctl_tree_ops(struct fuse_lowlevel_ops *ops);
void ctl_open_ops(struct fuse_lowlevel_ops *ops);
bool ctl_tree_find(struct ctl *c, fuse_ino_t ino, struct ctl_where *w); /* what node `ino` is; false: gone */

/* ctl_files.c */
int ctl_render_metrics(struct ctl *c, struct vbuf *out); /* metrics.c */
int ctl_files_init(struct ctl *c, struct snap_error *err); /* builds root and set tables */
const struct cfile *ctl_find(const struct cfile *t, unsigned n, const char *name, unsigned *index);

/* ctl_upgrade.c */
int ctl_upgrade_render(struct ctl *c, struct vbuf *out);
int ctl_upgrade_write(struct ctl *c, const char *text, size_t len, struct snap_error *err);
int ctl_upgrade_refuse(struct ctl *c, const char *what, struct snap_error *err); /* 0, -EBUSY: one is under way. With c->turn, or not exact */

/* ctl_wait.c */
void ctl_wait_snapshot(struct ctl *c, fuse_req_t req, const char *text, size_t len, struct ctl_op *op,
		       bool again);
void ctl_wait_set(struct ctl *c, fuse_req_t req, const char *set, size_t size);
void ctl_wait_events(struct ctl *c, fuse_req_t req, uint64_t off, size_t size, bool nonblock,
		     _Atomic uint64_t *seen);
void ctl_events_poll(struct ctl *c, struct fuse_pollhandle *ph);
void ctl_events_wake(struct ctl *c); /* after an event */
int ctl_helper_start(struct ctl *c);
void ctl_helper_stop(struct ctl *c); /* answers every waiter with ESHUTDOWN */

#endif
