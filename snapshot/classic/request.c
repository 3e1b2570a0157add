/* snapshot/classic/request.c - what was asked for: the options as tools/ec2-consistent-snapshot passes them on, and what they
 * mean for coordinators and provider. Secrets come through a file in memory and go into files in memory and this process's
 * own environment, where nobody else looks; main.c keeps it from what it starts.
 * Called by: main.c. Blocks: reads files that the options name. Errors: -errno with the sentence, never a secret. */
#include "snapshot/classic/classic.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define STATE_DIR "/var/lib/stillfs/ec2-consistent-snapshot"
#define EBS_KEYS_MAX 20

static const struct conf_key db_keys[] = {
	{ "state_dir", CONF_PATH, STATE_DIR, NULL, 0, 0, "", "" },
	{ "gate_timeout", CONF_MS, "10", NULL, 1, 3600000, "", "" }, /* how long things may be frozen */
	{ "db.defaults_file", CONF_PATH, "", NULL, 0, 0, "", "" },
	{ "db.socket", CONF_PATH, "", NULL, 0, 0, "", "" },
	{ "db.tls", CONF_STRING, "auto", NULL, 0, 0, "", "" },
	{ "db.lock", CONF_STRING, "auto", NULL, 0, 0, "", "" },
	{ "db.lock_timeout", CONF_MS, "500ms", NULL, 1, 3600000, "", "" },
	{ "db.lock_patience", CONF_MS, "0", NULL, 0, 1000, "", "" },
	{ "db.blockers", CONF_STRING, "wait:30", NULL, 0, 0, "", "" },
	{ "db.blocker_age", CONF_MS, "5", NULL, 100, 3600000, "", "" },
	{ "db.stop_replica", CONF_STRING, "no", NULL, 0, 0, "", "" },
	{ "db.position_file", CONF_STRING, "both", NULL, 0, 0, "", "" },
	{ "db.binlog_outside", CONF_BOOL, "no", NULL, 0, 0, "", "" },
	{ "db.when_down", CONF_STRING, "fail", NULL, 0, 0, "", "" },
	{ "db.semi_sync_timeout", CONF_MS, "3600", NULL, 100, 3600000, "", "" },
	{ "db.galera", CONF_STRING, "refuse", NULL, 0, 0, "", "" },
	{ "db.group_primary", CONF_STRING, "refuse", NULL, 0, 0, "", "" },
	{ "db.mongodb_uri_file", CONF_PATH, "", NULL, 0, 0, "", "" },
	{ "db.mongodb_lock", CONF_STRING, "yes", NULL, 0, 0, "", "" },
	{ NULL, CONF_STRING, NULL, NULL, 0, 0, NULL, NULL },
};

int ask_read(int fd, struct classic_ask *out, struct snap_error *err)
{
	static char text[65536];
	struct stat st;
	ssize_t n = fstat(fd, &st) < 0 || st.st_size >= (off_t)sizeof(text) ? -1 : pread(fd, text, sizeof(text) - 1, 0);

	(void)close(fd);
	if (n <= 0 || text[n - 1] != '\0')
		return snap_error_set(err, -EINVAL, "stillfs-classic is started by ec2-consistent-snapshot(8)");
	for (char *p = text; p < text + n; p += strlen(p) + 1) {
		if (out->n == CLASSIC_VALUES)
			return snap_error_set(err, -E2BIG, "too many options");
		out->name[out->n] = p;
		p += strlen(p) + 1;
		if (p >= text + n)
			return snap_error_set(err, -EINVAL, "option %s has no value", out->name[out->n]);
		out->value[out->n++] = p;
	}
	return 0;
}

unsigned ask_count(const struct classic_ask *a, const char *name)
{
	unsigned n = 0;

	for (unsigned i = 0; i < a->n; i++)
		n += strcmp(a->name[i], name) == 0;
	return n;
}

const char *ask_at(const struct classic_ask *a, const char *name, unsigned k)
{
	for (unsigned i = 0; i < a->n; i++)
		if (strcmp(a->name[i], name) == 0 && k-- == 0)
			return a->value[i];
	return NULL;
}

