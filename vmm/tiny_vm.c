// SPDX-License-Identifier: MIT
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka wants the four above first
#include <cmocka.h>

#include "vmm/tiny_vm.h"

#include <errno.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct machine m;

// loop: load the registers from the block, in eax,dx, store eax, out 0x10,al (which returns to the VMM), again.
static const uint8_t guest_code[] = {
	0xBD, 0x00, 0x90, 0x00, 0x00, // mov ebp, BLOCK
	0x8B, 0x45, 0x00,             // mov eax, [rbp]
	0x8B, 0x5D, 0x04,             // mov ebx, [rbp+4]
	0x8B, 0x4D, 0x08,             // mov ecx, [rbp+8]
	0x8B, 0x55, 0x0C,             // mov edx, [rbp+12]
	0x8B, 0x75, 0x10,             // mov esi, [rbp+16]
	0x8B, 0x7D, 0x14,             // mov edi, [rbp+20]
	0xED,                         // in eax, dx
	0x89, 0x45, 0x18,             // mov [rbp+24], eax
	0xE6, EXIT_PORT,              // out 0x10, al
	0xEB, 0xE1,                   // jmp loop
};

#define IN_AT 23u // of the code above
#define OUT_DX_EAX 0xEF

static const uint8_t spin_code[] = {
	0xFF, 0x04, 0x25, 0x00, 0x91, 0x00, 0x00, // inc dword [COUNTER]
	0xEB, 0xF7,                               // jmp spin
};

// ---- The VMM ------------------------------------------------------------------------------------

static __thread struct kvm_run *kicked_run;

// As QEMU does it: the handler runs in the vCPU's thread and makes the next KVM_RUN return at once.
static void on_kick(int signal_number)
{
	(void)signal_number;
	if (kicked_run)
		__atomic_store_n(&kicked_run->immediate_exit, 1, __ATOMIC_SEQ_CST);
}

void kick(struct cpu *c)
{
	pthread_kill(c->thread, SIGUSR1);
}

static enum run_end run_once(struct cpu *c)
{
	if (ioctl(c->fd, KVM_RUN, 0)) {
		if (errno != EINTR)
			return RUN_FAILED;
		__atomic_store_n(&c->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		return RUN_KICKED;
	}
	if (c->run->exit_reason == KVM_EXIT_SHUTDOWN)
		return RUN_SHUTDOWN;
	if (c->run->exit_reason != KVM_EXIT_IO)
		return RUN_FAILED;
	if (c->run->io.port == EXIT_PORT)
		return RUN_DONE;
	// What QEMU's bus says where nothing answers.
	memset((uint8_t *)c->run + c->run->io.data_offset, 0xFF, c->run->io.size);
	return RUN_LEFT_TO_VMM;
}

static void *cpu_main(void *arg)
{
	struct cpu *c = arg;
	kicked_run = c->run;
	for (;;) {
		sem_wait(&c->start);
		if (c->is_over)
			return NULL;
		do
			c->end = run_once(c);
		while (c->end == RUN_KICKED && __atomic_load_n(&c->is_running_on, __ATOMIC_ACQUIRE));
		sem_post(&c->ended);
	}
}

void cpu_start(struct cpu *c)
{
	sem_post(&c->start);
}

enum run_end cpu_end(struct cpu *c)
{
	while (sem_wait(&c->ended))
		;
	return c->end;
}

enum run_end cpu_run(struct cpu *c)
{
	cpu_start(c);
	return cpu_end(c);
}

bool cpu_is_away(struct cpu *c, int ms)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_nsec += (long)ms * 1000000;
	t.tv_sec += t.tv_nsec / 1000000000;
	t.tv_nsec %= 1000000000;
	if (sem_timedwait(&c->ended, &t))
		return true;
	sem_post(&c->ended);
	return false;
}

int set_slot(uint32_t slot, uint64_t gpa, uint64_t size, void *host)
{
	struct kvm_userspace_memory_region r = {
		.slot = slot, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uintptr_t)host,
	};
	return ioctl(m.vm_fd, KVM_SET_USER_MEMORY_REGION, &r);
}

static void write64(uint64_t gpa, uint64_t value)
{
	memcpy(m.ram + gpa, &value, sizeof(value));
}

// The first 32 MiB, one to one, in pages of 2 MiB that user mode may use.
static void write_tables(void)
{
	write64(TABLES, (TABLES + 0x1000) | 7);
	write64(TABLES + 0x1000, (TABLES + 0x2000) | 7);
	for (uint64_t i = 0; i < 16; i++)
		write64(TABLES + 0x2000 + 8 * i, i << 21 | 0x87);
}

static struct kvm_segment flat_segment(uint16_t selector, uint8_t type, uint8_t dpl)
{
	return (struct kvm_segment){
		.limit = 0xFFFFFFFF, .selector = (uint16_t)(selector | dpl), .type = type, .present = 1, .dpl = dpl,
		.s = 1, .g = 1, .l = type & 8 ? 1 : 0, .db = type & 8 ? 0 : 1,
	};
}

void set_cpl(struct cpu *c, uint8_t cpl)
{
	struct kvm_sregs s;
	assert_int_equal(ioctl(c->fd, KVM_GET_SREGS, &s), 0);
	s.cr3 = TABLES;
	s.cr4 = 1 << 5;                      // PAE
	s.cr0 = 0x80000033;                  // PG, NE, ET, MP, PE
	s.efer = 0x500;                      // LMA, LME
	s.cs = flat_segment(8, 11, cpl);
	s.ss = s.ds = s.es = flat_segment(16, 3, cpl);
	assert_int_equal(ioctl(c->fd, KVM_SET_SREGS, &s), 0);
	struct kvm_regs r = { .rip = CODE, .rflags = 0x3002 }; // IOPL 3: the port is open to user mode
	assert_int_equal(ioctl(c->fd, KVM_SET_REGS, &r), 0);
}

