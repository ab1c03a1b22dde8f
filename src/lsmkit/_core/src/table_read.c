/* table_read.c: tables as readers hold them: loaded at first use, asked for keys and blocks.
 *
 * Owns      lk_table; see table.h.
 * Threads   `is_loaded` is published with release after everything it covers was written; nothing
 *           of that changes until the last reference goes. Loading is done under `load_lock`.
 * Always    lk_table_find and lk_table_find_many touch no lock and make no system call: what is
 *           not in memory is LK_FIND_MISS.
 *
 * A point read:  filter line -> search array -> slot -> fingerprints -> key -> value
 * Each arrow is a wait for memory; the next line is fetched as soon as its address is known.
 */
#include "table.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "lock.h"
#include "table_parts.h"

struct lk_table {
    /* fixed once is_loaded */
    lk_table_parts parts;
    lk_cache_slot *slots;
    size_t memory;
    /* fixed */
    lk_env *env;
    lk_cache *cache;
    lk_table_meta meta;
    char *path;
    /* atomic */
    atomic_bool is_loaded;   /* release after loading, acquire by readers */
    atomic_bool is_obsolete; /* read by whoever drops the last reference */
    _Atomic uint32_t refs;
    lk_lock load_lock;
};

/* ---- meta ---- */

static lk_status copy_key(const uint8_t *from, uint32_t len, uint8_t **out, lk_error *err)
{
    *out = malloc(len > 0 ? len : 1);
    if (*out == NULL) return lk_fail_nomem(err, len);
    if (len > 0) memcpy(*out, from, len);
    return LK_OK;
}

lk_status lk_table_meta_copy(const lk_table_meta *from, lk_table_meta *out, lk_error *err)
{
    lk_status st = LK_OK;
    *out = *from;
    out->min_key = out->max_key = NULL;
    out->blobs = NULL;
    if (from->blob_count > 0) {
        size_t bytes = from->blob_count * sizeof *out->blobs;
        out->blobs = malloc(bytes);
        if (out->blobs == NULL) {
            st = lk_fail_nomem(err, bytes);
            goto done;
        }
        memcpy(out->blobs, from->blobs, bytes);
    }
    LK_TRY(copy_key(from->min_key, from->min_len, &out->min_key, err));
    LK_TRY(copy_key(from->max_key, from->max_len, &out->max_key, err));
done:
    if (st != LK_OK) lk_table_meta_deinit(out);
    return st;
}

void lk_table_meta_deinit(lk_table_meta *meta)
{
    free(meta->min_key);
    free(meta->max_key);
    free(meta->blobs);
    *meta = (lk_table_meta){.file = 0};
}

const lk_blob_use *lk_table_meta_blob(const lk_table_meta *meta, uint64_t file)
{
    uint32_t low = 0, high = meta->blob_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (meta->blobs[middle].file < file) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < meta->blob_count && meta->blobs[low].file == file ? &meta->blobs[low] : NULL;
}

uint64_t lk_table_meta_written(const lk_table_meta *meta)
{
    const lk_blob_use *own = lk_table_meta_blob(meta, meta->file);
    return meta->bytes + (own != NULL ? own->size : 0);
}

void lk_table_unlink(lk_env *env, const char *dir, const lk_table_meta *meta)
{
    char path[LK_PATH_MAX];
    lk_table_path(dir, meta->file, path, sizeof path);
    (void)lk_env_unlink(env, path, NULL);
    if (lk_table_meta_blob(meta, meta->file) == NULL) return;
    lk_blob_path(dir, meta->file, path, sizeof path);
    (void)lk_env_unlink(env, path, NULL);
}

void lk_table_path(const char *dir, uint64_t file, char *out, size_t out_bytes)
{
    (void)snprintf(out, out_bytes, "%s/%06" PRIu64 ".sst", dir, file);
}

/* ---- life ---- */

