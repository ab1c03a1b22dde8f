/* changes.h: what was committed to a store, in order, read from its log.
 *
 * The log of a live segment is read where it stands; of one that was flushed, from its file, as long
 * as that is kept (history.h). Rows that were ingested are in no log: the history begins anew behind
 * them.
 *
 * Owns      a view, which pins the live segments that it shows, and what it reads of a file.
 * Callers   changes.pyx.
 * Threads   one at a time. Writers pay nothing: what is new is found by looking again.
 * Always    only frames whose checksums are right are given out, each change once, and none is left
 *           out in between.
 * Errors    LK_LOST: what comes next is not there any more. LK_CORRUPT with file and offset.
 */
#ifndef LK_CHANGES_H
#define LK_CHANGES_H

#include "store.h"

typedef struct lk_change {
    uint64_t seq;
    uint64_t until_us; /* the deadline of a put or an operand; 0: none */
    lk_kind kind;      /* without LK_KIND_UNTIL */
    lk_bytes key;      /* of a range: its first key */
    lk_bytes value;    /* of a range: the key it ends before; empty: it goes to the end */
} lk_change;

typedef struct lk_changes lk_changes;

/* What was committed after `since`; 0: all that there is. Of keys with `prefix`, which is copied, and
 * of ranges that hold such keys. Without `follow` up to what is there now. */
lk_status lk_changes_open(lk_store *s, uint64_t since, uint32_t tree, lk_bytes prefix, bool follow,
                          lk_changes **out, lk_error *err);
/* The next ones, up to `max`, good until the next call. Fewer, and none too, where much had to be passed
 * over; `out_end`: there are no more, for now. The store is open. */
lk_status lk_changes_next(lk_changes *c, lk_change *out, size_t max, size_t *out_count,
                          bool *out_end, lk_error *err);
/* Waits until there may be more, or the store closes: true; or `timeout_ns` are over: false. */
bool lk_changes_wait(lk_changes *c, uint64_t timeout_ns);
/* All up to this sequence was given out, or passed over. */
uint64_t lk_changes_seq(const lk_changes *c);
void lk_changes_close(lk_changes *c); /* NULL is accepted */

/* Proves a file of the history. LK_NOT_FOUND: it has gone meanwhile. */
lk_status lk_history_verify(lk_store *s, const lk_past *past, uint64_t *out_records,
                            uint64_t *out_bytes, lk_error *err);

#endif
