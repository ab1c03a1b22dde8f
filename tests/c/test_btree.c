/* A B+tree holds what a sorted array holds, whatever the keys look like, however small the memory is,
 * after closing, killing and damage. */
#include "btree_fixture.h"

static uint8_t key_bytes[LK_KEY_BYTES_MAX + 1];
static uint8_t value_bytes[1 << 20];
static model m;

LK_TEST(holds_what_a_sorted_array_holds)
{
    uint64_t rng = lk_test_seed();
    lk_sim *sim = lk_sim_new(rng);
    lk_btree_options o = small_options();
    lk_btree *t = tree_open(sim, &o);
    lk_btree_counters c;
    lk_btree_sizes sizes;
    uint64_t reads = 0, splits = 0, merges = 0;
    for (int round = 0; round < 12; round++) {
        uint32_t puts = round % 3 == 2 ? 20 : 80; /* of a hundred: grows, and shrinks */
        for (int i = 0; i < 400; i++) {
            lk_bytes key = random_key(&rng, key_bytes, 600);
            if (lk_test_below(&rng, 100) < puts) {
                tree_put(t, &m, key, random_value(&rng, value_bytes));
            } else {
                tree_delete(t, &m, key);
            }
        }
        tree_check(t, &m);
        lk_btree_stats(t, &c, &sizes);
        CHECK_EQ(sizes.rows, m.count);
        if (round % 4 == 3) {
            reads += c.page_reads;
            splits += c.splits;
            merges += c.merges;
            tree_close(t);
            t = tree_open(sim, &o);
            tree_check(t, &m);
        }
    }
    CHECK(reads > 0 && splits > 0 && merges > 0);
    tree_close(t);
    model_clear(&m);
    lk_sim_free(sim);
}

LK_TEST(deleting_everything_gives_the_pages_back)
{
    uint64_t rng = lk_test_seed();
    lk_sim *sim = lk_sim_new(rng);
    lk_btree_options o = small_options();
    lk_btree *t = tree_open(sim, &o);
    lk_btree_counters c;
    lk_btree_sizes before, after;
    for (uint32_t i = 0; i < 3000; i++) {
        lk_store32(key_bytes, __builtin_bswap32(i));
        tree_put(t, NULL, (lk_bytes){key_bytes, 4}, (lk_bytes){value_bytes, 60});
    }
    lk_btree_stats(t, &c, &before);
    CHECK(before.levels == 2 && before.rows == 3000);
    for (uint32_t i = 0; i < 3000; i++) {
        lk_store32(key_bytes, __builtin_bswap32(i * 7 % 3000));
        tree_delete(t, NULL, (lk_bytes){key_bytes, 4});
    }
    lk_btree_stats(t, &c, &after);
    CHECK_EQ(after.rows, 0);
    CHECK_EQ(after.levels, 1);
    tree_prove(t);
    tree_close(t);
    t = tree_open(sim, &o);
    lk_btree_stats(t, &c, &after);
    CHECK(after.free_pages + 5 >= after.file_pages);
    tree_prove(t);
    tree_close(t);
    lk_sim_free(sim);
}

LK_TEST(sorted_columns_fill_nine_tenths_of_each_page)
{
    enum { ROWS = 4000, WIDTH = 16 };
    static uint8_t keys[ROWS][WIDTH], values[ROWS][WIDTH];
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_btree_options o = small_options();
    lk_btree *t = tree_open(sim, &o);
    lk_error err;
    for (uint32_t i = 0; i < ROWS; i++) {
        lk_store32(keys[i], __builtin_bswap32(i));
        memset(keys[i] + 4, (int)(i * 37 % 251), WIDTH - 4);
    }
    lk_column k = {
        .form = LK_COLUMN_FIXED, .width = WIDTH, .stride = WIDTH, .count = ROWS, .data = keys[0]};
    lk_column v = k;
    v.data = values[0];
    lk_btree_write w = {.kind = LK_KIND_PUT, .keys = &k, .values = &v};
    CHECK_OK(lk_btree_write_all(t, &w, &err), &err);
    lk_btree_counters c;
    lk_btree_sizes sizes;
    lk_btree_stats(t, &c, &sizes);
    CHECK_EQ(sizes.rows, ROWS);
    /* A cell takes 8 + 4 + 16 + 16 bytes less the prefix of two or three; a branch is some more. */
    uint64_t least = (uint64_t)ROWS * 41 / 4096, most = (uint64_t)ROWS * 44 * 10 / 9 / 4000 + 6;
    CHECK(sizes.file_pages - sizes.free_pages >= least);
    CHECK(sizes.file_pages - sizes.free_pages <= most);
    tree_prove(t);
    tree_close(t);
    lk_sim_free(sim);
}

