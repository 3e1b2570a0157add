/* snapshot/ebs/discover.c - see discover.h. */
#include "snapshot/ebs/discover.h"
#include "base/cleanup.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

#define PATH_LEN 1024 /* of what sysfs has */
#define DEPTH_MAX 12 /* LVM on md on crypt on partition ... */

struct walk {
	const char *backing;
	unsigned pair;
	struct vols *out;
};

bool discover_is_id(const char *id, const char *prefix)
{
	size_t p = strlen(prefix), n = strlen(id);

	return strncmp(id, prefix, p) == 0 && n - p >= 8 && n - p <= 17 && strspn(id + p, "0123456789abcdef") == n - p;
}

static int add(struct vols *out, const char *id, const char *dev, unsigned pairs, struct snap_error *err)
{
	unsigned i = 0;

	while (i < out->n && !(*id ? strcmp(out->v[i].id, id) == 0 : !out->v[i].id[0] && strcmp(out->v[i].dev, dev) == 0))
		i++;
	if (i == VOLS_MAX)
		return snap_error_set(err, -E2BIG, "more than %d volumes", VOLS_MAX);
	if (i == out->n) {
		out->v[out->n] = (struct vol){ 0 };
		(void)snprintf(out->v[i].id, sizeof(out->v[i].id), "%.23s", id);
		(void)snprintf(out->v[i].dev, sizeof(out->v[i].dev), "%s", dev);
		out->n++;
	}
	out->v[i].pairs |= pairs;
	return 0;
}

static int read_attr(const char *dir, const char *name, char *buf, size_t cap)
{
	char path[PATH_LEN];
	int n = snprintf(path, sizeof(path), "%s/%s", dir, name);
	cleanup_fd int fd = n < 0 || (size_t)n >= sizeof(path) ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, buf, cap - 1);

	if (got < 0) {
		buf[0] = '\0';
		return -ENOENT;
	}
	while (got && strchr(" \t\n", buf[got - 1]))
		got--;
	buf[got] = '\0';
	return 0;
}

static bool there(const char *dir, const char *name)
{
	char path[PATH_LEN];
	int n = snprintf(path, sizeof(path), "%s/%s", dir, name);

	return n > 0 && (size_t)n < sizeof(path) && access(path, F_OK) == 0;
}

/* A device with nothing below it. */
static int leaf(struct walk *w, const char *dir, const char *name, struct snap_error *err)
{
	char model[64], serial[64], id[72];

	if (strncmp(name, "xvd", 3) == 0)
		return add(w->out, "", name, 1u << w->pair, err);
	if (read_attr(dir, "device/model", model, sizeof(model)) < 0)
		return snap_error_set(err, -ENODEV, "%s lies on %s, which is no EBS volume; name the volumes with ebs.volumes if you "
						    "know better", w->backing, name);
	if (strcmp(model, "Amazon EC2 NVMe Instance Storage") == 0)
		return snap_error_set(err, -EOPNOTSUPP, "%s lies on %s, which is instance store: it cannot be snapshotted and is "
							"lost when the instance stops; move it to an EBS volume", w->backing, name);
	if (strcmp(model, "Amazon Elastic Block Store") != 0)
		return snap_error_set(err, -ENODEV, "%s lies on %s (%s), which is no EBS volume", w->backing, name, model);
	if (read_attr(dir, "device/serial", serial, sizeof(serial)) < 0 || strncmp(serial, "vol", 3) != 0)
		return snap_error_set(err, -ENODEV, "%s lies on %s, whose serial number is no volume id", w->backing, name);
	(void)snprintf(id, sizeof(id), "vol-%s", serial + (serial[3] == '-' ? 4 : 3));
	if (!discover_is_id(id, "vol-"))
		return snap_error_set(err, -ENODEV, "%s lies on %s, whose serial number is no volume id", w->backing, name);
	return add(w->out, id, name, 1u << w->pair, err);
}

static int descend(struct walk *w, const char *dir, unsigned depth, struct snap_error *err);

/* What lies below a mapped device. 1: nothing does. */
static int slaves(struct walk *w, const char *dir, unsigned depth, struct snap_error *err)
{
	char path[PATH_LEN];
	struct dirent *e;
	int r = 1, n;
	DIR *d;

	n = snprintf(path, sizeof(path), "%s/slaves", dir);
	d = n > 0 && (size_t)n < sizeof(path) ? opendir(path) : NULL;
	while (d && r >= 0 && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		n = snprintf(path, sizeof(path), "%s/slaves/%s", dir, e->d_name);
		cleanup_free char *real = n > 0 && (size_t)n < sizeof(path) ? realpath(path, NULL) : NULL;

		if (!real)
			r = snap_error_set(err, -ENODEV, "%s: %s cannot be followed in sysfs", w->backing, e->d_name);
		else
			r = descend(w, real, depth + 1, err);
	}
	if (d)
		(void)closedir(d);
	return r;
}

