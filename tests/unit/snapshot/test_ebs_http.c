/* tests/unit/snapshot/test_ebs_http.c - HTTP requests of the provider ebs against a scripted server: what comes back
 * whole, torn, late, too long, from elsewhere or not at all; TLS; the reading of XML. */
#include "tests/unit/snapshot/http_server.h"
#include "tests/unit/snapshot/unit.h"
#include "snapshot/ebs/http.h"
#include "snapshot/ebs/xml.h"
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <signal.h>
#include <string.h>

static struct {
	struct http *h;
	struct hs *s;
	struct http_resp r;
	struct snap_error err;
	char dir[128], ca[160];
	unsigned stop_after, asked;
} at;

static int setup(void **state)
{
	memset(&at, 0, sizeof(at));
	scratch_make(at.dir, sizeof(at.dir));
	(void)snprintf(at.ca, sizeof(at.ca), "%s/ca.pem", at.dir);
	at.h = http_new(&at.err);
	assert_non_null(at.h);
	return 0;
}

static int teardown(void **state)
{
	http_resp_free(&at.r);
	http_free(at.h);
	scratch_remove(at.dir);
	return 0;
}

static bool stop(void *arg)
{
	return ++at.asked > at.stop_after;
}

static int ask(struct http_req q, uint32_t ms)
{
	http_resp_free(&at.r);
	snap_error_clear(&at.err);
	q.deadline_ns = clock_boot_ns() + ms * NS_PER_MS;
	q.method = q.method ? q.method : "GET";
	q.url = q.url ? q.url : hs_url(at.s);
	return http_do(at.h, &q, &at.r, &at.err);
}

#define PLAY(tls, ...)                                              \
	static const struct hs_step steps[] = { __VA_ARGS__ };      \
	at.s = hs_start(tls, steps, sizeof(steps) / sizeof(steps[0]))

static void an_answer_is_whole_with_its_status_and_date(void **state)
{
	struct http_header h[] = { { "x-a", "one" }, { "x-b", "two" } };
	PLAY(false, { .status = 418, .body = "short", .headers = "Date: Sun, 30 Aug 2015 12:36:00 GMT\r\n", .expect = "x-b: two" },
	     { .body = "" });

	assert_int_equal(ask((struct http_req){ .method = "POST", .body = "a=b", .body_len = 3, .headers = h, .n_headers = 2 }, 5000), 0);
	assert_int_equal(at.r.status, 418);
	assert_string_equal(at.r.body, "short");
	assert_int_equal(at.r.len, 5);
	assert_int_equal(at.r.date_utc, 1440938160);
	assert_true(at.r.sent && at.r.fresh);
	assert_int_equal(strncmp(hs_request(at.s, 0), "POST / HTTP/1.1\r\n", 17), 0);
	assert_says(hs_request(at.s, 0), "\r\n\r\na=b");
	assert_int_equal(ask((struct http_req){ .method = "PUT" }, 5000), 0);
	assert_int_equal(strncmp(hs_request(at.s, 1), "PUT / ", 6), 0);
	hs_stop(at.s, false);
}

/* The server sends head and body apart, and its kernel keeps the body until the head is acknowledged, for which ours would wait
 * 40 ms (TCP_DELACK_MIN). A connection's first answers are acknowledged at once in any case. */
static void a_body_that_is_sent_apart_does_not_wait_for_a_delayed_acknowledgment(void **state)
{
	uint64_t began, took, best = UINT64_MAX;
	PLAY(false, { .body = "body", .forever = true });

	for (int i = 0; i < 40; i++) {
		began = clock_boot_ns();
		assert_int_equal(ask((struct http_req){ .method = "POST", .body = "a=b", .body_len = 3 }, 30000), 0);
		took = clock_boot_ns() - began;
		best = i >= 20 && took < best ? took : best;
	}
	assert_int_equal(hs_connection(at.s, 39), 0);
	if (best >= 35 * NS_PER_MS)
		fail_msg("the fastest of 20 answers took %.1f ms", (double)best / 1e6);
	hs_stop(at.s, false);
}

