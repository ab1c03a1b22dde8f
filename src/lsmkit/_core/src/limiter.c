/* limiter.c: the token bucket that all background writes of a store draw from.
 *
 * Callers   table_write.c, before each write of 256 KiB or more.
 * Threads   any; a caller reserves its place in time under the lock and waits outside it.
 * Always    a write pays before the next one, not before itself: so a single write larger than a
 *           second's bytes goes through, and the long-run rate still holds.
 */
#include "limiter.h"

#include "check.h"

/* How long a cancelled job may go on sleeping. */
#define SLICE_NS UINT64_C(10000000)

void lk_limiter_init(lk_limiter *l, lk_env *env, uint64_t bytes_per_second)
{
    l->env = env;
    atomic_init(&l->bytes_per_second, bytes_per_second);
    l->free_at_ns = 0;
    lk_lock_init(&l->lock);
    lk_event_init(&l->idle);
}

void lk_limiter_deinit(lk_limiter *l)
{
    lk_event_deinit(&l->idle);
    lk_lock_deinit(&l->lock);
}

static uint64_t rate_of(const lk_limiter *l)
{
    return atomic_load_explicit(&l->bytes_per_second, memory_order_relaxed);
}

void lk_limiter_lift(lk_limiter *l)
{
    atomic_store_explicit(&l->bytes_per_second, 0, memory_order_relaxed);
    lk_event_broadcast(&l->idle);
}

/* Nanoseconds from now until the caller's turn. */
static uint64_t reserve(lk_limiter *l, uint64_t bytes, uint64_t rate)
{
    uint64_t cost_ns = (uint64_t)((double)bytes * 1e9 / (double)rate);
    lk_lock_acquire(&l->lock);
    uint64_t now = lk_env_now_ns(l->env);
    uint64_t turn = l->free_at_ns > now ? l->free_at_ns : now;
    l->free_at_ns = turn + cost_ns;
    lk_lock_release(&l->lock);
    return turn - now;
}

static bool is_cancelled(const atomic_bool *cancel)
{
    return cancel != NULL && atomic_load_explicit(cancel, memory_order_relaxed);
}

void lk_limiter_take(lk_limiter *l, uint64_t bytes, const atomic_bool *cancel)
{
    uint64_t rate = rate_of(l);
    if (rate == 0 || bytes == 0) return;
    uint64_t left_ns = reserve(l, bytes, rate);
    /* Slices are counted down rather than the clock read again: a clock that stands still in a
     * test must not make this endless. */
    while (left_ns > 0 && rate_of(l) != 0 && !is_cancelled(cancel)) {
        uint64_t slice = left_ns < SLICE_NS ? left_ns : SLICE_NS;
        (void)lk_event_wait_ns(&l->idle, lk_event_generation(&l->idle), slice);
        left_ns -= slice;
    }
}
