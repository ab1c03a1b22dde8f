/* flush.h: frozen segments become one run of tables for each tree.
 *
 * One pass: every frame's checksum is proved again (a mapping can be hit by a stray store), the
 * records are put in order, versions of a key are folded as far as snapshots allow, and what is left
 * is written; records of keyspaces that were dropped are not. Several waiting segments are flushed as
 * one: what they overwrite is never written.
 */
#ifndef LK_FLUSH_H
#define LK_FLUSH_H

#include "manifest.h"
#include "segment.h"
#include "top.h"
#include "trees.h"
#include "view.h"

#define LK_FLUSH_SEGMENTS_MAX 16u

typedef struct lk_flush {
    lk_env *env;
    const char *dir;
    lk_manifest *manifest;       /* gives file numbers */
    const lk_view *view;         /* tells what is older and newer, and what rows mean */
    uint64_t now_us;             /* of the wall clock, not later than the view was taken */
    const lk_trees *trees;       /* tell how tables are written, and which records may go */
    lk_segment *const *segments; /* oldest first, frozen */
    uint32_t segment_count;
    const uint64_t *snapshots; /* descending */
    size_t snapshot_count;
    lk_table_options table; /* of all trees; what belongs to one comes from `trees` */
} lk_flush;

typedef struct lk_flush_result {
    uint64_t records_in, rows_out, bytes_out;
    lk_top *tops;            /* of each tree; the caller's */
    uint64_t merge_failures; /* of an operator, whose operands stay; the first is `merge_failure` */
    lk_error merge_failure;
} lk_flush_result;

/* Writes and syncs the tables and the directory, and fills `edit` with the added tables and the
 * retired log; nothing is published. On failure the files are gone again. */
lk_status lk_flush_run(const lk_flush *f, lk_edit *edit, lk_flush_result *out, lk_error *err);

#endif
