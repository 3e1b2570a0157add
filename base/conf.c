/* base/conf.c - see conf.h. One value a key, kept as text in canonical form; numbers parsed once. */
#include "base/conf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct value {
	char *text; /* canonical */
	uint64_t num;
	bool set;
};

struct conf {
	const struct conf_key *table;
	size_t n;
	struct value v[];
};

static int parse_bool(const char *s, uint64_t *out)
{
	static const char *const yes[] = { "yes", "true", "on", "1" };
	static const char *const no[] = { "no", "false", "off", "0" };

	for (size_t i = 0; i < 4; i++) {
		if (strcmp(s, yes[i]) == 0) {
			*out = 1;
			return 0;
		}
		if (strcmp(s, no[i]) == 0) {
			*out = 0;
			return 0;
		}
	}
	return -EINVAL;
}

static int parse_count(const char *s, uint64_t *out, const char **end)
{
	char *e;

	if (s[0] < '0' || s[0] > '9')
		return -EINVAL;
	errno = 0;
	*out = strtoull(s, &e, 10);
	*end = e;
	return errno ? -ERANGE : 0;
}

static int parse_size(const char *s, uint64_t *out)
{
	static const char units[] = "KMGT";
	const char *end, *u;
	uint64_t f = 1;
	int r = parse_count(s, out, &end);

	if (r < 0)
		return r;
	if (*end) {
		u = strchr(units, *end == 'k' ? 'K' : *end);
		if (!u)
			return -EINVAL;
		for (const char *k = units; k <= u; k++)
			f *= 1024;
		end++;
		if (strcmp(end, "B") == 0 || strcmp(end, "iB") == 0)
			end = "";
	}
	if (*end)
		return -EINVAL;
	if (*out > UINT64_MAX / f)
		return -ERANGE;
	*out *= f;
	return 0;
}

static int parse_ms(const char *s, uint64_t *out)
{
	static const struct {
		const char *unit;
		double ms;
	} units[] = { { "", 1000 }, { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 } };
	char *end;
	double d;

	if (s[0] < '0' || s[0] > '9') /* no sign, no "inf", no hexadecimal */
		return -EINVAL;
	if (s[0] == '0' && (s[1] == 'x' || s[1] == 'X'))
		return -EINVAL;
	d = strtod(s, &end);
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (strcmp(end, units[i].unit) == 0) {
			d *= units[i].ms;
			if (!(d < 1e15))
				return -ERANGE;
			*out = (uint64_t)(d + 0.5);
			return 0;
		}
	return -EINVAL;
}

