// SPDX-License-Identifier: MIT
#include "testkernel/virtualkd/variant.h"

// kdbazis of VirtualKD 2.8 and 3.0.
const struct variant variant = {
    .version = 0x0101, .probes = true, .tests = 100, .takes_whole_buffers = true, .has_receive_globals = true,
};
