/* cache.h: decoded blocks in memory, bounded, shared by all tables of a store.
 *
 * A table has one slot (an atomic pointer) for each of its blocks, so that a hit is one load and no
 * hash table, lock or reference count; readers are inside a guard section, and an evicted block is
 * freed only after a grace period. Eviction is CLOCK in shards.
 *
 * Threads   any. Nothing here may be called inside a guard section, but for reading slots.
 * Always    blocks, blocks that wait for their grace period, and fixed memory stay within the
 *           capacity together, or what is left of it under pressure; blocks keep an eighth of it for
 *           themselves where fixed memory alone would fill it. A block with no room is handed out without being kept.
 */
#ifndef LK_CACHE_H
#define LK_CACHE_H

#include <stdatomic.h>

#include "block.h"
#include "guard.h"
#include "status.h"

#define LK_CACHE_LEAST_SHARE 8u /* an eighth of the capacity is always left for blocks */

typedef struct lk_cache lk_cache;
typedef struct lk_cache_slot {
    _Atomic(lk_block *) block;
} lk_cache_slot;

typedef struct lk_cache_stats {
    uint64_t fills, evictions; /* hits are not counted on the hot path */
    uint64_t used_bytes, capacity_bytes, fixed_bytes;
    uint64_t limbo_bytes; /* evicted, not yet freed; part of used_bytes */
} lk_cache_stats;

/* `guard` outlives the cache. */
lk_status lk_cache_new(uint64_t capacity_bytes, lk_guard *guard, lk_cache **out, lk_error *err);
void lk_cache_free(lk_cache *c); /* every table has dropped its slots; NULL is accepted */

typedef lk_status lk_cache_load(void *context, uint32_t index, lk_block **out, lk_error *err);

/* The block of slots[index], with a reference for the caller; loaded once under concurrent misses
 * (others wait for the one that loads; each gets the error if it fails). */
lk_status lk_cache_get(lk_cache *c, lk_cache_slot *slots, uint32_t index, lk_cache_load *load,
                       void *context, lk_block **out, lk_error *err);
/* The block if it is in memory, with a reference for the caller, else NULL. Leaves CLOCK's bit as it
 * is: one pass over a table is no sign that a block will be wanted again. */
lk_block *lk_cache_peek(lk_cache *c, lk_cache_slot *slots, uint32_t index);
/* Empties the slots of a table that goes away; no reader may be using them any more. */
void lk_cache_drop(lk_cache *c, lk_cache_slot *slots, uint32_t count);
/* Takes so many bytes from the capacity, until it is said again: memory is wanted elsewhere. */
void lk_cache_press(lk_cache *c, uint64_t bytes);
/* Memory of table indexes and filters, which counts against the capacity while the tables live. */
void lk_cache_fix(lk_cache *c, int64_t bytes);
void lk_cache_stats_of(lk_cache *c, lk_cache_stats *out);

/* What a reader that found the block in its slot does, so that CLOCK spares it. Looked at before it
 * is written: the line stays shared between cores. */
static inline void lk_cache_touch(lk_block *b)
{
    if (atomic_load_explicit(&b->recent, memory_order_relaxed) == 0) {
        atomic_store_explicit(&b->recent, 1, memory_order_relaxed);
    }
}

#endif
