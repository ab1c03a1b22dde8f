/* test_order.c: the sorted order of a segment is that of qsort with whole keys, whatever the keys
 * look like and in however many pieces it was asked for. */
#include "harness.h"

#include "order.h"
#include "order_sort.h"
#include "segment_fixture.h"

/* ---- keys of all kinds ---- */

enum { SHAPES = 15, KEY_BYTES_MAX = 300 };

/* Writes key `i` of a shape; returns its length. */
static size_t shape_key(uint64_t *rng, uint32_t shape, uint32_t i, uint8_t *out)
{
    uint64_t r = lk_test_rand(rng);
    switch (shape) {
    case 0: /* random */
        lk_test_fill(rng, out, 16);
        return 16;
    case 1: /* sequential integers */
        lk_store64(out, __builtin_bswap64(i));
        return 8;
    case 2: /* random integers of few bits */
        lk_store64(out, __builtin_bswap64(r % 50000));
        return 8;
    case 3: /* decimal digits behind a common name */
        return (size_t)snprintf((char *)out, 40, "user:%011u", (unsigned)(r % 1000000));
    case 4: /* few devices, each with rising times */
        memcpy(out, "device00", 8);
        out[7] = (uint8_t)('0' + r % 10);
        lk_store64(out + 8, __builtin_bswap64(UINT64_C(1700000000000) + i * 1000));
        return 16;
    case 5: /* one key */
        memcpy(out, "the only key", 12);
        return 12;
    case 6: /* keys that differ in zeros at their ends */
        memset(out, 0, 40);
        out[0] = 'z';
        return 1 + r % 30;
    case 7: /* lengths from nothing on, two letters: many repeats, many prefixes of others */
        for (uint32_t j = 0; j < 12; j++) out[j] = (r >> j & 1) != 0 ? 'a' : 0;
        return r >> 20 & 15 ? (r >> 20) % 12 : 0;
    case 8: /* a long common beginning, then two bytes */
        memset(out, 'p', 280);
        out[280] = (uint8_t)r;
        out[281] = (uint8_t)(r >> 8);
        return 282;
    case 9: /* differ early in a bit or two, then late */
        memset(out, 'q', 200);
        out[3] = (uint8_t)('a' + (r & 1));
        out[90] = (uint8_t)('a' + (r >> 1 & 3));
        lk_store32(out + 190, (uint32_t)(r >> 8) % 5000);
        return 194;
    case 10: /* each key is the beginning of the next */
        memset(out, 'c', 300);
        return r % 300;
    case 11: /* descending */
        lk_store64(out, __builtin_bswap64(UINT64_MAX - i));
        return 8;
    case 12: /* a few hot keys among random ones */
        lk_store64(out, r % 4 != 0 ? r % 7 : r);
        return 8;
    case 13: /* 32 bits that say much, then ties that differ far apart */
        memset(out, 't', 48);
        lk_store64(out, (r % 60 * UINT64_C(0x9E3779B1)) & UINT32_MAX);
        out[9 + r / 60 % 2] = (uint8_t)(r >> 20);
        out[40] = (uint8_t)(r >> 32);
        return 48;
    default: /* the first word says much, the tie needs the second */
        lk_store64(out, r % 200 * UINT64_C(0x9E3779B97F4A7C15));
        lk_store64(out + 8, lk_test_rand(rng) % 3);
        return 16;
    }
}

static void fill_segment(uint64_t *rng, lk_segment *s, uint32_t shape, uint32_t count,
                         uint32_t trees)
{
    uint8_t key[KEY_BYTES_MAX];
    for (uint32_t i = 0; i < count; i++) {
        uint32_t tree = trees == 1 ? 3 : (uint32_t)(lk_test_below(rng, trees) * 999);
        size_t len = shape_key(rng, shape, s->count, key);
        segment_add(s, tree, LK_KIND_PUT, (lk_bytes){key, len}, (lk_bytes){(uint8_t *)"v", 1});
    }
}

/* ---- the right answer ---- */

static const lk_segment *compared;

