/* snapshot/ebs/ebs_int.h - shared by ebs.c (contract), ebs_check.c (preflight), ebs_api.c (calls), ebs_tags.c (record in
 * tags), ebs_remove.c, ebs_use.c, ebs_place.c, ebs_scan.c (record from tags). Everything here runs on the provider's thread. */
#ifndef STILLFS_SNAPSHOT_EBS_INT_H
#define STILLFS_SNAPSHOT_EBS_INT_H

#include "snapshot/ebs/creds.h"
#include "snapshot/ebs/discover.h"
#include "snapshot/ebs/ebs.h"
#include "snapshot/ebs/ec2.h"

#define SNAPS_MAX 256 /* of one set, strays included */
#define DESCRIPTION_MAX 255
#define USES 3u /* what can keep a snapshot from being deleted: ebs_use.c */
#define NEW_S 120u /* a snapshot that is so young may not be described yet */

struct ebs {
	const struct door *door;
	struct creds *creds;
	struct ec2 *ec2;
	/* found at the first use */
	char url[300], instance[24];
	const char *region;
	uint64_t unasked_ns[USES]; /* ebs_use.c: until when a question is not asked that AWS does not allow */
	unsigned said; /* bit i: that was said */
};

struct snap {
	char id[32], volume[24], state[16], message[128];
	unsigned percent, size_gib;
};

struct snaps {
	unsigned n;
	struct snap v[SNAPS_MAX];
};

/* One run, from preflight to finish or discard. */
struct erun {
	struct vols vols;
	unsigned n_exclude;
	char exclude[VOLS_MAX][24]; /* attached, not ours, not the root volume */
	char attempt[33]; /* unique: what is found with it is of this run's one trigger */
	bool sent; /* a creation went out */
	bool tagged; /* what is added afterwards has been tried */
	bool sure; /* and what it made is known: snaps */
	struct snaps snaps;
	uint64_t next_poll_ns, fixed_ns;
	uint64_t asked_ns; /* resume: when EC2 first answered */
	uint32_t pause_ms;
	struct prov_progress progress;
};

/* ebs_api.c. deadline_ns: CLOCK_BOOTTIME; stop: NULL, or the run that can be cancelled. */
struct api {
	struct ebs *e;
	const struct prov_run *stop;
	uint64_t deadline_ns;
	bool held; /* the gate is closed: no new keys, nothing but the one request */
	/* filled */
	enum ec2_fate fate;
	char code[64];
	bool not_found; /* api_delete: EC2 does not know it. It has gone; or it is so new that a part of EC2 does not know it yet */
};
/* Region, endpoint, keys that live long enough, and for `instance` the id of this instance. */
int api_connect(struct api *a, bool instance, struct snap_error *err);
int api_call(struct api *a, const char *action, const struct vbuf *form, bool once, struct xml **out,
	     struct snap_error *err);
int api_pages(struct api *a, const char *action, const struct vbuf *form,
	      int (*fn)(void *arg, const struct xml_elem *root, struct snap_error *err), void *arg, struct snap_error *err);
/* Snapshots with tag key=value, of the account alone. */
int api_find(struct api *a, const char *key, const char *value, struct snaps *out, struct snap_error *err);
void api_read_snap(const struct xml_elem *e, struct snap *out);
int api_delete(struct api *a, const char *snapshot, struct snap_error *err); /* 0 also when it is not_found */
/* CreateTags on snapshots from..to-1 of s. */
int api_tag_all(struct api *a, const struct snaps *s, unsigned from, unsigned to, const char *key, const char *value,
		struct snap_error *err);
/* A tag of an element with a tagSet; "" when it has none of that name. */
void api_tag(const struct xml_elem *e, const char *key, char *buf, size_t cap);

/* ebs_check.c: everything that can be known before anything is held. */
int check_all(struct api *a, struct prov_run *r, struct erun *er, uint32_t hold_ms, struct snap_error *err);
/* Is the request allowed? Asked by a dry run of it, on the connection that it will take. */
int check_allowed(struct api *a, const struct prov_run *r, struct erun *er, struct snap_error *err);
/* The creating request. dry: only ask whether it would be allowed. As tags_form. */
int create_form(struct ebs *e, const struct prov_run *r, const struct erun *er, bool dry, struct vbuf *form,
		struct snap_error *err);
const char *create_action(const struct erun *er);

/* ebs.c, prov_ops.finish */
void ebs_finish(void *self, struct prov_run *r);
/* ebs_remove.c: prov_ops.discard, remove */
int ebs_discard(void *self, struct prov_run *r, struct snap_error *err);
/* The same, with look_ms for what EC2 does not show yet; for who will not look again. */
int ebs_discard_within(void *self, struct prov_run *r, uint32_t look_ms, struct snap_error *err);
int ebs_remove(void *self, const char *name, const char *set_id, uint32_t max_ms, struct snap_error *err);
/* ebs_use.c: may these be deleted? -EBUSY with what keeps one of them: a lock, an image, a volume that is being made
 * of it. Another error: it cannot be known now. 0 also when this host may not ask; then the deletion's answer tells. */
int use_check(struct api *a, const struct snaps *s, struct snap_error *err);
/* prov_ops.holds */
int ebs_holds(void *self, const struct prov_run *r, const char (*ids)[33], size_t n,
	      void (*fn)(void *arg, size_t i, const char *why), void *arg, uint32_t max_ms, struct snap_error *err);

/* ebs_resume.c: prov_ops.resume. */
int ebs_resume(void *self, struct prov_run *r, uint32_t max_ms, struct snap_error *err);

/* ebs_tags.c: TagSpecification and Description. 0, or how many pairs' places find no room in them; -EINVAL: a user's tag
 * that EC2 would refuse. */
int tags_form(const struct door *d, const struct prov_run *r, const struct erun *er, struct vbuf *form,
	      struct snap_error *err);

/* Times and, for several volumes, "member i of N", added when the point is fixed. Optional: a host that may tag at
 * creation only cannot do it. */
int tags_later(struct api *a, const struct prov_run *r, struct erun *er, struct snap_error *err);
/* What a verification found: "WORD TIME SENTENCE", read again by ebs_scan.c. */
int tags_verified(struct api *a, const struct snaps *s, const char *text, struct snap_error *err);
/* ebs_describe.c: option ebs.description, for sets without a description of their own */
int describe_check(const char *template, struct snap_error *err); /* -EINVAL */
void describe_expand(const char *template, const struct door *d, const struct prov_run *r, char *buf, size_t cap);
/* ebs_scan.c: provider.h's scan and note_pin */
struct set;
int scan_sets(struct api *a, const char *lineage, const char *name, const char *id, int (*fn)(void *arg, struct set *s),
	      void *arg, struct snap_error *err);
/* ebs_place.c */
void place_text(const struct door *d, unsigned pair, const struct vols *vols, char *buf, size_t cap);

#endif
