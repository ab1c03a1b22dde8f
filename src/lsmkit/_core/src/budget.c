/* budget.c: what a store holds in memory, and what gives way when that is more than it may.
 *
 * First the cache: it keeps what all else leaves of the budget, but an eighth of its capacity. Then
 * writers: none begins another segment while one waits for its flush; and then, while scans hold
 * segments that were flushed long ago. A mapped one of these gives its pages back to the kernel, where
 * they can be had again, and only its index counts.
 *
 * Owns      the segments that left the log while a scan was reading them.
 * Callers   keeper.c tends it, room.c asks before another segment, statistics read it.
 * Threads   `pinned` is guarded by view_lock; the keeper alone puts segments there and takes them out.
 */
#include <stdlib.h>

#include "array.h"
#include "check.h"
#include "store.h"

#define EVICT_AGAIN_NS 500000000u /* scans fetch pages of pinned segments again */
#define FULL_SEGMENT 3 / 2 /* a segment with its index and order, as a rule, to its capacity */

uint32_t lk_budget_frozen_max(const lk_store_options *o)
{
    uint64_t whole = o->segment_bytes * FULL_SEGMENT;
    uint64_t left = o->memory_bytes > o->cache_bytes ? o->memory_bytes - o->cache_bytes : 0;
    uint64_t fit = left / whole; /* one of them is being written */
    if (fit <= 2) return 1;
    return fit - 1 < o->frozen_max ? (uint32_t)(fit - 1) : o->frozen_max;
}

/* ---- what is held ---- */

/* The write lock is held. */
static void segments_sum(lk_store *s, lk_store_memory *out)
{
    *out = (lk_store_memory){.limit = s->options.memory_bytes};
    lk_lock_acquire(&s->view_lock);
    const lk_view *v = atomic_load_explicit(&s->view, memory_order_relaxed);
    if (s->spare != NULL) out->segments += lk_segment_memory(s->spare);
    for (uint32_t i = 0; i < v->segment_count; i++) {
        out->segments += lk_segment_memory(v->segments[i]);
    }
    for (uint32_t i = 0; i < s->retired_count; i++) {
        out->segments += lk_segment_memory(s->retired[i]);
    }
    for (uint32_t i = 0; i < s->pinned_count; i++) out->pinned += lk_segment_memory(s->pinned[i]);
    lk_lock_release(&s->view_lock);
}

static void rest_sum(lk_store *s, lk_store_memory *out)
{
    lk_cache_stats cache;
    lk_cache_stats_of(s->cache, &cache);
    out->cache = cache.used_bytes;
    out->tables = cache.fixed_bytes;
    out->background = atomic_load_explicit(&s->writers_bytes, memory_order_relaxed);
    out->total = out->segments + out->pinned + out->cache + out->tables + out->background;
}

void lk_store_memory_of(lk_store *s, lk_store_memory *out)
{
    lk_lock_acquire(&s->write_lock);
    segments_sum(s, out);
    lk_lock_release(&s->write_lock);
    rest_sum(s, out);
}

/* ---- what gives way ---- */

lk_budget lk_budget_ask(lk_store *s)
{
    lk_store_memory m;
    segments_sum(s, &m);
    rest_sum(s, &m);
    if (m.total + s->options.segment_bytes <= m.limit) return LK_BUDGET_ROOM;
    /* The cache can still give way, but for its least; what tables need beyond it, nobody can wait
     * away. */
    uint64_t capacity = s->options.cache_bytes, least = capacity / LK_CACHE_LEAST_SHARE;
    uint64_t cached = m.tables + (m.cache < least ? m.cache : least);
    if (cached > capacity) cached = capacity;
    uint64_t kept = m.segments + m.background + cached + s->options.segment_bytes;
    if (kept + m.pinned <= m.limit) return LK_BUDGET_ROOM;
    if (atomic_load_explicit(&s->frozen, memory_order_relaxed) != 0) return LK_BUDGET_FLUSH;
    return m.pinned > 0 && kept <= m.limit ? LK_BUDGET_PINS : LK_BUDGET_ROOM;
}

static void cache_press(lk_store *s)
{
    lk_store_memory m;
    lk_store_memory_of(s, &m);
    uint64_t others = m.segments + m.pinned + m.background;
    uint64_t left = others < m.limit ? m.limit - others : 0;
    lk_cache_press(s->cache, left < s->options.cache_bytes ? s->options.cache_bytes - left : 0);
}

/* ---- what scans hold ---- */

void lk_budget_evict(lk_store *s, lk_segment *segment)
{
    lk_lock_acquire(&s->view_lock);
    /* After a failure the pages may be the only copy, see lk_store_fail. */
    if (atomic_load(&s->failed) == 0) lk_segment_evict(segment);
    lk_lock_release(&s->view_lock);
}

void lk_budget_pin(lk_store *s, lk_segment *segment)
{
    lk_budget_evict(s, segment);
    lk_lock_acquire(&s->view_lock);
    bool listed = lk_array_grow(&s->pinned, s->pinned_count, &s->pinned_capacity,
                                sizeof(lk_segment *), NULL) == LK_OK;
    if (listed) s->pinned[s->pinned_count++] = segment;
    lk_lock_release(&s->view_lock);
    if (!listed) lk_segment_unref(segment); /* whoever holds it frees it; it is not counted */
}

/* Those that nobody reads any more go. */
static bool pins_sweep(lk_store *s)
{
    bool any = false;
    for (uint32_t i = 0; i < s->pinned_count;) {
        lk_segment *segment = s->pinned[i];
        if (atomic_load_explicit(&segment->refs, memory_order_acquire) != 1) {
            i++;
            continue;
        }
        lk_lock_acquire(&s->view_lock);
        s->pinned[i] = s->pinned[--s->pinned_count];
        lk_lock_release(&s->view_lock);
        lk_segment_unref(segment);
        any = true;
    }
    return any;
}

static void pins_evict(lk_store *s)
{
    uint64_t now = lk_env_now_ns(s->env);
    if (s->pinned_count == 0 || now < s->pins_evict_ns) return;
    s->pins_evict_ns = now + EVICT_AGAIN_NS;
    for (uint32_t i = 0; i < s->pinned_count; i++) lk_budget_evict(s, s->pinned[i]);
}

void lk_budget_tend(lk_store *s)
{
    bool freed = pins_sweep(s);
    pins_evict(s);
    cache_press(s);
    if (freed) lk_event_broadcast(&s->changed);
}

void lk_budget_end(lk_store *s)
{
    for (uint32_t i = 0; i < s->pinned_count; i++) lk_segment_unref(s->pinned[i]);
    free(s->pinned);
    s->pinned = NULL;
    s->pinned_count = 0;
    s->pinned_capacity = 0;
}