/* Is `value` one of the words of "a|b|c"? */
static bool is_choice(const char *choices, const char *value)
{
	size_t len = strlen(value);

	if (strchr(value, '|'))
		return false; /* two of them are none */
	for (const char *p = choices; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
		if (strncmp(p, value, len) == 0 && (p[len] == '|' || p[len] == '\0') && len)
			return true;
	return false;
}

static int parse(const struct conf_key *k, const char *text, struct value *out)
{
	const char *end = "";
	int r = 0;

	for (const char *p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return -EINVAL;
	switch (k->type) {
	case CONF_STRING:
		if (k->choices && !is_choice(k->choices, text))
			r = -EINVAL;
		break;
	case CONF_PATH:
		if (text[0] && text[0] != '/')
			r = -EINVAL;
		break;
	case CONF_BOOL:
		r = parse_bool(text, &out->num);
		break;
	case CONF_COUNT:
		r = parse_count(text, &out->num, &end);
		if (r == 0 && *end)
			r = -EINVAL;
		break;
	case CONF_MS:
		r = parse_ms(text, &out->num);
		break;
	case CONF_SIZE:
		r = parse_size(text, &out->num);
		break;
	case CONF_LIST:
		break;
	}
	if (r == 0 && (k->type == CONF_COUNT || k->type == CONF_MS || k->type == CONF_SIZE) &&
	    (out->num < k->min || out->num > k->max))
		r = -ERANGE;
	return r;
}

struct conf *conf_free(struct conf *c)
{
	if (c)
		for (size_t i = 0; i < c->n; i++)
			free(c->v[i].text);
	free(c);
	return NULL;
}

struct conf *conf_new(const struct conf_key *table, struct snap_error *err)
{
	struct conf *c;
	size_t n = 0;

	while (table[n].name)
		n++;
	c = calloc(1, sizeof(*c) + n * sizeof(c->v[0]));
	if (!c) {
		snap_error_set(err, -ENOMEM, "read the configuration: out of memory");
		return NULL;
	}
	c->table = table;
	c->n = n;
	for (size_t i = 0; i < n; i++) {
		int r = parse(&table[i], table[i].def, &c->v[i]);

		c->v[i].text = strdup(table[i].def);
		if (r < 0 || !c->v[i].text) {
			snap_error_set(err, r < 0 ? r : -ENOMEM, "option %s: default \"%s\" is refused",
				       table[i].name, table[i].def);
			return conf_free(c);
		}
	}
	return c;
}

static size_t find(const struct conf *c, const char *key)
{
	size_t i = 0;

	while (i < c->n && strcmp(c->table[i].name, key) != 0)
		i++;
	return i;
}

/* Levenshtein distance, of words short enough for a row on the stack. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[64], diag, up;
	size_t la = strlen(a), lb = strlen(b);

	if (la > 60 || lb > 60)
		return 99;
	for (size_t j = 0; j <= lb; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= la; i++) {
		diag = row[0];
		row[0] = (unsigned)i;
		for (size_t j = 1; j <= lb; j++) {
			unsigned best = diag + (a[i - 1] != b[j - 1]);

			up = row[j];
			if (up + 1 < best)
				best = up + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			diag = up;
			row[j] = best;
		}
	}
	return row[lb];
}

static int unknown_key(const struct conf *c, const char *where, const char *key, struct snap_error *err)
{
	unsigned best = 99;
	size_t at = 0;

	for (size_t i = 0; i < c->n; i++) {
		unsigned d = distance(key, c->table[i].name);

		if (d < best) {
			best = d;
			at = i;
		}
	}
	if (best <= 3 && 2 * best < strlen(key)) /* "foo" is no "db" */
		return snap_error_set(err, -ENOENT, "%s: unknown option \"%s\"; did you mean \"%s\"?", where,
				      key, c->table[at].name);
	return snap_error_set(err, -ENOENT, "%s: unknown option \"%s\"; --help lists them", where, key);
}

static void describe(const struct conf_key *k, char *buf, size_t cap)
{
	switch (k->type) {
	case CONF_STRING:
		(void)snprintf(buf, cap, "%s%s", k->choices ? "one of " : "",
			       k->choices ? k->choices : "text without control characters");
		break;
	case CONF_PATH:
		(void)snprintf(buf, cap, "an absolute path");
		break;
	case CONF_BOOL:
		(void)snprintf(buf, cap, "yes or no");
		break;
	case CONF_MS:
		(void)snprintf(buf, cap, "a time from %g to %g s", (double)k->min / 1000,
			       (double)k->max / 1000);
		break;
	case CONF_COUNT:
	case CONF_SIZE:
		(void)snprintf(buf, cap, "a number from %llu to %llu", (unsigned long long)k->min,
			       (unsigned long long)k->max);
		break;
	case CONF_LIST:
		(void)snprintf(buf, cap, "text without control characters");
		break;
	}
}

int conf_set(struct conf *c, const char *where, const char *key, const char *value, struct snap_error *err)
{
	size_t i = find(c, key);
	struct value v = { 0 };
	char want[128];
	int r;

	if (i == c->n)
		return unknown_key(c, where, key, err);
	r = parse(&c->table[i], value, &v);
	if (r < 0) {
		describe(&c->table[i], want, sizeof(want));
		return snap_error_set(err, r, "%s: %s=%s: expected %s", where, key, value, want);
	}
	if (c->table[i].type == CONF_BOOL)
		value = v.num ? "yes" : "no";
	if (c->table[i].type == CONF_LIST && c->v[i].set) {
		if (asprintf(&v.text, "%s\n%s", c->v[i].text, value) < 0)
			v.text = NULL;
	} else {
		v.text = strdup(value);
	}
	if (!v.text)
		return snap_error_set(err, -ENOMEM, "%s: out of memory", where);
	free(c->v[i].text);
	v.set = true;
	c->v[i] = v;
	return 0;
}

static const struct value *get(const struct conf *c, const char *key, unsigned types)
{
	size_t i = find(c, key);

	if (i == c->n || !(types & 1u << c->table[i].type))
		abort(); /* a key that the table does not have: a mistake in the program */
	return &c->v[i];
}

const char *conf_str(const struct conf *c, const char *key)
{
	return get(c, key, 1u << CONF_STRING | 1u << CONF_PATH | 1u << CONF_LIST)->text;
}

uint64_t conf_num(const struct conf *c, const char *key)
{
	return get(c, key, 1u << CONF_COUNT | 1u << CONF_SIZE | 1u << CONF_MS)->num;
}

bool conf_bool(const struct conf *c, const char *key)
{
	return get(c, key, 1u << CONF_BOOL)->num != 0;
}

bool conf_is_set(const struct conf *c, const char *key)
{
	return get(c, key, ~0u)->set;
}

void conf_render(const struct conf *c, struct vbuf *out)
{
	for (size_t i = 0; i < c->n; i++) {
		const char *t = c->v[i].text;

		if (c->table[i].type != CONF_LIST) {
			vbuf_printf(out, "%s%s%s\n", c->table[i].name, *t ? " " : "", t);
			continue;
		}
		do {
			size_t len = strcspn(t, "\n");

			vbuf_printf(out, "%s%s%.*s\n", c->table[i].name, len ? " " : "", (int)len, t);
			t += len + (t[len] == '\n');
		} while (*t);
	}
}
