/* btree.h: a B+tree whose pages are changed in place, beside a redo log.
 *
 *   put -> log (frame) -> leaf, in memory          checkpoint -> new pages, journal, pages, log anew
 *   get -> pages in memory, from the root          open -> journal -> log, written once more
 *
 * Pages change in memory alone. A checkpoint writes those that are new where they belong, the changed
 * ones first into a journal and then in place; so a crash finds a whole tree as of some checkpoint,
 * whatever was torn, and the log has all that came after it, as keys and values. A double write, not
 * images of pages in the log: commits stay small, what happens between two checkpoints to a page is
 * written twice in all, and the pages of one checkpoint change together, so the log need not know of
 * pages and splits.
 *
 * Owns      the files of its directory, the pages in memory, the log, one thread that syncs.
 * Callers   the border (btree.pyx), tests.
 * Threads   any. Writers one after another, under `write_lock`; pages change under `latch`,
 *           exclusive, and are read under it, shared. One latch for the tree, not one a page: a
 *           change in memory takes less time than latching a path, and no disk is waited for under it
 *           but for keys and values in extents. Order: write_lock, latch, the log's mutex.
 * Always    what was logged is in the pages before write_lock is given back.
 * Errors    after a failed write of log or checkpoint `failed` is what every write gets; reads go on.
 */
#ifndef LK_BTREE_H
#define LK_BTREE_H

#include <pthread.h>
#include <stdatomic.h>

#include "btree_cache.h"
#include "btree_file.h"
#include "btree_log.h"
#include "btree_space.h"
#include "column.h"
#include "lock.h"
#include "store.h"

#define LK_BTREE_LOG_MIN 65536u
#define LK_BTREE_LOG_MAX (1u << 31)

typedef struct lk_btree_options {
    uint64_t cache_bytes;
    uint32_t log_bytes; /* after so many a checkpoint is made */
    uint32_t page_bytes;
    uint32_t sync_interval_ms;
    lk_durability durability;
    bool create_if_missing, error_if_exists;
    uint64_t lock_timeout_ns;
} lk_btree_options;

typedef struct lk_btree_counters {
    uint64_t records, frames, log_bytes, syncs; /* written to the log, and waited for */
    uint64_t user_bytes;                        /* keys and values of these */
    uint64_t splits, merges;
    uint64_t checkpoints, checkpoint_ns, page_writes, journal_bytes, extent_bytes, home_bytes;
    uint64_t page_reads, evictions;
    uint64_t recovered_records;
} lk_btree_counters;

typedef struct lk_btree_sizes {
    uint64_t rows, file_pages, free_pages, cached_pages, dirty_pages, cache_pages;
    uint32_t levels, page_bytes;
    uint64_t log_used, log_capacity;
} lk_btree_sizes;

/* A page on the way from the root to a leaf; [0] is the leaf. */
typedef struct lk_btree_step {
    uint32_t page;
    uint32_t index; /* of the child that was taken */
    uint8_t *p;
} lk_btree_step;

typedef struct lk_btree {
    /* fixed after open */
    lk_env *env;
    char dir[LK_PATH_MAX];
    lk_btree_options options;
    lk_lock_file *owner;
    uint32_t forks; /* of the process's family, when it was opened */
    lk_btree_file file;
    lk_file *journal;
    uint32_t dirty_max; /* changed pages from which a checkpoint is made */

    lk_lock write_lock;
    pthread_rwlock_t latch;
    atomic_int state;   /* 1: open */
    atomic_uint inside; /* calls that may block */

    /* changed with both locks */
    lk_btree_head head;
    lk_page_cache cache;
    uint64_t home_writes; /* checkpoints that have written pages in place; latch */
    _Atomic uint64_t page_reads;

    /* guarded by write_lock */
    lk_redo log;
    lk_space space;
    bool file_is_dirty; /* something was written to it since it was synced */
    uint32_t missing;   /* after LK_MISS: the page that must be brought in */
    bool wants_mend;    /* the last delete has left a page that is nearly empty */
    lk_btree_step path[LK_BTREE_LEVELS_MAX];
    lk_cell *cells; /* of two pages and one more */
    uint8_t *pages; /* three copies of pages */
    uint8_t *tail;  /* of a cell that is being made */
    uint8_t *keys;  /* two whole keys */
    uint8_t *fence; /* a separator on its way up */
    lk_error failed;
    lk_btree_counters counters;

    /* the thread of "periodic" */
    lk_event stop;
    pthread_t syncer;
    bool has_syncer;
    atomic_bool wants_sync; /* something was written that the thread is to sync */
} lk_btree;

