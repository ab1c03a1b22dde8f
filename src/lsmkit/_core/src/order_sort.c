/* order_sort.c: radix sort of records by (tree, key, newest first).
 *
 * Keys of a store seldom differ in all their bits: decimal digits, time stamps and names leave most
 * bits of a byte alone. So a range of items is sorted by one number: of a window of 32 bytes of the
 * key the bits that are not the same in all keys of the range, the first 64 of them. At most 33 of
 * those, three digits of 11, are sorted by counting (least significant digit first, so the order is
 * stable); what is still equal is a short list as a rule, and is put right by insertion. A long list
 * of equals is a range of its own, and is sorted by what follows in its keys.
 *
 *     key      u s e r : 0 0 0 4 2 7 1 3 ...
 *     varies   . . . . . . . . 4 4 4 4 4 ...  bits  ->  a number of 64 bits  ->  3 digits
 *
 * While a range is being sorted the number stands where its items keep their prefix; the prefix is
 * made again from it, without a look at the record.
 *
 * Always    the input of every step stands newest first, and every step is stable, so that the
 *           versions of one key need no comparison of their own.
 */
#include "order_sort.h"

#include "check.h"

enum {
    DIGIT_BITS_MAX = 11,
    DIGITS_MAX = 3,
    INSERTION_MAX = 24, /* up to here insertion beats clearing the counters */
    WIDE_MIN = 8192,    /* from here on 11-bit digits beat 8-bit ones */
    DEPTH_MAX = 12,     /* keys that go on being equal: compare them */
    WINDOW_WORDS = 4,
    TIE_AHEAD = 16,
};

typedef struct sorter {
    const lk_segment *segment;
    uint32_t counts[DIGITS_MAX][1u << DIGIT_BITS_MAX];
    lk_order_item items[]; /* room for a copy of the whole input */
} sorter;

size_t lk_order_sort_scratch_bytes(uint32_t count)
{
    return sizeof(sorter) + (size_t)count * sizeof(lk_order_item);
}

/* ---- squeezing out constant bits (Warren, "Hacker's Delight", 7-4 and 7-5) ---- */

typedef struct squeeze {
    uint64_t mask; /* bits that vary */
    uint64_t rest; /* the others, as they are in every word */
    uint64_t moves[6];
    uint32_t bits; /* set in mask */
    bool plain;    /* mask is one run at the bottom: nothing moves */
} squeeze;

static squeeze squeeze_make(uint64_t mask, uint64_t sample)
{
    squeeze q = {.mask = mask,
                 .rest = sample & ~mask,
                 .bits = (uint32_t)__builtin_popcountll(mask),
                 .plain = (mask & (mask + 1)) == 0};
    uint64_t m = mask, gaps = ~mask << 1;
    for (unsigned i = 0; i < 6; i++) {
        uint64_t parity = gaps ^ (gaps << 1);
        for (unsigned s = 2; s < 64; s *= 2) parity ^= parity << s;
        uint64_t move = parity & m;
        m = (m ^ move) | (move >> (1u << i));
        gaps &= ~parity;
        q.moves[i] = move;
    }
    return q;
}

/* The varying bits side by side at the bottom: sorts as the word does. */
static inline uint64_t squeeze_apply(const squeeze *q, uint64_t word)
{
    word &= q->mask;
    if (q->plain) return word;
    for (unsigned i = 0; i < 6; i++) {
        uint64_t t = word & q->moves[i];
        word = (word ^ t) | (t >> (1u << i));
    }
    return word;
}

static inline uint64_t squeeze_undo(const squeeze *q, uint64_t value)
{
    if (!q->plain) {
        for (unsigned i = 6; i-- > 0;) {
            uint64_t t = value << (1u << i);
            value = (value & ~q->moves[i]) | (t & q->moves[i]);
        }
    }
    return (value & q->mask) | q->rest;
}

/* ---- counting sort ---- */

static void scatter_by_prefix(const lk_order_item *from, lk_order_item *to, uint32_t count,
                              uint32_t *places, uint32_t shift, uint64_t digit_mask)
{
    for (uint32_t i = 0; i < count; i++) {
        to[places[(from[i].prefix >> shift) & digit_mask]++] = from[i];
    }
}

