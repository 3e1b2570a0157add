/* snapshot/null/null.h - the provider of tests: waits, fails or hangs on demand (null.c). */
#ifndef STILLFS_SNAPSHOT_NULL_H
#define STILLFS_SNAPSHOT_NULL_H

#include "snapshot/provider.h"

extern const struct prov_ops prov_null;

#endif
