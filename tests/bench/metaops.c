/* tests/bench/metaops.c - operations on names and attributes, timed: metaops DIR MILLISECONDS.
 * Prints one line for each kind: NAME OPERATIONS_PER_SECOND. DIR is left as it was.
 * Called by: tests/bench/metadata. Threads: one. Errors: printed; exit 1. */
#include "base/clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <stdlib.h>
#include <unistd.h>

#define FILES 1000
#define CROWD 10000

static void die(const char *what)
{
	fprintf(stderr, "metaops: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void make(unsigned long n)
{
	char name[32];
	int fd;

	(void)snprintf(name, sizeof(name), "f%lu", n);
	fd = open(name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, "x", 1) != 1 || close(fd) < 0)
		die(name);
}

static void drop(unsigned long n)
{
	char name[32];

	(void)snprintf(name, sizeof(name), "f%lu", n);
	if (unlink(name) < 0)
		die(name);
}

static unsigned long open_close(unsigned long n)
{
	char name[32];
	int fd;

	(void)snprintf(name, sizeof(name), "f%lu", n % FILES);
	fd = open(name, O_RDWR | O_CLOEXEC);
	if (fd < 0 || close(fd) < 0)
		die(name);
	return 1;
}

static unsigned long do_stat(unsigned long n)
{
	char name[32];
	struct stat st;

	(void)snprintf(name, sizeof(name), "f%lu", n % FILES);
	if (stat(name, &st) < 0)
		die(name);
	return 1;
}

static unsigned long no_such_file(unsigned long n)
{
	struct stat st;
	char name[32];

	(void)snprintf(name, sizeof(name), "absent%lu", n % FILES);
	if (stat(name, &st) == 0 || errno != ENOENT)
		die(name);
	return 1;
}

static unsigned long create_write_unlink(unsigned long n)
{
	make(CROWD + n);
	drop(CROWD + n);
	return 1;
}

static unsigned long rename_back(unsigned long n)
{
	if (rename("f0", "renamed") < 0 || rename("renamed", "f0") < 0)
		die("rename");
	return 2;
}

static unsigned long read_names(unsigned long n)
{
	DIR *d = opendir(".");
	unsigned long found = 0;

	while (d && readdir(d))
		found++;
	if (!d || closedir(d) < 0)
		die("readdir");
	return found;
}

static void measure(const char *what, unsigned long (*op)(unsigned long), uint64_t ms)
{
	uint64_t start = clock_boot_ns(), now;
	unsigned long done = 0, n = 0;

	do {
		done += op(n++);
		now = clock_boot_ns();
	} while (now - start < ms * NS_PER_MS);
	printf("%s %.1f\n", what, (double)done * 1e9 / (double)(now - start));
}

int main(int argc, char **argv)
{
	uint64_t ms = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;

	if (!ms) {
		fputs("usage: metaops DIR MILLISECONDS\n", stderr);
		return 2;
	}
	if (chdir(argv[1]) < 0 || mkdir("metaops", 0700) < 0 || chdir("metaops") < 0)
		die(argv[1]);
	for (unsigned long i = 0; i < FILES; i++)
		make(i);
	measure("open+close", open_close, ms);
	measure("stat", do_stat, ms);
	measure("stat, no such file", no_such_file, ms);
	measure("create+write+unlink", create_write_unlink, ms);
	measure("rename", rename_back, ms);
	for (unsigned long i = FILES; i < CROWD; i++)
		make(i);
	measure("names of 10,000 files", read_names, ms);
	for (unsigned long i = 0; i < CROWD; i++)
		drop(i);
	if (chdir("..") < 0 || rmdir("metaops") < 0)
		die("rmdir");
	return 0;
}
