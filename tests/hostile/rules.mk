# SPDX-License-Identifier: MIT
# A transport for the test kernel that attacks the host side: build/x64/kdhostile.dll.
# x64 alone: what it attacks is the host, and that does not care who wrote the words.

$(O)/x64/kdhostile.dll: $(call pe_objects,x64,tests/hostile/kdhostile.c) $(O)/guest/x64/libntoskrnl.a
	@echo "  LD      $@"
	$(MINGW_x64) -nostdlib -shared -Wl,--entry,0 -Wl,--subsystem,native -Wl,--dynamicbase -Wl,--nxcompat \
	    -Wl,--disable-auto-import -Wl,--no-insert-timestamp -s -o $@ $^
ALL += $(O)/x64/kdhostile.dll
