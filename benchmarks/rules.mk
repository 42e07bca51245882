# SPDX-License-Identifier: MIT
# Uses libvmkd as an outside program does: the shared library and its public header. The client without libvmkd takes wire/'s framing.
ALL += $(O)/benchmarks/kdbench
HOST += $(O)/benchmarks/kdbench
KDBENCH := $(patsubst %,benchmarks/%.c,kdbench floors packets target readers) wire/kdcom.c wire/kdapi.c
$(O)/benchmarks/kdbench: $(call host_objects,$(KDBENCH)) $(O)/libvmkd.so
	@mkdir -p $(@D)
	@echo "  LD      $@"
	$(CC) $(LDFLAGS_HOST) -o $@ $^ '-Wl,-rpath,$$ORIGIN/..'

# The guest of the floors; clang and lld are here for the test kernel anyway.
ALL += $(O)/benchmarks/floor.elf
$(O)/benchmarks/floor.elf: benchmarks/floor.S benchmarks/floor.ld
	@mkdir -p $(@D)
	$(CLANG) --target=i386-unknown-none-elf -c -o $(O)/benchmarks/floor.o benchmarks/floor.S
	ld.lld -m elf_i386 -static -T benchmarks/floor.ld -o $@ $(O)/benchmarks/floor.o
