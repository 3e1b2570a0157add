/* tests/conformance/fs/case_rights.c - who may do what: umask, set-gid directories, supplementary groups, sticky
 * directories, set-id bits that go by write, chown and truncate. As root: each takes the identities it needs. */
#include "cases.h"

#include <sys/uio.h>
#include <sys/xattr.h>

#define ALICE 1001
#define BOB 1002
#define STAFF 2001
#define PROJECT 2002

static const gid_t in_project[] = { PROJECT };

static void rights_umask(void)
{
	static const mode_t masks[] = { 0, 002, 022, 027, 077, 0777 };
	char name[20];

	for (size_t i = 0; i < 6; i++) {
		(void)umask(masks[i]);
		(void)snprintf(name, sizeof(name), "f%o", masks[i]);
		(void)ok(name, open(name, O_RDWR | O_CREAT, 0777));
		say_stat(name, name);
		(void)snprintf(name, sizeof(name), "s%o", masks[i]);
		(void)ok(name, open(name, O_RDWR | O_CREAT, 07777));
		say_stat(name, name);
		(void)snprintf(name, sizeof(name), "d%o", masks[i]);
		(void)res(name, mkdir(name, 07777));
		say_stat(name, name);
		(void)snprintf(name, sizeof(name), "p%o", masks[i]);
		(void)res(name, mkfifo(name, 0666));
		say_stat(name, name);
		(void)snprintf(name, sizeof(name), "l%o", masks[i]);
		(void)res(name, symlink("f0", name));
		say_stat(name, name);
	}
}

static void make_all(const char *dir)
{
	char p[64];

	(void)umask(002);
	(void)snprintf(p, sizeof(p), "%s/file", dir);
	(void)ok("file", open(p, O_RDWR | O_CREAT, 0666));
	say_stat("file", p);
	(void)snprintf(p, sizeof(p), "%s/sgid-exec", dir);
	(void)ok("sgid-exec", open(p, O_RDWR | O_CREAT, 02775));
	say_stat("sgid-exec", p);
	(void)snprintf(p, sizeof(p), "%s/sgid-plain", dir);
	(void)ok("sgid-plain", open(p, O_RDWR | O_CREAT, 02664));
	say_stat("sgid-plain", p);
	(void)snprintf(p, sizeof(p), "%s/dir", dir);
	(void)res("dir", mkdir(p, 0775));
	say_stat("dir", p);
	(void)snprintf(p, sizeof(p), "%s/node", dir);
	(void)res("node", mknod(p, S_IFREG | 02775, 0));
	say_stat("node", p);
	(void)snprintf(p, sizeof(p), "%s/link", dir);
	(void)res("link", symlink("file", p));
	say_stat("link", p);
	say_fstat("tmp", open(dir, O_TMPFILE | O_RDWR, 02775));
}

static void rights_setgid_directory(void)
{
	(void)mkdir("shared", 0777);
	if (chown("shared", 0, PROJECT) < 0 || chmod("shared", 02777) < 0)
		die("shared");
	if (begin_as(ALICE, STAFF, 1, in_project)) {
		(void)mkdir("shared/member", 0777);
		say_stat("member-dir", "shared/member");
		make_all("shared/member");
		end_as();
	}
	if (begin_as(BOB, STAFF, 0, NULL)) {
		(void)mkdir("shared/stranger", 0777);
		say_stat("stranger-dir", "shared/stranger");
		make_all("shared/stranger");
		(void)res("chmod-sgid", chmod("shared/stranger/file", 02775));
		say_stat("chmod-sgid", "shared/stranger/file");
		end_as();
	}
	make_all("shared");
}

static void rights_groups(void)
{
	char b[8];

	make_file("f", 8, 1);
	(void)mkdir("d", 0770);
	if (chown("f", BOB, PROJECT) < 0 || chmod("f", 0460) < 0 || chown("d", BOB, PROJECT) < 0)
		die("chown");
	if (begin_as(ALICE, STAFF, 1, in_project)) {
		int fd = ok("member-open", open("f", O_RDWR));

		(void)res("member-read", read(fd, b, 8));
		(void)res("member-write", write(fd, "x", 1));
		(void)ok("member-create", open("d/by-member", O_RDWR | O_CREAT, 0640));
		say_stat("by-member", "d/by-member");
		(void)res("member-unlink", unlink("d/by-member"));
		(void)res("member-chmod", chmod("f", 0666));
		(void)res("member-utimes-now", utimensat(AT_FDCWD, "f", NULL, 0));
		(void)res("member-access", access("f", W_OK));
		end_as();
	}
	if (begin_as(ALICE, STAFF, 0, NULL)) {
		(void)ok("stranger-open", open("f", O_RDONLY));
		(void)ok("stranger-create", open("d/x", O_RDWR | O_CREAT, 0640));
		(void)ok("stranger-list", open("d", O_RDONLY));
		(void)res("stranger-chdir", chdir("d"));
		(void)res("stranger-access", access("f", R_OK));
		(void)res("stranger-truncate", truncate("f", 0));
		(void)res("stranger-utimes", utimensat(AT_FDCWD, "f", NULL, 0));
		end_as();
	}
	if (begin_as(BOB, STAFF, 0, NULL)) {
		(void)ok("owner-write", open("f", O_WRONLY));
		(void)res("owner-chgrp-own", chown("f", (uid_t)-1, STAFF));
		(void)res("owner-chgrp-other", chown("f", (uid_t)-1, PROJECT));
		(void)res("owner-give", chown("f", ALICE, (gid_t)-1));
		(void)res("owner-noatime", close(open("f", O_RDONLY | O_NOATIME)));
		end_as();
	}
	if (begin_as(BOB, STAFF, 1, in_project)) {
		(void)res("owner-chgrp-member", chown("f", (uid_t)-1, PROJECT));
		say_stat("f", "f");
		end_as();
	}
	(void)chmod("f", 0644);
	if (begin_as(ALICE, STAFF, 0, NULL)) {
		(void)ok("noatime-stranger", open("f", O_RDONLY | O_NOATIME));
		(void)ok("noatime-setfl", fcntl(open("f", O_RDONLY), F_SETFL, O_NOATIME));
		end_as();
	}
}

