/* tests/conformance/fs/case_dir.c - reading directories: all names once, cookies that stay while entries come and go. */
#include "cases.h"

#include <dirent.h>

static void make_names(const char *prefix, unsigned n)
{
	char name[64];

	for (unsigned i = 0; i < n; i++) {
		(void)snprintf(name, sizeof(name), "%s%u", prefix, i);
		if (close(open(name, O_WRONLY | O_CREAT, 0644)) < 0)
			die(name);
	}
}

/* Count names of a prefix, and whether each came once. */
static void count(const char *key, DIR *d, const char *prefix, unsigned max)
{
	unsigned char *seen = calloc(max, 1);
	unsigned n = 0, twice = 0, wrong_ino = 0, wrong_type = 0;
	struct dirent *e;
	struct stat st;

	while ((e = readdir(d))) {
		unsigned i = (unsigned)atoi(e->d_name + strlen(prefix));

		if (strncmp(e->d_name, prefix, strlen(prefix)) != 0 || i >= max)
			continue;
		n++;
		twice += seen[i]++ != 0;
		if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
			wrong_ino += st.st_ino != e->d_ino;
			wrong_type += e->d_type != DT_UNKNOWN && e->d_type != IFTODT(st.st_mode);
		}
	}
	say(key, "%u names, %u twice, %u wrong numbers, %u wrong types", n, twice, wrong_ino, wrong_type);
	free(seen);
}

static void dir_kinds(void)
{
	DIR *d;

	(void)mkdir("k0", 0755);
	(void)symlink("x", "k1");
	(void)mkfifo("k2", 0644);
	make_file("k3", 1, 1);
	d = opendir(".");
	count("kinds", d, "k", 10);
	rewinddir(d);
	make_file("k4", 1, 1);
	(void)unlink("k3");
	rewinddir(d);
	count("rewound", d, "k", 10);
	(void)closedir(d);
}

/* Entries that are there all the time come exactly once, whatever comes and goes meanwhile. */
static void dir_changes(void)
{
	unsigned char seen[2000] = { 0 };
	unsigned n = 0, twice = 0, missing = 0;
	struct dirent *e;
	char name[64];
	DIR *d;

	make_names("keep", 2000);
	make_names("go", 1000);
	d = opendir(".");
	while ((e = readdir(d))) {
		unsigned i;

		if (n % 10 == 0) {
			(void)snprintf(name, sizeof(name), "come%u", n);
			(void)close(open(name, O_WRONLY | O_CREAT, 0644));
			(void)snprintf(name, sizeof(name), "go%u", n / 3);
			(void)unlink(name);
			(void)snprintf(name, sizeof(name), "come%u", n / 20 * 10);
			(void)rename(name, "moved");
		}
		n++;
		if (sscanf(e->d_name, "keep%u", &i) == 1 && i < 2000)
			twice += seen[i]++ != 0;
	}
	for (unsigned i = 0; i < 2000; i++)
		missing += seen[i] == 0;
	say("kept", "%u twice, %u missing", twice, missing);
	(void)closedir(d);
}

static void dir_cookies(void)
{
	static long at[1000];
	static char names[1000][32];
	unsigned n = 0, wrong = 0, removed_wrong = 0;
	struct dirent *e;
	DIR *d;

	make_names("n", 1000);
	d = opendir(".");
	for (; n < 1000; n++) {
		at[n] = telldir(d);
		e = readdir(d);
		if (!e)
			break;
		(void)snprintf(names[n], sizeof(names[n]), "%.31s", e->d_name);
	}
	for (unsigned i = 0; i < n; i++) { /* back and forth */
		unsigned k = i * 37 % n;

		seekdir(d, at[k]);
		e = readdir(d);
		wrong += !e || strcmp(e->d_name, names[k]) != 0;
	}
	for (unsigned i = 0; i < n; i += 2)
		(void)unlink(names[i]);
	for (unsigned k = 1; k < n; k += 2) { /* of entries that are left */
		seekdir(d, at[k]);
		e = readdir(d);
		removed_wrong += names[k][0] == 'n' && (!e || strcmp(e->d_name, names[k]) != 0);
	}
	say("cookies", "%u read, %u wrong, %u wrong after removals", n, wrong, removed_wrong);
	(void)closedir(d);
}

/* Two descriptors of one directory do not disturb each other; a duplicate shares the position. */
static void dir_two(void)
{
	DIR *a, *b;

	make_names("n", 300);
	a = opendir(".");
	b = opendir(".");
	for (int i = 0; i < 100; i++)
		(void)readdir(a);
	count("second", b, "n", 300);
	rewinddir(a);
	count("first", a, "n", 300);
	rewinddir(b);
	(void)readdir(b);
	if (begin_child()) {
		DIR *c = opendir(".");

		count("child", c, "n", 300);
		end_as();
	}
	(void)closedir(a);
	(void)closedir(b);
}

static void dir_links(void)
{
	char name[32];

	for (int i = 0; i < 20; i++) {
		(void)snprintf(name, sizeof(name), "d%d", i);
		(void)mkdir(name, 0755);
	}
	say_stat("twenty", ".");
	(void)rename("d0", "d1/d0");
	say_stat("moved", ".");
	say_stat("d1", "d1");
	(void)rmdir("d2");
	say_stat("removed", ".");
	(void)rename("d3", "d4"); /* over an empty one */
	say_stat("replaced", ".");
	say_stat("dotdot", "d1/d0/..");
}

const struct fs_case cases_dir[] = { { "dir_kinds", dir_kinds, ANYBODY },
				     { "dir_changes", dir_changes, ANYBODY },
				     { "dir_cookies", dir_cookies, ANYBODY },
				     { "dir_two", dir_two, ANYBODY },
				     { "dir_links", dir_links, ANYBODY },
				     { NULL, NULL, ANYBODY } };
