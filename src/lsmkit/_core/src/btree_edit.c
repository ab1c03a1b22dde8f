/* btree_edit.c: putting and deleting one row: splits and merges of pages.
 *
 * All that an edit needs is looked up before the first byte changes, so that a page that is not in
 * memory (LK_MISS) leaves everything as it was. What fails later, an extent that cannot be written,
 * leaves a tree that no checkpoint may write: the caller makes it refuse writes, and the log has all.
 */
#include "btree.h"
#include "check.h"

static uint32_t room_of(const lk_btree *t) { return t->file.page_bytes - LK_PAGE_HEADER_BYTES; }
static uint8_t *scratch(const lk_btree *t, uint32_t i)
{
    return t->pages + (size_t)i * t->file.page_bytes;
}

static lk_status page_find(lk_btree *t, uint32_t page, uint32_t level, uint8_t **out, lk_error *err)
{
    *out = lk_page_cache_find(&t->cache, page);
    if (*out == NULL) {
        t->missing = page;
        return LK_MISS;
    }
    if (lk_page_level(*out) == level) return LK_OK;
    return lk_fail_corrupt(err, lk_file_path(t->file.file), (uint64_t)page * t->file.page_bytes,
                           level, lk_page_level(*out), "%s: page %u is of another level",
                           lk_file_path(t->file.file), page);
}

/* Fills `path` from the root down to the leaf that `key` belongs to. */
static lk_status descend(lk_btree *t, lk_bytes key, lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t page = t->head.root, level = t->head.levels, slot;
    bool found;
    for (;; level--) {
        lk_btree_step *step = &t->path[level];
        step->page = page;
        LK_TRY(page_find(t, page, level, &step->p, err));
        if (level == 0) break;
        LK_TRY(lk_page_find(&t->file, step->p, key, &slot, &found, err));
        step->index = slot + found;
        LK_TRY(lk_btree_child(t, step->p, step->index, &page, err));
    }
done:
    return st;
}

/* A new page in memory; a frame for it was reserved. */
static lk_status page_new(lk_btree *t, lk_page_kind kind, uint32_t level, uint32_t left,
                          uint32_t *out_page, uint8_t **out, lk_error *err)
{
    lk_status st = lk_space_take(&t->space, 1, lk_file_path(t->file.file), out_page, err);
    if (st != LK_OK) return st;
    /* A reader may have brought it in just after it was freed. */
    lk_page_cache_drop(&t->cache, *out_page);
    *out = lk_page_cache_take(&t->cache, *out_page);
    if (*out == NULL) return lk_fail_nomem(err, t->file.page_bytes);
    lk_page_init(*out, t->file.page_bytes, kind, level, left);
    lk_page_cache_dirty(&t->cache, *out_page, true);
    return LK_OK;
}

static void page_drop(lk_btree *t, uint32_t page)
{
    bool is_new = lk_page_cache_is_new(&t->cache, page);
    lk_page_cache_drop(&t->cache, page);
    lk_space_give(&t->space, page, 1, is_new);
}

static void dirty(lk_btree *t, uint32_t page) { lk_page_cache_dirty(&t->cache, page, false); }

/* Gives back the extents that a cell refers to. */
static void cell_forget(lk_btree *t, const lk_cell *c, bool is_leaf)
{
    bool is_long = c->key_len > lk_page_key_max(t->file.page_bytes);
    if (is_long) {
        lk_space_give(&t->space, lk_ref_load(c->tail).page, lk_extent_pages(&t->file, c->key_len),
                      false);
    }
    if (is_leaf && !lk_page_is_inline(t->file.page_bytes, c->key_len, c->word)) {
        lk_ref ref = lk_ref_load(c->tail + (is_long ? LK_REF_BYTES : 0));
        lk_space_give(&t->space, ref.page, lk_extent_pages(&t->file, c->word), false);
    }
}

/* ---- splits ---- */

/* Bytes of a cell of a page whose keys all begin with `prefix_len` bytes. */
static uint32_t share_of(const lk_cell *c, uint32_t prefix_len)
{
    return LK_SLOT_BYTES + 4 + c->prefix_len + c->suffix_len - prefix_len + c->tail_len;
}

/* Where to divide the cells: the most even place at which both halves fit. Of a branch cells[m] goes
 * up and is in neither. A cell that does not begin as the others do is first or last, and may fit with
 * none of them: then it is alone. */
