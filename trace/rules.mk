# SPDX-License-Identifier: MIT
# trace/ depends on wire/ alone.
TRACE_SRC := trace/pcapng.c trace/record.c trace/decode.c trace/player.c
TRACE_WIRE := wire/kdapi.c

$(call unit_test,trace_test,trace/trace_test.c trace/pcapng.c trace/record.c trace/decode.c $(TRACE_WIRE),-lcmocka)
$(call unit_test,player_test,trace/player_test.c trace/pcapng.c trace/record.c trace/player.c $(TRACE_WIRE),-lcmocka)

$(call fuzz_target,trace_pcapng,trace/pcapng_fuzz.c trace/pcapng.c)
$(call fuzz_target,trace_decode,trace/decode_fuzz.c trace/record.c trace/decode.c $(TRACE_WIRE))
$(call fuzz_target,trace_player,trace/player_fuzz.c trace/pcapng.c trace/record.c trace/player.c $(TRACE_WIRE))
