/* row.h: one version of one key, as flush, compaction and cursors hand it on.
 *
 * Owns      nothing: key and value point into a segment or a block that the giver keeps pinned.
 * Always    rows are handed on in order of (key ascending, sequence descending).
 */
#ifndef LK_ROW_H
#define LK_ROW_H

#include <stdint.h>

/* Stored in logs and tables: the numbers are part of the format. */
typedef enum lk_kind {
    LK_KIND_PUT = 1,
    LK_KIND_DELETE = 2,
} lk_kind;

#define LK_SEQ_MAX UINT64_MAX /* as a snapshot: sees everything */

typedef struct lk_row {
    const uint8_t *key;
    const uint8_t *value;
    uint32_t key_len;
    uint32_t value_len;
    uint64_t seq;  /* commit order, from 1 */
    uint64_t hash; /* lk_hash_key(tree, key): filters and fingerprints are made from it */
    lk_kind kind;
} lk_row;

#endif
