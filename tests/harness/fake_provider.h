/* tests/harness/fake_provider.h - a provider that keeps sets as files of STILLFS_FAKE_DIR, right by default, or with one
 * defect, named by STILLFS_FAKE_DEFECT, that the conformance suite must find. One thread. */
#ifndef STILLFS_TESTS_FAKE_PROVIDER_H
#define STILLFS_TESTS_FAKE_PROVIDER_H

#include "snapshot/provider.h"

extern const struct prov_ops fake_provider;

#endif