void lk_btree_options_init(lk_btree_options *o);
lk_status lk_btree_open(lk_env *env, const char *dir, const lk_btree_options *options,
                        lk_btree **out, lk_error *err);
/* Waits for calls under way, makes a checkpoint, lets go of the files. Safe to call again. */
lk_status lk_btree_close(lk_btree *t, lk_error *err);
void lk_btree_free(lk_btree *t); /* closed, or of a parent process */

/* ---- calls ---- */

uint32_t lk_btree_forks(void); /* how often this process's family has forked before it */
static inline bool lk_btree_is_forked(const lk_btree *t) { return t->forks != lk_btree_forks(); }
static inline bool lk_btree_is_open(lk_btree *t)
{
    return atomic_load_explicit(&t->state, memory_order_relaxed) == 1 && !lk_btree_is_forked(t);
}
lk_status lk_btree_closed_error(lk_btree *t, lk_error *err);
/* Brackets every call that is not a try; LK_CLOSED when the tree is not open. */
lk_status lk_btree_enter(lk_btree *t, lk_error *err);
void lk_btree_leave(lk_btree *t);

/* ---- reading (btree_read.c) ---- */

/* Without waiting: LK_BUSY when a writer is there, LK_CLOSED when the tree is not open. */
lk_status lk_btree_read_try(lk_btree *t);
static inline void lk_btree_read_begin(lk_btree *t) { (void)pthread_rwlock_rdlock(&t->latch); }
static inline void lk_btree_read_end(lk_btree *t) { (void)pthread_rwlock_unlock(&t->latch); }
/* Between the two: the value, good until lk_btree_read_end; data NULL where there is no row. LK_MISS
 * when something must be read from the disk. */
lk_status lk_btree_peek(lk_btree *t, lk_bytes key, lk_bytes *out, lk_error *err);
/* Reads what is missing too. `*out` is malloc'ed unless it is NULL: no row. */
lk_status lk_btree_get(lk_btree *t, lk_bytes key, uint8_t **out, uint32_t *out_len, lk_error *err);
/* Reads a page into memory; without the latch. */
lk_status lk_btree_bring(lk_btree *t, uint32_t page, lk_error *err);
/* Descends to a leaf under the latch; `*out_missing` after LK_MISS. */
lk_status lk_btree_child(const lk_btree *t, const uint8_t *p, uint32_t index, uint32_t *out,
                         lk_error *err);

/* ---- scans (btree_scan.c) ---- */

typedef struct lk_btree_row {
    lk_bytes key, value;
} lk_btree_row;

#define LK_BTREE_ROWS 256u

/* Rows from a place on, as they are when they are fetched: a leaf at a time, copied. */
typedef struct lk_btree_scan {
    lk_btree *t;
    bool reverse, at_end;
    bool has_place;   /* false: from the first key, or the last */
    bool is_included; /* the key of the place itself */
    uint8_t *place;   /* room for any key */
    uint32_t place_len;
    uint8_t *limit; /* upwards: the first key that is not wanted; downwards: the last that is */
    uint32_t limit_len;
    bool has_limit;
    uint8_t *bytes; /* of the rows */
    size_t used, capacity;
    uint32_t count;
    size_t offsets[2 * LK_BTREE_ROWS + 1];
} lk_btree_scan;

