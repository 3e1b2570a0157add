/* tests/conformance/fs/random_tree.c - operations on names. As root also with other identities. */
#include "random.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

static char *path_of(struct world *w, unsigned i, const char *name, char buf[128])
{
	(void)snprintf(buf, 128, "/proc/self/fd/%d/%s", w->dir[i], name);
	return buf;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* A digest of the names in a directory, sorted. */
static long list_dir(int dir, const char *name)
{
	char *names[512];
	size_t n = 0;
	uint64_t h = 5381;
	int fd = openat(dir, name, O_RDONLY | O_DIRECTORY);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!d)
		return -1;
	while ((e = readdir(d)) && n < 512)
		names[n++] = strdup(e->d_name);
	(void)closedir(d);
	qsort(names, n, sizeof(names[0]), by_name);
	for (size_t i = 0; i < n; i++) {
		for (const char *p = names[i]; *p; p++)
			h = h * 33 + (unsigned char)*p;
		free(names[i]);
	}
	return (long)(h & INT64_MAX);
}

static long stat_of(int dir, const char *name)
{
	struct stat st;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -1;
	return (long)(st.st_mode ^ (uint64_t)st.st_nlink << 20 ^ (uint64_t)st.st_uid << 28 ^ (uint64_t)st.st_gid << 36 ^
		      (S_ISDIR(st.st_mode) ? 0 : (uint64_t)st.st_size << 42)) & INT64_MAX;
}

static void names_op(struct world *w)
{
	const char *a = rnd_name(w), *b = rnd_name(w);
	unsigned flags = rnd(w, 3) ? 0 : rnd(w, 4), mode = rnd(w, 010000);
	char buf_[128];

	switch (rnd(w, 12)) {
	case 0: case 1:
		doing(w, "rename %s %s %u", a, b, flags);
		EACH(w, syscall(SYS_renameat2, dir, a, dir, b, flags));
		break;
	case 2: case 3:
		doing(w, "link %s %s", a, b);
		EACH(w, linkat(dir, a, dir, b, 0));
		break;
	case 4: case 5:
		doing(w, "unlink %s", a);
		EACH(w, unlinkat(dir, a, 0));
		break;
	case 6:
		doing(w, "rmdir %s", a);
		EACH(w, unlinkat(dir, a, AT_REMOVEDIR));
		break;
	case 7: case 8:
		doing(w, "mkdir %s %o", a, mode & 07777);
		EACH(w, mkdirat(dir, a, mode & 03777));
		break;
	case 9:
		doing(w, "symlink %s %s", b, a);
		EACH(w, symlinkat(b, dir, a));
		break;
	case 10:
		doing(w, "mknod %s", a);
		EACH(w, mknodat(dir, a, (mode & 1 ? S_IFIFO : S_IFREG) | (mode & 0777), 0));
		break;
	default:
		doing(w, "truncate %s %u", a, mode * 50);
		EACH(w, truncate(path_of(w, i, a, buf_), mode * 50));
		break;
	}
}

static void attrs_op(struct world *w)
{
	static const char *const xattrs[] = { "user.a", "user.b", "trusted.c", "security.d", "system.e" };
	const char *a = rnd_name(w), *x = xattrs[rnd(w, 5)];
	unsigned mode = rnd(w, 3) ? 0755 : rnd(w, 010000), v = rnd(w, 5);
	struct timespec t[2] = { { rnd(w, 1000000), rnd(w, 1000000000) }, { rnd(w, 1000000), rnd(w, 1000000000) } };
	char p[128], value[3000], got[3000];
	size_t n = rnd(w, 5) ? 10 : sizeof(value);
	uid_t uid = rnd(w, 2) ? (uid_t)-1 : 1001 + rnd(w, 2);
	gid_t gid = rnd(w, 2) ? (gid_t)-1 : 1001 + rnd(w, 2);

	memset(value, (int)('a' + v), sizeof(value));
	if (!(mode & S_IXGRP)) /* docs/limits.md: natively an outsider's write takes it */
		mode &= ~(unsigned)S_ISGID;
	switch (rnd(w, 8)) {
	case 0:
		doing(w, "chmod %s %o", a, mode);
		EACH(w, fchmodat(dir, a, mode, 0));
		break;
	case 1:
		doing(w, "chown %s %d %d", a, (int)uid, (int)gid);
		EACH(w, fchownat(dir, a, uid, gid, AT_SYMLINK_NOFOLLOW));
		break;
	case 2:
		doing(w, "utimens %s", a);
		EACH(w, ({
			     struct stat st;
			     utimensat(dir, a, t, AT_SYMLINK_NOFOLLOW) < 0 || fstatat(dir, a, &st, AT_SYMLINK_NOFOLLOW) < 0 ?
				     -1 :
				     st.st_mtim.tv_sec ^ st.st_mtim.tv_nsec;
		     }));
		break;
	case 3: case 4:
		doing(w, "setxattr %s %s %zu flags %u", a, x, n, v % 3);
		EACH(w, lsetxattr(path_of(w, i, a, p), x, value, n, (int)(v % 3)));
		break;
	case 5:
		doing(w, "getxattr %s %s", a, x);
		EACH(w, lgetxattr(path_of(w, i, a, p), x, got, v ? sizeof(got) : 0));
		break;
	case 6:
		doing(w, "listxattr %s", a);
		EACH(w, llistxattr(path_of(w, i, a, p), got, v ? sizeof(got) : 0));
		break;
	default:
		doing(w, "removexattr %s %s", a, x);
		EACH(w, lremovexattr(path_of(w, i, a, p), x));
		break;
	}
}

static void look_op(struct world *w)
{
	const char *a = rnd_name(w);
	char text[4100];

	switch (rnd(w, 6)) {
	case 0:
		doing(w, "list %s", a);
		EACH(w, list_dir(dir, a));
		break;
	case 1:
		doing(w, "list all");
		EACH(w, list_dir(dir, "."));
		break;
	case 2:
		doing(w, "readlink %s", a);
		EACH(w, readlinkat(dir, a, text, sizeof(text)));
		break;
	case 3:
		doing(w, "access %s", a);
		EACH(w, faccessat(dir, a, (int)(w->op % 8), AT_EACCESS));
		break;
	default:
		doing(w, "stat %s", a);
		EACH(w, stat_of(dir, a));
		break;
	}
}

void random_tree(struct world *w)
{
	unsigned kind = rnd(w, 8);
	bool other = w->root && rnd(w, 5) == 0;

	if (other && (setegid(1001) < 0 || seteuid(1001 + rnd(w, 2)) < 0))
		exit(2);
	if (kind < 4)
		names_op(w);
	else if (kind < 6)
		attrs_op(w);
	else
		look_op(w);
	if (other && (seteuid(0) < 0 || setegid(0) < 0))
		exit(2);
}
