/* snapshot/mysql_layout.c - what a server needs to be started on a clone of its files: its program and the
 * variables that say where its files are and how they are made. Read in preflight, kept in the set's record.
 * Called by mysql.c. One statement; nothing is held. */
#include "snapshot/mysql_int.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Nothing here may hold a secret, or a program to run. */
#define NAMES "'datadir', 'innodb_data_home_dir', 'innodb_data_file_path', 'innodb_log_group_home_dir', " \
	      "'innodb_log_file_size', 'innodb_log_files_in_group', 'innodb_undo_directory', " \
	      "'innodb_undo_tablespaces', 'innodb_page_size', 'innodb_checksum_algorithm', 'innodb_temp_data_file_path', " \
	      "'aria_log_dir_path', 'log_bin_basename', 'log_bin_index', 'relay_log_basename', 'relay_log_index', " \
	      "'relay_log_info_file', 'pid_file', 'lower_case_table_names', 'gtid_mode', 'enforce_gtid_consistency', " \
	      "'innodb_file_per_table', 'default_storage_engine', 'character_set_server', 'collation_server'"

int my_read_layout(struct my *m, struct vbuf *out, struct snap_error *err)
{
	char link[64], exe[1024], root[1024];
	MYSQL_RES *res;
	MYSQL_ROW row;
	ssize_t n = -1, k = -1;
	int r = my_query(m, "SHOW GLOBAL VARIABLES WHERE Variable_name IN (" NAMES ")", "read the server's layout", &res,
			 err);

	if (r < 0)
		return r;
	vbuf_printf(out, "server %s\nserver_version %s\n", m->mariadb ? "mariadb" : "mysql", m->text);
	if (m->peer_pid > 0) {
		(void)snprintf(link, sizeof(link), "/proc/%d/exe", m->peer_pid);
		n = readlink(link, exe, sizeof(exe) - 1);
		(void)snprintf(link, sizeof(link), "/proc/%d/root", m->peer_pid);
		k = readlink(link, root, sizeof(root) - 1);
	}
	exe[n > 0 ? n : 0] = '\0';
	root[k > 0 ? k : 0] = '\0';
	k = strcmp(root, "/") != 0 && strncmp(exe, root, strlen(root)) == 0 ? (ssize_t)strlen(root) : 0;
	if (k > 0) /* it runs in a chroot */
		vbuf_printf(out, "root %s\n", root);
	if (n > 0 && !strpbrk(exe, "\n\r"))
		vbuf_printf(out, "exe %s\n", exe + k);
	while ((row = mysql_fetch_row(res)))
		if (row[1] && *row[1] && !strpbrk(row[1], "\n\r"))
			vbuf_printf(out, "option %s %s\n", row[0], row[1]);
	mysql_free_result(res);
	return vbuf_error(out);
}
