/* store.h: one log, its trees, one sequence, one manifest, one pool of background threads.
 *
 * Owns      the directory's lock, the active segment and a spare one, the current view, the
 *           manifest, the cache, and its threads: a keeper (spare segments, periodic sync, what
 *           readers have left behind) and workers (flush first, then compaction).
 * Callers   the border; nothing in C.
 * Threads   any. Lock order: write_lock, view_lock; edit_lock, view_lock; snapshot_lock, sync and
 *           queue mutexes are innermost. No lock is held while waiting for an event.
 * Always    what `published` of a segment shows is in the log; a view that is current holds every
 *           record that is in no table.
 * Errors    a failed log write or sync stays in the store: every later write returns it.
 */
#ifndef LK_STORE_H
#define LK_STORE_H

#include <pthread.h>
#include <stdatomic.h>

#include "checks.h"
#include "column.h"
#include "compact.h"
#include "cursor.h"
#include "flush.h"
#include "gap.h"
#include "history.h"
#include "hot.h"
#include "limiter.h"
#include "lock.h"
#include "properties.h"
#include "readers.h"
#include "trees.h"
#include "view.h"

typedef enum lk_durability {
    LK_DURABILITY_PROCESS = 0,  /* survives the process */
    LK_DURABILITY_PERIODIC = 1, /* ... and, but for the last interval, power loss */
    LK_DURABILITY_SYNC = 2,     /* ... and power loss */
} lk_durability;

typedef enum lk_log_io { LK_LOG_AUTO = 0, LK_LOG_MAPPED = 1, LK_LOG_WRITTEN = 2 } lk_log_io;

typedef struct lk_store_options {
    uint64_t segment_bytes, cache_bytes, table_bytes, rate_limit;
    uint64_t memory_bytes; /* all that is held, see budget.c */
    uint32_t block_bytes, filter_bits;
    uint32_t blob_bytes; /* longer values stand apart from their tables; 0: none does */
    double max_garbage;  /* share of a file of values that may be dead before they move out of it */
    lk_codec codec;
    lk_durability durability; /* of the store: decides how log pages are prepared */
    lk_log_io log_io;
    uint64_t disk_max; /* bytes of log and tables over which writes are refused; 0: any number */
    uint32_t background_threads;
    uint32_t sync_interval_ms;
    uint32_t late_min;   /* log bytes from which a killed process's log is proved after opening */
    uint32_t frozen_max; /* segments that may wait for flush before writers wait */
    uint64_t retain_log_bytes; /* of flushed log that stays as history; 0: none */
    bool read_only, create_if_missing, error_if_exists;
    uint64_t lock_timeout_ns; /* how long to wait for another owner */
    /* Of the trees; NULL: none has any. What is in the log is flushed by them, so they must be right
     * from the beginning. Borrowed. */
    lk_settings *settings;
} lk_store_options;

typedef enum lk_state {
    LK_STATE_OPEN = 0,
    LK_STATE_CLOSING,
    LK_STATE_CLOSED,
    LK_STATE_FORKED, /* in a child of the process that opened it */
} lk_state;

typedef struct lk_snapshot {
    struct lk_snapshot *next, *previous;
    uint64_t seq;
    lk_view *view; /* of a store that is only read: the owner folds away what it does not know to be
                      needed here. NULL: whatever is current has the versions that this one sees */
} lk_snapshot;

typedef struct lk_store_counters {
    _Atomic uint64_t frames, records, bytes; /* into the log */
    _Atomic uint64_t syncs, rotations;
    _Atomic uint64_t stalls, stall_ns;       /* writers that waited for flush */
    _Atomic uint64_t slowdowns, slowdown_ns; /* writers that were slowed on purpose */
    _Atomic uint64_t flushes, flush_records, flush_bytes, flush_ns;
    _Atomic uint64_t compactions, moves, compact_in, compact_out, compact_rows, compact_ns;
    _Atomic uint64_t rows_copied, recovered_records, recovered_bytes, lost_bytes;
} lk_store_counters;

