/* order_sort.h: puts the records of a segment in order.
 *
 * Owns      nothing: the caller gives the memory of the result and of the scratch space.
 * Callers   order_build.c, for the records that came since the order was last asked for.
 * Threads   the records that are sorted are published, so they do not change.
 */
#ifndef LK_ORDER_SORT_H
#define LK_ORDER_SORT_H

#include "order.h"
#include "segment.h"

/* Order of two records of a segment: tree, key, the newer first. Looks at the records only where
 * the prefixes are equal. */
static inline int lk_order_compare(const lk_segment *s, const lk_order_item *a,
                                   const lk_order_item *b)
{
    if (a->tree != b->tree) return a->tree < b->tree ? -1 : 1;
    if (a->prefix != b->prefix) return a->prefix < b->prefix ? -1 : 1;
    lk_record x = lk_segment_record(s, a->ordinal);
    lk_record y = lk_segment_record(s, b->ordinal);
    int c = lk_key_compare(x.key, x.key_len, y.key, y.key_len);
    if (c != 0) return c;
    return (a->ordinal < b->ordinal) - (a->ordinal > b->ordinal);
}

/* For counting sorts: turns counts into the places where each digit's items begin. */
static inline void lk_counts_to_places(uint32_t *counts, uint32_t digits)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < digits; i++) {
        uint32_t n = counts[i];
        counts[i] = at;
        at += n;
    }
}

/* Bytes of scratch space that lk_order_sort wants for `count` records. */
size_t lk_order_sort_scratch_bytes(uint32_t count);

/* Whether a range tombstone among the first `least` records hides the record from who sees them. */
static inline bool lk_order_is_hidden(const lk_segment *s, const lk_record *r, uint32_t ordinal,
                                      uint32_t least)
{
    return lk_segment_tomb_over(s, r->tree, r->key, r->key_len, least) > ordinal + 1;
}

/* Fills `items` with the records [from, from + count) of a segment, in order, without range
 * tombstones and what those among the first `least` records hide; how many those are. `scratch` is
 * aligned as malloc aligns. */
uint32_t lk_order_sort(const lk_segment *s, uint32_t from, uint32_t count, uint32_t least,
                       lk_order_item *items, void *scratch);

#endif
