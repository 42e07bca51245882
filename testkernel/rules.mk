# SPDX-License-Identifier: MIT
# Per architecture, into build/testkernel/{x64,x86}/: ntoskrnl.exe + .pdb (a PE by clang and lld-link), boot.elf (the
# PVH stub, by clang and ld.lld), kduart.dll (the serial yardstick), tkdriver.sys and the modules of virtualkd/ (by mingw).
LLD_LINK     ?= lld-link
LLD          ?= ld.lld
LLVM_DLLTOOL ?= llvm-dlltool

TK_CFLAGS := -O2 -ffreestanding -fno-builtin -fno-stack-protector -mno-sse -mno-mmx -mno-80387 \
             -mno-implicit-float -mno-red-zone $(WARN) -Wno-gnu-statement-expression -I.
TK_C      := -std=c17 -g -gcodeview # not for assembler: it would emit DWARF into the PE
TK_KERNEL := $(TK_CFLAGS) -fms-extensions -mno-stack-arg-probe -fno-jump-tables
TK_KERNEL_x64 := --target=x86_64-pc-windows-msvc $(TK_KERNEL)
TK_KERNEL_x86 := --target=i686-pc-windows-msvc -march=i686 $(TK_KERNEL)
TK_BOOT := $(TK_CFLAGS) -fno-pic -fno-pie -fno-asynchronous-unwind-tables
TK_BOOT_x64 := --target=x86_64-unknown-none-elf $(TK_BOOT)
# Microsoft aligns 64-bit members to 8 bytes on x86 as well: stub and kernel share structures.
TK_BOOT_x86 := --target=i686-unknown-none-elf -march=i686 -malign-double $(TK_BOOT)

