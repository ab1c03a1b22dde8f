/* test_thread_checks.c: of several writers that would change the same thing one is first, and the
 * others know: no increment is lost, and no sequence number of a source is applied twice.
 *
 * Method: threads count up shared numbers, each by reading a snapshot and writing on condition that
 * nothing has changed since, while segments fill up and are flushed; and all of them write the same
 * stream of one source.
 */
#include "harness.h"

#include "store_fixture.h"

enum { THREADS = 4, NUMBERS = 3, ROUNDS = 150, STREAM = 300 };

typedef struct shared {
    lk_store *store;
    _Atomic unsigned done[NUMBERS], refused;
    _Atomic unsigned applied[STREAM];
} shared;

typedef struct worker {
    shared *shared;
    unsigned index;
    uint64_t rng;
    pthread_t thread;
} worker;

static lk_write one_put(lk_column *keys, lk_column *values, lk_bytes *key, lk_bytes *value)
{
    *keys = (lk_column){.form = LK_COLUMN_SPANS, .count = 1, .spans = key};
    *values = (lk_column){.form = LK_COLUMN_SPANS, .count = 1, .spans = value};
    return (lk_write){.timeout_ns = UINT64_MAX,
                      .kind = LK_KIND_PUT,
                      .keys = keys,
                      .values = values,
                      .records = 1};
}

/* Reads, adds one, and writes if nobody else has since. By its key, or by a range that holds it. */
static bool increment(worker *w, unsigned number)
{
    lk_store *s = w->shared->store;
    char name[2] = {(char)('a' + (int)number), 0}, text[400];
    lk_snapshot *snapshot;
    lk_error err;
    unsigned old = 0;
    CHECK_OK(lk_store_snapshot(s, &snapshot, &err), &err);
    if (store_get_at(s, 0, name, snapshot->seq, text)) old = (unsigned)strtoul(text, NULL, 10);
    /* Long values fill segments, so that some of what is looked for was flushed. */
    int pad = (int)lk_test_below(&w->rng, 300);
    (void)snprintf(text, sizeof text, "%u %0*d", old + 1, pad, 0);
    lk_bytes key = {(const uint8_t *)name, 1}, value = {(const uint8_t *)text, strlen(text)};
    lk_column keys, values;
    lk_write write = one_put(&keys, &values, &key, &value);
    uint8_t next = (uint8_t)(name[0] + 1);
    lk_check check = {.start = key};
    if (w->index % 2 == 0) {
        check.is_range = true;
        check.stop = (lk_bytes){&next, 1};
    }
    lk_checks checks = {.items = &check, .count = 1, .moment = snapshot->seq, .is_held = true};
    write.checks = &checks;
    lk_status st = store_call(s, &write, &err);
    lk_store_release(s, snapshot);
    if (st != LK_MISS) CHECK_OK(st, &err);
    return st == LK_OK;
}

static void *count_run(void *arg)
{
    worker *w = arg;
    for (unsigned i = 0; i < ROUNDS; i++) {
        unsigned number = (unsigned)lk_test_below(&w->rng, NUMBERS);
        while (!increment(w, number)) atomic_fetch_add(&w->shared->refused, 1);
        atomic_fetch_add(&w->shared->done[number], 1);
    }
    return NULL;
}

static void *stream_run(void *arg)
{
    worker *w = arg;
    static const char source[] = "source";
    for (unsigned seq = 0; seq < STREAM; seq++) {
        char name[16], text[200];
        (void)snprintf(name, sizeof name, "%04u", seq);
        (void)snprintf(text, sizeof text, "%u %0150d", w->index, 0);
        lk_bytes key = {(const uint8_t *)name, strlen(name)};
        lk_bytes value = {(const uint8_t *)text, strlen(text)};
        lk_column keys, values;
        lk_error err;
        lk_write write = one_put(&keys, &values, &key, &value);
        write.source = (lk_bytes){(const uint8_t *)source, strlen(source)};
        write.source_seq = seq;
        lk_status st = store_call(w->shared->store, &write, &err);
        if (st == LK_MISS) continue;
        CHECK_OK(st, &err);
        atomic_fetch_add(&w->shared->applied[seq], 1);
    }
    return NULL;
}

static void run_all(shared *all, void *(*run)(void *))
{
    worker workers[THREADS];
    uint64_t rng = lk_test_seed();
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (worker){.shared = all, .index = i, .rng = rng + i};
        CHECK_EQ(pthread_create(&workers[i].thread, NULL, run, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) CHECK_EQ(pthread_join(workers[i].thread, NULL), 0);
}

LK_TEST(no_increment_is_lost)
{
    uint64_t rng = lk_test_seed();
    lk_sim *sim = lk_sim_new(rng);
    lk_store_options options = store_options(true, 8192);
    shared all = {.store = store_open(sim, &options)};
    run_all(&all, count_run);
    unsigned total = 0;
    for (unsigned i = 0; i < NUMBERS; i++) {
        char name[2] = {(char)('a' + (int)i), 0}, text[400];
        CHECK(store_get_at(all.store, 0, name, UINT64_MAX - 1, text));
        CHECK_EQ(strtoul(text, NULL, 10), atomic_load(&all.done[i]));
        total += atomic_load(&all.done[i]);
    }
    CHECK_EQ(total, THREADS * ROUNDS);
    CHECK(atomic_load(&all.store->counters.flushes) > 3);
    store_close(all.store);
    lk_sim_free(sim);
}

LK_TEST(each_number_of_a_source_is_applied_once)
{
    uint64_t rng = lk_test_seed();
    lk_sim *sim = lk_sim_new(rng);
    lk_store_options options = store_options(true, 8192);
    shared all = {.store = store_open(sim, &options)};
    run_all(&all, stream_run);
    for (unsigned i = 0; i < STREAM; i++) CHECK_EQ(atomic_load(&all.applied[i]), 1);
    for (int again = 0; again < 2; again++) {
        bool any;
        uint64_t seq;
        lk_error err;
        lk_bytes source = {(const uint8_t *)"source", 6};
        CHECK_OK(lk_store_position(all.store, source, &any, &seq, &err), &err);
        CHECK(any);
        CHECK_EQ(seq, STREAM - 1);
        source.len = 5;
        CHECK_OK(lk_store_position(all.store, source, &any, &seq, &err), &err);
        CHECK(!any);
        store_close(all.store);
        if (again == 0) all.store = store_open(sim, &options);
    }
    lk_sim_free(sim);
}
