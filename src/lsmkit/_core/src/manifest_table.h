/* manifest_table.h: what a line of the manifest says of one table, both ways.
 *
 * Callers   manifest_line.c.
 * Threads   none of its own.
 */
#ifndef LK_MANIFEST_TABLE_H
#define LK_MANIFEST_TABLE_H

#include "manifest_json.h"
#include "version.h"

void lk_manifest_table_write(lk_json_writer *w, const lk_table_meta *meta, uint32_t level,
                             uint64_t stamp);
/* `out` is the caller's; zeroed where the reader has a fault. */
lk_status lk_manifest_table_read(lk_json_reader *r, lk_table_meta *out, uint32_t *out_level,
                                 uint64_t *out_stamp, lk_error *err);

/* A key of hexadecimal digits, not longer than a key may be; it points into the text. */
bool lk_manifest_read_key(lk_json_reader *r, lk_bytes *out);

#endif
