/* fs/procsig.c - see procsig.h. */
#include "fs/procsig.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BIT(sig) (1ull << ((sig) - 1))
#define ASKS (BIT(SIGINT) | BIT(SIGTERM) | BIT(SIGHUP) | BIT(SIGQUIT))
#define HARMLESS (BIT(SIGCHLD) | BIT(SIGCONT) | BIT(SIGURG) | BIT(SIGWINCH) | BIT(SIGSTOP) | BIT(SIGTSTP) | BIT(SIGTTIN) | BIT(SIGTTOU))

/* All masks of this name together: SigPnd and ShdPnd both end in "Pnd:". */
static unsigned long long masks(const char *text, const char *name)
{
	unsigned long long mask = 0;

	for (const char *p = text; (p = strstr(p, name)) != NULL;) {
		p += strlen(name);
		mask |= strtoull(p, NULL, 16);
	}
	return mask;
}

/* The whole of it or, as the caller's groups may make it long, its end: that has the masks. */
static ssize_t read_end(int fd, char *text, size_t cap)
{
	size_t n = 0;
	ssize_t more;

	while ((more = read(fd, text + n, cap - 1 - n)) > 0) {
		n += (size_t)more;
		if (n == cap - 1) {
			memmove(text, text + n / 2, n - n / 2);
			n -= n / 2;
		}
	}
	text[n] = '\0';
	return more < 0 ? more : (ssize_t)n;
}

enum procsig procsig_of(uint32_t pid)
{
	char path[48], text[4096];
	unsigned long long pending;
	ssize_t n;
	int fd;

	(void)snprintf(path, sizeof(path), "/proc/%u/status", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT && pid != 0 ? PROCSIG_DIES : PROCSIG_GOES_ON;
	n = read_end(fd, text, sizeof(text));
	(void)close(fd);
	if (n <= 0)
		return n < 0 && errno == ESRCH ? PROCSIG_DIES : PROCSIG_GOES_ON;
	pending = masks(text, "Pnd:\t");
	if (pending & BIT(SIGKILL))
		return PROCSIG_DIES;
	pending &= ~masks(text, "SigBlk:\t");
	return pending & (ASKS | ~(masks(text, "SigCgt:\t") | masks(text, "SigIgn:\t") | HARMLESS)) ? PROCSIG_ASKED : PROCSIG_GOES_ON;
}
