# SPDX-License-Identifier: MIT
# vmkd.sys for both architectures: the transport of kdvmkd.dll, and what puts it into a running kernel.

include guest/kdvmkd/sources.mk

DRIVER_CORE := guest/driver/takeover.c guest/driver/finder.c guest/driver/hold.c $(KDVMKD_CORE)
DRIVER_SOURCES := guest/driver/driver.c $(DRIVER_CORE) $(KDVMKD_NT)
# A driver is a program to the linker, not a DLL: so nothing of a C program's start, and relocations on request.
DRIVER_LDFLAGS := -nostartfiles -Wl,--enable-reloc-section $(KDVMKD_LDFLAGS)
DRIVER_ENTRY_x64 := DriverEntry
DRIVER_ENTRY_x86 := _DriverEntry@8
DRIVER_BASE_x64 := 0x140000000
DRIVER_BASE_x86 := 0x10000

# The event log's texts: one list (events.h) becomes the message compiler's input, and its output a resource.
WINDMC ?= x86_64-w64-mingw32-windmc
WINDRES_x64 ?= x86_64-w64-mingw32-windres
WINDRES_x86 ?= i686-w64-mingw32-windres
$(O)/guest/events/events.rc: guest/driver/events.mc.in guest/driver/events.h
	@mkdir -p $(@D)
	$(CC) -E -P -I. -xc $< | sed -e 's/" *"//g' -e 's/" *@ *"*/\n/g' -e 's/"//g' > $(@D)/events.mc
	$(WINDMC) -b -h $(@D) -r $(@D) $(@D)/events.mc

define vmkd_sys_
ALL += $(O)/guest/$(1)/vmkd.sys $(O)/guest/$(1)/moved/vmkd.sys
DRIVER_INPUTS_$(1) := $(call pe_objects,$(1),$(DRIVER_SOURCES)) $(O)/$(1)/guest/driver/events.o $(O)/guest/$(1)/libntoskrnl-driver.a
$(O)/guest/$(1)/libntoskrnl-driver.a: guest/driver/ntoskrnl-$(1).def
	@mkdir -p $$(@D)
	$$(DLLTOOL_$(1)) -k -d $$< -l $$@
$(O)/$(1)/guest/driver/events.o: $(O)/guest/events/events.rc
	@mkdir -p $$(@D)
	$$(WINDRES_$(1)) -I $(O)/guest/events $$< $$@
$(O)/guest/$(1)/vmkd.sys: $$(DRIVER_INPUTS_$(1))
	$$(MINGW_$(1)) $$(DRIVER_LDFLAGS) -Wl,--image-base,$$(DRIVER_BASE_$(1)) -Wl,--entry,$$(DRIVER_ENTRY_$(1)) -o $$@ $$^
# For tools/check-pe, as moved/kdvmkd.dll.
$(O)/guest/$(1)/moved/vmkd.sys: $$(DRIVER_INPUTS_$(1))
	@mkdir -p $$(@D)
	$$(MINGW_$(1)) $$(DRIVER_LDFLAGS) -Wl,--image-base,$$(KDVMKD_MOVED_$(1)) -Wl,--entry,$$(DRIVER_ENTRY_$(1)) -o $$@ $$^
endef
$(eval $(call vmkd_sys_,x64))
$(eval $(call vmkd_sys_,x86))

$(call unit_test,driver_hold,guest/driver/hold.c guest/driver/hold_test.c,-lcmocka)
$(call unit_test,driver_finder,guest/driver/finder.c guest/kdvmkd/peimage.c guest/driver/fakekernel.c guest/driver/finder_test.c,-lcmocka)
$(call fuzz_target,driver_finder,guest/driver/finder.c guest/kdvmkd/peimage.c guest/driver/fakekernel.c guest/driver/finder_fuzz.c)
$(call unit_test,driver_takeover,$(DRIVER_CORE) guest/kdvmkd/fakehost.c guest/driver/fakekernel.c guest/driver/takeover_test.c,-lcmocka)
