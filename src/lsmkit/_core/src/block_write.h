/* block_write.h: collects rows as columns and encodes them as one block.
 *
 * Owns      the staging columns, which grow to the largest block and are used again for the next.
 * Callers   table_write.c, for data, index and properties alike.
 * Threads   belongs to one thread.
 * Always    rows are added in order of (key, sequence descending).
 * Errors    LK_NOMEM; LK_INVALID when rows that must stand together pass LK_BLOCK_RAW_MAX.
 */
#ifndef LK_BLOCK_WRITE_H
#define LK_BLOCK_WRITE_H

#include "block.h"
#include "codec.h"
#include "row.h"

/* Offsets within a block have 32 bits; what is left above this is for headers and other columns. */
#define LK_BLOCK_RAW_MAX UINT32_C(0xE0000000)

typedef struct lk_block_writer {
    lk_compressor compressor;
    uint8_t *keys, *values;
    size_t key_bytes, key_capacity;
    size_t value_bytes, value_capacity;
    uint32_t rows, row_capacity;
    uint32_t *key_ends, *value_ends;
    uint8_t *fingerprints, *kinds;
    uint64_t *seqs;
    /* Of the rows so far: */
    uint64_t seq_min, seq_max;
    uint32_t first_key_len, first_value_len;
    uint32_t key_len_mix, value_len_mix; /* 0: all lengths are those of the first row */
    uint32_t tombstones;
    uint32_t specials; /* rows that are not plain puts */
    uint32_t operands, deadlines;
    uint64_t deadline_min, deadline_max;
    bool has_versions;
} lk_block_writer;

lk_status lk_block_writer_init(lk_block_writer *w, lk_codec codec, lk_error *err);
void lk_block_writer_deinit(lk_block_writer *w); /* a zeroed one is accepted */

/* `is_version`: its key is that of the row before. */
lk_status lk_block_writer_add(lk_block_writer *w, const lk_row *row, bool is_version,
                              lk_error *err);
/* Keys and values added since the last block. */
static inline size_t lk_block_writer_raw_bytes(const lk_block_writer *w)
{
    return w->key_bytes + w->value_bytes;
}
/* Key of the last row added to this block; there is one. */
static inline lk_bytes lk_block_writer_last_key(const lk_block_writer *w)
{
    uint32_t from = w->rows < 2 ? 0 : w->key_ends[w->rows - 2];
    return (lk_bytes){w->keys + from, w->key_ends[w->rows - 1] - from};
}

/* Most bytes that encoding what was added can take. */
size_t lk_block_writer_bound(const lk_block_writer *w);
/* Encodes all rows (at least one) as the block at `offset`, and begins anew. Returns its bytes. */
size_t lk_block_writer_finish(lk_block_writer *w, uint64_t nonce, uint64_t offset, uint8_t *out);

#endif
