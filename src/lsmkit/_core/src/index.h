/* index.h: the hash index of one segment, in ordinary memory.
 *
 * Records of a segment are numbered in commit order: record i ("ordinal") has sequence base_seq + i
 * and stands at entries[i].location. A slot of the table holds a 32-bit tag of the key's hash and
 * the ordinal of the newest record with that tag; entries[i].previous leads to the one before it.
 * The chain is by tag alone (readers compare keys), so a writer never touches an old record.
 *
 * Numbering by ordinal, not by location, makes a snapshot one comparison, keeps the index out of
 * the log's bytes, and lets sorted order and flush walk an array instead of frames.
 *
 * Owns      slots and entries. Tables that grew too small stay until lk_index_clear or deinit,
 *           because a reader may still be inside.
 * Threads   one writer, holding store.write_lock; readers need no lock, and pass the number of
 *           records that they may see.
 */
#ifndef LK_INDEX_H
#define LK_INDEX_H

#include <stdatomic.h>

#include "bytes.h"
#include "env.h"
#include "status.h"

typedef struct lk_entry {
    uint32_t location; /* byte offset of the record in the segment */
    uint32_t previous; /* ordinal + 1 of the record before with the same tag; 0: none */
} lk_entry;

typedef struct lk_index_table {
    struct lk_index_table *older; /* smaller ones, kept for readers */
    uint32_t shift;               /* home slot of a tag: tag >> shift */
    uint32_t mask;
    size_t bytes;
    _Atomic(uint64_t) slots[]; /* tag << 32 | ordinal + 1; 0: empty */
} lk_index_table;

typedef struct lk_index {
    lk_env *env;
    _Atomic(lk_index_table *) table;
    lk_entry *entries; /* reserved address space for entry_max; touched as they come */
    uint32_t entry_max;
    uint32_t used;    /* slots in use; writer only */
    uint32_t grow_at; /* writer only */
} lk_index;

static inline uint32_t lk_index_tag(uint64_t hash) { return (uint32_t)(hash >> 32); }

lk_status lk_index_init(lk_index *x, lk_env *env, uint32_t expected, uint32_t entry_max,
                        lk_error *err);
void lk_index_deinit(lk_index *x);
/* Empties it for another segment; nobody reads it. Keeps the memory that `expected` wants. */
lk_status lk_index_clear(lk_index *x, uint32_t expected, lk_error *err);
size_t lk_index_memory(const lk_index *x);

/* Doubles the slots; called by the writer through lk_index_reserve. */
lk_status lk_index_grow(lk_index *x, lk_error *err);

/* Room for one more record: after it, lk_index_add cannot fail. */
static inline lk_status lk_index_reserve(lk_index *x, uint32_t records, lk_error *err)
{
    lk_status st = LK_OK;
    while (LK_UNLIKELY(x->used + records > x->grow_at) && st == LK_OK) st = lk_index_grow(x, err);
    return st;
}

static inline void lk_index_prefetch(const lk_index *x, uint32_t tag)
{
    lk_index_table *t = atomic_load_explicit(&x->table, memory_order_relaxed);
    __builtin_prefetch((const void *)&t->slots[tag >> t->shift], 1);
}

/* Records may wait a little before they are linked: what a slot's cache miss costs is hidden behind
 * the records that come meanwhile. Readers look at those that wait themselves (lk_segment_find). */
static inline void lk_index_place(lk_index *x, uint32_t ordinal, uint32_t location)
{
    x->entries[ordinal].location = location;
}

static inline void lk_index_link(lk_index *x, uint32_t tag, uint32_t ordinal)
{
    lk_index_table *t = atomic_load_explicit(&x->table, memory_order_relaxed);
    uint32_t i = tag >> t->shift;
    for (;;) {
        uint64_t slot = atomic_load_explicit(&t->slots[i], memory_order_relaxed);
        if (slot == 0 || (uint32_t)(slot >> 32) == tag) {
            x->entries[ordinal].previous = (uint32_t)slot;
            x->used += slot == 0;
            /* Release: who reads the slot sees the entry and the record behind it. */
            atomic_store_explicit(&t->slots[i], (uint64_t)tag << 32 | (ordinal + 1),
                                  memory_order_release);
            return;
        }
        i = (i + 1) & t->mask;
    }
}

/* The same from the newest record to the oldest, each becoming the last of its chain. `tails` has room
 * for an ordinal for each of lk_index_slots. Readers are kept away until all are linked. */
static inline void lk_index_link_older(lk_index *x, uint32_t tag, uint32_t ordinal, uint32_t *tails)
{
    lk_index_table *t = atomic_load_explicit(&x->table, memory_order_relaxed);
    uint32_t i = tag >> t->shift;
    for (;;) {
        uint64_t slot = atomic_load_explicit(&t->slots[i], memory_order_relaxed);
        if (slot == 0) {
            atomic_store_explicit(&t->slots[i], (uint64_t)tag << 32 | (ordinal + 1),
                                  memory_order_relaxed);
            x->used++;
            break;
        }
        if ((uint32_t)(slot >> 32) == tag) {
            x->entries[tails[i]].previous = ordinal + 1;
            break;
        }
        i = (i + 1) & t->mask;
    }
    x->entries[ordinal].previous = 0;
    tails[i] = ordinal;
}

/* Where the search for a tag's slot begins. */
static inline uint32_t lk_index_home(const lk_index *x, uint32_t tag)
{
    return tag >> atomic_load_explicit(&x->table, memory_order_relaxed)->shift;
}

static inline uint32_t lk_index_slots(const lk_index *x)
{
    return atomic_load_explicit(&x->table, memory_order_relaxed)->mask + 1;
}

static inline void lk_index_add(lk_index *x, uint32_t tag, uint32_t ordinal, uint32_t location)
{
    lk_index_place(x, ordinal, location);
    lk_index_link(x, tag, ordinal);
}

/* Ordinal + 1 of the newest record with this tag, 0 when there is none. */
static inline uint32_t lk_index_head(const lk_index *x, uint32_t tag)
{
    lk_index_table *t = atomic_load_explicit(&x->table, memory_order_acquire);
    uint32_t i = tag >> t->shift;
    for (;;) {
        uint64_t slot = atomic_load_explicit(&t->slots[i], memory_order_acquire);
        if (slot == 0) return 0;
        if ((uint32_t)(slot >> 32) == tag) return (uint32_t)slot;
        i = (i + 1) & t->mask;
    }
}

#endif
