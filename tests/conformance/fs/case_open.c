/* tests/conformance/fs/case_open.c - open with every flag, what a descriptor then allows, flags changed later. */
#include "cases.h"

#include <linux/openat2.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

static void open_getfl(void)
{
	static const struct {
		const char *key;
		int flags;
	} f[] = { { "rdonly", O_RDONLY },	 { "wronly", O_WRONLY },	   { "rdwr", O_RDWR },
		  { "append", O_RDWR | O_APPEND }, { "dsync", O_RDWR | O_DSYNC },  { "sync", O_RDWR | O_SYNC },
		  { "noatime", O_RDONLY | O_NOATIME }, { "path", O_PATH },	   { "direct", O_RDWR | O_DIRECT },
		  { "nonblock", O_RDWR | O_NONBLOCK }, { "trunc", O_RDWR | O_TRUNC }, { "excl", O_RDWR | O_EXCL },
		  { "async", O_RDWR | O_ASYNC },   { "access3", O_WRONLY | O_RDWR } };
	char key[40], b[4];

	for (size_t i = 0; i < sizeof(f) / sizeof(f[0]); i++) {
		int fd;

		make_file("f", 100, 1);
		fd = ok(f[i].key, open("f", f[i].flags));
		if (fd < 0)
			continue;
		(void)snprintf(key, sizeof(key), "%s-getfl", f[i].key);
		say(key, "%o", fcntl(fd, F_GETFL));
		(void)snprintf(key, sizeof(key), "%s-read", f[i].key);
		(void)res(key, read(fd, b, 4));
		(void)snprintf(key, sizeof(key), "%s-write", f[i].key);
		(void)res(key, write(fd, "abcd", 4));
		(void)snprintf(key, sizeof(key), "%s-fchmod", f[i].key);
		(void)res(key, fchmod(fd, 0640));
		(void)snprintf(key, sizeof(key), "%s-ftruncate", f[i].key);
		(void)res(key, ftruncate(fd, 50));
		(void)snprintf(key, sizeof(key), "%s-fsync", f[i].key);
		(void)res(key, fsync(fd));
		(void)close(fd);
		(void)snprintf(key, sizeof(key), "%s-content", f[i].key);
		say_content(key, "f");
	}
}

static void open_tmpfile(void)
{
	int fd, linked;

	fd = ok("tmpfile", open(".", O_TMPFILE | O_RDWR, 0640));
	say_fstat("stat", fd);
	(void)res("write", write(fd, "hello", 5));
	(void)res("link", linkat(AT_FDCWD, "/proc/self/fd/3", AT_FDCWD, "linked", AT_SYMLINK_FOLLOW));
	say("fd", "%d", fd);
	say_fstat("stat-linked", fd);
	say_content("content", "linked");
	(void)unlink("linked");
	say_fstat("stat-unlinked", fd);
	(void)res("link-again", linkat(AT_FDCWD, "/proc/self/fd/3", AT_FDCWD, "again", AT_SYMLINK_FOLLOW));
	(void)close(fd);
	fd = ok("tmpfile-excl", open(".", O_TMPFILE | O_RDWR | O_EXCL, 0600));
	linked = linkat(AT_FDCWD, "/proc/self/fd/3", AT_FDCWD, "excl", AT_SYMLINK_FOLLOW);
	(void)res("excl-link", linked);
	(void)close(fd);
	(void)ok("tmpfile-rdonly", open(".", O_TMPFILE | O_RDONLY, 0600));
	fd = ok("tmpfile-wronly", open(".", O_TMPFILE | O_WRONLY, 0));
	say_fstat("stat-mode0", fd);
	(void)ok("tmpfile-file", open("linked2", O_TMPFILE | O_RDWR, 0600));
	(void)ok("tmpfile-setxattr", fsetxattr(fd, "user.a", "1", 1, 0));
	(void)umask(077);
	say_fstat("stat-umask", open(".", O_TMPFILE | O_RDWR, 0666));
}

