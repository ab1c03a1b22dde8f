/* btree_cache.h: the pages of a B+tree that are in memory.
 *
 * A table from page number to frame, four bytes a page of the file, so that finding a page that is
 * there costs two loads and no lock. CLOCK chooses what leaves (Corbató, "A Paging Experiment with
 * the Multics System", 1968). What leaves is clean: a changed page stays until a checkpoint has
 * written it, which is why the tree makes one before half of the frames are changed.
 *
 * Owns      the memory of the frames and the table.
 * Callers   btree_read.c finds and brings in; btree_edit.c makes, changes and drops.
 * Threads   finding under the tree's latch, shared; all else under the latch, exclusive. A pointer to
 *           a page is good until the latch is given back.
 */
#ifndef LK_BTREE_CACHE_H
#define LK_BTREE_CACHE_H

#include <stdatomic.h>

#include "env.h"
#include "status.h"

#define LK_CACHE_CHUNK 4096u /* pages of the file that one piece of the table is for */
#define LK_CACHE_FRAMES_MIN 64u

typedef struct lk_frame_info {
    uint32_t page;         /* 0: empty */
    _Atomic(uint8_t) used; /* since the hand came by */
    bool dirty;            /* changed since the last checkpoint */
    bool is_new;           /* no checkpoint refers to the page */
} lk_frame_info;

typedef struct lk_page_cache {
    lk_env *env;
    uint8_t *memory;
    size_t memory_bytes;
    uint32_t page_bytes, frame_count;
    lk_frame_info *frames;
    uint32_t *spare; /* frames without a page, as a stack */
    uint32_t spare_count;
    uint32_t hand;
    uint32_t dirty_count;
    uint32_t **chunks; /* [page / LK_CACHE_CHUNK][page % LK_CACHE_CHUNK]: frame + 1, 0 for none */
    uint32_t chunk_count;
    uint64_t evictions;
} lk_page_cache;

lk_status lk_page_cache_init(lk_page_cache *c, lk_env *env, uint64_t bytes, uint32_t page_bytes,
                             lk_error *err);
void lk_page_cache_deinit(lk_page_cache *c);

static inline uint32_t lk_page_cache_frame(const lk_page_cache *c, uint32_t page)
{
    uint32_t chunk = page / LK_CACHE_CHUNK;
    if (chunk >= c->chunk_count || c->chunks[chunk] == NULL) return 0;
    return c->chunks[chunk][page % LK_CACHE_CHUNK];
}

/* The page, or NULL when it is not in memory. */
static inline uint8_t *lk_page_cache_find(const lk_page_cache *c, uint32_t page)
{
    uint32_t frame = lk_page_cache_frame(c, page);
    if (frame == 0) return NULL;
    lk_frame_info *info = &c->frames[frame - 1];
    if (atomic_load_explicit(&info->used, memory_order_relaxed) == 0) {
        atomic_store_explicit(&info->used, 1, memory_order_relaxed);
    }
    return c->memory + (size_t)(frame - 1) * c->page_bytes;
}

/* Sees to it that `count` frames are spare, which lk_page_cache_take then cannot lack; false when too
 * many pages are changed. */
bool lk_page_cache_reserve(lk_page_cache *c, uint32_t count);
/* Memory for a page that is not there: of any content, or NULL when no frame is spare or there is no
 * memory for the table. */
uint8_t *lk_page_cache_take(lk_page_cache *c, uint32_t page);
/* Makes sure that lk_page_cache_take finds the table as far as `page`. */
lk_status lk_page_cache_extend(lk_page_cache *c, uint32_t page, lk_error *err);
void lk_page_cache_drop(lk_page_cache *c, uint32_t page);
void lk_page_cache_dirty(lk_page_cache *c, uint32_t page, bool is_new);
bool lk_page_cache_is_new(const lk_page_cache *c, uint32_t page);

static inline uint8_t *lk_page_cache_memory(const lk_page_cache *c, uint32_t frame)
{
    return c->memory + (size_t)frame * c->page_bytes;
}

#endif
