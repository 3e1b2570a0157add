/* snapshot/ebs/discover.h - which EBS volumes lie under a directory: from its device number down through partitions, LVM
 * and md in sysfs to NVMe serial numbers, or to Xen device names that the instance's mapping resolves.
 * Reads sysfs only. Any thread. Errors: -errno with the sentence. */
#ifndef STILLFS_SNAPSHOT_EBS_DISCOVER_H
#define STILLFS_SNAPSHOT_EBS_DISCOVER_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define VOLS_MAX 40
#define VOLS_PAIRS 8
#define VOLS_STACK 80

struct vol {
	char id[24]; /* "vol-0123456789abcdef0"; "" until a Xen name is resolved */
	char dev[32]; /* "nvme1n1", "xvdf"; "" for volumes that were named */
	unsigned pairs; /* bit i: pair i lies on it */
};

struct vols {
	unsigned n;
	struct vol v[VOLS_MAX];
	char stack[VOLS_PAIRS][VOLS_STACK]; /* layers of a pair above its volumes, "lvm:vg-data>md:md0>part:1"; "" */
};

/* Add the volumes under device `dev` (of pair `pair`, whose backing is named in sentences). sysfs: "/sys".
 * -ENODEV no block device of its own, or no EBS volume; -EOPNOTSUPP instance store; -E2BIG; -errno. */
int discover_dev(const char *sysfs, uint64_t dev, const char *backing, unsigned pair, struct vols *out,
		 struct snap_error *err);
/* Volumes named by hand: ids with blanks, colons or commas between. They count for all pairs. -EINVAL. */
int discover_named(const char *text, unsigned n_pairs, struct vols *out, struct snap_error *err);
/* Do a device name of the instance's mapping ("/dev/sdf", "xvdf") and one of Xen's kernel driver ("xvdf") mean the same? */
bool discover_same_xen(const char *mapped, const char *kernel);
bool discover_is_id(const char *id, const char *prefix); /* "vol-" or "i-" and hexadecimal digits */

#endif
