/* merge_source.c: how a source finds its first row, and the next one.
 *
 * Owns      see merge_source.h.
 * Errors    those of loading a table or a block; the source is not to be used after one.
 */
#include "merge_source.h"

#include "check.h"

/* Records are gathered from all over a segment: 22 ns each when they are fetched 8 ahead, 28 when
 * not. The entry that tells where a record stands is fetched earlier still. */
#define AHEAD_RECORD 8u
#define AHEAD_ENTRY 16u

static bool has_lower(const lk_walk *w) { return w->bounds.lower.len > 0; }

static bool has_upper(const lk_walk *w) { return w->bounds.upper.data != NULL; }

/* ---- segments ---- */

bool lk_source_seek_order(const lk_walk *w, lk_source *s, const lk_order_run *run)
{
    lk_bytes lower = w->bounds.lower, upper = w->bounds.upper;
    s->run = run;
    s->items = run->items;
    s->seq_max = s->segment->base_seq + run->end - 1;
    s->low = lk_order_seek(s->segment, run, w->tree, lower.data, lower.len);
    s->high = has_upper(w) ? lk_order_seek(s->segment, run, w->tree, upper.data, upper.len)
                           : lk_order_seek(s->segment, run, w->tree + 1, NULL, 0);
    return s->low < s->high;
}

static inline void prefetch_item(const lk_source *s, const lk_order_item *entry_of,
                                 const lk_order_item *record_of)
{
    const lk_entry *entries = s->segment->index.entries;
    if (entry_of != NULL) __builtin_prefetch(&entries[entry_of->ordinal]);
    if (record_of != NULL) {
        const uint8_t *record = s->segment->base + entries[record_of->ordinal].location;
        __builtin_prefetch(record);
        __builtin_prefetch(record + 64);
    }
}

static inline void set_item(const lk_walk *w, lk_source *s, uint32_t i)
{
    s->at = i;
    s->record = lk_segment_record(s->segment, s->items[i].ordinal);
    s->key = s->record.key;
    s->key_len = s->record.key_len;
    s->head = lk_walk_head(w, s->key, s->key_len);
}

/* Stands at the first visible item from low on. */
static bool settle_forward(const lk_walk *w, lk_source *s)
{
    while (s->low < s->high && s->items[s->low].ordinal >= s->visible) s->low++;
    if (s->low == s->high) return false;
    uint32_t left = s->high - s->low;
    const lk_order_item *item = &s->items[s->low];
    prefetch_item(s, left > AHEAD_ENTRY ? item + AHEAD_ENTRY : NULL,
                  left > AHEAD_RECORD ? item + AHEAD_RECORD : NULL);
    set_item(w, s, s->low);
    return true;
}

bool lk_source_next_record(const lk_walk *w, lk_source *s)
{
    s->low = s->at + 1;
    return settle_forward(w, s);
}

/* ---- groups ---- */

static bool items_equal(const lk_source *s, uint32_t a, uint32_t b)
{
    if (s->items[a].prefix != s->items[b].prefix) return false;
    lk_record x = lk_segment_record(s->segment, s->items[a].ordinal);
    lk_record y = lk_segment_record(s->segment, s->items[b].ordinal);
    return lk_bytes_equal(x.key, x.key_len, y.key, y.key_len);
}

static bool rows_equal(const lk_source *s, uint32_t a, uint32_t b)
{
    lk_bytes x = lk_block_key(s->block, a), y = lk_block_key(s->block, b);
    return lk_bytes_equal(x.data, x.len, y.data, y.len);
}

/* Stands at the newest visible row of the group that ends at high. */
static bool settle_group(const lk_walk *w, lk_source *s)
{
    while (s->low < s->high) {
        uint32_t end = s->high, from = end - 1;
        if (s->block != NULL) {
            while (from > s->low && rows_equal(s, from - 1, from)) from--;
            s->high = from;
            s->group_end = end;
            lk_source_set_row(w, s, from);
            return true;
        }
        uint32_t left = end - s->low;
        const lk_order_item *item = &s->items[from];
        prefetch_item(s, left > AHEAD_ENTRY ? item - AHEAD_ENTRY : NULL,
                      left > AHEAD_RECORD ? item - AHEAD_RECORD : NULL);
        while (from > s->low && items_equal(s, from - 1, from)) from--;
        s->high = from;
        s->group_end = end;
        while (from < end && s->items[from].ordinal >= s->visible) from++;
        if (from < end) {
            set_item(w, s, from);
            return true;
        }
    }
    return false;
}

bool lk_source_next_in_group(const lk_walk *w, lk_source *s)
{
    uint32_t next = s->at + 1;
    if (next == s->group_end) return settle_group(w, s);
    if (s->block != NULL) {
        lk_source_set_row(w, s, next);
    } else {
        set_item(w, s, next); /* older than one that is visible */
    }
    return true;
}

/* ---- tables ---- */

