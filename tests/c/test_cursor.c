/* test_cursor.c: a scan gives what a plain list of all writes gives: the newest visible version of
 * each key in bounds, if that is a value, as pairs, as columns and as a number; in both directions,
 * at every moment, over ranges, tables and segments. */
#include "harness.h"

#include "cursor.h"
#include "scan_fixture.h"

static lk_cursor *cursor_of(const world *w, const lk_bounds *bounds, uint64_t seq, bool reverse)
{
    lk_cursor *c;
    lk_error err;
    lk_view *v = world_view(w);
    CHECK_OK(lk_cursor_open(v, ROWS_TREE, seq, bounds, reverse, &c, &err), &err);
    lk_view_unref(v); /* the cursor has its own */
    return c;
}

static void check_pair(const world *w, const entry *e, lk_bytes key, lk_bytes value)
{
    lk_bytes expected = world_key(w, e->key);
    CHECK(lk_bytes_equal(key.data, key.len, expected.data, expected.len));
    CHECK(lk_bytes_equal(value.data, value.len, e->value, e->value_len));
}

/* ---- pairs ---- */

static void check_pairs(const world *w, const lk_bounds *bounds, uint64_t seq, bool reverse,
                        const size_t *expected, size_t expected_count)
{
    enum { MOST = 300 };
    static lk_pair pairs[MOST];
    lk_cursor *c = cursor_of(w, bounds, seq, reverse);
    lk_error err;
    size_t at = 0, n;
    do {
        size_t max = 1 + lk_test_below(w->rng, MOST);
        CHECK_OK(lk_cursor_next(c, pairs, max, &n, &err), &err);
        CHECK(n <= max);
        CHECK(n <= expected_count - at);
        for (size_t i = 0; i < n; i++, at++) {
            check_pair(w, &w->entries[expected[at]], pairs[i].key, pairs[i].value);
        }
    } while (n > 0);
    CHECK_EQ(at, expected_count);
    CHECK_OK(lk_cursor_next(c, pairs, MOST, &n, &err), &err);
    CHECK_EQ(n, 0);
    lk_cursor_close(c);
}

static void check_count(const world *w, const lk_bounds *bounds, uint64_t seq, bool reverse,
                        size_t expected)
{
    lk_cursor *c = cursor_of(w, bounds, seq, reverse);
    lk_pair pair;
    lk_error err;
    uint64_t count;
    size_t n;
    CHECK_OK(lk_cursor_next(c, &pair, 1, &n, &err), &err);
    CHECK_EQ(n, expected > 0);
    CHECK_OK(lk_cursor_count(c, &count, &err), &err);
    CHECK_EQ(count + n, expected);
    lk_cursor_close(c);
}

/* ---- columns ---- */

static void *grow(void *old, size_t old_bytes, size_t new_bytes)
{
    CHECK(new_bytes > old_bytes);
    CHECK((old == NULL) == (old_bytes == 0));
    return realloc(old, new_bytes);
}

static void columns_free(lk_columns_out *out)
{
    free(out->keys);
    free(out->values);
    free(out->key_offsets);
    free(out->value_offsets);
}

static lk_bytes column_row(const uint8_t *data, const int64_t *offsets, int64_t width, size_t i)
{
    if (width >= 0) return (lk_bytes){data + (int64_t)i * width, (size_t)width};
    return (lk_bytes){data + offsets[i], (size_t)(offsets[i + 1] - offsets[i])};
}

static void check_widths(const world *w, const lk_columns_out *out, const size_t *expected)
{
    bool keys_differ = false, values_differ = false;
    for (size_t i = 1; i < out->rows; i++) {
        const entry *a = &w->entries[expected[0]], *b = &w->entries[expected[i]];
        keys_differ = keys_differ || world_key(w, a->key).len != world_key(w, b->key).len;
        values_differ = values_differ || a->value_len != b->value_len;
    }
    if (out->rows == 0) return;
    CHECK_EQ(out->key_width < 0, keys_differ);
    CHECK_EQ(out->value_width < 0, values_differ);
}

static void check_columns(const world *w, const lk_bounds *bounds, uint64_t seq, bool reverse,
                          const size_t *expected, size_t expected_count)
{
    lk_cursor *c = cursor_of(w, bounds, seq, reverse);
    lk_columns_out out = {.grow = grow};
    lk_error err;
    size_t at = 0;
    do { /* chunks of one, two or three calls; buffers are used again */
        size_t calls = 1 + lk_test_below(w->rng, 3), want = 0;
        out.rows = out.key_bytes = out.value_bytes = 0;
        for (size_t i = 0; i < calls; i++) {
            size_t max = 1 + lk_test_below(w->rng, 200);
            want += max;
            CHECK_OK(lk_cursor_next_columns(c, max, &out, &err), &err);
        }
        CHECK_EQ(out.rows, want < expected_count - at ? want : expected_count - at);
        check_widths(w, &out, expected + at);
        for (size_t i = 0; i < out.rows; i++, at++) {
            check_pair(w, &w->entries[expected[at]],
                       column_row(out.keys, out.key_offsets, out.key_width, i),
                       column_row(out.values, out.value_offsets, out.value_width, i));
        }
    } while (out.rows > 0);
    CHECK_EQ(at, expected_count);
    columns_free(&out);
    lk_cursor_close(c);
}