static uint32_t split_place(const lk_btree *t, uint32_t n, uint32_t slot, bool is_leaf)
{
    uint32_t sum = lk_cells_bytes(t->cells, n), room = room_of(t), all = 0, prefix_len;
    for (uint32_t i = 0; i < n; i++) all += share_of(&t->cells[i], 0);
    prefix_len = n > 1 ? (all - sum) / (n - 1) : 0; /* sum = prefix + all - n * prefix */
    uint32_t total = sum - prefix_len, left = 0, best = UINT32_MAX, place = UINT32_MAX;
    for (uint32_t m = 0; m < n; m++) {
        uint32_t own = share_of(&t->cells[m], prefix_len);
        uint32_t right = total - left - (is_leaf ? 0 : own);
        uint32_t uneven = left > right ? left - right : right - left;
        if ((m > 0 || !is_leaf) && left + prefix_len <= room && right + prefix_len <= room &&
            uneven < best) {
            best = uneven;
            place = m;
        }
        left += own;
    }
    if (place != UINT32_MAX) return place;
    return slot == 0 ? (is_leaf ? 1 : 0) : n - 1;
}

/* The shortest key that is greater than that of cell `a` and not greater than that of `b`; into
 * `fence`, its length in *out. */
static lk_status separator(lk_btree *t, const lk_cell *a, const lk_cell *b, uint32_t *out,
                           lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t key_max = lk_page_key_max(t->file.page_bytes);
    uint8_t *x = t->keys, *y = t->keys + LK_KEY_BYTES_MAX + 1;
    lk_cell short_a = *a, short_b = *b;
    if (short_a.key_len > key_max) short_a.key_len = key_max;
    if (short_b.key_len > key_max) short_b.key_len = key_max;
    LK_TRY(lk_cell_key(&t->file, &short_a, x, err));
    LK_TRY(lk_cell_key(&t->file, &short_b, y, err));
    size_t n = lk_common_prefix(x, short_a.key_len, y, short_b.key_len);
    if (n == short_b.key_len) { /* both are long, and differ behind what is inline */
        LK_TRY(lk_cell_key(&t->file, a, x, err));
        LK_TRY(lk_cell_key(&t->file, b, y, err));
        n = lk_common_prefix(x, a->key_len, y, b->key_len);
    }
    LK_ASSERT(n < b->key_len);
    memcpy(t->fence, y, n + 1);
    *out = (uint32_t)n + 1;
done:
    return st;
}

/* The cell of a separator in `fence`; a long one gets an extent, and its ref is put behind the key. */
static lk_status fence_cell(lk_btree *t, uint32_t key_len, uint32_t child, lk_cell *out,
                            lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t key_max = lk_page_key_max(t->file.page_bytes), page;
    *out = (lk_cell){.suffix = t->fence, .suffix_len = key_len, .key_len = key_len, .word = child};
    if (key_len <= key_max) return LK_OK;
    lk_ref ref;
    LK_TRY(lk_space_take(&t->space, lk_extent_pages(&t->file, key_len), lk_file_path(t->file.file),
                         &page, err));
    LK_TRY(lk_extent_write(&t->file, page, t->fence, key_len, &ref, err));
    t->file_is_dirty = true;
    t->counters.extent_bytes += key_len;
    out->suffix_len = key_max;
    lk_ref_store(t->fence + LK_KEY_BYTES_MAX + 1, ref);
    out->tail = t->fence + LK_KEY_BYTES_MAX + 1;
    out->tail_len = LK_REF_BYTES;
done:
    return st;
}

/* A separator of a branch that goes up: its key into `fence` with its ref, which goes with it. */
static void fence_from(lk_btree *t, const lk_cell *c, uint32_t child, lk_cell *out)
{
    memmove(t->fence + c->prefix_len, c->suffix, c->suffix_len);
    if (c->prefix_len != 0) memcpy(t->fence, c->prefix, c->prefix_len);
    *out = (lk_cell){.suffix = t->fence,
                     .suffix_len = c->prefix_len + c->suffix_len,
                     .key_len = c->key_len,
                     .word = child};
    if (c->tail_len == 0) return;
    memmove(t->fence + LK_KEY_BYTES_MAX + 1, c->tail, LK_REF_BYTES);
    out->tail = t->fence + LK_KEY_BYTES_MAX + 1;
    out->tail_len = LK_REF_BYTES;
}

