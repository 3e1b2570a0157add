/* snapshot/zone.c - see zone.h.
 * Owns:      the transitions of one zone and the rule of its footer.
 * Called by: retention.c, prune.c. Threads: any. Blocks: zone_load reads one small file.
 * Errors:    NULL with the sentence; a damaged file is refused, never guessed. */
#include "snapshot/zone.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ZONE_FILE_MAX 65536u
#define DAY_S 86400

/* One date rule of a footer: Jn, n, or Mm.w.d, at `at` seconds of local time. */
struct edge {
	char kind; /* 'J', '0', 'M' */
	int month, week, day;
	int32_t at;
};

struct zone {
	unsigned n;
	int64_t *when; /* n transitions, ascending */
	int32_t *offset; /* after each */
	int32_t first; /* before the first */
	bool rule, dst; /* the footer holds a rule; one with daylight saving time */
	int32_t std_off, dst_off;
	struct edge begin, end; /* of daylight saving time */
};

/* ---- the calendar ---- */

int64_t zone_days(int64_t y, unsigned m, unsigned d)
{
	int64_t era, yoe, doy;

	y -= m <= 2;
	era = (y >= 0 ? y : y - 399) / 400;
	yoe = y - era * 400;
	doy = (153 * ((int64_t)m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
	return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static int64_t floor_div(int64_t a, int64_t b)
{
	return a / b - (a % b < 0);
}

static void civil(int64_t days, struct zone_time *out)
{
	int64_t z = days + 719468, era = floor_div(z, 146097), doe = z - era * 146097;
	int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;

	out->day = (unsigned)(doy - (153 * mp + 2) / 5 + 1);
	out->month = (unsigned)(mp < 10 ? mp + 3 : mp - 9);
	out->year = yoe + era * 400 + (out->month <= 2);
	out->days = days;
}

void zone_local(const struct zone *z, int64_t t, struct zone_time *out)
{
	int64_t l = t + zone_offset(z, t), days = floor_div(l, DAY_S);

	civil(days, out);
	out->hour = (unsigned)((l - days * DAY_S) / 3600);
}

/* ---- the footer: POSIX TZ, such as CET-1CEST,M3.5.0,M10.5.0/3 ---- */

static bool skip_name(const char **p)
{
	const char *s = *p;
	size_t n;

	if (*s == '<') {
		s = strchr(s, '>');
		if (!s)
			return false;
		*p = s + 1;
		return true;
	}
	n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");
	*p = s + n;
	return n >= 3;
}

static bool number(const char **p, int max, int *out)
{
	int v = 0, digits = 0;

	for (; **p >= '0' && **p <= '9' && digits < 4; (*p)++, digits++)
		v = v * 10 + (**p - '0');
	*out = v;
	return digits && v <= max;
}

/* [+-]hh[:mm[:ss]] in seconds; hours up to 167. */
static bool hms(const char **p, int32_t *out)
{
	int sign = 1, h, m = 0, s = 0;

	if (**p == '+' || **p == '-')
		sign = *(*p)++ == '-' ? -1 : 1;
	if (!number(p, 167, &h))
		return false;
	if (**p == ':') {
		(*p)++;
		if (!number(p, 59, &m))
			return false;
	}
	if (**p == ':') {
		(*p)++;
		if (!number(p, 59, &s))
			return false;
	}
	*out = sign * (h * 3600 + m * 60 + s);
	return true;
}

static bool edge(const char **p, struct edge *e)
{
	if (*(*p)++ != ',')
		return false;
	e->at = 7200;
	if (**p == 'M') {
		e->kind = *(*p)++;
		if (!number(p, 12, &e->month) || e->month < 1 || *(*p)++ != '.' || !number(p, 5, &e->week) || e->week < 1 ||
		    *(*p)++ != '.' || !number(p, 6, &e->day))
			return false;
	} else {
		e->kind = **p == 'J' ? *(*p)++ : '0';
		if (!number(p, 365, &e->day) || (e->kind == 'J' && e->day < 1))
			return false;
	}
	if (**p != '/')
		return true;
	(*p)++;
	return hms(p, &e->at);
}

static bool footer(struct zone *z, const char *p)
{
	int32_t west;

	if (!*p)
		return true;
	if (!skip_name(&p) || !hms(&p, &west))
		return false;
	z->std_off = -west;
	z->rule = true;
	if (!*p)
		return true;
	if (!skip_name(&p))
		return false;
	z->dst_off = z->std_off + 3600;
	if (*p != ',') {
		if (!hms(&p, &west))
			return false;
		z->dst_off = -west;
	}
	z->dst = true;
	return edge(&p, &z->begin) && edge(&p, &z->end) && !*p;
}

/* Second since 1970, in local time taken for UTC, of the edge in that year. */
static int64_t edge_time(const struct edge *e, int64_t year)
{
	bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
	int64_t d;

	if (e->kind == 'J') {
		d = zone_days(year, 1, 1) + e->day - 1 + (leap && e->day > 59);
	} else if (e->kind == '0') {
		d = zone_days(year, 1, 1) + e->day;
	} else {
		int64_t first = zone_days(year, (unsigned)e->month, 1);
		int64_t next = e->month == 12 ? zone_days(year + 1, 1, 1) : zone_days(year, (unsigned)e->month + 1, 1);
		int64_t weekday = ((first + 4) % 7 + 7) % 7;

		d = first + (e->day - weekday + 7) % 7 + 7 * (e->week - 1);
		while (d >= next)
			d -= 7;
	}
	return d * DAY_S + e->at;
}

static int32_t by_rule(const struct zone *z, int64_t t)
{
	struct zone_time y;
	int64_t b, e;
	bool in;

	if (!z->dst)
		return z->std_off;
	civil(floor_div(t + z->std_off, DAY_S), &y);
	b = edge_time(&z->begin, y.year) - z->std_off;
	e = edge_time(&z->end, y.year) - z->dst_off;
	in = b < e ? t >= b && t < e : t >= b || t < e;
	return in ? z->dst_off : z->std_off;
}

int32_t zone_offset(const struct zone *z, int64_t t)
{
	unsigned lo = 0, hi = z->n;

	if (!z->n || t < z->when[0])
		return z->n || !z->rule ? z->first : by_rule(z, t);
	if (z->rule && t >= z->when[z->n - 1])
		return by_rule(z, t);
	while (hi - lo > 1) {
		unsigned mid = (lo + hi) / 2;

		if (z->when[mid] <= t)
			lo = mid;
		else
			hi = mid;
	}
	return z->offset[lo];
}

/* ---- TZif ---- */

struct tzif {
	uint32_t isut, isstd, leap, time, type, chars;
};

static uint32_t be32(const unsigned char *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static int64_t be64(const unsigned char *p)
{
	return (int64_t)((uint64_t)be32(p) << 32 | be32(p + 4));
}

/* The header at p, and the bytes of what follows it with times of `width` bytes; 0: damaged. */
static size_t header(const unsigned char *p, size_t len, unsigned width, struct tzif *h)
{
	if (len < 44 || memcmp(p, "TZif", 4) != 0)
		return 0;
	*h = (struct tzif){ be32(p + 20), be32(p + 24), be32(p + 28), be32(p + 32), be32(p + 36), be32(p + 40) };
	if (h->isut > 256 || h->isstd > 256 || h->leap > 1000 || h->time > 5000 || h->type > 256 || !h->type ||
	    h->chars > 1024)
		return 0;
	return 44 + h->time * (width + 1) + h->type * 6 + h->chars + h->leap * (width + 4) + h->isstd + h->isut;
}

static bool fill(struct zone *z, const unsigned char *p, const struct tzif *h)
{
	const unsigned char *index = p + 44 + h->time * 8, *types = index + h->time;

	z->n = h->time;
	z->when = calloc(h->time + 1, sizeof(*z->when));
	z->offset = calloc(h->time + 1, sizeof(*z->offset));
	if (!z->when || !z->offset)
		return false;
	z->first = (int32_t)be32(types);
	for (unsigned i = 0; i < z->n; i++) {
		if (index[i] >= h->type)
			return false;
		z->when[i] = be64(p + 44 + i * 8);
		z->offset[i] = (int32_t)be32(types + 6 * index[i]);
		if (i && z->when[i] <= z->when[i - 1])
			return false;
	}
	return true;
}

struct zone *zone_parse(const unsigned char *data, size_t len)
{
	struct tzif h;
	size_t skip = header(data, len, 4, &h), body;
	struct zone *z = calloc(1, sizeof(*z));
	const char *foot, *stop;
	char text[128];

	if (!z || !skip || skip >= len || data[4] < '2')
		return zone_free(z);
	data += skip;
	len -= skip;
	body = header(data, len, 8, &h);
	if (!body || body + 2 > len || data[body] != '\n' || !fill(z, data, &h))
		return zone_free(z);
	foot = (const char *)data + body + 1;
	stop = memchr(foot, '\n', len - body - 1);
	if (!stop || (size_t)(stop - foot) >= sizeof(text))
		return zone_free(z);
	memcpy(text, foot, (size_t)(stop - foot));
	text[stop - foot] = '\0';
	return footer(z, text) ? z : zone_free(z);
}

struct zone *zone_free(struct zone *z)
{
	if (z) {
		free(z->when);
		free(z->offset);
	}
	free(z);
	return NULL;
}

static bool name_ok(const char *name)
{
	static const char all[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-_/";
	size_t n = strlen(name);

	return n && n <= ZONE_NAME_MAX && strspn(name, all) == n && name[0] != '/' && name[n - 1] != '/';
}

struct zone *zone_load(const char *name, struct snap_error *err)
{
	cleanup_free unsigned char *data = NULL;
	char path[128];
	struct zone *z;
	ssize_t n = -1;

	if (!name_ok(name)) {
		snap_error_set(err, -EINVAL, "timezone \"%.80s\": expected a name such as UTC or Europe/Berlin", name);
		return NULL;
	}
	if (strcmp(name, "UTC") == 0) {
		z = calloc(1, sizeof(*z));
		if (!z)
			snap_error_set(err, -ENOMEM, "timezone UTC: out of memory");
		return z;
	}
	(void)snprintf(path, sizeof(path), "/usr/share/zoneinfo/%s", name);
	{
		cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);

		data = malloc(ZONE_FILE_MAX);
		if (fd >= 0 && data)
			n = read(fd, data, ZONE_FILE_MAX);
	}
	if (n < 0) {
		snap_error_set(err, -EINVAL, "timezone %s: there is no such zone in /usr/share/zoneinfo (package tzdata)", name);
		return NULL;
	}
	z = zone_parse(data, (size_t)n);
	if (!z)
		snap_error_set(err, -EIO, "timezone %s: %s is no table of a time zone", name, path);
	return z;
}
