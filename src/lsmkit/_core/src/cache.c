/* cache.c: the sharded CLOCK behind the slots of tables.
 *
 * Owns      one reference to each block that stands in a slot, and to each in limbo.
 * Callers   table_read.c.
 * Threads   a shard's lock guards its ring, its list of loads and its sums; it is never held while
 *           a block is read, a grace period awaited or memory freed in quantity.
 * Always    a slot is changed only under the lock of its shard, and a block that a slot lost is
 *           freed only after lk_guard_sync, so a reader in a section may follow the pointer it
 *           loaded; used + limbo of a shard <= its share of the capacity.
 *
 * A miss, by time:
 *   look in the slot -> somebody loads? wait, take what he got
 *                    -> else: note the load; read without lock; evict until there is room;
 *                       publish in the slot; hand out to those who wait; free a full limbo
 */
#include "cache.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "hash.h"
#include "lock.h"

enum {
    SHARDS_MAX = 16,
    SHARD_BYTES_MIN = 4 << 20, /* fewer shards rather than smaller ones: a block must fit well */
    LIMBO_SHARE = 16,          /* of the shard's capacity, at most ... */
    LIMBO_BYTES_MAX = 1 << 20, /* ... this: then a grace period is awaited */
    RING_MIN = 64,
};

/* Somebody who waits for another's load. On the stack of the waiting thread, which leaves only
 * after `is_done` was set under the shard's lock. */
typedef struct waiter {
    struct waiter *next;
    lk_event event;
    bool is_done;
    lk_status status;
    lk_block *block;
    lk_error error;
} waiter;

/* A load under way, on the stack of the loading thread. */
typedef struct load {
    struct load *next;
    const lk_cache_slot *slot;
    waiter *waiters;
} load;

typedef struct ring_entry {
    lk_cache_slot *slot;
    lk_block *block;
} ring_entry;

typedef struct shard {
    _Alignas(64) lk_lock lock;
    /* guarded by lock: */
    uint64_t capacity;                       /* for blocks, in the ring or in limbo */
    uint64_t used;                           /* in the ring */
    uint64_t limbo_bytes, limbo_going_bytes; /* waiting; taken out by a thread that frees them */
    ring_entry *ring;
    uint32_t count, ring_capacity, hand;
    lk_block **limbo;
    uint32_t limbo_count, limbo_capacity;
    load *loads;
    uint64_t fills, evictions;
} shard;

struct lk_cache {
    lk_guard *guard;
    uint64_t capacity;
    uint32_t shard_count;
    _Atomic int64_t fixed;
    _Atomic uint64_t pressed; /* of the capacity, wanted elsewhere */
    shard *shards;
};

/* ---- making, sharing out ---- */

static uint32_t shard_count_for(uint64_t capacity)
{
    uint64_t n = capacity / SHARD_BYTES_MIN;
    if (n < 1) return 1;
    return n > SHARDS_MAX ? SHARDS_MAX : (uint32_t)n;
}

static uint64_t shard_capacity(const lk_cache *c)
{
    int64_t fixed = atomic_load_explicit(&c->fixed, memory_order_relaxed);
    uint64_t taken = fixed > 0 ? (uint64_t)fixed : 0;
    taken += atomic_load_explicit(&c->pressed, memory_order_relaxed);
    uint64_t least = c->capacity / LK_CACHE_LEAST_SHARE;
    uint64_t left = taken < c->capacity - least ? c->capacity - taken : least;
    return left / c->shard_count;
}

