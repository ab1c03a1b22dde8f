/* tomb_log.c: see tomb_log.h.
 *
 * Errors    LK_NOMEM of those that make lists; the rest cannot fail.
 */
#include "tomb_log.h"

#include <stdlib.h>

#include "check.h"
#include "segment.h"

enum { TAIL_MAX = 16 };

static const lk_snapshots NO_SNAPSHOTS;

/* ---- records ---- */

static lk_tomb tomb_at(const lk_segment *s, uint32_t ordinal)
{
    lk_record r = lk_segment_record(s, ordinal);
    lk_tomb t = {.start = {r.key, r.key_len}, .seq = s->base_seq + ordinal, .tree = r.tree};
    if (r.value_len > 0) t.stop = (lk_bytes){r.value, r.value_len};
    return t;
}

static bool tomb_holds(const lk_tomb *t, uint32_t tree, const uint8_t *key, size_t key_len)
{
    return t->tree == tree && lk_key_compare(t->start.data, t->start.len, key, key_len) <= 0 &&
           (t->stop.data == NULL || lk_key_compare(key, key_len, t->stop.data, t->stop.len) < 0);
}

/* The tombstone before this one, as ordinal + 1. */
static uint32_t before(const lk_segment *s, uint32_t at)
{
    return s->index.entries[at - 1].previous;
}

/* From ordinal + 1 `at` down to those above ordinal + 1 `end`. */
static uint32_t records_over(const lk_segment *s, uint32_t at, uint32_t end, uint32_t tree,
                             const uint8_t *key, size_t key_len, uint32_t visible)
{
    for (; at > end; at = before(s, at)) {
        if (at > visible) continue;
        lk_tomb t = tomb_at(s, at - 1);
        if (tomb_holds(&t, tree, key, key_len)) return at;
    }
    return 0;
}

typedef struct list {
    lk_tomb *items;
    size_t count, capacity;
} list;

static lk_status list_add(list *l, const lk_segment *s, uint32_t at, uint32_t end, uint32_t visible,
                          lk_error *err)
{
    for (; at > end; at = before(s, at)) {
        if (at > visible) continue;
        if (l->count == l->capacity) {
            size_t capacity = l->capacity == 0 ? 2 * TAIL_MAX : l->capacity * 2;
            lk_tomb *larger = realloc(l->items, capacity * sizeof *larger);
            if (larger == NULL) return lk_fail_nomem(err, capacity * sizeof *larger);
            l->items = larger;
            l->capacity = capacity;
        }
        l->items[l->count++] = tomb_at(s, at - 1);
    }
    return LK_OK;
}

/* ---- pieces ---- */

static void piece_free(lk_tomb_piece *p)
{
    if (p == NULL) return;
    piece_free(p->halves[0]);
    piece_free(p->halves[1]);
    lk_tombs_unref(p->skyline);
    free(p);
}

void lk_tomb_log_clear(lk_tomb_log *log)
{
    lk_tomb_piece *p = atomic_load_explicit(&log->pieces, memory_order_relaxed);
    while (p != NULL) {
        lk_tomb_piece *older = p->older;
        piece_free(p);
        p = older;
    }
    atomic_store_explicit(&log->pieces, NULL, memory_order_relaxed);
    atomic_store_explicit(&log->last, 0, memory_order_relaxed);
    log->tail = 0;
    atomic_store_explicit(&log->bytes, 0, memory_order_relaxed);
}

/* The ordinal + 1 behind which the tail begins. */
static uint32_t piece_end(const lk_tomb_piece *p) { return p == NULL ? 0 : p->last + 1; }

static void count_memory(lk_tomb_log *log, const lk_tomb_piece *p)
{
    size_t bytes = sizeof *p + (p->skyline == NULL ? 0 : p->skyline->bytes);
    atomic_fetch_add_explicit(&log->bytes, bytes, memory_order_relaxed);
}

/* The tail as a piece; NULL: no memory. */
static lk_tomb_piece *piece_of_tail(lk_segment *s, uint32_t last, lk_tomb_piece *older)
{
    list l = {0};
    lk_tomb_piece *p = calloc(1, sizeof *p);
    lk_status st = p == NULL ? LK_NOMEM : list_add(&l, s, last, piece_end(older), last, NULL);
    if (st == LK_OK) st = lk_tombs_make(l.items, l.count, &NO_SNAPSHOTS, false, &p->skyline, NULL);
    if (st == LK_OK) {
        p->older = older;
        p->first = (uint32_t)(l.items[l.count - 1].seq - s->base_seq);
        p->last = last - 1;
        count_memory(&s->tombs, p);
    } else {
        free(p);
        p = NULL;
    }
    free(l.items);
    return p;
}

/* A piece and the one before it as one; NULL: no memory. */
static lk_tomb_piece *piece_join(lk_segment *s, lk_tomb_piece *newer)
{
    lk_tomb_piece *older = newer->older, *p = calloc(1, sizeof *p);
    if (p == NULL) return NULL;
    if (lk_tombs_join(older->skyline, newer->skyline, &NO_SNAPSHOTS, false, &p->skyline, NULL) !=
        LK_OK) {
        free(p);
        return NULL;
    }
    p->older = older->older;
    p->halves[0] = older;
    p->halves[1] = newer;
    p->first = older->first;
    p->last = newer->last;
    p->rank = newer->rank + 1;
    count_memory(&s->tombs, p);
    return p;
}

