/* btree_verify.c: proving a whole B+tree. Writers wait meanwhile, readers go on. */
#include <stdlib.h>

#include "btree.h"
#include "check.h"
#include "hash.h"

/* Keys that a page's keys are between: the lower one included; `has` false: there is none. */
typedef struct fences {
    uint8_t *lower, *upper;
    uint32_t lower_len, upper_len;
    bool has_lower, has_upper;
} fences;

typedef struct walk {
    lk_btree *t;
    lk_btree_report *report;
    uint8_t *seen; /* a bit a page */
} walk;

static void fault(walk *w, const lk_error *why)
{
    if (w->report->faults++ == 0) w->report->error = *why;
}

static void fault_at(walk *w, uint32_t page, const char *what)
{
    lk_error why;
    const char *path = lk_file_path(w->t->file.file);
    (void)lk_fail_corrupt(&why, path, (uint64_t)page * w->t->file.page_bytes, page, page,
                          "%s: page %u %s", path, page, what);
    fault(w, &why);
}

/* Notes that pages are used; false where one of them is already, or is none. */
static bool mark(walk *w, uint32_t page, uint32_t count)
{
    if (page == 0 || (uint64_t)page + count > w->t->space.pages) {
        fault_at(w, page, "is not in the file");
        return false;
    }
    for (uint32_t i = page; i < page + count; i++) {
        if ((w->seen[i / 8] >> (i % 8) & 1) != 0) {
            fault_at(w, i, "is used twice");
            return false;
        }
        w->seen[i / 8] = (uint8_t)(w->seen[i / 8] | 1u << (i % 8));
    }
    return true;
}

static lk_status extent_prove(walk *w, lk_ref ref, uint32_t bytes, lk_error *err)
{
    lk_error why;
    if (!mark(w, ref.page, lk_extent_pages(&w->t->file, bytes))) return LK_OK;
    uint8_t *data = malloc(bytes);
    if (data == NULL) return lk_fail_nomem(err, bytes);
    lk_status st = lk_extent_read(&w->t->file, ref, data, bytes, &why);
    free(data);
    w->report->extents++;
    w->report->bytes += bytes;
    if (st == LK_CORRUPT) {
        fault(w, &why);
        return LK_OK;
    }
    if (st != LK_OK && err != NULL) *err = why;
    return st;
}

/* A copy of the page as it is: in memory where it was changed, on the disk otherwise. `*out_good`. */
static lk_status page_copy(walk *w, uint32_t page, uint8_t *out, bool *out_good, lk_error *err)
{
    lk_btree *t = w->t;
    lk_error why;
    lk_status st;
    lk_btree_read_begin(t);
    uint32_t frame = lk_page_cache_frame(&t->cache, page);
    bool is_changed = frame != 0 && t->cache.frames[frame - 1].dirty;
    if (is_changed) {
        memcpy(out, lk_page_cache_memory(&t->cache, frame - 1), t->file.page_bytes);
    }
    lk_btree_read_end(t);
    if (is_changed) {
        st = lk_page_check(out, t->file.page_bytes, lk_file_path(t->file.file),
                           (uint64_t)page * t->file.page_bytes, &why);
    } else {
        st = lk_page_read(&t->file, page, t->head.checkpoint, out, &why);
    }
    *out_good = st == LK_OK;
    if (st == LK_OK) return LK_OK;
    if (st == LK_CORRUPT) {
        fault(w, &why);
        return LK_OK;
    }
    if (err != NULL) *err = why;
    return st;
}

static lk_status cell_prove(walk *w, const lk_cell *c, bool is_leaf, lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t bytes = w->t->file.page_bytes;
    const uint8_t *tail = c->tail;
    if (c->key_len > lk_page_key_max(bytes)) {
        LK_TRY(extent_prove(w, lk_ref_load(tail), c->key_len, err));
        tail += LK_REF_BYTES;
    }
    if (is_leaf && !lk_page_is_inline(bytes, c->key_len, c->word)) {
        LK_TRY(extent_prove(w, lk_ref_load(tail), c->word, err));
    }
done:
    return st;
}

static lk_status page_prove(walk *w, uint32_t page, uint32_t level, const fences *f, lk_error *err);

