/* tools/stillctl/cmd_restore_local.c - give the data of a set of provider local back: into a new directory, by reflink. What
 * writes into a live mount is restore_place.c. See ctl.h.
 * Order: everything is made in DIR.restoring-PID and renamed at the end, so that DIR is whole or not there. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/reflink.h"
#include "base/xattrs.h"
#include "ctl.h"
#include "restore.h"

/* ---- sha256sum on what was restored ---- */

/* The manifest's names begin with "data/". */
static void feed(int dir, int out)
{
	int fd = openat(dir, "manifest.sha256", O_RDONLY | O_CLOEXEC);
	FILE *in = fd < 0 ? NULL : fdopen(fd, "re"), *to = fdopen(out, "we");
	cleanup_free char *line = NULL;
	size_t cap = 0;

	while (in && to && getline(&line, &cap, in) > 0) {
		char *name = strstr(line, "  data/");

		if (name)
			fprintf(to, "%.*s  %s", (int)(name - line), line, name + 7);
	}
	if (in)
		(void)fclose(in);
	if (to)
		(void)fclose(to);
}

static int check_manifest(const struct restore *r, const char *dir)
{
	static char tool[] = "sha256sum", a[] = "--check", b[] = "--quiet", c[] = "--strict", d[] = "-";
	char *const argv[] = { tool, a, b, c, d, NULL };
	int p[2], status = 0;
	pid_t pid = pipe2(p, O_CLOEXEC) < 0 ? -1 : fork();

	if (pid == 0) {
		if (dup2(p[0], 0) < 0 || dup2(2, 1) < 0 || chdir(dir) < 0)
			_exit(126);
		(void)execvp(tool, argv);
		_exit(127);
	}
	if (pid < 0)
		return ctl_fail("cannot run sha256sum: ", strerror(errno));
	(void)close(p[0]);
	feed(r->hold, p[1]);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	return ctl_fail("what was restored is not what the set's manifest says; it was removed from ", dir);
}

/* ---- into a directory ---- */

/* A directory that is used by the mount, or holds sets, is none to restore into. */
static int check_target(const struct restore *r, const char *parent)
{
	static const char *const keys[] = { "backing ", "mountpoint " };
	cleanup_free char *status = ctl_slurp("status");
	size_t n;

	for (unsigned i = 0; i < r->n; i++) {
		n = strlen(r->part[i].place);
		if (strncmp(parent, r->part[i].place, n) == 0 && (!parent[n] || parent[n] == '/'))
			return ctl_fail("the directory lies among the sets: choose another than ", parent);
	}
	for (size_t k = 0; k < sizeof(keys) / sizeof(keys[0]); k++)
		for (const char *l = status; l && *l; l = strchr(l, '\n') ? strchr(l, '\n') + 1 : NULL) {
			const char *dir = l + strlen(keys[k]);

			if (strncmp(l, keys[k], strlen(keys[k])) != 0)
				continue;
			n = strcspn(dir, "\n");
			if (strncmp(parent, dir, n) == 0 && (!parent[n] || parent[n] == '/'))
				return ctl_fail("the directory lies in the live one; use --in-place, or another than ",
						parent);
		}
	return 0;
}

static bool show(void *arg, const struct reflink *r)
{
	if (isatty(2) && r->files % 64 == 0)
		fprintf(stderr, "\r\033[K%zu files, %.1f GiB", r->files, (double)r->bytes / (1u << 30));
	return false;
}

