/* snapshot/mysql_logs.c - which binary logs the server has now: SHOW BINARY LOGS. On a replica these are its own, too: what
 * its source keeps is not known here.
 * Called by: the engine on its database thread, between two runs: nothing is locked then. Blocks: for its statements.
 * Errors:    -errno with the sentence. */
#include "snapshot/mysql_int.h"

#include <stdio.h>

static int put_files(struct my *m, struct vbuf *out, struct snap_error *err)
{
	MYSQL_RES *res = NULL;
	MYSQL_ROW row;
	int r = my_query(m, "SHOW BINARY LOGS", "list the binary logs", &res, err);

	if (r < 0)
		return r;
	while ((row = mysql_fetch_row(res)))
		vbuf_printf(out, "binlog %s %s\n", my_col(res, row, "Log_name"), my_col(res, row, "File_size"));
	mysql_free_result(res);
	return 0;
}

int my_logs(void *self, uint32_t max_ms, struct vbuf *out, struct snap_error *err)
{
	struct my *m = self;
	char id[64];
	int r;

	atomic_store(&m->severed, false);
	r = my_connect(m, err);
	if (r == 0)
		r = my_value(m, "SELECT @@GLOBAL.server_id", NULL, id, sizeof(id), err);
	if (r == 0)
		vbuf_printf(out, "server_id %s\n", id);
	if (r == 0 && !m->mariadb && m->version >= 50600) {
		r = my_value(m, "SELECT @@GLOBAL.server_uuid", NULL, id, sizeof(id), err);
		if (r == 0)
			vbuf_printf(out, "server_uuid %s\n", id);
	}
	if (r == 0 && m->log_bin)
		r = put_files(m, out, err);
	return r < 0 ? r : vbuf_error(out);
}
