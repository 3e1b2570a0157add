/* snapshot/exec_provider/exec_list.c - the verb list: every set the executable knows, and what it tells of each.
 * Called by: the engine, through prov_exec, on its provider thread. Blocks up to the call's deadline.
 * Errors:    -errno with the sentence. What a script does not tell is left open: nothing is guessed. */
#include "snapshot/exec_provider/exec_int.h"
#include "snapshot/set.h"
#include "base/hex.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Each set of the script's answer; fn > 0 ends it. */
static int each_listed(struct exec_prov *x, int (*fn)(void *arg, struct json_object *s, const char *name, const char *id), void *arg,
		       uint32_t max_ms, struct snap_error *err)
{
	struct json_object *out, *sets;
	int ret = exec_call(x, "list", exec_request(x, "list", NULL, NULL, max_ms), max_ms, NULL, &out, err);

	if (ret < 0)
		return ret;
	sets = json_object_object_get(out, "sets");
	if (!json_object_is_type(sets, json_type_array))
		ret = snap_error_set(err, -EPROTO, "%s list: `sets` is missing in its output", x->path);
	for (size_t i = 0; ret == 0 && i < json_object_array_length(sets); i++) {
		struct json_object *s = json_object_array_get_idx(sets, i);
		const char *name = json_object_get_string(json_object_object_get(s, "name"));
		const char *id = json_object_get_string(json_object_object_get(s, "id"));

		if (!name || !id || strlen(id) != 32)
			ret = snap_error_set(err, -EPROTO, "%s list: a set without name or id", x->path);
		else
			ret = fn(arg, s, name, id);
	}
	json_object_put(out);
	return ret < 0 ? ret : 0;
}

struct lister {
	int (*fn)(void *arg, const char *name, const char *set_id, bool complete);
	void *arg;
};

static int list_one(void *arg, struct json_object *s, const char *name, const char *id)
{
	const struct lister *l = arg;

	return l->fn(l->arg, name, id, json_object_get_boolean(json_object_object_get(s, "complete"))) ? 1 : 0;
}

int exec_list(void *self, int (*fn)(void *arg, const char *name, const char *set_id, bool complete), void *arg,
		     uint32_t max_ms, struct snap_error *err)
{
	struct lister l = { fn, arg };

	return each_listed(self, list_one, &l, max_ms, err);
}

/* ---- what list tells beyond the required: for list.all and orphans ---- */

struct scanner {
	const char *lineage;
	int (*fn)(void *arg, struct set *s);
	void *arg;
};

/* 32 hex digits, or "". */
static void take_hex(struct json_object *s, const char *key, char out[33])
{
	const char *text = json_object_get_string(json_object_object_get(s, key));

	if (text && hex_is(text, 32))
		memcpy(out, text, 33);
}

static int fill_set(struct set *out, struct json_object *s)
{
	struct json_object *position = json_object_object_get(s, "position");
	const char *class = json_object_get_string(json_object_object_get(s, "class"));
	struct vbuf b = VBUF_INIT;
	int r;

	take_hex(s, "lineage", out->lineage);
	take_hex(s, "origin", out->origin);
	(void)snprintf(out->class, sizeof(out->class), "%s", class && set_name_ok(class) ? class : "-");
	(void)snprintf(out->provider, sizeof(out->provider), "exec");
	out->created.tv_sec = json_object_get_int64(json_object_object_get(s, "created"));
	out->volumes = (unsigned)exec_number(s, "volumes", 1000);
	out->size_b = exec_number(s, "size", INT64_MAX);
	out->state = json_object_get_boolean(json_object_object_get(s, "complete")) ? SET_COMPLETE : SET_FAILED;
	if (json_object_is_type(position, json_type_object)) {
		json_object_object_foreach(position, key, value) {
			const char *text = json_object_get_string(value);

			if (text && !strpbrk(key, " \n") && !strchr(text, '\n'))
				vbuf_printf(&b, "%s %s\n", key, text);
		}
	}
	r = vbuf_error(&b);
	if (r == 0)
		r = set_text(&out->position, vbuf_text(&b));
	vbuf_free(&b);
	return r;
}

static int scan_one(void *arg, struct json_object *o, const char *name, const char *id)
{
	const struct scanner *c = arg;
	struct set *s;
	int r;

	if (!set_name_ok(name) || !hex_is(id, 32))
		return 0; /* no set of a stillfs has such a name */
	s = set_new();
	r = s ? fill_set(s, o) : -ENOMEM;
	if (r == 0) {
		(void)snprintf(s->name, sizeof(s->name), "%s", name);
		memcpy(s->id, id, sizeof(s->id));
		if (!*c->lineage || strcmp(s->lineage, c->lineage) == 0)
			r = c->fn(c->arg, s);
		else
			set_free(s);
		if (r == 0)
			return 0;
	}
	set_free(s);
	return r;
}

int exec_scan(void *self, const char *lineage, const char *name, int (*fn)(void *arg, struct set *s), void *arg,
		     uint32_t max_ms, struct snap_error *err)
{
	struct scanner c = { lineage, fn, arg };
	int r = each_listed(self, scan_one, &c, max_ms, err);

	return r < 0 && !err->code ? snap_error_set(err, r, "exec list: %s", strerror(-r)) : r;
}
