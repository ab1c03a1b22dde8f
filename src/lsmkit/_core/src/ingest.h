/* ingest.h: many rows straight into tables, at one place of the commit order.
 *
 *   sort      row numbers by key, the last of equal keys stays
 *   write     tables without sequences, filters and indexes included, synced; writers go on
 *   flush     what the log holds, so that little is left
 *   hold      writers wait; the rest of the log is flushed; the next sequence is the rows'
 *   finish    it is written at the end of each table; one edit names them, and retires the log
 *
 * So no record of the log stands on both sides of the rows: those before are in older tables, and those
 * after get later sequences. All rows have one sequence, which a table says once.
 *
 * Threads   any; two at a time take their places one after the other.
 * Errors    LK_READONLY, LK_INVALID, LK_CANCELLED (the store is closing), LK_IO, LK_NOMEM. Nothing is
 *           in the store then, unless the manifest failed: reopening finds all or nothing.
 */
#ifndef LK_INGEST_H
#define LK_INGEST_H

#include "store.h"

/* Puts the rows of two columns of the same length, atomically; on the disk when it returns. */
lk_status lk_store_ingest(lk_store *s, uint32_t tree, const lk_column *keys,
                          const lk_column *values, lk_error *err);

#endif
