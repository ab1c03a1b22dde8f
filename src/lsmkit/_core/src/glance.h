/* glance.h: whether the log of another process has gone on: a look that costs no system call.
 *
 * The file of the last segment is mapped, beside the copy that is read, and only for the place where
 * the header of its next frame will be. Where the log may not be mapped (env.h), and after a reboot,
 * when a page may come from a sector that cannot be read, the place is read instead: one short read.
 *
 * Owns      a reference to the segment, and the mapping.
 * Callers   refresh.c.
 * Threads   one at a time.
 */
#ifndef LK_GLANCE_H
#define LK_GLANCE_H

#include "segment.h"

typedef struct lk_glance {
    lk_segment *segment; /* NULL: none */
    uint8_t *base;       /* its file; NULL: not mapped */
    size_t bytes;
} lk_glance;

/* Turns to this segment (NULL: none), if it is not that already. */
void lk_glance_turn(lk_glance *g, lk_segment *segment, bool may_map);
/* Whether a frame stands behind the segment's `position`; true also where that cannot be read. */
bool lk_glance_has_more(const lk_glance *g);

#endif
