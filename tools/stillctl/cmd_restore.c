/* tools/stillctl/cmd_restore.c - restore a set: each provider has its own way. See ctl.h. */
#include <stdlib.h>
#include <string.h>

#include "ctl.h"

int cmd_restore(int argc, char **argv)
{
	char *provider;
	int r;

	if (ctl_check_name(argv[0]))
		return 1;
	provider = ctl_key("status", "provider");
	if (!provider)
		return ctl_fail("cannot read the control file ", "status");
	if (strcmp(provider, "ebs") == 0)
		r = cmd_restore_ebs(argc, argv);
	else if (strcmp(provider, "local") == 0)
		r = cmd_restore_local(argc, argv);
	else
		r = ctl_fail("restore: sets of this provider are not restored by stillctl: ", provider);
	free(provider);
	return r;
}