/* Sorts by the `bits` bits above `shift` of the prefixes. The result is in the array that is
 * returned: `items` or `scratch`. */
static lk_order_item *radix_by_prefix(sorter *x, lk_order_item *items, lk_order_item *scratch,
                                      uint32_t count, uint32_t shift, uint32_t bits)
{
    uint32_t digit_max = count >= WIDE_MIN ? DIGIT_BITS_MAX : 8;
    uint32_t passes = (bits + digit_max - 1) / digit_max;
    uint32_t width = (bits + passes - 1) / passes;
    uint64_t mask = ((uint64_t)1 << width) - 1;
    LK_ASSERT(passes >= 1 && passes <= DIGITS_MAX);

    for (uint32_t p = 0; p < passes; p++) memset(x->counts[p], 0, sizeof(uint32_t) << width);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t v = items[i].prefix >> shift;
        for (uint32_t p = 0; p < passes; p++) x->counts[p][(v >> (p * width)) & mask]++;
    }
    for (uint32_t p = 0; p < passes; p++) {
        lk_counts_to_places(x->counts[p], 1u << width);
        scatter_by_prefix(items, scratch, count, x->counts[p], shift + p * width, mask);
        lk_order_item *t = items;
        items = scratch;
        scratch = t;
    }
    return items;
}

/* Sorts by tree number, in place. */
static void radix_by_tree(sorter *x, lk_order_item *items, uint32_t count)
{
    lk_order_item *from = items, *to = x->items;
    for (uint32_t shift = 0; shift < 32; shift += DIGIT_BITS_MAX) {
        uint32_t *places = x->counts[0];
        uint32_t mask = (1u << DIGIT_BITS_MAX) - 1;
        memset(places, 0, sizeof x->counts[0]);
        for (uint32_t i = 0; i < count; i++) places[(from[i].tree >> shift) & mask]++;
        if (places[(from[0].tree >> shift) & mask] == count) continue;
        lk_counts_to_places(places, mask + 1);
        for (uint32_t i = 0; i < count; i++) to[places[(from[i].tree >> shift) & mask]++] = from[i];
        lk_order_item *t = from;
        from = to;
        to = t;
    }
    if (from != items) memcpy(items, from, (size_t)count * sizeof *items);
}

/* ---- comparing sorts ---- */

static void insertion_sort(const lk_segment *s, lk_order_item *items, uint32_t count)
{
    for (uint32_t i = 1; i < count; i++) {
        lk_order_item item = items[i];
        uint32_t j = i;
        while (j > 0 && lk_order_compare(s, &item, &items[j - 1]) < 0) {
            items[j] = items[j - 1];
            j--;
        }
        items[j] = item;
    }
}

static void merge_sort(const lk_segment *s, lk_order_item *items, lk_order_item *scratch,
                       uint32_t count)
{
    if (count <= INSERTION_MAX) {
        insertion_sort(s, items, count);
        return;
    }
    uint32_t half = count / 2;
    merge_sort(s, items, scratch, half);
    merge_sort(s, items + half, scratch, count - half);
    memcpy(scratch, items, (size_t)half * sizeof *items);
    uint32_t i = 0, j = half, at = 0;
    while (i < half && j < count) {
        bool second = lk_order_compare(s, &items[j], &scratch[i]) < 0;
        items[at++] = second ? items[j++] : scratch[i++];
    }
    memcpy(items + at, scratch + i, (size_t)(half - i) * sizeof *items);
}

/* ---- the window ---- */

typedef struct window {
    uint32_t at;         /* where it begins in the keys; they are equal before it */
    uint32_t bits, used; /* of the number; words that it has bits of */
    bool cut;            /* bits of the window did not fit into the number */
    squeeze words[WINDOW_WORDS];
} window;

