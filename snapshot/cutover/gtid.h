/* snapshot/cutover/gtid.h - sets of transactions as servers name them, and how two of them compare. Pure: no I/O, no clock.
 * MySQL:   UUID[:TAG]:FIRST[-LAST][:...], comma-separated, anywhere white space (gtid_executed has line breaks); tags
 *          from 8.3 on, kept for themselves: the same UUID with two tags is two sources (MySQL manual, "GTID Sets").
 * MariaDB: DOMAIN-SERVER-SEQUENCE, comma-separated. The sequence is counted over a domain, so what one server wrote in it
 *          has holes, and the number stands for all of that server's up to it. gtid_binlog_state has one for each domain
 *          *and* server, which is what is compared here; gtid_binlog_pos has one for each domain and hides the rest
 *          (MariaDB KB, "gtid_binlog_state").
 * Ownership: a set is its maker's, freed with gtid_free. Threads: none of its own; a set that is only read may be shared.
 * Errors:    NULL with the sentence: -EINVAL is what the text is no set for, -ENOMEM, -E2BIG more than a million runs. */
#ifndef STILLFS_SNAPSHOT_CUTOVER_GTID_H
#define STILLFS_SNAPSHOT_CUTOVER_GTID_H

#include "base/error.h"
#include "base/vbuf.h"

#include <stdbool.h>
#include <stddef.h>

enum gtid_kind { GTID_MYSQL, GTID_MARIADB };

struct gtid_set;

/* "" is the empty set. Runs that touch are joined, in any order they came; what comes out of gtid_print parses again. */
struct gtid_set *gtid_parse(enum gtid_kind kind, const char *text, struct snap_error *err);
struct gtid_set *gtid_free(struct gtid_set *s); /* NULL is harmless; returns NULL */
bool gtid_empty(const struct gtid_set *s);
/* Both of the same kind, as in all below. */
bool gtid_contains(const struct gtid_set *all, const struct gtid_set *part);
/* What a has and b has not. */
struct gtid_set *gtid_subtract(const struct gtid_set *a, const struct gtid_set *b, struct snap_error *err);
/* What one of them has. */
struct gtid_set *gtid_union(const struct gtid_set *a, const struct gtid_set *b, struct snap_error *err);
/* MariaDB: a replica that was made from a copy knows only the position in each domain that it began at, none of the
 * servers before. Take out of `missing` (of source minus replica) what the source wrote before `pos`, the replica's
 * gtid_slave_pos: lower sequences of a domain, where the source has the position itself. True only of a source that
 * writes each domain in order (gtid_strict_mode). */
void gtid_drop_before(struct gtid_set *missing, const struct gtid_set *pos, const struct gtid_set *source);
/* Sorted, one line. A difference of MariaDB sets shows where it begins: 0-1-51..100; gtid_parse takes that too. */
void gtid_print(const struct gtid_set *s, struct vbuf *out);

#endif
