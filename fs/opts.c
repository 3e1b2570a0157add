/* fs/opts.c - see opts.h. The file is read by libinih; -o is split at commas, of which a backslash takes
 * the meaning. Owns: the strings of struct opts. Blocks: reads one file. */
#include "fs/opts.h"

#include <errno.h>
#include <ini.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What mount(8) and fstab add and what needs no doing here. */
static const char *const ignored[] = { "rw", "defaults", "auto", "noauto", "nofail", "_netdev",
				       "user", "nouser", "dev", "suid", "exec", "async", "atime",
				       "relatime", "noatime", "nodiratime", "strictatime", "diratime",
				       "lazytime", "nolazytime", "allow_other", "default_permissions" };
static const char *const refused[] = { "ro", "noexec", "nosuid", "nodev", "sync", "dirsync", "remount", "bind" };

bool opts_name_ok(const char *name)
{
	static const char first[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
	size_t len = strlen(name);

	return len && len <= DOOR_NAME_MAX && strchr(first, name[0]) &&
	       strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == len;
}

void opts_help(FILE *out)
{
	fputs("Usage: stillfs [-f] [-o OPTION=VALUE,...] BACKING MOUNTPOINT\n"
	      "       stillfs [-f] [-o OPTION=VALUE,...] --catalog-only NAME\n"
	      "Pass a database directory through a gate that can hold its writes for a snapshot.\n\n"
	      "  -f                   stay in the foreground\n"
	      "  -o OPTION=VALUE,...  options, also as lines \"option = value\" in /etc/stillfs/NAME.conf\n"
	      "  --catalog-only NAME  serve the control tree of the sets that the provider knows, without a BACKING\n"
	      "  --help               this text\n"
	      "  --version            name and version\n"
	      "  --list-options       names of all options\n\n"
	      "Options (default in brackets):\n",
	      out);
	for (const struct conf_key *k = opts_table; k->name; k++)
		fprintf(out, "  %s=%s\n        %s%s%s%s\n", k->name, k->arg, k->help, *k->def ? " [" : "",
			k->def, *k->def ? "]" : "");
	fputs("\nThe control tree is at /run/stillfs/NAME: cat status, echo > snapshot, ls snapshots.\n"
	      "See stillfs(8), stillfs.conf(5), stillctl(8).\n",
	      out);
}

void opts_list(FILE *out)
{
	for (const struct conf_key *k = opts_table; k->name; k++)
		fprintf(out, "%s\n", k->name);
}

/* ---- the file ---- */

struct file_ctx {
	struct conf *conf;
	const char *path;
	struct snap_error *err;
	int result;
	unsigned line;
};

static int on_line(void *arg, const char *section, const char *key, const char *value)
{
	struct file_ctx *f = arg;
	char where[512];

	(void)snprintf(where, sizeof(where), "%s", f->path);
	if (*section) {
		f->result = snap_error_set(f->err, -EINVAL, "%s: section [%s]: the file has none; write "
							    "\"option = value\" lines only", where, section);
		return 0;
	}
	if (strcmp(key, "name") == 0) {
		f->result = snap_error_set(f->err, -EINVAL, "%s: name belongs to -o: it chose this file", where);
		return 0;
	}
	f->result = conf_set(f->conf, where, key, value, f->err);
	return f->result == 0;
}

static int read_file(struct conf *conf, const char *dir, const char *name, struct snap_error *err)
{
	char path[512];
	struct file_ctx f = { .conf = conf, .path = path, .err = err };
	int r;

	(void)snprintf(path, sizeof(path), "%s/%s.conf", dir, name);
	if (access(path, F_OK) < 0)
		return 0; /* no file: nothing to read */
	r = ini_parse(path, on_line, &f);
	if (f.result < 0)
		return f.result;
	if (r == -1)
		return snap_error_set(err, -EACCES, "read %s: cannot open it", path);
	if (r > 0)
		return snap_error_set(err, -EINVAL, "%s:%d: not an \"option = value\" line, or longer than 200 "
						    "characters", path, r);
	return r < 0 ? snap_error_set(err, -ENOMEM, "read %s: out of memory", path) : 0;
}

/* ---- -o ---- */

/* Cut the next item off *p, at a comma; "\," and "\\" lose their backslash. In place. */
static char *next_item(char **p)
{
	char *start = *p, *in = start, *out = start;

	while (*in && *in != ',') {
		if (*in == '\\' && (in[1] == ',' || in[1] == '\\'))
			in++;
		*out++ = *in++;
	}
	*p = *in ? in + 1 : NULL;
	*out = '\0';
	return start;
}

static bool is_among(const char *item, const char *const *words, size_t n)
{
	size_t i = 0;

	while (i < n && strcmp(item, words[i]) != 0)
		i++;
	return i < n;
}

static bool is_ignored(const char *item)
{
	return is_among(item, ignored, sizeof(ignored) / sizeof(ignored[0])) || strncmp(item, "x-", 2) == 0 ||
	       strncmp(item, "comment=", 8) == 0;
}

static bool is_option(const char *item)
{
	const struct conf_key *k = opts_table;

	while (k->name && strcmp(item, k->name) != 0)
		k++;
	return k->name != NULL;
}

/* only_name: just find the name, which chooses the file that is read first. */
static int apply_o(struct conf *conf, const char *text, bool only_name, struct snap_error *err)
{
	char *copy = strdup(text), *p = copy, *item, *eq;
	int r = copy ? 0 : snap_error_set(err, -ENOMEM, "-o: out of memory");

	while (r == 0 && p) {
		item = next_item(&p);
		eq = strchr(item, '=');
		if (!*item || is_ignored(item))
			continue;
		if (eq)
			*eq = '\0';
		if (only_name && strcmp(item, "name") != 0)
			continue;
		if (!only_name && strcmp(item, "name") == 0)
			continue;
		if (!eq && is_among(item, refused, sizeof(refused) / sizeof(refused[0])))
			r = snap_error_set(err, -EINVAL, "-o: %s is not supported: a database directory is "
							 "mounted as it is", item);
		else if (!eq && is_option(item))
			r = snap_error_set(err, -EINVAL, "-o: \"%s\" has no value; write %s=VALUE", item, item);
		else
			r = conf_set(conf, "-o", item, eq ? eq + 1 : "", err);
	}
	free(copy);
	return r;
}

/* ---- all of it ---- */

static int add_pair(struct opts *o, const char *backing, size_t len, const char *mountpoint,
		    struct snap_error *err)
{
	if (o->n_pairs == DOOR_MAX_PAIRS)
		return snap_error_set(err, -E2BIG, "more than %d pairs", DOOR_MAX_PAIRS);
	o->backing[o->n_pairs] = strndup(backing, len);
	o->mountpoint[o->n_pairs] = strdup(mountpoint);
	if (!o->backing[o->n_pairs] || !o->mountpoint[o->n_pairs])
		return snap_error_set(err, -ENOMEM, "read the command line: out of memory");
	o->n_pairs++;
	return 0;
}

static int add_listed_pairs(struct opts *o, struct snap_error *err)
{
	const char *t = conf_str(o->conf, "pair");
	int r = 0;

	while (r == 0 && *t) {
		size_t len = strcspn(t, "\n");
		char *item = strndup(t, len), *colon = item ? strchr(item, ':') : NULL;

		if (!colon || colon == item || !colon[1])
			r = snap_error_set(err, -EINVAL, "pair=%.*s: expected BACKING:MOUNTPOINT", (int)len, t);
		else
			r = add_pair(o, item, (size_t)(colon - item), colon + 1, err);
		free(item);
		t += len + (t[len] == '\n');
	}
	return r;
}

static int set_default(struct conf *c, const char *key, const char *dir, const char *name,
		       struct snap_error *err)
{
	char text[512];

	if (*conf_str(c, key))
		return 0;
	(void)snprintf(text, sizeof(text), "%s/%s", dir, name);
	return conf_set(c, "default", key, text, err);
}

/* Without data there are no requests: the smallest of everything. */
static int set_catalog_only(struct opts *o, const char *name, struct snap_error *err)
{
	static const char *const small[][2] = { { "threads", "1" },	  { "max_parked", "64" }, { "parked_bytes", "1M" },
						{ "fd_cache", "64" },	  { "takeover", "no" },	  { "db", "none" },
						{ "freeze", "no" } };
	int r = 0;

	for (size_t i = 0; r == 0 && i < sizeof(small) / sizeof(small[0]); i++)
		r = conf_set(o->conf, "--catalog-only", small[i][0], small[i][1], err);
	if (r == 0 && (o->n_pairs || *conf_str(o->conf, "pair")))
		r = snap_error_set(err, -EINVAL, "--catalog-only %s: no BACKING and no pair is served with it", name);
	return r;
}

static int set_defaults(struct opts *o, const char *conf_dir, char **o_text, unsigned n_o,
			struct snap_error *err)
{
	const char *mp = o->n_pairs ? o->mountpoint[0] : "", *last, *name;
	char buf[DOOR_NAME_MAX + 2];
	size_t len = strlen(mp);
	int r = 0;

	for (unsigned i = 0; r == 0 && i < n_o; i++)
		r = apply_o(o->conf, o_text[i], true, err);
	if (r == 0 && !conf_is_set(o->conf, "name") && o->n_pairs) {
		while (len > 1 && mp[len - 1] == '/')
			len--;
		for (last = mp + len; last > mp && last[-1] != '/'; last--)
			;
		(void)snprintf(buf, sizeof(buf), "%.*s", (int)(mp + len - last), last);
		r = conf_set(o->conf, "default", "name", buf, err);
	}
	name = conf_str(o->conf, "name");
	if (r == 0 && !opts_name_ok(name))
		return snap_error_set(err, -EINVAL, "name \"%s\": expected a letter or digit, then at most 63 of "
						    "letters, digits, . _ -; give one with -o name=NAME", name);
	if (r == 0)
		r = read_file(o->conf, conf_dir ? conf_dir : "/etc/stillfs", name, err);
	for (unsigned i = 0; r == 0 && i < n_o; i++)
		r = apply_o(o->conf, o_text[i], false, err);
	if (r == 0)
		r = add_listed_pairs(o, err);
	if (r == 0)
		r = set_default(o->conf, "control_dir", "/run/stillfs", name, err);
	if (r == 0)
		r = set_default(o->conf, "state_dir", "/var/lib/stillfs", name, err);
	return r;
}

int opts_parse(struct opts *o, int argc, char **argv, const char *conf_dir, struct snap_error *err)
{
	char *o_text[64], *paths[2] = { NULL, NULL }, *only = NULL;
	unsigned n_o = 0, n_paths = 0;
	int r;

	*o = (struct opts){ .action = OPTS_RUN };
	o->conf = conf_new(opts_table, err);
	if (!o->conf)
		return err->code;
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			o->action = OPTS_HELP;
		else if (strcmp(argv[i], "--version") == 0 || strcmp(argv[i], "-V") == 0)
			o->action = OPTS_VERSION;
		else if (strcmp(argv[i], "--list-options") == 0)
			o->action = OPTS_LIST;
		else if (strcmp(argv[i], "-f") == 0)
			o->foreground = true;
		else if (strcmp(argv[i], "--catalog-only") == 0 && i + 1 < argc)
			only = argv[++i];
		else if (strncmp(argv[i], "-o", 2) == 0 && (argv[i][2] || i + 1 < argc) && n_o < 64)
			o_text[n_o++] = argv[i][2] ? argv[i] + 2 : argv[++i];
		else if (i + 1 == argc && (strcmp(argv[i], "-o") == 0 || strcmp(argv[i], "--catalog-only") == 0))
			return snap_error_set(err, -EINVAL, "a value is missing after %s; see --help", argv[i]);
		else if (argv[i][0] == '-' && argv[i][1])
			return snap_error_set(err, -EINVAL, "unknown argument %s; see --help", argv[i]);
		else if (n_paths == 2)
			return snap_error_set(err, -EINVAL, "too many arguments: %s; more directories go under "
							    "-o pair=BACKING:MOUNTPOINT", argv[i]);
		else
			paths[n_paths++] = argv[i];
	}
	if (o->action != OPTS_RUN)
		return 0;
	if (only) {
		o->catalog_only = true;
		r = n_paths ? snap_error_set(err, -EINVAL, "--catalog-only %s: no BACKING and no MOUNTPOINT is served with it", only) :
			      conf_set(o->conf, "--catalog-only", "name", only, err);
		if (r == 0)
			r = set_defaults(o, conf_dir, o_text, n_o, err);
		return r < 0 ? r : set_catalog_only(o, only, err);
	}
	if (n_paths != 2)
		return snap_error_set(err, -EINVAL, "BACKING and MOUNTPOINT are needed, or --catalog-only NAME; see --help");
	r = add_pair(o, paths[0], strlen(paths[0]), paths[1], err);
	if (r == 0)
		r = set_defaults(o, conf_dir, o_text, n_o, err);
	if (r == 0 && conf_is_set(o->conf, "lineage"))
		r = snap_error_set(err, -EINVAL, "lineage is for --catalog-only; a mount has the lineage of its state_dir, see `status`");
	return r;
}

void opts_free(struct opts *o)
{
	for (unsigned i = 0; i < o->n_pairs; i++) {
		free(o->backing[i]);
		free(o->mountpoint[i]);
	}
	o->conf = conf_free(o->conf);
	o->n_pairs = 0;
}
