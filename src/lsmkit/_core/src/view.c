/* view.c: pinning a view, and the point read: segments newest first, then the range's runs.
 */
#include "view.h"

#include <stdlib.h>

#include "check.h"

lk_view *lk_view_new(lk_segment *const *segments, uint32_t count, lk_version *version)
{
    lk_view *v = malloc(sizeof *v + count * sizeof v->segments[0]);
    if (v == NULL) return NULL;
    atomic_init(&v->refs, 1);
    v->segment_count = count;
    v->version = version;
    lk_version_ref(version);
    for (uint32_t i = 0; i < count; i++) {
        v->segments[i] = segments[i];
        lk_segment_ref(segments[i]);
    }
    return v;
}

void lk_view_ref(lk_view *v)
{
    atomic_fetch_add_explicit(&v->refs, 1, memory_order_relaxed);
}

void lk_view_unref(lk_view *v)
{
    if (v == NULL) return;
    uint32_t before = atomic_fetch_sub_explicit(&v->refs, 1, memory_order_acq_rel);
    LK_ASSERT(before > 0);
    if (before > 1) return;
    for (uint32_t i = 0; i < v->segment_count; i++) lk_segment_unref(v->segments[i]);
    lk_version_unref(v->version);
    free(v);
}

static lk_lookup answer_of(lk_kind kind, const uint8_t *value, size_t len, uint64_t seq,
                           lk_answer *out)
{
    out->seq = seq;
    if (kind == LK_KIND_DELETE) return LK_LOOKUP_ABSENT;
    out->value = (lk_bytes){value, len};
    return LK_LOOKUP_VALUE;
}

static lk_lookup tables_get(const lk_tree_version *t, const uint8_t *key, size_t key_len,
                            uint64_t hash, uint64_t seq, lk_answer *out)
{
    const lk_range *range = &t->ranges[lk_tree_version_range(t, key, key_len)];
    for (uint32_t i = 0; i < range->run_count; i++) {
        lk_table *table = lk_run_table(&range->runs[i], key, key_len);
        if (table == NULL) continue;
        lk_hit hit;
        switch (lk_table_find(table, key, key_len, hash, seq, &hit)) {
        case LK_FIND_ABSENT:
            break;
        case LK_FIND_ROW:
            return answer_of(hit.kind, hit.value.data, hit.value.len, hit.seq, out);
        case LK_FIND_MISS:
            return LK_LOOKUP_BLOCKED;
        }
    }
    return LK_LOOKUP_ABSENT;
}

/* LK_LOOKUP_BLOCKED: no segment knows the key, the tables must be asked. */
static lk_lookup segments_get(const lk_view *v, uint32_t tree, const uint8_t *key, size_t key_len,
                              uint64_t hash, uint64_t seq, lk_answer *out)
{
    for (uint32_t i = 0; i < v->segment_count; i++) {
        const lk_segment *s = v->segments[i];
        uint32_t visible = lk_segment_visible(s, seq), ordinal;
        lk_record r;
        if (visible != 0 &&
            lk_segment_find(s, tree, key, key_len, hash, visible, &r, &ordinal)) {
            return answer_of(r.kind, r.value, r.value_len, s->base_seq + ordinal, out);
        }
    }
    return LK_LOOKUP_BLOCKED;
}

lk_lookup lk_view_get(const lk_view *v, uint32_t tree, const uint8_t *key, size_t key_len,
                      uint64_t hash, uint64_t seq, lk_answer *out)
{
    lk_lookup found = segments_get(v, tree, key, key_len, hash, seq, out);
    if (found != LK_LOOKUP_BLOCKED) return found;
    const lk_tree_version *t = lk_version_tree(v->version, tree);
    if (t == NULL) return LK_LOOKUP_ABSENT;
    return tables_get(t, key, key_len, hash, seq, out);
}

/* The newest visible row of a key in one table, reading what is not in memory. */
static lk_status table_fetch(lk_table *table, lk_guard *guard, const uint8_t *key, size_t key_len,
                             uint64_t hash, uint64_t seq, lk_block **out, uint32_t *out_row,
                             lk_error *err)
{
    lk_status st = LK_OK;
    lk_block *block = NULL;
    *out = NULL;
    LK_TRY(lk_table_load(table, err));
    lk_hit hit;
    unsigned token = lk_guard_enter(guard);
    bool absent = lk_table_find(table, key, key_len, hash, seq, &hit) == LK_FIND_ABSENT;
    lk_guard_exit(guard, token);
    if (absent) return LK_OK;
    uint32_t index = lk_table_seek(table, key, key_len);
    if (index == lk_table_block_count(table)) return LK_OK;
    LK_TRY(lk_table_block(table, index, true, &block, err));
    *out_row = lk_block_find(block, key, key_len, hash, seq);
    if (*out_row < block->rows) {
        *out = block;
        block = NULL;
    }
done:
    lk_block_unref(block);
    return st;
}

lk_status lk_view_fetch(const lk_view *v, lk_guard *guard, uint32_t tree, const uint8_t *key,
                        size_t key_len, uint64_t hash, uint64_t seq, lk_lookup *out_found,
                        lk_answer *out, lk_block **out_block, lk_error *err)
{
    *out_block = NULL;
    *out_found = segments_get(v, tree, key, key_len, hash, seq, out);
    if (*out_found != LK_LOOKUP_BLOCKED) return LK_OK;
    *out_found = LK_LOOKUP_ABSENT;
    const lk_tree_version *t = lk_version_tree(v->version, tree);
    if (t == NULL) return LK_OK;
    const lk_range *range = &t->ranges[lk_tree_version_range(t, key, key_len)];
    for (uint32_t i = 0; i < range->run_count; i++) {
        lk_table *table = lk_run_table(&range->runs[i], key, key_len);
        if (table == NULL) continue;
        lk_block *block;
        uint32_t row;
        lk_status st = table_fetch(table, guard, key, key_len, hash, seq, &block, &row, err);
        if (st != LK_OK) return st;
        if (block == NULL) continue;
        lk_bytes value = lk_block_value(block, row);
        *out_found = answer_of(lk_block_kind(block, row), value.data, value.len,
                               lk_block_seq(block, row), out);
        *out_block = block;
        return LK_OK;
    }
    return LK_OK;
}
