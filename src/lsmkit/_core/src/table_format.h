/* table_format.h: what stands at the end of a table file: the footer and the properties.
 *
 * File: data blocks, filter (may be absent), index, properties, footer; nothing in between. Index
 * and properties are blocks like any other (block.h).
 *
 * Callers   table_write.c encodes; table_parts.c parses; table_dump.c prints.
 * Errors    LK_CORRUPT with path and offset; LK_UNSUPPORTED for another version.
 */
#ifndef LK_TABLE_FORMAT_H
#define LK_TABLE_FORMAT_H

#include "blob.h"
#include "block.h"
#include "block_write.h"
#include "codec.h"
#include "status.h"

enum {
    LK_TABLE_FOOTER_BYTES = 128,
    LK_TABLE_VERSION = 1,
    LK_TABLE_PLACE_BYTES = 16, /* value of an index row: offset 8, bytes 4, rows 4 */
};

typedef struct lk_table_place {
    uint64_t offset, bytes;
} lk_table_place;

typedef struct lk_table_footer {
    uint64_t nonce;
    uint64_t file;         /* file number */
    uint64_t bytes;        /* of the file, footer included */
    lk_table_place filter; /* bytes 0: none */
    lk_table_place index;
    lk_table_place properties;
} lk_table_footer;

void lk_table_footer_encode(const lk_table_footer *footer, uint8_t *out);
/* `offset` is where the footer was read, the last LK_TABLE_FOOTER_BYTES of the file. Checks the
 * places against it as well: the parts follow one another without gaps. */
lk_status lk_table_footer_parse(const uint8_t *data, const char *path, uint64_t offset,
                                lk_table_footer *out, lk_error *err);

typedef struct lk_table_properties {
    uint64_t file, rows, tombstones, raw_bytes, seq_min, seq_max, blocks;
    uint64_t operands, deadlines, deadline_min, deadline_max;
    uint64_t seq_base; /* added to the sequences that stand in the blocks; 0 in nearly all tables */
    uint32_t tree, block_bytes, filter_bits;
    lk_codec codec;            /* that the writer was asked for; each block names its own */
    lk_bytes min_key, max_key; /* borrowed */
    lk_bytes uses;             /* of files of values: LK_BLOB_USE_BYTES each, by number; borrowed */
} lk_table_properties;

/* Adds the properties as rows to an empty writer. */
lk_status lk_table_properties_add(const lk_table_properties *props, lk_block_writer *w,
                                  lk_error *err);
/* Keys of `out` point into `b`. Properties of unknown names are ignored, missing ones refused. */
lk_status lk_table_properties_parse(const lk_block *b, const lk_block_source *source,
                                    lk_table_properties *out, lk_error *err);

#endif