lk_status lk_cache_new(uint64_t capacity_bytes, lk_guard *guard, lk_cache **out, lk_error *err)
{
    *out = NULL;
    lk_cache *c = calloc(1, sizeof *c);
    if (c == NULL) return lk_fail_nomem(err, sizeof *c);
    c->guard = guard;
    c->capacity = capacity_bytes;
    c->shard_count = shard_count_for(capacity_bytes);
    size_t bytes = c->shard_count * sizeof *c->shards;
    c->shards = aligned_alloc(_Alignof(shard), bytes);
    if (c->shards == NULL) {
        free(c);
        return lk_fail_nomem(err, bytes);
    }
    memset(c->shards, 0, bytes);
    for (uint32_t i = 0; i < c->shard_count; i++) {
        lk_lock_init(&c->shards[i].lock);
        c->shards[i].capacity = shard_capacity(c);
    }
    *out = c;
    return LK_OK;
}

static void free_blocks(lk_block **blocks, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) lk_block_unref(blocks[i]);
    free(blocks);
}

void lk_cache_free(lk_cache *c)
{
    if (c == NULL) return;
    for (uint32_t i = 0; i < c->shard_count; i++) {
        shard *s = &c->shards[i];
        LK_ASSERT(s->count == 0 && s->loads == NULL);
        free_blocks(s->limbo, s->limbo_count);
        free(s->ring);
        lk_lock_deinit(&s->lock);
    }
    free(c->shards);
    free(c);
}

static shard *shard_of(lk_cache *c, const lk_cache_slot *slot)
{
    uint64_t mixed = lk_hash_fold((uint64_t)(uintptr_t)slot, UINT64_C(0x9E3779B97F4A7C15));
    return &c->shards[((mixed & UINT32_MAX) * c->shard_count) >> 32];
}

/* ---- the ring (the shard's lock is held) ---- */

static uint64_t shard_bytes(const shard *s)
{
    return s->used + s->limbo_bytes + s->limbo_going_bytes;
}

/* Makes room for one more pointer; false when memory is out. */
static bool ring_reserve(shard *s)
{
    if (s->count < s->ring_capacity) return true;
    uint32_t capacity = s->ring_capacity < RING_MIN ? RING_MIN : 2 * s->ring_capacity;
    ring_entry *grown = realloc(s->ring, capacity * sizeof *grown);
    if (grown == NULL) return false;
    s->ring = grown;
    s->ring_capacity = capacity;
    return true;
}

static bool limbo_reserve(shard *s)
{
    if (s->limbo_count < s->limbo_capacity) return true;
    uint32_t capacity = s->limbo_capacity < RING_MIN ? RING_MIN : 2 * s->limbo_capacity;
    lk_block **grown = realloc(s->limbo, capacity * sizeof *grown);
    if (grown == NULL) return false;
    s->limbo = grown;
    s->limbo_capacity = capacity;
    return true;
}

static void ring_put(shard *s, uint32_t at, ring_entry entry)
{
    entry.block->place = at;
    s->ring[at] = entry;
}

/* Takes an entry out; the last one takes its place. */
static ring_entry ring_remove(shard *s, uint32_t at)
{
    LK_ASSERT(at < s->count);
    ring_entry gone = s->ring[at];
    s->count--;
    if (at < s->count) ring_put(s, at, s->ring[s->count]);
    s->used -= gone.block->bytes;
    return gone;
}

/* Unpublishes one block that was not used since the hand last passed it, into limbo. False when
 * there is none to evict, or no memory to remember it. */
static bool evict_one(shard *s)
{
    if (s->count == 0 || !limbo_reserve(s)) return false;
    /* Two rounds at most, however fast readers set the bits again. */
    for (uint64_t left = 2 * (uint64_t)s->count;; left--, s->hand++) {
        if (s->hand >= s->count) s->hand = 0;
        lk_block *b = s->ring[s->hand].block;
        if (left == 0 || atomic_load_explicit(&b->recent, memory_order_relaxed) == 0) break;
        atomic_store_explicit(&b->recent, 0, memory_order_relaxed);
    }
    ring_entry gone = ring_remove(s, s->hand);
    /* Sequentially consistent, as the guard wants it: a reader that enters after the grace period
     * began loads NULL. */
    atomic_store(&gone.slot->block, NULL);
    s->limbo[s->limbo_count++] = gone.block;
    s->limbo_bytes += gone.block->bytes;
    s->evictions++;
    return true;
}

