# SPDX-License-Identifier: MIT
# Compilers, flags and the few macros that rules.mk files call.
#
#   $(call host_program,NAME,SOURCES,LIBS)     build/NAME              added to ALL
#   $(call host_library,NAME,SOURCES,LIBS,MAP[,SONAME])  build/NAME (.so), added to ALL; MAP = linker version script; SONAME, if it is not NAME, is a link to it
#   $(call unit_test,NAME,SOURCES,LIBS)        build/tests/NAME        added to TESTS; exit status 0 = passed
#   $(call fuzz_target,NAME,SOURCES,LIBS)      build/fuzz/NAME         added to FUZZERS; seeds in <folder>/fuzz/NAME/
#   $(call pe_objects,ARCH,SOURCES)            object names of SOURCES built by mingw for ARCH (x64 or x86)
# SOURCES are paths from the root. Objects of one source are shared between everything that uses it.

O    ?= build
SAN  ?=
OPT  ?= -O2
CC   ?= gcc
ifeq ($(origin CC),default)
CC   := gcc
endif
CLANG      ?= clang
MINGW_x64  ?= x86_64-w64-mingw32-gcc
MINGW_x86  ?= i686-w64-mingw32-gcc

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wundef -Wpointer-arith -Werror
# Byte formats are where a silent conversion hides a bug, so wire/ alone is compiled with -Wconversion.
WARN_wire := -Wconversion -Wsign-conversion
SANFLAGS  := $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer)
# CPPFLAGS, CFLAGS, LDFLAGS: a distribution's own, from its environment or the command line; for the host's programs only.
CFLAGS_HOST := -std=c17 -D_GNU_SOURCE $(OPT) -g -fPIC -fvisibility=hidden -pthread $(WARN) -I. -Iinclude $(SANFLAGS) $(CPPFLAGS) $(CFLAGS)
LDFLAGS_HOST := -pthread $(SANFLAGS) $(LDFLAGS)
CFLAGS_FUZZ := -std=c17 -D_GNU_SOURCE -O1 -g -pthread $(WARN) -I. -Iinclude -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all
# Guest code runs at HIGH_LEVEL with the interrupted thread's FPU and SSE state live: integer registers only.
CFLAGS_PE := -std=c17 -O2 -g0 -ffreestanding -fno-builtin -fno-stack-protector -fno-asynchronous-unwind-tables \
             -fno-ident -fno-jump-tables -mgeneral-regs-only -mno-red-zone $(WARN) -I. -Iinclude
# Unwind tables: a debugger that stops in this code walks its stack by them; on i386 there is no such thing.
CFLAGS_PE_x64 := $(CFLAGS_PE) -fasynchronous-unwind-tables
CFLAGS_PE_x86 := $(CFLAGS_PE) -march=i586

ALL :=
HOST :=
TESTS :=
FUZZERS :=

host_objects = $(patsubst %.c,$(O)/host/%.o,$(1))
fuzz_objects = $(patsubst %.c,$(O)/fuzzobj/%.o,$(1))
pe_objects   = $(patsubst %.c,$(O)/$(1)/%.o,$(2))

$(O)/host/wire/%.o: WARN_DIR := $(WARN_wire)
$(O)/x64/wire/%.o $(O)/x86/wire/%.o: WARN_DIR := $(WARN_wire)

$(O)/host/%.o: %.c mk/toolchain.mk
	@mkdir -p $(@D)
	@echo "  CC      $<"
	$(CC) $(CFLAGS_HOST) $(WARN_DIR) -MMD -MP -c $< -o $@
$(O)/fuzzobj/%.o: %.c mk/toolchain.mk
	@mkdir -p $(@D)
	@echo "  FUZZ    $<"
	$(CLANG) $(CFLAGS_FUZZ) -MMD -MP -c $< -o $@
$(O)/x64/%.o: %.c mk/toolchain.mk
	@mkdir -p $(@D)
	@echo "  x64     $<"
	$(MINGW_x64) $(CFLAGS_PE_x64) $(WARN_DIR) -MMD -MP -c $< -o $@
$(O)/x86/%.o: %.c mk/toolchain.mk
	@mkdir -p $(@D)
	@echo "  x86     $<"
	$(MINGW_x86) $(CFLAGS_PE_x86) $(WARN_DIR) -MMD -MP -c $< -o $@

define host_program_
ALL += $(O)/$(1)
HOST += $(O)/$(1)
$(O)/$(1): $(call host_objects,$(2))
	@mkdir -p $$(@D)
	@echo "  LD      $$@"
	$$(CC) $$(LDFLAGS_HOST) -o $$@ $$^ $(3)
endef
host_program = $(eval $(call host_program_,$(strip $(1)),$(2),$(3)))

define host_library_
ALL += $(O)/$(1)
HOST += $(O)/$(1)
$(O)/$(1): $(call host_objects,$(2)) $(4)
	@mkdir -p $$(@D)
	@echo "  LD      $$@"
	$$(CC) $$(LDFLAGS_HOST) -shared -Wl,-soname,$(if $(5),$(5),$(1)) -Wl,--version-script=$(4) -o $$@ $(call host_objects,$(2)) $(3)
	$(if $(5),ln -sf $(1) $(O)/$(5))
endef
host_library = $(eval $(call host_library_,$(strip $(1)),$(2),$(3),$(strip $(4)),$(strip $(5))))

define unit_test_
TESTS += $(O)/tests/$(1)
$(O)/tests/$(1): $(call host_objects,$(2))
	@mkdir -p $$(@D)
	@echo "  LD      $$@"
	$$(CC) $$(LDFLAGS_HOST) -o $$@ $$^ $(3)
endef
unit_test = $(eval $(call unit_test_,$(strip $(1)),$(2),$(3)))

define fuzz_target_
FUZZERS += $(O)/fuzz/$(1)
$(O)/fuzz/$(1): $(call fuzz_objects,$(2))
	@mkdir -p $$(@D)
	@echo "  LD      $$@"
	$$(CLANG) -pthread -fsanitize=fuzzer,address,undefined -o $$@ $$^ $(3)
endef
fuzz_target = $(eval $(call fuzz_target_,$(strip $(1)),$(2),$(3)))
