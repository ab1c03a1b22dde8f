/* test_changes.c: what was committed is given out once and in order, from the log and from its history,
 * and a hole is told and never passed over.
 *
 * Method: values say which sequence they have, so that every change can be checked by itself. Simulated
 * machines that are killed, or lose power at each of their calls, give the history that is then read.
 */
#include "harness.h"

#include "changes.h"
#include "ingest.h"
#include "store_fixture.h"

enum {
    KEEP_ALL = 1 << 30,
    FILE_BYTES = 8192 /* that a segment of 4096 bytes takes when it is kept */
};

static lk_store_options options_keeping(uint64_t bytes, bool mapped)
{
    lk_store_options o = store_options(mapped, 4096);
    o.retain_log_bytes = bytes;
    return o;
}

/* One change a call: key "k", and as value the sequence that it gets. */
static void write_some(lk_store *s, uint64_t first, uint64_t count)
{
    char value[120];
    for (uint64_t seq = first; seq < first + count; seq++) {
        (void)snprintf(value, sizeof value, "%0100llu", (unsigned long long)seq);
        store_put(s, 0, "k", value);
    }
}

static lk_changes *changes_open(lk_store *s, uint64_t since)
{
    lk_error err;
    lk_changes *c;
    CHECK_OK(lk_changes_open(s, since, 0, (lk_bytes){NULL, 0}, false, &c, &err), &err);
    return c;
}

/* Reads to the end, or to an error, and checks that nothing is wrong or missing; gives the first and the
 * last sequence (0: there was none). */
static lk_status read_all(lk_changes *c, uint64_t *out_first, uint64_t *out_last, lk_error *err)
{
    lk_change some[7];
    size_t n;
    bool end = false;
    *out_first = *out_last = 0;
    while (!end) {
        lk_status st = lk_changes_next(c, some, 7, &n, &end, err);
        if (st != LK_OK) return st;
        for (size_t i = 0; i < n; i++) {
            if (*out_first == 0) *out_first = some[i].seq;
            if (*out_last != 0) CHECK_EQ(some[i].seq, *out_last + 1);
            *out_last = some[i].seq;
            CHECK_EQ(some[i].kind, LK_KIND_PUT);
            CHECK_EQ(strtoull((const char *)some[i].value.data, NULL, 10), some[i].seq);
        }
    }
    return LK_OK;
}

static void check_all(lk_store *s, uint64_t since, uint64_t first, uint64_t last)
{
    lk_error err;
    uint64_t found_first, found_last;
    lk_changes *c = changes_open(s, since);
    CHECK_OK(read_all(c, &found_first, &found_last, &err), &err);
    CHECK_EQ(found_first, first);
    CHECK_EQ(found_last, last);
    if (last != 0 || since != 0) CHECK_EQ(lk_changes_seq(c), last != 0 ? last : since);
    lk_changes_close(c);
}

static void check_lost(lk_store *s, uint64_t since, uint64_t oldest)
{
    lk_error err;
    uint64_t first, last;
    lk_changes *c = changes_open(s, since);
    CHECK_EQ(read_all(c, &first, &last, &err), LK_LOST);
    CHECK_EQ(err.expected, oldest);
    lk_changes_close(c);
}

LK_TEST(all_is_there_from_any_place_on_in_log_and_history)
{
    for (int mapped = 0; mapped < 2; mapped++) {
        lk_sim *sim = lk_sim_new(lk_test_seed());
        lk_store_options o = options_keeping(KEEP_ALL, mapped != 0);
        lk_store *s = store_open(sim, &o);
        write_some(s, 1, 100);
        store_sync(s); /* the next frame begins a page */
        write_some(s, 101, 100);
        store_flush(s);
        write_some(s, 201, 20);
        check_all(s, 0, 1, 220);
        for (uint64_t since = 1; since < 220; since += 7) check_all(s, since, since + 1, 220);
        check_all(s, 220, 0, 0);
        store_close(s);
        s = store_open(sim, &o);
        write_some(s, 221, 5);
        check_all(s, 0, 1, 225);
        check_all(s, 150, 151, 225);
        store_close(s);
        lk_sim_free(sim);
    }
}

