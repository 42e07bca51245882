# SPDX-License-Identifier: MIT
# trace/ depends on wire/ alone.
TRACE_SRC := trace/pcapng.c trace/record.c trace/decode.c trace/player.c
TRACE_WIRE := wire/kdapi.c
