/* cursor.c: from spans of a merge to rows that are visible.
 *
 * All ways of reading go through the same two steps: the next span of the merge of the range (or of
 * the first range behind it that has any), and of it the next piece whose rows are all visible. A
 * piece of a block that was never deleted from or overwritten is the whole span; then the loops
 * over rows copy pointers, or whole columns, and ask nothing.
 *
 * Owns      see cursor.h. Blocks whose rows were given out are kept by the merge, values that were made
 *           of operands, or read because they stand apart, by the fold, and the merge of a range stays until the call after the one that
 *           gave out its last row.
 * Errors    those of tables and memory; kept in `failure` and returned from then on.
 */
#include "cursor.h"

#include <stdlib.h>

#include "check.h"
#include "fold.h"
#include "gap.h"

enum {
    KEPT_BLOCKS_MAX = 64,     /* held for one call: 1 MiB where blocks have 16 KiB */
    READ_BYTES_MAX = 1 << 20, /* of values that stand apart, for one call, unless one is larger */
    COLUMN_BYTES_MIN = 64 << 10,
    OFFSETS_MIN = 1024,
};

struct lk_cursor {
    lk_view *view;
    const lk_tree_version *tree_version; /* NULL: nothing of the tree is in tables */
    uint32_t tree;
    bool reverse;
    uint64_t seq;
    lk_bounds bounds; /* of what no merge was made of yet */

    struct segment_part {
        lk_order *order; /* NULL: nothing is visible */
        uint32_t visible;
    } * parts;                   /* of each segment of the view; NULL: not taken yet */
    lk_merge *merge;             /* of the range; NULL before the first and after the last */
    uint32_t range, ranges_left; /* the one to be opened next */

    lk_span span;
    lk_span rest;       /* what was cut off the span, and comes next; count 0: nothing */
    uint32_t span_left; /* rows of the span that are still to be looked at */
    uint32_t spans;     /* taken so far, for keeps_too_many */
    bool decided;       /* the newest visible version of the key of the last row was met */
    lk_fold fold;       /* of what is no plain put; with the values that the last call made */

    uint8_t *sought; /* bytes of the bounds since lk_cursor_seek */
    size_t sought_bytes;

    lk_status failed;
    lk_error failure;
    lk_cover cover;         /* range tombstones; without layers as a rule */
    lk_cover_region region; /* that the last row lay in, where there are any */
    bool has_region;
    lk_gaps gaps; /* that it need not walk through */
    lk_gap_watch watch;
    uint8_t bound_bytes[];
};

/* ---- opening ---- */

static void drop_orders(lk_cursor *c)
{
    for (uint32_t i = 0; c->parts != NULL && i < c->view->segment_count; i++) {
        lk_order_unref(c->parts[i].order);
    }
    free(c->parts);
    c->parts = NULL;
}

static lk_status take_orders(lk_cursor *c, lk_error *err)
{
    const lk_view *view = c->view;
    if (view->segment_count == 0 || c->parts != NULL) return LK_OK;
    c->parts = calloc(view->segment_count, sizeof *c->parts);
    if (c->parts == NULL) return lk_fail_nomem(err, view->segment_count * sizeof *c->parts);
    for (uint32_t i = 0; i < view->segment_count; i++) {
        lk_segment *s = view->segments[i];
        c->parts[i].visible = lk_segment_visible(s, c->seq);
        if (c->parts[i].visible == 0) continue;
        uint32_t visible = c->parts[i].visible;
        lk_status st = lk_segment_order_live(s, visible, visible, false, &c->parts[i].order, err);
        if (st != LK_OK) {
            drop_orders(c);
            return st;
        }
    }
    return LK_OK;
}

/* The range tombstones that it sees. */
static lk_status take_cover(lk_cursor *c, lk_error *err)
{
    const lk_view *view = c->view;
    c->cover.seq = c->seq;
    for (uint32_t i = 0; i < view->segment_count; i++) {
        const lk_segment *s = view->segments[i];
        uint32_t visible = lk_segment_visible(s, c->seq);
        lk_status st = visible == 0 ? LK_OK : lk_segment_tombs_cover(s, visible, &c->cover, err);
        if (st != LK_OK) return st;
    }
    return c->tree_version == NULL ? LK_OK : lk_cover_add(&c->cover, c->tree_version->tombs, err);
}

