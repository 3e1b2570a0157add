/* snapshot/retention_text.c - a policy's text: the one parser and the one printer. See retention.h.
 * Called by: prune_files.c, prune_state.c. Threads: any. Blocks: only to look a new time zone up.
 * Errors:    -EINVAL with the sentence; the policy is then as it was. */
#include "snapshot/retention.h"
#include "base/cleanup.h"
#include "snapshot/set.h"
#include "snapshot/snap_parse.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT_MAX 1000000u
#define DAY_S 86400u
#define ORPHAN_AGE_MIN_S 3600u /* whatever a lost request made has shown up by then */
#define TIME_MAX_S (100u * 365u * (uint64_t)DAY_S)

enum value { VALUE_COUNT, VALUE_TIME, VALUE_TAG };

static const struct {
	const char *name;
	enum value value;
} keys[RET_KEYS] = {
	[RET_LAST] = { "keep_last", VALUE_COUNT },
	[RET_HOURLY] = { "keep_hourly", VALUE_COUNT },
	[RET_DAILY] = { "keep_daily", VALUE_COUNT },
	[RET_WEEKLY] = { "keep_weekly", VALUE_COUNT },
	[RET_MONTHLY] = { "keep_monthly", VALUE_COUNT },
	[RET_YEARLY] = { "keep_yearly", VALUE_COUNT },
	[RET_WITHIN] = { "keep_within", VALUE_TIME },
	[RET_TAG] = { "keep_tag", VALUE_TAG },
	[RET_MAX_AGE] = { "max_age", VALUE_TIME },
	[RET_MIN_KEEP] = { "min_keep", VALUE_COUNT },
	[RET_FAILED_AGE] = { "failed_age", VALUE_TIME },
	[RET_ORPHAN_AGE] = { "orphan_age", VALUE_TIME },
};

void ret_init(struct ret_policy *p)
{
	memset(p, 0, sizeof(*p));
	(void)snprintf(p->timezone, sizeof(p->timezone), "UTC");
}

/* ---- printing ---- */

static void print_time(uint64_t s, struct vbuf *out)
{
	static const struct {
		unsigned s;
		char unit;
	} units[] = { { 7 * DAY_S, 'w' }, { DAY_S, 'd' }, { 3600, 'h' }, { 60, 'm' } };

	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (s % units[i].s == 0) {
			vbuf_printf(out, "%llu%c", (unsigned long long)(s / units[i].s), units[i].unit);
			return;
		}
}

void ret_rule_print(const struct ret_rule *r, struct vbuf *out)
{
	vbuf_printf(out, "%s%s%s ", r->class, *r->class ? "." : "", keys[r->key].name);
	if (keys[r->key].value == VALUE_TAG)
		vbuf_puts(out, r->tag);
	else if (keys[r->key].value == VALUE_TIME)
		print_time(r->n, out);
	else if (r->n == RET_ALL)
		vbuf_puts(out, "all");
	else
		vbuf_printf(out, "%llu", (unsigned long long)r->n);
}

void ret_print(const struct ret_policy *p, struct vbuf *out)
{
	vbuf_printf(out, "policy\ntimezone %s\n", p->timezone);
	for (unsigned i = 0; i < p->n; i++) {
		ret_rule_print(&p->rule[i], out);
		vbuf_puts(out, "\n");
	}
}

bool ret_empty(const struct ret_policy *p)
{
	for (unsigned i = 0; i < p->n; i++)
		if (p->rule[i].key <= RET_TAG)
			return false;
	return true;
}

static int compare(const struct ret_rule *a, const struct ret_rule *b)
{
	int r = strcmp(a->class, b->class);

	if (r == 0)
		r = (int)a->key - (int)b->key;
	return r ? r : strcmp(a->tag, b->tag);
}

bool ret_equal(const struct ret_policy *a, const struct ret_policy *b)
{
	if (a->n != b->n || strcmp(a->timezone, b->timezone) != 0)
		return false;
	for (unsigned i = 0; i < a->n; i++)
		if (compare(&a->rule[i], &b->rule[i]) != 0 || a->rule[i].n != b->rule[i].n)
			return false;
	return true;
}

/* ---- parsing ---- */

struct parser {
	const char *where;
	struct snap_error *err;
	struct ret_policy *p;
};

