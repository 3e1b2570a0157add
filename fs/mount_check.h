/* fs/mount_check.h - what must be true before mounting, and who uses a mount. main.c at start and at
 * shutdown; reads /proc, may take a while on a busy host. Errors: -errno with the sentence. */
#ifndef STILLFS_FS_MOUNT_CHECK_H
#define STILLFS_FS_MOUNT_CHECK_H

#include "base/door.h"

/* Fill pairs from the paths as given: resolved, opened, compared with each other. The strings are
 * malloc'ed and live as long as the process. */
int check_pairs(char *const *backing, char *const *mountpoint, unsigned n, struct door_pair *pairs,
		struct snap_error *err);
/* control_dir and state_dir must not lie below a mount or backing; with freeze, state_dir not on a
 * filesystem that will be frozen. */
int check_dirs(const struct conf *conf, const struct door_pair *pairs, unsigned n, struct snap_error *err);
/* -EBUSY, naming them, when processes have files below a backing open for writing. */
int check_writers(const struct door_pair *pairs, unsigned n, struct snap_error *err);
/* Hold `state_dir`/lock for the life of the process: descriptor, or -EBUSY: another one runs. Waits for it
 * for 3 s: it may be ending. */
int check_lock(const char *state_dir, const char *name, struct snap_error *err);
int check_mkdirs(const char *path, unsigned mode, struct snap_error *err); /* mkdir -p */
/* -EBUSY, naming five of them, when processes have files open, for whatever: through the mount or below a backing. skip: n_skip
 * ids of processes that do not count; ours does not. Not seen: mapped files whose descriptor is closed, on the backing. */
int check_open(const struct door_pair *pairs, unsigned n, const int32_t *skip, unsigned n_skip, struct snap_error *err);
bool check_is_below(const char *path, const char *dir); /* is it the same, or below it? Both resolved */
/* The name of process `pid`, as /proc shows it; "" when it shows none. Allocates nothing; reads one file. */
void check_comm(int32_t pid, char *comm, size_t cap);
/* Who has files of filesystem `dev` open: "mariadbd(123) sh(4)", at most cap. */
void check_users(uint64_t dev, char *buf, size_t cap);

#endif
