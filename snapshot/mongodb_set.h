/* snapshot/mongodb_set.h - what a MongoDB replica set says of its members, and the two commands that keep one from taking writes:
 * shared by the fence (fence/side_mongodb.c) and by the change of a set's primary (cutover/mongo.c).
 * Facts: manual of MongoDB, replSetGetStatus (members[]: name, self, health, stateStr, optimeDate), replSetGetConfig (_id, members[]:
 * _id, host, priority, votes, arbiterOnly, hidden, secondaryDelaySecs, before 5.0 slaveDelay; settings.replicaSetId), replSetFreeze,
 * replSetStepDown. Threads, blocking, errors: as mongodb_link.h. */
#ifndef STILLFS_SNAPSHOT_MONGODB_SET_H
#define STILLFS_SNAPSHOT_MONGODB_SET_H

#include "snapshot/mongodb_link.h"

#define MGS_ROLES "clusterManager and clusterMonitor"
#define MGS_MEMBERS 50 /* the most a set can have (manual, "Replica Set Members") */
#define MGS_NOT_SECONDARY 95 /* the server's: replSetFreeze to a primary, or to who is standing for election */

struct mgs_member {
	char host[256]; /* as the set's configuration has it */
	int64_t id; /* stays when the host is changed */
	double priority;
	int64_t delay_s, votes;
	bool arbiter, hidden;
	bool healthy, secondary, primary, self; /* as the one that was asked sees it */
	int64_t optime_ms; /* of the newest operation it has, by the primary's clock */
	mongoc_client_t *c; /* the caller's; NULL after mgs_read */
};

/* Configuration and status, asked of one member. member: room for MGS_MEMBERS; set_id: the set's own, "-" before 3.2.
 * side: what the sentences begin with ("--from"). */
int mgs_read(mongoc_client_t *c, const char *side, struct mgs_member *member, size_t *n, char set_id[25], struct snap_error *err);
struct mgs_member *mgs_find(struct mgs_member *member, size_t n, const char *host); /* NULL: there is none */
/* Could it ever be elected? */
bool mgs_electable(const struct mgs_member *who);

/* Not to stand for election for so long; 0: it may again, also after a step down. Forgotten by a server that is restarted.
 * *code, in both: see mgl_command. */
int mgs_freeze(mongoc_client_t *c, const char *host, int32_t s, int *code, struct snap_error *err);
/* A primary: refuse writes, wait until an electable secondary has caught up, be none for for_s. Answers after catch_up_s at the
 * latest, with an error and as the primary still when none has. for_s is above catch_up_s. */
int mgs_step_down(mongoc_client_t *c, int32_t for_s, int32_t catch_up_s, int *code, struct snap_error *err);

#endif
