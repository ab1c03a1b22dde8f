/* test_ingest.c: ingested rows have one place in the commit order, and are there whole or not at all.
 *
 * Method: simulated machines that stop at each call of an ingest and lose power; writers beside it.
 */
#include "harness.h"

#include <errno.h>
#include <sched.h>

#include "ingest.h"
#include "store_fixture.h"

enum { ROWS = 300 };

/* Keys "0000".., ROWS of them, in a scattered order, each twice: the second value is the right one. */
typedef struct rows {
    char keys[2 * ROWS][8], values[2 * ROWS][24];
    lk_bytes key_spans[2 * ROWS], value_spans[2 * ROWS];
    lk_column key_column, value_column;
} rows;

static rows *rows_make(const char *value)
{
    rows *r = calloc(1, sizeof *r);
    CHECK(r != NULL);
    for (int i = 0; i < 2 * ROWS; i++) {
        (void)snprintf(r->keys[i], sizeof r->keys[i], "%04d", i * 7 % ROWS);
        (void)snprintf(r->values[i], sizeof r->values[i], "%s%d", i < ROWS ? "not" : value,
                       i * 7 % ROWS);
        r->key_spans[i] = (lk_bytes){(const uint8_t *)r->keys[i], 4};
        r->value_spans[i] = (lk_bytes){(const uint8_t *)r->values[i], strlen(r->values[i])};
    }
    r->key_column = (lk_column){.form = LK_COLUMN_SPANS, .count = 2 * ROWS, .spans = r->key_spans};
    r->value_column =
        (lk_column){.form = LK_COLUMN_SPANS, .count = 2 * ROWS, .spans = r->value_spans};
    return r;
}

static lk_status ingest(lk_store *s, const char *value, lk_error *err)
{
    rows *r = rows_make(value);
    CHECK_OK(lk_store_enter(s, err), err);
    lk_status st = lk_store_ingest(s, 0, &r->key_column, &r->value_column, err);
    lk_store_leave(s);
    free(r);
    return st;
}

typedef struct seen {
    const char *value;
    uint64_t with, without;
} seen;

static void see_row(void *context, const lk_pair *pair)
{
    seen *s = context;
    size_t len = strlen(s->value);
    bool has = pair->value.len >= len && memcmp(pair->value.data, s->value, len) == 0;
    s->with += has;
    s->without += !has;
}

/* How many rows begin with this value, and how many do not. */
static seen look_at(lk_store *s, uint64_t seq, const char *value)
{
    lk_error err;
    uint64_t n;
    seen found = {.value = value};
    CHECK_OK(store_scan(s, 0, seq, false, see_row, &found, &n, &err), &err);
    return found;
}

LK_TEST(ingested_rows_replace_what_was_before_and_yield_to_what_comes_after)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 8192);
    o.table_bytes = 4096;
    lk_store *s = store_open(sim, &o);
    lk_error err;
    lk_snapshot *before, *after;
    store_put(s, 0, "0001", "old");
    store_put(s, 0, "0002", "old");
    store_put(s, 0, "zzzz", "other");
    CHECK_OK(lk_store_snapshot(s, &before, &err), &err);
    CHECK_OK(ingest(s, "new", &err), &err);
    CHECK_OK(lk_store_snapshot(s, &after, &err), &err);
    store_put(s, 0, "0002", "later");
    for (int round = 0; round < 3; round++) {
        lk_status st;
        store_check(s, 0, "0000", "new0");
        store_check(s, 0, "0001", "new1");
        store_check(s, 0, "0002", "later");
        store_check(s, 0, "0299", "new299");
        store_check(s, 0, "zzzz", "other");
        seen now = look_at(s, UINT64_MAX - 1, "new");
        CHECK_EQ(now.with, ROWS - 1);
        CHECK_EQ(now.without, 2);
        seen then = look_at(s, before->seq, "old");
        CHECK_EQ(then.with, 2);
        CHECK_EQ(then.without, 1);
        then = look_at(s, after->seq, "new");
        CHECK_EQ(then.with, ROWS);
        CHECK_EQ(then.without, 1);
        if (round == 0) store_flush(s);
        if (round == 1) CHECK(store_compact(s, 0, &st) && st == LK_OK);
    }
    lk_store_release(s, before);
    lk_store_release(s, after);
    store_close(s);
    s = store_open(sim, &o);
    store_check(s, 0, "0001", "new1");
    store_check(s, 0, "0002", "later");
    CHECK_EQ(s->next_seq, 6);
    store_close(s);
    lk_sim_free(sim);
}

