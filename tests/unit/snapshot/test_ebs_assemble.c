/* tests/unit/snapshot/test_ebs_assemble.c - how `stillctl restore` puts a set's volumes together: the commands it gives, exactly
 * and in their order, for partitions, LVM and md; and what it undoes when one of them fails. Neither LVM nor md is asked: the
 * commands are written down. */
#include "tests/unit/snapshot/unit.h"
#include "snapshot/ebs_tool/tool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define A "vol-0aaaaaaaaaaaaaaaa"
#define B "vol-0bbbbbbbbbbbbbbbb"
#define ID "0123456789abcdef0123456789abcdef"

static struct {
	char dir[128], said[4000];
	unsigned n, fail_at; /* the command that fails, from 1; 0: none */
	struct members ms;
	struct ebs ebs;
	struct tool tool;
} at;

volatile int tool_stop;

static void say_line(const char *text)
{
	(void)strncat(at.said, text, sizeof(at.said) - strlen(at.said) - 2);
	(void)strcat(at.said, "\n");
}

int tool_exec(const char *const argv[], struct snap_error *err)
{
	char line[600] = "";

	for (unsigned i = 0; argv[i]; i++) {
		const char *word = argv[i], *below = strstr(word, at.dir);

		(void)snprintf(line + strlen(line), sizeof(line) - strlen(line), "%s%s%s", i ? " " : "", below ? "DIR" : "",
			       below ? below + strlen(at.dir) : word);
	}
	say_line(line);
	return ++at.n == at.fail_at ? snap_error_set(err, -EIO, "%s failed", argv[0]) : 0;
}

int __wrap_api_call(struct api *a, const char *action, const struct vbuf *form, bool once, struct xml **out, struct snap_error *err);
int __wrap_api_call(struct api *a, const char *action, const struct vbuf *form, bool once, struct xml **out, struct snap_error *err)
{
	char line[200];

	*out = NULL;
	(void)snprintf(line, sizeof(line), "%s%.150s", action, vbuf_text(form));
	say_line(line);
	return 0;
}

void tool_say(const char *fmt, ...)
{
}

void tool_sleep_ms(unsigned ms)
{
}

static int setup(void **state)
{
	memset(&at, 0, sizeof(at));
	scratch_make(at.dir, sizeof(at.dir));
	assemble_lvm_devices = "/nonexistent";
	at.ms.set = set_new();
	(void)snprintf(at.ms.set->id, sizeof(at.ms.set->id), ID);
	at.ms.n = 2;
	(void)snprintf(at.ms.m[0].was, sizeof(at.ms.m[0].was), A);
	(void)snprintf(at.ms.m[0].volume, sizeof(at.ms.m[0].volume), "vol-new-a");
	(void)snprintf(at.ms.m[0].path, sizeof(at.ms.m[0].path), "/dev/nvme3n1");
	(void)snprintf(at.ms.m[1].was, sizeof(at.ms.m[1].was), B);
	(void)snprintf(at.ms.m[1].volume, sizeof(at.ms.m[1].volume), "vol-new-b");
	(void)snprintf(at.ms.m[1].path, sizeof(at.ms.m[1].path), "/dev/xvdh");
	(void)snprintf(at.ebs.instance, sizeof(at.ebs.instance), "i-0");
	at.tool.e = &at.ebs;
	return 0;
}

static int teardown(void **state)
{
	set_free(at.ms.set);
	scratch_remove(at.dir);
	return 0;
}

static void pairs(const char *first, const char *second)
{
	at.ms.n_pairs = second ? 2 : 1;
	(void)snprintf(at.ms.pair[0], sizeof(at.ms.pair[0]), "%s", first);
	(void)snprintf(at.ms.pair[1], sizeof(at.ms.pair[1]), "%s", second ? second : "");
}

/* The commands of a restore, of which command `fail_at` fails; then, as restore.c does, undone or kept. */
static int assemble(unsigned fail_at)
{
	struct undo *u = undo_new(-1);
	struct snap_error err = { 0 };
	static char paths[TOOL_PAIRS][700];
	char where[200];
	int r;

	at.said[0] = '\0';
	at.n = 0;
	at.fail_at = fail_at;
	(void)snprintf(where, sizeof(where), "%s/there", at.dir);
	for (unsigned i = 0; i < at.ms.n; i++) {
		undo_note(u, UNDO_VOLUME, at.ms.m[i].volume);
		undo_note(u, UNDO_ATTACHMENT, at.ms.m[i].volume);
	}
	r = assemble_mount(u, &at.ms, where, paths, &err);
	if (r < 0)
		say_line("undo:");
	(void)undo_all(u, &at.tool, r == 0);
	return r;
}

static void gives(const char *commands)
{
	assert_int_equal(assemble(0), 0);
	assert_string_equal(at.said, commands);
}

#define GONE "DetachVolume&VolumeId=vol-new-b&InstanceId=i-0\nDeleteVolume&VolumeId=vol-new-b\n" \
	     "DetachVolume&VolumeId=vol-new-a&InstanceId=i-0\nDeleteVolume&VolumeId=vol-new-a\n"

static void a_partition_is_named_as_its_device_wants(void **state)
{
	pairs("/var/lib/mysql;fs=xfs;sub=/mysql;stack=part:2;nvme1n1=" A, "/var/log/binlog;fs=ext4;stack=part:1;sdb=" B);
	gives("mount -t xfs -o nouuid /dev/nvme3n1p2 DIR/there\n"
	      "mount -t ext4 /dev/xvdh1 DIR/there.1\n");
}

