/* fs/shm.h - what keeper and daemon share: one memfd mapping, made by the keeper before the daemon
 * starts, so that it outlives the daemon. Only lock-free atomics; no pointers; a reader must cope
 * with a writer that died between any two stores.
 * Times: CLOCK_BOOTTIME nanoseconds. */
#ifndef STILLFS_FS_SHM_H
#define STILLFS_FS_SHM_H

#include "base/door.h"

#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SHM_MAGIC 0x73746c66u
#define SHM_VERSION 3u /* of the head and of every table (tables.h) */
#define SHM_MAX_DEV_FDS 80 /* /dev/fuse descriptors incl. clones and the control session's */

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
	unsigned char init[256]; /* the kernel's INIT, raw */
};

/* Whose closing of the gate: a successor keeps an operator's, and opens an engine's. */
enum shm_gate_by { SHM_GATE_ENGINE = 0, SHM_GATE_OPERATOR = 1 };

struct shm_head {
	uint32_t magic, version;
	_Atomic int32_t keeper_pid, daemon_pid;
	_Atomic uint32_t ready; /* enum shm_ready */
	_Atomic uint32_t restarts;
	_Atomic uint64_t heartbeat_ns; /* gate timer thread, at least every 100 ms; 0: not started */
	_Atomic uint32_t gate_state; /* enum gate_state of fs/gate.h, for status and the keeper */
	_Atomic uint64_t gate_deadline_ns;
	_Atomic uint64_t gate_gen;
	_Atomic uint32_t gate_by; /* enum shm_gate_by */
	struct shm_freeze freeze;
	_Atomic int32_t dev_fds[SHM_MAX_DEV_FDS]; /* shared descriptor table: numbers valid in both; 0: none */
	_Atomic uint32_t n_dev_fds;
	uint64_t base_fds[16]; /* bits: what was open before the first daemon */
	struct shm_mnt mnt[DOOR_MAX_PAIRS];
	struct shm_mnt ctl; /* the control tree's session */
	_Atomic uint32_t n_lanes;
	_Atomic int32_t lane_fd[SHM_MAX_LANES][DOOR_MAX_PAIRS]; /* clones */
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
