/* test_store.c: a store does what it says, through rotations, flushes, compactions and reopenings, and
 * when calls of the operating system fail.
 *
 * Method: stores with tiny segments on a simulated machine. Where calls fail, the workload is run
 * again and again, with another call failing each time; what was acknowledged is a plain list.
 */
#include "harness.h"

#include <errno.h>

#include "store_fixture.h"

static void both_backings(void (*run)(bool mapped))
{
    run(true);
    run(false);
}

static const char *text(char *out, size_t room, const char *format, unsigned n)
{
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    (void)snprintf(out, room, format, n);
#pragma GCC diagnostic pop
    return out;
}

/* key<i> -> a value that names i and the round, long enough that some thirty fill a segment. */
static void put_numbered(lk_store *s, uint32_t tree, unsigned i, unsigned round)
{
    char key[32], value[160];
    (void)snprintf(value, sizeof value, "value %u of round %u %0100d", i, round, 0);
    store_put(s, tree, text(key, sizeof key, "key%05u", i), value);
}

static void check_numbered(lk_store *s, uint32_t tree, unsigned i, unsigned round)
{
    char key[32], value[160];
    (void)snprintf(value, sizeof value, "value %u of round %u %0100d", i, round, 0);
    store_check(s, tree, text(key, sizeof key, "key%05u", i), value);
}

/* ---- opening and closing ---- */

static lk_status try_open(lk_sim *sim, const lk_store_options *o, lk_error *err)
{
    lk_store *s;
    lk_status st = lk_store_open(lk_sim_env(sim), STORE_DIR, o, &s, err);
    CHECK((st == LK_OK) == (s != NULL));
    if (st == LK_OK) store_close(s);
    return st;
}

LK_TEST(a_store_is_made_found_and_refused_as_the_options_say)
{
    lk_sim *sim = lk_sim_new(1);
    lk_store_options o = store_options(true, 65536);
    lk_error err;
    o.create_if_missing = false;
    CHECK_EQ(try_open(sim, &o, &err), LK_NOT_FOUND);
    o.create_if_missing = true;
    o.read_only = true;
    CHECK_EQ(try_open(sim, &o, &err), LK_NOT_FOUND);
    o.read_only = false;
    CHECK_OK(try_open(sim, &o, &err), &err);
    CHECK_OK(try_open(sim, &o, &err), &err);
    o.error_if_exists = true;
    CHECK_EQ(try_open(sim, &o, &err), LK_EXISTS);
    o.error_if_exists = false;
    o.segment_bytes = 4095;
    CHECK_EQ(try_open(sim, &o, &err), LK_INVALID);
    o.segment_bytes = (uint64_t)LK_SEGMENT_BYTES_MAX + 1;
    CHECK_EQ(try_open(sim, &o, &err), LK_INVALID);
    lk_sim_free(sim);
}

LK_TEST(a_store_has_one_owner)
{
    lk_sim *sim = lk_sim_new(1);
    lk_store_options o = store_options(true, 65536);
    lk_error err;
    lk_store *s = store_open(sim, &o);
    CHECK_EQ(try_open(sim, &o, &err), LK_LOCKED);
    CHECK_EQ(err.found, (uint64_t)getpid());
    store_put(s, 0, "a", "1");
    store_check(s, 0, "a", "1");
    store_close(s);
    CHECK_OK(try_open(sim, &o, &err), &err);
    lk_sim_free(sim);
}

LK_TEST(a_closed_store_refuses_and_may_be_closed_again)
{
    lk_sim *sim = lk_sim_new(1);
    lk_store_options o = store_options(true, 65536);
    lk_error err;
    unsigned token;
    lk_store *s = store_open(sim, &o);
    store_put(s, 0, "a", "1");
    CHECK_OK(lk_store_close(s, &err), &err);
    CHECK_EQ(store_write(s, 0, "b", "2", LK_DURABILITY_PROCESS, &err), LK_CLOSED);
    CHECK(lk_store_read_begin(s, &token) == NULL);
    CHECK_OK(lk_store_close(s, &err), &err);
    lk_store_free(s);
    CHECK_EQ(store_count_files(sim, ".log"), 0);
    lk_sim_free(sim);
}

/* Files without CURRENT are not leftovers to be swept away. */
LK_TEST(a_store_without_current_is_reported_and_left)
{
    lk_sim *sim = lk_sim_new(1);
    lk_store_options o = store_options(true, 65536);
    lk_error err;
    lk_store *s = store_open(sim, &o);
    store_put(s, 0, "a", "1");
    store_close(s);
    CHECK_OK(lk_env_rename(lk_sim_env(sim), "/s/CURRENT", "/s/AWAY", &err), &err);
    CHECK_EQ(try_open(sim, &o, &err), LK_CORRUPT);
    CHECK_OK(lk_env_rename(lk_sim_env(sim), "/s/AWAY", "/s/CURRENT", &err), &err);
    s = store_open(sim, &o);
    store_check(s, 0, "a", "1");
    store_close(s);
    lk_sim_free(sim);
}

/* ---- writing and reading ---- */

