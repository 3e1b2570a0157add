/* fs/gate_ops.c - the one table of what each FUSE operation does to the backing.
 * Owns:      nothing. Called by: the transport, for every request, before anything else sees it.
 * Threads:   any. Blocks: never. Errors: none; an opcode nobody knows counts as modifying. */
#include "fs/gate.h"
#include "fs/proto.h"

#include <fcntl.h>
#include <string.h>

/* 0: not in the table. OPEN is looked at more closely below. */
enum { F = GATE_FLOW + 1, M = GATE_MODIFY + 1, S = GATE_SYNC + 1 };

static const unsigned char gate_table[] = {
	[FUSE_LOOKUP] = F, [FUSE_FORGET] = F, [FUSE_GETATTR] = F,
	[FUSE_SETATTR] = M, [FUSE_READLINK] = F, [FUSE_SYMLINK] = M,
	[FUSE_MKNOD] = M, [FUSE_MKDIR] = M, [FUSE_UNLINK] = M,
	[FUSE_RMDIR] = M, [FUSE_RENAME] = M, [FUSE_LINK] = M,
	[FUSE_OPEN] = F, [FUSE_READ] = F, [FUSE_WRITE] = M,
	[FUSE_STATFS] = F, [FUSE_RELEASE] = F, [FUSE_FSYNC] = S,
	[FUSE_SETXATTR] = M, [FUSE_GETXATTR] = F, [FUSE_LISTXATTR] = F,
	[FUSE_REMOVEXATTR] = M, [FUSE_FLUSH] = F, [FUSE_INIT] = F,
	[FUSE_OPENDIR] = F, [FUSE_READDIR] = F, [FUSE_RELEASEDIR] = F,
	[FUSE_FSYNCDIR] = S, [FUSE_GETLK] = F, [FUSE_SETLK] = F,
	[FUSE_SETLKW] = F, [FUSE_ACCESS] = F, [FUSE_CREATE] = M,
	[FUSE_INTERRUPT] = F, [FUSE_BMAP] = F, [FUSE_DESTROY] = F,
	[FUSE_IOCTL] = F /* none is served; isatty asks for one at every open of many programs */, [FUSE_POLL] = F, [FUSE_NOTIFY_REPLY] = F,
	[FUSE_BATCH_FORGET] = F, [FUSE_FALLOCATE] = M, [FUSE_READDIRPLUS] = F,
	[FUSE_RENAME2] = M, [FUSE_LSEEK] = F, [FUSE_COPY_FILE_RANGE] = M,
	[FUSE_SETUPMAPPING] = F, [FUSE_REMOVEMAPPING] = F, [FUSE_SYNCFS] = S,
	[PROTO_TMPFILE] = M, [PROTO_STATX] = F,
};

enum gate_class gate_classify(uint32_t opcode, const void *args, size_t len)
{
	struct fuse_open_in in;

	if (opcode >= sizeof(gate_table) || !gate_table[opcode])
		return GATE_MODIFY;
	if (opcode == FUSE_OPEN && len >= sizeof(in)) {
		memcpy(&in, args, sizeof(in));
		if (in.flags & O_TRUNC)
			return GATE_MODIFY;
	}
	return (enum gate_class)(gate_table[opcode] - 1);
}
