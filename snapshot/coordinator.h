/* snapshot/coordinator.h - the contract of what locks a database: mysql, mongodb, none, the hooks,
 * and the group of several of them (coord_group.c).
 * Threads:  every call comes from the engine's one database thread, except sever (any thread).
 * Deadline: every call takes max_ms, counted from the call, and returns by then; a call that could
 *           outlive it is ended by sever. Timeouts of the client library are set accordingly.
 * Safety:   the server itself ends the lock when we fall silent (session wait_timeout), so a lock never
 *           outlives lock_ms given to lock() by more than a second, even if this host stops.
 *           Never reconnects by itself; nothing of ours enters the binlog. */
#ifndef STILLFS_SNAPSHOT_COORDINATOR_H
#define STILLFS_SNAPSHOT_COORDINATOR_H

#include "base/door.h"

/* What lock() may spend, besides db.lock_timeout, on tries that it gives up soon (db.lock_patience). */
#define COORD_TRIES_MS 2000u

/* How the last lock() went. */
struct coord_lock {
	uint64_t began_ns; /* CLOCK_BOOTTIME: when it began to make others wait, in the try that succeeded */
	unsigned given_up; /* tries that made others wait and were given up before it */
	uint64_t longest_ns; /* the longest of these, from the statement that made others wait until all was released again */
};

struct coord_ops {
	const char *name;
	/* required */
	void *(*open)(const struct door *d, struct snap_error *err); /* no I/O but config; NULL on failure */
	void (*close)(void *c); /* drops the connection (which ends any lock) and frees */
	/* Gate open, nothing held: connect (or ping the kept connection), warm every statement, check
	 * privileges, and that each path the server writes is on our mounts. -EACCES privileges, -EXDEV
	 * paths elsewhere (all are listed), -ECONNREFUSED/-ETIMEDOUT server. */
	int (*preflight)(void *c, uint32_t max_ms, struct snap_error *err);
	/* Take the lock. lock_ms: how long it may be held at the most; the server is told. What max_ms leaves above
	 * db.lock_timeout may go into short tries, between which nothing is held.
	 * -EAGAIN not got in time (nothing is held then). */
	int (*lock)(void *c, uint32_t max_ms, uint32_t lock_ms, struct snap_error *err);
	/* optional: of the last lock(), also of one that failed. What it did before others had to wait, to be ready, is no
	 * part of it. Database thread, or after lock() has returned. Without it: began when lock() was called. */
	void (*lock_told)(void *c, struct coord_lock *out);
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
	/* optional */
	/* The last step before the lock, gate open: wait for what would block the lock, and whatever must
	 * be changed for the set's sake (an applier stopped, hook.pre). A change is in the journal
	 * (journal.h) before it is made. set: its name, valid until finish. Ends at sever, and by its own
	 * limits. -EAGAIN blockers. */
	int (*prepare)(void *c, const char *set, uint32_t max_ms, struct snap_error *err);
	/* After each prepare, also one that failed: gate open, nothing locked. Undo what prepare changed.
	 * result: 0, or -errno of the run. A failure is reported, and recover tries again. */
	int (*finish)(void *c, int result, uint32_t max_ms, struct snap_error *err);
	/* Undo what the journal says is still changed, by an earlier process or after a failed finish.
	 * Not between prepare and finish. 0: nothing is left; else it is called again, a minute later. */
	int (*recover)(void *c, uint32_t max_ms, struct snap_error *err);
	/* Every finding of preflight, one line each: "ok WHAT", "bad WHAT: what to do". Returns how many
	 * are bad, or -errno when it cannot be known. For stillctl doctor, on a coordinator of its own. */
	int (*examine)(void *c, uint32_t max_ms, struct vbuf *out, struct snap_error *err);
	/* optional: how to start such a server on a clone, as the last preflight read it: "server KIND",
	 * "server_version V", "exe PATH", "option NAME VALUE" lines. Database thread; no I/O. */
	void (*layout)(void *c, struct vbuf *out);
	/* optional: the binary logs that the server has now, its own on a replica, too: "server_id N", "server_uuid U",
	 * "binlog FILE BYTES" lines. Connects when needed. Between two runs: gate open, nothing locked. */
	int (*logs)(void *c, uint32_t max_ms, struct vbuf *out, struct snap_error *err);
};

/* By name ("none", "mysql"), NULL when unknown. registry.c */
const struct coord_ops *coordinator_find(const char *name);

/* All that the configuration names: `db`, which may be a list with commas, and the hooks. coord_group.c
 * Locked in the order mongodb, mysql, and only then hook.locked runs; released in reverse. */
extern const struct coord_ops coord_group;

#endif