static void mixed_by(bool mapped)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(mapped, 16384);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    store_put(s, 0, "a", "1");
    store_put(s, 0, "b", "2");
    store_put(s, 7, "a", "of tree 7");
    store_put(s, 0, "a", "3");
    store_put(s, 0, "b", NULL);
    store_put(s, 0, "", "of the empty key");
    store_put(s, 0, "c", "");
    store_op ops[] = {{0, "x", "1", NULL},
                      {7, "x", "2", NULL},
                      {0, "x", "3", NULL},
                      {7, "y", "4", NULL},
                      {7, "y", NULL, NULL}};
    CHECK_OK(store_batch(s, ops, 5, LK_DURABILITY_PROCESS, &err), &err);
    for (int round = 0; round < 4; round++) {
        store_check(s, 0, "a", "3");
        store_check(s, 0, "b", NULL);
        store_check(s, 7, "a", "of tree 7");
        store_check(s, 7, "b", NULL);
        store_check(s, 0, "", "of the empty key");
        store_check(s, 0, "c", "");
        store_check(s, 0, "x", "3");
        store_check(s, 7, "x", "2");
        store_check(s, 7, "y", NULL);
        if (round == 0) store_flush(s);
        if (round == 1) {
            store_close(s);
            s = store_open(sim, &o);
        }
        if (round == 2) {
            store_kill(sim, s);
            s = store_open(sim, &o);
        }
    }
    store_close(s);
    lk_sim_free(sim);
}

LK_TEST(writes_are_read_back_from_log_tables_and_after_reopening) { both_backings(mixed_by); }

typedef struct rows_seen {
    unsigned count;
    bool reverse;
    char last[32];
} rows_seen;

static void see_row(void *context, const lk_pair *pair)
{
    rows_seen *seen = context;
    char key[32] = "";
    memcpy(key, pair->key.data, pair->key.len);
    int order = strcmp(key, seen->last);
    CHECK(seen->count == 0 || (seen->reverse ? order < 0 : order > 0));
    memcpy(seen->last, key, sizeof key);
    seen->count++;
}

LK_TEST(a_scan_sees_log_and_tables_together)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 16384);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    for (unsigned i = 0; i < 300; i++) put_numbered(s, 1, i * 7 % 300, 1);
    store_flush(s);
    for (unsigned i = 0; i < 300; i += 3) put_numbered(s, 1, i, 2);
    for (unsigned i = 0; i < 300; i += 10) {
        char key[32];
        store_put(s, 1, text(key, sizeof key, "key%05u", i), NULL);
    }
    for (int reverse = 0; reverse < 2; reverse++) {
        rows_seen seen = {.reverse = reverse != 0};
        uint64_t rows;
        CHECK_OK(store_scan(s, 1, UINT64_MAX - 1, reverse != 0, see_row, &seen, &rows, &err), &err);
        CHECK_EQ(rows, 270);
    }
    store_close(s);
    lk_sim_free(sim);
}

/* ---- segments ---- */

static void tiny_by(bool mapped)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(mapped, LK_SEGMENT_BYTES_MIN);
    o.frozen_max = 2;
    lk_store *s = store_open(sim, &o);
    unsigned rounds = 0;
    for (; atomic_load(&s->counters.rotations) < 2000; rounds++) {
        for (unsigned i = 0; i < 20; i++) put_numbered(s, i % 3, i, rounds);
        if (rounds % 100 == 0) {
            lk_status st;
            for (unsigned i = 0; i < 20; i++) check_numbered(s, i % 3, i, rounds);
            for (unsigned t = 0; t < 3; t++) (void)store_compact(s, t, &st);
        }
    }
    for (unsigned i = 0; i < 20; i++) check_numbered(s, i % 3, i, rounds - 1);
    /* Live ones, a spare, some that wait for their next use. */
    CHECK(store_count_files(sim, ".log") < 12);
    store_kill(sim, s);
    s = store_open(sim, &o);
    for (unsigned i = 0; i < 20; i++) check_numbered(s, i % 3, i, rounds - 1);
    store_close(s);
    CHECK_EQ(store_count_files(sim, ".log"), 0);
    lk_sim_free(sim);
}

LK_TEST(thousands_of_tiny_segments_pass_through) { both_backings(tiny_by); }

/* Blocks of a log file are taken once, and its memory too. */
LK_TEST(segments_are_recycled)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 16384);
    lk_store *s = store_open(sim, &o);
    for (unsigned i = 0; atomic_load(&s->counters.rotations) < 200; i++) {
        put_numbered(s, 0, i % 50, i);
        if (i % 100 == 0) store_flush(s);
    }
    CHECK(lk_sim_calls_of(sim, LK_SIM_RENAME) > 50);
    store_close(s);
    lk_sim_free(sim);
}

