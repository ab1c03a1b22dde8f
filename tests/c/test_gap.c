/* test_gap.c: a scan that leaves out remembered gaps gives what one gives that walks through
 * everything: with puts into a gap, at moments before and after it, both ways, across flushes and
 * compactions. And gaps are used: a scan behind one does not meet the rows in it again. */
#include "harness.h"

#include "gap.h"
#include "store_fixture.h"

enum { KEYS = 3000, MOMENTS = 4 };

static const char *key_of(uint32_t i, char *out)
{
    (void)snprintf(out, 16, "key %05u", i);
    return out;
}

static lk_bytes bytes_of(const char *text)
{
    return (lk_bytes){(const uint8_t *)text, strlen(text)};
}

static void write_key(lk_store *s, uint32_t i, bool put)
{
    char key[16];
    store_put(s, 0, key_of(i, key), put ? "value" : NULL);
}

/* Reads up to `max` rows of a scan into `out` and closes it. */
static size_t scan(lk_store *s, const lk_bounds *bounds, uint64_t seq, bool reverse, size_t max,
                   uint32_t *out)
{
    lk_error err;
    uint64_t now;
    size_t count = 0, n = 1;
    lk_cursor *c;
    lk_view *v = lk_store_view_now(s, &now);
    CHECK_OK(lk_cursor_open(v, 0, seq < now ? seq : now, bounds, reverse, &c, &err), &err);
    lk_view_unref(v);
    while (count < max && n > 0) {
        lk_pair pairs[64];
        CHECK_OK(lk_cursor_next(c, pairs, max - count < 64 ? max - count : 64, &n, &err), &err);
        for (size_t i = 0; i < n; i++) {
            char digits[8] = {0};
            CHECK_EQ(pairs[i].key.len, 9);
            memcpy(digits, pairs[i].key.data + 4, 5);
            out[count++] = (uint32_t)strtoul(digits, NULL, 10);
        }
    }
    lk_cursor_close(c);
    return count;
}

static uint32_t gaps_of(lk_store *s) { return atomic_load(&s->gaps.count); }

/* ---- at random, against an array ---- */

typedef struct moment {
    lk_snapshot *snapshot;
    uint8_t lives[KEYS];
} moment;

typedef struct game {
    uint64_t rng;
    lk_store *store;
    uint8_t lives[KEYS];
    moment moments[MOMENTS];
    uint64_t gaps_seen;
} game;

static void write_some(game *g)
{
    uint32_t from = (uint32_t)lk_test_below(&g->rng, KEYS),
             kind = (uint32_t)lk_test_below(&g->rng, 6);
    uint32_t most = kind == 0 ? 3 : kind < 3 ? 400 : 1500;
    uint32_t count = 1 + (uint32_t)lk_test_below(&g->rng, most);
    if (lk_test_below(&g->rng, 3) == 0) from = 0;
    for (uint32_t i = from; i < from + count && i < KEYS; i++) {
        g->lives[i] = kind < 3;
        write_key(g->store, i, g->lives[i] != 0);
    }
}

static void take_moment(game *g)
{
    lk_error err;
    moment *m = &g->moments[lk_test_below(&g->rng, MOMENTS)];
    if (m->snapshot != NULL) {
        lk_store_release(g->store, m->snapshot);
        m->snapshot = NULL;
    } else {
        CHECK_OK(lk_store_snapshot(g->store, &m->snapshot, &err), &err);
        memcpy(m->lives, g->lives, KEYS);
    }
}

