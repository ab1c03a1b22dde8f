/* combine.c: see combine.h. A hash table of the keys seen, and for each what its operands make.
 *
 * A slot is half a hash and the number of an entry; entries stand in the order of their first
 * operand. Keys are looked at in groups: their slots, then their entries, then the keys of those are
 * asked for before the first is used, so that the cache misses of a group are waited for together.
 * Operators that keep a word fold it into the entry at once, in loops of their own. The others link
 * the operands of a key, and fold each list in one call at the end, so that appending is linear.
 */
#include "combine.h"

#include <stdlib.h>

#include "check.h"
#include "hash.h"

#define GROUP 32u
#define NONE UINT32_MAX

typedef struct entry {
    uint64_t hash;
    union {
        const uint8_t *at;
        uint8_t bytes[8]; /* keys that the column turns */
    } key;
    union {
        uint64_t word;
        struct {
            uint32_t first, last; /* rows; linked by `next` */
        } rows;
    } sum;
    uint32_t key_len;
    uint32_t rows;
} entry;

typedef struct slot {
    uint32_t tag;
    uint32_t entry; /* NONE: free */
} slot;

struct lk_combiner {
    const lk_operator *op;
    const lk_column *keys, *operands;
    slot *slots;
    uint64_t mask;
    entry *entries;
    uint32_t count, capacity;
    uint32_t *next; /* a row's successor of the same key; NULL for words */
    bool inlined;   /* keys are in the entries */
};
typedef struct lk_combiner table;

/* ---- the table ---- */

static const uint8_t *key_of(const table *t, const entry *e)
{
    return t->inlined ? e->key.bytes : e->key.at;
}

static lk_status table_init(table *t, size_t rows, lk_error *err)
{
    size_t slots = 1024;
    while (slots < 8192 && slots < 2 * rows) slots *= 2;
    t->mask = slots - 1;
    t->capacity = (uint32_t)(slots / 2);
    t->slots = malloc(slots * sizeof *t->slots);
    t->entries = malloc(t->capacity * sizeof *t->entries);
    if (t->slots == NULL || t->entries == NULL) return lk_fail_nomem(err, slots * sizeof(slot));
    memset(t->slots, 0xFF, slots * sizeof *t->slots);
    return LK_OK;
}

static void table_deinit(table *t)
{
    free(t->slots);
    free(t->entries);
    free(t->next);
}

static void place(table *t, uint64_t hash, uint32_t index)
{
    uint64_t i = hash & t->mask;
    while (t->slots[i].entry != NONE) i = (i + 1) & t->mask;
    t->slots[i] = (slot){.tag = (uint32_t)(hash >> 32), .entry = index};
}

/* Never more than half full. */
static lk_status table_grow(table *t, lk_error *err)
{
    size_t slots = 2 * ((size_t)t->mask + 1), capacity = 2 * (size_t)t->capacity;
    LK_ASSERT(capacity == slots / 2);
    entry *entries = realloc(t->entries, capacity * sizeof *entries);
    if (entries == NULL) return lk_fail_nomem(err, capacity * sizeof *entries);
    t->entries = entries;
    slot *larger = malloc(slots * sizeof *larger);
    if (larger == NULL) return lk_fail_nomem(err, slots * sizeof *larger);
    free(t->slots);
    t->slots = larger;
    t->mask = slots - 1;
    t->capacity = (uint32_t)capacity;
    memset(larger, 0xFF, slots * sizeof *larger);
    for (uint32_t i = 0; i < t->count; i++) place(t, t->entries[i].hash, i);
    return LK_OK;
}

/* The entry of the key, NULL when there is none; `*out_slot` is where it belongs. */
static inline entry *find(const table *t, lk_bytes key, uint64_t hash, uint64_t *out_slot)
{
    uint64_t i = hash & t->mask;
    for (; t->slots[i].entry != NONE; i = (i + 1) & t->mask) {
        if (t->slots[i].tag != (uint32_t)(hash >> 32)) continue;
        entry *e = &t->entries[t->slots[i].entry];
        if (e->hash == hash && lk_bytes_equal(key_of(t, e), e->key_len, key.data, key.len))
            return e;
    }
    *out_slot = i;
    return NULL;
}

