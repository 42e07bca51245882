# SPDX-License-Identifier: MIT
# vmkd-guest.iso: what is put into a Windows, signed, with the scripts that install it. Two builds with one key give one image.
#
#   make guest-iso [SIGN_KEY=FILE SIGN_CERT=FILE]   PEM; without them with a throw-away pair, made once per build folder

SIGN_KEY  ?=
SIGN_CERT ?=
MEDIUM := $(O)/guest/medium
# No clock in the image.
MEDIUM_DATE := 2020010100000000
MEDIUM_TEXTS := $(addprefix $(MEDIUM)/,install.cmd uninstall.cmd status.cmd README.txt)
MEDIUM_BINARIES := $(foreach arch,x64 x86,$(MEDIUM)/$(arch)/kdvmkd.dll $(MEDIUM)/$(arch)/vmkd.sys)
MEDIUM_FILES := $(MEDIUM_TEXTS) $(MEDIUM_BINARIES) $(MEDIUM)/vmkd-test.cer $(MEDIUM)/vmkd-test.id

.PHONY: guest-iso
guest-iso: $(O)/vmkd-guest.iso
ALL += $(O)/vmkd-guest.iso $(O)/tests/medium-stub.exe

ifeq ($(SIGN_KEY)$(SIGN_CERT),)
SIGN_KEY_FILE  := $(O)/signing/vmkd-test.key
SIGN_CERT_FILE := $(O)/signing/vmkd-test.pem
$(O)/signing/vmkd-test.pem: tools/sign-guest
	@echo "  KEY     $@"
	tools/sign-guest --make $(@D)
	touch $@
$(O)/signing/vmkd-test.key: $(O)/signing/vmkd-test.pem ;
else
SIGN_KEY_FILE  := $(SIGN_KEY)
SIGN_CERT_FILE := $(SIGN_CERT)
endif

$(MEDIUM)/vmkd-test.cer: $(SIGN_CERT_FILE)
	@mkdir -p $(@D)
	tools/sign-guest --describe $< $(@D)
	touch $@
$(MEDIUM)/vmkd-test.id: $(MEDIUM)/vmkd-test.cer ;
$(MEDIUM_BINARIES): $(MEDIUM)/%: $(O)/guest/% $(SIGN_CERT_FILE) tools/sign-guest
	@mkdir -p $(@D)
	@echo "  SIGN    $@"
	tools/sign-guest --key $(SIGN_KEY_FILE) --cert $(SIGN_CERT_FILE) $< $@
# Windows' line ends: cmd finds labels by them, and Notepad on XP shows nothing else.
$(MEDIUM_TEXTS): $(MEDIUM)/%: guest/medium/%
	@mkdir -p $(@D)
	sed 's/$$/\r/' $< > $@
$(O)/vmkd-guest.iso: $(MEDIUM_FILES)
	@echo "  ISO     $@"
	xorriso -no_rc -report_about WARNING -as mkisofs -quiet -V VMKD_GUEST -J -R --modification-date=$(MEDIUM_DATE) --set_all_file_dates $(MEDIUM_DATE) \
	        -uid 0 -gid 0 -file-mode 0444 -dir-mode 0555 -graft-points -o $@ \
	        $(foreach file,$(MEDIUM_FILES),/$(patsubst $(MEDIUM)/%,%,$(file))=$(file))

# The test's stand-in for bcdedit, sc and the like: a Windows program of the usual kind, so none of the guest's flags.
$(O)/tests/medium-stub.exe: tests/medium_stub.c
	@mkdir -p $(@D)
	@echo "  x64     $<"
	$(MINGW_x64) -std=c17 -O1 $(WARN) -o $@ $< -ladvapi32