static void compare(game *g)
{
    static uint32_t found[KEYS];
    char lower_key[16], upper_key[16];
    lk_bounds bounds = {{NULL, 0}, {NULL, 0}};
    const uint8_t *lives = g->lives;
    uint64_t seq = LK_SEQ_MAX - 1;
    bool reverse = lk_test_below(&g->rng, 2) == 0;
    uint32_t lower = 0, upper = KEYS;
    const moment *m = &g->moments[lk_test_below(&g->rng, MOMENTS)];
    if (m->snapshot != NULL && lk_test_below(&g->rng, 2) == 0) {
        lives = m->lives;
        seq = m->snapshot->seq;
    }
    if (lk_test_below(&g->rng, 3) == 0) lower = (uint32_t)lk_test_below(&g->rng, KEYS);
    if (lk_test_below(&g->rng, 3) == 0) upper = (uint32_t)lk_test_below(&g->rng, KEYS);
    if (lower > 0) bounds.lower = bytes_of(key_of(lower, lower_key));
    if (upper < KEYS) bounds.upper = bytes_of(key_of(upper, upper_key));
    size_t max = lk_test_below(&g->rng, 2) == 0 ? KEYS : 1 + lk_test_below(&g->rng, 10), at = 0;
    size_t count = scan(g->store, &bounds, seq, reverse, max, found);
    for (uint32_t i = 0; i < KEYS && at < max; i++) {
        uint32_t key = reverse ? KEYS - 1 - i : i;
        if (lives[key] == 0 || key < lower || key >= upper) continue;
        CHECK(at < count);
        CHECK_EQ(found[at], key);
        at++;
    }
    CHECK_EQ(count, at);
    g->gaps_seen += gaps_of(g->store);
}

LK_TEST(scans_that_leave_gaps_out_miss_no_row)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 128 << 10);
    static game g;
    lk_status st;
    g = (game){.rng = lk_test_seed(), .store = store_open(sim, &o)};
    for (uint32_t turn = 0; turn < 400; turn++) {
        switch (lk_test_below(&g.rng, 12)) {
        case 0:
            store_flush(g.store);
            break;
        case 1:
            (void)store_compact(g.store, 0, &st);
            CHECK_EQ(st, LK_OK);
            break;
        case 2:
            take_moment(&g);
            break;
        case 3:
        case 4:
        case 5:
            write_some(&g);
            break;
        default:
            compare(&g);
            break;
        }
    }
    CHECK(g.gaps_seen > 0);
    for (uint32_t i = 0; i < MOMENTS; i++) {
        if (g.moments[i].snapshot != NULL) lk_store_release(g.store, g.moments[i].snapshot);
    }
    store_close(g.store);
    lk_sim_free(sim);
}

/* ---- one thing each ---- */

typedef struct fixture {
    lk_sim *sim;
    lk_store *store;
} fixture;

static const lk_bounds ALL = {{NULL, 0}, {NULL, 0}};

/* A store in which keys [0, dead) were deleted and [dead, dead + 10) are there. */
static fixture fixture_new(uint32_t dead)
{
    fixture f = {.sim = lk_sim_new(lk_test_seed())};
    lk_store_options o = store_options(true, 1 << 20);
    f.store = store_open(f.sim, &o);
    for (uint32_t i = 0; i < dead + 10; i++) write_key(f.store, i, true);
    for (uint32_t i = 0; i < dead; i++) write_key(f.store, i, false);
    return f;
}

static void fixture_free(fixture *f)
{
    store_close(f->store);
    lk_sim_free(f->sim);
}

static uint32_t first_row(lk_store *s, uint64_t seq, bool reverse)
{
    uint32_t row = UINT32_MAX;
    (void)scan(s, &ALL, seq, reverse, 1, &row);
    return row;
}

/* The gaps that a scan of everything would leave out now. */
static uint32_t gaps_found(lk_store *s, uint64_t seq, lk_gaps *out)
{
    uint64_t now;
    lk_view *v = lk_store_view_now(s, &now);
    lk_gaps_find(&s->gaps, v, 0, seq < now ? seq : now, &ALL, false, out);
    lk_view_unref(v);
    return out->count;
}

static void check_gap(const lk_gap *g, const char *lower, const char *upper)
{
    CHECK(lk_bytes_equal(g->lower.data, g->lower.len, (const uint8_t *)lower, strlen(lower)));
    CHECK((upper == NULL) == (g->upper.data == NULL));
    if (upper == NULL) return;
    CHECK(lk_bytes_equal(g->upper.data, g->upper.len, (const uint8_t *)upper, strlen(upper)));
}

