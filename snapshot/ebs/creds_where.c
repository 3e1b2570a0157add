/* snapshot/ebs/creds_where.c - region, endpoint and authority: options, environment, profile, metadata service.
 * Called by: ebs.c, creds_role.c on the provider's thread. Blocks only for the metadata service, up to the deadline. */
#include "snapshot/ebs/creds_int.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int creds_region(struct creds *c, uint64_t deadline_ns, const char **out, struct snap_error *err)
{
	static const char all[] = "abcdefghijklmnopqrstuvwxyz0123456789-";
	const char *r = c->region_opt;
	int ret = 0;

	*out = c->region;
	if (c->region[0])
		return 0;
	r = *r ? r : creds_env("AWS_REGION");
	r = *r ? r : creds_env("AWS_DEFAULT_REGION");
	r = *r ? r : creds_setting(c, creds_profile(c), "region");
	if (*r) {
		(void)snprintf(c->region, sizeof(c->region), "%s", r);
		if (strlen(r) >= sizeof(c->region))
			c->region[0] = '\0';
	} else {
		ret = creds_metadata(c, "meta-data/placement/region", deadline_ns, c->region, sizeof(c->region), err);
	}
	if (ret == 0 && (!c->region[0] || c->region[0] == '-' || strspn(c->region, all) != strlen(c->region)))
		ret = snap_error_set(err, -EINVAL, "region %.60s: expected a name like eu-west-1", r);
	if (ret < 0) {
		c->region[0] = '\0';
		snap_error_set(err, ret, "no region: set ebs.region");
	}
	return ret;
}

/* AWS's partitions: what a region's name begins with, and the ends of host names. */
static const struct {
	const char *prefix, *suffix, *dual;
} partitions[] = {
	{ "cn-", "amazonaws.com.cn", "api.amazonwebservices.com.cn" },
	{ "us-gov-", "amazonaws.com", "api.aws" },
	{ "eusc-", "amazonaws.eu", "api.amazonwebservices.eu" },
	{ "us-iso-", "c2s.ic.gov", NULL },
	{ "us-isob-", "sc2s.sgov.gov", NULL },
	{ "eu-isoe-", "cloud.adc-e.uk", NULL },
	{ "us-isof-", "csp.hci.ic.gov", NULL },
	{ "", "amazonaws.com", "api.aws" },
};

static bool wants(const struct creds *c, bool opt, const char *env, const char *key)
{
	return opt || creds_true(creds_env(env)) || (!*creds_env(env) && creds_true(creds_setting(c, creds_profile(c), key)));
}

static int from_region(struct creds *c, const char *service, const char *region, char *url, size_t cap,
		       struct snap_error *err)
{
	bool fips = wants(c, c->fips, "AWS_USE_FIPS_ENDPOINT", "use_fips_endpoint");
	bool dual = wants(c, c->dualstack, "AWS_USE_DUALSTACK_ENDPOINT", "use_dualstack_endpoint");
	size_t i = 0;

	while (strncmp(region, partitions[i].prefix, strlen(partitions[i].prefix)) != 0)
		i++;
	if (dual && !partitions[i].dual)
		return snap_error_set(err, -EOPNOTSUPP, "region %s has no dual stack endpoints", region);
	if (strcmp(partitions[i].prefix, "us-gov-") == 0 && !dual)
		fips = false; /* its plain endpoints are FIPS */
	(void)snprintf(url, cap, "https://%s%s.%s.%s/", service, fips ? "-fips" : "", region,
		       dual ? partitions[i].dual : partitions[i].suffix);
	return 0;
}

int creds_endpoint(struct creds *c, const char *service, uint64_t deadline_ns, char *url, size_t cap,
		   struct snap_error *err)
{
	bool ec2 = strcmp(service, "ec2") == 0;
	const char *e = ec2 ? c->endpoint_opt : "", *profile = creds_profile(c), *services, *region;
	char section[220], key[64];
	int r;

	if (!*e && !creds_true(creds_env("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"))) {
		e = creds_env(ec2 ? "AWS_ENDPOINT_URL_EC2" : "AWS_ENDPOINT_URL_STS");
		e = *e ? e : creds_env("AWS_ENDPOINT_URL");
		services = creds_setting(c, profile, "services");
		if (!*e && *services) {
			(void)snprintf(section, sizeof(section), "services %.200s", services);
			(void)snprintf(key, sizeof(key), "%s.endpoint_url", service);
			e = ini_get(c->config, section, key);
			e = e ? e : "";
		}
		e = *e ? e : creds_setting(c, profile, "endpoint_url");
	}
	if (!*e) {
		r = creds_region(c, deadline_ns, &region, err);
		return r < 0 ? r : from_region(c, service, region, url, cap, err);
	}
	if (strlen(e) + 2 > cap || !strstr(e, "://"))
		return snap_error_set(err, -EINVAL, "endpoint %.100s: expected https://HOST[:PORT]", e);
	(void)snprintf(url, cap, "%s%s", e, strchr(strstr(e, "://") + 3, '/') ? "" : "/");
	return 0;
}

const char *creds_ca_file(struct creds *c)
{
	const char *f = creds_env("AWS_CA_BUNDLE");

	return *f ? f : creds_setting(c, creds_profile(c), "ca_bundle");
}