static void the_connection_is_kept_from_one_request_to_the_next(void **state)
{
	PLAY(false, { 0 }, { .end = true }, { 0 });

	for (int i = 0; i < 3; i++) {
		assert_int_equal(ask((struct http_req){ 0 }, 5000), 0);
		assert_int_equal(at.r.fresh, i != 1);
	}
	assert_int_equal(hs_connection(at.s, 1), 0);
	assert_int_equal(hs_connection(at.s, 2), 1);
	hs_stop(at.s, false);
}

static void a_lost_answer_on_a_warm_connection_is_not_asked_for_again(void **state)
{
	PLAY(false, { .body = "warm" }, { .kind = HS_LOST }, { .body = "a second time" });

	assert_int_equal(ask((struct http_req){ .method = "POST", .body = "x", .body_len = 1 }, 5000), 0);
	assert_int_equal(ask((struct http_req){ .method = "POST", .body = "x", .body_len = 1 }, 5000), -ECONNRESET);
	assert_true(at.r.sent);
	assert_int_equal(hs_count(at.s), 2);
	hs_stop(at.s, true);
}

static void a_torn_answer_is_no_answer(void **state)
{
	PLAY(false, { .kind = HS_TORN, .body = "0123456789" }, { .kind = HS_RAW, .body = "no HTTP at all\n" },
	     { .kind = HS_RAW, .body = "HTTP/1.1 200 OK\r\nContent-Le" });

	assert_int_equal(ask((struct http_req){ 0 }, 5000), -ECONNRESET);
	assert_says(at.err.msg, "the connection ended before the answer was whole");
	assert_int_equal(at.r.status, 0);
	assert_true(ask((struct http_req){ 0 }, 5000) < 0);
	assert_int_equal(at.r.status, 0);
	assert_true(ask((struct http_req){ 0 }, 5000) < 0);
	hs_stop(at.s, false);
}

static void a_stalled_answer_ends_at_the_deadline(void **state)
{
	uint64_t t = clock_boot_ns();
	PLAY(false, { .kind = HS_STALL }, { .body = "next" });

	assert_int_equal(ask((struct http_req){ 0 }, 200), -ETIMEDOUT);
	assert_says(at.err.msg, "no answer in time");
	assert_true(at.r.sent);
	assert_true(clock_boot_ns() - t >= 200 * NS_PER_MS);
	assert_int_equal(ask((struct http_req){ 0 }, 5000), 0); /* not the stalled one */
	assert_string_equal(at.r.body, "next");
	assert_int_equal(hs_connection(at.s, 1), 1);
	hs_stop(at.s, false);
}

static void stop_ends_a_request_that_waits(void **state)
{
	PLAY(false, { .kind = HS_STALL });

	at.stop_after = 3;
	assert_int_equal(ask((struct http_req){ .stop = stop }, 60000), -ECANCELED);
	assert_int_equal(at.asked, 4);
	hs_stop(at.s, false);
}

static void an_answer_that_is_too_long_is_refused(void **state)
{
	PLAY(false, { .body = "0123456789" }, { .body = "0123456789" });

	assert_int_equal(ask((struct http_req){ .max_body = 9 }, 5000), -EFBIG);
	assert_int_equal(ask((struct http_req){ .max_body = 10 }, 5000), 0);
	hs_stop(at.s, false);
}

static void a_redirect_is_an_answer_and_is_not_followed(void **state)
{
	PLAY(false, { .status = 307, .headers = "Location: /elsewhere\r\n" });

	assert_int_equal(ask((struct http_req){ 0 }, 5000), 0);
	assert_int_equal(at.r.status, 307);
	assert_int_equal(hs_count(at.s), 1);
	hs_stop(at.s, false);
}

static void who_cannot_be_reached_was_sent_nothing(void **state)
{
	char url[64];

	at.s = hs_start(false, NULL, 0);
	(void)snprintf(url, sizeof(url), "%s", hs_url(at.s));
	hs_stop(at.s, false);
	assert_int_equal(ask((struct http_req){ .url = url }, 5000), -ECONNREFUSED);
	assert_false(at.r.sent);
	assert_int_equal(ask((struct http_req){ .url = "http://key:secret@no-such-host.invalid/" }, 5000), -EHOSTUNREACH);
	assert_false(at.r.sent);
	assert_null(strstr(at.err.msg, "secret"));
	assert_int_equal(ask((struct http_req){ .url = "file:///etc/passwd" }, 5000), -EINVAL);
}