/* Eight bytes of a key from `at` on, as a number that sorts; zeros behind its end. */
static inline uint64_t key_word(const lk_record *r, uint32_t at)
{
    if (LK_LIKELY(at + 8 <= r->key_len)) return __builtin_bswap64(lk_load64(r->key + at));
    if (at >= r->key_len) return 0;
    /* The 8 bytes that end the key, without those before `at`; of a shorter key the first ones are
     * the record's header, and are shifted out with them. */
    return __builtin_bswap64(lk_load64(r->key + r->key_len - 8)) << (8 * (at + 8 - r->key_len));
}

/* Chooses the bits of a window from what varies in its words. */
static window window_make(uint32_t at, const uint64_t *varying, const uint64_t *sample)
{
    window w = {.at = at};
    for (uint32_t i = 0; i < WINDOW_WORDS; i++) {
        uint64_t mask = varying[i];
        uint32_t bits = (uint32_t)__builtin_popcountll(mask), room = 64 - w.bits;
        if (bits > room) w.cut = true;
        for (; bits > room; bits--) mask &= mask - 1;
        w.words[i] = squeeze_make(mask, sample[i]);
        w.bits += bits;
        if (bits > 0) w.used = i + 1;
        if (w.cut) break;
    }
    return w;
}

/* Looks at the window that begins at byte `at` of each key. False: nothing varies in it. */
static bool window_scan(const lk_segment *s, const lk_order_item *items, uint32_t count,
                        uint32_t at, window *out)
{
    lk_record first = lk_segment_record(s, items[0].ordinal);
    uint64_t sample[WINDOW_WORDS], varying[WINDOW_WORDS] = {0};
    for (uint32_t j = 0; j < WINDOW_WORDS; j++) sample[j] = key_word(&first, at + 8 * j);
    for (uint32_t i = 1; i < count; i++) {
        lk_record r = lk_segment_record(s, items[i].ordinal);
        for (uint32_t j = 0; j < WINDOW_WORDS; j++) {
            varying[j] |= key_word(&r, at + 8 * j) ^ sample[j];
        }
    }
    *out = window_make(at, varying, sample);
    return out->bits > 0;
}

/* Puts the number of each key where its prefix stands. */
static void window_load(const lk_segment *s, lk_order_item *items, uint32_t count, const window *w)
{
    for (uint32_t i = 0; i < count; i++) {
        lk_record r = lk_segment_record(s, items[i].ordinal);
        uint64_t v = 0;
        for (uint32_t j = 0; j < w->used; j++) {
            const squeeze *q = &w->words[j];
            if (q->bits == 0) continue;
            uint64_t part = squeeze_apply(q, key_word(&r, w->at + 8 * j));
            v = q->bits == 64 ? part : v << q->bits | part;
        }
        items[i].prefix = v;
    }
}

/* Keys that agree in the first `bits` bits of the number agree in at least so many bytes. */
static uint32_t window_agreed(const window *w, uint32_t bits)
{
    if (bits == w->bits && !w->cut) return w->at + 8 * WINDOW_WORDS;
    uint32_t i = 0;
    while (bits > w->words[i].bits) bits -= w->words[i++].bits;
    const squeeze *q = &w->words[i];
    uint64_t last = squeeze_undo(q, (uint64_t)1 << (q->bits - bits)) & q->mask;
    return w->at + 8 * i + (uint32_t)__builtin_clzll(last) / 8;
}

/* ---- one range ---- */

/* How many bytes all keys of a range have in common, at least `skip` of which is known already.
 * False: there is no telling them apart by words (all are equal, or a key ends inside `skip`). */
static bool common_bytes(const lk_segment *s, const lk_order_item *items, uint32_t count,
                         uint32_t skip, uint32_t *out_common, bool *out_equal)
{
    lk_record first = lk_segment_record(s, items[0].ordinal);
    bool equal = true;
    *out_equal = false;
    if (first.key_len < skip) return false;
    size_t common = first.key_len - skip;
    for (uint32_t i = 1; i < count; i++) {
        lk_record r = lk_segment_record(s, items[i].ordinal);
        if (r.key_len < skip) return false;
        size_t n = lk_common_prefix(first.key + skip, common, r.key + skip, r.key_len - skip);
        equal = equal && n == r.key_len - skip && r.key_len == first.key_len;
        if (n < common) common = n;
    }
    *out_common = skip + (uint32_t)common;
    *out_equal = equal;
    return !equal;
}

