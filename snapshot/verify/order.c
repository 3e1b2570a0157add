/* snapshot/verify/order.c - what the verifying process is told of a set, as lines; see helper.c, which reads them. */
#include "snapshot/verify/process.h"
#include "base/cleanup.h"
#include "snapshot/verify/verify_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void put_lines(struct vbuf *out, const char *prefix, const char *lines)
{
	for (const char *l = lines; *l;) {
		size_t n = strcspn(l, "\n");

		vbuf_printf(out, "%s %.*s\n", prefix, (int)n, l);
		l += n + (l[n] == '\n');
	}
}

static void put_server(struct engine *e, const struct set *s, struct vbuf *out)
{
	static const char *const usual[] = { "/usr/sbin/mariadbd", "/usr/sbin/mysqld" };
	const char *conf_exe = conf_str(e->door.conf, "verify.server"), *conf_root = conf_str(e->door.conf, "verify.root");
	cleanup_free char *exe = verify_value(s->layout, "exe"), *root = verify_value(s->layout, "root");
	cleanup_free char *kind = verify_value(s->layout, "server");
	const char *last = kind && strcmp(kind, "mysql") == 0 ? usual[1] : usual[0];

	if (*conf_exe)
		vbuf_printf(out, "exe %s\n", conf_exe);
	else if (exe)
		vbuf_printf(out, "exe %s\n", exe);
	else if (access(last, X_OK) == 0)
		vbuf_printf(out, "exe %s\n", last);
	if (*conf_root || root)
		vbuf_printf(out, "root %s\n", *conf_root ? conf_root : root);
}

void order_dir(const struct engine *e, char dir[PATH_MAX])
{
	(void)snprintf(dir, PATH_MAX, "%.*s/verify", PATH_MAX - 128, conf_str(e->door.conf, "state_dir"));
}

/* What the process needs for calls of the provider: keys come by its environment. */
static void put_volumes(const struct engine *e, struct vbuf *out)
{
	struct vbuf conf = VBUF_INIT;
	char dir[PATH_MAX];

	order_dir(e, dir);
	vbuf_printf(out, "volumes %s\n", dir);
	conf_render(e->door.conf, &conf);
	for (const char *l = vbuf_text(&conf); *l;) {
		size_t n = strcspn(l, "\n"), key = strcspn(l, " \n");

		if (strncmp(l, "ebs.", 4) == 0 && strncmp(l, "ebs.volumes ", 12) != 0 && strncmp(l, "ebs.description ", 16) != 0 && n > key + 1)
			vbuf_printf(out, "ebs %.*s\n", (int)n, l);
		l += n + (l[n] == '\n');
	}
	vbuf_free(&conf);
}

int order_clean(const struct engine *e, const char *id, struct vbuf *out)
{
	vbuf_printf(out, "id %s\nclean yes\n", id);
	put_volumes(e, out);
	return vbuf_error(out);
}

int order_make(struct engine *e, const struct set *s, struct vbuf *out)
{
	const struct door *d = &e->door;
	char data[PATH_MAX] = "";
	unsigned n = 0;
	int r = e->prov->data_path ? e->prov->data_path(e->prov_self, s->name, data, sizeof(data)) : 0;

	if (r < 0)
		return r;
	vbuf_printf(out, "set %s\nid %s\n", s->name, s->id);
	if (*data)
		vbuf_printf(out, "data %s\n", data);
	else
		put_volumes(e, out);
	for (const char *l = s->layout; l && *l; l = strchr(l, '\n') ? strchr(l, '\n') + 1 : NULL)
		if (strncmp(l, "mountpoint ", 11) == 0 && ++n)
			vbuf_printf(out, "%.*s\n", (int)strcspn(l, "\n"), l);
	for (unsigned i = 0; i < d->n_pairs; i++) {
		char *slash = strrchr(data, '/'); /* NULL without data here */

		if (!n)
			vbuf_printf(out, "mountpoint %s\n", d->pairs[i].mountpoint);
		vbuf_printf(out, "hide %s\nhide %s\n", d->pairs[i].backing, d->pairs[i].mountpoint);
		if (i == 0 && slash) { /* the sets themselves */
			*slash = '\0';
			slash = strrchr(data, '/');
			vbuf_printf(out, "hide %.*s\n", slash ? (int)(slash - data) : 0, data);
		}
	}
	put_server(e, s, out);
	put_lines(out, "layout", s->layout);
	put_lines(out, "position", s->position);
	return vbuf_error(out);
}
