/* top.h: which keys of one tree were written most often, counted exactly.
 *
 * A top keeps the keys with the highest counts, and of all others one number: none has more than
 * `rest`. Tops of different stretches of the log add up: a key that one of them lacks has there
 * between 0 and its rest. So it is with the counters of Space-Saving (Metwally, Agrawal, El Abbadi
 * 2005) and their sums (Agarwal et al., "Mergeable Summaries", 2012); here each part is exact, because
 * a flush has the versions of a key side by side anyway, and of segments in memory two looks at each
 * record can be had.
 *
 * Owns      copies of its keys.
 * Callers   flush.c adds a key at a time; hot.c asks, and counts live segments.
 * Threads   one at a time.
 */
#ifndef LK_TOP_H
#define LK_TOP_H

#include "bytes.h"
#include "segment.h"

#define LK_TOP_KEYS_MAX 128u

typedef struct lk_top_key {
    uint8_t *key;
    uint32_t key_len;
    uint64_t count;
} lk_top_key;

typedef struct lk_top {
    struct lk_top *next; /* of a list */
    uint32_t tree;
    uint32_t count, capacity;
    uint64_t total;   /* of all keys */
    uint64_t rest;    /* no key that is not here has a higher count */
    uint64_t bar;     /* keys with a higher count are taken in */
    lk_top_key *keys; /* the least first: a heap */
} lk_top;

lk_top *lk_top_new(uint32_t tree); /* NULL: no memory */
void lk_top_free_list(lk_top *list);

/* For lk_top_add. Where there is no memory the key is one of the others. */
void lk_top_take(lk_top *top, const uint8_t *key, uint32_t key_len, uint64_t count);

/* A key that was not added before, and how often it was written. */
static inline void lk_top_add(lk_top *top, const uint8_t *key, uint32_t key_len, uint64_t count)
{
    top->total += count;
    if (count > top->bar) {
        lk_top_take(top, key, key_len, count);
    } else if (count > top->rest) {
        top->rest = count;
    }
}

/* Counts the records of `top`'s tree among the first visible[i] records of each segment, which are
 * proved. Looks at each of them twice. */
lk_status lk_top_count(lk_top *top, lk_segment *const *segments, const uint32_t *visible,
                       uint32_t count, lk_error *err);

#endif
