/* tests/conformance/fs/case_name.c - link, unlink, rename with its flags, directories that go away, long paths. */
#include "cases.h"

#include <sys/syscall.h>

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1u
#define RENAME_EXCHANGE 2u
#endif

static int rename2(const char *a, const char *b, unsigned flags)
{
	return (int)syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, flags);
}

static void rename_flags(void)
{
	make_file("a", 1, 1);
	make_file("b", 2, 2);
	(void)mkdir("d", 0755);
	(void)mkdir("e", 0755);
	make_file("d/x", 3, 3);
	(void)symlink("a", "s");
	(void)res("noreplace-taken", rename2("a", "b", RENAME_NOREPLACE));
	(void)res("noreplace-free", rename2("a", "c", RENAME_NOREPLACE));
	(void)res("exchange-files", rename2("c", "b", RENAME_EXCHANGE));
	say_stat("c", "c");
	say_stat("b", "b");
	(void)res("exchange-file-dir", rename2("b", "d", RENAME_EXCHANGE));
	say_stat("b-x", "b/x");
	say_stat("d", "d");
	say_stat("dot", ".");
	(void)res("exchange-missing", rename2("b", "none", RENAME_EXCHANGE));
	(void)res("exchange-below", rename2("b", "b/x", RENAME_EXCHANGE));
	(void)res("exchange-symlink", rename2("s", "d", RENAME_EXCHANGE));
	say_stat("s", "s");
	(void)res("both", rename2("b", "d", RENAME_EXCHANGE | RENAME_NOREPLACE));
	(void)res("unknown", rename2("b", "d", 1u << 10));
	(void)res("same", rename2("b", "b", 0));
	(void)res("same-noreplace", rename2("b", "b", RENAME_NOREPLACE));
	(void)res("dir-over-empty", rename2("b", "e", 0));
	say_stat("e-x", "e/x");
	(void)res("dir-over-file", rename2("e", "d", 0));
	(void)res("dir-into-itself", rename2("e", "e/y", 0));
	(void)res("dot", rename2(".", "z", 0));
}

static void rename_hardlinks(void)
{
	struct stat a, b;
	int fd;

	make_file("a", 1, 1);
	(void)res("link", link("a", "b"));
	fd = open("b", O_RDONLY);
	(void)res("rename-links", rename("a", "b")); /* does nothing */
	say_stat("a", "a");
	say_stat("b", "b");
	(void)res("exchange-links", rename2("a", "b", RENAME_EXCHANGE));
	make_file("c", 2, 2);
	(void)res("over-one", rename("c", "a"));
	say_stat("a-new", "a");
	say_stat("b-left", "b");
	say_fstat("open", fd);
	(void)res("over-last", rename("a", "b"));
	say_fstat("open-gone", fd);
	(void)lstat("b", &a);
	(void)link("b", "b2");
	(void)lstat("b2", &b);
	say("same-inode", "%d", a.st_ino == b.st_ino && a.st_dev == b.st_dev);
	(void)res("unlink", unlink("b"));
	say_stat("b2", "b2");
}

static void link_rules(void)
{
	int fd;

	make_file("f", 5, 1);
	(void)mkdir("d", 0755);
	(void)symlink("f", "s");
	(void)symlink("nowhere", "dangling");
	(void)mkfifo("p", 0600);
	(void)res("dir", link("d", "d2"));
	(void)res("taken", link("f", "s"));
	(void)res("into-missing", link("f", "none/x"));
	(void)res("missing", link("none", "x"));
	(void)res("symlink", link("s", "s2"));
	say_stat("s2", "s2");
	(void)res("symlink-follow", linkat(AT_FDCWD, "s", AT_FDCWD, "f2", AT_SYMLINK_FOLLOW));
	say_stat("f2", "f2");
	(void)res("dangling", link("dangling", "dangling2"));
	(void)res("fifo", link("p", "p2"));
	say_stat("p2", "p2");
	fd = open("f", O_RDONLY);
	(void)unlink("f");
	(void)unlink("f2");
	(void)res("unlinked", linkat(AT_FDCWD, "/proc/self/fd/3", AT_FDCWD, "back", AT_SYMLINK_FOLLOW));
	say_fstat("unlinked-stat", fd);
	for (int i = 0; i < 200; i++) {
		char name[16];

		(void)snprintf(name, sizeof(name), "h%d", i);
		if (link("s2", name) < 0)
			break;
	}
	say_stat("many", "s2");
}

static void unlink_rules(void)
{
	(void)mkdir("d", 0755);
	(void)mkdir("d/sub", 0755);
	make_file("f", 1, 1);
	(void)symlink("d", "s");
	(void)res("dir", unlink("d"));
	(void)res("slash", unlink("f/"));
	(void)res("rmdir-file", rmdir("f"));
	(void)res("rmdir-full", rmdir("d"));
	(void)res("rmdir-symlink", rmdir("s"));
	(void)res("rmdir-dot", rmdir("d/."));
	(void)res("rmdir-dotdot", rmdir("d/sub/.."));
	say_stat("d", "d");
	(void)res("rmdir-sub", rmdir("d/sub"));
	say_stat("d-after", "d");
	(void)res("unlink", unlink("f"));
	(void)res("again", unlink("f"));
	(void)res("symlink", unlink("s"));
	(void)res("unlinkat-flags", unlinkat(AT_FDCWD, "d", 0x1));
}

