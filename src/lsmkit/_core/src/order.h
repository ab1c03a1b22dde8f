/* order.h: the records of a segment in (tree, key, newest first) order, made only when somebody asks.
 *
 * A scan sorts what has come since the last one (radix sort on key prefixes, order_sort.c) and the
 * pieces are merged geometrically (order_build.c), so that order costs amortized O(log n) and writes
 * never pay. Range tombstones stand in no order. In a segment that has some there may be a second,
 * live order: it leaves out records that are hidden from those who see `floor` records, so that a
 * scan does not step over a million of them each time. Who sees fewer takes the first one.
 *
 * Threads   an lk_order is immutable and counted; lk_segment_order takes the segment's order_lock,
 *           so it may block: never inside a guard section.
 * Always    runs stand oldest first, each covers the ordinals behind the one before it, and each has
 *           at most half the items of the one before it. So there are at most 32 of them, and a
 *           record is moved O(log n) times.
 * Errors    LK_NOMEM; the segment keeps the order that it had.
 */
#ifndef LK_ORDER_H
#define LK_ORDER_H

#include <stdatomic.h>

#include "env.h"
#include "status.h"

typedef struct lk_segment lk_segment;

typedef struct lk_order_item {
    uint64_t prefix; /* lk_key_prefix of the key */
    uint32_t tree;
    uint32_t ordinal;
} lk_order_item;

typedef struct lk_order_run {
    lk_env *env;
    _Atomic uint32_t refs;
    uint32_t count, capacity; /* of items */
    uint32_t end;             /* its ordinals are below this */
    uint32_t applied;         /* what range tombstones below this ordinal hide was left out */
    lk_order_item items[];
} lk_order_run;

#define LK_ORDER_RUNS_MAX 32

typedef struct lk_order {
    _Atomic uint32_t refs;
    uint32_t covered;   /* ordinals below this are in one of the runs */
    uint32_t floor;     /* what is hidden from those who see so many records may be left out */
    uint32_t run_count; /* largest first, which is oldest first */
    lk_order_run *runs[LK_ORDER_RUNS_MAX];
} lk_order;

/* The order of at least the first `visible` ordinals, with a reference; runs may hold younger
 * ordinals too, which the caller skips. `single` merges them into one run (flush). */
lk_status lk_segment_order(lk_segment *s, uint32_t visible, bool single, lk_order **out,
                           lk_error *err);
/* The same for those who all see at least the first `least` ordinals (at most `visible`): what range
 * tombstones hide from all of them may be missing. */
lk_status lk_segment_order_live(lk_segment *s, uint32_t visible, uint32_t least, bool single,
                                lk_order **out, lk_error *err);
void lk_order_ref(lk_order *o);
void lk_order_unref(lk_order *o); /* NULL is accepted */

/* First item of a run that is not before (tree, key) - in the order of the runs, so the newest
 * version of an equal key. */
uint32_t lk_order_seek(const lk_segment *s, const lk_order_run *run, uint32_t tree,
                       const uint8_t *key, size_t key_len);

/* ---- for order_build.c ---- */

/* Memory for sorting, not cleared. Large pieces are mapped, because fresh small pages would cost as
 * much as the sort: 1.6 against 0.3 ms for 8 MiB. */
lk_status lk_order_alloc(lk_env *env, size_t bytes, void **out, lk_error *err);
void lk_order_free(lk_env *env, void *memory, size_t bytes); /* NULL is accepted */

/* A run with one reference and room for `capacity` items, which are not set. */
lk_status lk_order_run_new(lk_env *env, uint32_t capacity, lk_order_run **out, lk_error *err);
void lk_order_run_unref(lk_order_run *run); /* NULL is accepted */
/* Another order that shares the runs of `old` (NULL: an empty one). NULL: no memory. */
lk_order *lk_order_copy(const lk_order *old);

#endif