static void sort_range(sorter *x, lk_order_item *items, lk_order_item *scratch, uint32_t count,
                       uint32_t skip, uint32_t depth);

/* Where equal numbers lie ahead their records will be compared. */
static inline void prefetch_tie(const lk_segment *s, const lk_order_item *items, uint32_t i,
                                uint32_t count, uint32_t unsorted)
{
    if (i + TIE_AHEAD + 1 >= count) return;
    const lk_order_item *far = &items[i + TIE_AHEAD], *near = &items[i + TIE_AHEAD / 2];
    const lk_entry *entries = s->index.entries;
    if ((far[0].prefix ^ far[1].prefix) >> unsorted == 0) {
        __builtin_prefetch(&entries[far[0].ordinal]);
        __builtin_prefetch(&entries[far[1].ordinal]);
    }
    if ((near[0].prefix ^ near[1].prefix) >> unsorted == 0) {
        __builtin_prefetch(s->base + entries[near[0].ordinal].location);
        __builtin_prefetch(s->base + entries[near[1].ordinal].location);
    }
}

/* Sorts items whose prefix field holds the number of their window, and puts their prefix (which is
 * `prefix` in all of them up to the window) in place again. */
static void sort_numbers(sorter *x, lk_order_item *items, lk_order_item *scratch, uint32_t count,
                         const window *w, uint64_t prefix, uint32_t depth)
{
    uint32_t bits_max = DIGITS_MAX * (count >= WIDE_MIN ? DIGIT_BITS_MAX : 8);
    uint32_t bits = w->bits < bits_max ? w->bits : bits_max;
    uint32_t unsorted = w->bits - bits, skip = window_agreed(w, bits);
    lk_order_item *sorted = radix_by_prefix(x, items, scratch, count, unsorted, bits);

    const squeeze *q = &w->words[0]; /* the bits of the prefix are at most those */
    uint32_t drop = w->bits - q->bits, shift = 8 * w->at;
    uint64_t head = w->at == 0 ? 0 : w->at >= 8 ? prefix : prefix & ~(~(uint64_t)0 >> shift);
    for (uint32_t i = 0; i < count;) {
        uint64_t group = sorted[i].prefix >> unsorted;
        uint32_t from = i;
        do {
            prefetch_tie(x->segment, sorted, i, count, unsorted);
            lk_order_item item = sorted[i];
            uint64_t word = q->bits == 0 ? q->rest : squeeze_undo(q, item.prefix >> drop);
            item.prefix = w->at >= 8 ? head : head | word >> shift;
            items[i++] = item;
        } while (i < count && sorted[i].prefix >> unsorted == group);
        if (i - from == 1) continue;
        sort_range(x, items + from, scratch + from, i - from, skip, depth + 1);
    }
}

/* Sorts items of one tree whose keys have their first `skip` bytes in common (where a key that ends
 * counts as zeros). */
static void sort_range(sorter *x, lk_order_item *items, lk_order_item *scratch, uint32_t count,
                       uint32_t skip, uint32_t depth)
{
    window w;
    if (count <= INSERTION_MAX) {
        insertion_sort(x->segment, items, count);
        return;
    }
    bool equal = false, found = depth < DEPTH_MAX;
    if (found && !window_scan(x->segment, items, count, skip, &w)) {
        uint32_t common;
        found = common_bytes(x->segment, items, count, skip, &common, &equal) &&
                window_scan(x->segment, items, count, common, &w);
    }
    if (equal) return;
    if (!found) { /* zeros at their ends are all they differ in, or there is no end to it */
        merge_sort(x->segment, items, scratch, count);
        return;
    }
    uint64_t prefix = items[0].prefix;
    window_load(x->segment, items, count, &w);
    sort_numbers(x, items, scratch, count, &w, prefix, depth);
}

