/* test_thread_changes.c: whoever follows the log gets every change once and in order, while segments
 * fill, are flushed, become history, and are dropped.
 *
 * Method: writers count up; a follower from the beginning compares, one that is slow and reads without a
 * history restarts where it was lost. Under the thread sanitizer too.
 */
#include "harness.h"

#include "changes.h"
#include "store_fixture.h"

enum { WRITERS = 2, WRITES = 4000 };

static void *write_run(void *arg)
{
    lk_store *s = arg;
    char key[16];
    for (int i = 0; i < WRITES; i++) {
        (void)snprintf(key, sizeof key, "%d", i);
        store_put(s, 0, key, "some value of some length");
    }
    return NULL;
}

/* From `since` to the last change of all writers; true: all of them, false: it was lost. */
static bool follow(lk_store *s, uint64_t *since, size_t at_a_time)
{
    lk_error err;
    lk_changes *c;
    lk_change some[100];
    lk_status st = lk_changes_open(s, *since, 0, (lk_bytes){NULL, 0}, true, &c, &err);
    while (st == LK_OK && *since < WRITERS * WRITES) {
        size_t n;
        bool end;
        CHECK_OK(lk_store_enter(s, &err), &err);
        st = lk_changes_next(c, some, at_a_time, &n, &end, &err);
        if (st == LK_OK && end && n == 0) (void)lk_changes_wait(c, 1000000000);
        lk_store_leave(s);
        for (size_t i = 0; st == LK_OK && i < n; i++) {
            CHECK(some[i].seq == *since + 1 || *since == 0);
            CHECK_EQ(some[i].value.len, 25);
            *since = some[i].seq;
        }
    }
    if (st != LK_OK) CHECK_EQ(st, LK_LOST);
    if (st != LK_OK) *since = err.expected - 1;
    lk_changes_close(c);
    return st == LK_OK;
}

static void *follow_run(void *arg)
{
    lk_store *s = arg;
    uint64_t since = 0;
    while (!follow(s, &since, s->history.bytes_max > 0 ? 100 : 3)) {
        CHECK(s->history.bytes_max < (1 << 20));
    }
    CHECK_EQ(since, WRITERS * WRITES);
    return NULL;
}

static void run(uint64_t budget)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 16384);
    o.retain_log_bytes = budget;
    lk_store *s = store_open(sim, &o);
    pthread_t threads[WRITERS + 2];
    for (int i = 0; i < WRITERS + 2; i++) {
        CHECK_EQ(pthread_create(&threads[i], NULL, i < WRITERS ? write_run : follow_run, s), 0);
    }
    for (int i = 0; i < WRITERS + 2; i++) CHECK_EQ(pthread_join(threads[i], NULL), 0);
    store_close(s);
    lk_sim_free(sim);
}

LK_TEST(a_follower_misses_nothing_that_is_kept) { run(1 << 30); }

LK_TEST(a_follower_who_falls_behind_is_told) { run(2 * 16384); }

LK_TEST(the_log_alone_can_be_followed) { run(0); }