LK_TEST(a_kill_leaves_the_history_whole)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = options_keeping(KEEP_ALL, true);
    lk_store *s = store_open(sim, &o);
    write_some(s, 1, 300);
    store_kill(sim, s);
    s = store_open(sim, &o);
    check_all(s, 0, 1, 300);
    store_flush(s);
    check_all(s, 0, 1, 300);
    store_kill(sim, s);
    s = store_open(sim, &o);
    check_all(s, 17, 18, 300);
    store_close(s);
    lk_sim_free(sim);
}

LK_TEST(without_a_history_there_is_what_the_log_holds)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = options_keeping(0, true);
    o.frozen_max = 100;
    lk_store *s = store_open(sim, &o);
    write_some(s, 1, 20);
    check_all(s, 0, 1, 20);
    lk_error err;
    uint64_t first, last;
    lk_changes *pinned = changes_open(s, 0);
    store_flush(s);
    check_all(s, 0, 0, 0);
    check_all(s, 20, 0, 0);
    check_lost(s, 19, 21);
    write_some(s, 21, 3);
    check_lost(s, 19, 21);
    check_all(s, 0, 21, 23);
    CHECK_OK(read_all(pinned, &first, &last, &err), &err);
    CHECK_EQ(first, 1);
    CHECK_EQ(last, 20);
    lk_changes_close(pinned);
    store_close(s);
    CHECK_EQ(store_count_files(sim, ".log"), 0);
    lk_sim_free(sim);
}

LK_TEST(the_oldest_goes_first_and_the_budget_holds)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = options_keeping(5 * FILE_BYTES, true);
    lk_store *s = store_open(sim, &o);
    write_some(s, 1, 400);
    store_flush(s);
    CHECK_EQ(lk_history_bytes(&s->history), 5 * FILE_BYTES);
    CHECK(store_count_files(sim, ".log") <= 5 + 1); /* and a spare one */
    lk_past oldest;
    CHECK(lk_history_find(&s->history, 400, &oldest));
    uint64_t first = lk_history_after(&s->history, 0);
    CHECK(first > 200);
    check_all(s, 0, first, 400);
    check_all(s, first - 1, first, 400);
    check_lost(s, first - 2, first);
    store_close(s);
    o.retain_log_bytes = 2 * FILE_BYTES; /* at an opening too */
    s = store_open(sim, &o);
    CHECK_EQ(lk_history_bytes(&s->history), 2 * FILE_BYTES);
    CHECK(lk_history_after(&s->history, 0) > first);
    store_close(s);
    o.retain_log_bytes = 0;
    s = store_open(sim, &o);
    check_all(s, 0, 0, 0);
    store_close(s);
    CHECK_EQ(store_count_files(sim, ".log"), 0);
    lk_sim_free(sim);
}

LK_TEST(ingested_rows_end_the_history_before_them)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = options_keeping(KEEP_ALL, true);
    lk_store *s = store_open(sim, &o);
    lk_bytes cell = {(const uint8_t *)"x", 1};
    lk_column column = {.form = LK_COLUMN_SPANS, .count = 1, .spans = &cell};
    lk_error err;
    write_some(s, 1, 100);
    CHECK_OK(lk_store_ingest(s, 0, &column, &column, &err), &err);
    check_lost(s, 99, 102);
    check_lost(s, 100, 102);
    check_all(s, 101, 0, 0);
    write_some(s, 102, 50);
    store_flush(s);
    check_lost(s, 100, 102);
    check_all(s, 0, 102, 151);
    store_close(s);
    s = store_open(sim, &o);
    check_lost(s, 100, 102);
    check_all(s, 0, 102, 151);
    store_close(s);
    lk_sim_free(sim);
}

