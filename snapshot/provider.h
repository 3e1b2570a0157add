/* snapshot/provider.h - the contract of what takes snapshots: local, ebs, exec, null (test builds).
 * Life:     preflight, perhaps warm, trigger, poll..., finish; after any failure discard instead. A set whose point is fixed
 *           outlives the process: leave or finish lets go of it, and the next process begins with resume, then
 *           polls. What cannot be discarded now is removed later, by name and id.
 * Threads:  every call comes from the engine's one provider thread, never two at once, except data_path and finish
 *           (any thread), remove with PROV_REMOVE_APART, and `cancelled` which the provider itself asks.
 * Deadline: every call takes max_ms and returns by then, or soon after a system call that cannot
 *           be interrupted returns; the engine goes on without it at the deadline.
 * Errors:   0 or -errno with *err filled. Nothing is retried inside, trigger above all.
 * Writes:   only below its own directory; never to the backing's files. */
#ifndef STILLFS_SNAPSHOT_PROVIDER_H
#define STILLFS_SNAPSHOT_PROVIDER_H

#include "base/door.h"

enum prov_feature {
	PROV_LIVE_FS = 1, /* writes to the backing's filesystem in trigger: freeze=yes is refused */
	PROV_SYNC_FIRST = 2, /* needs syncfs(backing) inside the hold, before trigger (block snapshots) */
	PROV_REMOTE = 4, /* across a network, and what was made may show up late: what a failed run may have left is
			  * looked for again later */
	PROV_VOLUMES = 16, /* its sets are on no disk here: verified on volumes that are made of them */
	PROV_REMOVE_APART = 32, /* remove may come from a second thread beside any other call about other sets, so that a
				 * removal that lasts or hangs holds up no snapshot */
	PROV_SCAN_LISTS = 8, /* what scan tells is enough for list.all, and too little to make a catalog of */
};

struct set; /* set.h */

/* One snapshot run, the same object from preflight or resume to the last poll. */
struct prov_run {
	const char *name; /* set name, [A-Za-z0-9][A-Za-z0-9._-]{0,63} */
	const char *set_id; /* unique id of the set, 32 hex digits */
	const char *lineage; /* 32 hex digits */
	const char *origin; /* of this stillfs on this machine (prune_origin), to be kept with the data; "" or NULL: unknown */
	const char *class, *description, *tags; /* of the set; tags: "key:value" lines */
	const char *position; /* "key value" lines; "" before trigger, the record's for resume */
	bool pin;
	struct timespec created;
	bool timed; /* lock_ms and hold_ms are known: from the first poll on; < 0: there was none */
	double lock_ms, hold_ms;
	const struct door *door;
	/* Abort asked for, or deadline: stop soon. In poll and resume also: somebody waits for the thread; end the
	 * slice, which is no failure (resume: -EAGAIN). */
	bool (*cancelled)(const struct prov_run *r);
	void *ref; /* the provider's own, between preflight or resume and discard, finish or leave */
};

/* Where completion stands. */
struct prov_progress {
	unsigned percent; /* 0..100 */
	bool complete; /* all volumes done; only then is the set complete */
	uint64_t size_b; /* logical bytes of the set, once known */
	unsigned volumes;
	char detail[256]; /* one line for `progress`, e.g. "digest of 12 of 240 files" */
	char note[256]; /* one line for the set's log, once: what did not work and is no failure; "" */
};

