/* snapshot/ebs/ebs_place.c - where a pair lies, in one tag's value, so that any host can put a set together again:
 *   MOUNTPOINT;fs=xfs;sub=/mysql;stack=lvm:vg-data;nvme1n1=vol-0123456789abcdef0;...
 * sub: the backing below the root of its filesystem. What does not fit into 250 bytes is left out from the end, and the
 * value ends with ";+". Called by ebs_tags.c with the gate closed: it looks at directories, never at the backing's files. */
#include "snapshot/ebs/ebs_int.h"

#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

static const char *fs_name(int fd)
{
	struct statfs s;

	if (fstatfs(fd, &s) < 0)
		return "";
	switch ((unsigned long)s.f_type) {
	case XFS_SUPER_MAGIC:
		return "xfs";
	case EXT4_SUPER_MAGIC:
		return "ext4";
	case BTRFS_SUPER_MAGIC:
		return "btrfs";
	default:
		return "";
	}
}

/* The part of path below its filesystem's root: parents are looked at, the path itself may be mounted over. */
static const char *below_root(const char *path, uint64_t dev)
{
	char dir[1024];
	const char *sub = path + strlen(path);
	struct stat st;
	char *slash;

	if ((size_t)snprintf(dir, sizeof(dir), "%s", path) >= sizeof(dir))
		return "";
	while ((slash = strrchr(dir, '/')) && dir[1]) {
		sub = path + (slash - dir);
		slash[slash == dir] = '\0';
		if (stat(dir, &st) < 0 || st.st_dev != dev)
			return sub + strcspn(sub + 1, "/") + 1;
	}
	return sub;
}

/* One field; false when it does not fit. */
static bool add(char *buf, size_t cap, const char *key, const char *value)
{
	size_t n = strlen(buf);

	if (n + strlen(key) + strlen(value) + 6 > cap) {
		(void)snprintf(buf + n, cap - n, ";+");
		return false;
	}
	(void)snprintf(buf + n, cap - n, ";%s=%s", key, value);
	return true;
}

void place_text(const struct door *d, unsigned pair, const struct vols *vols, char *buf, size_t cap)
{
	const struct door_pair *p = &d->pairs[pair];
	const char *sub = below_root(p->backing, p->backing_dev);
	bool fits;

	(void)snprintf(buf, cap < 121 ? cap : 121, "%s", p->mountpoint);
	for (char *c = buf; *c; c++)
		*c = *c == ';' ? '?' : *c;
	fits = add(buf, cap, "fs", fs_name(p->backing_fd));
	if (fits && *sub)
		fits = add(buf, cap, "sub", sub);
	if (fits && pair < VOLS_PAIRS && vols->stack[pair][0])
		fits = add(buf, cap, "stack", vols->stack[pair]);
	for (unsigned k = 0; fits && k < vols->n; k++)
		if (vols->v[k].pairs & 1u << pair)
			fits = add(buf, cap, vols->v[k].dev[0] ? vols->v[k].dev : "volume", vols->v[k].id);
}