/* The ranges that the bounds touch. */
static void choose_ranges(lk_cursor *c)
{
    const lk_tree_version *t = c->tree_version;
    lk_bytes lower = c->bounds.lower, upper = c->bounds.upper;
    uint32_t first = 0, last = 0;
    c->ranges_left = 1;
    if (upper.data != NULL && lk_key_compare(lower.data, lower.len, upper.data, upper.len) >= 0) {
        c->ranges_left = 0;
    }
    if (t == NULL || c->ranges_left == 0) return;
    first = lk_tree_version_range(t, lower.data, lower.len);
    last =
        upper.data == NULL ? t->range_count - 1 : lk_tree_version_range(t, upper.data, upper.len);
    if (last > first && upper.data != NULL &&
        lk_bytes_equal(t->ranges[last].lower.data, t->ranges[last].lower.len, upper.data,
                       upper.len)) {
        last--;
    }
    c->ranges_left = last - first + 1;
    c->range = c->reverse ? last : first;
}

/* At the beginning of the bounds, in the direction that is set. */
static lk_status begin(lk_cursor *c, lk_error *err)
{
    choose_ranges(c);
    lk_gap_watch_begin(&c->watch, c->view, c->tree, c->seq, c->reverse, &c->bounds);
    if (c->ranges_left == 0) return LK_OK;
    lk_gaps_find(c->view->gaps, c->view, c->tree, c->seq, &c->bounds, c->reverse, &c->gaps);
    lk_status st = take_orders(c, err);
    if (st != LK_OK) c->ranges_left = 0;
    return st;
}

lk_status lk_cursor_open(lk_view *view, uint32_t tree, uint64_t seq, const lk_bounds *bounds,
                         bool reverse, lk_cursor **out, lk_error *err)
{
    lk_status st = LK_OK;
    lk_bytes lower = bounds->lower, upper = bounds->upper;
    size_t bytes = sizeof(lk_cursor) + lower.len + upper.len;
    lk_cursor *c = malloc(bytes);
    *out = NULL;
    LK_ASSERT(seq != LK_SEQ_MAX);
    if (c == NULL) return lk_fail_nomem(err, bytes);
    memset(c, 0, offsetof(lk_cursor, failure));
    if (lower.len > 0) memcpy(c->bound_bytes, lower.data, lower.len);
    if (upper.len > 0) memcpy(c->bound_bytes + lower.len, upper.data, upper.len);
    c->bounds.lower = (lk_bytes){c->bound_bytes, lower.len};
    if (upper.data != NULL) c->bounds.upper = (lk_bytes){c->bound_bytes + lower.len, upper.len};
    lk_view_ref(view);
    c->view = view;
    c->tree = tree;
    c->seq = seq;
    c->reverse = reverse;
    lk_fold_init(&c->fold, view->settings, tree, 0);
    c->fold.blobs = lk_version_blobs(view->version, tree);
    c->tree_version = lk_version_tree(view->version, tree);
    c->gaps.count = 0;
    c->cover = (lk_cover){0};
    c->has_region = false;
    LK_TRY(lk_view_prove(view, err));
    LK_TRY(take_cover(c, err));
    LK_TRY(begin(c, err));
    *out = c;
    c = NULL;
done:
    lk_cursor_close(c);
    return st;
}

void lk_cursor_close(lk_cursor *c)
{
    if (c == NULL) return;
    lk_merge_free(c->merge);
    lk_gaps_release(&c->gaps);
    lk_cover_deinit(&c->cover);
    drop_orders(c);
    free(c->sought);
    lk_fold_deinit(&c->fold);
    lk_view_unref(c->view);
    free(c);
}

/* From `key` on, or up to it: the smallest key that is greater is the one with a zero behind. */
static lk_status bounds_set(lk_cursor *c, const lk_bytes *key, bool reverse, lk_error *err)
{
    c->bounds = (lk_bounds){{c->bound_bytes, 0}, {NULL, 0}};
    if (key == NULL) return LK_OK;
    if (key->len + 1 > c->sought_bytes) {
        size_t bytes = c->sought_bytes * 2 > key->len + 1 ? c->sought_bytes * 2 : key->len + 1;
        uint8_t *bigger = realloc(c->sought, bytes);
        if (bigger == NULL) return lk_fail_nomem(err, bytes);
        c->sought = bigger;
        c->sought_bytes = bytes;
    }
    if (key->len > 0) memcpy(c->sought, key->data, key->len);
    c->sought[key->len] = 0;
    if (reverse) {
        c->bounds.upper = (lk_bytes){c->sought, key->len + 1};
    } else {
        c->bounds.lower = (lk_bytes){c->sought, key->len};
    }
    return LK_OK;
}

