/* recover.h: the log read back at open: what is a tail, what is damage (docs/DURABILITY.md).
 *
 * E is the end of the longest linked chain of whole frames, D the furthest place that is known to
 * have been safe: durable (a frame's synced_upto, the next segment's first durable frame, the
 * manifest), or, in the same boot of the machine, in the kernel's hands (the mark page).
 *
 *   E < D                                     damage: reported
 *   E >= D, nothing valid behind E            a torn tail: cut
 *   E >= D, valid frames behind, other boot   unsynced pages went in any order: cut, later segments
 *                                             dropped, the bytes lost are counted
 *   E >= D, valid frames behind, same boot    damage: killing a process makes no holes
 *
 * A reader beside a living owner goes on from there: it reads what is behind the end again and again,
 * and takes in the frames that have become whole.
 */
#ifndef LK_RECOVER_H
#define LK_RECOVER_H

#include "manifest.h"
#include "segment.h"

typedef struct lk_recovery {
    lk_segment **segments; /* oldest first, published, read-only; with a reference each */
    size_t count;
    uint64_t last_seq;       /* of the last record; the manifest's when there is none */
    uint64_t max_generation; /* of any log file seen */
    uint32_t end, link;      /* of the last segment: what the next one continues */
    uint64_t records, bytes, lost_bytes;
    uint64_t *unused; /* generations of files that are no part of the log, to be removed */
    size_t unused_count;
    bool dropped; /* some of them were: the directory is synced when they are removed */
} lk_recovery;

/* `read_only`: nothing is removed, and files are read, never mapped. */
lk_status lk_recover(lk_env *env, const char *dir, lk_manifest *manifest, bool may_map,
                     bool read_only, lk_recovery *out, lk_error *err);
/* The same, but of segments with at least `late_min` bytes of frames (0: of none) whose end is known
 * to the byte only the end is looked at: what comes before is proved later, see prove.h. Nothing is
 * removed: that is for the caller, once the manifest is settled, and where something was dropped
 * before anything is written. */
lk_status lk_recover_late(lk_env *env, const char *dir, lk_manifest *manifest, bool may_map,
                          bool read_only, uint32_t late_min, lk_recovery *out, lk_error *err);
/* Removes the files that are no part of the log. */
lk_status lk_recovery_remove(lk_env *env, const char *dir, const lk_recovery *r, lk_error *err);
void lk_recovery_deinit(lk_recovery *r);

/* ---- following a log that another process writes ---- */

/* A file that may be the next one of the log, with nothing of it read yet; *out is NULL when it was
 * not used so far, LK_NOT_FOUND: it is not there. `previous` (may be NULL) is the segment before, read
 * to its end: LK_CORRUPT when the file does not continue it. */
lk_status lk_log_follow_open(lk_env *env, const char *dir, uint64_t generation,
                             const lk_segment *previous, lk_segment **out, lk_error *err);
/* Reads on behind `position`; `count` goes up, `published` does not. A file that was recycled
 * meanwhile is LK_CORRUPT: then its records are in tables. */
lk_status lk_log_follow(lk_segment *s, lk_error *err);
/* Numbers of the log files behind `after`, ascending; `out` is malloc'ed. */
lk_status lk_log_list(lk_env *env, const char *dir, uint64_t after, uint64_t **out,
                      size_t *out_count, lk_error *err);

/* Text of a log file: header, frames and records, each line to `print`. */
lk_status lk_log_dump(lk_env *env, const char *path, bool records,
                      void (*print)(void *context, const char *line), void *context, lk_error *err);

#endif