/* What the speed of writers goes by, see pace.c. */
typedef struct lk_pace {
    uint64_t next_ns;          /* when the next piece may be written */
    uint64_t flush_started_ns; /* of the flush under way; 0: none */
    uint64_t flush_bytes;      /* of log that it takes up */
    double flush_ns_per_byte;  /* mean of those before, the last one half of it */
    bool flush_fails;          /* the last one did */
} lk_pace;

struct lk_store_job;
struct lk_follower;

typedef struct lk_store {
    /* fixed after open */
    lk_env *env;
    char dir[LK_PATH_MAX];
    lk_store_options options;
    bool mapped;
    lk_lock_file *owner;
    lk_file *pulse;               /* of an owner; NULL where a full disk has no room for it */
    lk_readers readers;           /* of an owner */
    struct lk_follower *follower; /* of a store that is only read */
    lk_manifest *manifest;
    lk_cache *cache;
    lk_limiter limiter;
    struct lk_store *registry_next; /* guarded by the registry's mutex, see store.c */

    lk_gap_memory gaps; /* what scans have learned; its lock is innermost */
    lk_history history; /* flushed segments that stay */
    lk_hot hot;         /* keys that were written most often */
    lk_guard guard;
    _Atomic(lk_view *) view; /* release; readers load it inside a guard section */
    _Atomic uint32_t state;  /* lk_state */
    _Atomic uint32_t inside; /* calls that may block and are under way */

    lk_lock write_lock;
    /* guarded by write_lock */
    lk_segment *active;       /* NULL until the first write */
    lk_segment *spare;        /* prepared by the keeper */
    atomic_bool spare_wanted; /* from the first write on */
    uint32_t limit;           /* frames that would end behind this take the slow path */
    uint64_t next_seq;
    uint64_t next_generation;
    uint64_t newest_generation;           /* of the segment activated last */
    uint32_t previous_end, previous_link; /* of the last frozen segment, while none is active */
    bool held;                            /* the next sequence is being given away: writers wait */
    bool periodic;    /* something was written that waits for the periodic sync */
    uint64_t fill_to; /* where a writer waits for the active segment to be filled */
    lk_pace pace;
    lk_error spare_error; /* why no spare can be had */

    lk_lock view_lock;  /* replacing the view */
    lk_view *limbo[64]; /* replaced views, for the keeper; guarded by view_lock */
    uint32_t limbo_count;
    lk_segment *retired[64]; /* flushed segments, for recycling; guarded by view_lock */
    uint32_t retired_count;
    /* Flushed segments that are of no more use but to scans; guarded by view_lock. */
    lk_segment **pinned;
    uint32_t pinned_count;
    size_t pinned_capacity;
    uint64_t pins_evict_ns;         /* the keeper's */
    _Atomic uint64_t writers_bytes; /* what flush, compaction and ingest hold to write tables */

    char *
        *leftovers; /* files of earlier processes, until lk_store_settle; then the keeper's alone */
    size_t leftover_count;

    lk_lock edit_lock; /* one manifest edit at a time, with its view */

    lk_lock trees_lock;
    lk_trees *trees; /* replaced under both locks, so that who holds either may look */

    lk_lock snapshot_lock;
    lk_snapshot snapshots; /* ring; guarded by snapshot_lock */

    pthread_mutex_t sync_mutex;
    pthread_cond_t sync_cond;
    bool syncing;                /* guarded by sync_mutex: a leader is at it */
    uint64_t durable_generation; /* guarded by sync_mutex */
    uint32_t durable_end;

    _Atomic uint32_t failed; /* a log write or sync failed; see failure */
    lk_error failure;        /* written once, before `failed` */
    lk_lock failure_lock;

    _Atomic uint64_t write_rate; /* bytes a second that writers may log; 0: no limit */
    _Atomic uint32_t stopped;    /* writers wait: too many runs */
    _Atomic uint32_t frozen;     /* segments that wait for flush */
    _Atomic uint64_t flushed_generation;
    atomic_bool unproved;            /* some of those is not proved yet, see prove.h */
    _Atomic uint32_t recovered_left; /* segments read back at open and not yet flushed */

    pthread_mutex_t queue_mutex;
    pthread_cond_t queue_cond; /* workers wait here */
    struct lk_store_job *jobs, *jobs_tail, *done;
    uint32_t jobs_queued, jobs_running;
    bool flushing, stopping;
    uint64_t next_job;
    lk_error background_error; /* the last one of a flush or compaction */
    lk_error merge_error;      /* the last one of an operator in the background */
    uint64_t background_errors;
    uint64_t flush_retry_ns; /* after a failed flush: not before */

    lk_event changed; /* a flush or job ended, a spare came: all who wait look again */
    lk_event decide;  /* a flush or job ended: there may be something to compact */
    lk_event keeper_event;
    pthread_t keeper;
    pthread_t workers[64];
    uint32_t worker_count;
    bool keeper_running;
    atomic_bool cancel; /* jobs stop at their next write */

    lk_store_counters counters;
} lk_store;

