/* snapshot/journal.h - what a coordinator has changed and must change back, on disk before it is changed: one
 * small file in state_dir for each coordinator. Blocks: file I/O with fsync. Not while the gate is closed. */
#ifndef STILLFS_SNAPSHOT_JOURNAL_H
#define STILLFS_SNAPSHOT_JOURNAL_H

#include "base/conf.h"

/* Replace the journal of `who` ("mysql" ...) by text. On disk when it returns 0. */
int journal_put(const struct conf *c, const char *who, const char *text, struct snap_error *err);
/* Its text; "" when there is none. -ENOMEM, -EIO. */
int journal_get(const struct conf *c, const char *who, struct vbuf *out, struct snap_error *err);
/* All is changed back. 0 when there is none. */
int journal_drop(const struct conf *c, const char *who, struct snap_error *err);

#endif
