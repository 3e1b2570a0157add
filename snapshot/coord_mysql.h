/* snapshot/coord_mysql.h - the coordinator of MariaDB and MySQL (mysql.c). */
#ifndef STILLFS_SNAPSHOT_COORD_MYSQL_H
#define STILLFS_SNAPSHOT_COORD_MYSQL_H

#include "snapshot/coordinator.h"

extern const struct coord_ops coord_mysql;

#endif
