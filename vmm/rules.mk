# SPDX-License-Identifier: MIT
# vmm -> wire. libvmkd-vmm.so lives inside the VMM process; vmm/area.c and vmm/call.c are also the debugcon backend's.
VMM_CORE := vmm/area.c vmm/call.c wire/ring.c
VMM_HOOK := vmm/hook.c vmm/vm.c vmm/park.c vmm/link.c

$(call host_library,libvmkd-vmm.so,$(VMM_HOOK) $(VMM_CORE),-ldl,vmm/libvmkd-vmm.map)
