/* tests/harness/fail_dir.c - a library for LD_PRELOAD: one call about one directory fails with EIO, as a disk makes it.
 * FAIL_CALL: "readdir" (at its third entry) or "fstatat"; FAIL_DIR: what the directory's path ends with. One thread. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_it(const char *call, int fd)
{
	const char *want = getenv("FAIL_CALL"), *dir = getenv("FAIL_DIR");
	char link[64], path[4096];
	ssize_t n;

	if (!want || !dir || strcmp(want, call) != 0)
		return false;
	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n < 0)
		return false;
	path[n] = '\0';
	return (size_t)n >= strlen(dir) && strcmp(path + n - strlen(dir), dir) == 0;
}

struct dirent64 *readdir64(DIR *d)
{
	static struct dirent64 *(*real)(DIR *);
	static unsigned n;

	if (!real)
		real = (struct dirent64 *(*)(DIR *))dlsym(RTLD_NEXT, "readdir64");
	if (is_it("readdir", dirfd(d)) && ++n == 3) {
		errno = EIO;
		return NULL;
	}
	return real(d);
}

int fstatat64(int fd, const char *name, struct stat64 *st, int flags)
{
	static int (*real)(int, const char *, struct stat64 *, int);

	if (!real)
		real = (int (*)(int, const char *, struct stat64 *, int))dlsym(RTLD_NEXT, "fstatat64");
	if (is_it("fstatat", fd)) {
		errno = EIO;
		return -1;
	}
	return real(fd, name, st, flags);
}