lk_status lk_cursor_seek(lk_cursor *c, const lk_bytes *key, bool reverse, lk_error *err)
{
    c->failed = LK_OK;
    c->ranges_left = 0; /* after an error nothing comes */
    c->span_left = 0;
    c->rest.count = 0;
    c->decided = c->has_region = false;
    c->reverse = reverse;
    lk_status st = bounds_set(c, key, reverse, err); /* the key may stand in a block of the merge */
    lk_merge_free(c->merge);
    c->merge = NULL;
    lk_gaps_release(&c->gaps);
    return st == LK_OK ? begin(c, err) : st;
}

/* ---- ranges ---- */

/* The bounds that the range and the scan have in common. */
static lk_bounds range_bounds(const lk_cursor *c)
{
    lk_bounds b = c->bounds;
    const lk_tree_version *t = c->tree_version;
    if (t == NULL) return b;
    lk_bytes from = t->ranges[c->range].lower;
    if (lk_key_compare(from.data, from.len, b.lower.data, b.lower.len) > 0) b.lower = from;
    if (c->range + 1 < t->range_count) {
        lk_bytes to = t->ranges[c->range + 1].lower;
        if (b.upper.data == NULL ||
            lk_key_compare(to.data, to.len, b.upper.data, b.upper.len) < 0) {
            b.upper = to;
        }
    }
    return b;
}

/* The next keys to be merged: of the range in hand what is left of it, up to the next gap. False: it
 * is done, and the next one is in hand. */
static bool next_bounds(lk_cursor *c, lk_bounds *out)
{
    const lk_gap *passed;
    *out = range_bounds(c);
    bool any = lk_gaps_cut(&c->gaps, c->reverse, out, &passed);
    if (passed != NULL) lk_gap_watch_pass(&c->watch, passed);
    if (c->reverse) {
        c->bounds.upper = any ? out->lower : out->upper;
    } else if (any) {
        c->bounds.lower = out->upper;
    } else {
        c->bounds.lower = out->lower;
        if (passed != NULL && passed->upper.data == NULL) c->ranges_left = 1;
    }
    if (any && (c->reverse ? out->lower.len == 0 : out->upper.data == NULL)) c->ranges_left = 0;
    if (any) return true;
    c->ranges_left--;
    c->range += c->reverse ? UINT32_MAX : 1;
    return false;
}

static lk_status open_range(lk_cursor *c, const lk_bounds *bounds, lk_error *err)
{
    lk_status st = LK_OK;
    LK_ASSERT(c->merge == NULL);
    LK_TRY(lk_merge_new(c->tree, bounds, c->reverse, true, &c->merge, err));
    for (uint32_t i = 0; i < c->view->segment_count; i++) {
        if (c->parts[i].order == NULL) continue;
        LK_TRY(lk_merge_add_order(c->merge, c->view->segments[i], c->parts[i].order,
                                  c->parts[i].visible, err));
    }
    if (c->tree_version != NULL) {
        const lk_range *range = &c->tree_version->ranges[c->range];
        for (uint32_t i = 0; i < range->run_count; i++) {
            LK_TRY(lk_merge_add_tables(c->merge, range->runs[i].tables, range->runs[i].count, err));
        }
    }
    LK_TRY(lk_merge_start(c->merge, err));
    lk_merge_keep(c->merge);
done:
    return st;
}

/* The next span of the scan. With `stay` it does not go past the end of a range: rows of that may
 * have been given out in the same call. */
static lk_status next_span(lk_cursor *c, bool stay, bool *out_any, lk_error *err)
{
    *out_any = false;
    for (;;) {
        if (LK_UNLIKELY(c->rest.count != 0)) {
            c->span = c->rest;
            c->span_left = c->rest.count;
            c->rest.count = 0;
            *out_any = true;
            return LK_OK;
        }
        if (c->merge != NULL) {
            lk_status st = lk_merge_next(c->merge, &c->span, out_any, err);
            c->span_left = *out_any ? c->span.count : 0;
            if (st != LK_OK || *out_any) return st;
            if (stay) return LK_OK;
            lk_merge_free(c->merge);
            c->merge = NULL;
        }
        lk_bounds bounds;
        bool any = false;
        while (c->ranges_left > 0 && !any) any = next_bounds(c, &bounds);
        if (!any) {
            lk_gap_watch_end(&c->watch, c->reverse ? c->bounds.lower : c->bounds.upper);
            return LK_OK;
        }
        lk_status st = open_range(c, &bounds, err);
        if (st != LK_OK) return st;
    }
}

/* ---- pieces ---- */

/* Rows that are all visible: of a block, or one with its value. */
typedef struct piece {
    const lk_block *block; /* NULL: `row` */
    uint32_t first, count;
    uint32_t head; /* bytes of each value that are none of it */
    lk_pair row;
} piece;

