/* A skyline answers for every key and every moment what a list of the deleted ranges says, whether it
 * is made at once, from two, or step by step; and several of them at once tell up to where an answer
 * holds. The range tombstones of a segment say the same to whoever sees a part of it. */
#include "harness.h"

#include "order.h"
#include "segment_fixture.h"
#include "tombs.h"

enum { TREES = 3, KEYS = 40, RANGES_MAX = 60 };

/* Keys whose order is that of their numbers: short ones, and some whose first eight bytes are equal. */
static uint8_t key_bytes[KEYS + 1][16];
static size_t key_lens[KEYS + 1];

static void keys_make(void)
{
    for (int i = 0; i <= KEYS; i++) {
        if (i == 0) continue; /* the empty key */
        key_lens[i] = i % 3 == 0 ? 12 : 9;
        memset(key_bytes[i], 'k', sizeof key_bytes[i]);
        key_bytes[i][4] = (uint8_t)('a' + i / 10);
        key_bytes[i][8] = (uint8_t)('a' + i % 10);
    }
}

static lk_bytes key_of(int i) { return (lk_bytes){key_bytes[i], key_lens[i]}; }

typedef struct oracle {
    lk_tomb ranges[RANGES_MAX];
    int from[RANGES_MAX], to[RANGES_MAX]; /* as numbers of keys; to INT_MAX: the end */
    size_t count;
    uint64_t moments[8]; /* descending */
    lk_snapshots list;
} oracle;

static void oracle_make(oracle *o, uint64_t *rng, size_t count)
{
    static const lk_bytes END = {NULL, 0};
    o->count = count;
    for (size_t i = 0; i < count; i++) {
        o->from[i] = (int)lk_test_below(rng, KEYS);
        o->to[i] = lk_test_below(rng, 8) == 0 ? INT_MAX : (int)lk_test_below(rng, KEYS + 1);
        o->ranges[i] = (lk_tomb){.start = key_of(o->from[i]),
                                 .stop = o->to[i] == INT_MAX ? END : key_of(o->to[i]),
                                 .seq = 10 + 3 * i,
                                 .tree = (uint32_t)lk_test_below(rng, TREES)};
    }
    size_t n = lk_test_below(rng, 8);
    uint64_t seq = 10 + 3 * RANGES_MAX;
    for (o->list.count = 0; o->list.count < n && seq > 30; o->list.count++) {
        seq -= 1 + lk_test_below(rng, 30);
        o->moments[o->list.count] = seq;
    }
    o->list.seqs = o->moments;
}

static uint64_t oracle_cover(const oracle *o, uint32_t tree, int key, uint64_t seq)
{
    uint64_t newest = 0;
    for (size_t i = 0; i < o->count; i++) {
        const lk_tomb *t = &o->ranges[i];
        if (t->tree != tree || key < o->from[i] || key >= o->to[i]) continue;
        if (t->seq <= seq && t->seq > newest) newest = t->seq;
    }
    return newest;
}

static void check_skyline(const oracle *o, const lk_tombs *t)
{
    for (uint32_t tree = 0; tree < TREES + 1; tree++) {
        for (int i = 0; i < KEYS; i++) {
            lk_bytes key = key_of(i);
            for (size_t m = 0; m <= o->list.count; m++) {
                uint64_t seq = m == o->list.count ? LK_SEQ_MAX : o->moments[m];
                uint64_t found = t == NULL ? 0 : lk_tombs_cover(t, tree, key.data, key.len, seq);
                CHECK_EQ(found, oracle_cover(o, tree, i, seq));
            }
        }
    }
}

