/* base/error.h - struct snap_error: what an operator is told about a failure.
 * Owned by the caller; written once, by the deepest layer that knows what failed.
 * The message says what failed, where, and what to do: lower case, no final stop,
 * never a credential. Any thread (no globals). Never blocks, never allocates. */
#ifndef STILLFS_BASE_ERROR_H
#define STILLFS_BASE_ERROR_H

#define SNAP_ERROR_MAX 512

struct snap_error {
	int code; /* 0, or -errno */
	char msg[SNAP_ERROR_MAX];
};

/* Fill *e unless it already holds an error (the deepest layer spoke first).
 * e: may be NULL. code: -errno, < 0; anything else is recorded as -EIO.
 * Returns the code that *e now holds (or `code` if e is NULL), so callers can
 * `return snap_error_set(...)`. An over-long message is cut at a byte, ended with "...". Names of files may hold
 * anything: control characters and what is not UTF-8 become "?", so that the message is one line of text. */
int snap_error_set(struct snap_error *e, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Forget what *e holds, so that it can be used for another attempt. */
void snap_error_clear(struct snap_error *e);

#endif