static inline bool is_plain(const lk_cursor *c, const lk_block *b, uint32_t row)
{
    return lk_block_seq(b, row) <= c->seq && lk_block_kind(b, row) == LK_KIND_PUT;
}

/* A put with a deadline, which is over (`is_over`) or not. */
static bool is_until(lk_cursor *c, const lk_block *b, uint32_t row, bool is_over)
{
    if (lk_block_kind(b, row) != LK_KIND_PUT_UNTIL || lk_block_seq(b, row) > c->seq) return false;
    uint64_t deadline = lk_kind_deadline(LK_KIND_PUT_UNTIL, lk_block_value(b, row).data);
    return is_over == (deadline <= lk_fold_now(&c->fold));
}

static inline bool is_hidden(lk_cursor *c, const lk_block *b, uint32_t row)
{
    return lk_block_seq(b, row) > c->seq || lk_block_kind(b, row) == LK_KIND_DELETE ||
           is_until(c, b, row, true);
}

/* Whether the row goes with others that have such a head: none, or that of a put with a deadline. */
static inline bool goes_with(lk_cursor *c, const lk_block *b, uint32_t row, uint32_t head)
{
    return head == 0 ? is_plain(c, b, row) : is_until(c, b, row, false);
}

/* The head of the rows that `row`, which is not hidden, goes with. */
static inline uint32_t head_of(const lk_block *b, uint32_t row)
{
    lk_kind kind = lk_block_kind(b, row);
    return kind == LK_KIND_PUT_UNTIL ? lk_kind_head_bytes(kind) : 0;
}

/* A version of a key. */
typedef struct version_row {
    lk_bytes key, value;
    uint64_t seq;
    lk_kind kind;
} version_row;

static inline version_row row_of_block(const lk_block *b, uint32_t row)
{
    return (version_row){lk_block_key(b, row), lk_block_value(b, row), lk_block_seq(b, row),
                         lk_block_kind(b, row)};
}

static inline version_row row_of_span(const lk_span *span)
{
    const lk_record *r = &span->record;
    if (span->block != NULL) return row_of_block(span->block, span->first);
    return (version_row){{r->key, r->key_len}, {r->value, r->value_len}, span->seq, r->kind};
}

/* What was found in a span: nothing, rows, or a row that is visible and no plain put. */
typedef enum taken { TAKEN_NONE, TAKEN_ROWS, TAKEN_SPECIAL } taken;

/* The newest visible version of a key, `at`, is no plain put: its value, if there is one. Older versions
 * are taken off the merge as far as they matter; the span that follows them comes next. */
static lk_status take_special(lk_cursor *c, piece *at, bool *out_any, lk_error *err)
{
    lk_status st = LK_OK;
    lk_fold *f = &c->fold;
    /* Of several rows, also when they were cut, none has older versions. */
    bool more = c->span.count == 1 && c->rest.count == 0, decided, any;
    version_row row =
        at->block != NULL ? row_of_block(at->block, at->first) : row_of_span(&c->span);
    *at = (piece){.count = 1, .row = {.key = row.key}};
    *out_any = false;
    lk_fold_begin(f, c->has_region ? c->region.seq : 0);
    LK_TRY(lk_fold_take(f, row.kind, row.value, row.seq, &decided, err));
    while (more && !decided) {
        LK_TRY(lk_merge_next(c->merge, &c->span, &any, err));
        if (!any) break;
        if (!c->span.repeat) {
            c->rest = c->span;
            break;
        }
        row = row_of_span(&c->span);
        LK_TRY(lk_fold_take(f, row.kind, row.value, row.seq, &decided, err));
    }
    LK_TRY(lk_fold_value(f, out_any, &at->row.value, err));
done:
    return st;
}

/* A span of one row. The newest version that is old enough decides whether its key is there. */
static taken take_single(lk_cursor *c, piece *out)
{
    const lk_span *span = &c->span;
    c->span_left = 0;
    if (!span->repeat) c->decided = false;
    if (c->decided) return TAKEN_NONE;
    version_row row = row_of_span(span);
    if (row.seq > c->seq) return TAKEN_NONE;
    c->decided = true;
    if (row.kind == LK_KIND_DELETE) return TAKEN_NONE;
    *out = (piece){span->block, span->first, 1, 0, {row.key, row.value}};
    return row.kind == LK_KIND_PUT ? TAKEN_ROWS : TAKEN_SPECIAL;
}

