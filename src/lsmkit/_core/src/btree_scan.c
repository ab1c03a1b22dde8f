/* btree_scan.c: rows of a B+tree in order, both ways.
 *
 * A scan remembers a key, not a page: each fetch descends again, and copies what it wants from one
 * leaf. So nothing is pinned, and it sees what was written before the fetch.
 */
#include <stdlib.h>

#include "btree.h"
#include "check.h"

#define FETCH_BYTES (1u << 20) /* with large values a fetch ends after so many */

lk_status lk_btree_scan_init(lk_btree_scan *s, lk_btree *t, lk_bytes lower, lk_bytes upper,
                             bool reverse, lk_error *err)
{
    memset(s, 0, sizeof *s);
    s->t = t;
    s->reverse = reverse;
    s->place = malloc(2 * (LK_KEY_BYTES_MAX + 1));
    if (s->place == NULL) return lk_fail_nomem(err, 2 * (LK_KEY_BYTES_MAX + 1));
    s->limit = s->place + LK_KEY_BYTES_MAX + 1;
    lk_bytes from = reverse ? upper : lower, to = reverse ? lower : upper;
    /* The bound after the longest key may be one byte longer; it is like that key's, but that the key
     * is wanted. */
    s->has_place = from.data != NULL;
    s->is_included = !reverse;
    LK_ASSERT(from.len <= LK_KEY_BYTES_MAX + 1 && to.len <= LK_KEY_BYTES_MAX + 1);
    if (from.len != 0) memcpy(s->place, from.data, from.len);
    s->place_len = (uint32_t)from.len;
    s->has_limit = to.data != NULL;
    if (to.len != 0) memcpy(s->limit, to.data, to.len);
    s->limit_len = (uint32_t)to.len;
    return LK_OK;
}

void lk_btree_scan_deinit(lk_btree_scan *s)
{
    free(s->place);
    free(s->bytes);
    memset(s, 0, sizeof *s);
    s->at_end = true;
}

/* The child in which the next row is, and the key at which the row after its last one begins: that of
 * the separator beyond, or none. */
typedef struct lk_btree_beyond {
    const uint8_t *p;
    uint32_t slot;
} lk_btree_beyond;

static lk_status descend(lk_btree_scan *s, const uint8_t **out_leaf, lk_btree_beyond *beyond,
                         uint32_t *out_missing, lk_error *err)
{
    lk_status st = LK_OK;
    const lk_btree *t = s->t;
    lk_bytes key = {s->place, s->place_len};
    uint32_t page = t->head.root, level = t->head.levels, slot, index;
    bool found;
    beyond->p = NULL;
    for (;; level--) {
        const uint8_t *p = lk_page_cache_find(&t->cache, page);
        if (p == NULL) {
            *out_missing = page;
            return LK_MISS;
        }
        if (lk_page_level(p) != level) {
            const char *path = lk_file_path(t->file.file);
            return lk_fail_corrupt(err, path, (uint64_t)page * t->file.page_bytes, level,
                                   lk_page_level(p), "%s: page %u is of another level", path, page);
        }
        *out_leaf = p;
        if (level == 0) return LK_OK;
        index = s->reverse ? lk_page_count(p) : 0;
        if (s->has_place) {
            LK_TRY(lk_page_find(&t->file, p, key, &slot, &found, err));
            /* Of a separator's own key nothing is before it, and all that is behind it is there. */
            index = slot + (found && (!s->reverse || s->is_included));
        }
        if (s->reverse ? index > 0 : index < lk_page_count(p)) {
            beyond->p = p;
            beyond->slot = s->reverse ? index - 1 : index;
        }
        LK_TRY(lk_btree_child(t, p, index, &page, err));
    }
done:
    return st;
}

static bool is_past_limit(const lk_btree_scan *s, const lk_cell *c, const uint8_t *key)
{
    if (!s->has_limit) return false;
    int cmp = lk_key_compare(key, c->key_len, s->limit, s->limit_len);
    return s->reverse ? cmp < 0 : cmp >= 0;
}

static lk_status reserve(lk_btree_scan *s, size_t more, lk_error *err)
{
    if (s->capacity - s->used >= more) return LK_OK;
    size_t want = 2 * s->capacity > s->used + more ? 2 * s->capacity : s->used + more + 4096;
    uint8_t *larger = realloc(s->bytes, want);
    if (larger == NULL) return lk_fail_nomem(err, want);
    s->bytes = larger;
    s->capacity = want;
    return LK_OK;
}