/* Divides a page whose cells are in `cells`, `n` with the new one. `*out` is what goes up. */
static lk_status split(lk_btree *t, uint32_t level, uint32_t n, uint32_t m, lk_cell *out,
                       lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t page, fence_len, bytes = t->file.page_bytes;
    uint8_t *right;
    if (level == 0) {
        LK_TRY(separator(t, &t->cells[m - 1], &t->cells[m], &fence_len, err));
        LK_TRY(page_new(t, LK_PAGE_LEAF, 0, 0, &page, &right, err));
        lk_page_build(right, bytes, t->cells + m, n - m);
        LK_TRY(fence_cell(t, fence_len, page, out, err));
    } else {
        LK_TRY(page_new(t, LK_PAGE_BRANCH, level, t->cells[m].word, &page, &right, err));
        lk_page_build(right, bytes, t->cells + m + 1, n - m - 1);
    }
    lk_page_build(t->path[level].p, bytes, t->cells, m);
    /* Last, because one of the cells may stand in `fence`. */
    if (level != 0) fence_from(t, &t->cells[m], page, out);
    t->counters.splits++;
done:
    return st;
}

/* Whether the place before `slot` is the end of all keys. */
static bool is_last_of_all(const lk_btree *t, uint32_t level, uint32_t slot)
{
    if (slot != lk_page_count(t->path[level].p)) return false;
    for (uint32_t l = level + 1; l <= t->head.levels; l++) {
        if (t->path[l].index != lk_page_count(t->path[l].p)) return false;
    }
    return true;
}

static lk_status root_grow(lk_btree *t, const lk_cell *cell, lk_error *err)
{
    uint32_t page;
    uint8_t *p;
    uint32_t level = t->head.levels + 1;
    if (level >= LK_BTREE_LEVELS_MAX) {
        return lk_fail(err, LK_INVALID, 0, NULL, 0, 0, level, "the tree has too many levels");
    }
    lk_status st = page_new(t, LK_PAGE_BRANCH, level, t->head.root, &page, &p, err);
    if (st != LK_OK) return st;
    bool fits = lk_page_insert(p, t->file.page_bytes, 0, cell);
    LK_ASSERT(fits);
    (void)fits;
    t->head.root = page;
    t->head.levels = level;
    return LK_OK;
}

/* Puts a cell before `slot` of the path's page at `level`. Rows that come in order are appended, and
 * leave a tenth of each page free for those that come later. */
static lk_status insert(lk_btree *t, uint32_t level, uint32_t slot, const lk_cell *cell,
                        lk_error *err)
{
    lk_cell up = *cell;
    for (;; level++) {
        uint8_t *p = t->path[level].p;
        uint32_t bytes = t->file.page_bytes, room = room_of(t);
        dirty(t, t->path[level].page);
        bool appends = is_last_of_all(t, level, slot);
        if (appends) room -= room / 10;
        if ((!appends || lk_page_used(p, bytes) + share_of(&up, lk_page_prefix_len(p)) <= room) &&
            lk_page_shares(p, bytes, &up) && lk_page_insert(p, bytes, slot, &up)) {
            return LK_OK;
        }
        memcpy(scratch(t, 0), p, bytes);
        uint32_t n = lk_page_gather(scratch(t, 0), bytes, t->cells, 0);
        memmove(t->cells + slot + 1, t->cells + slot, (n - slot) * sizeof *t->cells);
        t->cells[slot] = up;
        n++;
        if (n < 3 || lk_cells_bytes(t->cells, n) <= room) {
            lk_page_build(p, bytes, t->cells, n);
            return LK_OK;
        }
        uint32_t m = appends ? n - 1 : split_place(t, n, slot, level == 0);
        lk_status st = split(t, level, n, m, &up, err);
        if (st != LK_OK) return st;
        if (level == t->head.levels) return root_grow(t, &up, err);
        slot = t->path[level + 1].index;
    }
}

