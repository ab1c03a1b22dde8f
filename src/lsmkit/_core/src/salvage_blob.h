/* salvage_blob.h: what is whole of files of values.
 *
 * Owns      its files, and the value taken last.
 * Callers   repair.c.
 * Threads   none of its own.
 * Errors    LK_IO, LK_NOMEM; damage is no error here.
 */
#ifndef LK_SALVAGE_BLOB_H
#define LK_SALVAGE_BLOB_H

#include "blob.h"
#include "operator.h"
#include "table.h"

typedef struct lk_salvaged_file {
    lk_blob_file *file;
    uint64_t number;
    bool is_whole;
} lk_salvaged_file;

typedef struct lk_salvaged_values {
    lk_env *env;
    const char *dir;
    lk_salvaged_file *files; /* those that were asked for */
    size_t count, capacity;
    lk_buffer value;
} lk_salvaged_values;

void lk_salvaged_values_deinit(lk_salvaged_values *v);
/* Whether every file of values that the table uses is whole; each is read once. `out_why` says what is
 * wrong with the first that is not. */
lk_status lk_salvaged_values_check(lk_salvaged_values *v, const lk_table_meta *meta,
                                   bool *out_whole, lk_error *out_why, lk_error *err);
/* A row that refers to a value becomes one that has it, until the next one does; others stay as they
 * are. False: the value is lost. */
lk_status lk_salvaged_values_take(lk_salvaged_values *v, lk_row *row, bool *out_found,
                                  lk_error *err);

#endif