static int compare_ordinals(const void *a, const void *b)
{
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    lk_record x = lk_segment_record(compared, i), y = lk_segment_record(compared, j);
    if (x.tree != y.tree) return x.tree < y.tree ? -1 : 1;
    int c = lk_key_compare(x.key, x.key_len, y.key, y.key_len);
    if (c != 0) return c;
    return i > j ? -1 : i < j;
}

static uint32_t *sorted_ordinals(const lk_segment *s, uint32_t from, uint32_t count)
{
    uint32_t *out = malloc((count + 1) * sizeof *out);
    CHECK(out != NULL);
    for (uint32_t i = 0; i < count; i++) out[i] = from + i;
    compared = s;
    qsort(out, count, sizeof *out, compare_ordinals);
    return out;
}

static void check_run(const lk_segment *s, const lk_order_run *run, uint32_t from)
{
    uint32_t *expected = sorted_ordinals(s, from, run->count);
    for (uint32_t i = 0; i < run->count; i++) {
        lk_record r = lk_segment_record(s, expected[i]);
        CHECK_EQ(run->items[i].ordinal, expected[i]);
        CHECK_EQ(run->items[i].tree, r.tree);
        CHECK_EQ(run->items[i].prefix, lk_key_prefix(r.key, r.key_len));
    }
    free(expected);
}

/* Every run is sorted, they follow one another, and each has at most half of the one before. */
static void check_order(const lk_segment *s, const lk_order *o)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < o->run_count; i++) {
        CHECK(o->runs[i]->count > 0);
        if (i > 0) CHECK(o->runs[i]->count <= o->runs[i - 1]->count / 2);
        check_run(s, o->runs[i], at);
        at += o->runs[i]->count;
    }
    CHECK_EQ(at, o->covered);
}

/* ---- tests ---- */

LK_TEST(every_shape_of_key_is_sorted)
{
    static const uint32_t COUNTS[] = {1, 2, 24, 25, 300, 5000, 9000};
    uint64_t rng = lk_test_seed();
    lk_error err;
    for (uint32_t shape = 0; shape < SHAPES; shape++) {
        for (uint32_t i = 0; i < 7; i++) {
            lk_segment *s = segment_new(1, COUNTS[i], COUNTS[i] * (size_t)KEY_BYTES_MAX);
            lk_order *o;
            fill_segment(&rng, s, shape, COUNTS[i], 1);
            CHECK_OK(lk_segment_order(s, COUNTS[i], true, &o, &err), &err);
            CHECK_EQ(o->run_count, 1);
            CHECK_EQ(o->runs[0]->count, COUNTS[i]);
            check_order(s, o);
            lk_order_unref(o);
            segment_free(s);
        }
    }
}

LK_TEST(trees_come_one_after_the_other)
{
    uint64_t rng = lk_test_seed();
    lk_error err;
    for (uint32_t shape = 0; shape < SHAPES; shape++) {
        lk_segment *s = segment_new(1, 4000, 4000 * (size_t)KEY_BYTES_MAX);
        lk_order *o;
        fill_segment(&rng, s, shape, 4000, shape % 2 == 0 ? 3 : 1000);
        CHECK_OK(lk_segment_order(s, 4000, false, &o, &err), &err);
        check_order(s, o);
        lk_order_unref(o);
        segment_free(s);
    }
}

LK_TEST(an_order_grows_by_runs_that_halve)
{
    enum { COUNT = 3000 };
    uint64_t rng = lk_test_seed();
    lk_error err;
    lk_segment *s = segment_new(1, COUNT, COUNT * (size_t)KEY_BYTES_MAX);
    lk_order *first = NULL, *o;
    uint32_t shape = (uint32_t)lk_test_below(&rng, SHAPES), most = 0;
    while (s->count < COUNT) {
        uint32_t more = 1 + (uint32_t)lk_test_below(&rng, 60);
        fill_segment(&rng, s, shape, more < COUNT - s->count ? more : COUNT - s->count, 2);
        CHECK_OK(lk_segment_order(s, s->count, false, &o, &err), &err);
        CHECK_EQ(o->covered, s->count);
        check_order(s, o);
        most = o->run_count > most ? o->run_count : most;
        if (first == NULL) {
            first = o;
        } else {
            lk_order_unref(o);
        }
    }
    CHECK(most > 2);
    check_order(s, first); /* what was given out before is as it was */
    CHECK(first->covered < COUNT);
    CHECK_OK(lk_segment_order(s, COUNT, true, &o, &err), &err);
    CHECK_EQ(o->run_count, 1);
    check_order(s, o);
    lk_order_unref(o);
    lk_order_unref(first);
    segment_free(s);
}

