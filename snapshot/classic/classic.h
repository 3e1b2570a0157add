/* snapshot/classic/classic.h - stillfs-classic: the classic tool's work on filesystems that are no stillfs: lock the
 * databases, freeze, have EBS snapshots taken, thaw, unlock. tools/ec2-consistent-snapshot starts it. One process, one thread,
 * and the guard's process. Errors: -errno with the sentence. */
#ifndef STILLFS_SNAPSHOT_CLASSIC_H
#define STILLFS_SNAPSHOT_CLASSIC_H

#include "snapshot/coordinator.h"
#include "snapshot/ebs/ebs_int.h"

#define CLASSIC_VALUES 400

/* The options as they were given, in their order: name without dashes, value ("" when it takes none); "volume" for each id. */
struct classic_ask {
	unsigned n;
	const char *name[CLASSIC_VALUES], *value[CLASSIC_VALUES];
};

extern volatile int classic_stop; /* SIGINT, SIGTERM, SIGHUP */
void classic_say(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* on stderr; not while something is frozen */

/* request.c. The text lives as long as the process. */
int ask_read(int fd, struct classic_ask *out, struct snap_error *err);
const char *ask_last(const struct classic_ask *a, const char *name); /* NULL: not given */
unsigned ask_count(const struct classic_ask *a, const char *name);
const char *ask_at(const struct classic_ask *a, const char *name, unsigned i);
uint32_t ask_ms(const struct classic_ask *a, const char *name, double def_s); /* seconds with fractions, checked before */
/* The configuration that coordinators and provider read; keys into this process's environment. */
struct conf *ask_conf(const struct classic_ask *a, struct snap_error *err);
/* The lines of tags that every snapshot gets; what cannot be so said is left to ask_later. */
int ask_tags(const struct classic_ask *a, struct vbuf *out, struct snap_error *err);
/* Tags of single volumes, and keys with a colon: fn for each. */
int ask_later(const struct classic_ask *a, unsigned volume,
	      int (*fn)(void *arg, const char *key, const char *value, struct snap_error *err), void *arg, struct snap_error *err);

/* databases.c */
struct dbs; /* body there */
/* NULL with *err, or nothing to lock: an empty one. frozen: the door whose pairs will be frozen. */
struct dbs *dbs_open(const struct door *frozen, bool mysql, bool mongo, struct snap_error *err);
struct dbs *dbs_free(struct dbs *d); /* drops connections, and with them locks */
int dbs_preflight(struct dbs *d, struct snap_error *err); /* and what comes before the lock */
/* tries: how often, with pauses of sleep_ms. The position's lines come to *pos. -EAGAIN not got; -EINVAL no try. */
int dbs_lock(struct dbs *d, unsigned tries, uint32_t sleep_ms, uint32_t lock_ms, struct vbuf *pos, struct snap_error *err);
/* Nothing can be written: those that need no writing to let go and have all files there. Were these all? */
bool dbs_unlock_frozen(struct dbs *d);
int dbs_unlock(struct dbs *d, int result, struct snap_error *err); /* the rest. -ENOLCK: a lock was lost before */
bool dbs_any(const struct dbs *d);

/* status.c: --mysql-master-status-file, and its line on stdout. */
void status_print(const char *position);
int status_write(const char *path, const char *position, struct snap_error *err);

#endif
