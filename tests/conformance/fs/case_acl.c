/* tests/conformance/fs/case_acl.c - POSIX ACLs: set, listed, inherited, changed by chmod, and enforced. */
#include "cases.h"

#include <linux/posix_acl_xattr.h>
#include <linux/posix_acl.h>
#include <sys/xattr.h>

#define ACCESS "system.posix_acl_access"
#define DEFAULT "system.posix_acl_default"
#define ALICE 1001
#define BOB 1002
#define STAFF 2001
#define PROJECT 2002
#define MAX_ENTRIES 8

struct acl {
	struct posix_acl_xattr_header h;
	struct posix_acl_xattr_entry e[MAX_ENTRIES];
	size_t n;
};

static void acl_start(struct acl *a)
{
	a->h.a_version = POSIX_ACL_XATTR_VERSION;
	a->n = 0;
}

static void acl_add(struct acl *a, int tag, unsigned perm, unsigned id)
{
	a->e[a->n++] = (struct posix_acl_xattr_entry){ .e_tag = (uint16_t)tag, .e_perm = (uint16_t)perm, .e_id = id };
}

/* u::rw g::r o::- and one user and one group more */
static void acl_usual(struct acl *a, unsigned user_perm, unsigned group_perm, unsigned mask)
{
	acl_start(a);
	acl_add(a, ACL_USER_OBJ, 6, ACL_UNDEFINED_ID);
	acl_add(a, ACL_USER, user_perm, ALICE);
	acl_add(a, ACL_GROUP_OBJ, 4, ACL_UNDEFINED_ID);
	acl_add(a, ACL_GROUP, group_perm, PROJECT);
	acl_add(a, ACL_MASK, mask, ACL_UNDEFINED_ID);
	acl_add(a, ACL_OTHER, 0, ACL_UNDEFINED_ID);
}

static long acl_set(const char *path, const char *name, const struct acl *a)
{
	unsigned char v[sizeof(a->h) + sizeof(a->e)];

	memcpy(v, &a->h, sizeof(a->h));
	memcpy(v + sizeof(a->h), a->e, sizeof(a->e));
	return setxattr(path, name, v, sizeof(a->h) + a->n * sizeof(a->e[0]), 0);
}

static void say_acl(const char *key, const char *path, const char *name)
{
	char b[400];
	ssize_t n = getxattr(path, name, b, sizeof(b));

	if (n < 0)
		say(key, "%s", strerrorname_np(errno));
	else
		say(key, "%zd bytes %lx", n, digest(b, (size_t)n));
}

static void try_rights(const char *who, uid_t uid, gid_t gid, size_t n, const gid_t *groups)
{
	char key[40];

	if (!begin_as(uid, gid, n, groups))
		return;
	(void)snprintf(key, sizeof(key), "%s-read", who);
	(void)ok(key, open("f", O_RDONLY));
	(void)snprintf(key, sizeof(key), "%s-write", who);
	(void)ok(key, open("f", O_WRONLY));
	(void)snprintf(key, sizeof(key), "%s-access", who);
	(void)res(key, access("f", R_OK | W_OK));
	(void)snprintf(key, sizeof(key), "%s-set", who);
	(void)res(key, removexattr("f", ACCESS));
	end_as();
}

static void acl_enforced(void)
{
	static const gid_t project[] = { PROJECT };
	struct acl a;

	make_file("f", 10, 1);
	(void)chmod("f", 0600);
	try_rights("alice-before", ALICE, STAFF, 0, NULL);
	acl_usual(&a, 6, 4, 7);
	(void)res("set", acl_set("f", ACCESS, &a));
	say_stat("f", "f");
	say_acl("acl", "f", ACCESS);
	try_rights("alice", ALICE, STAFF, 0, NULL);
	try_rights("bob", BOB, STAFF, 0, NULL);
	try_rights("bob-project", BOB, STAFF, 1, project);
	(void)res("chmod", chmod("f", 0640)); /* the mask shrinks */
	say_acl("acl-chmod", "f", ACCESS);
	try_rights("alice-masked", ALICE, STAFF, 0, NULL);
	(void)res("remove", removexattr("f", ACCESS));
	say_stat("f-after", "f");
	say_acl("acl-removed", "f", ACCESS);
	try_rights("alice-removed", ALICE, STAFF, 0, NULL);
	(void)res("remove-again", removexattr("f", ACCESS));
}

