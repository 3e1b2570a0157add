/* base/door.h - the one door between fs/ (mount, gate) and snapshot/ (decisions).
 * fs/ offers `struct door`; snapshot/ offers `struct engine`. Neither room includes a header of
 * the other. Times are CLOCK_BOOTTIME nanoseconds (base/clock.h) unless a name says otherwise.
 * Results are 0 or -errno; on failure *err holds the operator's sentence. */
#ifndef STILLFS_BASE_DOOR_H
#define STILLFS_BASE_DOOR_H

#include "base/conf.h"
#include "base/error.h"
#include "base/vbuf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define DOOR_MAX_PAIRS 8
#define DOOR_NAME_MAX 64 /* longest set name or class, without the NUL */

/* One BACKING/MOUNTPOINT pair. Strings and descriptor are borrowed, valid while the engine lives. */
struct door_pair {
	const char *backing; /* absolute, no symlinks */
	const char *mountpoint; /* absolute; the same as backing for an over-mount */
	int backing_fd; /* O_RDONLY|O_DIRECTORY, opened before a mount could cover it */
	uint64_t backing_dev; /* st_dev of the backing */
	uint64_t mount_dev; /* st_dev that stat shows below the mountpoint */
};

/* A closed gate, as its closer knows it. */
struct gate_ticket {
	uint64_t gen; /* which closing */
	uint64_t closed_ns; /* when the last write in flight had ended (drained) */
	uint64_t deadline_ns; /* when the gate opens on its own */
};

/* What fs/ does for the engine. Every pointer is set. Called from engine threads only. */
struct door_ops {
	/* Stop admitting modifying operations; return when none is in flight.
	 * drain_ms: 1..60000, how long to wait for operations in flight; hold_ms: 1..50000, counted
	 * from the call; after it the gate opens on its own. abort_flag: nonzero ends the wait; NULL: none. t: only on 0.
	 * -EINVAL range; -EBUSY already closed; -ETIMEDOUT not drained, -ECANCELED *abort_flag: the gate is open again. */
	int (*gate_close)(void *fs, uint32_t drain_ms, uint32_t hold_ms, const _Atomic int *abort_flag, struct gate_ticket *t);
	/* Milliseconds until the deadline of this closing; 0 if it is open again. Never blocks. */
	uint32_t (*gate_left_ms)(void *fs, const struct gate_ticket *t);
	/* Open. Idempotent. 0: this call opened it in time; -ETIMEDOUT: it had opened before (deadline, or an operator's
	 * `open`), so what was done meanwhile is not a point in time. Never blocks. */
	int (*gate_open)(void *fs, const struct gate_ticket *t);
	/* FIFREEZE every backing filesystem through the keeper, which thaws at max_ms by itself.
	 * Only with the gate closed. -EBUSY somebody else's freeze; -ETIMEDOUT. Blocks up to max_ms. */
	int (*freeze)(void *fs, uint32_t max_ms, struct snap_error *err);
	/* Thaw what freeze froze; 0 if nothing is frozen; -ETIMEDOUT: the keeper had thawed before. */
	int (*thaw)(void *fs, struct snap_error *err);
	/* Append one event: `type` is a word, `members` JSON members without braces or "". */
	void (*event)(void *fs, const char *type, const char *members);
	/* Record a failure nobody waits for in last_error, as a failure of control file `file`. */
	void (*report)(void *fs, const char *file, const struct snap_error *err);
	/* on: from now on whatever would change a backing gets EROFS, until off; 0 when it is so already. Not while a process has a
	 * file of one open: -EBUSY names it. -ETIMEDOUT, -EINVAL no mount. Blocks for a look through /proc and up to 4 s. */
	int (*seal)(void *fs, bool on, struct snap_error *err);
	uint64_t (*refused)(void *fs, char *who, size_t cap); /* operations since then; who: one of them since the last call, or "" */
};

struct door {
	const struct door_ops *ops;
	void *fs; /* first argument of every op */
	const char *name; /* of this stillfs */
	const struct conf *conf; /* effective, immutable */
	unsigned n_pairs;
	struct door_pair pairs[DOOR_MAX_PAIRS];
};

/* ---- what snapshot/ offers: defined in snapshot/engine.c and snapshot/files_*.c ---- */

struct engine;

/* The whole life of a process that verifies a set, as `stillfs --verify-set` (snapshot/verify/). The exit code. */
int engine_helper(void);
/* Has an earlier process sealed the backings? 1, 0; -errno: state_dir cannot be read. Before anything is mounted. */
int engine_sealed(const struct conf *c, struct snap_error *err);

/* Called exactly once, on an engine thread or before the call that registered it returns.
 * result: 0 or -errno, err the sentence (NULL on 0). Must not block or call the engine. */