LK_TEST(a_batch_is_entered_in_its_middle)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = options_keeping(KEEP_ALL, true);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    char values[50][8];
    store_op ops[50];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 50; i++) {
            (void)snprintf(values[i], sizeof values[i], "%d", 50 * round + i + 1);
            ops[i] = (store_op){.tree = 0, .key = "k", .value = values[i]};
        }
        CHECK_OK(store_batch(s, ops, 50, LK_DURABILITY_PROCESS, &err), &err);
    }
    for (uint64_t since = 1; since < 150; since++) check_all(s, since, since + 1, 150);
    store_flush(s);
    for (uint64_t since = 1; since < 150; since++) check_all(s, since, since + 1, 150);
    store_close(s);
    lk_sim_free(sim);
}

LK_TEST(other_trees_prefixes_and_ranges_are_told_apart)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = options_keeping(0, true);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    store_put(s, 0, "a", "1");
    store_put(s, LK_TREE_POSITIONS, "b", "2");
    store_put(s, LK_TREE_POSITIONS, "b", "3");
    store_put(s, 0, "b\xff", "4");
    store_delete_range(s, 0, "a", "b");    /* 5 */
    store_delete_range(s, 0, "a", "b\1");  /* 6 */
    store_delete_range(s, 0, "b\xff", ""); /* 7 */
    store_delete_range(s, 0, "c", "");     /* 8 */
    store_delete_range(s, 0, "", "");      /* 9 */
    const struct {
        uint32_t tree;
        const char *prefix, *found;
    } cases[] = {
        {0, "", "1 4 5 6 7 8 9 "}, {LK_TREE_POSITIONS, "", "2 3 "}, {0, "b", "4 6 7 9 "},
        {0, "b\xff", "4 7 9 "},    {0, "\xff", "7 8 9 "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char found[64] = "";
        lk_bytes prefix = {(const uint8_t *)cases[i].prefix, strlen(cases[i].prefix)};
        lk_changes *c;
        lk_change some[16];
        size_t n;
        bool end;
        CHECK_OK(lk_changes_open(s, 0, cases[i].tree, prefix, false, &c, &err), &err);
        CHECK_OK(lk_changes_next(c, some, 16, &n, &end, &err), &err);
        for (size_t k = 0; k < n; k++) {
            size_t at = strlen(found);
            (void)snprintf(found + at, sizeof found - at, "%d ", (int)some[k].seq);
        }
        CHECK_STR_EQ(found, cases[i].found);
        lk_changes_close(c);
    }
    store_close(s);
    lk_sim_free(sim);
}

static void damage_at(uint64_t place)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = options_keeping(KEEP_ALL, true);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    write_some(s, 1, 100);
    store_close(s);
    lk_file *file;
    uint8_t byte;
    CHECK_OK(lk_env_open(lk_sim_env(sim), STORE_DIR "/000001.log", LK_OPEN_WRITE, &file, &err),
             &err);
    CHECK_OK(lk_file_read_exact(file, place, &byte, 1, &err), &err);
    byte ^= 1;
    CHECK_OK(lk_file_write(file, place, &byte, 1, &err), &err);
    lk_file_close(file);
    s = store_open(sim, &o);
    uint64_t first, last;
    lk_changes *c = changes_open(s, 0);
    CHECK_EQ(read_all(c, &first, &last, &err), LK_CORRUPT);
    CHECK(strstr(err.path, "000001.log") != NULL);
    lk_changes_close(c);
    lk_past past;
    uint64_t records, bytes;
    CHECK(lk_history_find(&s->history, 1, &past));
    CHECK_EQ(lk_history_verify(s, &past, &records, &bytes, &err), LK_CORRUPT);
    CHECK(lk_history_find(&s->history, 100, &past));
    CHECK_OK(lk_history_verify(s, &past, &records, &bytes, &err), &err);
    CHECK(records > 0 && bytes > records * 100);
    store_close(s);
    lk_sim_free(sim);
}

LK_TEST(damage_in_the_history_is_named)
{
    damage_at(70);   /* the header of the first frame */
    damage_at(1000); /* some record */
}

