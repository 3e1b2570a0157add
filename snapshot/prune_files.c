/* snapshot/prune_files.c - the control files retention, prune and prune.log: one renderer and one parser each.
 * Threads: control threads. Blocks: a write saves one small file. Errors: -errno with the sentence. */
#include "snapshot/prune.h"
#include "snapshot/orphans.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/hex.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- retention ---- */

int prune_show_policy(struct engine *e, const char *set, struct vbuf *out)
{
	(void)pthread_mutex_lock(&e->lock);
	ret_print(&e->prune->policy, out);
	if (ret_empty(&e->prune->policy))
		vbuf_puts(out, "# no keep_* rule is set: an empty policy deletes nothing\n");
	(void)pthread_mutex_unlock(&e->lock);
	return 0;
}

/* io held. */
static int change(struct engine *e, struct ret_policy *fresh, const char *text, size_t len, struct snap_error *err)
{
	struct prune *p = e->prune;
	struct vbuf b = VBUF_INIT;
	struct zone *z;
	int r;

	*fresh = p->policy; /* only changed with io held */
	r = ret_edit(fresh, "retention", text, len, err);
	z = r == 0 ? zone_load(fresh->timezone, err) : NULL;
	if (!z)
		return err->code;
	r = store_policy(p, fresh, err);
	if (r < 0) {
		zone_free(z);
		return r;
	}
	(void)pthread_mutex_lock(&e->lock);
	p->policy = *fresh;
	zone_free(p->zone);
	p->zone = z;
	p->differs = p->damaged = false; /* somebody has looked at it */
	(void)pthread_mutex_unlock(&e->lock);
	for (unsigned i = 0; i < fresh->n; i++) {
		vbuf_puts(&b, i ? ", " : "");
		ret_rule_print(&fresh->rule[i], &b);
	}
	store_log(p, "retention changed: timezone %s, %s", fresh->timezone, fresh->n ? vbuf_text(&b) : "no rules");
	vbuf_free(&b);
	return 0;
}

int prune_write_policy(struct engine *e, const char *set, const char *text, size_t len, struct snap_error *err)
{
	cleanup_free struct ret_policy *fresh = malloc(sizeof(*fresh));
	char members[64];
	int r;

	if (!fresh)
		return snap_error_set(err, -ENOMEM, "retention: out of memory");
	(void)pthread_mutex_lock(&e->prune->io);
	r = change(e, fresh, text, len, err);
	(void)pthread_mutex_unlock(&e->prune->io);
	if (r == 0) {
		(void)snprintf(members, sizeof(members), "\"rules\":%u", fresh->n);
		e->door.ops->event(e->door.fs, "retention", members);
	}
	return r;
}

/* ---- prune ---- */

static void head(struct engine *e, const struct plan *pl, struct vbuf *out)
{
	const struct ret_policy *p = &e->prune->policy;
	const char *off = prune_off(e);
	size_t left = 0;
	struct set *s;

	vbuf_printf(out, "plan %s\npolicy timezone %s", pl->id, p->timezone);
	for (unsigned i = 0; i < p->n; i++) {
		vbuf_puts(out, ", ");
		ret_rule_print(&p->rule[i], out);
	}
	if (ret_empty(p))
		vbuf_puts(out, "\nempty no keep_* rule is set: nothing is deleted; write one to retention, such as keep_last 7");
	vbuf_printf(out, "\nauto_prune %s%s\n", off ? "off: " : "on", off ? off : "");
	for (size_t i = 0; (s = catalog_at(e->cat, i)) != NULL; i++)
		left += s->state == SET_DELETING;
	vbuf_printf(out, "keep %zu\ndelete %zu\nremoving %zu\norphans ", pl->n + pl->n_orphans - pl->n_delete - pl->n_orphans_delete,
		    pl->n_delete + pl->n_orphans_delete, left);
	orphans_count(e, out);
	vbuf_puts(out, "\n");
	holds_line(e, pl, out);
}

static void row(const struct set *s, bool keep, const int w[2], struct vbuf *out)
{
	char t[CLOCK_ISO_MAX];

	clock_iso(s->created, t);
	(void)snprintf(t + 19, sizeof(t) - 19, "Z");
	vbuf_printf(out, "%-8s  %-*s  %-*s  %s  %-8s  ", keep ? "keep" : "delete", w[0], s->name, w[1], s->class, t,
		    set_state_name(s->state));
}

static void widen(int w[2], const struct set *s)
{
	w[0] = (int)strlen(s->name) > w[0] ? (int)strlen(s->name) : w[0];
	w[1] = (int)strlen(s->class) > w[1] ? (int)strlen(s->class) : w[1];
}

