/* snapshot/snap_parse.c - see snap_parse.h. */
#include "snapshot/snap_parse.h"
#include "snapshot/set.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

bool snap_text_ok(const char *text)
{
	const unsigned char *p = (const unsigned char *)text;

	for (size_t n; *p; p += n) {
		n = vbuf_utf8_len(p);
		if (!n || *p < 0x20 || *p == 0x7f)
			return false;
	}
	return true;
}

bool snap_tag_ok(const char *tag)
{
	const char *colon = strchr(tag, ':');

	/* the provider's limits: 128 and 256 characters (EC2 tag restrictions) */
	if (!colon || colon == tag || colon - tag > 127 || strlen(colon + 1) > 255 ||
	    strncmp(tag, "aws:", 4) == 0)
		return false;
	return snap_text_ok(tag);
}

/* The next word of *p into buf: up to white space outside double quotes, which are dropped; a
 * backslash inside quotes takes the meaning of the next character. 1 word, 0 end, -EINVAL. */
static int next_word(const char **p, const char *end, char *buf, size_t cap)
{
	const char *s = *p;
	bool quoted = false;
	size_t n = 0;

	while (s < end && (*s == ' ' || *s == '\t'))
		s++;
	if (s == end)
		return 0;
	for (; s < end && (quoted || (*s != ' ' && *s != '\t')); s++) {
		if (*s == '"') {
			quoted = !quoted;
			continue;
		}
		if (quoted && *s == '\\' && s + 1 < end)
			s++;
		if ((unsigned char)*s < 0x20 || *s == 0x7f || n + 1 >= cap)
			return -EINVAL;
		buf[n++] = *s;
	}
	buf[n] = '\0';
	*p = s;
	return quoted ? -EINVAL : 1;
}

static int add_tag(struct snap_request *r, unsigned *n, const char *tag, struct snap_error *err)
{
	size_t have = strlen(r->tags);

	if (!snap_tag_ok(tag))
		return snap_error_set(err, -EINVAL, "snapshot: tag=%.100s: expected KEY:VALUE, at most 127 and 255 "
						    "characters, not beginning with aws:, in UTF-8", tag);
	if (++*n > SNAP_TAGS_MAX || have + strlen(tag) + 2 > sizeof(r->tags))
		return snap_error_set(err, -EINVAL, "snapshot: more than %d tags, or too long", SNAP_TAGS_MAX);
	(void)snprintf(r->tags + have, sizeof(r->tags) - have, "%s\n", tag);
	return 0;
}

static int one_word(struct snap_request *r, const char *w, bool first, unsigned *n_tags, struct snap_error *err)
{
	if (strcmp(w, "pin") == 0) {
		r->pin = true;
	} else if (strcmp(w, "nowait") == 0) {
		r->nowait = true;
	} else if (strncmp(w, "class=", 6) == 0) {
		/* room for the time behind it, when the name is made of it */
		if (!set_name_ok(w + 6) || strlen(w + 6) > DOOR_NAME_MAX - 17)
			return snap_error_set(err, -EINVAL, "snapshot: class=%.70s: expected a letter or digit, then "
							    "at most 46 of letters, digits, . _ -", w + 6);
		(void)snprintf(r->class, sizeof(r->class), "%s", w + 6);
	} else if (strncmp(w, "description=", 12) == 0) {
		if (strlen(w + 12) > SNAP_DESCRIPTION_MAX)
			return snap_error_set(err, -EINVAL, "snapshot: the description is longer than %d bytes",
					      SNAP_DESCRIPTION_MAX);
		if (!snap_text_ok(w + 12))
			return snap_error_set(err, -EINVAL, "snapshot: the description is not UTF-8");
		(void)snprintf(r->description, sizeof(r->description), "%s", w + 12);
	} else if (strncmp(w, "tag=", 4) == 0) {
		return add_tag(r, n_tags, w + 4, err);
	} else if (!first || strchr(w, '=')) {
		return snap_error_set(err, -EINVAL, "snapshot: unknown word \"%.70s\"; expected [NAME] [class=C] "
						    "[description=\"...\"] [tag=k:v]... [pin] [nowait]", w);
	} else if (!set_name_ok(w)) {
		return snap_error_set(err, -EINVAL, "snapshot: bad name \"%.70s\": expected a letter or digit, then at "
						    "most 63 of letters, digits, . _ -", w);
	} else {
		(void)snprintf(r->name, sizeof(r->name), "%s", w);
	}
	return 0;
}

int snap_parse(const char *text, size_t len, struct snap_request *out, struct snap_error *err)
{
	struct snap_request r = { .class = "manual" };
	const char *p = text, *end = text + len;
	unsigned n_tags = 0;
	bool first = true;
	char word[1024];
	int got, e;

	if (len && end[-1] == '\n')
		end--;
	while ((got = next_word(&p, end, word, sizeof(word))) > 0) {
		e = one_word(&r, word, first, &n_tags, err);
		if (e < 0)
			return e;
		first = false;
	}
	if (got < 0)
		return snap_error_set(err, got, "snapshot: one line of words is expected; a quote is open, a word too "
						"long, or there is a control character");
	*out = r;
	return 0;
}