LK_TEST(a_killed_process_loses_nothing)
{
    uint64_t rng = lk_test_seed();
    lk_sim *sim = lk_sim_new(rng);
    lk_btree_options o = small_options();
    for (int round = 0; round < 6; round++) {
        lk_sim_set_may_map(sim, round % 2 == 0);
        lk_btree *t = tree_open(sim, &o);
        tree_check(t, &m);
        for (uint64_t i = lk_test_below(&rng, 300); i > 0; i--) {
            lk_bytes key = random_key(&rng, key_bytes, 300);
            if (i % 4 != 0) {
                tree_put(t, &m, key, random_value(&rng, value_bytes));
            } else {
                tree_delete(t, &m, key);
            }
        }
        lk_sim_kill(sim);
        (void)lk_btree_close(t, NULL);
        lk_btree_free(t);
    }
    model_clear(&m);
    lk_sim_free(sim);
}

LK_TEST(large_keys_and_values_come_back_and_their_pages_are_used_again)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_btree_options o = small_options();
    lk_btree *t = tree_open(sim, &o);
    lk_btree_counters c;
    lk_btree_sizes sizes;
    memset(key_bytes, 7, sizeof key_bytes);
    for (uint32_t i = 0; i < 60; i++) {
        lk_store32(key_bytes + LK_KEY_BYTES_MAX - 4, i % 5);
        memset(value_bytes, (int)i, sizeof value_bytes);
        tree_put(t, &m, (lk_bytes){key_bytes, LK_KEY_BYTES_MAX - i % 2},
                 (lk_bytes){value_bytes, sizeof value_bytes - i});
    }
    tree_check(t, &m);
    tree_close(t);
    t = tree_open(sim, &o);
    tree_check(t, &m);
    lk_btree_stats(t, &c, &sizes);
    CHECK(sizes.file_pages < 60 * 256);
    tree_close(t);
    model_clear(&m);
    lk_sim_free(sim);
}

LK_TEST(a_changed_bit_is_found_and_never_read_as_a_row)
{
    uint64_t rng = lk_test_seed();
    lk_sim *sim = lk_sim_new(rng);
    lk_btree_options o = small_options();
    lk_btree *t = tree_open(sim, &o);
    for (int i = 0; i < 500; i++) {
        tree_put(t, &m, random_key(&rng, key_bytes, 400), random_value(&rng, value_bytes));
    }
    tree_close(t);
    lk_error err;
    uint64_t size;
    for (int i = 0; i < 60; i++) {
        lk_sim *other = lk_sim_clone(sim);
        lk_file *file;
        uint8_t byte;
        CHECK_OK(lk_env_open(lk_sim_env(other), "/tree/tree.pages", LK_OPEN_WRITE, &file, &err),
                 &err);
        CHECK_OK(lk_file_size(file, &size, &err), &err);
        uint64_t at = i == 0 ? 20 : lk_test_below(&rng, size);
        CHECK_OK(lk_file_read_exact(file, at, &byte, 1, &err), &err);
        byte = (uint8_t)(byte ^ 1u << lk_test_below(&rng, 8));
        CHECK_OK(lk_file_write(file, at, &byte, 1, &err), &err);
        lk_file_close(file);
        lk_status st = lk_btree_open(lk_sim_env(other), "/tree", &o, &t, &err);
        CHECK(st == LK_OK || st == LK_CORRUPT || st == LK_UNSUPPORTED);
        if (i == 0) CHECK_EQ(st, LK_CORRUPT);
        for (uint32_t r = 0; st == LK_OK && r < m.count; r++) {
            const model_row *row = &m.rows[r];
            uint8_t *value;
            uint32_t n;
            lk_status got = lk_btree_get(t, (lk_bytes){row->key, row->key_len}, &value, &n, &err);
            CHECK(got == LK_OK || got == LK_CORRUPT);
            if (got != LK_OK) continue;
            CHECK(value != NULL && n == row->value_len);
            CHECK_MEM_EQ(value, row->value, n);
            free(value);
        }
        if (st == LK_OK) {
            (void)lk_btree_close(t, NULL);
            lk_btree_free(t);
        }
        lk_sim_free(other);
    }
    model_clear(&m);
    lk_sim_free(sim);
}