/* A store of synced writes makes the blocks of its files ahead of its writers, piece by piece. */
static void filled_by(bool mapped)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(mapped, 3 << 20);
    o.durability = LK_DURABILITY_SYNC;
    lk_store *s = store_open(sim, &o);
    lk_error err;
    char value[STORE_VALUE_MAX];
    memset(value, 'v', sizeof value - 1);
    value[sizeof value - 1] = 0;
    for (unsigned i = 0; i < 2000; i++) { /* 8 MB: the writer is faster than the fill */
        char key[32];
        text(key, sizeof key, "key%05u", i);
        lk_durability d = i % 500 == 0 ? LK_DURABILITY_SYNC : LK_DURABILITY_PROCESS;
        CHECK_OK(store_write(s, 0, key, value, d, &err), &err);
        lk_lock_acquire(&s->write_lock);
        CHECK(s->active->tail <= atomic_load(&s->active->filled));
        lk_lock_release(&s->write_lock);
    }
    for (unsigned i = 0; i < 2000; i++) {
        char key[32];
        store_check(s, 0, text(key, sizeof key, "key%05u", i), value);
    }
    store_kill(sim, s);
    s = store_open(sim, &o);
    for (unsigned i = 0; i < 2000; i++) {
        char key[32];
        store_check(s, 0, text(key, sizeof key, "key%05u", i), value);
    }
    store_close(s);
    lk_sim_free(sim);
}

LK_TEST(files_are_filled_ahead_of_synced_writes) { both_backings(filled_by); }

static void oversized_by(bool mapped)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(mapped, 4096);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    enum { BIG = 100000 };
    uint8_t *big = malloc(BIG);
    CHECK(big != NULL);
    memset(big, 'x', BIG);
    for (unsigned i = 0; i < 12; i++) {
        char key[32];
        lk_bytes k = {(const uint8_t *)text(key, sizeof key, "big%u", i), 0};
        lk_bytes v = {big, BIG - i};
        k.len = strlen(key);
        lk_column keys = {.form = LK_COLUMN_SPANS, .count = 1, .spans = &k};
        lk_column values = {.form = LK_COLUMN_SPANS, .count = 1, .spans = &v};
        lk_write w = {.timeout_ns = UINT64_MAX,
                      .kind = LK_KIND_PUT,
                      .keys = &keys,
                      .values = &values,
                      .records = 1};
        w.durability = i % 3 == 0 ? LK_DURABILITY_SYNC : LK_DURABILITY_PROCESS;
        CHECK_OK(lk_store_write(s, &w, &err), &err);
        put_numbered(s, 0, i, 1);
        put_numbered(s, 0, i, 2);
    }
    store_kill(sim, s);
    s = store_open(sim, &o);
    for (unsigned i = 0; i < 12; i++) {
        char key[32];
        check_numbered(s, 0, i, 2);
        const uint8_t *k = (const uint8_t *)text(key, sizeof key, "big%u", i);
        lk_view *v = lk_store_view(s);
        lk_answer a;
        lk_block *block;
        lk_lookup found;
        CHECK_OK(lk_view_fetch(v, &s->guard, 0, k, strlen(key), lk_hash_key(0, k, strlen(key)),
                               UINT64_MAX - 1, &found, &a, &block, &err),
                 &err);
        CHECK_EQ(found, LK_LOOKUP_VALUE);
        CHECK_EQ(a.value.len, BIG - i);
        CHECK_MEM_EQ(a.value.data, big, a.value.len);
        lk_block_unref(block);
        lk_view_unref(v);
    }
    lk_bytes huge = {big, LK_SEGMENT_BYTES_MAX};
    lk_write w = {
        .timeout_ns = UINT64_MAX, .body = huge.data, .body_bytes = huge.len, .records = 1};
    CHECK_EQ(lk_store_write(s, &w, &err), LK_INVALID);
    free(big);
    store_close(s);
    lk_sim_free(sim);
}

LK_TEST(a_write_larger_than_a_segment_gets_one_of_its_own) { both_backings(oversized_by); }

/* ---- snapshots ---- */

static void check_snapshot(lk_store *s, const lk_snapshot *snapshot, unsigned round)
{
    for (unsigned i = 0; i < 40; i++) {
        char key[32], value[160], found[STORE_VALUE_MAX];
        (void)snprintf(value, sizeof value, "value %u of round %u %0100d", i, round, 0);
        bool is_there =
            store_get_at(s, 0, text(key, sizeof key, "key%05u", i), snapshot->seq, found);
        CHECK_EQ(is_there, round > 0 && i % 10 != 9);
        if (is_there) CHECK_STR_EQ(found, value);
    }
    rows_seen seen = {.reverse = false};
    uint64_t rows;
    lk_error err;
    CHECK_OK(store_scan(s, 0, snapshot->seq, false, see_row, &seen, &rows, &err), &err);
    CHECK_EQ(rows, round > 0 ? 36 : 0);
}

