/* snapshot/ebs_tool/place.c - a pair's tag, as ebs_place.c wrote it, read back. Pure. */
#include "snapshot/ebs_tool/tool.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Device mapper doubles the dashes within names: "vg--a-data" is LV data of VG vg-a. */
static void split_lvm(const char *name, char *vg, char *lv, size_t cap)
{
	char *out = vg;
	size_t n = 0;

	vg[0] = lv[0] = '\0';
	for (; *name && n + 1 < cap; name++) {
		if (name[0] == '-' && name[1] != '-' && out == vg) {
			out[n] = '\0';
			out = lv;
			n = 0;
			continue;
		}
		name += name[0] == '-';
		out[n++] = *name;
	}
	out[n] = '\0';
}

static void read_stack(const char *stack, struct place *out)
{
	char layer[100], name[80];

	while (*stack) {
		size_t n = strcspn(stack, ">");

		(void)snprintf(layer, sizeof(layer), "%.*s", (int)(n < 99 ? n : 99), stack);
		stack += n + (stack[n] == '>');
		if (strncmp(layer, "lvm:", 4) == 0) {
			(void)snprintf(name, sizeof(name), "%.79s", layer + 4);
			split_lvm(name, out->vg, out->lv, sizeof(out->vg));
		} else if (strncmp(layer, "md:", 3) == 0) {
			(void)snprintf(out->md, sizeof(out->md), "%.39s", layer + 3);
		} else if (strncmp(layer, "part:", 5) == 0) {
			(void)snprintf(out->part, sizeof(out->part), "%.7s", layer + 5);
		} else {
			(void)snprintf(out->crypt, sizeof(out->crypt), "%.79s", layer);
		}
	}
}

int place_read(const char *text, const struct members *ms, struct place *out, struct snap_error *err)
{
	char field[260];
	bool cut = false;

	memset(out, 0, sizeof(*out));
	for (bool first = true; *text; first = false) {
		size_t n = strcspn(text, ";");
		char *eq;

		(void)snprintf(field, sizeof(field), "%.*s", (int)n, text);
		text += n + (text[n] == ';');
		eq = strchr(field, '=');
		if (first) {
			(void)snprintf(out->mountpoint, sizeof(out->mountpoint), "%.129s", field);
		} else if (strcmp(field, "+") == 0) {
			cut = true;
		} else if (eq) {
			*eq = '\0';
			if (strcmp(field, "fs") == 0)
				(void)snprintf(out->fs, sizeof(out->fs), "%.15s", eq + 1);
			else if (strcmp(field, "sub") == 0)
				(void)snprintf(out->sub, sizeof(out->sub), "%s", eq + 1);
			else if (strcmp(field, "stack") == 0)
				read_stack(eq + 1, out);
			for (unsigned i = 0; i < ms->n; i++)
				if (strcmp(eq + 1, ms->m[i].was) == 0)
					out->members |= 1ul << i;
		}
	}
	if (!out->members || cut)
		out->members = (1ul << ms->n) - 1;
	if (strspn(out->fs, "abcdefghijklmnopqrstuvwxyz0123456789") != strlen(out->fs))
		return snap_error_set(err, -EINVAL, "the tag of %.60s names no file system", out->mountpoint);
	return 0;
}
