/* snapshot/ebs/ini.h - AWS's config and credentials files: sections, "key = value", and one level of indented keys
 * below a key without a value ("ec2 =" then "  endpoint_url = ..." is the key ec2.endpoint_url). Read-only once read. */
#ifndef STILLFS_SNAPSHOT_EBS_INI_H
#define STILLFS_SNAPSHOT_EBS_INI_H

#include "base/error.h"

#include <stdbool.h>

struct ini;

/* A file that is not there is an empty one. NULL: -EACCES and the like, -EFBIG above 1 MiB, -ENOMEM. */
struct ini *ini_read(const char *path, struct snap_error *err);
struct ini *ini_free(struct ini *i); /* NULL is harmless; wipes */
const char *ini_get(const struct ini *i, const char *section, const char *key); /* NULL: not there */
bool ini_has(const struct ini *i, const char *section);

#endif
