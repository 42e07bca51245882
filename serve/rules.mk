# SPDX-License-Identifier: MIT
# serve -> wire, util, and of vmm/ the I/O-free core (vmm/area, vmm/call) that the debugcon way shares with the hook.
SERVE_WIRE := wire/kdapi.c wire/kdcom.c wire/ring.c

$(call unit_test,session_test,serve/session_test.c serve/session.c util/buf.c wire/kdapi.c,-lcmocka)