LK_TEST(a_failed_write_of_the_log_is_final_and_reads_go_on)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_btree_options o = small_options();
    lk_error err;
    lk_btree *t = tree_open(sim, &o);
    lk_bytes key = {(const uint8_t *)"key", 3}, value = {(const uint8_t *)"value", 5};
    tree_put(t, &m, key, value);
    lk_sim_fail(sim, LK_SIM_DATASYNC, 1, 5, false);
    CHECK_EQ(tree_write(t, LK_KIND_PUT, key, key, LK_DURABILITY_SYNC, &err), LK_IO);
    CHECK_EQ(tree_write(t, LK_KIND_PUT, key, key, LK_DURABILITY_PROCESS, &err), LK_IO);
    CHECK_EQ(err.sys_errno, 5);
    uint8_t *found;
    uint32_t n;
    CHECK_OK(lk_btree_get(t, key, &found, &n, &err), &err);
    CHECK(found != NULL);
    free(found);
    (void)lk_btree_close(t, NULL);
    lk_btree_free(t);
    t = tree_open(sim, &o);
    CHECK_OK(lk_btree_get(t, key, &found, &n, &err), &err);
    CHECK(n == 5 || n == 3);
    free(found);
    tree_close(t);
    model_clear(&m);
    lk_sim_free(sim);
}

LK_TEST(one_tree_has_one_owner)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_btree_options o = small_options();
    lk_error err;
    lk_btree *t = tree_open(sim, &o), *second;
    CHECK_EQ(lk_btree_open(lk_sim_env(sim), "/tree", &o, &second, &err), LK_LOCKED);
    tree_close(t);
    o.error_if_exists = true;
    CHECK_EQ(lk_btree_open(lk_sim_env(sim), "/tree", &o, &second, &err), LK_EXISTS);
    o.error_if_exists = o.create_if_missing = false;
    CHECK_EQ(lk_btree_open(lk_sim_env(sim), "/none", &o, &second, &err), LK_NOT_FOUND);
    lk_sim_free(sim);
}

LK_TEST(a_scan_that_pauses_at_any_row_gives_each_row_once)
{
    static uint8_t bytes[4];
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_btree_options o = small_options();
    lk_btree *t = tree_open(sim, &o);
    lk_error err;
    lk_bytes none = {NULL, 0};
    for (uint32_t i = 0; i < 500; i++) {
        lk_store32(bytes, __builtin_bswap32(i * 256)); /* the separators are whole keys */
        tree_put(t, NULL, (lk_bytes){bytes, 4}, (lk_bytes){value_bytes, 90});
    }
    for (uint32_t rows = 1; rows < 8; rows++) {
        for (int reverse = 0; reverse < 2; reverse++) {
            lk_btree_scan s;
            uint32_t n = 0;
            CHECK_OK(lk_btree_scan_init(&s, t, none, none, reverse == 1, &err), &err);
            do {
                CHECK_OK(lk_btree_scan_fill(&s, rows, &err), &err);
                for (uint32_t i = 0; i < s.count; i++, n++) {
                    uint32_t want = reverse == 1 ? 499 - n : n;
                    lk_bytes key = lk_btree_scan_row(&s, i).key;
                    CHECK_EQ(__builtin_bswap32(lk_load32(key.data)), want * 256);
                }
            } while (s.count != 0);
            CHECK_EQ(n, 500);
            lk_btree_scan_deinit(&s);
        }
    }
    tree_close(t);
    lk_sim_free(sim);
}
