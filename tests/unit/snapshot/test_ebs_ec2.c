/* tests/unit/snapshot/test_ebs_ec2.c - calls of AWS's APIs against a scripted server: signatures by AWS's published
 * vectors, repetition and its end, what is known after a failure, the clock, pages, sentences. */
#include "tests/unit/snapshot/http_server.h"
#include "tests/unit/snapshot/unit.h"
#include "snapshot/ebs/ec2.h"
#include "snapshot/ebs/ec2_error.h"
#include "snapshot/ebs/key.h"
#include "snapshot/ebs/sigv4.h"
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ERR(code, text) "<Response><Errors><Error><Code>" code "</Code><Message>" text "</Message></Error></Errors>" \
			"<RequestID>r</RequestID></Response>"
#define OK "<DoItResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><return>true</return></DoItResponse>"

static struct {
	struct ec2 *c;
	struct hs *s;
	struct aws_key key;
	struct ec2_peer peer;
	struct snap_error err;
	struct ec2_call call;
} at;

static int setup(void **state)
{
	memset(&at, 0, sizeof(at));
	at.c = ec2_new(&at.err);
	(void)snprintf(at.key.id, sizeof(at.key.id), "AKIDEXAMPLE");
	(void)snprintf(at.key.secret, sizeof(at.key.secret), "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
	(void)snprintf(at.key.token, sizeof(at.key.token), "TOKEN-VALUE");
	at.peer = (struct ec2_peer){ .region = "eu-west-1", .service = "ec2", .version = "2016-11-15", .ca_file = "", .key = &at.key };
	return 0;
}

static int teardown(void **state)
{
	ec2_free(at.c);
	return 0;
}

static int send_it(bool once, uint32_t ms)
{
	struct xml *x = NULL;
	int r;

	snap_error_clear(&at.err);
	at.peer.url = hs_url(at.s);
	at.call = (struct ec2_call){ .action = "DoIt", .once = once, .deadline_ns = clock_boot_ns() + ms * NS_PER_MS };
	r = ec2_send(at.c, &at.peer, &at.call, &x, &at.err);
	assert_int_equal(r == 0, x != NULL);
	assert_null(strstr(at.err.msg, at.key.secret));
	assert_null(strstr(at.err.msg, at.key.token));
	xml_free(x);
	return r;
}

#define PLAY(...)                                              \
	static const struct hs_step steps[] = { __VA_ARGS__ }; \
	at.s = hs_start(false, steps, sizeof(steps) / sizeof(steps[0]))

/* ---- signatures ---- */

/* From AWS's aws4_testsuite (as in botocore, tests/unit/auth). All its 34 cases were compared once, each canonical request
 * (.creq) against its .authz: the ones with paths, repeated headers or odd queries cannot come from this client and are not
 * kept here. */
static const char v_token[] =
	"AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwt"
	"hAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXA"
	"kiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
static const struct http_header v_vanilla[] = { { "host", "example.amazonaws.com" }, { "x-amz-date", "20150830T123600Z" } };
static const struct http_header v_sts[] = { { "host", "example.amazonaws.com" }, { "x-amz-date", "20150830T123600Z" },
					  { "x-amz-security-token", v_token } };
static const struct http_header v_vanilla_sts[] = {
	{ "host", "example.amazonaws.com" }, { "x-amz-date", "20150830T123600Z" },
	{ "x-amz-security-token", "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267" },
};
static const struct http_header v_form[] = { { "content-type", "application/x-www-form-urlencoded" },
					   { "host", "example.amazonaws.com" }, { "x-amz-date", "20150830T123600Z" } };
static const struct http_header v_form_utf8[] = { { "content-type", "application/x-www-form-urlencoded; charset=utf8" },
						{ "host", "example.amazonaws.com" }, { "x-amz-date", "20150830T123600Z" } };
static const struct vector {
	const char *name, *method, *query;
	const struct http_header *h;
	size_t n;
	const char *body, *signed_headers, *sig;
} published[] = {
	{ "post-vanilla", "POST", "", v_vanilla, 2, "", "host;x-amz-date",
	  "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b" },
	{ "post-sts-header-before", "POST", "", v_sts, 3, "", "host;x-amz-date;x-amz-security-token",
	  "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead" },
	{ "post-x-www-form-urlencoded", "POST", "", v_form, 3, "Param1=value1", "content-type;host;x-amz-date",
	  "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a" },
	{ "post-x-www-form-urlencoded-parameters", "POST", "", v_form_utf8, 3, "Param1=value1", "content-type;host;x-amz-date",
	  "1a72ec8f64bd914b0e42e42607c7fbce7fb2c7465f63e3092b3b0d39fa77a6fe" },
	{ "get-vanilla", "GET", "", v_vanilla, 2, "", "host;x-amz-date",
	  "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31" },
	{ "get-vanilla-query-order-key-case", "GET", "Param1=value1&Param2=value2", v_vanilla, 2, "", "host;x-amz-date",
	  "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500" },
	{ "get-vanilla-with-session-token", "GET", "", v_vanilla_sts, 3, "", "host;x-amz-date;x-amz-security-token",
	  "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8" },
};

static void signatures_are_those_of_the_published_vectors(void **state)
{
	const struct sigv4_key k = { at.key.id, at.key.secret, "us-east-1", "service" };
	char date[SIGV4_DATE_MAX], auth[SIGV4_AUTH_MAX], want[512];

	sigv4_date(1440938160, date);
	assert_string_equal(date, "20150830T123600Z");
	for (size_t i = 0; i < sizeof(published) / sizeof(published[0]); i++) {
		const struct vector *v = &published[i];

		assert_int_equal(sigv4_sign(&k, date, v->method, "/", v->query, v->h, v->n, v->body, strlen(v->body), auth), 0);
		(void)snprintf(want, sizeof(want), "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
						   "SignedHeaders=%s, Signature=%s", v->signed_headers, v->sig);
		if (strcmp(auth, want) != 0)
			fail_msg("%s: %s", v->name, auth);
	}
}

/* The signature that botocore's own test of CopySnapshot expects in its presigned URL. */
static void a_presigned_query_has_the_signature_of_the_sdk(void **state)
{
	const struct sigv4_key k = { "access_key", "secret_key", "us-west-2", "ec2" };
	const struct http_header host = { "host", "ec2.us-west-2.amazonaws.com" };
	char date[SIGV4_DATE_MAX], auth[SIGV4_AUTH_MAX];
	struct vbuf q = VBUF_INIT;

	sigv4_date(1315611360, date);
	vbuf_puts(&q, "Action=CopySnapshot");
	ec2_arg(&q, "us-east-1", "DestinationRegion");
	ec2_arg(&q, "us-west-2", "SourceRegion");
	ec2_arg(&q, "snap-0123abc", "SourceSnapshotId");
	vbuf_puts(&q, "&Version=2016-11-15&X-Amz-Algorithm=AWS4-HMAC-SHA256");
	ec2_arg(&q, "access_key/20110909/us-west-2/ec2/aws4_request", "X-Amz-Credential");
	ec2_arg(&q, date, "X-Amz-Date");
	ec2_arg(&q, "3600", "X-Amz-Expires");
	ec2_arg(&q, "host", "X-Amz-SignedHeaders");
	assert_int_equal(sigv4_sign(&k, date, "GET", "/", vbuf_text(&q), &host, 1, "", 0, auth), 0);
	assert_says(auth, "SignedHeaders=host, Signature=a94a6b52afdf3daa34c2e2a38a62b72c8dac129c9904c61aa1a5d86e38628537");
	vbuf_free(&q);
}

static void host_is_signed_as_it_is_sent_without_the_port_of_its_scheme(void **state)
{
	static const char *const v[][2] = {
		{ "https://ec2.eu-west-1.amazonaws.com:443/", "ec2.eu-west-1.amazonaws.com" }, { "http://h:80", "h" },
		{ "https://h:80/", "h:80" }, { "http://h:443/", "h:443" }, { "https://[::1]:8443/", "[::1]:8443" },
	};
	static const char *const bad[] = { "ftp://h/", "https://u:p@h/", "https:///", "https://h/path", "h" };
	char host[64];

	for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); i++) {
		assert_int_equal(ec2_host(v[i][0], host, sizeof(host)), 0);
		assert_string_equal(host, v[i][1]);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(ec2_host(bad[i], host, sizeof(host)), -EINVAL);
}

