/* snapshot/ebs/wipe.c - see wipe.h. */
#include "snapshot/ebs/wipe.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

void wipe_free(void *p)
{
	if (p)
		explicit_bzero(p, malloc_usable_size(p));
	free(p);
}

void *wipe_realloc(void *p, size_t n)
{
	size_t had = p ? malloc_usable_size(p) : 0;
	void *q = malloc(n ? n : 1);

	if (q && p) {
		memcpy(q, p, had < n ? had : n);
		wipe_free(p);
	}
	return q;
}
