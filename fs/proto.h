/* fs/proto.h - the FUSE kernel protocol: linux/fuse.h plus what newer kernels added to it.
 * Source of each number below: include/uapi/linux/fuse.h of the kernel version named. */
#ifndef STILLFS_FS_PROTO_H
#define STILLFS_FS_PROTO_H

#include <linux/fuse.h>
#include <sys/stat.h>

#ifndef FOPEN_PARALLEL_DIRECT_WRITES
#define FOPEN_PARALLEL_DIRECT_WRITES (1 << 6) /* Linux 6.2, protocol 7.38 */
#endif
#ifndef FUSE_INIT_EXT
#define FUSE_INIT_EXT (1 << 30) /* Linux 5.17, protocol 7.36 */
#endif
#define PROTO_DIRECT_IO_ALLOW_MMAP (1ull << 36) /* Linux 6.6, protocol 7.39 */
#define PROTO_HAS_RESEND (1ull << 39) /* Linux 6.9, protocol 7.40 */
#define PROTO_TMPFILE 51 /* Linux 6.2, protocol 7.37 */
#define PROTO_STATX 52 /* Linux 6.6, protocol 7.39 */
#define PROTO_UNIQUE_RESEND (1ull << 63) /* Linux 6.9 */

struct proto_statx_out { /* struct fuse_statx_out: protocol 7.39; its struct fuse_statx has the layout of statx(2)'s */
	uint64_t attr_valid;
	uint32_t attr_valid_nsec;
	uint32_t flags;
	uint64_t spare[2];
	struct statx stat;
};

/* Payload of one READ or WRITE: 256 pages, the most that FUSE_MAX_PAGES allows by default. */
#define PROTO_MAX_PAYLOAD (1u << 20)
#define PROTO_WRITE_HEAD (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))

#endif
