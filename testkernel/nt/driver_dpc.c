// SPDX-License-Identifier: MIT
// Deferred procedure calls: one queue per CPU, run at DISPATCH_LEVEL with interrupts on, on the stack of what they interrupt. They ride on the
// freeze interrupt, which finds its way to a CPU that runs with interrupts off or is frozen as soon as it turns them on.
#include "testkernel/nt/driver_exports.h"
#include "testkernel/nt/driver_run.h"
#include "testkernel/nt/nt_cpu.h"
#include "testkernel/nt/nt_data.h"
#include "testkernel/nt/scenario.h"

#define EFLAGS_IF 0x200u

struct queue {
    volatile uint32_t lock;
    struct nt_dpc *first;
    struct nt_dpc *volatile running;
};

static struct queue queues[HAL_MAX_CPUS];

// With interrupts off.
static void queue_lock(struct queue *q)
{
    while (__atomic_exchange_n(&q->lock, 1, __ATOMIC_ACQUIRE))
        hal_pause();
}

static void queue_unlock(struct queue *q)
{
    __atomic_store_n(&q->lock, 0, __ATOMIC_RELEASE);
}

static bool is_busy(const struct queue *q)
{
    return __atomic_load_n(&q->first, __ATOMIC_ACQUIRE) != NULL || __atomic_load_n(&q->running, __ATOMIC_ACQUIRE) != NULL;
}

// The routine may free or queue its DPC again, so what is needed of it is copied first.
static struct nt_dpc *queue_take(struct queue *q, struct nt_dpc *ret)
{
    queue_lock(q);
    struct nt_dpc *dpc = q->first;
    if (dpc != NULL) {
        *ret = *dpc;
        q->first = dpc->next;
        q->running = dpc;
        __atomic_store_n(&dpc->DpcData, NULL, __ATOMIC_RELEASE);
    }
    queue_unlock(q);
    return dpc;
}

// Interrupts off before and after; on while a routine runs.
static void run_queue(unsigned cpu)
{
    struct queue *q = &queues[cpu];
    uint8_t *irql = &nt_cpu_pcr(cpu)->Irql;
    struct nt_dpc copy, *dpc;

    while ((dpc = queue_take(q, &copy)) != NULL) {
        *irql = NT_DISPATCH_LEVEL;
        hal_interrupts_on();
        copy.DeferredRoutine(dpc, copy.DeferredContext, copy.SystemArgument1, copy.SystemArgument2);
        if (!hal_interrupts_off())
            driver_accuse("leaves a DPC with interrupts off");
        *irql = NT_PASSIVE_LEVEL;
        __atomic_store_n(&q->running, NULL, __ATOMIC_RELEASE);
    }
}

// As if this CPU had been busy with interrupts off when the DPC was queued.
static void be_late(void)
{
    static bool was_late;
    uint64_t cycles = was_late ? 0 : hal_option_number("latedpc", 0) * 1000000, start = hal_tsc();

    was_late = true;
    while (hal_tsc() - start < cycles)
        hal_pause();
}

void driver_dpc_interrupt(const struct hal_frame *frame)
{
    unsigned cpu = hal_cpu_index();
    bool can_interrupt = frame->vector == HAL_TRAP_FREEZE && (frame->flags & EFLAGS_IF) != 0;

    if (!can_interrupt || nt_cpu_pcr(cpu)->Irql >= NT_DISPATCH_LEVEL)
        return;
    if (cpu == 1 && is_busy(&queues[cpu]))
        be_late();
    run_queue(cpu);
}

void HAL_STDCALL KeInitializeDpc(struct nt_dpc *dpc, nt_dpc_routine *routine, void *context)
{
    *dpc = (struct nt_dpc){
        .Type = NT_DPC_TYPE, .Importance = NT_DPC_MEDIUM, .DeferredRoutine = routine, .DeferredContext = context};
}

