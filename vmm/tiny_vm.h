// SPDX-License-Identifier: MIT
// For the hook's test: a VMM and a guest in one page. Two vCPUs in long mode, page tables for 32 MiB, a few instructions that make one
// port call with the registers of a block, and the fake module's area in its memory. Failures are cmocka's.
#ifndef VMM_TINY_VM_H
#define VMM_TINY_VM_H

#include <linux/kvm.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>

#include "vmm/fake_guest.h"

#define RAM_SIZE (4u << 20)
#define RAM_FILE_OFFSET 0x3000u // RAM is a memfd, from there on; the rest is anonymous
#define EXTRA_GPA (16u << 20) // a second slot, for areas whose memory goes away
#define EXTRA_SIZE (1u << 20)
#define TABLES 0x2000u // page tables: PML4, PDPT, PD
#define CODE 0x8000u
#define OUT_CODE 0x8080u // the same, with out dx,eax instead
#define BLOCK 0x9000u  // struct block
#define SPIN 0x8100u     // code that counts for ever
#define CRASH 0x8200u    // code that ends in a triple fault: there is no IDT
#define COUNTER 0x9100u  // what it counts
#define AREA_FIRST 16u // page of the first area
#define EXIT_PORT 0x10u

// The registers of one port call, which the guest's code loads, and its result.
struct block {
	uint32_t eax, ebx, ecx, edx, esi, edi, result;
};

enum run_end { RUN_DONE, RUN_KICKED, RUN_LEFT_TO_VMM, RUN_SHUTDOWN, RUN_FAILED };

struct cpu {
	int fd;
	struct kvm_run *run;
	struct block *block;
	pthread_t thread;
	sem_t start, ended;
	enum run_end end;
	bool is_over;
	bool is_running_on; // after a kick, as a VMM does that wanted nothing
};

struct machine {
	int vm_fd, run_size;
	uint8_t *ram, *extra;
	struct cpu cpu[2];
	struct fake_guest guest;
};

extern struct machine m;

// Start this program again with the library in front (test/../libvmkd-vmm.so), in a runtime folder of its own which must be empty afterwards. -> its exit status.
int run_preloaded(char **argv, const char *vm_name);

// Create the VM with both slots and both vCPUs. The kick signal is SIGUSR1.
void machine_create(int kvm_fd);
// End both vCPU threads, which must not be in the guest.
void machine_end(void);
// As KVM_SET_USER_MEMORY_REGION. -> 0, or -1 and errno.
int set_slot(uint32_t slot, uint64_t gpa, uint64_t size, void *host);

// Put the vCPU at the beginning of the call's code, in ring `cpl`.
void set_cpl(struct cpu *c, uint8_t cpl);
// The same with OUT_CODE, in ring 0.
void set_out(struct cpu *c);
// Let the vCPU run until something that its VMM must see; cpu_end waits for that and says what it was.
void cpu_start(struct cpu *c);
enum run_end cpu_end(struct cpu *c);
enum run_end cpu_run(struct cpu *c);
// -> true: the vCPU has not come back within `ms`, which is no proof but what a test can know.
bool cpu_is_away(struct cpu *c, int ms);
// As QEMU does it: a signal whose handler sets immediate_exit.
void kick(struct cpu *c);

// The registers of the next call; its EAX afterwards.
void load_block(uint32_t fn, uint32_t ebx, uint32_t esi, uint32_t edi);
void load_register(void);
void load_call(uint32_t fn, uint32_t flags, uint32_t want);
uint32_t result(void);
// Run vCPU 0 through one call, whose answer must be enum call_code `code`.
void assert_code(uint32_t code);

// A new area from page `first` of that memory on, with a new nonce; register_area registers one.
void layout_area(uint8_t *ram, uint64_t gpa, uint32_t first);
void register_area(void);

#endif
