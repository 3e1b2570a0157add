/* fs/shm.h - what keeper and daemon share: one memfd mapping, made by the keeper before the daemon
 * starts, so that it outlives the daemon. Only lock-free atomics; no pointers; a reader must cope
 * with a writer that died between any two stores.
 * Times: CLOCK_BOOTTIME nanoseconds. */
#ifndef STILLFS_FS_SHM_H
#define STILLFS_FS_SHM_H

#include "base/clock.h"
#include "base/door.h"

#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SHM_MAGIC 0x73746c66u
/* Of the head, of every table (tables.h), of the control tree's numbering (ctl_int.h, the order of its files) and of
 * what is agreed with the kernel: a binary with another version cannot take over. */
#define SHM_VERSION 5u
/* Of the names of the control tree's files, in their order: a test compares it. Who changes it raises SHM_VERSION. */
#define SHM_CONTROL_ORDER 0x5639acfdu

#define SHM_MAX_LANES 64u
#define SHM_MAX_RINGS 512u

/* May a new daemon take over? Set by the first one, before it serves. */
enum shm_takeover { SHM_TAKEOVER_UNKNOWN, SHM_TAKEOVER_YES, SHM_TAKEOVER_KERNEL, SHM_TAKEOVER_OPTION };

enum shm_ready { SHM_STARTING = 0, SHM_SERVING = 1, SHM_FAILED = 2, SHM_STOPPED = 3 };

/* A freeze, asked for by the daemon and carried out by the keeper (keeper.c).
 * The daemon writes deadline_ns, then increments want; the keeper answers by storing result, then
 * done = want. want odd: freeze; even: thaw. Initially both 0: thawed. */
struct shm_freeze {
	_Atomic uint32_t want;
	_Atomic uint32_t done;
	_Atomic uint64_t deadline_ns; /* the keeper thaws then, whoever lives */
	_Atomic int32_t result; /* of the last done: 0 or -errno; -ETIMEDOUT on a thaw: was thawed before */
	_Atomic uint32_t state; /* bit i: backing i is frozen by us (for status) */
	_Atomic int64_t sysfail; /* index of the pair that result speaks of */
};

/* A connection, as a successor needs it: written before the first request is served. */
struct shm_mnt {
	_Atomic int32_t dev_fd; /* the first /dev/fuse descriptor; 0: none */
	_Atomic uint32_t init_len;
	_Atomic uint64_t mount_dev;
	_Atomic uint64_t mount_id; /* statdev_mount's; 0: not mounted yet */
	unsigned char init[256]; /* the kernel's INIT, raw */
	unsigned char answer[128]; /* ours to it: a successor's is the same, or it cannot take over */
};

/* What keeper and tables map, to be mapped again by another binary. */
enum shm_map { SHM_MAP_HEAD, SHM_MAP_NODES, SHM_MAP_FILES, SHM_MAP_JOURNAL, SHM_MAP_FDS, SHM_MAP_HASH, SHM_MAP_OPS,
	       SHM_MAP_REQUESTS, SHM_MAP_EVENTS, SHM_MAP_CONTROL, SHM_MAPS };

enum shm_upgrade_state { SHM_UPGRADE_NONE, SHM_UPGRADE_WANTED, SHM_UPGRADE_CHECKING, SHM_UPGRADE_RUNNING,
			 SHM_UPGRADE_DONE, SHM_UPGRADE_FAILED };

/* See upgrade.h. */
struct shm_upgrade {
	_Atomic uint32_t state; /* enum shm_upgrade_state */
	uint32_t conf_too_long, n_pairs;
	int32_t exe_fd, log_fd; /* of the binary that serves; of the log */
	struct {
		char backing[4096], mountpoint[4096];
		int32_t backing_fd;
		uint64_t backing_dev;
	} pair[DOOR_MAX_PAIRS];
	char binary[4096]; /* path that the first keeper was started from */
	char from[64], to[64], when[CLOCK_ISO_MAX], msg[SNAP_ERROR_MAX];
	char conf[32768]; /* "key value" lines: what was set */
};

/* Whose closing of the gate: a successor keeps an operator's, and opens an engine's. */
enum shm_gate_by { SHM_GATE_ENGINE = 0, SHM_GATE_OPERATOR = 1 };

struct shm_head {
	uint32_t magic, version;
	_Atomic int32_t keeper_pid, daemon_pid;
	_Atomic int32_t serving_pid; /* the daemon, once it serves */
	int32_t map_fd[SHM_MAPS];
	_Atomic uint32_t ready; /* enum shm_ready */
	_Atomic uint32_t restarts;
	_Atomic uint64_t heartbeat_ns; /* gate timer thread, at least every 100 ms; 0: not started */
	_Atomic uint32_t gate_state; /* enum gate_state of fs/gate.h, for status and the keeper */
	_Atomic uint64_t gate_deadline_ns;
	_Atomic uint64_t gate_gen;
	_Atomic uint32_t gate_by; /* enum shm_gate_by */
	struct shm_freeze freeze;
	uint64_t base_fds[16]; /* bits: what was open before the first daemon */
	struct shm_mnt mnt[DOOR_MAX_PAIRS];
	struct shm_mnt ctl; /* the control tree's session */
	_Atomic uint32_t n_lanes;
	_Atomic int32_t lane_fd[SHM_MAX_LANES][DOOR_MAX_PAIRS]; /* clones, or the first one; 0: none */
	/* Read ends of pipes whose write end an io_uring holds as a registered file: they hang up when the
	 * ring is gone, with all that it had in flight. 0: none */
	_Atomic int32_t ring_pipe[SHM_MAX_RINGS];
	_Atomic uint32_t takeover; /* enum shm_takeover */
	_Atomic uint32_t ending; /* the mounts are being taken away: a death is no take-over any more */
	/* why a start failed: daemon -> keeper -> the command line. Written before ready = SHM_FAILED */
	_Atomic uint32_t daemon_gone; /* the keeper's: the daemon was seen dead or silent */
	int32_t fail_code;
	char fail_msg[SNAP_ERROR_MAX];
	char last_death[256]; /* written by the keeper */
	struct shm_upgrade upgrade;
};

/* Sleep while *word == seen, ms at the most. Across processes, so not a private futex. */
static inline void shm_wait(_Atomic uint32_t *word, uint32_t seen, uint32_t ms)
{
	struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };

	(void)syscall(SYS_futex, word, FUTEX_WAIT, seen, &t, NULL, 0);
}

static inline void shm_wake(_Atomic uint32_t *word)
{
	(void)syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

#endif