void HAL_STDCALL KeSetTargetProcessorDpc(struct nt_dpc *dpc, int8_t cpu)
{
    dpc->Number = (uint16_t)(NT_DPC_TARGETED + (uint8_t)cpu);
}

void HAL_STDCALL KeSetImportanceDpc(struct nt_dpc *dpc, uint32_t importance)
{
    dpc->Importance = (uint8_t)importance;
}

uintptr_t HAL_STDCALL KeQueryActiveProcessors(void)
{
    uintptr_t mask = 0;

    for (unsigned cpu = 0; cpu < HAL_MAX_CPUS; cpu++)
        mask |= nt_cpu_is_online(cpu) ? (uintptr_t)1 << cpu : 0;
    return mask;
}

uint16_t HAL_STDCALL KeQueryActiveGroupCount(void)
{
    return (uint16_t)hal_option_number("groups", 1);
}

// High importance at the front. NT lets a DPC for another processor wait for its clock unless it is that important.
static bool queue_put(struct queue *q, struct nt_dpc *dpc, void *arg1, void *arg2)
{
    bool is_new;

    queue_lock(q);
    is_new = dpc->DpcData == NULL;
    if (is_new) {
        struct nt_dpc **at = &q->first;
        while (*at != NULL && dpc->Importance != NT_DPC_HIGH)
            at = &(*at)->next;
        dpc->SystemArgument1 = arg1;
        dpc->SystemArgument2 = arg2;
        dpc->next = *at;
        dpc->DpcData = q;
        *at = dpc;
    }
    queue_unlock(q);
    return is_new;
}

uint8_t HAL_STDCALL KeInsertQueueDpc(struct nt_dpc *dpc, void *arg1, void *arg2)
{
    bool were_on = hal_interrupts_off();
    unsigned self = hal_cpu_index(), cpu = dpc->Number >= NT_DPC_TARGETED ? dpc->Number - NT_DPC_TARGETED : self;

    if (dpc->Type != NT_DPC_TYPE || !nt_cpu_is_online(cpu)) {
        driver_accuse("queues a DPC that is none, or for a processor that does not run");
        hal_interrupts_restore(were_on);
        return 0;
    }
    bool is_new = queue_put(&queues[cpu], dpc, arg1, arg2);
    if (is_new && cpu != self)
        hal_send_freeze(1u << cpu, false);
    else if (is_new && were_on && nt_cpu_pcr(self)->Irql < NT_DISPATCH_LEVEL)
        run_queue(self);
    hal_interrupts_restore(were_on);
    return is_new;
}

void HAL_STDCALL KeFlushQueuedDpcs(void)
{
    driver_expect_passive("KeFlushQueuedDpcs");
    for (unsigned cpu = 0; cpu < HAL_MAX_CPUS; cpu++) {
        while (is_busy(&queues[cpu]))
            hal_pause();
    }
}

ntstatus_t HAL_STDCALL KeDelayExecutionThread(int8_t mode, uint8_t alertable, const int64_t *interval)
{
    (void)mode;
    (void)alertable;
    driver_expect_passive("KeDelayExecutionThread");
    if (*interval > 0)
        driver_accuse("waits until a point in time, not for a while");
    uint64_t tick_units = 10000000 / hal_option_number("hz", 64); // of 100 ns each
    uint64_t ticks = ((uint64_t)-*interval + tick_units - 1) / tick_units;
    scenario_wait_ticks((unsigned)(ticks != 0 ? ticks : 1));
    return STATUS_SUCCESS;
}

unsigned driver_dpcs_held(void)
{
    unsigned count = 0;

    for (unsigned cpu = 0; cpu < HAL_MAX_CPUS; cpu++) {
        if (!is_busy(&queues[cpu]))
            continue;
        hal_log("TK: driver: left behind: a DPC of CPU %u, queued or in its routine\n", cpu);
        count++;
    }
    return count;
}
