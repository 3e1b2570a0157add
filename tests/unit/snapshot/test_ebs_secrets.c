/* tests/unit/snapshot/test_ebs_secrets.c - of keys and tokens nothing is left in this process's memory once the client is gone:
 * whatever source they came from, and after a request was signed and sent. */
#include "tests/unit/snapshot/http_server.h"
#include "tests/unit/snapshot/unit.h"
#include "snapshot/ebs/creds.h"
#include "snapshot/ebs/ec2.h"
#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* One text for secret and token: it must be nowhere. */
#define SECRET "s3cr3t+not/to/be/left"
#define KEYS(id) "{\"Code\":\"Success\",\"AccessKeyId\":\"" id "\",\"Expiration\":\"2099-01-01T00:00:00Z\",\"SecretAccessKey\":\"" \
		 SECRET "\",\"Token\":\"" SECRET "\"}"
#define STS "<AssumeRoleResponse><AssumeRoleResult><Credentials><SessionToken>" SECRET "</SessionToken><AccessKeyId>ROLE</AccessKeyId>" \
	    "<SecretAccessKey>" SECRET "</SecretAccessKey><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>" \
	    "</AssumeRoleResult></AssumeRoleResponse>"

static struct {
	struct hs *s;
	struct snap_error err;
	char dir[128];
} at;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FREED_STAYS true /* the sanitizer keeps what was freed, and guards it from being looked at */
#else
#define FREED_STAYS false
#endif

/* How often SECRET is in memory that this process can write: heap, stacks, data. Its literals are in none of them. where: one. */
static unsigned secrets_in_memory(char *where, size_t cap)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned long from, to;
	char line[400], perms[8];
	unsigned n = 0;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx-%lx %7s", &from, &to, perms) == 3 && strncmp(perms, "rw", 2) == 0)
			for (const char *p = (const char *)from; (p = memmem(p, to - (unsigned long)p, SECRET, strlen(SECRET))); p++) {
				n++;
				(void)snprintf(where, cap, "%.*s: ...%.60s", (int)strcspn(line, "\n"), line, p - 40);
			}
	(void)fclose(f);
	return n;
}

static void set(const char *name, const char *value)
{
	assert_int_equal(setenv(name, value, 1), 0);
}

/* Keys of this source, which sign a call of the server's when `call`. The secret is in memory then, and not afterwards. */
static void nothing_is_left_of(const char *profile, const char *id, bool call)
{
	struct creds_opts o = { .profile = profile, .region = "eu-west-1", .endpoint = "" };
	struct creds *c = creds_new(&o, &at.err);
	struct ec2 *ec2 = ec2_new(&at.err);
	struct ec2_peer peer = { .url = call ? hs_url(at.s) : "", .region = "eu-west-1", .service = "ec2", .version = "1", .ca_file = "" };
	struct ec2_call q = { .action = "DoIt", .deadline_ns = clock_boot_ns() + 30 * NS_PER_S };
	char where[500] = "";
	struct xml *x = NULL;
	unsigned n;

	peer.key = creds_get(c, 60, clock_boot_ns() + 30 * NS_PER_S, NULL, NULL, &at.err);
	if (!peer.key)
		fail_msg("%s: no key: %s", id, at.err.msg);
	assert_string_equal(peer.key->id, id);
	if (call)
		assert_int_equal(ec2_send(ec2, &peer, &q, &x, &at.err), 0);
	xml_free(x);
	if (!FREED_STAYS && !secrets_in_memory(where, sizeof(where)))
		fail_msg("%s: the secret is not found where it is", id);
	creds_free(c);
	ec2_free(ec2);
	if (at.s)
		hs_stop(at.s, false); /* it had them, too */
	at.s = NULL;
	n = FREED_STAYS ? 0 : secrets_in_memory(where, sizeof(where));
	if (n)
		fail_msg("%s: the secret is in memory %u times: %s", id, n, where);
}

#define PLAY(...)                                                      \
	do {                                                           \
		static const struct hs_step steps[] = { __VA_ARGS__ }; \
		at.s = hs_start(false, steps, sizeof(steps) / sizeof(steps[0])); \
	} while (0)

static void keys_of_files_and_processes_and_roles_are_wiped(void **state)
{
	char text[800];

	file_put(at.dir, "keys.sh", "#!/bin/sh\ncat $1\n");
	(void)snprintf(text, sizeof(text), "%s/keys.sh", at.dir);
	assert_int_equal(chmod(text, 0700), 0);
	file_put(at.dir, "keys.json", KEYS("PROCESS"));
	file_put(at.dir, "credentials", "[default]\naws_access_key_id = FILE\naws_secret_access_key = " SECRET "\n");
	(void)snprintf(text, sizeof(text), "[profile role]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = default\n"
					   "[profile process]\ncredential_process = %s/keys.sh %s/keys.json\n", at.dir, at.dir);
	file_put(at.dir, "config", text);
	nothing_is_left_of("", "FILE", false);
	nothing_is_left_of("process", "PROCESS", false);
	PLAY({ .body = STS });
	set("AWS_ENDPOINT_URL_STS", hs_url(at.s));
	nothing_is_left_of("role", "ROLE", false);
	PLAY({ .body = STS }, { .body = "<DoItResponse/>", .expect = "x-amz-security-token: " SECRET });
	set("AWS_ENDPOINT_URL_STS", hs_url(at.s));
	nothing_is_left_of("role", "ROLE", true);
}

static void keys_that_came_over_http_are_wiped(void **state)
{
	char text[800];

	PLAY({ .body = KEYS("CONTAINER") }, { .body = "<DoItResponse/>", .expect = "x-amz-security-token: " SECRET });
	(void)snprintf(text, sizeof(text), "%skeys", hs_url(at.s));
	set("AWS_CONTAINER_CREDENTIALS_FULL_URI", text);
	nothing_is_left_of("", "CONTAINER", true);
	(void)unsetenv("AWS_CONTAINER_CREDENTIALS_FULL_URI");
	PLAY({ .body = "TOK1" }, { .body = "my-role" }, { .body = KEYS("INSTANCE") }, { .body = "<DoItResponse/>" });
	set("AWS_EC2_METADATA_SERVICE_ENDPOINT", hs_url(at.s));
	nothing_is_left_of("", "INSTANCE", true);
}

static int setup(void **state)
{
	static const char *const names[] = { "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION",
					     "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_EC2_METADATA_DISABLED",
					     "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI" };
	char path[200];

	log_quiet();
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		(void)unsetenv(names[i]);
	scratch_make(at.dir, sizeof(at.dir));
	(void)snprintf(path, sizeof(path), "%s/config", at.dir);
	set("AWS_CONFIG_FILE", path);
	(void)snprintf(path, sizeof(path), "%s/credentials", at.dir);
	set("AWS_SHARED_CREDENTIALS_FILE", path);
	return 0;
}

static int teardown(void **state)
{
	scratch_remove(at.dir);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(keys_of_files_and_processes_and_roles_are_wiped, setup, teardown),
		cmocka_unit_test_setup_teardown(keys_that_came_over_http_are_wiped, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
