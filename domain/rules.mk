# SPDX-License-Identifier: MIT
# domain -> util; libxml2 for the text, virsh (a program) for libvirt.
$(O)/host/domain/%.o: WARN_DIR := -isystem /usr/include/libxml2
$(O)/fuzzobj/domain/%.o: CFLAGS_FUZZ += -isystem /usr/include/libxml2

DOMAIN_EDIT_SRC := domain/edit.c domain/tree.c util/error.c
$(call unit_test,domain_edit_test,domain/edit_test.c $(DOMAIN_EDIT_SRC),-lcmocka -lxml2)
$(call unit_test,domain_host_test,domain/host_test.c domain/host.c domain/tree.c util/error.c,-lcmocka -lxml2)
$(call unit_test,domain_checks_test,domain/checks_test.c domain/checks.c,-lcmocka)
$(call unit_test,domain_virsh_test,domain/virsh_test.c domain/virsh.c util/error.c,-lcmocka)

$(call fuzz_target,domain_edit_fuzz,domain/edit_fuzz.c $(DOMAIN_EDIT_SRC),-lxml2)
$(call fuzz_target,domain_host_fuzz,domain/host_fuzz.c domain/host.c domain/tree.c util/error.c,-lxml2)
