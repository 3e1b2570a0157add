/* snapshot/begun.c - see begun.h: an empty object of shared memory for each run, /stillfs-begun-ID.
 * Owns:      those objects; they go with the run, at the next start, or with the boot.
 * Called by: run.c, run_complete.c, engine_recover.c.
 * Errors:    -errno; whoever begins a run says so.
 *
 * A record that says `running` may have been read from an image, and the best of all: that of the very set, when state_dir
 * lies on a volume of it. The set it speaks of has long been completed then. What a disk holds cannot tell that from a
 * death in the midst; this can. */
#include "snapshot/begun.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME_MAX_LEN 64

static void name_of(const char *id, char name[NAME_MAX_LEN])
{
	(void)snprintf(name, NAME_MAX_LEN, "/stillfs-begun-%.32s", id);
}

int begun_note(const char *id)
{
	char name[NAME_MAX_LEN];
	cleanup_fd int fd = -1;

	name_of(id, name);
	fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
	return fd < 0 ? -errno : 0;
}

bool begun_here(const char *id)
{
	char name[NAME_MAX_LEN];
	cleanup_fd int fd = -1;
	struct stat st;

	name_of(id, name);
	fd = shm_open(name, O_RDONLY, 0);
	return fd >= 0 && fstat(fd, &st) == 0 && st.st_uid == geteuid(); /* anybody may make such a name */
}

void begun_forget(const char *id)
{
	char name[NAME_MAX_LEN];

	name_of(id, name);
	(void)shm_unlink(name); /* there may be none */
}
