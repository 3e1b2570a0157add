/* snapshot/exec_provider/exec_provider.h - the provider that is an executable of the operator: docs/exec-provider.md. */
#ifndef STILLFS_SNAPSHOT_EXEC_PROVIDER_H
#define STILLFS_SNAPSHOT_EXEC_PROVIDER_H

#include "snapshot/provider.h"

extern const struct prov_ops prov_exec;

#endif
