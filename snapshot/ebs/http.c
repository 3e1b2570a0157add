/* snapshot/ebs/http.c - see http.h. libcurl's multi interface, so that deadline and stop are looked at every 20 ms.
 * Owns:      one easy handle, and one multi handle with the one connection it keeps.
 * Called by: ec2.c, creds*.c, imds.c, on the provider's thread.
 * Blocks:    http_do, up to its deadline. A name that does not resolve is left to its thread (QUICK_EXIT).
 * Errors:    -errno with the sentence. */
#include "snapshot/ebs/http.h"
#include "snapshot/ebs/wipe.h"
#include "base/clock.h"

#include <curl/curl.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BODY_MAX (8u << 20)
#define TICK_MS 20
#define IDLE_S 110L /* a connection unused for longer is not trusted */
#define SOCKS 4u /* the one that is kept, and tries at other addresses while it is made */

struct http {
	CURLM *multi;
	CURL *easy;
	unsigned n_socks; /* libcurl's, open now */
	int sock[SOCKS];
	char detail[CURL_ERROR_SIZE];
};

/* One transfer, as the callbacks see it. */
struct transfer {
	struct http *h;
	struct http_resp *out;
	size_t cap, max;
	bool too_big, no_memory;
	bool head_whole; /* the empty line after the headers has come */
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool curl_ready;

static void global_init(void)
{
	/* its buffers hold tokens that are sent, and keys that come */
	curl_ready = curl_global_init_mem(CURL_GLOBAL_DEFAULT, malloc, wipe_free, wipe_realloc, strdup, calloc) == CURLE_OK;
}

struct http *http_free(struct http *h)
{
	if (!h)
		return NULL;
	curl_easy_cleanup(h->easy);
	(void)curl_multi_cleanup(h->multi);
	free(h);
	return NULL;
}

struct http *http_new(struct snap_error *err)
{
	struct http *h;

	(void)pthread_once(&once, global_init);
	if (!curl_ready || curl_version_info(CURLVERSION_NOW)->version_num < 0x075700) {
		snap_error_set(err, -ENOSYS, "libcurl %s is too old or cannot start; 7.87 is the oldest that will do",
			       curl_version_info(CURLVERSION_NOW)->version);
		return NULL;
	}
	h = calloc(1, sizeof(*h));
	if (h) {
		h->multi = curl_multi_init();
		h->easy = curl_easy_init();
	}
	if (!h || !h->multi || !h->easy) {
		snap_error_set(err, -ENOMEM, "start libcurl: out of memory");
		return http_free(h);
	}
	/* one: a request whose connection died finds no other to be repeated on */
	(void)curl_multi_setopt(h->multi, CURLMOPT_MAXCONNECTS, 1L);
	return h;
}

/* ---- callbacks ---- */

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
	struct transfer *t = arg;
	struct http_resp *r = t->out;
	size_t add = size * n, want;
	char *bigger;

	if (add > t->max - r->len) {
		t->too_big = true;
		return 0;
	}
	if (r->len + add + 1 > t->cap) {
		/* not realloc: what it leaves behind could not be wiped */
		want = (r->len + add + 1) * 2;
		bigger = malloc(want);
		if (!bigger) {
			t->no_memory = true;
			return 0;
		}
		if (r->body) {
			memcpy(bigger, r->body, r->len);
			explicit_bzero(r->body, r->len);
			free(r->body);
		}
		r->body = bigger;
		t->cap = want;
	}
	memcpy(r->body + r->len, data, add);
	r->len += add;
	r->body[r->len] = '\0';
	return add;
}

static bool header_is(const char *line, size_t len, const char *name, char *value, size_t cap)
{
	size_t n = strlen(name);

	if (len <= n || strncasecmp(line, name, n) != 0 || line[n] != ':')
		return false;
	for (n++; n < len && (line[n] == ' ' || line[n] == '\t');)
		n++;
	while (len > n && strchr("\r\n \t", line[len - 1]))
		len--;
	if (len - n >= cap)
		return false;
	memcpy(value, line + n, len - n);
	value[len - n] = '\0';
	return true;
}

static size_t on_header(char *data, size_t size, size_t n, void *arg)
{
	struct transfer *t = arg;
	char value[64];
	time_t when;

	t->head_whole = size * n == 2 && memcmp(data, "\r\n", 2) == 0;
	if (header_is(data, size * n, "date", value, sizeof(value))) {
		when = curl_getdate(value, NULL);
		t->out->date_utc = when > 0 ? when : 0;
	} else if (header_is(data, size * n, "retry-after", value, sizeof(value)) && value[0] >= '0' && value[0] <= '9') {
		t->out->retry_after_s = strtod(value, NULL);
	}
	return size * n;
}

/* The only place that knows when bytes of the request have gone out. */
static int on_debug(CURL *easy, curl_infotype type, char *data, size_t size, void *arg)
{
	struct transfer *t = arg;

	if (type == CURLINFO_HEADER_OUT || type == CURLINFO_DATA_OUT)
		t->out->sent = true;
	return 0;
}

