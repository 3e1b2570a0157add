/* snapshot/ebs/creds.c - see creds.h: the chain of sources and the cache of what it gave.
 * Owns:      the keys, the parsed files, the connections to metadata service and STS.
 * Called by: ebs*.c, on the provider's thread.
 * Blocks:    up to the deadline.
 * Errors:    -errno with the sentence. */
#include "snapshot/ebs/creds_int.h"
#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RENEW_S 900 /* before they expire, as AWS's tools do */
#define CHAIN_MAX 5 /* profiles that refer to profiles */

/* ---- small things ---- */

const char *creds_env(const char *name)
{
	const char *v = getenv(name);

	return v ? v : "";
}

bool creds_true(const char *text)
{
	return strcasecmp(text, "true") == 0 || strcmp(text, "1") == 0;
}

const char *creds_profile(const struct creds *c)
{
	const char *p = c->profile_opt;

	p = *p ? p : creds_env("AWS_PROFILE");
	p = *p ? p : creds_env("AWS_DEFAULT_PROFILE");
	return *p ? p : "default";
}

void creds_section(const char *profile, char *buf, size_t cap)
{
	(void)snprintf(buf, cap, "%s%.200s", strcmp(profile, "default") == 0 ? "" : "profile ", profile);
}

static const char *or_none(const char *text)
{
	return text ? text : "";
}

const char *creds_setting(const struct creds *c, const char *profile, const char *key)
{
	const char *v = ini_get(c->shared, profile, key);
	char section[220];

	creds_section(profile, section, sizeof(section));
	return or_none(v ? v : ini_get(c->config, section, key));
}

int creds_time(const char *text, int64_t *utc)
{
	struct tm tm = { 0 };
	const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);

	if (!end || !(*end == '\0' || *end == 'Z' || *end == '.' || strcmp(end, "+00:00") == 0))
		return -EINVAL;
	*utc = timegm(&tm);
	return 0;
}

static struct ini *read_file(const char *env, const char *name, struct snap_error *err)
{
	const char *path = creds_env(env), *home = creds_env("HOME");
	struct passwd *pw;
	char buf[4096];

	if (!*path || strncmp(path, "~/", 2) == 0) {
		pw = *home ? NULL : getpwuid(getuid());
		home = *home ? home : pw ? pw->pw_dir : "/";
		(void)snprintf(buf, sizeof(buf), "%s/%s", home, *path ? path + 2 : name);
		path = buf;
	}
	return ini_read(path, err);
}

/* ---- life ---- */

struct creds *creds_free(struct creds *c)
{
	if (!c)
		return NULL;
	free(c->profile_opt);
	free(c->region_opt);
	free(c->endpoint_opt);
	ini_free(c->config);
	ini_free(c->shared);
	http_free(c->http);
	ec2_free(c->sts);
	explicit_bzero(c, sizeof(*c));
	free(c);
	return NULL;
}

struct creds *creds_new(const struct creds_opts *o, struct snap_error *err)
{
	struct creds *c = calloc(1, sizeof(*c));

	if (c) {
		c->profile_opt = strdup(o->profile);
		c->region_opt = strdup(o->region);
		c->endpoint_opt = strdup(o->endpoint);
		c->fips = o->fips;
		c->dualstack = o->dualstack;
		c->imds_v1 = o->imds_v1;
	}
	if (!c || !c->profile_opt || !c->region_opt || !c->endpoint_opt) {
		snap_error_set(err, -ENOMEM, "keys: out of memory");
		return creds_free(c);
	}
	c->shared = read_file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials", err);
	c->config = c->shared ? read_file("AWS_CONFIG_FILE", ".aws/config", err) : NULL;
	c->http = c->config ? http_new(err) : NULL;
	c->sts = c->http ? ec2_new(err) : NULL;
	return c->sts ? c : creds_free(c);
}

/* ---- sources ---- */

