/* snapshot/cutover/report.c - who must still be sent to B: the sessions that were ended at A, those that are there now, and
 * accounts whose writes were refused. See tool.h. Owns: N.sessions in the journal's directory, a line for each session.
 * Called by: ops.c while sessions end; main.c at the end and for status. Errors: what cannot be told is left out and said. */
#include "snapshot/cutover/tool.h"
#include "base/clock.h"

#include <errno.h>
#include <mysqld_error.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LINES_MAX 100000u

static void sessions_path(const struct cut *c, char path[600])
{
	(void)snprintf(path, 600, "%s/%u.sessions", c->o.journal, cutlog_id(c->log));
}

void report_session(struct cut *c, const struct fence_session *s)
{
	struct vbuf line = VBUF_INIT;
	char path[600];
	FILE *f;

	sessions_path(c, path);
	vbuf_word(&line, s->user, 80);
	vbuf_puts(&line, " ");
	vbuf_word(&line, s->host, strrchr(s->host, ':') ? (size_t)(strrchr(s->host, ':') - s->host) : 200); /* without its port */
	vbuf_puts(&line, " ");
	vbuf_word(&line, s->program, 80);
	f = fopen(path, "ae");
	if (f)
		(void)fprintf(f, "%s\n", vbuf_text(&line));
	if (!f || fclose(f) != 0)
		tool_say("%s: %s", path, strerror(errno));
	vbuf_free(&line);
}

/* Written anew: it is the daemon that adds to the list. */
void report_sessions(struct cut *c, const char *lines)
{
	char path[600], user[80], host[200], program[80];
	size_t n;
	FILE *f;

	sessions_path(c, path);
	f = fopen(path, "we");
	for (const char *p = lines; f && *p; p += n + (p[n] == '\n')) {
		n = strcspn(p, "\n");
		if (sscanf(p, "ended_session %79[^@\n]@%199s program=%79s", user, host, program) == 3)
			(void)fprintf(f, "%s %s %s\n", user, host, program);
	}
	if (!f || fclose(f) != 0)
		tool_say("%s: %s", path, strerror(errno));
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "USER HOST PROGRAM" lines, each once with how often. */
static void print_ended(struct cut *c)
{
	char path[600], **line = calloc(LINES_MAX, sizeof(*line)), *text = NULL;
	size_t n = 0, cap = 0;
	FILE *f;

	sessions_path(c, path);
	f = line ? fopen(path, "re") : NULL;
	while (f && n < LINES_MAX && getline(&text, &cap, f) > 0) {
		text[strcspn(text, "\n")] = '\0';
		line[n] = strdup(text);
		n += line[n] != NULL;
	}
	if (f)
		(void)fclose(f);
	if (n)
		qsort(line, n, sizeof(*line), by_text);
	for (size_t i = 0, k; i < n; i = k) {
		for (k = i; k < n && strcmp(line[i], line[k]) == 0; k++)
			;
		(void)printf("ended %s %zu\n", line[i], k - i);
	}
	for (size_t i = 0; i < n; i++)
		free(line[i]);
	free(line);
	free(text);
}

static void print_rows(struct cut *c, const char *word, const char *sql)
{
	struct snap_error err = { 0 };
	MYSQL_RES *res = NULL;
	MYSQL_ROW row;

	if (my_query(c->a.m, sql, "ask A who is there", &res, &err) < 0) {
		tool_say("A: %s", err.msg);
		return;
	}
	while ((row = mysql_fetch_row(res))) {
		struct vbuf line = VBUF_INIT;

		for (int i = 0; i < 3; i++) {
			vbuf_puts(&line, " ");
			vbuf_word(&line, row[i] ? row[i] : "", 256);
		}
		(void)printf("%s%s\n", word, vbuf_text(&line));
		vbuf_free(&line);
	}
	mysql_free_result(res);
}

/* Seconds since the fence stood, -1: not known. */
static long fenced_for(const struct cut *c)
{
	for (size_t i = 0; i < cutlog_lines(c->log); i++) {
		const struct cutlog_line l = cutlog_line(c->log, i);
		struct tm tm = { 0 };

		if (strcmp(l.step, "fenced") == 0 && strptime(l.time, "%Y-%m-%dT%H:%M:%S", &tm))
			return (long)(clock_utc().tv_sec - timegm(&tm));
	}
	return -1;
}

static void print_refused(struct cut *c, long since)
{
	char sql[640];

	(void)snprintf(sql, sizeof(sql), "SELECT USER, HOST, SUM_ERROR_RAISED FROM performance_schema.events_errors_summary_by_account_by_error "
					 "WHERE ERROR_NUMBER = %d AND USER IS NOT NULL AND SUM_ERROR_RAISED > 0 AND LAST_SEEN >= NOW() - "
					 "INTERVAL %ld SECOND ORDER BY 1, 2", ER_OPTION_PREVENTS_STATEMENT, since + 1);
	print_rows(c, "refused", sql);
}

void report_print(struct cut *c)
{
	struct snap_error err = { 0 };
	long since = fenced_for(c);

	if (control_by(c, "A") && *c->a.control) /* a client that a restart of the server let in was ended later */
		control_sessions(c, &c->a);
	print_ended(c);
	if (since < 0 || side_reach(&c->a, &c->o, &err) < 0)
		return;
	print_rows(c, "still", "SELECT USER, SUBSTRING_INDEX(HOST, ':', 1), COUNT(*) FROM information_schema.PROCESSLIST WHERE ID <> "
			       "CONNECTION_ID() AND COMMAND NOT IN ('Binlog Dump', 'Binlog Dump GTID', 'Daemon', 'Slave_IO', 'Slave_SQL', "
			       "'Slave_worker', 'Connect') AND USER NOT IN ('system user', 'event_scheduler') GROUP BY 1, 2 ORDER BY 1, 2");
	if (!c->a.m->mariadb) /* that one counts no errors by account */
		print_refused(c, since);
	replicas_print(c);
}