void lk_store_options_init(lk_store_options *o);

/* ---- opening and closing (store.c) ---- */

lk_status lk_store_open(lk_env *env, const char *dir, const lk_store_options *options,
                        lk_store **out, lk_error *err);
/* Refuses new calls, waits for those inside, flushes, stops the threads, gives up the lock. The
 * struct stays for cursors that are still held. May be called twice. */
lk_status lk_store_close(lk_store *s, lk_error *err);
/* Memory; after close, and when nothing refers to the store any more. NULL is accepted. */
void lk_store_free(lk_store *s);

/* The named texts of the store in `dir`; none when there is no store. */
lk_status lk_store_peek(lk_env *env, const char *dir, lk_properties *out, lk_error *err);

/* The manifest that was read is on the disk, and what no edit names is gone, when it returns. */
lk_status lk_store_settle(lk_store *s, lk_error *err);

/* Brackets a call that may block; LK_CLOSED when the store is not open. */
lk_status lk_store_enter(lk_store *s, lk_error *err);
void lk_store_leave(lk_store *s);
lk_status lk_store_closed_error(const lk_store *s, lk_error *err);

/* ---- reading ---- */

/* A short read that does not block: the current view, good until lk_guard_exit(&s->guard, token);
 * NULL when the store is not open, and then there is nothing to exit. */
static inline lk_view *lk_store_read_begin(lk_store *s, unsigned *out_token)
{
    *out_token = lk_guard_enter(&s->guard);
    if (LK_LIKELY(atomic_load_explicit(&s->state, memory_order_seq_cst) == LK_STATE_OPEN)) {
        return atomic_load_explicit(&s->view, memory_order_seq_cst);
    }
    lk_guard_exit(&s->guard, *out_token);
    return NULL;
}
static inline bool lk_store_is_forked(const lk_store *s)
{
    return atomic_load_explicit(&s->state, memory_order_relaxed) == LK_STATE_FORKED;
}
static inline uint32_t lk_store_frozen(const lk_store *s)
{
    return atomic_load_explicit(&s->frozen, memory_order_relaxed);
}
static inline bool lk_store_is_open(const lk_store *s)
{
    return atomic_load_explicit(&s->state, memory_order_relaxed) == LK_STATE_OPEN;
}

/* Moves a store that is only read to what its owner has committed by now; *out_moved tells whether
 * there is something new. Scans and snapshots stay where they are. After an error it is as it was. In
 * an owner nothing happens. (refresh.c) */
lk_status lk_store_refresh(lk_store *s, bool *out_moved, lk_error *err);
/* Whether lk_store_refresh may find something: a look at memory, or two short reads; no wait. */
bool lk_store_is_behind(lk_store *s);
/* For opening and closing: registers as a reader before anything is read, and when all is. */
lk_status lk_store_follow_begin(lk_store *s, lk_error *err);
void lk_store_follow_start(lk_store *s);
void lk_store_follow_end(lk_store *s);
/* lk_store_set_tree of a store that is only read. */
lk_status lk_store_follow_set_tree(lk_store *s, const lk_tree_settings *tree, lk_error *err);
bool lk_store_is_registered(const lk_store *s); /* its owner knows what it reads */
lk_status lk_store_tables_hold(const lk_version *v, lk_error *err); /* else it opens them all */

/* The current view, with a reference. */
lk_view *lk_store_view(lk_store *s);
/* ... and a reading of the wall clock: what is written from now on is not in the view's segments,
 * and not stamped with an earlier time. Takes write_lock. */