/* Each round overwrites all keys and deletes a tenth of them; a snapshot is taken after each. */
static void snapshots_by(bool mapped)
{
    enum { ROUNDS = 5 };
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(mapped, 16384);
    lk_store *s = store_open(sim, &o);
    lk_snapshot *snapshots[ROUNDS + 1];
    lk_error err;
    lk_status st;
    CHECK_OK(lk_store_snapshot(s, &snapshots[0], &err), &err);
    for (unsigned round = 1; round <= ROUNDS; round++) {
        for (unsigned i = 0; i < 40; i++) {
            char key[32];
            put_numbered(s, 0, i, round);
            put_numbered(s, 0, i, round); /* a version that no snapshot sees */
            if (i % 10 == 9) store_put(s, 0, text(key, sizeof key, "key%05u", i), NULL);
        }
        CHECK_OK(lk_store_snapshot(s, &snapshots[round], &err), &err);
        if (round % 2 == 0) store_flush(s);
        for (unsigned k = 0; k <= round; k++) check_snapshot(s, snapshots[k], k);
    }
    store_flush(s);
    for (unsigned k = 0; k <= ROUNDS; k++) check_snapshot(s, snapshots[k], k);
    CHECK(store_compact(s, 0, &st));
    CHECK_EQ(st, LK_OK);
    for (unsigned k = 0; k <= ROUNDS; k++) check_snapshot(s, snapshots[k], k);
    CHECK(store_table_rows(s, 0) >= ROUNDS * 36);
    CHECK(store_table_rows(s, 0) <= ROUNDS * 40);

    /* Two are left: what only the others saw may go. */
    for (unsigned k = 0; k <= ROUNDS; k++) {
        if (k != 2 && k != 4) lk_store_release(s, snapshots[k]);
    }
    put_numbered(s, 0, 0, ROUNDS);
    store_flush(s);
    CHECK(store_compact(s, 0, &st));
    CHECK_EQ(st, LK_OK);
    check_snapshot(s, snapshots[2], 2);
    check_snapshot(s, snapshots[4], 4);
    CHECK(store_table_rows(s, 0) <= 3 * 40 + 1);

    lk_store_release(s, snapshots[2]);
    lk_store_release(s, snapshots[4]);
    put_numbered(s, 0, 0, ROUNDS);
    store_flush(s);
    CHECK(store_compact(s, 0, &st));
    CHECK_EQ(st, LK_OK);
    CHECK_EQ(store_table_rows(s, 0), 36); /* the newest versions, and no deletes */
    for (unsigned i = 0; i < 40; i++) {
        char key[32];
        if (i % 10 != 9) check_numbered(s, 0, i, ROUNDS);
        if (i % 10 == 9) store_check(s, 0, text(key, sizeof key, "key%05u", i), NULL);
    }
    store_close(s);
    lk_sim_free(sim);
}

LK_TEST(snapshots_keep_their_versions_through_flush_and_compaction) { both_backings(snapshots_by); }

/* ---- durability ---- */

static void durable_by(bool mapped)
{
    lk_error err;
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(mapped, 16384);
    lk_store *s = store_open(sim, &o);
    for (unsigned i = 0; i < 100; i++) {
        char key[32];
        put_numbered(s, 0, i, 1);
        text(key, sizeof key, "sync%u", i);
        if (i % 10 == 9) CHECK_OK(store_write(s, 1, key, "x", LK_DURABILITY_SYNC, &err), &err);
    }
    lk_sim *copy = lk_sim_clone(sim);
    lk_sim_power_cut(copy, LK_SIM_LOSE_UNSYNCED, 1);
    lk_store *t = store_open(copy, &o);
    for (unsigned i = 0; i < 100; i++) check_numbered(t, 0, i, 1); /* the last of all was a sync */
    store_close(t);
    lk_sim_free(copy);

    put_numbered(s, 0, 100, 1);
    store_sync(s);
    /* A page that was synced is not written again. */
    lk_lock_acquire(&s->write_lock);
    CHECK(s->active->position % LK_PAGE_BYTES == 0 && s->active->tail % LK_PAGE_BYTES != 0);
    CHECK_EQ(s->active->synced, s->active->tail);
    lk_lock_release(&s->write_lock);
    uint64_t syncs = atomic_load(&s->counters.syncs);
    store_sync(s); /* nothing to do */
    CHECK_EQ(atomic_load(&s->counters.syncs), syncs);
    copy = lk_sim_clone(sim);
    lk_sim_power_cut(copy, LK_SIM_LOSE_UNSYNCED, 1);
    t = store_open(copy, &o);
    check_numbered(t, 0, 100, 1);
    store_close(t);
    lk_sim_free(copy);
    store_close(s);
    lk_sim_free(sim);
}

LK_TEST(what_was_synced_survives_a_power_cut) { both_backings(durable_by); }

/* The records of a segment that was frozen after a sync, and is not flushed yet. */
LK_TEST(a_sync_covers_what_waits_for_its_flush)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 65536);
    lk_store *s = store_open(sim, &o);
    uint64_t generation;
    put_numbered(s, 0, 1, 1);
    store_sync(s);
    put_numbered(s, 0, 2, 1);
    CHECK(lk_sim_fail_on(sim, LK_SIM_OPEN, ".sst", 1, EIO, true));
    lk_store_freeze(s, &generation);
    CHECK(generation != 0);
    store_sync(s);
    lk_sim *copy = lk_sim_clone(sim);
    lk_sim_power_cut(copy, LK_SIM_LOSE_UNSYNCED, 1);
    lk_store *t = store_open(copy, &o);
    check_numbered(t, 0, 1, 1);
    check_numbered(t, 0, 2, 1);
    store_close(t);
    lk_sim_free(copy);
    store_abandon(s);
    lk_sim_free(sim);
}

