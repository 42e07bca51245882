// SPDX-License-Identifier: MIT
// pcapng files, as far as traces need them: blocks written into the caller's buffer, blocks read from the caller's bytes. No I/O, no
// allocation. Source: the pcapng specification (draft-ietf-opsawg-pcapng), block and option numbers by its names.
//
// Writing: a section, then for each endpoint an interface, packets, at the end statistics; little-endian. Numbers of interfaces count from 0 in the
// order in which they were put. Reading: any section of either byte order; blocks that are not known here are skipped.
//
// Rules: one thread for each reader. Input is hostile: every length is bounded before it is used, and what cannot be ends the reading
// (PCAPNG_BAD), since nothing behind it can be found again.
#ifndef TRACE_PCAPNG_H
#define TRACE_PCAPNG_H

#include "wire/compiler.h"

#define PCAPNG_LINKTYPE_USER0 147u // "for private use": what vmkd's traces are of
#define PCAPNG_INTERFACES_MAX 1024u
#define PCAPNG_NAME_MAX 96u        // bytes with the NUL; longer ones are cut
#define PCAPNG_BLOCK_MAX (256u * 1024u)
#define PCAPNG_COMMENT_MAX 1024u   // written; longer ones are cut

// epb_flags: bits 0 and 1 the direction, bits 24 and up what the receiver found wrong.
#define PCAPNG_DIRECTION_MASK 3u
#define PCAPNG_INBOUND 1u
#define PCAPNG_OUTBOUND 2u
#define PCAPNG_ERROR_CRC (1u << 24)
#define PCAPNG_ERROR_TOO_LONG (1u << 25)
#define PCAPNG_ERROR_TOO_SHORT (1u << 26)
#define PCAPNG_ERROR_SYMBOL (1u << 31)

struct pcapng_packet {
	uint32_t interface;
	uint64_t time_ns;      // since 1970, UTC
	uint32_t flags;        // PCAPNG_*; 0 = nothing known
	uint64_t drop_count;   // packets of this interface that were lost since the last one that is here
	const uint8_t *data;
	uint32_t len;          // bytes of data
	uint32_t original_len; // reading: what was on the wire, at least len when the file is honest
	const char *comment;   // without NUL; NULL with comment_len 0 = none
	uint32_t comment_len;
};

struct pcapng_interface {
	uint16_t linktype;
	bool has_statistics;
	uint8_t resolution; // if_tsresol as it stands: 10^-n, with bit 7 2^-n
	int64_t offset_s;   // if_tsoffset
	uint64_t received, dropped; // isb_ifrecv, isb_ifdrop of the last statistics
	char name[PCAPNG_NAME_MAX];        // printable ASCII; "" = none
	char description[PCAPNG_NAME_MAX];
};

// ---- Writing -----------------------------------------------------------------------------------------------
// Each writes one whole block to `to` and returns its length; 0 = `size` bytes are not enough, then nothing of use was written.

// application: who wrote it (shb_userappl).
size_t pcapng_put_section(uint8_t *to, size_t size, const char *application);
// An interface of USER0 packets with times in nanoseconds.
size_t pcapng_put_interface(uint8_t *to, size_t size, const char *name, const char *description);
// packet->original_len is not read.
size_t pcapng_put_packet(uint8_t *to, size_t size, const struct pcapng_packet *packet);
// received: packets that the interface had, dropped: of which are not in the file.
size_t pcapng_put_statistics(uint8_t *to, size_t size, uint32_t interface, uint64_t time_ns, uint64_t received, uint64_t dropped);

// ---- Reading -----------------------------------------------------------------------------------------------
enum pcapng_outcome {
	PCAPNG_PACKET, // *ret_packet is one; data and comment point into the bytes
	PCAPNG_OTHER,  // another block was taken
	PCAPNG_MORE,   // the block is not whole yet: call again with more bytes behind these
	PCAPNG_BAD,    // this is no pcapng, or not any more: reader->problem says why
};

struct pcapng_reader {
	bool has_section;
	bool is_swapped; // the section's byte order is not little-endian
	const char *problem; // BAD: one line, constant
	uint64_t offset; // of the next block
	uint32_t interface_count;
	struct pcapng_interface interfaces[PCAPNG_INTERFACES_MAX];
};

void pcapng_reader_init(struct pcapng_reader *reader);
// Take one block from the start of `bytes`; *ret_used of them were taken (0 for MORE and BAD).
WIRE_MUST_CHECK enum pcapng_outcome pcapng_read(struct pcapng_reader *reader, const uint8_t *bytes, size_t len, size_t *ret_used,
						struct pcapng_packet *ret_packet);

#endif
