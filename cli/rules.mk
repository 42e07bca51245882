# SPDX-License-Identifier: MIT
# cli -> serve, console, util, include. build/vmkd is everything a user types.
CLI_SOURCES := cli/main.c cli/libvirt.c cli/run.c cli/serve.c cli/list.c cli/control.c cli/history.c cli/trace.c cli/ask.c cli/doctor.c cli/watch.c cli/qemu_args.c cli/attach.c cli/setup.c
VMKD_SERVE_SOURCES := serve/broker.c serve/connections.c serve/client.c serve/ctl.c serve/breakpoints.c serve/link_hook.c serve/link_debugcon.c serve/link_serial.c serve/serial_talk.c serve/doorbell.c \
                      serve/memory_map.c serve/guest_ram.c serve/ram_sock.c serve/ram_files.c serve/last_words.c serve/qmp.c serve/pause.c serve/watchdog.c \
                      serve/proc.c serve/session.c serve/session_client.c serve/session_control.c serve/session_rights.c serve/print_buffer.c serve/past.c serve/answers.c serve/stats.c serve/status.c serve/tap.c serve/vmdir.c
# The console is there as soon as its folder says so.
VMKD_CONSOLE := $(if $(wildcard console/console.h),yes)
$(if $(VMKD_CONSOLE),$(eval $(O)/host/cli/main.o: CFLAGS_HOST += -DVMKD_HAS_CONSOLE))


# target/ and console/ are listed by what is there: their own rules.mk come later in the alphabet.
VMKD_LIBRARY_SOURCES := $(filter-out %_test.c %_fuzz.c,$(wildcard console/*.c target/*.c))
VMKD_WIRE_SOURCES := wire/kdapi.c wire/kdcom.c wire/kddata.c wire/kdregs.c wire/ring.c
# What a VM's owner needs once: each folder is listed by what is there, too.
VMKD_SETUP_SOURCES := $(filter-out %_test.c %_fuzz.c,$(wildcard attach/*.c setup/*.c domain/*.c doctor/*.c))
VMKD_TRACE_SOURCES := trace/pcapng.c trace/record.c trace/decode.c trace/player.c
$(call host_program,vmkd,$(CLI_SOURCES) $(VMKD_SERVE_SOURCES) $(if $(VMKD_CONSOLE),$(VMKD_LIBRARY_SOURCES)) \
    $(VMKD_SETUP_SOURCES) util/error.c util/ask.c util/buf.c util/endpoint.c util/installed.c util/loop.c util/mtree.c util/polling.c util/rundir.c util/sock.c memory/ram.c memory/walk.c vmm/area.c vmm/call.c $(VMKD_WIRE_SOURCES) $(VMKD_TRACE_SOURCES),\
    -lcjson -lxml2 -lhivex $(if $(VMKD_CONSOLE),-ledit -lZydis -lZycore))

$(call unit_test,qemu_args_test,cli/qemu_args_test.c cli/qemu_args.c util/error.c util/rundir.c,-lcmocka -lcjson)