lk_status lk_table_new(lk_env *env, const char *dir, const lk_table_meta *meta, lk_cache *cache,
                       lk_table **out, lk_error *err)
{
    lk_status st = LK_OK;
    *out = NULL;
    size_t path_bytes = strlen(dir) + 32;
    lk_table *t = calloc(1, sizeof *t);
    if (t == NULL) return lk_fail_nomem(err, sizeof *t);
    lk_lock_init(&t->load_lock);
    t->env = env;
    t->cache = cache;
    atomic_init(&t->refs, 1);
    t->path = malloc(path_bytes);
    if (t->path == NULL) {
        st = lk_fail_nomem(err, path_bytes);
        goto done;
    }
    lk_table_path(dir, meta->file, t->path, path_bytes);
    LK_TRY(lk_table_meta_copy(meta, &t->meta, err));
    *out = t;
    t = NULL;
done:
    lk_table_unref(t);
    return st;
}

void lk_table_ref(lk_table *t) { atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed); }

void lk_table_unref(lk_table *t)
{
    if (t == NULL) return;
    uint32_t before = atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel);
    LK_ASSERT(before > 0);
    if (before > 1) return;
    if (t->slots != NULL && t->cache != NULL) {
        lk_cache_drop(t->cache, t->slots, t->parts.block_count);
        lk_cache_fix(t->cache, -(int64_t)t->memory);
    }
    lk_table_parts_close(&t->parts);
    /* What cannot be unlinked is no part of the store any more; opening it removes such files. */
    if (atomic_load(&t->is_obsolete)) (void)lk_env_unlink(t->env, t->path, NULL);
    free(t->slots);
    lk_table_meta_deinit(&t->meta);
    free(t->path);
    lk_lock_deinit(&t->load_lock);
    free(t);
}

void lk_table_set_obsolete(lk_table *t) { atomic_store(&t->is_obsolete, true); }
void lk_table_keep(lk_table *t) { atomic_store(&t->is_obsolete, false); }

const lk_table_meta *lk_table_meta_of(const lk_table *t) { return &t->meta; }

const lk_table_parts *lk_table_parts_of(const lk_table *t)
{
    LK_ASSERT(lk_table_is_loaded(t));
    return &t->parts;
}

lk_env *lk_table_env(const lk_table *t) { return t->env; }

const char *lk_table_file_path(const lk_table *t) { return t->path; }

/* ---- loading ---- */

bool lk_table_is_loaded(const lk_table *t)
{
    return atomic_load_explicit(&t->is_loaded, memory_order_acquire);
}

static lk_status load_locked(lk_table *t, lk_error *err)
{
    lk_status st = lk_table_parts_open(t->env, t->path, &t->meta, &t->parts, err);
    if (st == LK_NOT_FOUND) {
        return lk_fail_corrupt(err, t->path, 0, t->meta.bytes, 0,
                               "%s: is missing, and the manifest names it", t->path);
    }
    if (st != LK_OK) return st;
    size_t bytes = t->parts.block_count * sizeof *t->slots;
    t->slots = malloc(bytes);
    if (t->slots == NULL) {
        lk_table_parts_close(&t->parts);
        return lk_fail_nomem(err, bytes);
    }
    for (uint32_t i = 0; i < t->parts.block_count; i++) atomic_init(&t->slots[i].block, NULL);
    t->memory = t->parts.memory + bytes;
    if (t->cache != NULL) lk_cache_fix(t->cache, (int64_t)t->memory);
    atomic_store_explicit(&t->is_loaded, true, memory_order_release);
    return LK_OK;
}

lk_status lk_table_load(lk_table *t, lk_error *err)
{
    if (lk_table_is_loaded(t)) return LK_OK;
    lk_lock_acquire(&t->load_lock);
    lk_status st = lk_table_is_loaded(t) ? LK_OK : load_locked(t, err);
    lk_lock_release(&t->load_lock);
    return st;
}

