# SPDX-License-Identifier: MIT
# kdvmkd.dll for both architectures, and its host tests. Uses wire/ring.c only.

KDVMKD_CORE := guest/kdvmkd/transport.c guest/kdvmkd/area.c guest/kdvmkd/link.c guest/kdvmkd/link_portcall.c \
               guest/kdvmkd/link_debugcon.c guest/kdvmkd/send.c guest/kdvmkd/receive.c guest/kdvmkd/poll.c \
               guest/kdvmkd/peimage.c wire/ring.c
KDVMKD_NT := guest/kdvmkd/exports.c guest/kdvmkd/ntkernel.c guest/kdvmkd/runtime.c

# Reasons, one by one: boot loaders take native images only; the kernel moves boot images, hence relocations (dynamicbase); no
# time stamp, so that the same source gives the same bytes; versions that XP accepts; sections named after what they are,
# since PAGE* and INIT* would be paged out or thrown away.
KDVMKD_LDFLAGS := -nostdlib -shared -Wl,--subsystem,native -Wl,--dynamicbase -Wl,--nxcompat -Wl,--no-insert-timestamp \
                  -Wl,--major-os-version,5 -Wl,--minor-os-version,1 -Wl,--major-subsystem-version,5 -Wl,--minor-subsystem-version,1 \
                  -Wl,--exclude-all-symbols -Wl,--disable-auto-import -Wl,--disable-runtime-pseudo-reloc -s
KDVMKD_ENTRY_x64 := DllEntry
KDVMKD_ENTRY_x86 := _DllEntry@12
KDVMKD_BASE_x64 := 0x180000000
KDVMKD_BASE_x86 := 0x10000000
KDVMKD_MOVED_x64 := 0xFFFFF80123450000
KDVMKD_MOVED_x86 := 0x80420000
DLLTOOL_x64 ?= x86_64-w64-mingw32-dlltool
DLLTOOL_x86 ?= i686-w64-mingw32-dlltool

define kdvmkd_dll_
ALL += $(O)/guest/$(1)/kdvmkd.dll $(O)/guest/$(1)/moved/kdvmkd.dll
KDVMKD_OBJECTS_$(1) := $(call pe_objects,$(1),$(KDVMKD_CORE) $(KDVMKD_NT))
KDVMKD_INPUTS_$(1) := $$(KDVMKD_OBJECTS_$(1)) guest/kdvmkd/exports-$(1).def $(O)/guest/$(1)/libntoskrnl.a
$(O)/guest/$(1)/libntoskrnl.a: guest/kdvmkd/ntoskrnl-$(1).def
	@mkdir -p $$(@D)
	$$(DLLTOOL_$(1)) -k -d $$< -l $$@
$(O)/guest/$(1)/kdvmkd.dll: $$(KDVMKD_INPUTS_$(1))
	$$(MINGW_$(1)) $$(KDVMKD_LDFLAGS) -Wl,--image-base,$$(KDVMKD_BASE_$(1)) -Wl,--entry,$$(KDVMKD_ENTRY_$(1)) -o $$@ $$^
# Linked at another base, for tools/check-pe alone: relocated there, the file above must be this one.
$(O)/guest/$(1)/moved/kdvmkd.dll: $$(KDVMKD_INPUTS_$(1))
	@mkdir -p $$(@D)
	$$(MINGW_$(1)) $$(KDVMKD_LDFLAGS) -Wl,--image-base,$$(KDVMKD_MOVED_$(1)) -Wl,--entry,$$(KDVMKD_ENTRY_$(1)) -o $$@ $$^
endef
$(eval $(call kdvmkd_dll_,x64))
$(eval $(call kdvmkd_dll_,x86))

# The same sources, driven by a scripted machine on the host.
KDVMKD_FAKE := $(KDVMKD_CORE) guest/kdvmkd/fakehost.c
$(call unit_test,kdvmkd_transport_refusal,$(KDVMKD_FAKE) guest/kdvmkd/transport_refusal_test.c,-lcmocka)
$(call unit_test,kdvmkd_transport,$(KDVMKD_FAKE) guest/kdvmkd/transport_test.c,-lcmocka)
$(call unit_test,kdvmkd_peimage,guest/kdvmkd/peimage.c guest/kdvmkd/peimage_test.c,-lcmocka)
$(call fuzz_target,kdvmkd_transport,$(KDVMKD_FAKE) guest/kdvmkd/transport_fuzz.c)
