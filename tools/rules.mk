# SPDX-License-Identifier: MIT
$(call host_program,tools/kvm-probe,tools/kvm-probe.c,)