void lk_source_ends(const lk_walk *w, const lk_source *s, lk_table *const *tables,
                    lk_bytes *out_least, lk_bytes *out_greatest)
{
    if (s->segment != NULL) {
        lk_record first = lk_segment_record(s->segment, s->items[s->low].ordinal);
        lk_record last = lk_segment_record(s->segment, s->items[s->high - 1].ordinal);
        *out_least = (lk_bytes){first.key, first.key_len};
        *out_greatest = (lk_bytes){last.key, last.key_len};
        return;
    }
    const lk_table_meta *first = lk_table_meta_of(tables[s->table_low]);
    const lk_table_meta *last = lk_table_meta_of(tables[s->table_high - 1]);
    lk_bytes lower = w->bounds.lower, upper = w->bounds.upper;
    *out_least = (lk_bytes){first->min_key, first->min_len};
    *out_greatest = (lk_bytes){last->max_key, last->max_len};
    if (lk_key_compare(first->min_key, first->min_len, lower.data, lower.len) < 0) {
        *out_least = lower;
    }
    if (has_upper(w) && lk_key_compare(last->max_key, last->max_len, upper.data, upper.len) > 0) {
        *out_greatest = upper;
    }
}

/* Chooses the blocks of the next table. */
static lk_status next_table(const lk_walk *w, lk_source *s, lk_table *const *tables, lk_error *err)
{
    lk_table *t = tables[w->reverse ? --s->table_high : s->table_low++];
    if (!lk_table_is_loaded(t)) {
        lk_status st = lk_table_load(t, err);
        if (st != LK_OK) return st;
    }
    const lk_table_meta *meta = lk_table_meta_of(t);
    lk_bytes lower = w->bounds.lower, upper = w->bounds.upper;
    s->table = t;
    s->block_low = 0;
    s->block_high = lk_table_block_count(t);
    s->clip_low = s->clip_high = UINT32_MAX;
    if (has_upper(w) && lk_key_compare(meta->max_key, meta->max_len, upper.data, upper.len) >= 0) {
        s->clip_high = lk_table_seek(t, upper.data, upper.len);
        if (s->clip_high < s->block_high) s->block_high = s->clip_high + 1;
    }
    if (has_lower(w) && lk_key_compare(meta->min_key, meta->min_len, lower.data, lower.len) < 0) {
        s->clip_low = lk_table_seek(t, lower.data, lower.len);
        s->block_low = s->clip_low < s->block_high ? s->clip_low : s->block_high;
    }
    return LK_OK;
}

/* Stands at the first row of the block, within the bounds. */
static bool settle_block(const lk_walk *w, lk_source *s)
{
    const lk_block *b = s->block;
    lk_bytes lower = w->bounds.lower, upper = w->bounds.upper;
    uint32_t i = s->block_index;
    s->low = i == s->clip_low ? lk_block_lower_bound(b, lower.data, lower.len) : 0;
    s->high = i == s->clip_high ? lk_block_lower_bound(b, upper.data, upper.len) : b->rows;
    if (s->low >= s->high) return false;
    s->keys = NULL;
    if (b->key_offsets == NULL && b->key_width >= w->skip + 8) {
        s->keys = b->keys;
        s->key_len = b->key_width;
    }
    s->grouped = w->reverse && !b->unique;
    if (s->grouped) return settle_group(w, s);
    lk_source_set_row(w, s, w->reverse ? s->high - 1 : s->low);
    return true;
}

/* A block need not be read yet when all of it is in bounds and it is known to have plain puts alone,
 * with their values, and, as all its rows have one sequence, no two versions of a key. */
static bool may_stay_closed(const lk_walk *w, const lk_source *s)
{
    const lk_table_meta *meta = lk_table_meta_of(s->table);
    return w->closed && s->block_index != s->clip_low && s->block_index != s->clip_high &&
           meta->tombstones == 0 && meta->operands == 0 && meta->deadlines == 0 &&
           meta->blob_count == 0 && meta->seq_min == meta->seq_max;
}

/* Stands before the block with the greatest key that its rows are known not to be less than. */
static void stay_closed(const lk_walk *w, lk_source *s)
{
    const lk_table_meta *meta = lk_table_meta_of(s->table);
    lk_bytes key = {meta->min_key, meta->min_len};
    if (s->block_index > 0) key = lk_table_block_last_key(s->table, s->block_index - 1);
    s->closed = true;
    s->keys = NULL;
    s->key = key.data;
    s->key_len = (uint32_t)key.len;
    s->head = lk_walk_head(w, key.data, key.len);
}

lk_status lk_source_open(const lk_walk *w, lk_source *s, lk_error *err)
{
    LK_ASSERT(s->closed && s->block == NULL);
    lk_status st = lk_table_block(s->table, s->block_index, w->fill, &s->block, err);
    if (st != LK_OK) return st;
    s->closed = false;
    bool any = settle_block(w, s);
    LK_ASSERT(any);
    (void)any;
    return LK_OK;
}

