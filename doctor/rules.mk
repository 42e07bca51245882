# SPDX-License-Identifier: MIT
# doctor -> util, wire. Part of build/vmkd (cli/rules.mk).
DOCTOR_COLLECTORS := doctor/machine.c doctor/look.c util/error.c util/installed.c util/rundir.c util/sock.c

$(call unit_test,judge_test,doctor/judge_test.c doctor/judge.c,-lcmocka)
$(call unit_test,look_test,doctor/look_test.c $(DOCTOR_COLLECTORS),-lcmocka -lcjson)
$(call fuzz_target,look,doctor/look_fuzz.c doctor/judge.c $(DOCTOR_COLLECTORS),-lcjson)
