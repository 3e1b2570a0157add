/* tools/stillctl/restore_advice.c - what an operator does with what was restored, in the dialect of its server. See
 * restore.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "ctl.h"
#include "restore.h"

/* The value of "KEY value" at or after `lines`; "" when there is none. In a static buffer of its own, one of sixteen. */
static const char *value(const char *lines, const char *key)
{
	static char buf[16][4096];
	static unsigned turn;
	char *out = buf[turn++ % 16];
	size_t n = strlen(key);

	*out = '\0';
	for (const char *l = lines; l && *l; l = strchr(l, '\n') ? strchr(l, '\n') + 1 : NULL)
		if (strncmp(l, key, n) == 0 && l[n] == ' ') {
			(void)snprintf(out, sizeof(buf[0]), "%.*s", (int)strcspn(l + n + 1, "\n"), l + n + 1);
			break;
		}
	return out;
}

/* Whom to follow. port: "" is not said; channel: of several, "" is the one without a name. */
struct whom {
	const char *host, *port, *channel;
};

static void options(const struct whom *w, const char *word)
{
	printf("%s_HOST='%s', ", word, w->host);
	if (*w->port)
		printf("%s_PORT=%s, ", word, w->port);
	printf("%s_USER='...', %s_PASSWORD='...',\n      ", word, word);
}

static void change_mariadb(const struct whom *w)
{
	printf("    CHANGE MASTER %s%s%sTO ", *w->channel ? "'" : "", w->channel, *w->channel ? "' " : "");
	options(w, "MASTER");
}

/* gtid: "" when it has none, file: likewise. once: gtid_slave_pos is the server's, and was set for another channel. */
static void statement_mariadb(const struct whom *w, const char *gtid, bool once, const char *file, const char *pos)
{
	if (*gtid) {
		if (!once)
			printf("    SET GLOBAL gtid_slave_pos = '%s';\n", gtid);
		change_mariadb(w);
		printf("MASTER_USE_GTID=slave_pos;\n");
	}
	if (*file) {
		printf("%s", *gtid ? "  or, without GTIDs:\n" : "");
		change_mariadb(w);
		printf("MASTER_LOG_FILE='%s', MASTER_LOG_POS=%s, MASTER_USE_GTID=no;\n", file, pos);
	}
}

/* The words changed with 8.0.23. gtid: what it has executed; "": only by file. */
static void statement_mysql(const struct whom *w, const char *gtid, const char *file, const char *pos, const char *version)
{
	unsigned a = 0, b = 0, c = 0;
	const char *word, *change;
	char channel[128] = "";

	(void)sscanf(version, "%u.%u.%u", &a, &b, &c);
	word = a * 10000 + b * 100 + c >= 80023 ? "SOURCE" : "MASTER";
	change = *word == 'S' ? "CHANGE REPLICATION SOURCE" : "CHANGE MASTER";
	if (*w->channel)
		(void)snprintf(channel, sizeof(channel), " FOR CHANNEL '%.100s'", w->channel);
	if (*gtid) {
		printf("    %s TO ", change);
		options(w, word);
		printf("%s_AUTO_POSITION=1%s;\n      (the restored server has executed %s)\n", word, channel, gtid);
	}
	if (*file) {
		printf("%s    %s TO ", *gtid ? "  or, without GTIDs:\n" : "", change);
		options(w, word);
		printf("%s_LOG_FILE='%s', %s_LOG_POS=%s%s;\n", word, file, word, pos, channel);
	}
}

/* s: from its source_channel on. By GTID the place in the source's files can be one that is behind, and is not shown. */
static void own_source(const char *p, const char *s, bool mariadb, bool once)
{
	const char *channel = value(s, "source_channel");
	const char *file = value(s, "source_log_file"), *pos = value(s, "source_log_pos");
	bool gtid = strcmp(value(s, "source_auto_position"), "yes") == 0;
	struct whom w = { .host = value(s, "source_host"), .port = value(s, "source_port"), .channel = channel };

	printf("To make it a replica of that server's own source (channel %s):\n", channel);
	if (strcmp(channel, "default") == 0)
		w.channel = "";
	if (mariadb)
		statement_mariadb(&w, value(p, "gtid_slave_pos"), once, gtid ? "" : file, pos);
	else
		statement_mysql(&w, gtid ? value(p, "gtid_executed") : "", gtid ? "" : file, pos, value(p, "server_version"));
}

static void replication(const char *p)
{
	const char *file = value(p, "binlog_file"), *pos = value(p, "binlog_pos");
	bool mariadb = strcmp(value(p, "server"), "mariadb") == 0, once = false;
	const struct whom that = { .host = "THAT SERVER", .port = "", .channel = "" };

	if (strstr(p, "position unknown until verified")) {
		printf("The position is unknown until verified: run `stillctl verify` on the set before making a replica of it.\n");
		return;
	}
	if (*file || *value(p, "gtid_executed")) {
		printf("To make it a replica of the server it was taken from:\n");
		if (mariadb)
			statement_mariadb(&that, value(p, "gtid_binlog_pos"), false, file, pos);
		else
			statement_mysql(&that, value(p, "gtid_executed"), file, pos, value(p, "server_version"));
	}
	for (const char *s = strstr(p, "source_channel "); s; s = strstr(s + 1, "\nsource_channel ")) {
		s += *s == '\n';
		own_source(p, s, mariadb, once);
		once = true;
	}
}

void restore_advice(const struct restore *r, const char *to)
{
	char rel[256];
	cleanup_free char *position = NULL, *verified = NULL;

	(void)snprintf(rel, sizeof(rel), "snapshots/%.100s/position", r->name);
	position = ctl_slurp(rel);
	(void)snprintf(rel, sizeof(rel), "snapshots/%.100s/verified", r->name);
	verified = ctl_slurp(rel);
	if (verified && strncmp(verified, "yes", 3) != 0)
		printf("This set is not verified (%.*s): `stillctl verify %s` starts a server on a copy of it.\n",
		       (int)strcspn(verified, " \n"), verified, r->name);
	if (!position || !*position)
		return;
	printf("Before a server starts on it%s%s:\n", to ? " in " : "", to ? to : "");
	if (to) {
		if (strcmp(value(position, "server"), "mysql") == 0)
			printf("  - remove auto.cnf: it is the identity of the server it was taken from\n");
		printf("  - give it a server_id of its own; that of the set is %s\n", value(position, "server_id"));
	}
	printf("  - start it with skip-replica-start (MariaDB: skip-slave-start), so that it replicates from nobody by itself\n"
	       "  - files and tables named #sql* are what an interrupted ALTER TABLE left: look, then drop them\n");
	if (to)
		printf("  - remove .stillfs-position when you have no more use for it\n");
	replication(position);
}