/* ---- tests ---- */

LK_TEST(a_scan_gives_what_the_list_gives)
{
    uint64_t rng = lk_test_seed();
    size_t rows_given = 0;
    for (int i = 0; i < 200; i++) {
        world w = world_random(&rng, i % 10 == 0 ? 1500 : 150);
        size_t *expected = malloc((w.keys.count + 1) * sizeof *expected);
        CHECK(expected != NULL);
        for (int j = 0; j < 6; j++) {
            bounds_by_chance b;
            uint64_t seq = j % 2 == 0 ? w.count : lk_test_below(&rng, w.count + 2);
            bool reverse = lk_test_below(&rng, 2) == 0;
            world_bounds(&w, &b);
            if (j == 0) b.bounds = (lk_bounds){{NULL, 0}, {NULL, 0}};
            size_t n = world_scan(&w, &b.bounds, seq, reverse, expected);
            check_pairs(&w, &b.bounds, seq, reverse, expected, n);
            check_columns(&w, &b.bounds, seq, reverse, expected, n);
            check_count(&w, &b.bounds, seq, reverse, n);
            rows_given += n;
        }
        free(expected);
        world_free(&w);
    }
    CHECK(rows_given > 1000);
}

LK_TEST(bounds_that_meet_or_cross_hold_nothing)
{
    uint64_t rng = lk_test_seed();
    world w = world_random(&rng, 100);
    lk_bytes key = world_key(&w, (uint32_t)(w.keys.count / 2));
    lk_bytes below = {key.data, 0};
    lk_bounds meet = {key, key}, cross = {key, below};
    check_pairs(&w, &meet, w.count, false, NULL, 0);
    check_pairs(&w, &meet, w.count, true, NULL, 0);
    check_pairs(&w, &cross, w.count, false, NULL, 0);
    check_count(&w, &cross, w.count, true, 0);
    world_free(&w);
}

LK_TEST(a_scan_does_not_see_what_is_written_after_it_began)
{
    uint64_t rng = lk_test_seed();
    world w = world_new(&rng, 300);
    size_t *expected = malloc((w.keys.count + 1) * sizeof *expected);
    lk_bounds all = {{NULL, 0}, {NULL, 0}};
    lk_pair pairs[1000];
    lk_error err;
    size_t n, at = 0;
    CHECK(expected != NULL);
    (void)world_write_layer(&w, 400, false, 10);
    world_add_segment(&w, 0);
    lk_segment *s = w.segments[0];
    uint32_t all_of_them = s->count;
    atomic_store(&s->published, all_of_them / 2);
    lk_cursor *c = cursor_of(&w, &all, all_of_them / 2, false);
    size_t count = world_scan(&w, &all, all_of_them / 2, false, expected);
    CHECK_OK(lk_cursor_next(c, pairs, 5, &n, &err), &err);
    atomic_store(&s->published, all_of_them);
    for (;;) {
        for (size_t i = 0; i < n; i++, at++) {
            check_pair(&w, &w.entries[expected[at]], pairs[i].key, pairs[i].value);
        }
        CHECK_OK(lk_cursor_next(c, pairs, 1000, &n, &err), &err);
        if (n == 0) break;
        CHECK(at + n <= count);
    }
    CHECK_EQ(at, count);
    lk_cursor_close(c);
    free(expected);
    world_free(&w);
}

LK_TEST(a_scan_stays_in_its_tree)
{
    lk_bounds all = {{NULL, 0}, {NULL, 0}};
    lk_version *none = lk_version_empty();
    lk_segment *s = segment_new(1, 90, 4000);
    lk_error err;
    CHECK(none != NULL);
    for (uint8_t i = 0; i < 90; i++) {
        lk_bytes key = {&i, 1};
        segment_add(s, i % 3, LK_KIND_PUT, key, key);
    }
    lk_settings *settings;
    CHECK_OK(lk_settings_new(lk_env_posix(), NULL, 0, &settings, &err), &err);
    lk_view *v = lk_view_new(&s, 1, none, settings);
    lk_settings_unref(settings);
    CHECK(v != NULL);
    for (uint32_t tree = 0; tree < 4; tree++) {
        for (int reverse = 0; reverse < 2; reverse++) {
            lk_cursor *c;
            lk_pair pairs[90];
            size_t n;
            CHECK_OK(lk_cursor_open(v, tree, 90, &all, reverse == 1, &c, &err), &err);
            CHECK_OK(lk_cursor_next(c, pairs, 90, &n, &err), &err);
            CHECK_EQ(n, tree < 3 ? 30 : 0);
            for (size_t i = 0; i < n; i++) {
                CHECK_EQ(pairs[i].key.data[0], (reverse == 1 ? 29 - i : i) * 3 + tree);
            }
            lk_cursor_close(c);
        }
    }
    lk_view_unref(v);
    lk_version_unref(none);
    segment_free(s);
}

