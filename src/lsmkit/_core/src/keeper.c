/* keeper.c: the thread that looks after a store's log segments and what readers leave behind.
 *
 * It makes segments before writers need them, populates their pages ahead of the writer, recycles
 * what was flushed, lets go of replaced views, does the periodic sync, and what opening has put off.
 *
 * Owns      the spare segment and those that wait for their next use.
 * Callers   background.c starts and ends it.
 * Threads   the keeper's own; lk_store_keep_nothing once it has ended.
 * Errors    why no spare segment can be had is kept for the writer that needs it.
 */
#include "check.h"
#include "store.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#define POPULATE_STEP (1u << 20) /* bytes made present in one call, so that close is not held up */
#define POPULATE_AHEAD (16u << 20)
#define FILL_AHEAD (4u << 20)
#define RETIRED_KEPT 2u    /* flushed segments that wait for their next use: two may come at once */
#define IDLE_NS 500000000u /* the keeper looks for unpinned segments at least so often */

static void limbo_drain(lk_store *s)
{
    lk_view *views[64];
    lk_lock_acquire(&s->view_lock);
    uint32_t n = s->limbo_count;
    memcpy(views, s->limbo, n * sizeof *views);
    s->limbo_count = 0;
    lk_lock_release(&s->view_lock);
    if (n == 0) return;
    lk_guard_sync(&s->guard);
    for (uint32_t i = 0; i < n; i++) lk_view_unref(views[i]);
}

/* Consumes the reference. */
static void segment_forget(lk_store *s, lk_segment *segment)
{
    char path[LK_PATH_MAX];
    lk_segment_path(s->dir, segment->generation, path, sizeof path);
    /* A file that stays behind is removed at the next open: the manifest has retired it. */
    (void)lk_env_unlink(s->env, path, NULL);
    if (atomic_load_explicit(&segment->refs, memory_order_acquire) != 1) {
        lk_budget_pin(s, segment);
    } else {
        lk_segment_unref(segment);
    }
}

/* A flushed segment that nobody pins any more and that another generation can use. */
static lk_segment *take_recyclable(lk_store *s)
{
    lk_segment *found = NULL;
    lk_lock_acquire(&s->view_lock);
    for (uint32_t i = 0; i < s->retired_count && found == NULL; i++) {
        lk_segment *segment = s->retired[i];
        uint64_t links = 0;
        if (segment->recovered || segment->capacity != s->options.segment_bytes ||
            atomic_load_explicit(&segment->refs, memory_order_acquire) != 1 ||
            lk_file_links(segment->file, &links, NULL) != LK_OK || links != 1) {
            continue;
        }
        found = segment;
        s->retired[i] = s->retired[--s->retired_count];
    }
    lk_lock_release(&s->view_lock);
    return found;
}

/* A reader that is opening the store, or moving on, may have one of them before its eyes. */
static bool logs_may_go(lk_store *s)
{
    lk_lock_acquire(&s->view_lock);
    bool any = s->retired_count > 0;
    lk_lock_release(&s->view_lock);
    return any && !lk_readers_arrive(&s->readers);
}

/* Of what is retired `keep` segments wait for their next use; the rest is given back. What waits keeps
 * its blocks and its index, and gives its pages back to the kernel. */
static void retired_trim(lk_store *s, uint32_t keep)
{
    lk_segment *dropped[64], *waiting[RETIRED_KEPT];
    uint32_t n = 0, kept = 0;
    LK_ASSERT(keep <= RETIRED_KEPT);
    lk_lock_acquire(&s->view_lock);
    for (uint32_t i = 0; i < s->retired_count; i++) {
        lk_segment *segment = s->retired[i];
        bool usable = !segment->recovered && segment->capacity == s->options.segment_bytes;
        if (usable && kept < keep) {
            waiting[kept] = segment;
            s->retired[kept++] = segment;
        } else {
            dropped[n++] = segment;
        }
    }
    s->retired_count = kept;
    lk_lock_release(&s->view_lock);
    /* Nobody else takes segments off the list, so those on it are there still. */
    for (uint32_t i = 0; i < kept; i++) {
        if (!atomic_load_explicit(&waiting[i]->evicted, memory_order_relaxed)) {
            lk_budget_evict(s, waiting[i]);
        }
    }
    for (uint32_t i = 0; i < n; i++) segment_forget(s, dropped[i]);
}

static uint32_t expected_records(lk_store *s)
{
    uint64_t records = atomic_load_explicit(&s->counters.records, memory_order_relaxed);
    uint64_t bytes = atomic_load_explicit(&s->counters.bytes, memory_order_relaxed);
    uint64_t each = records < 1000 ? 128 : bytes / records;
    return (uint32_t)(s->options.segment_bytes / (each < 32 ? 32 : each));
}

static void spare_prepare(lk_store *s)
{
    lk_error err = {0};
    lk_lock_acquire(&s->write_lock);
    bool wanted = s->spare == NULL && s->spare_error.code == LK_OK;
    lk_segment_plan plan = {
        .env = s->env,
        .dir = s->dir,
        .capacity = (uint32_t)s->options.segment_bytes,
        .mapped = s->mapped,
        .fill = s->options.durability == LK_DURABILITY_SYNC,
    };
    if (wanted) plan.generation = s->next_generation++;
    lk_lock_release(&s->write_lock);
    if (!wanted) return;
    plan.expected = expected_records(s);
    lk_segment *spare, *recycled = logs_may_go(s) ? take_recyclable(s) : NULL;
    lk_status st = lk_segment_prepare(&plan, recycled, &spare, &err);
    if (st == LK_OK) st = lk_env_sync_dir(s->env, s->dir, &err);
    lk_lock_acquire(&s->write_lock);
    bool stale = st == LK_OK && spare->generation < s->newest_generation;
    if (st == LK_OK && !stale) {
        s->spare = spare;
        spare = NULL;
    } else if (st != LK_OK) {
        s->spare_error = err;
    }
    lk_lock_release(&s->write_lock);
    if (spare != NULL) segment_forget(s, spare);
    lk_event_broadcast(&s->changed);
}

