/* tests/unit/snapshot/test_ebs_creds.c - keys, region and endpoint: each source, their order, renewal, refusals; and that
 * no sentence holds a secret. The services are a scripted server. */
#include "tests/unit/snapshot/http_server.h"
#include "tests/unit/snapshot/unit.h"
#include "snapshot/ebs/creds.h"
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define SECRET "s3cr3t+not/to/be/shown"
#define KEYS(id, token, when) "{\"Code\":\"Success\",\"AccessKeyId\":\"" id "\",\"SecretAccessKey\":\"" SECRET \
			      "\",\"Token\":\"" token "\",\"Expiration\":\"" when "\"}"
#define STS(action, id) "<" action "Response><" action "Result><Credentials><SessionToken>tok</SessionToken><AccessKeyId>" id \
			"</AccessKeyId><SecretAccessKey>" SECRET "</SecretAccessKey><Expiration>2099-01-01T00:00:00Z</Expiration>" \
			"</Credentials></" action "Result></" action "Response>"

static struct {
	struct creds *c;
	struct hs *s;
	struct creds_opts o;
	struct snap_error err;
	char dir[128], path[200];
} at;

extern char **environ;

static void no_aws_environment(void)
{
	for (int again = 1; again;) {
		again = 0;
		for (char **e = environ; *e; e++)
			if (strncmp(*e, "AWS_", 4) == 0) {
				char name[128];

				(void)snprintf(name, sizeof(name), "%.*s", (int)strcspn(*e, "="), *e);
				(void)unsetenv(name);
				again = 1;
				break;
			}
	}
}

static void set(const char *name, const char *value)
{
	assert_int_equal(setenv(name, value, 1), 0);
}

static const char *below(const char *name)
{
	(void)snprintf(at.path, sizeof(at.path), "%s/%s", at.dir, name);
	return at.path;
}

static int setup(void **state)
{
	log_quiet();
	memset(&at, 0, sizeof(at));
	at.o = (struct creds_opts){ .profile = "", .region = "", .endpoint = "" };
	no_aws_environment();
	scratch_make(at.dir, sizeof(at.dir));
	set("AWS_CONFIG_FILE", below("config"));
	set("AWS_SHARED_CREDENTIALS_FILE", below("credentials"));
	set("AWS_EC2_METADATA_DISABLED", "true");
	return 0;
}

static int teardown(void **state)
{
	creds_free(at.c);
	no_aws_environment();
	scratch_remove(at.dir);
	return 0;
}

static const struct aws_key *get_for(uint32_t life, uint32_t ms)
{
	const struct aws_key *k;

	snap_error_clear(&at.err);
	if (!at.c)
		at.c = creds_new(&at.o, &at.err);
	if (!at.c)
		return NULL;
	k = creds_get(at.c, life, clock_boot_ns() + ms * NS_PER_MS, NULL, NULL, &at.err);
	assert_null(strstr(at.err.msg, SECRET));
	assert_int_equal(k == NULL, at.err.code != 0);
	return k;
}

static const struct aws_key *get(void)
{
	return get_for(60, 10000);
}

static void assert_key(const char *id)
{
	const struct aws_key *k = get();

	if (!k)
		fail_msg("no key: %s", at.err.msg);
	assert_string_equal(k->id, id);
}

static void again(void)
{
	at.c = creds_free(at.c);
}

#define PLAY(...)                                              \
	static const struct hs_step steps[] = { __VA_ARGS__ }; \
	at.s = hs_start(false, steps, sizeof(steps) / sizeof(steps[0]))

/* ---- environment and files ---- */

static void the_environment_comes_first_but_for_a_profile_that_was_asked_for(void **state)
{
	file_put(at.dir, "credentials", "[default]\naws_access_key_id = DEF\naws_secret_access_key = " SECRET "\n"
					"[other] # x\naws_access_key_id=OTHER ; note\naws_secret_access_key=" SECRET "\naws_session_token = t\n");
	file_put(at.dir, "config", "[profile third]\naws_access_key_id = THIRD\naws_secret_access_key = " SECRET "\n");
	assert_key("DEF");
	again();
	set("AWS_PROFILE", "other");
	assert_key("OTHER");
	assert_string_equal(get()->token, "t");
	again();
	set("AWS_ACCESS_KEY_ID", "ENV");
	assert_null(get());
	assert_says(at.err.msg, "only one of them is set");
	again();
	set("AWS_SECRET_ACCESS_KEY", SECRET);
	assert_key("ENV");
	again();
	at.o.profile = "third";
	assert_key("THIRD");
	again();
	at.o.profile = "fourth";
	assert_null(get());
	assert_int_equal(at.err.code, -EINVAL);
	assert_says(at.err.msg, "profile fourth: neither the config nor the credentials file has it");
}

