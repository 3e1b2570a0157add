/* base/xattrs.c - see xattrs.h. */
#include "base/xattrs.h"
#include "base/cleanup.h"

#include <errno.h>
#include <limits.h>
#include <linux/limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/xattr.h>

#define ACL_ACCESS "system.posix_acl_access"
#define ACL_DEFAULT "system.posix_acl_default"
#define XFS_ACL "trusted.SGI_ACL_"

/* Names, each ended by a NUL, malloc'ed; their length, 0 with NULL when there are none. */
static ssize_t names_of(int fd, char **out)
{
	ssize_t n = flistxattr(fd, NULL, 0);

	*out = NULL;
	if (n <= 0)
		return n < 0 && errno != EOPNOTSUPP ? -errno : 0;
	*out = malloc((size_t)n);
	if (!*out)
		return -ENOMEM;
	n = flistxattr(fd, *out, (size_t)n);
	return n < 0 ? -errno : n;
}

static bool is_listed(const char *names, ssize_t n, const char *name)
{
	for (const char *k = names; k < names + n; k += strlen(k) + 1)
		if (strcmp(k, name) == 0)
			return true;
	return false;
}

static bool is_own(const char *name)
{
	return strncmp(name, XFS_ACL, strlen(XFS_ACL)) != 0;
}

static int add_all(int in, int out, const char *names, ssize_t n)
{
	cleanup_free char *value = n > 0 ? malloc(XATTR_SIZE_MAX) : NULL;

	if (n > 0 && !value)
		return -ENOMEM;
	for (const char *k = names; n > 0 && k < names + n; k += strlen(k) + 1) {
		ssize_t v;

		if (!is_own(k))
			continue;
		v = fgetxattr(in, k, value, XATTR_SIZE_MAX);
		if (v < 0 || (fsetxattr(out, k, value, (size_t)v, 0) < 0 && errno != EOPNOTSUPP))
			return -errno;
	}
	return 0;
}

int xattrs_add(int in, int out)
{
	cleanup_free char *names = NULL;
	ssize_t n = names_of(in, &names);

	return n < 0 ? (int)n : add_all(in, out, names, n);
}

int xattrs_same(int in, int out)
{
	cleanup_free char *names = NULL, *old = NULL;
	ssize_t n = names_of(in, &names), m = n < 0 ? n : names_of(out, &old);

	for (const char *k = old; m > 0 && k < old + m; k += strlen(k) + 1)
		if (is_own(k) && strcmp(k, "security.selinux") != 0 && !(n > 0 && is_listed(names, n, k)) &&
		    fremovexattr(out, k) < 0 && errno != ENODATA && errno != EOPNOTSUPP)
			return -errno;
	return m < 0 ? (int)m : add_all(in, out, names, n);
}

int xattrs_disinherit(int dir)
{
	static const char *const acls[] = { ACL_DEFAULT, ACL_ACCESS };

	for (int i = 0; i < 2; i++)
		if (fremovexattr(dir, acls[i]) < 0 && errno != ENODATA && errno != EOPNOTSUPP)
			return -errno;
	return 0;
}
