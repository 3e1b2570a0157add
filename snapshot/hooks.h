/* snapshot/hooks.h - the coordinator that runs hook.pre, hook.locked and hook.post (hooks.c). */
#ifndef STILLFS_SNAPSHOT_HOOKS_H
#define STILLFS_SNAPSHOT_HOOKS_H

#include "snapshot/coordinator.h"

extern const struct coord_ops coord_hook;

#endif