LK_TEST(the_periodic_sync_comes_by_itself)
{
    for (int by_call = 0; by_call < 2; by_call++) {
        lk_sim *sim = lk_sim_new(lk_test_seed());
        lk_store_options o = store_options(true, 65536);
        lk_error err;
        o.sync_interval_ms = 5;
        if (!by_call) o.durability = LK_DURABILITY_PERIODIC;
        lk_store *s = store_open(sim, &o);
        char key[32], value[160];
        (void)snprintf(value, sizeof value, "value %u of round %u %0100d", 1, 1, 0);
        put_numbered(s, 0, 0, 1);
        CHECK_OK(store_write(s, 0, text(key, sizeof key, "key%05u", 1), value,
                             by_call ? LK_DURABILITY_PERIODIC : LK_DURABILITY_PROCESS, &err),
                 &err);
        if (by_call) {
            /* A durability of its own goes the slow way, which is what notes it. */
            lk_bytes k = {(const uint8_t *)key, strlen(key)};
            lk_bytes v = {(const uint8_t *)value, strlen(value)};
            lk_column keys = {.form = LK_COLUMN_SPANS, .count = 1, .spans = &k};
            lk_column values = {.form = LK_COLUMN_SPANS, .count = 1, .spans = &v};
            lk_write w = {.timeout_ns = UINT64_MAX,
                          .kind = LK_KIND_PUT,
                          .keys = &keys,
                          .values = &values,
                          .records = 1,
                          .durability = LK_DURABILITY_PERIODIC};
            CHECK_OK(lk_store_write(s, &w, &err), &err);
        }
        for (int i = 0; i < 500 && atomic_load(&s->counters.syncs) == 0; i++) {
            lk_sim_advance(sim, 10000000);
            lk_event_signal(&s->keeper_event);
            usleep(2000);
        }
        CHECK(atomic_load(&s->counters.syncs) > 0);
        lk_sim_power_cut(sim, LK_SIM_LOSE_UNSYNCED, 1);
        store_abandon(s);
        s = store_open(sim, &o);
        check_numbered(s, 0, 1, 1);
        store_close(s);
        lk_sim_free(sim);
    }
}

/* ---- group commit ---- */

typedef struct committer {
    lk_store *store;
    pthread_t thread;
    unsigned number;
} committer;

enum { COMMITTERS = 4, COMMITS = 50 };

static void *commit_many(void *arg)
{
    const committer *c = arg;
    for (unsigned i = 0; i < COMMITS; i++) {
        char key[32];
        lk_error err;
        (void)snprintf(key, sizeof key, "of %u: %u", c->number, i);
        CHECK_OK(store_write(c->store, 0, key, "x", LK_DURABILITY_SYNC, &err), &err);
    }
    return NULL;
}

LK_TEST(concurrent_commits_share_their_syncs_and_are_all_durable)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 65536);
    lk_store *s = store_open(sim, &o);
    committer committers[COMMITTERS];
    for (unsigned i = 0; i < COMMITTERS; i++) {
        committers[i] = (committer){.store = s, .number = i};
        CHECK(pthread_create(&committers[i].thread, NULL, commit_many, &committers[i]) == 0);
    }
    for (unsigned i = 0; i < COMMITTERS; i++) CHECK(pthread_join(committers[i].thread, NULL) == 0);
    CHECK(atomic_load(&s->counters.syncs) > 0);
    lk_sim *copy = lk_sim_clone(sim);
    lk_sim_power_cut(copy, LK_SIM_LOSE_UNSYNCED, 1);
    lk_store *t = store_open(copy, &o);
    for (unsigned i = 0; i < COMMITTERS; i++) {
        for (unsigned k = 0; k < COMMITS; k++) {
            char key[32];
            (void)snprintf(key, sizeof key, "of %u: %u", i, k);
            store_check(t, 0, key, "x");
        }
    }
    store_close(t);
    lk_sim_free(copy);
    store_close(s);
    lk_sim_free(sim);
}

/* Rule 2 of the recovery verdict: a torn log is in tables before anything new is durable. */
LK_TEST(what_was_recovered_is_flushed_before_a_new_commit_returns)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 16384);
    lk_error err;
    lk_store *s = store_open(sim, &o);
    for (unsigned i = 0; i < 60; i++) put_numbered(s, 0, i, 1);
    store_kill(sim, s);
    s = store_open(sim, &o);
    CHECK_OK(store_write(s, 0, "new", "1", LK_DURABILITY_SYNC, &err), &err);
    CHECK_EQ(atomic_load(&s->recovered_left), 0);
    lk_sim *copy = lk_sim_clone(sim);
    lk_sim_power_cut(copy, LK_SIM_LOSE_UNSYNCED, 1);
    lk_store *t = store_open(copy, &o);
    store_check(t, 0, "new", "1");
    for (unsigned i = 0; i < 60; i++) check_numbered(t, 0, i, 1);
    store_close(t);
    lk_sim_free(copy);
    store_close(s);
    lk_sim_free(sim);
}