const char *ask_last(const struct classic_ask *a, const char *name)
{
	unsigned n = ask_count(a, name);

	return n ? ask_at(a, name, n - 1) : NULL;
}

uint32_t ask_ms(const struct classic_ask *a, const char *name, double def_s)
{
	const char *text = ask_last(a, name);
	double s = text ? strtod(text, NULL) : def_s;

	return s >= 0 && s <= 3600 ? (uint32_t)(s * 1000 + 0.5) : (uint32_t)(def_s * 1000);
}

/* ---- keys ---- */

static const char *home_file(const char *name, char *buf, size_t cap)
{
	const char *home = getenv("HOME");

	(void)snprintf(buf, cap, "%s/%s", home ? home : "", name);
	return buf;
}

/* The whole small file. -errno. */
static int slurp(const char *path, char *buf, size_t cap)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, cap - 1);

	if (n < 0)
		return -errno;
	buf[n] = '\0';
	return 0;
}

static int give_keys(const char *id, const char *secret)
{
	/* with a token of somebody else's keys they would be refused */
	return unsetenv("AWS_SESSION_TOKEN") || unsetenv("AWS_SECURITY_TOKEN") || setenv("AWS_ACCESS_KEY_ID", id, 1) ||
	       setenv("AWS_SECRET_ACCESS_KEY", secret, 1) ? -ENOMEM : 0;
}

static int keys_of_files(const char *id_file, const char *secret_file, struct snap_error *err)
{
	char id[256] = "", secret[256] = "";
	int r = secret_file ? slurp(id_file, id, sizeof(id)) : -EINVAL;

	if (r == 0)
		r = slurp(secret_file, secret, sizeof(secret));
	id[strcspn(id, "\r\n")] = secret[strcspn(secret, "\r\n")] = '\0';
	if (r == 0)
		r = give_keys(id, secret);
	explicit_bzero(secret, sizeof(secret));
	return r == 0 ? 0 : snap_error_set(err, r, "--aws-access-key-id-file and --aws-secret-access-key-file: both are needed, and "
						   "readable: %s", strerror(-r));
}

/* Two lines: the id, the secret. Missing: found as AWS's tools do. */
static int keys_of_one_file(const char *path, bool must, struct snap_error *err)
{
	char text[512], *secret;
	int r = slurp(path, text, sizeof(text));

	if (r < 0)
		return must ? snap_error_set(err, r, "%s: %s", path, strerror(-r)) : 0;
	secret = text + strcspn(text, "\r\n");
	while (*secret == '\r' || *secret == '\n')
		*secret++ = '\0';
	secret[strcspn(secret, "\r\n")] = '\0';
	r = *text && *secret ? give_keys(text, secret) : -EINVAL;
	explicit_bzero(text, sizeof(text));
	return r == 0 ? 0 : snap_error_set(err, r, "%s: expected the id of a key and its secret on two lines", path);
}

static int take_keys(const struct classic_ask *a, struct snap_error *err)
{
	const char *id = ask_last(a, "aws-access-key-id"), *secret = ask_last(a, "aws-secret-access-key");
	const char *file = ask_last(a, "aws-credentials-file");
	char path[600];

	if (ask_last(a, "use-iam-role"))
		return unsetenv("AWS_ACCESS_KEY_ID") || unsetenv("AWS_SECRET_ACCESS_KEY") || unsetenv("AWS_SESSION_TOKEN") ? -ENOMEM : 0;
	if (id || secret) {
		id = id ? id : getenv("AWS_ACCESS_KEY_ID"); /* the other half may come from there */
		secret = secret ? secret : getenv("AWS_SECRET_ACCESS_KEY");
		return id && secret ? give_keys(id, secret) :
				      snap_error_set(err, -EINVAL, "--aws-access-key-id and --aws-secret-access-key: one is of no use "
								   "without the other");
	}
	if (ask_last(a, "aws-access-key-id-file"))
		return keys_of_files(ask_last(a, "aws-access-key-id-file"), ask_last(a, "aws-secret-access-key-file"), err);
	if (file || getenv("AWS_CREDENTIALS"))
		return keys_of_one_file(file ? file : getenv("AWS_CREDENTIALS"), true, err);
	return getenv("AWS_ACCESS_KEY_ID") ? 0 : keys_of_one_file(home_file(".awssecret", path, sizeof(path)), false, err);
}

