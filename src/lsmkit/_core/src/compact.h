/* compact.h: one compaction job: input tables of one key range in, output tables and an edit out.
 *
 * Plain values in, plain values out: what is merged was decided elsewhere (a policy), that it is
 * still possible is checked here against the version.
 *
 * Threads   several jobs may run at once, over different ranges. One job may use threads of its own.
 * Errors    LK_INVALID for a job that does not fit the version (any more); LK_CANCELLED; those of
 *           tables, files and memory. After any error the edit is to be thrown away.
 */
#ifndef LK_COMPACT_H
#define LK_COMPACT_H

#include "manifest.h"
#include "merge.h"
#include "table.h"
#include "view.h"

typedef enum lk_job_kind {
    LK_JOB_MERGE = 0, /* rows are merged into new tables */
    LK_JOB_MOVE = 1,  /* the tables change their level; nothing is read */
    LK_JOB_JOIN = 2,  /* the (empty) range is joined to the one before it */
    LK_JOB_DROP = 3,  /* the tables go with all their rows, which nothing is older than */
} lk_job_kind;

typedef struct lk_job {
    lk_job_kind kind;
    uint32_t tree;
    lk_bytes lower;        /* lower bound of the range, as in the version */
    const uint64_t *files; /* inputs: file numbers */
    size_t file_count;
    uint32_t out_level;
    bool in_place;          /* of a merge: outputs stand where the newest input stood */
    uint32_t split_tables;  /* cut the range when it holds more tables than this at
                                out_level afterwards; 0: never */
    uint64_t cut_bytes;     /* size of an output table */
    uint32_t parts;         /* at most so many pieces in parallel by key; 0 and 1: one */
    double max_garbage;     /* values are moved out of files of which a larger share is dead */
    lk_table_options table; /* of the outputs */
} lk_job;

#define LK_JOB_PARTS_MAX 16u

typedef struct lk_job_result {
    uint64_t bytes_in, bytes_out, rows_in, rows_out, rows_copied /* in whole blocks */;
    uint64_t tables_out;
    uint64_t ns;
    uint64_t merge_failures; /* of an operator, whose operands stay; the first is `merge_failure` */
    lk_error merge_failure;
} lk_job_result;

/* Merges the job's inputs as they stand in the view's version into new tables and fills `edit`
 * (removes, splits, adds); nothing is published. `now_us` is a reading of the wall clock, not later
 * than the view was taken. `snapshots` (descending) are the sequences that must stay readable. Tombstones are dropped where no older run of the range can hold their key. Output
 * tables that were written are unlinked again when it fails or is cancelled. They are synced; their
 * directory is not: the caller syncs it before the edit goes into the manifest.
 *
 * Age: every table of the range that is not an input and shares keys with one must stay on its side
 * of the outputs. These become the newest run of their level, or, where a run of that level between
 * them and the inputs forbids it, stand where the newest input stood. They join the run that is the
 * newest of the level already when they overlap none of its tables, so that appending to a key range
 * makes a run longer and not the runs more. A table that reaches out of the range cannot move.
 *
 * Not read are inputs that hold nothing for anybody: what range tombstones hide as a whole; and, in a
 * tree without operator, rows past their deadline and deletes alone, with nothing older below them.
 *
 * A drop is refused where an older table that stays shares keys with an input: its rows would come
 * back. It takes rows from snapshots too. */
lk_status lk_compact_run(lk_env *env, const char *dir, lk_manifest *manifest, const lk_view *view,
                         uint64_t now_us, const lk_job *job, const uint64_t *snapshots,
                         size_t snapshot_count, lk_edit *edit, lk_job_result *out, lk_error *err);

#endif
