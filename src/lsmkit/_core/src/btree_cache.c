/* btree_cache.c: the pages of a B+tree that are in memory; see btree_cache.h. */
#include "btree_cache.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

lk_status lk_page_cache_init(lk_page_cache *c, lk_env *env, uint64_t bytes, uint32_t page_bytes,
                             lk_error *err)
{
    lk_status st = LK_OK;
    memset(c, 0, sizeof *c);
    c->env = env;
    c->page_bytes = page_bytes;
    uint64_t frames = bytes / page_bytes;
    if (frames < LK_CACHE_FRAMES_MIN) frames = LK_CACHE_FRAMES_MIN;
    if (frames > UINT32_MAX / 4) frames = UINT32_MAX / 4;
    c->frame_count = (uint32_t)frames;
    c->memory_bytes = (size_t)frames * page_bytes;
    c->frames = calloc(frames, sizeof *c->frames);
    c->spare = malloc(frames * sizeof *c->spare);
    if (c->frames == NULL || c->spare == NULL) {
        return lk_fail_nomem(err, frames * (sizeof *c->frames + sizeof *c->spare));
    }
    LK_TRY(lk_env_map_anonymous(env, c->memory_bytes, &c->memory, err));
    /* The lowest on top, so that a small tree touches little memory. */
    for (uint32_t i = 0; i < c->frame_count; i++) c->spare[i] = c->frame_count - 1 - i;
    c->spare_count = c->frame_count;
done:
    return st;
}

void lk_page_cache_deinit(lk_page_cache *c)
{
    if (c->memory != NULL) lk_env_unmap(c->env, c->memory, c->memory_bytes);
    for (uint32_t i = 0; i < c->chunk_count; i++) free(c->chunks[i]);
    free(c->chunks);
    free(c->frames);
    free(c->spare);
    memset(c, 0, sizeof *c);
}

lk_status lk_page_cache_extend(lk_page_cache *c, uint32_t page, lk_error *err)
{
    uint32_t chunk = page / LK_CACHE_CHUNK;
    if (chunk >= c->chunk_count) {
        uint32_t want = chunk + 1 > c->chunk_count * 2 ? chunk + 1 : c->chunk_count * 2;
        uint32_t **larger = realloc(c->chunks, want * sizeof *larger);
        if (larger == NULL) return lk_fail_nomem(err, want * sizeof *larger);
        memset(larger + c->chunk_count, 0, (want - c->chunk_count) * sizeof *larger);
        c->chunks = larger;
        c->chunk_count = want;
    }
    if (c->chunks[chunk] == NULL) {
        c->chunks[chunk] = calloc(LK_CACHE_CHUNK, sizeof **c->chunks);
        if (c->chunks[chunk] == NULL) return lk_fail_nomem(err, LK_CACHE_CHUNK * 4);
    }
    return LK_OK;
}

static void unbind(lk_page_cache *c, uint32_t frame)
{
    lk_frame_info *info = &c->frames[frame];
    c->chunks[info->page / LK_CACHE_CHUNK][info->page % LK_CACHE_CHUNK] = 0;
    if (info->dirty) c->dirty_count--;
    info->page = 0;
    info->dirty = info->is_new = false;
    c->spare[c->spare_count++] = frame;
}

bool lk_page_cache_reserve(lk_page_cache *c, uint32_t count)
{
    /* Twice round: the first may only clear what was used. */
    for (uint64_t steps = 2 * (uint64_t)c->frame_count; c->spare_count < count && steps > 0;
         steps--) {
        uint32_t frame = c->hand;
        c->hand = frame + 1 == c->frame_count ? 0 : frame + 1;
        lk_frame_info *info = &c->frames[frame];
        if (info->page == 0 || info->dirty) continue;
        if (atomic_load_explicit(&info->used, memory_order_relaxed) != 0) {
            atomic_store_explicit(&info->used, 0, memory_order_relaxed);
            continue;
        }
        unbind(c, frame);
        c->evictions++;
    }
    return c->spare_count >= count;
}

uint8_t *lk_page_cache_take(lk_page_cache *c, uint32_t page)
{
    LK_ASSERT(page != 0 && lk_page_cache_frame(c, page) == 0);
    if (c->spare_count == 0 || lk_page_cache_extend(c, page, NULL) != LK_OK) return NULL;
    uint32_t frame = c->spare[--c->spare_count];
    lk_frame_info *info = &c->frames[frame];
    info->page = page;
    atomic_store_explicit(&info->used, 1, memory_order_relaxed);
    c->chunks[page / LK_CACHE_CHUNK][page % LK_CACHE_CHUNK] = frame + 1;
    return lk_page_cache_memory(c, frame);
}

void lk_page_cache_drop(lk_page_cache *c, uint32_t page)
{
    uint32_t frame = lk_page_cache_frame(c, page);
    if (frame != 0) unbind(c, frame - 1);
}

void lk_page_cache_dirty(lk_page_cache *c, uint32_t page, bool is_new)
{
    uint32_t frame = lk_page_cache_frame(c, page);
    LK_ASSERT(frame != 0);
    lk_frame_info *info = &c->frames[frame - 1];
    if (info->dirty) return;
    info->dirty = true;
    info->is_new = is_new;
    c->dirty_count++;
}

bool lk_page_cache_is_new(const lk_page_cache *c, uint32_t page)
{
    uint32_t frame = lk_page_cache_frame(c, page);
    return frame != 0 && c->frames[frame - 1].is_new;
}
