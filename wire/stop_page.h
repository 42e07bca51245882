// SPDX-License-Identifier: MIT
// How a program of this host reads the memory of a stopped guest by itself (libvmkd does): the broker listens on RUNTIME/NAME/ram.sock
// (SOCK_SEQPACKET) and sends every program that connects, and again whenever the map changes,
//
//     struct link_head, type LINK_MEMORY; body: struct link_memory (wire/link.h)
//     descriptors: [0] the stop page, read-only and sealed, then link_memory.file_count files of guest RAM, read-only
//
// and the program sends nothing, ever. A broker that does not answer from RAM (--no-ram, --check-ram) closes the connection at once.
//
// The stop page is one page of shared memory that only the broker writes. It is a seqlock whose odd values mean "the guest sleeps in its
// wait": no vCPU executes, so RAM and page tables stand still.
//
//     epoch = load_acquire(page->epoch); odd, or there is nothing to read
//     page->memory_generation is the one that the program has mapped, or fetch the newer message first
//     walk with page->cr0..efer, copy from RAM
//     fence_acquire; page->epoch is still `epoch` and page->owner says that the broker lives, or the copy is worthless
//
// The broker makes the epoch even before it hands anything to the guest, and odd again when the guest has come back to its wait, with that wait's
// registers in place, and only then lets a client have what the guest said; so a client that has received a reply sees the odd epoch of the wait behind it, or
// a later one: libvmkd keeps the epoch it saw then and reads in no other. The generation in page and message is the broker's own
// count: it never repeats while the page lives, whatever connections to VMMs come and go. Broker and program are of one user (or the broker's group), which
// may read the guest anyway; what the page guards against is time, not malice.
#ifndef WIRE_STOP_PAGE_H
#define WIRE_STOP_PAGE_H

#include "wire/compiler.h"

#define STOP_PAGE_MAGIC 0x50504F5453444B56ull // "VKDSTOPP"
#define STOP_PAGE_VERSION 1u
#define STOP_PAGE_SIZE 4096u
// FUTEX_OWNER_DIED of the kernel's robust futexes (linux/futex.h): set by the kernel itself in the word of a thread that ends.
#define STOP_PAGE_OWNER_DIED 0x40000000u

struct stop_page {
	// The broker's thread id in a robust futex word that it holds for life; the kernel sets STOP_PAGE_OWNER_DIED when that thread ends, however it ends,
	// before anything of its process is closed. 0 or DIED: nobody keeps this page true.
	uint32_t owner;
	uint32_t futex_rest[15]; // the remainder of the lock object; not for readers
	uint64_t magic;
	uint32_t version;
	uint32_t memory_generation; // of the LINK_MEMORY message (on ram.sock) that belongs to this epoch; 0 = none yet
	uint64_t epoch;             // odd: the guest sleeps
	// While odd: of the waiting vCPU.
	uint64_t cr0, cr3, cr4, efer;
	uint32_t vcpu;  // the VMM's number; 0xFFFFFFFF = unknown
	uint32_t flags; // 0
};
_Static_assert(offsetof(struct stop_page, magic) == 64, "room for the lock object");
_Static_assert(sizeof(struct stop_page) <= STOP_PAGE_SIZE, "one page");

#endif
