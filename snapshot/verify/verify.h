/* snapshot/verify/verify.h - verification of sets, one after the other, each by a process of its own (helper.c).
 * Owns:     one thread, the process while it lives. Part of the engine; private to it.
 * Threads:  ask, cancel and render from any; the engine's lock is not held by the caller unless said.
 * Blocks:   only stop. */
#ifndef STILLFS_SNAPSHOT_VERIFY_H
#define STILLFS_SNAPSHOT_VERIFY_H

#include "snapshot/engine_int.h"

struct verify;

int verify_start(struct engine *e, struct snap_error *err);
/* End the running one: the set stays as it was. False: its thread has not ended by then (CLOCK_BOOTTIME), and is left. */
bool verify_stop(struct engine *e, uint64_t deadline_ns);
/* Queue a set. -ENOENT; -EBUSY: it is queued or running; -EOPNOTSUPP: not with this provider; -EAGAIN: not complete. */
int verify_ask(struct engine *e, const char *set, struct snap_error *err);
/* A set is complete: queue it when auto_verify=yes and it was not taken by hand. */
void verify_completed(struct engine *e, struct set *s);
int verify_render_set(struct engine *e, const char *set, struct vbuf *out); /* `verified` */
int verify_render_log(struct engine *e, const char *set, struct vbuf *out); /* `verify.log` */
int verify_render(struct engine *e, const char *set, struct vbuf *out); /* `verify` */
/* "NAME" | "cancel [NAME]" */
int verify_write(struct engine *e, const char *set, const char *text, size_t len, struct snap_error *err);

#endif
