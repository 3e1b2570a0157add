/* snapshot/ebs/creds_fetch.c - keys over HTTP without a signature: a container's endpoint, and the instance's metadata
 * service (version 2: a token first; version 1 only where it was asked for).
 * Called by: creds.c on the provider's thread. Blocks up to the deadline of creds_get, tries of at most two seconds. */
#include "snapshot/ebs/creds_int.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <json-c/printbuf.h>
#include <stdlib.h>
#include <string.h>

#define TRY_MS 2000u
#define TRIES 3
#define TOKEN_S 21600u
#define ANSWER_MAX 65536u
#define STRING_MAX 16000 /* longer than any value that is taken */

/* ---- JSON ---- */

static const char *member(struct json_object *o, const char *name)
{
	struct json_object *v = NULL;

	return json_object_object_get_ex(o, name, &v) && json_object_is_type(v, json_type_string) ? json_object_get_string(v) : "";
}

static void wipe_member(struct json_object *o, const char *name)
{
	const char *text = member(o, name);

	if (*text)
		explicit_bzero((void *)(uintptr_t)text, strlen(text)); /* json-c frees it, and does not wipe */
}

/* The parser collects each string in a buffer of its own, which it would move as it grows, and leaves behind: it is made large
 * before, by a string that is no secret, and wiped after. */
static struct json_object *parse(const char *text)
{
	struct json_tokener *t = json_tokener_new();
	char *big = malloc(ANSWER_MAX);
	struct json_object *o = NULL;

	if (t && big) {
		(void)snprintf(big, ANSWER_MAX, "\"%*s\"", STRING_MAX, "");
		json_object_put(json_tokener_parse_ex(t, big, -1));
		json_tokener_reset(t);
		o = json_tokener_parse_ex(t, text, -1);
	}
	if (t && t->pb)
		explicit_bzero(t->pb->buf, (size_t)t->pb->size);
	if (t)
		json_tokener_free(t);
	free(big);
	return o;
}

static int copy(char *to, size_t cap, const char *from)
{
	size_t n = strlen(from);

	if (n >= cap || strpbrk(from, "\r\n"))
		return -EBADMSG;
	memcpy(to, from, n + 1);
	return 0;
}

int creds_json(const char *text, const char *who, struct aws_key *out, struct snap_error *err)
{
	struct json_object *o = parse(text ? text : "");
	int r = -EBADMSG;

	*out = (struct aws_key){ 0 };
	if (!json_object_is_type(o, json_type_object)) {
		snap_error_set(err, r, "keys from %s: the answer is not the JSON that was expected", who);
	} else if (!*member(o, "AccessKeyId") || !*member(o, "SecretAccessKey")) {
		r = snap_error_set(err, *member(o, "Code") ? -EACCES : r, "keys from %s: none in the answer%s%.60s%s%.150s", who,
				   *member(o, "Code") ? ": " : "", member(o, "Code"), *member(o, "Message") ? ": " : "",
				   member(o, "Message"));
	} else {
		const char *token = member(o, "Token");

		r = copy(out->id, sizeof(out->id), member(o, "AccessKeyId"));
		r = r ? r : copy(out->secret, sizeof(out->secret), member(o, "SecretAccessKey"));
		r = r ? r : copy(out->token, sizeof(out->token), *token ? token : member(o, "SessionToken"));
		if (r == 0 && *member(o, "Expiration"))
			r = creds_time(member(o, "Expiration"), &out->expires_utc) < 0 ? -EBADMSG : 0;
		if (r < 0)
			snap_error_set(err, r, "keys from %s: a value is too long or malformed", who);
		(void)snprintf(out->source, sizeof(out->source), "%.60s", who);
	}
	if (json_object_is_type(o, json_type_object)) {
		wipe_member(o, "SecretAccessKey");
		wipe_member(o, "Token");
		wipe_member(o, "SessionToken");
	}
	json_object_put(o);
	return r;
}

/* ---- one request, tried a few times ---- */

