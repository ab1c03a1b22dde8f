/* tomb_log.h: the range tombstones of one segment, to be searched without a lock while more come.
 *
 * A range tombstone is a record like others, but it is in no chain of the hash index and in no sorted
 * order. Its index entry leads to the one before it, so all of them are a list, newest first. Sixteen
 * at a time become a skyline (tombs.h), and two skylines of one size a larger one, as a counter
 * carries; what they were made from stays. So a reader who sees only a part of the ordinals goes down
 * to the halves, and nobody looks at more than a few dozen lists of steps, however many there are.
 *
 *   ordinals       3 9 .. 41 | 44 .. 90 | 95 .. 120 | 130 131 140
 *   pieces        [       skyline      ] [ skyline ]   the tail: records
 *                 [ skyline ][ skyline ]               halves, for who sees less
 *
 * Where there is no memory for a skyline the tail stays longer, and nothing fails.
 *
 * Owns      the pieces, until the segment is recycled. Their keys are those of the log.
 * Callers   segment.c and recover.c add; view.c, cursor.c and flush.c look.
 * Threads   one writer, holding store.write_lock; readers need no lock.
 */
#ifndef LK_TOMB_LOG_H
#define LK_TOMB_LOG_H

#include "tombs.h"

typedef struct lk_segment lk_segment;

typedef struct lk_tomb_piece {
    struct lk_tomb_piece *older;     /* the piece with those before; NULL: there are none */
    struct lk_tomb_piece *halves[2]; /* that it was made from, the older first; NULL: of records */
    lk_tombs *skyline;               /* of the newest delete over each key alone */
    uint32_t first, last;            /* ordinals of its oldest and its newest tombstone */
    uint32_t rank;                   /* it holds about 2^rank times sixteen */
} lk_tomb_piece;

typedef struct lk_tomb_log {
    _Atomic(uint32_t)
        last;       /* ordinal + 1 of the newest one, 0: none. Release, before `published` */
    uint32_t first; /* ordinal of the oldest one; set before `last` is */
    _Atomic(lk_tomb_piece *) pieces; /* the newest; release */
    uint32_t tail;                   /* writer only: tombstones that are in no piece */
    _Atomic(size_t) bytes;           /* of the pieces, for statistics; relaxed */
} lk_tomb_log;

/* The record of this ordinal is a range tombstone; called by the writer before it is published. */
void lk_tomb_log_add(lk_segment *s, uint32_t ordinal);
/* Nobody reads it any more. */
void lk_tomb_log_clear(lk_tomb_log *log);

/* Ordinal + 1 of the newest range tombstone over (tree, key) among the first `visible` records; 0:
 * there is none. */
uint32_t lk_segment_tomb_over(const lk_segment *s, uint32_t tree, const uint8_t *key,
                              size_t key_len, uint32_t visible);

/* Ordinal + 1 of the newest range tombstone among the first `visible` records, of any tree; 0: there is
 * none. */
uint32_t lk_segment_tombs_last(const lk_segment *s, uint32_t visible);

/* How many range tombstones there are. */
uint32_t lk_segment_tombs_count(const lk_segment *s);

/* Adds the skylines of the tombstones among the first `visible` records to `out`. */
lk_status lk_segment_tombs_cover(const lk_segment *s, uint32_t visible, lk_cover *out,
                                 lk_error *err);

/* The range tombstones among the first `visible` records, newest first; `out` is malloc'ed and NULL
 * where there are none. */
lk_status lk_segment_tombs_list(const lk_segment *s, uint32_t visible, lk_tomb **out,
                                size_t *out_count, lk_error *err);

#endif