static void without_any_keys_the_sentence_says_where_was_looked(void **state)
{
	assert_null(get());
	assert_int_equal(at.err.code, -EACCES);
	assert_says(at.err.msg, "no keys: neither in the environment, profile default, a container's endpoint nor");
	again();
	file_put(at.dir, "config", "[default]\nsso_session = x\n");
	assert_null(get());
	assert_int_equal(at.err.code, -EOPNOTSUPP);
}

static void keys_that_have_expired_are_refused(void **state)
{
	set("AWS_ACCESS_KEY_ID", "ENV");
	set("AWS_SECRET_ACCESS_KEY", SECRET);
	set("AWS_CREDENTIAL_EXPIRATION", "2020-01-01T00:00:00Z");
	assert_null(get());
	assert_says(at.err.msg, "keys from the environment expire too soon, or have expired");
}

/* ---- roles ---- */

static void a_role_is_assumed_with_the_keys_of_its_source_profile(void **state)
{
	PLAY({ .body = STS("AssumeRole", "ROLE"), .expect = "RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr&RoleSessionName=s&ExternalId=e+x" },
	     { .status = 403, .body = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>" });

	set("AWS_ENDPOINT_URL_STS", hs_url(at.s));
	file_put(at.dir, "config", "[profile r]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = base\nregion = eu-west-1\n"
				   "external_id = e x\nrole_session_name = s\n"
				   "[profile loop]\nrole_arn = a\nsource_profile = loop2\n[profile loop2]\nrole_arn = a\nsource_profile = loop\n"
				   "[profile mfa]\nrole_arn = a\nsource_profile = base\nmfa_serial = x\n");
	file_put(at.dir, "credentials", "[base]\naws_access_key_id = BASE\naws_secret_access_key = " SECRET "\n");
	at.o.profile = "r";
	assert_key("ROLE");
	assert_key("ROLE"); /* from the cache */
	assert_int_equal(hs_count(at.s), 1);
	assert_says(hs_request(at.s, 0), "Credential=BASE/");
	assert_says(hs_request(at.s, 0), "/eu-west-1/sts/aws4_request");
	creds_forget(at.c);
	assert_null(get());
	assert_int_equal(at.err.code, -EACCES);
	assert_says(at.err.msg, "AssumeRole: AWS answered AccessDenied: no");
	again();
	at.o.profile = "loop";
	assert_null(get());
	assert_int_equal(at.err.code, -ELOOP);
	again();
	at.o.profile = "mfa";
	assert_null(get());
	assert_says(at.err.msg, "mfa_serial needs a person");
	hs_stop(at.s, false);
}

static void a_web_identity_is_sent_unsigned_with_its_token(void **state)
{
	PLAY({ .body = STS("AssumeRoleWithWebIdentity", "WEB"), .expect = "&WebIdentityToken=the.token" });

	set("AWS_ENDPOINT_URL_STS", hs_url(at.s));
	set("AWS_REGION", "eu-west-1");
	set("AWS_ROLE_ARN", "arn:aws:iam::1:role/w");
	set("AWS_WEB_IDENTITY_TOKEN_FILE", below("token"));
	file_put(at.dir, "token", "the.token\n");
	assert_key("WEB");
	assert_null(strstr(hs_request(at.s, 0), "uthorization:"));
	hs_stop(at.s, false);
}

/* ---- container ---- */

static void a_containers_endpoint_is_asked_with_the_token_of_the_moment(void **state)
{
	char url[80];
	PLAY({ .body = KEYS("C1", "t", "2099-01-01T00:00:00Z"), .expect = "authorization: first\r\n" }, { .status = 503 },
	     { .body = KEYS("C2", "t", "2099-01-01T00:00:00Z"), .expect = "authorization: second\r\n" });

	(void)snprintf(url, sizeof(url), "%skeys", hs_url(at.s));
	set("AWS_CONTAINER_CREDENTIALS_FULL_URI", url);
	set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", below("token"));
	file_put(at.dir, "token", "first\n");
	assert_key("C1");
	file_put(at.dir, "token", "second\n");
	creds_forget(at.c);
	assert_key("C2");
	hs_stop(at.s, false);
}

static void a_token_is_not_sent_to_strangers_in_the_clear(void **state)
{
	static const char *const bad[] = { "http://example.org/x", "http://127.0.0.1.example.org/", "http://127.0.0.1@example.org/",
					   "http://1270.0.0.1x/", "ftp://localhost/", "localhost" };

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		set("AWS_CONTAINER_CREDENTIALS_FULL_URI", bad[i]);
		assert_null(get());
		if (at.err.code != -EINVAL)
			fail_msg("%s: %s", bad[i], at.err.msg);
	}
	set("AWS_CONTAINER_AUTHORIZATION_TOKEN", "a\r\nX-Other: b");
	set("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://localhost:1/");
	assert_null(get());
	assert_says(at.err.msg, "a line end in it");
}

/* ---- process ---- */

static void a_process_prints_keys_and_is_killed_when_it_hangs(void **state)
{
	char text[1200], script[160];
	uint64_t t;

	(void)snprintf(script, sizeof(script), "%s/keys.sh", at.dir);
	file_put(at.dir, "keys.sh", "#!/bin/sh\n[ \"$2\" = 'a b' ] || exit 1\n[ \"$1\" = hang ] && sleep 60\n[ \"$1\" = bad ] && exit 3\n"
				    "[ \"$1\" = none ] && echo nothing\n[ \"$1\" = ok ] && echo '{\"Version\":1,\"AccessKeyId\":\"PROC\","
				    "\"SecretAccessKey\":\"x\",\"SessionToken\":\"tok\"}'\nexit 0\n");
	assert_int_equal(chmod(script, 0700), 0);
	(void)snprintf(text, sizeof(text), "[profile ok]\ncredential_process = %s ok \"a b\"\n[profile bad]\ncredential_process = %s bad 'a b'\n"
					   "[profile hang]\ncredential_process = %s hang a\\ b " SECRET "\n[profile none]\ncredential_process = %s none 'a b'\n"
					   "[profile quote]\ncredential_process = %s 'a\n", script, script, script, script, script);
	file_put(at.dir, "config", text);
	at.o.profile = "ok";
	assert_key("PROC");
	assert_string_equal(get()->token, "tok");
	at.o.profile = "bad";
	again();
	assert_null(get());
	assert_says(at.err.msg, "keys.sh: it failed");
	at.o.profile = "none";
	again();
	assert_null(get());
	assert_int_equal(at.err.code, -EBADMSG);
	at.o.profile = "quote";
	again();
	assert_null(get());
	assert_int_equal(at.err.code, -EINVAL);
	at.o.profile = "hang";
	again();
	t = clock_boot_ns();
	assert_null(get_for(60, 300));
	assert_int_equal(at.err.code, -ETIMEDOUT);
	assert_true(clock_boot_ns() - t < 30 * NS_PER_S);
}

/* ---- the instance's role ---- */

static void use_metadata(void)
{
	(void)unsetenv("AWS_EC2_METADATA_DISABLED");
	set("AWS_EC2_METADATA_SERVICE_ENDPOINT", hs_url(at.s));
}

static void the_instances_role_is_asked_with_a_token(void **state)
{
	PLAY({ .body = "TOK1", .expect = "PUT /latest/api/token HTTP" },
	     { .body = "my-role", .expect = "GET /latest/meta-data/iam/security-credentials/ HTTP" },
	     { .body = KEYS("ROLE", "t", "2099-01-01T00:00:00Z"), .expect = "GET /latest/meta-data/iam/security-credentials/my-role HTTP" },
	     { .body = "eu-north-1", .expect = "GET /latest/meta-data/placement/region HTTP" }, { .status = 401 }, { .body = "TOK2" },
	     { .body = "i-0123", .expect = "x-aws-ec2-metadata-token: TOK2\r\n" });
	const char *region;
	char id[32];

	use_metadata();
	assert_key("ROLE");
	assert_says(hs_request(at.s, 0), "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n");
	for (unsigned i = 1; i < 3; i++)
		assert_says(hs_request(at.s, i), "x-aws-ec2-metadata-token: TOK1\r\n");
	assert_int_equal(creds_region(at.c, clock_boot_ns() + 5 * NS_PER_S, &region, &at.err), 0);
	assert_string_equal(region, "eu-north-1");
	assert_int_equal(creds_metadata(at.c, "meta-data/instance-id", clock_boot_ns() + 5 * NS_PER_S, id, sizeof(id), &at.err), 0);
	assert_string_equal(id, "i-0123");
	hs_stop(at.s, false);
}

static void without_a_token_nothing_is_asked_unless_version_1_was_allowed(void **state)
{
	PLAY({ .status = 403 }, { .status = 403 }, { .body = "r" }, { .status = 403 },
	     { .body = KEYS("V1", "t", "2099-01-01T00:00:00Z") });

	use_metadata();
	assert_null(get());
	assert_int_equal(hs_count(at.s), 1);
	assert_says(at.err.msg, "gives no token: HTTP status 403; in a container behind a bridge raise the instance's hop limit");
	again();
	at.o.imds_v1 = true;
	assert_key("V1");
	assert_null(strstr(hs_request(at.s, 2), "metadata-token"));
	hs_stop(at.s, false);
}

static void an_instance_without_a_role_and_a_broken_role_say_so(void **state)
{
	PLAY({ .body = "T" }, { .status = 404 }, { .body = "r" },
	     { .body = "{\"Code\":\"AssumeRoleUnauthorizedAccess\",\"Message\":\"EC2 cannot assume the role\"}" });

	use_metadata();
	assert_null(get());
	assert_says(at.err.msg, "the instance has no role");
	assert_null(get());
	assert_says(at.err.msg, "none in the answer: AssumeRoleUnauthorizedAccess: EC2 cannot assume the role");
	hs_stop(at.s, false);
}

static char *soon(char *buf, size_t cap, int seconds, const char *id)
{
	time_t t = time(NULL) + seconds;
	char when[32];
	struct tm tm;

	(void)gmtime_r(&t, &tm);
	(void)strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm);
	(void)snprintf(buf, cap, "{\"AccessKeyId\":\"%s\",\"SecretAccessKey\":\"x\",\"Token\":\"t\",\"Expiration\":\"%s\"}", id, when);
	return buf;
}

