/* snapshot/snap_parse.h - the one parser of writes to `snapshot`. Pure: no I/O, no clock, no globals. */
#ifndef STILLFS_SNAPSHOT_SNAP_PARSE_H
#define STILLFS_SNAPSHOT_SNAP_PARSE_H

#include "base/door.h"

#define SNAP_DESCRIPTION_MAX 255
#define SNAP_TAGS_MAX 40

struct snap_request {
	char name[DOOR_NAME_MAX + 1]; /* "": make one of class and time */
	char class[DOOR_NAME_MAX + 1]; /* "manual" by default */
	char description[SNAP_DESCRIPTION_MAX + 1];
	char tags[4096]; /* "key:value" lines */
	bool pin, nowait;
};

/* [NAME] [class=C] [description="..."] [tag=k:v]... [pin] [nowait] and an optional newline.
 * 0; -EINVAL with the sentence. *out is whole or untouched on failure. */
int snap_parse(const char *text, size_t len, struct snap_request *out, struct snap_error *err);
/* UTF-8 without control characters, as JSON and the flat files can show it. */
bool snap_text_ok(const char *text);
/* One "key:value"; also for the tags file. */
bool snap_tag_ok(const char *tag);

#endif