static void check_form(const lk_tombs *t)
{
    if (t == NULL) return;
    uint64_t newest = 0;
    CHECK(t->count >= 2);
    for (uint32_t i = 0; i < t->count; i++) {
        const lk_tomb_step *s = &t->steps[i], *next = s + 1;
        CHECK(next->first >= s->first);
        for (uint32_t j = s->first; j < next->first; j++) {
            CHECK(j == s->first || t->seqs[j] < t->seqs[j - 1]);
            if (t->seqs[j] > newest) newest = t->seqs[j];
        }
        if (i + 1 == t->count) continue;
        bool ascends = s->tree < next->tree ||
                       lk_key_compare(s->key, s->key_len, next->key, next->key_len) < 0;
        CHECK(ascends && s->tree <= next->tree);
    }
    CHECK(t->steps[0].first < t->steps[1].first);
    CHECK_EQ(t->steps[t->count].first, t->steps[t->count - 1].first);
    CHECK_EQ(t->newest, newest);
}

LK_TEST(test_a_skyline_says_what_the_list_of_ranges_says)
{
    uint64_t rng = lk_test_seed();
    keys_make();
    for (int round = 0; round < 300; round++) {
        oracle o;
        lk_error err;
        lk_tombs *t, *left, *right, *joined;
        oracle_make(&o, &rng, lk_test_below(&rng, RANGES_MAX));
        CHECK_OK(lk_tombs_make(o.ranges, o.count, &o.list, round % 2 == 0, &t, &err), &err);
        check_form(t);
        check_skyline(&o, t);
        size_t cut = o.count / 3;
        CHECK_OK(lk_tombs_make(o.ranges, cut, &o.list, true, &left, &err), &err);
        CHECK_OK(lk_tombs_make(o.ranges + cut, o.count - cut, &o.list, false, &right, &err), &err);
        CHECK_OK(lk_tombs_join(left, right, &o.list, true, &joined, &err), &err);
        check_form(joined);
        check_skyline(&o, joined);
        lk_tombs_unref(left);
        lk_tombs_unref(right);
        lk_tombs_unref(joined);
        lk_tombs_unref(t);
    }
}

LK_TEST(test_only_deletes_that_somebody_tells_apart_are_kept)
{
    lk_error err;
    lk_tombs *t;
    lk_tomb ranges[100];
    keys_make();
    for (int i = 0; i < 100; i++) {
        ranges[i] = (lk_tomb){.start = key_of(1), .stop = key_of(30), .seq = 1 + (uint64_t)i};
    }
    uint64_t seqs[] = {70, 20};
    lk_snapshots none = {0}, two = {seqs, 2};
    CHECK_OK(lk_tombs_make(ranges, 100, &none, true, &t, &err), &err);
    CHECK_EQ(t->count, 2);
    CHECK_EQ(t->steps[2].first, 1);
    CHECK_EQ(t->seqs[0], 100);
    lk_tombs_unref(t);
    CHECK_OK(lk_tombs_make(ranges, 100, &two, true, &t, &err), &err);
    CHECK_EQ(t->steps[1].first, 3);
    CHECK_EQ(t->seqs[0], 100);
    CHECK_EQ(t->seqs[1], 70);
    CHECK_EQ(t->seqs[2], 20);
    lk_tombs_unref(t);
}

LK_TEST(test_who_asks_for_the_next_delete_above_a_row_learns_who_still_sees_it)
{
    uint64_t rng = lk_test_seed();
    keys_make();
    for (int round = 0; round < 100; round++) {
        oracle o;
        lk_error err;
        lk_tombs *t;
        oracle_make(&o, &rng, 1 + lk_test_below(&rng, 20));
        CHECK_OK(lk_tombs_make(o.ranges, o.count, &o.list, true, &t, &err), &err);
        for (int i = 0; t != NULL && i < KEYS; i++) {
            lk_bytes key = key_of(i);
            uint64_t row = lk_test_below(&rng, 100); /* sequence of a row of this key */
            uint32_t at = lk_tombs_seek(t, 1, key.data, key.len);
            uint64_t above = lk_tombs_oldest_above(t, at, row);
            CHECK_EQ(above == LK_SEQ_MAX, oracle_cover(&o, 1, i, LK_SEQ_MAX) <= row);
            bool seen = false;
            for (size_t m = 0; m < o.list.count; m++) {
                seen |= o.moments[m] >= row && oracle_cover(&o, 1, i, o.moments[m]) <= row;
            }
            CHECK_EQ(lk_snapshots_between(&o.list, row, above), seen);
        }
        lk_tombs_unref(t);
    }
}

