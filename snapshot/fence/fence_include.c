/* snapshot/fence/fence_include.c - the file that makes a MariaDB start read-only.
 * Owns:   DIR/zz-stillfs-fence.cnf; the server reads a directory in order, and what comes later counts.
 * Blocks: file I/O with fsync of file and directory.
 * Errors: -errno with the sentence. A file of that name that is not ours is left alone (-EEXIST). */
#include "snapshot/fence/fence_int.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME "zz-stillfs-fence.cnf"
#define HEAD "# Written by the fence of stillfs, and removed by it: stillctl fence off\n"

static int fail(const char *path, const char *what, struct snap_error *err)
{
	int code = errno;

	return snap_error_set(err, -code, "fence: %s %s: %s; MariaDB would not start read-only, look at fence.mariadb_include", what,
			      path, strerror(code));
}

static int open_dir(const char *path, struct snap_error *err)
{
	char dir[1024];
	int fd;

	(void)snprintf(dir, sizeof(dir), "%.*s", (int)(strrchr(path, '/') - path), path);
	fd = open(*dir ? dir : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? fail(path, "open the directory of", err) : fd;
}

/* 1 ours, 0 none, -EEXIST somebody else's. */
static int whose(const char *path)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	char head[sizeof(HEAD)] = "";

	if (fd < 0)
		return errno == ENOENT ? 0 : -EEXIST;
	return read(fd, head, sizeof(HEAD) - 1) == (ssize_t)sizeof(HEAD) - 1 && strcmp(head, HEAD) == 0 ? 1 : -EEXIST;
}

int fence_include_path(const char *dir, char *path, size_t cap, struct snap_error *err)
{
	struct stat st;

	if (*dir != '/' || (size_t)snprintf(path, cap, "%s/" NAME, dir) >= cap)
		return snap_error_set(err, -EINVAL, "fence.mariadb_include=%.200s: expected an absolute path", dir);
	if (stat(dir, &st) < 0 || !S_ISDIR(st.st_mode))
		return snap_error_set(err, -ENOTDIR, "fence.mariadb_include=%.200s: there is no such directory; name one that the "
						     "server's configuration includes (!includedir)", dir);
	if (whose(path) < 0)
		return snap_error_set(err, -EEXIST, "fence: %s is there and was not written by a fence: move it away", path);
	return 0;
}

int fence_include_write(const char *path, bool scheduler_off, struct snap_error *err)
{
	cleanup_fd int dir = open_dir(path, err), fd = -1;
	char text[512], fresh[1100];
	int n;

	if (dir < 0)
		return dir;
	n = snprintf(text, sizeof(text), HEAD "[mariadbd]\nread_only=ON\n%s", scheduler_off ? "event_scheduler=OFF\n" : "");
	(void)snprintf(fresh, sizeof(fresh), "%s.new", path); /* no *.cnf: the server does not read it */
	fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		return fail(fresh, "create", err);
	errno = ENOSPC; /* of a write cut short */
	/* the server may read it as another user, whatever our umask is */
	if (write(fd, text, (size_t)n) != n || fchmod(fd, 0644) < 0 || fsync(fd) < 0 || rename(fresh, path) < 0 || fsync(dir) < 0) {
		n = fail(path, "write", err);
		(void)unlink(fresh);
		return n;
	}
	return 0;
}

int fence_include_remove(const char *path, struct snap_error *err)
{
	cleanup_fd int dir = -1;

	if (whose(path) == 0)
		return 0;
	if (whose(path) < 0)
		return snap_error_set(err, -EEXIST, "fence: %s was written anew by somebody else: look at it, then remove it", path);
	dir = open_dir(path, err);
	if (dir < 0)
		return dir;
	return unlink(path) < 0 || fsync(dir) < 0 ? fail(path, "remove", err) : 0;
}

bool fence_include_there(const char *path)
{
	return whose(path) == 1;
}
