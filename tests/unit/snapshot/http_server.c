/* tests/unit/snapshot/http_server.c - see http_server.h. One thread, poll over its connections. */
#include "tests/unit/snapshot/http_server.h"
#include "tests/unit/snapshot/unit.h"

#include <arpa/inet.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNS 32
#define REQS 256
#define BUF (64 << 10)

struct conn {
	int fd;
	SSL *ssl;
	unsigned number;
	size_t len;
	char *buf;
};

struct hs {
	pthread_t thread;
	pthread_mutex_t lock;
	int listener, wake[2];
	unsigned port;
	char url[64];
	SSL_CTX *ctx;
	X509 *cert;
	const struct hs_step *steps;
	size_t n, next;
	struct conn conns[CONNS];
	unsigned n_conns, n_reqs;
	char *reqs[REQS];
	unsigned on[REQS];
	uint64_t at_ns[REQS];
	char wrong[512]; /* the first step whose request was another */
};

static void make_cert(struct hs *s)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *c = X509_new();
	X509_EXTENSION *e;
	X509_NAME *name;

	(void)ASN1_INTEGER_set(X509_get_serialNumber(c), 1);
	(void)X509_set_version(c, 2);
	(void)X509_gmtime_adj(X509_getm_notBefore(c), -3600);
	(void)X509_gmtime_adj(X509_getm_notAfter(c), 86400);
	(void)X509_set_pubkey(c, key);
	name = X509_get_subject_name(c);
	(void)X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"test", -1, -1, 0);
	(void)X509_set_issuer_name(c, name);
	e = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "IP:127.0.0.1");
	(void)X509_add_ext(c, e, -1);
	X509_EXTENSION_free(e);
	e = X509V3_EXT_conf_nid(NULL, NULL, NID_basic_constraints, "critical,CA:TRUE");
	(void)X509_add_ext(c, e, -1);
	X509_EXTENSION_free(e);
	(void)X509_sign(c, key, EVP_sha256());
	s->ctx = SSL_CTX_new(TLS_server_method());
	(void)SSL_CTX_use_certificate(s->ctx, c);
	(void)SSL_CTX_use_PrivateKey(s->ctx, key);
	EVP_PKEY_free(key);
	s->cert = c;
}

bool hs_write_ca(struct hs *s, const char *path)
{
	FILE *f = fopen(path, "we");
	bool ok = f && PEM_write_X509(f, s->cert) == 1;

	if (f)
		(void)fclose(f);
	return ok;
}

static void conn_close(struct conn *c)
{
	if (c->fd < 0)
		return;
	if (c->ssl) {
		(void)SSL_shutdown(c->ssl);
		SSL_free(c->ssl);
	}
	(void)close(c->fd);
	explicit_bzero(c->buf, BUF); /* test_ebs_secrets looks for what the client leaves */
	free(c->buf);
	*c = (struct conn){ .fd = -1 };
}

static bool put(struct conn *c, const char *text, size_t len)
{
	while (len) {
		ssize_t n = c->ssl ? SSL_write(c->ssl, text, (int)len) : send(c->fd, text, len, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		text += n;
		len -= (size_t)n;
	}
	return true;
}

/* The whole request is in the buffer: its length, else 0. */
static size_t whole(const struct conn *c)
{
	const char *head = c->len ? strstr(c->buf, "\r\n\r\n") : NULL, *cl;
	size_t need;

	if (!head)
		return 0;
	need = (size_t)(head + 4 - c->buf);
	cl = strcasestr(c->buf, "\r\ncontent-length:");
	if (cl && cl < head)
		need += strtoul(cl + 17, NULL, 10);
	return c->len >= need ? need : 0;
}

static void record(struct hs *s, const struct conn *c, size_t len, const struct hs_step *step)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	(void)pthread_mutex_lock(&s->lock);
	if (s->n_reqs < REQS) {
		s->reqs[s->n_reqs] = strndup(c->buf, len);
		s->on[s->n_reqs] = c->number;
		s->at_ns[s->n_reqs++] = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
	}
	if (step && step->expect && !strstr(c->buf, step->expect) && !s->wrong[0])
		(void)snprintf(s->wrong, sizeof(s->wrong), "step %zu: no \"%s\" in: %.300s", s->next, step->expect, c->buf);
	(void)pthread_mutex_unlock(&s->lock);
}

static void answer(struct hs *s, struct conn *c)
{
	static const struct hs_step over = { .status = 599 };
	size_t len = whole(c), body;
	const struct hs_step *step;
	char head[1024];

	(void)pthread_mutex_lock(&s->lock);
	step = s->next < s->n ? &s->steps[s->next] : &over;
	(void)pthread_mutex_unlock(&s->lock);
	record(s, c, len, step == &over ? NULL : step);
	(void)pthread_mutex_lock(&s->lock);
	s->next += !step->forever;
	(void)pthread_mutex_unlock(&s->lock);
	memmove(c->buf, c->buf + len, c->len - len + 1);
	c->len -= len;
	if (step->delay_ms)
		(void)usleep(step->delay_ms * 1000);
	body = step->body ? strlen(step->body) : 0;
	(void)snprintf(head, sizeof(head), "HTTP/1.1 %d Scripted\r\nContent-Length: %zu\r\n%s%s\r\n",
		       step->status ? step->status : 200, body, step->headers ? step->headers : "",
		       step->end ? "Connection: close\r\n" : "");
	switch (step->kind) {
	case HS_REPLY:
		if (!put(c, head, strlen(head)) || !put(c, step->body ? step->body : "", body) || step->end)
			conn_close(c);
		break;
	case HS_RAW:
		(void)put(c, step->body, body);
		conn_close(c);
		break;
	case HS_LOST:
		conn_close(c);
		break;
	case HS_STALL:
		break;
	case HS_TORN:
		(void)(put(c, head, strlen(head)) && put(c, step->body, body / 2));
		conn_close(c);
		break;
	}
}

