/* snapshot/ebs/ec2.c - see ec2.h.
 * Owns:      the connection, the offset of the server's clock.
 * Called by: ebs*.c, creds_role.c, on the provider's thread.
 * Blocks:    up to the deadline of a call; pauses between tries end at once when the caller says stop.
 * Errors:    -errno with the sentence. */
#include "snapshot/ebs/ec2.h"
#include "snapshot/ebs/ec2_error.h"
#include "snapshot/ebs/key.h"
#include "snapshot/ebs/sigv4.h"
#include "base/clock.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define TRY_MS 15000u /* of one try that may be repeated */
#define PAUSE_FIRST_MS 100u
#define PAUSE_THROTTLED_MS 1000u
#define PAUSE_MAX_MS 20000u
#define PAGES_MAX 1000u
#define SKEW_SURE_S 60 /* a clock that is off by less is not why a signature was refused */

struct ec2 {
	struct http *http;
	int64_t skew_s; /* server minus host, as last seen */
	int64_t used_skew_s; /* what signatures take */
	bool fresh;
};

struct ec2 *ec2_free(struct ec2 *c)
{
	if (c)
		http_free(c->http);
	free(c);
	return NULL;
}

struct ec2 *ec2_new(struct snap_error *err)
{
	struct ec2 *c = calloc(1, sizeof(*c));

	if (!c) {
		snap_error_set(err, -ENOMEM, "AWS client: out of memory");
		return NULL;
	}
	c->http = http_new(err);
	return c->http ? c : ec2_free(c);
}

int64_t ec2_skew(const struct ec2 *c)
{
	return c->skew_s;
}

bool ec2_was_fresh(const struct ec2 *c)
{
	return c->fresh;
}

void ec2_arg(struct vbuf *form, const char *value, const char *name, ...)
{
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~";
	char buf[128];
	va_list ap;

	va_start(ap, name);
	(void)vsnprintf(buf, sizeof(buf), name, ap);
	va_end(ap);
	vbuf_printf(form, "&%s=", buf);
	for (; *value; value++)
		if (strchr(plain, *value))
			vbuf_add(form, value, 1);
		else if (*value == ' ')
			vbuf_puts(form, "+"); /* as forms are, and AWS's own tools; some check the signature of a form made anew */
		else
			vbuf_printf(form, "%%%02X", (unsigned)(unsigned char)*value);
}

/* ---- one try ---- */

int ec2_host(const char *url, char *buf, size_t cap)
{
	const char *p = strstr(url, "://"), *path;
	size_t n;

	if (!p || (strncmp(url, "https://", 8) != 0 && strncmp(url, "http://", 7) != 0))
		return -EINVAL;
	p += 3;
	n = strcspn(p, "/?#");
	if (!n || n >= cap || memchr(p, '@', n))
		return -EINVAL;
	memcpy(buf, p, n);
	buf[n] = '\0';
	path = p + n;
	/* the port of the scheme is not part of Host */
	if (url[4] == 's' && n > 4 && strcmp(buf + n - 4, ":443") == 0)
		buf[n - 4] = '\0';
	else if (url[4] == ':' && n > 3 && strcmp(buf + n - 3, ":80") == 0)
		buf[n - 3] = '\0';
	return *path && strcmp(path, "/") != 0 ? -EINVAL : 0; /* the API has no other path */
}

static int try_once(struct ec2 *c, const struct ec2_peer *p, const struct ec2_call *call, const struct vbuf *body,
		    struct http_resp *resp, struct snap_error *err)
{
	char date[SIGV4_DATE_MAX], host[256], auth[SIGV4_AUTH_MAX];
	uint64_t end = clock_boot_ns() + TRY_MS * NS_PER_MS;
	struct http_header h[5];
	struct http_req q = { .method = "POST", .url = p->url, .headers = h, .body = vbuf_text(body), .body_len = body->len,
			      .ca_file = p->ca_file, .stop = call->stop, .stop_arg = call->stop_arg };
	int r = ec2_host(p->url, host, sizeof(host));

