/* stamp.h: deadlines, put into records at the moment they go into the log.
 *
 * How long a row lives counts from its commit. So the deadline, and the time at which an operand says
 * that it was written, are read from the clock under the write lock: a later commit never has an
 * earlier time, and who has seen the log under that lock knows what can still come.
 *
 * Owns      nothing.
 * Callers   write.c.
 */
#ifndef LK_STAMP_H
#define LK_STAMP_H

#include "record.h"
#include "settings.h"

/* What a put or an operand that lives for `ttl_us` (LK_TTL_NONE: for ever) is stored as. */
typedef struct lk_stamp {
    lk_kind kind;
    uint32_t head_bytes;
    uint8_t head[LK_HEAD_BYTES_MAX];
} lk_stamp;

static inline lk_stamp lk_stamp_make(lk_kind kind, uint64_t ttl_us, uint64_t now_us)
{
    lk_stamp s = {.kind = kind};
    if (ttl_us == LK_TTL_NONE || kind == LK_KIND_DELETE || kind == LK_KIND_DELETE_RANGE) return s;
    s.kind |= LK_KIND_UNTIL;
    s.head_bytes = lk_kind_head_bytes(s.kind);
    lk_store64(s.head, now_us);
    lk_store64(s.head + s.head_bytes - 8,
               ttl_us < UINT64_MAX - now_us ? now_us + ttl_us : UINT64_MAX);
    return s;
}

/* Records of a batch. Those with a deadline hold, in its place, how long they live; those without one
 * live as long as the settings of their tree say. What they take in the log, and what they are. */
uint64_t lk_stamp_bytes(const lk_settings *settings, const uint8_t *records, uint64_t count);
void lk_stamp_records(const lk_settings *settings, const uint8_t *records, uint64_t count,
                      uint64_t now_us, uint8_t *to);

#endif
