/* snapshot/cutover/compare.c - what two servers said of themselves, judged: can A's writes go to B? Pure. See tool.h.
 * Called by: check.c; tests. Each finding has a name, by which --accept makes a bad one a warning where that can be
 * answered for: what would lose a transaction, or have two servers write, cannot. */
#include "snapshot/cutover/tool.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN 200

struct judge {
	const struct opts *o;
	struct vbuf *out;
	unsigned bad;
};

bool compare_accepted(const char *list, const char *name)
{
	size_t n = strlen(name);

	for (const char *p = list; *p; p += strcspn(p, ",") + (p[strcspn(p, ",")] == ','))
		if (strcspn(p, ",") == n && strncmp(p, name, n) == 0)
			return true;
	return false;
}

__attribute__((format(printf, 4, 5))) static void say(struct judge *j, const char *level, const char *name, const char *fmt, ...)
{
	bool bad = strcmp(level, "bad") == 0;
	char text[640];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < ' ')
			*p = ' ';
	j->bad += bad;
	vbuf_printf(j->out, "%s %s: %s\n", level, name, text);
}

/* Bad, or a warning where the operator answers for it. */
static const char *unless_accepted(const struct judge *j, const char *name)
{
	return compare_accepted(j->o->accept, name) ? "warn" : "bad";
}

static bool on(const char *v)
{
	return strcasecmp(v, "ON") == 0 || strcmp(v, "1") == 0;
}

static void judge_kind(struct judge *j, const struct facts *a, const struct facts *b)
{
	if (a->mariadb != b->mariadb)
		say(j, "bad", "kind", "A is %s and B is %s: their transactions cannot be compared", a->text, b->text);
	else if (b->version / 100 < a->version / 100)
		say(j, unless_accepted(j, "version"), "version", "B (%s) is older than A (%s): replication to an older server is not "
								 "supported, and there is no way back for new features", b->text, a->text);
	else
		say(j, "ok", "version", "A %s, B %s", a->text, b->text);
	if (strcmp(a->id, b->id) == 0 || (*a->uuid && strcmp(a->uuid, b->uuid) == 0))
		say(j, "bad", "identity", "A and B are the same server, or have one server_uuid: %s; remove auto.cnf of the copy", a->id);
	else if (strcmp(a->server_id, b->server_id) == 0)
		say(j, "bad", "identity", "A and B both have server_id %s", a->server_id);
	else
		say(j, "ok", "identity", "server_id %s and %s", a->server_id, b->server_id);
}

static void judge_gtid(struct judge *j, const struct facts *a, const struct facts *b, const struct link *l)
{
	const struct facts *const f[] = { a, b };
	bool fine = true;

	for (int i = 0; i < 2; i++) {
		const char *w = i ? "B" : "A";

		if (!on(f[i]->log_bin))
			say(j, "bad", "gtid", "%s has no binary log", w), fine = false;
		else if (!f[i]->mariadb && strcmp(f[i]->gtid_mode, "ON") != 0)
			say(j, "bad", "gtid", "%s has gtid_mode %s: set it ON, step by step as the manual says", w, f[i]->gtid_mode), fine = false;
		else if (f[i]->mariadb && !on(f[i]->log_updates))
			say(j, "bad", "gtid", "%s has log_slave_updates off: its gtid_binlog_state does not hold what it replicated", w),
				fine = false;
	}
	if (fine && l->there && !l->gtid)
		say(j, "bad", "gtid", "B follows A by file and position: %s", a->mariadb ? "CHANGE MASTER TO MASTER_USE_GTID=slave_pos" :
										       "CHANGE REPLICATION SOURCE TO SOURCE_AUTO_POSITION=1");
	else if (fine)
		say(j, "ok", "gtid", "in use on both");
}

