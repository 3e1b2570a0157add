/* base/cleanup.h - locals that clean up after themselves.
 * For memory and descriptors only: never for opening the gate, thaw or unlock, whose
 * result is a verdict and must be a visible statement. Helpers preserve errno. */
#ifndef STILLFS_BASE_CLEANUP_H
#define STILLFS_BASE_CLEANUP_H

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_fd_p(const int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		(void)close(*fd);
	errno = saved;
}

static inline void cleanup_free_p(void *p)
{
	int saved = errno;

	free(*(void **)p);
	errno = saved;
}

#define cleanup_fd __attribute__((cleanup(cleanup_fd_p)))
#define cleanup_free __attribute__((cleanup(cleanup_free_p)))

#endif
