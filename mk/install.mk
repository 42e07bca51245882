# SPDX-License-Identifier: MIT
# make install, make uninstall: both from one list. make man: the man pages, into build/man.
#
#   make install prefix=/usr DESTDIR=debian/tmp     everything; install-host, install-guest: without, and only, what goes into the guest
#   libdir=, mandir=, zshdir=, unitdir=, ...        a distribution's other folders
# Where vmkd finds its own files is fixed: lib/vmkd and share/vmkd beside bin/ (util/installed.h).

VERSION := $(shell sed -n 's/^.define VMKD_VERSION "\(.*\)"/\1/p' cli/main.c)

prefix     ?= /usr/local
bindir     := $(prefix)/bin
pkglibdir  := $(prefix)/lib/vmkd
pkgdatadir := $(prefix)/share/vmkd
libdir     ?= $(prefix)/lib
includedir ?= $(prefix)/include
datadir    ?= $(prefix)/share
mandir     ?= $(datadir)/man
docdir     ?= $(datadir)/doc/vmkd
bashdir    ?= $(datadir)/bash-completion/completions
zshdir     ?= $(datadir)/zsh/site-functions
fishdir    ?= $(datadir)/fish/vendor_completions.d
unitdir    ?= $(prefix)/lib/systemd/user

MAN := $(patsubst docs/man/%.scd,$(O)/man/%,$(wildcard docs/man/*.scd))
ALL += $(MAN)
# The list of commands in vmkd(1) is made of the pages' NAME lines.
$(O)/man/vmkd.1: docs/man/vmkd.1.scd $(wildcard docs/man/*.scd)
	@mkdir -p $(@D)
	@echo "  MAN     $<"
	sed -n 's/^vmkd-\([a-z]*\) - \(.*\)/*\1*\n\t\2\n/p' docs/man/vmkd-*.scd | sed -e '/@COMMANDS@/{r /dev/stdin' -e 'd}' $< | scdoc >$@
$(O)/man/%: docs/man/%.scd
	@mkdir -p $(@D)
	@echo "  MAN     $<"
	scdoc <$< >$@

# mode:source:folder or mode:source:folder/newname, a word each.
INSTALL_HOST = \
	755:$(O)/vmkd:$(bindir)/vmkd \
	644:$(O)/libvmkd-vmm.so:$(pkglibdir)/libvmkd-vmm.so \
	644:$(O)/libvmkd.so:$(libdir)/libvmkd.so.0 \
	644:include/vmkd/vmkd.h:$(includedir)/vmkd/vmkd.h \
	644:$(O)/install/vmkd.pc:$(libdir)/pkgconfig/vmkd.pc \
	644:$(O)/install/vmkd@.service:$(unitdir)/vmkd@.service \
	644:packaging/completion/vmkd.bash:$(bashdir)/vmkd \
	644:packaging/completion/_vmkd:$(zshdir)/_vmkd \
	644:packaging/completion/vmkd.fish:$(fishdir)/vmkd.fish \
	644:trace/wireshark/vmkd.lua:$(pkgdatadir)/wireshark/vmkd.lua \
	$(foreach page,$(MAN),644:$(page):$(mandir)/man$(subst .,,$(suffix $(page)))/$(notdir $(page))) \
	$(foreach page,README.md $(wildcard docs/*.md docs/*.svg docs/manual/*.md),644:$(page):$(docdir)/$(page))
# The signed files, under the names by which vmkd asks for them.
INSTALL_GUEST = 644:$(O)/vmkd-guest.iso:$(pkgdatadir)/vmkd-guest.iso \
	$(foreach file,$(MEDIUM_BINARIES) $(MEDIUM)/vmkd-test.cer,644:$(file):$(file:$(MEDIUM)/%=$(pkgdatadir)/guest/%))

install_source = $(word 2,$(subst :, ,$(1)))
install_target = $(word 3,$(subst :, ,$(1)))
define install_one
install -D -m $(word 1,$(subst :, ,$(1))) $(call install_source,$(1)) $(DESTDIR)$(call install_target,$(1))

endef

# They depend on the folders given to make, so they are made anew each time.
$(O)/install/%: packaging/%.in always
	@mkdir -p $(@D)
	sed -e 's|@prefix@|$(prefix)|; s|@bindir@|$(bindir)|; s|@libdir@|$(libdir)|; s|@includedir@|$(includedir)|; s|@version@|$(VERSION)|' $< >$@

.PHONY: always man guest install install-host install-guest uninstall
always:
man: $(MAN)
guest: $(foreach word,$(INSTALL_GUEST),$(call install_source,$(word)))
install: install-host install-guest
install-host: $(foreach word,$(INSTALL_HOST),$(call install_source,$(word)))
	$(foreach word,$(INSTALL_HOST),$(call install_one,$(word)))
	ln -sf libvmkd.so.0 $(DESTDIR)$(libdir)/libvmkd.so
install-guest: guest
	$(foreach word,$(INSTALL_GUEST),$(call install_one,$(word)))
# Files of the list, and then the folders that are ours alone, as far as nothing else is in them.
uninstall:
	rm -f $(foreach word,$(INSTALL_HOST) $(INSTALL_GUEST),$(DESTDIR)$(call install_target,$(word))) $(DESTDIR)$(libdir)/libvmkd.so
	for folder in $(pkgdatadir) $(pkglibdir) $(docdir) $(includedir)/vmkd; do \
		[ ! -d $(DESTDIR)$$folder ] || find $(DESTDIR)$$folder -depth -type d -empty -delete; done
