/* snapshot/ebs_tool/assemble.c - from attached volumes to mounted file systems: devices, partitions, md, LVM under new
 * names and ids (the originals may be there), mounts. Every step that changed something is undone when a later one fails.
 * Called by restore.c and snapshot/verify/volumes.c. Blocks as the programs it runs do. Errors: -errno with the sentence. */
#include "snapshot/ebs_tool/tool.h"
#include "base/clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_B (4u << 20)

const char *assemble_lvm_devices = "/etc/lvm/devices/system.devices";

/* ---- devices ---- */

/* "vol-0abc" is "vol0abc" in NVMe serial numbers. */
static bool find_nvme(const char *volume, char *path, size_t cap)
{
	DIR *d = opendir("/sys/block");
	char serial[64], file[300];
	struct dirent *e;
	bool found = false;

	while (d && !found && (e = readdir(d))) {
		FILE *f;

		(void)snprintf(file, sizeof(file), "/sys/block/%s/device/serial", e->d_name);
		f = strncmp(e->d_name, "nvme", 4) == 0 ? fopen(file, "re") : NULL;
		if (f && fscanf(f, "%63s", serial) == 1 && strncmp(serial, "vol", 3) == 0 &&
		    strcmp(serial + 3 + (serial[3] == '-'), volume + 4) == 0) {
			(void)snprintf(path, cap, "/dev/%.200s", e->d_name);
			found = true;
		}
		if (f)
			(void)fclose(f);
	}
	if (d)
		(void)closedir(d);
	return found;
}

static bool is_block(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISBLK(st.st_mode);
}

int assemble_wait_device(struct member *m, uint32_t max_ms, struct snap_error *err)
{
	uint64_t end = clock_boot_ns() + max_ms * NS_PER_MS;
	char link[120], xen[64], *real;

	(void)snprintf(link, sizeof(link), "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol%s", m->volume + 4);
	(void)snprintf(xen, sizeof(xen), "/dev/xvd%.40s", strlen(m->device) > 7 ? m->device + 7 : "");
	while (!tool_stop) {
		const char *hit = is_block(link) ? link : is_block(xen) && strncmp(m->device, "/dev/sd", 7) == 0 ? xen : is_block(m->device) ? m->device : NULL;

		if (!hit && find_nvme(m->volume, m->path, sizeof(m->path)) && is_block(m->path))
			hit = m->path;
		real = hit ? realpath(hit, NULL) : NULL;
		if (real) {
			(void)snprintf(m->path, sizeof(m->path), "%.255s", real);
			free(real);
			return 0;
		}
		if (clock_boot_ns() > end)
			return snap_error_set(err, -ETIMEDOUT, "volume %s is attached as %s, but no device of it has shown up here within %u s; is "
							       "this the instance?", m->volume, m->device, max_ms / 1000);
		tool_sleep_ms(200);
	}
	return snap_error_set(err, -EINTR, "interrupted");
}

int assemble_read_all(const struct members *ms, struct snap_error *err)
{
	char *buf = aligned_alloc(4096, READ_B);
	int r = buf ? 0 : snap_error_set(err, -ENOMEM, "out of memory");

	for (unsigned i = 0; r == 0 && i < ms->n; i++) {
		int fd = open(ms->m[i].path, O_RDONLY | O_DIRECT | O_CLOEXEC);
		off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END), at = 0;
		unsigned said = 0;
		ssize_t n = 1;

		while (size > 0 && n > 0 && at < size && !tool_stop) {
			n = pread(fd, buf, READ_B, at);
			at += n > 0 ? n : 0;
			if (n > 0 && (unsigned)(at * 100 / size) / 10 > said) {
				said = (unsigned)(at * 100 / size) / 10;
				tool_say("reading %s: %u %%", ms->m[i].volume, said * 10);
			}
		}
		if (tool_stop)
			r = snap_error_set(err, -EINTR, "interrupted");
		else if (fd < 0 || size < 0 || n < 0)
			r = snap_error_set(err, -errno, "read %s (%s): %s", ms->m[i].path, ms->m[i].volume, strerror(errno));
		if (fd >= 0)
			(void)close(fd);
	}
	free(buf);
	return r;
}