struct prov_ops {
	const char *name;
	unsigned features;
	/* required */
	void *(*open)(const struct door *d, struct snap_error *err); /* NULL on failure; checks config */
	void (*close)(void *p);
	/* Nothing is held yet: may take seconds. Makes what trigger will need (destination files).
	 * Refuses (-EXDEV, -EOPNOTSUPP, -ENOSPC, -EFBIG above half of hold_ms ...) with a sentence. */
	int (*preflight)(void *p, struct prov_run *r, uint32_t hold_ms, uint32_t max_ms,
			 struct snap_error *err);
	/* Fix the consistency point. Gate closed, DB lock already released. */
	int (*trigger)(void *p, struct prov_run *r, uint32_t max_ms, struct snap_error *err);
	/* After the gate has opened: make durable, digest, follow. Does a slice of work per call (up to
	 * about max_ms) and says where it stands; called again until complete or an error. */
	int (*poll)(void *p, struct prov_run *r, uint32_t max_ms, struct prov_progress *out,
		    struct snap_error *err);
	/* Take up a set whose point another process fixed and recorded as pending: make r->ref from name, set_id and
	 * what the provider finds, so that poll goes on. -EAGAIN: it cannot be known now (the network is away, the
	 * service refuses, not everything shows yet): asked again later, r->ref is kept. Any other error: it is
	 * certain that the set cannot be completed; r->ref is freed by finish, the data removed by remove. */
	int (*resume)(void *p, struct prov_run *r, uint32_t max_ms, struct snap_error *err);
	/* The run failed at any point (also after an abandoned trigger): remove what it made; 0 when there is nothing.
	 * An error, also -EAGAIN (something may still show up): remove is called later. Frees r->ref in any case. */
	int (*discard)(void *p, struct prov_run *r, struct snap_error *err);
	/* Let go of the run, which is complete and recorded, or taken up by another process: frees r->ref. No I/O. */
	void (*finish)(void *p, struct prov_run *r);
	/* Remove a set's data by name and id, also one whose run another process began. Idempotent. Never
	 * removes data whose recorded id differs (-ESTALE). -EBUSY: something holds it (a lock, a restore) and nothing of it
	 * was removed, so that it is a set still; what is partly gone is any other error. */
	int (*remove)(void *p, const char *name, const char *set_id, uint32_t max_ms,
		      struct snap_error *err);
	/* Every set found at the provider: fn(arg, name, set_id, complete). */
	int (*list)(void *p, int (*fn)(void *arg, const char *name, const char *set_id, bool complete),
		    void *arg, uint32_t max_ms, struct snap_error *err);
	/* optional: some seconds have passed since preflight, and the hold comes next. Have ready again what goes stale: a
	 * connection, keys. Nothing is held; as preflight, an error ends the run. */
	int (*warm)(void *p, struct prov_run *r, uint32_t max_ms, struct snap_error *err);
	/* optional: every set that the provider's own records tell of, of one lineage ("": of all) and of stillfs
	 * `name` ("": of all). Each with name, id, class, lineage, state (pending, complete, failed), times,
	 * description, tags, position, origin as far as known; fn takes it over when it returns 0; < 0 ends the scan. What
	 * has no set's name of its own has one that begins with ".", and remove gets its id for a name. */
	int (*scan)(void *p, const char *lineage, const char *name, int (*fn)(void *arg, struct set *s), void *arg,
		    uint32_t max_ms, struct snap_error *err);
	/* optional: does something keep these sets (their ids) from being removed? fn(arg, i, why) for each where that is
	 * certain: why "" when nothing does. Only asks, and ends soon with -ECANCELED when r->cancelled says so; of r nothing
	 * else is set. */
	int (*holds)(void *p, const struct prov_run *r, const char (*ids)[33], size_t n,
		     void (*fn)(void *arg, size_t i, const char *why), void *arg, uint32_t max_ms, struct snap_error *err);
	/* optional: keep the pin in the provider's records, too */
	int (*note_pin)(void *p, const char *set_id, bool pin, uint32_t max_ms, struct snap_error *err);
	/* optional: stillfs ends while the set is pending. Save what resume will need, then as finish. */
	int (*leave)(void *p, struct prov_run *r, uint32_t max_ms, struct snap_error *err);
	/* optional: where the data of a set can be seen on this host. 0, -ENOENT. */
	int (*data_path)(void *p, const char *name, char *buf, size_t cap);
};

/* By name ("local", ...), NULL when unknown. snapshot/registry.c */
const struct prov_ops *provider_find(const char *name);

#endif
