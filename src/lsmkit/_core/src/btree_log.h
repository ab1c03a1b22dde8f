/* btree_log.h: the redo log of a B+tree: frames of records, in one file that is used again and again.
 *
 * The frames are those of the engine's log (frame.h, FORMAT-log.md): what they hold is what was
 * written, keys and values, not pages. A checkpoint makes all of them needless, and a new generation
 * begins at the front of the file, with another nonce, so that frames of the last one are none.
 *
 * Mapped, a frame is plain stores into the file; otherwise, and where its caller waits for the disk,
 * it is made aside and goes by pwrite.
 *
 * Owns      the file, its mapping, the place where the next frame begins.
 * Callers   btree.c appends; btree_checkpoint.c begins generations; btree_open.c reads back.
 * Threads   appending: one, with the tree's write lock. lk_redo_sync: any; one of those that wait
 *           syncs for all (group commit).
 * Errors    LK_FULL: make a checkpoint. LK_IO: the tree refuses writes from then on.
 */
#ifndef LK_BTREE_LOG_H
#define LK_BTREE_LOG_H

#include <stdatomic.h>

#include "env.h"
#include "frame.h"
#include "lock.h"

typedef struct lk_redo {
    /* fixed while open */
    lk_env *env;
    lk_file *file;
    bool may_map;
    uint64_t boot;

    /* guarded by the tree's write lock */
    uint8_t *map; /* NULL: every frame goes by pwrite */
    size_t map_bytes;
    uint8_t *aside; /* where frames are made that go by pwrite */
    size_t aside_bytes;
    uint64_t generation, nonce;
    uint32_t capacity;
    uint32_t position; /* where the next frame begins */
    uint32_t filled;   /* bytes of the file that were written at least once */
    uint32_t link;
    uint32_t ordinal;
    uint64_t base; /* of the count of all bytes: `written` is base + position */
    _Atomic uint64_t written;
    uint64_t frames, syncs_begun;

    /* guarded by mutex */
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    uint64_t durable; /* of the count of all bytes */
    bool is_syncing;
    lk_error failed; /* of the first sync that failed */
    uint64_t syncs;
} lk_redo;

lk_status lk_redo_init(lk_redo *r, lk_env *env, const char *path, bool may_map, lk_error *err);
void lk_redo_deinit(lk_redo *r);

/* Begins `generation` at the front of the file, with room for `capacity` bytes. What was written
 * before is durable in another way: the caller has made a checkpoint. */
lk_status lk_redo_restart(lk_redo *r, uint64_t generation, uint32_t capacity, lk_error *err);

/* Where the body of the next frame goes; `aside`: by pwrite. LK_FULL where it does not fit. */
lk_status lk_redo_begin(lk_redo *r, uint64_t body_bytes, bool aside, uint8_t **out, lk_error *err);
lk_status lk_redo_commit(lk_redo *r, uint64_t body_bytes, uint32_t records, bool aside,
                         lk_error *err);

/* Returns when all that was written before the call, or before `upto` of the count, is durable. */
lk_status lk_redo_sync(lk_redo *r, uint64_t upto, lk_error *err);
static inline uint64_t lk_redo_written(lk_redo *r)
{
    return atomic_load_explicit(&r->written, memory_order_acquire);
}

/* ---- reading a log back ---- */

typedef struct lk_redo_scan {
    uint8_t *bytes;
    uint64_t length;
    uint64_t generation, nonce;
    uint32_t at, end; /* the next frame; behind the last one that is good */
    uint32_t ordinal, link;
    bool is_same_boot;
} lk_redo_scan;

/* Reads the whole file. `out->end` is 0 where there is no log of this generation: an older one is
 * what a checkpoint has made needless. LK_CORRUPT where the log ends before what was durable. */
lk_status lk_redo_scan_init(lk_redo_scan *out, lk_redo *r, uint64_t generation, lk_error *err);
void lk_redo_scan_deinit(lk_redo_scan *scan);
/* The next frame's records: bytes from *out up to *out + *out_bytes. False at the end. */
bool lk_redo_scan_next(lk_redo_scan *scan, const uint8_t **out, uint32_t *out_bytes);

#endif