LK_TEST(no_commit_returns_while_what_was_recovered_cannot_be_flushed)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 16384);
    lk_error err;
    lk_store *s = store_open(sim, &o);
    for (unsigned i = 0; i < 60; i++) put_numbered(s, 0, i, 1);
    store_kill(sim, s);
    CHECK(lk_sim_fail_on(sim, LK_SIM_OPEN, ".sst", 1, EIO, true));
    s = store_open(sim, &o);
    CHECK_EQ(store_write(s, 0, "new", "1", LK_DURABILITY_SYNC, &err), LK_IO);
    CHECK(strstr(err.path, ".sst") != NULL);
    CHECK_EQ(lk_store_sync(s, &err), LK_IO);
    for (unsigned i = 0; i < 60; i++) check_numbered(s, 0, i, 1);
    lk_sim_clear_faults(sim);
    lk_status st = LK_IO;
    for (int i = 0; i < 200 && st != LK_OK; i++) {
        lk_sim_advance(sim, 300000000);
        usleep(5000);
        st = store_write(s, 0, "new", "2", LK_DURABILITY_SYNC, &err);
    }
    CHECK_OK(st, &err);
    store_close(s);
    lk_sim_free(sim);
}

/* ---- waiting ---- */

LK_TEST(a_writer_waits_no_longer_than_it_allows)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 4096);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    uint8_t body[2000], value[2000 - 11];
    memset(value, 'v', sizeof value);
    lk_record_write(body, 0, LK_KIND_PUT, value, 3, value, sizeof value);
    lk_write w = {.body = body, .body_bytes = sizeof body, .records = 1, .timeout_ns = 0};
    lk_store_set_rate(s, 0, true);
    lk_status st = LK_OK;
    unsigned written = 0;
    for (; st == LK_OK && written < 10; written++) st = lk_store_write(s, &w, &err);
    CHECK_EQ(st, LK_BUSY);
    CHECK(written <= 3);
    lk_store_set_rate(s, 0, false);
    w.timeout_ns = UINT64_MAX;
    CHECK_OK(lk_store_write(s, &w, &err), &err);
    store_close(s);
    lk_sim_free(sim);
}

/* ---- failures ---- */

/* A failed fdatasync: the kernel may have thrown away what it could not write. */
static void failed_sync_by(bool mapped)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(mapped, 65536);
    lk_error err;
    lk_store *s = store_open(sim, &o);
    for (unsigned i = 0; i < 20; i++) put_numbered(s, 0, i, 1);
    store_sync(s);
    for (unsigned i = 20; i < 40; i++) put_numbered(s, 0, i, 1);
    CHECK(lk_sim_fail_on(sim, LK_SIM_DATASYNC, ".log", 1, EIO, false));
    CHECK_EQ(store_write(s, 0, "new", "1", LK_DURABILITY_SYNC, &err), LK_IO);
    CHECK_EQ(err.sys_errno, EIO);
    lk_sim_evict(sim);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(store_write(s, 0, "other", "1", LK_DURABILITY_PROCESS, &err), LK_IO);
        CHECK_EQ(err.sys_errno, EIO);
        CHECK_EQ(lk_store_sync(s, &err), LK_IO);
    }
    for (unsigned i = 0; i < 40; i++) check_numbered(s, 0, i, 1); /* from the copies */
    lk_sim_power_cut(sim, LK_SIM_LOSE_UNSYNCED, 1);
    store_abandon(s);
    s = store_open(sim, &o);
    for (unsigned i = 0; i < 20; i++) check_numbered(s, 0, i, 1);
    CHECK_OK(store_write(s, 0, "new", "2", LK_DURABILITY_SYNC, &err), &err);
    store_check(s, 0, "new", "2");
    store_close(s);
    lk_sim_free(sim);
}

LK_TEST(a_failed_sync_makes_the_store_read_only_until_it_is_reopened)
{
    both_backings(failed_sync_by);
}

/* What a scripted workload has been told, key by key: the number of the write last acknowledged, and
 * of the one that failed after it, which may be in or out. */
enum { KEYS = 12, STEPS = 70 };

typedef struct told {
    unsigned acknowledged[KEYS], tried[KEYS];
    bool durable; /* all of it: the last call was a sync */
    unsigned errors;
} told;

static void workload_step(lk_store *s, told *t, unsigned step)
{
    char key[32], value[512];
    lk_error err;
    unsigned k = step * 5 % KEYS;
    (void)snprintf(key, sizeof key, "key%u", k);
    (void)snprintf(value, sizeof value, "%u %0300d", step, 0);
    lk_durability d = step % 9 == 8 ? LK_DURABILITY_SYNC : LK_DURABILITY_PROCESS;
    t->tried[k] = step;
    lk_status st = store_write(s, step % 2, key, value, d, &err);
    if (st == LK_OK) t->acknowledged[k] = step;
    t->errors += st != LK_OK;
    if (st != LK_OK) CHECK(st == LK_IO || st == LK_NOMEM);
    if (step % 25 == 24) t->errors += lk_store_flush(s, &err) != LK_OK;
}

static void workload_check(lk_store *s, const told *t)
{
    for (unsigned k = 0; k < KEYS; k++) {
        unsigned found[2] = {0, 0};
        char key[32], value[STORE_VALUE_MAX];
        (void)snprintf(key, sizeof key, "key%u", k);
        for (uint32_t tree = 0; tree < 2; tree++) {
            if (store_get_at(s, tree, key, UINT64_MAX - 1, value)) {
                found[tree] = (unsigned)strtoul(value, NULL, 10);
            }
        }
        unsigned newest = found[0] > found[1] ? found[0] : found[1];
        CHECK(newest >= t->acknowledged[k] && newest <= t->tried[k]);
    }
}

