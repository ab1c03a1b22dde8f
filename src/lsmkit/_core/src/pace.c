/* pace.c: how fast writers may go while the background has something to catch up with.
 *
 * Two limits, and the lower one holds. Compaction's is set from outside (lk_store_set_rate). The log's
 * is made here: while a flush runs, writers may use up the room that is left just when it is expected
 * to end, so they are slowed long before they would have to stop. One that takes longer than expected
 * is always believed to need another quarter: the room then shrinks ever more slowly, and lasts.
 *
 *   room = what the active segment has left + the segments that may yet be frozen
 *   rate = room / time until the flush ends;  from twice the rate of flushes on there is no limit
 *
 * Callers   room.c, when a writer meets `limit`; background.c says when a flush begins and ends.
 * Threads   what is in lk_pace is guarded by write_lock.
 */
#include "check.h"
#include "store.h"

#define PIECE_NS 4000000u  /* a slowed writer gets the bytes of so long at a time, and then waits */
#define CREDIT_NS 8000000u /* what a wait that took too long gives back, at most */
#define STRIDE (4u << 20) /* so often a writer tells the keeper to make pages present ahead of it */
#define LOOK_BYTES                                                                                 \
    65536u /* while a flush runs the rate is looked at every sixteenth of a segment */
#define LOOKS_A_SEGMENT 16u /* ... or so many bytes */
#define FLUSH_GUESS_NS 4.0  /* of a byte of log, until it was measured: slow */
#define EXPECT_FACTOR 1.5   /* beside compaction a flush may well take longer than the mean */
#define OVERDUE_SHARE 4u    /* of the expected time */
#define LEAST_WAIT_NS                                                                              \
    1000000u            /* so soon at the earliest a writer that was refused may come again */
#define FREE_FACTOR 2.0 /* times the rate of flushes: more room than that does not slow anybody */

void lk_pace_init(lk_pace *p) { *p = (lk_pace){.flush_ns_per_byte = FLUSH_GUESS_NS}; }

void lk_pace_flush_began(lk_store *s, uint64_t now_ns, uint64_t log_bytes)
{
    lk_lock_acquire(&s->write_lock);
    s->pace.flush_started_ns = now_ns;
    s->pace.flush_bytes = log_bytes;
    lk_lock_release(&s->write_lock);
}

void lk_pace_flush_ended(lk_store *s, uint64_t now_ns, bool published)
{
    lk_lock_acquire(&s->write_lock);
    lk_pace *p = &s->pace;
    if (published && p->flush_bytes > 0) {
        double each = (double)(now_ns - p->flush_started_ns) / (double)p->flush_bytes;
        p->flush_ns_per_byte = (p->flush_ns_per_byte + each) / 2;
    }
    p->flush_started_ns = 0;
    p->flush_fails = !published;
    p->next_ns = 0; /* who waits looks again: there is room */
    lk_lock_release(&s->write_lock);
}

/* Until there will be room again, as far as one can tell. The write lock is held. */
static uint64_t flush_left_ns(const lk_store *s, uint32_t frozen, uint64_t now_ns)
{
    const lk_pace *p = &s->pace;
    bool runs = p->flush_started_ns != 0;
    uint64_t bytes = runs ? p->flush_bytes : frozen * s->options.segment_bytes;
    uint64_t expected = 1 + (uint64_t)((double)bytes * p->flush_ns_per_byte * EXPECT_FACTOR);
    uint64_t passed = runs && now_ns > p->flush_started_ns ? now_ns - p->flush_started_ns : 0;
    uint64_t least = 1 + expected / OVERDUE_SHARE;
    return passed + least < expected ? expected - passed : least;
}

/* How much may be written in a nanosecond before writers would have to stop, as a multiple of what
 * flushes take up; above FREE_FACTOR that is no limit. The write lock is held. */