lk_status lk_source_next_block(const lk_walk *w, lk_source *s, lk_table *const *tables,
                               lk_block **out_left, lk_error *err)
{
    lk_status st = LK_OK;
    *out_left = s->block;
    s->block = NULL;
    s->closed = false;
    for (;;) {
        while (s->block_low < s->block_high) {
            s->block_index = w->reverse ? --s->block_high : s->block_low++;
            if (may_stay_closed(w, s)) {
                stay_closed(w, s);
                goto done;
            }
            LK_TRY(lk_table_block(s->table, s->block_index, w->fill, &s->block, err));
            if (settle_block(w, s)) goto done;
            lk_block_unref(s->block);
            s->block = NULL;
        }
        if (s->table_low == s->table_high) break;
        LK_TRY(next_table(w, s, tables, err));
    }
    s->done = true;
done:
    return st;
}

lk_status lk_source_begin(const lk_walk *w, lk_source *s, lk_table *const *tables, lk_error *err)
{
    if (s->segment == NULL) {
        lk_block *none;
        return lk_source_next_block(w, s, tables, &none, err);
    }
    s->grouped = w->reverse;
    s->done = !(w->reverse ? settle_group(w, s) : settle_forward(w, s));
    return LK_OK;
}

/* ---- skipping ---- */

/* Whether the row that the source stands at is one to be skipped; of a block that is used up the row
 * that was given last, because others that it gave may still be in use when it is left. */
static bool is_short_of(const lk_walk *w, const lk_source *s, lk_bytes to)
{
    lk_bytes key = {s->key, s->key_len};
    if (s->spent) key = lk_block_key(s->block, w->reverse ? s->low : s->high - 1);
    int c = to.data == NULL ? -1 : lk_key_compare(key.data, key.len, to.data, to.len);
    return w->reverse ? c >= 0 : c < 0;
}

static void skip_items(const lk_walk *w, lk_source *s, lk_bytes to)
{
    uint32_t at = s->high;
    if (to.data != NULL) at = lk_order_seek(s->segment, s->run, w->tree, to.data, to.len);
    if (w->reverse) {
        if (at < s->high) s->high = at > s->low ? at : s->low;
        s->done = !settle_group(w, s);
    } else {
        if (at > s->low) s->low = at < s->high ? at : s->high;
        s->done = !settle_forward(w, s);
    }
}

/* Goes on within the block. False: nothing of it is left. */
static bool skip_rows(const lk_walk *w, lk_source *s, lk_bytes to)
{
    uint32_t at = s->high;
    if (to.data != NULL) at = lk_block_lower_bound(s->block, to.data, to.len);
    if (w->reverse) {
        if (at < s->high) s->high = at > s->low ? at : s->low;
        if (s->low == s->high) return false;
        if (s->grouped) return settle_group(w, s);
        lk_source_set_row(w, s, s->high - 1);
    } else {
        if (at > s->low) s->low = at < s->high ? at : s->high;
        if (s->low == s->high) return false;
        lk_source_set_row(w, s, s->low);
    }
    return true;
}

static bool is_older(const lk_table *t, uint64_t seq) { return lk_table_meta_of(t)->seq_max < seq; }

/* Passes over the blocks that end before `to`, and if that is all of the table, over tables. */
static void skip_blocks(const lk_walk *w, lk_source *s, lk_table *const *tables, lk_bytes to,
                        uint64_t seq)
{
    uint32_t at = s->block_high;
    if (to.data != NULL) at = lk_table_seek(s->table, to.data, to.len);
    if (!w->reverse) {
        if (at > s->block_low) s->block_low = at < s->block_high ? at : s->block_high;
    } else if (at + 1 < s->block_high) {
        s->block_high = at + 1 > s->block_low ? at + 1 : s->block_low;
    }
    while (s->block_low == s->block_high && s->table_low < s->table_high) {
        lk_table *next = tables[w->reverse ? s->table_high - 1 : s->table_low];
        const lk_table_meta *m = lk_table_meta_of(next);
        bool passes = w->reverse ? lk_key_compare(m->min_key, m->min_len, to.data, to.len) >= 0
                                 : to.data == NULL ||
                                       lk_key_compare(m->max_key, m->max_len, to.data, to.len) < 0;
        if (!passes || !is_older(next, seq)) return;
        if (w->reverse) {
            s->table_high--;
        } else {
            s->table_low++;
        }
    }
}

lk_status lk_source_skip(const lk_walk *w, lk_source *s, lk_table *const *tables, lk_bytes to,
                         uint64_t seq, bool *out_moved, lk_block **out_left, lk_error *err)
{
    *out_left = NULL;
    *out_moved = false;
    if (s->segment != NULL) {
        if (s->seq_max >= seq || !is_short_of(w, s, to)) return LK_OK;
        skip_items(w, s, to);
        *out_moved = true;
        return LK_OK;
    }
    if (!is_older(s->table, seq) || !is_short_of(w, s, to)) return LK_OK;
    *out_moved = true;
    if (s->closed && to.data != NULL &&
        lk_table_seek(s->table, to.data, to.len) <= s->block_index) {
        return lk_source_open(w, s, err); /* `to` lies in this block */
    }
    if (s->block != NULL && !s->spent && skip_rows(w, s, to)) return LK_OK;
    skip_blocks(w, s, tables, to, seq);
    s->spent = false;
    return lk_source_next_block(w, s, tables, out_left, err);
}
