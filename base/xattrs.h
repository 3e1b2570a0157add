/* base/xattrs.h - the extended attributes and ACLs of one file or directory made those of another. Attributes that out's
 * filesystem does not know are left out, as is XFS's own form of an ACL, which it lists beside the ACL.
 * Threads: any, no globals. Blocks: file I/O. Errors: -errno. */
#ifndef STILLFS_BASE_XATTRS_H
#define STILLFS_BASE_XATTRS_H

/* What `in` has, `out` gets. One system call where there is none. An ACL takes the mode's place: set that first. */
int xattrs_add(int in, int out);
/* And what `in` has not, `out` loses, but SELinux's label: that the kernel takes from nobody. */
int xattrs_same(int in, int out);
/* A directory that was just made has what its parent's default ACL hands down, and would hand it down: take that away. */
int xattrs_disinherit(int dir);

#endif