typedef void (*engine_done)(void *arg, int result, const struct snap_error *err);

/* Load the catalog (state_dir), build provider and coordinators, check the configuration.
 * *d is copied; its strings are borrowed. Does file I/O. NULL on failure with *err. */
struct engine *engine_new(const struct door *d, struct snap_error *err);
/* Start the threads. After it the calls below may come from any thread. */
int engine_start(struct engine *e, struct snap_error *err);
/* Abort what runs, release what is held, answer every waiter with -ESHUTDOWN, end the threads. A set whose point is
 * fixed stays pending; the next engine_start takes it up, as it does after a crash.
 * Returns within max_ms and a moment. -ETIMEDOUT: a call or a thread is stuck; may be called again, or the process exits. */
int engine_stop(struct engine *e, uint32_t max_ms);
void engine_free(struct engine *e); /* after engine_stop returned 0, or never started */

/* A write to `snapshot`. Parses, then queues; -EINVAL/-EEXIST/-EBUSY at once, without `cb`. On 0
 * `cb` comes when the consistency point is fixed or the set failed (at once with `nowait`), and
 * *id names the request for engine_cancel until then. Never blocks. */
int engine_snapshot(struct engine *e, const char *text, size_t len, engine_done cb, void *arg, uint64_t *id, struct snap_error *err);
/* A read of snapshots/NAME/wait: cb when the point is fixed or the set has failed (0 / -errno of the
 * set). -ENOENT at once, without cb. Never blocks. */
int engine_wait(struct engine *e, const char *set, engine_done cb, void *arg, uint64_t *id, struct snap_error *err);
/* The waiter was interrupted (Ctrl-C): cb gets -EINTR, now. Before the trigger a snapshot whose own
 * writer this is, is aborted; after it the run goes on. Unknown ids are ignored. Never blocks. */
void engine_cancel(struct engine *e, uint64_t id);
/* As engine_cancel, but the writer may ask again: cb comes when the run has ended. -EINTR, or 0: it was too late. */
void engine_interrupt(struct engine *e, uint64_t id);
/* mkdir snapshots/NAME: queue one, return at once. -EBUSY one is running; -EINVAL; -EEXIST. */
int engine_mkdir(struct engine *e, const char *set, struct snap_error *err);
/* A write to `abort`: unwinds the running snapshot within 1 s; when none is before its point, fails those being
 * completed. -ENOENT: neither. Never blocks. */
int engine_abort(struct engine *e, struct snap_error *err);
/* The first thing at shutdown: unwinds the running snapshot within 1 s; sets whose point is fixed stay pending. Never blocks. */
void engine_unwind(struct engine *e);
/* rmdir snapshots/NAME: gone from the tree at once, its data in the background. -ENOENT; -EBUSY pinned, running, the newest complete. */
int engine_rmdir(struct engine *e, const char *set, struct snap_error *err);

/* One set as the control tree shows it. Strings are copies inside. */
struct set_view {
	char name[DOOR_NAME_MAX + 1];
	uint64_t ino; /* stable over the set's life, < 2^40, unique */
	struct timespec created; /* UTC */
	bool has_data; /* snapshots/NAME/data exists */
	char data[1024]; /* where it points */
};
/* Sets in order of creation, without their data; returns how many were passed to fn. fn (NULL: only count)
 * returns nonzero to stop. */
size_t engine_each_set(struct engine *e, int (*fn)(void *arg, const struct set_view *v), void *arg);
int engine_get_set(struct engine *e, const char *set, struct set_view *v); /* 0, -ENOENT */
int engine_get_ino(struct engine *e, uint64_t ino, struct set_view *v); /* the same by its number */

/* One virtual file. render: fills out whole, no side effects, may run on any control thread,
 * -ENOENT when the set is gone. write: one whole command of `len` bytes, returns at once.
 * `set` is NULL for the files of the root. */
struct engine_file {
	const char *name;
	int (*render)(struct engine *e, const char *set, struct vbuf *out); /* NULL: not readable */
	int (*write)(struct engine *e, const char *set, const char *text, size_t len, struct snap_error *err); /* NULL: not writable */
};
/* Ended by an entry without a name. Root: abort list list.json snapshot (whose write is NULL here:
 * the control tree calls engine_snapshot). Set: id state progress created ... log; `wait` and
 * `data` are the control tree's own. */
extern const struct engine_file engine_root_files[];
extern const struct engine_file engine_set_files[];
bool engine_idle(struct engine *e); /* no snapshot is on its way to its point, and doctor does not look */
/* The engine's lines of `status` (state, db, provider, last_snapshot, sets ...), "key value\n". */
void engine_status(struct engine *e, struct vbuf *out);
void engine_metrics(struct engine *e, struct vbuf *out); /* its part of `metrics` */

#endif