static void a_request_is_signed_with_its_token_for_its_host_and_port(void **state)
{
	struct vbuf form = VBUF_INIT;
	struct xml *x;
	char host[64];
	PLAY({ .body = OK, .expect = "Action=DoIt&Version=2016-11-15&Filter.1.Value.2=a+b%26%3D%2B%C3%A9~" });

	at.peer.url = hs_url(at.s);
	ec2_arg(&form, "a b&=+\xc3\xa9~", "Filter.%u.Value.%u", 1u, 2u);
	at.call = (struct ec2_call){ .action = "DoIt", .form = &form, .deadline_ns = clock_boot_ns() + 5 * NS_PER_S };
	assert_int_equal(ec2_send(at.c, &at.peer, &at.call, &x, &at.err), 0);
	(void)snprintf(host, sizeof(host), "Host: 127.0.0.1:%u\r\n", hs_port(at.s));
	assert_says(hs_request(at.s, 0), host);
	assert_says(hs_request(at.s, 0), "x-amz-security-token: TOKEN-VALUE\r\n");
	assert_says(hs_request(at.s, 0), "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, ");
	assert_says(hs_request(at.s, 0), "/eu-west-1/ec2/aws4_request");
	xml_free(x);
	vbuf_free(&form);
	hs_stop(at.s, false);
}

