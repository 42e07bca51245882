# SPDX-License-Identifier: MIT
# kdvmkd.dll for both architectures, and its host tests. Uses wire/ring.c only.

include guest/kdvmkd/sources.mk

KDVMKD_ENTRY_x64 := DllEntry
KDVMKD_ENTRY_x86 := _DllEntry@12
KDVMKD_BASE_x64 := 0x180000000
KDVMKD_BASE_x86 := 0x10000000

define kdvmkd_dll_
ALL += $(O)/guest/$(1)/kdvmkd.dll $(O)/guest/$(1)/moved/kdvmkd.dll
KDVMKD_OBJECTS_$(1) := $(call pe_objects,$(1),$(KDVMKD_CORE) $(KDVMKD_NT) guest/kdvmkd/exports.c)
KDVMKD_INPUTS_$(1) := $$(KDVMKD_OBJECTS_$(1)) guest/kdvmkd/exports-$(1).def $(O)/guest/$(1)/libntoskrnl.a
$(O)/guest/$(1)/libntoskrnl.a: guest/kdvmkd/ntoskrnl-$(1).def
	@mkdir -p $$(@D)
	$$(DLLTOOL_$(1)) -k -d $$< -l $$@
$(O)/guest/$(1)/kdvmkd.dll: $$(KDVMKD_INPUTS_$(1))
	$$(MINGW_$(1)) -shared $$(KDVMKD_LDFLAGS) -Wl,--image-base,$$(KDVMKD_BASE_$(1)) -Wl,--entry,$$(KDVMKD_ENTRY_$(1)) -o $$@ $$^
# Linked at another base, for tools/check-pe alone: relocated there, the file above must be this one.
$(O)/guest/$(1)/moved/kdvmkd.dll: $$(KDVMKD_INPUTS_$(1))
	@mkdir -p $$(@D)
	$$(MINGW_$(1)) -shared $$(KDVMKD_LDFLAGS) -Wl,--image-base,$$(KDVMKD_MOVED_$(1)) -Wl,--entry,$$(KDVMKD_ENTRY_$(1)) -o $$@ $$^
endef
$(eval $(call kdvmkd_dll_,x64))
$(eval $(call kdvmkd_dll_,x86))

# The same sources, driven by a scripted machine on the host.
KDVMKD_FAKE := $(KDVMKD_CORE) guest/kdvmkd/fakehost.c
$(call unit_test,kdvmkd_transport_refusal,$(KDVMKD_FAKE) guest/kdvmkd/transport_refusal_test.c,-lcmocka)
$(call unit_test,kdvmkd_transport,$(KDVMKD_FAKE) guest/kdvmkd/transport_test.c,-lcmocka)
$(call unit_test,kdvmkd_peimage,guest/kdvmkd/peimage.c guest/kdvmkd/peimage_test.c,-lcmocka)
$(call fuzz_target,kdvmkd_transport,$(KDVMKD_FAKE) guest/kdvmkd/transport_fuzz.c)
