# SPDX-License-Identifier: MIT
# One make, three toolchains: host (gcc or clang), mingw-w64 (the guest module), clang+lld (the test kernel).
# Every folder has a rules.mk that calls the macros of mk/toolchain.mk; nothing recurses.
#
#   make                     everything a user runs, into build/
#   make tests               the host's unit tests, into build/tests/
#   make fuzz                libFuzzer targets, into build/fuzz/ (clang)
#   make O=build/asan SAN=address,undefined tests
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SUFFIXES:

include mk/toolchain.mk
include $(sort $(wildcard */rules.mk */*/rules.mk))

.PHONY: all tests fuzz clean
all: $(ALL)
tests: $(TESTS)
fuzz: $(FUZZERS)
clean:
	rm -rf $(O)

-include $(shell find $(O) -name '*.d' 2>/dev/null)