/* A connection that is asked for after bytes have gone out would repeat the request: refuse it. */
static curl_socket_t on_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *a)
{
	struct transfer *t = arg;
	int fd;

	if (t->out->sent)
		return CURL_SOCKET_BAD;
	t->out->fresh = true;
	fd = socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
	if (fd >= 0 && t->h->n_socks < SOCKS)
		t->h->sock[t->h->n_socks++] = fd;
	return fd;
}

static int on_close(void *arg, curl_socket_t fd)
{
	struct http *h = arg;

	for (unsigned i = 0; i < h->n_socks; i++)
		if (h->sock[i] == fd)
			h->sock[i--] = h->sock[--h->n_socks];
	return close(fd);
}

/* Acknowledge what has come now, not 40 ms later: an answer whose head and body are sent apart has its body held back until
 * then by the sender (Nagle), with the gate closed. The kernel forgets the wish, so it is told each time. */
static void acknowledge(const struct http *h)
{
	const int on = 1;

	for (unsigned i = 0; i < h->n_socks; i++)
		(void)setsockopt(h->sock[i], IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on));
}

/* ---- one request ---- */

static int set_headers(const struct http_req *q, struct curl_slist **list)
{
	for (size_t i = 0; i < q->n_headers; i++) {
		size_t len = strlen(q->headers[i].name) + strlen(q->headers[i].value) + 3;
		char *line = malloc(len);
		struct curl_slist *more;

		if (!line)
			return -ENOMEM;
		(void)snprintf(line, len, "%s: %s", q->headers[i].name, q->headers[i].value);
		more = curl_slist_append(*list, line);
		explicit_bzero(line, len);
		free(line);
		if (!more)
			return -ENOMEM;
		*list = more;
	}
	return 0;
}

static void wipe_headers(struct curl_slist *list)
{
	for (struct curl_slist *l = list; l; l = l->next)
		explicit_bzero(l->data, strlen(l->data));
	curl_slist_free_all(list);
}

/* Options that cannot fail but for memory, which shows when the transfer runs. */
static void set_options(struct http *h, const struct http_req *q, struct transfer *t, struct curl_slist *headers)
{
	CURL *c = h->easy;
	uint32_t left = clock_left_ms(q->deadline_ns);

	curl_easy_reset(c);
	h->detail[0] = '\0';
	(void)curl_easy_setopt(c, CURLOPT_URL, q->url);
	(void)curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
	(void)curl_easy_setopt(c, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
	(void)curl_easy_setopt(c, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	(void)curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
	(void)curl_easy_setopt(c, CURLOPT_QUICK_EXIT, 1L);
	(void)curl_easy_setopt(c, CURLOPT_TCP_KEEPALIVE, 1L);
	(void)curl_easy_setopt(c, CURLOPT_TCP_KEEPIDLE, 20L);
	(void)curl_easy_setopt(c, CURLOPT_MAXAGE_CONN, IDLE_S);
	(void)curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)left + 100); /* drive() is exact */
	(void)curl_easy_setopt(c, CURLOPT_ERRORBUFFER, h->detail);
	(void)curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
	(void)curl_easy_setopt(c, CURLOPT_WRITEDATA, t);
	(void)curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
	(void)curl_easy_setopt(c, CURLOPT_HEADERDATA, t);
	(void)curl_easy_setopt(c, CURLOPT_DEBUGFUNCTION, on_debug);
	(void)curl_easy_setopt(c, CURLOPT_DEBUGDATA, t);
	(void)curl_easy_setopt(c, CURLOPT_VERBOSE, 1L); /* to on_debug, which prints nothing */
	(void)curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, on_socket);
	(void)curl_easy_setopt(c, CURLOPT_OPENSOCKETDATA, t);
	(void)curl_easy_setopt(c, CURLOPT_CLOSESOCKETFUNCTION, on_close);
	(void)curl_easy_setopt(c, CURLOPT_CLOSESOCKETDATA, h); /* the connection keeps it */
	(void)curl_easy_setopt(c, CURLOPT_USERAGENT, "stillfs");
	(void)curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
	if (q->ca_file && *q->ca_file)
		(void)curl_easy_setopt(c, CURLOPT_CAINFO, q->ca_file);
	if (q->direct)
		(void)curl_easy_setopt(c, CURLOPT_NOPROXY, "*");
	if (q->body) {
		(void)curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)q->body_len);
		(void)curl_easy_setopt(c, CURLOPT_POSTFIELDS, q->body);
	}
	if (strcmp(q->method, "GET") != 0)
		(void)curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, q->method);
}

/* Who is spoken to, without what an URL may hold besides. */
static void host_of(const char *url, char *buf, size_t cap)
{
	const char *p = strstr(url, "://"), *at;
	size_t n;

	p = p ? p + 3 : url;
	n = strcspn(p, "/?#");
	at = memchr(p, '@', n);
	if (at) {
		n -= (size_t)(at + 1 - p);
		p = at + 1;
	}
	(void)snprintf(buf, cap, "%.*s", (int)(n < 200 ? n : 200), p);
}

