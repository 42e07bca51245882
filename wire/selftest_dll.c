// SPDX-License-Identifier: MIT
// The self tests as a DLL for the test kernel: no imports, no entry point, one export.
#include "wire/selftest.h"

__declspec(dllexport) int SelfTest(selftest_log *log);

int SelfTest(selftest_log *log)
{
	return wire_selftest(log);
}
