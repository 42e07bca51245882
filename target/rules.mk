# SPDX-License-Identifier: MIT
# target/ depends on wire/, memory/, trace/, util/ and include/. TARGET_SRC: for programs that link the objects instead of the library.
TARGET_SRC := target/error.c target/url.c target/stream.c target/stop.c target/kd.c target/kd_request.c target/kd_ops.c target/replay.c \
              target/target.c target/registers.c target/memory.c target/ram.c target/bptable.c target/debugregs.c target/run.c target/modules.c \
              target/monitor.c target/snapshot.c target/control.c $(MEMORY_SRC)
TARGET_TRACE := trace/pcapng.c trace/record.c trace/player.c
TARGET_WIRE := $(TARGET_TRACE) wire/kdcom.c wire/kdapi.c wire/kddata.c wire/kdregs.c
TARGET_UTIL := util/error.c util/ask.c util/buf.c util/endpoint.c util/rundir.c util/sock.c
TARGET_LIBS := -lcjson

$(call host_library,libvmkd.so,$(TARGET_SRC) $(TARGET_WIRE) $(TARGET_UTIL),$(TARGET_LIBS),target/libvmkd.map,libvmkd.so.0)
$(call unit_test,target_test,target/target_test.c target/peer_test.c $(TARGET_SRC) $(TARGET_WIRE) $(TARGET_UTIL),-lcmocka $(TARGET_LIBS))
$(call fuzz_target,target_fuzz,target/target_fuzz.c $(TARGET_SRC) $(TARGET_WIRE) $(TARGET_UTIL),$(TARGET_LIBS))
$(call unit_test,replay_test,target/replay_test.c $(TARGET_SRC) $(TARGET_WIRE) $(TARGET_UTIL),-lcmocka $(TARGET_LIBS))
$(call unit_test,bptable_test,target/bptable_test.c target/bptable.c,-lcmocka)
$(call unit_test,debugregs_test,target/debugregs_test.c target/debugregs.c target/bptable.c,-lcmocka)
$(call unit_test,target_ram_test,target/ram_test.c target/peer_test.c $(TARGET_SRC) $(TARGET_WIRE) $(TARGET_UTIL),-lcmocka $(TARGET_LIBS))
$(call fuzz_target,target_ram_fuzz,target/ram_fuzz.c $(TARGET_SRC) $(TARGET_WIRE) $(TARGET_UTIL),$(TARGET_LIBS))
$(call unit_test,monitor_test,target/monitor_test.c $(TARGET_SRC) $(TARGET_WIRE) $(TARGET_UTIL),-lcmocka $(TARGET_LIBS))
$(call fuzz_target,snapshot_fuzz,target/snapshot_fuzz.c $(TARGET_SRC) $(TARGET_WIRE) $(TARGET_UTIL),$(TARGET_LIBS))
