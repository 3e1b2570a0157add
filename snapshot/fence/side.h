/* snapshot/fence/side.h - the database that a stillfs fences, as the engine sees it: over a connection of the fence's own.
 * Threads: the engine's database thread, except sever (any). Blocks and errors: as fence.h. */
#ifndef STILLFS_SNAPSHOT_FENCE_SIDE_H
#define STILLFS_SNAPSHOT_FENCE_SIDE_H

#include "base/conf.h"
#include "snapshot/fence/fence.h"

struct fence_side {
	void *(*open)(const struct conf *c, struct snap_error *err); /* no I/O; NULL: -EINVAL fence.allow, -ENOMEM */
	void (*close)(void *s); /* harmless on NULL */
	void (*sever)(void *s); /* a call in progress ends soon */
	/* o->allow, include_dir, persist and xa_stays are filled in by the side, from the configuration */
	int (*check)(void *s, struct fence_opts *o, struct vbuf *found, struct snap_error *err);
	int (*on)(void *s, struct fence_opts *o, struct vbuf *record, struct snap_error *err);
	int (*off)(void *s, struct fence_opts *o, struct vbuf *record, struct snap_error *err);
	/* Also renews what would end by itself. -EOPNOTSUPP: what was fenced can be written, and cannot be fenced as it is now. */
	int (*verify)(void *s, const char *record, struct snap_error *err);
	/* Since the server's start: statements refused because it is read-only, and connections refused; -1 it does not tell. */
	void (*counts)(void *s, long long *refused, long long *denied);
};

/* Of what the configuration names, all of it as one; NULL: nothing there that can be fenced. registry.c */
const struct fence_side *fence_side_find(const struct conf *c);
/* Each database of it by itself, in the order in which they are locked; NULL: no more. */
const struct fence_side *fence_side_nth(const struct conf *c, unsigned nth, const char **name);

extern const struct fence_side fence_side_sql; /* MariaDB and MySQL; side_sql.c */
extern const struct fence_side fence_side_mongodb; /* side_mongodb.c */
extern const struct fence_side fence_side_group; /* several of them; side_group.c */

#endif
