/* base/statdev.c - see statdev.h. */
#include "base/statdev.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define MNT_ID 0x1000u /* STATX_MNT_ID, Linux 5.8 */
#define MNT_ID_UNIQUE 0x4000u /* STATX_MNT_ID_UNIQUE, Linux 6.8 */
#define MOUNT_ROOT 0x2000u /* STATX_ATTR_MOUNT_ROOT, Linux 5.8 */
#define MNT_ID_AT 0x90 /* of stx_mnt_id, which older headers have no name for */

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

int statdev_mount(const char *path, uint64_t *id)
{
	struct statx st;

	if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, MNT_ID | MNT_ID_UNIQUE, &st) < 0)
		return -errno;
	*id = makedev(st.stx_dev_major, st.stx_dev_minor); /* before Linux 5.8 */
	if (st.stx_mask & (MNT_ID | MNT_ID_UNIQUE))
		memcpy(id, (const char *)&st + MNT_ID_AT, sizeof(*id));
	return 0;
}

bool statdev_is_mountpoint(const char *path)
{
	struct statx st;

	return statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_TYPE, &st) == 0 && st.stx_attributes & MOUNT_ROOT;
}