static int parse_count(struct parser *c, struct ret_rule *r, const char *v)
{
	char *end;
	unsigned long long n;

	if (strcmp(v, "all") == 0) {
		r->n = RET_ALL;
		return 0;
	}
	errno = 0;
	n = strtoull(v, &end, 10);
	if (v[0] < '0' || v[0] > '9' || *end || errno || n < 1 || n > COUNT_MAX)
		return snap_error_set(c->err, -EINVAL, "%s: %s \"%.40s\": expected a number from 1 to %u, or all; -%s takes the rule "
						       "away", c->where, keys[r->key].name, v, COUNT_MAX, keys[r->key].name);
	r->n = n;
	return 0;
}

static int parse_time(struct parser *c, struct ret_rule *r, const char *v)
{
	static const char units[] = "mhdwy";
	static const unsigned s[] = { 60, 3600, DAY_S, 7 * DAY_S, 365 * DAY_S };
	const char *unit;
	char *end;
	unsigned long long n;

	errno = 0;
	n = strtoull(v, &end, 10);
	unit = *end ? strchr(units, *end) : NULL;
	if (v[0] < '0' || v[0] > '9' || !unit || end[1] || errno || n < 1 || n > TIME_MAX_S / s[unit - units])
		return snap_error_set(c->err, -EINVAL, "%s: %s \"%.40s\": expected a number with m, h, d, w or y, such as 36h or 7d, "
						       "at most 100y", c->where, keys[r->key].name, v);
	r->n = n * s[unit - units];
	if (r->key == RET_ORPHAN_AGE && r->n < ORPHAN_AGE_MIN_S)
		return snap_error_set(c->err, -EINVAL, "%s: orphan_age %.40s: expected 1h or more, as what a lost request made may "
						       "still show up", c->where, v);
	return 0;
}

static int parse_tag(struct parser *c, struct ret_rule *r, const char *v)
{
	size_t k = strcspn(v, ":");

	if (strlen(v) >= RET_TAG_MAX || !snap_text_ok(v) || !k || k > 127 || (v[k] && !snap_tag_ok(v)))
		return snap_error_set(c->err, -EINVAL, "%s: keep_tag \"%.100s\": expected KEY or KEY:VALUE", c->where, v);
	(void)snprintf(r->tag, sizeof(r->tag), "%s", v);
	return 0;
}

/* "[CLASS.]KEY" */
static int parse_key(struct parser *c, struct ret_rule *r, const char *word)
{
	const char *dot = strrchr(word, '.'), *key = dot ? dot + 1 : word;
	size_t len = dot ? (size_t)(dot - word) : 0;

	memset(r, 0, sizeof(*r));
	for (; r->key < RET_KEYS && strcmp(key, keys[r->key].name) != 0;)
		r->key++;
	if (r->key == RET_KEYS)
		return snap_error_set(c->err, -EINVAL, "%s: \"%.60s\": unknown; the keys are keep_last keep_hourly keep_daily "
						       "keep_weekly keep_monthly keep_yearly keep_within keep_tag min_keep max_age "
						       "failed_age orphan_age timezone, with CLASS. before them for one class", c->where, key);
	if (dot && r->key == RET_ORPHAN_AGE)
		return snap_error_set(c->err, -EINVAL, "%s: \"%.70s\": orphans have no class; orphan_age stands alone", c->where, word);
	if (dot && len <= DOOR_NAME_MAX)
		memcpy(r->class, word, len);
	if (dot && !set_name_ok(r->class))
		return snap_error_set(c->err, -EINVAL, "%s: \"%.70s\": what stands before .%s is no name of a class", c->where, word,
				      key);
	return 0;
}

static int find(const struct ret_policy *p, const struct ret_rule *r, unsigned *at)
{
	for (*at = 0; *at < p->n; (*at)++) {
		int d = compare(&p->rule[*at], r);

		if (d >= 0)
			return d;
	}
	return 1;
}

static void remove_at(struct ret_policy *p, unsigned i)
{
	memmove(&p->rule[i], &p->rule[i + 1], (p->n - i - 1) * sizeof(p->rule[0]));
	p->n--;
}

static int take_away(struct parser *c, const char *word, const char *value)
{
	struct ret_rule r;
	unsigned i, before = c->p->n;
	int ret = parse_key(c, &r, word);

	if (ret < 0)
		return ret;
	if (value && r.key != RET_TAG)
		return snap_error_set(c->err, -EINVAL, "%s: -%.70s takes no value", c->where, word);
	if (value && (ret = parse_tag(c, &r, value)) < 0)
		return ret;
	for (i = 0; i < c->p->n;)
		if (strcmp(c->p->rule[i].class, r.class) == 0 && c->p->rule[i].key == r.key &&
		    (!value || strcmp(c->p->rule[i].tag, r.tag) == 0))
			remove_at(c->p, i);
		else
			i++;
	if (c->p->n == before)
		return snap_error_set(c->err, -EINVAL, "%s: -%.70s: there is no such rule", c->where, word);
	return 0;
}

