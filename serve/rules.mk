# SPDX-License-Identifier: MIT
# serve -> wire, util, and of vmm/ the I/O-free core (vmm/area, vmm/call) that the debugcon way shares with the hook.
SERVE_WIRE := wire/kdapi.c wire/kdcom.c wire/ring.c

$(call unit_test,session_test,serve/session_test.c serve/session.c util/buf.c wire/kdapi.c,-lcmocka)
$(call unit_test,doorbell_test,serve/doorbell_test.c serve/doorbell.c,-lcmocka)
$(call unit_test,memory_map_test,serve/memory_map_test.c serve/memory_map.c,-lcmocka)
