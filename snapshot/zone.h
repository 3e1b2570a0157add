/* snapshot/zone.h - a time zone by name, from the system's tables, without the process's own TZ.
 * Immutable once made: any thread. zone_load reads one file; the rest is pure.
 * Format: RFC 8536 (TZif), version 2 and later, with its footer for times after the last transition. */
#ifndef STILLFS_SNAPSHOT_ZONE_H
#define STILLFS_SNAPSHOT_ZONE_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define ZONE_NAME_MAX 63

struct zone;

/* "UTC", or a name below /usr/share/zoneinfo, such as Europe/Berlin. NULL: -EINVAL bad name or unknown, -ENOMEM,
 * -EIO damaged file. */
struct zone *zone_load(const char *name, struct snap_error *err);
/* The same from the bytes of a TZif file. NULL: damaged, or no memory. */
struct zone *zone_parse(const unsigned char *data, size_t len);
struct zone *zone_free(struct zone *z); /* NULL is harmless; returns NULL */
/* Seconds east of UTC at that second since 1970. */
int32_t zone_offset(const struct zone *z, int64_t t);

/* A calendar date and hour. */
struct zone_time {
	int64_t year;
	unsigned month, day, hour; /* from 1, 1, 0 */
	int64_t days; /* since 1970-01-01 */
};
void zone_local(const struct zone *z, int64_t t, struct zone_time *out);
int64_t zone_days(int64_t year, unsigned month, unsigned day); /* since 1970-01-01, Gregorian */

#endif