/* As a queue does: keys that grow at the tail, the same again later at the head. */
LK_TEST(stretches_of_growing_keys_are_merged_in_order)
{
    enum { STEP = 50, STEPS = 40, DEPTH = 7 };
    uint64_t rng = lk_test_seed();
    lk_error err;
    lk_segment *s = segment_new(1, 2 * STEP * STEPS, 2 * STEP * STEPS * (size_t)16);
    for (uint32_t step = 0; step < STEPS; step++) {
        for (uint32_t i = 0; i < 2 * STEP; i++) {
            char key[16];
            uint32_t row = (i < STEP ? step + DEPTH : step) * STEP + i % STEP;
            int len = snprintf(key, sizeof key, "%010u", row + (uint32_t)lk_test_below(&rng, 3));
            segment_add(s, 0, i < STEP ? LK_KIND_PUT : LK_KIND_DELETE,
                        (lk_bytes){(const uint8_t *)key, (size_t)len}, (lk_bytes){NULL, 0});
        }
        lk_order *o;
        CHECK_OK(lk_segment_order(s, s->count, step + 1 == STEPS, &o, &err), &err);
        check_order(s, o);
        lk_order_unref(o);
    }
    segment_free(s);
}

LK_TEST(what_is_sorted_is_not_sorted_again)
{
    uint64_t rng = lk_test_seed();
    lk_error err;
    lk_segment *s = segment_new(1, 100, 10000);
    lk_order *a, *b, *c;
    fill_segment(&rng, s, 0, 60, 1);
    CHECK_OK(lk_segment_order(s, 10, false, &a, &err), &err);
    CHECK_EQ(a->covered, 60); /* all that was published */
    fill_segment(&rng, s, 0, 40, 1);
    CHECK_OK(lk_segment_order(s, 60, false, &b, &err), &err);
    CHECK(a == b);
    CHECK_OK(lk_segment_order(s, 61, false, &c, &err), &err);
    CHECK(c != b);
    CHECK_EQ(c->covered, 100);
    lk_order_unref(a);
    lk_order_unref(b);
    lk_order_unref(c);
    segment_free(s);
}

LK_TEST(an_empty_segment_has_an_empty_order)
{
    lk_error err;
    lk_segment *s = segment_new(1, 1, 100);
    lk_order *o;
    CHECK_OK(lk_segment_order(s, 0, true, &o, &err), &err);
    CHECK_EQ(o->run_count, 0);
    CHECK_EQ(o->covered, 0);
    lk_order_unref(o);
    segment_free(s);
}

LK_TEST(seek_finds_the_newest_version_of_the_next_key)
{
    uint64_t rng = lk_test_seed();
    lk_error err;
    for (uint32_t shape = 0; shape < SHAPES; shape++) {
        lk_segment *s = segment_new(1, 500, 500 * (size_t)KEY_BYTES_MAX);
        lk_order *o;
        fill_segment(&rng, s, shape, 500, 2); /* trees 0 and 999 */
        CHECK_OK(lk_segment_order(s, 500, true, &o, &err), &err);
        const lk_order_run *run = o->runs[0];
        for (uint32_t i = 0; i < 200; i++) {
            uint8_t key[KEY_BYTES_MAX];
            uint32_t tree = (uint32_t)lk_test_below(&rng, 3) * 500, expected = 0;
            if (tree == 1000) tree = 999;
            size_t len = shape_key(&rng, shape, i, key);
            while (expected < run->count) {
                lk_record r = lk_segment_record(s, run->items[expected].ordinal);
                if (r.tree > tree) break;
                if (r.tree == tree && lk_key_compare(r.key, r.key_len, key, len) >= 0) break;
                expected++;
            }
            CHECK_EQ(lk_order_seek(s, run, tree, key, len), expected);
        }
        CHECK_EQ(lk_order_seek(s, run, 1000, NULL, 0), run->count);
        lk_order_unref(o);
        segment_free(s);
    }
}

