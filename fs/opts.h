/* fs/opts.h - the command line, the configuration file and the one table of options that both read.
 * Used by main.c at start, on one thread. Errors: -errno with the sentence. */
#ifndef STILLFS_FS_OPTS_H
#define STILLFS_FS_OPTS_H

#include "base/conf.h"
#include "base/door.h"

#include <stdio.h>

extern const struct conf_key opts_table[]; /* ended by name == NULL */

enum opts_action { OPTS_RUN, OPTS_HELP, OPTS_VERSION, OPTS_LIST };

struct opts {
	enum opts_action action;
	bool foreground; /* -f */
	bool catalog_only; /* no pairs: the control tree alone */
	struct conf *conf;
	unsigned n_pairs;
	char *backing[DOOR_MAX_PAIRS], *mountpoint[DOOR_MAX_PAIRS]; /* as given */
};

/* Parse argv, then /etc/stillfs/NAME.conf (conf_dir for tests; NULL: /etc/stillfs), then -o over it,
 * and fill in the defaults that depend on NAME. */
int opts_parse(struct opts *o, int argc, char **argv, const char *conf_dir, struct snap_error *err);
void opts_free(struct opts *o);
void opts_help(FILE *out);
void opts_list(FILE *out); /* option names, one a line, for tests and completion */
bool opts_name_ok(const char *name); /* [A-Za-z0-9][A-Za-z0-9._-]{0,63} */

#endif
