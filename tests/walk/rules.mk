# SPDX-License-Identifier: MIT
WALK_TRANSLATE := tests/walk/translate.c memory/ram.c memory/walk.c
ALL += $(O)/tests/walk/translate $(O)/tests/walk/guest.elf
HOST += $(O)/tests/walk/translate
$(O)/tests/walk/translate: $(call host_objects,$(WALK_TRANSLATE))
	@mkdir -p $(@D)
	@echo "  LD      $@"
	$(CC) $(LDFLAGS_HOST) -o $@ $^

$(O)/tests/walk/guest.elf: tests/walk/guest.S tests/walk/guest.ld
	@mkdir -p $(@D)
	@echo "  LD      $@"
	$(CLANG) --target=x86_64-unknown-none-elf -c -o $(O)/tests/walk/guest.o tests/walk/guest.S
	ld.lld -m elf_x86_64 -static -T tests/walk/guest.ld -o $@ $(O)/tests/walk/guest.o