static uint64_t limbo_bytes_max(const shard *s)
{
    uint64_t share = s->capacity / LIMBO_SHARE;
    return share < LIMBO_BYTES_MAX ? share : LIMBO_BYTES_MAX;
}

/* Waits for a grace period and frees what was evicted before it. The lock is released meanwhile. */
static void limbo_free(lk_cache *c, shard *s)
{
    lk_block **blocks = s->limbo;
    uint32_t count = s->limbo_count;
    uint64_t bytes = s->limbo_bytes;
    if (count == 0) return;
    s->limbo = NULL;
    s->limbo_count = s->limbo_capacity = 0;
    s->limbo_bytes = 0;
    s->limbo_going_bytes += bytes;
    lk_lock_release(&s->lock);
    lk_guard_sync(c->guard);
    free_blocks(blocks, count);
    lk_lock_acquire(&s->lock);
    s->limbo_going_bytes -= bytes;
}

/* Evicts until `more` bytes fit. What waits in limbo still counts, so that the bound is kept; when
 * nothing is left to evict, the limbo is freed at once. False when there is no room even then. */
static bool make_room(lk_cache *c, shard *s, uint64_t more)
{
    if (more > s->capacity) return false;
    while (shard_bytes(s) + more > s->capacity) {
        if (s->limbo_bytes > 0 && s->limbo_bytes >= limbo_bytes_max(s)) {
            limbo_free(c, s);
        } else if (!evict_one(s)) {
            if (s->limbo_count == 0) return false; /* others are about to free it */
            limbo_free(c, s);
        }
    }
    return true;
}

/* Publishes a block whose room was made; the cache takes a reference of its own. */
static void publish(shard *s, lk_cache_slot *slot, lk_block *b)
{
    LK_ASSERT(atomic_load(&slot->block) == NULL);
    lk_block_ref(b);
    ring_put(s, s->count++, (ring_entry){slot, b});
    s->used += b->bytes;
    s->fills++;
    atomic_store_explicit(&slot->block, b, memory_order_release);
}

/* ---- getting a block ---- */

lk_block *lk_cache_peek(lk_cache *c, lk_cache_slot *slots, uint32_t index)
{
    unsigned token = lk_guard_enter(c->guard);
    lk_block *b = atomic_load(&slots[index].block);
    if (b != NULL) lk_block_ref(b);
    lk_guard_exit(c->guard, token);
    return b;
}

static load *find_load(shard *s, const lk_cache_slot *slot)
{
    load *l = s->loads;
    while (l != NULL && l->slot != slot) l = l->next;
    return l;
}

/* Waits until the thread of `l` has its block or its error. Gives the lock back. */
static lk_status wait_for(shard *s, load *l, lk_block **out, lk_error *err)
{
    waiter w = {.next = l->waiters, .is_done = false, .status = LK_OK, .block = NULL};
    lk_event_init(&w.event);
    l->waiters = &w;
    uint64_t seen = lk_event_generation(&w.event);
    while (!w.is_done) {
        lk_lock_release(&s->lock);
        (void)lk_event_wait_ns(&w.event, seen, LK_EVENT_FOREVER);
        lk_lock_acquire(&s->lock);
    }
    lk_lock_release(&s->lock);
    lk_event_deinit(&w.event);
    if (w.status != LK_OK) {
        if (err != NULL) *err = w.error;
        return w.status;
    }
    *out = w.block;
    return LK_OK;
}

/* Takes the load off the list and serves those who wait. The shard's lock is held. */
static void finish_load(shard *s, load *l, lk_status st, lk_block *b, const lk_error *err)
{
    load **at = &s->loads;
    while (*at != l) at = &(*at)->next;
    *at = l->next;
    waiter *w = l->waiters;
    while (w != NULL) {
        waiter *next = w->next;
        w->status = st;
        w->block = b;
        if (b != NULL) lk_block_ref(b);
        if (st != LK_OK) w->error = *err;
        w->is_done = true;
        lk_event_signal(&w->event); /* under the lock: the waiter leaves only after taking it */
        w = next;
    }
}

