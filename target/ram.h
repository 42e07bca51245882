// SPDX-License-Identifier: MIT
// The memory of a stopped guest without its help: the broker's stop page says when RAM stands still, its ram.sock where RAM is
// (wire/stop_page.h). What cannot be had here goes as packets to the kernel, which stays the authority; so nothing in here is an error.
//
// When it may be read: the epoch is odd, it is the one that was there when the target had nothing more to say, and it is still the same
// after the copy. A target that was reset and stopped again is in another epoch, so it is met by packets first, which tell of
// the restart. Reading costs no system call but one look at the connection after each turn of the conversation.
//
// Rules: as target.h. What the broker sends is bounded and refused as a whole; then packets do. Nothing blocks. NULL stands for a target without.
#ifndef TARGET_RAM_H
#define TARGET_RAM_H

#include "vmkd/vmkd.h"

struct target_ram;

// Connects to the broker's socket at `path`. -> NULL: nobody is there, or memory is out. target: for the log and the conversation; stays valid.
struct target_ram *target_ram_connect(const char *path, const struct vmkd_target *target);
// The same on a connected socket, which it closes in the end. -> NULL: out of memory, and the socket is closed.
struct target_ram *target_ram_create(int fd, const struct vmkd_target *target);
void target_ram_destroy(struct target_ram *ram);

// The conversation took a turn: the epoch must be looked at anew.
void target_ram_turned(struct target_ram *ram);

// Copies the beginning of [address, address + len), a range that does not wrap. -> bytes that are valid; what lies behind them in `buffer` is undefined.
// Fewer than len: this is not RAM, RAM may not be read now, or not any more. The target must be stopped.
size_t target_ram_read(struct target_ram *ram, enum vmkd_space space, uint64_t address, void *buffer, size_t len);

// How a read would be done now.
enum vmkd_memory_way target_ram_way(struct target_ram *ram);

#endif
