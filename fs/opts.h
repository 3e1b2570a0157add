/* fs/opts.h - the one table of options: --help, --list-options, the config file and -o all read it. */
#ifndef STILLFS_FS_OPTS_H
#define STILLFS_FS_OPTS_H

#include "base/conf.h"

extern const struct conf_key opts_table[]; /* ended by name == NULL */

#endif