static void judge_link(struct judge *j, const struct link *l)
{
	char *end;
	unsigned long lag = strtoul(l->lag, &end, 10);

	if (!l->there) {
		say(j, "bad", "replication", "B has no channel that has reached A: make it A's replica first");
		return;
	}
	if (!l->io || !l->sql || *l->error)
		say(j, "bad", "replication", "B's channel \"%s\" from A: receiver %s, applier %s%s%s", l->name, l->io ? "runs" : "does not run",
		    l->sql ? "runs" : "does not run", *l->error ? ": " : "", l->error);
	else
		say(j, "ok", "replication", "B's channel \"%s\" from A runs", l->name);
	if (!*l->lag || *end || end == l->lag)
		say(j, "bad", "lag", "B does not tell how far it is behind A");
	else if (lag > j->o->max_lag_s)
		say(j, "bad", "lag", "B is %lu s behind A, more than --max-lag %u", lag, j->o->max_lag_s);
	else
		say(j, "ok", "lag", "B is %lu s behind A", lag);
	if (*l->delay && strcmp(l->delay, "0") != 0)
		say(j, "bad", "delay", "B's applier waits %s s on purpose: set its delay to 0", l->delay);
	if (*l->filter)
		say(j, unless_accepted(j, "filters"), "filters", "B leaves out what A has: %s", l->filter);
}

/* What comes from elsewhere while A is fenced is more than A had when its last transaction was read. */
static void judge_channels(struct judge *j, const char *who, const char *other, const struct link *l)
{
	if (l->others_run)
		say(j, unless_accepted(j, "channels"), "channels", "%s follows others than %s, by channel %s: a transaction that comes from there "
		    "meanwhile ends the cut-over; stop the applier until it has ended, and let both follow that source then", who, other, l->others);
	else if (*l->others)
		say(j, "warn", "channels", "%s follows others than %s, by channel %s: start its applier afterwards, and let both follow that "
		    "source", who, other, l->others);
}

static void judge_sets(struct judge *j, const struct facts *a, const struct facts *b)
{
	struct snap_error err = { 0 };
	struct gtid_set *only_b = gtid_subtract(b->executed, a->executed, &err), *only_a = gtid_subtract(a->executed, b->executed, &err);
	struct vbuf t = VBUF_INIT;

	if (only_b && on(b->strict) && a->slave_pos)
		gtid_drop_before(only_b, a->slave_pos, b->executed);
	if (only_a && on(a->strict) && b->slave_pos)
		gtid_drop_before(only_a, b->slave_pos, a->executed);
	if (!only_a || !only_b) {
		say(j, "bad", "transactions", "%s", err.msg);
	} else if (!gtid_empty(only_b)) {
		gtid_print(only_b, &t);
		say(j, "bad", "transactions", "B has executed what A has not: %.*s; find out what it is, and bring it to A or take B anew", SHOWN,
		    vbuf_text(&t));
	} else if (!gtid_empty(only_a)) {
		gtid_print(only_a, &t);
		say(j, "ok", "transactions", "B has nothing that A has not, and lacks %.*s now", SHOWN, vbuf_text(&t));
	} else {
		say(j, "ok", "transactions", "both have executed the same");
	}
	vbuf_free(&t);
	gtid_free(only_a);
	gtid_free(only_b);
}

/* Each follows the other: numbers that one gave out must not come from the other. */
static void judge_masters(struct judge *j, const struct facts *a, const struct facts *b)
{
	unsigned long inc = strtoul(a->increment, NULL, 10);

	if (a->mariadb && strcmp(a->domain, b->domain) == 0)
		say(j, unless_accepted(j, "domain"), "domain", "A and B follow each other and both have gtid_domain_id %s: transactions of both "
							       "in one domain have no order; give them different ones", a->domain);
	if (inc < 2 || strcmp(a->increment, b->increment) != 0 ||
	    strtoul(a->offset, NULL, 10) % inc == strtoul(b->offset, NULL, 10) % inc)
		say(j, unless_accepted(j, "auto-increment"), "auto-increment", "A and B follow each other, and can give out the same "
		    "AUTO_INCREMENT values: increment %s and %s, offset %s and %s; set auto_increment_increment=2 on both, and "
		    "auto_increment_offset 1 and 2", a->increment, b->increment, a->offset, b->offset);
	else
		say(j, "ok", "auto-increment", "increment %s, offsets %s and %s", a->increment, a->offset, b->offset);
}

