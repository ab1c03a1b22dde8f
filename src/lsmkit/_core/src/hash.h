/* hash.h: the one hash of (tree, key), made once an operation, and the checksums of files.
 *
 * XXH3 is the library's, inlined. `lk_hash_key` serves the hash index, the filters, fingerprints
 * and shards; its value is part of the format of tables (filters, fingerprints).
 */
#ifndef LK_HASH_H
#define LK_HASH_H

#include <stddef.h>
#include <stdint.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

static inline uint64_t lk_hash_key(uint32_t tree, const uint8_t *key, size_t len)
{
    return XXH3_64bits_withSeed(key, len, (uint64_t)tree * UINT64_C(0x9E3779B97F4A7C15));
}

/* The byte kept beside each row of a block; bits that neither filter nor hash index lean on. */
static inline uint8_t lk_hash_fingerprint(uint64_t hash) { return (uint8_t)(hash >> 24); }

/* Checksum of a run of bytes at `offset` of a file with `nonce`: a block that stands in the wrong
 * place, or in another file, does not pass. */
static inline uint64_t lk_hash_bytes(uint64_t nonce, uint64_t offset, const void *data, size_t len)
{
    return XXH3_64bits_withSeed(data, len, nonce ^ (offset * UINT64_C(0x9FB21C651E98DF25)));
}

/* 64 x 64 -> 128 multiplication, halves folded: the mixing step of wyhash. */
static inline uint64_t lk_hash_fold(uint64_t a, uint64_t b)
{
    __uint128_t p = (__uint128_t)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

#endif
