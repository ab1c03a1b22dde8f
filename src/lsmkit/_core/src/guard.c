/* guard.c: the updater's half of guard.h. */
#include "guard.h"

#include <stdlib.h>
#include <time.h>

#include "lock.h"

/* A section lasts some hundred nanoseconds: a short look finds it ended. One whose thread has lost
 * its processor takes milliseconds, and is waited for asleep. */
enum { SPINS = 200, SLEEP_NS = 30000 };

_Thread_local unsigned lk_guard_stripe LK_GUARD_TLS = 0;

static atomic_uint threads_seen;

unsigned lk_guard_stripe_choose(void)
{
    unsigned thread = atomic_fetch_add_explicit(&threads_seen, 1, memory_order_relaxed);
    lk_guard_stripe = 2 * (thread % LK_GUARD_STRIPES) + 1;
    return lk_guard_stripe;
}

void lk_guard_init(lk_guard *guard)
{
    for (unsigned i = 0; i < 2 * LK_GUARD_STRIPES; i++) atomic_init(&guard->counts[i].inside, 0);
    atomic_init(&guard->epoch, 0);
    if (pthread_mutex_init(&guard->mutex, NULL) != 0) abort();
}

void lk_guard_deinit(lk_guard *guard)
{
    for (unsigned i = 0; i < 2 * LK_GUARD_STRIPES; i++) {
        LK_ASSERT(atomic_load(&guard->counts[i].inside) == 0);
    }
    if (pthread_mutex_destroy(&guard->mutex) != 0) abort();
}

/* Adding nothing is a write all the same: a reader that counts itself in later has read it. */
static bool is_empty(lk_guard_count *count)
{
    return atomic_fetch_add_explicit(&count->inside, 0, memory_order_seq_cst) == 0;
}

static void wait_until_empty(lk_guard_count *count)
{
    for (int i = 0; i < SPINS; i++) {
        if (is_empty(count)) return;
        lk_pause();
    }
    while (!is_empty(count)) {
        struct timespec span = {.tv_sec = 0, .tv_nsec = SLEEP_NS};
        (void)nanosleep(&span, NULL); /* woken early, it looks early */
    }
}

/* Sends new readers to the other parity, and waits for the counters of this one. */
static void flip_and_wait(lk_guard *guard)
{
    unsigned parity = atomic_fetch_add_explicit(&guard->epoch, 1, memory_order_seq_cst) & 1;
    for (unsigned stripe = 0; stripe < LK_GUARD_STRIPES; stripe++) {
        wait_until_empty(&guard->counts[2 * stripe + parity]);
    }
}

void lk_guard_sync(lk_guard *guard)
{
    if (pthread_mutex_lock(&guard->mutex) != 0) abort();
    /* Twice, because a reader may read the epoch, be delayed past a whole grace period, and only
     * then count itself in, on the parity that the next updater does not wait for first. */
    flip_and_wait(guard);
    flip_and_wait(guard);
    if (pthread_mutex_unlock(&guard->mutex) != 0) abort();
}
