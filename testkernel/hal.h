/* SPDX-License-Identifier: MIT */
#ifndef TESTKERNEL_HAL_H
#define TESTKERNEL_HAL_H
/*
 * The machine below the test kernel: what nt/ may ask of it, and what it asks of nt/.
 *
 * The kernel image (a PE, ntoskrnl.exe by default) consists of hal/ (this header's functions) and nt/ (the NT face
 * and the KD engine). boot/ is the stub that QEMU starts by PVH; it plays winload: sets up paging, loads the
 * kernel image and the transport ("KDCOM.dll"), binds their imports to each other and jumps in.
 *
 * Rules
 *   - One header for x64 (HAL_X64) and x86 with PAE (HAL_X86). No floating point, no SSE, no CRT. memcpy, memmove,
 *     memset, memcmp exist because the compiler calls them; strlen, strcmp, strncmp too.
 *   - Functions named hal_* are hal's; functions named nt_* below are called by hal and defined in nt/. nt/exports.def
 *     and nt/exports-x86.def list what the kernel exports.
 *   - Everything runs at CPL 0 unless said otherwise. "Frozen" means: all other CPUs sit in nt_freeze().
 *   - No function of this header takes a lock that a CPU frozen at an arbitrary point could hold, except where
 *     it says "passive": those must not be called from traps, ticks or freezes.
 *   - Return: 0 = ok; positive = the documented outcome; outputs are untouched on failure.
 *
 * Address space
 *                          x64                       x86 PAE
 *   kernel image           0xFFFFF800`02A00000       0x80800000
 *   transport              behind the kernel, next 2 MiB boundary (never adjacent)
 *   run-time images        0xFFFFF880`00000000...    0x8A000000...
 *   pool pages, stacks     0xFFFFFA80`00000000...    0x90000000...
 *   archive (initrd), RO   0xFFFFF8A0`00000000       0xB0000000
 *   nt's own mappings      0xFFFFFB00`00000000...    0xC0000000...
 *   direct map of RAM, RW  0xFFFF8000`00000000 (all) 0xA0000000 (first 256 MiB)
 *   KUSER_SHARED_DATA      0xFFFFF780`00000000       0xFFDF0000   (one zeroed page, mapped before nt_start, RW, NX)
 *   user blob              0x10000 code, 0x20000 stack; else no user address is mapped, page 0 never
 */
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
#define HAL_X64 1
#define HAL_X86 0
#define HAL_STDCALL
#define HAL_CS_KERNEL   0x10
#define HAL_SS_KERNEL   0x18
#define HAL_DIRECT_MAP  0xFFFF800000000000ull
#define HAL_SHARED_DATA 0xFFFFF78000000000ull
#define HAL_NT_MAPPINGS 0xFFFFFB0000000000ull
#else
#define HAL_X64         0
#define HAL_X86         1
#define HAL_STDCALL     __attribute__((stdcall))
#define HAL_CS_KERNEL   0x08
#define HAL_SS_KERNEL   0x10
#define HAL_FS_PCR      0x30 /* FS selector of the KPCR in kernel mode, base differs per CPU */
#define HAL_DIRECT_MAP  0xA0000000u
#define HAL_SHARED_DATA 0xFFDF0000u
#define HAL_NT_MAPPINGS 0xC0000000u
#endif

enum {
    HAL_PAGE_SIZE = 4096,
    HAL_LARGE_PAGE = 2 << 20,
    HAL_MAX_CPUS = 8,
    HAL_MAX_IMAGES = 32,
    HAL_NAME_SIZE = 64,
};

typedef uint64_t hal_pa_t;  /* physical address; 64 bit on both */
typedef uintptr_t hal_va_t; /* virtual address of the current address space */

/* ---------------------------------------------------------------------------------------------- trap frames -- */

/*
 * Everything of the interrupted CPU, complete for every vector, writable: what stands here when the callback
 * returns is what the CPU continues with (ip, sp, flags, all GPRs; x86: the segments too, on x64 ds to gs are only
 * there to be read). On x86 sp is valid for traps from CPL 0 as well, and may be changed there. Debug registers and
 * control registers are not in the frame: use hal_*.
 */
