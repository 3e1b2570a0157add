/* fs/core.h - the data side of a daemon: mounts, transport, gate, nodes. Used by main.c and ctl.c.
 * Threads: core_* from the main thread unless said; gate functions from any. */
#ifndef STILLFS_FS_CORE_H
#define STILLFS_FS_CORE_H

#include "base/door.h"
#include "fs/gate.h"
#include "fs/shm.h"

struct core;
struct tables;

/* Check the backings, make the gate. again: over the tables of a dead daemon, after recover.h. pairs' backing_fd are open; mount_dev is filled by
 * core_mount. conf, shm, pairs are borrowed for the core's life. */
struct core *core_new(const struct conf *conf, const struct tables *tab, struct door_pair *pairs,
		      unsigned n_pairs, bool again, struct snap_error *err);
/* No operation changes a backing, as an earlier process left it. Before core_mount. */
void core_seal(struct core *c);
/* A take-over only. held: what recover_descriptors left open (taken over). */
void core_inherit_held(struct core *c, int *held, size_t n);
/* Open the gate if a dead daemon's snapshot closed it: its set is recorded as failed by now. */
void core_end_engines_hold(struct core *c);
/* mount(2) every pair (again: go on with its connection) and start serving: on return stat(MOUNTPOINT) works. Every
 * /dev/fuse descriptor is in shm->mnt and shm->lane_fd. On failure nothing stays mounted. */
int core_mount(struct core *c, struct snap_error *err);
/* Open the gate (and keep it open), then umount each mount without force. 0: all are gone and the
 * threads have ended; -EBUSY: somebody uses one, it goes on serving (all of them do). */
int core_umount(struct core *c, struct snap_error *err);
void core_free(struct core *c); /* after core_umount returned 0, or core_mount failed */
/* True once every mount's connection has ended by itself (umount from outside). Also wakes
 * core_wait_end. */
bool core_ended(struct core *c);
int core_end_fd(struct core *c); /* eventfd, readable when core_ended turned true; borrowed */
/* The gate, freeze and forget_name, as the engine sees them. event and report are left NULL for
 * the caller (main.c joins them with ctl's). */
void core_door_ops(struct core *c, struct door_ops *ops, void **fs);
/* "key value\n" lines for status: gate parked inflight transport takeover fd counts ... */
void core_status(struct core *c, struct vbuf *out);
/* The data side's histograms and bytes for `metrics`, labelled with name. */
void core_metrics(struct core *c, const char *name, struct vbuf *out);
void core_gate_status(struct core *c, struct gate_status *out);
/* The operator's own gate commands (control file `gate`). -EBUSY a snapshot holds it. Close blocks
 * up to drain_timeout. */
int core_gate_close(struct core *c, uint32_t hold_ms, struct snap_error *err);
int core_gate_open(struct core *c, struct snap_error *err);

#endif
