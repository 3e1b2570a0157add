/* snapshot/journal.c - see journal.h.
 * Owns:      nothing; names are state_dir/db-WHO.journal.
 * Called by: coordinators, on the database thread.
 * Blocks:    file I/O with fsync of file and directory.
 * Errors:    -errno with the sentence. */
#include "snapshot/journal.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int open_dir(const struct conf *c, int *dir, struct snap_error *err)
{
	const char *state = conf_str(c, "state_dir");

	*dir = open(state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return *dir < 0 ? snap_error_set(err, -errno, "state_dir %s: %s", state, strerror(errno)) : 0;
}

static int fail(const char *who, const char *what, int code, struct snap_error *err)
{
	return snap_error_set(err, -code, "journal of the %s coordinator: %s: %s; look at state_dir", who, what,
			      strerror(code));
}

int journal_put(const struct conf *c, const char *who, const char *text, struct snap_error *err)
{
	char name[64], fresh[72];
	cleanup_fd int dir = -1, fd = -1;
	size_t len = strlen(text);
	int r = open_dir(c, &dir, err);

	if (r < 0)
		return r;
	(void)snprintf(name, sizeof(name), "db-%.40s.journal", who);
	(void)snprintf(fresh, sizeof(fresh), "%s.new", name);
	fd = openat(dir, fresh, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return fail(who, "create", errno, err);
	errno = ENOSPC; /* of a write cut short */
	if (write(fd, text, len) != (ssize_t)len || fsync(fd) < 0 || renameat(dir, fresh, dir, name) < 0 ||
	    fsync(dir) < 0) {
		r = fail(who, "write", errno, err);
		(void)unlinkat(dir, fresh, 0);
	}
	return r;
}

int journal_get(const struct conf *c, const char *who, struct vbuf *out, struct snap_error *err)
{
	char name[64], buf[1024];
	cleanup_fd int dir = -1, fd = -1;
	ssize_t n;
	int r = open_dir(c, &dir, err);

	if (r < 0)
		return r;
	(void)snprintf(name, sizeof(name), "db-%.40s.journal", who);
	fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : fail(who, "open", errno, err);
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		vbuf_add(out, buf, (size_t)n);
	return n < 0 ? fail(who, "read", errno, err) : vbuf_error(out);
}

int journal_drop(const struct conf *c, const char *who, struct snap_error *err)
{
	char name[64];
	cleanup_fd int dir = -1;
	int r = open_dir(c, &dir, err);

	if (r < 0)
		return r;
	(void)snprintf(name, sizeof(name), "db-%.40s.journal", who);
	if (unlinkat(dir, name, 0) < 0)
		return errno == ENOENT ? 0 : fail(who, "remove", errno, err);
	return fsync(dir) < 0 ? fail(who, "sync", errno, err) : 0;
}