/* There is room: the loops grow the table between groups. */
static entry *add(table *t, lk_bytes key, uint64_t hash, uint64_t at)
{
    LK_ASSERT(t->count < t->capacity);
    entry *e = &t->entries[t->count];
    t->slots[at] = (slot){.tag = (uint32_t)(hash >> 32), .entry = t->count++};
    *e = (entry){.hash = hash, .key_len = (uint32_t)key.len};
    if (t->inlined) {
        memcpy(e->key.bytes, key.data, key.len);
    } else {
        e->key.at = key.data;
    }
    return e;
}

/* ---- the loops over rows ---- */

typedef struct group {
    lk_bytes keys[GROUP];
    uint64_t hashes[GROUP];
    uint8_t scratch[GROUP][8];
} group;

/* Keys and hashes of rows from `from`, with what they are compared to on the way to the cache. */
static uint32_t group_read(const table *t, size_t from, group *g)
{
    size_t left = t->keys->count - from;
    uint32_t n = left < GROUP ? (uint32_t)left : GROUP;
    for (uint32_t i = 0; i < n; i++) {
        g->keys[i] = lk_column_row(t->keys, from + i, g->scratch[i]);
        g->hashes[i] = lk_hash_key(0, g->keys[i].data, g->keys[i].len);
        __builtin_prefetch(&t->slots[g->hashes[i] & t->mask]);
    }
    for (uint32_t i = 0; i < n; i++) {
        slot s = t->slots[g->hashes[i] & t->mask];
        if (s.entry != NONE) __builtin_prefetch(&t->entries[s.entry], 1);
    }
    for (uint32_t i = 0; i < n; i++) {
        slot s = t->slots[g->hashes[i] & t->mask];
        if (s.entry != NONE) __builtin_prefetch(key_of(t, &t->entries[s.entry]));
    }
    return n;
}

static inline __attribute__((always_inline)) lk_status fold_words(table *t, lk_operator_kind kind,
                                                                  lk_error *err)
{
    group g;
    uint8_t scratch[8];
    uint32_t n;
    for (size_t from = 0; from < t->keys->count; from += n) {
        if (t->capacity - t->count < GROUP) {
            lk_status st = table_grow(t, err);
            if (st != LK_OK) return st;
        }
        n = group_read(t, from, &g);
        for (uint32_t i = 0; i < n; i++) {
            uint64_t at, word = lk_load64(lk_column_row(t->operands, from + i, scratch).data);
            entry *e = find(t, g.keys[i], g.hashes[i], &at);
            if (e != NULL) {
                e->sum.word = lk_operator_word(kind, e->sum.word, word);
            } else {
                add(t, g.keys[i], g.hashes[i], at)->sum.word = word;
            }
        }
    }
    return LK_OK;
}

static lk_status fold_all_words(table *t, lk_error *err)
{
    switch (t->op->kind) {
    case LK_OPERATOR_ADD_INT64:
        return fold_words(t, LK_OPERATOR_ADD_INT64, err);
    case LK_OPERATOR_ADD_FLOAT64:
        return fold_words(t, LK_OPERATOR_ADD_FLOAT64, err);
    case LK_OPERATOR_MAX_INT64:
        return fold_words(t, LK_OPERATOR_MAX_INT64, err);
    case LK_OPERATOR_MIN_INT64:
        return fold_words(t, LK_OPERATOR_MIN_INT64, err);
    case LK_OPERATOR_OTHER:
        break;
    }
    LK_ASSERT(false);
    return LK_OK;
}