/* ---- layers ---- */

/* Paths of a place's members, with their partition. */
static void leaves(const struct members *ms, const struct place *p, char path[][270], const char *out[])
{
	unsigned n = 0;

	for (unsigned i = 0; i < ms->n; i++) {
		const char *d = ms->m[i].path;

		if (!(p->members & 1ul << i))
			continue;
		(void)snprintf(path[n], 270, "%s%s%s", d, *p->part && strchr("0123456789", d[strlen(d) - 1]) ? "p" : "", p->part);
		out[n] = path[n];
		n++;
	}
	out[n] = NULL;
}

/* An array of the leaves, which it replaces. */
static int build_md(struct undo *u, const char *name, const char *leaf[], struct snap_error *err)
{
	const char *argv[VOLS_MAX + 6] = { "mdadm", "--assemble", "--update=uuid", name }; /* the original may be here */
	int r;

	for (unsigned i = 0; leaf[i]; i++)
		argv[4 + i] = leaf[i];
	r = undo_intend(u, "md", name, err);
	r = r < 0 ? r : tool_exec(argv, err);
	if (r == 0)
		undo_note(u, UNDO_MD, name);
	leaf[0] = name;
	leaf[1] = NULL;
	return r;
}

/* Of the leaves, with a new name and new ids. Where LVM looks at listed devices only, it is told of them. */
static int build_vg(struct undo *u, const char *name, const char *const leaf[], struct snap_error *err)
{
	const char *argv[VOLS_MAX + 6] = { "vgimportclone", "-n", name };
	bool listed = access(assemble_lvm_devices, F_OK) == 0;
	unsigned at = 3;
	int r = 0;

	if (listed)
		argv[at++] = "--importdevices";
	for (unsigned i = 0; leaf[i]; i++)
		argv[at++] = leaf[i];
	for (unsigned i = 0; listed && r == 0 && leaf[i]; i++)
		r = undo_intend(u, "pv", leaf[i], err);
	r = r < 0 ? r : undo_intend(u, "vg", name, err);
	r = r < 0 ? r : tool_exec(argv, err);
	if (r < 0)
		return r;
	for (unsigned i = 0; listed && leaf[i]; i++)
		undo_note(u, UNDO_PV, leaf[i]);
	undo_note(u, UNDO_VG, name); /* before it is active: that may end half-way */
	return tool_exec((const char *[]){ "vgchange", "-ay", name, NULL }, err);
}

/* The block device with the file system of pair k. Pairs before it may have built the volume group that it lies in. */
static int build(struct undo *u, const struct members *ms, const struct place *p, unsigned k, char *dev, size_t cap,
		 struct snap_error *err)
{
	static char path[VOLS_MAX][270]; /* one thread */
	const char *leaf[VOLS_MAX + 2];
	char vg[80], md[80];
	unsigned first = 0;
	int r = 0;

	leaves(ms, &p[k], path, leaf);
	(void)snprintf(dev, cap, "%s", leaf[0]);
	while (*p[k].vg && strcmp(p[first].vg, p[k].vg) != 0)
		first++;
	(void)snprintf(vg, sizeof(vg), "stillfs_%.8s_%u", ms->set->id, first);
	(void)snprintf(md, sizeof(md), "/dev/md/stillfs-%.8s-%u", ms->set->id, k);
	if (*p[k].vg && first < k) {
		(void)snprintf(dev, cap, "/dev/%s/%s", vg, p[k].lv);
		return 0;
	}
	if (*p[k].md) {
		r = build_md(u, md, leaf, err);
		(void)snprintf(dev, cap, "%s", md);
	}
	if (r == 0 && *p[k].vg) {
		r = build_vg(u, vg, leaf, err);
		(void)snprintf(dev, cap, "/dev/%s/%s", vg, p[k].lv);
	}
	return r;
}