/* Whether the record may be missing for those who see at least the first `least` records. */
static bool is_hidden(const lk_segment *s, uint32_t ordinal, uint32_t least)
{
    lk_record r = lk_segment_record(s, ordinal);
    for (uint32_t t = ordinal + 1; t < least; t++) {
        lk_record d = lk_segment_record(s, t);
        if (d.kind != LK_KIND_DELETE_RANGE || d.tree != r.tree) continue;
        if (lk_key_compare(d.key, d.key_len, r.key, r.key_len) > 0) continue;
        if (d.value_len == 0) return true;
        if (lk_key_compare(r.key, r.key_len, d.value, d.value_len) < 0) return true;
    }
    return false;
}

/* Every record of the first `visible` is in it that somebody may see, and no range tombstone. */
static void check_live(const lk_segment *s, const lk_order *o, uint32_t visible, uint32_t least)
{
    uint8_t *given = calloc(s->count + 1, 1);
    CHECK(given != NULL);
    for (uint32_t i = 0; i < o->run_count; i++) {
        const lk_order_run *run = o->runs[i];
        for (uint32_t j = 0; j < run->count; j++) {
            uint32_t ordinal = run->items[j].ordinal;
            CHECK(ordinal < run->end && given[ordinal] == 0);
            CHECK(lk_segment_record(s, ordinal).kind != LK_KIND_DELETE_RANGE);
            CHECK(!is_hidden(s, ordinal, run->applied));
            CHECK(j == 0 || lk_order_compare(s, &run->items[j - 1], &run->items[j]) < 0);
            given[ordinal] = 1;
        }
    }
    for (uint32_t i = 0; i < visible; i++) {
        bool wanted = lk_segment_record(s, i).kind != LK_KIND_DELETE_RANGE;
        CHECK(given[i] != 0 || !wanted || is_hidden(s, i, least));
    }
    free(given);
}

LK_TEST(a_live_order_leaves_out_what_nobody_sees_who_takes_it)
{
    enum { COUNT = 300 };
    uint64_t rng = lk_test_seed();
    lk_error err;
    for (int round = 0; round < 60; round++) {
        lk_segment *s = segment_new(1, COUNT, COUNT * (size_t)64);
        while (s->count < COUNT) {
            char key[24], stop[24];
            int from = (int)lk_test_below(&rng, 100), n = 1 + (int)lk_test_below(&rng, 60);
            (void)snprintf(key, sizeof key, "key of some length%03d", from);
            (void)snprintf(stop, sizeof stop, "key of some length%03d", from + n);
            lk_bytes end = {(const uint8_t *)stop, lk_test_below(&rng, 20) == 0 ? 0 : 21};
            bool is_range = lk_test_below(&rng, 12) == 0;
            segment_add(s, (uint32_t)lk_test_below(&rng, 2),
                        is_range ? LK_KIND_DELETE_RANGE : LK_KIND_PUT,
                        (lk_bytes){(const uint8_t *)key, 21}, end);
            if (lk_test_below(&rng, 10) != 0) continue;
            uint32_t visible = s->count - (uint32_t)lk_test_below(&rng, s->count);
            uint32_t least = visible - (uint32_t)lk_test_below(&rng, visible + 1);
            if (lk_test_below(&rng, 2) == 0) least = visible;
            lk_order *o;
            bool single = lk_test_below(&rng, 8) == 0;
            CHECK_OK(lk_segment_order_live(s, visible, least, single, &o, &err), &err);
            CHECK(o->floor <= least);
            CHECK(!single || o->run_count <= 1);
            check_live(s, o, visible, least);
            lk_order_unref(o);
        }
        segment_free(s);
    }
}
