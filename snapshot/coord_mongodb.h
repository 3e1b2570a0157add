/* snapshot/coord_mongodb.h - the coordinator of MongoDB (mongodb.c). */
#ifndef STILLFS_SNAPSHOT_COORD_MONGODB_H
#define STILLFS_SNAPSHOT_COORD_MONGODB_H

#include "snapshot/coordinator.h"

extern const struct coord_ops coord_mongodb;

#endif
