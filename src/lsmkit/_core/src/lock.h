/* lock.h: a mutex of one word, an event to wait for, and the start of a thread.
 *
 * Owns      the word, and the mutex and condition behind it that only waiting uses.
 * Callers   the store's write lock: the border tries it with one compare-and-swap while it keeps
 *           the GIL, and waits, without the GIL, only when that failed.
 * Threads   that is what it is for. Not recursive, not fair. Waking is left to whoever releases a
 *           lock that has waiters, so a lock nobody waits for never makes a system call.
 * Always    state is 2 while anybody may be waiting (Drepper, "Futexes Are Tricky", mutex 2; a
 *           condition variable stands in for the futex, so that it works everywhere).
 */
#ifndef LK_LOCK_H
#define LK_LOCK_H

#include <pthread.h>
#include <stdatomic.h>

#include "check.h"
#include "status.h"

enum { LK_LOCK_FREE = 0, LK_LOCK_HELD = 1, LK_LOCK_CONTENDED = 2 };

typedef struct lk_lock {
    atomic_uint state;     /* acquire when taken, release when given back */
    pthread_mutex_t mutex; /* held only around waiting and waking */
    pthread_cond_t cond;
} lk_lock;

void lk_lock_init(lk_lock *lock);
/* Only when every thread that used the lock is known to have left lk_lock_release. */
void lk_lock_deinit(lk_lock *lock);

/* Waits. Call it after lk_lock_try has failed. */
void lk_lock_slow(lk_lock *lock);
/* Wakes one waiter; lk_lock_release calls it. */
void lk_lock_wake(lk_lock *lock);

static inline bool lk_lock_try(lk_lock *lock)
{
    unsigned expected = LK_LOCK_FREE;
    return atomic_compare_exchange_strong_explicit(&lock->state, &expected, LK_LOCK_HELD,
                                                   memory_order_acquire, memory_order_relaxed);
}

static inline void lk_lock_acquire(lk_lock *lock)
{
    if (LK_UNLIKELY(!lk_lock_try(lock))) lk_lock_slow(lock);
}

static inline void lk_lock_release(lk_lock *lock)
{
    unsigned before = atomic_exchange_explicit(&lock->state, LK_LOCK_FREE, memory_order_release);
    LK_ASSERT(before != LK_LOCK_FREE);
    if (LK_UNLIKELY(before == LK_LOCK_CONTENDED)) lk_lock_wake(lock);
}

/* Held by somebody: for assertions, where that somebody is the caller. */
static inline bool lk_lock_is_held(lk_lock *lock)
{
    return atomic_load_explicit(&lock->state, memory_order_relaxed) != LK_LOCK_FREE;
}

/* Something that happens again and again, counted. Whoever waits reads the count, looks whether
 * there is work, and waits for the count to change: what happens in between is not missed. */
typedef struct lk_event {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    uint64_t generation; /* guarded by mutex */
} lk_event;

#define LK_EVENT_FOREVER UINT64_MAX

void lk_event_init(lk_event *event);
void lk_event_deinit(lk_event *event); /* nobody waits, and nobody will */
uint64_t lk_event_generation(lk_event *event);
void lk_event_signal(lk_event *event);    /* counts, wakes one waiter */
void lk_event_broadcast(lk_event *event); /* counts, wakes all */
/* Until the count is not `seen` (true), or `timeout_ns` of monotonic time are over (false). */
bool lk_event_wait_ns(lk_event *event, uint64_t seen, uint64_t timeout_ns);

/* Starts a thread that must be joined. It handles no signals, those are the program's, but for the
 * ones that its own faults raise. `name` is cut to 15 bytes. */
lk_status lk_thread_start(void *(*run)(void *), void *arg, pthread_t *out, const char *name,
                          lk_error *err);

/* What a loop that spins does between two looks. */
static inline void lk_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

#endif
