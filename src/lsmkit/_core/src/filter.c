/* filter.c: building a blocked Bloom filter, and checking one that was read.
 *
 * Always    every hash that was added answers "may contain" (LK_ASSERT after building, and again
 *           when a table is verified).
 *
 * Filter block, little-endian (FORMAT.md, Tables, is the authority):
 *   0          8      12       16           24      32         64
 *   +----------+------+--------+------------+-------+----------+---------------------+
 *   | checksum | kind | probes | line count | keys  | zeros    | lines, 64 bytes each |
 *   +----------+------+--------+------------+-------+----------+---------------------+
 */
#include "filter.h"

#include <string.h>

#include "block_memory.h"
#include "check.h"
#include "hash.h"

enum {
    KIND_BLOCKED_BLOOM = 1,
    HASHES_MIN = 4096,
};

/* Memory that goes back to the system at once: a table of a million rows takes 8 MiB of hashes, and
 * malloc would keep them. */
static size_t hashes_bytes(size_t capacity)
{
    return lk_block_memory_size(capacity * sizeof(uint64_t));
}

void lk_filter_builder_deinit(lk_filter_builder *b)
{
    lk_block_memory_give(b->hashes, hashes_bytes(b->capacity));
    *b = (lk_filter_builder){NULL, 0, 0};
}

lk_status lk_filter_builder_reserve(lk_filter_builder *b, size_t more, lk_error *err)
{
    size_t need = b->count + more;
    if (need <= b->capacity) return LK_OK;
    size_t capacity = b->capacity < HASHES_MIN ? HASHES_MIN : 2 * b->capacity;
    if (capacity < need) capacity = need;
    uint64_t *grown = lk_block_memory_take(hashes_bytes(capacity));
    if (grown == NULL) return lk_fail_nomem(err, capacity * sizeof *grown);
    if (b->count > 0) memcpy(grown, b->hashes, b->count * sizeof *grown);
    lk_block_memory_give(b->hashes, hashes_bytes(b->capacity));
    b->hashes = grown;
    b->capacity = capacity;
    return LK_OK;
}

static uint32_t clamp_bits(uint32_t bits_a_key)
{
    return bits_a_key > LK_FILTER_BITS_MAX ? LK_FILTER_BITS_MAX : bits_a_key;
}

static uint32_t line_count(size_t count, uint32_t bits_a_key)
{
    uint64_t line_bits = 8 * LK_FILTER_LINE_BYTES;
    uint64_t lines = ((uint64_t)count * clamp_bits(bits_a_key) + line_bits - 1) / line_bits;
    if (lines == 0) return 1;
    return lines > UINT32_MAX ? UINT32_MAX : (uint32_t)lines;
}

/* 0.6 of the bits a key: less than a plain Bloom filter's 0.69, because lines fill unevenly. */
static uint32_t probe_count(uint32_t bits_a_key)
{
    uint32_t probes = (3 * clamp_bits(bits_a_key) + 2) / 5;
    if (probes < 1) return 1;
    return probes > LK_FILTER_PROBES_MAX ? LK_FILTER_PROBES_MAX : probes;
}

uint64_t lk_filter_bytes(size_t count, uint32_t bits_a_key)
{
    return LK_FILTER_HEADER_BYTES + (uint64_t)line_count(count, bits_a_key) * LK_FILTER_LINE_BYTES;
}

static void set_bits(uint8_t *line, uint64_t hash, uint32_t probes)
{
    uint64_t mix = hash * LK_FILTER_MIX, bits = mix;
    for (uint32_t i = 0; i < probes; i++, bits <<= 9) {
        if (i > 0 && i % LK_FILTER_PROBES_A_MIX == 0) {
            mix *= LK_FILTER_MIX;
            bits = mix;
        }
        uint8_t *word = line + ((bits >> 61) << 3);
        lk_store64(word, lk_load64(word) | (UINT64_C(1) << ((bits >> 55) & 63)));
    }
}

void lk_filter_builder_finish(const lk_filter_builder *b, uint32_t bits_a_key, uint64_t nonce,
                              uint64_t offset, uint8_t *out)
{
    enum { AHEAD = 16 }; /* lines fetched before they are written: the filter is larger than L1 */
    size_t bytes = (size_t)lk_filter_bytes(b->count, bits_a_key);
    memset(out, 0, bytes);
    lk_filter f = {.lines = out + LK_FILTER_HEADER_BYTES,
                   .line_count = line_count(b->count, bits_a_key),
                   .probes = probe_count(bits_a_key)};
    uint8_t *lines = out + LK_FILTER_HEADER_BYTES;
    for (size_t i = 0; i < b->count; i++) {
        if (i + AHEAD < b->count) {
            __builtin_prefetch(lk_filter_line(&f, b->hashes[i + AHEAD]), 1);
        }
        size_t at = (size_t)(lk_filter_line(&f, b->hashes[i]) - f.lines);
        set_bits(lines + at, b->hashes[i], f.probes);
        LK_ASSERT(lk_filter_may_contain(&f, b->hashes[i]));
    }
    lk_store32(out + 8, KIND_BLOCKED_BLOOM);
    lk_store32(out + 12, f.probes);
    lk_store64(out + 16, f.line_count);
    lk_store64(out + 24, b->count);
    lk_store64(out, lk_hash_bytes(nonce, offset, out + 8, bytes - 8));
}

lk_status lk_filter_parse(const uint8_t *data, size_t bytes, const char *path, uint64_t nonce,
                          uint64_t offset, lk_filter *out, lk_error *err)
{
    *out = (lk_filter){NULL, 0, 0};
    if (bytes < LK_FILTER_HEADER_BYTES + LK_FILTER_LINE_BYTES) {
        return lk_fail_corrupt(err, path, offset, LK_FILTER_HEADER_BYTES + LK_FILTER_LINE_BYTES,
                               bytes, "the filter is too short");
    }
    lk_reader r = lk_reader_make(data, LK_FILTER_HEADER_BYTES);
    uint64_t stored = lk_reader_u64(&r);
    uint64_t computed = lk_hash_bytes(nonce, offset, data + 8, bytes - 8);
    if (stored != computed) {
        return lk_fail_corrupt(err, path, offset, stored, computed,
                               "the checksum of the filter does not hold");
    }
    uint32_t kind = lk_reader_u32(&r);
    uint32_t probes = lk_reader_u32(&r);
    uint64_t lines = lk_reader_u64(&r);
    if (kind != KIND_BLOCKED_BLOOM) {
        return lk_fail(err, LK_UNSUPPORTED, 0, path, offset, KIND_BLOCKED_BLOOM, kind,
                       "the filter is of a kind that this version does not read");
    }
    if (probes < 1 || probes > LK_FILTER_PROBES_MAX) {
        return lk_fail_corrupt(err, path, offset + 12, LK_FILTER_PROBES_MAX, probes,
                               "the filter's number of probes is out of range");
    }
    if (lines != (bytes - LK_FILTER_HEADER_BYTES) / LK_FILTER_LINE_BYTES ||
        bytes % LK_FILTER_LINE_BYTES != 0 || lines > UINT32_MAX) {
        return lk_fail_corrupt(err, path, offset + 16, bytes, lines,
                               "the filter's number of lines is not that of its bytes");
    }
    LK_ASSERT((uintptr_t)data % LK_FILTER_LINE_BYTES == 0);
    *out = (lk_filter){data + LK_FILTER_HEADER_BYTES, (uint32_t)lines, probes};
    return LK_OK;
}