LK_TEST(tables_that_were_ingested_are_whole_and_cut_at_table_bytes)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 8192);
    o.table_bytes = 2048;
    o.codec = LK_CODEC_NONE;
    lk_store *s = store_open(sim, &o);
    lk_error err;
    CHECK_OK(ingest(s, "new", &err), &err);
    lk_view *v = lk_store_view(s);
    const lk_tree_version *t = lk_version_tree(v->version, 0);
    CHECK(t->file_count > 1 && t->ranges[0].run_count == 1);
    for (uint32_t i = 0; i < t->file_count; i++) {
        lk_table_report report;
        const lk_table_meta *meta = lk_table_meta_of(t->files[i].table);
        CHECK_OK(lk_table_verify(t->files[i].table, &report, &err), &err);
        CHECK_EQ(meta->seq_min, 1);
        CHECK_EQ(meta->seq_max, 1);
        CHECK(meta->bytes < 3 * o.table_bytes);
    }
    lk_view_unref(v);
    store_close(s);
    lk_sim_free(sim);
}

/* Whether the fault was met: there may be fewer such calls. */
static bool fails_at(lk_sim_op op, uint64_t n)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 8192);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    store_put(s, 0, "0001", "old");
    store_flush(s);
    store_put(s, 0, "0002", "old");
    CHECK(lk_sim_fail_on(sim, op, op == LK_SIM_SYNC_DIR ? STORE_DIR : ".sst", n, ENOSPC, false));
    lk_status st = ingest(s, "new", &err);
    lk_sim_clear_faults(sim);
    if (st != LK_OK) {
        CHECK_EQ(st, LK_IO);
        store_check(s, 0, "0001", "old");
        store_check(s, 0, "0002", "old");
        store_check(s, 0, "0000", NULL);
        store_put(s, 0, "0003", "goes on");
        store_check(s, 0, "0003", "goes on");
        CHECK_OK(ingest(s, "new", &err), &err);
    }
    store_check(s, 0, "0001", "new1");
    store_check(s, 0, "0003", "new3");
    store_close(s);
    s = store_open(sim, &o);
    store_check(s, 0, "0003", "new3");
    store_close(s);
    lk_sim_free(sim);
    return st != LK_OK;
}

LK_TEST(ingest_that_fails_leaves_the_store_as_it_was)
{
    const lk_sim_op ops[] = {LK_SIM_WRITE, LK_SIM_SYNC, LK_SIM_SYNC_DIR};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        uint64_t met = 0;
        for (uint64_t n = 1; n <= 3; n++) met += fails_at(ops[i], n);
        CHECK(met > 0);
    }
}

/* ---- power ---- */