TK_CORE := $(filter-out %_fuzz.c %_test.c,$(wildcard testkernel/core/*.c))
TK_NT   := $(wildcard testkernel/nt/*.c)
TK_HAL  := $(filter-out %_x64.c %_x86.c,$(wildcard testkernel/hal/*.c))
# A file that ends in _x64 or _x86 belongs to that architecture alone.
tk_kernel_sources = $(TK_CORE) $(TK_HAL) $(wildcard testkernel/hal/*_$(1).c testkernel/hal/entry_$(1).S) \
                    $(filter-out %_$(if $(filter x64,$(1)),x86,x64).c,$(TK_NT))

define testkernel_arch
$(O)/testkernel/$(1)/kernel/%.o: %.c testkernel/rules.mk
	@mkdir -p $$(@D)
	@echo "  TK-$(1)  $$<"
	$$(CLANG) $$(TK_KERNEL_$(1)) $$(TK_C) -MMD -MP -c $$< -o $$@
$(O)/testkernel/$(1)/kernel/%.o: %.S testkernel/rules.mk
	@mkdir -p $$(@D)
	@echo "  TK-$(1)  $$<"
	$$(CLANG) $$(TK_KERNEL_$(1)) -MMD -MP -c $$< -o $$@
$(O)/testkernel/$(1)/boot/%.o: %.c testkernel/rules.mk
	@mkdir -p $$(@D)
	@echo "  STUB-$(1) $$<"
	$$(CLANG) $$(TK_BOOT_$(1)) -std=c17 -MMD -MP -c $$< -o $$@
$(O)/testkernel/$(1)/boot/%.o: %.S testkernel/rules.mk
	@mkdir -p $$(@D)
	@echo "  STUB-$(1) $$<"
	$$(CLANG) $$(TK_BOOT_$(1)) -MMD -MP -c $$< -o $$@

$(O)/testkernel/$(1)/boot.elf: testkernel/boot/boot.ld \
    $(patsubst %,$(O)/testkernel/$(1)/boot/%.o,$(basename $(TK_CORE) testkernel/boot/boot.c testkernel/boot/pvh_$(1).S))
	@echo "  LD      $$@"
	$$(LLD) -m $(2) -static -nostdlib -z noseparate-code -T $$< -o $$@ $$(filter %.o,$$^)

$(O)/testkernel/$(1)/kdcom.lib: testkernel/hal/kdcom-$(1).def
	@mkdir -p $$(@D)
	$$(LLVM_DLLTOOL) -m $(3) -k -d $$< -l $$@

$(O)/testkernel/$(1)/ntoskrnl.exe: testkernel/nt/exports$(4).def $(O)/testkernel/$(1)/kdcom.lib $(O)/tools/peseal \
    $(patsubst %,$(O)/testkernel/$(1)/kernel/%.o,$(basename $(call tk_kernel_sources,$(1))))
	@echo "  LD      $$@"
	$$(LLD_LINK) /nologo /machine:$(1) /subsystem:native /entry:KernelEntry /nodefaultlib /driver /dynamicbase \
	    /Brepro /debug /pdb:$$(@:.exe=.pdb) /pdbaltpath:ntoskrnl.pdb /implib:$$(@:.exe=.lib) /def:$$< \
	    $(5) /out:$$@ $$(filter %.o %.lib,$$^)
	$(O)/tools/peseal $$@

$(O)/testkernel/$(1)/kduart.dll: $(call pe_objects,$(1),testkernel/uart/kduart.c) \
    $(O)/testkernel/$(1)/libntoskrnl.a
	@echo "  LD      $$@"
	$$(MINGW_$(1)) -nostdlib -shared -Wl,--entry,0 -Wl,--subsystem,native -Wl,--dynamicbase -Wl,--nxcompat \
	    -Wl,--kill-at -Wl,--disable-auto-import -s -o $$@ $$^
# By mingw's own dlltool: its linker mixes up the short import objects of LLVM's.
$(O)/testkernel/$(1)/libntoskrnl.a: testkernel/uart/ntoskrnl-$(1).def
	@mkdir -p $$(@D)
	$$(MINGW_$(1):gcc=dlltool) -k -d $$< -l $$@

ALL += $(O)/testkernel/$(1)/boot.elf $(O)/testkernel/$(1)/ntoskrnl.exe $(O)/testkernel/$(1)/kduart.dll
endef

# One for each kind of VirtualKD's modules: $(1) architecture, $(2) its file of testkernel/virtualkd.
define testkernel_virtualkd
$(O)/testkernel/$(1)/$(2).dll: $(call pe_objects,$(1),testkernel/virtualkd/module.c testkernel/virtualkd/$(2).c) \
    $(O)/testkernel/$(1)/virtualkd/libntoskrnl.a
	@echo "  LD      $$@"
	$$(MINGW_$(1)) -nostdlib -shared -Wl,--entry,0 -Wl,--subsystem,native -Wl,--dynamicbase -Wl,--nxcompat \
	    -Wl,--kill-at -Wl,--disable-auto-import -s -o $$@ $$^
ALL += $(O)/testkernel/$(1)/$(2).dll
endef
define testkernel_virtualkd_arch
$(O)/testkernel/$(1)/virtualkd/libntoskrnl.a: testkernel/virtualkd/ntoskrnl-$(1).def
	@mkdir -p $$(@D)
	$$(MINGW_$(1):gcc=dlltool) -k -d $$< -l $$@
$(foreach kind,bazis2024 bazis30 kdvbox,$(eval $(call testkernel_virtualkd,$(1),$(kind))))
endef
# The driver that shows that drivers work: $(1) architecture, $(2) its entry's name.
define testkernel_driver
$(O)/testkernel/$(1)/driver/libntoskrnl.a: testkernel/driver/ntoskrnl-$(1).def
	@mkdir -p $$(@D)
	$$(MINGW_$(1):gcc=dlltool) -k -d $$< -l $$@
$(O)/testkernel/$(1)/tkdriver.sys: $(call pe_objects,$(1),testkernel/driver/tkdriver.c) $(O)/testkernel/$(1)/driver/libntoskrnl.a
	@echo "  LD      $$@"
	$$(MINGW_$(1)) -nostdlib -shared -Wl,--entry,$(2) -Wl,--subsystem,native -Wl,--dynamicbase -Wl,--nxcompat \
	    -Wl,--kill-at -Wl,--disable-auto-import -s -o $$@ $$^
ALL += $(O)/testkernel/$(1)/tkdriver.sys
endef
$(eval $(call testkernel_arch,x64,elf_x86_64,i386:x86-64,,))
$(eval $(call testkernel_arch,x86,elf_i386,i386,-x86,/safeseh:no))

$(eval $(call testkernel_virtualkd_arch,x64))
$(eval $(call testkernel_virtualkd_arch,x86))

$(eval $(call testkernel_driver,x64,DriverEntry))
$(eval $(call testkernel_driver,x86,_DriverEntry@8))

$(call host_program,tools/peseal,tools/peseal.c,)
$(call unit_test,testkernel_pe_test,testkernel/core/pe_test.c testkernel/core/pe.c testkernel/core/archive.c,-lcmocka)
$(call fuzz_target,testkernel_pe,testkernel/core/pe_fuzz.c testkernel/core/pe.c,)
$(call fuzz_target,testkernel_archive,testkernel/core/archive_fuzz.c testkernel/core/archive.c,)
