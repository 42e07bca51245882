# SPDX-License-Identifier: MIT
# One make, three toolchains: host (gcc or clang), mingw-w64 (the guest module), clang+lld (the test kernel).
# Every folder has a rules.mk that calls the macros of mk/toolchain.mk; nothing recurses.
#
#   make                     everything a user runs, into build/
#   make tests               the host's unit tests, into build/tests/
#   make fuzz                libFuzzer targets, into build/fuzz/ (clang)
#   make host                what runs on the host only: no guest module, no test kernel
#   make list-tests, make list-fuzzers
#   make install, make uninstall: mk/install.mk
#   make O=build/asan SAN=address,undefined tests
#   make V=1 ...             shows the commands
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SUFFIXES:
$(if $(V),,.SILENT:)

include mk/toolchain.mk
include $(sort $(wildcard */rules.mk */*/rules.mk))
include mk/install.mk

.PHONY: all host tests fuzz clean list-tests list-fuzzers
all: $(ALL)
host: $(HOST)
tests: $(TESTS)
fuzz: $(FUZZERS)
list-tests:
	@printf '%s\n' $(TESTS)
list-fuzzers:
	@printf '%s\n' $(FUZZERS)
clean:
	rm -rf $(O)

-include $(shell find $(O) -name '*.d' 2>/dev/null)
