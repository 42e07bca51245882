# SPDX-License-Identifier: MIT
# Programs on the public header and build/libvmkd.so alone: what any outside program can do.
ALL += $(O)/examples/read
$(O)/examples/read: examples/read.c include/vmkd/vmkd.h $(O)/libvmkd.so
	@mkdir -p $(@D)
	$(CC) -std=c17 -O2 -Wall -Wextra -Werror -Iinclude $(SANFLAGS) -o $@ $< -L$(O) -lvmkd '-Wl,-rpath,$$ORIGIN/..'