LK_TEST(the_dead_rows_at_the_head_become_a_gap)
{
    fixture f = fixture_new(1000);
    lk_gaps g;
    CHECK_EQ(gaps_found(f.store, LK_SEQ_MAX, &g), 0);
    CHECK_EQ(first_row(f.store, LK_SEQ_MAX - 1, false), 1000);
    CHECK_EQ(gaps_found(f.store, LK_SEQ_MAX, &g), 1);
    check_gap(g.gaps[0], "", "key 01000");
    lk_gaps_release(&g);
    CHECK_EQ(first_row(f.store, LK_SEQ_MAX - 1, false), 1000);
    fixture_free(&f);
}

LK_TEST(a_few_dead_rows_more_make_a_gap_longer)
{
    fixture f = fixture_new(1000);
    lk_gaps g;
    CHECK_EQ(first_row(f.store, LK_SEQ_MAX - 1, false), 1000);
    for (uint32_t i = 1010; i < 1100; i++) write_key(f.store, i, true);
    for (uint32_t i = 1000; i < 1050; i++) write_key(f.store, i, false);
    CHECK_EQ(first_row(f.store, LK_SEQ_MAX - 1, false), 1050);
    CHECK_EQ(gaps_found(f.store, LK_SEQ_MAX, &g), 1);
    check_gap(g.gaps[0], "", "key 01050");
    lk_gaps_release(&g);
    fixture_free(&f);
}

LK_TEST(dead_rows_behind_live_ones_become_a_gap_from_either_side)
{
    for (int reverse = 0; reverse < 2; reverse++) {
        fixture f = fixture_new(0);
        static uint32_t rows[64];
        lk_gaps g;
        for (uint32_t i = 10; i < 1000; i++) write_key(f.store, i, true);
        for (uint32_t i = 10; i < 990; i++) write_key(f.store, i, false);
        CHECK_EQ(scan(f.store, &ALL, LK_SEQ_MAX - 1, reverse != 0, 64, rows), 20);
        CHECK_EQ(gaps_found(f.store, LK_SEQ_MAX, &g), 1);
        CHECK(g.gaps[0]->rows > 900);
        lk_gaps_release(&g);
        CHECK_EQ(scan(f.store, &ALL, LK_SEQ_MAX - 1, reverse != 0, 64, rows), 20);
        CHECK_EQ(rows[10], reverse != 0 ? 9 : 990);
        fixture_free(&f);
    }
}

LK_TEST(an_empty_store_is_one_gap)
{
    fixture f = fixture_new(1000);
    lk_gaps g;
    for (uint32_t i = 1000; i < 1010; i++) write_key(f.store, i, false);
    CHECK_EQ(first_row(f.store, LK_SEQ_MAX - 1, false), UINT32_MAX);
    CHECK_EQ(gaps_found(f.store, LK_SEQ_MAX, &g), 1);
    check_gap(g.gaps[0], "", NULL);
    lk_gaps_release(&g);
    CHECK_EQ(first_row(f.store, LK_SEQ_MAX - 1, false), UINT32_MAX);
    CHECK_EQ(first_row(f.store, LK_SEQ_MAX - 1, true), UINT32_MAX);
    fixture_free(&f);
}

LK_TEST(a_put_divides_a_gap)
{
    fixture f = fixture_new(1000);
    lk_gaps g;
    CHECK_EQ(first_row(f.store, LK_SEQ_MAX - 1, false), 1000);
    write_key(f.store, 500, true);
    CHECK_EQ(gaps_found(f.store, LK_SEQ_MAX, &g), 2);
    check_gap(g.gaps[0], "", "key 00500");
    lk_gaps_release(&g);
    CHECK_EQ(first_row(f.store, LK_SEQ_MAX - 1, false), 500);
    fixture_free(&f);
}