static int fill(struct aws_key *k, const char *id, const char *secret, const char *token, const char *source,
		struct snap_error *err)
{
	if (strlen(id) >= sizeof(k->id) || strlen(secret) >= sizeof(k->secret) || strlen(token) >= sizeof(k->token) ||
	    strpbrk(id, "\r\n") || strpbrk(token, "\r\n"))
		return snap_error_set(err, -EINVAL, "keys from %s: too long, or with a line end in them", source);
	*k = (struct aws_key){ 0 };
	memcpy(k->id, id, strlen(id));
	memcpy(k->secret, secret, strlen(secret));
	memcpy(k->token, token, strlen(token));
	(void)snprintf(k->source, sizeof(k->source), "%.60s", source);
	return 0;
}

static int from_env(struct aws_key *k, struct snap_error *err)
{
	const char *id = creds_env("AWS_ACCESS_KEY_ID"), *secret = creds_env("AWS_SECRET_ACCESS_KEY");
	const char *token = creds_env("AWS_SESSION_TOKEN");
	int r;

	if (!*id && !*secret)
		return -ENOENT;
	if (!*id || !*secret)
		return snap_error_set(err, -EINVAL, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: only one of them is set");
	token = *token ? token : creds_env("AWS_SECURITY_TOKEN");
	r = fill(k, id, secret, token, "the environment", err);
	if (r == 0 && *creds_env("AWS_CREDENTIAL_EXPIRATION") &&
	    creds_time(creds_env("AWS_CREDENTIAL_EXPIRATION"), &k->expires_utc) < 0)
		r = snap_error_set(err, -EINVAL, "AWS_CREDENTIAL_EXPIRATION: expected a time like 2026-01-02T03:04:05Z");
	return r;
}

static int from_section(const struct ini *i, const char *section, const char *what, struct aws_key *k,
			struct snap_error *err)
{
	const char *id = or_none(ini_get(i, section, "aws_access_key_id"));
	const char *secret = or_none(ini_get(i, section, "aws_secret_access_key"));
	char source[64];

	(void)snprintf(source, sizeof(source), "profile %.30s (%s)", section, what);
	if (!*id && !*secret)
		return -ENOENT;
	if (!*id || !*secret)
		return snap_error_set(err, -EINVAL, "keys from %s: the id or the secret is missing", source);
	return fill(k, id, secret, or_none(ini_get(i, section, "aws_session_token")), source, err);
}

static int from_profile(struct creds *c, const char *profile, unsigned depth, struct aws_key *k, struct snap_error *err);

/* The keys that a role is assumed with. */
static int source_of(struct creds *c, const char *profile, unsigned depth, struct aws_key *k, struct snap_error *err)
{
	const char *other = creds_setting(c, profile, "source_profile");
	const char *kind = creds_setting(c, profile, "credential_source");
	char section[220];
	int r;

	if (!*other && strcmp(kind, "Environment") == 0)
		r = from_env(k, err);
	else if (!*other && strcmp(kind, "Ec2InstanceMetadata") == 0)
		r = creds_imds(c, k, err);
	else if (!*other && strcmp(kind, "EcsContainer") == 0)
		r = creds_container(c, k, err);
	else if (!*other)
		return snap_error_set(err, -EINVAL, "profile %.60s: role_arn needs source_profile, credential_source (Environment, "
						    "Ec2InstanceMetadata, EcsContainer) or web_identity_token_file", profile);
	else if (strcmp(other, profile) == 0) {
		creds_section(profile, section, sizeof(section));
		r = from_section(c->shared, profile, "credentials file", k, err);
		r = r == -ENOENT ? from_section(c->config, section, "config file", k, err) : r;
	} else if (depth >= CHAIN_MAX)
		return snap_error_set(err, -ELOOP, "profile %.60s: source_profile leads round in a circle", profile);
	else
		r = from_profile(c, other, depth + 1, k, err);
	if (r == -ENOENT)
		snap_error_set(err, -EACCES, "profile %.60s: no keys in its %s %.60s", profile,
			       *other ? "source_profile" : "credential_source", *other ? other : kind);
	return r;
}

static int from_profile(struct creds *c, const char *profile, unsigned depth, struct aws_key *k, struct snap_error *err)
{
	const char *arn = creds_setting(c, profile, "role_arn"), *file = creds_setting(c, profile, "web_identity_token_file");
	const char *command = creds_setting(c, profile, "credential_process");
	struct aws_key source = { 0 };
	char section[220];
	int r;

	if (*arn && *file)
		return creds_web_identity(c, arn, file, creds_setting(c, profile, "role_session_name"), k, err);
	if (*arn) {
		r = source_of(c, profile, depth, &source, err);
		if (r == 0)
			r = creds_assume(c, profile, &source, k, err);
		explicit_bzero(&source, sizeof(source));
		return r;
	}
	creds_section(profile, section, sizeof(section));
	r = from_section(c->shared, profile, "credentials file", k, err);
	if (r == -ENOENT && *command)
		r = creds_process(c, command, k, err);
	if (r == -ENOENT)
		r = from_section(c->config, section, "config file", k, err);
	if (r == -ENOENT && (*creds_setting(c, profile, "sso_session") || *creds_setting(c, profile, "sso_start_url")))
		r = snap_error_set(err, -EOPNOTSUPP, "profile %.60s: single sign-on needs a person at a browser; give the host a role",
				   profile);
	return r;
}

static int run_chain(struct creds *c, struct aws_key *k, struct snap_error *err)
{
	const char *profile = creds_profile(c), *arn = creds_env("AWS_ROLE_ARN");
	const char *file = creds_env("AWS_WEB_IDENTITY_TOKEN_FILE");
	bool given = *c->profile_opt, named = strcmp(profile, "default") != 0;
	char section[220];
	int r = given ? -ENOENT : from_env(k, err);

	creds_section(profile, section, sizeof(section));
	if (r == -ENOENT && named && !ini_has(c->shared, profile) && !ini_has(c->config, section))
		return snap_error_set(err, -EINVAL, "profile %.60s: neither the config nor the credentials file has it", profile);
	if (r == -ENOENT && !given && *arn && *file && !*creds_setting(c, profile, "role_arn"))
		r = creds_web_identity(c, arn, file, creds_env("AWS_ROLE_SESSION_NAME"), k, err);
	if (r == -ENOENT)
		r = from_profile(c, profile, 0, k, err);
	if (r == -ENOENT)
		r = creds_container(c, k, err);
	if (r == -ENOENT)
		r = creds_imds(c, k, err);
	if (r == -ENOENT)
		r = snap_error_set(err, -EACCES, "no keys: neither in the environment, profile %.60s, a container's endpoint nor "
						 "the instance's metadata; give the instance a role (docs/aws.md)", profile);
	return r;
}

/* ---- the cache ---- */

static bool lives(const struct aws_key *k, int64_t seconds)
{
	return !k->expires_utc || k->expires_utc - clock_utc().tv_sec > seconds;
}

const struct aws_key *creds_get(struct creds *c, uint32_t min_life_s, uint64_t deadline_ns, bool (*stop)(void *arg),
				void *stop_arg, struct snap_error *err)
{
	struct snap_error why = { 0 };
	struct aws_key fresh = { 0 };
	int r;

	if (c->have_key && lives(&c->key, min_life_s > RENEW_S ? min_life_s : RENEW_S))
		return &c->key;
	c->deadline_ns = deadline_ns;
	c->stop = stop;
	c->stop_arg = stop_arg;
	r = run_chain(c, &fresh, &why);
	c->stop = NULL; /* whom it asks may be gone at the next call */
	c->stop_arg = NULL;
	if (r == 0 && !lives(&fresh, min_life_s))
		r = snap_error_set(&why, -EACCES, "keys from %s expire too soon, or have expired; check the host's clock and renew "
						  "them", fresh.source);
	if (r < 0 && c->have_key && lives(&c->key, min_life_s)) {
		log_warn("keys from %s could not be renewed yet: %s", c->key.source, why.msg);
		r = 0;
	} else if (r < 0) {
		snap_error_set(err, r, "%s", why.msg);
	} else {
		c->key = fresh;
		c->have_key = true;
	}
	explicit_bzero(&fresh, sizeof(fresh));
	return r < 0 ? NULL : &c->key;
}

const struct aws_key *creds_held(const struct creds *c)
{
	return c->have_key ? &c->key : NULL;
}

void creds_forget(struct creds *c)
{
	explicit_bzero(&c->key, sizeof(c->key));
	c->have_key = false;
}
