/* tests/conformance/fs/case_attr.c - statx, times and what changes them, extended attributes of all namespaces. */
#include "cases.h"

#include <linux/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <sys/xattr.h>

static void attr_statx(void)
{
	struct statx x, y;
	struct timespec now;

	make_file("f", 5000, 1);
	(void)symlink("f", "s");
	(void)mkdir("d", 0755);
	(void)clock_gettime(CLOCK_REALTIME, &now);
	(void)res("call", statx(AT_FDCWD, "f", AT_SYMLINK_NOFOLLOW, STATX_ALL, &x));
	say("mask", "%x", x.stx_mask & (STATX_BASIC_STATS | STATX_BTIME));
	say("btime", "%s", llabs(x.stx_btime.tv_sec - now.tv_sec) < 100 ? "now" : "wrong");
	(void)usleep(20000);
	(void)chmod("f", 0600);
	(void)res("again", statx(AT_FDCWD, "f", 0, STATX_BTIME, &y));
	say("btime-stays", "%d", x.stx_btime.tv_sec == y.stx_btime.tv_sec && x.stx_btime.tv_nsec == y.stx_btime.tv_nsec);
	say("ctime-moves", "%d", x.stx_ctime.tv_nsec != y.stx_ctime.tv_nsec);
	(void)res("symlink", statx(AT_FDCWD, "s", AT_SYMLINK_NOFOLLOW, STATX_ALL, &y));
	say("symlink-mask", "%x mode %o", y.stx_mask & (STATX_BASIC_STATS | STATX_BTIME), y.stx_mode);
	(void)res("dir", statx(AT_FDCWD, "d", AT_STATX_FORCE_SYNC, STATX_ALL, &y));
	say("dir-mask", "%x", y.stx_mask & (STATX_BASIC_STATS | STATX_BTIME));
	(void)res("dont-sync", statx(AT_FDCWD, "f", AT_STATX_DONT_SYNC, STATX_ALL, &y));
	say("size", "%llu", y.stx_size);
	(void)res("empty-path", statx(open("f", O_PATH), "", AT_EMPTY_PATH, STATX_ALL, &y));
	say("empty-mask", "%x", y.stx_mask & (STATX_BASIC_STATS | STATX_BTIME));
	(void)res("bad-flags", statx(AT_FDCWD, "f", 0x10000000, STATX_ALL, &y));
}

static void attr_statfs(void)
{
	struct statvfs v;

	(void)res("statvfs", statvfs(".", &v));
	say("values", "bsize=%lu frsize=%lu namemax=%lu blocks=%s files=%s", v.f_bsize, v.f_frsize, v.f_namemax,
	    v.f_blocks ? "some" : "none", v.f_files ? "some" : "none");
	say("flags", "%lx", v.f_flag & (ST_RDONLY | ST_NOSUID | ST_NODEV | ST_NOEXEC));
	(void)res("pathconf-name", pathconf(".", _PC_NAME_MAX));
	(void)res("pathconf-links", pathconf(".", _PC_PATH_MAX));
	(void)res("pathconf-size", pathconf(".", _PC_FILESIZEBITS));
}

static void set_times(const char *key, const char *path, struct timespec a, struct timespec m, int flags)
{
	struct timespec t[2] = { a, m };
	struct stat st;

	(void)res(key, utimensat(AT_FDCWD, path, t, flags));
	if (fstatat(AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW) == 0)
		say(key, "%ld.%09ld %ld.%09ld", st.st_atim.tv_sec > 1700000000 ? -7 : st.st_atim.tv_sec,
		    st.st_atim.tv_sec > 1700000000 ? 0 : st.st_atim.tv_nsec,
		    st.st_mtim.tv_sec > 1700000000 ? -7 : st.st_mtim.tv_sec,
		    st.st_mtim.tv_sec > 1700000000 ? 0 : st.st_mtim.tv_nsec);
}

static void attr_utimes(void)
{
	const struct timespec now = { .tv_nsec = UTIME_NOW }, omit = { .tv_nsec = UTIME_OMIT };
	const struct timespec a = { 1234567, 891011121 }, b = { -5, 500 }, zero = { 0, 0 };

	make_file("f", 1, 1);
	(void)symlink("f", "s");
	(void)mkdir("d", 0755);
	(void)mkfifo("p", 0644);
	set_times("plain", "f", a, b, 0);
	set_times("omit-a", "f", omit, a, 0);
	set_times("omit-m", "f", zero, omit, 0);
	set_times("omit-both", "f", omit, omit, 0);
	set_times("now-m", "f", omit, now, 0);
	set_times("now-a", "f", now, a, 0);
	set_times("far", "f", (struct timespec){ 1ll << 33, 1 }, a, 0);
	set_times("past", "f", (struct timespec){ -(1ll << 33), 1 }, a, 0);
	set_times("bad", "f", (struct timespec){ 1, 2000000000 }, a, 0);
	set_times("symlink", "s", a, a, AT_SYMLINK_NOFOLLOW);
	set_times("dir", "d", a, zero, 0);
	set_times("fifo", "p", a, zero, 0);
	set_times("missing", "none", a, a, 0);
	(void)chmod("f", 0444);
	set_times("readonly", "f", a, zero, 0);
}

