// SPDX-License-Identifier: MIT
#include "testkernel/virtualkd/variant.h"

// kdbazis of VirtualKD-Redux 2024.3.
const struct variant variant = {
    .version = 0x07E80003, .accepts_newer = true, .succeeds_anyway = true, .probes = true, .tests = 100,
    .takes_whole_buffers = true, .has_receive_globals = true,
};
