// SPDX-License-Identifier: MIT
// Memory shared between a guest CPU and a host thread, or between two processes. These are the only operations on such
// words; nothing else in the tree orders memory. Each use names its partner in a comment.
//
// Both ends run on x86, where a load is an acquire and a store is a release already; the operations
// exist so that the compiler keeps the order too, reads each word exactly once, and the reader sees
// which access pairs with which.
#ifndef WIRE_ORDER_H
#define WIRE_ORDER_H

#include "wire/compiler.h"

// Read once; everything the partner wrote before its store_release is visible afterwards.
static inline uint32_t order_load_acquire(const volatile uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

// Publish: everything written before becomes visible no later than this word.
static inline void order_store_release(volatile uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

// Read once, no ordering: counters, hints.
static inline uint32_t order_load(const volatile uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_RELAXED);
}

// Set bits that the other end takes with order_take.
static inline void order_set_bits(volatile uint32_t *word, uint32_t bits)
{
	(void)__atomic_fetch_or(word, bits, __ATOMIC_ACQ_REL); // the old value tells the setter nothing
}

// Take and clear everything that order_set_bits left, so that nothing set meanwhile is lost.
static inline uint32_t order_take(volatile uint32_t *word)
{
	return __atomic_exchange_n(word, 0u, __ATOMIC_ACQ_REL);
}

// Replace `expected` by `value`; false: the word had another value, and nothing was written. What this processor wrote before
// is visible to whoever reads the value, and what they wrote before theirs to it.
static inline bool order_replace(volatile uint32_t *word, uint32_t expected, uint32_t value)
{
	return __atomic_compare_exchange_n(word, &expected, value, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

// ---- A 64-bit counter that guards what stands beside it (wire/stop_page.h); 64-bit programs of the host only -------------

static inline uint64_t order_load_acquire64(const volatile uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void order_store_release64(volatile uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

// Reader: what was read before is read before what follows (the counter, a second time).
static inline void order_fence_acquire(void)
{
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
}

// Writer: what was written before (the counter) is visible no later than what follows.
static inline void order_fence_release(void)
{
	__atomic_thread_fence(__ATOMIC_RELEASE);
}

#endif
