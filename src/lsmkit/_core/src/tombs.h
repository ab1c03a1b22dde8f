/* tombs.h: range tombstones as a skyline: for each stretch of keys, the sequences that deleted it.
 *
 * Ranges that were deleted overlap as they like. Cut at all their ends they become steps: from this
 * key on, up to the next step, these deletes hold, the newest first. So what hides a key is one binary
 * search, and a scan that has looked once knows up to which key the answer holds.
 *
 *   deleted at 5      [----------------)
 *   deleted at 8           [------)
 *   deleted at 9                        [------ to the end
 *   steps             b    e      h     m
 *   sequences         5    8 5    5     9          (before b: none)
 *
 * A row is dead for who sees up to `seq` when some tombstone over its key is newer than the row and
 * not newer than `seq`. Of the sequences of a step only those are kept that some snapshot tells from
 * the newer ones: without snapshots one.
 *
 * Owns      an lk_tombs its arrays and, when they were copied, its keys; else the keys are those of
 *           the log segment that it was made from, which outlives it.
 * Callers   tomb_log.c (of a segment), version_tombs.c (of a tree's tables), cursors, compaction.
 * Threads   immutable after it was made; `refs` is atomic.
 * Always    keys ascend by (tree, key); neighbours differ; no step before the first has sequences;
 *           the last one of a tree that is deleted to its end is followed by (tree + 1, "").
 */
#ifndef LK_TOMBS_H
#define LK_TOMBS_H

#include <stdatomic.h>

#include "bytes.h"
#include "row.h"
#include "status.h"

/* One range that was deleted. */
typedef struct lk_tomb {
    lk_bytes start; /* inclusive */
    lk_bytes stop;  /* exclusive; data NULL: to the end of the tree */
    uint64_t seq;
    uint32_t tree;
} lk_tomb;

typedef struct lk_tomb_step {
    const uint8_t *key;
    uint32_t key_len;
    uint32_t tree;
    uint32_t first; /* its sequences are seqs[first] up to those of the next step */
} lk_tomb_step;

typedef struct lk_tombs {
    _Atomic uint32_t refs;
    uint32_t count;            /* of steps, at least 2 */
    uint64_t newest;           /* greatest sequence */
    size_t bytes;              /* memory held */
    const uint64_t *heads;     /* lk_key_prefix of each step's key */
    const lk_tomb_step *steps; /* count + 1: the last one only ends the sequences */
    const uint64_t *seqs;      /* of a step: descending */
} lk_tombs;

/* The skyline of `count` ranges; *out is NULL where there is none. Sequences that neither the present
 * nor a snapshot sees are left out. `copy`: the keys are copied. */
lk_status lk_tombs_make(const lk_tomb *ranges, size_t count, const lk_snapshots *snapshots,
                        bool copy, lk_tombs **out, lk_error *err);
/* That of two skylines together; either may be NULL. */
lk_status lk_tombs_join(const lk_tombs *a, const lk_tombs *b, const lk_snapshots *snapshots,
                        bool copy, lk_tombs **out, lk_error *err);
void lk_tombs_ref(lk_tombs *t);
void lk_tombs_unref(lk_tombs *t); /* NULL is accepted */

/* How many steps begin at or before (tree, key): the key is in the step before that, or before all of
 * them for 0. */
uint32_t lk_tombs_seek(const lk_tombs *t, uint32_t tree, const uint8_t *key, size_t key_len);

/* The newest delete of the step before `at` that `seq` sees; 0: none. */
static inline uint64_t lk_tombs_newest(const lk_tombs *t, uint32_t at, uint64_t seq)
{
    if (at == 0) return 0;
    uint32_t i = t->steps[at - 1].first, end = t->steps[at].first;
    while (i < end && t->seqs[i] > seq) i++;
    return i < end ? t->seqs[i] : 0;
}

/* The newest delete over a key that `seq` sees; 0: none. */
static inline uint64_t lk_tombs_cover(const lk_tombs *t, uint32_t tree, const uint8_t *key,
                                      size_t key_len, uint64_t seq)
{
    return lk_tombs_newest(t, lk_tombs_seek(t, tree, key, key_len), seq);
}

/* The oldest delete of the step before `at` that is newer than `seq`; LK_SEQ_MAX: none. */
uint64_t lk_tombs_oldest_above(const lk_tombs *t, uint32_t at, uint64_t seq);

/* Whether any key from `least` to `greatest` (data NULL: to the end), both included, may be covered by a delete that is newer
 * than `seq`. */
bool lk_tombs_touch(const lk_tombs *t, uint32_t tree, lk_bytes least, lk_bytes greatest,
                    uint64_t seq);

/* Whether all keys from `least` to `greatest`, both included, are covered by deletes that are newer than
 * `above` and not newer than `seq`. */
bool lk_tombs_cover_all(const lk_tombs *t, uint32_t tree, lk_bytes least, lk_bytes greatest,
                        uint64_t above, uint64_t seq);

/* How many stretches of keys are deleted. */
uint32_t lk_tombs_stretches(const lk_tombs *t);

/* The ranges of which it is the skyline, as far as they are in it, one by one to `emit`. */
typedef lk_status lk_tombs_emit(void *context, const lk_tomb *range, lk_error *err);
lk_status lk_tombs_each(const lk_tombs *t, lk_tombs_emit *emit, void *context, lk_error *err);

/* ---- a skyline made step by step ---- */

typedef struct lk_tombs_writer {
    lk_tomb_step *steps;
    uint64_t *seqs;
    uint32_t step_count, step_capacity, seq_count, seq_capacity;
} lk_tombs_writer;

/* From (tree, key) on, `count` sequences hold, descending; keys ascend. What says nothing new is left
 * out. Keys are borrowed until the end. */
lk_status lk_tombs_writer_step(lk_tombs_writer *w, uint32_t tree, lk_bytes key,
                               const uint64_t *seqs, uint32_t count, lk_error *err);
/* *out is NULL where nothing is deleted. */
lk_status lk_tombs_writer_finish(const lk_tombs_writer *w, bool copy, lk_tombs **out,
                                 lk_error *err);
void lk_tombs_writer_deinit(lk_tombs_writer *w);

/* ---- several skylines at once ---- */

/* What a reader has to look at: the skylines of its segments and of its version. They are not made
 * into one, because that would cost each scan as much as there are tombstones. */
typedef struct lk_cover {
    lk_tombs **layers; /* each with a reference */
    uint32_t count, capacity;
    uint64_t seq; /* what the reader sees */
} lk_cover;

/* Takes a reference; NULL is passed over. */
lk_status lk_cover_add(lk_cover *c, lk_tombs *t, lk_error *err);
void lk_cover_deinit(lk_cover *c);

/* Keys of a tree that one answer holds for. */
typedef struct lk_cover_region {
    lk_bytes lower; /* inclusive */
    lk_bytes upper; /* exclusive; data NULL: to the end */
    uint64_t seq;   /* the newest delete that is visible there; 0: none */
} lk_cover_region;

/* The region that holds `key`; its bounds point into the layers. */
void lk_cover_at(const lk_cover *c, uint32_t tree, lk_bytes key, lk_cover_region *out);

#endif