/* ---- repetition ---- */

static void what_is_retryable_is_repeated_with_growing_pauses(void **state)
{
	PLAY({ .status = 503, .body = ERR("Unavailable", "") }, { .status = 502, .body = "<html>" }, { .kind = HS_LOST },
	     { .kind = HS_TORN, .body = OK }, { .body = "half an <XML" }, { .body = OK });

	assert_int_equal(send_it(false, 20000), 0);
	assert_int_equal(at.call.tries, 6);
	assert_int_equal(at.call.fate, EC2_DONE);
	hs_stop(at.s, false);
}

static void throttling_waits_as_long_as_the_server_says(void **state)
{
	PLAY({ .status = 503, .body = ERR("RequestLimitExceeded", "slow"), .headers = "Retry-After: 0.3\r\n" }, { .body = OK });

	assert_int_equal(send_it(false, 20000), 0);
	assert_true(hs_time_ns(at.s, 1) - hs_time_ns(at.s, 0) >= 300 * NS_PER_MS);
	hs_stop(at.s, false);
}

static void repetition_ends_at_the_deadline_with_the_last_reason(void **state)
{
	static const struct hs_step steps[] = { [0 ... 40] = { .status = 500, .body = "oops" } };
	uint64_t t = clock_boot_ns();

	at.s = hs_start(false, steps, 41);
	assert_int_equal(send_it(false, 600), -EIO);
	assert_says(at.err.msg, "DoIt: answered with HTTP status 500");
	assert_true(clock_boot_ns() - t < 5 * NS_PER_S);
	assert_true(at.call.tries > 1 && at.call.tries < 40);
	hs_stop(at.s, true);
}

