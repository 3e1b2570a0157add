/* snapshot/engine_recover.h - what a process that is gone left half-way. A small file a set; no provider is asked. */
#ifndef STILLFS_SNAPSHOT_ENGINE_RECOVER_H
#define STILLFS_SNAPSHOT_ENGINE_RECOVER_H

#include "snapshot/engine_int.h"

int engine_recover(struct engine *e, struct snap_error *err); /* before the engine's thread begins */
void engine_recover_adopted(struct engine *e); /* what waited for `adopt`. The engine's thread, lock not held */

#endif