/* One layer of the pair's stack, once: two volumes below one LVM are one. */
static void add_layer(struct walk *w, const char *kind, const char *name)
{
	char *stack = w->pair < VOLS_PAIRS ? w->out->stack[w->pair] : NULL, layer[100];
	size_t n = stack ? strlen(stack) : 0;

	(void)snprintf(layer, sizeof(layer), "%s:%.80s", kind, name);
	if (stack && !strstr(stack, layer) && n + strlen(layer) + 2 < VOLS_STACK)
		(void)snprintf(stack + n, VOLS_STACK - n, "%s%s", n ? ">" : "", layer);
}

static void note_layers(struct walk *w, const char *dir, const char *whole, const char *name)
{
	char text[128], uuid[128];

	if (strcmp(dir, whole) != 0 && read_attr(dir, "partition", text, sizeof(text)) == 0)
		add_layer(w, "part", text);
	if (strncmp(name, "md", 2) == 0)
		add_layer(w, "md", name);
	if (strncmp(name, "dm-", 3) == 0 && read_attr(dir, "dm/name", text, sizeof(text)) == 0 &&
	    read_attr(dir, "dm/uuid", uuid, sizeof(uuid)) == 0)
		add_layer(w, strncmp(uuid, "LVM-", 4) == 0 ? "lvm" : strncmp(uuid, "CRYPT-", 6) == 0 ? "crypt" : "dm", text);
}

static int descend(struct walk *w, const char *dir, unsigned depth, struct snap_error *err)
{
	char whole[PATH_LEN];
	const char *name;
	int r;

	if (depth > DEPTH_MAX)
		return snap_error_set(err, -ELOOP, "%s: too many layers of devices", w->backing);
	(void)snprintf(whole, sizeof(whole), "%s", dir);
	if (there(whole, "partition"))
		*strrchr(whole, '/') = '\0';
	name = strrchr(whole, '/') + 1;
	note_layers(w, dir, whole, name);
	r = slaves(w, whole, depth, err);
	if (r != 1)
		return r;
	if (strncmp(name, "dm-", 3) == 0 || strncmp(name, "md", 2) == 0)
		return snap_error_set(err, -ENODEV, "%s lies on %s, which has no devices below it", w->backing, name);
	return leaf(w, whole, name, err);
}

int discover_dev(const char *sysfs, uint64_t dev, const char *backing, unsigned pair, struct vols *out,
		 struct snap_error *err)
{
	struct walk w = { .backing = backing, .pair = pair, .out = out };
	cleanup_free char *real = NULL;
	char path[PATH_LEN];

	(void)snprintf(path, sizeof(path), "%.200s/dev/block/%u:%u", sysfs, major(dev), minor(dev));
	if (major(dev) != 0)
		real = realpath(path, NULL);
	if (!real)
		return snap_error_set(err, -ENODEV, "%s lies on no block device of its own (btrfs, ZFS, overlay, network); name the "
						    "volumes with ebs.volumes", backing);
	return descend(&w, real, 0, err);
}

int discover_named(const char *text, unsigned n_pairs, struct vols *out, struct snap_error *err)
{
	static const char sep[] = " ,:\n\t";
	char id[64];
	int r = 0;

	for (text += strspn(text, sep); r == 0 && *text; text += strspn(text, sep)) {
		size_t n = strcspn(text, sep);

		(void)snprintf(id, sizeof(id), "%.*s", (int)(n < 63 ? n : 63), text);
		if (!discover_is_id(id, "vol-"))
			return snap_error_set(err, -EINVAL, "ebs.volumes=%s: expected ids like vol-0123456789abcdef0", id);
		r = add(out, id, "", (1u << n_pairs) - 1, err);
		text += n;
	}
	return r;
}

bool discover_same_xen(const char *mapped, const char *kernel)
{
	const char *m = strncmp(mapped, "/dev/", 5) == 0 ? mapped + 5 : mapped;
	size_t n;

	if (strncmp(m, "xvd", 3) == 0)
		m += 3;
	else if (strncmp(m, "sd", 2) == 0)
		m += 2;
	else
		return false;
	if (strncmp(kernel, "xvd", 3) != 0)
		return false;
	kernel += 3;
	n = strspn(m, "abcdefghijklmnopqrstuvwxyz"); /* then digits of a partition */
	return n && strspn(kernel, "abcdefghijklmnopqrstuvwxyz") == n && strncmp(m, kernel, n) == 0 &&
	       strspn(m + n, "0123456789") == strlen(m + n) && strspn(kernel + n, "0123456789") == strlen(kernel + n);
}
