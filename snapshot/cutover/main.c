/* snapshot/cutover/main.c - the program stillfs-cutover: commands, the journal read back, what the operator is told. See
 * tool.h. Exit codes: 0 done; 1 refused or given up, and A takes the writes as before; 2 wrong usage; 3 the operator has to
 * act: nobody takes writes, or it is not known; 4 B takes the writes, and something is left to be done. */
#include "snapshot/cutover/args.h"
#ifdef STILLFS_MONGODB
#include "snapshot/cutover/mongo.h"
#endif
#include "base/fault.h"
#include "version.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

volatile int tool_stop;

static void on_signal(int sig)
{
	tool_stop = sig;
}

void tool_say(const char *fmt, ...)
{
	char text[1024];
	size_t n;
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	for (n = strlen(text); n && text[n - 1] == ' ';)
		text[--n] = '\0';
	(void)fprintf(stderr, "%s\n", text);
}

void tool_findings(struct vbuf *out, bool all)
{
	for (char *save = NULL, *p = out->data ? strtok_r(out->data, "\n", &save) : NULL; p; p = strtok_r(NULL, "\n", &save))
		if (all || strncmp(p, "ok ", 3) != 0)
			(void)printf("%s\n", p);
	(void)fflush(stdout);
	vbuf_free(out);
}

void tool_journal(const struct cut *c, const char *state)
{
	(void)printf("cutover %u\nstate %s\nrunning %s\n", cutlog_id(c->log), state, cutlog_busy(c->log) ? "yes" : "no");
	for (size_t i = 0; i < cutlog_lines(c->log); i++) {
		const struct cutlog_line l = cutlog_line(c->log, i);

		(void)printf("step %s %s %s\n", l.time, l.step, l.text);
	}
}

static enum steps_at where(const struct cut *c)
{
	enum steps_at at = AT_END;

	for (size_t i = 0; i < cutlog_lines(c->log); i++)
		at = steps_after(at, cutlog_line(c->log, i).step);
	return at;
}

/* How it ended, in a sentence and an exit code. wished: the operator asked for the way back. */
static int tell(struct cut *c, bool wished, enum steps_result r, const struct snap_error *err)
{
	switch (r) {
	case STEPS_DONE:
		(void)printf("cutover %u done: B (%s) takes the writes, A (%s) is retired: %s\n", cutlog_id(c->log), c->b.host, c->a.host,
			     cutlog_last(c->log, "retired") ? cutlog_last(c->log, "retired") : "");
		report_print(c);
		return 0;
	case STEPS_DONE_BUT:
		tool_say("stillctl: B takes the writes, but: %s; then stillctl cutover resume (--skip-hook: without the hook)", err->msg);
		report_print(c);
		return 4;
	case STEPS_ABORTED:
		tool_say("stillctl: cut-over given up, A takes the writes as before: %s", err->code ? err->msg : "resolved");
		return wished && (!err->code || err->code == -ECANCELED) ? 0 : 1;
	case STEPS_STUCK:
		tool_say("stillctl: A IS STILL FENCED, nobody takes writes: %s; when A answers: stillctl cutover abort", err->msg);
		return 3;
	case STEPS_UNCERTAIN:
		tool_say("stillctl: UNCERTAIN whether B takes writes; A stays fenced: %s; look at B, then stillctl cutover resolve "
			 "--writable B, or --writable A", err->msg);
		return 3;
	case STEPS_REFUSED:
	default:
		tool_say("stillctl: %s", err->msg);
		return 1;
	}
}

static struct steps machine(struct cut *c)
{
	return (struct steps){ .ops = &ops_sql, .c = c, .catch_up_ms = c->o.catch_up_ms, .verify_ms = 2 * 1000 * c->o.io_s,
			       .skip_hook = c->o.skip_hook };
}

static int check(struct cut *c, bool print)
{
	struct vbuf out = VBUF_INIT;
	unsigned n = check_all(c, &out);

	if (vbuf_error(&out)) {
		tool_say("stillctl: the preflight: out of memory");
		return 1;
	}
	tool_findings(&out, print);
	return n ? 1 : 0;
}

static int run(struct cut *c, struct snap_error *err)
{
	const struct steps s = machine(c);
	struct vbuf text = VBUF_INIT;
	char ids[360];
	int r;

	if (check(c, false) != 0) {
		tool_say("stillctl: nothing was changed: what is bad above has to be mended first");
		return 1;
	}
	args_put(c, &text);
	r = vbuf_error(&text);
	r = r < 0 ? snap_error_set(err, r, "out of memory") : cutlog_begin(c->log, vbuf_text(&text), err);
	vbuf_free(&text);
	(void)snprintf(ids, sizeof(ids), "%s %s", c->a.id, c->b.id);
	r = r < 0 ? r : cutlog_add(c->log, "servers", ids, err);
	if (r < 0) {
		tool_say("stillctl: nothing was changed: %s", err->msg);
		return 1;
	}
	FAULT("cut.begun");
	return tell(c, false, steps_run(&s, AT_BEGUN, err), err);
}

/* The sides as they were named, and the servers that they led to. */
static int recall(struct cut *c, struct snap_error *err)
{
	const char *begin = cutlog_last(c->log, "begin"), *servers = cutlog_last(c->log, "servers");
	int r = args_recall(c, begin ? begin : "", err);

	if (r == 0 && servers)
		(void)sscanf(servers, "%159s %159s", c->a.id, c->b.id);
	return r;
}

