/* The one-word lock excludes and loses no wake-up; an event misses nothing that happens between a
 * look and a wait; a thread that was started takes no signals of the program.
 *
 * Method: plain, unguarded counters that only exclusion keeps right, run under the thread sanitizer
 * too; an upper bound on time stands in for "somebody sleeps for ever".
 */
#include <sched.h>

#include "harness.h"
#include "lock.h"

enum { THREADS = 4 };

static uint64_t now_ns(void)
{
    struct timespec now;
    CHECK_EQ(clock_gettime(CLOCK_MONOTONIC, &now), 0);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void sleep_ms(long ms)
{
    struct timespec span = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    CHECK_EQ(nanosleep(&span, NULL), 0);
}

static pthread_t start(void *(*run)(void *), void *arg)
{
    lk_error err;
    pthread_t thread;
    CHECK_OK(lk_thread_start(run, arg, &thread, "test", &err), &err);
    return thread;
}

static void *join(pthread_t thread)
{
    void *result = NULL;
    CHECK_EQ(pthread_join(thread, &result), 0);
    return result;
}

/* ---- the lock ---- */

LK_TEST(test_try_takes_a_free_lock_and_no_other)
{
    lk_lock lock;
    lk_lock_init(&lock);
    CHECK(!lk_lock_is_held(&lock));
    CHECK(lk_lock_try(&lock));
    CHECK(lk_lock_is_held(&lock));
    CHECK(!lk_lock_try(&lock));
    lk_lock_release(&lock);
    CHECK(!lk_lock_is_held(&lock));
    lk_lock_acquire(&lock);
    CHECK(!lk_lock_try(&lock));
    lk_lock_release(&lock);
    lk_lock_deinit(&lock);
}

typedef struct counted {
    lk_lock lock;
    uint64_t count; /* guarded by lock */
    uint64_t rounds;
    bool yields;
} counted;

static void *count_up(void *arg)
{
    counted *c = arg;
    for (uint64_t i = 0; i < c->rounds; i++) {
        if ((i & 1) != 0 && !lk_lock_try(&c->lock)) {
            lk_lock_slow(&c->lock);
        } else if ((i & 1) == 0) {
            lk_lock_acquire(&c->lock);
        }
        uint64_t before = c->count;
        if (c->yields && i % 16 == 0) (void)sched_yield(); /* holders that lose their processor */
        c->count = before + 1;
        lk_lock_release(&c->lock);
    }
    return NULL;
}

static void count_with_threads(uint64_t rounds, bool yields)
{
    counted c = {.rounds = rounds, .yields = yields};
    pthread_t threads[THREADS];
    lk_lock_init(&c.lock);
    for (int i = 0; i < THREADS; i++) threads[i] = start(count_up, &c);
    for (int i = 0; i < THREADS; i++) (void)join(threads[i]);
    CHECK_EQ(c.count, THREADS * rounds);
    CHECK(!lk_lock_is_held(&c.lock));
    lk_lock_deinit(&c.lock);
}

LK_TEST(test_lock_excludes_short_sections) { count_with_threads(50000, false); }

LK_TEST(test_lock_loses_no_wakeup_when_holders_are_slow) { count_with_threads(2000, true); }

LK_TEST(test_a_waiter_sleeps_until_the_lock_is_released)
{
    counted c = {.rounds = 1};
    lk_lock_init(&c.lock);
    lk_lock_acquire(&c.lock);
    pthread_t thread = start(count_up, &c);
    sleep_ms(20);
    CHECK_EQ(c.count, 0);
    CHECK_EQ(atomic_load(&c.lock.state), LK_LOCK_CONTENDED);
    lk_lock_release(&c.lock);
    (void)join(thread);
    CHECK_EQ(c.count, 1);
    lk_lock_deinit(&c.lock);
}

/* ---- events ---- */

LK_TEST(test_an_event_that_does_not_happen_times_out)
{
    lk_event event;
    lk_event_init(&event);
    uint64_t start_ns = now_ns();
    CHECK(!lk_event_wait_ns(&event, lk_event_generation(&event), 20000000));
    CHECK(now_ns() - start_ns >= 20000000);
    CHECK(!lk_event_wait_ns(&event, lk_event_generation(&event), 0));
    lk_event_deinit(&event);
}

LK_TEST(test_an_event_between_look_and_wait_is_not_missed)
{
    lk_event event;
    lk_event_init(&event);
    uint64_t seen = lk_event_generation(&event);
    lk_event_signal(&event);
    CHECK(lk_event_wait_ns(&event, seen, LK_EVENT_FOREVER));
    CHECK_EQ(lk_event_generation(&event), seen + 1);
    lk_event_broadcast(&event);
    CHECK(lk_event_wait_ns(&event, seen + 1, 1000000000));
    lk_event_deinit(&event);
}

typedef struct queue {
    lk_event event;
    atomic_uint made, taken;
    atomic_bool is_over;
} queue;

static void *take(void *arg)
{
    queue *q = arg;
    for (;;) {
        uint64_t seen = lk_event_generation(&q->event);
        unsigned taken = atomic_load(&q->taken);
        if (taken < atomic_load(&q->made)) {
            (void)atomic_compare_exchange_strong(&q->taken, &taken, taken + 1);
        } else if (atomic_load(&q->is_over)) {
            return NULL;
        } else {
            (void)lk_event_wait_ns(&q->event, seen, LK_EVENT_FOREVER);
        }
    }
}

LK_TEST(test_consumers_take_all_and_end_at_the_broadcast)
{
    static queue q;
    pthread_t threads[THREADS];
    lk_event_init(&q.event);
    for (int i = 0; i < THREADS; i++) threads[i] = start(take, &q);
    for (unsigned i = 0; i < 5000; i++) {
        atomic_fetch_add(&q.made, 1);
        lk_event_signal(&q.event);
        if (i % 512 == 0) sleep_ms(1); /* so that all of them sleep now and then */
    }
    atomic_store(&q.is_over, true);
    lk_event_broadcast(&q.event);
    for (int i = 0; i < THREADS; i++) (void)join(threads[i]);
    CHECK_EQ(atomic_load(&q.taken), 5000);
    lk_event_deinit(&q.event);
}

/* ---- threads ---- */

static void *look_at_signals(void *arg)
{
    sigset_t *set = arg;
    CHECK_EQ(pthread_sigmask(SIG_SETMASK, NULL, set), 0);
    return arg;
}

LK_TEST(test_a_thread_takes_no_signals_but_its_own_faults)
{
    sigset_t inside, before, after;
    CHECK_EQ(pthread_sigmask(SIG_SETMASK, NULL, &before), 0);
    CHECK(join(start(look_at_signals, &inside)) == &inside);
    const int blocked[] = {SIGINT, SIGTERM, SIGALRM, SIGCHLD, SIGUSR1, SIGPROF};
    const int open[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    for (size_t i = 0; i < sizeof blocked / sizeof *blocked; i++) {
        CHECK_EQ(sigismember(&inside, blocked[i]), 1);
    }
    for (size_t i = 0; i < sizeof open / sizeof *open; i++) {
        CHECK_EQ(sigismember(&inside, open[i]), 0);
    }
    CHECK_EQ(pthread_sigmask(SIG_SETMASK, NULL, &after), 0);
    CHECK_EQ(sigismember(&after, SIGINT), sigismember(&before, SIGINT));
}

#if defined(__linux__)
static void *read_name(void *out)
{
    CHECK_EQ(pthread_getname_np(pthread_self(), out, 16), 0);
    return NULL;
}

LK_TEST(test_a_thread_has_its_name_cut_to_what_fits)
{
    char name[16] = "";
    lk_error err;
    pthread_t thread;
    CHECK_OK(lk_thread_start(read_name, name, &thread, "lsmkit-compaction", &err), &err);
    (void)join(thread);
    CHECK_STR_EQ(name, "lsmkit-compacti");
}
#endif
