/* view.c: pinning a view, and the point read: segments newest first, then the range's runs.
 */
#include "view.h"

#include <stdlib.h>

#include "block_memory.h"
#include "check.h"
#include "fold.h"
#include "prove.h"

lk_view *lk_view_new(lk_segment *const *segments, uint32_t count, lk_version *version,
                     lk_settings *settings)
{
    lk_view *v = malloc(sizeof *v + count * sizeof v->segments[0]);
    if (v == NULL) return NULL;
    atomic_init(&v->refs, 1);
    v->segment_count = count;
    v->version = version;
    v->last_seq = 0;
    v->gaps = NULL;
    v->unproved = false;
    v->settings = settings;
    lk_version_ref(version);
    lk_settings_ref(settings);
    for (uint32_t i = 0; i < count; i++) {
        v->segments[i] = segments[i];
        lk_segment_ref(segments[i]);
        v->unproved = v->unproved || lk_proof_is_open(segments[i]);
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
    lk_settings_unref(v->settings);
    free(v);
}

lk_status lk_view_prove(const lk_view *v, lk_error *err)
{
    for (uint32_t i = 0; v->unproved && i < v->segment_count; i++) {
        lk_status st = lk_proof_finish(v->segments[i], err);
        if (st != LK_OK) return st;
    }
    return LK_OK;
}

/* What is no plain put. Operands need older versions, and values that stand apart a file: neither is
 * looked for in a guard section. */
static __attribute__((noinline)) lk_lookup answer_of_special(const lk_view *v, lk_kind kind,
                                                             const uint8_t *value, size_t len,
                                                             lk_answer *out)
{
    if (kind == LK_KIND_DELETE) return LK_LOOKUP_ABSENT;
    if (kind != LK_KIND_PUT_UNTIL) return LK_LOOKUP_BLOCKED;
    if (lk_kind_deadline(kind, value) <= lk_env_wall_us(v->settings->env)) return LK_LOOKUP_ABSENT;
    uint32_t head = lk_kind_head_bytes(kind);
    out->value = (lk_bytes){value + head, len - head};
    return LK_LOOKUP_VALUE;
}

static inline lk_lookup answer_of(const lk_view *v, lk_kind kind, const uint8_t *value, size_t len,
                                  uint64_t seq, lk_answer *out)
{
    out->seq = seq;
    if (LK_UNLIKELY(kind != LK_KIND_PUT)) return answer_of_special(v, kind, value, len, out);
    out->value = (lk_bytes){value, len};
    return LK_LOOKUP_VALUE;
}

static lk_lookup absent_since(uint64_t seq, lk_answer *out)
{
    out->seq = seq;
    return LK_LOOKUP_ABSENT;
}

/* The newest range tombstone over a key that may hide rows of tables; 0: none. */
static inline uint64_t tables_cover(const lk_tree_version *t, const uint8_t *key, size_t key_len,
                                    uint64_t seq)
{
    if (LK_LIKELY(t->tombs == NULL)) return 0;
    return lk_tombs_cover(t->tombs, t->tree, key, key_len, seq);
}

/* Whether no row of the table can be newer than what covers the key. */
static inline bool is_dead(const lk_table *table, uint64_t cover)
{
    return LK_UNLIKELY(cover != 0) && lk_table_meta_of(table)->seq_max < cover;
}

static lk_lookup tables_get(const lk_view *v, const lk_tree_version *t, const uint8_t *key,
                            size_t key_len, uint64_t hash, uint64_t seq, lk_answer *out)
{
    const lk_range *range = &t->ranges[lk_tree_version_range(t, key, key_len)];
    uint64_t cover = tables_cover(t, key, key_len, seq);
    for (uint32_t i = 0; i < range->run_count; i++) {
        lk_table *table = lk_run_table(&range->runs[i], key, key_len);
        if (table == NULL || is_dead(table, cover)) continue;
        lk_hit hit;
        switch (lk_table_find(table, key, key_len, hash, seq, &hit)) {
        case LK_FIND_ABSENT:
            break;
        case LK_FIND_ROW:
            if (LK_UNLIKELY(hit.seq < cover)) return absent_since(cover, out);
            return answer_of(v, hit.kind, hit.value.data, hit.value.len, hit.seq, out);
        case LK_FIND_MISS:
            return LK_LOOKUP_BLOCKED;
        }
    }
    return LK_LOOKUP_ABSENT;
}

/* Whether a segment knows the key, and what it then says. */
static bool segments_get(const lk_view *v, uint32_t tree, const uint8_t *key, size_t key_len,
                         uint64_t hash, uint64_t seq, lk_lookup *out_found, lk_answer *out)
{
    for (uint32_t i = 0; i < v->segment_count; i++) {
        const lk_segment *s = v->segments[i];
        uint32_t visible = lk_segment_visible(s, seq), ordinal;
        lk_record r;
        if (visible == 0) continue;
        bool found = lk_segment_find(s, tree, key, key_len, hash, visible, &r, &ordinal);
        if (LK_UNLIKELY(lk_segment_has_tombs(s))) {
            uint32_t over = lk_segment_tomb_over(s, tree, key, key_len, visible);
            if (over > (found ? ordinal + 1 : 0)) {
                *out_found = absent_since(s->base_seq + over - 1, out);
                return true;
            }
        }
        if (found) {
            *out_found = answer_of(v, r.kind, r.value, r.value_len, s->base_seq + ordinal, out);
            return true;
        }
    }
    return false;
}

uint64_t lk_view_cover(const lk_view *v, uint32_t tree, const uint8_t *key, size_t key_len,
                       uint64_t seq)
{
    for (uint32_t i = 0; i < v->segment_count; i++) {
        const lk_segment *s = v->segments[i];
        uint32_t visible = lk_segment_visible(s, seq);
        if (visible == 0 || !lk_segment_has_tombs(s)) continue;
        uint32_t over = lk_segment_tomb_over(s, tree, key, key_len, visible);
        if (over != 0) return s->base_seq + over - 1; /* older ones are in older segments */
    }
    const lk_tree_version *t = lk_version_tree(v->version, tree);
    return t == NULL ? 0 : tables_cover(t, key, key_len, seq);
}

bool lk_view_has_newer(const lk_view *v, uint64_t generation, uint32_t tree, const uint8_t *key,
                       size_t key_len, uint64_t hash)
{
    if (v->unproved) return true;
    for (uint32_t i = 0; i < v->segment_count && v->segments[i]->generation > generation; i++) {
        uint32_t visible = lk_segment_visible(v->segments[i], LK_SEQ_MAX), ordinal;
        lk_record r;
        if (visible != 0 &&
            lk_segment_find(v->segments[i], tree, key, key_len, hash, visible, &r, &ordinal)) {
            return true;
        }
    }
    return false;
}

lk_lookup lk_view_get(const lk_view *v, uint32_t tree, const uint8_t *key, size_t key_len,
                      uint64_t hash, uint64_t seq, lk_answer *out)
{
    lk_lookup found;
    if (LK_UNLIKELY(v->unproved)) return LK_LOOKUP_BLOCKED;
    if (segments_get(v, tree, key, key_len, hash, seq, &found, out)) return found;
    const lk_tree_version *t = lk_version_tree(v->version, tree);
    if (t == NULL) return LK_LOOKUP_ABSENT;
    return tables_get(v, t, key, key_len, hash, seq, out);
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
static void table_ask(const lk_view *v, lk_table *table, const seekers *k, const lk_bytes *keys,
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
            found[i] = answer_of(v, hit->kind, hit->value.data, hit->value.len, hit->seq, &out[i]);
        } else if (results[n] == LK_FIND_MISS) {
            found[i] = LK_LOOKUP_BLOCKED;
        }
        n++;
    }
}