lk_status lk_edit_put(lk_btree *t, lk_bytes key, const lk_cell *cell, lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t slot, bytes = t->file.page_bytes;
    bool found;
    if (t->head.root == 0) {
        LK_TRY(page_new(t, LK_PAGE_LEAF, 0, 0, &t->head.root, &t->path[0].p, err));
        t->head.levels = 0;
    }
    LK_TRY(descend(t, key, err));
    uint8_t *p = t->path[0].p;
    LK_TRY(lk_page_find(&t->file, p, key, &slot, &found, err));
    if (found) {
        lk_cell old = lk_page_cell(p, bytes, slot);
        dirty(t, t->path[0].page);
        cell_forget(t, &old, true);
        if (old.word == cell->word && old.tail_len == cell->tail_len) {
            if (old.tail_len != 0) memcpy(p + (old.tail - p), cell->tail, old.tail_len);
            return LK_OK;
        }
        lk_page_remove(p, bytes, slot);
        t->head.rows--;
    }
    LK_TRY(insert(t, 0, slot, cell, err));
    t->head.rows++;
done:
    return st;
}

/* ---- deletes ---- */

static bool is_poor(const lk_btree *t, const uint8_t *p)
{
    return lk_page_used(p, t->file.page_bytes) < room_of(t) / 4;
}

lk_status lk_edit_delete(lk_btree *t, lk_bytes key, lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t slot;
    bool found;
    t->wants_mend = false;
    if (t->head.root == 0) return LK_OK;
    LK_TRY(descend(t, key, err));
    uint8_t *p = t->path[0].p;
    LK_TRY(lk_page_find(&t->file, p, key, &slot, &found, err));
    if (!found) return LK_OK;
    lk_cell old = lk_page_cell(p, t->file.page_bytes, slot);
    dirty(t, t->path[0].page);
    cell_forget(t, &old, true);
    lk_page_remove(p, t->file.page_bytes, slot);
    t->head.rows--;
    t->wants_mend = t->head.levels > 0 && is_poor(t, p);
done:
    return st;
}

/* Merges the page at `level` of the path with its neighbour; *out_done false where both do not fit in
 * one page, or there is no neighbour. */
static lk_status merge(lk_btree *t, uint32_t level, bool *out_done, lk_error *err)
{
    lk_status st = LK_OK;
    lk_btree_step *up = &t->path[level + 1];
    uint32_t bytes = t->file.page_bytes, slot, left_page, right_page;
    uint8_t *left, *right;
    *out_done = false;
    if (lk_page_count(up->p) == 0) goto done;
    slot = up->index > 0 ? up->index - 1 : 0; /* of the separator between the two */
    LK_TRY(lk_btree_child(t, up->p, slot, &left_page, err));
    LK_TRY(lk_btree_child(t, up->p, slot + 1, &right_page, err));
    LK_TRY(page_find(t, left_page, level, &left, err));
    LK_TRY(page_find(t, right_page, level, &right, err));
    memcpy(scratch(t, 0), left, bytes);
    memcpy(scratch(t, 1), right, bytes);
    memcpy(scratch(t, 2), up->p, bytes);
    lk_cell between = lk_page_cell(scratch(t, 2), bytes, slot);
    uint32_t n = lk_page_gather(scratch(t, 0), bytes, t->cells, 0);
    if (level > 0) {
        t->cells[n] = between;
        t->cells[n++].word = lk_page_left(right);
    }
    n = lk_page_gather(scratch(t, 1), bytes, t->cells, n);
    if (lk_cells_bytes(t->cells, n) > room_of(t)) goto done;
    lk_page_build(left, bytes, t->cells, n);
    lk_page_remove(up->p, bytes, slot);
    if (level == 0) cell_forget(t, &between, false);
    dirty(t, left_page);
    dirty(t, up->page);
    page_drop(t, right_page);
    t->path[level].page = left_page;
    t->path[level].p = left;
    t->counters.merges++;
    *out_done = true;
done:
    return st;
}

lk_status lk_edit_mend(lk_btree *t, lk_bytes key, lk_error *err)
{
    lk_status st = LK_OK;
    bool done;
    LK_TRY(descend(t, key, err));
    for (uint32_t level = 0; level < t->head.levels; level++) {
        if (!is_poor(t, t->path[level].p)) break;
        LK_TRY(merge(t, level, &done, err));
    }
    while (t->head.levels > 0) {
        uint8_t *p = t->path[t->head.levels].p;
        if (lk_page_count(p) != 0) break;
        uint32_t page = t->head.root;
        LK_TRY(lk_btree_child(t, p, 0, &t->head.root, err));
        t->head.levels--;
        page_drop(t, page);
    }
done:
    return st;
}
