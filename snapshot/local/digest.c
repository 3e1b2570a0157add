/* snapshot/local/digest.c - the manifest: SHA-256 of every file of a clone, by OpenSSL, in slices.
 * Format: that of `sha256sum`, so that `sha256sum -c manifest.sha256` checks it. Called by local.c on
 * the provider's thread, at idle I/O priority. */
#include "snapshot/local/local_int.h"
#include "base/clock.h"
#include "base/hex.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define CHUNK (1u << 20)

/* GNU's escape: a name with a backslash or a newline gets a leading backslash on its line. */
static void put_line(struct vbuf *out, const char *hex, const char *sub, const char *rel)
{
	bool escape = strpbrk(rel, "\\\n") != NULL;

	vbuf_printf(out, "%s%s  %s/", escape ? "\\" : "", hex, sub);
	for (const char *p = rel; *p; p++) {
		if (*p == '\n')
			vbuf_puts(out, "\\n");
		else if (*p == '\\')
			vbuf_puts(out, "\\\\");
		else
			vbuf_add(out, p, 1);
	}
	vbuf_puts(out, "\n");
}

static int begin_file(struct lrun *lr, const struct lpair *p, const struct tree_entry *e)
{
	lr->fd = openat(p->dst, e->rel, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOATIME);
	if (lr->fd < 0)
		return -errno;
	(void)posix_fadvise(lr->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	if (!lr->md)
		lr->md = EVP_MD_CTX_new();
	return lr->md && EVP_DigestInit_ex(lr->md, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;
}

static int end_file(struct lrun *lr, const struct lpair *p, const struct tree_entry *e)
{
	unsigned char sum[EVP_MAX_MD_SIZE];
	char hex[2 * EVP_MAX_MD_SIZE + 1];
	unsigned len = 0;

	(void)close(lr->fd);
	lr->fd = -1;
	if (EVP_DigestFinal_ex(lr->md, sum, &len) != 1)
		return -EIO;
	hex_put(hex, sum, len);
	put_line(&lr->manifest, hex, p->sub, e->rel);
	lr->files_done++;
	lr->entry++;
	return vbuf_error(&lr->manifest);
}

/* One chunk of the current file. */
static int step(struct lrun *lr, const struct lpair *p, const struct tree_entry *e)
{
	static unsigned char buf[CHUNK]; /* one provider thread */
	ssize_t n;
	int r = lr->fd < 0 ? begin_file(lr, p, e) : 0;

	if (r < 0)
		return r;
	n = read(lr->fd, buf, sizeof(buf));
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	if (n == 0)
		return end_file(lr, p, e);
	lr->bytes_done += (uint64_t)n;
	/* the page cache belongs to the database */
	(void)posix_fadvise(lr->fd, 0, 0, POSIX_FADV_DONTNEED);
	return EVP_DigestUpdate(lr->md, buf, (size_t)n) == 1 ? 0 : -EIO;
}

int digest_some(struct lrun *lr, uint32_t max_ms, struct snap_error *err)
{
	uint64_t end = clock_boot_ns() + max_ms * NS_PER_MS;

	while (lr->pair < lr->n) {
		const struct lpair *p = &lr->p[lr->pair];
		int r;

		if (lr->entry >= p->tree.n) {
			lr->pair++;
			lr->entry = 0;
			continue;
		}
		if (!S_ISREG(p->tree.v[lr->entry].st.st_mode)) {
			lr->entry++;
			continue;
		}
		r = step(lr, p, &p->tree.v[lr->entry]);
		if (r < 0)
			return snap_error_set(err, r, "digest %s/%s: %s", p->sub, p->tree.v[lr->entry].rel,
					      strerror(-r));
		if (clock_boot_ns() >= end || lr->r->cancelled(lr->r))
			return 1;
	}
	return 0;
}
