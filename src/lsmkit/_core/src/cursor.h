/* cursor.h: a scan: live rows of one tree between two bounds, as of one moment.
 *
 * Pins a view for its life, walks the ranges of the version one after another, merges segments and
 * tables in each, keeps the newest visible version of a key and leaves out what was deleted.
 *
 * Owns      a reference to its view, the merge of the range it is in, and the blocks whose rows it
 *           gave out last.
 * Threads   one at a time (the border sees to it). May block: never inside a guard section.
 */
#ifndef LK_CURSOR_H
#define LK_CURSOR_H

#include "merge.h"
#include "view.h"

typedef struct lk_cursor lk_cursor;

typedef struct lk_pair {
    lk_bytes key;
    lk_bytes value;
} lk_pair;

/* `seq`: what is visible (LK_SEQ_MAX is not allowed: the caller fixes the moment). Bounds are
 * copied; the view gets a reference. Sorted orders of the segments are made here. */
lk_status lk_cursor_open(lk_view *view, uint32_t tree, uint64_t seq, const lk_bounds *bounds,
                         bool reverse, lk_cursor **out, lk_error *err);
void lk_cursor_close(lk_cursor *c); /* NULL is accepted */

/* Begins anew, at any place and in either direction, with the same view, moment and orders: forwards
 * with the first key that is not less than `key`, backwards with the last one that is not greater;
 * NULL is the end that the direction begins with. The bounds of the opening, and an error before,
 * are forgotten. `key` may be of a row given out last, which is not good any more. */
lk_status lk_cursor_seek(lk_cursor *c, const lk_bytes *key, bool reverse, lk_error *err);

/* Up to `max` rows, in order; 0 at the end alone, but it may be fewer than `max` before it (where
 * one range of keys ends, or many blocks or large values are held). They are good until the next call or close. An
 * error ends the scan: each later call returns it again. */
lk_status lk_cursor_next(lk_cursor *c, lk_pair *out, size_t max, size_t *out_count, lk_error *err);

/* Up to `max` rows as columns, fewer only at the end; the cursor appends to buffers that grow through
 * `grow`, which is realloc's equal (the border recycles them). With `rows` 0 the caller has set the
 * used bytes to 0 as well; widths are then set by the first row. When all rows so far have keys
 * (values) of one width, the width is given and their offsets are left out; once widths differ,
 * offsets are complete, and have one more element than rows. */
typedef struct lk_columns_out {
    size_t rows;
    uint8_t *keys, *values;
    int64_t *key_offsets, *value_offsets;
    size_t key_bytes, value_bytes;       /* used */
    size_t key_capacity, value_capacity; /* bytes of the buffers */
    size_t offset_capacity;              /* elements of each offsets array */
    int64_t key_width, value_width;      /* common width; -1: they differ (see the offsets) */
    void *(*grow)(void *old, size_t old_bytes, size_t new_bytes);
} lk_columns_out;

lk_status lk_cursor_next_columns(lk_cursor *c, size_t max, lk_columns_out *out, lk_error *err);

/* Counts the rows that are left, to the end. Values that stand apart are not read. */
lk_status lk_cursor_count(lk_cursor *c, uint64_t *out, lk_error *err);

#endif
