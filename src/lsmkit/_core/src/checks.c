/* checks.c: newer records by walking the log, or its hash index; newer rows by walking young tables.
 *
 * Always    items do not overlap, so that the only one that may hold a key is the last that does not
 *           begin behind it.
 */
#include "checks.h"

#include <stdlib.h>

#include "check.h"
#include "hash.h"
#include "table.h"

enum {
    SETTLE_RECORDS_MAX = 2048, /* looked at under the write lock, some 100 µs */
    LOOKS_MAX = 16,            /* then it is taken as it comes: writers are faster than looking */
};

/* ---- making ---- */

static int compare_items(const void *a, const void *b)
{
    const lk_check *x = a, *y = b;
    if (x->tree != y->tree) return x->tree < y->tree ? -1 : 1;
    return lk_key_compare(x->start.data, x->start.len, y->start.data, y->start.len);
}

static bool is_inside(const lk_check *c, lk_bytes key)
{
    if (!c->is_range) return lk_bytes_equal(c->start.data, c->start.len, key.data, key.len);
    return c->stop.data == NULL || lk_key_compare(key.data, key.len, c->stop.data, c->stop.len) < 0;
}

static bool ends_before(const lk_check *a, const lk_check *b)
{
    if (a->stop.data == NULL) return false;
    if (b->stop.data == NULL) return true;
    return lk_key_compare(a->stop.data, a->stop.len, b->stop.data, b->stop.len) < 0;
}

static bool is_empty_range(const lk_check *c)
{
    return c->is_range && c->stop.data != NULL &&
           lk_key_compare(c->start.data, c->start.len, c->stop.data, c->stop.len) >= 0;
}

/* Ranges grow over what overlaps them, and keys in them go. */
static void items_merge(lk_prover *p)
{
    size_t n = 0;
    for (size_t i = 0; i < p->count; i++) {
        const lk_check *next = &p->items[i];
        if (is_empty_range(next)) continue;
        lk_check *last = n > 0 ? &p->items[n - 1] : NULL;
        if (last == NULL || last->tree != next->tree || !is_inside(last, next->start)) {
            p->items[n++] = *next;
        } else if (next->is_range && (!last->is_range || ends_before(last, next))) {
            last->is_range = true;
            last->stop = next->stop;
        }
    }
    p->count = n;
    for (size_t i = 0; i < n; i++) p->range_count += p->items[i].is_range;
}

lk_status lk_prover_init(lk_prover *p, const lk_checks *checks, lk_error *err)
{
    memset(p, 0, sizeof *p);
    p->known = checks->moment;
    p->is_held = checks->is_held;
    p->items = p->few;
    if (checks->count > sizeof p->few / sizeof p->few[0]) {
        p->items = malloc(checks->count * sizeof *p->items);
        if (p->items == NULL) return lk_fail_nomem(err, checks->count * sizeof *p->items);
    }
    p->count = checks->count;
    if (p->count > 0) memcpy(p->items, checks->items, p->count * sizeof *p->items);
    if (p->count > 1) qsort(p->items, p->count, sizeof *p->items, compare_items);
    items_merge(p);
    return LK_OK;
}

void lk_prover_deinit(lk_prover *p)
{
    if (p->items != p->few) free(p->items);
    lk_version_unref(p->looked);
}

/* First item that does not lie before the key. */
static size_t item_seek(const lk_prover *p, uint32_t tree, lk_bytes key)
{
    const lk_check at = {.tree = tree, .start = key};
    size_t low = 0, high = p->count; /* first that begins behind the key */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare_items(&p->items[middle], &at) <= 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low > 0 && p->items[low - 1].tree == tree && is_inside(&p->items[low - 1], key)) low--;
    return low;
}

static bool is_checked(const lk_prover *p, uint32_t tree, lk_bytes key)
{
    size_t i = item_seek(p, tree, key);
    return i < p->count && p->items[i].tree == tree &&
           compare_items(&p->items[i], &(lk_check){.tree = tree, .start = key}) <= 0;
}

/* Whether a record that deletes a range touches what is checked. */
static bool range_is_checked(const lk_prover *p, const lk_record *r)
{
    size_t i = item_seek(p, r->tree, (lk_bytes){r->key, r->key_len});
    if (i == p->count || p->items[i].tree != r->tree) return false;
    lk_bytes start = p->items[i].start;
    return r->value_len == 0 || lk_key_compare(start.data, start.len, r->value, r->value_len) < 0;
}

/* ---- the log ---- */

