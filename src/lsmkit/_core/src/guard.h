/* guard.h: grace periods, so that readers need no lock and an updater knows when they are gone.
 *
 * This is Sleepable RCU (McKenney, "Sleepable Read-Copy Update", 2006) with counters striped over
 * threads. A reader enters, loads shared pointers, uses what they point to, exits. An updater
 * unpublishes a pointer, calls lk_guard_sync, and frees what it pointed to.
 *
 * Owns      the counters and the mutex of the updaters.
 * Callers   store.c: readers take the current view or index inside a section.
 * Threads   any number of readers, nested if they like; updaters wait for each other.
 * Always    a section ends on the counter that it began on, which its token names, whatever thread
 *           ends it; a section is short: nothing in it blocks, sleeps or waits for a lock, and
 *           lk_guard_sync is never called inside one.
 *
 * Every counter is touched by sequentially consistent read-modify-writes alone, those of the
 * updater too: a reader that comes after the updater looked reads what the updater wrote, so it
 * sees the pointer already replaced, and an updater that finds zero has seen all that readers did.
 */
#ifndef LK_GUARD_H
#define LK_GUARD_H

#include <pthread.h>
#include <stdatomic.h>

#include "check.h"
#include "status.h"

enum { LK_GUARD_STRIPES = 8, LK_GUARD_LINE_BYTES = 64 };

/* Padded, not aligned: no two counters share a cache line wherever the guard lies, and a structure
 * that holds a guard may come from malloc. */
typedef struct lk_guard_count {
    atomic_uint inside;
    uint8_t pad[LK_GUARD_LINE_BYTES - sizeof(atomic_uint)];
} lk_guard_count;

typedef struct lk_guard {
    atomic_uint epoch; /* its parity is where readers enter */
    uint8_t pad[LK_GUARD_LINE_BYTES - sizeof(atomic_uint)];
    lk_guard_count counts[2 * LK_GUARD_STRIPES]; /* [stripe * 2 + parity] */
    pthread_mutex_t mutex;                       /* one updater at a time */
} lk_guard;

void lk_guard_init(lk_guard *guard);
void lk_guard_deinit(lk_guard *guard); /* no section is open */

/* Returns when every section that was entered before the call has ended. */
void lk_guard_sync(lk_guard *guard);

#if defined(__linux__) && defined(__GNUC__)
/* Found by an offset from the thread pointer, not by a call, in a shared library too. */
#define LK_GUARD_TLS __attribute__((tls_model("initial-exec")))
#else
#define LK_GUARD_TLS
#endif
/* Twice the number of this thread's stripe, plus one; 0 before its first section. */
extern _Thread_local unsigned lk_guard_stripe LK_GUARD_TLS;
unsigned lk_guard_stripe_choose(void); /* sets and returns it */

static inline unsigned lk_guard_enter(lk_guard *guard)
{
    unsigned stripe = lk_guard_stripe;
    if (LK_UNLIKELY(stripe == 0)) stripe = lk_guard_stripe_choose();
    unsigned epoch = atomic_load_explicit(&guard->epoch, memory_order_relaxed);
    unsigned token = (stripe - 1) | (epoch & 1);
    atomic_fetch_add_explicit(&guard->counts[token].inside, 1, memory_order_seq_cst);
    return token;
}

static inline void lk_guard_exit(lk_guard *guard, unsigned token)
{
    LK_ASSERT(token < 2 * LK_GUARD_STRIPES);
    unsigned before =
        atomic_fetch_sub_explicit(&guard->counts[token].inside, 1, memory_order_seq_cst);
    LK_ASSERT(before > 0);
    (void)before;
}

#endif