static void tls_needs_an_authority_that_is_known(void **state)
{
	PLAY(true, { .body = "one" }, { .body = "two" });

	assert_true(hs_write_ca(at.s, at.ca));
	assert_int_equal(ask((struct http_req){ 0 }, 5000), -EPROTO);
	assert_false(at.r.sent);
	assert_int_equal(ask((struct http_req){ .ca_file = at.ca }, 5000), 0);
	assert_string_equal(at.r.body, "one");
	assert_int_equal(ask((struct http_req){ .ca_file = at.ca }, 5000), 0);
	assert_false(at.r.fresh);
	hs_stop(at.s, false);
}

/* ---- XML ---- */

static struct xml *parse(const char *text)
{
	snap_error_clear(&at.err);
	return xml_parse(text, strlen(text), &at.err);
}

static void xml_is_read_by_name_in_any_order(void **state)
{
	struct xml *x = parse("<R xmlns=\"urn:x\"><set><new>1</new><item><b>\n two &lt;2&gt;\n</b><a>one</a></item><other/>"
			      "<item><a><![CDATA[x<y]]></a></item></set><empty/></R>");
	const struct xml_elem *i;
	char buf[16];

	assert_non_null(x);
	assert_true(xml_is(xml_root(x), "R"));
	i = xml_find(xml_root(x), "set/item");
	assert_int_equal(xml_text(i, "a", buf, sizeof(buf)), 0);
	assert_string_equal(buf, "one");
	assert_int_equal(xml_text(i, "b", buf, sizeof(buf)), 0);
	assert_string_equal(buf, "two <2>");
	assert_int_equal(xml_text(i, "b", buf, 7), -E2BIG);
	assert_string_equal(buf, "");
	assert_int_equal(xml_text(i, "c", buf, sizeof(buf)), -ENOENT);
	i = xml_next(i);
	assert_int_equal(xml_text(i, "a", buf, sizeof(buf)), 0);
	assert_string_equal(buf, "x<y");
	assert_null(xml_next(i));
	assert_int_equal(xml_text(xml_root(x), "empty", buf, sizeof(buf)), 0);
	assert_null(xml_find(xml_root(x), "set/none/deeper"));
	assert_null(xml_find(NULL, "a"));
	xml_free(x);
	assert_null(xml_free(NULL));
}

static void what_is_no_whole_xml_is_refused(void **state)
{
	static const char *const bad[] = {
		"", "text", "<html><p>no</html>", "<R><a>half", "<R/>more", "{\"a\":1}",
		"<!DOCTYPE R [<!ENTITY e \"x\">]><R>&e;</R>", "<!DOCTYPE R SYSTEM \"file:///etc/passwd\"><R/>",
		"<R>&unknown;</R>",
	};
	char *big = malloc(XML_MAX + 2), *deep = malloc(300 * 3 + 1);

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (parse(bad[i]))
			fail_msg("accepted: %s", bad[i]);
		assert_int_equal(at.err.code, -EBADMSG);
		assert_null(strstr(at.err.msg, "half"));
	}
	memset(big, ' ', XML_MAX + 1);
	big[XML_MAX + 1] = '\0';
	assert_null(parse(big));
	assert_int_equal(at.err.code, -EFBIG);
	for (int i = 0; i < 300; i++)
		memcpy(deep + 3 * i, "<a>", 4);
	assert_null(parse(deep));
	free(big);
	free(deep);
	assert_null(xml_parse(NULL, 0, &at.err));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(an_answer_is_whole_with_its_status_and_date),
		T(a_body_that_is_sent_apart_does_not_wait_for_a_delayed_acknowledgment),
		T(the_connection_is_kept_from_one_request_to_the_next),
		T(a_lost_answer_on_a_warm_connection_is_not_asked_for_again),
		T(a_torn_answer_is_no_answer),
		T(a_stalled_answer_ends_at_the_deadline),
		T(stop_ends_a_request_that_waits),
		T(an_answer_that_is_too_long_is_refused),
		T(a_redirect_is_an_answer_and_is_not_followed),
		T(who_cannot_be_reached_was_sent_nothing),
		T(tls_needs_an_authority_that_is_known),
		T(xml_is_read_by_name_in_any_order),
		T(what_is_no_whole_xml_is_refused),
	};

	/* as the daemon has it: a peer that goes away in the handshake is an error, not a signal */
	(void)signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