/* How many records are newer than what is known. False: some of them were flushed. */
static bool count_newer(const lk_prover *p, const lk_view *v, uint64_t now, uint64_t *out)
{
    *out = now > p->known ? now - p->known : 0;
    if (*out == 0) return true;
    return v->segment_count > 0 && v->segments[v->segment_count - 1]->base_seq <= p->known + 1;
}

/* Ordinals [from, to) of a segment are newer than what is known, and not later than now. */
static void newer_of(const lk_prover *p, const lk_segment *s, uint64_t now, uint32_t *out_from,
                     uint32_t *out_to)
{
    *out_to = lk_segment_visible(s, now);
    *out_from = p->known >= s->base_seq ? (uint32_t)(p->known - s->base_seq + 1) : 0;
    if (p->known >= s->base_seq + *out_to) *out_from = *out_to;
}

static bool walk_records(const lk_prover *p, const lk_segment *s, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) {
        lk_record r = lk_segment_record(s, i);
        if (LK_UNLIKELY(r.kind == LK_KIND_DELETE_RANGE)) {
            if (range_is_checked(p, &r)) return true;
            continue;
        }
        if (is_checked(p, r.tree, (lk_bytes){r.key, r.key_len})) return true;
    }
    return false;
}

static bool find_keys(const lk_prover *p, const lk_segment *s, uint32_t from, uint32_t to)
{
    for (size_t i = 0; i < p->count; i++) {
        const lk_check *c = &p->items[i];
        lk_record r;
        uint32_t ordinal;
        uint64_t hash = lk_hash_key(c->tree, c->start.data, c->start.len);
        if (lk_segment_find(s, c->tree, c->start.data, c->start.len, hash, to, &r, &ordinal) &&
            ordinal >= from) {
            return true;
        }
        if (LK_UNLIKELY(lk_segment_has_tombs(s)) &&
            lk_segment_tomb_over(s, c->tree, c->start.data, c->start.len, to) > from) {
            return true;
        }
    }
    return false;
}

/* Whether the log has a newer record of what is checked: by the index where keys alone are checked
 * and are fewer than the records. */
static bool log_changed(const lk_prover *p, const lk_view *v, uint64_t now, uint64_t newer)
{
    for (uint32_t i = 0; i < v->segment_count && newer > 0; i++) {
        const lk_segment *s = v->segments[i];
        uint32_t from, to;
        newer_of(p, s, now, &from, &to);
        if (from == to) continue;
        bool by_key = p->range_count == 0 && p->count < to - from;
        if (by_key ? find_keys(p, s, from, to) : walk_records(p, s, from, to)) return true;
    }
    return false;
}

/* ---- tables ---- */

static bool is_young(const lk_prover *p, const lk_table *t)
{
    return lk_table_meta_of(t)->seq_max > p->known;
}

static bool has_young_tombs(const lk_prover *p, const lk_tree_version *t)
{
    return t->tombs != NULL && t->tombs->newest > p->known;
}

/* Whether a newer range tombstone is over what is checked of the tree, from item `i` on. One that has
 * left the version hid nothing that the moment saw. */
static bool tombs_changed(const lk_prover *p, const lk_tree_version *t, size_t i)
{
    for (; i < p->count && p->items[i].tree == t->tree; i++) {
        const lk_check *c = &p->items[i];
        lk_bytes end = c->is_range ? c->stop : c->start;
        if (lk_tombs_touch(t->tombs, t->tree, c->start, end, p->known)) return true;
    }
    return false;
}

/* The trees that are checked, one after another: the first item of the next one. */
static size_t next_tree(const lk_prover *p, size_t i)
{
    uint32_t tree = p->items[i].tree;
    while (i < p->count && p->items[i].tree == tree) i++;
    return i;
}

static bool has_young_tables(const lk_prover *p, const lk_version *version)
{
    for (size_t i = 0; i < p->count; i = next_tree(p, i)) {
        const lk_tree_version *t = lk_version_tree(version, p->items[i].tree);
        if (t != NULL && has_young_tombs(p, t)) return true;
        for (uint32_t j = 0; t != NULL && j < t->file_count; j++) {
            if (is_young(p, t->files[j].table)) return true;
        }
    }
    return false;
}

