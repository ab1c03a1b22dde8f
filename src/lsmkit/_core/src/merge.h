/* merge.h: rows of several sources in one order.
 *
 * A source is a sorted run of a segment, or a run of tables that do not overlap; of two sources the
 * one with the lower rank is the newer, and all its versions of a key are newer. Heads of keys are
 * kept as numbers, after the bytes that all keys of the range have in common, and the winner runs on
 * against the runner-up (galloping), so that blocks that overlap nothing cost no comparison.
 *
 * Owns      references to its orders, tables and the block that each source stands in. Segments are
 *           the caller's to pin, for as long as the merge and what it gave out are used.
 * Threads   one. May block: never inside a guard section.
 */
#ifndef LK_MERGE_H
#define LK_MERGE_H

#include "order.h"
#include "segment.h"
#include "table.h"
#include "version.h"

typedef struct lk_merge lk_merge;

typedef struct lk_bounds {
    lk_bytes lower; /* inclusive */
    lk_bytes upper; /* exclusive; data NULL: no end */
} lk_bounds;

#define LK_SOURCES_MAX 4096u

/* A merge over the keys in `bounds` of one tree (bounds are copied). Sources are added newest first,
 * then it is started once. `fill`: blocks that are read are put into the cache. */
lk_status lk_merge_new(uint32_t tree, const lk_bounds *bounds, bool reverse, bool fill,
                       lk_merge **out, lk_error *err);
/* Each run of the order is a source; ordinals from `visible` on are left out. */
lk_status lk_merge_add_order(lk_merge *m, lk_segment *segment, lk_order *order, uint32_t visible,
                             lk_error *err);
/* Tables in key order, which need not be loaded; those outside of the bounds are passed over. */
lk_status lk_merge_add_tables(lk_merge *m, lk_table *const *tables, uint32_t count, lk_error *err);
lk_status lk_merge_start(lk_merge *m, lk_error *err);
void lk_merge_free(lk_merge *m); /* NULL is accepted */

/* What comes next: rows [first, first + count) of a block, in the direction of the merge, that no
 * other source comes between; or one record of a segment (block NULL). Valid until the second next
 * call of lk_merge_next, so that a caller can look one step back. */
typedef struct lk_span {
    lk_block *block;
    uint32_t first, count; /* reverse: emitted from first + count - 1 down to first */
    uint32_t rank;         /* of the source */
    uint32_t block_index;
    lk_table *table;  /* of the block, with its index, for whole-block copies */
    lk_record record; /* block NULL */
    uint64_t seq;     /* block NULL */
    bool repeat;      /* its key is that of the row given out before: an older version */
    bool closed;      /* a whole block that was not read, see lk_merge_allow_closed; count is 0 */
} lk_span;

/* False at the end (st LK_OK) or on an error, after which the merge can only be freed. All versions
 * of a key come out, newest first (reverse: keys descend, versions of one key still newest first).
 * A span of several rows is given only where its keys are strictly between those of the other
 * sources, and from blocks without repeated keys: none of its rows repeats another, neither before
 * nor behind it. So a caller that looks at `repeat` compares no keys. */
lk_status lk_merge_next(lk_merge *m, lk_span *out, bool *out_any, lk_error *err);

/* For compaction, before lk_merge_start of a forward merge: a block that lies between the rows of
 * the other sources and has neither deletes nor repeated keys is given out without being read, as
 * a closed span, so that it can be copied. A caller that wants its rows calls lk_merge_open at once:
 * they come with the next calls. */
void lk_merge_allow_closed(lk_merge *m);
lk_status lk_merge_open(lk_merge *m, lk_error *err);

/* For a caller that has seen that all rows up to `to` which are older than `seq` are of no use to it:
 * each source whose rows are all older goes on to `to` (exclusive, data NULL: to its end; reverse: to
 * the rows before `to`), without reading what lies between. The others stay where they are. The span given
 * last is not to be used after it, but for rows behind `to`. lk_merge_span_is_old says whether
 * that would move the source of the span given last. */
lk_status lk_merge_skip(lk_merge *m, lk_bytes to, uint64_t seq, lk_error *err);
bool lk_merge_span_is_old(const lk_merge *m, const lk_span *span, uint64_t seq);

/* For a caller that looks further back: after lk_merge_keep, blocks that sources have left stay
 * until lk_merge_release, and so does what was given out. The span given last stays valid through
 * a release. lk_merge_kept says how many blocks wait for it. */
void lk_merge_keep(lk_merge *m);
uint32_t lk_merge_kept(const lk_merge *m);
void lk_merge_release(lk_merge *m);

#endif