struct times {
	struct timespec a, m, c;
};

static void before(const char *path, struct times *t)
{
	struct stat st;

	(void)usleep(10000); /* longer than a tick of the kernel's clock */
	if (lstat(path, &st) < 0)
		die(path);
	*t = (struct times){ st.st_atim, st.st_mtim, st.st_ctim };
	(void)usleep(10000);
}

static bool differs(struct timespec a, struct timespec b)
{
	return a.tv_sec != b.tv_sec || a.tv_nsec != b.tv_nsec;
}

static void after(const char *key, const char *path, const struct times *t)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		die(path);
	say(key, "a%c m%c c%c", differs(t->a, st.st_atim) ? '+' : '=', differs(t->m, st.st_mtim) ? '+' : '=',
	    differs(t->c, st.st_ctim) ? '+' : '=');
}

/* Which time each operation moves. */
static void attr_rules(void)
{
	struct times f, d;
	char b[100];
	int fd, ro;

	(void)mkdir("d", 0755);
	make_file("d/f", 100, 1);
	fd = open("d/f", O_RDWR);
#define RULE(key, ...)            \
	do {                      \
		before("d/f", &f);    \
		before("d", &d);      \
		__VA_ARGS__;          \
		after(key, "d/f", &f);     \
		after(key "-dir", "d", &d); \
	} while (0)
	RULE("write", (void)pwrite(fd, "x", 1, 0));
	RULE("read-after-write", (void)pread(fd, b, 10, 0));
	RULE("read-again", (void)pread(fd, b, 10, 0));
	RULE("read-nothing", (void)pread(fd, b, 10, 1000));
	RULE("write-nothing", (void)pwrite(fd, "x", 0, 0));
	RULE("chmod", (void)chmod("d/f", 0600));
	RULE("chmod-same", (void)chmod("d/f", 0600));
	RULE("chown", (void)chown("d/f", (uid_t)-1, getgid()));
	RULE("chown-nothing", (void)chown("d/f", (uid_t)-1, (gid_t)-1));
	RULE("link", (void)link("d/f", "other"));
	RULE("unlink-other", (void)unlink("other"));
	RULE("rename", (void)rename("d/f", "d/g"); (void)rename("d/g", "d/f"));
	RULE("setxattr", (void)setxattr("d/f", "user.t", "1", 1, 0));
	RULE("getxattr", (void)getxattr("d/f", "user.t", b, 10));
	RULE("removexattr", (void)removexattr("d/f", "user.t"));
	RULE("ftruncate", (void)ftruncate(fd, 50));
	RULE("ftruncate-same", (void)ftruncate(fd, 50));
	RULE("fallocate", (void)fallocate(fd, 0, 0, 60));
	RULE("fallocate-keep", (void)fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 10));
	RULE("punch", (void)fallocate(fd, 3, 0, 10));
	RULE("fsync", (void)fsync(fd));
	RULE("open", ro = open("d/f", O_RDONLY));
	RULE("utimes", (void)futimens(fd, NULL));
	RULE("create-beside", make_file("d/new", 1, 1));
	RULE("unlink-beside", (void)unlink("d/new"));
	RULE("mkdir-beside", (void)mkdir("d/sub", 0755));
	RULE("rename-into", (void)rename("d/sub", "sub"));
	RULE("append", (void)fcntl(fd, F_SETFL, O_APPEND); (void)write(fd, "y", 1));
	RULE("read-noatime", (void)fcntl(ro, F_SETFL, O_NOATIME); (void)pread(ro, b, 10, 0));
#undef RULE
}

static void xattr_list(const char *key, const char *path)
{
	char list[4096];
	ssize_t n = llistxattr(path, list, sizeof(list));
	unsigned user = 0, trusted = 0, security = 0, system = 0;

	for (char *p = list; n > 0 && p < list + n; p += strlen(p) + 1) {
		user += strncmp(p, "user.", 5) == 0;
		trusted += strncmp(p, "trusted.", 8) == 0;
		security += strncmp(p, "security.", 9) == 0;
		system += strncmp(p, "system.", 7) == 0;
	}
	say(key, "%s user %u trusted %u security %u system %u", n < 0 ? strerrorname_np(errno) : "ok", user, trusted, security,
	    system);
	(void)res(key, llistxattr(path, NULL, 0));
	(void)res(key, llistxattr(path, list, 3));
}

