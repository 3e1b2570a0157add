/* fs/guard.c - see guard.h. */
#include "fs/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/file.h>

static bool taken(int r)
{
	return r < 0 && (errno == EWOULDBLOCK || errno == EACCES);
}

int guard_take(int fd, int flags)
{
	struct flock whole = { .l_type = F_RDLCK, .l_whence = SEEK_SET };

	if ((flags & O_ACCMODE) == O_RDONLY)
		return 0;
	if (taken(flock(fd, LOCK_SH | LOCK_NB)))
		return -EBUSY;
	return (flags & O_ACCMODE) == O_RDWR && taken(fcntl(fd, F_OFD_SETLK, &whole)) ? -EBUSY : 0;
}