lk_view *lk_store_view_then(lk_store *s, uint64_t *out_now_us);
/* ... and the last sequence that it shows. */
lk_view *lk_store_view_now(lk_store *s, uint64_t *out_seq);
lk_status lk_store_snapshot(lk_store *s, lk_snapshot **out, lk_error *err);
void lk_store_release(lk_store *s, lk_snapshot *snapshot);
/* The sequences of all snapshots, descending; `out` is malloc'ed, NULL when there are none. */
lk_status lk_store_snapshots(lk_store *s, uint64_t **out, size_t *out_count, lk_error *err);

/* ---- writing (write.c) ---- */

/* The hot path: one record, durability "process" or "periodic", mapped log. LK_FULL: use
 * lk_store_write, which may block; nothing was changed. Never blocks. */
lk_status lk_store_try_put(lk_store *s, uint32_t tree, lk_kind kind, const uint8_t *key,
                           uint32_t key_len, const uint8_t *value, uint32_t value_len,
                           uint64_t hash);

/* The same of a put or an operand that lives for `ttl_us`. */
lk_status lk_store_try_put_for(lk_store *s, uint32_t tree, lk_kind kind, const uint8_t *key,
                               uint32_t key_len, const uint8_t *value, uint32_t value_len,
                               uint64_t ttl_us);

/* A frame filled by the caller: on LK_OK the write lock is held and `*out` takes exactly
 * `body_bytes` bytes of records; the caller then commits, at once and without doing anything that
 * could wait. LK_FULL as above. */
lk_status lk_store_try_begin(lk_store *s, uint64_t body_bytes, uint32_t records, uint8_t **out);
lk_status lk_store_commit(lk_store *s, uint64_t body_bytes, uint32_t records, lk_error *err);

typedef struct lk_write {
    lk_durability durability;
    uint64_t timeout_ns; /* longest wait for room; UINT64_MAX: for ever. LK_BUSY after it */
    uint32_t tree;
    lk_kind kind;
    const lk_column *keys;   /* columns: one record a row ... */
    const lk_column *values; /* ... NULL for deletes */
    uint64_t ttl_us;         /* ... with a deadline so far away, */
    bool has_ttl;            /* if this is set */
    bool stamp;              /* or, keys NULL: records that get their deadlines as stamp.h says */
    const uint8_t *body;     /* or records as they stand in a log */
    uint64_t body_bytes;
    uint64_t records;
    /* NULL: none. Where they fail LK_MISS, and nothing is written; also, without a snapshot that is
     * held, when it cannot be told: look again and retry. */
    const lk_checks *checks;
    /* Data NULL: none. The frame moves the source's position on to `source_seq`; where it is there
     * already or beyond, LK_MISS, and nothing is written. Excludes checks. */
    lk_bytes source;
    uint64_t source_seq;
} lk_write;

/* One frame, atomic. Blocks: for room, and for the disk when durability is "sync". */
lk_status lk_store_write(lk_store *s, const lk_write *w, lk_error *err);
/* The greatest sequence number that was written with this source; out_any false: none was. Blocks. */
lk_status lk_store_position(lk_store *s, lk_bytes source, bool *out_any, uint64_t *out_seq,
                            lk_error *err);

/* All that was written before the call is on the disk when it returns. */
lk_status lk_store_sync(lk_store *s, lk_error *err);
/* Makes the active segment a frozen one, unless it is empty; its generation (0: it was empty). */
void lk_store_freeze(lk_store *s, uint64_t *out_generation);
/* Bytes of records in the active segment. */
uint64_t lk_store_log_bytes(lk_store *s);
/* Freezes the active segment and lets writers wait; the next sequence is the caller's, until
 * lk_store_resume says which comes then. One at a time. */
uint64_t lk_store_hold(lk_store *s);
void lk_store_resume(lk_store *s, uint64_t next_seq);
/* Keeps the first failure of the log, and readers' memory out of the kernel's hands. */
void lk_store_fail(lk_store *s, const lk_error *err);
/* That failure again; LK_OK when there was none. */
lk_status lk_store_failure(lk_store *s, lk_error *err);

/* ---- room and speed (room.c, pace.c) ---- */