void set_out(struct cpu *c)
{
	struct kvm_regs r = { .rip = OUT_CODE, .rflags = 0x3002 };
	assert_int_equal(ioctl(c->fd, KVM_SET_REGS, &r), 0);
}

static void cpu_create(struct cpu *c, uint32_t index)
{
	c->fd = ioctl(m.vm_fd, KVM_CREATE_VCPU, (unsigned long)index);
	assert_true(c->fd >= 0);
	c->run = mmap(NULL, (size_t)m.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
	assert_true(c->run != MAP_FAILED);
	c->block = (struct block *)(m.ram + BLOCK);
	sem_init(&c->start, 0, 0);
	sem_init(&c->ended, 0, 0);
	set_cpl(c, 0);
	assert_int_equal(pthread_create(&c->thread, NULL, cpu_main, c), 0);
}

void machine_create(int kvm_fd)
{
	struct sigaction action = { .sa_handler = on_kick };
	sigaction(SIGUSR1, &action, NULL);
	m.vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	assert_true(m.vm_fd >= 0);
	m.run_size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	int ram_fd = memfd_create("ram", MFD_CLOEXEC);
	assert_int_equal(ftruncate(ram_fd, RAM_FILE_OFFSET + RAM_SIZE), 0);
	m.ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, ram_fd, RAM_FILE_OFFSET);
	m.extra = mmap(NULL, EXTRA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(m.ram != MAP_FAILED && m.extra != MAP_FAILED);
	assert_int_equal(set_slot(0, 0, RAM_SIZE, m.ram), 0);
	assert_int_equal(set_slot(1, EXTRA_GPA, EXTRA_SIZE, m.extra), 0);
	write_tables();
	memcpy(m.ram + CODE, guest_code, sizeof(guest_code));
	memcpy(m.ram + OUT_CODE, guest_code, sizeof(guest_code));
	m.ram[OUT_CODE + IN_AT] = OUT_DX_EAX;
	memcpy(m.ram + CRASH, "\x0F\x0B", 2); // ud2
	memcpy(m.ram + SPIN, spin_code, sizeof(spin_code));
	cpu_create(&m.cpu[0], 0);
	cpu_create(&m.cpu[1], 1);
}

void machine_end(void)
{
	for (int i = 0; i < 2; i++) {
		m.cpu[i].is_over = true;
		cpu_start(&m.cpu[i]);
		pthread_join(m.cpu[i].thread, NULL);
	}
}

// ---- The guest ----------------------------------------------------------------------------------

void load_block(uint32_t fn, uint32_t ebx, uint32_t esi, uint32_t edi)
{
	*m.cpu[0].block = (struct block){
		.eax = PORTCALL_MAGIC, .ebx = ebx, .ecx = fn << 16 | PORTCALL_COMMAND, .edx = PORTCALL_PORT,
		.esi = esi, .edi = edi, .result = 0xDEADBEEF,
	};
}

void load_register(void)
{
	(void)fake_guest_call(&m.guest, CALL_REGISTER, 0, 0);
	uint64_t gpa = fake_guest_head(&m.guest).v;
	load_block(CALL_REGISTER, (uint32_t)gpa, (uint32_t)(gpa >> 32), AREA_VERSION);
}

void load_call(uint32_t fn, uint32_t flags, uint32_t want)
{
	load_block(fn, fake_guest_call(&m.guest, fn, flags, want), 0, 0);
}

uint32_t result(void)
{
	return m.cpu[0].block->result;
}

void assert_code(uint32_t code)
{
	assert_int_equal(cpu_run(&m.cpu[0]), RUN_DONE);
	assert_int_equal(result(), RESULT_TAG | code);
}

void layout_area(uint8_t *ram, uint64_t gpa, uint32_t first)
{
	static uint64_t nonce = 0x1234567800000000;
	fake_guest_init(&m.guest, ram, gpa, first, 4, 2, ++nonce);
}

void register_area(void)
{
	layout_area(m.ram, 0, AREA_FIRST);
	load_register();
	assert_code(CODE_OK);
}

// ---- The library in front ---------------------------------------------------------------------------

int run_preloaded(char **argv, const char *vm_name)
{
	char runtime[64] = "/tmp/vmkd-hook-XXXXXX";
	char path[4096], library[4200];
	ssize_t len = readlink("/proc/self/exe", path, sizeof(path) - 1);
	if (len < 0 || !mkdtemp(runtime))
		return 1;
	path[len] = 0;
	char copy[4096];
	snprintf(copy, sizeof(copy), "%s", path);
	snprintf(library, sizeof(library), "%s/../libvmkd-vmm.so", dirname(copy));
	setenv("LD_PRELOAD", library, 1);
	setenv("VMKD_RUNTIME_DIR", runtime, 1);
	setenv("VMKD_NAME", vm_name, 1);
	pid_t pid = fork();
	if (pid == 0) {
		execv(path, argv);
		_exit(1);
	}
	int status = 1;
	waitpid(pid, &status, 0);
	char dir[200];
	snprintf(dir, sizeof(dir), "%s/%s", runtime, vm_name);
	if (rmdir(dir) || rmdir(runtime)) { // fails if the library left its socket
		perror(dir);
		return 1;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
