// SPDX-License-Identifier: MIT
// Any bytes as libvirt's capabilities, and as a label. Whatever they say, a user is known only with a name, and names end where they should.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "domain/host.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool is_so)
{
	if (!is_so)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct domain_info domain = { .type = "kvm" };
	struct host_facts f = { .is_user_known = false };
	struct error *error;
	uid_t uid = 7;
	gid_t gid = 8;

	if (size < sizeof(domain.dac_label)) {
		memcpy(domain.dac_label, data, size);
		must(host_parse_label(domain.dac_label, &uid, &gid) || (uid == 7 && gid == 8));
		domain.dac_label[0] = 0;
	}
	error = host_read_capabilities(&f, (const char *)data, size, &domain);
	must(!f.is_user_known || (!error && f.user[0] && memchr(f.user, 0, sizeof(f.user))));
	error_free(error);
	return 0;
}
