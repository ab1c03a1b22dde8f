/* record.h: one write as it stands in a log segment.
 *
 *   0           2      3       4            8
 *   +-----------+------+-------+------------+--------+-----+-------+
 *   | key bytes | kind | flags | value bytes| tree?  | key | value |      unaligned, little-endian
 *   +-----------+------+-------+------------+--------+-----+-------+
 *
 * `tree` is there when LK_RECORD_TREE is set; without it the record belongs to tree 0.
 */
#ifndef LK_RECORD_H
#define LK_RECORD_H

#include "bytes.h"
#include "row.h"

#define LK_RECORD_HEADER_BYTES 8u
#define LK_RECORD_TREE 0x01u  /* a tree number (u32) follows the header */
#define LK_RECORD_FLAGS 0x01u /* all flags that this version knows */

typedef struct lk_record {
    const uint8_t *key;
    const uint8_t *value;
    uint32_t key_len;
    uint32_t value_len;
    uint32_t tree;
    lk_kind kind;
} lk_record;

static inline size_t lk_record_bytes(uint32_t tree, size_t key_len, size_t value_len)
{
    return LK_RECORD_HEADER_BYTES + (tree != 0 ? 4 : 0) + key_len + value_len;
}

/* The header as a number: it is part of what a frame's checksum covers. */
static inline uint64_t lk_record_head(uint32_t tree, lk_kind kind, size_t key_len, size_t value_len)
{
    return (uint64_t)key_len | (uint64_t)kind << 16 |
           (uint64_t)(tree != 0 ? LK_RECORD_TREE : 0) << 24 | (uint64_t)value_len << 32;
}

/* A record that is known to be whole. */
static inline lk_record lk_record_at(const uint8_t *p)
{
    uint64_t head = lk_load64(p);
    lk_record r = {
        .key_len = (uint32_t)(head & 0xFFFF),
        .kind = (lk_kind)(head >> 16 & 0xFF),
        .value_len = (uint32_t)(head >> 32),
    };
    p += LK_RECORD_HEADER_BYTES;
    if ((head >> 24 & LK_RECORD_TREE) != 0) {
        r.tree = lk_load32(p);
        p += 4;
    }
    r.key = p;
    r.value = p + r.key_len;
    return r;
}

#endif
