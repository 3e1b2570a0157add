/* fs/ops.h - what the files of libfuse's handlers (ops_*.c) share. All handlers run on workers, are
 * admitted by the gate already, and answer before they return. */
#ifndef STILLFS_FS_OPS_H
#define STILLFS_FS_OPS_H

#include "fs/core_int.h"

#define OPS_TIMEOUT_S 86400.0 /* nobody else changes the backing */
#define OPS_UNSETTLED_S 1.0 /* but a close trims what was preallocated for writing */
#define OPS_PROC_MAX 32

/* A node's descriptor for one handler; given back by ops_node_done. */
struct ops_node {
	struct core *c;
	struct mnt *m;
	uint64_t slot;
	int fd; /* O_PATH */
};

/* false: answered with an error already. */
bool ops_node_get(fuse_req_t req, fuse_ino_t ino, struct ops_node *n);
void ops_node_done(struct ops_node *n);
const char *ops_proc_path(int fd, char buf[OPS_PROC_MAX]); /* /proc/self/fd/N */
/* Is `name` in this directory one of ours? Then it can be neither made nor removed. */
bool ops_reserved(const struct mnt *m, fuse_ino_t parent, const char *name);
/* Take the caller's fsuid, fsgid and umask for making a file, keep the right to reach it. */
void ops_cred_enter(fuse_req_t req);
void ops_cred_raw(uint32_t uid, uint32_t gid, uint32_t mask);
void ops_cred_chown(fuse_req_t req); /* the caller's fsuid, and the right to give files away */
void ops_cred_leave(void);
double ops_attr_timeout(struct core *c, uint64_t slot); /* of its attributes, seconds */
void ops_attr(struct fuse_attr *a, const struct stat *st);
void ops_entry_out(struct fuse_entry_out *o, const struct fuse_entry_param *e);
/* Look `fd` (O_PATH, taken over) up and answer with its entry. */
void ops_reply_entry_fd(fuse_req_t req, struct mnt *m, int fd);
/* Reply and take the lookup back when the caller is gone. */
int ops_ref(struct mnt *m, int fd, struct fuse_entry_param *e);
void ops_forget_one(struct mnt *m, fuse_ino_t ino);

/* ops_name.c */
void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void op_symlink(fuse_req_t req, const char *link, fuse_ino_t parent, const char *name);
void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent, const char *newname);
void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
	       const char *newname, unsigned int flags);
void op_readlink(fuse_req_t req, fuse_ino_t ino);
/* ops_attr.c */
void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
		struct fuse_file_info *fi);
void op_statfs(fuse_req_t req, fuse_ino_t ino);
/* ops_xattr.c */
void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
		 int flags);
void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name);
/* ops_file.c */
void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	       struct fuse_file_info *fi);
void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);
void op_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in, struct fuse_file_info *fi_in,
			fuse_ino_t ino_out, off_t off_out, struct fuse_file_info *fi_out, size_t len,
			int flags);
/* ops_dir.c */
void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);

#endif
