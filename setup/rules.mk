# SPDX-License-Identifier: MIT
# setup -> util, and hivex. Part of build/vmkd (cli/rules.mk).
SETUP_HIVES := setup/hive.c setup/bcd.c setup/service.c util/error.c
SETUP_TEXTS := setup/bootini.c setup/journal.c $(SETUP_HIVES)
SETUP_GUEST := setup/files.c setup/image.c setup/sandbox.c setup/windows.c $(SETUP_HIVES)

$(call unit_test,setup_disk_test,setup/disk_test.c setup/disk.c setup/volume.c util/error.c,-lcmocka)
$(call unit_test,setup_text_test,setup/text_test.c $(SETUP_TEXTS),-lcmocka -lhivex)
$(call unit_test,setup_guest_test,setup/guest_test.c $(SETUP_GUEST),-lcmocka -lhivex)

$(call fuzz_target,setup_disk,setup/disk_fuzz.c setup/disk.c setup/volume.c util/error.c)
$(call fuzz_target,setup_text,setup/text_fuzz.c $(SETUP_TEXTS),-lhivex)
$(call fuzz_target,setup_guest,setup/guest_fuzz.c $(SETUP_GUEST),-lhivex)
$(call fuzz_target,setup_hive,setup/hive_fuzz.c $(SETUP_HIVES),-lhivex)
