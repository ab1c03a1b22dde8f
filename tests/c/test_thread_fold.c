/* test_thread_fold.c: sums that many threads add to never go back, and none of what was added is lost
 * or counted twice, while segments fill, are flushed and merged.
 *
 * Method: each operand adds 1 to one of a few keys, so what a reader sees of a key only grows, and is in
 * the end the number of operands. Under the thread sanitizer too.
 */
#include "harness.h"

#include "store_fixture.h"

enum { WRITERS = 2, KEYS = 5, OPERANDS = 6000 };

typedef struct shared {
    lk_store *store;
    atomic_bool stop;
} shared;

static void key_of(unsigned k, char *out) { (void)snprintf(out, 8, "key%u", k); }

static void *write_run(void *arg)
{
    shared *x = arg;
    uint64_t one = 1;
    for (unsigned i = 0; i < OPERANDS; i++) {
        char key[8];
        key_of(i % KEYS, key);
        const uint8_t *k = (const uint8_t *)key;
        uint32_t len = (uint32_t)strlen(key);
        if (lk_store_try_put(x->store, 0, LK_KIND_MERGE, k, len, (const uint8_t *)&one, sizeof one,
                             lk_hash_key(0, k, len)) == LK_OK) {
            continue;
        }
        lk_bytes key_span = {k, len}, span = {(const uint8_t *)&one, sizeof one};
        lk_column keys = {.form = LK_COLUMN_SPANS, .count = 1, .spans = &key_span};
        lk_column operands = {.form = LK_COLUMN_SPANS, .count = 1, .spans = &span};
        lk_write w = {.timeout_ns = UINT64_MAX,
                      .kind = LK_KIND_MERGE,
                      .keys = &keys,
                      .values = &operands,
                      .records = 1};
        lk_error err;
        CHECK_OK(store_call(x->store, &w, &err), &err);
    }
    return NULL;
}

/* By a point read, or by a scan of all keys. */
static void read_sums(lk_store *s, bool scan, uint64_t *seen)
{
    uint64_t sums[KEYS] = {0};
    lk_error err;
    if (scan) {
        uint64_t now;
        size_t n;
        lk_pair rows[KEYS + 1];
        lk_bounds all = {{NULL, 0}, {NULL, 0}};
        lk_cursor *c;
        lk_view *v = lk_store_view_now(s, &now);
        CHECK_OK(lk_cursor_open(v, 0, now, &all, false, &c, &err), &err);
        CHECK_OK(lk_cursor_next(c, rows, KEYS + 1, &n, &err), &err);
        for (size_t i = 0; i < n; i++) {
            CHECK_EQ(rows[i].key.len, 4);
            CHECK_EQ(rows[i].value.len, 8);
            sums[rows[i].key.data[3] - '0'] = lk_load64(rows[i].value.data);
        }
        lk_cursor_close(c);
        lk_view_unref(v);
    } else {
        for (unsigned k = 0; k < KEYS; k++) {
            char key[8], found[STORE_VALUE_MAX];
            key_of(k, key);
            if (store_get_at(s, 0, key, LK_SEQ_MAX - 1, found)) sums[k] = lk_load64(found);
        }
    }
    for (unsigned k = 0; k < KEYS; k++) {
        CHECK(sums[k] >= seen[k]);
        seen[k] = sums[k];
    }
}

static void *read_run(void *arg)
{
    shared *x = arg;
    uint64_t seen[KEYS] = {0};
    for (unsigned i = 0; !atomic_load(&x->stop); i++) read_sums(x->store, i % 2 == 0, seen);
    return NULL;
}

LK_TEST(sums_of_many_threads_only_grow_and_lose_nothing)
{
    lk_sim *sim = lk_sim_new(1);
    lk_store_options options = store_options(true, 32768);
    lk_tree_settings tree = {.ttl_us = LK_TTL_NONE};
    lk_error err;
    CHECK_OK(lk_operator_parse("add_int64", &tree.op, &err), &err);
    CHECK_OK(lk_settings_new(lk_sim_env(sim), &tree, 1, &options.settings, &err), &err);
    lk_operator_unref(tree.op);
    shared x = {.store = store_open(sim, &options)};
    pthread_t writers[WRITERS], reader;
    CHECK_EQ(pthread_create(&reader, NULL, read_run, &x), 0);
    for (int i = 0; i < WRITERS; i++) CHECK_EQ(pthread_create(&writers[i], NULL, write_run, &x), 0);
    for (int i = 0; i < 5; i++) {
        lk_status st;
        store_flush(x.store);
        (void)store_compact(x.store, 0, &st);
        CHECK_EQ(st, LK_OK);
    }
    for (int i = 0; i < WRITERS; i++) CHECK_EQ(pthread_join(writers[i], NULL), 0);
    atomic_store(&x.stop, true);
    CHECK_EQ(pthread_join(reader, NULL), 0);
    uint64_t seen[KEYS] = {0}, sum = 0;
    read_sums(x.store, true, seen);
    read_sums(x.store, false, seen);
    for (unsigned k = 0; k < KEYS; k++) sum += seen[k];
    CHECK_EQ(sum, WRITERS * OPERANDS);
    store_close(x.store);
    lk_settings_unref(options.settings);
    lk_sim_free(sim);
}