/* Pages of one segment up to `upto` become present and writable, so that a store into them does not
 * fault: 0.25 to 10 µs a page. True when something was done. */
static bool populate(lk_store *s, lk_segment *segment, uint64_t upto)
{
    /* In whole steps: each is of whole pages, as the kernel wants them, and there are few. */
    uint64_t end = lk_align_up(upto, POPULATE_STEP);
    if (end > segment->memory_bytes) end = segment->memory_bytes;
    uint64_t from = atomic_load_explicit(&segment->populated, memory_order_relaxed);
    if (!segment->mapped || from >= end) return false;
    uint64_t n = end - from < POPULATE_STEP ? end - from : POPULATE_STEP;
    lk_env_populate(s->env, segment->base + from, (size_t)n, true);
    atomic_store_explicit(&segment->populated, from + n, memory_order_relaxed);
    return true;
}

/* A store whose frames are synced: what is dirty the next fdatasync must write, so its pages are not
 * populated; their blocks are written ahead instead. */
static bool fill_ahead(lk_store *s)
{
    lk_lock_acquire(&s->write_lock);
    lk_segment *a = s->active;
    uint64_t upto = a == NULL ? 0 : (uint64_t)a->position + FILL_AHEAD;
    if (upto < s->fill_to) upto = s->fill_to;
    if (a != NULL) lk_segment_ref(a);
    lk_lock_release(&s->write_lock);
    bool worked = false;
    if (a != NULL && a->filled < a->capacity && a->filled < upto) {
        lk_error err = {0};
        worked = lk_segment_fill(a, &err) == LK_OK;
        if (!worked) lk_store_fail(s, &err);
        lk_event_broadcast(&s->changed);
    }
    lk_segment_unref(a);
    return worked;
}

static bool populate_ahead(lk_store *s)
{
    if (s->options.durability == LK_DURABILITY_SYNC) return fill_ahead(s);
    lk_lock_acquire(&s->write_lock);
    lk_segment *active = s->active, *spare = s->spare;
    uint64_t upto = active != NULL ? (uint64_t)active->position + POPULATE_AHEAD : 0;
    if (active != NULL) lk_segment_ref(active);
    if (spare != NULL) lk_segment_ref(spare);
    lk_lock_release(&s->write_lock);
    bool worked = active != NULL && populate(s, active, upto);
    if (!worked && spare != NULL && active != NULL && upto > active->memory_bytes) {
        worked = populate(s, spare, upto - active->memory_bytes);
    }
    lk_segment_unref(active);
    lk_segment_unref(spare);
    return worked;
}

static void periodic_sync(lk_store *s, uint64_t *next_ns)
{
    uint64_t now = lk_env_now_ns(s->env);
    if (now < *next_ns) return;
    *next_ns = now + (uint64_t)s->options.sync_interval_ms * 1000000u;
    lk_lock_acquire(&s->write_lock);
    bool due = s->options.durability == LK_DURABILITY_PERIODIC || s->periodic;
    due = due && s->active != NULL && s->active->tail > s->active->synced;
    s->periodic = false;
    lk_lock_release(&s->write_lock);
    /* A failure is kept by the store, and every later write returns it. */
    if (due) (void)lk_store_sync(s, NULL);
}

/* Nothing has been written for a while: what waited for the next write is given back, and so is what
 * malloc has kept of the memory of flush and compaction. */
static void rest(lk_store *s)
{
    retired_trim(s, 0);
#if defined(__GLIBC__)
    (void)malloc_trim(0);
#endif
}

void *lk_store_keep(void *arg)
{
    lk_store *s = arg;
    uint64_t next_sync = lk_env_now_ns(s->env), written = 0;
    bool idle = false, rested = true, settled = false;
    for (;;) {
        uint64_t seen = lk_event_generation(&s->keeper_event);
        if (!settled && !atomic_load(&s->unproved)) {
            /* What opening has put off. A file that cannot be removed is tried again at the next
             * opening, and a manifest that cannot be written says so to the next edit. */
            (void)lk_store_settle(s, NULL);
            settled = true;
        }
        pthread_mutex_lock(&s->queue_mutex);
        bool stopping = s->stopping;
        pthread_mutex_unlock(&s->queue_mutex);
        if (stopping) break;
        limbo_drain(s);
        if (s->spare_wanted) spare_prepare(s);
        lk_readers_sweep(&s->readers);
        if (!idle) {
            if (logs_may_go(s)) retired_trim(s, RETIRED_KEPT);
        } else if (!rested && lk_store_is_quiet(s) && !lk_readers_arrive(&s->readers)) {
            rest(s);
            rested = true;
        }
        lk_budget_tend(s);
        periodic_sync(s, &next_sync);
        if (populate_ahead(s)) continue;
        uint64_t wait = (uint64_t)s->options.sync_interval_ms * 1000000u;
        idle = !lk_event_wait_ns(&s->keeper_event, seen, wait < IDLE_NS ? wait : IDLE_NS);
        uint64_t before = written;
        written = atomic_load_explicit(&s->counters.records, memory_order_relaxed);
        idle = idle && written == before;
        rested = rested && written == before;
    }
    return NULL;
}

void lk_store_keep_nothing(lk_store *s)
{
    limbo_drain(s);
    retired_trim(s, 0);
    if (s->spare != NULL) segment_forget(s, s->spare);
    s->spare = NULL;
    lk_budget_end(s);
}