/* ---- accounts ---- */

/* key="value", for the reader of option files. */
static void put_quoted(struct vbuf *b, const char *key, const char *value)
{
	if (!value)
		return;
	vbuf_printf(b, "%s=\"", key);
	for (; *value; value++)
		vbuf_printf(b, strchr("\"\\", *value) ? "\\%c" : "%c", *value);
	vbuf_puts(b, "\"\n");
}

/* A file in memory that only this process can open; its name. */
static int in_memory(struct vbuf *text, char *path, size_t cap, struct snap_error *err)
{
	int fd = memfd_create("account", MFD_CLOEXEC);

	if (fd < 0 || vbuf_error(text) < 0 || fchmod(fd, 0600) < 0 || write(fd, vbuf_text(text), text->len) != (ssize_t)text->len)
		return snap_error_set(err, -ENOMEM, "the account of the database: %s", strerror(errno));
	explicit_bzero(text->data, text->len);
	(void)snprintf(path, cap, "/proc/self/fd/%d", fd);
	return 0;
}

/* The options, and below them what the file says that they name, or ~/.my.cnf. */
static int mysql_account(const struct classic_ask *a, struct conf *c, struct snap_error *err)
{
	const char *file = ask_last(a, "mysql-defaults-file"), *sock = ask_last(a, "mysql-socket");
	static char path[600], own[65536];
	struct vbuf text = VBUF_INIT;
	int r = slurp(file ? file : home_file(".my.cnf", path, sizeof(path)), own, sizeof(own));

	if (r < 0 && file)
		return snap_error_set(err, r, "--mysql-defaults-file %s: %s", file, strerror(-r));
	vbuf_printf(&text, "%s\n[client]\n", r < 0 ? "" : own);
	put_quoted(&text, "user", ask_last(a, "mysql-username"));
	put_quoted(&text, "password", ask_last(a, "mysql-password"));
	put_quoted(&text, "host", ask_last(a, "mysql-host"));
	explicit_bzero(own, sizeof(own));
	r = in_memory(&text, path, sizeof(path), err);
	vbuf_free(&text);
	if (r == 0)
		r = conf_set(c, "--mysql", "db.defaults_file", path, err);
	return r == 0 && sock ? conf_set(c, "--mysql-socket", "db.socket", sock, err) : r;
}

