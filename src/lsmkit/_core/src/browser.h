/* browser.h: a place among the rows of one tree, as of one moment, that moves both ways.
 *
 * Reads rows ahead into a window, in the direction of the last move beyond it, and moves within the
 * window without reading: back and forth, and to keys that are in it. A move beyond its beginning
 * turns the cursor around at the row there. A window grows from some rows to LK_BROWSER_ROWS while it
 * goes on in one direction, so that a seek alone costs little and a walk as much as a scan.
 *
 * Owns      its cursor, which pins the view.
 * Callers   the border.
 * Threads   one at a time. Moves may block, but for lk_browser_step: never inside a guard section.
 * Always    rows[0, count) are neighbours, ascending, or descending where `reverse`; it stands at
 *           rows[at], or nowhere (count 0).
 * Errors    those of the cursor; it then stands nowhere, and can seek again.
 */
#ifndef LK_BROWSER_H
#define LK_BROWSER_H

#include "cursor.h"

#define LK_BROWSER_ROWS 128u

typedef struct lk_browser {
    lk_cursor *cursor;
    uint32_t at, count; /* in the window */
    uint32_t ask;       /* rows of the next window */
    bool reverse;
    lk_pair rows[LK_BROWSER_ROWS];
} lk_browser;

/* The view gets a reference; it stands nowhere. */
lk_status lk_browser_init(lk_browser *b, lk_view *view, uint32_t tree, uint64_t seq, lk_error *err);
void lk_browser_deinit(lk_browser *b); /* zeros are accepted */

static inline bool lk_browser_is_valid(const lk_browser *b) { return b->at < b->count; }
/* Of a valid one; good until it moves. */
static inline lk_pair lk_browser_row(const lk_browser *b) { return b->rows[b->at]; }

/* To the first key that is not less than `key`, or with `backwards` to the last one that is not
 * greater; NULL: to the first, or the last, of all. Nowhere if there is none. */
lk_status lk_browser_seek(lk_browser *b, const lk_bytes *key, bool backwards, lk_error *err);
/* Of a valid one: to the neighbour; nowhere if there is none. */
lk_status lk_browser_move(lk_browser *b, bool backwards, lk_error *err);

/* The same within the window alone; false where that does not do, and nothing is changed. */
static inline bool lk_browser_step(lk_browser *b, bool backwards)
{
    if (backwards == b->reverse) {
        if (b->at + 1 >= b->count) return false;
        b->at++;
    } else {
        if (b->at == 0) return false;
        b->at--;
    }
    return true;
}

#endif
