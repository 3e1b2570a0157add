/* snapshot/ebs/sigv4.c - see sigv4.h. */
#include "snapshot/ebs/sigv4.h"
#include "base/hex.h"
#include "base/vbuf.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define HASH 32

void sigv4_date(int64_t utc, char buf[SIGV4_DATE_MAX])
{
	time_t t = (time_t)utc;
	struct tm tm;

	(void)gmtime_r(&t, &tm);
	if (strftime(buf, SIGV4_DATE_MAX, "%Y%m%dT%H%M%SZ", &tm) != SIGV4_DATE_MAX - 1)
		memcpy(buf, "19700101T000000Z", SIGV4_DATE_MAX);
}

static int digest(const char *text, size_t len, char out[2 * HASH + 1])
{
	unsigned char md[HASH];

	if (!EVP_Digest(text ? text : "", len, md, NULL, EVP_sha256(), NULL))
		return -ENOMEM;
	hex_put(out, md, HASH);
	return 0;
}

static int mac(const void *key, size_t key_len, const char *text, unsigned char out[HASH])
{
	return HMAC(EVP_sha256(), key, (int)key_len, (const unsigned char *)text, strlen(text), out, NULL) ? 0 : -ENOMEM;
}

/* kSigning: the chain of four. */
static int signing_key(const struct sigv4_key *k, const char *day, unsigned char out[HASH])
{
	char first[512];
	int n = snprintf(first, sizeof(first), "AWS4%s", k->secret), r;

	r = n < 0 || (size_t)n >= sizeof(first) ? -ENAMETOOLONG : mac(first, (size_t)n, day, out);
	if (r == 0)
		r = mac(out, HASH, k->region, out);
	if (r == 0)
		r = mac(out, HASH, k->service, out);
	if (r == 0)
		r = mac(out, HASH, "aws4_request", out);
	explicit_bzero(first, sizeof(first));
	return r;
}

static void canonical(struct vbuf *b, struct vbuf *names, const char *method, const char *path, const char *query,
		      const struct http_header *headers, size_t n)
{
	vbuf_printf(b, "%s\n%s\n%s\n", method, path, query);
	for (size_t i = 0; i < n; i++) {
		vbuf_printf(b, "%s:%s\n", headers[i].name, headers[i].value);
		vbuf_printf(names, "%s%s", i ? ";" : "", headers[i].name);
	}
	vbuf_printf(b, "\n%s\n", vbuf_text(names));
}

int sigv4_sign(const struct sigv4_key *k, const char *date, const char *method, const char *path, const char *query,
	       const struct http_header *headers, size_t n, const char *body, size_t body_len,
	       char auth[SIGV4_AUTH_MAX])
{
	struct vbuf req = VBUF_INIT, names = VBUF_INIT, text = VBUF_INIT;
	char hash[2 * HASH + 1], day[9], scope[160];
	unsigned char key[HASH], sig[HASH];
	int r, len;

	(void)snprintf(day, sizeof(day), "%.8s", date);
	len = snprintf(scope, sizeof(scope), "%s/%s/%s/aws4_request", day, k->region, k->service);
	r = len < 0 || (size_t)len >= sizeof(scope) ? -ENAMETOOLONG : digest(body, body_len, hash);
	canonical(&req, &names, method, path, query, headers, n);
	vbuf_puts(&req, hash);
	if (r == 0)
		r = vbuf_error(&req);
	if (r == 0)
		r = digest(req.data, req.len, hash);
	vbuf_printf(&text, "AWS4-HMAC-SHA256\n%s\n%s\n%s", date, scope, hash);
	if (r == 0)
		r = vbuf_error(&text);
	if (r == 0)
		r = signing_key(k, day, key);
	if (r == 0)
		r = mac(key, HASH, vbuf_text(&text), sig);
	if (r == 0) {
		hex_put(hash, sig, HASH);
		len = snprintf(auth, SIGV4_AUTH_MAX, "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s",
			       k->key_id, scope, vbuf_text(&names), hash);
		r = len < 0 || len >= SIGV4_AUTH_MAX ? -ENAMETOOLONG : vbuf_error(&names);
	}
	explicit_bzero(key, sizeof(key));
	if (req.data)
		explicit_bzero(req.data, req.len); /* the session token is a signed header */
	vbuf_free(&req);
	vbuf_free(&names);
	vbuf_free(&text);
	return r;
}
