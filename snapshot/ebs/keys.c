/* snapshot/ebs/keys.c - see ebs_keys in ebs.h. */
#include "snapshot/ebs/ebs.h"

#include "base/conf.h"

const struct conf_key ebs_keys[] = {
	{ "ebs.volumes", CONF_LIST, "", NULL, 0, 0, "", "" },   { "ebs.region", CONF_STRING, "", NULL, 0, 0, "", "" },
	{ "ebs.endpoint", CONF_STRING, "", NULL, 0, 0, "", "" }, { "ebs.profile", CONF_STRING, "", NULL, 0, 0, "", "" },
	{ "ebs.instance", CONF_STRING, "", NULL, 0, 0, "", "" }, { "ebs.fips", CONF_BOOL, "no", NULL, 0, 0, "", "" },
	{ "ebs.description", CONF_STRING, "", NULL, 0, 0, "", "" },
	{ "ebs.dualstack", CONF_BOOL, "no", NULL, 0, 0, "", "" }, { "ebs.old_metadata", CONF_BOOL, "no", NULL, 0, 0, "", "" },
	{ NULL, CONF_STRING, NULL, NULL, 0, 0, NULL, NULL },
};
