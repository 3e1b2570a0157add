/* snapshot/ebs/xml.h - answers in XML, read by name and never by position: order and unknown elements do not matter.
 * Nothing is fetched, no entity is expanded: a document type is refused, and so is more than 8 MiB.
 * Any thread, each document one thread's at a time. Never blocks. */
#ifndef STILLFS_SNAPSHOT_EBS_XML_H
#define STILLFS_SNAPSHOT_EBS_XML_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

#define XML_MAX (8u << 20)

struct xml; /* a document */
struct xml_elem; /* an element of it, valid as long as the document */

/* NULL: -EBADMSG no (whole) XML; -EFBIG; -ENOMEM. The sentence never quotes the text. */
struct xml *xml_parse(const char *text, size_t len, struct snap_error *err);
struct xml *xml_free(struct xml *x); /* NULL is harmless; returns NULL. Wipes texts: answers of STS hold secrets */
const struct xml_elem *xml_root(const struct xml *x);
bool xml_is(const struct xml_elem *e, const char *name); /* local name, namespaces do not matter */
/* First child of that name below e; `path` may go down: "a/b/c". NULL: none, or e is NULL. */
const struct xml_elem *xml_find(const struct xml_elem *e, const char *path);
/* The next sibling of the same name; NULL: none. */
const struct xml_elem *xml_next(const struct xml_elem *e);
/* Text of the element at `path` below e ("": e itself), blanks around it cut off. 0; -ENOENT none, -E2BIG longer
 * than cap - 1. buf is "" on failure. */
int xml_text(const struct xml_elem *e, const char *path, char *buf, size_t cap);

#endif
