/* test_checks.c: what is checked before a write is called changed when, and only when, the list of
 * all writes has one of it after the moment: whether that stands in the log or in tables, and under
 * the write lock at least never the other way round.
 */
#include "harness.h"

#include "checks.h"
#include "merge.h"
#include "scan_fixture.h"

enum { ITEMS_MAX = 12 };

typedef struct asked {
    lk_check items[ITEMS_MAX];
    uint8_t bytes[ITEMS_MAX][2][260];
    size_t count;
} asked;

/* Keys, and ranges of few keys, of this tree and of others. */
static void ask(const world *w, bool ranges, asked *out)
{
    out->count = 1 + lk_test_below(w->rng, ITEMS_MAX);
    for (size_t i = 0; i < out->count; i++) {
        lk_check *c = &out->items[i];
        *c = (lk_check){.tree = lk_test_below(w->rng, 8) == 0 ? ROWS_TREE + 1 : ROWS_TREE};
        c->start = world_bound(w, out->bytes[i][0]);
        if (!ranges || lk_test_below(w->rng, 2) == 0) continue;
        c->is_range = true;
        c->stop = world_bound(w, out->bytes[i][1]);
        uint32_t key = (uint32_t)lk_test_below(w->rng, w->keys.count);
        uint32_t end = key + (uint32_t)lk_test_below(w->rng, 5);
        if (lk_test_below(w->rng, 6) == 0) {
            c->stop.data = NULL; /* no end */
        } else if (end < w->keys.count && lk_test_below(w->rng, 3) != 0) {
            c->start = world_key(w, key);
            c->stop = world_key(w, end);
        }
    }
}

static bool asks_for(const lk_check *c, lk_bytes key)
{
    if (c->tree != ROWS_TREE) return false;
    if (!c->is_range) {
        return lk_bytes_equal(c->start.data, c->start.len, key.data, key.len);
    }
    lk_bounds b = {c->start, c->stop};
    return in_bounds(&b, key);
}

/* Whether one of the writes (moment, now] is of what was asked for. */
static bool was_changed(const world *w, const asked *a, uint64_t moment, uint64_t now)
{
    for (uint64_t i = moment; i < now; i++) {
        lk_bytes key = world_key(w, w->entries[i].key);
        for (size_t j = 0; j < a->count; j++) {
            if (asks_for(&a->items[j], key)) return true;
        }
    }
    return false;
}

static void prover_begin(lk_prover *p, const asked *a, uint64_t moment, bool is_held)
{
    lk_checks checks = {.items = a->items, .count = a->count, .moment = moment, .is_held = is_held};
    lk_error err;
    CHECK_OK(lk_prover_init(p, &checks, &err), &err);
}

LK_TEST(a_look_says_what_the_list_says)
{
    uint64_t rng = lk_test_seed();
    unsigned changed = 0, same = 0;
    lk_guard guard;
    lk_guard_init(&guard);
    for (int i = 0; i < 150; i++) {
        world w = world_random(&rng, i % 10 == 0 ? 800 : 100);
        lk_view *v = world_view(&w);
        for (int j = 0; j < 20; j++) {
            asked a;
            lk_verdict verdict;
            lk_error err;
            /* Often a moment near the end, or everything has changed. */
            uint64_t back = lk_test_below(&rng, j % 2 == 0 ? 20 : w.count + 1);
            uint64_t moment = back < w.count ? w.count - back : 0;
            ask(&w, j % 3 != 0, &a);
            lk_prover p;
            prover_begin(&p, &a, moment, true);
            CHECK_OK(lk_prover_look(&p, v, w.count, &guard, &verdict, &err), &err);
            bool expected = was_changed(&w, &a, moment, w.count);
            CHECK_EQ(verdict, expected ? LK_CHANGED : LK_SAME);
            *(expected ? &changed : &same) += 1;
            lk_prover_deinit(&p);
        }
        lk_view_unref(v);
        world_free(&w);
    }
    lk_guard_deinit(&guard);
    CHECK(changed > 300 && same > 300);
}

/* Without the look before, so that what was flushed cannot be known. */
LK_TEST(under_the_lock_it_is_right_or_does_not_know)
{
    uint64_t rng = lk_test_seed();
    unsigned verdicts[3] = {0};
    for (int i = 0; i < 150; i++) {
        world w = world_random(&rng, 100);
        lk_view *v = world_view(&w);
        uint64_t logged = w.segment_count > 0 ? w.segments[0]->base_seq - 1 : w.count;
        for (int j = 0; j < 20; j++) {
            asked a;
            uint64_t moment = lk_test_below(&rng, w.count + 1);
            if (j % 2 == 0 && moment < logged) moment = logged;
            ask(&w, j % 3 != 0, &a);
            lk_prover p;
            prover_begin(&p, &a, moment, false);
            lk_verdict verdict = lk_prover_settle(&p, v, w.count);
            verdicts[verdict]++;
            if (moment >= logged) {
                CHECK_EQ(verdict, was_changed(&w, &a, moment, w.count) ? LK_CHANGED : LK_SAME);
            } else {
                CHECK_EQ(verdict, LK_UNKNOWN);
            }
            lk_prover_deinit(&p);
        }
        lk_view_unref(v);
        world_free(&w);
    }
    CHECK(verdicts[LK_SAME] > 100 && verdicts[LK_CHANGED] > 100 && verdicts[LK_UNKNOWN] > 100);
}