/* A volume group is put together from all its volumes, also those below other pairs alone. */
static void join_groups(struct place *p, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		for (unsigned k = 0; k < i; k++)
			if (*p[i].vg && strcmp(p[i].vg, p[k].vg) == 0)
				p[i].members = p[k].members |= p[i].members;
}

static int make_dir(const char *path, struct snap_error *err)
{
	char part[512];

	for (const char *s = path + 1;; s++) {
		if (*s && *s != '/')
			continue;
		(void)snprintf(part, sizeof(part), "%.*s", (int)(s - path), path);
		if (mkdir(part, 0755) < 0 && errno != EEXIST)
			return snap_error_set(err, -errno, "create %s: %s", part, strerror(errno));
		if (!*s)
			return 0;
	}
}

static bool kernel_knows(const char *fs)
{
	FILE *f = fopen("/proc/filesystems", "re");
	char line[64];
	bool is = false;

	while (f && !is && fgets(line, sizeof(line), f)) {
		const char *tab = strchr(line, '\t');

		line[strcspn(line, "\n")] = '\0';
		is = tab && strcmp(tab + 1, fs) == 0;
	}
	if (f)
		(void)fclose(f);
	return is;
}

static int mount_one(struct undo *u, const char *dev, const char *fs, const char *where, struct snap_error *err)
{
	const char *argv[8];
	unsigned n = 0;
	int r = make_dir(where, err);

	argv[n++] = "mount";
	if (*fs) {
		argv[n++] = "-t";
		argv[n++] = fs;
	}
	if (strcmp(fs, "xfs") == 0) { /* the original may be mounted */
		argv[n++] = "-o";
		argv[n++] = "nouuid";
	}
	argv[n++] = dev;
	argv[n++] = where;
	argv[n] = NULL;
	if (r < 0)
		return r;
	r = tool_exec(argv, err);
	if (r == 0)
		undo_note(u, UNDO_MOUNT, where);
	else if (r == -EIO && kernel_knows(fs)) { /* asked now: mount(8) has loaded its module */
		snap_error_clear(err);
		r = snap_error_set(err, -EBADMSG, "mount failed, see above: the %s of %s cannot be mounted", fs, dev);
	}
	return r;
}

int assemble_mount(struct undo *u, const struct members *ms, const char *dir, char at[TOOL_PAIRS][700], struct snap_error *err)
{
	static struct place p[TOOL_PAIRS]; /* one thread, once a process */
	static char where[TOOL_PAIRS][400];
	char dev[400];
	unsigned n = ms->n_pairs;
	int r = n ? 0 : snap_error_set(err, -EINVAL, "the tags of set %s do not say what its volumes hold: mount them by hand", ms->set->name);

	for (unsigned i = 0; r == 0 && i < n; i++)
		r = place_read(ms->pair[i], ms, &p[i], err);
	if (r == 0)
		join_groups(p, n);
	for (unsigned i = 0; r == 0 && i < n; i++) {
		unsigned k = 0;

		/* pairs that share a file system share the mount */
		while (k < i && !(p[k].members == p[i].members && strcmp(p[k].vg, p[i].vg) == 0 && strcmp(p[k].lv, p[i].lv) == 0 &&
				  strcmp(p[k].part, p[i].part) == 0))
			k++;
		if (k < i) {
			memcpy(where[i], where[k], sizeof(where[i]));
			continue;
		}
		if (i)
			(void)snprintf(where[i], sizeof(where[i]), "%.380s.%u", dir, i);
		else
			(void)snprintf(where[i], sizeof(where[i]), "%.390s", dir);
		r = build(u, ms, p, i, dev, sizeof(dev), err);
		if (r == 0)
			r = mount_one(u, dev, p[i].fs, where[i], err);
	}
	for (unsigned i = 0; r == 0 && i < n; i++)
		(void)snprintf(at[i], sizeof(at[i]), "%.399s%.259s", where[i], p[i].sub);
	return r;
}