#if HAL_X64
struct hal_frame {
    uint64_t rax, rcx, rdx, rbx, rbp, rsi, rdi;
    uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
    uint64_t ds, es, fs, gs; /* selectors */
    uint64_t vector;         /* 0..255 */
    uint64_t error;          /* 0 where the vector has none */
    uint64_t ip, cs, flags, sp, ss;
};
#else
struct hal_frame {
    uint32_t sp, ss;         /* of the interrupted code, whatever its CPL */
    uint32_t ds, es, fs, gs; /* selectors */
    uint32_t edi, esi, ebp, edx, ecx, ebx, eax;
    uint32_t vector, error;
    uint32_t ip, cs, flags;
    uint32_t hw_sp, hw_ss; /* hal's own: only there after a trap from CPL 3; use sp, ss */
};
#endif

enum {
    HAL_TRAP_DE = 0,
    HAL_TRAP_DB = 1,
    HAL_TRAP_NMI = 2,
    HAL_TRAP_BP = 3, /* ip = behind the CC byte, as the CPU pushes it */
    HAL_TRAP_UD = 6,
    HAL_TRAP_DF = 8,
    HAL_TRAP_GP = 13,
    HAL_TRAP_PF = 14,        /* address in hal_read_cr(2) */
    HAL_TRAP_ASSERT = 0x2C,  /* int 2Ch; DPL 3; ip = behind the instruction */
    HAL_TRAP_SERVICE = 0x2D, /* int 2Dh debug service; DPL 3; ip = behind the instruction */
    HAL_TRAP_USER_END = 0x2E,
    HAL_TRAP_CLOCK = 0xD1,
    HAL_TRAP_FREEZE = 0xE1,
};

/* ------------------------------------------------------------------------------------- what nt/ must provide -- */

struct hal_boot;

/*
 * The KPCR of one CPU: page-aligned memory, zeroed, writable, mapped for ever (static arrays are fine). hal makes it
 * the GS base (x64; KERNEL_GS_BASE too) or the base of selector 0x30 in FS (x86) and writes nothing into it.
 * Called once per CPU, CPU 0 first, before nt_start (so: no allocation in it, use static memory).
 */
void *nt_kpcr(unsigned cpu);

/*
 * CPU 0's main, interrupts off, only this CPU running. hal is ready except for timer and other CPUs.
 * Phase 0 of NT happens here; then nt calls hal_start_cpus(), hal_timer_start(), hal_interrupts_on() and
 * runs the scenario. May return: hal then calls hal_idle_forever().
 */
void nt_start(const struct hal_boot *boot);

/* Each other CPU (index 1..), once, on its own stack, interrupts off; afterwards hal turns them on and idles. */
void nt_cpu_start(unsigned cpu);

/*
 * Every CPU exception (0..31 except the NMI), int 2Ch, int 2Dh; interrupts off, on the interrupted stack (x64: double
 * fault and NMI on their own; x86: a double fault with a bad stack is the end). Return: true = handled, continue with
 * the frame; false = unhandled: hal logs the frame and exits with HAL_VERDICT_CRASH. Not called for faults that hal
 * itself repairs (MSR fix-up, end of a user run).
 */
bool nt_trap(struct hal_frame *frame);

/* The clock, CPU 0 only, interrupts off, APIC already acknowledged. */
void nt_tick(struct hal_frame *frame);

/*
 * Freeze request (hal_send_freeze) on this CPU; interrupts off. Return = continue with the frame. frame->vector tells
 * NMI or HAL_TRAP_FREEZE. An NMI that nobody sent by hal_send_freeze arrives here as well.
 */
void nt_freeze(struct hal_frame *frame);