static double log_share(const lk_store *s, uint64_t now_ns)
{
    uint32_t frozen = atomic_load_explicit(&s->frozen, memory_order_relaxed);
    const lk_segment *a = s->active;
    /* Who waits for a flush that fails would never hear why: there is no limit then but the stop. */
    if (frozen == 0 || s->pace.flush_fails || s->options.read_only) return FREE_FACTOR;
    uint64_t room = a != NULL ? a->capacity - a->position : 0;
    if (frozen < s->options.frozen_max) {
        room += (s->options.frozen_max - frozen) * s->options.segment_bytes;
    }
    return (double)room * s->pace.flush_ns_per_byte / (double)flush_left_ns(s, frozen, now_ns);
}

/* Where a writer that nothing slows next looks up: at the end of the segment, or to wake the keeper. */
static uint32_t next_stop(const lk_segment *a, uint64_t frame_bytes, uint64_t stride)
{
    uint64_t stop = lk_align_up(a->position + 1, stride);
    if (stop < a->position + frame_bytes) stop = a->position + frame_bytes;
    uint32_t filled = atomic_load_explicit(&a->filled, memory_order_acquire);
    return stop < filled ? (uint32_t)stop : filled;
}

static uint64_t look_bytes(const lk_store *s)
{
    uint64_t bytes = s->options.segment_bytes / LOOKS_A_SEGMENT;
    if (bytes < LOOK_BYTES) return LOOK_BYTES;
    return bytes < STRIDE ? bytes : STRIDE;
}

bool lk_pace_step(lk_store *s, uint64_t frame_bytes, uint64_t *out_until)
{
    lk_pace *p = &s->pace;
    uint64_t now = lk_env_now_ns(s->env);
    double share = log_share(s, now);
    double rate = share < FREE_FACTOR ? share / p->flush_ns_per_byte : 0; /* bytes a nanosecond */
    double set = (double)atomic_load_explicit(&s->write_rate, memory_order_relaxed) / 1e9;
    if (set > 0 && (rate <= 0 || set < rate)) rate = set;
    if (rate <= 0 && share < FREE_FACTOR) rate = 1e-9;
    lk_event_signal(&s->keeper_event);
    if (rate <= 0) {
        bool flushes = atomic_load_explicit(&s->frozen, memory_order_relaxed) != 0;
        s->limit = next_stop(s->active, frame_bytes, flushes ? look_bytes(s) : STRIDE);
        return true;
    }
    if (now < p->next_ns) {
        *out_until = p->next_ns;
        return false;
    }
    uint64_t piece = (uint64_t)(rate * PIECE_NS);
    if (piece > STRIDE) piece = STRIDE;
    if (piece < frame_bytes) piece = frame_bytes;
    uint64_t limit = s->active->position + piece;
    uint32_t filled = atomic_load_explicit(&s->active->filled, memory_order_acquire);
    s->limit = limit < filled ? (uint32_t)limit : filled;
    uint64_t from = now - p->next_ns < CREDIT_NS ? p->next_ns : now;
    p->next_ns = from + (uint64_t)((double)piece / rate);
    return true;
}

uint64_t lk_pace_left_ns(lk_store *s, uint64_t now_ns)
{
    lk_lock_acquire(&s->write_lock);
    uint32_t frozen = atomic_load_explicit(&s->frozen, memory_order_relaxed);
    uint64_t left_ns = flush_left_ns(s, frozen, now_ns);
    lk_lock_release(&s->write_lock);
    return left_ns > LEAST_WAIT_NS ? left_ns : LEAST_WAIT_NS;
}

double lk_store_pressure(lk_store *s)
{
    uint64_t now = lk_env_now_ns(s->env);
    lk_lock_acquire(&s->write_lock);
    double pressure = 1 - log_share(s, now) / FREE_FACTOR;
    lk_lock_release(&s->write_lock);
    return pressure < 0 ? 0 : pressure;
}

void lk_store_set_rate(lk_store *s, uint64_t bytes_per_second, bool stop)
{
    bool same = atomic_exchange(&s->write_rate, bytes_per_second) == bytes_per_second;
    same = atomic_exchange(&s->stopped, stop) == stop && same;
    if (same) return;
    lk_lock_acquire(&s->write_lock);
    /* The next writer looks at the rate. */
    if (s->limit != 0 && bytes_per_second != 0) s->limit = s->active->position;
    lk_lock_release(&s->write_lock);
    lk_event_broadcast(&s->changed);
}