static void a_creation_is_sent_once_whatever_comes_back(void **state)
{
	static const struct {
		struct hs_step step;
		int code;
		enum ec2_fate fate;
	} t[] = {
		{ { .status = 503, .body = ERR("RequestLimitExceeded", "x") }, -EAGAIN, EC2_REFUSED },
		{ { .status = 400, .body = ERR("SnapshotCreationPerVolumeRateExceeded", "x") }, -EAGAIN, EC2_REFUSED },
		{ { .status = 400, .body = ERR("ConcurrentSnapshotLimitExceeded", "x") }, -EAGAIN, EC2_REFUSED },
		{ { .status = 403, .body = ERR("UnauthorizedOperation", "x") }, -EACCES, EC2_REFUSED },
		{ { .status = 401, .body = "<ErrorResponse><Errors><Error><Code>AuthFailure</Code><Message>m</Message></Error></Errors>"
					   "</ErrorResponse>" }, -EACCES, EC2_REFUSED },
		{ { .status = 400, .body = ERR("SomethingNew", "x") }, -EIO, EC2_REFUSED },
		{ { .status = 500, .body = ERR("InternalError", "x") }, -EIO, EC2_UNKNOWN },
		{ { .status = 503, .body = ERR("Unavailable", "x") }, -EAGAIN, EC2_UNKNOWN },
		{ { .status = 500, .body = "<html>no XML" }, -EIO, EC2_UNKNOWN },
		{ { .status = 504, .body = "" }, -EIO, EC2_UNKNOWN },
		{ { .status = 400, .body = "" }, -EIO, EC2_UNKNOWN },
		{ { .status = 302, .headers = "Location: /x\r\n" }, -EPROTO, EC2_UNKNOWN },
		{ { .body = "<OtherResponse/>" }, -EBADMSG, EC2_UNKNOWN },
		{ { .body = "<DoItResponse><half" }, -EBADMSG, EC2_UNKNOWN },
		{ { .body = ERR("Odd", "an error with status 200") }, -EBADMSG, EC2_UNKNOWN },
		{ { .kind = HS_TORN, .body = OK }, -ECONNRESET, EC2_UNKNOWN },
		{ { .kind = HS_LOST }, -ECONNRESET, EC2_UNKNOWN },
		{ { .kind = HS_STALL }, -ETIMEDOUT, EC2_UNKNOWN },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct hs_step two[2] = { t[i].step, { .body = OK } };
		int r;

		at.s = hs_start(false, two, 2);
		r = send_it(true, t[i].step.kind == HS_STALL ? 200 : 5000);
		if (r != t[i].code || at.call.fate != t[i].fate || hs_count(at.s) != 1)
			fail_msg("row %zu: %d (%s), fate %d, %u requests", i, r, at.err.msg, at.call.fate, hs_count(at.s));
		hs_stop(at.s, true);
	}
}

static void a_creation_that_never_went_out_is_refused(void **state)
{
	char url[64];

	at.s = hs_start(false, NULL, 0);
	(void)snprintf(url, sizeof(url), "%s", hs_url(at.s));
	hs_stop(at.s, false);
	at.peer.url = url;
	at.call = (struct ec2_call){ .action = "DoIt", .once = true, .deadline_ns = clock_boot_ns() + 5 * NS_PER_S };
	struct xml *x;
	assert_int_equal(ec2_send(at.c, &at.peer, &at.call, &x, &at.err), -ECONNREFUSED);
	assert_int_equal(at.call.fate, EC2_REFUSED);
}

static void a_plain_no_is_not_asked_twice_and_says_what_to_do(void **state)
{
	PLAY({ .status = 403, .body = ERR("UnauthorizedOperation", "You are not authorized.") });

	assert_int_equal(send_it(false, 20000), -EACCES);
	assert_says(at.err.msg, "DoIt: AWS answered UnauthorizedOperation: You are not authorized.; allow this action");
	assert_string_equal(at.call.code, "UnauthorizedOperation");
	hs_stop(at.s, false);
}

/* ---- the clock ---- */

