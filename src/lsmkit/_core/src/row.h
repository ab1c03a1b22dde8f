/* row.h: one version of one key, as flush, compaction and cursors hand it on, and the kinds of them.
 *
 * A row may have a deadline: LK_KIND_UNTIL is added to its kind, and its value begins with a head
 * that readers strip. From the deadline on it is as if it were deleted.
 *
 *   PUT   | UNTIL    deadline 8 | value
 *   MERGE | UNTIL    written at 8 | deadline 8 | operand      microseconds since 1970, little-endian
 *
 * A put whose value stands apart is a BLOB: behind the head, if it has one, comes a reference (blob.h).
 *
 * Owns      nothing: key and value point into a segment or a block that the giver keeps pinned.
 * Always    rows are handed on in order of (key ascending, sequence descending).
 */
#ifndef LK_ROW_H
#define LK_ROW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bytes.h"

/* Stored in logs and tables: the numbers are part of the format. */
typedef enum lk_kind {
    LK_KIND_PUT = 1,
    LK_KIND_DELETE = 2,
    LK_KIND_MERGE = 3, /* an operand for the older versions of its key */
    LK_KIND_BLOB = 5,  /* of a table alone: a put whose value is elsewhere */
    LK_KIND_UNTIL = 0x10,
    LK_KIND_PUT_UNTIL = LK_KIND_PUT | LK_KIND_UNTIL,
    LK_KIND_MERGE_UNTIL = LK_KIND_MERGE | LK_KIND_UNTIL,
    LK_KIND_BLOB_UNTIL = LK_KIND_BLOB | LK_KIND_UNTIL,
    LK_KIND_DELETE_RANGE =
        4, /* of a log alone: all keys from the key up to the value; "": to the end */
} lk_kind;

#define LK_TREE_POSITIONS 1u /* key: a source; value: 8 bytes, its position */

#define LK_SEQ_MAX UINT64_MAX /* as a snapshot: sees everything */
#define LK_HEAD_BYTES_MAX 16u
#define LK_BLOB_REF_BYTES 32u
#define LK_STORED_BYTES_MAX (LK_VALUE_BYTES_MAX + LK_HEAD_BYTES_MAX) /* a value with its head */

/* Bit k: a row of kind k may stand in a table. */
#define LK_KINDS                                                                                   \
    (UINT32_C(1) << LK_KIND_PUT | UINT32_C(1) << LK_KIND_DELETE | UINT32_C(1) << LK_KIND_MERGE |   \
     UINT32_C(1) << LK_KIND_PUT_UNTIL | UINT32_C(1) << LK_KIND_MERGE_UNTIL |                       \
     UINT32_C(1) << LK_KIND_BLOB | UINT32_C(1) << LK_KIND_BLOB_UNTIL)

static inline bool lk_kind_is_known(uint32_t kind) { return kind < 32 && (LK_KINDS >> kind & 1); }
static inline bool lk_kind_is_blob(lk_kind kind)
{
    return (kind & ~(unsigned)LK_KIND_UNTIL) == LK_KIND_BLOB;
}
static inline bool lk_kind_is_logged(uint32_t kind)
{
    if (kind == LK_KIND_DELETE_RANGE) return true;
    return lk_kind_is_known(kind) && !lk_kind_is_blob((lk_kind)kind);
}

static inline bool lk_kind_is_merge(lk_kind kind)
{
    return (kind & ~(unsigned)LK_KIND_UNTIL) == LK_KIND_MERGE;
}

/* Bytes that the value of such a row begins with, and that are none of its value. */
static inline uint32_t lk_kind_head_bytes(lk_kind kind)
{
    if ((kind & LK_KIND_UNTIL) == 0) return 0;
    return kind == LK_KIND_MERGE_UNTIL ? 16 : 8;
}

/* Whether a value of this length has the head, or is the reference, that its kind asks for. */
static inline bool lk_kind_fits(lk_kind kind, uint64_t value_len)
{
    uint32_t head = lk_kind_head_bytes(kind);
    return lk_kind_is_blob(kind) ? value_len == head + LK_BLOB_REF_BYTES : value_len >= head;
}

/* Of a row that has one. `value` is the stored one, with its head. */
static inline uint64_t lk_kind_deadline(lk_kind kind, const uint8_t *value)
{
    return lk_load64(value + lk_kind_head_bytes(kind) - 8);
}

/* What the program calls it: "put", "delete", "merge", "delete_range". */
static inline const char *lk_kind_name(lk_kind kind)
{
    switch (kind & ~(unsigned)LK_KIND_UNTIL) {
    case LK_KIND_DELETE:
        return "delete";
    case LK_KIND_MERGE:
        return "merge";
    case LK_KIND_DELETE_RANGE:
        return "delete_range";
    default:
        return "put";
    }
}

typedef struct lk_row {
    const uint8_t *key;
    const uint8_t *value;
    uint32_t key_len;
    uint32_t value_len;
    uint64_t seq;  /* commit order, from 1 */
    uint64_t hash; /* lk_hash_key(tree, key): filters and fingerprints are made from it */
    lk_kind kind;
} lk_row;

/* Where versions must stay apart: between two of them lies a snapshot. */
typedef struct lk_snapshots {
    const uint64_t *seqs; /* descending */
    size_t count;
} lk_snapshots;

/* Whether a snapshot sees the version `seq`, and not the next newer one, `newer`. */
static inline bool lk_snapshots_between(const lk_snapshots *s, uint64_t seq, uint64_t newer)
{
    size_t low = 0, high = s->count; /* first snapshot that is less than `newer` */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s->seqs[middle] >= newer) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < s->count && s->seqs[low] >= seq;
}

#endif