/* Asks the `level`-th run of every seeker's range; false when none of them has so many. */
static bool runs_ask(const lk_view *v, seekers *k, uint32_t level, const lk_bytes *keys,
                     const uint64_t *hashes, uint64_t seq, lk_lookup *found, lk_answer *out)
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
        if (!asked) table_ask(v, table, k, keys, hashes, seq, found, out);
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
        out_found[i] = LK_LOOKUP_BLOCKED;
        if (LK_UNLIKELY(v->unproved)) continue;
        if (segments_get(v, tree, keys[i].data, keys[i].len, hashes[i], seq, &out_found[i],
                         &out[i])) {
            continue;
        }
        out_found[i] = LK_LOOKUP_ABSENT;
        if (t == NULL) continue;
        k.ranges[k.count] = &t->ranges[lk_tree_version_range(t, keys[i].data, keys[i].len)];
        k.which[k.count++] = i;
    }
    for (uint32_t level = 0; k.count > 0; level++) {
        for (uint32_t j = 0; j < k.count; j++) out[k.which[j]].seq = 0;
        if (!runs_ask(v, &k, level, keys, hashes, seq, out_found, out)) break;
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
    if (LK_LIKELY(t == NULL || t->tombs == NULL)) return;
    for (uint32_t i = 0; i < n; i++) { /* records of the log are newer than what covers tables */
        if (out_found[i] != LK_LOOKUP_VALUE) continue;
        uint64_t cover = tables_cover(t, keys[i].data, keys[i].len, seq);
        if (out[i].seq < cover) out_found[i] = absent_since(cover, &out[i]);
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

/* The blocks that the versions of a key stand in, until they are folded. */
typedef struct held_blocks {
    lk_block **items;
    uint32_t count;
} held_blocks;

static lk_status hold(held_blocks *h, lk_block *block, lk_error *err)
{
    lk_block **grown = realloc(h->items, (h->count + (size_t)1) * sizeof *grown);
    if (grown == NULL) {
        lk_block_unref(block);
        return lk_fail_nomem(err, (h->count + (size_t)1) * sizeof *grown);
    }
    h->items = grown;
    h->items[h->count++] = block;
    return LK_OK;
}

typedef struct fetch {
    const lk_view *view;
    lk_guard *guard;
    uint32_t tree;
    lk_bytes key;
    uint64_t hash, seq;
    lk_fold fold;
    held_blocks blocks;
    uint64_t cover;  /* of the newest range tombstone over the key that is seen; 0: none */
    uint64_t newest; /* sequence of the newest version; 0: none was met */
} fetch;

static lk_status take(fetch *x, lk_kind kind, lk_bytes value, uint64_t seq, bool *out_decided,
                      lk_error *err)
{
    if (x->newest == 0) x->newest = seq;
    return lk_fold_take(&x->fold, kind, value, seq, out_decided, err);
}

static lk_status fetch_segments(fetch *x, bool *out_decided, lk_error *err)
{
    *out_decided = false;
    for (uint32_t i = 0; i < x->view->segment_count; i++) {
        const lk_segment *s = x->view->segments[i];
        uint32_t visible = lk_segment_visible(s, x->seq), ordinal;
        lk_record r;
        bool found = visible != 0 && lk_segment_find(s, x->tree, x->key.data, x->key.len, x->hash,
                                                     visible, &r, &ordinal);
        while (found) {
            lk_status st = take(x, r.kind, (lk_bytes){r.value, r.value_len}, s->base_seq + ordinal,
                                out_decided, err);
            if (st != LK_OK || *out_decided) return st;
            found = lk_segment_find_older(s, x->tree, x->key.data, x->key.len, x->hash, ordinal, &r,
                                          &ordinal);
        }
    }
    return LK_OK;
}

static lk_status fetch_table(fetch *x, lk_table *table, bool *out_decided, lk_error *err)
{
    lk_status st = LK_OK;
    lk_block *block;
    uint32_t row;
    LK_TRY(
        table_fetch(table, x->guard, x->key.data, x->key.len, x->hash, x->seq, &block, &row, err));
    if (block == NULL) return LK_OK;
    LK_TRY(hold(&x->blocks, block, err));
    for (;;) {
        LK_TRY(take(x, lk_block_kind(block, row), lk_block_value(block, row),
                    lk_block_seq(block, row), out_decided, err));
        if (*out_decided || block->unique || ++row == block->rows) break;
        lk_bytes key = lk_block_key(block, row);
        if (!lk_bytes_equal(key.data, key.len, x->key.data, x->key.len)) break;
    }
done:
    return st;
}

static lk_status fetch_tables(fetch *x, bool *out_decided, lk_error *err)
{
    const lk_tree_version *t = lk_version_tree(x->view->version, x->tree);
    if (t == NULL) return LK_OK;
    const lk_range *range = &t->ranges[lk_tree_version_range(t, x->key.data, x->key.len)];
    for (uint32_t i = 0; i < range->run_count && !*out_decided; i++) {
        lk_table *table = lk_run_table(&range->runs[i], x->key.data, x->key.len);
        if (table == NULL || is_dead(table, x->cover)) continue;
        lk_status st = fetch_table(x, table, out_decided, err);
        if (st != LK_OK) return st;
    }
    return LK_OK;
}

/* A block that holds nothing but so many bytes, which follow its head. */
static lk_status block_for(size_t len, lk_block **out, lk_error *err)
{
    size_t bytes = lk_block_memory_size(sizeof(lk_block) + len);
    lk_block *b = lk_block_memory_take(bytes);
    if (b == NULL) return lk_fail_nomem(err, bytes);
    memset(b, 0, sizeof *b);
    atomic_init(&b->refs, 1);
    b->bytes = bytes;
    *out = b;
    return LK_OK;
}

/* The block that a value stands in, with a reference: one of those held, or a new one for a value that
 * was made; none where it stands in a segment. */
static lk_status keep_value(fetch *x, lk_bytes *value, lk_block **out, lk_error *err)
{
    if (x->fold.count == 0) {
        /* The version that decided was the last one taken. */
        if (x->blocks.count > 0) *out = x->blocks.items[--x->blocks.count];
        return LK_OK;
    }
    lk_status st = block_for(value->len, out, err);
    if (st != LK_OK) return st;
    uint8_t *to = (uint8_t *)(*out + 1);
    if (value->len > 0) memcpy(to, value->data, value->len);
    value->data = to;
    return LK_OK;
}

/* The value that stands apart, in a block of its own. */
static lk_status read_value(const fetch *x, lk_bytes *value, lk_block **out, lk_error *err)
{
    size_t room;
    lk_blob_ref ref = lk_blob_ref_decode(value->data);
    lk_status st = lk_blob_files_room(x->fold.blobs, &ref, &room, err);
    if (st == LK_OK) st = block_for(room, out, err);
    if (st != LK_OK) return st;
    st = lk_blob_files_read(x->fold.blobs, &ref, (uint8_t *)(*out + 1), value, err);
    if (st == LK_OK) return LK_OK;
    lk_block_unref(*out);
    *out = NULL;
    return st;
}

/* Looks a key up in segments of which some are not proved yet. A plain value or a delete is an answer as
 * soon as it is known to be the newest version; else all of them are proved after it, and the caller
 * goes on as always. */
static lk_status unproved_get(const lk_view *v, uint32_t tree, const uint8_t *key, size_t key_len,
                              uint64_t hash, uint64_t seq, bool *out_answered, lk_lookup *out_found,
                              lk_answer *out, lk_error *err)
{
    *out_answered = false;
    for (uint32_t i = 0; i < v->segment_count; i++) {
        lk_segment *s = v->segments[i];
        uint32_t visible = lk_segment_visible(s, seq), ordinal;
        lk_record r;
        bool found = false;
        lk_status st = LK_OK;
        if (visible == 0) continue;
        if (lk_proof_is_open(s)) {
            st = lk_proof_find(s, tree, key, key_len, hash, visible, &found, &r, &ordinal, err);
        } else {
            found = lk_segment_find(s, tree, key, key_len, hash, visible, &r, &ordinal);
        }
        if (st != LK_OK) return st;
        if (lk_segment_has_tombs(s)) break;
        if (!found) continue;
        if (r.kind != LK_KIND_PUT && r.kind != LK_KIND_DELETE) break;
        *out_answered = true;
        *out_found = answer_of(v, r.kind, r.value, r.value_len, s->base_seq + ordinal, out);
        return LK_OK;
    }
    return lk_view_prove(v, err);
}

lk_status lk_view_fetch(const lk_view *v, lk_guard *guard, uint32_t tree, const uint8_t *key,
                        size_t key_len, uint64_t hash, uint64_t seq, lk_lookup *out_found,
                        lk_answer *out, lk_block **out_block, lk_error *err)
{
    lk_status st = LK_OK;
    fetch x = {
        .view = v, .guard = guard, .tree = tree, .key = {key, key_len}, .hash = hash, .seq = seq};
    bool decided, found = false;
    *out_block = NULL;
    *out_found = LK_LOOKUP_ABSENT;
    if (LK_UNLIKELY(v->unproved)) {
        st = unproved_get(v, tree, key, key_len, hash, seq, &found, out_found, out, err);
        if (st != LK_OK || found) return st;
    }
    lk_fold_init(&x.fold, v->settings, tree, 0);
    x.fold.blobs = lk_version_blobs(v->version, tree);
    x.fold.no_values = true; /* one that stands apart is read to where it is to stay */
    x.cover = lk_view_cover(v, tree, key, key_len, seq);
    lk_fold_begin(&x.fold, x.cover);
    LK_TRY(fetch_segments(&x, &decided, err));
    if (!decided) LK_TRY(fetch_tables(&x, &decided, err));
    LK_TRY(lk_fold_value(&x.fold, &found, &out->value, err));
    out->seq = x.newest > x.cover ? x.newest : x.cover;
    if (!found) goto done;
    LK_TRY(x.fold.is_apart ? read_value(&x, &out->value, out_block, err)
                           : keep_value(&x, &out->value, out_block, err));
    *out_found = LK_LOOKUP_VALUE;
done:
    for (uint32_t i = 0; i < x.blocks.count; i++) lk_block_unref(x.blocks.items[i]);
    free(x.blocks.items);
    lk_fold_deinit(&x.fold);
    return st;
}
