# SPDX-License-Identifier: MIT
# Uses libvmkd as an outside program does: the shared library and its public header.
ALL += $(O)/benchmarks/kdbench
HOST += $(O)/benchmarks/kdbench
$(O)/benchmarks/kdbench: $(O)/host/benchmarks/kdbench.o $(O)/libvmkd.so
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_HOST) -o $@ $^ '-Wl,-rpath,$$ORIGIN/..'
