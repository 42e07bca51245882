# SPDX-License-Identifier: MIT
# cli -> serve, console, util, include. build/vmkd is everything a user types.
CLI_SOURCES := cli/main.c cli/run.c cli/serve.c cli/list.c cli/watch.c cli/qemu_args.c
VMKD_SERVE_SOURCES := serve/broker.c serve/client.c serve/ctl.c serve/link_hook.c serve/link_debugcon.c serve/doorbell.c \
                      serve/memory_map.c serve/guest_ram.c serve/qmp.c serve/proc.c serve/session.c serve/vmdir.c
# The console is there as soon as its folder says so.
VMKD_CONSOLE := $(if $(wildcard console/console.h),yes)
$(if $(VMKD_CONSOLE),$(eval $(O)/host/cli/main.o: CFLAGS_HOST += -DVMKD_HAS_CONSOLE))

$(call unit_test,qemu_args_test,cli/qemu_args_test.c cli/qemu_args.c util/error.c util/rundir.c,-lcmocka -lcjson)
