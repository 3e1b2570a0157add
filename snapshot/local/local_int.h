/* snapshot/local/local_int.h - shared by local.c (contract), clone.c (the hold), digest.c (afterwards), resume.c (in the
 * next process), remove.c, scan.c. */
#ifndef STILLFS_SNAPSHOT_LOCAL_INT_H
#define STILLFS_SNAPSHOT_LOCAL_INT_H

#include "snapshot/local/local.h"
#include "snapshot/local/tree.h"

#include <limits.h>
#include <openssl/evp.h>

struct local {
	const struct door *door;
	unsigned n_dirs;
	char *dir[DOOR_MAX_PAIRS]; /* local_dir of each pair */
	bool copy; /* local_copy=yes */
};

/* One pair's part of a run. */
struct lpair {
	int src; /* the backing, borrowed */
	int dst; /* the clone's directory, while it is being made */
	struct tree tree; /* as of the consistency point */
	char sub[300]; /* of the clone below the set's directory: "data" or "data/0-mysql" */
	bool copy; /* no reflink here */
};

enum lstage { ST_RENAME, ST_TIDY, ST_CLONED, ST_SYNC, ST_SYNCED, ST_DIGEST, ST_MARK, ST_DONE };

struct lrun {
	struct local *l;
	const struct prov_run *r;
	unsigned n;
	struct lpair p[DOOR_MAX_PAIRS];
	enum lstage stage;
	/* digest */
	unsigned pair;
	size_t entry;
	size_t files_done, files_all;
	uint64_t bytes_done, bytes_all;
	int fd; /* the file being read, -1 */
	EVP_MD_CTX *md;
	struct vbuf manifest;
};

/* clone.c: bring every file of every pair over; in the hold. */
int clone_all(struct lrun *lr, struct snap_error *err);
/* Make directories and empty files beforehand; outside the hold. */
int clone_prepare(struct lrun *lr, struct snap_error *err);
/* Remove what vanished between preparing and cloning; owners, modes, times. After the hold. */
int clone_tidy(struct lrun *lr, struct snap_error *err);
/* Does the filesystem clone? 0, -EOPNOTSUPP, -errno. */
int clone_probe(int dirfd);
/* digest.c: SHA-256 of every file, for up to max_ms. 1: more to do; 0: all done, manifest filled. */
int digest_some(struct lrun *lr, uint32_t max_ms, struct snap_error *err);

/* local.c */
int local_open_base(const struct local *l, unsigned i); /* a descriptor, or -1: errno */
int local_read_id(int setdir, char id[33]);
bool local_own_base(const struct local *l, unsigned i); /* pair i does not share its local_dir with an earlier one */
int local_write_small(int dir, const char *name, const char *text);
void local_sub(const struct lrun *lr, unsigned i, char *buf, size_t cap); /* lpair.sub */
int local_link(struct lrun *lr, unsigned i); /* pair i's clone, where it lies in another base, in the first one's data */
struct lrun *local_run_new(struct local *l, struct prov_run *r); /* r->ref; NULL: out of memory */
void local_finish(void *self, struct prov_run *r);
int local_stage(struct lrun *lr, uint32_t max_ms, struct snap_error *err); /* 0: done with it; 1: more of it */

void local_partial_name(char buf[64], const char *id);

/* remove.c: prov_ops.remove and discard */
int local_remove(void *self, const char *name, const char *id, uint32_t max_ms, struct snap_error *err);
int local_discard(void *self, struct prov_run *r, struct snap_error *err);

/* scan.c: prov_ops.scan */
int local_scan(void *self, const char *lineage, const char *name, int (*fn)(void *arg, struct set *s), void *arg, uint32_t max_ms,
	       struct snap_error *err);

/* resume.c: prov_ops.resume and leave, and the marks that they go by. */
int local_resume(void *self, struct prov_run *r, uint32_t max_ms, struct snap_error *err);
int local_leave(void *self, struct prov_run *r, uint32_t max_ms, struct snap_error *err);
int resume_mark(struct lrun *lr, enum lstage reached, struct snap_error *err); /* ST_CLONED, ST_SYNCED */
void resume_unmark(int setdir);

#endif