static void rights_sticky(void)
{
	(void)mkdir("tmp", 0777);
	(void)chmod("tmp", 01777);
	make_file("tmp/roots", 1, 1);
	if (begin_as(ALICE, STAFF, 0, NULL)) {
		(void)res("unlink-roots", unlink("tmp/roots"));
		(void)res("rename-roots", rename("tmp/roots", "tmp/x"));
		make_file("tmp/alices", 1, 1);
		(void)mkdir("tmp/dir", 0777);
		(void)chmod("tmp/alices", 0666);
		end_as();
	}
	if (begin_as(BOB, STAFF, 0, NULL)) {
		make_file("tmp/bobs", 1, 1);
		(void)res("unlink-alices", unlink("tmp/alices"));
		(void)res("over-alices", rename("tmp/bobs", "tmp/alices"));
		(void)res("rmdir-alices", rmdir("tmp/dir"));
		(void)res("into-alices", rename("tmp/bobs", "tmp/dir/bobs"));
		(void)ok("write-alices", open("tmp/alices", O_WRONLY));
		(void)ok("creat-alices", open("tmp/alices", O_WRONLY | O_CREAT, 0644)); /* fs.protected_regular */
		(void)res("link-alices", link("tmp/roots", "tmp/hard")); /* fs.protected_hardlinks */
		end_as();
	}
	if (begin_as(ALICE, STAFF, 0, NULL)) {
		(void)res("unlink-own", unlink("tmp/alices"));
		end_as();
	}
}

static void fresh_suid(const char *name, mode_t mode)
{
	char key[96];

	make_file(name, 100, 1);
	(void)chown(name, ALICE, STAFF);
	(void)chmod(name, mode);
	(void)snprintf(key, sizeof(key), "%s-before", name);
	say_stat(key, name);
}

/* Each way to write, by a caller without CAP_FSETID, to a file that anybody may write. */
static void clear_by(const char *how, const char *name)
{
	int fd = open(name, O_RDWR);
	struct iovec v = { .iov_base = (void *)(uintptr_t) "iov", .iov_len = 3 };

	if (strcmp(how, "write") == 0) {
		(void)res(how, pwrite(fd, "x", 1, 0));
	} else if (strcmp(how, "append") == 0) {
		(void)fcntl(fd, F_SETFL, O_APPEND);
		(void)res(how, write(fd, "x", 1));
	} else if (strcmp(how, "direct") == 0) {
		char *p = aligned(4096);

		(void)fcntl(fd, F_SETFL, O_DIRECT);
		(void)res(how, pwrite(fd, p, 4096, 0));
	} else if (strcmp(how, "writev") == 0) {
		(void)res(how, pwritev(fd, &v, 1, 5));
	} else if (strcmp(how, "ftruncate") == 0) {
		(void)res(how, ftruncate(fd, 50));
	} else if (strcmp(how, "truncate") == 0) {
		(void)res(how, truncate(name, 50));
	} else if (strcmp(how, "trunc-open") == 0) {
		(void)ok(how, open(name, O_WRONLY | O_TRUNC));
	} else if (strcmp(how, "fallocate") == 0) {
		(void)res(how, fallocate(fd, 0, 0, 100000));
	} else if (strcmp(how, "zero-bytes") == 0) {
		(void)res(how, pwrite(fd, "x", 0, 0));
	} else if (strcmp(how, "copy") == 0) {
		int from = open("source", O_RDONLY);

		(void)res(how, copy_file_range(from, NULL, fd, NULL, 10, 0));
	}
	say_fstat("after-fd", fd);
	(void)close(fd);
	say_stat("after", name);
}

