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
    v->gaps = NULL;
    lk_version_ref(version);
    for (uint32_t i = 0; i < count; i++) {
        v->segments[i] = segments[i];
        lk_segment_ref(segments[i]);
    }
    return v;
}

void lk_view_ref(lk_view *v) { atomic_fetch_add_explicit(&v->refs, 1, memory_order_relaxed); }

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
        if (visible != 0 && lk_segment_find(s, tree, key, key_len, hash, visible, &r, &ordinal)) {
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

/* ---- many keys ---- */

/* Keys that no segment knows, on their way through the runs of their ranges. */
typedef struct seekers {
    uint32_t count;
    uint32_t which[LK_VIEW_KEYS_MAX]; /* index into the caller's arrays */
    const lk_range *ranges[LK_VIEW_KEYS_MAX];
    lk_table *tables[LK_VIEW_KEYS_MAX]; /* of the run that is asked now; NULL: none */
} seekers;

/* One table asked for all seekers that stand before it. */
static void table_ask(lk_table *table, const seekers *k, const lk_bytes *keys,
                      const uint64_t *hashes, uint64_t seq, lk_lookup *found, lk_answer *out)
{
    lk_bytes asked[LK_VIEW_KEYS_MAX];
    uint64_t asked_hashes[LK_VIEW_KEYS_MAX];
    lk_find results[LK_VIEW_KEYS_MAX];
    lk_hit hits[LK_VIEW_KEYS_MAX];
    uint32_t n = 0;
    for (uint32_t j = 0; j < k->count; j++) {
        if (k->tables[j] != table) continue;
        asked[n] = keys[k->which[j]];
        asked_hashes[n] = hashes[k->which[j]];
        results[n++] = LK_FIND_ABSENT;
    }
    lk_table_find_many(table, n, asked, asked_hashes, seq, results, hits);
    n = 0;
    for (uint32_t j = 0; j < k->count; j++) {
        if (k->tables[j] != table) continue;
        uint32_t i = k->which[j];
        if (results[n] == LK_FIND_ROW) {
            lk_hit *hit = &hits[n];
            found[i] = answer_of(hit->kind, hit->value.data, hit->value.len, hit->seq, &out[i]);
        } else if (results[n] == LK_FIND_MISS) {
            found[i] = LK_LOOKUP_BLOCKED;
        }
        n++;
    }
}

/* Asks the `level`-th run of every seeker's range; false when none of them has so many. */
static bool runs_ask(seekers *k, uint32_t level, const lk_bytes *keys, const uint64_t *hashes,
                     uint64_t seq, lk_lookup *found, lk_answer *out)
{
    bool any = false;
    for (uint32_t j = 0; j < k->count; j++) {
        const lk_range *range = k->ranges[j];
        lk_bytes key = keys[k->which[j]];
        k->tables[j] = NULL;
        if (level >= range->run_count) continue;
        any = true;
        k->tables[j] = lk_run_table(&range->runs[level], key.data, key.len);
    }
    for (uint32_t j = 0; j < k->count; j++) {
        lk_table *table = k->tables[j];
        bool asked = table == NULL;
        for (uint32_t before = 0; before < j && !asked; before++)
            asked = k->tables[before] == table;
        if (!asked) table_ask(table, k, keys, hashes, seq, found, out);
    }
    return any;
}

void lk_view_get_many(const lk_view *v, uint32_t tree, uint32_t n, const lk_bytes *keys,
                      const uint64_t *hashes, uint64_t seq, lk_lookup *out_found, lk_answer *out)
{
    seekers k = {.count = 0};
    const lk_tree_version *t = lk_version_tree(v->version, tree);
    LK_ASSERT(n <= LK_VIEW_KEYS_MAX);
    for (uint32_t i = 0; i < n; i++) {
        out_found[i] = segments_get(v, tree, keys[i].data, keys[i].len, hashes[i], seq, &out[i]);
        if (out_found[i] != LK_LOOKUP_BLOCKED) continue;
        out_found[i] = LK_LOOKUP_ABSENT;
        if (t == NULL) continue;
        k.ranges[k.count] = &t->ranges[lk_tree_version_range(t, keys[i].data, keys[i].len)];
        k.which[k.count++] = i;
    }
    for (uint32_t level = 0; k.count > 0; level++) {
        for (uint32_t j = 0; j < k.count; j++) out[k.which[j]].seq = 0;
        if (!runs_ask(&k, level, keys, hashes, seq, out_found, out)) break;
        uint32_t kept = 0;
        for (uint32_t j = 0; j < k.count; j++) {
            uint32_t i = k.which[j];
            /* A delete answers too: only who met no version at all goes on to older runs. */
            if (out_found[i] != LK_LOOKUP_ABSENT || out[i].seq != 0) continue;
            k.ranges[kept] = k.ranges[j];
            k.which[kept++] = i;
        }
        k.count = kept;
    }
}

/* ---- blocking ---- */

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
