/* snapshot/doctor.c - what stillctl doctor shows: everything that a snapshot looks at before it begins, as a list of findings.
 * Owns:      the text in e->doctor. The provider's run that it makes for the look is the provider's thread's own.
 * Called by: run_db.c between two runs, on the engine's thread.
 * Blocks:    up to LOOK_MS for the database and for the provider each; the provider's look ends early when a
 *            snapshot is asked for, both when an operator aborts or stillfs stops.
 * Errors:    are findings: "bad WHAT: what to do". Nothing is held, nothing is taken. */
#include "snapshot/run_int.h"
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#define LOOK_MS 30000u

/* ---- on the executors ---- */

static void do_examine(struct job *j)
{
	struct engine *e = j->self;

	j->result = e->coord->examine(e->coord_self, j->max_ms, &j->text, &j->err);
	if (j->result < 0)
		vbuf_printf(&j->text, "bad database: %s\n", j->err.code ? j->err.msg : strerror(-j->result));
}

/* As a snapshot's preflight, and all is taken away again. The run is this call's: nobody else has it when it is late. */
static void do_provider(struct job *j)
{
	struct engine *e = j->self;
	struct prov_ctx *p = j->arg;
	struct snap_error left = { 0 };
	int r = e->prov->preflight(e->prov_self, &p->pr, j->extra_ms, j->max_ms, &j->err), undone;

	undone = e->prov->discard(e->prov_self, &p->pr, &left);
	if (r < 0 && run_prov_cancelled(&p->pr))
		vbuf_printf(&j->text, "bad provider %s: not looked at to the end, a snapshot was asked for; look again\n", e->prov->name);
	else if (r < 0)
		vbuf_printf(&j->text, "bad provider %s: %s\n", e->prov->name, j->err.code ? j->err.msg : strerror(-r));
	else
		vbuf_printf(&j->text, "ok provider %s: a set can be taken\n", e->prov->name);
	if (undone < 0)
		vbuf_printf(&j->text, "bad provider %s: what the look made is left: %s\n", e->prov->name,
			    left.code ? left.msg : strerror(-undone));
	run_ctx_free(p);
}

/* ---- on the engine's thread ---- */

static void await(struct engine *e, struct exec *x, struct job *j, const char *what, struct vbuf *out)
{
	if (exec_wait(x, j, clock_boot_ns() + (LOOK_MS + 2000) * NS_PER_MS, &e->abort_completing) == 0)
		vbuf_puts(out, vbuf_text(&j->text));
	else
		vbuf_printf(out, "bad %s: no answer in time\n", what);
}

static void look_database(struct engine *e, struct vbuf *out)
{
	struct job *j = e->coord->examine ? job_new(do_examine, e, LOOK_MS) : NULL;

	if (!e->coord->examine)
		vbuf_puts(out, "ok no database is configured\n");
	else if (!j)
		vbuf_puts(out, "bad database: out of memory\n");
	else if (exec_post(e->db_exec, j) < 0)
		vbuf_puts(out, "bad database: an earlier call has not come back yet; look again later\n");
	else
		await(e, e->db_exec, j, "database", out);
	job_drop(e->db_exec, j);
}

static void look_mounts(struct engine *e, struct vbuf *out)
{
	const struct door *d = &e->door;
	struct snap_error err = { 0 };
	struct statvfs v;

	for (unsigned i = 0; i < d->n_pairs; i++) {
		if (run_check_mounted(d, i, &err) < 0)
			vbuf_printf(out, "bad mount: %s\n", err.msg);
		else
			vbuf_printf(out, "ok mount %s\n", d->pairs[i].mountpoint);
		if (fstatvfs(d->pairs[i].backing_fd, &v) < 0)
			vbuf_printf(out, "bad backing %s: %s\n", d->pairs[i].backing, strerror(errno));
		else if (v.f_flag & ST_RDONLY)
			vbuf_printf(out, "bad backing %s: its filesystem is read-only: look into the kernel's log for the reason\n",
				    d->pairs[i].backing);
		else if (v.f_bavail == 0 || (v.f_files && v.f_favail == 0))
			vbuf_printf(out, "bad backing %s: its filesystem is full: no %s are free\n", d->pairs[i].backing,
				    v.f_bavail ? "inodes" : "blocks");
		else
			vbuf_printf(out, "ok backing %s: %llu MiB are free\n", d->pairs[i].backing,
				    (unsigned long long)v.f_bavail * v.f_frsize >> 20);
	}
}

static void look_state(struct engine *e, struct vbuf *out)
{
	struct snap_error err = { 0 };
	int r = catalog_probe(e->cat, &err);

	if (r < 0)
		vbuf_printf(out, "bad state_dir: %s\n", err.code ? err.msg : strerror(-r));
	else
		vbuf_puts(out, "ok state_dir: a record can be written\n");
}

static struct prov_ctx *new_ctx(struct engine *e)
{
	struct prov_ctx *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->description = strdup("");
	p->tags = strdup("");
	p->position = strdup("");
	if (!p->description || !p->tags || !p->position || catalog_random_id(p->id) < 0) {
		run_ctx_free(p);
		return NULL;
	}
	(void)snprintf(p->name, sizeof(p->name), "doctor-%s", p->id); /* of no set */
	(void)snprintf(p->class, sizeof(p->class), "doctor");
	(void)snprintf(p->lineage, sizeof(p->lineage), "%s", catalog_lineage(e->cat));
	p->urgent = &e->urgent;
	p->pr = (struct prov_run){ .name = p->name, .set_id = p->id, .lineage = p->lineage, .class = p->class,
				   .description = p->description, .tags = p->tags, .position = p->position,
				   .door = &e->door, .cancelled = run_prov_cancelled, .created = clock_utc() };
	return p;
}

static void look_provider(struct engine *e, struct vbuf *out)
{
	struct prov_ctx *p = new_ctx(e);
	struct job *j = p ? job_new(do_provider, e, LOOK_MS) : NULL;
	char what[64];

	(void)snprintf(what, sizeof(what), "provider %s", e->prov->name);
	if (!j) {
		run_ctx_free(p);
		vbuf_printf(out, "bad %s: out of memory\n", what);
		return;
	}
	j->arg = p;
	j->extra_ms = (uint32_t)conf_num(e->door.conf, "gate_timeout");
	if (exec_post(e->prov_exec, j) < 0) {
		run_ctx_free(p);
		vbuf_printf(out, "bad %s: an earlier call has not come back yet; look again later\n", what);
	} else {
		await(e, e->prov_exec, j, what, out);
	}
	job_drop(e->prov_exec, j);
}

void doctor_look(struct engine *e)
{
	struct vbuf text = VBUF_INIT;

	look_database(e, &text);
	look_mounts(e, &text);
	look_state(e, &text);
	look_provider(e, &text);
	(void)pthread_mutex_lock(&e->lock);
	vbuf_free(&e->doctor);
	e->doctor = text;
	e->doctor_running = false;
	(void)pthread_mutex_unlock(&e->lock);
}
