/* snapshot/verify/process.h - the verifying process, from the daemon's side: order.c (what it is told), process.c (its life),
 * clean.c (what it left), verify.c (queue and verdict). Thread `verify` alone. */
#ifndef STILLFS_SNAPSHOT_VERIFY_PROCESS_H
#define STILLFS_SNAPSHOT_VERIFY_PROCESS_H

#include "snapshot/engine_int.h"

#include <limits.h>

/* What the process said. */
struct verdict {
	struct vbuf line; /* what is read of the next line; process_follow's own, as this: */
	bool too_long; /* one was none of ours */
	char word[8], text[SNAP_ERROR_MAX];
	char left[SNAP_ERROR_MAX]; /* volumes that it could not remove; "" */
	struct vbuf position;
};

/* order.c: DIR for journals, logs and mountpoints of verifications on volumes: state_dir/verify. */
void order_dir(const struct engine *e, char dir[PATH_MAX]);
int order_make(struct engine *e, const struct set *s, struct vbuf *out); /* the engine's lock is held; -errno */
int order_clean(const struct engine *e, const char *id, struct vbuf *out);

/* process.c. remote: it has the daemon's environment, for keys, and ends by SIGTERM, so that it can remove what it made; the
 * others are killed. *from: what it says. */
pid_t process_spawn(const struct vbuf *order, bool remote, int *from, struct snap_error *err);
/* Until its end, or until stillfs stops; at the deadline (CLOCK_BOOTTIME) or a cancel it is ended. 0; -ECANCELED,
 * -ETIMEDOUT, -ESHUTDOWN; -EMSGSIZE, -ENOMEM when some of what it said is not in *v. Blocks. */
int process_follow(struct engine *e, pid_t pid, int fd, uint64_t deadline, bool remote, struct verdict *v, struct snap_error *err);

/* clean.c: what dead verifications left. */
struct vspec;
bool clean_find_place(struct engine *e, const struct set *s, struct vspec *v); /* lock held. False: no data of it are here */
void clean_set(struct engine *e, const struct vspec *place); /* on the disk */
void clean_all(struct engine *e); /* of every set */
/* Volumes at the provider, by the journals: when to look again (CLOCK_BOOTTIME; UINT64_MAX: nothing is left). What stays is
 * added to left, a line "left ID: SENTENCE" each. Blocks for minutes. */
uint64_t clean_volumes(struct engine *e, struct vbuf *left);

/* verify.c */
void verify_at(struct engine *e, unsigned percent, const char *detail);
void verify_wishes(struct engine *e, bool *cancel, bool *stop);

#endif