size_t lk_table_memory(const lk_table *t) { return lk_table_is_loaded(t) ? t->memory : 0; }

/* ---- asking for keys ---- */

static inline lk_find fill_hit(lk_block *b, uint32_t row, lk_hit *out)
{
    if (row == b->rows) return LK_FIND_ABSENT;
    lk_cache_touch(b);
    out->value = lk_block_value(b, row);
    out->seq = lk_block_seq(b, row);
    out->kind = lk_block_kind(b, row);
    return LK_FIND_ROW;
}

static inline lk_find miss(uint32_t block_index, lk_hit *out)
{
    out->block_index = block_index;
    return LK_FIND_MISS;
}

lk_find lk_table_find(lk_table *t, const uint8_t *key, size_t key_len, uint64_t hash, uint64_t seq,
                      lk_hit *out)
{
    if (LK_UNLIKELY(!lk_table_is_loaded(t))) return miss(UINT32_MAX, out);
    if (!lk_filter_may_contain(&t->parts.filter, hash)) return LK_FIND_ABSENT;
    uint32_t i = lk_table_parts_seek(&t->parts, key, key_len);
    if (i == t->parts.block_count) return LK_FIND_ABSENT;
    lk_block *b = atomic_load_explicit(&t->slots[i].block, memory_order_acquire);
    if (LK_UNLIKELY(b == NULL)) return miss(i, out);
    lk_block_prefetch(b);
    return fill_hit(b, lk_block_find(b, key, key_len, hash, seq), out);
}

/* Keys taken through the stages together: what they fetch must stay in the first cache. */
enum { GROUP = 32 };

typedef struct group {
    uint32_t count;
    uint32_t which[GROUP]; /* index into the caller's arrays */
    lk_block *blocks[GROUP];
    uint32_t rows[GROUP]; /* candidates */
} group;

/* Keys [from, to) that nobody answered and that the filter lets pass. */
static void group_filter(const lk_table *t, size_t from, size_t to, const uint64_t *hashes,
                         const lk_find *results, group *g)
{
    g->count = 0;
    for (size_t i = from; i < to; i++) {
        if (results[i] == LK_FIND_ABSENT) lk_filter_prefetch(&t->parts.filter, hashes[i]);
    }
    for (size_t i = from; i < to; i++) {
        if (results[i] != LK_FIND_ABSENT) continue;
        g->which[g->count] = (uint32_t)(i - from);
        g->count += lk_filter_may_contain(&t->parts.filter, hashes[i]);
    }
}

/* Finds the block of each, and keeps those whose block is in memory. */
static void group_seek(const lk_table *t, const lk_bytes *keys, lk_find *results, lk_hit *hits,
                       group *g)
{
    uint32_t kept = 0;
    for (uint32_t j = 0; j < g->count; j++) {
        uint32_t i = g->which[j];
        uint32_t at = lk_table_parts_seek(&t->parts, keys[i].data, keys[i].len);
        if (at == t->parts.block_count) continue;
        lk_block *b = atomic_load_explicit(&t->slots[at].block, memory_order_acquire);
        if (b == NULL) {
            results[i] = miss(at, &hits[i]);
            continue;
        }
        lk_block_prefetch(b);
        g->which[kept] = i;
        g->blocks[kept++] = b;
    }
    g->count = kept;
}

/* Finds the candidate row of each, and fetches its key and value, or their offsets. */
static void group_candidates(const uint64_t *hashes, group *g)
{
    for (uint32_t j = 0; j < g->count; j++) {
        const lk_block *b = g->blocks[j];
        uint32_t row = lk_block_candidate(b, hashes[g->which[j]], 0);
        g->rows[j] = row;
        if (row == b->rows) continue;
        if (b->key_offsets == NULL) {
            __builtin_prefetch(b->keys + (size_t)row * b->key_width);
        } else {
            __builtin_prefetch(b->key_offsets + row);
        }
        if (b->value_offsets == NULL) {
            __builtin_prefetch(b->values + (size_t)row * b->value_width);
            __builtin_prefetch(b->values + (size_t)row * b->value_width + 64);
        } else {
            __builtin_prefetch(b->value_offsets + row);
        }
    }
}

