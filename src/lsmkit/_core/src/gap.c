/* gap.c: remembering stretches of keys in which nothing lives.
 *
 * Errors    see gap.h.
 */
#include "gap.h"

#include <stdlib.h>

#include "check.h"

enum {
    ROWS_MIN = 256,        /* dead rows that are worth a gap: opening a merge costs as much */
    ROWS_MORE_MIN = 16,    /* ... and that are worth making one longer */
    ROWS_KEPT_MIN = 64,    /* a part of a gap for which fewer rows stand is forgotten */
    NOTE_LATE_MAX = 65536, /* records that may have come while the scan was under way */
};

static int keys_order(lk_bytes a, lk_bytes b)
{
    return lk_key_compare(a.data, a.len, b.data, b.len);
}

/* Whether no key is at or above `lower` and below `upper`. */
static bool is_empty(lk_bytes lower, lk_bytes upper)
{
    return upper.data != NULL && keys_order(lower, upper) >= 0;
}

/* Whether an upper end is greater than another. */
static bool ends_behind(lk_bytes a, lk_bytes b)
{
    if (b.data == NULL) return false;
    return a.data == NULL || keys_order(a, b) > 0;
}

/* ---- gaps ---- */

/* The lower key is `lower` and, with `after`, a zero behind it: the least key that is greater. NULL:
 * empty, too long, or no memory. An upper key that is too long is cut, which makes the gap smaller. */
static lk_gap *gap_new(uint32_t tree, uint64_t from, uint64_t rows, lk_bytes lower, bool after,
                       lk_bytes upper)
{
    size_t lower_len = lower.len + after;
    if (upper.len > LK_GAP_KEY_MAX) upper.len = LK_GAP_KEY_MAX;
    if (lower_len > LK_GAP_KEY_MAX) return NULL;
    lk_gap *g = malloc(sizeof *g + lower_len + upper.len + 1);
    if (g == NULL) return NULL;
    atomic_init(&g->refs, 1);
    g->tree = tree;
    g->from = from;
    g->rows = rows;
    g->lower = (lk_bytes){g->bytes, lower_len};
    if (lower.len > 0) memcpy(g->bytes, lower.data, lower.len);
    if (after) g->bytes[lower.len] = 0;
    g->upper = (lk_bytes){NULL, 0};
    if (upper.data != NULL) {
        g->upper = (lk_bytes){g->bytes + lower_len, upper.len};
        memcpy(g->bytes + lower_len, upper.data, upper.len);
    }
    if (!is_empty(g->lower, g->upper)) return g;
    free(g);
    return NULL;
}

static void gap_unref(lk_gap *g)
{
    if (atomic_fetch_sub_explicit(&g->refs, 1, memory_order_acq_rel) == 1) free(g);
}

/* ---- sets ---- */