static void take(struct hs *s)
{
	struct timeval limit = { .tv_sec = 2 };
	int fd = accept(s->listener, NULL, NULL);

	for (unsigned i = 0; fd >= 0 && i < CONNS; i++) {
		struct conn *c = &s->conns[i];

		if (c->fd >= 0)
			continue;
		(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
		*c = (struct conn){ .fd = fd, .number = s->n_conns++, .buf = calloc(1, BUF) };
		if (s->ctx) {
			c->ssl = SSL_new(s->ctx);
			(void)SSL_set_fd(c->ssl, fd);
			if (SSL_accept(c->ssl) != 1)
				conn_close(c);
		}
		return;
	}
	if (fd >= 0)
		(void)close(fd);
}

static void feed(struct hs *s, struct conn *c)
{
	ssize_t n = c->ssl ? SSL_read(c->ssl, c->buf + c->len, (int)(BUF - 1 - c->len)) :
			     recv(c->fd, c->buf + c->len, BUF - 1 - c->len, 0);

	if (n <= 0) {
		conn_close(c);
		return;
	}
	c->len += (size_t)n;
	c->buf[c->len] = '\0';
	while (c->fd >= 0 && whole(c))
		answer(s, c);
}

static void *serve(void *arg)
{
	struct hs *s = arg;

	for (;;) {
		struct pollfd p[CONNS + 2] = { { .fd = s->wake[0], .events = POLLIN }, { .fd = s->listener, .events = POLLIN } };

		for (unsigned i = 0; i < CONNS; i++)
			p[i + 2] = (struct pollfd){ .fd = s->conns[i].fd, .events = POLLIN };
		if (poll(p, CONNS + 2, -1) < 0)
			continue;
		if (p[0].revents)
			return NULL;
		for (unsigned i = 0; i < CONNS; i++)
			if (p[i + 2].revents && s->conns[i].fd >= 0)
				feed(s, &s->conns[i]);
		if (p[1].revents)
			take(s);
	}
}

struct hs *hs_start(bool tls, const struct hs_step *steps, size_t n)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	struct hs *s = calloc(1, sizeof(*s));

	s->steps = steps;
	s->n = n;
	(void)pthread_mutex_init(&s->lock, NULL);
	for (unsigned i = 0; i < CONNS; i++)
		s->conns[i].fd = -1;
	if (tls)
		make_cert(s);
	s->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(s->listener, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(s->listener, 16), 0);
	assert_int_equal(getsockname(s->listener, (struct sockaddr *)&a, &len), 0);
	s->port = ntohs(a.sin_port);
	(void)snprintf(s->url, sizeof(s->url), "http%s://127.0.0.1:%u/", tls ? "s" : "", s->port);
	assert_int_equal(pipe(s->wake), 0);
	assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
	return s;
}

void hs_stop(struct hs *s, bool unplayed)
{
	char wrong[512] = "";
	size_t left;

	assert_int_equal(write(s->wake[1], "x", 1), 1);
	(void)pthread_join(s->thread, NULL);
	left = s->next < s->n && !s->steps[s->next].forever ? s->n - s->next : 0;
	memcpy(wrong, s->wrong, sizeof(wrong));
	for (unsigned i = 0; i < CONNS; i++)
		conn_close(&s->conns[i]);
	for (unsigned i = 0; i < s->n_reqs; i++) {
		explicit_bzero(s->reqs[i], strlen(s->reqs[i]));
		free(s->reqs[i]);
	}
	(void)close(s->listener);
	(void)close(s->wake[0]);
	(void)close(s->wake[1]);
	SSL_CTX_free(s->ctx);
	X509_free(s->cert);
	(void)pthread_mutex_destroy(&s->lock);
	free(s);
	if (wrong[0])
		fail_msg("%s", wrong);
	if (left && !unplayed)
		fail_msg("%zu steps of the script were not played", left);
}

unsigned hs_port(const struct hs *s)
{
	return s->port;
}

const char *hs_url(const struct hs *s)
{
	return s->url;
}

unsigned hs_count(struct hs *s)
{
	unsigned n;

	(void)pthread_mutex_lock(&s->lock);
	n = s->n_reqs;
	(void)pthread_mutex_unlock(&s->lock);
	return n;
}

const char *hs_request(struct hs *s, unsigned i)
{
	const char *r;

	(void)pthread_mutex_lock(&s->lock);
	r = i < s->n_reqs ? s->reqs[i] : "";
	(void)pthread_mutex_unlock(&s->lock);
	return r;
}

unsigned hs_connection(struct hs *s, unsigned i)
{
	unsigned n;

	(void)pthread_mutex_lock(&s->lock);
	n = s->on[i];
	(void)pthread_mutex_unlock(&s->lock);
	return n;
}

uint64_t hs_time_ns(struct hs *s, unsigned i)
{
	uint64_t t;

	(void)pthread_mutex_lock(&s->lock);
	t = s->at_ns[i];
	(void)pthread_mutex_unlock(&s->lock);
	return t;
}
