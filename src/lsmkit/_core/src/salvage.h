/* salvage.h: what is whole of files that are damaged.
 *
 * Callers   repair.c.
 * Threads   none of its own.
 * Errors    LK_IO, LK_NOMEM; damage is no error here.
 */
#ifndef LK_SALVAGE_H
#define LK_SALVAGE_H

#include "manifest_line.h"
#include "table.h"

/* What old manifests say, as far as their lines have their checksums. */
typedef struct lk_salvaged_lines {
    lk_properties properties;
    lk_table_meta *tables; /* that were ever added; the last of a number stands */
    size_t table_count, table_capacity;
    uint64_t log_retired, last_seq, next_file;
    uint64_t lines, lines_lost;
} lk_salvaged_lines;

lk_status lk_salvage_manifest(lk_env *env, const char *path, uint64_t number,
                              lk_salvaged_lines *out, lk_error *err);
void lk_salvaged_lines_deinit(lk_salvaged_lines *s); /* a zeroed one is accepted */
/* NULL: no line speaks of it. */
const lk_table_meta *lk_salvaged_table(const lk_salvaged_lines *s, uint64_t file);

/* Called with one row after another, in order; false stops. */
typedef lk_status lk_salvage_row(void *context, uint32_t tree, const lk_row *row, lk_error *err);

typedef struct lk_salvage_counts {
    uint64_t rows, blocks, blocks_lost;
} lk_salvage_counts;

/* The rows of all whole blocks of a table file. `meta` (may be NULL) is what a manifest says of it. */
lk_status lk_salvage_table(lk_env *env, const char *path, const lk_table_meta *meta,
                           lk_salvage_row *row, void *context, lk_salvage_counts *out,
                           lk_error *err);

typedef struct lk_salvaged_record {
    const uint8_t *at; /* in the bytes of the file */
    uint64_t seq;
} lk_salvaged_record;

/* The records of all whole frames of a log file, in order of (tree, key, newest first). */
typedef struct lk_salvaged_log {
    uint8_t *data;
    size_t data_bytes;
    lk_salvaged_record *records;
    size_t count, capacity;
    uint64_t bytes_lost; /* behind the first frame that is broken, of what is no whole frame */
} lk_salvaged_log;

lk_status lk_salvage_log(lk_env *env, const char *path, uint64_t generation, lk_salvaged_log *out,
                         lk_error *err);
void lk_salvaged_log_deinit(lk_env *env, lk_salvaged_log *log); /* a zeroed one is accepted */

#endif
