// SPDX-License-Identifier: MIT
// The run-time driver's service in a SYSTEM hive, as `sc create` and install.cmd make it: started by hand, with a source for the event log.
#ifndef SETUP_SERVICE_H
#define SETUP_SERVICE_H

#include <hivex.h>

#include "util/error.h"

// Add it to the control set that Windows starts with. -> EEXIST: there is a service of that name; EINVAL: no SYSTEM hive.
ERROR_MUST_CHECK struct error *service_add(hive_h *h);

// Take it out of every control set (Windows copies them). Not there is fine.
ERROR_MUST_CHECK struct error *service_remove(hive_h *h);

#endif
