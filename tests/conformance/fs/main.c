/* tests/conformance/fs/main.c - fs_cases DIR [-u UID] [-l] [CASE...]: run the cases below DIR, print their results.
 * -u: as that user (and group), without supplementary groups. -l: list the names.
 * Exit code 0 whatever the results: they are compared, not judged. */
#include "cases.h"

#include <grp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define CASE_LIMIT_S 25

static const struct fs_case *const all[] = { cases_open, cases_name, cases_rights, cases_acl, cases_data, cases_sync,
					     cases_alloc, cases_lock, cases_mmap, cases_attr, cases_dir, cases_special };
static const char *case_name = "";

void say(const char *key, const char *fmt, ...)
{
	va_list ap;

	(void)printf("%s %s ", case_name, key);
	va_start(ap, fmt);
	(void)vprintf(fmt, ap);
	va_end(ap);
	(void)putchar('\n');
	(void)fflush(stdout); /* children inherit no unwritten line */
}

long res(const char *key, long r)
{
	int e = errno;

	if (r < 0)
		say(key, "%s", strerrorname_np(e));
	else
		say(key, "%ld", r);
	errno = e;
	return r;
}

int ok(const char *key, int r)
{
	int e = errno;

	say(key, "%s", r < 0 ? strerrorname_np(e) : "ok");
	errno = e;
	return r;
}

static void say_st(const char *key, const struct stat *st)
{
	say(key, "mode=%o nlink=%lu owner=%u:%u size=%ld rdev=%lx", st->st_mode, st->st_nlink, st->st_uid,
	    st->st_gid, S_ISDIR(st->st_mode) ? 0l : st->st_size, st->st_rdev);
	if (S_ISREG(st->st_mode))
		say(key, "blksize=%ld", st->st_blksize);
}

void say_stat(const char *key, const char *path)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		say(key, "%s", strerrorname_np(errno));
	else
		say_st(key, &st);
}

void say_fstat(const char *key, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		say(key, "%s", strerrorname_np(errno));
	else
		say_st(key, &st);
}

uint64_t digest(const void *p, size_t n)
{
	const unsigned char *c = p;
	uint64_t h = 14695981039346656037ull;

	for (size_t i = 0; i < n; i++)
		h = (h ^ c[i]) * 1099511628211ull;
	return h;
}

void say_content(const char *key, const char *path)
{
	static unsigned char buf[4u << 20];
	int fd = open(path, O_RDONLY);
	size_t n = 0;
	ssize_t r = 0;

	while (fd >= 0 && n < sizeof(buf) && (r = read(fd, buf + n, sizeof(buf) - n)) > 0)
		n += (size_t)r;
	if (fd < 0 || r < 0)
		say(key, "%s", strerrorname_np(errno));
	else
		say(key, "%zu bytes %lx", n, digest(buf, n));
	if (fd >= 0)
		(void)close(fd);
}

void pattern(void *p, size_t n, unsigned seed)
{
	unsigned char *c = p;

	for (size_t i = 0; i < n; i++)
		c[i] = (unsigned char)((i * 31 + i / 251 + seed * 17) & 0xff);
}

void make_file(const char *path, size_t n, unsigned seed)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	char *p = malloc(n ? n : 1);

	if (fd < 0 || !p)
		die(path);
	pattern(p, n, seed);
	if (write(fd, p, n) != (ssize_t)n)
		die(path);
	(void)close(fd);
	free(p);
}

void *aligned(size_t n)
{
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

void die(const char *what)
{
	say("died", "%s: %s", what, strerrorname_np(errno));
	_exit(1);
}

static void wait_child(pid_t pid)
{
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		die("fork");
	if (WIFSIGNALED(status))
		say("killed", "by signal %d", WTERMSIG(status));
}

static void become(uid_t uid, gid_t gid, size_t n_groups, const gid_t *groups)
{
	if (setgroups(n_groups, groups) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
		die("become");
}

bool begin_child(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		(void)alarm(CASE_LIMIT_S);
		return true;
	}
	wait_child(pid);
	return false;
}

bool begin_as(uid_t uid, gid_t gid, size_t n_groups, const gid_t *groups)
{
	if (!begin_child())
		return false;
	become(uid, gid, n_groups, groups);
	return true;
}

void end_as(void)
{
	(void)fflush(stdout);
	_exit(0);
}

static void run_case(const struct fs_case *c, const char *dir, uid_t uid)
{
	case_name = c->name;
	if (chdir(dir) < 0 || mkdir(c->name, 0755) < 0 || chown(c->name, uid, uid) < 0 || chdir(c->name) < 0)
		die(c->name);
	if (begin_child()) {
		if (uid)
			become(uid, uid, 0, NULL);
		(void)umask(022);
		c->run();
		end_as();
	}
	if (chdir("/") < 0)
		die("/");
}

static bool wanted(const char *name, char **argv, int argc)
{
	for (int i = 0; i < argc; i++)
		if (strcmp(argv[i], name) == 0)
			return true;
	return argc == 0;
}

int main(int argc, char **argv)
{
	uid_t uid = 0;
	bool list = false;
	int o;

	while ((o = getopt(argc, argv, "u:l")) != -1) {
		if (o == 'u')
			uid = (uid_t)atoi(optarg);
		else if (o == 'l')
			list = true;
		else
			return 2;
	}
	if (optind >= argc && !list) {
		(void)fprintf(stderr, "usage: fs_cases [-u UID] [-l] DIR [CASE...]\n");
		return 2;
	}
	for (size_t g = 0; g < sizeof(all) / sizeof(all[0]); g++)
		for (const struct fs_case *c = all[g]; c->name; c++) {
			if (list)
				(void)printf("%s\n", c->name);
			else if ((c->who == ANYBODY || uid == 0) && wanted(c->name, argv + optind + 1, argc - optind - 1))
				run_case(c, argv[optind], uid);
		}
	return 0;
}
