/* snapshot/fence/keep_file.c - see keep.h: the control file `fence`, what it shows and what may be written to it.
 * Called by: files.c's table, status and metrics.
 * Threads:   any. Blocks: never; what is asked for is done by keep_work.c.
 * Errors:    -errno with the sentence, at once. */
#include "snapshot/fence/keep_int.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define EXPECTED "fence: expected on, on hard, off, off force, retire or check"

const char *fence_keep_state(struct fence_keep *k)
{
	const char *name;

	(void)pthread_mutex_lock(&k->lock);
	name = fence_keep_stand_name(k->stand);
	(void)pthread_mutex_unlock(&k->lock);
	return name;
}

static void put_count(struct vbuf *out, const char *key, long long n)
{
	if (n < 0)
		vbuf_printf(out, "%s -\n", key);
	else
		vbuf_printf(out, "%s %lld\n", key, n);
}

int fence_keep_show(struct engine *e, const char *set, struct vbuf *out)
{
	struct fence_keep *k = e->fence;

	(void)pthread_mutex_lock(&k->lock);
	vbuf_printf(out, "%s\n", (k->asked == DO_ON || k->asked == DO_HARD) && k->stand == IS_OFF ? "turning on" : fence_keep_stand_name(k->stand));
	if (k->since[0])
		vbuf_printf(out, "since %s\n", k->since);
	if (k->verified[0])
		vbuf_printf(out, "verified %s\n", k->verified);
	if (k->retired)
		vbuf_puts(out, "retired yes\n");
	if (k->want || k->stand != IS_OFF) {
		vbuf_printf(out, "ended %u\n", k->n_ended);
		put_count(out, "refused", k->refused);
		put_count(out, "denied", k->denied);
		vbuf_printf(out, "renewed %u\n", k->renewed);
	}
	if (k->last.code)
		vbuf_printf(out, "error %s\n", k->last.msg);
	vbuf_puts(out, vbuf_text(&k->notes));
	vbuf_puts(out, vbuf_text(&k->sessions));
	vbuf_puts(out, vbuf_text(&k->found));
	(void)pthread_mutex_unlock(&k->lock);
	return 0;
}

/* k->lock held. */
static int ask_on(struct fence_keep *k, bool hard, struct snap_error *err)
{
	char now[CLOCK_ISO_MAX];

	if (k->hard && !hard && k->want)
		return snap_error_set(err, -EBUSY, "fence: it is on hard; off first, then start the server, then on");
	if (hard && (k->stand == IS_ON || k->stand == IS_TURNING_ON))
		return snap_error_set(err, -EBUSY, "fence: it is %s already; for on hard the server has to be down",
				      fence_keep_stand_name(k->stand));

	if (k->stand == IS_TURNING_OFF)
		return snap_error_set(err, -EBUSY, "fence: it is being taken down; read fence until it says off");
	k->asked = hard ? DO_HARD : DO_ON;
	if (k->want && hard && !k->hard) { /* over SQL it is up */
		k->stand = IS_TURNING_ON;
		k->last = (struct snap_error){ 0 };
	}
	if (k->want)
		return 0; /* looked after at once */
	k->want = true;
	k->stand = IS_TURNING_ON;
	k->last = (struct snap_error){ 0 };
	k->n_ended = k->renewed = 0;
	k->refused = k->denied = -1;
	vbuf_free(&k->sessions);
	(void)snprintf(k->since, sizeof(k->since), "%s", clock_iso(clock_utc(), now));
	return 0;
}

static int ask_off(struct fence_keep *k, bool force, struct snap_error *err)
{
	if (k->retired && !force)
		return snap_error_set(err, -EPERM, "fence: this server is retired, another one has taken its place: write \"off force\" if it "
						   "must take writes again");
	if (k->stand == IS_OFF && !k->want)
		return 0;
	k->asked = DO_OFF;
	k->want = false;
	k->stand = IS_TURNING_OFF;
	k->last = (struct snap_error){ 0 };
	return 0;
}

static int ask(struct fence_keep *k, const char *word, const char *arg, struct snap_error *err)
{
	bool hard = strcmp(word, "on") == 0 && strcmp(arg, "hard") == 0;

	if (*arg && !hard && (strcmp(word, "off") != 0 || strcmp(arg, "force") != 0))
		return snap_error_set(err, -EINVAL, EXPECTED);
	if (strcmp(word, "off") == 0)
		return ask_off(k, *arg != '\0', err);
	if (!k->side && !hard && !k->hard)
		return snap_error_set(err, -EOPNOTSUPP, "fence: db=%s: only MariaDB, MySQL and MongoDB can be fenced (db=mysql, db=mongodb); any server that is down: on hard",
				      conf_str(k->e->door.conf, "db"));
	if (k->asked != DO_NOTHING)
		return snap_error_set(err, -EBUSY, "fence: the last command is still being carried out; read fence until it is done");
	if (strcmp(word, "on") == 0)
		return ask_on(k, hard, err);
	if (strcmp(word, "retire") == 0 && (!k->want || (k->stand != IS_ON && k->stand != IS_HARD)))
		return snap_error_set(err, -EINVAL, "fence: retire: the fence is %s, and has to be on", fence_keep_stand_name(k->stand));
	if (strcmp(word, "retire") != 0 && strcmp(word, "check") != 0)
		return snap_error_set(err, -EINVAL, EXPECTED);
	if (*word == 'c' && k->hard)
		return snap_error_set(err, -EINVAL, "fence: check: the fence is on hard, so that the server cannot run");
	k->asked = *word == 'r' ? DO_RETIRE : DO_CHECK;
	if (*word == 'c')
		vbuf_free(&k->found);
	return 0;
}

int fence_keep_write(struct engine *e, const char *set, const char *text, size_t len, struct snap_error *err)
{
	struct fence_keep *k = e->fence;
	char word[16] = "", arg[16] = "", rest[2];
	int n = sscanf(text, "%15s %15s %1s", word, arg, rest), r = 0;

	if (n < 1 || n > 2)
		return snap_error_set(err, -EINVAL, EXPECTED);
	(void)pthread_mutex_lock(&e->lock);
	if (e->stopping)
		r = snap_error_set(err, -ESHUTDOWN, "fence: stillfs is stopping");
	else if (e->running)
		r = snap_error_set(err, -EBUSY, "fence: snapshot %s is before its consistency point; wait for it (cat snapshots/%s/wait)",
				   e->running->name, e->running->name);
	(void)pthread_mutex_lock(&k->lock);
	if (r == 0)
		r = ask(k, word, arg, err);
	(void)pthread_mutex_unlock(&k->lock);
	(void)pthread_cond_signal(&e->work);
	(void)pthread_mutex_unlock(&e->lock);
	return r;
}