/* Of several pairs each gets a directory of its own in dst. */
static int fill_part(const struct restore_part *p, int dst, struct reflink *rl, struct snap_error *err)
{
	cleanup_fd int own = -1;

	if (!*p->name)
		return reflink_tree(p->src, dst, p->path, rl, err);
	if (mkdirat(dst, p->name, 0700) == 0)
		own = openat(dst, p->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return own < 0 ? snap_error_set(err, -errno, "make the directory %s: %s", p->name, strerror(errno)) :
			 reflink_tree(p->src, own, p->path, rl, err);
}

static int fill(const struct restore *r, int dst, bool copy)
{
	struct reflink rl = { .copy = copy, .stop = show };
	struct snap_error err = { 0 };
	int ret = xattrs_disinherit(dst);

	if (ret < 0)
		return ctl_fail("cannot take the parent's ACL from the new directory: ", strerror(-ret));
	for (unsigned i = 0; ret == 0 && i < r->n; i++)
		ret = fill_part(&r->part[i], dst, &rl, &err);
	if (isatty(2))
		fputs("\r\033[K", stderr);
	if (ret == -EXDEV || ret == -EOPNOTSUPP)
		return ctl_fail(err.msg, ": choose a directory on the filesystem of the sets, or add --copy to copy every byte");
	if (ret < 0)
		return ctl_fail(err.msg, "");
	if (syncfs(dst) < 0)
		return ctl_fail("sync: ", strerror(errno));
	printf("%zu files, %llu bytes\n", rl.files, (unsigned long long)rl.bytes);
	return 0;
}

static int restore_to(const struct restore *r, const char *dir, bool verify, bool copy)
{
	static char target[PATH_MAX], tmp[PATH_MAX + 64], parent[PATH_MAX];
	char *slash;
	cleanup_fd int base = -1;
	cleanup_fd int dst = -1;
	struct snap_error err = { 0 };
	int ret;

	(void)snprintf(target, sizeof(target), "%s", dir);
	while (target[0] && target[1] && target[strlen(target) - 1] == '/')
		target[strlen(target) - 1] = '\0';
	slash = strrchr(target, '/');
	if (target[0] != '/' || !slash[1])
		return ctl_fail("expected an absolute path of a new directory: ", dir);
	*slash = '\0';
	if (!realpath(*target ? target : "/", parent))
		return ctl_fail("the directory's parent must exist: ", dir);
	*slash = '/';
	if (check_target(r, parent) != 0)
		return 1;
	base = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (faccessat(base, slash + 1, F_OK, AT_SYMLINK_NOFOLLOW) == 0 && unlinkat(base, slash + 1, AT_REMOVEDIR) < 0)
		return ctl_fail(errno == EBUSY ? "a filesystem is mounted there; restore into a directory below it: " :
						 "it exists and is not an empty directory: ", dir);
	(void)snprintf(tmp, sizeof(tmp), "%s.restoring-%d", slash + 1, (int)getpid());
	if (base < 0 || mkdirat(base, tmp, 0700) < 0)
		return ctl_fail("cannot make the directory: ", strerror(errno));
	dst = openat(base, tmp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	ret = dst < 0 ? ctl_fail("cannot open the directory: ", strerror(errno)) : fill(r, dst, copy);
	if (ret == 0 && verify) {
		(void)snprintf(tmp, sizeof(tmp), "/proc/self/fd/%d", dst);
		ret = check_manifest(r, tmp);
		(void)snprintf(tmp, sizeof(tmp), "%s.restoring-%d", slash + 1, (int)getpid());
	}
	if (ret == 0 && (renameat2(base, tmp, base, slash + 1, RENAME_NOREPLACE) < 0 || fsync(base) < 0))
		ret = ctl_fail("cannot give the directory its name: ", strerror(errno));
	if (ret != 0 && reflink_remove(base, tmp, &err) < 0)
		(void)ctl_fail(err.msg, "");
	return ret;
}

static int restore_set(const char *name, const char *to, bool verify, bool copy)
{
	static struct restore r;
	int ret = restore_find(name, &r);

	if (ret == 0 && geteuid() != 0)
		ret = ctl_fail("restore gives files their owners back: run as root", "");
	if (ret == 0 && verify && ctl_verify(name) != 0)
		ret = ctl_fail("the set is not good; nothing was restored", "");
	if (ret == 0)
		ret = to ? restore_to(&r, to, verify, copy) : restore_in_place(&r);
	if (ret == 0) {
		printf("restored %s %s%s\n", name, to ? "to " : "in place", to ? to : "");
		restore_advice(&r, to);
	}
	restore_release(&r);
	return ret;
}

int cmd_restore_local(int argc, char **argv)
{
	bool verify = false, copy = false, place = false;
	const char *name = NULL, *to = NULL;

	for (int i = 0; i < argc; i++) {
		if (strcmp(argv[i], "--verify") == 0)
			verify = true;
		else if (strcmp(argv[i], "--copy") == 0)
			copy = true;
		else if (strcmp(argv[i], "--in-place") == 0)
			place = true;
		else if (strcmp(argv[i], "--to") == 0 && i + 1 < argc)
			to = argv[++i];
		else if (argv[i][0] != '-' && !name)
			name = argv[i];
		else
			return ctl_fail("unknown argument, or one without its value: ", argv[i]), 2;
	}
	if (!name || (place ? to || copy : !to))
		return ctl_fail("usage: stillctl restore NAME --to DIR [--verify] [--copy], or NAME --in-place [--verify]", ""), 2;
	return ctl_check_name(name) ? 1 : restore_set(name, place ? NULL : to, verify, copy);
}
