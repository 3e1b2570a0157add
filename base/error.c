/* base/error.c - see error.h. */
#include "base/error.h"
#include "base/vbuf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void clean(char *s)
{
	for (size_t n; *s; s += n) {
		n = vbuf_utf8_len((unsigned char *)s);
		if (!n || (unsigned char)*s < 0x20 || *s == 0x7f) {
			*s = '?';
			n = 1;
		}
	}
}

int snap_error_set(struct snap_error *e, int code, const char *fmt, ...)
{
	va_list ap;
	int n;

	if (code >= 0)
		code = -EIO;
	if (!e)
		return code;
	if (e->code)
		return e->code;
	va_start(ap, fmt);
	n = vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
	va_end(ap);
	if (n < 0)
		e->msg[0] = '\0';
	else if ((size_t)n >= sizeof(e->msg))
		memcpy(e->msg + sizeof(e->msg) - 4, "...", 4);
	clean(e->msg);
	e->code = code;
	return code;
}

void snap_error_clear(struct snap_error *e)
{
	e->code = 0;
	e->msg[0] = '\0';
}
