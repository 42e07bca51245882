// SPDX-License-Identifier: MIT
#include "serve/session_rights.h"

#include "wire/kdapi.h"

enum session_right session_right_for(uint32_t api)
{
	switch (api) {
	case KD_API_READ_VIRTUAL:
	case KD_API_READ_PHYSICAL:
	case KD_API_SEARCH_MEMORY:
	case KD_API_QUERY_MEMORY:
	case KD_API_GET_CONTEXT:
	case KD_API_GET_CONTEXT_EX:
	case KD_API_READ_CONTROL_SPACE:
	case KD_API_READ_MSR:    // one that faults is caught
	case KD_API_GET_BUS_DATA: // PCI configuration
	case KD_API_GET_VERSION:
	case KD_API_QUERY_SPECIAL_CALLS:
	case KD_API_GET_INTERNAL_BREAKPOINT: return RIGHT_READ;

	case KD_API_RESTORE_BREAKPOINT: return RIGHT_RESTORE;

	case KD_API_CONTINUE:
	case KD_API_CONTINUE2: return RIGHT_CONTINUE;

	case KD_API_SWITCH_PROCESSOR: return RIGHT_SWITCH;

	case KD_API_REBOOT:
	case KD_API_CAUSE_BUGCHECK: return RIGHT_REPORT;

	case KD_API_SET_CONTEXT:
	case KD_API_SET_CONTEXT_EX:
	case KD_API_WRITE_CONTROL_SPACE: return RIGHT_STOP;

	// Memory, MSRs and PCI configuration written; breakpoints; special calls; ports, of which a read alone may have an effect; PageIn, CheckLowMemory,
	// SwitchPartition, which make the kernel do something.
	default: return RIGHT_CONTROL;
	}
}
