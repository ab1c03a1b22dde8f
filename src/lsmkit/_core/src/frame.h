/* frame.h: the checksums of the log, shared by those who write frames and those who read them back.
 *
 * A record's checksum takes the hash of its key (made anyway, for the index), its header as a
 * number, its place, and the value's bytes; a frame's is their sum, so that records are hashed
 * independently of each other, from the caller's bytes where that is cheaper than from the log's.
 */
#ifndef LK_FRAME_H
#define LK_FRAME_H

#include "segment.h"

#define LK_LOG_VERSION 1u

static inline uint64_t lk_record_hash_parts(uint64_t head, uint64_t key_hash, const uint8_t *value,
                                            size_t value_len, uint64_t nonce, uint32_t location)
{
    uint64_t place = lk_hash_fold(head ^ UINT64_C(0xA0761D6478BD642F),
                                  lk_frame_seed(nonce, location) ^ UINT64_C(0xE7037ED1A0B428DB));
    return XXH3_64bits_withSeed(value, value_len, key_hash + place);
}

static inline uint64_t lk_record_hash(const lk_record *r, uint64_t key_hash, uint64_t nonce,
                                      uint32_t location)
{
    return lk_record_hash_parts(lk_record_head(r->tree, r->kind, r->key_len, r->value_len),
                                key_hash, r->value, r->value_len, nonce, location);
}

static inline uint32_t lk_frame_body_hash(uint64_t sum) { return (uint32_t)(sum ^ sum >> 32); }

/* Of the header's words: length and ordinal, synced and link, body hash. */
static inline uint32_t lk_frame_header_hash(uint64_t seed, uint64_t w0, uint64_t w1, uint32_t body)
{
    uint64_t h =
        lk_hash_fold(w0 ^ seed ^ UINT64_C(0x8EBC6AF09C88C6E3), w1 ^ UINT64_C(0x589965CC75374CC3));
    h = lk_hash_fold(h ^ body, seed ^ UINT64_C(0x1D8E4E27C47D124F));
    return (uint32_t)(h ^ h >> 32);
}

/* `out` takes LK_SEGMENT_HEADER_BYTES; gives the link of the segment's first frame. */
uint32_t lk_segment_header_write(const lk_segment_header *h, uint8_t *out);
/* Whether `bytes` were never written: zeros, as a prepared segment has them for a header. */
bool lk_segment_header_is_blank(const uint8_t *bytes);
/* Of the 16 bytes of the machine's boot id; 0 when those are zeros, which is "not known". */
uint64_t lk_boot_number(lk_env *env);

#endif
