/* base/statdev.c - see statdev.h. */
#include "base/statdev.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

int statdev(const char *path, uint64_t *dev, unsigned *type)
{
	struct statx st;

	if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_TYPE, &st) < 0)
		return -errno;
	*dev = makedev(st.stx_dev_major, st.stx_dev_minor);
	if (type)
		*type = st.stx_mode & S_IFMT;
	return 0;
}
