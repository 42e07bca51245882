// SPDX-License-Identifier: MIT
// The kernel's own face in memory: version block, KDDEBUGGER_DATA64, the variables it points at, the System process.
#pragma once
#include "testkernel/nt/kd_wire.h"
#include "testkernel/nt/kdbg.h"

extern struct kd_version KdVersionBlock;
extern struct kd_debugger_data KdDebuggerDataBlock;
extern struct nt_list_entry PsLoadedModuleList;
extern uintptr_t KiBugCheckData[5]; // code and four parameters
extern uint32_t NtGlobalFlag;       // bit 0: stop at first-chance exceptions
extern uint64_t KeTickCount;

#define NT_FLAG_STOP_ON_EXCEPTION 1u

#define NT_PRINT_BUFFER_SIZE 0x8000u
extern char *KdPrintCircularBuffer;
extern char *KdPrintWritePointer;
extern uint32_t KdPrintRolloverCount;

// Fills everything that can be known before the loaded-module list exists. Interrupts off, boot CPU only.
void nt_data_init(const struct hal_boot *boot);
// The time fields of KUSER_SHARED_DATA and KeTickCount, once per clock tick of this many 100 ns units.
void nt_data_advance_time(uint32_t units);
// KUSER_SHARED_DATA, writable whatever rights its fixed address has.
void nt_data_write_shared(uint32_t offset, const void *value, size_t len);
struct nt_ethread *nt_data_idle_thread(unsigned cpu);

// ---- TkBench: what a measuring client reads through KD (offsets: magic 0, version 8, tsc_hz 0x10, counts 0x20, ticks) --

#define TK_BENCH_MAGIC 0x48434E45424B54ull // "TKBENCH"
#define TK_BENCH_APIS (KD_API_MAX - KD_API_FIRST)

struct tk_bench {
    uint64_t magic;
    uint64_t version;
    uint64_t tsc_hz; // 0 until measured
    uint64_t reserved;
    uint64_t counts[TK_BENCH_APIS]; // requests served, by ApiNumber - 0x3130
    uint64_t ticks[TK_BENCH_APIS];  // TSC ticks spent in serving them, without the transport
    uint64_t stops;                 // break-ins that the clock's poll has found
    uint64_t stop_ticks;            // TSC ticks from there to the state change that is ready to be sent
};
extern struct tk_bench TkBench;

// ---- TkFlood: prints on request (scenario=flood) ----------------------------------------------------------------

struct tk_flood {
    uint64_t wanted; // lines; the debugger writes it, 0 when they have been printed
    uint64_t done;   // lines printed since the start, counted one by one
    uint64_t ticks;  // TSC ticks that the last request took
    uint64_t end;    // not 0: the CPU gives up (a triple fault) after the last line; the debugger writes it
};
extern volatile struct tk_flood TkFlood;

// Around the execution of one request, on the reporting CPU.
void bench_request_begin(uint32_t api);
// Adds the time since bench_request_begin; numbers that are no request are ignored.
void bench_request_end(uint32_t api);
// A break-in was found; the report of a stop is ready (without effect unless a break-in was found before it).
void bench_stop_begin(void);
void bench_stop_end(void);
void bench_measure_tsc(void); // takes a few clock ticks; interrupts on
