/* checks.h: keys and ranges that must not have been written since a moment, proved before a write.
 *
 * What has come since the moment is in the log, or in tables whose greatest sequence is later; both
 * are looked through before the write lock is taken, tables and all, and under the lock only what
 * came meanwhile, which is still in the log. A row newer than the moment keeps its sequence as long
 * as a snapshot of the moment is held (compaction zeroes those that every snapshot sees), and a
 * delete that is dropped leaves a key that was not there at the moment either: so what is read is
 * compared, and what was written and taken back is no conflict.
 *
 * Owns      a sorted copy of the checks, whose keys are the caller's, and the version that it has
 *           looked through.
 * Callers   write.c.
 * Threads   one. lk_prover_look may block and read; lk_prover_settle is called with write_lock held,
 *           does not block and looks at a bounded number of records.
 */
#ifndef LK_CHECKS_H
#define LK_CHECKS_H

#include "view.h"

typedef struct lk_check {
    uint32_t tree;
    bool is_range;
    lk_bytes start; /* the key, or the first key of the range */
    lk_bytes stop;  /* of a range: exclusive; data NULL: no end */
} lk_check;

/* What a writer asks for. Any order, and they may overlap. */
typedef struct lk_checks {
    const lk_check *items;
    size_t count;
    uint64_t moment; /* sequences after it are changes */
    bool is_held; /* a snapshot of the moment is held: else what was flushed since is not known */
} lk_checks;

/* The state of proving them. */
typedef struct lk_prover {
    uint64_t known;     /* nothing was written after the moment up to this sequence */
    lk_version *looked; /* in whose tables nothing is later; a reference */
    lk_check *items;    /* in order of (tree, start), none overlapping another */
    size_t count, range_count;
    uint32_t looks;
    bool is_held;
    lk_check few[4];
} lk_prover;

typedef enum lk_verdict {
    LK_SAME,    /* nothing that is checked was written since the moment */
    LK_CHANGED, /* something was */
    LK_UNKNOWN, /* too much has come since the last look, or it was flushed */
} lk_verdict;

lk_status lk_prover_init(lk_prover *p, const lk_checks *checks, lk_error *err);
void lk_prover_deinit(lk_prover *p);

/* Looks at all that the view shows, up to `now`. Not under the write lock. LK_UNKNOWN only where no
 * snapshot is held. */
lk_status lk_prover_look(lk_prover *p, const lk_view *v, uint64_t now, lk_guard *guard,
                         lk_verdict *out, lk_error *err);
/* The rest, under the write lock: `v` is the current view, `now` the last sequence. */
lk_verdict lk_prover_settle(lk_prover *p, const lk_view *v, uint64_t now);

#endif