LK_TEST(test_touching_is_covering_some_key_between_two)
{
    uint64_t rng = lk_test_seed();
    keys_make();
    for (int round = 0; round < 200; round++) {
        oracle o;
        lk_error err;
        lk_tombs *t;
        oracle_make(&o, &rng, 1 + lk_test_below(&rng, 6));
        CHECK_OK(lk_tombs_make(o.ranges, o.count, &o.list, true, &t, &err), &err);
        for (int i = 0; t != NULL && i < 50; i++) {
            int a = (int)lk_test_below(&rng, KEYS),
                b = a + (int)lk_test_below(&rng, (uint64_t)(KEYS - a));
            uint64_t seq = lk_test_below(&rng, 40);
            bool expected = false;
            for (int k = a; k <= b; k++) expected |= oracle_cover(&o, 2, k, LK_SEQ_MAX) > seq;
            CHECK_EQ(lk_tombs_touch(t, 2, key_of(a), key_of(b), seq), expected);
        }
        lk_tombs_unref(t);
    }
}

/* ---- several at once, and segments ---- */

static void check_cover(const oracle *o, const lk_cover *c)
{
    for (uint32_t tree = 0; tree < TREES; tree++) {
        for (int i = 0; i < KEYS; i++) {
            lk_cover_region g;
            lk_bytes key = key_of(i);
            lk_cover_at(c, tree, key, &g);
            CHECK_EQ(g.seq, oracle_cover(o, tree, i, c->seq));
            CHECK(lk_key_compare(g.lower.data, g.lower.len, key.data, key.len) <= 0);
            CHECK(g.upper.data == NULL ||
                  lk_key_compare(key.data, key.len, g.upper.data, g.upper.len) < 0);
            for (int k = 0; k < KEYS; k++) { /* the answer holds for all of the region */
                lk_bytes other = key_of(k);
                if (lk_key_compare(other.data, other.len, g.lower.data, g.lower.len) < 0) continue;
                if (g.upper.data != NULL &&
                    lk_key_compare(other.data, other.len, g.upper.data, g.upper.len) >= 0) {
                    continue;
                }
                CHECK_EQ(oracle_cover(o, tree, k, c->seq), g.seq);
            }
        }
    }
}

LK_TEST(test_layers_together_say_up_to_where_an_answer_holds)
{
    uint64_t rng = lk_test_seed();
    keys_make();
    for (int round = 0; round < 60; round++) {
        oracle o;
        lk_error err;
        lk_cover cover = {.seq = round % 2 == 0 ? LK_SEQ_MAX : 40};
        oracle_make(&o, &rng, lk_test_below(&rng, 24));
        uint64_t seq = cover.seq;
        lk_snapshots moments = {&seq, 1};
        for (size_t i = 0; i < o.count;) {
            size_t n = 1 + lk_test_below(&rng, o.count - i);
            lk_tombs *t;
            CHECK_OK(lk_tombs_make(o.ranges + i, n, &moments, true, &t, &err), &err);
            CHECK_OK(lk_cover_add(&cover, t, &err), &err);
            lk_tombs_unref(t);
            i += n;
        }
        check_cover(&o, &cover);
        lk_cover_deinit(&cover);
    }
}

