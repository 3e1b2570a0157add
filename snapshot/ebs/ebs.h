/* snapshot/ebs/ebs.h - provider of EBS snapshots: every volume under the pairs in one atomic request, over EC2's API. */
#ifndef STILLFS_SNAPSHOT_EBS_H
#define STILLFS_SNAPSHOT_EBS_H

#include "snapshot/provider.h"

extern const struct prov_ops prov_ebs;
/* The options that the provider reads, with their defaults, for programs without a mount's (fs/opts_table.c). */
extern const struct conf_key ebs_keys[];
extern const char *ebs_sysfs; /* "/sys"; tests have a tree of their own */

#endif
