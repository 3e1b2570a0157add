/* tools/stillctl/files.c - reading and writing control files, and saying why one refused. See ctl.h. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"

int ctl_fail(const char *fmt, const char *a)
{
	fputs("stillctl: ", stderr);
	fprintf(stderr, "%s%s\n", fmt, a);
	return 1;
}

int ctl_open(const char *rel, int flags)
{
	char path[PATH_MAX];

	(void)snprintf(path, sizeof(path), "%s/%s", ctl_dir, rel);
	return open(path, flags | O_CLOEXEC);
}

/* The whole file, malloc'ed; NULL: errno. */
char *ctl_slurp(const char *rel)
{
	int fd = ctl_open(rel, O_RDONLY);
	size_t len = 0, cap = 4096;
	char *buf = fd < 0 ? NULL : malloc(cap);
	ssize_t n;

	while (buf && (n = read(fd, buf + len, cap - len - 1)) != 0) {
		if (n < 0) {
			int e = errno;

			free(buf);
			(void)close(fd);
			errno = e;
			return NULL;
		}
		len += (size_t)n;
		if (cap - len < 2048) {
			char *more = realloc(buf, cap *= 2);

			if (!more)
				free(buf);
			buf = more;
		}
	}
	if (buf)
		buf[len] = '\0';
	if (fd >= 0)
		(void)close(fd);
	return buf;
}

/* Say why an operation was ctl_refused: the sentence of last_error if it is about this, or the errno alone. */
int ctl_refused(const char *what, int error)
{
	char *text = ctl_slurp("last_error"), want[64];
	const char *msg = text ? strstr(text, "message ") : NULL, *name = strerrorname_np(error);

	(void)snprintf(want, sizeof(want), "errno %s\n", name ? name : "?");
	if (msg && strstr(text, want))
		fprintf(stderr, "stillctl: %.*s\n", (int)strcspn(msg + 8, "\n"), msg + 8);
	else
		fprintf(stderr, "stillctl: %s: %s\n", what, strerror(error));
	free(text);
	return 1;
}

char *ctl_key(const char *rel, const char *key)
{
	char *text = ctl_slurp(rel), *save = NULL, *found = NULL;
	size_t n = strlen(key);

	for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line && !found; line = strtok_r(NULL, "\n", &save))
		if (strncmp(line, key, n) == 0 && line[n] == ' ')
			found = strdup(line + n + 1);
	free(text);
	return found;
}

int ctl_write(const char *rel, const char *text)
{
	int fd = ctl_open(rel, O_WRONLY);
	size_t len = strlen(text);
	int e;

	if (fd < 0) {
		if (errno == EACCES || errno == EPERM)
			return ctl_fail("permission denied: run as root or in the group control_gid", "");
		fprintf(stderr, "stillctl: cannot open the control file %s: %s\n", rel, strerror(errno));
		return 1;
	}
	e = write(fd, text, len) == (ssize_t)len ? 0 : errno;
	(void)close(fd);
	return e ? ctl_refused(rel, e) : 0;
}

int ctl_print(const char *rel)
{
	char *text = ctl_slurp(rel);

	if (!text) {
		fprintf(stderr, "stillctl: %s: %s\n", rel, strerror(errno));
		return 1;
	}
	fputs(text, stdout);
	free(text);
	return 0;
}

/* "key value" lines as one JSON object; a key that comes twice becomes an array. */
int ctl_print_json(const char *rel)
{
	char *text = ctl_slurp(rel), *save = NULL;
	struct json_object *o, *old;

	if (!text) {
		fprintf(stderr, "stillctl: %s: %s\n", rel, strerror(errno));
		return 1;
	}
	o = json_object_new_object();
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *space = strchr(line, ' ');
		struct json_object *v = json_object_new_string(space ? space + 1 : "");

		if (space)
			*space = '\0';
		if (!json_object_object_get_ex(o, line, &old)) {
			json_object_object_add(o, line, v);
		} else if (json_object_is_type(old, json_type_array)) {
			json_object_array_add(old, v);
		} else {
			struct json_object *a = json_object_new_array();

			json_object_array_add(a, json_object_get(old));
			json_object_array_add(a, v);
			json_object_object_add(o, line, a);
		}
	}
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
	free(text);
	return 0;
}

int ctl_check_name(const char *name)
{
	if (!*name || strchr(name, '/') || name[0] == '.')
		return ctl_fail("not a set's name: ", name);
	return 0;
}