/* Keys from `lower` (included) up to `upper` (not; data NULL: no end). */
lk_status lk_btree_scan_init(lk_btree_scan *s, lk_btree *t, lk_bytes lower, lk_bytes upper,
                             bool reverse, lk_error *err);
void lk_btree_scan_deinit(lk_btree_scan *s);
/* Up to `rows` more rows; none: it has come to its end. */
lk_status lk_btree_scan_fill(lk_btree_scan *s, uint32_t rows, lk_error *err);
static inline lk_btree_row lk_btree_scan_row(const lk_btree_scan *s, uint32_t i)
{
    const size_t *o = s->offsets + 2 * i;
    return (lk_btree_row){{s->bytes + o[0], o[1] - o[0]}, {s->bytes + o[1], o[2] - o[1]}};
}

/* ---- writing (btree_write.c) ---- */

typedef struct lk_btree_write {
    lk_durability durability;
    lk_kind kind;            /* of all rows of columns */
    const lk_column *keys;   /* columns: put in order of their keys, the last of equal ones stays */
    const lk_column *values; /* NULL for deletes */
    const uint8_t *body;     /* or records, as they stand in a log */
    uint64_t body_bytes;
    uint64_t records; /* of the body */
} lk_btree_write;

/* Without waiting: LK_BUSY or LK_MISS when something would have to be waited for, and then nothing was
 * done. Not for durability "sync". */
lk_status lk_btree_try(lk_btree *t, lk_kind kind, lk_bytes key, lk_bytes value,
                       lk_durability durability, lk_error *err);
lk_status lk_btree_write_all(lk_btree *t, const lk_btree_write *w, lk_error *err);
/* Puts the row where there is none, or deletes it where there is one (`kind`), at once; `*out` is what
 * was there, malloc'ed, or NULL. */
lk_status lk_btree_exchange(lk_btree *t, lk_kind kind, lk_bytes key, lk_bytes value,
                            lk_durability durability, uint8_t **out, uint32_t *out_len,
                            lk_error *err);
lk_status lk_btree_sync(lk_btree *t, lk_error *err);
/* Applies the records of one frame; write_lock is held. For btree_open.c. */
lk_status lk_btree_apply(lk_btree *t, const uint8_t *body, uint64_t bytes, uint64_t *out_records,
                         lk_error *err);

/* ---- changing pages (btree_edit.c); write_lock and latch, exclusive, are held ---- */

/* LK_MISS: `missing` must be brought in, and nothing was done. */
lk_status lk_edit_put(lk_btree *t, lk_bytes key, const lk_cell *cell, lk_error *err);
lk_status lk_edit_delete(lk_btree *t, lk_bytes key, lk_error *err);
/* Merges what a delete of `key` has left nearly empty. */
lk_status lk_edit_mend(lk_btree *t, lk_bytes key, lk_error *err);

/* ---- checkpoints (btree_checkpoint.c); write_lock is held ---- */

/* Makes all that was applied durable in pages. `keeps_log`: in the middle of a frame; otherwise the log
 * begins anew, with room for a frame of `body_bytes`. */
lk_status lk_btree_checkpoint(lk_btree *t, bool keeps_log, uint64_t body_bytes, lk_error *err);
/* Puts the pages of a journal where they belong, if it is whole and not older than `head` (NULL: that
 * is damaged). `*out_done`: it was. */
lk_status lk_btree_journal_apply(lk_btree *t, const lk_btree_head *head, bool *out_done,
                                 lk_error *err);

/* ---- reports ---- */

uint64_t lk_btree_rows(lk_btree *t);
void lk_btree_stats(lk_btree *t, lk_btree_counters *counters, lk_btree_sizes *sizes);

typedef struct lk_btree_report {
    uint64_t pages, rows, extents, bytes, free_pages;
    uint64_t faults; /* the first is in `error` */
    lk_error error;
} lk_btree_report;

/* Proves every page and every extent, the order of keys, and that each page is used once. LK_OK also
 * when there are faults. */
lk_status lk_btree_verify(lk_btree *t, lk_btree_report *out, lk_error *err);

#endif