static void rights_suid_cleared(void)
{
	static const char *const ways[] = { "write",	"append",     "direct",	   "writev",	 "ftruncate",
					    "truncate", "trunc-open", "fallocate", "zero-bytes", "copy" };
	static const mode_t modes[] = { 06777, 06767, 04777, 02777, 02767 };
	char name[64];

	make_file("source", 10, 3);
	for (size_t m = 0; m < 5; m++)
		for (size_t w = 0; w < 10; w++) {
			(void)snprintf(name, sizeof(name), "%s-%o", ways[w], modes[m]);
			fresh_suid(name, modes[m]);
			if (begin_as(BOB, STAFF, 0, NULL)) {
				clear_by(ways[w], name);
				end_as();
			}
			say_stat("seen-by-root", name);
			if (m == 0) { /* root keeps them */
				(void)chmod(name, modes[m]);
				clear_by(ways[w], name);
			}
		}
}

static void rights_suid_chown(void)
{
	int fd;

	fresh_suid("a", 06777);
	(void)res("root-chown", chown("a", BOB, STAFF));
	say_stat("root-chown", "a");
	fresh_suid("b", 02767);
	(void)res("root-chgrp", chown("b", (uid_t)-1, PROJECT));
	say_stat("root-chgrp", "b");
	fresh_suid("c", 06777);
	fd = open("c", O_RDONLY);
	if (begin_as(ALICE, STAFF, 1, in_project)) {
		(void)res("owner-chgrp", fchown(fd, (uid_t)-1, PROJECT));
		say_fstat("owner-chgrp", fd);
		(void)res("owner-chmod", chmod("c", 06755));
		say_stat("owner-chmod", "c");
		(void)res("owner-nothing", chown("c", (uid_t)-1, (gid_t)-1));
		say_stat("owner-nothing", "c");
		end_as();
	}
	fresh_suid("e", 06777);
	(void)res("lchown", lchown("e", ALICE, STAFF));
	say_stat("lchown", "e");
	(void)mkdir("d", 0777);
	(void)chmod("d", 06777);
	(void)res("dir-chown", chown("d", BOB, PROJECT));
	say_stat("dir-chown", "d");
	/* a group that the owner is not in: the bit is not given */
	fresh_suid("g", 0777);
	(void)chown("g", ALICE, PROJECT);
	if (begin_as(ALICE, STAFF, 0, NULL)) {
		(void)res("chmod-foreign-group", chmod("g", 02777));
		say_stat("chmod-foreign-group", "g");
		end_as();
	}
}

/* File capabilities go the way of set-id bits. */
static void rights_file_caps(void)
{
	static const unsigned char cap[20] = { 1, 0, 0, 2, 0, 4 }; /* revision 2, effective; CAP_NET_BIND_SERVICE */
	static const char *const ways[] = { "write", "direct", "ftruncate", "trunc-open", "fallocate" };
	char v[64];

	for (size_t w = 0; w < 5; w++) {
		make_file(ways[w], 100, 1);
		(void)chmod(ways[w], 0777);
		(void)res("set", setxattr(ways[w], "security.capability", cap, sizeof(cap), 0));
		(void)res("get", getxattr(ways[w], "security.capability", v, sizeof(v)));
		if (begin_as(BOB, STAFF, 0, NULL)) {
			(void)res("user-set", setxattr(ways[w], "security.capability", cap, sizeof(cap), 0));
			clear_by(ways[w], ways[w]);
			end_as();
		}
		(void)res("left", getxattr(ways[w], "security.capability", v, sizeof(v)));
	}
	make_file("owned", 1, 1);
	(void)setxattr("owned", "security.capability", cap, sizeof(cap), 0);
	(void)res("chown", chown("owned", ALICE, STAFF));
	(void)res("left-chown", getxattr("owned", "security.capability", v, sizeof(v)));
}

static void rights_directories(void)
{
	(void)mkdir("x-only", 0711);
	make_file("x-only/f", 1, 1);
	(void)mkdir("r-only", 0744);
	make_file("r-only/f", 1, 1);
	(void)mkdir("w-only", 0722);
	(void)mkdir("none", 0700);
	make_file("none/f", 1, 1);
	if (begin_as(ALICE, STAFF, 0, NULL)) {
		static const char *const dirs[] = { "x-only", "r-only", "w-only", "none" };
		char p[64];

		for (size_t i = 0; i < 4; i++) {
			(void)ok(dirs[i], open(dirs[i], O_RDONLY | O_DIRECTORY));
			(void)snprintf(p, sizeof(p), "%s/f", dirs[i]);
			(void)ok(p, open(p, O_RDONLY));
			say_stat(p, p);
			(void)res(p, unlink(p));
			(void)snprintf(p, sizeof(p), "%s/new", dirs[i]);
			(void)ok(p, open(p, O_RDWR | O_CREAT, 0644));
			(void)res(p, mkdir(p, 0755));
			(void)res(p, rename("x-only/f", p));
		}
		end_as();
	}
}

const struct fs_case cases_rights[] = { { "rights_umask", rights_umask, ANYBODY },
					{ "rights_setgid_directory", rights_setgid_directory, ROOT },
					{ "rights_groups", rights_groups, ROOT },
					{ "rights_sticky", rights_sticky, ROOT },
					{ "rights_suid_cleared", rights_suid_cleared, ROOT },
					{ "rights_suid_chown", rights_suid_chown, ROOT },
					{ "rights_file_caps", rights_file_caps, ROOT },
					{ "rights_directories", rights_directories, ROOT },
					{ NULL, NULL, ANYBODY } };
