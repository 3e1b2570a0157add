/* fs/ctl_upgrade.c - the control file `upgrade`: another binary is to go on with the mounts (upgrade.h).
 * Threads: control threads. Blocks: never; the keeper does it.
 * Errors:  -errno with the operator's sentence. */
#include "fs/ctl_int.h"
#include "fs/upgrade.h"

#include <errno.h>
#include <string.h>

int ctl_upgrade_render(struct ctl *c, struct vbuf *out)
{
	upgrade_render(c->d.shm, out);
	return 0;
}

/* The engine's word for what it does: the first line of its status. Sets that are only being completed outlive the daemon. */
static bool engine_idle(struct ctl *c)
{
	struct vbuf b = VBUF_INIT;
	bool idle;

	engine_status(c->engine, &b);
	idle = strncmp(vbuf_text(&b), "state idle\n", 11) == 0 ||
	       strncmp(vbuf_text(&b), "state completing\n", 17) == 0;
	vbuf_free(&b);
	return idle;
}

int ctl_upgrade_write(struct ctl *c, const char *text, size_t len, struct snap_error *err)
{
	struct gate_status s;
	int r;

	if (strcmp(text, "start") != 0 && strcmp(text, "start\n") != 0)
		return snap_error_set(err, -EINVAL, "upgrade: expected \"start\"");
	if (c->d.shm->takeover != SHM_TAKEOVER_YES)
		return snap_error_set(err, -EOPNOTSUPP, "upgrade: a new daemon cannot take over here (`takeover` in status "
							"says why); stop stillfs and start it again");
	core_gate_status(c->d.core, &s);
	if (s.state != GATE_OPEN)
		return snap_error_set(err, -EBUSY, "upgrade: the gate is not open; try again when it is");
	if (!engine_idle(c))
		return snap_error_set(err, -EBUSY, "upgrade: a snapshot is running; try again when its point is fixed");
	r = upgrade_ask(c->d.shm);
	return r < 0 ? snap_error_set(err, r, r == -EBUSY ? "upgrade: one is under way; read upgrade until it is done" :
							    "upgrade: the keeper cannot be asked: %s", strerror(-r)) : 0;
}

int ctl_upgrade_refuse(struct ctl *c, const char *what, struct snap_error *err)
{
	return !upgrade_running(c->d.shm) ? 0 :
		       snap_error_set(err, -EBUSY, "%s: an upgrade is under way; try again in a moment", what);
}