static void keys_are_renewed_before_they_expire_and_kept_when_that_fails(void **state)
{
	char one[300], two[300];
	struct hs_step steps[] = {
		{ .body = "T" }, { .body = "r" }, { .body = soon(one, sizeof(one), 600, "ONE") },
		{ .status = 404 }, /* the role is away for a moment */
		{ .body = "r" }, { .body = soon(two, sizeof(two), 7200, "TWO") },
	};

	at.s = hs_start(false, steps, 6);
	use_metadata();
	assert_key("ONE"); /* 600 s are enough for now, but renewed at each use */
	assert_key("ONE");
	assert_key("TWO");
	assert_key("TWO");
	assert_null(get_for(7300, 5000));
	hs_stop(at.s, true);
}

/* ---- region and endpoint ---- */

static void endpoints_are_made_of_region_partition_and_wishes(void **state)
{
	static const struct {
		const char *region;
		bool fips, dual;
		const char *url;
	} t[] = {
		{ "eu-west-1", false, false, "https://ec2.eu-west-1.amazonaws.com/" },
		{ "us-east-2", true, false, "https://ec2-fips.us-east-2.amazonaws.com/" },
		{ "us-east-2", false, true, "https://ec2.us-east-2.api.aws/" },
		{ "us-east-2", true, true, "https://ec2-fips.us-east-2.api.aws/" },
		{ "cn-north-1", false, false, "https://ec2.cn-north-1.amazonaws.com.cn/" },
		{ "cn-north-1", false, true, "https://ec2.cn-north-1.api.amazonwebservices.com.cn/" },
		{ "us-gov-west-1", true, false, "https://ec2.us-gov-west-1.amazonaws.com/" },
		{ "us-iso-east-1", false, false, "https://ec2.us-iso-east-1.c2s.ic.gov/" },
		{ "us-isob-east-1", false, false, "https://ec2.us-isob-east-1.sc2s.sgov.gov/" },
		{ "eusc-de-east-1", false, false, "https://ec2.eusc-de-east-1.amazonaws.eu/" },
		{ "us-iso-east-1", false, true, NULL },
		{ "eu/west", false, false, NULL },
	};
	char url[300];

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		again();
		snap_error_clear(&at.err);
		at.o.region = t[i].region;
		at.o.fips = t[i].fips;
		at.o.dualstack = t[i].dual;
		at.c = creds_new(&at.o, &at.err);
		if (!t[i].url) {
			assert_true(creds_endpoint(at.c, "ec2", 0, url, sizeof(url), &at.err) < 0);
			continue;
		}
		assert_int_equal(creds_endpoint(at.c, "ec2", 0, url, sizeof(url), &at.err), 0);
		assert_string_equal(url, t[i].url);
	}
}