static void pairs_of_one_file_system_are_mounted_once(void **state)
{
	pairs("/var/lib/mysql;fs=xfs;sub=/mysql;nvme1n1=" A, "/var/log/binlog;fs=xfs;sub=/binlog;nvme1n1=" A);
	gives("mount -t xfs -o nouuid /dev/nvme3n1 DIR/there\n");
}

#define IMPORT "vgimportclone -n stillfs_01234567_0 /dev/nvme3n1 /dev/xvdh\n"
#define UP "vgchange -ay stillfs_01234567_0\n"
#define DOWN "vgchange -an stillfs_01234567_0\n"

static void a_volume_group_gets_a_new_name_and_new_ids(void **state)
{
	pairs("/var/lib/mysql;fs=xfs;sub=/mysql;stack=lvm:vg--a-data--1;nvme1n1=" A ";nvme2n1=" B, NULL);
	gives(IMPORT UP "mount -t xfs -o nouuid /dev/stillfs_01234567_0/data-1 DIR/there\n");
}

static void volumes_of_one_group_are_made_once_from_all_of_its_disks(void **state)
{
	pairs("/var/lib/mysql;fs=xfs;stack=lvm:vg-data;nvme1n1=" A, "/var/log/binlog;fs=ext4;stack=lvm:vg-log;nvme2n1=" B);
	gives(IMPORT UP "mount -t xfs -o nouuid /dev/stillfs_01234567_0/data DIR/there\n"
	      "mount -t ext4 /dev/stillfs_01234567_0/log DIR/there.1\n");
	pairs("/var/lib/mysql;fs=xfs;stack=lvm:vg-data;nvme1n1=" A, "/var/log/binlog;fs=ext4;stack=lvm:other-data;nvme2n1=" B);
	gives("vgimportclone -n stillfs_01234567_0 /dev/nvme3n1\n" UP "mount -t xfs -o nouuid /dev/stillfs_01234567_0/data DIR/there\n"
	      "vgimportclone -n stillfs_01234567_1 /dev/xvdh\nvgchange -ay stillfs_01234567_1\n"
	      "mount -t ext4 /dev/stillfs_01234567_1/data DIR/there.1\n");
}

static void where_lvm_keeps_a_list_of_devices_it_is_told_of_them(void **state)
{
	char list[200];

	file_put(at.dir, "system.devices", "");
	(void)snprintf(list, sizeof(list), "%s/system.devices", at.dir);
	assemble_lvm_devices = list;
	pairs("/var/lib/mysql;fs=xfs;stack=lvm:vg-data;nvme1n1=" A ";nvme2n1=" B, NULL);
	assert_int_equal(assemble(2), -EIO);
	assert_string_equal(at.said, "vgimportclone -n stillfs_01234567_0 --importdevices /dev/nvme3n1 /dev/xvdh\n" UP "undo:\n" DOWN
				     "lvmdevices --deldev /dev/xvdh\nlvmdevices --deldev /dev/nvme3n1\n" GONE);
}

#define MD "mdadm --assemble --update=uuid /dev/md/stillfs-01234567-0 /dev/nvme3n1p1 /dev/xvdh1\n"
#define MD_IMPORT "vgimportclone -n stillfs_01234567_0 /dev/md/stillfs-01234567-0\n"
#define MD_MOUNT "mount -t xfs -o nouuid /dev/stillfs_01234567_0/data DIR/there\n"
#define MD_STOP "mdadm --stop /dev/md/stillfs-01234567-0\n"

/* Whichever command fails, all before it is undone in reverse, and then the volumes go. */
static void what_was_done_before_a_failure_is_undone_in_reverse(void **state)
{
	static const struct {
		unsigned fail_at;
		const char *said;
	} row[] = {
		{ 1, MD "undo:\n" GONE },
		{ 2, MD MD_IMPORT "undo:\n" MD_STOP GONE },
		{ 3, MD MD_IMPORT UP "undo:\n" DOWN MD_STOP GONE },
		{ 4, MD MD_IMPORT UP MD_MOUNT "undo:\n" DOWN MD_STOP GONE },
		{ 5, MD MD_IMPORT UP MD_MOUNT "mount -t ext4 /dev/stillfs_01234567_0/log DIR/there.1\nundo:\numount DIR/there\n" DOWN MD_STOP GONE },
	};

	pairs("/var/lib/mysql;fs=xfs;stack=lvm:vg-data>md:md0>part:1;nvme1n1=" A ";nvme2n1=" B,
	      "/var/log/binlog;fs=ext4;stack=lvm:vg-log>md:md0>part:1;nvme1n1=" A ";nvme2n1=" B);
	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		int r = assemble(row[i].fail_at);

		/* of a file system that this kernel knows it is the file system */
		assert_true(r == -EIO || (row[i].fail_at > 3 && r == -EBADMSG));
		assert_string_equal(at.said, row[i].said);
	}
	gives(MD MD_IMPORT UP MD_MOUNT "mount -t ext4 /dev/stillfs_01234567_0/log DIR/there.1\n");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a_partition_is_named_as_its_device_wants),
		T(pairs_of_one_file_system_are_mounted_once),
		T(a_volume_group_gets_a_new_name_and_new_ids),
		T(volumes_of_one_group_are_made_once_from_all_of_its_disks),
		T(where_lvm_keeps_a_list_of_devices_it_is_told_of_them),
		T(what_was_done_before_a_failure_is_undone_in_reverse),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
