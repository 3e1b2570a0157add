/* snapshot/cutover/side.c - a server of a cut-over: where it is, and the connection to it. See tool.h.
 * Passwords are read by the client library from the defaults file; none passes here. */
#include "snapshot/cutover/tool.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define RUN_DIR "/run/stillfs"
#define READ_MS 5000u

/* The value of a "KEY VALUE" line. */
static bool value(const char *config, const char *key, char *buf, size_t cap)
{
	return fence_record_get(config, key, buf, cap) && *buf;
}

/* A control tree's config. That it can be fenced there is known by db=; its fence is its daemon's to keep. */
static int read_config(struct side *s, const char *dir, struct snap_error *err)
{
	struct vbuf text = VBUF_INIT;
	char db[64] = "";
	int r;

	(void)snprintf(s->control, sizeof(s->control), "%.500s", dir);
	s->lost = (struct snap_error){ 0 };
	r = control_read(s, "config", READ_MS, &text, &s->lost);
	if (r < 0) {
		s->control[0] = '\0';
		vbuf_free(&text);
		return snap_error_set(err, r, "%s; name a defaults file, a stillfs of " RUN_DIR ", or its control tree", s->lost.msg);
	}
	(void)value(vbuf_text(&text), "db.defaults_file", s->file, sizeof(s->file));
	(void)value(vbuf_text(&text), "db.socket", s->socket, sizeof(s->socket));
	(void)value(vbuf_text(&text), "db.tls", s->tls, sizeof(s->tls));
	(void)value(vbuf_text(&text), "fence.persist", s->persist, sizeof(s->persist));
	(void)value(vbuf_text(&text), "fence.mariadb_include", s->include, sizeof(s->include));
	if (!value(vbuf_text(&text), "db", db, sizeof(db)) || !strstr(db, "mysql"))
		s->control[0] = '\0'; /* its fence is of nothing */
	vbuf_free(&text);
	if (!*s->file && !*s->socket)
		return snap_error_set(err, -EINVAL, "%s: the stillfs of %s has neither db.defaults_file nor db.socket", s->word, dir);
	return 0;
}

int side_name(struct side *s, const char *word, const char *given, struct snap_error *err)
{
	char dir[512];
	struct stat st;
	int n = snprintf(s->given, sizeof(s->given), "%s", given);

	s->word = word;
	(void)snprintf(s->tls, sizeof(s->tls), "auto");
	if (!*given || n >= (int)sizeof(s->given))
		return snap_error_set(err, -EINVAL, "%s: its name is empty or too long", word);
	if (strchr(given, '/') == NULL) {
		(void)snprintf(dir, sizeof(dir), RUN_DIR "/%.400s", given);
		return read_config(s, dir, err);
	}
	if (*given != '/')
		return snap_error_set(err, -EINVAL, "%s: %.200s: give an absolute path, it is written down for resume", word, given);
	if (stat(given, &st) < 0)
		return snap_error_set(err, -errno, "%s: %.300s: %s", word, given, strerror(errno));
	if (S_ISDIR(st.st_mode))
		return read_config(s, given, err);
	if (st.st_mode & 077)
		return snap_error_set(err, -EPERM, "%s: %.300s holds a password, and others than its owner may read or write it: chmod 600 it", word,
				      given);
	(void)snprintf(s->file, sizeof(s->file), "%s", given);
	return 0;
}

/* A name for files: of a MySQL its uuid. */
static int identify(struct side *s, struct snap_error *err)
{
	char strict[8] = "";
	int r = my_value(s->m, s->m->mariadb ? "SELECT CONCAT('mariadb-', @@server_id, '-', @@hostname, '-', @@port)" :
					       "SELECT CONCAT('mysql-', @@server_uuid)", NULL, s->id, sizeof(s->id), err);

	if (r == 0)
		r = my_value(s->m, "SELECT CONCAT(@@hostname, ':', @@port)", NULL, s->host, sizeof(s->host), err);
	if (r == 0)
		r = my_variable(s->m, "gtid_strict_mode", strict, sizeof(strict), err);
	s->strict = strcasecmp(strict, "ON") == 0;
	for (char *p = s->id; *p; p++)
		if (!isalnum((unsigned char)*p) && *p != '-')
			*p = '_';
	return r;
}

/* A stillfs that did not answer when the journal was read. */
static int look_again(struct side *s, struct snap_error *err)
{
	char again[sizeof(s->given)];

	(void)snprintf(again, sizeof(again), "%s", s->given);
	return side_name(s, s->word, again, err);
}

int side_reach(struct side *s, const struct opts *o, struct snap_error *err)
{
	const struct my_where w = { .defaults_file = s->file, .socket = s->socket, .host = "", .tls = s->tls,
				    .connect_s = o->io_s, .io_s = o->io_s };
	struct snap_error why = { 0 };
	char before[sizeof(s->id)];
	int r;

	if (s->lost.code && look_again(s, err) < 0)
		return err->code;
	if (!s->m)
		s->m = my_open_plain(&w, err);
	if (!s->m)
		return -ENOMEM;
	r = my_reach(s->m, &why);
	if (r == -ECONNRESET) { /* the first ping of a connection that had died may say so */
		snap_error_clear(&why);
		r = my_reach(s->m, &why);
	}
	(void)snprintf(before, sizeof(before), "%s", s->id);
	r = r < 0 ? r : identify(s, &why);
	if (r < 0)
		return snap_error_set(err, r, "%s (%.100s): %s", s->word, s->given, why.msg);
	if (*before && strcmp(before, s->id) != 0)
		return snap_error_set(err, -EXDEV, "%s (%.100s) leads to another server than before: to %.100s, and it was %.100s", s->word,
				      s->given, s->id, before);
	return 0;
}

void side_close(struct side *s)
{
	my_close_plain(s->m);
	s->m = NULL;
}
