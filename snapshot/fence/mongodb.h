/* snapshot/fence/mongodb.h - shared by side_mongodb.c (up, looked after, down) and mongodb_check.c (who it is, and can it be done).
 * Private to them; database thread only but for severed. Facts: manual of MongoDB (hello, replSetStepDown, replSetFreeze,
 * Replica Set Elections) and the server's source (topology_coordinator.cpp: one point in time until which a member does not
 * stand for election, moved on by both commands, set to now by replSetFreeze 0, and gone with the process). */
#ifndef STILLFS_SNAPSHOT_FENCE_MONGODB_H
#define STILLFS_SNAPSHOT_FENCE_MONGODB_H

#include "snapshot/fence/side.h"
#include "snapshot/mongodb_set.h"

#include <stdatomic.h>

struct mgf {
	const struct conf *conf;
	mongoc_client_t *c; /* NULL: not connected */
	_Atomic bool severed; /* nothing more is sent in this call */
	uint64_t frozen_ns; /* when it was frozen last, as far as is known that it still is; 0: not */
	char process[25]; /* of hello; "" before 4.4 */
	/* who it is, found out for each connection */
	char set[128], host[256], id[256];
	struct mgs_member member[MGS_MEMBERS];
	size_t n;
};

/* ---- mongodb_check.c ---- */
/* 0: a call may be sent. -ECANCELED severed, or as connecting fails. */
int mgf_ready(struct mgf *s, struct snap_error *err);
int mgf_broken(struct mgf *s, int r); /* r < 0 ends the connection, the next call makes one, by the URI file as it is then; r */
int mgf_client(struct mgf *s, int64_t answer_ms, mongoc_client_t **out, struct snap_error *err);
int mgf_hello(struct mgf *s, bson_t *h, struct snap_error *err); /* h: bson_destroy in any case */
bool mgf_primary(const bson_t *h);
/* A member of a replica set that has data? -EOPNOTSUPP a standalone, an arbiter; -EINVAL a mongos; -EAGAIN one that has no
 * configuration yet, or no more. */
int mgf_kind(const bson_t *h, struct snap_error *err);
int mgf_identify(struct mgf *s, const bson_t *h, struct snap_error *err); /* set, host, id; the members when it asked */
int mgf_same_server(struct mgf *s, const bson_t *h, const char *record, struct snap_error *err); /* -EXDEV */
/* For a fence that is new: kind, privileges, others that can be elected. */
int mgf_check(struct mgf *s, const bson_t *h, struct snap_error *err);

#endif