/* All items of one tree. Where the prefixes differ in enough bits the records are not looked at. */
static void sort_tree(sorter *x, lk_order_item *items, lk_order_item *scratch, uint32_t count)
{
    uint64_t varying[WINDOW_WORDS] = {0}, sample[WINDOW_WORDS] = {items[0].prefix};
    for (uint32_t i = 1; i < count; i++) varying[0] |= items[i].prefix ^ sample[0];
    uint32_t enough = 32 - (uint32_t)__builtin_clz(count) + 10;
    if (enough > DIGITS_MAX * DIGIT_BITS_MAX) enough = DIGITS_MAX * DIGIT_BITS_MAX;
    if (count <= INSERTION_MAX || (uint32_t)__builtin_popcountll(varying[0]) < enough) {
        sort_range(x, items, scratch, count, 0, 0);
        return;
    }
    window w = window_make(0, varying, sample);
    w.cut = true; /* what follows was not looked at */
    if (w.bits < 64) {
        for (uint32_t i = 0; i < count; i++) {
            items[i].prefix = squeeze_apply(&w.words[0], items[i].prefix);
        }
    }
    sort_numbers(x, items, scratch, count, &w, sample[0], 0);
}

/* ---- all of it ---- */

/* Fills `items` from its end, so that they stand newest first, and returns where they begin;
 * `out_sorted` tells whether commit order is the order wanted already, as it is when keys are time
 * stamps or counters. */
static lk_order_item *extract(const lk_segment *s, uint32_t from, uint32_t count, uint32_t least,
                              lk_order_item *items, bool *out_sorted, bool *out_one_tree)
{
    lk_record before = lk_segment_record(s, from);
    lk_order_item *to = items + count;
    bool has_tombs = lk_segment_has_tombs(s);
    uint32_t trees = 0;
    bool sorted = true;
    for (uint32_t i = 0; i < count; i++) {
        lk_record r = lk_segment_record(s, from + i);
        if (LK_UNLIKELY(has_tombs)) {
            if (r.kind == LK_KIND_DELETE_RANGE) continue;
            if (from + i < least && lk_order_is_hidden(s, &r, from + i, least)) continue;
            if (to == items + count) before = r;
        }
        bool first = to == items + count;
        *--to = (lk_order_item){lk_key_prefix(r.key, r.key_len), r.tree, from + i};
        trees |= r.tree ^ before.tree;
        if (sorted && !first) {
            /* Of equal keys the newer must come first, so these are not in order. */
            sorted = r.tree > before.tree ||
                     (r.tree == before.tree &&
                      lk_key_compare(before.key, before.key_len, r.key, r.key_len) < 0);
            before = r;
        }
    }
    *out_one_tree = trees == 0;
    *out_sorted = sorted;
    return to;
}

static void reverse(lk_order_item *items, uint32_t count)
{
    for (uint32_t i = 0, j = count; i + 1 < j--; i++) {
        lk_order_item t = items[i];
        items[i] = items[j];
        items[j] = t;
    }
}

/* Items that stand newest first, of the trees that are there. */
static void sort_items(const lk_segment *s, lk_order_item *items, uint32_t count, bool one_tree,
                       void *scratch)
{
    sorter *x = (sorter *)scratch;
    x->segment = s;
    if (one_tree) {
        sort_tree(x, items, x->items, count);
        return;
    }
    radix_by_tree(x, items, count);
    for (uint32_t i = 0; i < count;) {
        uint32_t first = i;
        while (i < count && items[i].tree == items[first].tree) i++;
        sort_tree(x, items + first, x->items + first, i - first);
    }
}

uint32_t lk_order_sort(const lk_segment *s, uint32_t from, uint32_t count, uint32_t least,
                       lk_order_item *items, void *scratch)
{
    bool sorted, one_tree;
    if (count == 0) return 0;
    lk_order_item *first = extract(s, from, count, least, items, &sorted, &one_tree);
    if (first > items) {
        count -= (uint32_t)(first - items);
        memmove(items, first, count * sizeof *items);
    }
    if (sorted) {
        reverse(items, count);
    } else {
        sort_items(s, items, count, one_tree, scratch);
    }
    return count;
}
