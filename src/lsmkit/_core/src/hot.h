/* hot.h: the keys that were written most often lately: in the last flushes, and in what the log holds.
 *
 * Writers pay nothing. A flush hands over what it has counted by the way (top.h); live segments are
 * looked through when somebody asks.
 *
 * Owns      the tops of the last flushes.
 * Callers   background.c after a flush; the border asks.
 * Threads   any; `lock` is innermost.
 */
#ifndef LK_HOT_H
#define LK_HOT_H

#include "lock.h"
#include "top.h"

struct lk_store;

#define LK_HOT_FLUSHES_MAX 32u

typedef struct lk_hot_flush {
    uint64_t first;      /* generation of its first segment */
    uint64_t generation; /* of its last */
    uint64_t bytes;      /* of log */
    lk_top *tops;        /* a tree each */
} lk_hot_flush;

typedef struct lk_hot {
    lk_lock lock;
    lk_hot_flush flushes[LK_HOT_FLUSHES_MAX]; /* oldest first; guarded by lock */
    uint32_t count;
} lk_hot;

void lk_hot_init(lk_hot *h);
void lk_hot_deinit(lk_hot *h);
/* Takes the tops over, before the flush is published: as long as its segments are live, and for good if
 * it fails, it does not count. Older ones go that lie `bytes_max` bytes of log back. */
void lk_hot_add(lk_hot *h, const lk_hot_flush *flush, uint64_t bytes_max);

typedef struct lk_hot_key {
    uint8_t *key;
    uint32_t key_len;
    uint64_t count; /* how often it was written, at most */
    uint64_t error; /* ... and at least count - error times */
} lk_hot_key;

/* Up to `n` keys of a tree, those with the highest counts first, of `out_total` writes. Blocks; looks at
 * each record of the log twice. `out` is given back with lk_hot_keys_free. */
lk_status lk_store_hot_keys(struct lk_store *s, uint32_t tree, size_t n, lk_hot_key **out,
                            size_t *out_count, uint64_t *out_total, lk_error *err);
void lk_hot_keys_free(lk_hot_key *keys, size_t count);

#endif
