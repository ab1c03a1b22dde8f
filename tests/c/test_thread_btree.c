/* Readers, scans, writers, checkpoints and pages that come and go meet in one B+tree without a data
 * race, and each finds rows whole. */
#include "btree_fixture.h"

enum { ROWS = 1500, ROUNDS = 4, READERS = 2 };

static lk_btree *tree;
static atomic_bool is_over;

/* Each value is its key, some times over; some are too long for a page. */
static lk_bytes value_of(uint32_t i, uint8_t *out)
{
    uint32_t n = i % 50 == 0 ? 5000 : 20 + i % 200;
    for (uint32_t at = 0; at < n; at += 4) lk_store32(out + at, i);
    return (lk_bytes){out, n};
}

static lk_bytes key_of(uint32_t i, uint8_t *out)
{
    lk_store32(out, __builtin_bswap32(i));
    return (lk_bytes){out, 4};
}

static void check_value(uint32_t i, const uint8_t *value, size_t n)
{
    for (size_t at = 0; at + 4 <= n; at += 4) CHECK_EQ(lk_load32(value + at), i);
}

static void *read_rows(void *seed)
{
    uint64_t rng = *(uint64_t *)seed;
    lk_error err;
    uint8_t bytes[8], *value;
    uint32_t n;
    lk_bytes none = {NULL, 0};
    while (!atomic_load(&is_over)) {
        for (int k = 0; k < 200; k++) {
            uint32_t i = (uint32_t)lk_test_below(&rng, ROWS);
            CHECK_OK(lk_btree_get(tree, key_of(i, bytes), &value, &n, &err), &err);
            if (value != NULL) check_value(i, value, n);
            CHECK(value != NULL || i % 2 == 1); /* only odd ones are ever deleted */
            free(value);
        }
        lk_btree_scan s;
        CHECK_OK(lk_btree_scan_init(&s, tree, none, none, rng % 2 == 0, &err), &err);
        uint32_t even = 0;
        for (;;) {
            CHECK_OK(lk_btree_scan_fill(&s, 50, &err), &err);
            if (s.count == 0) break;
            for (uint32_t i = 0; i < s.count; i++) {
                lk_btree_row row = lk_btree_scan_row(&s, i);
                uint32_t key = __builtin_bswap32(lk_load32(row.key.data));
                check_value(key, row.value.data, row.value.len);
                even += key % 2 == 0;
            }
        }
        CHECK_EQ(even, ROWS / 2);
        lk_btree_scan_deinit(&s);
    }
    return NULL;
}

LK_TEST(readers_and_writers_meet_in_one_tree)
{
    static uint8_t bytes[8], value[8192];
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_sim_set_real(sim, true);
    lk_btree_options o = small_options();
    o.durability = LK_DURABILITY_PERIODIC;
    o.sync_interval_ms = 1;
    tree = tree_open(sim, &o);
    for (uint32_t i = 0; i < ROWS; i++) tree_put(tree, NULL, key_of(i, bytes), value_of(i, value));
    pthread_t threads[READERS];
    uint64_t seeds[READERS];
    lk_error err;
    for (int i = 0; i < READERS; i++) {
        seeds[i] = lk_test_seed() + (uint64_t)i + 1;
        CHECK_OK(lk_thread_start(read_rows, &seeds[i], &threads[i], "reader", &err), &err);
    }
    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (uint32_t i = 1; i < ROWS; i += 2) {
            lk_durability d = i % 100 == 1 ? LK_DURABILITY_SYNC : LK_DURABILITY_PERIODIC;
            lk_kind kind = round % 2 == 0 ? LK_KIND_DELETE : LK_KIND_PUT;
            CHECK_OK(tree_write(tree, kind, key_of(i, bytes), value_of(i, value), d, &err), &err);
        }
    }
    atomic_store(&is_over, true);
    for (int i = 0; i < READERS; i++) CHECK_EQ(pthread_join(threads[i], NULL), 0);
    tree_prove(tree);
    tree_close(tree);
    lk_sim_free(sim);
}
