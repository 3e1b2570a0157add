/* tests/unit/snapshot/test_ebs_discover.c - volumes under a directory, on made-up trees of sysfs. */
#include "tests/unit/snapshot/unit.h"
#include "snapshot/ebs/discover.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static struct {
	char dir[128];
	struct vols out;
	struct snap_error err;
} at;

static void dirs(const char *rel)
{
	char path[512];

	(void)snprintf(path, sizeof(path), "%s/%s", at.dir, rel);
	for (char *p = path + strlen(at.dir) + 1; (p = strchr(p, '/')); p++) {
		*p = '\0';
		(void)mkdir(path, 0755);
		*p = '/';
	}
	(void)mkdir(path, 0755);
}

static void link_to(const char *target, const char *rel)
{
	char path[512], abs[512];

	(void)snprintf(path, sizeof(path), "%s/%s", at.dir, rel);
	(void)snprintf(abs, sizeof(abs), "%s/%s", at.dir, target);
	assert_int_equal(symlink(abs, path), 0);
}

/* An NVMe disk at devices/NAME with number 259:MINOR. */
static void nvme(const char *name, unsigned minor_no, const char *model, const char *serial)
{
	char rel[256], num[64];

	(void)snprintf(rel, sizeof(rel), "devices/%s/device", name);
	dirs(rel);
	(void)snprintf(rel, sizeof(rel), "devices/%s/device/model", name);
	file_put(at.dir, rel, model);
	(void)snprintf(rel, sizeof(rel), "devices/%s/device/serial", name);
	file_put(at.dir, rel, serial);
	(void)snprintf(rel, sizeof(rel), "devices/%s", name);
	(void)snprintf(num, sizeof(num), "dev/block/259:%u", minor_no);
	link_to(rel, num);
}

/* A mapped device, 253:MINOR, over those named. */
static void mapped(const char *name, unsigned minor_no, const char *a, const char *b)
{
	char rel[256], num[64];

	(void)snprintf(rel, sizeof(rel), "devices/virtual/%s/slaves", name);
	dirs(rel);
	for (int i = 0; i < 2; i++) {
		const char *s = i ? b : a, *base;

		if (!s)
			continue;
		base = strrchr(s, '/') ? strrchr(s, '/') + 1 : s;
		(void)snprintf(rel, sizeof(rel), "devices/virtual/%s/slaves/%s", name, base);
		(void)snprintf(num, sizeof(num), "devices/%s", s);
		link_to(num, rel);
	}
	(void)snprintf(rel, sizeof(rel), "devices/virtual/%s", name);
	(void)snprintf(num, sizeof(num), "dev/block/253:%u", minor_no);
	link_to(rel, num);
}

#define EBS "Amazon Elastic Block Store              \n"

static int setup(void **state)
{
	memset(&at, 0, sizeof(at));
	scratch_make(at.dir, sizeof(at.dir));
	dirs("dev/block");
	nvme("nvme0n1", 0, EBS, "vol0aaaaaaaaaaaaaaaa\n");
	nvme("nvme1n1", 1, EBS, "vol0bbbbbbbbbbbbbbbb \n");
	nvme("nvme2n1", 2, EBS, "vol-0cccccccccccccccc\n");
	nvme("nvme3n1", 3, "Amazon EC2 NVMe Instance Storage        \n", "AWS1234\n");
	nvme("nvme4n1", 4, "Samsung\n", "S123\n");
	nvme("nvme5n1", 5, EBS, "volXYZ\n");
	dirs("devices/nvme1n1/nvme1n1p1");
	file_put(at.dir, "devices/nvme1n1/nvme1n1p1/partition", "1\n");
	link_to("devices/nvme1n1/nvme1n1p1", "dev/block/259:11");
	dirs("devices/loop0");
	link_to("devices/loop0", "dev/block/7:0");
	dirs("devices/vbd/xvdf/xvdf1");
	file_put(at.dir, "devices/vbd/xvdf/xvdf1/partition", "1\n");
	link_to("devices/vbd/xvdf/xvdf1", "dev/block/202:81");
	return 0;
}

static int teardown(void **state)
{
	scratch_remove(at.dir);
	return 0;
}

static int find(unsigned major_no, unsigned minor_no, unsigned pair)
{
	snap_error_clear(&at.err);
	return discover_dev(at.dir, makedev(major_no, minor_no), "/data", pair, &at.out, &at.err);
}