static void fail_one_call(bool mapped, lk_sim_op op, uint64_t nth, int why, bool sticky,
                          bool *out_struck)
{
    lk_sim *sim = lk_sim_new(7);
    lk_store_options o = store_options(mapped, 4096);
    told t = {.errors = 0};
    lk_error err;
    lk_store *s;
    uint64_t before = lk_sim_calls_of(sim, op);
    CHECK(lk_sim_fail(sim, op, nth, why, sticky));
    lk_status st = lk_store_open(lk_sim_env(sim), STORE_DIR, &o, &s, &err);
    if (st == LK_OK) {
        for (unsigned step = 1; step <= STEPS; step++) workload_step(s, &t, step);
        *out_struck = lk_sim_calls_of(sim, op) - before >= nth;
        lk_sim_clear_faults(sim);
        if (!*out_struck) CHECK_EQ(t.errors, 0);
        workload_check(s, &t); /* reads go on */
        store_abandon(s);
    } else {
        CHECK(st == LK_IO || st == LK_NOMEM);
        *out_struck = true;
        lk_sim_clear_faults(sim);
    }
    s = store_open(sim, &o);
    workload_check(s, &t);
    for (unsigned step = STEPS + 1; step < STEPS + 30; step++) workload_step(s, &t, step);
    workload_check(s, &t);
    store_close(s);
    s = store_open(sim, &o);
    workload_check(s, &t);
    store_close(s);
    lk_sim_free(sim);
}

static void fail_every_call(lk_sim_op op, int why, bool sticky)
{
    for (int mapped = 0; mapped < 2; mapped++) {
        bool struck = true;
        for (uint64_t nth = 1; struck; nth++) {
            fail_one_call(mapped != 0, op, nth, why, sticky, &struck);
        }
    }
}

LK_TEST(any_call_may_fail_once) { fail_every_call(LK_SIM_ANY, EIO, false); }
LK_TEST(any_call_and_all_after_it_may_fail) { fail_every_call(LK_SIM_ANY, EIO, true); }
LK_TEST(any_write_may_find_the_disk_full) { fail_every_call(LK_SIM_WRITE, ENOSPC, false); }
LK_TEST(any_allocation_may_find_the_disk_full) { fail_every_call(LK_SIM_ALLOCATE, ENOSPC, true); }
LK_TEST(memory_may_run_out_at_any_mapping) { fail_every_call(LK_SIM_MAP_ANONYMOUS, ENOMEM, false); }

/* The disk fills up, and is emptied again: the store goes on by itself, unless it was an edit of the
 * manifest that found no room: what became of that only reopening tells. */
LK_TEST(a_full_disk_refuses_writes_and_a_disk_with_room_takes_them_again)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 16384);
    lk_error err;
    lk_store *s = store_open(sim, &o);
    unsigned written = 0;
    lk_status st = LK_OK;
    char key[32], value[160];
    lk_sim_set_capacity(sim, 400 << 10);
    for (; st == LK_OK && written < 100000; written++) {
        (void)snprintf(value, sizeof value, "value %u of round %u %0100d", written, 1, 0);
        st = store_write(s, 0, text(key, sizeof key, "key%05u", written), value,
                         LK_DURABILITY_PROCESS, &err);
    }
    CHECK_EQ(st, LK_IO);
    CHECK_EQ(err.sys_errno, ENOSPC);
    written--;
    for (unsigned i = 0; i < written; i++) check_numbered(s, 0, i, 1);
    lk_sim_set_capacity(sim, UINT64_MAX);
    for (int i = 0; i < 200 && st != LK_OK; i++) {
        lk_sim_advance(sim, 300000000); /* a failed flush is tried again after a while */
        usleep(10000);
        st = store_write(s, 0, "more", "room", LK_DURABILITY_PROCESS, &err);
        if (st != LK_OK && strstr(err.path, "MANIFEST") != NULL) break;
    }
    for (unsigned i = 0; i < written; i++) check_numbered(s, 0, i, 1);
    if (st == LK_OK) {
        store_close(s);
    } else {
        CHECK(strstr(err.path, "MANIFEST") != NULL);
        store_abandon(s);
    }
    s = store_open(sim, &o);
    for (unsigned i = 0; i < written; i++) check_numbered(s, 0, i, 1);
    if (st == LK_OK) store_check(s, 0, "more", "room");
    store_put(s, 0, "yet more", "room");
    store_check(s, 0, "yet more", "room");
    store_close(s);
    lk_sim_free(sim);
}

/* ---- read-only ---- */

/* All names in the directory, in one text. */
static void list_names(lk_sim *sim, char *out, size_t room)
{
    lk_names names;
    lk_error err;
    size_t n = 0;
    CHECK_OK(lk_env_list(lk_sim_env(sim), STORE_DIR, &names, &err), &err);
    *out = 0;
    for (size_t i = 0; i < names.count; i++) {
        n += (size_t)snprintf(out + n, room - n, "%s ", names.names[i]);
        CHECK(n < room);
    }
    lk_names_free(&names);
}