static lk_status link_rows(table *t, lk_error *err)
{
    group g;
    uint32_t n;
    for (size_t from = 0; from < t->keys->count; from += n) {
        if (t->capacity - t->count < GROUP) {
            lk_status st = table_grow(t, err);
            if (st != LK_OK) return st;
        }
        n = group_read(t, from, &g);
        for (uint32_t i = 0; i < n; i++) {
            uint64_t at;
            uint32_t row = (uint32_t)(from + i);
            entry *e = find(t, g.keys[i], g.hashes[i], &at);
            if (e != NULL) {
                t->next[e->sum.rows.last] = row;
            } else {
                e = add(t, g.keys[i], g.hashes[i], at);
                e->sum.rows.first = row;
            }
            e->sum.rows.last = row;
            e->rows++;
        }
    }
    return LK_OK;
}

/* ---- the result ---- */

static lk_column column_of(lk_bytes *spans, size_t count)
{
    return (lk_column){.form = LK_COLUMN_SPANS, .count = count, .spans = spans};
}

static lk_status spans_alloc(const table *t, lk_combined *out, lk_error *err)
{
    size_t bytes = 2 * (size_t)t->count * sizeof(lk_bytes);
    out->spans = malloc(bytes + 1);
    if (out->spans == NULL) return lk_fail_nomem(err, bytes);
    out->keys = column_of(out->spans, t->count);
    out->operands = column_of(out->spans + t->count, t->count);
    for (uint32_t i = 0; i < t->count; i++) {
        const entry *e = &t->entries[i];
        out->spans[i] = (lk_bytes){key_of(t, e), e->key_len};
        out->spans[t->count + i] = (lk_bytes){(const uint8_t *)&e->sum.word, 8};
    }
    return LK_OK;
}

/* The operand of a key: its only one where it stands, or what is made of all. */
static lk_status fold_list(const table *t, const entry *e, lk_bytes *operands, lk_combined *out,
                           lk_bytes *sum, lk_error *err)
{
    uint8_t scratch[8]; /* stays empty: only sortable numbers are turned, and operands are none */
    uint32_t row = e->sum.rows.first;
    size_t start = out->made.len;
    for (uint32_t i = 0; i < e->rows; i++) {
        operands[i] = lk_column_row(t->operands, row, scratch);
        row = t->next[row];
    }
    *sum = operands[0];
    if (e->rows == 1) return LK_OK;
    lk_status st = t->op->partial(t->op, operands, e->rows, &out->made, err);
    *sum = (lk_bytes){NULL, out->made.len - start}; /* the buffer may still move */
    return st;
}

static lk_status fold_lists(const table *t, lk_combined *out, lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t most = 0;
    size_t at = 0;
    lk_bytes *sums = out->spans + t->count;
    for (uint32_t i = 0; i < t->count; i++)
        most = t->entries[i].rows > most ? t->entries[i].rows : most;
    lk_bytes *operands = malloc(most * sizeof *operands + 1);
    if (operands == NULL) return lk_fail_nomem(err, most * sizeof *operands);
    for (uint32_t i = 0; i < t->count && st == LK_OK; i++) {
        st = fold_list(t, &t->entries[i], operands, out, &sums[i], err);
    }
    free(operands);
    for (uint32_t i = 0; i < t->count && st == LK_OK; i++) {
        if (t->entries[i].rows == 1) continue;
        sums[i].data = out->made.data + at;
        at += sums[i].len;
    }
    return st;
}

/* ---- what the header offers ---- */

static lk_status fail_row(size_t i, lk_error *err)
{
    if (err == NULL) return LK_INVALID;
    lk_error first = *err;
    return lk_fail(err, LK_INVALID, 0, NULL, 0, first.expected, first.found,
                   "operands[%llu]: %.400s", (unsigned long long)i, first.message);
}

