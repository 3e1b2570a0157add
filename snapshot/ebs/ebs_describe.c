/* snapshot/ebs/ebs_describe.c - the description of snapshots from a template: "mysql snapshot for %h in data %F__%H:%M".
 * %h host, %n name of this stillfs, %s set, %c class, %% itself; F T Y m d j H M S y Z z as date(1), in the host's time.
 * Pure, but for the host's name and zone. */
#include "snapshot/ebs/ebs_int.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int describe_check(const char *template, struct snap_error *err)
{
	for (const char *p = template; (p = strchr(p, '%')); p += 2)
		if (!p[1] || !strchr("hnsc%FTYmdjHMSyZz", p[1]))
			return snap_error_set(err, -EINVAL, "ebs.description: %%%c is unknown; there are %%h host, %%n name, %%s set, %%c class, %%%% and "
							    "F T Y m d j H M S y Z z as date(1) has them", p[1] ? p[1] : ' ');
	return 0;
}

static size_t time_part(char letter, char *buf, size_t cap, const struct tm *tm)
{
	switch (letter) { /* literals: the compiler checks them */
	case 'F': return strftime(buf, cap, "%F", tm);
	case 'T': return strftime(buf, cap, "%T", tm);
	case 'Y': return strftime(buf, cap, "%Y", tm);
	case 'm': return strftime(buf, cap, "%m", tm);
	case 'd': return strftime(buf, cap, "%d", tm);
	case 'j': return strftime(buf, cap, "%j", tm);
	case 'H': return strftime(buf, cap, "%H", tm);
	case 'M': return strftime(buf, cap, "%M", tm);
	case 'S': return strftime(buf, cap, "%S", tm);
	case 'y': return (size_t)snprintf(buf, cap, "%02d", tm->tm_year % 100);
	case 'Z': return strftime(buf, cap, "%Z", tm);
	case 'z': return strftime(buf, cap, "%z", tm);
	default: return 0;
	}
}

void describe_expand(const char *template, const struct door *d, const struct prov_run *r, char *buf, size_t cap)
{
	char one[300];
	struct tm tm;
	size_t n = 0;

	(void)localtime_r(&r->created.tv_sec, &tm);
	buf[0] = '\0';
	for (const char *p = template; *p && n + 1 < cap; p++) {
		one[0] = *p;
		one[1] = '\0';
		if (*p == '%' && p[1]) {
			p++;
			if (*p == 'h')
				one[gethostname(one, sizeof(one) - 1) < 0 ? 0 : sizeof(one) - 1] = '\0';
			else if (*p == 'n' || *p == 's' || *p == 'c')
				(void)snprintf(one, sizeof(one), "%s", *p == 'n' ? d->name : *p == 's' ? r->name : r->class);
			else if (*p == '%')
				one[0] = '%';
			else if (time_part(*p, one, sizeof(one), &tm) == 0)
				one[0] = '\0';
		}
		n += (size_t)snprintf(buf + n, cap - n, "%s", one);
	}
}
