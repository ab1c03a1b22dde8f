/* column_order.c: a stable radix sort of row numbers by key.
 *
 * The digit of a step is 8 bytes of the key as a number, and how many bytes were left, so that what
 * ends is before what goes on: rows that are equal in both either have equal keys, or go on, and are
 * then sorted by what follows. Few rows are merged by whole keys instead.
 *
 * Always    equal keys stay in the order of their rows.
 */
#include "column_order.h"

#include <stdlib.h>

#include "order_sort.h"

#define MERGE_MAX 1024u /* fewer rows are cheaper to merge than to count */
#define ENDED_MAX 8u    /* a key with at most so many bytes left ends within the digit */

typedef struct item {
    uint64_t prefix;
    uint32_t row;
    uint32_t left; /* bytes from the digit on, up to ENDED_MAX + 1 */
} item;

typedef struct sorter {
    const lk_column *keys;
    item *items, *scratch;
    uint32_t counts[8][256];
    uint32_t left_counts[ENDED_MAX + 2];
} sorter;

static lk_bytes key_of(const lk_column *keys, uint32_t row, uint8_t *scratch)
{
    return lk_column_row(keys, row, scratch);
}

static int compare(const sorter *s, uint32_t a, uint32_t b)
{
    uint8_t x_bytes[8], y_bytes[8];
    lk_bytes x = key_of(s->keys, a, x_bytes), y = key_of(s->keys, b, y_bytes);
    return lk_key_compare(x.data, x.len, y.data, y.len);
}

/* ---- few rows ---- */

static void merge(const sorter *s, const item *from, uint32_t middle, uint32_t n, item *to)
{
    uint32_t a = 0, b = middle;
    for (uint32_t i = 0; i < n; i++) {
        bool left = b == n || (a < middle && compare(s, from[a].row, from[b].row) <= 0);
        to[i] = from[left ? a++ : b++];
    }
}

/* Bottom up, back and forth between the items and the scratch space. */
static void merge_sort(const sorter *s, item *items, item *scratch, uint32_t n)
{
    item *from = items, *to = scratch;
    for (uint32_t width = 1; width < n; width *= 2) {
        for (uint32_t i = 0; i < n; i += 2 * width) {
            uint32_t rest = n - i, whole = rest < 2 * width ? rest : 2 * width;
            merge(s, from + i, whole < width ? whole : width, whole, to + i);
        }
        item *swapped = from;
        from = to;
        to = swapped;
    }
    if (from != items) memcpy(items, from, n * sizeof *items);
}

/* ---- many rows ---- */

/* How many bytes from `depth` on all keys of the items have in common. */
static size_t common_bytes(const sorter *s, const item *items, uint32_t n, size_t depth)
{
    uint8_t first_bytes[8], bytes[8];
    lk_bytes first = key_of(s->keys, items[0].row, first_bytes);
    size_t common = first.len - depth;
    for (uint32_t i = 1; i < n && common > 0; i++) {
        lk_bytes key = key_of(s->keys, items[i].row, bytes);
        size_t most = key.len - depth < common ? key.len - depth : common;
        common = lk_common_prefix(first.data + depth, common, key.data + depth, most);
    }
    return common;
}

static void digits_count(sorter *s, item *items, uint32_t n, size_t depth)
{
    uint8_t bytes[8];
    memset(s->counts, 0, sizeof s->counts);
    memset(s->left_counts, 0, sizeof s->left_counts);
    for (uint32_t i = 0; i < n; i++) {
        lk_bytes key = key_of(s->keys, items[i].row, bytes);
        size_t left = key.len - depth;
        items[i].prefix = left == 0 ? 0 : lk_key_prefix(key.data + depth, left);
        items[i].left = left > ENDED_MAX ? ENDED_MAX + 1 : (uint32_t)left;
        s->left_counts[items[i].left]++;
        for (unsigned d = 0; d < 8; d++) s->counts[d][(uint8_t)(items[i].prefix >> (8 * d))]++;
    }
}

/* All items have one digit: nothing to move. */
static bool is_constant(const uint32_t *counts, uint32_t width, uint32_t n)
{
    for (uint32_t i = 0; i < width; i++) {
        if (counts[i] != 0) return counts[i] == n;
    }
    return true;
}

