/* snapshot/registry.c - providers and coordinators by name, and the coordinator that locks nothing. */
#include "snapshot/coordinator.h"
#include "snapshot/ebs/ebs.h"
#include "snapshot/exec_provider/exec_provider.h"
#include "snapshot/local/local.h"
#ifdef STILLFS_MONGODB
#include "snapshot/coord_mongodb.h"
#endif
#include "snapshot/coord_mysql.h"
#include "snapshot/fence/side.h"
#include "snapshot/hooks.h"
#include "snapshot/provider.h"
#ifdef STILLFS_TEST_PROVIDERS
#include "snapshot/null/null.h"
#endif

#include <string.h>

const struct prov_ops *provider_find(const char *name)
{
	static const struct prov_ops *const all[] = {
		&prov_local,
		&prov_ebs,
		&prov_exec,
#ifdef STILLFS_TEST_PROVIDERS
		&prov_null,
#endif
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (strcmp(all[i]->name, name) == 0)
			return all[i];
	return NULL;
}

/* ---- none: the gate alone makes the image atomic; the engine recovers it as after a crash ---- */

static int none_self;

static void *none_open(const struct door *d, struct snap_error *err)
{
	return &none_self;
}

static void none_close(void *c)
{
}

static int none_preflight(void *c, uint32_t max_ms, struct snap_error *err)
{
	return 0;
}

static int none_lock(void *c, uint32_t max_ms, uint32_t lock_ms, struct snap_error *err)
{
	return 0;
}

static int none_position(void *c, uint32_t max_ms, struct vbuf *out, struct snap_error *err)
{
	return 0; /* no database, no position */
}

static int none_unlock(void *c, uint32_t max_ms, struct snap_error *err)
{
	return 0;
}

static void none_status(void *c, struct vbuf *out)
{
}

static const struct coord_ops coord_none = {
	.name = "none",
	.open = none_open,
	.close = none_close,
	.preflight = none_preflight,
	.lock = none_lock,
	.position = none_position,
	.unlock = none_unlock,
	.sever = none_close,
	.status = none_status,
};

const struct coord_ops *coordinator_find(const char *name)
{
	static const struct coord_ops *const all[] = { &coord_none, &coord_mysql, &coord_hook,
#ifdef STILLFS_MONGODB
							 &coord_mongodb,
#endif
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (strcmp(all[i]->name, name) == 0)
			return all[i];
	return NULL;
}

static bool names(const char *db, const char *name)
{
	for (size_t n; *db; db += n + (db[n] != '\0')) {
		n = strcspn(db, ",+");
		if (n == strlen(name) && strncmp(db, name, n) == 0)
			return true;
	}
	return false;
}

const struct fence_side *fence_side_nth(const struct conf *c, unsigned nth, const char **name)
{
	static const struct {
		const char *name;
		const struct fence_side *side;
	} all[] = {
#ifdef STILLFS_MONGODB
		{ "mongodb", &fence_side_mongodb },
#endif
		{ "mysql", &fence_side_sql },
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (names(conf_str(c, "db"), all[i].name) && nth-- == 0) {
			*name = all[i].name;
			return all[i].side;
		}
	return NULL;
}

const struct fence_side *fence_side_find(const struct conf *c)
{
	const char *name;

	return fence_side_nth(c, 1, &name) ? &fence_side_group : fence_side_nth(c, 0, &name);
}
