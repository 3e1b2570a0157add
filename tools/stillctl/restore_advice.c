/* tools/stillctl/restore_advice.c - what an operator does with what was restored, in the dialect of its server. See
 * restore.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "ctl.h"
#include "restore.h"

/* The value of "KEY value" at or after `lines`; "" when there is none. In a static buffer of its own, one of eight. */
static const char *value(const char *lines, const char *key)
{
	static char buf[8][4096];
	static unsigned turn;
	char *out = buf[turn++ % 8];
	size_t n = strlen(key);

	*out = '\0';
	for (const char *l = lines; l && *l; l = strchr(l, '\n') ? strchr(l, '\n') + 1 : NULL)
		if (strncmp(l, key, n) == 0 && l[n] == ' ') {
			(void)snprintf(out, sizeof(buf[0]), "%.*s", (int)strcspn(l + n + 1, "\n"), l + n + 1);
			break;
		}
	return out;
}

static void statement_mariadb(const char *host, const char *gtid, const char *file, const char *pos)
{
	if (*gtid)
		printf("    SET GLOBAL gtid_slave_pos = '%s';\n"
		       "    CHANGE MASTER TO MASTER_HOST='%s', MASTER_USER='...', MASTER_PASSWORD='...',\n"
		       "      MASTER_USE_GTID=slave_pos;\n", gtid, host);
	if (*file)
		printf("%s    CHANGE MASTER TO MASTER_HOST='%s', MASTER_USER='...', MASTER_PASSWORD='...',\n"
		       "      MASTER_LOG_FILE='%s', MASTER_LOG_POS=%s, MASTER_USE_GTID=no;\n",
		       *gtid ? "  or, without GTIDs:\n" : "", host, file, pos);
}

/* The words changed with 8.0.23. */
static void statement_mysql(const char *host, const char *gtid, const char *file, const char *pos, const char *version)
{
	unsigned a = 0, b = 0, c = 0;
	const char *word, *change;

	(void)sscanf(version, "%u.%u.%u", &a, &b, &c);
	word = a * 10000 + b * 100 + c >= 80023 ? "SOURCE" : "MASTER";
	change = *word == 'S' ? "CHANGE REPLICATION SOURCE" : "CHANGE MASTER";
	if (*gtid)
		printf("    %s TO %s_HOST='%s', %s_USER='...', %s_PASSWORD='...', %s_AUTO_POSITION=1;\n"
		       "      (the restored server has executed %s)\n", change, word, host, word, word, word, gtid);
	if (*file)
		printf("%s    %s TO %s_HOST='%s', %s_USER='...', %s_PASSWORD='...',\n      %s_LOG_FILE='%s', %s_LOG_POS=%s%s;\n",
		       *gtid ? "  or, without GTIDs:\n" : "", change, word, host, word, word, word, file, word, pos,
		       *gtid ? "" : "");
}

static void replication(const char *p)
{
	const char *version = value(p, "server_version"), *file = value(p, "binlog_file"), *pos = value(p, "binlog_pos");
	bool mariadb = strcmp(value(p, "server"), "mariadb") == 0;

	if (strstr(p, "position unknown until verified")) {
		printf("The position is unknown until verified: run `stillctl verify` on the set before making a replica of it.\n");
		return;
	}
	if (*file || *value(p, "gtid_executed")) {
		printf("To make it a replica of the server it was taken from:\n");
		if (mariadb)
			statement_mariadb("THAT SERVER", value(p, "gtid_binlog_pos"), file, pos);
		else
			statement_mysql("THAT SERVER", value(p, "gtid_executed"), file, pos, version);
	}
	for (const char *s = strstr(p, "source_channel "); s; s = strstr(s + 1, "\nsource_channel ")) {
		s += *s == '\n';
		printf("To make it a replica of that server's own source (channel %s):\n", value(s, "source_channel"));
		if (mariadb)
			statement_mariadb("THE SOURCE", value(p, "gtid_slave_pos"), value(s, "source_log_file"),
					  value(s, "source_log_pos"));
		else
			statement_mysql("THE SOURCE", "", value(s, "source_log_file"), value(s, "source_log_pos"), version);
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
