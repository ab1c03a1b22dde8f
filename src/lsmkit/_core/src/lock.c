/* lock.c: the waiting halves of lock.h.
 *
 * Always    whoever is about to wait has put LK_LOCK_CONTENDED into the word while holding the
 *           mutex, and waits before letting go of it. Whoever takes the word out and finds that
 *           value takes the mutex before it signals, so it signals somebody who waits already.
 */
#include "lock.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* What the write lock guards takes some tens of nanoseconds, sleeping and waking some microseconds;
 * with more processors than one, looking again for about a microsecond is the cheaper bet. */
enum { SPINS = 40 };

/* Failures of these calls are faults of ours (a wrong pointer, a lock not held): nothing that a
 * caller could handle. */
static void must(int failed)
{
    if (failed != 0) abort();
}

void lk_lock_init(lk_lock *lock)
{
    atomic_init(&lock->state, LK_LOCK_FREE);
    must(pthread_mutex_init(&lock->mutex, NULL));
    must(pthread_cond_init(&lock->cond, NULL));
}

void lk_lock_deinit(lk_lock *lock)
{
    LK_ASSERT(!lk_lock_is_held(lock));
    must(pthread_cond_destroy(&lock->cond));
    must(pthread_mutex_destroy(&lock->mutex));
}

void lk_lock_slow(lk_lock *lock)
{
    for (int i = 0; i < SPINS; i++) {
        if (!lk_lock_is_held(lock) && lk_lock_try(lock)) return;
        lk_pause();
    }
    must(pthread_mutex_lock(&lock->mutex));
    /* Taking the lock with CONTENDED though nobody else may be waiting costs one needless wake; not
     * doing so would forget those who are. */
    while (atomic_exchange_explicit(&lock->state, LK_LOCK_CONTENDED, memory_order_acquire) !=
           LK_LOCK_FREE) {
        must(pthread_cond_wait(&lock->cond, &lock->mutex));
    }
    must(pthread_mutex_unlock(&lock->mutex));
}

void lk_lock_wake(lk_lock *lock)
{
    must(pthread_mutex_lock(&lock->mutex));
    must(pthread_cond_signal(&lock->cond));
    must(pthread_mutex_unlock(&lock->mutex));
}

/* ---- events ---- */

void lk_event_init(lk_event *event)
{
    event->generation = 0;
    must(pthread_mutex_init(&event->mutex, NULL));
#if defined(__APPLE__)
    must(pthread_cond_init(&event->cond, NULL));
#else
    pthread_condattr_t attr;
    must(pthread_condattr_init(&attr));
    must(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC));
    must(pthread_cond_init(&event->cond, &attr));
    must(pthread_condattr_destroy(&attr));
#endif
}

void lk_event_deinit(lk_event *event)
{
    must(pthread_cond_destroy(&event->cond));
    must(pthread_mutex_destroy(&event->mutex));
}

uint64_t lk_event_generation(lk_event *event)
{
    must(pthread_mutex_lock(&event->mutex));
    uint64_t generation = event->generation;
    must(pthread_mutex_unlock(&event->mutex));
    return generation;
}

void lk_event_signal(lk_event *event)
{
    must(pthread_mutex_lock(&event->mutex));
    event->generation++;
    must(pthread_cond_signal(&event->cond));
    must(pthread_mutex_unlock(&event->mutex));
}

void lk_event_broadcast(lk_event *event)
{
    must(pthread_mutex_lock(&event->mutex));
    event->generation++;
    must(pthread_cond_broadcast(&event->cond));
    must(pthread_mutex_unlock(&event->mutex));
}

static uint64_t monotonic_ns(void)
{
    struct timespec now;
    must(clock_gettime(CLOCK_MONOTONIC, &now));
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Waits once, at most until `deadline_ns` of the monotonic clock. */
static void wait_until(lk_event *event, uint64_t deadline_ns)
{
#if defined(__APPLE__)
    uint64_t now_ns = monotonic_ns();
    uint64_t left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
    struct timespec span = {.tv_sec = (time_t)(left_ns / 1000000000u),
                            .tv_nsec = (long)(left_ns % 1000000000u)};
    int failed = pthread_cond_timedwait_relative_np(&event->cond, &event->mutex, &span);
#else
    struct timespec at = {.tv_sec = (time_t)(deadline_ns / 1000000000u),
                          .tv_nsec = (long)(deadline_ns % 1000000000u)};
    int failed = pthread_cond_timedwait(&event->cond, &event->mutex, &at);
#endif
    must(failed != 0 && failed != ETIMEDOUT);
}

bool lk_event_wait_ns(lk_event *event, uint64_t seen, uint64_t timeout_ns)
{
    /* Some hundred years from now: what does not fit into a timespec is as good as for ever. */
    const uint64_t far_ns = (uint64_t)INT64_MAX / 2;
    uint64_t start_ns = timeout_ns < far_ns ? monotonic_ns() : 0;
    must(pthread_mutex_lock(&event->mutex));
    while (event->generation == seen) {
        if (timeout_ns >= far_ns) {
            must(pthread_cond_wait(&event->cond, &event->mutex));
            continue;
        }
        if (monotonic_ns() - start_ns >= timeout_ns) break;
        wait_until(event, start_ns + timeout_ns);
    }
    bool happened = event->generation != seen;
    must(pthread_mutex_unlock(&event->mutex));
    return happened;
}

/* ---- threads ---- */

enum { THREAD_NAME_BYTES = 16 };

typedef struct thread_start {
    void *(*run)(void *);
    void *arg;
    char name[THREAD_NAME_BYTES];
} thread_start;

static void *thread_main(void *start_as_void)
{
    thread_start start = *(thread_start *)start_as_void;
    free(start_as_void);
    /* Only debuggers read the name: a platform that refuses it loses nothing. */
#if defined(__APPLE__)
    (void)pthread_setname_np(start.name);
#elif defined(__linux__)
    (void)pthread_setname_np(pthread_self(), start.name);
#endif
    return start.run(start.arg);
}

lk_status lk_thread_start(void *(*run)(void *), void *arg, pthread_t *out, const char *name,
                          lk_error *err)
{
    /* Faults stay deliverable, so that the program's crash handlers see those of this thread. */
    static const int FAULTS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    LK_ASSERT(run != NULL && out != NULL && name != NULL);
    thread_start *start = malloc(sizeof *start);
    if (start == NULL) return lk_fail_nomem(err, sizeof *start);
    start->run = run;
    start->arg = arg;
    size_t length = strnlen(name, THREAD_NAME_BYTES - 1);
    memcpy(start->name, name, length);
    start->name[length] = '\0';

    sigset_t blocked, before;
    must(sigfillset(&blocked));
    for (size_t i = 0; i < sizeof FAULTS / sizeof *FAULTS; i++) {
        must(sigdelset(&blocked, FAULTS[i]));
    }
    must(pthread_sigmask(SIG_SETMASK, &blocked, &before));
    int failed = pthread_create(out, NULL, thread_main, start);
    must(pthread_sigmask(SIG_SETMASK, &before, NULL));
    if (failed != 0) {
        free(start);
        return lk_fail(err, failed == ENOMEM ? LK_NOMEM : LK_IO, failed, NULL, 0, 0, 0,
                       "cannot start the thread %s: errno %d", name, failed);
    }
    return LK_OK;
}
