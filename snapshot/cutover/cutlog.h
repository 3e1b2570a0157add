/* snapshot/cutover/cutlog.h - the journal of a cut-over: one file for each, DIR/N.journal, a line for each step, on disk
 * before the step is taken. It is all that a later resume, abort or resolve knows, so it lies outside of both servers'
 * data. A line: NUMBER TIME STEP [TEXT] #CRC. A last line that a crash tore (it has no newline) never was; any other bad one is damage.
 * At most the newest has not ended, and one process at a time writes (a lock on DIR, gone with the process).
 * Threads: one. Blocks: file I/O with fsync. Errors: -errno with the sentence. */
#ifndef STILLFS_SNAPSHOT_CUTOVER_CUTLOG_H
#define STILLFS_SNAPSHOT_CUTOVER_CUTLOG_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

#define CUTLOG_DIR "/var/lib/stillfs/cutover"

struct cutlog;

struct cutlog_line {
	const char *time, *step, *text; /* text "" when there is none; valid until the next begin, add or select */
};

/* With the newest journal read. write: makes DIR (0700) and takes the lock: -EBUSY another cut-over is at work.
 * -EIO damaged; a DIR that is not there is an empty one for readers. */
struct cutlog *cutlog_open(const char *dir, bool write, struct snap_error *err);
struct cutlog *cutlog_close(struct cutlog *l); /* NULL is harmless; returns NULL */
unsigned cutlog_id(const struct cutlog *l); /* of the one that is read; 0: there is none */
bool cutlog_ended(const struct cutlog *l); /* its last line is "end"; true when there is none */
bool cutlog_busy(const struct cutlog *l); /* for readers: somebody holds the lock now */
/* Read another one: for listing, with ids from 1 to that of the newest. -ENOENT. */
int cutlog_select(struct cutlog *l, unsigned id, struct snap_error *err);
/* A new journal, whose first line is "begin TEXT". -EEXIST: the newest has not ended. */
int cutlog_begin(struct cutlog *l, const char *text, struct snap_error *err);
/* On disk when it returns 0. Control characters of text become blanks. -ESTALE: a sync failed, now or before, so it is not
 * known whether the line is on the disk; after any other failure it is not. */
int cutlog_add(struct cutlog *l, const char *step, const char *text, struct snap_error *err);
size_t cutlog_lines(const struct cutlog *l);
struct cutlog_line cutlog_line(const struct cutlog *l, size_t i);
/* Text of the last line of this step, NULL: there is none. */
const char *cutlog_last(const struct cutlog *l, const char *step);

#endif
