/* btree_read.c: point reads of a B+tree, and bringing pages into memory. */
#include <stdlib.h>

#include "btree.h"
#include "check.h"

lk_status lk_btree_child(const lk_btree *t, const uint8_t *p, uint32_t index, uint32_t *out,
                         lk_error *err)
{
    LK_ASSERT(index <= lk_page_count(p));
    *out = lk_page_child(p, index);
    if (*out != 0 && *out < t->space.pages) return LK_OK;
    const char *path = lk_file_path(t->file.file);
    return lk_fail_corrupt(err, path, 0, t->space.pages, *out, "%s: there is no page %u", path,
                           *out);
}

lk_status lk_btree_read_try(lk_btree *t)
{
    if (!lk_btree_is_open(t)) return LK_CLOSED;
    if (pthread_rwlock_tryrdlock(&t->latch) != 0) return LK_BUSY;
    if (LK_LIKELY(atomic_load_explicit(&t->state, memory_order_relaxed) == 1)) return LK_OK;
    lk_btree_read_end(t);
    return LK_CLOSED;
}

/* ---- bringing in ---- */

/* Puts a page that was read into its frame; the latch is held, exclusive. */
static lk_status install(lk_btree *t, uint32_t page, const uint8_t *bytes, lk_error *err)
{
    if (lk_page_cache_find(&t->cache, page) != NULL) return LK_OK;
    if (!lk_page_cache_reserve(&t->cache, 1)) return lk_fail_nomem(err, t->file.page_bytes);
    uint8_t *p = lk_page_cache_take(&t->cache, page);
    if (p == NULL) return lk_fail_nomem(err, t->file.page_bytes);
    memcpy(p, bytes, t->file.page_bytes);
    return LK_OK;
}

/* The page is read without the latch. If a checkpoint wrote pages in place meanwhile, what was read may
 * be older than what has left memory since: then it is read again, the last time under the latch. */
lk_status lk_btree_bring(lk_btree *t, uint32_t page, lk_error *err)
{
    enum { TRIES = 4 };
    uint8_t *bytes = malloc(t->file.page_bytes);
    if (bytes == NULL) return lk_fail_nomem(err, t->file.page_bytes);
    lk_status st = LK_OK;
    for (int i = 0; i <= TRIES; i++) {
        bool is_held = i == TRIES;
        pthread_rwlock_wrlock(&t->latch);
        uint64_t before = t->home_writes, checkpoint = t->head.checkpoint;
        bool is_there = lk_page_cache_find(&t->cache, page) != NULL;
        if (!is_held) pthread_rwlock_unlock(&t->latch);
        if (!is_there) {
            st = lk_page_read(&t->file, page, checkpoint, bytes, err);
            atomic_fetch_add_explicit(&t->page_reads, 1, memory_order_relaxed);
        }
        if (!is_held) pthread_rwlock_wrlock(&t->latch);
        bool is_current = t->home_writes == before;
        /* A writer may have brought it in meanwhile, and a checkpoint under way be writing it: then
         * whatever was read, or could not be proved, is not needed. */
        is_there = lk_page_cache_find(&t->cache, page) != NULL;
        if (is_there) st = LK_OK;
        if (is_current && st == LK_OK && !is_there) st = install(t, page, bytes, err);
        pthread_rwlock_unlock(&t->latch);
        if (is_current || is_there) break;
    }
    free(bytes);
    return st;
}

/* ---- point reads ---- */

/* To the leaf's cell of the key; data of the leaf NULL where there is none. */
static lk_status find(const lk_btree *t, lk_bytes key, const uint8_t **out_leaf, uint32_t *out_slot,
                      uint32_t *out_missing, lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t page = t->head.root, level = t->head.levels, slot;
    bool found;
    *out_leaf = NULL;
    if (page == 0) return LK_OK;
    for (;; level--) {
        const uint8_t *p = lk_page_cache_find(&t->cache, page);
        if (p == NULL) {
            *out_missing = page;
            return LK_MISS;
        }
        if (LK_UNLIKELY(lk_page_level(p) != level)) {
            const char *path = lk_file_path(t->file.file);
            return lk_fail_corrupt(err, path, (uint64_t)page * t->file.page_bytes, level,
                                   lk_page_level(p), "%s: page %u is of another level", path, page);
        }
        LK_TRY(lk_page_find(&t->file, p, key, &slot, &found, err));
        if (level == 0) {
            if (found) *out_leaf = p;
            *out_slot = slot;
            return LK_OK;
        }
        LK_TRY(lk_btree_child(t, p, slot + found, &page, err));
    }
done:
    return st;
}

lk_status lk_btree_peek(lk_btree *t, lk_bytes key, lk_bytes *out, lk_error *err)
{
    const uint8_t *leaf = NULL;
    uint32_t slot = 0, missing, bytes = t->file.page_bytes;
    out->data = NULL;
    out->len = 0;
    /* Comparing a long key may read from the disk. */
    if (key.len > lk_page_key_max(bytes)) return LK_MISS;
    lk_status st = find(t, key, &leaf, &slot, &missing, err);
    if (st != LK_OK || leaf == NULL) return st;
    lk_cell c = lk_page_cell(leaf, bytes, slot);
    if (!lk_page_is_inline(bytes, c.key_len, c.word)) return LK_MISS;
    out->data = c.tail;
    out->len = c.tail_len;
    return LK_OK;
}

/* A copy of a cell's value; large ones are read under the latch, so that their pages stay theirs. */
static lk_status value_copy(const lk_btree *t, const lk_cell *c, uint8_t **out, uint32_t *out_len,
                            lk_error *err)
{
    lk_status st = LK_OK;
    const uint8_t *tail = c->tail;
    *out_len = c->word;
    *out = malloc((size_t)c->word + 1);
    if (*out == NULL) return lk_fail_nomem(err, c->word);
    if (c->key_len > lk_page_key_max(t->file.page_bytes)) tail += LK_REF_BYTES;
    if (lk_page_is_inline(t->file.page_bytes, c->key_len, c->word)) {
        if (c->word != 0) memcpy(*out, tail, c->word);
    } else {
        st = lk_extent_read(&t->file, lk_ref_load(tail), *out, c->word, err);
    }
    if (st == LK_OK) return st;
    free(*out);
    *out = NULL;
    return st;
}

lk_status lk_btree_get(lk_btree *t, lk_bytes key, uint8_t **out, uint32_t *out_len, lk_error *err)
{
    lk_status st;
    const uint8_t *leaf = NULL;
    uint32_t slot = 0, missing = 0;
    *out = NULL;
    *out_len = 0;
    for (;;) {
        lk_btree_read_begin(t);
        st = find(t, key, &leaf, &slot, &missing, err);
        if (st == LK_OK && leaf != NULL) {
            lk_cell c = lk_page_cell(leaf, t->file.page_bytes, slot);
            st = value_copy(t, &c, out, out_len, err);
        }
        lk_btree_read_end(t);
        if (st != LK_MISS) return st;
        st = lk_btree_bring(t, missing, err);
        if (st != LK_OK) return st;
    }
}