/* What follows A afterwards gets B's writes from A's binary log; what is pointed at B has to find there what it lacks of A's. */
static void judge_updates(struct judge *j, const struct facts *a, const struct facts *b)
{
	if (a->mariadb)
		return; /* refused already: its GTID state would lack them */
	if (!on(a->log_updates))
		say(j, "warn", "updates", "A does not write what it gets from B into its binary log (log_replica_updates=OFF): what follows A "
					  "gets nothing of B's");
	if (!on(b->log_updates))
		say(j, "warn", "updates", "B does not write what it gets from A into its binary log (log_replica_updates=OFF): a replica of A "
					  "that is pointed at B while it lacks some of that does not find it there");
}

static void judge_state(struct judge *j, const struct facts *a, const struct facts *b)
{
	if (on(a->read_only) || on(a->super_read_only))
		say(j, "bad", "writes", "A is read-only now: is it A that takes the writes?");
	if (!on(b->read_only) && !on(b->super_read_only))
		say(j, "bad", "writes", "B is not read-only, so both take writes: SET %s on B first, and see that no client writes there",
		    b->mariadb ? "GLOBAL read_only=ON" : "PERSIST super_read_only=ON");
	else
		say(j, "ok", "writes", "B is read-only");
	if (a->prepared_xa)
		say(j, "bad", "xa", "A has %u prepared XA transactions, which the fence cannot end: commit or roll them back (XA RECOVER)",
		    a->prepared_xa);
	if (*a->binlog_filter)
		say(j, unless_accepted(j, "filters"), "filters", "A's binary log leaves out or is restricted to: %s", a->binlog_filter);
	if (on(a->events) && !on(b->events))
		say(j, "warn", "events", "A runs the event scheduler, B does not: SET %s event_scheduler=ON on B afterwards",
		    b->mariadb ? "GLOBAL" : "PERSIST");
	if (on(a->semi_sync) && !on(b->semi_sync))
		say(j, "warn", "semi-sync", "A waits for semi-synchronous replicas, B will not");
	if (a->mariadb && !on(a->strict))
		say(j, "warn", "strict", "gtid_strict_mode is off on A: the order of a domain's transactions is not checked");
	say(j, "ok", "clients", "%u sessions at A now, which will be ended; %u at B", a->clients, b->clients);
}

static void judge_grants(struct judge *j, const struct facts *b)
{
	const char *g = vbuf_text(&b->grants);
	const char *read_only = b->mariadb ? "READ_ONLY ADMIN" : "SYSTEM_VARIABLES_ADMIN", *ends = b->mariadb ? "CONNECTION ADMIN" :
													      "CONNECTION_ADMIN";

	if (!my_has_grant(g, read_only) && !my_has_grant(g, "SUPER") && !(b->mariadb && my_has_grant(g, "READ ONLY ADMIN")))
		say(j, "bad", "privileges", "our account at B may not make it writable: GRANT %s ON *.* TO it",
		    b->mariadb ? "READ ONLY ADMIN" : read_only);
	else if (!my_has_grant(g, ends) && !my_has_grant(g, "SUPER"))
		say(j, "bad", "privileges", "our account at B may not end sessions, which a resolve needs: GRANT %s ON *.* TO it", ends);
	else
		say(j, "ok", "privileges", "our account at B may make it writable");
}

unsigned compare_facts(const struct facts *a, const struct facts *b, const struct link *b_of_a, const struct link *a_of_b,
		       const struct opts *o, struct vbuf *out)
{
	struct judge j = { .o = o, .out = out };

	judge_kind(&j, a, b);
	if (a->mariadb != b->mariadb)
		return j.bad;
	judge_gtid(&j, a, b, b_of_a);
	judge_link(&j, b_of_a);
	judge_channels(&j, "A", "B", a_of_b);
	if (b_of_a->there) /* else one of them may be that from A */
		judge_channels(&j, "B", "A", b_of_a);
	judge_sets(&j, a, b);
	if (a_of_b->there)
		judge_masters(&j, a, b);
	else
		say(&j, "warn", "way-back", "A does not follow B: afterwards it falls behind; make it B's replica then");
	judge_updates(&j, a, b);
	judge_state(&j, a, b);
	judge_grants(&j, b);
	return j.bad;
}