static void put_escaped(struct vbuf *b, const char *text)
{
	for (const unsigned char *p = (const unsigned char *)text; *p; p++)
		vbuf_printf(b, strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~", *p) ? "%c" : "%%%02X", *p);
}

static int mongo_account(const struct classic_ask *a, struct conf *c, struct snap_error *err)
{
	const char *user = ask_last(a, "mongo-username"), *password = ask_last(a, "mongo-password");
	const char *host = ask_last(a, "mongo-host"), *port = ask_last(a, "mongo-port");
	struct vbuf text = VBUF_INIT;
	char path[64];
	int r;

	vbuf_puts(&text, "mongodb://");
	if (user && password) {
		put_escaped(&text, user);
		vbuf_puts(&text, ":");
		put_escaped(&text, password);
		vbuf_puts(&text, "@");
	}
	vbuf_printf(&text, "%s:%s/%s\n", host ? host : "localhost", port ? port : "27017", user && password ? "?authSource=admin" : "");
	r = in_memory(&text, path, sizeof(path), err);
	vbuf_free(&text);
	return r < 0 ? r : conf_set(c, "--mongo", "db.mongodb_uri_file", path, err);
}

/* ---- all of it ---- */

static int make_state_dir(struct snap_error *err)
{
	if ((mkdir("/var/lib/stillfs", 0700) < 0 && errno != EEXIST) || (mkdir(STATE_DIR, 0700) < 0 && errno != EEXIST))
		return snap_error_set(err, -errno, "make " STATE_DIR ": %s", strerror(errno));
	return 0;
}

static int set_ms(struct conf *c, const char *key, uint32_t ms, struct snap_error *err)
{
	char text[32];

	(void)snprintf(text, sizeof(text), "%ums", ms ? ms : 1);
	return conf_set(c, "command line", key, text, err);
}

struct conf *ask_conf(const struct classic_ask *a, struct snap_error *err)
{
	static struct conf_key keys[sizeof(db_keys) / sizeof(db_keys[0]) + EBS_KEYS_MAX];
	unsigned n = 0;
	struct conf *c;
	int r;

	for (const struct conf_key *k = ebs_keys; k->name && n < EBS_KEYS_MAX; k++)
		keys[n++] = *k;
	memcpy(keys + n, db_keys, sizeof(db_keys));
	c = conf_new(keys, err);
	r = c ? take_keys(a, err) : -ENOMEM;
	if (r == 0 && ask_last(a, "region"))
		r = conf_set(c, "--region", "ebs.region", ask_last(a, "region"), err);
	if (r == 0 && ask_last(a, "ec2-endpoint"))
		r = conf_set(c, "--ec2-endpoint", "ebs.endpoint", ask_last(a, "ec2-endpoint"), err);
	for (unsigned i = 0; r == 0 && i < ask_count(a, "volume"); i++)
		r = conf_set(c, "volume", "ebs.volumes", ask_at(a, "volume", i), err);
	if (r == 0)
		r = set_ms(c, "db.lock_timeout", ask_ms(a, "lock-timeout", 0.5), err);
	if (r == 0)
		r = set_ms(c, "gate_timeout", ask_ms(a, "snapshot-timeout", 10), err);
	if (r == 0 && (ask_last(a, "mysql") || ask_last(a, "percona")))
		r = mysql_account(a, c, err);
	if (r == 0 && ask_last(a, "mongo"))
		r = mongo_account(a, c, err);
	if (r == 0 && (ask_last(a, "mysql") || ask_last(a, "percona") || ask_last(a, "mongo")))
		r = make_state_dir(err);
	if (r == 0)
		return c;
	(void)snap_error_set(err, r, "%s", strerror(-r));
	return conf_free(c);
}

/* ---- tags ---- */

/* fn for each "KEY=VALUE" of the text, which are parted by ";". */
static int each_tag(const char *text, int (*fn)(void *arg, const char *key, const char *value, struct snap_error *err), void *arg,
		    struct snap_error *err)
{
	char *copy = strdup(text), *save = NULL;
	int r = copy ? 0 : -ENOMEM;

	for (char *t = copy ? strtok_r(copy, ";", &save) : NULL; r == 0 && t; t = strtok_r(NULL, ";", &save)) {
		char *eq = strchr(t, '=');

		if (eq)
			*eq = '\0';
		r = fn(arg, t, eq ? eq + 1 : "", err);
	}
	free(copy);
	return r;
}

static int add_line(void *arg, const char *key, const char *value, struct snap_error *err)
{
	if (!strchr(key, ':'))
		vbuf_printf(arg, "%s:%s\n", key, value);
	return 0;
}

int ask_tags(const struct classic_ask *a, struct vbuf *out, struct snap_error *err)
{
	int r = ask_count(a, "tag") == 1 ? each_tag(ask_last(a, "tag"), add_line, out, err) : 0;

	return r < 0 ? r : vbuf_error(out);
}

struct odd {
	int (*fn)(void *arg, const char *key, const char *value, struct snap_error *err);
	void *arg;
};

static int if_odd(void *arg, const char *key, const char *value, struct snap_error *err)
{
	struct odd *o = arg;

	return strchr(key, ':') ? o->fn(o->arg, key, value, err) : 0;
}

int ask_later(const struct classic_ask *a, unsigned volume,
	      int (*fn)(void *arg, const char *key, const char *value, struct snap_error *err), void *arg, struct snap_error *err)
{
	struct odd o = { fn, arg };
	unsigned n = ask_count(a, "tag");

	if (n == 1)
		return each_tag(ask_last(a, "tag"), if_odd, &o, err);
	return volume < n ? each_tag(ask_at(a, "tag", volume), fn, arg, err) : 0;
}
