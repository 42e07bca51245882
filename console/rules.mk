# SPDX-License-Identifier: MIT
# console/ depends on include/ and util/; the vmkd program links these objects together with TARGET_SRC, TARGET_WIRE and TARGET_UTIL.
CONSOLE_SRC := console/main.c console/line.c console/session.c console/command.c console/commands.c console/cmd_memory.c \
               console/cmd_run.c console/cmd_info.c console/cmd_snapshot.c console/cmd_control.c console/names.c console/exports.c console/expr.c console/format.c console/disasm.c
CONSOLE_LIBS := -ledit -lZydis -lZycore

$(call unit_test,expr_test,console/expr_test.c console/expr.c target/error.c util/error.c,-lcmocka)
$(call unit_test,format_test,console/format_test.c console/format.c console/disasm.c,-lcmocka -lZydis -lZycore)
$(call fuzz_target,expr_fuzz,console/expr_fuzz.c console/expr.c target/error.c util/error.c,)
# target/ and its rules come later in the alphabet, so its sources are listed by what is there.
CONSOLE_TARGET := $(filter-out %_test.c %_fuzz.c,$(wildcard target/*.c)) memory/ram.c memory/walk.c wire/kdcom.c wire/kdapi.c wire/kddata.c wire/kdregs.c \
                  trace/pcapng.c trace/record.c trace/player.c util/error.c util/ask.c util/buf.c util/endpoint.c util/rundir.c util/sock.c
$(call fuzz_target,command_fuzz,console/command_fuzz.c $(filter-out console/main.c,$(CONSOLE_SRC)) $(CONSOLE_TARGET),$(CONSOLE_LIBS) -lcjson)
$(call fuzz_target,exports_fuzz,console/exports_fuzz.c console/exports.c $(CONSOLE_TARGET),-lcjson)
