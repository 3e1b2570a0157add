/* snapshot/fence/fence_int.h - shared by the files of the fence. Private to them. */
#ifndef STILLFS_SNAPSHOT_FENCE_INT_H
#define STILLFS_SNAPSHOT_FENCE_INT_H

#include "snapshot/fence/fence.h"
#include "snapshot/mysql_int.h"

struct fence_run {
	struct my *m;
	const struct fence_opts *o;
	struct vbuf *record;
	uint64_t end_ns; /* CLOCK_BOOTTIME */
	bool saved; /* the record, once; before that nothing is changed */
	uint64_t limit; /* sessions up to this id could have begun something before the server was read-only */
	uint64_t *ended; /* ids, in the order in which they were ended; owned */
	size_t n_ended, cap_ended;
};

/* ---- fence.c ---- */
extern const char *const fence_mysql_vars[]; /* what is changed on MySQL, in the order in which it may be changed back */
bool fence_is_on(const char *value); /* of a variable, as the server shows it */
int fence_open_session(struct my *m, struct snap_error *err); /* connected, bounded, a server that can be fenced */
int fence_same_server(struct my *m, const char *record, struct snap_error *err); /* -EXDEV it is another's */

/* ---- fence_accounts.c ---- */
int fence_accounts(struct my *m, const char *allow, struct vbuf *found, struct snap_error *err);
int fence_privileges(struct my *m, struct snap_error *err); /* ours: -EACCES names what is missing */

/* ---- fence_xa.c ---- */
bool fence_xa_is_a_write(const struct my *m); /* this server refuses XA COMMIT while it is read-only */
/* The prepared ones, a line each, as XA COMMIT takes them. */
int fence_xa(struct my *m, struct vbuf *names, unsigned *n, struct snap_error *err);
/* *n: lines added to found, as any account could commit them. tell: those that may stay are told by o->note. */
int fence_xa_preflight(struct my *m, const struct fence_opts *o, bool tell, struct vbuf *found, unsigned *n, struct snap_error *err);
int fence_xa_left(struct my *m, const struct fence_opts *o, struct snap_error *err); /* no session is left. -EBUSY there are */

/* ---- fence_sessions.c ---- */
/* End what is not exempt and was there already, once. *left: how many are not gone yet; who: the first of them. */
int fence_sessions_once(struct fence_run *f, unsigned *left, char who[128], struct snap_error *err);
/* Until none is left, and no transaction of theirs. -ETIMEDOUT, -ECANCELED */
int fence_sessions_end(struct fence_run *f, struct snap_error *err);

/* ---- fence_include.c ---- */
int fence_include_path(const char *dir, char *path, size_t cap, struct snap_error *err); /* -EINVAL, -EEXIST somebody else's */
int fence_include_write(const char *path, bool scheduler_off, struct snap_error *err);
int fence_include_remove(const char *path, struct snap_error *err); /* 0 when it is gone already */
bool fence_include_there(const char *path);

#endif