/* How many gaps begin at or before a key of a tree. */
static uint32_t set_seek(const lk_gap_set *x, uint32_t tree, lk_bytes key)
{
    uint32_t low = 0, high = x->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const lk_gap *g = x->gaps[middle];
        if (g->tree < tree || (g->tree == tree && keys_order(g->lower, key) <= 0)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static void set_remove(lk_gap_set *x, uint32_t i)
{
    x->count--;
    memmove(&x->gaps[i], &x->gaps[i + 1], (x->count - i) * sizeof x->gaps[0]);
}

static void set_clear(lk_gap_set *x)
{
    for (uint32_t i = 0; i < x->count; i++) gap_unref(x->gaps[i]);
    x->count = 0;
}

/* Takes over the gap, which overlaps none. Where there is no room the one of the fewest rows goes. */
static void set_insert(lk_gap_set *x, lk_gap *g)
{
    if (x->count == LK_GAPS_MAX) {
        uint32_t least = 0;
        for (uint32_t i = 1; i < x->count; i++) {
            if (x->gaps[i]->rows < x->gaps[least]->rows) least = i;
        }
        if (g->rows <= x->gaps[least]->rows) {
            gap_unref(g);
            return;
        }
        gap_unref(x->gaps[least]);
        set_remove(x, least);
    }
    uint32_t i = set_seek(x, g->tree, g->lower);
    memmove(&x->gaps[i + 1], &x->gaps[i], (x->count - i) * sizeof x->gaps[0]);
    x->gaps[i] = g;
    x->count++;
}

/* The same for one that may overlap others, or touch them: they become one. */
static void set_unite(lk_gap_set *x, lk_gap *g)
{
    uint32_t i = set_seek(x, g->tree, g->lower);
    if (i > 0) i--;
    while (i < x->count && x->gaps[i]->tree <= g->tree) {
        lk_gap *other = x->gaps[i];
        bool before = other->tree < g->tree ||
                      (other->upper.data != NULL && keys_order(other->upper, g->lower) < 0);
        if (before) {
            i++;
            continue;
        }
        if (g->upper.data != NULL && keys_order(g->upper, other->lower) < 0) break;
        bool lower = keys_order(other->lower, g->lower) < 0;
        bool upper = ends_behind(other->upper, g->upper);
        lk_gap *both =
            gap_new(g->tree, g->from > other->from ? g->from : other->from, g->rows + other->rows,
                    lower ? other->lower : g->lower, false, upper ? other->upper : g->upper);
        set_remove(x, i);
        gap_unref(other);
        gap_unref(g);
        if (both == NULL) return;
        g = both;
    }
    set_insert(x, g);
}

/* A row was written: the gap that holds its key is divided. */
static void set_divide(lk_gap_set *x, uint32_t tree, lk_bytes key)
{
    uint32_t i = set_seek(x, tree, key);
    if (i == 0) return;
    lk_gap *g = x->gaps[i - 1];
    if (g->tree != tree) return;
    if (g->upper.data != NULL && keys_order(key, g->upper) >= 0) return;
    set_remove(x, i - 1);
    uint64_t rows = g->rows / 2; /* nobody knows where they are */
    if (rows >= ROWS_KEPT_MIN) {
        lk_gap *low = gap_new(tree, g->from, rows, g->lower, false, key);
        lk_gap *high = gap_new(tree, g->from, rows, key, true, g->upper);
        if (low != NULL) set_insert(x, low);
        if (high != NULL) set_insert(x, high);
    }
    gap_unref(g);
}

/* Looks at the records behind `after`, up to `upto`. False: the view does not have all of them. */
static bool set_advance(lk_gap_set *x, const lk_view *view, uint64_t after, uint64_t upto)
{
    uint64_t next = after + 1;
    for (uint32_t i = view->segment_count; i-- > 0 && next <= upto;) { /* oldest first */
        const lk_segment *s = view->segments[i];
        uint32_t visible = lk_segment_visible(s, upto);
        if (s->base_seq + visible <= next) continue;
        if (s->base_seq > next) return false;
        for (uint32_t o = (uint32_t)(next - s->base_seq); o < visible; o++) {
            lk_record r = lk_segment_record(s, o);
            if (r.kind == LK_KIND_DELETE || r.kind == LK_KIND_DELETE_RANGE) continue;
            set_divide(x, r.tree, (lk_bytes){r.key, r.key_len});
        }
        next = s->base_seq + visible;
    }
    return next > upto;
}

/* ---- memory ---- */

void lk_gap_memory_init(lk_gap_memory *m)
{
    memset(m, 0, sizeof *m);
    lk_lock_init(&m->lock);
}

void lk_gap_memory_deinit(lk_gap_memory *m)
{
    set_clear(&m->set);
    lk_lock_deinit(&m->lock);
}

static void count_set(lk_gap_memory *m)
{
    /* Relaxed: who sees an old number misses a gap, or takes the lock for nothing. */
    atomic_store_explicit(&m->count, m->set.count, memory_order_relaxed);
}

void lk_gap_memory_forget(lk_gap_memory *m, uint64_t seq)
{
    lk_lock_acquire(&m->lock);
    set_clear(&m->set);
    if (seq > m->floor) m->floor = seq;
    count_set(m);
    lk_lock_release(&m->lock);
}

/* All gaps hold for `seq` too after it. */
static void memory_advance(lk_gap_memory *m, const lk_view *view, uint64_t seq)
{
    LK_ASSERT(lk_lock_is_held(&m->lock));
    if (m->set.count > 0 && seq <= m->upto) return;
    if (m->set.count > 0 && !set_advance(&m->set, view, m->upto, seq)) set_clear(&m->set);
    m->upto = seq;
    count_set(m);
}

void lk_gap_note(lk_gap_memory *m, const lk_view *view, uint32_t tree, uint64_t seq,
                 const lk_bounds *bounds, uint64_t rows)
{
    lk_gap_set fresh = {.count = 0};
    lk_gap *g = gap_new(tree, seq, rows, bounds->lower, false, bounds->upper);
    if (g == NULL) return;
    set_insert(&fresh, g);
    lk_lock_acquire(&m->lock);
    memory_advance(m, view, seq);
    if (seq < m->floor || m->upto - seq > NOTE_LATE_MAX ||
        !set_advance(&fresh, view, seq, m->upto)) {
        set_clear(&fresh);
    }
    for (uint32_t i = 0; i < fresh.count; i++) set_unite(&m->set, fresh.gaps[i]);
    count_set(m);
    lk_lock_release(&m->lock);
}

/* ---- of a scan ---- */

static bool touches(const lk_gap *g, uint32_t tree, const lk_bounds *b)
{
    return g->tree == tree && !is_empty(b->lower, g->upper) && !is_empty(g->lower, b->upper);
}

static bool any_touches(const lk_gap_set *x, uint32_t tree, const lk_bounds *b)
{
    for (uint32_t i = 0; i < x->count; i++) {
        if (touches(x->gaps[i], tree, b)) return true;
    }
    return false;
}

void lk_gaps_find(lk_gap_memory *m, const lk_view *view, uint32_t tree, uint64_t seq,
                  const lk_bounds *bounds, bool reverse, lk_gaps *out)
{
    out->count = out->at = 0;
    if (m == NULL || atomic_load_explicit(&m->count, memory_order_relaxed) == 0) return;
    lk_lock_acquire(&m->lock);
    const lk_gap_set *x = &m->set;
    if (any_touches(x, tree, bounds)) { /* or what is new need not be looked at yet */
        memory_advance(m, view, seq);
        for (uint32_t i = 0; i < x->count && out->count < LK_GAPS_OF_SCAN_MAX; i++) {
            lk_gap *g = x->gaps[reverse ? x->count - 1 - i : i];
            if (g->from > seq || !touches(g, tree, bounds)) continue;
            atomic_fetch_add_explicit(&g->refs, 1, memory_order_relaxed);
            out->gaps[out->count++] = g;
        }
    }
    lk_lock_release(&m->lock);
}

void lk_gaps_release(lk_gaps *g)
{
    for (uint32_t i = 0; i < g->count; i++) gap_unref(g->gaps[i]);
    g->count = 0;
}

static const lk_gap *cut_forward(lk_gaps *g, lk_bounds *b)
{
    const lk_gap *passed = NULL;
    for (; g->at < g->count; g->at++) {
        const lk_gap *gap = g->gaps[g->at];
        if (keys_order(gap->lower, b->lower) > 0) {
            if (!is_empty(gap->lower, b->upper)) b->upper = gap->lower;
            break;
        }
        if (is_empty(b->lower, gap->upper)) continue;
        passed = gap;
        if (gap->upper.data == NULL) {
            b->upper = b->lower;
            break;
        }
        b->lower = gap->upper;
    }
    return passed;
}

static const lk_gap *cut_backward(lk_gaps *g, lk_bounds *b)
{
    const lk_gap *passed = NULL;
    for (; g->at < g->count; g->at++) {
        const lk_gap *gap = g->gaps[g->at];
        if (ends_behind(b->upper, gap->upper)) {
            if (!is_empty(b->lower, gap->upper)) b->lower = gap->upper;
            break;
        }
        if (is_empty(gap->lower, b->upper)) continue;
        passed = gap;
        b->upper = gap->lower;
    }
    return passed;
}

bool lk_gaps_cut(lk_gaps *g, bool reverse, lk_bounds *bounds, const lk_gap **out_passed)
{
    *out_passed = reverse ? cut_backward(g, bounds) : cut_forward(g, bounds);
    return !is_empty(bounds->lower, bounds->upper);
}

/* ---- looking out ---- */

void lk_gap_watch_begin(lk_gap_watch *w, const lk_view *view, uint32_t tree, uint64_t seq,
                        bool reverse, const lk_bounds *bounds)
{
    w->memory = view->gaps;
    w->view = view;
    w->tree = tree;
    w->seq = seq;
    w->reverse = reverse;
    w->known = true;
    w->extends = false;
    w->rows = 1;
    w->from = reverse ? bounds->upper : bounds->lower;
}

void lk_gap_watch_pass(lk_gap_watch *w, const lk_gap *gap)
{
    if (!w->known) w->from = w->reverse ? gap->upper : gap->lower;
    if (!w->known) w->rows = 1;
    w->known = w->extends = true;
}

/* Dead rows with the key of the last live row may have been counted: it is left out. */
void lk_gap_watch_start(lk_gap_watch *w, lk_bytes key)
{
    if (key.len > LK_GAP_KEY_MAX) return;
    if (key.len > 0) memcpy(w->bytes, key.data, key.len);
    w->bytes[key.len] = 0;
    w->from = (lk_bytes){w->bytes, key.len + !w->reverse};
    w->rows = 1;
    w->known = true;
}

static void watch_note(lk_gap_watch *w, lk_bytes lower, lk_bytes upper)
{
    lk_bounds b = {lower, upper};
    uint64_t least = w->extends ? ROWS_MORE_MIN : ROWS_MIN;
    if (!w->known || w->memory == NULL || w->rows <= least) return;
    lk_gap_note(w->memory, w->view, w->tree, w->seq, &b, w->rows - 1);
}

static void watch_clear(lk_gap_watch *w)
{
    w->known = w->extends = false;
    w->rows = 0;
}

void lk_gap_watch_finish(lk_gap_watch *w, lk_bytes key)
{
    uint8_t after[LK_GAP_KEY_MAX]; /* the least key behind the row that lives */
    if (!w->reverse) {
        if (key.len > 0) watch_note(w, w->from, key);
    } else if (key.len < LK_GAP_KEY_MAX) {
        if (key.len > 0) memcpy(after, key.data, key.len);
        after[key.len] = 0;
        watch_note(w, (lk_bytes){after, key.len + 1}, w->from);
    }
    watch_clear(w);
}

void lk_gap_watch_end(lk_gap_watch *w, lk_bytes bound)
{
    if (w->reverse) {
        watch_note(w, bound, w->from);
    } else {
        watch_note(w, w->from, bound);
    }
    watch_clear(w);
}
