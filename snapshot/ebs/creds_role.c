/* snapshot/ebs/creds_role.c - keys of a role, from STS: AssumeRole, signed with other keys, and AssumeRoleWithWebIdentity,
 * unsigned, with a token from a file. Called by creds.c on the provider's thread. */
#include "snapshot/ebs/creds_int.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define TOKEN_MAX 20000u

static int ask(struct creds *c, const char *action, const struct aws_key *key, const struct vbuf *form,
	       struct aws_key *out, struct snap_error *err)
{
	struct ec2_call call = { .action = action, .form = form, .deadline_ns = c->deadline_ns, .stop = c->stop,
				 .stop_arg = c->stop_arg };
	struct ec2_peer p = { .service = "sts", .version = "2011-06-15", .ca_file = creds_ca_file(c), .key = key };
	const struct xml_elem *e;
	char url[300], when[64], path[96];
	struct xml *x = NULL;
	int r = creds_region(c, c->deadline_ns, &p.region, err);

	if (r == 0)
		r = creds_endpoint(c, "sts", c->deadline_ns, url, sizeof(url), err);
	if (r < 0)
		return r;
	p.url = url;
	r = ec2_send(c->sts, &p, &call, &x, err);
	if (r < 0)
		return r;
	(void)snprintf(path, sizeof(path), "%sResult/Credentials", action);
	e = xml_find(xml_root(x), path);
	*out = (struct aws_key){ 0 };
	if (!e || xml_text(e, "AccessKeyId", out->id, sizeof(out->id)) < 0 ||
	    xml_text(e, "SecretAccessKey", out->secret, sizeof(out->secret)) < 0 ||
	    xml_text(e, "SessionToken", out->token, sizeof(out->token)) < 0 ||
	    xml_text(e, "Expiration", when, sizeof(when)) < 0 || creds_time(when, &out->expires_utc) < 0 || !out->id[0] ||
	    !out->secret[0] || strpbrk(out->token, "\r\n"))
		r = snap_error_set(err, -EBADMSG, "%s: no keys in the answer", action);
	(void)snprintf(out->source, sizeof(out->source), "%s", action);
	xml_free(x);
	return r;
}

static void session_arg(struct vbuf *form, const char *given)
{
	char name[48];

	(void)snprintf(name, sizeof(name), "stillfs-%lld", (long long)clock_utc().tv_sec);
	ec2_arg(form, *given ? given : name, "RoleSessionName");
}

int creds_assume(struct creds *c, const char *profile, const struct aws_key *source, struct aws_key *out,
		 struct snap_error *err)
{
	const char *external = creds_setting(c, profile, "external_id"), *secs = creds_setting(c, profile, "duration_seconds");
	struct vbuf form = VBUF_INIT;
	int r;

	if (*creds_setting(c, profile, "mfa_serial"))
		return snap_error_set(err, -EOPNOTSUPP, "profile %.60s: mfa_serial needs a person; use a role without it", profile);
	ec2_arg(&form, creds_setting(c, profile, "role_arn"), "RoleArn");
	session_arg(&form, creds_setting(c, profile, "role_session_name"));
	if (*external)
		ec2_arg(&form, external, "ExternalId");
	if (*secs)
		ec2_arg(&form, secs, "DurationSeconds");
	r = ask(c, "AssumeRole", source, &form, out, err);
	vbuf_free(&form);
	return r;
}

int creds_web_identity(struct creds *c, const char *arn, const char *token_file, const char *session, struct aws_key *out,
		       struct snap_error *err)
{
	cleanup_fd int fd = open(token_file, O_RDONLY | O_CLOEXEC);
	char *token = calloc(1, TOKEN_MAX);
	struct vbuf form = VBUF_INIT;
	ssize_t n = fd < 0 || !token ? -1 : read(fd, token, TOKEN_MAX - 1);
	int r;

	if (n <= 0) {
		r = !token ? -ENOMEM : n < 0 ? -errno : -ENODATA;
		free(token);
		return snap_error_set(err, r, "web identity token %.200s: %s", token_file, strerror(-r));
	}
	while (n && strchr("\r\n \t", token[n - 1]))
		token[--n] = '\0';
	ec2_arg(&form, arn, "RoleArn");
	session_arg(&form, session);
	ec2_arg(&form, token, "WebIdentityToken");
	r = ask(c, "AssumeRoleWithWebIdentity", NULL, &form, out, err);
	explicit_bzero(token, TOKEN_MAX);
	free(token);
	if (form.data)
		explicit_bzero(form.data, form.len);
	vbuf_free(&form);
	return r;
}
