# SPDX-License-Identifier: MIT
# What kdvmkd.dll and vmkd.sys have in common; included by the rules of both.

KDVMKD_CORE := guest/kdvmkd/transport.c guest/kdvmkd/area.c guest/kdvmkd/link.c guest/kdvmkd/link_portcall.c \
               guest/kdvmkd/link_debugcon.c guest/kdvmkd/send.c guest/kdvmkd/receive.c guest/kdvmkd/poll.c \
               guest/kdvmkd/packets.c guest/kdvmkd/peimage.c wire/ring.c
KDVMKD_NT := guest/kdvmkd/ntkernel.c guest/kdvmkd/runtime.c

# Reasons, one by one: boot loaders take native images only; the kernel moves boot images, hence relocations (dynamicbase); no
# time stamp, so that the same source gives the same bytes; versions that XP accepts; sections named after what they are,
# since PAGE* and INIT* would be paged out or thrown away.
KDVMKD_LDFLAGS := -nostdlib -Wl,--subsystem,native -Wl,--dynamicbase -Wl,--nxcompat -Wl,--no-insert-timestamp \
                  -Wl,--major-os-version,5 -Wl,--minor-os-version,1 -Wl,--major-subsystem-version,5 -Wl,--minor-subsystem-version,1 \
                  -Wl,--exclude-all-symbols -Wl,--disable-auto-import -Wl,--disable-runtime-pseudo-reloc -s
# Where the second copy of each is linked, for tools/check-pe alone.
KDVMKD_MOVED_x64 := 0xFFFFF80123450000
KDVMKD_MOVED_x86 := 0x80420000
DLLTOOL_x64 ?= x86_64-w64-mingw32-dlltool
DLLTOOL_x86 ?= i686-w64-mingw32-dlltool