/* Whether a frame goes into the active segment at once. The write lock is held. */
static inline bool lk_store_fits(const lk_store *s, uint64_t frame_bytes)
{
    return s->active != NULL && frame_bytes + s->active->position <= s->limit;
}
/* Returns with the write lock held and room for the frame, or with an error and without it. */
lk_status lk_store_lock_with_room(lk_store *s, uint64_t frame_bytes, bool deletes,
                                  uint64_t timeout_ns, lk_error *err);
/* How fast compaction lets writers log (0: no limit), and whether they may begin another segment. */
void lk_store_set_rate(lk_store *s, uint64_t bytes_per_second, bool stop);
/* How much the log slows writers: 0: not at all, 1: they wait. */
double lk_store_pressure(lk_store *s);

void lk_pace_init(lk_pace *p);
void lk_pace_flush_began(lk_store *s, uint64_t now_ns, uint64_t log_bytes);
void lk_pace_flush_ended(lk_store *s, uint64_t now_ns, bool published);
/* Moves `limit` on, as far as the writer's speed allows; false: not before `*out_until`. The write
 * lock is held, and there is an active segment. */
bool lk_pace_step(lk_store *s, uint64_t frame_bytes, uint64_t *out_until);
/* In how long there may be room, where a writer has to stop. */
uint64_t lk_pace_left_ns(lk_store *s, uint64_t now_ns);

/* ---- memory (budget.c) ---- */

typedef struct lk_store_memory {
    uint64_t segments;   /* of the log with indexes and orders: live, or waiting for flush or use */
    uint64_t pinned;     /* those that are kept for scans alone */
    uint64_t cache;      /* blocks */
    uint64_t tables;     /* indexes and filters */
    uint64_t background; /* flush and compaction */
    uint64_t total, limit;
} lk_store_memory;
void lk_store_memory_of(lk_store *s, lk_store_memory *out);

/* How many segments may wait for flush, so that they fit into the memory. */
uint32_t lk_budget_frozen_max(const lk_store_options *o);
/* Whether another segment may be begun, or what is to be waited for first. The write lock is held. */
typedef enum lk_budget { LK_BUDGET_ROOM, LK_BUDGET_FLUSH, LK_BUDGET_PINS } lk_budget;
lk_budget lk_budget_ask(lk_store *s);
/* For the keeper: the cache gives way, and what scans held is let go. */
void lk_budget_tend(lk_store *s);
/* A flushed segment that somebody reads is kept and counted; consumes the reference. */
void lk_budget_pin(lk_store *s, lk_segment *segment);
/* A flushed segment's pages leave the process. */
void lk_budget_evict(lk_store *s, lk_segment *segment);
void lk_budget_end(lk_store *s);

/* ---- the disk (disk.c) ---- */

/* Bytes of tables and of the live log, as far as it is written. Takes write_lock. */
uint64_t lk_store_disk_bytes(lk_store *s);
/* LK_IO with ENOSPC where `more` bytes would be too much beside the `used` ones. */
lk_status lk_store_disk_full(const lk_store *s, uint64_t used, uint64_t more, lk_error *err);
/* The same for a frame, with write_lock held, unless it only deletes; and how many bytes the log may
 * still take. */
lk_status lk_store_disk_left(lk_store *s, uint64_t frame_bytes, bool deletes, uint64_t *out_left,
                             lk_error *err);
/* Whether a write does nothing but delete. */
bool lk_store_is_deleting(const lk_write *w);

/* ---- background (background.c) ---- */

lk_status lk_store_start(lk_store *s, lk_error *err);
void lk_store_stop(lk_store *s);
void lk_store_wake(lk_store *s); /* workers look for work */
/* The keeper (keeper.c): its thread, until `stopping`; and what it then leaves, given back. */
void *lk_store_keep(void *store);
void lk_store_keep_nothing(lk_store *s);
/* Freezes and flushes all that was written before the call. */
lk_status lk_store_flush(lk_store *s, lk_error *err);
/* One flush of everything frozen, in the calling thread. */
lk_status lk_store_flush_now(lk_store *s, lk_error *err);
/* The parts of that, for who publishes more with it: tables of what is frozen into `edit`, with nothing
 * published (`w->count` 0: nothing was frozen), and the end, which must follow when it went well. */
