/* snapshot/local/local.h - the provider of reflink clones (local.c). */
#ifndef STILLFS_SNAPSHOT_LOCAL_H
#define STILLFS_SNAPSHOT_LOCAL_H

#include "snapshot/provider.h"

extern const struct prov_ops prov_local;

#endif