static int failure(struct http *h, const struct http_req *q, const struct transfer *t, CURLcode c,
		   struct snap_error *err)
{
	const char *why = h->detail[0] ? h->detail : curl_easy_strerror(c);
	char host[201];

	host_of(q->url, host, sizeof(host));
	if (t->no_memory || c == CURLE_OUT_OF_MEMORY)
		return snap_error_set(err, -ENOMEM, "%s: out of memory", host);
	if (t->too_big)
		return snap_error_set(err, -EFBIG, "%s: the answer is longer than %zu bytes", host, t->max);
	if (c == CURLE_OPERATION_TIMEDOUT)
		return snap_error_set(err, -ETIMEDOUT, "%s: no %s in time", host, t->out->sent ? "answer" : "connection");
	if (t->out->sent) /* a torn answer, and a repetition that was refused */
		return snap_error_set(err, c == CURLE_WEIRD_SERVER_REPLY || c == CURLE_UNSUPPORTED_PROTOCOL ? -EPROTO : -ECONNRESET,
				      "%s: the connection ended before the answer was whole", host);
	switch ((int)c) {
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_COULDNT_RESOLVE_PROXY:
		return snap_error_set(err, -EHOSTUNREACH, "%s: %s; check region, endpoint and DNS", host, why);
	case CURLE_COULDNT_CONNECT:
		return snap_error_set(err, -ECONNREFUSED, "%s: %s; check route, proxy and security groups", host, why);
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CACERT_BADFILE:
		return snap_error_set(err, -EPROTO, "%s: %s; check AWS_CA_BUNDLE and the host's time", host, why);
	case CURLE_URL_MALFORMAT:
	case CURLE_UNSUPPORTED_PROTOCOL:
		return snap_error_set(err, -EINVAL, "%s: expected an http or https URL", host);
	default:
		return snap_error_set(err, -EPROTO, "%s: %s", host, why);
	}
}

/* Drive the transfer to its end. CURLE_OK, libcurl's reason; *stopped: the caller's wish. */
static CURLcode drive(struct http *h, const struct http_req *q, bool *stopped)
{
	CURLMsg *m;
	int running = 1, left;

	while (running) {
		if (curl_multi_perform(h->multi, &running) != CURLM_OK)
			return CURLE_OUT_OF_MEMORY;
		acknowledge(h);
		while ((m = curl_multi_info_read(h->multi, &left)))
			if (m->msg == CURLMSG_DONE)
				return m->data.result;
		if (q->stop && q->stop(q->stop_arg)) {
			*stopped = true;
			return CURLE_ABORTED_BY_CALLBACK;
		}
		/* libcurl's clock stands still while the machine is suspended, ours does not */
		if (clock_boot_ns() >= q->deadline_ns)
			return CURLE_OPERATION_TIMEDOUT;
		if (curl_multi_poll(h->multi, NULL, 0, TICK_MS, NULL) != CURLM_OK)
			return CURLE_OUT_OF_MEMORY;
	}
	return CURLE_RECV_ERROR;
}

int http_do(struct http *h, const struct http_req *q, struct http_resp *out, struct snap_error *err)
{
	struct transfer t = { .h = h, .out = out, .max = q->max_body ? q->max_body : BODY_MAX };
	struct curl_slist *headers = NULL;
	bool stopped = false;
	CURLcode c;
	int r;

	*out = (struct http_resp){ .retry_after_s = -1 };
	r = set_headers(q, &headers);
	if (r == 0) {
		set_options(h, q, &t, headers);
		r = curl_multi_add_handle(h->multi, h->easy) == CURLM_OK ? 0 : -ENOMEM;
	}
	if (r < 0) {
		wipe_headers(headers);
		return snap_error_set(err, r, "HTTP request: out of memory");
	}
	c = drive(h, q, &stopped);
	if (c == CURLE_OK)
		(void)curl_easy_getinfo(h->easy, CURLINFO_RESPONSE_CODE, &out->status);
	(void)curl_multi_remove_handle(h->multi, h->easy); /* unfinished: closes its connection */
	if (c == CURLE_OK && (out->status == 0 || !t.head_whole)) {
		out->status = 0;
		c = CURLE_PARTIAL_FILE; /* torn in its head, which libcurl lets pass */
	}
	if (stopped)
		r = snap_error_set(err, -ECANCELED, "HTTP request: given up, the run was aborted");
	else if (c != CURLE_OK)
		r = failure(h, q, &t, c, err);
	curl_easy_reset(h->easy); /* keeps no pointer of ours */
	wipe_headers(headers);
	return r;
}

void http_resp_free(struct http_resp *r)
{
	if (r->body) {
		explicit_bzero(r->body, r->len);
		free(r->body);
	}
	*r = (struct http_resp){ .retry_after_s = -1 };
}
