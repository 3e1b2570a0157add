/* base/conf.h - the effective configuration: typed keys from one table (fs/opts.c), values from
 * files and -o. Built at start by one thread, read-only afterwards, so readers need no lock.
 * Strings belong to the conf and live as long as it does. */
#ifndef STILLFS_BASE_CONF_H
#define STILLFS_BASE_CONF_H

#include "base/error.h"
#include "base/vbuf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum conf_type {
	CONF_STRING, /* any text; choices != NULL: one of "a|b|c" */
	CONF_PATH, /* absolute path or "" */
	CONF_BOOL, /* yes|no (also true|false, on|off, 1|0); stored as yes|no */
	CONF_COUNT, /* unsigned integer in min..max */
	CONF_MS, /* duration; bare number = seconds, or with ms|s|m|h; fractions allowed; held in ms,
		    min..max in ms */
	CONF_SIZE, /* bytes; K M G T suffix (powers of 1024) */
	CONF_LIST, /* may be given repeatedly; values joined by newlines */
};

struct conf_key {
	const char *name; /* e.g. "gate_timeout", "db.socket" */
	enum conf_type type;
	const char *def; /* default, as text in the key's own syntax */
	const char *choices; /* CONF_STRING only, else NULL */
	uint64_t min, max; /* CONF_COUNT, CONF_MS, CONF_SIZE */
	const char *arg; /* metavariable for --help, e.g. "SECONDS" */
	const char *help; /* one line */
};

struct conf;

/* A conf with every key at its default. table is ended by name == NULL and must outlive it.
 * NULL: out of memory or a default that its own type refuses (-EINVAL in err, a programming error). */
struct conf *conf_new(const struct conf_key *table, struct snap_error *err);
struct conf *conf_free(struct conf *c); /* NULL is harmless; returns NULL */
/* -ENOENT unknown key (the message names the nearest one), -EINVAL bad value, -ERANGE, -ENOMEM.
 * `where` says where it stood ("-o", "/etc/stillfs/a.conf:12") and starts the message. */
int conf_set(struct conf *c, const char *where, const char *key, const char *value,
	     struct snap_error *err);
/* Values. The key must exist in the table with a fitting type: abort() otherwise. */
const char *conf_str(const struct conf *c, const char *key); /* STRING, PATH, LIST; never NULL */
uint64_t conf_num(const struct conf *c, const char *key); /* COUNT, SIZE; MS in milliseconds */
bool conf_bool(const struct conf *c, const char *key);
bool conf_is_set(const struct conf *c, const char *key); /* given by somebody, not the default */
/* "key value\n" for every key, in table order; a LIST gives a line per value. Secrets are never values
 * (they are named by file), so there is nothing to redact but what conf_set refuses anyway. */
void conf_render(const struct conf *c, struct vbuf *out);

#endif
