/* filter.h: "is this key surely not in the table?" in one cache line.
 *
 * A blocked Bloom filter (Putze, Sanders and Singler, "Cache-, Hash- and Space-Efficient Bloom
 * Filters", 2007): the hash of a key names one line of 64 bytes, and all its bits are in that line.
 * At 10 bits a key and 6 probes 0.96 % of absent keys pass; building costs 4-10 ns a key, asking
 * 6-12 ns while the filter is in the cache.
 *
 * On disk (FORMAT.md is the authority): a header of 64 bytes, then the lines, so that a filter that
 * is read into memory aligned to 64 bytes is used where it stands.
 *
 * Owns      a builder owns the hashes it collects; an lk_filter borrows the bytes it was read from.
 * Callers   table_write.c builds, table_read.c asks.
 * Threads   a builder belongs to one thread; an lk_filter is immutable.
 * Errors    LK_CORRUPT, LK_UNSUPPORTED, LK_NOMEM.
 */
#ifndef LK_FILTER_H
#define LK_FILTER_H

#include "bytes.h"
#include "status.h"

enum {
    LK_FILTER_LINE_BYTES = 64,
    LK_FILTER_HEADER_BYTES = 64,
    LK_FILTER_BITS_MAX = 64, /* more bits a key are taken as this many */
    LK_FILTER_PROBES_MAX = 14,
};

typedef struct lk_filter {
    const uint8_t *lines; /* aligned to 64 bytes; NULL: there is no filter, everything may be in */
    uint32_t line_count;
    uint32_t probes;
} lk_filter;

/* The line of a key: its upper hash bits, scaled to the number of lines (Lemire's reduction). */
static inline const uint8_t *lk_filter_line(const lk_filter *f, uint64_t hash)
{
    uint64_t line = ((hash >> 32) * f->line_count) >> 32;
    return f->lines + line * LK_FILTER_LINE_BYTES;
}

/* The bits within the line come, 9 at a time from the top, from a product of the hash, so that keys
 * of one line, whose upper bits are alike, differ in them; after 7 probes it is multiplied again. */
#define LK_FILTER_MIX UINT64_C(0x9E3779B97F4A7C15)
#define LK_FILTER_PROBES_A_MIX 7u

static inline bool lk_filter_may_contain(const lk_filter *f, uint64_t hash)
{
    if (f->lines == NULL) return true;
    const uint8_t *line = lk_filter_line(f, hash);
    uint64_t mix = hash * LK_FILTER_MIX, all = 1;
    uint32_t left = f->probes;
    for (;;) {
        uint32_t n = left < LK_FILTER_PROBES_A_MIX ? left : LK_FILTER_PROBES_A_MIX;
        uint64_t bits = mix;
        for (uint32_t i = 0; i < n; i++, bits <<= 9) {
            all &= lk_load64(line + ((bits >> 61) << 3)) >> ((bits >> 55) & 63);
        }
        left -= n;
        if (LK_LIKELY(left == 0)) return (all & 1) != 0;
        mix *= LK_FILTER_MIX;
    }
}

static inline void lk_filter_prefetch(const lk_filter *f, uint64_t hash)
{
    if (f->lines != NULL) __builtin_prefetch(lk_filter_line(f, hash));
}

/* ---- building ---- */

typedef struct lk_filter_builder {
    uint64_t *hashes;
    size_t count, capacity;
} lk_filter_builder;

/* A zeroed builder is ready. */
void lk_filter_builder_deinit(lk_filter_builder *b);
/* Room for `more` hashes: what follows may be added without asking. */
lk_status lk_filter_builder_reserve(lk_filter_builder *b, size_t more, lk_error *err);
static inline void lk_filter_builder_add(lk_filter_builder *b, uint64_t hash)
{
    b->hashes[b->count++] = hash;
}
/* Bytes of the finished filter for `count` keys. */
uint64_t lk_filter_bytes(size_t count, uint32_t bits_a_key);
/* Writes the filter as it stands on disk at `offset` to `out`, lk_filter_bytes long. */
void lk_filter_builder_finish(const lk_filter_builder *b, uint32_t bits_a_key, uint64_t nonce,
                              uint64_t offset, uint8_t *out);

/* ---- reading ---- */

/* `data` is aligned to 64 bytes and stays while `out` is used. `path` is for the error. */
lk_status lk_filter_parse(const uint8_t *data, size_t bytes, const char *path, uint64_t nonce,
                          uint64_t offset, lk_filter *out, lk_error *err);

#endif