/* A span of several rows, none of which repeats a key: at most `max` of them that are visible. */
static taken take_several(lk_cursor *c, uint32_t max, piece *out)
{
    const lk_block *b = c->span.block;
    uint32_t first = c->span.first, left = c->span_left, special;
    if (c->reverse) { /* [first, first + left) are to come, from the end */
        uint32_t end = first + left;
        while (end > first && is_hidden(c, b, end - 1)) end--;
        uint32_t from = end, head = end > first ? head_of(b, end - 1) : 0;
        while (from > first && end - from < max && goes_with(c, b, from - 1, head)) from--;
        c->span_left = from - first;
        *out = (piece){.block = b, .first = from, .count = end - from, .head = head};
        special = from - 1;
    } else { /* the last `left` rows are to come */
        uint32_t end = first + c->span.count, from = end - left;
        while (from < end && is_hidden(c, b, from)) from++;
        uint32_t to = from, head = from < end ? head_of(b, from) : 0;
        while (to < end && to - from < max && goes_with(c, b, to, head)) to++;
        c->span_left = end - to;
        *out = (piece){.block = b, .first = from, .count = to - from, .head = head};
        special = to;
    }
    if (LK_LIKELY(out->count > 0)) return TAKEN_ROWS;
    if (c->span_left == 0) return TAKEN_NONE;
    /* The first that is not hidden is an operand, or its value stands apart. */
    c->span_left--;
    out->first = special;
    out->count = 1;
    return TAKEN_SPECIAL;
}

/* At most `max` rows of a span in which all are visible and no key repeats. */
static inline void take_clean(lk_cursor *c, uint32_t max, piece *out)
{
    const lk_span *span = &c->span;
    uint32_t left = c->span_left, n = left < max ? left : max;
    c->decided = true; /* older versions, which can come only where the span is one row */
    c->span_left = left - n;
    out->block = span->block;
    out->head = 0;
    out->first = c->reverse ? span->first + left - n : span->first + span->count - left;
    out->count = n;
}

static inline bool is_clean(const lk_cursor *c)
{
    const lk_block *b = c->span.block;
    return b != NULL && b->kinds == NULL && b->seq_max <= c->seq && !c->span.repeat;
}

/* Looked at now and then, because it costs as much as a row. */
static inline bool keeps_too_many(lk_cursor *c)
{
    return c->merge != NULL && (++c->spans & 15) == 0 && lk_merge_kept(c->merge) >= KEPT_BLOCKS_MAX;
}

static lk_bytes span_key(const lk_cursor *c, const lk_block *b, uint32_t row)
{
    if (b == NULL) return (lk_bytes){c->span.record.key, c->span.record.key_len};
    return lk_block_key(b, row);
}

/* `count` rows of the span were passed over; `behind` rows come after them. */
static void watch_dead(lk_cursor *c, uint32_t count, uint32_t behind)
{
    const lk_span *span = &c->span;
    /* Older versions of a row that lives are no gap. */
    if (span->repeat && c->watch.rows == 0) return;
    uint32_t row = c->reverse ? span->first + behind : span->first + span->count - 1 - behind;
    lk_gap_watch_dead(&c->watch, count, span_key(c, span->block, row));
}

static inline void watch_live(lk_cursor *c, const piece *p)
{
    if (LK_LIKELY(c->watch.rows == 0)) return;
    uint32_t row = c->reverse ? p->first + p->count - 1 : p->first;
    lk_gap_watch_live(&c->watch, span_key(c, p->block, row));
}

/* ---- range tombstones ---- */

/* Of the rows that are to come the next `count` are the span; the others come next, and before what was
 * cut off already. */
static void span_cut(lk_cursor *c, uint32_t count)
{
    lk_span *span = &c->span;
    uint32_t cut = c->span_left - count, before = c->rest.count, first = span->first;
    if (cut == 0) return;
    if (!c->reverse) first += span->count - c->span_left; /* the last `left` rows are to come */
    c->rest = *span;
    c->rest.count = cut + before;
    c->rest.first = c->reverse ? first - before : first + count;
    span->first = c->reverse ? first + cut : first;
    span->count = c->span_left = count;
}

static inline lk_bytes next_key(const lk_cursor *c)
{
    const lk_span *span = &c->span;
    uint32_t behind = c->span_left - 1;
    return span_key(c, span->block,
                    c->reverse ? span->first + behind : span->first + span->count - 1 - behind);
}

static bool is_in_region(const lk_cursor *c, lk_bytes key)
{
    const lk_cover_region *g = &c->region;
    if (c->reverse) return lk_key_compare(key.data, key.len, g->lower.data, g->lower.len) >= 0;
    return g->upper.data == NULL ||
           lk_key_compare(key.data, key.len, g->upper.data, g->upper.len) < 0;
}

