/* snapshot/fence/fence_record.c - the record's lines, and the list of accounts that are let through.
 * Owns: nothing. Called by: the fence, and whoever keeps its record. Threads: any. Blocks: never; no I/O. */
#include "snapshot/fence/fence.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

bool fence_record_get(const char *record, const char *key, char *buf, size_t cap)
{
	size_t n = strlen(key);

	for (const char *p = record; *p; p += strcspn(p, "\n"), p += *p == '\n')
		if (strncmp(p, key, n) == 0 && p[n] == ' ') {
			(void)snprintf(buf, cap, "%.*s", (int)strcspn(p + n + 1, "\n"), p + n + 1);
			return true;
		}
	return false;
}

void fence_record_add(struct vbuf *record, const char *key, const char *value)
{
	char old[8];

	if (fence_record_get(vbuf_text(record), key, old, sizeof(old)))
		return;
	vbuf_printf(record, "%s ", key);
	vbuf_line(record, value);
	vbuf_puts(record, "\n");
}

void fence_record_drop(struct vbuf *record, const char *key)
{
	size_t n = strlen(key), len;

	for (char *p = record->len ? record->data : NULL; p && *p;) {
		len = strcspn(p, "\n");
		len += p[len] == '\n';
		if (strncmp(p, key, n) != 0 || p[n] != ' ') {
			p += len;
			continue;
		}
		record->len -= len;
		memmove(p, p + len, record->len - (size_t)(p - record->data) + 1);
	}
}

enum fence_state fence_record_state(const char *record)
{
	char value[8];

	if (!*record)
		return FENCE_OFF;
	return fence_record_get(record, "done", value, sizeof(value)) ? FENCE_ON : FENCE_HALF;
}

/* A host as accounts have it: % any text, _ one character. */
static bool host_matches(const char *pattern, const char *host)
{
	for (; *pattern; pattern++, host++) {
		if (*pattern == '%') {
			do
				if (host_matches(pattern + 1, host))
					return true;
			while (*host++);
			return false;
		}
		if (!*host || (*pattern != '_' && tolower((unsigned char)*pattern) != tolower((unsigned char)*host)))
			return false;
	}
	return !*host;
}

/* A name without the quotes around it and blanks before and behind. */
static void bare(const char *text, size_t len, char *buf, size_t cap)
{
	while (len && strchr(" \t'\"`", text[0]))
		text++, len--;
	while (len && strchr(" \t'\"`", text[len - 1]))
		len--;
	(void)snprintf(buf, cap, "%.*s", (int)len, text);
}

/* The next entry; the list behind it, NULL at the end. *ok: it is USER@HOST. An empty entry has user "" and host "". */
static const char *next_entry(const char *list, char user[256], char host[256], bool *ok)
{
	size_t len = strcspn(list, ",");
	const char *at = memrchr(list, '@', len);
	char all[8];

	bare(list, len, all, sizeof(all));
	user[0] = host[0] = '\0';
	*ok = !*all;
	if (at) {
		bare(list, (size_t)(at - list), user, 256);
		bare(at + 1, len - (size_t)(at + 1 - list), host, 256);
		*ok = *host != '\0';
	}
	return list[len] ? list + len + 1 : NULL;
}

bool fence_allowed(const char *list, const char *user, const char *host)
{
	char u[256], h[256];
	bool ok;

	while (list) {
		list = next_entry(list, u, h, &ok);
		if (ok && *h && strcmp(u, user) == 0 && (strcasecmp(h, host) == 0 || host_matches(h, host)))
			return true;
	}
	return false;
}

int fence_allow_check(const char *list, struct snap_error *err)
{
	const char *at = list;
	char u[256], h[256];
	bool ok;

	while (at) {
		const char *here = at;

		at = next_entry(at, u, h, &ok);
		if (!ok)
			return snap_error_set(err, -EINVAL, "fence.allow: \"%.*s\": expected USER@HOST, with commas between accounts",
					      (int)(strcspn(here, ",") < 80 ? strcspn(here, ",") : 80), here);
	}
	return 0;
}
