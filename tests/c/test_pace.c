/* test_pace.c: writers are slowed as the room of the log shrinks, and stop only when it is used up.
 *
 * No flush runs here unless a test says so: the test holds what a flush needs, and says itself when one
 * has begun. Time is the simulated machine's.
 */
#include "harness.h"

#include "store_fixture.h"

#define SEGMENT_BYTES 262144u
#define VALUE_BYTES 1000u
#define FULL 0.999
#define MS UINT64_C(1000000)

typedef struct log_of {
    lk_sim *sim;
    lk_store *s;
    unsigned written;
} log_of;

static void log_open(log_of *l)
{
    *l = (log_of){.sim = lk_sim_new(lk_test_seed())};
    lk_store_options o = store_options(true, SEGMENT_BYTES);
    l->s = store_open(l->sim, &o);
    lk_store_flush_claim(l->s);
}

static void log_close(log_of *l)
{
    lk_store_flush_release(l->s);
    store_close(l->s);
    lk_sim_free(l->sim);
}

static lk_status log_write(log_of *l, uint64_t timeout_ns)
{
    uint8_t value[VALUE_BYTES], body[VALUE_BYTES + 64];
    uint8_t key[4];
    lk_error err;
    lk_store32(key, l->written);
    memset(value, 'v', sizeof value);
    uint8_t *end = lk_record_write(body, 0, LK_KIND_PUT, key, sizeof key, value, sizeof value);
    lk_write w = {
        .body = body, .body_bytes = (uint64_t)(end - body), .records = 1, .timeout_ns = timeout_ns};
    lk_status st = lk_store_write(l->s, &w, &err);
    if (st == LK_OK) l->written++;
    CHECK(st == LK_OK || (st == LK_BUSY && err.offset > 0));
    return st;
}

static uint64_t log_bytes(const log_of *l) { return (uint64_t)l->written * VALUE_BYTES; }

/* Flushes of a segment have taken so long lately; beside it, what calls take is nothing. */
static void flushes_took(log_of *l, uint64_t ns)
{
    lk_env *env = lk_sim_env(l->sim);
    for (int i = 0; i < 10; i++) {
        lk_pace_flush_began(l->s, lk_env_now_ns(env), SEGMENT_BYTES);
        lk_sim_advance(l->sim, ns);
        lk_pace_flush_ended(l->s, lk_env_now_ns(env), true);
    }
}

static void flush_begins(log_of *l)
{
    lk_pace_flush_began(l->s, lk_env_now_ns(lk_sim_env(l->sim)), SEGMENT_BYTES);
}

/* Writes until so much is written or the log is full, letting time pass where the store wants that:
 * how much it was. */
static uint64_t log_fill(log_of *l, uint64_t bytes)
{
    uint64_t slept = 0;
    while (log_bytes(l) < bytes && lk_store_pressure(l->s) < FULL) {
        if (log_write(l, 0) == LK_OK) continue;
        lk_sim_advance(l->sim, MS);
        slept += MS;
    }
    return slept;
}

LK_TEST(a_log_that_waits_for_no_flush_slows_nobody)
{
    log_of l;
    log_open(&l);
    CHECK_EQ(log_fill(&l, SEGMENT_BYTES / 2), 0);
    CHECK(lk_store_pressure(l.s) == 0);
    log_close(&l);
}

LK_TEST(the_room_is_spread_evenly_over_the_flush)
{
    log_of l;
    log_open(&l);
    flushes_took(&l, 1000 * MS);
    log_fill(&l, SEGMENT_BYTES + SEGMENT_BYTES / 8);
    flush_begins(&l);
    uint64_t first = log_fill(&l, 2 * SEGMENT_BYTES);
    uint64_t second = log_fill(&l, 3 * SEGMENT_BYTES);
    CHECK(first > 300 * MS && first < 600 * MS);
    CHECK(second > 400 * MS && second < 700 * MS);
    log_close(&l);
}

LK_TEST(the_room_outlasts_a_flush_that_is_late_while_pressure_rises)
{
    log_of l;
    log_open(&l);
    flushes_took(&l, 1000 * MS);
    log_fill(&l, SEGMENT_BYTES + SEGMENT_BYTES / 8);
    flush_begins(&l);
    double last = lk_store_pressure(l.s);
    CHECK(last < 0.2);
    for (int i = 0; i < 2500; i++) {
        while (log_write(&l, 0) == LK_OK) continue;
        lk_sim_advance(l.sim, MS);
        double now = lk_store_pressure(l.s);
        CHECK(now >= last - 0.02);
        last = now;
    }
    CHECK(lk_store_frozen(l.s) == 3); /* it was used, */
    CHECK(last < FULL);               /* not up, */
    CHECK(last > 0.9);                /* and writers are slow by now */
    log_close(&l);
}

LK_TEST(a_log_that_is_full_refuses_and_goes_on_after_its_flush)
{
    log_of l;
    lk_error err;
    log_open(&l);
    log_fill(&l, UINT64_MAX);
    for (int i = 0; i < 1000; i++) {
        (void)log_write(&l, 0);
        lk_sim_advance(l.sim, 1000 * MS);
    }
    CHECK_EQ(log_write(&l, 0), LK_BUSY); /* however long one has waited */
    lk_store_flush_release(l.s);
    CHECK_EQ(log_write(&l, UINT64_MAX), LK_OK);
    CHECK_OK(lk_store_flush(l.s, &err), &err);
    CHECK(lk_store_pressure(l.s) == 0);
    lk_store_flush_claim(l.s);
    log_close(&l);
}

/* Else a writer would wait ever longer, and never hear what is wrong. */
LK_TEST(a_flush_that_fails_slows_nobody)
{
    log_of l;
    log_open(&l);
    flushes_took(&l, 1000 * MS);
    log_fill(&l, SEGMENT_BYTES + SEGMENT_BYTES / 8);
    flush_begins(&l);
    log_fill(&l, 2 * SEGMENT_BYTES);
    lk_pace_flush_ended(l.s, lk_env_now_ns(lk_sim_env(l.sim)), false);
    CHECK(lk_store_pressure(l.s) == 0);
    CHECK_EQ(log_fill(&l, 3 * SEGMENT_BYTES), 0);
    log_close(&l);
}