static void assert_endpoint(const char *service, const char *want)
{
	char url[300];

	again();
	snap_error_clear(&at.err);
	at.c = creds_new(&at.o, &at.err);
	if (creds_endpoint(at.c, service, 0, url, sizeof(url), &at.err) < 0)
		fail_msg("%s", at.err.msg);
	assert_string_equal(url, want);
}

static void endpoints_and_regions_are_taken_in_the_order_of_awss_tools(void **state)
{
	const char *region;

	file_put(at.dir, "config", "[default]\nregion = eu-west-3\nservices = here\nendpoint_url = http://profile\nca_bundle = /ca.pem\n"
				   "[services here]\nec2 =\n  endpoint_url = http://services:1\ns3 =\n  endpoint_url = http://other\n");
	assert_endpoint("ec2", "http://services:1/");
	assert_endpoint("sts", "http://profile/");
	set("AWS_ENDPOINT_URL", "http://all");
	assert_endpoint("ec2", "http://all/");
	set("AWS_ENDPOINT_URL_EC2", "http://env/");
	assert_endpoint("ec2", "http://env/");
	at.o.endpoint = "https://option:8443";
	assert_endpoint("ec2", "https://option:8443/");
	assert_endpoint("sts", "http://all/");
	at.o.endpoint = "";
	set("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true");
	assert_endpoint("ec2", "https://ec2.eu-west-3.amazonaws.com/");
	set("AWS_DEFAULT_REGION", "eu-west-4");
	assert_endpoint("ec2", "https://ec2.eu-west-4.amazonaws.com/");
	set("AWS_REGION", "eu-west-5");
	assert_endpoint("ec2", "https://ec2.eu-west-5.amazonaws.com/");
	at.o.region = "eu-west-6";
	assert_endpoint("ec2", "https://ec2.eu-west-6.amazonaws.com/");
	assert_int_equal(creds_region(at.c, 0, &region, &at.err), 0);
	assert_string_equal(region, "eu-west-6");
	assert_string_equal(creds_ca_file(at.c), "/ca.pem");
	set("AWS_CA_BUNDLE", "/env.pem");
	assert_string_equal(creds_ca_file(at.c), "/env.pem");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(the_environment_comes_first_but_for_a_profile_that_was_asked_for),
		T(without_any_keys_the_sentence_says_where_was_looked),
		T(keys_that_have_expired_are_refused),
		T(a_role_is_assumed_with_the_keys_of_its_source_profile),
		T(a_web_identity_is_sent_unsigned_with_its_token),
		T(a_containers_endpoint_is_asked_with_the_token_of_the_moment),
		T(a_token_is_not_sent_to_strangers_in_the_clear),
		T(a_process_prints_keys_and_is_killed_when_it_hangs),
		T(the_instances_role_is_asked_with_a_token),
		T(without_a_token_nothing_is_asked_unless_version_1_was_allowed),
		T(an_instance_without_a_role_and_a_broken_role_say_so),
		T(keys_are_renewed_before_they_expire_and_kept_when_that_fails),
		T(endpoints_are_made_of_region_partition_and_wishes),
		T(endpoints_and_regions_are_taken_in_the_order_of_awss_tools),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