/* Appends a row's key and value to the buffer; *out_past when it is not wanted any more. */
static lk_status row_copy(lk_btree_scan *s, const uint8_t *leaf, uint32_t slot, bool *out_past,
                          lk_error *err)
{
    lk_status st = LK_OK;
    const lk_btree *t = s->t;
    uint32_t bytes = t->file.page_bytes;
    lk_cell c = lk_page_cell(leaf, bytes, slot);
    LK_TRY(reserve(s, (size_t)c.key_len + c.word, err));
    uint8_t *key = s->bytes + s->used, *value = key + c.key_len;
    LK_TRY(lk_cell_key(&t->file, &c, key, err));
    *out_past = is_past_limit(s, &c, key);
    if (*out_past) goto done;
    const uint8_t *tail = c.tail + (c.key_len > lk_page_key_max(bytes) ? LK_REF_BYTES : 0);
    if (!lk_page_is_inline(bytes, c.key_len, c.word)) {
        LK_TRY(lk_extent_read(&t->file, lk_ref_load(tail), value, c.word, err));
    } else if (c.word != 0) {
        memcpy(value, tail, c.word);
    }
    size_t *o = s->offsets + 2 * s->count;
    o[0] = s->used;
    o[1] = s->used + c.key_len;
    o[2] = s->used + c.key_len + c.word;
    s->used = o[2];
    s->count++;
done:
    return st;
}

/* The last row that was copied is where the next fetch goes on behind. */
static void place_at_row(lk_btree_scan *s)
{
    lk_btree_row row = lk_btree_scan_row(s, s->count - 1);
    memcpy(s->place, row.key.data, row.key.len);
    s->place_len = (uint32_t)row.key.len;
    s->has_place = true;
    s->is_included = false;
}

static lk_status leaf_copy(lk_btree_scan *s, const uint8_t *leaf, const lk_btree_beyond *beyond,
                           uint32_t rows, lk_error *err)
{
    lk_status st = LK_OK;
    const lk_btree *t = s->t;
    uint32_t n = lk_page_count(leaf), slot = s->reverse ? n : 0;
    bool found = false, is_past = false;
    if (s->has_place) {
        lk_bytes key = {s->place, s->place_len};
        LK_TRY(lk_page_find(&t->file, leaf, key, &slot, &found, err));
        if (s->reverse ? found && s->is_included : found && !s->is_included) slot++;
    }
    while (s->reverse ? slot > 0 : slot < n) {
        if (s->count == rows || s->used >= FETCH_BYTES) {
            place_at_row(s);
            return LK_OK;
        }
        LK_TRY(row_copy(s, leaf, s->reverse ? slot - 1 : slot, &is_past, err));
        if (is_past) break;
        slot = s->reverse ? slot - 1 : slot + 1;
    }
    s->at_end = is_past || beyond->p == NULL;
    if (s->at_end) goto done;
    lk_cell c = lk_page_cell(beyond->p, t->file.page_bytes, beyond->slot);
    LK_TRY(lk_cell_key(&t->file, &c, s->place, err));
    s->place_len = c.key_len;
    s->has_place = true;
    s->is_included = !s->reverse;
done:
    return st;
}

lk_status lk_btree_scan_fill(lk_btree_scan *s, uint32_t rows, lk_error *err)
{
    lk_status st = LK_OK;
    lk_btree *t = s->t;
    LK_ASSERT(rows > 0 && rows <= LK_BTREE_ROWS);
    s->used = 0;
    s->count = 0;
    while (st == LK_OK && !s->at_end && s->count < rows && s->used < FETCH_BYTES) {
        const uint8_t *leaf = NULL;
        lk_btree_beyond beyond = {NULL, 0};
        uint32_t missing = 0;
        lk_btree_read_begin(t);
        if (t->head.root == 0) {
            s->at_end = true;
        } else {
            st = descend(s, &leaf, &beyond, &missing, err);
            if (st == LK_OK) st = leaf_copy(s, leaf, &beyond, rows, err);
        }
        lk_btree_read_end(t);
        if (st == LK_MISS) st = lk_btree_bring(t, missing, err);
    }
    return st;
}