lk_status lk_cache_get(lk_cache *c, lk_cache_slot *slots, uint32_t index, lk_cache_load *loader,
                       void *context, lk_block **out, lk_error *err)
{
    *out = lk_cache_peek(c, slots, index);
    if (*out != NULL) {
        lk_cache_touch(*out);
        return LK_OK;
    }
    lk_cache_slot *slot = &slots[index];
    shard *s = shard_of(c, slot);
    lk_lock_acquire(&s->lock);
    lk_block *b = atomic_load(&slot->block);
    if (b != NULL) { /* another thread was faster; the lock keeps the block from being evicted */
        lk_block_ref(b);
        lk_lock_release(&s->lock);
        *out = b;
        return LK_OK;
    }
    load *other = find_load(s, slot);
    if (other != NULL) return wait_for(s, other, out, err);
    load mine = {.next = s->loads, .slot = slot, .waiters = NULL};
    s->loads = &mine;
    lk_lock_release(&s->lock);

    lk_error own = {.code = LK_OK};
    lk_status st = loader(context, index, &b, &own);
    if (st != LK_OK && err != NULL) *err = own;

    lk_lock_acquire(&s->lock);
    if (st == LK_OK && make_room(c, s, b->bytes) && ring_reserve(s)) publish(s, slot, b);
    finish_load(s, &mine, st, b, &own);
    if (s->limbo_bytes > limbo_bytes_max(s)) limbo_free(c, s);
    lk_lock_release(&s->lock);
    if (st == LK_OK) *out = b;
    return st;
}

/* ---- tables that go away; fixed memory; figures ---- */

void lk_cache_drop(lk_cache *c, lk_cache_slot *slots, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        lk_cache_slot *slot = &slots[i];
        if (atomic_load_explicit(&slot->block, memory_order_relaxed) == NULL) continue;
        shard *s = shard_of(c, slot);
        lk_lock_acquire(&s->lock);
        lk_block *b = atomic_load(&slot->block);
        if (b != NULL) {
            LK_ASSERT(s->ring[b->place].slot == slot);
            (void)ring_remove(s, b->place);
            atomic_store(&slot->block, NULL);
        }
        lk_lock_release(&s->lock);
        lk_block_unref(b);
    }
}

static void shards_fit(lk_cache *c)
{
    for (uint32_t i = 0; i < c->shard_count; i++) {
        shard *s = &c->shards[i];
        lk_lock_acquire(&s->lock);
        s->capacity = shard_capacity(c);
        (void)make_room(c, s, 0);
        lk_lock_release(&s->lock);
    }
}

void lk_cache_fix(lk_cache *c, int64_t bytes)
{
    int64_t before = atomic_fetch_add(&c->fixed, bytes);
    LK_ASSERT(before + bytes >= 0);
    (void)before;
    shards_fit(c);
}

void lk_cache_press(lk_cache *c, uint64_t bytes)
{
    if (atomic_exchange(&c->pressed, bytes) != bytes) shards_fit(c);
}

void lk_cache_stats_of(lk_cache *c, lk_cache_stats *out)
{
    *out = (lk_cache_stats){.capacity_bytes = c->capacity};
    int64_t fixed = atomic_load_explicit(&c->fixed, memory_order_relaxed);
    out->fixed_bytes = fixed > 0 ? (uint64_t)fixed : 0;
    for (uint32_t i = 0; i < c->shard_count; i++) {
        shard *s = &c->shards[i];
        lk_lock_acquire(&s->lock);
        out->fills += s->fills;
        out->evictions += s->evictions;
        out->used_bytes += shard_bytes(s);
        out->limbo_bytes += s->limbo_bytes + s->limbo_going_bytes;
        lk_lock_release(&s->lock);
    }
}
