/* base/log.c - see log.h. */
#include "base/log.h"
#include "base/clock.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

static atomic_int log_fd = 2;
static atomic_int log_max = LOG_LEVEL_INFO;

int log_descriptor(void)
{
	return atomic_load(&log_fd);
}

void log_setup(int fd, enum log_level max)
{
	atomic_store(&log_fd, fd);
	atomic_store(&log_max, (int)max);
}

void log_write(enum log_level level, const char *fmt, ...)
{
	static const char *const names[] = { "error", "warn", "info", "debug" };
	char line[1024], when[CLOCK_ISO_MAX];
	int saved = errno, n;
	va_list ap;

	if ((int)level > atomic_load(&log_max))
		return;
	n = snprintf(line, sizeof(line), "%s %s ", clock_iso(clock_utc(), when), names[level]);
	va_start(ap, fmt);
	(void)vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
	va_end(ap);
	n = (int)strlen(line);
	for (int i = 0; i < n; i++)
		if (line[i] == '\n')
			line[i] = ' '; /* one message, one line */
	line[n++] = '\n';
	/* one write, so that lines of several threads do not mix; a full disk loses the line only */
	if (write(atomic_load(&log_fd), line, (size_t)n) < 0) {
	}
	errno = saved;
}
