/* snapshot/cutover/mongo_int.h - shared by mongo_set.c (what the set says of itself) and mongo.c (the change). */
#ifndef STILLFS_SNAPSHOT_CUTOVER_MONGO_INT_H
#define STILLFS_SNAPSHOT_CUTOVER_MONGO_INT_H

#include "snapshot/cutover/mongo.h"
#include "snapshot/mongodb_set.h"

#define MONGO_FREEZE_S 60

struct mongo_set {
	mongoc_uri_t *from_uri, *to_uri;
	mongoc_client_t *from, *to;
	char name[128], from_host[256], to_host[256];
	size_t n;
	struct mgs_member *member; /* n of MGS_MEMBERS; c: only of those that are frozen */
};

/* Connect to both, read status and configuration. `set` is zeroed by the caller, freed by mongo_set_close in any case. */
int mongo_set_open(struct mongo_cut *m, struct mongo_set *set, struct snap_error *err);
void mongo_set_close(struct mongo_set *set);
/* A connection to that member with the account of --from. */
int mongo_set_reach(struct mongo_set *set, struct mgs_member *who, struct snap_error *err);
/* A member that could be elected in place of the named one. */
bool mongo_set_rival(const struct mongo_set *set, const struct mgs_member *who);

#endif
