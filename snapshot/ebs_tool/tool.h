/* snapshot/ebs_tool/tool.h - what is done with sets of provider ebs outside of any mount: volumes made from a set and put
 * together on a host, copies into another region. Used by the program stillfs-ebs, which stillctl(8) starts, and by the
 * process that verifies a set (snapshot/verify/volumes.c). One process, one thread.
 * Errors: -errno with the sentence. What a failed command made is deleted again, and nothing else. */
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
	unsigned n_pairs, of_pairs; /* known by their tags; all of the set */
	char ours[50][2][260]; /* every tag of the first snapshot: key, value */
	unsigned n_tags;
};

/* share.c */
extern volatile int tool_stop; /* set by the program's signal handler */
bool tool_cancelled(const struct prov_run *r); /* for tool.run */
struct api tool_api(struct tool *t, uint32_t max_ms);
/* The snapshots of set t->id in this region, sorted by volume, and its record. -ENOENT; -EAGAIN not complete; -EIO failed. */
int tool_members(struct tool *t, struct members *out, struct snap_error *err);
void tool_say(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* progress, on stderr, or to: */
extern void (*tool_listener)(const char *text);
void tool_sleep_ms(unsigned ms); /* ends at a signal */
/* Run a program, its output on stderr, and wait. 0; -EIO it failed, -errno it could not be started. */
int tool_exec(const char *const argv[], struct snap_error *err);
uint32_t tool_number(const char *option, const char *text, uint32_t min, uint32_t max, struct snap_error *err); /* 0: err */

/* place.c: what a pair's tag says */
struct place {
	char mountpoint[130], fs[16], sub[260], lv[80], vg[80], md[40], crypt[80], part[8];
	unsigned long members; /* bit i: member i lies below it */
};
int place_read(const char *text, const struct members *ms, struct place *out, struct snap_error *err);

/* undo.c: every step can be undone in reverse order. With a journal (a descriptor; -1: none) each is a line there, on the
 * disk, before it is made: "create I", "attach VOLUME", "pv DEVICE", "vg NAME", "md NAME"; and afterwards "volume VOLUME", or
 * "refused I". */
enum undo_kind { UNDO_VOLUME, UNDO_ATTACHMENT, UNDO_MOUNT, UNDO_VG, UNDO_PV, UNDO_MD };
struct undo;
struct undo *undo_new(int journal);
int undo_intend(struct undo *u, const char *word, const char *what, struct snap_error *err); /* it is about to be made */
void undo_note(struct undo *u, enum undo_kind kind, const char *what); /* it was made */
int undo_local(struct undo *u, struct tool *t); /* the mounts and layers alone, as undo_all */
/* Frees u. keep: undo nothing. 0, or -EBUSY: something stays, which tool_say has named. */
int undo_all(struct undo *u, struct tool *t, bool keep);
/* One mount or layer; UNDO_MOUNT, UNDO_VG, UNDO_PV or UNDO_MD. */
int undo_layer(enum undo_kind kind, const char *what, struct snap_error *err);
int undo_volume_detach(struct api *a, const char *volume, const char *instance, struct snap_error *err);
/* wait: up to a minute while it is being detached. 0 also when it is gone. */
int undo_volume_delete(struct api *a, const char *volume, bool wait, struct snap_error *err);

/* make.c: volumes from the members' snapshots */
struct wish {
	const char *az, *type, *attach, *mount, *kms;
	uint32_t iops, throughput, init_rate;
	bool read_all, delete_on_termination;
	const char *mark; /* of a verification: tag stillfs:verification of what it makes. NULL: a restore */
};
/* The zone for the volumes; where they will be attached, that of this instance, and in `used` its device names, "/dev/sdf ". */
int make_find_zone(struct tool *t, const struct wish *w, char zone[32], struct vbuf *used, struct snap_error *err);
/* Create them, wait; attach (members' device names are set), wait, and find their devices here. */
int make_volumes(struct tool *t, const struct wish *w, struct members *ms, const char *zone, struct undo *u, struct snap_error *err);

/* assemble.c: block devices, layers, file systems */
extern const char *assemble_lvm_devices; /* LVM's list of devices; where there is none it looks at all. A test sets it */
int assemble_wait_device(struct member *m, uint32_t max_ms, struct snap_error *err);
/* Put the pairs' file systems together from their members and mount them below dir. where: each pair's path. -EBADMSG: a
 * file system that this kernel knows cannot be mounted. */
int assemble_mount(struct undo *u, const struct members *ms, const char *dir, char where[TOOL_PAIRS][700], struct snap_error *err);
int assemble_read_all(const struct members *ms, struct snap_error *err); /* every block once, with progress */

int tool_restore(struct tool *t, int argc, char **argv, struct snap_error *err);
int tool_copy(struct tool *t, int argc, char **argv, struct snap_error *err);

#endif