lk_status lk_combine_check(const lk_operator *op, const lk_column *operands, lk_error *err)
{
    uint8_t scratch[8];
    /* Rows of one width are all right when the first is, where nothing but the width matters. */
    bool once = op->width != 0 && operands->form == LK_COLUMN_FIXED;
    size_t n = once && operands->count > 1 ? 1 : operands->count;
    for (size_t i = 0; i < n; i++) {
        lk_status st = op->check(op, lk_column_row(operands, i, scratch), err);
        if (st != LK_OK) return st == LK_INVALID ? fail_row(i, err) : st;
    }
    return LK_OK;
}

lk_status lk_combine(const lk_operator *op, const lk_column *keys, const lk_column *operands,
                     lk_combined *out, lk_error *err)
{
    LK_ASSERT(keys->count == operands->count && op->partial != NULL);
    LK_ASSERT(operands->form != LK_COLUMN_INTEGER && operands->form != LK_COLUMN_FLOAT);
    lk_status st = LK_OK;
    table t = {.op = op, .keys = keys, .operands = operands};
    t.inlined = keys->form == LK_COLUMN_INTEGER || keys->form == LK_COLUMN_FLOAT;
    *out = (lk_combined){0};
    if (keys->count >= NONE) {
        return lk_fail(err, LK_INVALID, 0, NULL, 0, NONE, keys->count, "too many operands at once");
    }
    LK_TRY(table_init(&t, keys->count, err));
    if (lk_operator_is_word(op->kind)) {
        LK_TRY(fold_all_words(&t, err));
        LK_TRY(spans_alloc(&t, out, err));
    } else {
        t.next = malloc(keys->count * sizeof *t.next + 1);
        if (t.next == NULL) LK_TRY(lk_fail_nomem(err, keys->count * sizeof *t.next));
        LK_TRY(link_rows(&t, err));
        LK_TRY(spans_alloc(&t, out, err));
        LK_TRY(fold_lists(&t, out, err));
    }
    out->entries = t.entries; /* keys and words are in them */
    t.entries = NULL;
done:
    table_deinit(&t);
    if (st != LK_OK) lk_combined_deinit(out);
    return st;
}

void lk_combined_deinit(lk_combined *c)
{
    free(c->spans);
    free(c->entries);
    lk_buffer_deinit(&c->made);
    c->spans = NULL;
    c->entries = NULL;
}

/* ---- a piece at a time ---- */

lk_status lk_combiner_new(const lk_operator *op, lk_combiner **out, lk_error *err)
{
    LK_ASSERT(lk_operator_is_word(op->kind));
    *out = calloc(1, sizeof **out);
    if (*out == NULL) return lk_fail_nomem(err, sizeof **out);
    (*out)->op = op;
    lk_status st = table_init(*out, 0, err);
    if (st != LK_OK) {
        lk_combiner_free(*out);
        *out = NULL;
    }
    return st;
}

lk_status lk_combiner_add(lk_combiner *c, const lk_column *keys, const lk_column *operands,
                          lk_error *err)
{
    LK_ASSERT(keys->count == operands->count && keys->form == LK_COLUMN_SPANS);
    c->keys = keys;
    c->operands = operands;
    return fold_all_words(c, err);
}

lk_status lk_combiner_end(lk_combiner *c, lk_combined *out, lk_error *err)
{
    *out = (lk_combined){0};
    lk_status st = spans_alloc(c, out, err);
    size_t bytes = 0;
    for (uint32_t i = 0; i < c->count; i++) bytes += c->entries[i].key_len;
    if (st == LK_OK) st = lk_buffer_reserve(&out->made, bytes, err);
    if (st != LK_OK) {
        lk_combined_deinit(out);
        return st;
    }
    for (uint32_t i = 0; i < c->count; i++) {
        uint8_t *to = out->made.data + out->made.len;
        if (out->spans[i].len != 0) memcpy(to, out->spans[i].data, out->spans[i].len);
        out->spans[i].data = to;
        out->made.len += out->spans[i].len;
    }
    out->entries = c->entries;
    c->entries = NULL;
    return LK_OK;
}

void lk_combiner_free(lk_combiner *c)
{
    if (c == NULL) return;
    table_deinit(c);
    free(c);
}
