# SPDX-License-Identifier: MIT
# wire/ depends on nothing. Whoever needs a source of it names it in its own rules.mk.
WIRE_SRC := wire/ring.c wire/kdcom.c wire/kdapi.c wire/kdregs.c wire/kddata.c
WIRE_SELFTEST := wire/selftest.c wire/selftest_vectors.c wire/selftest_talks.c wire/selftest_framing.c wire/selftest_kdapi.c \
                 wire/selftest_ring.c

# For tests: a wire on which things go wrong, and what may stand at its ends.
FAKE_LINK := wire/fake_wire.c wire/fake_ends.c wire/fake_ours.c wire/fake_stock.c

$(call unit_test,wire-selftest,$(WIRE_SRC) $(WIRE_SELFTEST) wire/selftest_test.c,)
$(call unit_test,wire-replay,$(WIRE_SRC) $(WIRE_SELFTEST) wire/replay_test.c,-lcmocka)
$(call unit_test,wire-link,$(WIRE_SRC) $(WIRE_SELFTEST) $(FAKE_LINK) wire/link_test.c,-lcmocka)

# The same tests as mingw builds them: what the test kernel loads and runs. No imports, no entry point, relocations.
WIRETEST_LDFLAGS := -nostdlib -shared -Wl,--subsystem,native -Wl,--dynamicbase -Wl,--no-insert-timestamp \
                    -Wl,--disable-auto-import -Wl,--disable-runtime-pseudo-reloc -Wl,--entry,0 -s
define wiretest_dll_
ALL += $(O)/$(1)/wiretest.dll
$(O)/$(1)/wiretest.dll: $(call pe_objects,$(1),$(WIRE_SRC) $(WIRE_SELFTEST) wire/selftest_dll.c)
	@echo "  LD      $$@"
	$$(MINGW_$(1)) $$(WIRETEST_LDFLAGS) -o $$@ $$^
endef
$(eval $(call wiretest_dll_,x64))
$(eval $(call wiretest_dll_,x86))

$(call fuzz_target,wire_kdcom,wire/kdcom_fuzz.c wire/kdcom.c,)
$(call fuzz_target,wire_kdapi,wire/kdapi_fuzz.c wire/kdapi.c wire/kdregs.c wire/kddata.c,)
$(call fuzz_target,wire_ring,wire/ring_fuzz.c wire/ring.c,)
