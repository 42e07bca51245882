# SPDX-License-Identifier: MIT
# util/ depends on nothing of ours; every host program links UTIL_SOURCES.
UTIL_SOURCES := util/error.c util/buf.c util/loop.c util/polling.c util/rundir.c util/sock.c

$(call unit_test,util_test,util/util_test.c $(UTIL_SOURCES),-lcmocka)
$(call unit_test,ask_test,util/ask_test.c util/ask.c $(UTIL_SOURCES),-lcmocka -lcjson)
$(call unit_test,rundir_test,util/rundir_test.c $(UTIL_SOURCES),-lcmocka)
$(call unit_test,endpoint_test,util/endpoint_test.c util/endpoint.c util/error.c util/rundir.c util/sock.c,-lcmocka)
$(call unit_test,installed_test,util/installed_test.c util/installed.c util/error.c,-lcmocka)
