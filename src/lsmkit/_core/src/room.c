/* room.c: room for a frame in the active segment: another segment, the writer's turn, or a wait.
 *
 * Callers   write.c, for every write that does not fit below `limit`.
 * Threads   waiting is done on `changed`, never with write_lock held.
 * Errors    LK_BUSY after the writer's timeout; what keeps a flush, or a new segment, from being made.
 */
#include "check.h"
#include "frame.h"
#include "pulse.h"
#include "store.h"

/* Who gave no timeout waits no longer than this where scans alone are in the way: it may be the one
 * that holds them. */
#define PINS_PATIENCE_NS UINT64_C(10000000000)
#define PINS_LOOK_NS 5000000u /* nothing tells when a scan ends: the keeper looks too */

typedef struct step { /* of a writer, from one step towards room */
    bool wait;
    bool soon; /* just for the keeper, who is making a file */
    bool pins; /* for scans to end that hold the memory */
} step;

typedef struct waiter {
    uint64_t started_ns;
    uint64_t deadline_ns; /* UINT64_MAX: none */
    bool pins;            /* waits for scans */
} waiter;

/* Waits, without the write lock, until something changes or the deadline is over. */
static lk_status wait_for_change(lk_store *s, uint64_t seen, uint64_t until_ns, const waiter *w,
                                 lk_error *err)
{
    uint64_t now = lk_env_now_ns(s->env);
    if (now >= w->deadline_ns) {
        bool soon = until_ns != UINT64_MAX && until_ns > now;
        uint64_t retry_ns = soon ? until_ns - now : lk_pace_left_ns(s, now);
        if (w->pins) {
            return lk_fail(err, LK_BUSY, 0, s->dir, retry_ns, 0, 0,
                           "no memory for the write: scans and cursors that are held open keep too "
                           "much of what was flushed meanwhile");
        }
        return lk_fail(err, LK_BUSY, 0, s->dir, retry_ns, 0, 0,
                       "no room for the write within its timeout: %u segments wait for flush",
                       atomic_load_explicit(&s->frozen, memory_order_relaxed));
    }
    uint64_t end = until_ns < w->deadline_ns ? until_ns : w->deadline_ns;
    (void)lk_event_wait_ns(&s->changed, seen,
                           end == UINT64_MAX ? LK_EVENT_FOREVER : (end > now ? end - now : 0));
    return LK_OK;
}

/* A segment of the usual size, or one that a larger frame fits into; made here only when the keeper
 * has none of that size. The write lock is held. */
static lk_status spare_for(lk_store *s, uint64_t frame_bytes, lk_segment **out, lk_error *err)
{
    uint64_t need = frame_bytes + LK_SEGMENT_HEADER_BYTES;
    *out = NULL;
    if (need <= s->options.segment_bytes) {
        *out = s->spare;
        s->spare = NULL;
        return LK_OK;
    }
    if (need > LK_SEGMENT_BYTES_MAX) {
        return lk_fail(err, LK_INVALID, 0, s->dir, 0, LK_SEGMENT_BYTES_MAX, need,
                       "a write of %llu bytes is larger than the largest log segment, %u bytes",
                       (unsigned long long)frame_bytes, LK_SEGMENT_BYTES_MAX);
    }
    lk_segment_plan plan = {
        .env = s->env,
        .dir = s->dir,
        .generation = s->next_generation++,
        .capacity = (uint32_t)lk_align_up(need, LK_PAGE_BYTES),
        .expected = 1024,
        .mapped = s->mapped,
    };
    lk_status st = lk_segment_prepare(&plan, NULL, out, err);
    if (st != LK_OK) return st;
    if (s->spare != NULL) {
        /* Its generation is older than the one just made: it may not follow it. */
        char path[LK_PATH_MAX];
        lk_segment_path(s->dir, s->spare->generation, path, sizeof path);
        st = lk_env_unlink(s->env, path, err);
        lk_segment_unref(s->spare);
        s->spare = NULL;
    }
    if (st == LK_OK) st = lk_env_sync_dir(s->env, s->dir, err);
    if (st != LK_OK) {
        lk_segment_unref(*out);
        *out = NULL;
    }
    return st;
}

/* `fresh` becomes the active segment, the one before is frozen. The write lock is held; `fresh` is
 * consumed. */
static lk_status rotate(lk_store *s, lk_segment *fresh, lk_error *err)
{
    lk_status st = LK_OK;
    lk_segment *old = s->active;
    uint32_t end = old != NULL ? old->tail : s->previous_end;
    uint32_t link = old != NULL ? old->link : s->previous_link;
    uint64_t seq = old != NULL ? old->base_seq + old->count : s->next_seq;
    LK_TRY(lk_segment_activate(fresh, seq, end, link, err));
    LK_TRY(lk_store_install(s, NULL, 0, fresh, err));
    s->active = fresh; /* the view holds it too; this is the writer's reference */
    fresh = NULL;
    s->newest_generation = s->active->generation;
    /* Before its first record is acknowledged: whoever hears of that finds the segment. */
    if (s->pulse != NULL) (void)lk_pulse_generation(s->pulse, s->newest_generation, NULL);
    s->fill_to = 0;
    s->limit = s->active->position; /* the next writer asks how fast it may go */
    if (old != NULL) {
        lk_segment_unref(old);
        atomic_fetch_add_explicit(&s->frozen, 1, memory_order_relaxed);
        lk_store_wake(s);
    }
    atomic_fetch_add_explicit(&s->counters.rotations, 1, memory_order_relaxed);
    lk_event_signal(&s->keeper_event);
done:
    if (fresh != NULL) {
        /* Its header may be there: a segment that the log does not go on with must not be found. */
        char path[LK_PATH_MAX];
        lk_segment_path(s->dir, fresh->generation, path, sizeof path);
        (void)lk_env_unlink(s->env, path, NULL);
        lk_segment_unref(fresh);
    }
    return st;
}

