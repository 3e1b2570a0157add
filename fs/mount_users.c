/* fs/mount_users.c - who has what open, by /proc: see mount_check.h. A process in another mount namespace is seen by what it
 * has open through the mount, and on the backing if that has the same path there. */
#include "fs/mount_check.h"
#include "base/cleanup.h"
#include "base/statdev.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct finder {
	const struct door_pair *pairs; /* or NULL: any file of `dev` counts */
	unsigned n;
	uint64_t dev;
	bool any; /* with pairs: also what is open through the mount, and for reading */
	const int32_t *skip; /* n_skip process ids that do not count */
	unsigned n_skip;
	char *buf;
	size_t cap, len;
	unsigned found;
	const char *where; /* the backing, or mountpoint, of the first that was found */
};

void check_comm(int32_t pid, char *comm, size_t cap)
{
	char path[48];
	cleanup_fd int fd = -1;
	ssize_t n;

	(void)snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, comm, cap - 1);
	comm[n > 0 ? n : 0] = '\0';
	comm[strcspn(comm, "\n")] = '\0';
}

static void found_one(struct finder *f, const char *pid, const char *file)
{
	char comm[32];
	int n;

	if (f->found++ >= 5)
		return;
	check_comm(atoi(pid), comm, sizeof(comm));
	n = snprintf(f->buf + f->len, f->cap - f->len, "%s%s(%s)%s%.100s", f->len ? ", " : "", comm, pid,
		     *file ? " " : "", file);
	if (n > 0)
		f->len += (size_t)n < f->cap - f->len ? (size_t)n : f->cap - f->len - 1;
}

/* Of the open; O_PATH, which opens nothing, when they cannot be read. */
static unsigned flags_of(const char *pid, const char *fd)
{
	char path[64], line[128];
	unsigned flags = O_PATH;
	FILE *f;

	(void)snprintf(path, sizeof(path), "/proc/%.20s/fdinfo/%.20s", pid, fd);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "flags: %o", &flags) == 1)
			break;
	if (f)
		(void)fclose(f);
	return flags;
}

/* Where that file lies of the pair, if it counts; NULL: elsewhere. */
static const char *place_of(const struct finder *f, const struct door_pair *p, uint64_t dev, const char *target)
{
	if (f->any && dev == p->mount_dev)
		return p->mountpoint;
	return dev == p->backing_dev && check_is_below(target, p->backing) ? p->backing : NULL;
}

/* A regular file, open in that process: does it count? */
static void look_at_file(struct finder *f, const char *pid, const char *entry, uint64_t dev, const char *target)
{
	const char *where;
	unsigned flags;

	for (unsigned i = 0; i < f->n; i++) {
		where = place_of(f, &f->pairs[i], dev, target);
		flags = where ? flags_of(pid, entry) : O_PATH;
		if (flags & O_PATH || (!f->any && (flags & O_ACCMODE) == O_RDONLY))
			continue;
		f->where = f->where ? f->where : where;
		found_one(f, pid, target);
		return;
	}
}

/* A link of /proc/PID that stands for an open file: does it count? */
static void look_at(struct finder *f, const char *pid, const char *dir, const char *entry)
{
	char link[96], target[1024];
	uint64_t dev;
	unsigned type;
	ssize_t n;

	(void)snprintf(link, sizeof(link), "/proc/%.20s/%s%s%.40s", pid, dir, *entry ? "/" : "", entry);
	if (statdev(link, &dev, &type) < 0)
		return;
	if (!f->pairs) {
		if (dev == f->dev)
			found_one(f, pid, "");
		return;
	}
	n = readlink(link, target, sizeof(target) - 1);
	if (n <= 0)
		return;
	target[n] = '\0';
	if (S_ISREG(type))
		look_at_file(f, pid, entry, dev, target);
}

static bool skipped(const struct finder *f, int pid)
{
	for (unsigned i = 0; i < f->n_skip; i++)
		if (f->skip[i] == pid)
			return true;
	return pid == getpid();
}

static void each_process(struct finder *f)
{
	DIR *proc = opendir("/proc"), *fds;
	struct dirent *p, *e;
	char path[64];
	unsigned before;

	while (proc && (p = readdir(proc))) {
		if (p->d_name[0] < '0' || p->d_name[0] > '9' || skipped(f, atoi(p->d_name)))
			continue;
		before = f->found;
		(void)snprintf(path, sizeof(path), "/proc/%.20s/fd", p->d_name);
		fds = opendir(path);
		while (fds && (e = readdir(fds)) && f->found == before)
			if (e->d_name[0] != '.')
				look_at(f, p->d_name, "fd", e->d_name);
		if (fds)
			(void)closedir(fds);
		if (!f->pairs && f->found == before)
			look_at(f, p->d_name, "cwd", "");
		if (!f->pairs && f->found == before)
			look_at(f, p->d_name, "root", "");
	}
	if (proc)
		(void)closedir(proc);
}

int check_writers(const struct door_pair *pairs, unsigned n, struct snap_error *err)
{
	char names[400] = "";
	struct finder f = { .pairs = pairs, .n = n, .buf = names, .cap = sizeof(names) };

	each_process(&f);
	if (!f.found)
		return 0;
	return snap_error_set(err, -EBUSY, "%s is open for writing by %u process%s: %s; stop them, mount, start "
					   "them again",
			      f.where, f.found, f.found == 1 ? "" : "es", names);
}

int check_open(const struct door_pair *pairs, unsigned n, const int32_t *skip, unsigned n_skip, struct snap_error *err)
{
	char names[400] = "";
	struct finder f = { .pairs = pairs, .n = n, .any = true, .skip = skip, .n_skip = n_skip, .buf = names, .cap = sizeof(names) };

	each_process(&f);
	if (!f.found)
		return 0;
	return snap_error_set(err, -EBUSY, "%s has files open in %u process%s: %s", f.where, f.found, f.found == 1 ? "" : "es", names);
}

void check_users(uint64_t dev, char *buf, size_t cap)
{
	struct finder f = { .dev = dev, .buf = buf, .cap = cap };

	buf[0] = '\0';
	each_process(&f);
}
