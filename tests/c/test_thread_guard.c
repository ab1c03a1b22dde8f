/* lk_guard_sync returns only when every section that was open when it was called has ended, and
 * does return: so a pointer that was replaced before it may be freed after it.
 *
 * Method: readers follow a shared pointer inside sections while updaters replace it and free what
 * it pointed to. The thread and address sanitizers see a reader that is left behind; without them
 * the readers see the poison that updaters leave.
 */
#include <sched.h>

#include "guard.h"
#include "harness.h"
#include "lock.h"

enum { READERS = 3, UPDATERS = 2 };

static const uint64_t ALIVE = 0x600D600D600D600Du, POISON = 0xDEADDEADDEADDEADu;

typedef struct thing {
    uint64_t mark;
    uint64_t twice; /* 2 * mark */
} thing;

typedef struct shared {
    lk_guard guard;
    _Atomic(thing *) current;
    atomic_bool is_over;
    atomic_uint rounds_left;
    atomic_ullong sections;
} shared;

static thing *thing_new(void)
{
    thing *t = malloc(sizeof *t);
    CHECK(t != NULL);
    *t = (thing){.mark = ALIVE, .twice = 2 * ALIVE};
    return t;
}

static pthread_t start(void *(*run)(void *), void *arg)
{
    lk_error err;
    pthread_t thread;
    CHECK_OK(lk_thread_start(run, arg, &thread, "test", &err), &err);
    return thread;
}

static void *follow(void *arg)
{
    shared *s = arg;
    unsigned long long sections = 0;
    while (!atomic_load(&s->is_over)) {
        unsigned outer = lk_guard_enter(&s->guard);
        const thing *t = atomic_load_explicit(&s->current, memory_order_acquire);
        CHECK_EQ(t->mark, ALIVE);
        if (sections % 8 == 0) (void)sched_yield(); /* updaters go on meanwhile */
        unsigned inner = lk_guard_enter(&s->guard);
        const thing *u = atomic_load_explicit(&s->current, memory_order_acquire);
        CHECK_EQ(u->twice, 2 * ALIVE);
        lk_guard_exit(&s->guard, outer); /* sections may overlap as they like */
        CHECK_EQ(u->mark, ALIVE);
        lk_guard_exit(&s->guard, inner);
        sections++;
    }
    atomic_fetch_add(&s->sections, sections);
    return NULL;
}

static void *replace(void *arg)
{
    shared *s = arg;
    while (atomic_fetch_sub(&s->rounds_left, 1) > UPDATERS) {
        thing *before = atomic_exchange_explicit(&s->current, thing_new(), memory_order_acq_rel);
        lk_guard_sync(&s->guard);
        /* Plain stores: a race with any reader is a report of the thread sanitizer. */
        before->mark = POISON;
        before->twice = POISON;
        free(before);
    }
    return NULL;
}

LK_TEST(test_what_readers_hold_is_freed_only_after_they_left)
{
    shared *s = calloc(1, sizeof *s); /* malloc's alignment is enough */
    pthread_t readers[READERS], updaters[UPDATERS];
    CHECK(s != NULL);
    lk_guard_init(&s->guard);
    atomic_store(&s->current, thing_new());
    atomic_store(&s->rounds_left, 1500);
    for (int i = 0; i < READERS; i++) readers[i] = start(follow, s);
    for (int i = 0; i < UPDATERS; i++) updaters[i] = start(replace, s);
    for (int i = 0; i < UPDATERS; i++) CHECK_EQ(pthread_join(updaters[i], NULL), 0);
    atomic_store(&s->is_over, true);
    for (int i = 0; i < READERS; i++) CHECK_EQ(pthread_join(readers[i], NULL), 0);
    CHECK(atomic_load(&s->sections) > 0);
    free(atomic_load(&s->current));
    lk_guard_deinit(&s->guard);
    free(s);
}

typedef struct waiting {
    lk_guard guard;
    atomic_bool is_back;
} waiting;

static void *sync_once(void *arg)
{
    waiting *w = arg;
    lk_guard_sync(&w->guard);
    atomic_store(&w->is_back, true);
    return NULL;
}

static void sleep_ms(long ms)
{
    struct timespec span = {.tv_sec = 0, .tv_nsec = ms * 1000000};
    CHECK_EQ(nanosleep(&span, NULL), 0);
}

LK_TEST(test_sync_waits_for_open_sections)
{
    static waiting w;
    lk_guard_init(&w.guard);
    lk_guard_sync(&w.guard); /* nobody inside: returns */
    unsigned early = lk_guard_enter(&w.guard);
    pthread_t thread = start(sync_once, &w);
    sleep_ms(20);
    unsigned late = lk_guard_enter(&w.guard);
    CHECK(late != early);
    CHECK(!atomic_load(&w.is_back));
    lk_guard_exit(&w.guard, early);
    /* The second of its two waits is for the parity on which `late` began. */
    sleep_ms(5);
    lk_guard_exit(&w.guard, late);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK(atomic_load(&w.is_back));
    lk_guard_deinit(&w.guard);
}

/* A reader that has read the epoch and not yet counted itself in while a whole grace period passes:
 * the next one must wait for it all the same. Played by counting in by hand on the old parity. */
LK_TEST(test_sync_waits_for_a_reader_that_counted_itself_in_late)
{
    for (unsigned parity = 0; parity < 2; parity++) {
        static waiting w;
        lk_guard_init(&w.guard);
        atomic_store(&w.is_back, false);
        lk_guard_sync(&w.guard);
        atomic_fetch_add(&w.guard.counts[parity].inside, 1);
        pthread_t thread = start(sync_once, &w);
        sleep_ms(20);
        CHECK(!atomic_load(&w.is_back));
        lk_guard_exit(&w.guard, parity);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        lk_guard_deinit(&w.guard);
    }
}

static void *enter(void *arg) { return (void *)(uintptr_t)lk_guard_enter(arg); }

LK_TEST(test_a_section_may_end_in_another_thread_and_stripes_differ)
{
    static lk_guard guard;
    unsigned stripes = 0;
    lk_guard_init(&guard);
    for (unsigned i = 0; i < LK_GUARD_STRIPES; i++) {
        void *token = NULL;
        CHECK_EQ(pthread_join(start(enter, &guard), &token), 0);
        stripes |= 1u << ((uintptr_t)token / 2);
        lk_guard_exit(&guard, (unsigned)(uintptr_t)token);
    }
    CHECK_EQ(stripes, (1u << LK_GUARD_STRIPES) - 1);
    lk_guard_sync(&guard);
    lk_guard_deinit(&guard);
}