static int go_on(struct cut *c, const struct args *a, struct snap_error *err)
{
	const struct steps s = machine(c);
	enum steps_at at = where(c);

	if (at == AT_END) {
		tool_say("stillctl: no cut-over is under way in %s", c->o.journal);
		return 1;
	}
	switch (a->command) {
	case CMD_ABORT:
		return tell(c, true, steps_abort(&s, at, err), err);
	case CMD_RESOLVE:
		return tell(c, true, steps_resolve(&s, at, a->b, c->o.other_down, c->o.lose, err), err);
	case CMD_RESUME:
	case CMD_RUN:
	case CMD_CHECK:
	case CMD_STATUS:
	case CMD_REOPEN:
	default:
		return tell(c, false, steps_run(&s, at, err), err);
	}
}

static const char *asked(struct cut *c, struct side *s)
{
	struct snap_error err = { 0 };
	bool yes = false;

	if (side_reach(s, &c->o, &err) < 0 || facts_writable(s->m, &yes, &err) < 0)
		return "does not answer";
	return yes ? "takes writes" : "is read-only";
}

static int status(struct cut *c)
{
	unsigned id = cutlog_id(c->log);
	enum steps_at at = where(c);

	for (unsigned i = 1; i < id; i++) { /* those before, by how they ended */
		struct snap_error err = { 0 };

		if (cutlog_select(c->log, i, &err) == 0 && cutlog_lines(c->log))
			(void)printf("before %u %s %s\n", i, cutlog_line(c->log, 0).time, cutlog_last(c->log, "end") ? cutlog_last(c->log, "end") : "-");
		else if (err.code)
			tool_say("%s", err.msg);
	}
	if (id && cutlog_select(c->log, id, &(struct snap_error){ 0 }) < 0)
		return 1;
	tool_journal(c, id ? steps_name(at) : "none");
	if (!id)
		return 0;
	(void)printf("A %s %s\n", c->a.given, asked(c, &c->a));
	(void)printf("B %s %s\n", c->b.given, asked(c, &c->b));
	report_print(c);
	return 0;
}

/* Take away the fence that a cut-over left on a retired server. */
static int reopen(struct cut *c, struct snap_error *err)
{
	int r;

	if (where(c) != AT_END)
		r = snap_error_set(err, -EBUSY, "a cut-over is under way: end it with resume, abort or resolve");
	else if (!c->o.force)
		r = snap_error_set(err, -EPERM, "this server was retired, and another takes its writes: --force opens it all the same, and then "
						"two servers are writable unless the other is down or fenced");
	else
		r = ops_sql.unfence(c, err);
	if (r < 0)
		tool_say("stillctl: %s", err->msg);
	return r < 0 ? 1 : 0;
}

#ifdef STILLFS_MONGODB
/* Sides are servers of SQL, or members of a MongoDB replica set: told by what the file of --from holds. */
static bool of_mongodb(struct cut *c)
{
	const char *begin = c->log ? cutlog_last(c->log, "begin") : NULL;
	struct snap_error ignored = { 0 };

	if (!*c->a.given && begin)
		(void)args_recall(c, begin, &ignored);
	return *c->a.file && mongo_cut_is_uri(c->a.file);
}
#endif

static int command(struct cut *c, const struct args *a, struct snap_error *err)
{
	bool reads = a->command == CMD_CHECK || a->command == CMD_STATUS;
	int r = 0;

	if (a->command != CMD_CHECK) {
		c->log = cutlog_open(c->o.journal, !reads, err);
		if (!c->log)
			return 1;
	}
#ifdef STILLFS_MONGODB
	if (of_mongodb(c))
		return mongo_command(c, a, err);
#endif
	if (a->command == CMD_CHECK)
		return check(c, true);
	if (a->command == CMD_REOPEN)
		return reopen(c, err);
	if (a->command == CMD_RUN)
		return run(c, err);
	if (cutlog_lines(c->log))
		r = recall(c, err);
	if (r < 0)
		tool_say("stillctl: %s", err->msg);
	if (r < 0 && a->command != CMD_STATUS)
		return 1;
	return a->command == CMD_STATUS ? status(c) : go_on(c, a, err);
}

int main(int argc, char **argv)
{
	static struct cut c;
	static struct args a;
	struct sigaction sa = { .sa_handler = on_signal };
	struct snap_error err = { 0 };
	int r;

	(void)signal(SIGCHLD, SIG_DFL); /* ignored by who started us, the end of our children would not be seen */
	if (argc == 2 && strcmp(argv[1], "--version") == 0)
		return printf("stillfs-cutover %s\n", STILLFS_VERSION) < 0;
#ifdef STILLFS_FAULT_POINTS
	fault_setup();
#endif
	(void)sigaction(SIGINT, &sa, NULL);
	(void)sigaction(SIGTERM, &sa, NULL);
	(void)sigaction(SIGHUP, &sa, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
	(void)setvbuf(stdout, NULL, _IOLBF, 0);
	r = args_read(&c, &a, argc - 1, argv + 1, &err);
	if (r < 0) {
		tool_say("stillctl: %s", err.msg);
		return err.code == -EINVAL ? 2 : 1;
	}
	r = command(&c, &a, &err);
	if (!c.log && err.code && a.command != CMD_CHECK)
		tool_say("stillctl: %s", err.msg);
	side_close(&c.a);
	side_close(&c.b);
	vbuf_free(&c.a_slave_pos);
	cutlog_close(c.log);
	return r;
}
