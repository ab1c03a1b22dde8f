/* pulse.h: the file PULSE, by which readers in other processes see whether the owner has gone on.
 *
 *   0        8             16      24
 *   +--------+-------------+-------+
 *   | owner  | generation  | edits |     little-endian
 *   +--------+-------------+-------+
 *
 * `owner` is a random number of each opening, `generation` that of the log segment activated last,
 * `edits` the number of the manifest's last edit. Each is written after what it tells of can be
 * read, and before whoever did it goes on: a write is acknowledged, a file recycled. So a reader that
 * finds what it found before knows without a look at the manifest that only the segment which it
 * reads can have grown.
 *
 * Owns      its descriptor.
 * Callers   store.c, write.c, background.c in the owner; refresh.c in readers.
 * Threads   generation and edits are written under the locks that guard what they count.
 * Always    a hint: it has no checksum and is never synced; anything else than what was read before
 *           makes a reader look at the files that count. The file is never replaced.
 */
#ifndef LK_PULSE_H
#define LK_PULSE_H

#include "env.h"

typedef struct lk_pulse {
    uint64_t owner, generation, edits;
} lk_pulse;

/* For its owner, who makes it where it is absent. */
lk_status lk_pulse_open(lk_env *env, const char *dir, lk_file **out, lk_error *err);
/* All of it, with another owner than before. */
lk_status lk_pulse_begin(lk_env *env, lk_file *file, uint64_t generation, uint64_t edits,
                         lk_error *err);
lk_status lk_pulse_generation(lk_file *file, uint64_t generation, lk_error *err);
lk_status lk_pulse_edits(lk_file *file, uint64_t edits, lk_error *err);

/* For a reader, all zeros at first: the file, once it was found, and its mapping, if it may be mapped. */
typedef struct lk_pulse_place {
    lk_env *env;
    lk_file *file;
    uint8_t *map;
} lk_pulse_place;

/* *out_known is false where there is none. */
lk_status lk_pulse_read(lk_pulse_place *place, lk_env *env, const char *dir, bool may_map,
                        lk_pulse *out, bool *out_known, lk_error *err);
void lk_pulse_leave(lk_pulse_place *place);

static inline bool lk_pulse_equal(const lk_pulse *a, const lk_pulse *b)
{
    return a->owner == b->owner && a->generation == b->generation && a->edits == b->edits;
}

#endif