LK_TEST(a_snapshot_from_before_a_gap_does_not_use_it)
{
    fixture f = fixture_new(0);
    lk_snapshot *before;
    lk_error err;
    for (uint32_t i = 10; i < 1010; i++) write_key(f.store, i, true);
    CHECK_OK(lk_store_snapshot(f.store, &before, &err), &err);
    for (uint32_t i = 0; i < 1000; i++) write_key(f.store, i, false);
    CHECK_EQ(first_row(f.store, LK_SEQ_MAX - 1, false), 1000);
    CHECK_EQ(gaps_of(f.store), 1);
    CHECK_EQ(first_row(f.store, before->seq, false), 0);
    lk_store_release(f.store, before);
    fixture_free(&f);
}

LK_TEST(a_gap_outlives_a_flush_and_is_forgotten_when_records_are_gone)
{
    fixture f = fixture_new(1000);
    lk_gaps g;
    CHECK_EQ(first_row(f.store, LK_SEQ_MAX - 1, false), 1000);
    store_flush(f.store);
    CHECK_EQ(gaps_found(f.store, LK_SEQ_MAX, &g), 1);
    lk_gaps_release(&g);
    write_key(f.store, 3, true);
    store_flush(f.store); /* nobody can look at that record any more */
    CHECK_EQ(gaps_found(f.store, LK_SEQ_MAX, &g), 0);
    CHECK_EQ(first_row(f.store, LK_SEQ_MAX - 1, false), 3);
    fixture_free(&f);
}

LK_TEST(rows_that_came_by_another_way_end_all_gaps)
{
    fixture f = fixture_new(1000);
    lk_gaps g;
    uint64_t now;
    CHECK_EQ(first_row(f.store, LK_SEQ_MAX - 1, false), 1000);
    lk_view *v = lk_store_view_now(f.store, &now);
    lk_gap_memory_forget(&f.store->gaps, now + 1);
    CHECK_EQ(gaps_of(f.store), 0);
    lk_gap_note(&f.store->gaps, v, 0, now, &ALL, 1000); /* by a scan that began before */
    CHECK_EQ(gaps_of(f.store), 0);
    write_key(f.store, 2000, true);
    CHECK_EQ(first_row(f.store, LK_SEQ_MAX - 1, false), 1000);
    CHECK_EQ(gaps_found(f.store, LK_SEQ_MAX, &g), 1);
    lk_gaps_release(&g);
    lk_view_unref(v);
    fixture_free(&f);
}

LK_TEST(versions_of_one_live_key_are_no_gap)
{
    fixture f = fixture_new(0);
    for (uint32_t i = 0; i < 2000; i++) write_key(f.store, 5, true);
    static uint32_t rows[64];
    CHECK_EQ(scan(f.store, &ALL, LK_SEQ_MAX - 1, false, 64, rows), 10);
    CHECK_EQ(scan(f.store, &ALL, LK_SEQ_MAX - 1, true, 64, rows), 10);
    CHECK_EQ(gaps_of(f.store), 0);
    fixture_free(&f);
}

LK_TEST(only_so_many_gaps_are_remembered)
{
    fixture f = fixture_new(0);
    lk_gaps g;
    uint64_t now;
    lk_view *v = lk_store_view_now(f.store, &now);
    for (uint32_t i = 0; i < 2 * LK_GAPS_MAX; i++) {
        char lower[16], upper[16];
        lk_bounds b = {bytes_of(key_of(100 + 2 * i, lower)), bytes_of(key_of(101 + 2 * i, upper))};
        lk_gap_note(&f.store->gaps, v, 0, now, &b, 1000 + i);
    }
    CHECK_EQ(gaps_of(f.store), LK_GAPS_MAX);
    CHECK_EQ(gaps_found(f.store, LK_SEQ_MAX, &g), LK_GAPS_OF_SCAN_MAX);
    CHECK_EQ(g.gaps[0]->rows, 1000 + LK_GAPS_MAX); /* those of the fewest rows went */
    lk_gaps_release(&g);
    lk_bounds between = {bytes_of("key 00100"), bytes_of("key 00900")};
    lk_gap_note(&f.store->gaps, v, 0, now, &between, 1);
    CHECK_EQ(gaps_of(f.store), 1);
    lk_view_unref(v);
    fixture_free(&f);
}
