/* snapshot/exec_provider/exec_int.h - shared by exec_provider.c (contract, calls) and exec_list.c (listings). */
#ifndef STILLFS_SNAPSHOT_EXEC_INT_H
#define STILLFS_SNAPSHOT_EXEC_INT_H

#include "snapshot/exec_provider/exec_provider.h"

#include <json-c/json.h>

struct exec_prov {
	const struct door *d;
	const char *path;
};

/* What every request has. name, id: NULL with list. */
struct json_object *exec_request(const struct exec_prov *x, const char *verb, const char *name, const char *id, uint32_t max_ms);
/* Takes o. 0 and the answer, an object, in *out (to be put back). stop: whose end ends the call, or NULL. */
int exec_call(const struct exec_prov *x, const char *verb, struct json_object *o, uint32_t max_ms, const struct prov_run *stop,
	      struct json_object **out, struct snap_error *err);
uint64_t exec_number(struct json_object *o, const char *key, uint64_t max); /* 0..max; 0: it is not there */

/* exec_list.c */
int exec_list(void *self, int (*fn)(void *arg, const char *name, const char *set_id, bool complete), void *arg, uint32_t max_ms,
	      struct snap_error *err);
int exec_scan(void *self, const char *lineage, const char *name, int (*fn)(void *arg, struct set *s), void *arg, uint32_t max_ms,
	      struct snap_error *err);

#endif