/* Each child of a branch, between the separators beside it. */
static lk_status children_prove(walk *w, const uint8_t *p, uint32_t level, const fences *f,
                                lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t n = lk_page_count(p), bytes = w->t->file.page_bytes;
    uint8_t *keys = malloc(2 * (LK_KEY_BYTES_MAX + 1));
    if (keys == NULL) return lk_fail_nomem(err, 2 * (LK_KEY_BYTES_MAX + 1));
    uint8_t *own[2] = {keys, keys + LK_KEY_BYTES_MAX + 1};
    fences inner = *f;
    for (uint32_t i = 0; i <= n; i++) {
        inner.has_upper = i < n || f->has_upper;
        inner.upper = f->upper;
        inner.upper_len = f->upper_len;
        if (i < n) {
            lk_cell c = lk_page_cell(p, bytes, i);
            inner.upper = own[i % 2];
            inner.upper_len = c.key_len;
            LK_TRY(lk_cell_key(&w->t->file, &c, inner.upper, err));
        }
        LK_TRY(page_prove(w, lk_page_child(p, i), level - 1, &inner, err));
        inner.has_lower = true;
        inner.lower = inner.upper;
        inner.lower_len = inner.upper_len;
    }
done:
    free(keys);
    return st;
}

/* Whether the first and the last key are within the fences. */
static lk_status bounds_prove(walk *w, uint32_t page, const uint8_t *p, const fences *f,
                              lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t n = lk_page_count(p), bytes = w->t->file.page_bytes;
    if (n == 0) return LK_OK;
    uint8_t *key = malloc(LK_KEY_BYTES_MAX + 1);
    if (key == NULL) return lk_fail_nomem(err, LK_KEY_BYTES_MAX + 1);
    lk_cell first = lk_page_cell(p, bytes, 0), last = lk_page_cell(p, bytes, n - 1);
    LK_TRY(lk_cell_key(&w->t->file, &first, key, err));
    if (f->has_lower && lk_key_compare(key, first.key_len, f->lower, f->lower_len) < 0) {
        fault_at(w, page, "has a key that belongs before it");
    }
    LK_TRY(lk_cell_key(&w->t->file, &last, key, err));
    if (f->has_upper && lk_key_compare(key, last.key_len, f->upper, f->upper_len) >= 0) {
        fault_at(w, page, "has a key that belongs behind it");
    }
done:
    free(key);
    return st;
}

static lk_status page_prove(walk *w, uint32_t page, uint32_t level, const fences *f, lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t bytes = w->t->file.page_bytes;
    bool good;
    if (!mark(w, page, 1)) return LK_OK;
    uint8_t *p = malloc(bytes);
    if (p == NULL) return lk_fail_nomem(err, bytes);
    LK_TRY(page_copy(w, page, p, &good, err));
    if (!good) goto done;
    w->report->pages++;
    w->report->bytes += bytes;
    if (lk_page_level(p) != level) {
        fault_at(w, page, "is of another level");
        goto done;
    }
    for (uint32_t i = 0; i < lk_page_count(p); i++) {
        lk_cell c = lk_page_cell(p, bytes, i);
        LK_TRY(cell_prove(w, &c, level == 0, err));
    }
    st = bounds_prove(w, page, p, f, err);
    if (st == LK_OK && level > 0) st = children_prove(w, p, level, f, err);
    if (st == LK_CORRUPT) st = LK_OK; /* a key that cannot be read was counted above */
    if (level == 0) w->report->rows += lk_page_count(p);
done:
    free(p);
    return st;
}

static void runs_mark(walk *w, const lk_page_runs *r)
{
    for (uint32_t i = 0; i < r->count; i++) {
        (void)mark(w, r->runs[i].page, r->runs[i].count);
        w->report->free_pages += r->runs[i].count;
    }
}

static lk_status all_prove(walk *w, lk_error *err)
{
    lk_status st = LK_OK;
    lk_btree *t = w->t;
    fences none = {0};
    if (t->head.root != 0) LK_TRY(page_prove(w, t->head.root, t->head.levels, &none, err));
    runs_mark(w, &t->space.now);
    runs_mark(w, &t->space.later);
    if (t->head.free_page != 0) (void)mark(w, t->head.free_page, t->head.free_pages);
    if (w->report->faults != 0) goto done;
    if (w->report->rows != t->head.rows) fault_at(w, 0, "counts rows that are not there");
    for (uint32_t i = 1; i < t->space.pages && !t->space.is_lossy; i++) {
        if ((w->seen[i / 8] >> (i % 8) & 1) == 0) fault_at(w, i, "is neither used nor free");
    }
done:
    return st;
}

lk_status lk_btree_verify(lk_btree *t, lk_btree_report *out, lk_error *err)
{
    lk_status st = LK_OK;
    memset(out, 0, sizeof *out);
    walk w = {.t = t, .report = out};
    lk_lock_acquire(&t->write_lock);
    w.seen = calloc((size_t)t->space.pages / 8 + 1, 1);
    st = w.seen == NULL ? lk_fail_nomem(err, t->space.pages / 8 + 1) : all_prove(&w, err);
    lk_lock_release(&t->write_lock);
    free(w.seen);
    return st;
}
