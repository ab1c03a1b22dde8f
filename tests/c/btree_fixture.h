/* btree_fixture.h: a B+tree on a simulated machine, and a sorted array that says what it should hold. */
#ifndef LK_BTREE_FIXTURE_H
#define LK_BTREE_FIXTURE_H

#include "btree.h"
#include "env_sim.h"
#include "harness.h"

enum { MODEL_MAX = 4096 };

typedef struct model_row {
    uint8_t *key, *value;
    uint32_t key_len, value_len;
} model_row;

typedef struct model {
    model_row rows[MODEL_MAX];
    uint32_t count;
} model;

LK_TEST_UNUSED static uint32_t model_place(const model *m, lk_bytes key, bool *out_found)
{
    uint32_t low = 0, high = m->count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        const model_row *r = &m->rows[middle];
        if (lk_key_compare(r->key, r->key_len, key.data, key.len) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    *out_found =
        low < m->count && lk_bytes_equal(m->rows[low].key, m->rows[low].key_len, key.data, key.len);
    return low;
}

LK_TEST_UNUSED static uint8_t *model_copy(lk_bytes b)
{
    uint8_t *p = malloc(b.len + 1);
    CHECK(p != NULL);
    if (b.len != 0) memcpy(p, b.data, b.len);
    return p;
}

LK_TEST_UNUSED static void model_delete(model *m, lk_bytes key)
{
    bool found;
    uint32_t at = model_place(m, key, &found);
    if (!found) return;
    free(m->rows[at].key);
    free(m->rows[at].value);
    memmove(m->rows + at, m->rows + at + 1, (m->count - at - 1) * sizeof *m->rows);
    m->count--;
}

LK_TEST_UNUSED static void model_put(model *m, lk_bytes key, lk_bytes value)
{
    bool found;
    model_delete(m, key);
    uint32_t at = model_place(m, key, &found);
    CHECK(m->count < MODEL_MAX);
    memmove(m->rows + at + 1, m->rows + at, (m->count - at) * sizeof *m->rows);
    m->rows[at] =
        (model_row){model_copy(key), model_copy(value), (uint32_t)key.len, (uint32_t)value.len};
    m->count++;
}

LK_TEST_UNUSED static void model_clear(model *m)
{
    while (m->count > 0) {
        model_row *r = &m->rows[m->count - 1];
        model_delete(m, (lk_bytes){r->key, r->key_len});
    }
}

LK_TEST_UNUSED static lk_btree_options small_options(void)
{
    lk_btree_options o;
    lk_btree_options_init(&o);
    o.cache_bytes = 64 * 4096;
    o.log_bytes = LK_BTREE_LOG_MIN;
    return o;
}

LK_TEST_UNUSED static lk_btree *tree_open(lk_sim *sim, const lk_btree_options *o)
{
    lk_error err;
    lk_btree *t;
    CHECK_OK(lk_btree_open(lk_sim_env(sim), "/tree", o, &t, &err), &err);
    return t;
}

LK_TEST_UNUSED static void tree_close(lk_btree *t)
{
    lk_error err;
    CHECK_OK(lk_btree_close(t, &err), &err);
    lk_btree_free(t);
}

LK_TEST_UNUSED static lk_status tree_write(lk_btree *t, lk_kind kind, lk_bytes key, lk_bytes value,
                                           lk_durability durability, lk_error *err)
{
    lk_status st = LK_BUSY;
    if (durability != LK_DURABILITY_SYNC) st = lk_btree_try(t, kind, key, value, durability, err);
    if (st != LK_BUSY && st != LK_MISS) return st;
    lk_column keys = {.form = LK_COLUMN_SPANS, .count = 1, .spans = &key};
    lk_column values = {.form = LK_COLUMN_SPANS, .count = 1, .spans = &value};
    lk_btree_write w = {.durability = durability,
                        .kind = kind,
                        .keys = &keys,
                        .values = kind == LK_KIND_PUT ? &values : NULL};
    return lk_btree_write_all(t, &w, err);
}

LK_TEST_UNUSED static void tree_put(lk_btree *t, model *m, lk_bytes key, lk_bytes value)
{
    lk_error err;
    CHECK_OK(tree_write(t, LK_KIND_PUT, key, value, LK_DURABILITY_PROCESS, &err), &err);
    if (m != NULL) model_put(m, key, value);
}

LK_TEST_UNUSED static void tree_delete(lk_btree *t, model *m, lk_bytes key)
{
    lk_error err;
    lk_bytes none = {NULL, 0};
    CHECK_OK(tree_write(t, LK_KIND_DELETE, key, none, LK_DURABILITY_PROCESS, &err), &err);
    if (m != NULL) model_delete(m, key);
}

/* Whether a scan gives what the model has, from row `from` on. */
LK_TEST_UNUSED static void tree_compare(lk_btree *t, const model *m, bool reverse)
{
    lk_error err;
    lk_bytes none = {NULL, 0};
    lk_btree_scan s;
    uint32_t n = 0;
    CHECK_OK(lk_btree_scan_init(&s, t, none, none, reverse, &err), &err);
    for (;;) {
        CHECK_OK(lk_btree_scan_fill(&s, 100, &err), &err);
        if (s.count == 0) break;
        for (uint32_t i = 0; i < s.count; i++, n++) {
            lk_btree_row row = lk_btree_scan_row(&s, i);
            CHECK(n < m->count);
            const model_row *want = &m->rows[reverse ? m->count - 1 - n : n];
            CHECK_EQ(row.key.len, want->key_len);
            CHECK_MEM_EQ(row.key.data, want->key, want->key_len);
            CHECK_EQ(row.value.len, want->value_len);
            CHECK_MEM_EQ(row.value.data, want->value, want->value_len);
        }
    }
    CHECK_EQ(n, m->count);
    lk_btree_scan_deinit(&s);
}

LK_TEST_UNUSED static void tree_prove(lk_btree *t)
{
    lk_error err;
    lk_btree_report report;
    CHECK_OK(lk_btree_verify(t, &report, &err), &err);
    if (report.faults != 0) lk_test_fail(__FILE__, __LINE__, "%s", report.error.message);
}

LK_TEST_UNUSED static void tree_check(lk_btree *t, const model *m)
{
    lk_error err;
    tree_compare(t, m, false);
    tree_compare(t, m, true);
    for (uint32_t i = 0; i < m->count; i++) {
        const model_row *r = &m->rows[i];
        uint8_t *value;
        uint32_t n;
        CHECK_OK(lk_btree_get(t, (lk_bytes){r->key, r->key_len}, &value, &n, &err), &err);
        CHECK(value != NULL && n == r->value_len);
        CHECK_MEM_EQ(value, r->value, n);
        free(value);
    }
    tree_prove(t);
}

/* A key out of some hundred, of many lengths; one in eight is long, and those are alike for long. */
LK_TEST_UNUSED static lk_bytes random_key(uint64_t *rng, uint8_t *out, uint32_t kinds)
{
    uint32_t which = (uint32_t)lk_test_below(rng, kinds);
    uint64_t own = which * UINT64_C(0x9E3779B97F4A7C15) + 1;
    size_t n = which % 8 == 0 ? 500 + lk_test_below(&own, 1500) : lk_test_below(&own, 24);
    if (which % 8 == 0) {
        memset(out, 'p', n);
        lk_store32(out + n - 4, which);
    } else {
        memset(out, 'a' + (int)(which % 3), n);
        if (n >= 4) lk_store32(out + n - 4, which * 2654435761u);
        if (n < 4) out[0] = (uint8_t)which;
    }
    return (lk_bytes){out, n};
}

LK_TEST_UNUSED static lk_bytes random_value(uint64_t *rng, uint8_t *out)
{
    size_t n = lk_test_below(rng, 12) == 0 ? lk_test_below(rng, 9000) : lk_test_below(rng, 300);
    lk_test_fill(rng, out, n);
    return (lk_bytes){out, n};
}

#endif
