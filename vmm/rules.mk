# SPDX-License-Identifier: MIT
# vmm -> wire. libvmkd-vmm.so lives inside the VMM process; vmm/area.c and vmm/call.c are also the debugcon backend's.
VMM_CORE := vmm/area.c vmm/call.c wire/ring.c
VMM_VIRTUALKD := vmm/virtualkd.c vmm/virtualkd_rpc.c wire/kdapi.c
VMM_HOOK := vmm/hook.c vmm/late.c vmm/vm.c vmm/park.c vmm/freeze.c vmm/link.c vmm/folder.c vmm/memory.c vmm/nested.c \
            $(VMM_VIRTUALKD)

$(call host_library,libvmkd-vmm.so,$(VMM_HOOK) $(VMM_CORE),-ldl,vmm/libvmkd-vmm.map)

# The hook's tests run a guest under the real /dev/kvm. A sanitizer's runtime and a preloaded library do not go together.
ifeq ($(SAN),)
$(call unit_test,vmm-hook,vmm/hook_test.c vmm/tiny_vm.c vmm/test_broker.c vmm/fake_guest.c wire/ring.c,-lcmocka)
$(call unit_test,vmm-virtualkd-hook,vmm/virtualkd_hook_test.c vmm/tiny_vm.c vmm/test_broker.c vmm/fake_guest.c wire/ring.c,-lcmocka)
$(call unit_test,vmm-late,vmm/late_test.c vmm/tiny_vm.c vmm/fake_guest.c wire/ring.c,-lcmocka -ldl)
$(O)/tests/vmm-hook $(O)/tests/vmm-virtualkd-hook $(O)/tests/vmm-late: | $(O)/libvmkd-vmm.so
endif

$(call unit_test,vmm-memory,vmm/memory_test.c vmm/memory.c,-lcmocka)
$(call unit_test,vmm-folder,vmm/folder_test.c vmm/folder.c,-lcmocka)
$(call unit_test,vmm-nested,vmm/nested_test.c vmm/nested.c,-lcmocka)
$(call unit_test,vmm-area,vmm/area_test.c vmm/fake_guest.c $(VMM_CORE),-lcmocka)
$(call unit_test,vmm-call,vmm/call_test.c vmm/fake_guest.c $(VMM_CORE),-lcmocka)
$(call unit_test,vmm-virtualkd-rpc,vmm/virtualkd_rpc_test.c $(VMM_VIRTUALKD) $(VMM_CORE),-lcmocka)
$(call unit_test,vmm-virtualkd,vmm/virtualkd_test.c vmm/fake_guest.c $(VMM_VIRTUALKD) $(VMM_CORE),-lcmocka)
$(call fuzz_target,vmm-call,vmm/call_fuzz.c vmm/fake_guest.c $(VMM_CORE),)
$(call fuzz_target,vmm-virtualkd,vmm/virtualkd_fuzz.c $(VMM_VIRTUALKD) $(VMM_CORE),)
$(call fuzz_target,vmm-memory,vmm/memory_fuzz.c vmm/memory.c,)