LK_TEST(a_file_that_is_missing_is_a_hole_and_is_told)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = options_keeping(KEEP_ALL, true);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    write_some(s, 1, 150);
    store_close(s);
    CHECK_OK(lk_env_unlink(lk_sim_env(sim), STORE_DIR "/000002.log", &err), &err);
    s = store_open(sim, &o);
    lk_past past;
    uint64_t records, bytes;
    CHECK(lk_history_find(&s->history, 1, &past));
    uint64_t oldest = lk_history_after(&s->history, past.base_seq);
    check_lost(s, 0, oldest);
    check_lost(s, 1, oldest);
    check_all(s, oldest - 1, oldest, 150);
    CHECK_OK(lk_history_verify(s, &past, &records, &bytes, &err), &err);
    lk_changes *c;
    CHECK_EQ(lk_changes_open(s, 151, 0, (lk_bytes){NULL, 0}, true, &c, &err), LK_LOST);
    store_close(s);
    lk_sim_free(sim);
}

/* ---- power cuts ---- */

/* Writes and flushes until the machine stops; gives the last sequence that was promised. */
static uint64_t work(lk_store *s, lk_sim *sim)
{
    lk_error err;
    uint64_t promised = 0;
    char value[120];
    for (uint64_t seq = 1; seq <= 120 && !lk_sim_is_dead(sim); seq++) {
        (void)snprintf(value, sizeof value, "%0100llu", (unsigned long long)seq);
        lk_durability d = seq % 10 == 0 ? LK_DURABILITY_SYNC : LK_DURABILITY_PROCESS;
        if (store_write(s, 0, "k", value, d, &err) != LK_OK) break;
        if (seq % 10 == 0 && !lk_sim_is_dead(sim)) promised = seq;
        if (seq % 30 == 0 && lk_store_flush(s, &err) == LK_OK && !lk_sim_is_dead(sim)) {
            promised = seq;
        }
    }
    return promised;
}

static void cut_at(uint64_t n, uint64_t budget, uint64_t *out_calls)
{
    lk_sim *sim = lk_sim_new(lk_test_seed() + n);
    lk_store_options o = options_keeping(budget, n % 2 == 0);
    lk_error err;
    lk_store *s;
    if (n > 0) lk_sim_crash_at(sim, n);
    uint64_t promised = 0;
    if (lk_store_open(lk_sim_env(sim), STORE_DIR, &o, &s, &err) == LK_OK) {
        promised = work(s, sim);
        *out_calls = lk_sim_calls(sim);
        store_abandon(s);
    }
    lk_sim_power_cut(sim, LK_SIM_RANDOM, n);
    CHECK_OK(lk_store_open(lk_sim_env(sim), STORE_DIR, &o, &s, &err), &err);
    uint64_t now, since = 0, first, last;
    lk_view_unref(lk_store_view_now(s, &now));
    CHECK(now >= promised);
    for (int tries = 0;; tries++) {
        lk_changes *c = changes_open(s, since);
        lk_status st = read_all(c, &first, &last, &err);
        lk_changes_close(c);
        if (st == LK_OK) break;
        /* Files whose removal was lost may come back, the one between them not. */
        CHECK_EQ(st, LK_LOST);
        CHECK(budget < KEEP_ALL && tries < 50 && err.expected > since + 1);
        since = err.expected - 1;
    }
    CHECK_EQ(last, now);
    if (budget == KEEP_ALL && now > 0) CHECK_EQ(first, 1);
    store_close(s);
    lk_sim_free(sim);
}

LK_TEST(a_power_cut_at_any_call_leaves_a_history_without_holes)
{
    uint64_t calls = 0, ignored;
    cut_at(0, KEEP_ALL, &calls);
    for (uint64_t n = 1; n <= calls; n += 1 + n % 3) cut_at(n, KEEP_ALL, &ignored);
    for (uint64_t n = 1; n <= calls; n += 4) cut_at(n, 2 * FILE_BYTES, &ignored);
}
