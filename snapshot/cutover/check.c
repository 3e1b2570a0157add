/* snapshot/cutover/check.c - the preflight of a cut-over: asks both servers, changes nothing. See tool.h.
 * Called by: main.c, alone for --check and before every run. */
#include "snapshot/cutover/tool.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static unsigned bad(struct vbuf *out, const char *name, const struct snap_error *err)
{
	vbuf_printf(out, "bad %s: %s\n", name, err->msg);
	return 1;
}

static struct fence_opts fence_opts(const struct cut *c)
{
	return (struct fence_opts){ .allow = c->o.allow, .include_dir = c->o.include_dir, .persist = !c->o.no_persist,
				    .max_ms = c->o.fence_ms };
}

static void each(struct vbuf *out, const char *level, const char *text, const struct vbuf *lines)
{
	for (const char *p = vbuf_text(lines); *p;) {
		size_t n = strcspn(p, "\n");

		vbuf_printf(out, "%s account: %s", level, text);
		vbuf_add(out, p, n);
		vbuf_puts(out, "\n");
		p += n + (p[n] == '\n');
	}
}

static int who_could(struct cut *c, struct side *s, struct vbuf *found, struct snap_error *err)
{
	const struct fence_opts o = fence_opts(c);

	return *s->control ? control_check(c, s, found, err) : fence_check(s->m, &o, found, err);
}

/* Who could write although A is fenced; and at B, where read_only keeps clients out until the cut-over. */
static unsigned check_accounts(struct cut *c, struct vbuf *out)
{
	struct vbuf found = VBUF_INIT;
	struct snap_error err = { 0 };
	unsigned n = 0;

	if (who_could(c, &c->a, &found, &err) < 0)
		n += bad(out, "fence", &err);
	else if (!found.len)
		vbuf_puts(out, "ok fence: A can be fenced, and no account could write all the same\n");
	n += *c->a.control && found.len;
	each(out, "bad", "could write at A all the same: ", &found);
	vbuf_free(&found);
	snap_error_clear(&err);
	(void)who_could(c, &c->b, &found, &err);
	each(out, "warn", "could write at B now, although it is read-only: ", &found);
	vbuf_free(&found);
	return n;
}

/* Of sides that are stillfs. B may be fenced by an earlier cut-over away from it; another fence is somebody's own. */
static unsigned check_control(struct cut *c, struct vbuf *out)
{
	struct snap_error err = { 0 };
	char state[24] = "";
	bool retired = false;

	if (*c->a.control)
		vbuf_printf(out, "ok control: A is fenced by its stillfs, %s%s\n", c->a.control,
			    *c->o.allow || *c->o.include_dir ? ", and by its options: --allow and --fence-include do not count there" : "");
	if (!*c->b.control)
		return 0;
	if (control_state(c, &c->b, state, &retired, &err) < 0)
		return bad(out, "control", &err);
	if (strcmp(state, "off") == 0)
		return 0;
	vbuf_printf(out, "%s control: B is fenced by its stillfs, %s/fence is %s%s\n", retired ? "ok" : "bad", c->b.control, state,
		    retired ? " and retired: it is taken down when B is opened" : ", and no cut-over has put that up: write off there first");
	return !retired;
}

/* Does the fence outlive a restart of A? */
static unsigned check_persist_control(const struct side *s, bool mariadb, struct vbuf *out)
{
	if (strcmp(s->persist, "no") == 0)
		vbuf_puts(out, "warn persist: fence.persist=no in A's stillfs: after a restart of A clients can write until it looks, up to a "
			       "second\n");
	else if (mariadb && !*s->include) {
		vbuf_puts(out, "bad persist: MariaDB keeps read_only over a restart only by a file: set fence.mariadb_include in A's stillfs to "
			       "a directory that A's configuration includes, or fence.persist=no\n");
		return 1;
	}
	return 0;
}

static unsigned check_persist(struct cut *c, bool mariadb, struct vbuf *out)
{
	if (*c->a.control)
		return check_persist_control(&c->a, mariadb, out);
	if (c->o.no_persist) {
		vbuf_puts(out, "warn persist: --no-persist: a restart of A opens it to clients; put read_only=ON into its configuration\n");
		return 0;
	}
	if (!mariadb || *c->o.include_dir)
		return 0;
	vbuf_puts(out, "bad persist: MariaDB keeps read_only over a restart only by a file: --fence-include DIR, a directory that A's "
		       "configuration includes (on this host), or --no-persist\n");
	return 1;
}

unsigned check_all(struct cut *c, struct vbuf *out)
{
	struct facts a = { .grants = VBUF_INIT }, b = { .grants = VBUF_INIT };
	struct link b_of_a = { 0 }, a_of_b = { 0 };
	struct snap_error err = { 0 }, hook = { 0 };
	struct side *const side[] = { &c->a, &c->b };
	unsigned n = 0;
	int r = 0;

	for (int i = 0; i < 2; i++) {
		struct snap_error why = { 0 };

		if (side_reach(side[i], &c->o, &why) < 0)
			n += bad(out, "server", &why);
		else
			vbuf_printf(out, "ok server: %s is %s at %s\n", side[i]->word, side[i]->m->text, side[i]->host);
	}
	if (n)
		return n;
	/* B first: what it has from A, A has had */
	r = facts_read(&c->b, &b, &err);
	r = r < 0 ? r : facts_read(&c->a, &a, &err);
	r = r < 0 ? r : facts_link(c->b.m, &a, &b_of_a, &err);
	r = r < 0 ? r : facts_link(c->a.m, &b, &a_of_b, &err);
	if (r < 0) {
		n += bad(out, "question", &err);
	} else {
		n += compare_facts(&a, &b, &b_of_a, &a_of_b, &c->o, out);
		replicas_check(c, &a, &b, &a_of_b, out);
		n += check_accounts(c, out);
		n += check_control(c, out);
		n += check_persist(c, a.mariadb, out);
		if (hook_check(c->o.hook, &hook) < 0)
			n += bad(out, "hook", &hook);
	}
	facts_free(&a);
	facts_free(&b);
	return n;
}
