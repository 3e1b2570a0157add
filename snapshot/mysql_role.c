/* snapshot/mysql_role.c - what a hold would do to other servers: to the source of a semi-synchronous replica, to a
 * group, to a Galera cluster; and what a semi-synchronous source's own replicas do to its lock.
 * Owns:      nothing. Only looks; what is changed around a hold is mysql_replica.c's.
 * Called by: mysql.c in preflight and for doctor, mysql_replica.c in prepare. Database thread, gate open.
 * Errors:    -errno with a sentence that names the option to change.
 * Sources:   tried on MariaDB 10.11 with galera-4 26.4 and on MySQL 9.7 (tests/integration/test_cluster.py). */
#include "snapshot/mysql_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- semi-synchronous replication ---- */

/* Status and variables have the words of the plugin that is loaded, old or new. *now: which. */
static int semi_sync_on(struct my *m, const char *before, const char *after, const char **now, struct snap_error *err)
{
	const char *const words[] = { before, after };
	char name[64], on[8] = "";
	int r = 0;

	*now = NULL;
	for (int i = 0; r == 0 && i < 2 && !*now; i++) {
		(void)snprintf(name, sizeof(name), "Rpl_semi_sync_%s_status", words[i]);
		r = my_status_value(m, name, on, sizeof(on), err);
		if (r == 0 && strcmp(on, "ON") == 0)
			*now = words[i];
	}
	return r;
}

/* It acknowledges what it has written into its relay log, which waits at a closed gate. */
static int check_semi_replica(struct my *m, struct snap_error *err)
{
	uint64_t hold = conf_num(m->d->conf, "gate_timeout"), limit = conf_num(m->d->conf, "db.semi_sync_timeout");
	const char *word;
	int r = semi_sync_on(m, "slave", "replica", &word, err);

	if (r < 0 || !word || hold < limit)
		return r;
	return snap_error_set(err, -EINVAL, "this server is a semi-synchronous replica, and a hold of up to gate_timeout=%g s could "
					    "make its source give up waiting after db.semi_sync_timeout=%g s and go on without it: "
					    "set gate_timeout below the source's rpl_semi_sync_%s_timeout, and "
					    "db.semi_sync_timeout to that", (double)hold / 1000, (double)limit / 1000,
			      strcmp(word, "slave") == 0 ? "master" : "source");
}

/* A hold here does not make a source wait for its replicas: nothing reaches its log, so nothing is to be
 * acknowledged. But the lock waits for commits that wait. */
int my_check_semi_source(struct my *m, struct snap_error *err)
{
	uint64_t lock = conf_num(m->d->conf, "db.lock_timeout");
	char name[64], clients[16], wanted[16] = "1", timeout[24];
	const char *word;
	int r = semi_sync_on(m, "master", "source", &word, err);

	if (r < 0 || !word)
		return r;
	(void)snprintf(name, sizeof(name), "Rpl_semi_sync_%s_clients", word);
	r = my_status_value(m, name, clients, sizeof(clients), err);
	(void)snprintf(name, sizeof(name), "rpl_semi_sync_%s_wait_for_%s_count", word, strcmp(word, "master") == 0 ? "slave" : "replica");
	if (r == 0 && !m->mariadb)
		r = my_variable(m, name, wanted, sizeof(wanted), err);
	(void)snprintf(name, sizeof(name), "rpl_semi_sync_%s_timeout", word);
	if (r == 0)
		r = my_variable(m, name, timeout, sizeof(timeout), err);
	if (r < 0 || strtoull(clients, NULL, 10) >= strtoull(wanted, NULL, 10) || strtoull(timeout, NULL, 10) < lock)
		return r;
	return snap_error_set(err, -EAGAIN, "this server is a semi-synchronous source with %s of %s replicas that acknowledge: its next "
					    "commit waits for %s=%g s, and the lock behind it for db.lock_timeout=%g s only: start the "
					    "replicas, or set rpl_semi_sync_%s_enabled=OFF", clients, wanted, name,
			      strtod(timeout, NULL) / 1000, (double)lock / 1000, word);
}

/* ---- groups and clusters ---- */

static int check_group(struct my *m, struct snap_error *err)
{
	char name[64], role[32];
	int r = m->mariadb ? 0 : my_variable(m, "group_replication_group_name", name, sizeof(name), err);

	if (r < 0 || m->mariadb || !*name)
		return r;
	r = my_value(m, "SELECT MEMBER_ROLE FROM performance_schema.replication_group_members WHERE MEMBER_ID = "
			"@@GLOBAL.server_uuid AND MEMBER_STATE = 'ONLINE'", NULL, role, sizeof(role), err);
	if (r == -EACCES) {
		snap_error_clear(err);
		return snap_error_set(err, r, "look at our role in the group: GRANT SELECT ON performance_schema.* TO the account of "
					      "stillfs");
	}
	if (r < 0 || strcmp(role, "PRIMARY") != 0 || strcmp(conf_str(m->d->conf, "db.group_primary"), "allow") == 0)
		return r;
	return snap_error_set(err, -EPERM, "this server is a primary of its group: a hold would stop the group's writes, and "
					   "may have it expelled; take the snapshot on a secondary, or set "
					   "db.group_primary=allow");
}

/* MySQL of Percona's and Codership's makes has wsrep up to 8; from 9 on nobody does. */
static int galera_node(struct my *m, bool *is, struct snap_error *err)
{
	char on[8] = "";
	int r = 0;

	*is = false;
	if (m->mariadb || m->version < 90000)
		r = my_variable(m, "wsrep_on", on, sizeof(on), err);
	if (r < 0 || (strcmp(on, "ON") != 0 && strcmp(on, "1") != 0))
		return r;
	r = my_status_value(m, "wsrep_ready", on, sizeof(on), err);
	*is = r == 0 && strcmp(on, "ON") == 0;
	return r;
}

int my_galera(struct my *m, bool *in_flow, struct snap_error *err)
{
	char desync[8] = "";
	int r = galera_node(m, in_flow, err);

	if (r == 0 && *in_flow)
		r = my_variable(m, "wsrep_desync", desync, sizeof(desync), err);
	*in_flow = *in_flow && r == 0 && strcmp(desync, "OFF") == 0; /* ON: somebody's own doing, which is left alone */
	return r;
}

static int check_galera(struct my *m, struct snap_error *err)
{
	bool is;
	int r = galera_node(m, &is, err);

	if (r < 0 || !is || strcmp(conf_str(m->d->conf, "db.galera"), "desync") == 0)
		return r;
	return snap_error_set(err, -EPERM, "this server is a Galera node: a hold makes the cluster wait for it (flow control); "
					   "set db.galera=desync to take it out of flow control for the hold");
}

int my_check_role(struct my *m, struct snap_error *err)
{
	int r = check_semi_replica(m, err);

	if (r == 0)
		r = check_group(m, err);
	return r < 0 ? r : check_galera(m, err);
}