/* Cuts the span where the region ends that its next row lies in. */
static void span_cut_to_region(lk_cursor *c)
{
    const lk_span *span = &c->span;
    lk_bytes key = next_key(c);
    if (!c->has_region || !is_in_region(c, key)) {
        lk_cover_at(&c->cover, c->tree, key, &c->region);
        c->has_region = true;
    }
    if (c->span_left == 1) return;
    uint32_t first = c->reverse ? span->first : span->first + span->count - c->span_left;
    uint32_t end = first + c->span_left;
    if (is_in_region(c, lk_block_key(span->block, c->reverse ? first : end - 1))) return;
    lk_bytes edge = c->reverse ? c->region.lower : c->region.upper;
    uint32_t at = lk_block_lower_bound(span->block, edge.data, edge.len);
    span_cut(c, c->reverse ? end - at : at - first);
}

/* Of a span that was just taken, leaves rows that one answer holds for: all are dead, and are passed
 * over (`*out_dead`), or none is. */
static lk_status span_cover(lk_cursor *c, bool *out_dead, lk_error *err)
{
    *out_dead = false;
    span_cut_to_region(c);
    uint64_t dead_below = c->region.seq;
    if (dead_below == 0) return LK_OK;
    const lk_block *b = c->span.block;
    if (b != NULL && b->seq_min < dead_below && b->seq_max > dead_below) span_cut(c, 1);
    uint64_t seq = b == NULL ? c->span.seq : lk_block_seq(b, c->span.first);
    if (seq > dead_below) return LK_OK;
    *out_dead = true;
    watch_dead(c, c->span_left, 0);
    c->span_left = 0;
    if (!lk_merge_span_is_old(c->merge, &c->span, dead_below)) return LK_OK;
    return lk_merge_skip(c->merge, c->reverse ? c->region.lower : c->region.upper, dead_below, err);
}

/* At most `max` rows more. False at the end (with `stay`, perhaps only of the range), or when more
 * than KEPT_BLOCKS_MAX blocks are kept, or large values. */
static inline lk_status next_piece(lk_cursor *c, uint32_t max, bool stay, piece *out, bool *out_any,
                                   lk_error *err)
{
    bool any = true;
    *out_any = false;
    if (LK_UNLIKELY(stay && c->fold.made_bytes > READ_BYTES_MAX)) return LK_OK;
    for (;;) {
        if (c->span_left == 0) {
            if (LK_UNLIKELY(keeps_too_many(c))) {
                if (stay) return LK_OK;
                lk_merge_release(c->merge); /* nothing has been given out yet */
            }
            lk_status st = next_span(c, stay, &any, err);
            if (st != LK_OK || !any) return st;
            if (LK_UNLIKELY(c->cover.count != 0)) {
                bool dead;
                st = span_cover(c, &dead, err);
                if (st != LK_OK) return st;
                if (dead) continue;
            }
        }
        if (LK_LIKELY(is_clean(c))) {
            take_clean(c, max, out);
            watch_live(c, out);
            *out_any = true;
            return LK_OK;
        }
        uint32_t before = c->span_left;
        taken what = c->span.count == 1 ? take_single(c, out) : take_several(c, max, out);
        uint32_t behind = c->span_left + (what == TAKEN_NONE ? 0 : out->count);
        if (behind < before) watch_dead(c, before - behind, behind);
        if (what == TAKEN_NONE) continue;
        watch_live(c, out);
        *out_any = true;
        if (LK_LIKELY(what == TAKEN_ROWS)) return LK_OK;
        lk_status st = take_special(c, out, out_any, err);
        if (st != LK_OK || *out_any) return st;
    }
}

/* What was given out is not used any more. */
static inline void release(lk_cursor *c)
{
    if (c->merge != NULL) lk_merge_release(c->merge);
    if (LK_UNLIKELY(c->fold.made_count > 0)) lk_fold_clear(&c->fold);
}

static lk_status cursor_fail(lk_cursor *c, lk_status st, lk_error *err)
{
    c->failed = st;
    if (err != NULL) {
        c->failure = *err;
    } else { /* nobody asked what it was; a later call may */
        (void)lk_fail(&c->failure, st, 0, NULL, 0, 0, 0, "the scan has failed before");
    }
    return st;
}

static lk_status cursor_failed(const lk_cursor *c, lk_error *err)
{
    if (err != NULL) *err = c->failure;
    return c->failed;
}

/* ---- rows ---- */

static lk_pair pair_of(const piece *p, uint32_t row)
{
    lk_bytes value = lk_block_value(p->block, row);
    return (lk_pair){lk_block_key(p->block, row), {value.data + p->head, value.len - p->head}};
}

