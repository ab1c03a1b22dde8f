/* block.h: a data block: up to `block_bytes` rows of one tree, as columns.
 *
 * On disk (FORMAT.md is the authority): a checksum over all that follows, seeded with the table's
 * nonce and the block's offset; a header with the lengths of the columns; the key prefix that all
 * rows share, once; key suffixes (fixed width, or offsets); one fingerprint byte a row; kinds and
 * sequence numbers where they differ; then the values (fixed width, or offsets), compressed. Keys
 * stay raw, so that a block that is copied whole by compaction gives its key hashes without being
 * decompressed.
 *
 * In memory: lk_block, decoded in one allocation, with whole keys side by side. Between the two
 * stands lk_block_image: bytes as read, checked, with the place of each column.
 *
 * Threads   a block is immutable; `refs` is atomic. Inside a guard section the cached pointer of a
 *           table's slot may be used without a reference.
 * Errors    LK_CORRUPT with the file, offset, expected and found.
 */
#ifndef LK_BLOCK_H
#define LK_BLOCK_H

#include <stdatomic.h>

#include "bytes.h"
#include "codec.h"
#include "row.h"
#include "status.h"

#define LK_BLOCK_BYTES_MIN 256u
#define LK_BLOCK_BYTES_MAX (1u << 20)

/* ---- in memory ---- */

typedef struct lk_block {
    /* What a point read touches stands in the first 80 bytes. */
    _Atomic uint32_t refs;
    uint32_t rows; /* at least 1 */
    uint32_t key_width;
    uint32_t value_width;
    const uint8_t *keys;
    const uint32_t *key_offsets; /* rows + 1 of them; NULL: every key is key_width bytes */
    const uint8_t *values;
    const uint32_t *value_offsets; /* rows + 1 of them; NULL: every value is value_width bytes */
    const uint8_t *kinds;          /* NULL: all are LK_KIND_PUT */
    const uint64_t *seqs;          /* NULL: all are seq_max (as after the last level) */
    uint64_t seq_max;
    const uint8_t *fingerprints; /* lk_hash_fingerprint(hash) of each key; see lk_block_prefetch */
    uint64_t seq_min;
    size_t bytes;           /* memory held, charged to the cache */
    uint32_t place;         /* the cache's own: where in its shard the block stands */
    _Atomic uint8_t recent; /* CLOCK's reference bit, set by readers */
    bool unique;            /* no key stands twice in this block */
} lk_block;

static inline lk_bytes lk_block_key(const lk_block *b, uint32_t row)
{
    if (b->key_offsets == NULL) {
        return (lk_bytes){b->keys + (size_t)row * b->key_width, b->key_width};
    }
    uint32_t from = b->key_offsets[row];
    return (lk_bytes){b->keys + from, b->key_offsets[row + 1] - from};
}

static inline lk_bytes lk_block_value(const lk_block *b, uint32_t row)
{
    if (b->value_offsets == NULL) {
        return (lk_bytes){b->values + (size_t)row * b->value_width, b->value_width};
    }
    uint32_t from = b->value_offsets[row];
    return (lk_bytes){b->values + from, b->value_offsets[row + 1] - from};
}

static inline lk_kind lk_block_kind(const lk_block *b, uint32_t row)
{
    return b->kinds == NULL ? LK_KIND_PUT : (lk_kind)b->kinds[row];
}

static inline uint64_t lk_block_seq(const lk_block *b, uint32_t row)
{
    return b->seqs == NULL ? b->seq_max : b->seqs[row];
}

/* First row whose key is not less than `key`; `rows` when there is none. */
uint32_t lk_block_lower_bound(const lk_block *b, const uint8_t *key, size_t key_len);

/* The newest version of `key` with sequence <= `seq`: its row, or `rows` when there is none.
 * Found through the fingerprints, 16 a step. */
uint32_t lk_block_find(const lk_block *b, const uint8_t *key, size_t key_len, uint64_t hash,
                       uint64_t seq);

/* First row from `from` on whose fingerprint is that of `hash`; `rows` when there is none. */
uint32_t lk_block_candidate(const lk_block *b, uint64_t hash, uint32_t from);
/* lk_block_find, given the first candidate. */
uint32_t lk_block_find_from(const lk_block *b, uint32_t candidate, const uint8_t *key,
                            size_t key_len, uint64_t hash, uint64_t seq);

/* The block's head and the first fingerprints, which stand right behind it, before they are needed:
 * most of the cost of a hit is waiting for memory. */
static inline void lk_block_prefetch(const lk_block *b)
{
    const char *at = (const char *)b;
    __builtin_prefetch(at);
    __builtin_prefetch(at + 64);
    __builtin_prefetch(at + 128);
    __builtin_prefetch(at + 192);
}

static inline void lk_block_ref(lk_block *b)
{
    atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
}
void lk_block_unref(lk_block *b); /* NULL is accepted */

/* ---- on disk ---- */

enum {
    LK_BLOCK_HEADER_BYTES = 64,
    LK_BLOCK_FLAG_KINDS = 1,    /* there is a column of kinds */
    LK_BLOCK_FLAG_VERSIONS = 2, /* some key stands more than once */
};

/* Prefix bytes times rows may not exceed this, so that a small file cannot ask for much memory;
 * a writer takes a shorter prefix instead. */
#define LK_BLOCK_PREFIX_EXPANSION_MAX (4u << 20)

/* Where bytes were read from: for checksums and errors. */
typedef struct lk_block_source {
    const char *path;
    uint64_t nonce;
    uint64_t offset;
    uint64_t seq_base; /* of the table: what its blocks' sequences lack */
} lk_block_source;

/* A block's bytes with the place of each column. Borrowed; every column lies within the bytes. */
typedef struct lk_block_image {
    const uint8_t *data;
    size_t bytes;
    uint32_t rows;
    lk_codec codec;
    bool unique;
    uint8_t key_end_width;   /* bytes of each entry of key_ends: 2, 4; 0: keys of one width */
    uint8_t value_end_width; /* the same of values */
    uint8_t seq_width;       /* 0 (all are seq_min), 1, 2, 4, 8 */
    uint32_t prefix_bytes, suffix_bytes, value_bytes, value_stored;
    uint32_t tombstones;
    uint64_t seq_min, seq_max;
    const uint8_t *prefix, *key_ends, *suffixes, *fingerprints;
    const uint8_t *kinds; /* NULL: all are LK_KIND_PUT */
    const uint8_t *seqs, *value_ends, *values;
} lk_block_image;

/* Checks the checksum and all lengths of the block that `data` holds whole. */
lk_status lk_block_parse(const uint8_t *data, size_t bytes, const lk_block_source *source,
                         lk_block_image *out, lk_error *err);
/* Into a block that passed lk_block_parse, for a table that has no base; its checksum is then wrong. */
void lk_block_add_seq_base(uint8_t *data, uint64_t seq_base);
/* Keys and values before prefixes and compression. */
uint64_t lk_block_image_raw_bytes(const lk_block_image *image);
/* The whole key of each row, one after another: `row` 0 first. `scratch` holds LK_KEY_BYTES_MAX. */
lk_bytes lk_block_image_key(const lk_block_image *image, uint32_t row, uint8_t *scratch);

/* A new block with one reference. */
lk_status lk_block_decode(const lk_block_image *image, const lk_block_source *source,
                          lk_block **out, lk_error *err);

/* What decoding trusts to the checksum: keys ascend, versions of a key descend, fingerprints are
 * those of the keys of `tree`, `unique` tells the truth. */
lk_status lk_block_check(const lk_block *b, uint32_t tree, const lk_block_source *source,
                         lk_error *err);

#endif