/* Enough one-row blocks that a call cannot hold all of them. */
LK_TEST(a_call_holds_a_bounded_number_of_blocks)
{
    enum { KEYS = 200 };
    uint64_t rng = lk_test_seed();
    world w = world_new(&rng, 10);
    uint8_t *bytes = calloc(KEYS, 300);
    lk_row *list = calloc(KEYS, sizeof *list);
    lk_table_options options = TABLE_OPTIONS;
    lk_bounds all = {{NULL, 0}, {NULL, 0}};
    lk_pair pairs[KEYS];
    lk_edit edit;
    lk_error err;
    lk_table_meta meta;
    size_t n, at = 0, calls = 0;
    CHECK(bytes != NULL && list != NULL);
    for (uint32_t i = 0; i < KEYS; i++) {
        bytes[i * 300] = (uint8_t)i;
        list[i] = (lk_row){.key = bytes + i * 300,
                           .key_len = 1,
                           .value = bytes + i * 300,
                           .value_len = 300,
                           .seq = i + 1,
                           .kind = LK_KIND_PUT,
                           .hash = lk_hash_key(ROWS_TREE, bytes + i * 300, 1)};
    }
    options.block_bytes = 256;
    rows all_rows = {.rows = list, .count = KEYS};
    lk_edit_init(&edit);
    CHECK_OK(table_write(&w.disk, 1, &all_rows, &options, &meta, &err), &err);
    CHECK_OK(lk_edit_add_table(&edit, &meta, 0, 2, NULL, &err), &err);
    world_apply(&w, &edit);
    lk_edit_deinit(&edit);
    lk_cursor *c = cursor_of(&w, &all, KEYS, false);
    for (;; calls++) {
        CHECK_OK(lk_cursor_next(c, pairs, KEYS, &n, &err), &err);
        if (n == 0) break;
        for (size_t i = 0; i < n; i++, at++) {
            CHECK_EQ(pairs[i].key.data[0], at);
            CHECK_EQ(pairs[i].value.data[0], at);
        }
    }
    CHECK_EQ(at, KEYS);
    CHECK(calls >= 3);
    lk_cursor_close(c);
    free(bytes);
    free(list);
    world_free(&w);
}

LK_TEST(rows_before_a_fault_are_given_then_the_fault_for_ever)
{
    uint64_t rng = lk_test_seed();
    world w = world_of_numbers(&rng, 2000);
    lk_bounds all = {{NULL, 0}, {NULL, 0}};
    lk_table_options options = TABLE_OPTIONS;
    lk_pair pairs[64];
    lk_error err;
    size_t n, given = 0;
    uint64_t count;
    options.block_bytes = 256;
    for (uint32_t i = 0; i < 2000; i++) world_write(&w, i, false);
    world_add_run(&w, 0, 0, 1, &options);
    lk_cursor *c = cursor_of(&w, &all, w.count, false);
    CHECK_OK(lk_cursor_next(c, pairs, 1, &n, &err), &err);
    CHECK_EQ(n, 1);
    CHECK(lk_sim_fail(w.disk.sim, LK_SIM_READ, 2, 5, false));
    lk_status st = LK_OK;
    while (st == LK_OK) {
        st = lk_cursor_next(c, pairs, 64, &n, &err);
        given += n;
        if (st == LK_OK) CHECK(n > 0);
    }
    CHECK_EQ(st, LK_IO);
    CHECK_EQ(err.sys_errno, 5);
    CHECK(given > 0);
    lk_columns_out out = {.grow = grow};
    memset(&err, 0, sizeof err);
    CHECK_EQ(lk_cursor_next_columns(c, 10, &out, &err), LK_IO);
    CHECK_EQ(err.sys_errno, 5);
    CHECK_EQ(lk_cursor_count(c, &count, NULL), LK_IO);
    lk_cursor_close(c);
    world_free(&w);
}

static void *grow_nothing(void *old, size_t old_bytes, size_t new_bytes)
{
    (void)old;
    (void)old_bytes;
    (void)new_bytes;
    return NULL;
}

LK_TEST(columns_that_cannot_grow_are_an_error)
{
    uint64_t rng = lk_test_seed();
    world w = world_new(&rng, 50);
    lk_bounds all = {{NULL, 0}, {NULL, 0}};
    lk_columns_out out = {.grow = grow_nothing};
    lk_error err;
    w.fixed_width = true;
    (void)world_write_layer(&w, 50, false, 0);
    world_add_segment(&w, 0);
    lk_cursor *c = cursor_of(&w, &all, w.count, false);
    CHECK_EQ(lk_cursor_next_columns(c, 10, &out, &err), LK_NOMEM);
    CHECK_EQ(lk_cursor_next_columns(c, 10, &out, &err), LK_NOMEM);
    lk_cursor_close(c);
    world_free(&w);
}
