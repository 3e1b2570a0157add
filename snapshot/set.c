/* snapshot/set.c - see set.h. JSON by json-c. */
#include "snapshot/set.h"
#include "base/clock.h"
#include "base/hex.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const state_names[] = { "running", "pending", "complete", "failed", "deleting" };

static const char *const verified_names[] = { "no", "yes", "files", "failed" };

const char *set_verified_name(enum set_verified v)
{
	return verified_names[v];
}

const char *set_state_name(enum set_state s)
{
	return state_names[s];
}

bool set_is_verified(const struct set *s)
{
	return s->verified == VERIFIED_YES;
}

bool set_name_ok(const char *name)
{
	static const char all[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	size_t len = strlen(name);

	return len && len <= DOOR_NAME_MAX && !strchr("._-", name[0]) && strspn(name, all) == len;
}

int set_text(char **field, const char *text)
{
	char *copy = strdup(text);

	if (!copy)
		return -ENOMEM;
	free(*field);
	*field = copy;
	return 0;
}

struct set *set_new(void)
{
	struct set *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->lock_ms = s->hold_ms = s->drain_ms = s->presync_ms = s->given_up_ms = -1;
	if (set_text(&s->description, "") < 0 || set_text(&s->tags, "") < 0 ||
	    set_text(&s->position, "") < 0 || set_text(&s->error, "") < 0 || set_text(&s->detail, "") < 0 ||
	    set_text(&s->layout, "") < 0 || set_text(&s->verified_note, "") < 0) {
		set_free(s);
		return NULL;
	}
	return s;
}

void set_free(struct set *s)
{
	if (!s)
		return;
	free(s->description);
	free(s->tags);
	free(s->position);
	free(s->error);
	free(s->layout);
	free(s->verified_note);
	free(s->detail);
	free(s->held);
	vbuf_free(&s->log);
	free(s);
}

static void put_str(struct json_object *o, const char *key, const char *text)
{
	json_object_object_add(o, key, json_object_new_string(text));
}

static void put_ms(struct json_object *o, const char *key, double ms)
{
	char text[40];

	(void)snprintf(text, sizeof(text), "%.3f", ms);
	json_object_object_add(o, key, ms < 0 ? NULL : json_object_new_double_s(ms, text));
}

void set_json(const struct set *s, struct vbuf *out)
{
	struct json_object *o = json_object_new_object();
	char t[CLOCK_ISO_MAX];

	put_str(o, "name", s->name);
	put_str(o, "id", s->id);
	put_str(o, "class", s->class);
	put_str(o, "lineage", s->lineage);
	json_object_object_add(o, "seq", json_object_new_uint64(s->seq));
	put_str(o, "state", state_names[s->state]);
	put_str(o, "created", clock_iso(s->created, t));
	json_object_object_add(o, "created_ns", json_object_new_int64(s->created.tv_sec * 1000000000LL +
								       s->created.tv_nsec));
	json_object_object_add(o, "ended_ns",
			       json_object_new_int64(s->ended.tv_sec * 1000000000LL + s->ended.tv_nsec));
	json_object_object_add(o, "pin", json_object_new_boolean(s->pin));
	json_object_object_add(o, "progress", json_object_new_int((int)s->progress));
	json_object_object_add(o, "volumes", json_object_new_int((int)s->volumes));
	json_object_object_add(o, "size", json_object_new_uint64(s->size_b));
	put_ms(o, "lock_ms", s->lock_ms);
	put_ms(o, "hold_ms", s->hold_ms);
	put_ms(o, "drain_ms", s->drain_ms);
	put_ms(o, "presync_ms", s->presync_ms);
	put_str(o, "provider", s->provider);
	put_str(o, "db", s->db);
	put_str(o, "description", s->description);
	put_str(o, "tags", s->tags);
	put_str(o, "position", s->position);
	put_str(o, "layout", s->layout);
	put_str(o, "verified", verified_names[s->verified]);
	json_object_object_add(o, "verified_ns",
			       json_object_new_int64(s->verified_at.tv_sec * 1000000000LL + s->verified_at.tv_nsec));
	put_str(o, "verified_note", s->verified_note);
	put_str(o, "error", s->error);
	json_object_object_add(o, "error_code", json_object_new_int(s->error_code));
	put_str(o, "log", vbuf_text(&s->log));
	json_object_object_add(o, "leftover", json_object_new_boolean(s->leftover));
	if (s->doubt)
		json_object_object_add(o, "doubt", json_object_new_boolean(true));
	if (s->orphan)
		json_object_object_add(o, "orphan", json_object_new_boolean(true));
	json_object_object_add(o, "lock_given_up", json_object_new_int((int)s->given_up));
	put_ms(o, "lock_given_up_ms", s->given_up_ms);
	vbuf_puts(out, json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
}

static const char *get_str(struct json_object *o, const char *key)
{
	struct json_object *v = json_object_object_get(o, key);

	return v && json_object_is_type(v, json_type_string) ? json_object_get_string(v) : "";
}

static double get_ms(struct json_object *o, const char *key)
{
	struct json_object *v = json_object_object_get(o, key);

	return v ? json_object_get_double(v) : -1;
}

static struct timespec get_ns(struct json_object *o, const char *key)
{
	int64_t ns = json_object_get_int64(json_object_object_get(o, key));

	return (struct timespec){ .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };
}

static int get_state(struct json_object *o, enum set_state *out)
{
	const char *name = get_str(o, "state");

	for (size_t i = 0; i < sizeof(state_names) / sizeof(state_names[0]); i++)
		if (strcmp(name, state_names[i]) == 0) {
			*out = (enum set_state)i;
			return 0;
		}
	return -EINVAL;
}

static bool copy_id(char out[33], const char *text)
{
	if (!hex_is(text, 32))
		return false;
	memcpy(out, text, 33);
	return true;
}

static int fill(struct set *s, struct json_object *o)
{
	const char *class = get_str(o, "class"), *name = get_str(o, "name");

	if (!json_object_is_type(o, json_type_object) || !set_name_ok(name) || !set_name_ok(class) ||
	    !copy_id(s->id, get_str(o, "id")) || !copy_id(s->lineage, get_str(o, "lineage")) ||
	    get_state(o, &s->state) < 0)
		return -EINVAL;
	(void)snprintf(s->name, sizeof(s->name), "%s", name);
	(void)snprintf(s->class, sizeof(s->class), "%s", class);
	(void)snprintf(s->provider, sizeof(s->provider), "%s", get_str(o, "provider"));
	(void)snprintf(s->db, sizeof(s->db), "%s", get_str(o, "db"));
	s->seq = json_object_get_uint64(json_object_object_get(o, "seq"));
	if (!s->seq || s->seq >> 40)
		return -EINVAL;
	s->created = get_ns(o, "created_ns");
	s->ended = get_ns(o, "ended_ns");
	s->pin = json_object_get_boolean(json_object_object_get(o, "pin"));
	s->leftover = json_object_get_boolean(json_object_object_get(o, "leftover"));
	s->doubt = json_object_get_boolean(json_object_object_get(o, "doubt"));
	s->orphan = json_object_get_boolean(json_object_object_get(o, "orphan"));
	s->progress = (unsigned)json_object_get_int(json_object_object_get(o, "progress"));
	s->volumes = (unsigned)json_object_get_int(json_object_object_get(o, "volumes"));
	s->size_b = json_object_get_uint64(json_object_object_get(o, "size"));
	s->lock_ms = get_ms(o, "lock_ms");
	s->hold_ms = get_ms(o, "hold_ms");
	s->drain_ms = get_ms(o, "drain_ms");
	s->presync_ms = get_ms(o, "presync_ms");
	s->given_up = (unsigned)json_object_get_int(json_object_object_get(o, "lock_given_up"));
	s->given_up_ms = get_ms(o, "lock_given_up_ms");
	s->error_code = json_object_get_int(json_object_object_get(o, "error_code"));
	for (size_t i = 0; i < sizeof(verified_names) / sizeof(verified_names[0]); i++)
		if (strcmp(get_str(o, "verified"), verified_names[i]) == 0)
			s->verified = (enum set_verified)i;
	s->verified_at = get_ns(o, "verified_ns");
	vbuf_puts(&s->log, get_str(o, "log"));
	if (set_text(&s->description, get_str(o, "description")) < 0 ||
	    set_text(&s->tags, get_str(o, "tags")) < 0 ||
	    set_text(&s->position, get_str(o, "position")) < 0 || set_text(&s->error, get_str(o, "error")) < 0 ||
	    set_text(&s->layout, get_str(o, "layout")) < 0 ||
	    set_text(&s->verified_note, get_str(o, "verified_note")) < 0)
		return -ENOMEM;
	return vbuf_error(&s->log);
}

int set_from_json(const char *text, struct set **out)
{
	struct json_object *o = json_tokener_parse(text);
	struct set *s = set_new();
	int r = !s ? -ENOMEM : o ? fill(s, o) : -EINVAL;

	json_object_put(o);
	if (r < 0)
		set_free(s);
	else
		*out = s;
	return r;
}
