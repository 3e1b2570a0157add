/* snapshot/fence/fence_xa.c - prepared XA transactions: they outlive their sessions, and become rows by an XA COMMIT later.
 * Called by: fence.c, before anything is changed and again when all sessions have ended.
 * Blocks:    for one statement.
 * Errors:    -errno with the sentence; what is prepared is the caller's to judge.
 * Facts:     MySQL 9.7 takes XA COMMIT while it is super_read_only, from an account without any privilege too. MariaDB 10.11
 *            refuses it as any write (1290), but from accounts with READ ONLY ADMIN. Both tried; other MariaDBs were not. */
#include "snapshot/fence/fence_int.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool fence_xa_is_a_write(const struct my *m)
{
	return m->mariadb && m->version >= 101100;
}

/* A part of a name, from its digits: 'text' where it can be read, else X'digits'. As XA COMMIT takes it. */
static void put_part(struct vbuf *out, const char *hex, size_t digits)
{
	char text[65] = ""; /* the most that a part has, and its end */
	bool plain = digits / 2 < sizeof(text);

	for (size_t i = 0; plain && i + 1 < digits; i += 2) {
		const char two[] = { hex[i], hex[i + 1], '\0' };

		text[i / 2] = (char)strtoul(two, NULL, 16);
		plain = isalnum((unsigned char)text[i / 2]) || (text[i / 2] && strchr("-_.:/ ", text[i / 2]));
	}
	if (plain)
		vbuf_printf(out, "'%.*s'", (int)(digits / 2), text);
	else
		vbuf_printf(out, "X'%.*s'", (int)digits, hex);
}

/* MySQL: 0xDIGITS of both parts, and their lengths in bytes. */
static void put_name(struct vbuf *out, MYSQL_RES *res, MYSQL_ROW row)
{
	const char *hex = my_col(res, row, "data"), *format = my_col(res, row, "formatID");
	size_t first = 2 * strtoul(my_col(res, row, "gtrid_length"), NULL, 10), all;

	hex += strncmp(hex, "0x", 2) == 0 ? 2 : 0;
	all = strlen(hex);
	first = first < all ? first : all;
	put_part(out, hex, first);
	if (all > first || strcmp(format, "1") != 0) {
		vbuf_puts(out, ",");
		put_part(out, hex + first, all - first);
		vbuf_printf(out, ",%s", format);
	}
}

int fence_xa(struct my *m, struct vbuf *names, unsigned *n, struct snap_error *err)
{
	MYSQL_RES *res = NULL;
	MYSQL_ROW row;
	int r = my_query(m, m->mariadb ? "XA RECOVER FORMAT='SQL'" : "XA RECOVER CONVERT XID", "fence: list the prepared XA transactions",
			 &res, err);

	*n = 0;
	if (r < 0)
		return r;
	while ((row = mysql_fetch_row(res))) {
		if (m->mariadb)
			vbuf_line(names, my_col(res, row, "data"));
		else
			put_name(names, res, row);
		vbuf_puts(names, "\n");
		(*n)++;
	}
	mysql_free_result(res);
	return vbuf_error(names) < 0 ? snap_error_set(err, -ENOMEM, "fence: list of XA transactions: out of memory") : 0;
}

/* What stays prepared under the fence, for the operator. */
static void note(const struct my *m, const struct fence_opts *o, const char *names, unsigned n)
{
	char text[SNAP_ERROR_MAX];

	if (!n || !o->note)
		return;
	(void)snprintf(text, sizeof(text), "fence: %u prepared XA transaction%s (XA RECOVER; the first: %.*s): %s", n, n > 1 ? "s stay" : " stays",
		       (int)(strcspn(names, "\n") < 160 ? strcspn(names, "\n") : 160), names,
		       fence_xa_is_a_write(m) ? "until off only accounts with READ ONLY ADMIN can end it" :
						"ANY account can commit it although the server is read-only, and fence.xa=allow has that so");
	o->note(o->arg, text);
}

int fence_xa_preflight(struct my *m, const struct fence_opts *o, bool tell, struct vbuf *found, unsigned *n, struct snap_error *err)
{
	struct vbuf names = VBUF_INIT;
	int r = fence_xa(m, &names, n, err);
	size_t len;

	if (r == 0 && (fence_xa_is_a_write(m) || o->xa_stays)) {
		if (tell)
			note(m, o, vbuf_text(&names), *n);
		*n = 0;
	} else if (r == 0) {
		for (const char *p = vbuf_text(&names); *p; p += len + 1) {
			len = strcspn(p, "\n");
			vbuf_printf(found, "prepared XA transaction %.*s: any account can commit it\n", (int)len, p);
		}
	}
	vbuf_free(&names);
	return r;
}

int fence_xa_left(struct my *m, const struct fence_opts *o, struct snap_error *err)
{
	struct vbuf names = VBUF_INIT;
	unsigned n;
	int r = fence_xa(m, &names, &n, err);

	if (r == 0 && n && !fence_xa_is_a_write(m) && !o->xa_stays)
		r = snap_error_set(err, -EBUSY, "fence: %u prepared XA transaction%s, which any account can commit although the server is "
						"read-only (the first: %.*s): XA COMMIT or XA ROLLBACK what XA RECOVER lists, or set fence.xa=allow",
				   n, n > 1 ? "s" : "", (int)(strcspn(vbuf_text(&names), "\n") < 160 ? strcspn(vbuf_text(&names), "\n") : 160),
				   vbuf_text(&names));
	else if (r == 0)
		note(m, o, vbuf_text(&names), n);
	vbuf_free(&names);
	return r;
}