static void rows(struct engine *e, const struct plan *pl, struct vbuf *out)
{
	int w[2] = { 4, 5 };
	struct set *s;

	for (size_t i = 0; i < pl->n; i++)
		widen(w, pl->set[i]);
	for (size_t i = 0; i < pl->n_orphans; i++)
		widen(w, pl->orphan[i].s);
	vbuf_printf(out, "%-8s  %-*s  %-*s  %-20s  %-8s  %s\n", "ACTION", w[0], "NAME", w[1], "CLASS", "CREATED", "STATE", "WHY");
	for (size_t i = 0; i < pl->n; i++) {
		row(pl->set[i], pl->out[i].keep, w, out);
		plan_reason(e, pl, i, out);
		vbuf_puts(out, "\n");
	}
	for (size_t i = 0; i < pl->n_orphans; i++) {
		row(pl->orphan[i].s, pl->orphan[i].why != ORPHAN_GOES, w, out);
		orphans_reason(e, &pl->orphan[i], out);
		vbuf_puts(out, "\n");
	}
	for (size_t i = 0; (s = catalog_at(e->cat, i)) != NULL; i++)
		if (s->state == SET_DELETING)
			vbuf_printf(out, "%-8s  %-*s  %-*s  tries %u%s%s\n", "removing", w[0], s->name, w[1], s->class, s->tries,
				    s->held ? ": " : "", s->held ? s->held : "");
}

int prune_show(struct engine *e, const char *set, struct vbuf *out)
{
	struct snap_error err = { 0 };
	struct plan pl;
	int r;

	(void)pthread_mutex_lock(&e->lock);
	orphans_ask(e, false);
	r = plan_make(e, &pl, true, &err);
	if (r == 0) {
		holds_ask(e, &pl);
		head(e, &pl, out);
		rows(e, &pl, out);
	}
	plan_free(&pl);
	(void)pthread_mutex_unlock(&e->lock);
	return r;
}

static int adopt(struct engine *e, struct snap_error *err)
{
	struct prune *p = e->prune;
	int r = 0;

	(void)pthread_mutex_lock(&p->io);
	if (!p->foreign)
		r = snap_error_set(err, -EEXIST, "prune: the sets are this machine's already");
	else
		r = store_identity(p, err);
	if (r == 0) {
		(void)pthread_mutex_lock(&e->lock);
		p->foreign = false;
		e->adopted = true;
		(void)pthread_cond_signal(&e->work);
		(void)pthread_mutex_unlock(&e->lock);
		store_log(p, "adopted by this machine");
	}
	(void)pthread_mutex_unlock(&p->io);
	if (r == 0)
		e->door.ops->event(e->door.fs, "prune", "\"step\":\"adopt\"");
	return r;
}

/* "apply [PLANID]" | "adopt" | "delete NAME force" | "delete ID orphan" */
int prune_write(struct engine *e, const char *set, const char *text, size_t len, struct snap_error *err)
{
	char word[16] = "", a[80] = "", b[16] = "", rest[2];
	int n = sscanf(text, "%15s %79s %15s %1s", word, a, b, rest);

	if (!len || text[len - 1] != '\n')
		return snap_error_set(err, -EINVAL, "prune: the line does not end with a newline: it may be half of one");
	if (memchr(text, '\n', len - 1))
		return snap_error_set(err, -EINVAL, "prune: expected one line");
	if (strcmp(word, "apply") == 0 && n == 1)
		return prune_apply(e, NULL, "an operator", err);
	if (strcmp(word, "apply") == 0 && n == 2 && hex_is(a, PLAN_ID_LEN))
		return prune_apply(e, a, "an operator", err);
	if (strcmp(word, "apply") == 0 && n == 2)
		return snap_error_set(err, -EINVAL, "prune: \"%.40s\" is no plan's id; the first line of prune has it", a);
	if (strcmp(word, "adopt") == 0 && n == 1)
		return adopt(e, err);
	if (strcmp(word, "delete") == 0 && n == 3 && strcmp(b, "force") == 0)
		return prune_force(e, a, err);
	if (strcmp(word, "delete") == 0 && n == 3 && strcmp(b, "orphan") == 0)
		return orphans_delete(e, a, err);
	return snap_error_set(err, -EINVAL, "prune: expected \"apply [PLANID]\", \"adopt\", \"delete NAME force\" or \"delete ID orphan\"");
}

int prune_show_log(struct engine *e, const char *set, struct vbuf *out)
{
	(void)pthread_mutex_lock(&e->prune->io);
	store_read_log(e->prune, out);
	(void)pthread_mutex_unlock(&e->prune->io);
	return 0;
}
