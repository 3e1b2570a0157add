/* snapshot/cutover/args.h - the arguments of stillfs-cutover, and those of them that the journal's first line keeps for
 * resume, abort and resolve. Pure but for looking where a side leads. */
#ifndef STILLFS_SNAPSHOT_CUTOVER_ARGS_H
#define STILLFS_SNAPSHOT_CUTOVER_ARGS_H

#include "snapshot/cutover/tool.h"

enum args_command { CMD_RUN, CMD_CHECK, CMD_STATUS, CMD_RESUME, CMD_ABORT, CMD_RESOLVE, CMD_REOPEN };

struct args {
	enum args_command command;
	bool b; /* resolve --writable B */
	unsigned given; /* options, as bits of their order; what is not given comes from the journal */
};

/* -EINVAL wrong usage. */
int args_read(struct cut *c, struct args *a, int argc, char **argv, struct snap_error *err);
void args_put(const struct cut *c, struct vbuf *out);
/* What was not given now is as it was at the beginning. */
int args_recall(struct cut *c, const char *text, struct snap_error *err);

#ifdef STILLFS_MONGODB
/* mongo_cmd.c: the commands when the sides are files with URIs of a replica set's members. Exit code, as main.c's. */
int mongo_command(struct cut *c, const struct args *a, struct snap_error *err);
#endif

#endif