static void open_path_fd(void)
{
	struct stat st;
	char b[10];
	int fd, dir, again;

	make_file("f", 10, 2);
	(void)mkdir("d", 0755);
	(void)symlink("f", "s");
	fd = ok("open", open("f", O_PATH));
	(void)res("read", read(fd, b, 1));
	(void)res("fsync", fsync(fd));
	(void)res("fstat", fstat(fd, &st));
	(void)res("fchdir", fchdir(fd));
	(void)res("fchown", fchown(fd, getuid(), getgid()));
	(void)res("fgetxattr", fgetxattr(fd, "user.a", b, 1));
	(void)res("fd-chown", fchownat(fd, "", getuid(), getgid(), AT_EMPTY_PATH));
	again = ok("reopen", open("/proc/self/fd/3", O_RDWR));
	(void)res("reopened-read", read(again, b, 10));
	(void)res("reopened-write", write(again, "0123456789ab", 12));
	(void)unlink("f");
	(void)res("unlinked-fstat", fstat(fd, &st));
	say("unlinked-nlink", "%lu", st.st_nlink);
	(void)close(again);
	again = ok("unlinked-reopen", open("/proc/self/fd/3", O_RDWR));
	(void)res("unlinked-read", read(again, b, 10));
	dir = ok("dir", open("d", O_PATH | O_DIRECTORY));
	(void)ok("openat", openat(dir, "new", O_CREAT | O_RDWR, 0600));
	(void)res("dir-fsync", fsync(dir));
	fd = ok("symlink", open("s", O_PATH | O_NOFOLLOW));
	(void)res("readlinkat", readlinkat(fd, "", b, sizeof(b)));
	say_fstat("symlink-stat", fd);
}

static void open_errors(void)
{
	char longname[300], path[5000];
	int fd;

	memset(longname, 'n', sizeof(longname));
	longname[256] = '\0';
	memset(path, '/', sizeof(path));
	path[4999] = '\0';
	make_file("f", 1, 1);
	(void)mkdir("d", 0755);
	(void)symlink("loop2", "loop1");
	(void)symlink("loop1", "loop2");
	(void)symlink("nowhere", "dangling");
	(void)mkfifo("fifo", 0644);
	(void)ok("loop", open("loop1", O_RDONLY));
	(void)ok("notdir", open("f/x", O_RDONLY));
	(void)ok("slash", open("f/", O_RDONLY));
	(void)ok("create-slash", open("new/", O_RDWR | O_CREAT, 0644));
	(void)ok("long-name", open(longname, O_RDWR | O_CREAT, 0644));
	(void)ok("long-path", open(path, O_RDONLY));
	(void)ok("empty", open("", O_RDONLY));
	(void)ok("dir-write", open("d", O_RDWR));
	(void)ok("dir-creat", open("d", O_RDONLY | O_CREAT, 0644));
	(void)ok("dir-trunc", open("d", O_RDONLY | O_TRUNC));
	(void)ok("excl-dangling", open("dangling", O_RDWR | O_CREAT | O_EXCL, 0644));
	(void)ok("excl-existing", open("f", O_RDWR | O_CREAT | O_EXCL, 0644));
	(void)ok("nofollow", open("dangling", O_RDONLY | O_NOFOLLOW));
	(void)ok("creat-dangling", open("dangling", O_RDWR | O_CREAT, 0644));
	say_stat("nowhere", "nowhere");
	(void)ok("fifo-wronly", open("fifo", O_WRONLY | O_NONBLOCK));
	fd = ok("trunc-rdonly", open("f", O_RDONLY | O_TRUNC));
	say_fstat("trunc-rdonly-stat", fd);
	(void)ok("creat-mode", open("weird", O_RDWR | O_CREAT, 07777));
	say_stat("creat-mode-stat", "weird");
	(void)ok("creat-nothing", open("none", O_RDONLY | O_CREAT, 0));
	say_stat("creat-nothing-stat", "none");
	(void)ok("creat-nothing-again", open("none", O_RDWR));
	(void)ok("create-in-missing", open("no/where", O_RDWR | O_CREAT, 0644));
}

static void open_setfl(void)
{
	int fd = open("f", O_RDWR | O_CREAT, 0644), other;
	char *p = aligned(8192);

	pattern(p, 8192, 3);
	(void)res("write", write(fd, p, 8192));
	(void)res("setfl-append", fcntl(fd, F_SETFL, O_APPEND));
	(void)res("append", pwrite(fd, "end", 3, 0));
	say_fstat("appended", fd);
	(void)res("setfl-direct", fcntl(fd, F_SETFL, O_DIRECT));
	say("getfl", "%o", fcntl(fd, F_GETFL));
	(void)res("direct-write", pwrite(fd, p, 4096, 4096));
	(void)res("direct-unaligned", pwrite(fd, p, 100, 4096));
	(void)res("direct-unaligned-offset", pread(fd, p, 4096, 100));
	(void)res("direct-read-past", pread(fd, p, 4096, 8192));
	(void)res("setfl-none", fcntl(fd, F_SETFL, 0));
	(void)res("buffered", pwrite(fd, "zz", 2, 4097));
	other = open("f", O_RDONLY);
	(void)res("setfl-noatime", fcntl(other, F_SETFL, O_NOATIME | O_DIRECT));
	(void)res("other-direct", pread(other, p, 4096, 4096));
	say("other-content", "%lx", digest(p, 4096));
	(void)res("setfl-dsync", fcntl(fd, F_SETFL, O_DSYNC));
	say("getfl-after", "%o", fcntl(fd, F_GETFL));
	say_content("content", "f");
}