static void attr_xattr_names(const char *what, const char *path)
{
	static const char *const names[] = { "user.a",	    "trusted.a", "security.a",	"system.a", "bogus.a",
					     "user.",	    "user",	 "",		"trusted.overlay.x" };
	char key[64], b[100];

	for (size_t i = 0; i < 9; i++) {
		(void)snprintf(key, sizeof(key), "%s-%s", what, names[i]);
		(void)res(key, lsetxattr(path, names[i], "value", 5, 0));
		(void)res(key, lgetxattr(path, names[i], b, sizeof(b)));
		(void)res(key, lsetxattr(path, names[i], "v2", 2, XATTR_REPLACE));
		(void)res(key, lsetxattr(path, names[i], "v3", 2, XATTR_CREATE));
	}
	(void)snprintf(key, sizeof(key), "%s-list", what);
	xattr_list(key, path);
	for (size_t i = 0; i < 9; i++) {
		(void)snprintf(key, sizeof(key), "%s-remove-%s", what, names[i]);
		(void)res(key, lremovexattr(path, names[i]));
	}
	xattr_list(key, path);
}

static void attr_xattrs(void)
{
	make_file("f", 1, 1);
	(void)mkdir("d", 0755);
	(void)mkfifo("p", 0644);
	(void)symlink("f", "s");
	attr_xattr_names("file", "f");
	attr_xattr_names("dir", "d");
	attr_xattr_names("fifo", "p");
	attr_xattr_names("symlink", "s");
}

static void attr_xattr_sizes(void)
{
	static char big[70000], got[70000];
	char name[300];
	int fd;

	make_file("f", 1, 1);
	fd = open("f", O_RDWR);
	pattern(big, sizeof(big), 1);
	(void)res("empty", fsetxattr(fd, "user.empty", "", 0, 0));
	(void)res("empty-get", fgetxattr(fd, "user.empty", got, 10));
	(void)res("2000", fsetxattr(fd, "user.big", big, 2000, 0));
	(void)res("get-size", fgetxattr(fd, "user.big", NULL, 0));
	(void)res("get-short", fgetxattr(fd, "user.big", got, 100));
	(void)res("get", fgetxattr(fd, "user.big", got, sizeof(got)));
	say("bytes", "%lx", digest(got, 2000));
	(void)res("60000", fsetxattr(fd, "user.huge", big, 60000, 0));
	(void)res("60000-get", fgetxattr(fd, "user.huge", got, sizeof(got)));
	(void)res("65537", fsetxattr(fd, "user.toobig", big, 65537, 0));
	memset(name, 'n', sizeof(name));
	memcpy(name, "user.", 5);
	name[255] = '\0';
	(void)res("name-255", fsetxattr(fd, name, "1", 1, 0));
	name[255] = 'n';
	name[256] = '\0';
	(void)res("name-256", fsetxattr(fd, name, "1", 1, 0));
	(void)res("both-flags", fsetxattr(fd, "user.x", "1", 1, XATTR_CREATE | XATTR_REPLACE));
	(void)chmod("f", 0444);
	(void)res("readonly-mode", setxattr("f", "user.y", "1", 1, 0));
	(void)res("readonly-get", getxattr("f", "user.big", got, sizeof(got)));
}

/* What root has set, seen by somebody else. */
static void attr_xattr_seen(void)
{
	char b[20];

	make_file("f", 1, 1);
	(void)chmod("f", 0644);
	(void)setxattr("f", "trusted.secret", "1", 1, 0);
	(void)setxattr("f", "security.label", "1", 1, 0);
	(void)setxattr("f", "user.plain", "1", 1, 0);
	xattr_list("root", "f");
	if (begin_as(1001, 1001, 0, NULL)) {
		xattr_list("user", "f");
		(void)res("trusted", getxattr("f", "trusted.secret", b, 20));
		(void)res("security", getxattr("f", "security.label", b, 20));
		(void)res("user", getxattr("f", "user.plain", b, 20));
		(void)res("set-user", setxattr("f", "user.plain", "2", 1, 0));
		(void)res("set-security", setxattr("f", "security.label", "2", 1, 0));
		end_as();
	}
	(void)mkdir("t", 0777);
	(void)chmod("t", 01777);
	if (begin_as(1001, 1001, 0, NULL)) {
		(void)res("sticky-dir", setxattr("t", "user.x", "1", 1, 0));
		end_as();
	}
}

const struct fs_case cases_attr[] = { { "attr_statx", attr_statx, ANYBODY },
				      { "attr_statfs", attr_statfs, ANYBODY },
				      { "attr_utimes", attr_utimes, ANYBODY },
				      { "attr_rules", attr_rules, ANYBODY },
				      { "attr_xattrs", attr_xattrs, ANYBODY },
				      { "attr_xattr_sizes", attr_xattr_sizes, ANYBODY },
				      { "attr_xattr_seen", attr_xattr_seen, ROOT },
				      { NULL, NULL, ANYBODY } };