/*
 * A KVM that is itself software (interprets guest instructions) may not know int3 and int N in long mode: the VM dies
 * of a "KVM internal error". So kernel code that raises these traps itself writes, in assembly at CPL 0,
 *     __asm__(HAL_SOFT_INT_BEFORE("3") "label:\n\t" "int3\n" HAL_SOFT_INT_BEHIND "ret");       vectors "3", "2C", "2D"
 * which on such a machine (hal_lacks_soft_int) skips the instruction and enters the trap as if it had been executed:
 * same frame, ip behind the instruction, all registers kept except arithmetic flags. Everywhere else the instruction
 * runs. The instruction stands there in any case, for debuggers that look at it. Breakpoints that a debugger writes
 * into running code cannot be helped this way: under such a KVM they end the VM. Basic asm only (no operands), once per
 * function.
 */
#if HAL_X64
extern uint8_t hal_lacks_soft_int;
#define HAL_SOFT_INT_BEFORE(vector)                                                                                    \
    "cmpb $0, hal_lacks_soft_int(%rip)\n\t"                                                                            \
    "je 90f\n\t"                                                                                                       \
    "pushq %rax\n\t"                                                                                                   \
    "leaq 91f(%rip), %rax\n\t"                                                                                         \
    "xchgq %rax, (%rsp)\n\t"                                                                                           \
    "jmp hal_asm_raise_" vector "\n"                                                                                   \
    "90:\n\t"
#define HAL_SOFT_INT_BEHIND "91:\n\t"
#else
#define HAL_SOFT_INT_BEFORE(vector) ""
#define HAL_SOFT_INT_BEHIND         ""
#endif

/* ---------------------------------------------------------------------------------------------- boot facts -- */

struct hal_range {
    hal_pa_t start;
    uint64_t len;
    uint32_t type; /* 1 = RAM (e820 numbers) */
    uint32_t reserved;
};

/* One loaded PE image. Entries stay at their address; base == 0 = free slot. */
struct hal_image {
    char name[HAL_NAME_SIZE]; /* as loaded: "ntoskrnl.exe", "KDCOM.dll", ... (the name debuggers see) */
    char file[HAL_NAME_SIZE]; /* member of the archive it came from: "kduart.dll", ... */
    hal_va_t base;            /* page aligned, HAL_PAGE_SIZE * page_count long */
    uint32_t size;            /* SizeOfImage */
    uint32_t page_count;
    hal_va_t entry;      /* 0 = none; never called by hal for DLLs */
    uint32_t timestamp;  /* of the PE header */
    uint32_t checksum;   /* of the PE header */
    hal_pa_t *pages;     /* page_count physical pages, current ones */
    hal_pa_t *old_pages; /* NULL, or page_count pages given up by hal_image_move */
    uint32_t old_fill;   /* pattern of old_pages (as 32-bit words) */
    uint32_t reserved;
};

struct hal_boot {
    const char *command_line; /* the kernel's, NUL-terminated, as given by -append */
    const struct hal_range *ranges;
    unsigned range_count;
    unsigned cpu_count;       /* present, 1..HAL_MAX_CPUS */
    uint64_t ram_size;        /* bytes of type-1 ranges */
    struct hal_image *images; /* [0] kernel, [1] transport */
    const void *loader_block; /* pass this to KdDebuggerInitialize0/1 as PLOADER_PARAMETER_BLOCK (opaque; not NULL) */
};

extern const struct hal_boot *hal_boot; /* valid from nt_kpcr on */

/*
 * Options are words `key` or `key=value` on the command line. Copies the value of the index-th occurrence of key
 * (0 = first; `scenario=` may be repeated) into buf. Return: 0 ok (empty value for a bare word), 1 not there,
 * 2 longer than size (nothing copied).
 */
int hal_option(const char *key, unsigned index, char *buf, size_t size);
/* The number behind key= (decimal or 0x...), or fallback when missing or no number. */
uint64_t hal_option_number(const char *key, uint64_t fallback);

/* ---------------------------------------------------------------------------------------------- log, exit -- */

/*
 * To the debug console, port 0xE9. Formats: %s %c %d %u %x %X %p %llx %llu %lld %zu, width and 0-padding, %%.
 * %p = full-width hex. Any context. Lines of several CPUs may mix.
 */
