/* compact_merge.h: the rows of some runs, between two keys, folded and written into new tables.
 *
 * Owns      its list of finished tables.
 * Callers   compact.c: once a job, or once for each of its parts.
 * Threads   a part belongs to one thread; parts share nothing that changes but `stop`.
 */
#ifndef LK_COMPACT_MERGE_H
#define LK_COMPACT_MERGE_H

#include "compact.h"
#include "fold.h"

/* Runs of tables, the newest first: run i is tables [ends[i - 1], ends[i]), in key order. */
typedef struct lk_table_runs {
    lk_table **tables;
    uint32_t *ends;
    uint32_t *places; /* of the runs among those of the range */
    uint32_t run_count;
} lk_table_runs;

typedef struct lk_compact_part {
    /* what to do; borrowed */
    lk_env *env;
    const char *dir;
    lk_manifest *manifest;
    const lk_job *job;
    lk_bounds bounds;
    const lk_table_runs *inputs;
    const lk_table_runs *below; /* tables that are no inputs and may hold older versions */
    const lk_table_runs *above; /* ... newer ones, as the segments of the view */
    const lk_view *view;
    uint64_t now_us;
    uint64_t written_us; /* no row of the inputs was written later */
    lk_snapshots snapshots;
    const lk_tombs *tombs;      /* ranges that were deleted; NULL: none */
    const lk_blob_files *blobs; /* where large values stand; NULL: none does */
    bool bottom;                /* no table below shares keys with the inputs */
    atomic_bool *stop; /* relaxed: another part has failed, so this one's work is for nothing */

    /* what came of it */
    lk_table_meta *tables; /* in key order */
    uint32_t table_count;
    size_t table_capacity;
    uint64_t rows_in, rows_copied;
    uint64_t merge_failures;
    lk_error merge_failure;
} lk_compact_part;

lk_status lk_compact_part_run(lk_compact_part *p, lk_error *err);
/* Frees the list; with `unlink` the files go too. */
void lk_compact_part_deinit(lk_compact_part *p, bool unlink);

#endif