static void removed_directory(void)
{
	char buf[100];
	int fd;

	(void)mkdir("d", 0755);
	(void)mkdir("other", 0755);
	fd = open("d", O_RDONLY | O_DIRECTORY);
	if (chdir("d") < 0)
		die("chdir");
	(void)res("rmdir", rmdir("../d"));
	(void)ok("getcwd", getcwd(buf, sizeof(buf)) ? 0 : -1);
	(void)ok("create", open("x", O_RDWR | O_CREAT, 0644));
	(void)res("mkdir", mkdir("y", 0755));
	(void)res("getdents", syscall(SYS_getdents64, fd, buf, sizeof(buf)));
	(void)ok("dot", open(".", O_RDONLY));
	(void)ok("openat", openat(fd, "none", O_RDONLY));
	say_fstat("stat", fd);
	(void)res("fsync", fsync(fd));
	(void)res("fchmod", fchmod(fd, 0700));
	(void)res("dotdot", chdir(".."));
}

static void long_paths(void)
{
	char name[256], path[4200] = "";
	size_t len = 0;
	int fd, depth = 0;

	memset(name, 'y', 255);
	name[255] = '\0';
	/* a relative path of 15 x 256 + 254 = 4,094 bytes, then one of 4,095 */
	for (; depth < 15; depth++) {
		memcpy(path + len, name, 255);
		len += 255;
		path[len] = '\0';
		if (mkdir(path, 0755) < 0)
			die("mkdir");
		path[len++] = '/';
	}
	memset(path + len, 'z', 254);
	path[len + 254] = '\0';
	say("length", "%zu", strlen(path));
	fd = ok("create", open(path, O_RDWR | O_CREAT, 0644));
	(void)res("write", write(fd, "deep", 4));
	say_stat("stat", path);
	path[len + 254] = 'z';
	path[len + 255] = '\0';
	(void)ok("create-4095", open(path, O_RDWR | O_CREAT, 0644));
	path[len + 255] = 'z';
	path[len + 256] = '\0';
	(void)ok("create-4096", open(path, O_RDWR | O_CREAT, 0644));
	path[len - 1] = '\0';
	(void)res("rename", rename(name, "short"));
	(void)res("symlink-4095", symlink("x", "s"));
	memset(path, 'l', 4095);
	path[4095] = '\0';
	(void)res("target-4095", symlink(path, "s4095"));
	(void)res("readlink", readlink("s4095", path, sizeof(path)));
	memset(path, 'l', 4096);
	path[4096] = '\0';
	(void)res("target-4096", symlink(path, "s4096"));
	path[1023] = '\0';
	(void)res("target-1023", symlink(path, "s1023"));
	say_stat("s1023", "s1023");
	(void)res("target-empty", symlink("", "s0"));
}

static void odd_names(void)
{
	static const char *const names[] = { " ", "-", "...", "a\nb", "\xff\xfe", "\xc3\xbc", "a\\b", "*", ".stillfs2" };
	char key[40];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		(void)snprintf(key, sizeof(key), "name%zu", i);
		(void)ok(key, open(names[i], O_RDWR | O_CREAT | O_EXCL, 0644));
		say_stat(key, names[i]);
	}
	(void)ok("case-a", open("Case", O_RDWR | O_CREAT | O_EXCL, 0644));
	(void)ok("case-b", open("case", O_RDWR | O_CREAT | O_EXCL, 0644));
	(void)mkdir("sub", 0755);
	(void)ok("reserved-below", open("sub/.stillfs", O_RDWR | O_CREAT | O_EXCL, 0644));
}

/* What a lookup that found nothing left in the kernel must not outlive the name's making. */
static void negative_entries(void)
{
	static const char *const names[] = { "file", "dir", "link", "sym", "node", "renamed", "exchanged" };

	for (size_t i = 0; i < 7; i++)
		say_stat(names[i], names[i]);
	make_file("file", 1, 1);
	(void)mkdir("dir", 0700);
	(void)link("file", "link");
	(void)symlink("file", "sym");
	(void)mkfifo("node", 0600);
	make_file("x", 2, 2);
	(void)rename("x", "renamed");
	for (size_t i = 0; i < 7; i++)
		say_stat(names[i], names[i]);
	(void)unlink("file");
	(void)rmdir("dir");
	for (size_t i = 0; i < 7; i++)
		say_stat(names[i], names[i]);
	(void)mkdir("file", 0711); /* the same name, another kind */
	make_file("dir", 9, 9);
	say_stat("file", "file");
	say_stat("dir", "dir");
}

const struct fs_case cases_name[] = { { "rename_flags", rename_flags, ANYBODY },
				      { "rename_hardlinks", rename_hardlinks, ANYBODY },
				      { "link_rules", link_rules, ANYBODY },
				      { "unlink_rules", unlink_rules, ANYBODY },
				      { "removed_directory", removed_directory, ANYBODY },
				      { "long_paths", long_paths, ANYBODY },
				      { "odd_names", odd_names, ANYBODY },
				      { "negative_entries", negative_entries, ANYBODY },
				      { NULL, NULL, ANYBODY } };
