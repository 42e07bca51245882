# SPDX-License-Identifier: MIT
# serve -> wire, util, and of vmm/ the I/O-free core (vmm/area, vmm/call) that the debugcon way shares with the hook.

SESSION_SRC := serve/session.c serve/session_client.c serve/session_control.c serve/session_rights.c serve/breakpoints.c util/buf.c wire/kdapi.c

$(call unit_test,session_test,serve/session_test.c serve/session_bench.c $(SESSION_SRC),-lcmocka)
$(call unit_test,session_clients_test,serve/session_clients_test.c serve/session_bench.c $(SESSION_SRC),-lcmocka)
$(call unit_test,session_guest_test,serve/session_guest_test.c serve/session_bench.c $(SESSION_SRC),-lcmocka)
$(call unit_test,breakpoints_test,serve/breakpoints_test.c serve/breakpoints.c,-lcmocka)
# The ends of KDCOM as they are, in virtual time: fake_loop.c stands for util/loop.c.
FAULTS_SRC := serve/connections.c serve/client.c serve/stats.c serve/tap.c serve/fake_loop.c $(SESSION_SRC) serve/answers.c memory/ram.c memory/walk.c \
              util/error.c util/rundir.c util/sock.c trace/pcapng.c trace/record.c \
              wire/ring.c wire/kdcom.c wire/kdregs.c wire/kddata.c $(addprefix wire/,selftest.c selftest_vectors.c selftest_talks.c selftest_framing.c \
              selftest_kdapi.c selftest_ring.c fake_wire.c fake_ends.c fake_ours.c fake_stock.c)
$(call unit_test,faults_test,serve/faults_test.c $(FAULTS_SRC),-lcmocka -lcjson)
$(call unit_test,client_test,serve/client_test.c serve/client.c util/error.c util/loop.c util/polling.c util/rundir.c util/sock.c wire/kdapi.c wire/kdcom.c,-lcmocka)
$(call unit_test,answers_test,serve/answers_test.c serve/answers.c memory/ram.c memory/walk.c,-lcmocka)
$(call unit_test,doorbell_test,serve/doorbell_test.c serve/doorbell.c,-lcmocka)
$(call unit_test,ctl_test,serve/ctl_test.c serve/ctl.c util/error.c util/buf.c util/loop.c util/polling.c util/rundir.c util/sock.c,-lcmocka -lcjson)
$(call unit_test,link_hook_test,serve/link_hook_test.c vmm/fake_guest.c serve/link_hook.c serve/last_words.c serve/ram_files.c memory/ram.c vmm/area.c wire/ring.c util/error.c util/loop.c util/polling.c util/rundir.c util/sock.c,-lcmocka)
$(call unit_test,link_serial_test,serve/link_serial_test.c serve/link_serial.c serve/serial_talk.c wire/kdapi.c wire/kdcom.c util/endpoint.c util/error.c util/loop.c util/polling.c util/rundir.c util/sock.c,-lcmocka)
$(call unit_test,serial_talk_test,serve/serial_talk_test.c serve/serial_talk.c wire/kdapi.c wire/kdcom.c,-lcmocka)
$(call unit_test,ram_sock_test,serve/ram_sock_test.c serve/ram_sock.c serve/ram_files.c util/error.c util/loop.c util/polling.c util/rundir.c util/sock.c,-lcmocka)
$(call unit_test,last_words_test,serve/last_words_test.c serve/last_words.c serve/ram_files.c memory/ram.c vmm/area.c vmm/fake_guest.c wire/ring.c,-lcmocka)
$(call unit_test,past_test,serve/past_test.c serve/past.c serve/print_buffer.c wire/kddata.c $(SESSION_SRC),-lcmocka)
$(call unit_test,print_buffer_test,serve/print_buffer_test.c serve/print_buffer.c wire/kdapi.c wire/kddata.c,-lcmocka)
$(call unit_test,tap_test,serve/tap_test.c serve/tap.c trace/pcapng.c trace/record.c util/buf.c util/error.c util/loop.c util/polling.c util/rundir.c,-lcmocka)
$(call unit_test,pause_test,serve/pause_test.c serve/pause.c util/error.c util/loop.c util/polling.c util/rundir.c,-lcmocka -lcjson)
$(call unit_test,guest_ram_test,serve/guest_ram_test.c serve/guest_ram.c serve/memory_map.c util/mtree.c util/error.c,-lcmocka)
$(call unit_test,status_test,serve/status_test.c serve/status.c,-lcmocka -lcjson)
$(call unit_test,memory_map_test,serve/memory_map_test.c serve/memory_map.c util/mtree.c,-lcmocka)

$(call fuzz_target,session_fuzz,serve/session_fuzz.c $(SESSION_SRC) wire/kdcom.c)
$(call fuzz_target,breakpoints_fuzz,serve/breakpoints_fuzz.c serve/breakpoints.c)
$(call fuzz_target,answers_fuzz,serve/answers_fuzz.c serve/answers.c memory/ram.c memory/walk.c)
$(call fuzz_target,memory_map_fuzz,serve/memory_map_fuzz.c serve/memory_map.c util/mtree.c)
$(call fuzz_target,doorbell_fuzz,serve/doorbell_fuzz.c serve/doorbell.c)
$(call fuzz_target,ctl_fuzz,serve/ctl_fuzz.c serve/ctl.c util/error.c util/buf.c util/loop.c util/polling.c util/rundir.c util/sock.c,-lcjson)
$(call fuzz_target,link_hook_fuzz,serve/link_hook_fuzz.c serve/link_hook.c serve/last_words.c serve/ram_files.c memory/ram.c vmm/area.c wire/ring.c util/error.c util/loop.c util/polling.c util/rundir.c util/sock.c)
$(call fuzz_target,print_buffer_fuzz,serve/print_buffer_fuzz.c serve/print_buffer.c wire/kdapi.c wire/kddata.c)
$(call fuzz_target,serial_talk_fuzz,serve/serial_talk_fuzz.c serve/serial_talk.c wire/kdapi.c wire/kdcom.c)
$(call fuzz_target,last_words_fuzz,serve/last_words_fuzz.c serve/last_words.c serve/ram_files.c memory/ram.c vmm/area.c vmm/fake_guest.c wire/ring.c)