	if (r < 0)
		return snap_error_set(err, r, "endpoint %.100s: expected https://HOST[:PORT]", p->url);
	h[0] = (struct http_header){ "content-type", "application/x-www-form-urlencoded; charset=utf-8" };
	h[1] = (struct http_header){ "host", host };
	q.n_headers = 2;
	if (p->key) {
		const struct sigv4_key k = { p->key->id, p->key->secret, p->region, p->service };

		sigv4_date(clock_utc().tv_sec + c->used_skew_s, date);
		h[q.n_headers++] = (struct http_header){ "x-amz-date", date };
		if (p->key->token[0])
			h[q.n_headers++] = (struct http_header){ "x-amz-security-token", p->key->token };
		r = sigv4_sign(&k, date, "POST", "/", "", h, q.n_headers, q.body, q.body_len, auth);
		if (r < 0)
			return snap_error_set(err, r, "%s: the request cannot be signed: %s", call->action, strerror(-r));
		h[q.n_headers++] = (struct http_header){ "authorization", auth };
	}
	/* a creation waits as long as it may: its answer is all that is known of it */
	q.deadline_ns = call->once || end > call->deadline_ns ? call->deadline_ns : end;
	r = http_do(c->http, &q, resp, err);
	c->fresh = resp->fresh;
	if (resp->date_utc)
		c->skew_s = resp->date_utc - clock_utc().tv_sec;
	return r;
}

/* Code and message of an error answer: <Response> of EC2 and <ErrorResponse> of the others. */
static void read_error(const struct http_resp *resp, char *code, size_t code_cap, char *msg, size_t msg_cap)
{
	struct xml *x = xml_parse(resp->body, resp->len, NULL);
	const struct xml_elem *root = x ? xml_root(x) : NULL, *e = NULL;

	code[0] = msg[0] = '\0';
	if (root && (xml_is(root, "Response") || xml_is(root, "ErrorResponse"))) {
		e = xml_find(root, "Errors/Error");
		e = e ? e : xml_find(root, "Error");
	}
	if (e) {
		(void)xml_text(e, "Code", code, code_cap);
		if (xml_text(e, "Message", msg, msg_cap) == -E2BIG)
			(void)snprintf(msg, msg_cap, "(a long message)");
	}
	xml_free(x);
}

/* What a try came to. 0: *out; else the kind says whether it may be repeated. */
static int judge(const struct ec2_peer *p, struct ec2_call *call, const struct http_resp *resp, struct xml **out,
		 enum ec2_kind *kind, struct snap_error *err)
{
	char msg[300], want[80], code[64] = "";
	struct ec2_error e;

	if (resp->status == 200) {
		*out = xml_parse(resp->body, resp->len, NULL);
		(void)snprintf(want, sizeof(want), "%.60sResponse", call->action);
		if (*out && xml_is(xml_root(*out), want)) {
			call->fate = EC2_DONE;
			return 0;
		}
		*out = xml_free(*out);
		call->fate = EC2_UNKNOWN;
		*kind = EC2_TRANSIENT;
		return snap_error_set(err, -EBADMSG, "%s: the answer is not what the API gives; is %.100s an endpoint of AWS, "
						     "or does a proxy answer?", call->action, p->url);
	}
	read_error(resp, code, sizeof(code), msg, sizeof(msg));
	e = ec2_error_of(code, resp->status);
	*kind = e.kind;
	(void)snprintf(call->code, sizeof(call->code), "%s", code);
	/* only a plain no of the API itself is one: a 5xx, or somebody between us, may come after the deed */
	call->fate = code[0] && e.kind != EC2_TRANSIENT ? EC2_REFUSED : EC2_UNKNOWN;
	if (code[0])
		return snap_error_set(err, e.code, "%s: AWS answered %s%s%.200s%s%s", call->action, code, msg[0] ? ": " : "", msg,
				      e.hint ? "; " : "", e.hint ? e.hint : "");
	return snap_error_set(err, e.code, "%s: answered with HTTP status %ld%s%s", call->action, resp->status,
			      e.hint ? "; " : "", e.hint ? e.hint : "");
}

/* ---- repetition ---- */

/* Full jitter: somewhere below the bound, so that hosts that failed together do not come back together. */
static uint32_t pause_ms(enum ec2_kind kind, unsigned tries, double retry_after_s)
{
	uint32_t bound = kind == EC2_THROTTLED ? PAUSE_THROTTLED_MS : PAUSE_FIRST_MS, rnd = 0;

	for (unsigned i = 1; i < tries && bound < PAUSE_MAX_MS; i++)
		bound *= 2;
	if (bound > PAUSE_MAX_MS)
		bound = PAUSE_MAX_MS;
	(void)getrandom(&rnd, sizeof(rnd), 0);
	rnd = (uint32_t)((uint64_t)bound * (rnd % 1001) / 1000);
	return retry_after_s > 0 && retry_after_s < 60 ? (uint32_t)(retry_after_s * 1000) + rnd / 10 : rnd;
}

