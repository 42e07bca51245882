# SPDX-License-Identifier: MIT
# attach -> util, vmm/late.h. The program's sources are in cli/rules.mk by wildcard.
ATTACH_HMP := attach/hmp.c util/buf.c util/error.c util/rundir.c util/sock.c
ATTACH_SLOTS := attach/slots.c $(ATTACH_HMP) attach/target.c attach/remote_elf.c util/mtree.c

$(call unit_test,attach-remote-elf,attach/remote_elf_test.c attach/remote_elf.c,-lcmocka -ldl)
$(call unit_test,attach-hmp,attach/hmp_test.c $(ATTACH_HMP),-lcmocka -lcjson)
$(call unit_test,attach-slots,attach/slots_test.c $(ATTACH_SLOTS),-lcmocka -lcjson)
$(call unit_test,attach-inject,attach/inject_test.c attach/inject.c attach/target.c attach/remote_elf.c util/error.c,-lcmocka)
$(call fuzz_target,attach-remote-elf,attach/remote_elf_fuzz.c attach/remote_elf.c,)
$(call fuzz_target,attach-slots,attach/slots_fuzz.c $(ATTACH_SLOTS),-lcjson)
