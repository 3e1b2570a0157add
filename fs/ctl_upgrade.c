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

int ctl_upgrade_write(struct ctl *c, const char *text, size_t len, struct snap_error *err)
{
	struct gate_status s;
	bool idle;
	int r;

	if (strcmp(text, "start") != 0 && strcmp(text, "start\n") != 0)
		return snap_error_set(err, -EINVAL, "upgrade: expected \"start\"");
	if (c->d.shm->takeover != SHM_TAKEOVER_YES)
		return snap_error_set(err, -EOPNOTSUPP, "upgrade: a new daemon cannot take over here (`takeover` in status "
							"says why); stop stillfs and start it again");
	core_gate_status(c->d.core, &s);
	if (s.state != GATE_OPEN)
		return snap_error_set(err, -EBUSY, "upgrade: the gate is not open; try again when it is");
	(void)pthread_mutex_lock(&c->turn);
	idle = engine_idle(c->engine); /* sets that are only being completed outlive the daemon */
	r = idle ? upgrade_ask(c->d.shm) : 0;
	(void)pthread_mutex_unlock(&c->turn);
	if (!idle)
		return snap_error_set(err, -EBUSY, "upgrade: a snapshot is running, or doctor is looking; try again when that has ended");
	return r < 0 ? snap_error_set(err, r, r == -EBUSY ? "upgrade: one is under way; read upgrade until it is done" :
							    "upgrade: the keeper cannot be asked: %s", strerror(-r)) : 0;
}

int ctl_upgrade_refuse(struct ctl *c, const char *what, struct snap_error *err)
{
	return !upgrade_running(c->d.shm) ? 0 :
		       snap_error_set(err, -EBUSY, "%s: an upgrade is under way; try again in a moment", what);
}
