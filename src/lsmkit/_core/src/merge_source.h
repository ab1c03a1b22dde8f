/* merge_source.h: one sorted run of rows, walked in either direction between two bounds.
 *
 * A source stands at a row and knows its key. It is a run of items of a segment's order, or a list
 * of tables, of which it holds one block at a time.
 *
 *              low          at                     high
 *   rows   ... |  to come   | x                    |  given out or out of bounds      (backwards)
 *   rows   ... |  given out | x  to come           |  out of bounds                   (forwards)
 *
 * Backwards, where a key may stand in several rows, those form a group, which is walked forwards,
 * because the newest version stands first.
 *
 * Owns      the block that it stands in.
 * Callers   merge.c alone.
 */
#ifndef LK_MERGE_SOURCE_H
#define LK_MERGE_SOURCE_H

#include "merge.h"

/* What all sources of a merge have in common. */
typedef struct lk_walk {
    lk_bounds bounds;
    uint32_t tree;
    uint32_t skip; /* bytes that all keys of the range begin with */
    uint64_t flip; /* all ones when it goes backwards: heads then ascend as keys descend */
    bool reverse;
    bool fill;
    bool closed; /* blocks are not read before it must be */
} lk_walk;

typedef struct lk_source {
    /* the row it stands at */
    uint64_t head; /* 8 bytes of the key behind `skip`, inverted when backwards */
    const uint8_t *key;
    uint32_t key_len;
    uint32_t rank;
    bool done;    /* no row is left */
    bool spent;   /* no row of the block is left */
    bool closed;  /* the block was not read: its rows are not less than `key` */
    bool grouped; /* backwards over rows that may repeat a key */

    /* rows of the block, or items of the run */
    uint32_t at, low, high;
    uint32_t group_end; /* grouped: [at, group_end) have one key, and high is where it begins */

    /* tables */
    lk_block *block; /* NULL: it walks a segment */
    const uint8_t
        *keys; /* of the block, where all have `key_len` bytes, enough for a head; else NULL */
    uint32_t block_index;
    uint32_t block_low, block_high; /* blocks of `table` that are still to come */
    uint32_t clip_low, clip_high;   /* the blocks that a bound falls into; UINT32_MAX: none */
    uint32_t table_low, table_high; /* tables that are still to come */
    lk_table *table;

    /* a segment */
    lk_segment *segment;
    lk_order *order;
    const lk_order_run *run;
    const lk_order_item *items; /* of the run */
    uint64_t seq_max;           /* no item is newer */
    uint32_t visible;
    lk_record record; /* at `at` */
} lk_source;

static inline uint64_t lk_walk_head(const lk_walk *w, const uint8_t *key, size_t len)
{
    uint64_t head = 0;
    if (LK_LIKELY(len >= w->skip + (size_t)8)) {
        head = __builtin_bswap64(lk_load64(key + w->skip));
    } else if (len > w->skip) {
        head = lk_key_prefix(key + w->skip, len - w->skip);
    }
    return head ^ w->flip;
}

static inline void lk_source_set_row(const lk_walk *w, lk_source *s, uint32_t row)
{
    s->at = row;
    if (LK_LIKELY(s->keys != NULL)) {
        s->key = s->keys + (size_t)row * s->key_len;
        s->head = __builtin_bswap64(lk_load64(s->key + w->skip)) ^ w->flip;
        return;
    }
    lk_bytes key = lk_block_key(s->block, row);
    s->key = key.data;
    s->key_len = (uint32_t)key.len;
    s->head = lk_walk_head(w, key.data, key.len);
}

/* The range of an order's run that is in bounds. Returns whether there is any item. */
bool lk_source_seek_order(const lk_walk *w, lk_source *s, const lk_order_run *run);

/* Least and greatest key that the source may give, for the common bytes; before it is begun. */
void lk_source_ends(const lk_walk *w, const lk_source *s, lk_table *const *tables,
                    lk_bytes *out_least, lk_bytes *out_greatest);

/* Stands at the first row; `done` when there is none. */
lk_status lk_source_begin(const lk_walk *w, lk_source *s, lk_table *const *tables, lk_error *err);

/* Reads the block that a closed source stands before. */
lk_status lk_source_open(const lk_walk *w, lk_source *s, lk_error *err);

/* Leaves a block whose rows are used up, whose reference goes to `*out_left`, for the next one. */
lk_status lk_source_next_block(const lk_walk *w, lk_source *s, lk_table *const *tables,
                               lk_block **out_left, lk_error *err);

/* One step towards `to` over rows older than `seq`, see lk_merge_skip; a block that was left goes to
 * `*out_left`. False in `out_moved`: the source stays where it is. */
lk_status lk_source_skip(const lk_walk *w, lk_source *s, lk_table *const *tables, lk_bytes to,
                         uint64_t seq, bool *out_moved, lk_block **out_left, lk_error *err);

/* One step on where rows form groups. False: the block or run is used up. */
bool lk_source_next_in_group(const lk_walk *w, lk_source *s);
/* One step forwards in a segment. False: it is used up. */
bool lk_source_next_record(const lk_walk *w, lk_source *s);

#endif
