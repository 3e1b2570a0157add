/* snapshot/coordinator.h - the contract of what locks a database: mysql, none, later mongodb.
 * Threads:  every call comes from the engine's one database thread, except sever (any thread).
 * Deadline: every call takes max_ms, counted from the call, and returns by then; a call that could
 *           outlive it is ended by sever. Timeouts of the client library are set accordingly.
 * Safety:   the server itself ends the lock when we fall silent (session wait_timeout), so a lock never
 *           outlives lock_ms given to lock() by more than a second, even if this host stops.
 *           Never reconnects by itself; nothing of ours enters the binlog. */
#ifndef STILLFS_SNAPSHOT_COORDINATOR_H
#define STILLFS_SNAPSHOT_COORDINATOR_H

#include "base/door.h"

struct coord_ops {
	const char *name;
	/* required */
	void *(*open)(const struct door *d, struct snap_error *err); /* no I/O but config; NULL on failure */
	void (*close)(void *c); /* drops the connection (which ends any lock) and frees */
	/* Gate open, nothing held: connect (or ping the kept connection), warm every statement, check
	 * privileges, statements that would block the lock, and that each path the server writes is on
	 * our mounts. -EACCES privileges, -EXDEV paths elsewhere (all are listed), -EAGAIN blockers,
	 * -ECONNREFUSED/-ETIMEDOUT server. */
	int (*preflight)(void *c, uint32_t max_ms, struct snap_error *err);
	/* Take the lock. lock_ms: how long it may be held at the most; the server is told.
	 * -EAGAIN not got in time (nothing is held then). */
	int (*lock)(void *c, uint32_t max_ms, uint32_t lock_ms, struct snap_error *err);
	/* Under the lock: engine log flush where needed, then the position as "key value\n" lines
	 * (binlog_file, binlog_pos, gtid_binlog_pos, gtid_current_pos, gtid_slave_pos, server_uuid or server_id,
	 * server_version, lock_method, ...). When commits are not blocked from its reading on, the
	 * line "position unknown until verified" instead. */
	int (*position)(void *c, uint32_t max_ms, struct vbuf *out, struct snap_error *err);
	/* Release. 0; -ENOLCK: the lock was not ours any more (the set must fail). Idempotent: 0 when
	 * nothing is held. */
	int (*unlock)(void *c, uint32_t max_ms, struct snap_error *err);
	/* Any thread: make a call in progress return soon with -ECONNABORTED, and the server end the
	 * lock, by shutting the socket down. The connection is used no more; preflight makes another. */
	void (*sever)(void *c);
	/* "key value\n" lines for `status`; no I/O. */
	void (*status)(void *c, struct vbuf *out);
};

/* By name ("none", "mysql"), NULL when unknown. snapshot/coordinators.c */
const struct coord_ops *coordinator_find(const char *name);

#endif