static void piece_pairs(const lk_cursor *c, const piece *p, lk_pair *out)
{
    const lk_block *b = p->block;
    if (b == NULL) {
        *out = p->row;
    } else if (c->reverse) {
        for (uint32_t i = 0; i < p->count; i++) {
            out[i] = pair_of(p, p->first + p->count - 1 - i);
        }
    } else if (b->key_offsets == NULL && b->value_offsets == NULL && p->head == 0) {
        size_t key_width = b->key_width, value_width = b->value_width;
        const uint8_t *key = b->keys + p->first * key_width;
        const uint8_t *value = b->values + p->first * value_width;
        for (uint32_t i = 0; i < p->count; i++) {
            out[i] = (lk_pair){{key, key_width}, {value, value_width}};
            key += key_width;
            value += value_width;
        }
    } else {
        for (uint32_t i = 0; i < p->count; i++) {
            out[i] = pair_of(p, p->first + i);
        }
    }
}

lk_status lk_cursor_next(lk_cursor *c, lk_pair *out, size_t max, size_t *out_count, lk_error *err)
{
    size_t count = 0;
    *out_count = 0;
    if (LK_UNLIKELY(c->failed != LK_OK)) return cursor_failed(c, err);
    release(c);
    while (count < max) {
        piece p;
        bool any;
        size_t room = max - count < UINT32_MAX ? max - count : UINT32_MAX;
        lk_status st = next_piece(c, (uint32_t)room, count > 0, &p, &any, err);
        if (LK_UNLIKELY(st != LK_OK)) {
            (void)cursor_fail(c, st, err);
            if (count == 0) return st;
            break; /* the rows before the fault are good; the next call tells */
        }
        if (!any) break;
        piece_pairs(c, &p, out + count);
        count += p.count;
    }
    *out_count = count;
    return LK_OK;
}

lk_status lk_cursor_count(lk_cursor *c, uint64_t *out, lk_error *err)
{
    *out = 0;
    c->fold.no_values = true; /* it goes to the end */
    if (LK_UNLIKELY(c->failed != LK_OK)) return cursor_failed(c, err);
    for (;;) {
        piece p;
        bool any;
        release(c);
        lk_status st = next_piece(c, UINT32_MAX, false, &p, &any, err);
        if (LK_UNLIKELY(st != LK_OK)) return cursor_fail(c, st, err);
        if (!any) return LK_OK;
        *out += p.count;
    }
}

/* ---- columns ---- */

static lk_status column_room(lk_columns_out *out, uint8_t **data, size_t *capacity, size_t used,
                             size_t more, lk_error *err)
{
    if (LK_LIKELY(more <= *capacity - used)) return LK_OK;
    size_t bytes = *capacity * 2 > used + more ? *capacity * 2 : used + more;
    if (bytes < COLUMN_BYTES_MIN) bytes = COLUMN_BYTES_MIN;
    uint8_t *bigger = out->grow(*data, *capacity, bytes);
    if (bigger == NULL) return lk_fail_nomem(err, bytes);
    *data = bigger;
    *capacity = bytes;
    return LK_OK;
}

static lk_status offsets_room(lk_columns_out *out, size_t rows, lk_error *err)
{
    if (LK_LIKELY(rows < out->offset_capacity)) return LK_OK;
    size_t capacity = out->offset_capacity * 2 > rows + 1 ? out->offset_capacity * 2 : rows + 1;
    if (capacity < OFFSETS_MIN) capacity = OFFSETS_MIN;
    size_t old_bytes = out->offset_capacity * sizeof(int64_t), bytes = capacity * sizeof(int64_t);
    int64_t *keys = out->grow(out->key_offsets, old_bytes, bytes);
    if (keys == NULL) return lk_fail_nomem(err, bytes);
    out->key_offsets = keys;
    int64_t *values = out->grow(out->value_offsets, old_bytes, bytes);
    if (values == NULL) return lk_fail_nomem(err, bytes);
    out->value_offsets = values;
    out->offset_capacity = capacity;
    return LK_OK;
}

/* The widths of the column's rows differ from here on: offsets of the `rows` rows before. */
static void offsets_begin(int64_t *offsets, int64_t *width, size_t rows)
{
    for (size_t i = 0; i <= rows; i++) offsets[i] = (int64_t)i * *width;
    *width = -1;
}

/* One column of a piece: rows [first, first + count) stand side by side at `base`, each `width`
 * bytes behind a head, or where `offsets` say. */
typedef struct part {
    const uint8_t *base;
    const uint32_t *offsets;
    uint32_t width, head, first, count;
    bool reverse;
} part;

