// SPDX-License-Identifier: MIT
// One packet of a trace as names and values, and as a line of text. The names are those of the Wireshark dissector (trace/wireshark/vmkd.lua), so that
// the two can be held against each other and a filter can be read off either.
//
// Every field that wire/kdapi.h knows is shown. What cannot be decoded is shown as bytes, with "kd.malformed" and the reason; it is never left out.
//
// Rules: no I/O, no allocation; packets are hostile. A decoder belongs to one thread.
#ifndef TRACE_DECODE_H
#define TRACE_DECODE_H

#include "trace/record.h"

enum trace_field_kind {
	TRACE_FIELD_NUMBER,  // value
	TRACE_FIELD_HEX,     // value, which people read in hexadecimal; `digits` of them
	TRACE_FIELD_TEXT,    // bytes, len: of the target, nothing escaped
	TRACE_FIELD_UTF16,   // bytes, len: UTF-16LE, of the target
	TRACE_FIELD_WORD,    // name: a constant of ours
	TRACE_FIELD_BYTES,   // bytes, len
};

struct trace_field {
	const char *name; // "kd.address"
	enum trace_field_kind kind;
	uint8_t digits;   // HEX: 2, 4, 8, 16
	uint64_t value;
	const char *word; // WORD; NUMBER and HEX: the value's name, NULL = none
	const uint8_t *bytes;
	size_t len;
};

struct trace_decoder {
	uint32_t machine; // KD_MACHINE_* as the packets so far tell; it decides how control reports and Continue2 read
};

void trace_decoder_init(struct trace_decoder *decoder);

// Calls `field` for each field in its order. Packets of one trace are to be given in order.
void trace_decode(struct trace_decoder *decoder, const uint8_t *bytes, size_t len, enum trace_direction direction,
		  void (*field)(void *arg, const struct trace_field *field), void *arg);

// The value of a field as people read it, cut to `size` with its NUL: numbers, "0123abcd", escaped text in double quotes, words, the first
// TRACE_BYTES_SHOWN bytes.
#define TRACE_BYTES_SHOWN 32u
void trace_field_text(const struct trace_field *field, char *to, size_t size);

// Bytes as text of printable ASCII: backslash, and what is not printable, as \\ \n \r \t \xNN. UTF-16LE: what is not ASCII as \uNNNN. Whole characters only,
// cut to `size` with the NUL. -> the length without it.
size_t trace_escape(const uint8_t *bytes, size_t len, char *to, size_t size);
size_t trace_escape_utf16(const uint8_t *bytes, size_t len, char *to, size_t size);

// What a packet is, in a word or two: "print", "READ_VIRTUAL", "exception", "ACK".
const char *trace_title(const uint8_t *bytes, size_t len);

#endif
