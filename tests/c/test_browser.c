/* test_browser.c: a browser stands where a pointer into the sorted list of all visible rows would
 * stand, whatever way it came there: seeks to keys and between them, steps both ways, turns. */
#include "harness.h"

#include "browser.h"
#include "scan_fixture.h"

/* What it should say: an index into the visible rows; `count` or more: nowhere. */
typedef struct model {
    const world *w;
    const size_t *list; /* entries, ascending */
    size_t count, at;
} model;

static lk_browser browser_of(const world *w, uint64_t seq)
{
    lk_browser b;
    lk_error err;
    lk_view *v = world_view(w);
    CHECK_OK(lk_browser_init(&b, v, ROWS_TREE, seq, &err), &err);
    lk_view_unref(v);
    return b;
}

static lk_bytes model_key(const model *m, size_t i)
{
    return world_key(m->w, m->w->entries[m->list[i]].key);
}

static void check_place(const lk_browser *b, const model *m)
{
    CHECK_EQ(lk_browser_is_valid(b), m->at < m->count);
    if (m->at >= m->count) return;
    const entry *e = &m->w->entries[m->list[m->at]];
    lk_bytes expected = world_key(m->w, e->key);
    lk_pair row = lk_browser_row(b);
    CHECK(lk_bytes_equal(row.key.data, row.key.len, expected.data, expected.len));
    CHECK(lk_bytes_equal(row.value.data, row.value.len, e->value, e->value_len));
}

static void seek_end(lk_browser *b, model *m, bool backwards)
{
    lk_error err;
    CHECK_OK(lk_browser_seek(b, NULL, backwards, &err), &err);
    m->at = backwards && m->count > 0 ? m->count - 1 : 0;
    check_place(b, m);
}

static void seek_key(lk_browser *b, model *m, lk_bytes key, bool backwards)
{
    lk_error err;
    CHECK_OK(lk_browser_seek(b, &key, backwards, &err), &err);
    size_t i = 0;
    for (; i < m->count; i++) {
        lk_bytes k = model_key(m, i);
        int c = lk_key_compare(k.data, k.len, key.data, key.len);
        if (backwards ? c > 0 : c >= 0) break;
    }
    m->at = backwards ? i - 1 : i; /* SIZE_MAX: before the first */
    check_place(b, m);
}

static void walk(lk_browser *b, model *m, size_t steps, bool backwards)
{
    lk_error err;
    for (size_t i = 0; i < steps && m->at < m->count; i++) {
        CHECK_OK(lk_browser_move(b, backwards, &err), &err);
        m->at += backwards ? SIZE_MAX : 1;
        check_place(b, m);
    }
}

static void wander(const world *w, uint64_t seq)
{
    lk_bounds all = {{NULL, 0}, {NULL, 0}};
    size_t *list = malloc((w->keys.count + 1) * sizeof *list);
    CHECK(list != NULL);
    model m = {
        .w = w, .list = list, .count = world_scan(w, &all, seq, false, list), .at = SIZE_MAX};
    lk_browser b = browser_of(w, seq);
    check_place(&b, &m);
    for (int i = 0; i < 120; i++) {
        uint8_t bytes[260];
        bool backwards = lk_test_below(w->rng, 2) == 0;
        switch (lk_test_below(w->rng, 6)) {
        case 0:
            seek_end(&b, &m, backwards);
            break;
        case 1:
        case 2:
            seek_key(&b, &m, world_bound(w, bytes), backwards);
            break;
        case 3: /* to where it is, or to a row near by: within the window */
            if (m.at >= m.count) break;
            size_t near = m.at + lk_test_below(w->rng, 4);
            seek_key(&b, &m, model_key(&m, near < m.count ? near : m.at), backwards);
            break;
        case 4:
            walk(&b, &m, lk_test_below(w->rng, 400), backwards);
            break;
        default:
            walk(&b, &m, 1 + lk_test_below(w->rng, 3), backwards);
            break;
        }
    }
    lk_browser_deinit(&b);
    free(list);
}

LK_TEST(it_stands_where_the_list_says)
{
    uint64_t rng = lk_test_seed();
    for (int i = 0; i < 60; i++) {
        world w = world_random(&rng, i % 10 == 0 ? 1500 : 60);
        wander(&w, w.count);
        wander(&w, lk_test_below(&rng, w.count + 2));
        world_free(&w);
    }
}

LK_TEST(of_an_empty_tree_it_stands_nowhere)
{
    uint64_t rng = lk_test_seed();
    world w = world_new(&rng, 10);
    model m = {.w = &w, .at = SIZE_MAX};
    lk_browser b = browser_of(&w, 1);
    for (int backwards = 0; backwards < 2; backwards++) {
        seek_end(&b, &m, backwards == 1);
        seek_key(&b, &m, (lk_bytes){NULL, 0}, backwards == 1);
    }
    lk_browser_deinit(&b);
    world_free(&w);
}

LK_TEST(going_to_and_fro_reads_nothing_again)
{
    uint64_t rng = lk_test_seed();
    world w = world_of_numbers(&rng, 1000);
    lk_error err;
    for (uint32_t i = 0; i < 1000; i++) world_write(&w, i, false);
    world_add_segment(&w, 0);
    lk_browser b = browser_of(&w, w.count);
    lk_bytes key = world_key(&w, 500);
    CHECK_OK(lk_browser_seek(&b, &key, false, &err), &err);
    CHECK(!lk_browser_step(&b, true)); /* the window begins here */
    CHECK_OK(lk_browser_move(&b, true, &err), &err);
    for (int i = 0; i < 10; i++) CHECK(lk_browser_step(&b, i % 2 == 1));
    lk_browser_deinit(&b);
    world_free(&w);
}

LK_TEST(after_a_fault_it_stands_nowhere_and_seeks_again)
{
    uint64_t rng = lk_test_seed();
    world w = world_of_numbers(&rng, 2000);
    lk_table_options options = TABLE_OPTIONS;
    lk_error err;
    options.block_bytes = 256;
    for (uint32_t i = 0; i < 2000; i++) world_write(&w, i, false);
    world_add_run(&w, 0, 0, 1, &options);
    for (int backwards = 0; backwards < 2; backwards++) {
        lk_browser b = browser_of(&w, w.count);
        CHECK_OK(lk_browser_seek(&b, NULL, backwards == 1, &err), &err);
        CHECK(lk_sim_fail(w.disk.sim, LK_SIM_READ, 2, 5, false));
        lk_status st = LK_OK;
        for (int i = 0; i < 2000 && st == LK_OK; i++)
            st = lk_browser_move(&b, backwards == 1, &err);
        CHECK_EQ(st, LK_IO);
        CHECK(!lk_browser_is_valid(&b));
        CHECK_OK(lk_browser_seek(&b, NULL, backwards == 1, &err), &err);
        lk_bytes end = world_key(&w, backwards == 1 ? 1999 : 0), key = lk_browser_row(&b).key;
        CHECK(lk_bytes_equal(key.data, key.len, end.data, end.len));
        lk_browser_deinit(&b);
    }
    world_free(&w);
}