void lk_tomb_log_add(lk_segment *s, uint32_t ordinal)
{
    lk_tomb_log *log = &s->tombs;
    LK_ASSERT(lk_segment_record(s, ordinal).kind == LK_KIND_DELETE_RANGE);
    s->index.entries[ordinal].previous = atomic_load_explicit(&log->last, memory_order_relaxed);
    if (s->index.entries[ordinal].previous == 0) log->first = ordinal;
    log->tail++;
    lk_tomb_piece *head = atomic_load_explicit(&log->pieces, memory_order_relaxed);
    if (log->tail >= TAIL_MAX) {
        lk_tomb_piece *p = piece_of_tail(s, ordinal + 1, head);
        if (p != NULL) log->tail = 0;
        while (p != NULL) {
            head = p;
            p = p->older != NULL && p->older->rank == p->rank ? piece_join(s, p) : NULL;
        }
        /* Before `last`: who does not see the piece yet finds its tombstones in the list. */
        atomic_store_explicit(&log->pieces, head, memory_order_release);
    }
    atomic_store_explicit(&log->last, ordinal + 1, memory_order_release);
}

/* ---- looking ---- */

static uint32_t piece_over(const lk_segment *s, const lk_tomb_piece *p, uint32_t tree,
                           const uint8_t *key, size_t key_len, uint32_t visible)
{
    if (p->first >= visible) return 0;
    if (p->last < visible) {
        if (p->skyline == NULL) return 0;
        uint64_t seq = lk_tombs_cover(p->skyline, tree, key, key_len, LK_SEQ_MAX);
        return seq == 0 ? 0 : (uint32_t)(seq - s->base_seq) + 1;
    }
    if (p->halves[0] == NULL) {
        return records_over(s, p->last + 1, p->first, tree, key, key_len, visible);
    }
    uint32_t found = piece_over(s, p->halves[1], tree, key, key_len, visible);
    return found != 0 ? found : piece_over(s, p->halves[0], tree, key, key_len, visible);
}

uint32_t lk_segment_tomb_over(const lk_segment *s, uint32_t tree, const uint8_t *key,
                              size_t key_len, uint32_t visible)
{
    /* In this order: a piece that is seen holds what it says, and the list what came before. */
    uint32_t last = atomic_load_explicit(&s->tombs.last, memory_order_acquire);
    const lk_tomb_piece *p = atomic_load_explicit(&s->tombs.pieces, memory_order_acquire);
    uint32_t found = records_over(s, last, piece_end(p), tree, key, key_len, visible);
    for (; found == 0 && p != NULL; p = p->older) {
        found = piece_over(s, p, tree, key, key_len, visible);
    }
    return found;
}

uint32_t lk_segment_tombs_last(const lk_segment *s, uint32_t visible)
{
    if (visible == 0) return 0;
    uint32_t at = atomic_load_explicit(&s->tombs.last, memory_order_acquire);
    while (at > visible) at = before(s, at);
    return at;
}

uint32_t lk_segment_tombs_count(const lk_segment *s)
{
    uint32_t n = 0;
    uint32_t at = atomic_load_explicit(&s->tombs.last, memory_order_acquire);
    for (; at != 0; at = before(s, at)) n++;
    return n;
}

static lk_status cover_records(const lk_segment *s, uint32_t at, uint32_t end, uint32_t visible,
                               lk_cover *out, lk_error *err)
{
    lk_status st = LK_OK;
    list l = {0};
    lk_tombs *t = NULL;
    LK_TRY(list_add(&l, s, at, end, visible, err));
    LK_TRY(lk_tombs_make(l.items, l.count, &NO_SNAPSHOTS, false, &t, err));
    LK_TRY(lk_cover_add(out, t, err));
done:
    lk_tombs_unref(t);
    free(l.items);
    return st;
}

static lk_status cover_piece(const lk_segment *s, const lk_tomb_piece *p, uint32_t visible,
                             lk_cover *out, lk_error *err)
{
    lk_status st = LK_OK;
    if (p->first >= visible) return LK_OK;
    if (p->last < visible) return lk_cover_add(out, p->skyline, err);
    if (p->halves[0] == NULL) {
        return cover_records(s, p->last + 1, p->first, visible, out, err);
    }
    LK_TRY(cover_piece(s, p->halves[1], visible, out, err));
    LK_TRY(cover_piece(s, p->halves[0], visible, out, err));
done:
    return st;
}

lk_status lk_segment_tombs_cover(const lk_segment *s, uint32_t visible, lk_cover *out,
                                 lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t last = atomic_load_explicit(&s->tombs.last, memory_order_acquire);
    const lk_tomb_piece *p = atomic_load_explicit(&s->tombs.pieces, memory_order_acquire);
    if (last == 0) return LK_OK;
    LK_TRY(cover_records(s, last, piece_end(p), visible, out, err));
    for (; p != NULL; p = p->older) LK_TRY(cover_piece(s, p, visible, out, err));
done:
    return st;
}

lk_status lk_segment_tombs_list(const lk_segment *s, uint32_t visible, lk_tomb **out,
                                size_t *out_count, lk_error *err)
{
    list l = {0};
    uint32_t last = atomic_load_explicit(&s->tombs.last, memory_order_acquire);
    lk_status st = list_add(&l, s, last, 0, visible, err);
    if (st != LK_OK) free(l.items);
    *out = st == LK_OK ? l.items : NULL;
    *out_count = st == LK_OK ? l.count : 0;
    return st;
}