/* A look at what was there, then more is written: in the log, or flushed at once. */
LK_TEST(what_comes_after_a_look_is_found_under_the_lock)
{
    uint64_t rng = lk_test_seed();
    lk_guard guard;
    unsigned unknown = 0;
    lk_guard_init(&guard);
    for (int i = 0; i < 150; i++) {
        bool flushed = i % 3 == 0;
        world w = world_random(&rng, 60);
        lk_table_options options = TABLE_OPTIONS;
        asked a;
        lk_verdict verdict;
        lk_error err;
        if (w.segment_count == WORLD_SEGMENTS_MAX) {
            world_free(&w);
            continue;
        }
        lk_view *v = world_view(&w);
        ask(&w, true, &a);
        uint64_t moment = w.count;
        lk_prover p;
        prover_begin(&p, &a, moment, true);
        CHECK_OK(lk_prover_look(&p, v, w.count, &guard, &verdict, &err), &err);
        CHECK_EQ(verdict, LK_SAME);
        CHECK_EQ(lk_prover_settle(&p, v, w.count), LK_SAME);
        lk_view_unref(v);
        size_t from = world_write_layer(&w, 1 + lk_test_below(&rng, 5), true, 30);
        if (flushed) {
            world_add_run(&w, from, 0, 1, &options);
        } else {
            world_add_segment(&w, from);
        }
        v = world_view(&w);
        bool expected = was_changed(&w, &a, moment, w.count);
        verdict = lk_prover_settle(&p, v, w.count);
        if (flushed) {
            CHECK(verdict == LK_UNKNOWN || (verdict == LK_SAME && !expected));
            unknown += verdict == LK_UNKNOWN;
            CHECK_OK(lk_prover_look(&p, v, w.count, &guard, &verdict, &err), &err);
        }
        CHECK_EQ(verdict, expected ? LK_CHANGED : LK_SAME);
        lk_prover_deinit(&p);
        lk_view_unref(v);
        world_free(&w);
    }
    CHECK(unknown > 10);
    lk_guard_deinit(&guard);
}

LK_TEST(nothing_asked_for_is_never_changed)
{
    uint64_t rng = lk_test_seed();
    world w = world_random(&rng, 50);
    lk_view *v = world_view(&w);
    uint8_t byte = 7;
    /* A range that ends before it begins holds nothing. */
    asked a = {.count = 1};
    a.items[0] =
        (lk_check){.tree = ROWS_TREE, .is_range = true, .start = {&byte, 1}, .stop = {&byte, 1}};
    lk_guard guard;
    lk_verdict verdict;
    lk_error err;
    lk_guard_init(&guard);
    lk_prover p;
    prover_begin(&p, &a, 0, true);
    CHECK_OK(lk_prover_look(&p, v, w.count, &guard, &verdict, &err), &err);
    CHECK_EQ(verdict, LK_SAME);
    lk_prover_deinit(&p);
    lk_guard_deinit(&guard);
    lk_view_unref(v);
    world_free(&w);
}

LK_TEST(a_block_that_cannot_be_read_is_an_error)
{
    uint64_t rng = lk_test_seed();
    world w = world_of_numbers(&rng, 100);
    lk_table_options options = TABLE_OPTIONS;
    for (uint32_t i = 0; i < 100; i++) world_write(&w, i, false);
    world_add_run(&w, 0, 0, 1, &options);
    lk_view *v = world_view(&w);
    asked a = {.count = 1};
    a.items[0] = (lk_check){.tree = ROWS_TREE, .is_range = true, .start = world_key(&w, 0)};
    lk_guard guard;
    lk_verdict verdict;
    lk_error err;
    lk_guard_init(&guard);
    lk_prover p;
    prover_begin(&p, &a, 50, true);
    CHECK(lk_sim_fail(w.disk.sim, LK_SIM_READ, 1, 5, false));
    CHECK_EQ(lk_prover_look(&p, v, w.count, &guard, &verdict, &err), LK_IO);
    CHECK_EQ(verdict, LK_UNKNOWN);
    lk_prover_deinit(&p);
    lk_guard_deinit(&guard);
    lk_view_unref(v);
    world_free(&w);
}