static int fetch(struct creds *c, const char *method, const char *url, const struct http_header *h, size_t n,
		 unsigned tries, struct http_resp *resp, struct snap_error *err)
{
	struct http_req q = { .method = method, .url = url, .headers = h, .n_headers = n, .direct = true,
			      .max_body = ANSWER_MAX, .stop = c->stop, .stop_arg = c->stop_arg,
			      .body = strcmp(method, "PUT") == 0 ? "" : NULL };
	const struct timespec pause = { .tv_nsec = 200000000 };
	struct snap_error why = { 0 };
	int r = -ETIMEDOUT;

	for (unsigned i = 0; i < tries; i++) {
		uint64_t end = clock_boot_ns() + TRY_MS * NS_PER_MS;

		if (clock_boot_ns() >= c->deadline_ns)
			break;
		if (i)
			(void)nanosleep(&pause, NULL);
		http_resp_free(resp);
		snap_error_clear(&why);
		q.deadline_ns = end < c->deadline_ns ? end : c->deadline_ns;
		r = http_do(c->http, &q, resp, &why);
		if (r == -ECANCELED || (r == 0 && resp->status < 500 && resp->status != 429))
			break;
	}
	if (r == 0 && resp->status >= 500)
		return snap_error_set(err, -EIO, "%.80s: answered with HTTP status %ld", url, resp->status);
	return r < 0 ? snap_error_set(err, r, "%s", why.code ? why.msg : "no time left") : 0;
}

/* ---- container ---- */

static bool loopback(const char *host, size_t n)
{
	static const char *const ok[] = { "localhost", "169.254.170.2", "169.254.170.23", "[fd00:ec2::23]", "[::1]" };

	for (size_t i = 0; i < sizeof(ok) / sizeof(ok[0]); i++)
		if (strlen(ok[i]) == n && strncmp(host, ok[i], n) == 0)
			return true;
	return n > 4 && strncmp(host, "127.", 4) == 0 && strspn(host, "0123456789.") >= n;
}

/* A token must not go to somebody else in the clear. */
static bool may_ask(const char *url)
{
	const char *host = strstr(url, "://");
	size_t n;

	if (!host || strncmp(url, "https://", 8) == 0)
		return host != NULL;
	host += 3;
	n = *host == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":/?#");
	return strncmp(url, "http://", 7) == 0 && strcspn(host, "@") >= strcspn(host, "/") && loopback(host, n);
}

static int read_token(const char *path, char *buf, size_t cap)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, cap - 1);

	if (n < 0)
		return -errno;
	while (n && strchr("\r\n \t", buf[n - 1]))
		n--;
	buf[n] = '\0';
	return 0;
}

