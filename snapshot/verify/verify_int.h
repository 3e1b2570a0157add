/* snapshot/verify/verify_int.h - what the files of the verifying process share: helper.c (order, what it says),
 * manifest.c (files), sandbox.c (namespaces), server.c (options of the throwaway server), tables.c (SQL). One process
 * of its own for each verification, started by snapshot/verify.c; one thread. Everything may block; the daemon ends it
 * at its deadline, and with it all that it started. */
#ifndef STILLFS_SNAPSHOT_VERIFY_INT_H
#define STILLFS_SNAPSHOT_VERIFY_INT_H

#include "base/door.h"

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#define VERIFY_ARGS_MAX 96
#define SANDBOX_FAILED 120 /* and above: exit codes of a sandbox that could not start the server */

/* What is verified, from the daemon's lines on stdin: "KEY VALUE". */
struct vspec {
	char set[DOOR_NAME_MAX + 1], id[33];
	char data[PATH_MAX]; /* the set's data; or: */
	char volumes[PATH_MAX]; /* they are on no disk here: where journal, log and mountpoints of its own volumes go */
	char *ebs[16]; /* "ebs.KEY VALUE" */
	unsigned n_ebs;
	bool clean; /* do nothing but remove what an earlier verification on volumes has left */
	unsigned n_pairs;
	char *mountpoint[DOOR_MAX_PAIRS];
	unsigned n_hide;
	char *hide[3 * DOOR_MAX_PAIRS]; /* live directories */
	char *server; /* verify.server, or the recorded program; NULL: none is known */
	char *root; /* whose /usr is used; "/" */
	char *layout, *position; /* lines */
	/* made from them */
	char dir[PATH_MAX]; /* of the set: holds the manifest and verify.log */
	char src[DOOR_MAX_PAIRS][PATH_MAX]; /* clone of each pair */
	char work[DOOR_MAX_PAIRS][PATH_MAX]; /* where its clone goes: BASE/.verify-ID */
	uid_t uid; /* of the datadir */
	gid_t gid; /* of the server's files in it */
};

/* helper.c: a line in verify.log; progress for the daemon. */
void verify_log(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void verify_progress(unsigned percent, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The value of "KEY value" in lines, malloc'ed; NULL: not there. */
char *verify_value(const char *lines, const char *key);

/* place.c: fill dir, src and work from data, id and the mountpoints. */
int verify_find_places(struct vspec *s, struct snap_error *err);
int verify_remove_places(const struct vspec *s, struct snap_error *err); /* 0 when there is nothing */

/* helper.c: pair i is in work/pI: note the datadir's owner, remove its server's own identity. -ENOENT: no datadir. */
int verify_settle(struct vspec *s, unsigned i, struct snap_error *err);

/* volumes.c: a set of provider ebs. begin: takes the journal, and removes what a dead process has left (with `clean` that is
 * all). bring: to work/pI. record: the result into the set's tags. end: everything away; may be called after any failure.
 * -EBUSY (begin): another process is at it; -EAGAIN (begin, end): something is left, which *err names. */
int volumes_begin(const struct vspec *s, struct snap_error *err);
int volumes_bring(struct vspec *s, struct snap_error *err);
unsigned volumes_count(void);
void volumes_record(const struct vspec *s, const char *word, const char *text);
int volumes_end(const struct vspec *s, struct snap_error *err);

/* manifest.c: are the set's files those of its manifest, all of them and no others? */
int manifest_check(const struct vspec *s, size_t *files, struct snap_error *err);

/* sandbox.c: start argv in namespaces of its own, the clones at the original paths. *pid: its init, to be killed and
 * waited for; when the caller dies it dies. */
int sandbox_start(const struct vspec *s, char *const argv[], pid_t *pid, struct snap_error *err);

/* server.c: the throwaway server's command line; paths outside the set are refused (-EXDEV). argv ends with NULL, its
 * strings are malloc'ed. */
int server_args(const struct vspec *s, char *argv[VERIFY_ARGS_MAX], struct snap_error *err);
/* The first line of the server's log that is an error, malloc'ed; NULL: none. Copies the log into verify.log. */
char *server_log(const struct vspec *s);

/* tables.c: connect to the server behind `pid` (-ECONNREFUSED: it ended), check all tables, compare the position, or
 * say what it is ("position KEY VALUE" on stdout) where the record does not know. */
int tables_check(const struct vspec *s, pid_t pid, size_t *tables, struct snap_error *err);

#endif
