/* tools/stillctl/program.c - where the other programs of stillfs are. See ctl.h. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"
#include "version.h"

int ctl_program(const char *name, char *path, size_t cap)
{
	char self[PATH_MAX] = "";
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n > 0)
		self[n] = '\0';
	if (strrchr(self, '/'))
		*strrchr(self, '/') = '\0';
	for (size_t i = 0; i < 4; i++) {
		int len;

		switch (i) {
		case 0:
			len = snprintf(path, cap, "%s/%s", self, name);
			break;
		case 1:
			len = snprintf(path, cap, "%s/%s", STILLFS_LIBEXEC, name);
			break;
		case 2: /* not installed: in the build's directory */
			len = snprintf(path, cap, "%s/../fs/%s", self, name);
			break;
		default:
			len = snprintf(path, cap, "%s/../snapshot/%s", self, name);
			break;
		}
		if (len > 0 && (size_t)len < cap && access(path, X_OK) == 0)
			return 0;
	}
	return ctl_fail("this program belongs to stillfs and is not installed: ", name);
}