int creds_container(struct creds *c, struct aws_key *out, struct snap_error *err)
{
	const char *rel = creds_env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
	const char *full = creds_env("AWS_CONTAINER_CREDENTIALS_FULL_URI");
	const char *file = creds_env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
	struct http_resp resp = { .retry_after_s = -1 };
	char url[1024], token[4096] = "";
	struct http_header h = { "authorization", token };
	int r = 0;

	if (!*rel && !*full)
		return -ENOENT;
	(void)snprintf(url, sizeof(url), "%s%.1000s", *rel ? "http://169.254.170.2" : "", *rel ? rel : full);
	if (!may_ask(url))
		return snap_error_set(err, -EINVAL, "AWS_CONTAINER_CREDENTIALS_FULL_URI: expected https, or a loopback or "
						    "link-local address of the container's agent");
	if (*file)
		r = read_token(file, token, sizeof(token));
	else
		(void)snprintf(token, sizeof(token), "%s", creds_env("AWS_CONTAINER_AUTHORIZATION_TOKEN"));
	if (r < 0)
		return snap_error_set(err, r, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE %.200s: %s", file, strerror(-r));
	if (strpbrk(token, "\r\n"))
		r = snap_error_set(err, -EINVAL, "AWS_CONTAINER_AUTHORIZATION_TOKEN: a line end in it");
	if (r == 0)
		r = fetch(c, "GET", url, &h, *token ? 1 : 0, TRIES, &resp, err);
	if (r == 0 && resp.status != 200)
		r = snap_error_set(err, -EACCES, "keys from the container's endpoint: HTTP status %ld", resp.status);
	if (r == 0)
		r = creds_json(resp.body, "the container's endpoint", out, err);
	http_resp_free(&resp);
	explicit_bzero(token, sizeof(token));
	return r;
}

/* ---- metadata service ---- */

static void imds_url(char *buf, size_t cap, const char *path)
{
	const char *base = creds_env("AWS_EC2_METADATA_SERVICE_ENDPOINT");
	size_t n;

	if (!*base)
		base = strcasecmp(creds_env("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE"), "IPv6") == 0 ?
			       "http://[fd00:ec2::254]" : "http://169.254.169.254";
	n = strlen(base);
	while (n && base[n - 1] == '/')
		n--;
	(void)snprintf(buf, cap, "%.*s/latest/%s", (int)n, base, path);
}

static int imds_token(struct creds *c, struct snap_error *err)
{
	static const struct http_header ttl = { "x-aws-ec2-metadata-token-ttl-seconds", "21600" };
	struct http_resp resp = { .retry_after_s = -1 };
	struct snap_error why = { 0 };
	char url[512];
	int r;

	if (c->imds_token_end_ns > clock_boot_ns() + 60 * NS_PER_S)
		return 0;
	imds_url(url, sizeof(url), "api/token");
	c->imds_token_end_ns = clock_boot_ns() + TOKEN_S * NS_PER_S;
	r = fetch(c, "PUT", url, &ttl, 1, 2, &resp, &why);
	if (r == 0 && resp.status != 200)
		r = snap_error_set(&why, -EACCES, "HTTP status %ld", resp.status);
	if (r == 0 && (!resp.len || resp.len >= sizeof(c->imds_token) || strpbrk(resp.body, "\r\n \t")))
		r = snap_error_set(&why, -EBADMSG, "a strange token");
	c->imds_token[0] = '\0';
	if (r == 0)
		memcpy(c->imds_token, resp.body, resp.len + 1);
	else
		c->imds_token_end_ns = 0;
	http_resp_free(&resp);
	if (r < 0 && c->imds_v1 && r != -ECANCELED)
		return 0; /* asked for: without a token */
	return r < 0 ? snap_error_set(err, r, "the instance's metadata service gives no token: %s; in a container behind a bridge "
					      "raise the instance's hop limit (HttpPutResponseHopLimit) to 2; elsewhere than on EC2 "
					      "set ebs.region, ebs.instance and keys", why.msg) : 0;
}

static int imds_get(struct creds *c, const char *path, struct http_resp *resp, struct snap_error *err)
{
	char url[512];
	int r;

	if (creds_true(creds_env("AWS_EC2_METADATA_DISABLED")))
		return -ENOENT;
	imds_url(url, sizeof(url), path);
	for (int i = 0;; i++) {
		struct http_header h = { "x-aws-ec2-metadata-token", c->imds_token };

		r = imds_token(c, err);
		if (r == 0)
			r = fetch(c, "GET", url, &h, c->imds_token[0] ? 1 : 0, TRIES, resp, err);
		if (r < 0 || resp->status != 401 || i)
			break;
		c->imds_token_end_ns = 0; /* the token is no longer known there: once more with a new one */
	}
	if (r == 0 && resp->status == 404)
		return -ENOENT;
	if (r == 0 && resp->status != 200)
		return snap_error_set(err, -EACCES, "the instance's metadata service: HTTP status %ld for %s", resp->status, path);
	return r;
}

int creds_metadata(struct creds *c, const char *path, uint64_t deadline_ns, char *buf, size_t cap,
		   struct snap_error *err)
{
	struct http_resp resp = { .retry_after_s = -1 };
	int r;

	buf[0] = '\0';
	c->deadline_ns = deadline_ns;
	r = imds_get(c, path, &resp, err);
	if (r == 0 && (!resp.len || resp.len >= cap || strpbrk(resp.body, "\r\n")))
		r = snap_error_set(err, -EBADMSG, "the instance's metadata service: a strange answer for %s", path);
	if (r == 0)
		memcpy(buf, resp.body, resp.len + 1);
	http_resp_free(&resp);
	return r;
}

int creds_imds(struct creds *c, struct aws_key *out, struct snap_error *err)
{
	static const char dir[] = "meta-data/iam/security-credentials/";
	struct http_resp resp = { .retry_after_s = -1 };
	char path[256];
	int r = imds_get(c, dir, &resp, err);
	size_t n;

	if (r == -ENOENT && !err->code && !creds_true(creds_env("AWS_EC2_METADATA_DISABLED")))
		r = snap_error_set(err, -EACCES, "the instance has no role; give it one (docs/aws.md)");
	if (r == 0) {
		n = strcspn(resp.body ? resp.body : "", "\r\n");
		if (!n || n > 150 || memchr(resp.body, '/', n))
			r = snap_error_set(err, -EBADMSG, "the instance's metadata service: a strange name of a role");
		else
			(void)snprintf(path, sizeof(path), "%s%.*s", dir, (int)n, resp.body);
	}
	http_resp_free(&resp);
	if (r == 0) {
		r = imds_get(c, path, &resp, err);
		if (r == 0)
			r = creds_json(resp.body, "the instance's role", out, err);
		else if (r == -ENOENT)
			r = snap_error_set(err, -EACCES, "the instance's metadata service knows no keys of its role");
		http_resp_free(&resp);
	}
	return r;
}
