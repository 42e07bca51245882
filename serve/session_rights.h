// SPDX-License-Identifier: MIT
// What a debugger may ask of the kernel, by API number (KD reference, sections 4.2 to 4.4): who observes changes nothing, neither in the machine nor in what
// the controller sees of it.
//
// Rules: pure.
#ifndef SERVE_SESSION_RIGHTS_H
#define SERVE_SESSION_RIGHTS_H

#include <stdint.h>

enum session_right {
	RIGHT_READ,     // everybody, while the guest is stopped
	RIGHT_RESTORE,  // RestoreBreakPoint: the controller; anybody else is told of a success that was none
	RIGHT_CONTINUE, // Continue, Continue2: the controller, of the stop that it was told
	RIGHT_SWITCH,   // SwitchProcessor: the controller, of that stop. Another state change follows; only who may not gets a reply
	RIGHT_REPORT,   // the controller, of that stop. No reply; who may not is given its state change again
	RIGHT_STOP,     // the controller, of that stop: what belongs to the stopped processor
	RIGHT_CONTROL,  // the controller
};

// For every number: what is not known may do anything, and needs control.
enum session_right session_right_for(uint32_t api);

#endif
