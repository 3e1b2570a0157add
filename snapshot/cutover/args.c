/* snapshot/cutover/args.c - see args.h. One table of options. Called by: main.c; tests. */
#include "snapshot/cutover/args.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum type { TEXT, SECONDS, FLAG };

/* kept: written into the journal, so that a resume does as the run was told. */
static const struct option {
	const char *name;
	enum type type;
	size_t at, cap; /* in struct opts */
	bool kept;
	unsigned def, min, max; /* seconds */
} options[] = {
#define AT(field) offsetof(struct opts, field), sizeof(((struct opts *)NULL)->field)
	{ "--journal", TEXT, AT(journal), false, 0, 0, 0 },
	{ "--hook", TEXT, AT(hook), true, 0, 0, 0 },
	{ "--hook-timeout", SECONDS, AT(hook_ms), true, 30, 1, 600 },
	{ "--allow", TEXT, AT(allow), true, 0, 0, 0 },
	{ "--fence-include", TEXT, AT(include_dir), true, 0, 0, 0 },
	{ "--fence-timeout", SECONDS, AT(fence_ms), true, 30, 1, 600 },
	{ "--accept", TEXT, AT(accept), false, 0, 0, 0 },
	{ "--max-lag", SECONDS, AT(max_lag_s), false, 10, 0, 86400 },
	{ "--catch-up", SECONDS, AT(catch_up_ms), true, 30, 1, 3600 },
	{ "--timeout", SECONDS, AT(io_s), true, 5, 3, 60 },
	{ "--no-persist", FLAG, AT(no_persist), true, 0, 0, 0 },
	{ "--skip-hook", FLAG, AT(skip_hook), false, 0, 0, 0 },
	{ "--other-is-down", FLAG, AT(other_down), false, 0, 0, 0 },
	{ "--lose", FLAG, AT(lose), false, 0, 0, 0 },
	{ "--force", FLAG, AT(force), false, 0, 0, 0 },
};
#define N_OPTIONS (sizeof(options) / sizeof(options[0]))

static unsigned given; /* bits; one process, one call */

static char *text_of(struct opts *o, const struct option *x)
{
	return (char *)o + x->at;
}

static bool counts_ms(const struct option *x)
{
	return strcmp(x->name, "--max-lag") != 0 && strcmp(x->name, "--timeout") != 0;
}

static int set_seconds(struct opts *o, const struct option *x, const char *value, struct snap_error *err)
{
	char *end;
	unsigned long v = strtoul(value, &end, 10);
	uint32_t n;

	if (!*value || *end || v < x->min || v > x->max)
		return snap_error_set(err, -EINVAL, "%s %.40s: expected seconds from %u to %u", x->name, value, x->min, x->max);
	n = (uint32_t)v * (counts_ms(x) ? 1000u : 1u);
	memcpy(text_of(o, x), &n, sizeof(n));
	return 0;
}

/* Not inlined: gcc at -O3 takes the first option's place for that of all, and warns. */
static __attribute__((noinline)) int set(struct opts *o, const struct option *x, const char *value, struct snap_error *err)
{
	const bool yes = true;
	size_t n = strlen(value);

	switch (x->type) {
	case FLAG:
		memcpy(text_of(o, x), &yes, sizeof(yes));
		return 0;
	case SECONDS:
		return set_seconds(o, x, value, err);
	case TEXT:
	default:
		if (n >= x->cap)
			return snap_error_set(err, -EINVAL, "%s: its value is too long", x->name);
		memcpy(text_of(o, x), value, n + 1);
		return 0;
	}
}

static int command_word(struct args *a, const char *word)
{
	static const char *const words[] = { "status", "resume", "abort", "resolve", "reopen" };
	static const enum args_command commands[] = { CMD_STATUS, CMD_RESUME, CMD_ABORT, CMD_RESOLVE, CMD_REOPEN };

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strcmp(words[i], word) == 0) {
			a->command = commands[i];
			return 0;
		}
	return -EINVAL;
}

/* --from, --to, --server, --writable, --check: those of the command itself. 1: it was one, -EINVAL. */
static int own(struct cut *c, struct args *a, const char *name, const char *value, struct snap_error *err)
{
	int r;

	if (strcmp(name, "--check") == 0) {
		a->command = CMD_CHECK;
		return 0;
	}
	if (strcmp(name, "--from") != 0 && strcmp(name, "--to") != 0 && strcmp(name, "--server") != 0 && strcmp(name, "--writable") != 0)
		return snap_error_set(err, -EINVAL, "cutover: unknown argument %.100s; see stillctl(8)", name);
	if (!value)
		return snap_error_set(err, -EINVAL, "cutover: %s needs a value", name);
	if (strcmp(name, "--writable") == 0) {
		if (strcmp(value, "A") != 0 && strcmp(value, "B") != 0)
			return snap_error_set(err, -EINVAL, "cutover: --writable A or --writable B");
		a->b = *value == 'B';
		a->given |= 1u << 31;
		return 1;
	}
	r = side_name(strcmp(name, "--to") == 0 ? &c->b : &c->a, strcmp(name, "--to") == 0 ? "B" : "A", value, err);
	return r < 0 ? r : 1;
}

