// SPDX-License-Identifier: MIT
// kvm-probe: may this user use /dev/kvm, and does it run at hardware speed? Some machines offer a software KVM, which has
// the whole API but interprets guest instructions one by one, thousands of times slower.
//
// Starts one vCPU in long mode on a counting loop of known length and times it. Prints one line:
//   hardware NS    one guest instruction takes NS nanoseconds (well below 10)
//   software NS    the same, but each instruction is interpreted
//   missing WHY    no /dev/kvm, no permission, or it cannot run long mode
// Exit status 0, 1 and 2 in that order. Used by ./demo, ./check and ./bench to choose between KVM and TCG.
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

enum {
	MEMORY_SIZE = 0x10000,
	PML4_AT = 0x1000,
	PDPT_AT = 0x2000,
	PD_AT = 0x3000,
	CODE_AT = 0x8000,
	LOOPS = 50000, // 2 instructions each: 0.05 ms in hardware, 50 ms when interpreted at 0.5 us
	// Hardware needs 0.2 to 2 ns an instruction, nested virtualization the same once it runs; interpreters 100 ns and more.
	HARDWARE_NS_MAX = 20,
};

// out %al,$0x10; then count ecx down; then out again: the time between the two exits is the loop's, not the start's.
static const uint8_t CODE[] = {
	0xB9, LOOPS & 0xFF, LOOPS >> 8 & 0xFF, LOOPS >> 16 & 0xFF, 0, // mov ecx, LOOPS
	0xE6, 0x10,                                                  // out 0x10, al
	0xFF, 0xC9,                                                  // dec ecx
	0x75, 0xFC,                                                  // jnz -4
	0xE6, 0x10,                                                  // out 0x10, al
	0xF4,                                                        // hlt
};

_Noreturn static void missing(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void missing(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	printf("missing ");
	vprintf(format, args);
	printf("\n");
	va_end(args);
	exit(2);
}

static double now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

// Guest memory with an identity map of the first 2 MiB and the loop.
static uint8_t *make_memory(void)
{
	uint8_t *memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		missing("no memory for a guest: %s", strerror(errno));
	const uint64_t present_write = 3, large = 0x80;
	*(uint64_t *)(memory + PML4_AT) = PDPT_AT | present_write;
	*(uint64_t *)(memory + PDPT_AT) = PD_AT | present_write;
	*(uint64_t *)(memory + PD_AT) = present_write | large;
	memcpy(memory + CODE_AT, CODE, sizeof CODE);
	return memory;
}

// Puts the vCPU into 64-bit mode at CODE_AT, interrupts off.
static void enter_long_mode(int vcpu)
{
	struct kvm_sregs sregs;
	if (ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0)
		missing("KVM_GET_SREGS: %s", strerror(errno));
	const struct kvm_segment code = { .limit = 0xFFFFFFFF, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1 };
	struct kvm_segment data = code;
	data.selector = 16;
	data.type = 3;
	data.l = 0;
	data.db = 1;
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr3 = PML4_AT;
	sregs.cr4 = 0x20;        // PAE
	sregs.cr0 = 0x80000011;  // PG, ET, PE
	sregs.efer = 0x500;      // LME, LMA
	const struct kvm_regs regs = { .rip = CODE_AT, .rflags = 2 };
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu, KVM_SET_REGS, &regs) < 0)
		missing("long mode refused: %s", strerror(errno));
}

// Runs until the guest's next `out`.
static void run_to_out(int vcpu, const struct kvm_run *run)
{
	do {
		if (ioctl(vcpu, KVM_RUN, 0) < 0 && errno != EINTR)
			missing("KVM_RUN: %s", strerror(errno));
	} while (run->exit_reason == KVM_EXIT_INTR);
	if (run->exit_reason != KVM_EXIT_IO)
		missing("the probe's guest stopped with exit reason %u", run->exit_reason);
}

int main(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		missing("/dev/kvm: %s", errno == EACCES ? "no permission (is this user in group kvm?)" : strerror(errno));
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		missing("KVM_CREATE_VM: %s", strerror(errno));
	const struct kvm_userspace_memory_region region = {
		.memory_size = MEMORY_SIZE,
		.userspace_addr = (uintptr_t)make_memory(),
	};
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		missing("KVM_SET_USER_MEMORY_REGION: %s", strerror(errno));
	int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		missing("KVM_CREATE_VCPU: %s", strerror(errno));
	int run_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	const struct kvm_run *run = run_size > 0 ? mmap(NULL, (size_t)run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0) : MAP_FAILED;
	if (run == MAP_FAILED)
		missing("kvm_run cannot be mapped: %s", strerror(errno));
	enter_long_mode(vcpu);
	run_to_out(vcpu, run);
	double start = now_ns();
	run_to_out(vcpu, run);
	double per_instruction = (now_ns() - start) / (2.0 * LOOPS);
	int is_hardware = per_instruction <= HARDWARE_NS_MAX;
	printf("%s %.2f\n", is_hardware ? "hardware" : "software", per_instruction);
	return is_hardware ? 0 : 1;
}
