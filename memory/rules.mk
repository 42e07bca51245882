# SPDX-License-Identifier: MIT
# memory/ depends on wire/'s headers only. MEMORY_SRC: for whoever links it; rules.mk files before this one in the alphabet name the two files.
MEMORY_SRC := memory/ram.c memory/walk.c

$(call unit_test,ram_test,memory/ram_test.c memory/ram.c,-lcmocka)
$(call unit_test,walk_test,memory/walk_test.c $(MEMORY_SRC),-lcmocka)

$(call fuzz_target,ram_fuzz,memory/ram_fuzz.c memory/ram.c)
$(call fuzz_target,walk_fuzz,memory/walk_fuzz.c $(MEMORY_SRC))
