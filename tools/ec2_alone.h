/* tools/ec2_alone.h - ec2-consistent-snapshot on filesystems that are no stillfs: hands the options to the program
 * stillfs-classic, which locks, freezes and has the snapshots taken. One thread. See ec2-consistent-snapshot.c. */
#ifndef STILLFS_TOOLS_EC2_ALONE_H
#define STILLFS_TOOLS_EC2_ALONE_H

/* Remember an option; value NULL: it has none. 0, -1: too many. Before secrets are overwritten: it takes a copy. */
int alone_keep(const char *name, const char *value);
int alone_run(void); /* becomes stillfs-classic; returns 1 when that cannot be started */
int alone_would(void); /* --noaction: says what would be done. 0 */

#endif