typedef struct lk_flush_work {
    lk_view *view;
    lk_segment *segments[LK_FLUSH_SEGMENTS_MAX]; /* oldest first */
    uint32_t count;
    lk_flush_result result;
    uint64_t started_ns;
} lk_flush_work;
lk_status lk_store_flush_tables(lk_store *s, lk_flush_work *w, lk_edit *edit, lk_error *err);
void lk_store_flush_end(lk_store *s, lk_flush_work *w, bool published);
/* Only one flushes at a time: waits until nobody does, and keeps others from it until released. */
void lk_store_flush_claim(lk_store *s);
void lk_store_flush_release(lk_store *s);
/* Appends the edit to the manifest and makes its version the current one. What it says of trees that
 * are not there any more is left out, and their new tables go. After LK_IO the store has failed, and
 * the edit may be found on reopening: the files that it names must stay. */
lk_status lk_store_publish(lk_store *s, lk_edit *edit, lk_error *err);
/* The same while edit_lock is held. After LK_IO the caller gives the lock back and calls
 * lk_store_fail. */
lk_status lk_store_publish_locked(lk_store *s, lk_edit *edit, lk_error *err);
/* How tables of such a shape are written. */
lk_table_options lk_store_table_options(lk_store *s, const lk_tree_shape *shape);
/* Removes the oldest of the log's history while it has more than `bytes_max` bytes. What cannot be
 * removed is tried again at the next opening. */
void lk_store_trim_history(lk_store *s, uint64_t bytes_max);
/* The one way to the manifest: the edit is durable, told to readers, and what they may still read of
 * the version before it is held, when it returns. edit_lock is held. `out` as lk_manifest_append. */
lk_status lk_store_edit(lk_store *s, const lk_edit *edit, lk_version **out, lk_error *err);
/* The current view is replaced: `version` NULL keeps the version; segments up to `flushed` (0: none)
 * leave; `fresh` (may be NULL) becomes the newest. */
lk_status lk_store_install(lk_store *s, lk_version *version, uint64_t flushed, lk_segment *fresh,
                           lk_error *err);

/* Sets, or replaces, what holds for all rows of one tree. */
lk_status lk_store_set_tree(lk_store *s, const lk_tree_settings *tree, lk_error *err);

/* A compaction job is queued; files and lower are copied. Its number comes back with its result. */
lk_status lk_store_submit(lk_store *s, const lk_job *job, uint64_t *out_id, lk_error *err);
typedef struct lk_job_report {
    uint64_t id;
    lk_status status;
    lk_job_result result;
    char message[LK_MESSAGE_MAX];
} lk_job_report;
/* The oldest report not yet taken; false when there is none. */
bool lk_store_take_report(lk_store *s, lk_job_report *out);
uint32_t lk_store_free_workers(lk_store *s);
bool lk_store_is_quiet(lk_store *s); /* nothing frozen, queued or running */
/* How often background work failed, and the last error (out->code LK_OK: none). */
uint64_t lk_store_background_errors(lk_store *s, lk_error *out);
/* ---- keyspaces (keyspace.c) ---- */

/* Each is one durable edit; `text` is what trees.h says. LK_EXISTS: another one has the name;
 * LK_NOT_FOUND: there is no such tree. */
lk_status lk_store_keyspace_create(lk_store *s, const char *text, uint32_t *out_tree,
                                   lk_error *err);
lk_status lk_store_keyspace_change(lk_store *s, uint32_t tree, const char *text, lk_error *err);
lk_status lk_store_keyspace_drop(lk_store *s, uint32_t tree, lk_error *err);
lk_trees *lk_store_trees(lk_store *s); /* those there are now, with a reference */
/* A store that is only read: as the manifest says by now. */
lk_status lk_store_reload_trees(lk_store *s, lk_error *err);
/* What the edit says of dropped trees is taken out, and files made for them go. edit_lock is held. */
void lk_store_strip(lk_store *s, lk_edit *edit);

/* A named text kept in the manifest; durable when it returns. NULL removes it. */
lk_status lk_store_set_property(lk_store *s, const char *name, const char *value, lk_error *err);

#endif
