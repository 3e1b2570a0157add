/* snapshot/ebs/ec2_error.c - see ec2_error.h. */
#include "snapshot/ebs/ec2_error.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#define LATER "try later; the limit is shared by everybody in the account"
#define POLICY "allow this action to the role or user (docs/aws.md has the policy)"
#define KEYS "check the keys and that they belong to this partition"

/* A name that ends with "*" stands for all that begin so. First match counts. */
static const struct {
	const char *code;
	struct ec2_error e;
} table[] = {
	{ "Throttling", { -EAGAIN, EC2_THROTTLED, LATER } },
	{ "ThrottlingException", { -EAGAIN, EC2_THROTTLED, LATER } },
	{ "ThrottledException", { -EAGAIN, EC2_THROTTLED, LATER } },
	{ "RequestThrottledException", { -EAGAIN, EC2_THROTTLED, LATER } },
	{ "TooManyRequestsException", { -EAGAIN, EC2_THROTTLED, LATER } },
	{ "ProvisionedThroughputExceededException", { -EAGAIN, EC2_THROTTLED, LATER } },
	{ "TransactionInProgressException", { -EAGAIN, EC2_THROTTLED, LATER } },
	{ "RequestLimitExceeded", { -EAGAIN, EC2_THROTTLED, LATER } },
	{ "BandwidthLimitExceeded", { -EAGAIN, EC2_THROTTLED, LATER } },
	{ "LimitExceededException", { -EAGAIN, EC2_THROTTLED, LATER } },
	{ "RequestThrottled", { -EAGAIN, EC2_THROTTLED, LATER } },
	{ "SlowDown", { -EAGAIN, EC2_THROTTLED, LATER } },
	{ "EC2ThrottledException", { -EAGAIN, EC2_THROTTLED, LATER } },
	{ "PriorRequestNotComplete", { -EAGAIN, EC2_TRANSIENT, LATER } },
	{ "RequestTimeout", { -EAGAIN, EC2_TRANSIENT, NULL } },
	{ "RequestTimeoutException", { -EAGAIN, EC2_TRANSIENT, NULL } },
	{ "InternalError", { -EIO, EC2_TRANSIENT, NULL } },
	{ "InternalFailure", { -EIO, EC2_TRANSIENT, NULL } },
	{ "Unavailable", { -EAGAIN, EC2_TRANSIENT, NULL } },
	{ "ServiceUnavailable", { -EAGAIN, EC2_TRANSIENT, NULL } },
	{ "RequestExpired", { -EACCES, EC2_SKEW, "set the host's clock (chrony, ntpd)" } },
	{ "RequestTimeTooSkewed", { -EACCES, EC2_SKEW, "set the host's clock (chrony, ntpd)" } },
	{ "RequestInTheFuture", { -EACCES, EC2_SKEW, "set the host's clock (chrony, ntpd)" } },
	{ "SignatureDoesNotMatch", { -EACCES, EC2_SKEW, KEYS } },
	{ "InvalidSignatureException", { -EACCES, EC2_SKEW, KEYS } },
	{ "AuthFailure", { -EACCES, EC2_SKEW, KEYS } },
	{ "ExpiredToken", { -EACCES, EC2_EXPIRED, KEYS } },
	{ "ExpiredTokenException", { -EACCES, EC2_EXPIRED, KEYS } },
	{ "InvalidClientTokenId", { -EACCES, EC2_FATAL, KEYS } },
	{ "UnauthorizedOperation", { -EACCES, EC2_FATAL, POLICY } },
	{ "AccessDenied", { -EACCES, EC2_FATAL, POLICY } },
	{ "AccessDeniedException", { -EACCES, EC2_FATAL, POLICY } },
	{ "Blocked", { -EACCES, EC2_FATAL, "the account is blocked; ask AWS" } },
	{ "OptInRequired", { -EACCES, EC2_FATAL, "enable the region for the account" } },
	{ "SnapshotCreationPerVolumeRateExceeded",
	  { -EAGAIN, EC2_FATAL, "a volume can be snapshotted once in 15 s; try again then" } },
	{ "ConcurrentSnapshotLimitExceeded",
	  { -EAGAIN, EC2_FATAL, "too many snapshots of the volume are still pending; wait until one is complete" } },
	{ "SnapshotLimitExceeded", { -EDQUOT, EC2_FATAL, "delete snapshots or have the account's limit raised" } },
	{ "PendingSnapshotLimitExceeded", { -EAGAIN, EC2_FATAL, "wait until pending snapshots are complete" } },
	{ "InvalidSnapshot.InUse", { -EBUSY, EC2_FATAL, "an image (AMI) uses it; deregister that first" } },
	{ "SnapshotLocked*", { -EPERM, EC2_FATAL, "it is locked; unlock it first or let the lock end" } },
	{ "OperationNotPermitted", { -EPERM, EC2_FATAL, NULL } },
	{ "IncorrectState*", { -EBUSY, EC2_FATAL, NULL } },
	{ "VolumeInUse", { -EBUSY, EC2_FATAL, NULL } },
	{ "InvalidVolume.NotFound", { -ENOENT, EC2_FATAL, "check ebs.volumes and the region" } },
	{ "InvalidSnapshot.NotFound", { -ENOENT, EC2_FATAL, NULL } },
	{ "InvalidInstanceID*", { -ENOENT, EC2_FATAL, "check ebs.instance and the region" } },
	{ "DryRunOperation", { -EALREADY, EC2_FATAL, NULL } }, /* a dry run says so that it would have worked */
	{ "Invalid*", { -EINVAL, EC2_FATAL, NULL } },
	{ "Missing*", { -EINVAL, EC2_FATAL, NULL } },
	{ "Malformed*", { -EINVAL, EC2_FATAL, NULL } },
	{ "Unknown*", { -EINVAL, EC2_FATAL, NULL } },
	{ "TagLimitExceeded", { -EINVAL, EC2_FATAL, "give fewer tags" } },
};

struct ec2_error ec2_error_of(const char *code, long status)
{
	for (size_t i = 0; *code && i < sizeof(table) / sizeof(table[0]); i++) {
		size_t n = strlen(table[i].code);

		if (table[i].code[n - 1] == '*' ? strncmp(code, table[i].code, n - 1) == 0 : strcmp(code, table[i].code) == 0)
			return table[i].e;
	}
	if (status == 429 || status == 509)
		return (struct ec2_error){ -EAGAIN, EC2_THROTTLED, LATER };
	if (status >= 500)
		return (struct ec2_error){ -EIO, EC2_TRANSIENT, NULL };
	if (status == 401 || status == 403)
		return (struct ec2_error){ -EACCES, EC2_FATAL, POLICY };
	if (status == 407)
		return (struct ec2_error){ -EACCES, EC2_FATAL, "the proxy wants a name and a password" };
	if (status >= 300 && status < 400)
		return (struct ec2_error){ -EPROTO, EC2_FATAL, "the endpoint sends elsewhere, which is not followed; check "
								"ebs.endpoint" };
	return (struct ec2_error){ -EIO, EC2_FATAL, NULL };
}
