/* base/hex.h - bytes as lower-case hexadecimal digits, and what is such. Any thread; no I/O. */
#ifndef STILLFS_BASE_HEX_H
#define STILLFS_BASE_HEX_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* n bytes into 2 n digits and a NUL. */
static inline void hex_put(char *out, const unsigned char *in, size_t n)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < n; i++) {
		*out++ = digits[in[i] >> 4];
		*out++ = digits[in[i] & 15];
	}
	*out = '\0';
}

/* Exactly n digits, and nothing behind them? */
static inline bool hex_is(const char *text, size_t n)
{
	return strspn(text, "0123456789abcdef") == n && text[n] == '\0';
}

#endif
