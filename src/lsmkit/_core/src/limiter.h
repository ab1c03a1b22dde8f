/* limiter.h: bytes a second that background jobs may write together (a token bucket). */
#ifndef LK_LIMITER_H
#define LK_LIMITER_H

#include <stdatomic.h>
#include <stdint.h>

#include "env.h"
#include "lock.h"

typedef struct lk_limiter {
    lk_env *env;
    _Atomic uint64_t bytes_per_second; /* 0: no limit */
    lk_lock lock;
    uint64_t free_at_ns; /* guarded by lock: when the bucket has been paid off */
    lk_event idle;       /* waiting on it is how a job sleeps; signalled when the limit is lifted */
} lk_limiter;

void lk_limiter_init(lk_limiter *l, lk_env *env, uint64_t bytes_per_second);
void lk_limiter_deinit(lk_limiter *l);
/* No limit from now on, also for who waits. */
void lk_limiter_lift(lk_limiter *l);
/* Waits until `bytes` may be written, or until *cancel (may be NULL) becomes true. */
void lk_limiter_take(lk_limiter *l, uint64_t bytes, const atomic_bool *cancel);

#endif
