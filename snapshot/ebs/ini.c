/* snapshot/ebs/ini.c - see ini.h. */
#include "snapshot/ebs/ini.h"
#include "base/cleanup.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define FILE_MAX (1 << 20)

/* Everything points into the text, which was cut into strings. */
struct entry {
	const char *section, *parent, *key, *value;
};

struct ini {
	char *text;
	size_t len, n, cap;
	struct entry *v;
};

struct ini *ini_free(struct ini *i)
{
	if (!i)
		return NULL;
	if (i->text)
		explicit_bzero(i->text, i->len);
	free(i->text);
	free(i->v);
	free(i);
	return NULL;
}

static int add(struct ini *i, struct entry e)
{
	if (i->n == i->cap) {
		size_t cap = i->cap ? i->cap * 2 : 32;
		struct entry *v = realloc(i->v, cap * sizeof(*v));

		if (!v)
			return -ENOMEM;
		i->v = v;
		i->cap = cap;
	}
	i->v[i->n++] = e;
	return 0;
}

static char *trim(char *s)
{
	size_t n;

	s += strspn(s, " \t\r");
	n = strlen(s);
	while (n && strchr(" \t\r", s[n - 1]))
		s[--n] = '\0';
	return s;
}

static int parse_line(struct ini *i, char *line, const char **section, const char **parent)
{
	bool indented = *line == ' ' || *line == '\t';
	char *s = trim(line), *eq;

	if (!*s || *s == '#' || *s == ';')
		return 0;
	if (*s == '[') {
		eq = strchr(s, ']');
		if (eq)
			*eq = '\0';
		*section = trim(s + 1);
		*parent = "";
		return add(i, (struct entry){ *section, "", "", "" });
	}
	eq = strchr(s, '=');
	if (!eq)
		return 0; /* AWS's own tools differ here; what is not understood is not a key */
	*eq = '\0';
	s = trim(s);
	eq = trim(eq + 1);
	for (char *c = eq; *c; c++) /* " #" begins a comment */
		if ((*c == '#' || *c == ';') && c > eq && (c[-1] == ' ' || c[-1] == '\t')) {
			*c = '\0';
			eq = trim(eq);
			break;
		}
	if (!indented)
		*parent = *eq ? "" : s;
	return add(i, (struct entry){ *section, indented ? *parent : "", s, eq });
}

static int parse(struct ini *i)
{
	const char *section = "", *parent = "";
	char *line = i->text, *next;
	int r = 0;

	for (; r == 0 && line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		r = parse_line(i, line, &section, &parent);
	}
	return r;
}

struct ini *ini_read(const char *path, struct snap_error *err)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct ini *i = calloc(1, sizeof(*i));
	struct stat st;
	int r = i ? 0 : -ENOMEM;
	ssize_t got;

	if (r == 0 && fd < 0 && (errno == ENOENT || errno == ENOTDIR))
		return i;
	if (r == 0 && (fd < 0 || fstat(fd, &st) < 0))
		r = -errno;
	if (r == 0 && (!S_ISREG(st.st_mode) || st.st_size > FILE_MAX))
		r = S_ISREG(st.st_mode) ? -EFBIG : -EINVAL;
	if (r == 0) {
		i->len = (size_t)st.st_size;
		i->text = calloc(1, i->len + 1);
		got = i->text ? read(fd, i->text, i->len) : -1;
		r = !i->text ? -ENOMEM : got < 0 ? -errno : 0;
	}
	if (r == 0)
		r = parse(i);
	if (r == 0)
		return i;
	snap_error_set(err, r, "read %s: %s", path, strerror(-r));
	return ini_free(i);
}

const char *ini_get(const struct ini *i, const char *section, const char *key)
{
	const char *dot = strchr(key, '.'), *found = NULL;
	size_t n = dot ? (size_t)(dot - key) : 0;

	for (size_t k = 0; k < i->n; k++) {
		const struct entry *e = &i->v[k];

		if (*e->key && strcmp(e->section, section) == 0 && strlen(e->parent) == n && strncmp(e->parent, key, n) == 0 &&
		    strcmp(e->key, dot ? dot + 1 : key) == 0)
			found = e->value; /* the last one counts */
	}
	return found;
}

bool ini_has(const struct ini *i, const char *section)
{
	for (size_t k = 0; k < i->n; k++)
		if (strcmp(i->v[k].section, section) == 0)
			return true;
	return false;
}