/* For columns with offsets: now that those are here, what they point to. */
static void group_fetch(const group *g)
{
    for (uint32_t j = 0; j < g->count; j++) {
        const lk_block *b = g->blocks[j];
        uint32_t row = g->rows[j];
        if (row == b->rows) continue;
        if (b->key_offsets != NULL) __builtin_prefetch(b->keys + b->key_offsets[row]);
        if (b->value_offsets != NULL) {
            __builtin_prefetch(b->values + b->value_offsets[row]);
            __builtin_prefetch(b->values + b->value_offsets[row] + 64);
        }
    }
}

static void find_group(lk_table *t, size_t from, size_t to, const lk_bytes *keys,
                       const uint64_t *hashes, uint64_t seq, lk_find *results, lk_hit *hits)
{
    group g;
    group_filter(t, from, to, hashes, results, &g);
    keys += from;
    hashes += from;
    results += from;
    hits += from;
    group_seek(t, keys, results, hits, &g);
    group_candidates(hashes, &g);
    group_fetch(&g);
    for (uint32_t j = 0; j < g.count; j++) {
        uint32_t i = g.which[j];
        uint32_t row =
            lk_block_find_from(g.blocks[j], g.rows[j], keys[i].data, keys[i].len, hashes[i], seq);
        results[i] = fill_hit(g.blocks[j], row, &hits[i]);
    }
}

void lk_table_find_many(lk_table *t, size_t n, const lk_bytes *keys, const uint64_t *hashes,
                        uint64_t seq, lk_find *results, lk_hit *hits)
{
    if (!lk_table_is_loaded(t)) {
        for (size_t i = 0; i < n; i++) {
            if (results[i] == LK_FIND_ABSENT) results[i] = miss(UINT32_MAX, &hits[i]);
        }
        return;
    }
    for (size_t from = 0; from < n; from += GROUP) {
        size_t to = n - from < GROUP ? n : from + GROUP;
        find_group(t, from, to, keys, hashes, seq, results, hits);
    }
}

/* ---- asking for blocks ---- */

static lk_status load_block(void *context, uint32_t index, lk_block **out, lk_error *err)
{
    return lk_table_parts_block(&((lk_table *)context)->parts, index, out, err);
}

lk_status lk_table_block(lk_table *t, uint32_t index, bool fill, lk_block **out, lk_error *err)
{
    *out = NULL;
    lk_status st = lk_table_load(t, err);
    if (st != LK_OK) return st;
    if (index >= t->parts.block_count) {
        return lk_fail(err, LK_INVALID, 0, t->path, 0, t->parts.block_count, index,
                       "the table has no block %u", index);
    }
    if (t->cache != NULL && fill) {
        return lk_cache_get(t->cache, t->slots, index, load_block, t, out, err);
    }
    if (t->cache != NULL) *out = lk_cache_peek(t->cache, t->slots, index);
    return *out != NULL ? LK_OK : load_block(t, index, out, err);
}

uint32_t lk_table_block_count(const lk_table *t) { return lk_table_parts_of(t)->block_count; }

uint32_t lk_table_seek(const lk_table *t, const uint8_t *key, size_t key_len)
{
    return lk_table_parts_seek(lk_table_parts_of(t), key, key_len);
}

lk_bytes lk_table_block_last_key(const lk_table *t, uint32_t index)
{
    return lk_block_key(lk_table_parts_of(t)->index, index);
}

void lk_table_block_place(const lk_table *t, uint32_t index, uint64_t *out_offset,
                          uint32_t *out_bytes)
{
    uint32_t rows;
    lk_table_parts_place(lk_table_parts_of(t), index, out_offset, out_bytes, &rows);
}