/* False: the deadline lies before the end of the pause, or stop. */
static bool wait_ms(const struct ec2_call *call, uint32_t ms)
{
	const struct timespec tick = { .tv_nsec = 5000000 };
	uint64_t end = clock_boot_ns() + ms * NS_PER_MS;

	if (end >= call->deadline_ns)
		return false;
	while (clock_boot_ns() < end) {
		if (call->stop && call->stop(call->stop_arg))
			return false;
		(void)nanosleep(&tick, NULL);
	}
	return true;
}

/* May the call be made again after this failure? Corrects the clock where that was it. */
static bool again(struct ec2 *c, const struct ec2_call *call, enum ec2_kind kind, bool *skew_tried)
{
	int64_t off = c->skew_s - c->used_skew_s;

	if (kind == EC2_SKEW && call->fate == EC2_REFUSED && !*skew_tried && (off > SKEW_SURE_S || off < -SKEW_SURE_S)) {
		*skew_tried = true;
		c->used_skew_s = c->skew_s;
		return true;
	}
	if (call->once)
		return false;
	return kind == EC2_THROTTLED || kind == EC2_TRANSIENT;
}

int ec2_send(struct ec2 *c, const struct ec2_peer *p, struct ec2_call *call, struct xml **out, struct snap_error *err)
{
	struct snap_error why = { 0 }, told = { 0 };
	struct vbuf body = VBUF_INIT;
	bool skew_tried = false;
	int r;

	*out = NULL;
	call->tries = 0;
	call->code[0] = '\0';
	call->fate = EC2_REFUSED;
	vbuf_printf(&body, "Action=%s&Version=%s%s", call->action, p->version, call->form ? vbuf_text(call->form) : "");
	r = vbuf_error(&body);
	if (r < 0 || (call->form && vbuf_error(call->form))) {
		vbuf_free(&body);
		return snap_error_set(err, -ENOMEM, "%s: out of memory", call->action);
	}
	for (;;) {
		enum ec2_kind kind = EC2_TRANSIENT;
		struct http_resp resp = { .retry_after_s = -1 };
		double after;

		snap_error_clear(&why);
		call->tries++;
		r = try_once(c, p, call, &body, &resp, &why);
		if (r == 0) {
			r = judge(p, call, &resp, out, &kind, &why);
			if (r < 0)
				told = why;
		} else {
			call->fate = resp.sent ? EC2_UNKNOWN : EC2_REFUSED;
			if (r == -EINVAL || r == -ENOMEM || r == -ENAMETOOLONG || r == -ECANCELED || r == -EFBIG)
				kind = EC2_FATAL;
		}
		after = resp.retry_after_s;
		http_resp_free(&resp);
		if (r == 0 || !again(c, call, kind, &skew_tried) || !wait_ms(call, pause_ms(kind, call->tries, after)))
			break;
	}
	if (r == -ETIMEDOUT && told.code) {
		/* the last try was cut off by the deadline: what the server said before says more */
		why = told;
		r = told.code;
	}
	if (body.data)
		explicit_bzero(body.data, body.len); /* web identity: the token is an argument */
	vbuf_free(&body);
	return r < 0 ? snap_error_set(err, r, "%s", why.msg) : 0;
}

int ec2_pages(struct ec2 *c, const struct ec2_peer *p, struct ec2_call *call,
	      int (*fn)(void *arg, const struct xml_elem *root, struct snap_error *err), void *arg,
	      struct snap_error *err)
{
	struct vbuf form = VBUF_INIT;
	const struct vbuf *given = call->form;
	char *token = calloc(1, 4096);
	unsigned pages = 0;
	int r = token ? 0 : snap_error_set(err, -ENOMEM, "%s: out of memory", call->action);

	while (r == 0) {
		struct xml *x;

		vbuf_puts(&form, given ? vbuf_text(given) : "");
		if (token[0])
			ec2_arg(&form, token, "NextToken");
		call->form = &form;
		r = ec2_send(c, p, call, &x, err);
		vbuf_free(&form);
		if (r < 0)
			break;
		r = fn(arg, xml_root(x), err);
		if (r == 0 && xml_text(xml_root(x), "nextToken", token, 4096) == -E2BIG)
			r = snap_error_set(err, -EBADMSG, "%s: a page mark that is too long", call->action);
		xml_free(x);
		if (r == 0 && !token[0])
			break;
		if (r == 0 && ++pages == PAGES_MAX)
			r = snap_error_set(err, -E2BIG, "%s: more than %u pages", call->action, PAGES_MAX);
	}
	call->form = given;
	vbuf_free(&form);
	free(token);
	return r;
}
