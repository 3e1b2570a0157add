/* base/vbuf.c - see vbuf.h. */
#include "base/vbuf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for `more` bytes and the NUL, or the sticky error. Returns 1 if there is room. */
static int vbuf_room(struct vbuf *b, size_t more)
{
	size_t cap = b->cap ? b->cap : 256;
	char *p;

	if (b->error)
		return 0;
	if (more > SIZE_MAX / 4 - b->len) {
		b->error = -ENOMEM;
		return 0;
	}
	if (b->len + more + 1 <= b->cap)
		return 1;
	while (cap < b->len + more + 1)
		cap *= 2;
	p = realloc(b->data, cap);
	if (!p) {
		b->error = -ENOMEM;
		return 0;
	}
	b->data = p;
	b->cap = cap;
	return 1;
}

void vbuf_free(struct vbuf *b)
{
	free(b->data);
	*b = (struct vbuf)VBUF_INIT;
}

void vbuf_add(struct vbuf *b, const void *data, size_t len)
{
	if (!len || !vbuf_room(b, len))
		return;
	memcpy(b->data + b->len, data, len);
	b->len += len;
	b->data[b->len] = '\0';
}

void vbuf_puts(struct vbuf *b, const char *text)
{
	vbuf_add(b, text, strlen(text));
}

void vbuf_printf(struct vbuf *b, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0 && !b->error)
		b->error = -EINVAL;
	if (n <= 0 || !vbuf_room(b, (size_t)n))
		return;
	va_start(ap, fmt);
	(void)vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
	va_end(ap);
	b->len += (size_t)n;
}

static void vbuf_clean(struct vbuf *b, const char *text, size_t max, unsigned char least)
{
	for (size_t i = 0; i < max && text[i]; i++)
		vbuf_add(b, (unsigned char)text[i] < least || text[i] == 0x7f ? "_" : text + i, 1);
}

void vbuf_line(struct vbuf *b, const char *text)
{
	vbuf_clean(b, text, SIZE_MAX, 0x20);
}

void vbuf_word(struct vbuf *b, const char *text, size_t max)
{
	vbuf_clean(b, *text ? text : "-", max, 0x21);
}

/* Length of the valid UTF-8 sequence at s (RFC 3629), 0 if there is none. */
size_t vbuf_utf8_len(const unsigned char *s)
{
	size_t n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3
		: s[0] < 0xf5 ? 4 : 0;

	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if (n == 3 && ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f)))
		return 0;
	if (n == 4 && ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f)))
		return 0;
	return n;
}

void vbuf_json(struct vbuf *b, const char *text)
{
	const unsigned char *s = (const unsigned char *)text;

	while (*s) {
		size_t n = vbuf_utf8_len(s);

		if (!n)
			vbuf_puts(b, "\xef\xbf\xbd");
		else if (*s == '"' || *s == '\\')
			vbuf_printf(b, "\\%c", *s);
		else if (*s == '\n')
			vbuf_puts(b, "\\n");
		else if (*s < 0x20 || *s == 0x7f)
			vbuf_printf(b, "\\u%04x", *s);
		else
			vbuf_add(b, s, n);
		s += n ? n : 1;
	}
}

const char *vbuf_text(const struct vbuf *b)
{
	return b->len ? b->data : "";
}

int vbuf_error(const struct vbuf *b)
{
	return b->error;
}
