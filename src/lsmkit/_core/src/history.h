/* history.h: which flushed segments stay on the disk as the history of the log (changes.h).
 *
 * Once a segment was flushed, its file is of no more use to the store and becomes a later segment.
 * Where a history is wanted it stays as it is, cut to what it holds, until there are too many bytes
 * of them; then the oldest goes. It is never written to again, so who reads it needs no reference:
 * at worst it is gone.
 *
 * Owns      the list of them, and so the files.
 * Callers   store.c finds them at open, and refresh.c in a reader later; background.c adds and trims,
 *           ingest.c cuts, changes.c reads.
 * Threads   any; `lock` is innermost.
 * Always    the list is in order of generation. Two files that stand side by side in it need not
 *           follow each other in the log, as after an ingest or a power cut: readers compare.
 */
#ifndef LK_HISTORY_H
#define LK_HISTORY_H

#include "env.h"
#include "lock.h"
#include "status.h"

struct lk_segment;

typedef struct lk_past {
    uint64_t generation;
    uint64_t base_seq; /* of its first record */
    uint64_t bytes;    /* of the disk */
} lk_past;

typedef struct lk_history {
    uint64_t bytes_max; /* fixed after open; 0: nothing is kept */
    lk_lock lock;
    /* guarded by lock */
    lk_past *items;
    size_t count, capacity;
    uint64_t bytes;
} lk_history;

void lk_history_init(lk_history *h);
void lk_history_deinit(lk_history *h);
void lk_history_clear(lk_history *h); /* the list alone */

/* At open: whether the file of a generation that was flushed is a part of the history. It then is in
 * the list. One that is not there (any more) is none. */
lk_status lk_history_adopt(lk_history *h, lk_env *env, const char *dir, uint64_t generation,
                           bool *out_adopted, lk_error *err);
/* A segment that was just flushed, and whose records a view still shows: whether it stays. */
bool lk_history_add(lk_history *h, struct lk_segment *segment);
/* Takes the oldest off the list while all of them have more than `bytes_max` bytes; the caller
 * removes its file. False: they have not. */
bool lk_history_pop(lk_history *h, uint64_t bytes_max, lk_past *out);

/* The file of this generation has gone. */
void lk_history_forget(lk_history *h, uint64_t generation);

/* The newest one that does not begin behind `seq`. */
bool lk_history_find(lk_history *h, uint64_t seq, lk_past *out);
/* The first sequence behind `seq` that one of them begins with; 0: there is none. */
uint64_t lk_history_after(lk_history *h, uint64_t seq);
/* Bytes of the disk that all of them take. */
uint64_t lk_history_bytes(lk_history *h);

#endif
