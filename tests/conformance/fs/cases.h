/* tests/conformance/fs/cases.h - what the cases share: each prints one line per result, "case key value".
 * The program runs once in the native directory and once on the mount; the outputs are compared line by line, so a
 * case prints nothing that may differ between two native runs (times, inode numbers, process ids).
 * A case runs in a child of its own, in an empty directory of its own, with umask 022 and a time limit. */
#ifndef STILLFS_TESTS_CASES_H
#define STILLFS_TESTS_CASES_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum who { /* who runs a case */
	ANYBODY, /* once as root, once as an unprivileged user */
	ROOT, /* it takes other identities by itself */
};

struct fs_case {
	const char *name;
	void (*run)(void);
	enum who who;
};

extern const struct fs_case cases_open[], cases_name[], cases_rights[], cases_acl[], cases_data[], cases_sync[],
	cases_alloc[], cases_lock[], cases_mmap[], cases_attr[], cases_dir[], cases_special[]; /* each ends with a NULL name */

/* One line. */
void say(const char *key, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The result of a call, or its errno by name. Both return the result. */
long res(const char *key, long r);
/* The same, but any success is "ok": for descriptors and pointers. */
int ok(const char *key, int r);
/* mode, nlink, owner, size (not of directories), blocks only as "none" or "some". */
void say_stat(const char *key, const char *path);
void say_fstat(const char *key, int fd);
/* The content of a file: its size and a digest, or the errno. */
void say_content(const char *key, const char *path);
/* `n` bytes as a digest. */
uint64_t digest(const void *p, size_t n);
/* Fill with a pattern that depends on the position and `seed`. */
void pattern(void *p, size_t n, unsigned seed);
/* A file of n bytes of that pattern; dies when it cannot be made. */
void make_file(const char *path, size_t n, unsigned seed);
/* Memory for direct I/O, zeroed, aligned to a page. Never freed: the case's process ends. */
void *aligned(size_t n);
/* Something that the case needs failed: the case ends, visibly. */
void die(const char *what) __attribute__((noreturn));

/* if (begin_as(...)) { ... end_as(); }  The block runs in a child of that identity. */
bool begin_as(uid_t uid, gid_t gid, size_t n_groups, const gid_t *groups);
void end_as(void) __attribute__((noreturn));
/* if (begin_child()) { ... end_as(); }  The block runs in a child. */
bool begin_child(void);

#endif
