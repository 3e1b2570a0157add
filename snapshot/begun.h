/* snapshot/begun.h - which sets were begun on this machine since it was booted, and have no point yet: in memory that a death
 * of stillfs survives and no image of a disk contains. Any thread. Blocks: never. */
#ifndef STILLFS_SNAPSHOT_BEGUN_H
#define STILLFS_SNAPSHOT_BEGUN_H

#include <stdbool.h>

/* A run begins; before its record is written. id: the set's, 32 hex digits. 0 or -errno: then nobody knows after a death. */
int begun_note(const char *id);
bool begun_here(const char *id); /* false also when it cannot be known */
void begun_forget(const char *id); /* its point is fixed, or its record says that it failed. Harmless when unknown */

#endif
