# SPDX-License-Identifier: MIT
# console/ depends on include/ and util/; the vmkd program links these objects together with TARGET_SRC, TARGET_WIRE and TARGET_UTIL.
CONSOLE_SRC := console/main.c console/line.c console/session.c console/command.c console/commands.c console/cmd_memory.c \
               console/cmd_run.c console/cmd_info.c console/names.c console/exports.c console/expr.c console/format.c console/disasm.c
CONSOLE_LIBS := -ledit -lZydis -lZycore

$(call unit_test,expr_test,console/expr_test.c console/expr.c target/error.c util/error.c,-lcmocka)
$(call unit_test,format_test,console/format_test.c console/format.c console/disasm.c,-lcmocka -lZydis -lZycore)