void hal_log(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Same formats into memory, always terminated when size > 0. Return: length without truncation. */
size_t hal_format(char *buf, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
size_t hal_vformat(char *buf, size_t size, const char *format, va_list args);

enum {
    HAL_VERDICT_PASS = 0,
    HAL_VERDICT_FAIL = 1,
    HAL_VERDICT_USAGE = 2, /* unknown scenario or option */
    HAL_VERDICT_CRASH = 3, /* unhandled trap */
};

/* Ends QEMU by isa-debug-exit with a verdict (0..31), which tools/testkernel returns as its exit status. */
_Noreturn void hal_exit(unsigned verdict);
_Noreturn void hal_reboot(void);       /* port 0xCF9, then the keyboard controller */
_Noreturn void hal_triple_fault(void); /* empty IDT, then an undefined instruction */
_Noreturn void hal_idle_forever(void); /* interrupts on, hlt */

/* ---------------------------------------------------------------------------------------------- CPUs -- */

unsigned hal_cpu_count(void); /* CPUs that run; 1 before hal_start_cpus */
unsigned hal_cpu_index(void); /* this CPU; any context */

/* Descriptor tables hal gave a CPU, for the KPCR fields; valid from nt_kpcr(cpu) on. */
struct hal_cpu_tables {
    hal_va_t gdt, idt, tss;
    uint16_t gdt_limit, idt_limit;
};
void hal_cpu_tables(unsigned cpu, struct hal_cpu_tables *ret);

/* Starts CPUs 1..cpu_count-1 and waits until each has returned from nt_cpu_start. Return: CPUs running. Passive. */
unsigned hal_start_cpus(void);

/*
 * Makes the CPUs of the mask (bit = index; own bit ignored) call nt_freeze. as_nmi: by NMI, which also reaches CPUs
 * with interrupts off; else by vector 0xE1, which waits until the CPU turns them on. Does not wait. Do not send
 * another NMI to a CPU that is still inside nt_freeze.
 */
void hal_send_freeze(uint32_t cpu_mask, bool as_nmi);

/*
 * Calls nt_tick on CPU 0 at hz (64..1000, else clamped). hal_timer_start may be called again to change the rate.
 * `hz=` of the command line is nt's to read (hal_option_number("hz", 64)).
 */
void hal_timer_start(unsigned hz);
void hal_timer_stop(void);

/* This CPU's interrupt flag, and waiting for what it lets in. */
void hal_interrupts_on(void);
bool hal_interrupts_off(void); /* return: they were on */
void hal_interrupts_restore(bool were_on);
void hal_pause(void);
void hal_halt(void); /* sti; hlt; returns after an interrupt, interrupts on */
uint64_t hal_tsc(void);
void hal_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t ret[4]); /* eax ebx ecx edx */

/* ---------------------------------------------------------------------------------------------- registers -- */

uintptr_t hal_read_cr(unsigned number);              /* 0 2 3 4, x64: 8; else 0 */
void hal_write_cr(unsigned number, uintptr_t value); /* 0 2 3 4 8; a value the CPU refuses is ignored (fix-up) */
uintptr_t hal_read_dr(unsigned number);              /* 0..3 6 7 */
int hal_write_dr(unsigned number, uintptr_t value);  /* 0 ok, 1 refused by the CPU */
int hal_read_msr(uint32_t msr, uint64_t *ret);       /* 0 ok, 1 #GP */
int hal_write_msr(uint32_t msr, uint64_t value);     /* 0 ok, 1 #GP */

struct hal_table {
    uint16_t limit;
    uintptr_t base;
};

/* What the instructions of these names store. */
struct hal_table hal_sgdt(void);
struct hal_table hal_sidt(void);
uint16_t hal_str(void);
uint16_t hal_sldt(void);
uint16_t hal_segment(unsigned which); /* 0 cs 1 ss 2 ds 3 es 4 fs 5 gs */

/* One access of that width. Any context. */
uint8_t hal_in8(uint16_t port);
uint16_t hal_in16(uint16_t port);
uint32_t hal_in32(uint16_t port);
void hal_out8(uint16_t port, uint8_t value);
void hal_out16(uint16_t port, uint16_t value);
void hal_out32(uint16_t port, uint32_t value);

/* PCI configuration by ports CF8/CFC; size 1, 2 or 4, offset 0..255 aligned to it. No device: all ones. */
uint32_t hal_pci_read(unsigned bus, unsigned device, unsigned function, unsigned offset, unsigned size);
void hal_pci_write(unsigned bus, unsigned device, unsigned function, unsigned offset, unsigned size, uint32_t value);

/* Saves this CPU's registers as they are at the call (for bug checks): vector 0xFF, ip = return address. */
void hal_capture(struct hal_frame *ret);

/*
 * Runs code (len <= 4096 bytes, position-independent) at CPL 3 with IOPL 3, interrupts on, on a page of its own at
 * 0x10000 with a stack at 0x21000. GPRs come from regs and the final state goes back to it. Ends at int 2Eh
 * (regs->vector 0x2E) or any exception other than #DB, #BP, 2Ch, 2Dh (which go to nt_trap with a CPL 3 frame).
 * Return: 0 ended by int 2Eh, 1 ended by an exception (vector, error, ip tell), 2 too long. Passive.
 */
int hal_run_user(const void *code, size_t len, struct hal_frame *regs);

/* ---------------------------------------------------------------------------------------------- memory -- */

enum {
    HAL_MAP_WRITE = 1,
    HAL_MAP_EXEC = 2,
    HAL_MAP_USER = 4,
    HAL_MAP_LARGE = 8,    /* returned by translate only: a 2 MiB or 1 GiB page */
    HAL_MAP_NOCACHE = 16, /* for devices */
};

/*
 * What the current page tables say. ret_pa gets the full physical address (with the offset in the page), ret_flags
 * HAL_MAP_* (either may be NULL). Return: 0 mapped, 1 not mapped or not canonical. Any context.
 */
int hal_translate(hal_va_t va, hal_pa_t *ret_pa, unsigned *ret_flags);

/* 4 KiB pages of kernel space, in all CPUs (one address space). Flushes this CPU; hal_flush_all for the others.
 * They lock: passive. */
int hal_map(hal_va_t va, hal_pa_t pa, unsigned flags); /* replaces; 0 ok, 1 no page for a table, 2 large page there */
int hal_map_large(hal_va_t va, hal_pa_t pa, unsigned flags); /* 2 MiB, both aligned; where nothing is mapped; results as above */
int hal_unmap(hal_va_t va);                            /* 0 ok, 1 was not mapped */
int hal_protect(hal_va_t va, unsigned flags);          /* same page, other rights; 0 ok, 1 not mapped */
void hal_flush(hal_va_t va);                           /* this CPU */
void hal_flush_all(void); /* all running CPUs; waits for them: passive, interrupts on at the others */

bool hal_pa_is_ram(hal_pa_t pa, uint64_t len); /* wholly within one RAM range */

/*
 * Physical memory, any address up to the CPU's limit (x86: beyond 4 GiB too, through a per-CPU window page). nocache
 * devices are reachable as well; the caller decides by hal_pa_is_ram. Aligned 1/2/4(/8) byte accesses are made
 * as one access. Any context. Return: 0 ok, 1 address beyond the CPU's physical width.
 */
int hal_phys_read(hal_pa_t pa, void *buf, size_t len);
int hal_phys_write(hal_pa_t pa, const void *buf, size_t len);

/*
 * Virtual memory, never faulting: translates page by page, then goes through physical memory, so writing succeeds on
 * read-only code pages too (NT writes breakpoints through such an alias). Pages that are mapped but not RAM are
 * refused like unmapped ones. ret_done gets the bytes copied before the first such page (always set).
 * Return: 0 all copied, 1 stopped early. Any context.
 */
int hal_copy_from(void *buf, hal_va_t va, size_t len, size_t *ret_done);
int hal_copy_to(hal_va_t va, const void *buf, size_t len, size_t *ret_done);

/* Physical pages. x86: below 256 MiB, so always in the direct map. Contents undefined. 0 = none left. Passive. */
hal_pa_t hal_page_alloc(void);
void hal_page_free(hal_pa_t pa);
/* len contiguous bytes of RAM at a multiple of HAL_LARGE_PAGE, for ever; x86: below 256 MiB. 0 = no room. Passive. */
hal_pa_t hal_block_alloc(uint64_t len);
void *hal_direct(hal_pa_t pa); /* NULL when outside the direct map */

/* Page-granular virtual memory (RW, NX), zeroed, with an unmapped page behind it. NULL when none. Passive. */
void *hal_pool_alloc(size_t len);
void hal_pool_free(void *memory, size_t len);

/* ---------------------------------------------------------------------------------------------- images -- */

/* A file of the archive (read-only memory). Return: 0 ok, 1 no such file. */
int hal_file(const char *name, const void **ret_data, size_t *ret_size);
/* The index-th file's name or NULL. */
const char *hal_file_name(unsigned index);

/*
 * Loads an archive file as a kernel-mode image: all PE sections with their rights, relocated, imports bound by name
 * to the loaded images ("ntoskrnl.exe", "hal.dll" and "KDCOM.dll" always mean kernel, kernel and transport, whatever
 * their files are called). Does not call the entry and tells no debugger: that is nt's.
 * Return: 0 ok; 1 no such file; 2 not a PE for this machine; 3 unresolved import (logged); 4 no room. Passive.
 */
int hal_image_load(const char *file, const char *as_name, struct hal_image **ret);
void hal_image_unload(struct hal_image *image); /* unmaps, frees pages and slot; not for [0] and [1]. Passive. */
struct hal_image *hal_image_find(hal_va_t va);  /* image that holds va, or NULL */
/* Address of an export by name, 0 when there is none (forwarders are not followed). */
hal_va_t hal_image_export(const struct hal_image *image, const char *name);

/*
 * Moves an image to fresh physical pages at the same addresses, as Windows does with boot drivers after phase 0. All
 * CPUs are flushed. The old pages keep belonging to the image and are filled with `fill` (32-bit words).
 * A second move returns the first old pages to the allocator. Return: 0 ok, 1 no pages. Passive, and the caller makes
 * sure that no CPU executes or writes in the image meanwhile (for the transport: no KD call is under way).
 */
int hal_image_move(struct hal_image *image, uint32_t fill);
/* Words of the old pages that no longer hold the pattern; ret_pa (or NULL) gets the first one's address. */
unsigned hal_image_old_changed(const struct hal_image *image, hal_pa_t *ret_pa);

/* ---------------------------------------------------------------------------------------------- transport -- */

/*
 * The eight classic exports of the KD transport (KD reference 2.1), imported statically from KDCOM.dll through the
 * kernel's import table under these names. Structures as the interface lays them out (KD reference 2.3).
 */
struct kd_string {
    uint16_t length;
    uint16_t maximum_length;
    void *buffer; /* at 8 on x64, at 4 on x86 */
};
struct kd_context {
    uint32_t retries; /* the kernel sets 20 */
    uint8_t control_c_pending;
    uint8_t reserved[3];
};

#if defined(_WIN32) && !defined(HAL_NO_TRANSPORT) /* not in the stub, nor where these functions are defined */
#define KD_IMPORT __declspec(dllimport)
KD_IMPORT int32_t HAL_STDCALL KdD0Transition(void);
KD_IMPORT int32_t HAL_STDCALL KdD3Transition(void);
KD_IMPORT int32_t HAL_STDCALL KdDebuggerInitialize0(const void *loader_block);
KD_IMPORT int32_t HAL_STDCALL KdDebuggerInitialize1(const void *loader_block);
KD_IMPORT uint32_t HAL_STDCALL KdReceivePacket(uint32_t type, struct kd_string *header, struct kd_string *data,
                                               uint32_t *data_length, struct kd_context *context);
KD_IMPORT int32_t HAL_STDCALL KdRestore(uint8_t sleep_transition);
KD_IMPORT int32_t HAL_STDCALL KdSave(uint8_t sleep_transition);
KD_IMPORT void HAL_STDCALL KdSendPacket(uint32_t type, struct kd_string *header, struct kd_string *data,
                                        struct kd_context *context);
#endif

#endif
