/* tests/unit/snapshot/unit.c - see unit.h. */
#include "tests/unit/snapshot/unit.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* For a sanitizer on a busy machine; nobody waits that long for what works. */
#define WAIT_S 60

void wait_until(bool (*cond)(void *arg), void *arg, const char *what)
{
	struct timespec end, now;

	(void)clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += WAIT_S;
	while (!cond(arg)) {
		(void)clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec > end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec > end.tv_nsec))
			fail_msg("waited %d s for: %s", WAIT_S, what);
		(void)usleep(500);
	}
}

void scratch_make(char *buf, size_t cap)
{
	const char *tmp = getenv("TMPDIR");

	(void)snprintf(buf, cap, "%s/stillfs-unit.XXXXXX", tmp && *tmp ? tmp : "/tmp");
	if (!mkdtemp(buf))
		fail_msg("mkdtemp %s: %s", buf, strerror(errno));
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *f)
{
	return remove(path);
}

void scratch_remove(const char *dir)
{
	if (nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS) < 0)
		fail_msg("remove %s: %s", dir, strerror(errno));
}

static void join(char *buf, size_t cap, const char *dir, const char *name)
{
	(void)snprintf(buf, cap, "%s/%s", dir, name);
}

void file_put(const char *dir, const char *name, const char *text)
{
	char path[4096];
	FILE *f;

	join(path, sizeof(path), dir, name);
	f = fopen(path, "we");
	if (!f || fwrite(text, 1, strlen(text), f) != strlen(text) || fclose(f) != 0)
		fail_msg("write %s: %s", path, strerror(errno));
}

char *file_get(const char *dir, const char *name)
{
	char path[4096], *text = calloc(1, 1 << 16);
	size_t n;
	FILE *f;

	join(path, sizeof(path), dir, name);
	f = fopen(path, "re");
	if (!f) {
		free(text);
		return NULL;
	}
	n = fread(text, 1, (1 << 16) - 1, f);
	text[n] = '\0';
	(void)fclose(f);
	return text;
}

bool file_there(const char *dir, const char *name)
{
	char path[4096];
	struct stat st;

	join(path, sizeof(path), dir, name);
	return lstat(path, &st) == 0;
}

void log_quiet(void)
{
	log_setup(open("/dev/null", O_WRONLY | O_CLOEXEC), LOG_LEVEL_DEBUG);
}

void assert_says_(const char *text, const char *part, const char *file, int line)
{
	if (text && strstr(text, part))
		return;
	print_error("\"%s\" does not say \"%s\"\n", text ? text : "(null)", part);
	_fail(file, line);
}
