/* fold.h: what the versions of a key mean. The one place that knows.
 *
 * The versions of a key, oldest first, make its state, a value or none, as a function of time t:
 *
 *   PUT v                state is v
 *   PUT|UNTIL v, d       state(t) is v before d, then none
 *   DELETE               none
 *   MERGE o              state(t) is op(state before(t), o)
 *   MERGE|UNTIL o, w, d  state(t) is op(state before(w), o) before d, then none: an operand that was
 *                        written at w renews a row that was alive then
 *
 * Folding replaces versions by fewer with the same state at every time from now on, and also at each w
 * of a newer version that looks back on them. So an operand counts exactly once, and it does not
 * matter what was flushed or compacted when. What is still to come decides what must wait: an operand
 * over a value with a deadline stays beside it, because after the deadline it stands alone.
 *
 * Owns      the values that it made or read, until lk_fold_clear.
 * Callers   view.c and cursor.c read; flush.c and compact_merge.c write.
 * Threads   belongs to one thread. May block, in an operator and to read a value that stands apart.
 * Errors    of a read: the operator's, and those of files. Writing leaves versions that cannot be folded as they are.
 */
#ifndef LK_FOLD_H
#define LK_FOLD_H

#include "blob.h"
#include "operator.h"
#include "row.h"
#include "settings.h"

typedef struct lk_fold {
    /* fixed */
    const lk_operator *op; /* NULL: none */
    lk_env *env;
    const lk_blob_files *blobs; /* where values stand apart; set by who reads tables. Borrowed */

    uint64_t now_us; /* 0: the clock was not asked yet */
    uint64_t cover;  /* of the key that is read */

    /* The operands of the key in hand, newest first, and what they stand on. */
    lk_bytes *operands;
    uint32_t count, capacity;
    bool is_fixed;   /* the time at which older versions are looked at is known: `tau` */
    bool is_decided; /* nothing older matters: `base`, where there is one, is the oldest */
    bool has_base;
    bool is_apart;  /* the base is a reference to a value that was not read */
    bool no_values; /* who asks wants to know only whether there is one: nothing is read for it */
    uint64_t tau;
    lk_bytes base;

    lk_buffer *made;
    uint32_t made_count, made_capacity;
    size_t made_bytes; /* of values that were read */

    uint64_t failures; /* of the operator, while writing; `failure` is the first */
    lk_error failure;
} lk_fold;

/* `settings` must outlive it. `now_us` 0: the clock is asked once, when a deadline is met. */
void lk_fold_init(lk_fold *f, const lk_settings *settings, uint32_t tree, uint64_t now_us);
void lk_fold_deinit(lk_fold *f); /* a zeroed one is accepted */
/* Another tree, where nothing that was made is in use. */
void lk_fold_set_tree(lk_fold *f, const lk_settings *settings, uint32_t tree);
/* The values made so far are not used any more. */
void lk_fold_clear(lk_fold *f);
uint64_t lk_fold_now(lk_fold *f);

/* ---- reading ---- */

/* One key: begin, take its visible versions, newest first, until one decides, then ask. Versions of a
 * sequence below `cover` are dead (0: none are). Values are the stored ones, and must stay until the
 * answer is used. */
void lk_fold_begin(lk_fold *f, uint64_t cover);
lk_status lk_fold_take(lk_fold *f, lk_kind kind, lk_bytes value, uint64_t seq, bool *out_decided,
                       lk_error *err);
/* The value, and whether there is one. It is one of those taken, or one that was made or read. */
lk_status lk_fold_value(lk_fold *f, bool *out_found, lk_bytes *out, lk_error *err);

/* ---- writing ---- */

/* Whether a version may matter behind `last`, the one that was kept last, which is next to it but for
 * such as did not matter. */
static inline bool lk_fold_wants(const lk_snapshots *s, lk_kind last, uint64_t seq, uint64_t newer)
{
    return lk_kind_is_merge(last) || lk_snapshots_between(s, seq, newer);
}

/* Folds the versions of one key, newest first, in place: `*count` of them before and after. Versions
 * of a sequence below `cover` are dead for every reader. `is_oldest`: there is no older version
 * anywhere; `is_newest`: nor is there a newer one, written before now, outside of these.
 * Values that stand apart are read only where operands meet them. LK_NOMEM alone; what the operator could not do is counted in `failures`. */
lk_status lk_fold_rows(lk_fold *f, lk_row *rows, uint32_t *count, const lk_snapshots *snapshots,
                       uint64_t cover, bool is_oldest, bool is_newest, lk_error *err);

/* A range tombstone over a key takes part as a delete of that key alone: its value is this byte, by which
 * it is known. */
extern const uint8_t lk_fold_range[1];
/* Takes them out of rows that were folded; `*out_hides` is set when one hides a row that stays, for
 * some snapshot. Returns how many rows are left. */
uint32_t lk_fold_drop_ranges(lk_row *rows, uint32_t count, bool *out_hides);

#endif
