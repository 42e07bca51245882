// SPDX-License-Identifier: MIT
// Prints the first bytes of a kernel, then lets it run on: examples/read vm:NAME
#include <stdio.h>

#include <vmkd/vmkd.h>

static int fail(struct vmkd_error *error)
{
	fprintf(stderr, "read: %s\n", error->message);
	vmkd_error_destroy(error);
	return 1;
}

static struct vmkd_error *show(struct vmkd_target *target)
{
	struct vmkd_version version;
	struct vmkd_event event;
	unsigned char bytes[16];
	struct vmkd_error *error = NULL;

	vmkd_target_break_in(target);
	while (!error && vmkd_target_state(target) != VMKD_STATE_STOPPED)
		error = vmkd_target_wait(target, 60000, &event); // prints and the like go by
	if (!error)
		error = vmkd_target_version(target, &version);
	if (!error)
		error = vmkd_target_read(target, VMKD_VIRTUAL, version.kernel_base, bytes, sizeof(bytes), NULL);
	for (unsigned i = 0; !error && i < sizeof(bytes); i++)
		printf("%02x%c", bytes[i], i + 1 < sizeof(bytes) ? ' ' : '\n');
	return error ? error : vmkd_target_detach(target, true);
}

int main(int argc, char **argv)
{
	struct vmkd_target *target;
	struct vmkd_error *error = vmkd_target_open(argc == 2 ? argv[1] : "", NULL, &target);

	if (error)
		return fail(error);
	error = show(target);
	vmkd_target_close(target);
	return error ? fail(error) : 0;
}