static int set_rule(struct parser *c, const char *word, const char *value)
{
	struct ret_rule r;
	unsigned at;
	int ret = parse_key(c, &r, word);

	if (ret < 0)
		return ret;
	if (!value)
		return snap_error_set(c->err, -EINVAL, "%s: %.70s: its value is missing", c->where, word);
	ret = keys[r.key].value == VALUE_COUNT ? parse_count(c, &r, value) :
	      keys[r.key].value == VALUE_TIME  ? parse_time(c, &r, value) :
						 parse_tag(c, &r, value);
	if (ret < 0)
		return ret;
	if (find(c->p, &r, &at) != 0) {
		if (c->p->n == RET_RULES_MAX)
			return snap_error_set(c->err, -EINVAL, "%s: more than %u rules", c->where, RET_RULES_MAX);
		memmove(&c->p->rule[at + 1], &c->p->rule[at], (c->p->n - at) * sizeof(r));
		c->p->n++;
	}
	c->p->rule[at] = r;
	return 0;
}

static int set_zone(struct parser *c, const char *value)
{
	struct zone *z;

	if (!value)
		return snap_error_set(c->err, -EINVAL, "%s: timezone: its value is missing", c->where);
	z = zone_load(value, c->err);
	if (!z)
		return c->err ? c->err->code : -EINVAL;
	zone_free(z);
	(void)snprintf(c->p->timezone, sizeof(c->p->timezone), "%s", value);
	return 0;
}

/* One line, which is taken apart. */
static int parse_line(struct parser *c, char *line, unsigned number)
{
	static const char blank[] = " \t\r";
	char *save = NULL, *word = strtok_r(line, blank, &save), *value = strtok_r(NULL, blank, &save);

	if (!word || *word == '#')
		return 0;
	if (strtok_r(NULL, blank, &save))
		return snap_error_set(c->err, -EINVAL, "%s: line %u: expected one KEY VALUE a line", c->where, number);
	if (strcmp(word, "policy") == 0) {
		if (value || number != 1)
			return snap_error_set(c->err, -EINVAL, "%s: line %u: \"policy\" stands alone in the first line and replaces all "
							       "rules", c->where, number);
		ret_init(c->p);
		return 0;
	}
	if (strcmp(word, "timezone") == 0)
		return set_zone(c, value);
	return *word == '-' ? take_away(c, word + 1, value) : set_rule(c, word, value);
}

static int parse_all(struct parser *c, char *text)
{
	struct vbuf b = VBUF_INIT;
	unsigned number = 0;
	int r = 0;

	for (char *line = text, *next; r == 0 && *line; line = next) {
		next = line + strcspn(line, "\n");
		if (*next)
			*next++ = '\0';
		r = parse_line(c, line, ++number);
	}
	if (r == 0) {
		ret_print(c->p, &b);
		r = vbuf_error(&b);
	}
	if (r == 0 && b.len > RET_TEXT_MAX)
		r = snap_error_set(c->err, -EINVAL, "%s: the policy is longer than %u bytes", c->where, RET_TEXT_MAX);
	vbuf_free(&b);
	return r;
}

int ret_edit(struct ret_policy *p, const char *where, const char *text, size_t len, struct snap_error *err)
{
	cleanup_free struct ret_policy *fresh = malloc(sizeof(*fresh));
	cleanup_free char *copy = strndup(text, len);
	struct snap_error own = { 0 };
	struct parser c = { .where = where, .err = err ? err : &own, .p = fresh };
	int r;

	if (!fresh || !copy)
		return snap_error_set(err, -ENOMEM, "%s: out of memory", where);
	if (!len || text[len - 1] != '\n')
		return snap_error_set(err, -EINVAL, len ? "%s: the last line does not end with a newline: it may be half of one" :
							  "%s: nothing was written", where);
	if (strlen(copy) != len)
		return snap_error_set(err, -EINVAL, "%s: expected lines of text, KEY VALUE", where);
	*fresh = *p;
	r = parse_all(&c, copy);
	if (r == 0)
		*p = *fresh;
	return r;
}
