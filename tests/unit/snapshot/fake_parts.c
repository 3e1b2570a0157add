/* tests/unit/snapshot/fake_parts.c - the provider and the database of fake.h, and the registry that finds
 * them in place of snapshot/registry.c. */
#include "tests/unit/snapshot/fake.h"
#include "base/clock.h"
#include "snapshot/engine_int.h"
#include "snapshot/fence/side.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the provider: its data are names in the world ---- */

static void *prov_open(const struct door *d, struct snap_error *err)
{
	return malloc(1);
}

static int answer(int r, const char *what, struct snap_error *err)
{
	return r < 0 ? snap_error_set(err, r, "%s: told to fail: %s", what, strerror(-r)) : 0;
}

static void data_add(const char *name, const char *id)
{
	fake_lock_world();
	if (fake.n_data < 64) {
		(void)snprintf(fake.data[fake.n_data], sizeof(fake.data[0]), "%s", id);
		(void)snprintf(fake.data_name[fake.n_data++], sizeof(fake.data_name[0]), "%s", name);
	}
	fake_unlock_world();
}

static void data_drop(const char *id)
{
	fake_lock_world();
	for (unsigned i = 0; i < fake.n_data; i++)
		if (strcmp(fake.data[i], id) == 0) {
			fake.n_data--;
			memcpy(fake.data[i], fake.data[fake.n_data], sizeof(fake.data[0]));
			memcpy(fake.data_name[i], fake.data_name[fake.n_data], sizeof(fake.data_name[0]));
			i--;
		}
	fake_unlock_world();
}

bool fake_has_data(const char *name)
{
	bool there = false;

	fake_lock_world();
	for (unsigned i = 0; i < fake.n_data; i++)
		there = there || strcmp(fake.data_name[i], name) == 0;
	fake_unlock_world();
	return there;
}

static int prov_preflight(void *p, struct prov_run *r, uint32_t hold_ms, uint32_t max_ms, struct snap_error *err)
{
	int ret = fake_enter(ON_PREFLIGHT, r->name, hold_ms, max_ms);

	r->ref = malloc(1); /* given back by discard or finish: the sanitizer counts */
	data_add(r->name, r->set_id);
	fake_leave(ON_PREFLIGHT);
	return answer(ret, "provider preflight", err);
}