static void acl_inherited(void)
{
	struct acl a;

	(void)mkdir("d", 0777);
	acl_usual(&a, 7, 5, 7);
	(void)res("set", acl_set("d", DEFAULT, &a));
	say_acl("default", "d", DEFAULT);
	(void)umask(077); /* which a default ACL overrides */
	(void)ok("create", open("d/f", O_RDWR | O_CREAT, 0666));
	say_stat("f", "d/f");
	say_acl("f-acl", "d/f", ACCESS);
	(void)res("mkdir", mkdir("d/sub", 0777));
	say_stat("sub", "d/sub");
	say_acl("sub-acl", "d/sub", ACCESS);
	say_acl("sub-default", "d/sub", DEFAULT);
	(void)res("mkfifo", mkfifo("d/p", 0666));
	say_acl("p-acl", "d/p", ACCESS);
	(void)res("symlink", symlink("f", "d/s"));
	say_stat("s", "d/s");
	say_fstat("tmpfile", open("d", O_TMPFILE | O_RDWR, 0666));
	if (begin_as(ALICE, STAFF, 0, NULL)) {
		(void)ok("alice-opens", open("d/f", O_RDWR));
		(void)ok("alice-creates", open("d/sub/x", O_RDWR | O_CREAT, 0600));
		say_stat("x", "d/sub/x");
		end_as();
	}
	(void)res("remove", removexattr("d", DEFAULT));
	(void)ok("create-after", open("d/g", O_RDWR | O_CREAT, 0666));
	say_stat("g", "d/g");
}

static void acl_errors(void)
{
	char list[400];
	struct acl a;
	ssize_t n;

	make_file("f", 1, 1);
	(void)symlink("f", "s");
	acl_usual(&a, 6, 4, 7);
	(void)res("default-on-file", acl_set("f", DEFAULT, &a));
	(void)res("on-symlink", lsetxattr("s", ACCESS, "abcd", 4, 0));
	a.h.a_version = 1;
	(void)res("version", acl_set("f", ACCESS, &a));
	acl_start(&a);
	(void)res("empty", acl_set("f", ACCESS, &a));
	acl_add(&a, ACL_USER_OBJ, 6, ACL_UNDEFINED_ID);
	(void)res("incomplete", acl_set("f", ACCESS, &a));
	acl_add(&a, ACL_GROUP_OBJ, 4, ACL_UNDEFINED_ID);
	acl_add(&a, ACL_OTHER, 4, ACL_UNDEFINED_ID);
	(void)res("minimal", acl_set("f", ACCESS, &a)); /* no more than a mode */
	say_stat("minimal", "f");
	say_acl("minimal-acl", "f", ACCESS);
	acl_usual(&a, 6, 4, 7);
	(void)res("set", acl_set("f", ACCESS, &a));
	n = listxattr("f", list, sizeof(list));
	say("list", "%zd %lx", n, n > 0 ? digest(list, (size_t)n) : 0);
}

/* Setting an ACL on a file of a group that the owner is not in takes its set-gid bit. */
static void acl_setgid(void)
{
	struct acl a;

	make_file("f", 1, 1);
	(void)chown("f", ALICE, PROJECT);
	(void)chmod("f", 02775);
	say_stat("before", "f");
	if (begin_as(ALICE, STAFF, 0, NULL)) {
		acl_usual(&a, 6, 4, 7);
		(void)res("set", acl_set("f", ACCESS, &a));
		end_as();
	}
	say_stat("after", "f");
	(void)chmod("f", 02775);
	acl_usual(&a, 7, 4, 7);
	(void)res("set-by-root", acl_set("f", ACCESS, &a));
	say_stat("after-root", "f");
}

const struct fs_case cases_acl[] = { { "acl_enforced", acl_enforced, ROOT },
				     { "acl_inherited", acl_inherited, ROOT },
				     { "acl_errors", acl_errors, ANYBODY },
				     { "acl_setgid", acl_setgid, ROOT },
				     { NULL, NULL, ANYBODY } };
