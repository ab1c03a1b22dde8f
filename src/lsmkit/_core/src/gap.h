/* gap.h: stretches of keys in which nothing lives, remembered by scans for those that come after.
 *
 * The head of a queue is a long row of puts and deletes that hide each other, and stays one until
 * flush and compaction have taken it away. A scan that had to walk over it notes the stretch; the
 * next one begins behind it. What was written since is looked at before a gap is used, record by
 * record in the order of the log, and a put into a gap divides it: so this costs O(new records), as
 * making their order does, and writes pay nothing.
 *
 * Owns      lk_gap_memory its gaps, at most LK_GAPS_MAX; a scan has references to those it uses.
 * Callers   cursor.c; the store owns the memory, and every view points to it.
 * Threads   a gap is immutable and counted; the memory has a lock, under which no other is taken.
 * Always    a gap holds for every moment from `from` to the memory's `upto`. Deletes, flushes and
 *           compactions make nothing visible, so that only records of the log end a gap; what makes
 *           rows visible without one calls lk_gap_memory_forget.
 * Errors    none: without memory a gap is forgotten, or not noted.
 */
#ifndef LK_GAP_H
#define LK_GAP_H

#include "lock.h"
#include "merge.h"
#include "view.h"

#define LK_GAPS_MAX 64u        /* remembered */
#define LK_GAPS_OF_SCAN_MAX 8u /* used by one scan */
#define LK_GAP_KEY_MAX 256u    /* bytes of a key where a gap begins or ends */

typedef struct lk_gap {
    _Atomic uint32_t refs;
    uint32_t tree;
    uint64_t from;  /* the first moment that it holds for */
    uint64_t rows;  /* that somebody walked over to find it, or a share of those */
    lk_bytes lower; /* inclusive */
    lk_bytes upper; /* exclusive; data NULL: no end */
    uint8_t bytes[];
} lk_gap;

typedef struct lk_gap_set {
    uint32_t count;
    lk_gap *gaps[LK_GAPS_MAX]; /* in order of (tree, lower); they do not overlap */
} lk_gap_set;

typedef struct lk_gap_memory {
    _Atomic uint32_t count; /* of the set, to be looked at without the lock */
    lk_lock lock;
    /* guarded by lock */
    uint64_t upto;  /* records up to this sequence were looked at */
    uint64_t floor; /* what was seen before this moment is no longer true */
    lk_gap_set set;
} lk_gap_memory;

void lk_gap_memory_init(lk_gap_memory *m);
void lk_gap_memory_deinit(lk_gap_memory *m);

/* Rows become visible at `seq` that no record of the log tells of. To be called after `seq` was
 * given and before any reader can see it. */
void lk_gap_memory_forget(lk_gap_memory *m, uint64_t seq);

/* That there is no live row in `bounds` at `seq`, found by walking over `rows` dead ones of `view`. */
void lk_gap_note(lk_gap_memory *m, const lk_view *view, uint32_t tree, uint64_t seq,
                 const lk_bounds *bounds, uint64_t rows);

/* ---- gaps that a scan may leave out ---- */

typedef struct lk_gaps {
    uint32_t count, at;                /* those before `at` were passed */
    lk_gap *gaps[LK_GAPS_OF_SCAN_MAX]; /* in the direction of the scan */
} lk_gaps;

/* The first gaps that touch `bounds` and hold at `seq`; they come with references. */
void lk_gaps_find(lk_gap_memory *m, const lk_view *view, uint32_t tree, uint64_t seq,
                  const lk_bounds *bounds, bool reverse, lk_gaps *out);
void lk_gaps_release(lk_gaps *g);

/* Leaves out what lies in gaps at the beginning of `bounds`, and ends them where the next gap begins.
 * False: nothing is left. `*out_passed` is the last gap that was left out; NULL: none. */
bool lk_gaps_cut(lk_gaps *g, bool reverse, lk_bounds *bounds, const lk_gap **out_passed);

/* ---- looking out for them ---- */

/* What a scan knows of the dead rows that it has met since the last live one. */
typedef struct lk_gap_watch {
    lk_gap_memory *memory; /* NULL: nothing is noted */
    const lk_view *view;
    uint64_t seq;
    uint32_t tree;
    bool reverse;
    bool known;    /* `from` is set */
    bool extends;  /* a gap was passed: what comes behind it makes it longer */
    uint64_t rows; /* and one more where the beginning is known, so that 0 says: nothing to do */
    lk_bytes
        from; /* where the gap begins, in the direction of the scan; data NULL: upwards no end */
    uint8_t bytes[LK_GAP_KEY_MAX + 1];
} lk_gap_watch;

#define LK_GAP_WATCH_MIN 32u /* dead rows after which the key is noted */

/* A scan of `bounds` begins; the bytes of these stay. */
void lk_gap_watch_begin(lk_gap_watch *w, const lk_view *view, uint32_t tree, uint64_t seq,
                        bool reverse, const lk_bounds *bounds);
/* A gap was left out. */
void lk_gap_watch_pass(lk_gap_watch *w, const lk_gap *gap);
void lk_gap_watch_start(lk_gap_watch *w, lk_bytes key);
void lk_gap_watch_finish(lk_gap_watch *w, lk_bytes key);
/* The scan has come to its end, at that bound. */
void lk_gap_watch_end(lk_gap_watch *w, lk_bytes bound);

/* `rows` were met that are not visible, the last of them with `key`. */
static inline void lk_gap_watch_dead(lk_gap_watch *w, uint32_t rows, lk_bytes key)
{
    w->rows += rows;
    if (LK_UNLIKELY(!w->known && w->rows >= LK_GAP_WATCH_MIN)) lk_gap_watch_start(w, key);
}

/* A row was met that lives. */
static inline void lk_gap_watch_live(lk_gap_watch *w, lk_bytes key)
{
    if (LK_UNLIKELY(w->rows != 0)) lk_gap_watch_finish(w, key);
}

#endif