/* By (prefix, left), the least digit first. */
static void digits_sort(sorter *s, item *items, item *scratch, uint32_t n)
{
    item *from = items, *to = scratch, *swapped;
    if (!is_constant(s->left_counts, ENDED_MAX + 2, n)) {
        lk_counts_to_places(s->left_counts, ENDED_MAX + 2);
        for (uint32_t i = 0; i < n; i++) to[s->left_counts[from[i].left]++] = from[i];
        swapped = from, from = to, to = swapped;
    }
    for (unsigned d = 0; d < 8; d++) {
        uint32_t *counts = s->counts[d];
        if (is_constant(counts, 256, n)) continue;
        lk_counts_to_places(counts, 256);
        for (uint32_t i = 0; i < n; i++) {
            to[counts[(uint8_t)(from[i].prefix >> (8 * d))]++] = from[i];
        }
        swapped = from, from = to, to = swapped;
    }
    if (from != items) memcpy(items, from, n * sizeof *items);
}

/* Items whose keys are equal below `depth`. Goes deeper by what all keys of a group have in common,
 * and only with MERGE_MAX of them: so as deep as keys that long can be in memory. */
static void sort(sorter *s, uint32_t first, uint32_t n, size_t depth)
{
    item *items = s->items + first;
    if (n <= MERGE_MAX) {
        merge_sort(s, items, s->scratch + first, n);
        return;
    }
    depth += common_bytes(s, items, n, depth);
    digits_count(s, items, n, depth);
    digits_sort(s, items, s->scratch + first, n);
    for (uint32_t i = 0, end; i < n; i = end) {
        for (end = i + 1;
             end < n && items[end].prefix == items[i].prefix && items[end].left == items[i].left;
             end++) {
        }
        if (end - i > 1 && items[i].left > ENDED_MAX) sort(s, first + i, end - i, depth + 8);
    }
}

/* ---- the whole ---- */

static bool is_ascending(const lk_column *keys, uint32_t n)
{
    uint8_t bytes[2][8];
    lk_bytes before = {NULL, 0};
    for (uint32_t i = 0; i < n; i++) {
        lk_bytes key = key_of(keys, i, bytes[i % 2]);
        if (i > 0 && lk_key_compare(before.data, before.len, key.data, key.len) >= 0) return false;
        before = key;
    }
    return true;
}

/* The last of each group of equal keys. Equal keys have had equal digits in every step. */
static uint32_t take_last(const sorter *s, uint32_t n, uint32_t *rows)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++) {
        const item *here = &s->items[i], *next = here + 1;
        bool again = i + 1 < n && here->prefix == next->prefix && here->left == next->left &&
                     compare(s, here->row, next->row) == 0;
        if (!again) rows[count++] = here->row;
    }
    return count;
}

lk_status lk_column_order_make(const lk_column *keys, lk_column_order *out, lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t n = (uint32_t)keys->count;
    *out = (lk_column_order){.count = n};
    if (keys->count >= UINT32_MAX) {
        return lk_fail(err, LK_INVALID, 0, NULL, 0, UINT32_MAX - 1, keys->count,
                       "%zu rows are more than can be ingested at once", keys->count);
    }
    if (is_ascending(keys, n)) return LK_OK;
    sorter *s = malloc(sizeof *s);
    if (s == NULL) return lk_fail_nomem(err, sizeof *s);
    s->keys = keys;
    s->items = calloc(n, sizeof *s->items);
    s->scratch = malloc(n * sizeof *s->scratch);
    out->rows = malloc(n * sizeof *out->rows);
    if (s->items == NULL || s->scratch == NULL || out->rows == NULL) {
        st = lk_fail_nomem(err, n * (2 * sizeof *s->items + sizeof *out->rows));
        goto done;
    }
    for (uint32_t i = 0; i < n; i++) s->items[i].row = i;
    sort(s, 0, n, 0);
    out->count = take_last(s, n, out->rows);
done:
    free(s->items);
    free(s->scratch);
    free(s);
    if (st != LK_OK) lk_column_order_free(out);
    return st;
}

void lk_column_order_free(lk_column_order *order)
{
    free(order->rows);
    *order = (lk_column_order){NULL, 0};
}
