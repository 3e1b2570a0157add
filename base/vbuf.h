/* base/vbuf.h - a growing text buffer with one sticky error, for files rendered at open.
 * One thread at a time. Grows by realloc; after the first failure every call is a no-op
 * and vbuf_error() says -ENOMEM, so a renderer checks once, at its end. */
#ifndef STILLFS_BASE_VBUF_H
#define STILLFS_BASE_VBUF_H

#include <stddef.h>

struct vbuf {
	char *data; /* NUL-terminated when len > 0; owned by the buffer */
	size_t len; /* bytes, without the NUL */
	size_t cap;
	int error; /* 0 or -errno */
};

#define VBUF_INIT { NULL, 0, 0, 0 }

void vbuf_free(struct vbuf *b); /* back to VBUF_INIT; harmless on an empty one */
void vbuf_add(struct vbuf *b, const void *data, size_t len);
void vbuf_puts(struct vbuf *b, const char *text);
void vbuf_printf(struct vbuf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* `text` as the inside of a JSON string, quotes not included. Control bytes become \u00XX;
 * bytes that are not valid UTF-8 become U+FFFD, so the output always parses. */
void vbuf_json(struct vbuf *b, const char *text);
/* `text` as a part of a line of a file of lines, from whoever may have chosen it: control characters become "_". */
void vbuf_line(struct vbuf *b, const char *text);
/* `text`, max bytes of it, as one word of such a line: blanks become "_" too, and no text at all "-". */
void vbuf_word(struct vbuf *b, const char *text, size_t max);
/* Bytes of the UTF-8 character at s, 1..4; 0: it is none. */
size_t vbuf_utf8_len(const unsigned char *s);
/* The text, never NULL; valid until the next change. */
const char *vbuf_text(const struct vbuf *b);
int vbuf_error(const struct vbuf *b);

#endif