static lk_status block_changed(const lk_prover *p, lk_table *t, uint32_t index, const lk_check *c,
                               bool *out_any, bool *out_last, lk_error *err)
{
    lk_block *b;
    lk_status st = lk_table_block(t, index, true, &b, err);
    *out_any = *out_last = false;
    if (st != LK_OK) return st;
    uint32_t row = lk_block_lower_bound(b, c->start.data, c->start.len);
    for (; row < b->rows && !*out_any; row++) {
        if (!is_inside(c, lk_block_key(b, row))) break;
        *out_any = lk_block_seq(b, row) > p->known;
    }
    *out_last = row < b->rows;
    lk_block_unref(b);
    return LK_OK;
}

/* Whether the table has a newer row of what one item checks; the table is loaded. */
static lk_status item_changed(const lk_prover *p, lk_table *t, const lk_check *c, lk_guard *guard,
                              bool *out, lk_error *err)
{
    bool last = false;
    *out = false;
    if (!c->is_range) {
        lk_hit hit;
        uint64_t hash = lk_hash_key(c->tree, c->start.data, c->start.len);
        unsigned token = lk_guard_enter(guard);
        lk_find found = lk_table_find(t, c->start.data, c->start.len, hash, LK_SEQ_MAX, &hit);
        lk_guard_exit(guard, token);
        if (found != LK_FIND_MISS) {
            *out = found == LK_FIND_ROW && hit.seq > p->known;
            return LK_OK;
        }
    }
    for (uint32_t i = lk_table_seek(t, c->start.data, c->start.len);
         i < lk_table_block_count(t) && !*out && !last; i++) {
        lk_status st = block_changed(p, t, i, c, out, &last, err);
        if (st != LK_OK) return st;
    }
    return LK_OK;
}

static lk_status table_changed(const lk_prover *p, lk_table *t, lk_guard *guard, bool *out,
                               lk_error *err)
{
    const lk_table_meta *meta = lk_table_meta_of(t);
    lk_bytes min = {meta->min_key, meta->min_len}, max = {meta->max_key, meta->max_len};
    bool loaded = false;
    *out = false;
    for (size_t i = item_seek(p, meta->tree, min); i < p->count && !*out; i++) {
        const lk_check *c = &p->items[i];
        if (c->tree != meta->tree ||
            lk_key_compare(c->start.data, c->start.len, max.data, max.len) > 0) {
            break;
        }
        if (!loaded) {
            lk_status st = lk_table_load(t, err);
            if (st != LK_OK) return st;
            loaded = true;
        }
        lk_status st = item_changed(p, t, c, guard, out, err);
        if (st != LK_OK) return st;
    }
    return LK_OK;
}

static lk_status tables_changed(const lk_prover *p, const lk_version *version, lk_guard *guard,
                                bool *out, lk_error *err)
{
    *out = false;
    for (size_t i = 0; i < p->count; i = next_tree(p, i)) {
        const lk_tree_version *t = lk_version_tree(version, p->items[i].tree);
        if (t != NULL && has_young_tombs(p, t) && tombs_changed(p, t, i)) {
            *out = true;
            return LK_OK;
        }
        for (uint32_t j = 0; t != NULL && j < t->file_count; j++) {
            if (!is_young(p, t->files[j].table)) continue;
            lk_status st = table_changed(p, t->files[j].table, guard, out, err);
            if (st != LK_OK || *out) return st;
        }
    }
    return LK_OK;
}

/* ---- both ---- */

lk_status lk_prover_look(lk_prover *p, const lk_view *v, uint64_t now, lk_guard *guard,
                         lk_verdict *out, lk_error *err)
{
    uint64_t newer;
    bool changed;
    bool in_log = count_newer(p, v, now, &newer);
    *out = LK_UNKNOWN;
    if (!in_log && !p->is_held) return LK_OK;
    lk_status st = tables_changed(p, v->version, guard, &changed, err);
    if (st != LK_OK) return st;
    *out = changed || log_changed(p, v, now, newer) ? LK_CHANGED : LK_SAME;
    if (now > p->known) p->known = now;
    p->looks++;
    lk_version_ref(v->version);
    lk_version_unref(p->looked);
    p->looked = v->version;
    return LK_OK;
}

lk_verdict lk_prover_settle(lk_prover *p, const lk_view *v, uint64_t now)
{
    uint64_t newer;
    if (!count_newer(p, v, now, &newer)) return LK_UNKNOWN;
    if (v->version != p->looked && has_young_tables(p, v->version)) return LK_UNKNOWN;
    if (newer > SETTLE_RECORDS_MAX && p->looks < LOOKS_MAX) return LK_UNKNOWN;
    return log_changed(p, v, now, newer) ? LK_CHANGED : LK_SAME;
}
