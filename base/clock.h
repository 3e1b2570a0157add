/* base/clock.h - the two clocks. CLOCK_BOOTTIME for deadlines (it counts suspend too), CLOCK_REALTIME
 * for what people read. Any thread; never blocks. */
#ifndef STILLFS_BASE_CLOCK_H
#define STILLFS_BASE_CLOCK_H

#include <stdint.h>
#include <stdio.h>
#include <time.h>

#define NS_PER_MS 1000000ull
#define NS_PER_S 1000000000ull

static inline uint64_t clock_boot_ns(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static inline struct timespec clock_utc(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_REALTIME, &t);
	return t;
}

/* Milliseconds from now until `deadline_ns`, rounded up; 0 when it has passed. */
static inline uint32_t clock_left_ms(uint64_t deadline_ns)
{
	uint64_t now = clock_boot_ns();
	uint64_t ms = deadline_ns > now ? (deadline_ns - now + NS_PER_MS - 1) / NS_PER_MS : 0;

	return ms > UINT32_MAX ? UINT32_MAX : (uint32_t)ms;
}

/* ISO 8601 UTC with milliseconds, 24 characters and the NUL: 2026-01-02T03:04:05.678Z */
#define CLOCK_ISO_MAX 32
static inline const char *clock_iso(struct timespec t, char buf[CLOCK_ISO_MAX])
{
	struct tm tm;
	size_t n;

	(void)gmtime_r(&t.tv_sec, &tm);
	n = strftime(buf, CLOCK_ISO_MAX, "%Y-%m-%dT%H:%M:%S", &tm);
	(void)snprintf(buf + n, CLOCK_ISO_MAX - n, ".%03dZ", (int)(t.tv_nsec / 1000000) % 1000);
	return buf;
}

#endif
