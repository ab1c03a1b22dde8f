/* table_parts.h: the open parts of a table file, as reading, verifying and dumping need them.
 *
 * Owns      lk_table_parts owns its file, filter, index and search array.
 * Callers   table_read.c holds one in each loaded table; table_verify.c opens one of its own, so
 *           that it reads what is on the disk now; table_write.c copies blocks from one.
 * Threads   immutable once opened.
 * Errors    LK_IO, LK_NOT_FOUND, LK_CORRUPT, LK_UNSUPPORTED, LK_NOMEM.
 */
#ifndef LK_TABLE_PARTS_H
#define LK_TABLE_PARTS_H

#include "env.h"
#include "filter.h"
#include "table.h"
#include "table_format.h"

typedef struct lk_table_parts {
    /* What a point read touches. */
    lk_filter filter;
    const uint64_t *heads; /* of each block's last key: 8 bytes behind the table's prefix */
    const lk_block *index; /* row i: last key of block i -> its place */
    uint32_t block_count;
    uint32_t prefix_len; /* bytes that the last keys of all blocks share */
    uint64_t nonce;
    lk_file *file;
    uint8_t *filter_data;
    size_t memory; /* bytes of filter, index, heads, properties */
    lk_table_footer footer;
    lk_table_properties properties; /* its keys point into property_block */
    lk_block *property_block;
} lk_table_parts;

/* Opens and reads everything but the data blocks, and checks it against `meta`. `out` is zeroed
 * after a failure. */
lk_status lk_table_parts_open(lk_env *env, const char *path, const lk_table_meta *meta,
                              lk_table_parts *out, lk_error *err);
void lk_table_parts_close(lk_table_parts *p); /* a zeroed one is accepted */

/* Place of block `index`, of those that the footer's data range holds. */
void lk_table_parts_place(const lk_table_parts *p, uint32_t index, uint64_t *out_offset,
                          uint32_t *out_bytes, uint32_t *out_rows);
/* First block whose last key is not less than `key`; block_count when there is none. */
uint32_t lk_table_parts_seek(const lk_table_parts *p, const uint8_t *key, size_t key_len);
/* Reads block `index` into `buffer`, which has room for its bytes, and checks it. */
lk_status lk_table_parts_image(const lk_table_parts *p, uint32_t index, uint8_t *buffer,
                               lk_block_image *out, lk_block_source *out_source, lk_error *err);
/* The same, decoded; one reference. */
lk_status lk_table_parts_block(const lk_table_parts *p, uint32_t index, lk_block **out,
                               lk_error *err);

/* The parts of a loaded table; where it is, loaded or not. */
const lk_table_parts *lk_table_parts_of(const lk_table *t);
lk_env *lk_table_env(const lk_table *t);
const char *lk_table_file_path(const lk_table *t);

#endif