static void see_position(const struct door *d)
{
	int fd = openat(d->pairs[0].backing_fd, POSITION_FILE, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t n = fd < 0 ? -1 : read(fd, fake.position, sizeof(fake.position) - 1);

	fake.position[n > 0 ? n : 0] = '\0';
	if (n <= 0)
		fake_violate("trigger without a position file");
	if (fd >= 0)
		(void)close(fd);
	if (conf_bool(d->conf, "freeze") != fake.frozen)
		fake_violate("trigger: frozen is %d", fake.frozen);
}

const char *fake_position_seen(void)
{
	return fake.position;
}

static int prov_trigger(void *p, struct prov_run *r, uint32_t max_ms, struct snap_error *err)
{
	int ret;

	fake_lock_world();
	see_position(r->door);
	fake_unlock_world();
	ret = fake_enter(ON_TRIGGER, r->name, max_ms, 0);
	fake_leave(ON_TRIGGER);
	return answer(ret, "trigger", err);
}

static int prov_poll(void *p, struct prov_run *r, uint32_t max_ms, struct prov_progress *out, struct snap_error *err)
{
	int ret = fake_enter(ON_POLL, r->name, max_ms, 0);

	if (fake.polls_needed > 1000) /* the tape is finite */
		(void)usleep(2000);
	fake_lock_world();
	fake.hurried |= r->cancelled(r);
	fake.polls++;
	*out = (struct prov_progress){ .volumes = 1, .size_b = 4096, .percent = 50, .detail = "half" };
	if (ret == 0 && fake.polls >= fake.polls_needed && fake.n_completed < 64) {
		fake.polls = 0;
		out->percent = 100;
		out->complete = true;
		(void)snprintf(fake.completed[fake.n_completed++], sizeof(fake.completed[0]), "%s", r->set_id);
	}
	fake_unlock_world();
	fake_leave(ON_POLL);
	return answer(ret, "poll", err);
}

static int prov_resume(void *p, struct prov_run *r, uint32_t max_ms, struct snap_error *err)
{
	int ret = fake_enter(ON_RESUME, r->name, max_ms, 0);

	if (!r->ref)
		r->ref = malloc(1);
	fake_leave(ON_RESUME);
	return answer(ret, "resume", err);
}

static int prov_leave(void *p, struct prov_run *r, uint32_t max_ms, struct snap_error *err)
{
	int ret = fake_enter(ON_LEAVE, r->name, max_ms, 0);

	free(r->ref);
	r->ref = NULL;
	fake_leave(ON_LEAVE);
	return answer(ret, "leave", err);
}

static int prov_discard(void *p, struct prov_run *r, struct snap_error *err)
{
	int ret = fake_enter(ON_DISCARD, r->name, 0, 0);

	free(r->ref);
	r->ref = NULL;
	if (ret == 0)
		data_drop(r->set_id);
	fake_leave(ON_DISCARD);
	return answer(ret, "discard", err);
}

static void prov_finish(void *p, struct prov_run *r)
{
	(void)fake_enter(ON_FINISH, r->name, 0, 0);
	free(r->ref);
	r->ref = NULL;
	fake_leave(ON_FINISH);
}

static int prov_remove(void *p, const char *name, const char *id, uint32_t max_ms, struct snap_error *err)
{
	int ret = fake_enter(ON_REMOVE, name, max_ms, 0);

	if (ret == 0)
		data_drop(id);
	fake_leave(ON_REMOVE);
	return answer(ret, "remove", err);
}

static int prov_list(void *p, int (*fn)(void *arg, const char *name, const char *set_id, bool complete), void *arg,
		     uint32_t max_ms, struct snap_error *err)
{
	return 0;
}

static int prov_data_path(void *p, const char *name, char *buf, size_t cap)
{
	(void)snprintf(buf, cap, "/clones/%s", name);
	return fake_has_data(name) ? 0 : -ENOENT;
}

#define PROV(ops_name, word, what)                                                                 \
	static const struct prov_ops ops_name = {                                                  \
		.name = word, .features = what, .open = prov_open, .close = free,                  \
		.preflight = prov_preflight, .trigger = prov_trigger, .poll = prov_poll,           \
		.resume = prov_resume, .discard = prov_discard, .finish = prov_finish,             \
		.remove = prov_remove, .list = prov_list, .leave = prov_leave,                     \
		.data_path = prov_data_path,                                                       \
	}

PROV(prov_fake, "fake", PROV_SYNC_FIRST);
PROV(prov_live, "live", PROV_LIVE_FS);
PROV(prov_remote, "remote", PROV_SYNC_FIRST | PROV_REMOTE);
PROV(prov_apart, "apart", PROV_SYNC_FIRST | PROV_REMOVE_APART);

const struct prov_ops *provider_find(const char *name)
{
	fake.apart = strcmp(name, "apart") == 0;
	return strcmp(name, "fake") == 0 ? &prov_fake : strcmp(name, "live") == 0 ? &prov_live :
	       strcmp(name, "remote") == 0 ? &prov_remote : strcmp(name, "apart") == 0 ? &prov_apart : NULL;
}

/* ---- the database: a cut connection ends its lock ---- */

static void *coord_open(const struct door *d, struct snap_error *err)
{
	return malloc(1);
}

static int coord_preflight(void *c, uint32_t max_ms, struct snap_error *err)
{
	int r = fake_enter(ON_DB_PREFLIGHT, "", max_ms, 0);

	fake_leave(ON_DB_PREFLIGHT);
	return answer(r, "database preflight", err);
}

static int coord_lock(void *c, uint32_t max_ms, uint32_t lock_ms, struct snap_error *err)
{
	uint64_t severed;
	int r;

	fake_lock_world();
	severed = fake.severed;
	fake_unlock_world();
	r = fake_enter(ON_LOCK, "", max_ms, lock_ms);
	fake_lock_world();
	if (r == 0 && fake.severed != severed)
		r = -ECONNABORTED;
	fake.locked = r == 0;
	fake.lock_began = clock_boot_ns();
	fake_unlock_world();
	fake_leave(ON_LOCK);
	return answer(r, "lock", err);
}

static void coord_lock_told(void *c, struct coord_lock *out)
{
	fake_lock_world();
	*out = (struct coord_lock){ fake.lock_began, fake.given_up, fake.given_up_ns };
	fake_unlock_world();
}

static int coord_position(void *c, uint32_t max_ms, struct vbuf *out, struct snap_error *err)
{
	int r = fake_enter(ON_POSITION, "", max_ms, 0);

	vbuf_puts(out, "binlog_file bin.000007\nbinlog_pos 4711\n");
	fake_leave(ON_POSITION);
	return answer(r, "position", err);
}

static int coord_unlock(void *c, uint32_t max_ms, struct snap_error *err)
{
	int r = fake_enter(ON_UNLOCK, "", max_ms, 0);

	fake_lock_world();
	if (r == 0 && !fake.locked)
		r = -ENOLCK;
	fake.locked = false;
	fake_unlock_world();
	fake_leave(ON_UNLOCK);
	return answer(r, "unlock", err);
}

static void coord_sever(void *c)
{
	(void)fake_enter(ON_SEVER, "", 0, 0);
	fake_lock_world();
	fake.severed++;
	fake.cut = true;
	fake.locked = false;
	fake_unlock_world();
	fake_leave(ON_SEVER);
}

static void coord_status(void *c, struct vbuf *out)
{
	vbuf_puts(out, "db_fake yes\n");
}

static const struct coord_ops coord_fake = {
	.name = "fake",
	.open = coord_open,
	.close = free,
	.preflight = coord_preflight,
	.lock = coord_lock,
	.lock_told = coord_lock_told,
	.position = coord_position,
	.unlock = coord_unlock,
	.sever = coord_sever,
	.status = coord_status,
};

const struct coord_ops *coordinator_find(const char *name)
{
	return strcmp(name, "fake") == 0 ? &coord_fake : NULL;
}

const struct fence_side *fence_side_find(const struct conf *c)
{
	return NULL;
}