static const char *date_after(char *buf, size_t cap, int seconds)
{
	time_t t = time(NULL) + seconds;
	struct tm tm;

	(void)gmtime_r(&t, &tm);
	(void)strftime(buf, cap, "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &tm);
	return buf;
}

static long long stamp(const char *request)
{
	const char *p = strstr(request, "x-amz-date: ");
	int day = 0, hms = 0;

	assert_non_null(p);
	assert_int_equal(sscanf(p, "x-amz-date: %8dT%6dZ", &day, &hms), 2);
	return day * 1000000LL + hms;
}

static void a_clock_that_is_off_is_corrected_once_also_for_a_creation(void **state)
{
	char later[80];
	struct hs_step steps[] = {
		{ .status = 401, .body = ERR("AuthFailure", "clock"), .headers = date_after(later, sizeof(later), 7200) },
		{ .body = OK, .headers = later },
		{ .status = 400, .body = ERR("RequestExpired", "still"), .headers = later },
	};

	at.s = hs_start(false, steps, 3);
	assert_int_equal(send_it(true, 20000), 0);
	assert_int_equal(at.call.tries, 2);
	assert_true(stamp(hs_request(at.s, 1)) > stamp(hs_request(at.s, 0)));
	assert_in_range(ec2_skew(at.c), 7190, 7210);
	assert_int_equal(send_it(true, 20000), -EACCES); /* and no more */
	assert_int_equal(at.call.tries, 1);
	assert_says(at.err.msg, "set the host's clock");
	hs_stop(at.s, false);
}

static void a_refused_signature_at_the_right_time_is_final(void **state)
{
	char now[80];
	struct hs_step steps[] = {
		{ .status = 401, .body = ERR("AuthFailure", "keys"), .headers = date_after(now, sizeof(now), 0) },
	};

	at.s = hs_start(false, steps, 1);
	assert_int_equal(send_it(false, 20000), -EACCES);
	assert_int_equal(at.call.tries, 1);
	hs_stop(at.s, false);
}

/* ---- pages ---- */

static int count_items(void *arg, const struct xml_elem *root, struct snap_error *err)
{
	const struct xml_elem *i = xml_find(root, "set/item");

	for (; i; i = xml_next(i))
		++*(int *)arg;
	return *(int *)arg > 100 ? snap_error_set(err, -E2BIG, "enough") : 0;
}

static void pages_are_read_to_the_last_also_empty_ones(void **state)
{
	struct vbuf form = VBUF_INIT;
	int n = 0;
	PLAY({ .body = "<DoItResponse><nextToken>a+b=</nextToken><set><item/><item/></set></DoItResponse>", .expect = "&A=1" },
	     { .body = "<DoItResponse><nextToken>c</nextToken><set/></DoItResponse>", .expect = "&A=1&NextToken=a%2Bb%3D" },
	     { .body = "<DoItResponse><set><item/></set><nextToken/></DoItResponse>", .expect = "&NextToken=c" });

	ec2_arg(&form, "1", "A");
	at.peer.url = hs_url(at.s);
	at.call = (struct ec2_call){ .action = "DoIt", .form = &form, .deadline_ns = clock_boot_ns() + 9 * NS_PER_S };
	assert_int_equal(ec2_pages(at.c, &at.peer, &at.call, count_items, &n, &at.err), 0);
	assert_int_equal(n, 3);
	assert_ptr_equal(at.call.form, &form);
	vbuf_free(&form);
	hs_stop(at.s, false);
}

static void endpoints_that_are_none_are_refused(void **state)
{
	static const char *const bad[] = { "ec2.amazonaws.com", "ftp://x/", "https:///", "https://user@host/", "https://host/path" };
	struct xml *x;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		snap_error_clear(&at.err);
		at.peer.url = bad[i];
		at.call = (struct ec2_call){ .action = "DoIt", .deadline_ns = clock_boot_ns() + 5 * NS_PER_S };
		assert_int_equal(ec2_send(at.c, &at.peer, &at.call, &x, &at.err), -EINVAL);
		assert_says(at.err.msg, "expected https://HOST[:PORT]");
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(signatures_are_those_of_the_published_vectors),
		T(a_presigned_query_has_the_signature_of_the_sdk),
		T(host_is_signed_as_it_is_sent_without_the_port_of_its_scheme),
		T(a_request_is_signed_with_its_token_for_its_host_and_port),
		T(what_is_retryable_is_repeated_with_growing_pauses),
		T(throttling_waits_as_long_as_the_server_says),
		T(repetition_ends_at_the_deadline_with_the_last_reason),
		T(a_creation_is_sent_once_whatever_comes_back),
		T(a_creation_that_never_went_out_is_refused),
		T(a_plain_no_is_not_asked_twice_and_says_what_to_do),
		T(a_clock_that_is_off_is_corrected_once_also_for_a_creation),
		T(a_refused_signature_at_the_right_time_is_final),
		T(pages_are_read_to_the_last_also_empty_ones),
		T(endpoints_that_are_none_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