static inline lk_bytes part_row(const part *p, uint32_t i)
{
    uint32_t row = p->reverse ? p->first + p->count - 1 - i : p->first + i;
    if (p->offsets == NULL) {
        return (lk_bytes){p->base + (size_t)row * (p->head + p->width) + p->head, p->width};
    }
    uint32_t from = p->offsets[row] + p->head;
    return (lk_bytes){p->base + from, p->offsets[row + 1] - from};
}

static inline size_t part_bytes(const part *p)
{
    if (p->offsets == NULL) return (size_t)p->count * p->width;
    return p->offsets[p->first + p->count] - p->offsets[p->first] - (size_t)p->count * p->head;
}

static void copy_bytes(uint8_t *to, const part *p, size_t bytes)
{
    if (LK_LIKELY(p->head == 0 && (!p->reverse || p->count == 1))) {
        size_t from = p->offsets == NULL ? (size_t)p->first * p->width : p->offsets[p->first];
        if (bytes > 0) memcpy(to, p->base + from, bytes);
        return;
    }
    for (uint32_t i = 0; i < p->count; i++) {
        lk_bytes row = part_row(p, i);
        if (row.len > 0) memcpy(to, row.data, row.len);
        to += row.len;
    }
}

/* Appends a column. Offsets have room; they are looked at only when widths differ. */
static lk_status part_append(lk_columns_out *out, uint8_t **data, size_t *used, size_t *capacity,
                             int64_t *offsets, int64_t *width, const part *p, lk_error *err)
{
    size_t bytes = part_bytes(p);
    lk_status st = column_room(out, data, capacity, *used, bytes, err);
    if (LK_UNLIKELY(st != LK_OK)) return st;
    if (out->rows == 0) *width = (int64_t)part_row(p, 0).len;
    bool fixed = p->offsets == NULL && *width == (int64_t)p->width;
    if (LK_UNLIKELY(!fixed)) {
        int64_t at = (int64_t)*used;
        for (uint32_t i = 0; i < p->count; i++) {
            int64_t len = (int64_t)part_row(p, i).len;
            if (*width >= 0 && len != *width) offsets_begin(offsets, width, out->rows + i);
            at += len;
            if (*width < 0) offsets[out->rows + i + 1] = at;
        }
    }
    copy_bytes(*data + *used, p, bytes);
    *used += bytes;
    return LK_OK;
}

static lk_status piece_append(const lk_cursor *c, const piece *p, lk_columns_out *out,
                              lk_error *err)
{
    lk_status st = LK_OK;
    const lk_block *b = p->block;
    part keys, values;
    if (b == NULL) {
        keys = (part){p->row.key.data, NULL, (uint32_t)p->row.key.len, 0, 0, 1, false};
        values = (part){p->row.value.data, NULL, (uint32_t)p->row.value.len, 0, 0, 1, false};
    } else {
        uint32_t width = b->value_offsets == NULL ? b->value_width - p->head : 0;
        keys = (part){b->keys, b->key_offsets, b->key_width, 0, p->first, p->count, c->reverse};
        values =
            (part){b->values, b->value_offsets, width, p->head, p->first, p->count, c->reverse};
    }
    bool fixed = keys.offsets == NULL && values.offsets == NULL &&
                 (out->rows == 0 || (out->key_width == (int64_t)keys.width &&
                                     out->value_width == (int64_t)values.width));
    if (!fixed) LK_TRY(offsets_room(out, out->rows + p->count, err));
    LK_TRY(part_append(out, &out->keys, &out->key_bytes, &out->key_capacity, out->key_offsets,
                       &out->key_width, &keys, err));
    LK_TRY(part_append(out, &out->values, &out->value_bytes, &out->value_capacity,
                       out->value_offsets, &out->value_width, &values, err));
    out->rows += p->count;
done:
    return st;
}

lk_status lk_cursor_next_columns(lk_cursor *c, size_t max, lk_columns_out *out, lk_error *err)
{
    if (LK_UNLIKELY(c->failed != LK_OK)) return cursor_failed(c, err);
    while (max > 0) {
        piece p;
        bool any;
        release(c); /* what was given out was copied */
        uint32_t room = max < UINT32_MAX ? (uint32_t)max : UINT32_MAX;
        lk_status st = next_piece(c, room, false, &p, &any, err);
        if (st == LK_OK && any) st = piece_append(c, &p, out, err);
        if (LK_UNLIKELY(st != LK_OK)) return cursor_fail(c, st, err);
        if (!any) break;
        max -= p.count;
    }
    return LK_OK;
}