/* Waiting for a flush that cannot succeed would be for ever: its error goes to the writer. */
static lk_status flush_failure(lk_store *s, lk_error *err)
{
    lk_status st = LK_OK;
    pthread_mutex_lock(&s->queue_mutex);
    if (s->flush_retry_ns != 0) {
        st = s->background_error.code;
        if (err != NULL) *err = s->background_error;
    }
    pthread_mutex_unlock(&s->queue_mutex);
    return st;
}

/* One step towards room in the active segment: rotates, or says what there is to wait for. The write
 * lock is held. */
static lk_status make_room(lk_store *s, uint64_t frame_bytes, step *out, lk_error *err)
{
    lk_segment *fresh;
    lk_budget memory = lk_budget_ask(s);
    *out = (step){.pins = memory == LK_BUDGET_PINS};
    if (s->held || memory != LK_BUDGET_ROOM ||
        atomic_load_explicit(&s->frozen, memory_order_relaxed) >= s->options.frozen_max ||
        atomic_load_explicit(&s->stopped, memory_order_relaxed) != 0) {
        out->wait = true;
        return flush_failure(s, err);
    }
    atomic_store_explicit(&s->spare_wanted, true, memory_order_relaxed);
    lk_status st = spare_for(s, frame_bytes, &fresh, err);
    if (st != LK_OK) return st;
    if (fresh != NULL) return rotate(s, fresh, err);
    if (s->spare_error.code != LK_OK) {
        if (err != NULL) *err = s->spare_error;
        st = s->spare_error.code;
        s->spare_error.code = LK_OK; /* the keeper tries again: a disk that was full may not be */
        lk_event_signal(&s->keeper_event);
        return st;
    }
    lk_event_signal(&s->keeper_event);
    out->wait = out->soon = true;
    return LK_OK;
}

static void count_wait(lk_store *s, bool paced, uint64_t ns)
{
    lk_store_counters *c = &s->counters;
    atomic_fetch_add_explicit(paced ? &c->slowdowns : &c->stalls, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(paced ? &c->slowdown_ns : &c->stall_ns, ns, memory_order_relaxed);
}

lk_status lk_store_lock_with_room(lk_store *s, uint64_t frame_bytes, bool deletes,
                                  uint64_t timeout_ns, lk_error *err)
{
    /* A timeout bounds the wait for flush and compaction, not that for an empty file. */
    const waiter patient = {.deadline_ns = UINT64_MAX};
    waiter w = {.started_ns = lk_env_now_ns(s->env)};
    w.deadline_ns = timeout_ns > UINT64_MAX - w.started_ns ? UINT64_MAX : w.started_ns + timeout_ns;
    waiter pinned = w;
    pinned.pins = true;
    if (pinned.deadline_ns == UINT64_MAX) pinned.deadline_ns = w.started_ns + PINS_PATIENCE_NS;
    for (;;) {
        step n = {0};
        bool paced = false;
        uint64_t until = UINT64_MAX, left = UINT64_MAX, seen = lk_event_generation(&s->changed);
        lk_lock_acquire(&s->write_lock);
        lk_status st = LK_OK;
        if (atomic_load_explicit(&s->state, memory_order_relaxed) != LK_STATE_OPEN) {
            st = lk_store_closed_error(s, err);
        } else {
            st = lk_store_failure(s, err);
        }
        if (st == LK_OK && lk_store_fits(s, frame_bytes)) return LK_OK;
        bool room = s->active != NULL && s->active->position + frame_bytes <= s->active->capacity;
        if (st == LK_OK) st = lk_store_disk_left(s, frame_bytes, deletes, &left, err);
        if (st == LK_OK) {
            if (room) {
                n.wait = paced = !lk_pace_step(s, frame_bytes, &until);
            } else {
                st = make_room(s, frame_bytes, &n, err);
            }
        }
        if (st == LK_OK && !n.wait && left < s->limit - s->active->position) {
            s->limit = s->active->position + (uint32_t)left; /* there the next writer looks again */
        }
        if (st == LK_OK && !n.wait && lk_store_fits(s, frame_bytes)) return LK_OK;
        if (st == LK_OK && room && !n.wait) {
            /* The keeper has not come so far with the blocks of the file. */
            n.wait = true;
            s->fill_to = s->active->position + frame_bytes;
            lk_event_signal(&s->keeper_event);
        }
        lk_lock_release(&s->write_lock);
        if (st != LK_OK) return st;
        if (!n.wait) continue;
        uint64_t from = lk_env_now_ns(s->env);
        if (n.pins) {
            until = from + PINS_LOOK_NS;
            lk_event_signal(&s->keeper_event);
        }
        st = wait_for_change(s, seen, until, n.soon ? &patient : n.pins ? &pinned : &w, err);
        if (st != LK_OK) return st;
        count_wait(s, paced, lk_env_now_ns(s->env) - from);
    }
}