static long openat2_(const char *path, uint64_t flags, uint64_t resolve)
{
	struct open_how how = { .flags = flags, .resolve = resolve };

	return syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
}

static void open_resolve(void)
{
	make_file("f", 4, 1);
	(void)symlink("f", "s");
	(void)mkdir("d", 0755);
	(void)ok("no-symlinks", (int)openat2_("s", O_RDONLY, RESOLVE_NO_SYMLINKS));
	(void)ok("beneath", (int)openat2_("d/../f", O_RDONLY, RESOLVE_BENEATH));
	(void)ok("beneath-up", (int)openat2_("../f", O_RDONLY, RESOLVE_BENEATH));
	(void)ok("no-xdev", (int)openat2_("d", O_RDONLY, RESOLVE_NO_XDEV));
	(void)ok("bad-flag", (int)openat2_("f", 1ull << 40, 0));
}

static void open_unlinked(void)
{
	int fd = open("f", O_RDWR | O_CREAT, 0600), second;
	char b[16] = "";
	struct stat st;

	(void)res("write", write(fd, "content", 7));
	second = open("f", O_RDONLY);
	(void)res("unlink", unlink("f"));
	(void)ok("open-gone", open("f", O_RDONLY));
	(void)res("read-second", pread(second, b, 16, 0));
	(void)res("write-gone", pwrite(fd, "more", 4, 7));
	(void)res("truncate-gone", ftruncate(fd, 9));
	(void)res("chmod-gone", fchmod(fd, 0644));
	(void)res("xattr-gone", fsetxattr(fd, "user.x", "y", 1, 0));
	(void)res("xattr-get-gone", fgetxattr(fd, "user.x", b, 1));
	(void)res("falloc-gone", fallocate(fd, 0, 0, 100000));
	say_fstat("stat-gone", fd);
	(void)fstat(fd, &st);
	say("blocks", "%s", st.st_blocks ? "some" : "none");
	make_file("f", 3, 1); /* the same name, another file */
	say_stat("new", "f");
	(void)res("read-old", pread(second, b, 16, 0));
	say("old", "%.9s", b);
	(void)close(fd);
	(void)res("read-last", pread(second, b, 16, 0));
	(void)res("fsync-last", fsync(second));
	(void)ok("proc-reopen", open("/proc/self/fd/3", O_RDONLY));
}

static void open_replaced(void)
{
	char b[16];
	int fd;

	make_file("a", 10, 1);
	make_file("b", 20, 2);
	fd = open("b", O_RDWR);
	(void)res("rename", rename("a", "b"));
	say_fstat("replaced", fd);
	(void)res("read", pread(fd, b, 16, 0));
	say("bytes", "%lx", digest(b, 16));
	(void)res("write", pwrite(fd, "x", 1, 100));
	say_fstat("written", fd);
	say_stat("new", "b");
}

static void open_many(void)
{
	char name[20];
	int n = 0;

	for (; n < 900; n++) {
		(void)snprintf(name, sizeof(name), "f%d", n % 50);
		if (open(name, O_RDWR | O_CREAT | (n % 3 == 0 ? O_APPEND : 0), 0644) < 0)
			break;
	}
	say("opened", "%d", n);
	(void)res("write", write(n - 1, "x", 1));
}

const struct fs_case cases_open[] = { { "open_getfl", open_getfl, ANYBODY },
				      { "open_tmpfile", open_tmpfile, ANYBODY },
				      { "open_path_fd", open_path_fd, ANYBODY },
				      { "open_errors", open_errors, ANYBODY },
				      { "open_setfl", open_setfl, ANYBODY },
				      { "open_resolve", open_resolve, ANYBODY },
				      { "open_unlinked", open_unlinked, ANYBODY },
				      { "open_replaced", open_replaced, ANYBODY },
				      { "open_many", open_many, ANYBODY },
				      { NULL, NULL, ANYBODY } };
