/* snapshot/ebs/xml.c - see xml.h. libxml2's tree. */
#include "snapshot/ebs/xml.h"
#include "snapshot/ebs/wipe.h"

#include <errno.h>
#include <libxml/parser.h>
#include <libxml/tree.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* struct xml is xmlDoc and struct xml_elem is xmlNode: the names keep libxml2 in this file. */

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void init(void)
{
	(void)xmlMemSetup(wipe_free, malloc, wipe_realloc, strdup); /* STS's answers hold keys */
	xmlInitParser();
}

struct xml *xml_parse(const char *text, size_t len, struct snap_error *err)
{
	xmlDoc *d;

	(void)pthread_once(&once, init);
	if (len > XML_MAX) {
		snap_error_set(err, -EFBIG, "an answer of %zu bytes is too long", len);
		return NULL;
	}
	/* UTF-8 is forced, so that the mark cannot hide in another encoding */
	d = memmem(text ? text : "", text ? len : 0, "<!DOCTYPE", 9) || !text ? NULL :
		xmlReadMemory(text, (int)len, "answer.xml", "UTF-8",
			      XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING | XML_PARSE_NOCDATA);
	if (d && (d->intSubset || d->extSubset || !xmlDocGetRootElement(d))) {
		xmlFreeDoc(d);
		d = NULL;
	}
	if (!d)
		snap_error_set(err, -EBADMSG, "an answer of %zu bytes is not the XML that was expected", len);
	return (struct xml *)d;
}

/* Deep trees are refused by the parser (256 levels), so this ends. */
static void wipe(xmlNode *n)
{
	for (; n; n = n->next) {
		if (n->type == XML_TEXT_NODE && n->content)
			explicit_bzero(n->content, strlen((char *)n->content));
		else if (n->type == XML_ELEMENT_NODE)
			wipe(n->children);
	}
}

struct xml *xml_free(struct xml *x)
{
	xmlDoc *d = (xmlDoc *)x;

	if (d) {
		wipe(d->children);
		xmlFreeDoc(d);
	}
	return NULL;
}

const struct xml_elem *xml_root(const struct xml *x)
{
	return (const struct xml_elem *)xmlDocGetRootElement((const xmlDoc *)x);
}

static bool named(const xmlNode *n, const char *name, size_t len)
{
	return n->type == XML_ELEMENT_NODE && strlen((const char *)n->name) == len &&
	       memcmp(n->name, name, len) == 0;
}

bool xml_is(const struct xml_elem *e, const char *name)
{
	return e && named((const xmlNode *)e, name, strlen(name));
}

const struct xml_elem *xml_find(const struct xml_elem *e, const char *path)
{
	const xmlNode *n = (const xmlNode *)e;

	while (n && *path) {
		size_t len = strcspn(path, "/");

		for (n = n->children; n && !named(n, path, len);)
			n = n->next;
		path += len + (path[len] == '/');
	}
	return (const struct xml_elem *)n;
}

const struct xml_elem *xml_next(const struct xml_elem *e)
{
	const xmlNode *n = (const xmlNode *)e;
	const char *name = (const char *)n->name;

	for (n = n->next; n && !named(n, name, strlen(name));)
		n = n->next;
	return (const struct xml_elem *)n;
}

int xml_text(const struct xml_elem *e, const char *path, char *buf, size_t cap)
{
	const xmlNode *n = (const xmlNode *)xml_find(e, path);
	size_t len = 0;

	buf[0] = '\0';
	if (!n)
		return -ENOENT;
	for (n = n->children; n; n = n->next) {
		size_t add = n->type == XML_TEXT_NODE && n->content ? strlen((const char *)n->content) : 0;
		const char *s = (const char *)n->content;

		while (len == 0 && add && strchr(" \t\r\n", *s)) {
			s++;
			add--;
		}
		if (!add)
			continue;
		if (len + add >= cap) {
			buf[0] = '\0';
			return -E2BIG;
		}
		memcpy(buf + len, s, add);
		len += add;
	}
	while (len && strchr(" \t\r\n", buf[len - 1]))
		len--;
	buf[len] = '\0';
	return 0;
}
