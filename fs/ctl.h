/* fs/ctl.h - the control tree at /run/stillfs/NAME: a libfuse session of its own, so that it answers
 * while the gate is closed. Renders files at open, parses one command a write, keeps last_error and
 * the event stream. Threads: its own; ctl_event and ctl_report from any. */
#ifndef STILLFS_FS_CTL_H
#define STILLFS_FS_CTL_H

#include "base/door.h"
#include "fs/core.h"
#include "fs/shm.h"

struct ctl;
struct tables;

struct ctl_deps {
	const char *name;
	const char *control_dir;
	const struct conf *conf;
	const struct tables *tables;
	bool again; /* an earlier daemon has died: go on with its session */
	struct shm_head *shm;
	struct core *core;
	const struct door_pair *pairs;
	unsigned n_pairs;
};

/* Events work from here on (engine_new may already emit). */
struct ctl *ctl_new(const struct ctl_deps *d, struct snap_error *err);
/* Mount control_dir (made if missing) and serve. engine: borrowed until ctl_stop. Its /dev/fuse descriptor
 * is in shm->ctl. */
int ctl_start(struct ctl *c, struct engine *engine, struct snap_error *err);
/* Unmount the control tree and end its threads; waiting readers get ESHUTDOWN. */
void ctl_stop(struct ctl *c);
void ctl_free(struct ctl *c);
/* Append an event: adds "seq", "time", "name", "type". members: JSON members or "". Any thread. */
void ctl_event(struct ctl *c, const char *type, const char *members);
/* Record last_error and an event "error". Any thread. */
void ctl_report(struct ctl *c, const char *file, const struct snap_error *err);

#endif