LK_TEST(a_read_only_store_reads_a_log_that_was_not_flushed_and_leaves_nothing)
{
    char before[4096], after[4096];
    for (int mapped = 0; mapped < 2; mapped++) {
        lk_sim *sim = lk_sim_new(lk_test_seed());
        lk_store_options o = store_options(mapped != 0, 16384);
        lk_error err;
        lk_store *s = store_open(sim, &o);
        for (unsigned i = 0; i < 100; i++) put_numbered(s, 0, i, 1);
        for (int owner_lives = 1; owner_lives >= 0; owner_lives--) {
            if (!owner_lives) {
                store_kill(sim, s);
            }
            lk_store_options ro = o;
            ro.read_only = true;
            list_names(sim, before, sizeof before);
            uint64_t used = lk_sim_used_bytes(sim);
            lk_store *r = store_open(sim, &ro);
            for (unsigned i = 0; i < 100; i++) check_numbered(r, 0, i, 1);
            CHECK_EQ(store_write(r, 0, "a", "b", LK_DURABILITY_PROCESS, &err), LK_READONLY);
            CHECK_EQ(store_write(r, 0, "a", "b", LK_DURABILITY_SYNC, &err), LK_READONLY);
            CHECK_OK(lk_store_sync(r, &err), &err);
            CHECK_OK(lk_store_flush(r, &err), &err);
            store_close(r);
            if (owner_lives) continue; /* who makes files of his own */
            list_names(sim, after, sizeof after);
            CHECK_STR_EQ(after, before);
            CHECK_EQ(lk_sim_used_bytes(sim), used);
        }
        lk_sim_free(sim);
    }
}

/* An owner that writes, flushes and recycles as fast as it can; each reader sees a prefix of what it
 * writes, and all that was written before it was opened. */
typedef struct busy_owner {
    lk_store *store;
    _Atomic unsigned written;
    atomic_bool stop;
} busy_owner;

static void *own_busily(void *arg)
{
    busy_owner *b = arg;
    for (unsigned i = 1; !atomic_load(&b->stop); i++) {
        put_numbered(b->store, 0, i % 10, i);
        atomic_store(&b->written, i);
    }
    return NULL;
}

LK_TEST(readers_open_beside_a_busy_owner)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 8192), ro = o;
    lk_error err;
    pthread_t thread;
    ro.read_only = true;
    busy_owner b = {.store = store_open(sim, &o)};
    CHECK(pthread_create(&thread, NULL, own_busily, &b) == 0);
    unsigned opened = 0;
    for (int tries = 0; tries < 40; tries++) {
        lk_store *r;
        unsigned before = atomic_load(&b.written), newest = 0;
        lk_status st = lk_store_open(lk_sim_env(sim), STORE_DIR, &ro, &r, &err);
        if (st != LK_OK) {
            CHECK(st == LK_CORRUPT || st == LK_NOT_FOUND); /* files went away four times running */
            continue;
        }
        opened++;
        for (unsigned i = 0; i < 10; i++) {
            char key[32], value[STORE_VALUE_MAX];
            unsigned number, round = 0;
            text(key, sizeof key, "key%05u", i);
            /* A table may be gone by now; then the reader is told so. */
            lk_view *v = lk_store_view(r);
            lk_answer a;
            lk_block *block;
            lk_lookup found;
            const uint8_t *k = (const uint8_t *)key;
            uint64_t hash = lk_hash_key(0, k, strlen(key));
            st = lk_view_fetch(v, &r->guard, 0, k, strlen(key), hash, UINT64_MAX - 1, &found, &a,
                               &block, &err);
            if (st == LK_OK && found == LK_LOOKUP_VALUE) {
                memcpy(value, a.value.data, a.value.len);
                value[a.value.len] = 0;
                CHECK(sscanf(value, "value %u of round %u", &number, &round) == 2);
                CHECK(number == i && round % 10 == i);
                if (round > newest) newest = round;
            }
            lk_block_unref(block);
            lk_view_unref(v);
        }
        CHECK(newest + 10 > before || st != LK_OK);
        store_close(r);
    }
    atomic_store(&b.stop, true);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(opened > 0);
    store_close(b.store);
    lk_sim_free(sim);
}

/* Where a step began within a page the kernel would do nothing, and the writer meet every page. */
LK_TEST(pages_ahead_of_the_writer_are_made_present_in_whole_steps)
{
    enum { MIB = 1 << 20 };
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 32 * MIB);
    lk_store *s = store_open(sim, &o);
    char *value = malloc(MIB + 1);
    CHECK(value != NULL);
    memset(value, 'x', MIB);
    value[MIB] = 0;
    uint64_t position = 0, populated = 0;
    for (int i = 0; i < 6; i++) {
        store_put(s, 0, "key", value);
        lk_lock_acquire(&s->write_lock);
        position = s->active->position;
        lk_lock_release(&s->write_lock);
        do {
            (void)sched_yield();
            populated = atomic_load(&s->active->populated);
        } while (populated < position);
        CHECK(populated % MIB == 0);
    }
    CHECK(position > 6 * MIB);
    free(value);
    store_close(s);
    lk_sim_free(sim);
}
