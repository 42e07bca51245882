# SPDX-License-Identifier: MIT
# The guest module, the VMM side's calls and the broker's session in one program, without I/O.

# The module and the VMM side have an area.c each, whose functions have the same names: the module's are kept to itself.
KILLS_GUEST := $(O)/tests/kills-guest.o
$(KILLS_GUEST): $(call host_objects,$(filter guest/%,$(KDVMKD_CORE)))
	@mkdir -p $(@D)
	@echo "  LD      $@"
	$(LD) -r -o $@ $^
	objcopy --wildcard --keep-global-symbol='transport_*' $@

KILLS_WIRE := $(addprefix wire/,ring.c kdcom.c kdregs.c kddata.c selftest.c selftest_vectors.c selftest_talks.c selftest_framing.c selftest_kdapi.c selftest_ring.c)
$(call unit_test,kills,tests/kills/kills_test.c tests/kills/kernel.c $(SESSION_SRC) vmm/area.c vmm/call.c $(KILLS_WIRE),-lcmocka)
$(O)/tests/kills: $(KILLS_GUEST)
