/* browser.c: windows of a cursor's rows, and turning around.
 */
#include "browser.h"

#include "check.h"

enum { ASK_MIN = 4 };

lk_status lk_browser_init(lk_browser *b, lk_view *view, uint32_t tree, uint64_t seq, lk_error *err)
{
    static const uint8_t none[1];
    const lk_bounds empty = {{none, 0}, {none, 0}}; /* orders are taken by the first seek */
    memset(b, 0, offsetof(lk_browser, rows));
    return lk_cursor_open(view, tree, seq, &empty, false, &b->cursor, err);
}

void lk_browser_deinit(lk_browser *b)
{
    lk_cursor_close(b->cursor);
    b->cursor = NULL;
    b->at = b->count = 0;
}

static void stand_nowhere(lk_browser *b) { b->at = b->count = 0; }

/* The rows that come next in the cursor's direction; stands at the first of them. */
static lk_status window_next(lk_browser *b, lk_error *err)
{
    size_t count;
    lk_status st = lk_cursor_next(b->cursor, b->rows, b->ask, &count, err);
    b->at = 0;
    b->count = st == LK_OK ? (uint32_t)count : 0;
    b->ask = b->ask * 2 < LK_BROWSER_ROWS ? b->ask * 2 : LK_BROWSER_ROWS;
    return st;
}

/* A window that begins at `key`. */
static lk_status window_at(lk_browser *b, const lk_bytes *key, bool reverse, lk_error *err)
{
    lk_status st = LK_OK;
    b->reverse = reverse;
    b->ask = ASK_MIN;
    LK_TRY(lk_cursor_seek(b->cursor, key, reverse, err));
    LK_TRY(window_next(b, err));
done:
    if (st != LK_OK) stand_nowhere(b);
    return st;
}

/* How the row sorts against the key, in the direction of the window. */
static int row_order(const lk_browser *b, uint32_t row, const lk_bytes *key)
{
    lk_bytes k = b->rows[row].key;
    int c = lk_key_compare(k.data, k.len, key->data, key->len);
    return b->reverse ? -c : c;
}

/* Within the window, whose rows are neighbours: what is sought between two of them is one of the
 * two. */
static bool window_seek(lk_browser *b, const lk_bytes *key, bool backwards)
{
    if (b->count == 0 || row_order(b, 0, key) > 0 || row_order(b, b->count - 1, key) < 0) {
        return false;
    }
    uint32_t low = 0, high = b->count - 1; /* the first row that does not come before the key */
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (row_order(b, middle, key) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (backwards != b->reverse && row_order(b, low, key) > 0) low--;
    b->at = low;
    return true;
}

lk_status lk_browser_seek(lk_browser *b, const lk_bytes *key, bool backwards, lk_error *err)
{
    if (key != NULL && window_seek(b, key, backwards)) return LK_OK;
    return window_at(b, key, backwards, err);
}

lk_status lk_browser_move(lk_browser *b, bool backwards, lk_error *err)
{
    LK_ASSERT(lk_browser_is_valid(b));
    if (lk_browser_step(b, backwards)) return LK_OK;
    if (backwards == b->reverse) return window_next(b, err);
    /* The row here is taken into the new window too, or a walk to and fro would turn each time. */
    lk_status st = window_at(b, &b->rows[0].key, backwards, err);
    if (st != LK_OK) return st;
    LK_ASSERT(b->count > 0);
    return lk_browser_step(b, backwards) ? LK_OK : window_next(b, err);
}