static void a_disk_and_its_partition_are_its_volume(void **state)
{
	assert_int_equal(find(259, 0, 0), 0);
	assert_int_equal(find(259, 11, 1), 0);
	assert_int_equal(find(259, 1, 2), 0);
	assert_int_equal(find(259, 2, 0), 0);
	assert_int_equal(at.out.n, 3);
	assert_string_equal(at.out.v[0].id, "vol-0aaaaaaaaaaaaaaaa");
	assert_string_equal(at.out.v[1].id, "vol-0bbbbbbbbbbbbbbbb");
	assert_string_equal(at.out.v[1].dev, "nvme1n1");
	assert_int_equal(at.out.v[1].pairs, 6);
	assert_string_equal(at.out.v[2].id, "vol-0cccccccccccccccc");
}

static void lvm_and_md_are_followed_to_every_volume(void **state)
{
	mapped("md0", 0, "nvme1n1/nvme1n1p1", "nvme2n1");
	mapped("dm-1", 1, "virtual/md0", NULL);
	mapped("dm-2", 2, "virtual/dm-1", "nvme0n1");
	assert_int_equal(find(253, 2, 0), 0);
	assert_int_equal(at.out.n, 3);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(at.out.v[i].pairs, 1);
	memset(&at.out, 0, sizeof(at.out));
	assert_int_equal(find(253, 1, 0), 0);
	assert_int_equal(at.out.n, 2);
}

static void what_cannot_be_snapshotted_is_refused_with_a_sentence(void **state)
{
	assert_int_equal(find(259, 3, 0), -EOPNOTSUPP);
	assert_says(at.err.msg, "/data lies on nvme3n1, which is instance store");
	assert_int_equal(find(259, 4, 0), -ENODEV);
	assert_says(at.err.msg, "nvme4n1 (Samsung), which is no EBS volume");
	assert_int_equal(find(259, 5, 0), -ENODEV);
	assert_says(at.err.msg, "whose serial number is no volume id");
	assert_int_equal(find(7, 0, 0), -ENODEV);
	assert_says(at.err.msg, "/data lies on loop0, which is no EBS volume; name the volumes with ebs.volumes");
	assert_int_equal(find(0, 42, 0), -ENODEV);
	assert_says(at.err.msg, "lies on no block device of its own");
	assert_int_equal(find(8, 9, 0), -ENODEV);
	mapped("dm-1", 1, "nvme1n1", "nvme3n1"); /* one of two */
	assert_int_equal(find(253, 1, 0), -EOPNOTSUPP);
	mapped("dm-3", 3, NULL, NULL);
	assert_int_equal(find(253, 3, 0), -ENODEV);
	assert_says(at.err.msg, "dm-3, which has no devices below it");
}

static void layers_without_an_end_are_given_up(void **state)
{
	mapped("dm-1", 1, "virtual/dm-2", NULL);
	mapped("dm-2", 2, "virtual/dm-1", NULL);
	assert_int_equal(find(253, 1, 0), -ELOOP);
}

static void xen_names_are_left_to_the_instances_mapping(void **state)
{
	assert_int_equal(find(202, 81, 0), 0);
	assert_string_equal(at.out.v[0].id, "");
	assert_string_equal(at.out.v[0].dev, "xvdf");
	assert_true(discover_same_xen("/dev/sdf", "xvdf"));
	assert_true(discover_same_xen("xvdf", "xvdf"));
	assert_true(discover_same_xen("/dev/sda1", "xvda"));
	assert_true(discover_same_xen("/dev/xvdba", "xvdba"));
	assert_false(discover_same_xen("/dev/sdg", "xvdf"));
	assert_false(discover_same_xen("/dev/sdfa", "xvdf"));
	assert_false(discover_same_xen("/dev/nvme1n1", "xvdf"));
	assert_false(discover_same_xen("/dev/sdf", "nvme0n1"));
}

static void volumes_can_be_named_by_hand(void **state)
{
	assert_int_equal(discover_named(" vol-0123456789abcdef0:vol-12345678\nvol-0123456789abcdef0,", 2, &at.out, &at.err), 0);
	assert_int_equal(at.out.n, 2);
	assert_int_equal(at.out.v[1].pairs, 3);
	assert_int_equal(discover_named("snap-12345678", 1, &at.out, &at.err), -EINVAL);
	assert_says(at.err.msg, "ebs.volumes=snap-12345678: expected ids like");
	assert_true(discover_is_id("i-0123456789abcdef0", "i-"));
	assert_false(discover_is_id("i-0123", "i-"));
	assert_false(discover_is_id("vol-0123456789ABCDEF0", "vol-"));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a_disk_and_its_partition_are_its_volume),
		T(lvm_and_md_are_followed_to_every_volume),
		T(what_cannot_be_snapshotted_is_refused_with_a_sentence),
		T(layers_without_an_end_are_given_up),
		T(xen_names_are_left_to_the_instances_mapping),
		T(volumes_can_be_named_by_hand),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
