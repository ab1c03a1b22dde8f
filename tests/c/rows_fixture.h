/* rows_fixture.h: sorted rows for the tests of blocks and tables, and the right answers to them.
 *
 * Include after harness.h. Rows own one buffer; rows_free gives it back.
 */
#ifndef LK_ROWS_FIXTURE_H
#define LK_ROWS_FIXTURE_H

#include "bytes.h"
#include "hash.h"
#include "row.h"

enum { ROWS_TREE = 7 };

typedef struct rows_shape {
    size_t keys;
    uint32_t prefix_len;       /* bytes that all keys begin with */
    uint32_t key_min, key_max; /* bytes behind the prefix */
    uint32_t value_min, value_max;
    uint32_t versions_max; /* of a key */
    uint32_t delete_percent;
    uint64_t seq_base, seq_span; /* sequences lie in [base, base + span] */
    uint32_t alphabet;           /* key bytes are below this: small ones make long ties */
} rows_shape;

typedef struct rows {
    lk_row *rows;
    size_t count;
    uint8_t *bytes;
} rows;

LK_TEST_UNUSED static int rows_compare_keys(const void *a, const void *b)
{
    const lk_bytes *x = (const lk_bytes *)a, *y = (const lk_bytes *)b;
    return lk_key_compare(x->data, x->len, y->data, y->len);
}

LK_TEST_UNUSED static uint64_t rows_between(uint64_t *rng, uint64_t min, uint64_t max)
{
    return max <= min ? min : min + lk_test_below(rng, max - min + 1);
}

/* Values repeat a short pattern, so that codecs have something to do. */
LK_TEST_UNUSED static void rows_fill_value(uint64_t *rng, uint8_t *out, uint32_t n)
{
    uint64_t pattern = lk_test_rand(rng);
    for (uint32_t i = 0; i < n; i++) {
        out[i] = (uint8_t)(i % 16 < 8 ? pattern >> (8 * (i % 8)) : 'x');
    }
}

/* Distinct keys, sorted; the bytes of all of them stand in *out_bytes. */
LK_TEST_UNUSED static size_t rows_make_keys(uint64_t *rng, const rows_shape *s, lk_bytes *keys,
                                            uint8_t *bytes)
{
    uint8_t *p = bytes;
    for (size_t i = 0; i < s->keys; i++) {
        uint32_t n = (uint32_t)rows_between(rng, s->key_min, s->key_max);
        memset(p, 'p', s->prefix_len);
        for (uint32_t j = 0; j < n; j++) {
            p[s->prefix_len + j] = (uint8_t)lk_test_below(rng, s->alphabet);
        }
        keys[i] = (lk_bytes){p, s->prefix_len + n};
        p += s->prefix_len + n;
    }
    qsort(keys, s->keys, sizeof *keys, rows_compare_keys);
    size_t count = 0;
    for (size_t i = 0; i < s->keys; i++) {
        if (count > 0 && rows_compare_keys(&keys[count - 1], &keys[i]) == 0) continue;
        keys[count++] = keys[i];
    }
    return count;
}

LK_TEST_UNUSED static rows rows_make(uint64_t *rng, const rows_shape *s)
{
    size_t key_bytes = s->keys * (s->prefix_len + s->key_max) + 1;
    size_t value_bytes = s->keys * s->versions_max * s->value_max + 1;
    rows out = {.rows = calloc(s->keys * s->versions_max + 1, sizeof(lk_row)),
                .bytes = malloc(key_bytes + value_bytes)};
    lk_bytes *keys = malloc((s->keys + 1) * sizeof *keys);
    CHECK(out.rows != NULL && out.bytes != NULL && keys != NULL);
    size_t key_count = rows_make_keys(rng, s, keys, out.bytes);
    uint8_t *p = out.bytes + key_bytes;
    for (size_t i = 0; i < key_count; i++) {
        uint64_t versions = rows_between(rng, 1, s->versions_max);
        uint64_t seq = s->seq_base + s->seq_span;
        for (uint64_t v = 0; v < versions; v++) {
            if (v > 0 && seq == s->seq_base) break;
            seq = v == 0 ? rows_between(rng, s->seq_base, seq)
                         : rows_between(rng, s->seq_base, seq - 1);
            bool is_delete = lk_test_below(rng, 100) < s->delete_percent;
            uint32_t n = is_delete ? 0 : (uint32_t)rows_between(rng, s->value_min, s->value_max);
            rows_fill_value(rng, p, n);
            out.rows[out.count++] = (lk_row){
                .key = keys[i].data,
                .key_len = (uint32_t)keys[i].len,
                .value = p,
                .value_len = n,
                .seq = seq,
                .hash = lk_hash_key(ROWS_TREE, keys[i].data, keys[i].len),
                .kind = is_delete ? LK_KIND_DELETE : LK_KIND_PUT,
            };
            p += n;
        }
    }
    free(keys);
    return out;
}

LK_TEST_UNUSED static void rows_free(rows *r)
{
    free(r->rows);
    free(r->bytes);
    *r = (rows){.rows = NULL};
}

/* A shape by chance; every form of each column comes up. */
LK_TEST_UNUSED static rows_shape rows_shape_random(uint64_t *rng, size_t keys_max)
{
    static const uint32_t LENGTHS[] = {0, 1, 4, 7, 8, 9, 15, 16, 17, 33, 100};
    static const uint64_t SPANS[] = {0, 1, 200, 60000, UINT32_MAX, UINT64_C(1) << 40};
    static const uint32_t ALPHABETS[] = {2, 10, 256};
    rows_shape s = {.keys = 1 + lk_test_below(rng, keys_max)};
    s.prefix_len = LENGTHS[lk_test_below(rng, 11)];
    s.key_max = LENGTHS[lk_test_below(rng, 11)];
    s.key_min =
        lk_test_below(rng, 2) == 0 ? s.key_max : (uint32_t)lk_test_below(rng, s.key_max + 1);
    s.value_max = LENGTHS[lk_test_below(rng, 11)];
    s.value_min = lk_test_below(rng, 2) == 0 ? s.value_max : 0;
    s.versions_max = 1 + (uint32_t)lk_test_below(rng, 4);
    s.delete_percent = (uint32_t)(lk_test_below(rng, 3) * 20);
    s.seq_base = 1 + lk_test_below(rng, 1000);
    s.seq_span = SPANS[lk_test_below(rng, 6)];
    s.alphabet = ALPHABETS[lk_test_below(rng, 3)];
    return s;
}

/* The right answer: the row of the newest version of `key` that `seq` sees, or NULL. */
LK_TEST_UNUSED static const lk_row *rows_find(const rows *r, lk_bytes key, uint64_t seq)
{
    for (size_t i = 0; i < r->count; i++) {
        const lk_row *row = &r->rows[i];
        if (row->seq <= seq && lk_bytes_equal(row->key, row->key_len, key.data, key.len)) {
            return row;
        }
    }
    return NULL;
}

#endif