/* A segment of puts and of the oracle's ranges, of which range i is record 2 * i + 1. */
static lk_segment *segment_of(const oracle *o)
{
    lk_segment *s = segment_new(1000, 2 * RANGES_MAX, 64 * 2 * RANGES_MAX);
    for (size_t i = 0; i < o->count; i++) {
        const lk_tomb *t = &o->ranges[i];
        segment_add(s, 0, LK_KIND_PUT, key_of(1), key_of(2));
        segment_add(s, t->tree, LK_KIND_DELETE_RANGE, t->start, t->stop);
    }
    return s;
}

LK_TEST(test_range_tombstones_of_a_segment_hold_for_those_who_see_them)
{
    uint64_t rng = lk_test_seed();
    keys_make();
    for (int round = 0; round < 20; round++) {
        oracle o;
        lk_error err;
        oracle_make(&o, &rng, round < 4 ? (size_t)round : lk_test_below(&rng, RANGES_MAX));
        for (size_t i = 0; i < o.count; i++) {
            /* A range that ends before it starts is never written. */
            if (o.to[i] <= o.from[i]) {
                o.to[i] = o.from[i] + 1;
                o.ranges[i].stop = key_of(o.to[i]);
            }
        }
        lk_segment *s = segment_of(&o);
        for (size_t i = 0; i < o.count; i++) o.ranges[i].seq = 1000 + 2 * i + 1;
        for (uint32_t visible = 0; visible <= s->count; visible += 1 + s->count / 40) {
            for (uint32_t tree = 0; tree < TREES; tree++) {
                for (int i = 0; i < KEYS; i++) {
                    lk_bytes key = key_of(i);
                    uint32_t found = lk_segment_tomb_over(s, tree, key.data, key.len, visible);
                    uint64_t seq = visible == 0 ? 0 : oracle_cover(&o, tree, i, 999 + visible);
                    CHECK_EQ(found, seq == 0 ? 0 : seq - 999);
                }
            }
            lk_cover cover = {.seq = LK_SEQ_MAX};
            CHECK_OK(lk_segment_tombs_cover(s, visible, &cover, &err), &err);
            for (int i = 0; i < KEYS; i++) {
                lk_cover_region g;
                lk_cover_at(&cover, 0, key_of(i), &g);
                CHECK_EQ(g.seq, oracle_cover(&o, 0, i, 999 + visible));
            }
            lk_cover_deinit(&cover);
            lk_tomb *list;
            size_t count;
            CHECK_OK(lk_segment_tombs_list(s, visible, &list, &count, &err), &err);
            CHECK_EQ(count, visible / 2);
            for (size_t i = 0; i < count; i++) CHECK_EQ(list[i].seq, 1000 + 2 * (count - i) - 1);
            free(list);
        }
        segment_free(s);
    }
}

LK_TEST(test_ten_thousand_live_ranges_stay_cheap)
{
    enum { COUNT = 10000 };
    lk_error err;
    lk_segment *s = segment_new(1, COUNT, 32 * COUNT);
    for (uint32_t i = 0; i < COUNT; i++) {
        uint8_t ends[2][4];
        uint32_t from = __builtin_bswap32(2 * i), to = __builtin_bswap32(2 * i + 1);
        memcpy(ends[0], &from, 4);
        memcpy(ends[1], &to, 4);
        segment_add(s, 0, LK_KIND_DELETE_RANGE, (lk_bytes){ends[0], 4}, (lk_bytes){ends[1], 4});
    }
    CHECK(s->tombs.bytes < 16 << 20);
    lk_cover cover = {.seq = LK_SEQ_MAX};
    CHECK_OK(lk_segment_tombs_cover(s, COUNT, &cover, &err), &err);
    CHECK(cover.count < 16);
    for (uint32_t i = 0; i < 2 * COUNT; i += 7) {
        uint8_t key[4];
        uint32_t number = __builtin_bswap32(i);
        memcpy(key, &number, 4);
        CHECK_EQ(lk_segment_tomb_over(s, 0, key, 4, COUNT), i % 2 == 0 ? i / 2 + 1 : 0);
    }
    lk_cover_deinit(&cover);
    segment_free(s);
}