static bool power_cut_at(lk_sim *before, uint64_t n, uint64_t seed)
{
    lk_sim *sim = lk_sim_clone(before);
    lk_store_options o = store_options(true, 8192);
    o.table_bytes = 4096;
    lk_store *s = store_open(sim, &o);
    lk_error err;
    store_put(s, 0, "0001", "old");
    store_put(s, 0, "last", "old");
    lk_sim_crash_at(sim, lk_sim_calls(sim) + n);
    lk_status st = ingest(s, "new", &err);
    bool is_dead = lk_sim_is_dead(sim);
    CHECK(is_dead || st == LK_OK);
    lk_sim_power_cut(sim, seed % 3 == 0 ? LK_SIM_LOSE_UNSYNCED : LK_SIM_RANDOM, seed);
    store_abandon(s);
    s = store_open(sim, &o);
    seen now = look_at(s, UINT64_MAX - 1, "new");
    if ((now.with != 0 && now.with != ROWS) || (now.with == 0 && st == LK_OK)) {
        lk_test_fail(__FILE__, __LINE__, "call %llu, seed %llu: status %d, %llu rows",
                     (unsigned long long)n, (unsigned long long)seed, (int)st,
                     (unsigned long long)now.with);
    }
    /* What came before is there when the rows are. */
    if (now.with == ROWS) store_check(s, 0, "last", "old");
    store_check(s, 0, "aaaa", "first");
    store_put(s, 0, "0005", "later");
    store_close(s);
    s = store_open(sim, &o);
    store_check(s, 0, "0005", "later");
    CHECK_EQ(look_at(s, UINT64_MAX - 1, "new").with, now.with == 0 ? 0 : ROWS - 1);
    store_close(s);
    lk_sim_free(sim);
    return is_dead;
}

LK_TEST(power_lost_in_an_ingest_leaves_all_of_it_or_nothing)
{
    lk_sim *before = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 8192);
    lk_store *s = store_open(before, &o);
    uint64_t rng = lk_test_seed(), n = 1;
    store_put(s, 0, "aaaa", "first");
    store_close(s);
    while (power_cut_at(before, n, lk_test_rand(&rng))) n++;
    CHECK(n > 10);
    lk_sim_free(before);
}

/* ---- beside writers ---- */

typedef struct writer {
    lk_store *store;
    pthread_t thread;
    atomic_bool stop;
    _Atomic uint32_t done; /* acknowledged */
    const char *key;
} writer;

static void *writer_main(void *arg)
{
    writer *w = arg;
    char value[16];
    for (uint32_t i = 1; !atomic_load(&w->stop); i++) {
        (void)snprintf(value, sizeof value, "%u", i);
        store_put(w->store, 0, w->key, value);
        atomic_store(&w->done, i);
    }
    return NULL;
}

LK_TEST(writers_beside_an_ingest_lose_nothing)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_sim_set_real(sim, true);
    lk_store_options o = store_options(true, 8192);
    o.table_bytes = 4096;
    lk_store *s = store_open(sim, &o);
    lk_error err;
    writer beside = {.store = s, .key = "beside"}, among = {.store = s, .key = "0007"};
    CHECK(pthread_create(&beside.thread, NULL, writer_main, &beside) == 0);
    CHECK(pthread_create(&among.thread, NULL, writer_main, &among) == 0);
    /* Not before both have begun: a machine with much to do starts threads late. */
    while (atomic_load(&beside.done) == 0 || atomic_load(&among.done) == 0) sched_yield();
    for (int i = 0; i < 10; i++) {
        char value[16];
        (void)snprintf(value, sizeof value, "new%d.", i);
        uint32_t least = atomic_load(&beside.done);
        CHECK_OK(ingest(s, value, &err), &err);
        /* All at one moment, but for the key that the other writer has replaced since. */
        seen now = look_at(s, UINT64_MAX - 1, value);
        CHECK(now.with == ROWS || now.with == ROWS - 1);
        char found[STORE_VALUE_MAX];
        CHECK(least == 0 || store_get_at(s, 0, "beside", UINT64_MAX - 1, found));
        CHECK(least == 0 || strtoul(found, NULL, 10) >= least);
    }
    atomic_store(&beside.stop, true);
    atomic_store(&among.stop, true);
    pthread_join(beside.thread, NULL);
    pthread_join(among.thread, NULL);
    char last[16];
    (void)snprintf(last, sizeof last, "%u", atomic_load(&beside.done));
    store_check(s, 0, "beside", last);
    store_close(s);
    s = store_open(sim, &o);
    store_check(s, 0, "beside", last);
    store_close(s);
    lk_sim_free(sim);
}
