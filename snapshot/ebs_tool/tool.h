/* snapshot/ebs_tool/tool.h - stillfs-ebs: what is done with sets of provider ebs outside of any mount: volumes made from
 * a set and put together on a host, copies into another region. stillctl(8) starts it. One process, one thread.
 * Errors: -errno with the sentence; tool_main prints it. What a failed command made is deleted again, and nothing else. */
#ifndef STILLFS_SNAPSHOT_EBS_TOOL_H
#define STILLFS_SNAPSHOT_EBS_TOOL_H

#include "snapshot/ebs/ebs_int.h"
#include "snapshot/set.h"

#define TOOL_PAIRS 8

struct tool {
	struct conf *conf;
	struct door door;
	struct ebs *e;
	struct prov_run run; /* carries the wish to stop */
	const char *id; /* of the set */
	bool pending_too; /* members of sets that are not complete yet are wanted as well */
};

/* One snapshot of a set, and the volume made from it. */
struct member {
	char snap[32], was[24], volume[24];
	char device[64]; /* name at the instance: /dev/sdf */
	char path[256]; /* the block device here, once it is there */
	unsigned size_gib, percent;
	bool encrypted;
};

struct members {
	unsigned n;
	struct member m[VOLS_MAX];
	struct set *set; /* as its tags tell */
	char pair[TOOL_PAIRS][260]; /* tags stillfs:pair.N */
	unsigned n_pairs;
	char ours[50][2][260]; /* every tag of the first snapshot: key, value */
	unsigned n_tags;
};

extern volatile int tool_stop; /* SIGINT, SIGTERM */
struct api tool_api(struct tool *t, uint32_t max_ms);
/* The snapshots of set t->id in this region, sorted by volume, and its record. -ENOENT; -EAGAIN not complete; -EIO failed. */
int tool_members(struct tool *t, struct members *out, struct snap_error *err);
void tool_say(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* progress, on stderr */
void tool_sleep_ms(unsigned ms); /* ends at a signal */
/* Run a program and wait. 0; -EIO it failed, -errno it could not be started. */
int tool_exec(const char *const argv[], struct snap_error *err);
uint32_t tool_number(const char *option, const char *text, uint32_t min, uint32_t max, struct snap_error *err); /* 0: err */

/* place.c: what a pair's tag says */
struct place {
	char mountpoint[130], fs[16], sub[260], lv[80], vg[80], md[40], crypt[80], part[8];
	unsigned long members; /* bit i: member i lies below it */
};
int place_read(const char *text, const struct members *ms, struct place *out, struct snap_error *err);

/* assemble.c: block devices, layers, file systems; every step can be undone in reverse order */
extern const char *assemble_lvm_devices; /* LVM's list of devices; where there is none it looks at all. A test sets it */
struct undo;
struct undo *undo_new(void);
void undo_all(struct undo *u, struct tool *t, bool keep); /* keep: forget, undo nothing */
void undo_volume(struct undo *u, const char *volume);
void undo_attachment(struct undo *u, const char *volume);
int assemble_wait_device(struct member *m, uint32_t max_ms, struct snap_error *err);
/* Put the pairs' file systems together from their members and mount them below dir; prints where each pair is. */
int assemble_mount(struct undo *u, const struct members *ms, const char *dir, struct snap_error *err);
int assemble_read_all(const struct members *ms, struct snap_error *err); /* every block once, with progress */

int tool_restore(struct tool *t, int argc, char **argv, struct snap_error *err);
int tool_copy(struct tool *t, int argc, char **argv, struct snap_error *err);

#endif
