// SPDX-License-Identifier: MIT
// One CPU owns the debugger, all others wait frozen.
//
//   RUNNING --owner asks--> ASKED --IPI taken--> FROZEN --owner lets go--> THAWED --registers loaded--> RUNNING
//
// A CPU that wants to own the debugger while another does must take the freeze itself: its interrupts are off, so
// the IPI could never reach it. The outcome of a stop belongs to the owner, whichever CPU talks to the debugger.
#include "testkernel/nt/kd.h"

#include "testkernel/nt/driver_run.h"
#include "testkernel/nt/scenario_run.h"

enum freeze_state { RUNNING, ASKED, FROZEN, THAWED };

#define NO_CPU 0xFFFFFFFFu
// About a second: then a CPU that runs with interrupts off is fetched by NMI.
#define FREEZE_PATIENCE_TSC (1ull << 31)

static volatile uint32_t states[HAL_MAX_CPUS];
static volatile uint32_t owner = NO_CPU;
static volatile uint32_t reporter = NO_CPU;
static volatile uint32_t outcome = KD_NONE;
static volatile uint32_t port_lock;
static bool kd_saved;

bool kd_port_try_lock(void)
{
    uint32_t expected = 0;

    return __atomic_compare_exchange_n(&port_lock, &expected, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

void kd_port_unlock(void)
{
    __atomic_store_n(&port_lock, 0, __ATOMIC_RELEASE);
}

bool kd_is_entered_here(void)
{
    uint32_t cpu = hal_cpu_index();

    return owner == cpu || (owner != NO_CPU && reporter == cpu);
}

static void report_as_switched(unsigned cpu)
{
    enum kd_outcome result = kd_report_switch();

    if (__atomic_load_n(&reporter, __ATOMIC_ACQUIRE) != cpu)
        return; // another CPU has ended the stop meanwhile
    outcome = result;
    __atomic_store_n(&reporter, owner, __ATOMIC_RELEASE);
}

static void freeze_here(unsigned cpu, struct hal_frame *frame)
{
    nt_cpu_save(cpu, frame);
    __atomic_store_n(&states[cpu], FROZEN, __ATOMIC_RELEASE);
    while (__atomic_load_n(&states[cpu], __ATOMIC_ACQUIRE) != THAWED) {
        if (__atomic_load_n(&reporter, __ATOMIC_ACQUIRE) == cpu)
            report_as_switched(cpu);
        hal_pause();
    }
    nt_cpu_restore(cpu, frame);
    __atomic_store_n(&states[cpu], RUNNING, __ATOMIC_RELEASE);
}

static void freeze_if_asked(unsigned cpu, struct hal_frame *frame)
{
    if (__atomic_load_n(&states[cpu], __ATOMIC_ACQUIRE) == ASKED)
        freeze_here(cpu, frame);
}

static void (*volatile diversions[HAL_MAX_CPUS])(void);

void nt_cpu_divert(unsigned cpu, void (*code)(void))
{
    diversions[cpu] = code;
    hal_send_freeze(1u << cpu, false);
}

// As if the interrupted code had called it: 16-byte alignment below a return address that is never used.
static void divert_if_asked(unsigned cpu, struct hal_frame *frame)
{
    if (diversions[cpu] == NULL)
        return;
    frame->ip = (uintptr_t)diversions[cpu];
    frame->sp = ((frame->sp - 128) & ~(uintptr_t)15) - sizeof(uintptr_t);
    diversions[cpu] = NULL;
}

void nt_freeze(struct hal_frame *frame)
{
    unsigned cpu = hal_cpu_index();

    freeze_if_asked(cpu, frame); // not asked: it was frozen on its own way into the debugger
    driver_dpc_interrupt(frame);
    divert_if_asked(cpu, frame);
}

static void become_owner(unsigned cpu, struct hal_frame *frame)
{
    for (;;) {
        uint32_t expected = NO_CPU;
        if (__atomic_compare_exchange_n(&owner, &expected, cpu, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return;
        freeze_if_asked(cpu, frame);
        hal_pause();
    }
}

static void wait_frozen(unsigned cpu)
{
    uint64_t start = hal_tsc();
    bool nmi_sent = false;

    while (__atomic_load_n(&states[cpu], __ATOMIC_ACQUIRE) != FROZEN) {
        if (!nmi_sent && hal_tsc() - start > FREEZE_PATIENCE_TSC) {
            hal_log("kd: CPU %u does not take the freeze, fetching it by NMI\n", cpu);
            hal_send_freeze(1u << cpu, true);
            nmi_sent = true;
        }
        hal_pause();
    }
}

static uint32_t others_online(unsigned self)
{
    uint32_t mask = 0;

    for (unsigned cpu = 0; cpu < HAL_MAX_CPUS; cpu++)
        mask |= cpu != self && nt_cpu_is_online(cpu) ? 1u << cpu : 0;
    return mask;
}

static void freeze_others(unsigned self)
{
    uint32_t mask = others_online(self);

    for (unsigned cpu = 0; cpu < HAL_MAX_CPUS; cpu++) {
        if (mask >> cpu & 1)
            __atomic_store_n(&states[cpu], ASKED, __ATOMIC_RELEASE);
    }
    if (mask != 0)
        hal_send_freeze(mask, false);
    for (unsigned cpu = 0; cpu < HAL_MAX_CPUS; cpu++) {
        if (mask >> cpu & 1)
            wait_frozen(cpu);
    }
}

static void thaw_others(unsigned self)
{
    uint32_t mask = others_online(self);

    for (unsigned cpu = 0; cpu < HAL_MAX_CPUS; cpu++) {
        if (mask >> cpu & 1)
            __atomic_store_n(&states[cpu], THAWED, __ATOMIC_RELEASE);
    }
    // The next owner must find them all RUNNING, or its request would be lost.
    for (unsigned cpu = 0; cpu < HAL_MAX_CPUS; cpu++) {
        while ((mask >> cpu & 1) && __atomic_load_n(&states[cpu], __ATOMIC_ACQUIRE) != RUNNING)
            hal_pause();
    }
}

void kd_enter(struct hal_frame *frame)
{
    unsigned cpu = hal_cpu_index();

    become_owner(cpu, frame);
    freeze_others(cpu);
    nt_cpu_save(cpu, frame);
    reporter = cpu;
    outcome = KD_NONE;
    // Only a poll on a CPU that is frozen now could have held it, and polls release it before they take the freeze.
    while (!kd_port_try_lock())
        hal_pause();
    kd_requests_begin_stop();
    kd_saved = KdSave(0) == STATUS_SUCCESS;
}

void kd_leave(struct hal_frame *frame)
{
    unsigned cpu = hal_cpu_index();

    if (kd_saved)
        (void)KdRestore(0); // its status has no use: the dialogue is over
    kd_port_unlock();
    nt_cpu_restore(cpu, frame);
    thaw_others(cpu);
    reporter = NO_CPU;
    __atomic_store_n(&owner, NO_CPU, __ATOMIC_RELEASE);
}

enum kd_outcome kd_switch_to(unsigned cpu)
{
    unsigned self = hal_cpu_index();

    __atomic_store_n(&reporter, cpu, __ATOMIC_RELEASE);
    for (;;) {
        if (__atomic_load_n(&reporter, __ATOMIC_ACQUIRE) == self)
            return outcome != KD_NONE ? (enum kd_outcome)outcome : KD_SAME_CPU;
        if (self != owner && states[self] == THAWED)
            return KD_HANDLED;
        hal_pause();
    }
}