static int complete(struct cut *c, const struct args *a, struct snap_error *err)
{
	if ((a->command == CMD_RUN || a->command == CMD_CHECK) && (!*c->a.given || !*c->b.given))
		return snap_error_set(err, -EINVAL, "cutover: --from A --to B are needed; see stillctl(8)");
	if (a->command == CMD_REOPEN && !*c->a.given)
		return snap_error_set(err, -EINVAL, "cutover reopen: --server FILE|NAME is needed");
	if (a->command == CMD_RESOLVE && !(a->given & 1u << 31))
		return snap_error_set(err, -EINVAL, "cutover resolve: --writable A or --writable B is needed");
	if (*c->o.journal != '/')
		return snap_error_set(err, -EINVAL, "--journal %.100s: an absolute path is expected", c->o.journal);
	return 0;
}

int args_read(struct cut *c, struct args *a, int argc, char **argv, struct snap_error *err)
{
	int i = 0, r = 0;

	given = 0;
	(void)snprintf(c->o.journal, sizeof(c->o.journal), CUTLOG_DIR);
	for (size_t k = 0; k < N_OPTIONS; k++) {
		char value[16];

		(void)snprintf(value, sizeof(value), "%u", options[k].def);
		if (options[k].type == SECONDS)
			(void)set_seconds(&c->o, &options[k], value, err);
	}
	if (argc && argv[0][0] != '-') {
		if (command_word(a, argv[0]) < 0)
			return snap_error_set(err, -EINVAL, "cutover: unknown command %.60s; see stillctl(8)", argv[0]);
		i = 1;
	}
	for (; r >= 0 && i < argc; i++) {
		size_t k = 0;

		while (k < N_OPTIONS && strcmp(options[k].name, argv[i]) != 0)
			k++;
		if (k == N_OPTIONS) {
			r = own(c, a, argv[i], i + 1 < argc ? argv[i + 1] : NULL, err);
			i += r == 1;
			continue;
		}
		if (options[k].type != FLAG && i + 1 >= argc)
			return snap_error_set(err, -EINVAL, "cutover: %s needs a value", argv[i]);
		r = set(&c->o, &options[k], options[k].type == FLAG ? "" : argv[i + 1], err);
		i += options[k].type != FLAG;
		given |= 1u << k;
	}
	return r < 0 ? r : complete(c, a, err);
}

/* ---- the journal's first line: words of NAME=VALUE, with %XX for blanks and what is not printed ---- */

static void put(struct vbuf *out, const char *name, const char *value)
{
	vbuf_printf(out, "%s%s=", out->len ? " " : "", name);
	for (; *value; value++)
		if ((unsigned char)*value <= ' ' || *value == '%' || *value == 0x7f)
			vbuf_printf(out, "%%%02x", (unsigned char)*value);
		else
			vbuf_add(out, value, 1);
}

void args_put(const struct cut *c, struct vbuf *out)
{
	struct opts o = c->o;

	put(out, "--from", c->a.given);
	put(out, "--to", c->b.given);
	for (size_t k = 0; k < N_OPTIONS; k++) {
		const struct option *x = &options[k];
		char text[16];
		uint32_t n;

		if (!x->kept)
			continue;
		memcpy(&n, text_of(&o, x), x->type == SECONDS ? sizeof(n) : 1);
		(void)snprintf(text, sizeof(text), "%u", x->type == SECONDS && counts_ms(x) ? n / 1000 : x->type == SECONDS ? n : 0);
		if (x->type == SECONDS)
			put(out, x->name, text);
		else if (x->type == TEXT && *text_of(&o, x))
			put(out, x->name, text_of(&o, x));
		else if (x->type == FLAG && *text_of(&o, x))
			put(out, x->name, "yes");
	}
}

static void decode(char *s)
{
	char *to = s;

	for (; *s; s++) {
		unsigned v;

		if (*s == '%' && sscanf(s + 1, "%2x", &v) == 1) {
			*to++ = (char)v;
			s += 2;
		} else {
			*to++ = *s;
		}
	}
	*to = '\0';
}

/* A stillfs that does not answer now may be the server that is down: it is looked for again where it is needed. */
static int recall_side(struct side *s, const char *word, const char *value, struct snap_error *err)
{
	int r = side_name(s, word, value, err);

	if (r < 0 && s->lost.code)
		snap_error_clear(err);
	return r < 0 && !s->lost.code ? r : 0;
}

static int recall_word(struct cut *c, char *word, struct snap_error *err)
{
	char *value = strchr(word, '=');

	if (!value)
		return 0;
	*value++ = '\0';
	decode(value);
	if (strcmp(word, "--from") == 0)
		return *c->a.given ? 0 : recall_side(&c->a, "A", value, err);
	if (strcmp(word, "--to") == 0)
		return *c->b.given ? 0 : recall_side(&c->b, "B", value, err);
	for (size_t k = 0; k < N_OPTIONS; k++)
		if (strcmp(options[k].name, word) == 0 && options[k].kept && !(given & 1u << k))
			return set(&c->o, &options[k], value, err);
	return 0; /* of a later version */
}

int args_recall(struct cut *c, const char *text, struct snap_error *err)
{
	char *copy = strdup(text), *save = NULL;
	int r = copy ? 0 : snap_error_set(err, -ENOMEM, "out of memory");

	for (char *w = copy ? strtok_r(copy, " ", &save) : NULL; r == 0 && w; w = strtok_r(NULL, " ", &save))
		r = recall_word(c, w, err);
	free(copy);
	return r;
}
