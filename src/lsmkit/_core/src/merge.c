/* merge.c: a binary heap of sources, of which the least runs on for as long as it can.
 *
 * Measured against a loser tree, a linear minimum and merging in pairs: with two to six sources of
 * random keys all cost 10 to 17 ns a row, so the plainest is taken; what counts is that the winner
 * is compared with the runner-up alone, and that several rows at once pass that comparison where
 * sources do not overlap.
 *
 * Owns      orders and tables by reference; blocks by reference, until they are left and released.
 * Always    heap[0] is the source whose row comes next, or one whose block is used up: blocks are
 *           left by the call after the one that gave their last rows out, so that these stay.
 * Errors    those of the tables; kept in `failed`.
 */
#include "merge.h"

#include <stdlib.h>

#include "check.h"
#include "merge_source.h"

struct lk_merge {
    lk_walk walk;
    lk_source *sources; /* by rank */
    uint32_t source_count, source_capacity;
    lk_table **tables; /* of all sources */
    uint32_t table_count, table_capacity;
    lk_source **heap;
    uint32_t heap_count;

    lk_block **kept; /* blocks that were left */
    uint32_t kept_count, kept_capacity;
    bool keep;
    bool closed_given; /* the span given last is heap[0]'s closed block */

    const uint8_t *last_key; /* of the row given last; NULL: it cannot come again */
    uint64_t last_head;
    uint32_t last_len;
    uint8_t *last_copy; /* what last_key points to after a skip, when its block may go */
    uint32_t last_capacity;
    lk_status failed;
    uint8_t bound_bytes[];
};

/* ---- making ---- */

static lk_status grow(void **array, uint32_t *capacity, uint32_t want, size_t item_bytes,
                      lk_error *err)
{
    if (want <= *capacity) return LK_OK;
    uint32_t more = *capacity * 2 > want ? *capacity * 2 : want;
    if (more < 8) more = 8;
    void *bigger = realloc(*array, more * item_bytes);
    if (bigger == NULL) return lk_fail_nomem(err, more * item_bytes);
    *array = bigger;
    *capacity = more;
    return LK_OK;
}

lk_status lk_merge_new(uint32_t tree, const lk_bounds *bounds, bool reverse, bool fill,
                       lk_merge **out, lk_error *err)
{
    lk_bytes lower = bounds->lower, upper = bounds->upper;
    size_t bytes = sizeof(lk_merge) + lower.len + upper.len;
    lk_merge *m = calloc(1, bytes);
    *out = m;
    if (m == NULL) return lk_fail_nomem(err, bytes);
    if (lower.len > 0) memcpy(m->bound_bytes, lower.data, lower.len);
    if (upper.len > 0) memcpy(m->bound_bytes + lower.len, upper.data, upper.len);
    m->walk.bounds.lower = (lk_bytes){m->bound_bytes, lower.len};
    if (upper.data != NULL) {
        m->walk.bounds.upper = (lk_bytes){m->bound_bytes + lower.len, upper.len};
    }
    m->walk.tree = tree;
    m->walk.flip = reverse ? ~(uint64_t)0 : 0;
    m->walk.reverse = reverse;
    m->walk.fill = fill;
    return LK_OK;
}

void lk_merge_free(lk_merge *m)
{
    if (m == NULL) return;
    lk_merge_release(m);
    for (uint32_t i = 0; i < m->source_count; i++) {
        lk_block_unref(m->sources[i].block);
        lk_order_unref(m->sources[i].order);
    }
    for (uint32_t i = 0; i < m->table_count; i++) lk_table_unref(m->tables[i]);
    free(m->sources);
    free(m->tables);
    free(m->heap);
    free(m->kept);
    free(m->last_copy);
    free(m);
}

static lk_status source_add(lk_merge *m, lk_source **out, lk_error *err)
{
    *out = NULL;
    if (m->source_count == LK_SOURCES_MAX) {
        return lk_fail(err, LK_INVALID, 0, NULL, 0, LK_SOURCES_MAX, m->source_count,
                       "more than %u runs to merge", LK_SOURCES_MAX);
    }
    lk_status st = grow((void **)&m->sources, &m->source_capacity, m->source_count + 1,
                        sizeof(lk_source), err);
    if (st != LK_OK) return st;
    *out = &m->sources[m->source_count];
    memset(*out, 0, sizeof **out);
    (*out)->rank = m->source_count;
    return LK_OK;
}

lk_status lk_merge_add_order(lk_merge *m, lk_segment *segment, lk_order *order, uint32_t visible,
                             lk_error *err)
{
    LK_ASSERT(m->heap == NULL);
    for (uint32_t i = order->run_count; i-- > 0;) { /* the last one is the newest */
        lk_source *s = NULL;
        lk_status st = source_add(m, &s, err);
        if (st != LK_OK) return st;
        s->segment = segment;
        s->visible = visible;
        if (!lk_source_seek_order(&m->walk, s, order->runs[i])) continue;
        lk_order_ref(order);
        s->order = order;
        m->source_count++;
    }
    return LK_OK;
}

/* Cuts tables that end below the lower bound or begin at the upper one. */
static void tables_in_bounds(const lk_bounds *bounds, lk_table *const *tables, uint32_t count,
                             uint32_t *out_low, uint32_t *out_high)
{
    uint32_t low = 0, high = count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const lk_table_meta *meta = lk_table_meta_of(tables[middle]);
        bool below =
            lk_key_compare(meta->max_key, meta->max_len, bounds->lower.data, bounds->lower.len) < 0;
        if (below) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    *out_low = low;
    high = count;
    while (low < high && bounds->upper.data != NULL) {
        uint32_t middle = low + (high - low) / 2;
        const lk_table_meta *meta = lk_table_meta_of(tables[middle]);
        bool inside =
            lk_key_compare(meta->min_key, meta->min_len, bounds->upper.data, bounds->upper.len) < 0;
        if (inside) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    *out_high = high;
}

lk_status lk_merge_add_tables(lk_merge *m, lk_table *const *tables, uint32_t count, lk_error *err)
{
    lk_source *s = NULL;
    uint32_t low, high;
    lk_status st = LK_OK;
    LK_ASSERT(m->heap == NULL);
    tables_in_bounds(&m->walk.bounds, tables, count, &low, &high);
    if (low == high) return LK_OK;
    LK_TRY(grow((void **)&m->tables, &m->table_capacity, m->table_count + (high - low),
                sizeof(lk_table *), err));
    LK_TRY(source_add(m, &s, err));
    m->source_count++;
    s->table_low = m->table_count;
    for (uint32_t i = low; i < high; i++) {
        lk_table_ref(tables[i]);
        m->tables[m->table_count++] = tables[i];
    }
    s->table_high = m->table_count;
done:
    return st;
}

/* ---- the heap ---- */

static bool same_key(const uint8_t *a, uint32_t a_len, const uint8_t *b, uint32_t b_len)
{
    return lk_bytes_equal(a, a_len, b, b_len);
}

/* Compares whole keys, which sort before each other in the direction of the merge. */
static int key_order(const lk_merge *m, const uint8_t *a, size_t a_len, const uint8_t *b,
                     size_t b_len)
{
    int c = lk_key_compare(a, a_len, b, b_len);
    return m->walk.reverse ? -c : c;
}

static inline bool source_key_before(const lk_merge *m, const lk_source *a, const lk_source *b)
{
    if (LK_LIKELY(a->head != b->head)) return a->head < b->head;
    return key_order(m, a->key, a->key_len, b->key, b->key_len) < 0;
}

static inline bool source_before(const lk_merge *m, const lk_source *a, const lk_source *b)
{
    if (LK_LIKELY(a->head != b->head)) return a->head < b->head;
    int c = key_order(m, a->key, a->key_len, b->key, b->key_len);
    return c != 0 ? c < 0 : a->rank < b->rank;
}

static void sift_down(lk_merge *m, uint32_t i)
{
    lk_source **heap = m->heap;
    lk_source *s = heap[i];
    uint32_t n = m->heap_count;
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && source_before(m, heap[child + 1], heap[child])) child++;
        if (!source_before(m, heap[child], s)) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = s;
}

/* The common bytes of all keys that may come: those of the least and the greatest. */
static uint32_t common_bytes(const lk_merge *m)
{
    lk_bytes least = {NULL, 0}, greatest = {NULL, 0};
    for (uint32_t i = 0; i < m->source_count; i++) {
        lk_bytes low, high;
        lk_source_ends(&m->walk, &m->sources[i], m->tables, &low, &high);
        if (i == 0 || lk_key_compare(low.data, low.len, least.data, least.len) < 0) least = low;
        if (i == 0 || lk_key_compare(high.data, high.len, greatest.data, greatest.len) > 0) {
            greatest = high;
        }
    }
    return (uint32_t)lk_common_prefix(least.data, least.len, greatest.data, greatest.len);
}

lk_status lk_merge_start(lk_merge *m, lk_error *err)
{
    lk_status st = LK_OK;
    LK_ASSERT(m->heap == NULL);
    m->heap = malloc((m->source_count + 1) * sizeof *m->heap);
    if (m->heap == NULL) return lk_fail_nomem(err, (m->source_count + 1) * sizeof *m->heap);
    m->walk.skip = common_bytes(m);
    for (uint32_t i = 0; i < m->source_count; i++) {
        lk_source *s = &m->sources[i];
        LK_TRY(lk_source_begin(&m->walk, s, m->tables, err));
        if (!s->done) m->heap[m->heap_count++] = s;
    }
    for (uint32_t i = m->heap_count / 2; i-- > 0;) sift_down(m, i);
done:
    m->failed = st;
    return st;
}

/* ---- blocks that were left ---- */

void lk_merge_keep(lk_merge *m) { m->keep = true; }

uint32_t lk_merge_kept(const lk_merge *m) { return m->kept_count; }

void lk_merge_release(lk_merge *m)
{
    for (uint32_t i = 0; i < m->kept_count; i++) lk_block_unref(m->kept[i]);
    m->kept_count = 0;
}

/* ---- going on ---- */

/* The first source of the heap has another row now: puts it in its place. */
static inline void settle_first(lk_merge *m)
{
    lk_source **heap = m->heap;
    if (m->heap_count == 2) {
        lk_source *first = heap[0], *second = heap[1];
        bool swap = source_before(m, second, first);
        heap[0] = swap ? second : first;
        heap[1] = swap ? first : second;
    } else if (m->heap_count > 2) {
        sift_down(m, 0);
    }
}

static void remove_first(lk_merge *m)
{
    m->heap[0] = m->heap[--m->heap_count];
    settle_first(m);
}

/* The block that the span given last came from is used up: on to the next one. */
static lk_status leave_block(lk_merge *m, lk_error *err)
{
    lk_source *s = m->heap[0];
    lk_block *left;
    lk_status st =
        grow((void **)&m->kept, &m->kept_capacity, m->kept_count + 1, sizeof(lk_block *), err);
    if (st != LK_OK) return st;
    s->spent = false;
    st = lk_source_next_block(&m->walk, s, m->tables, &left, err);
    if (left != NULL) m->kept[m->kept_count++] = left; /* NULL: it was closed */
    if (st != LK_OK) return st;
    if (s->done) {
        remove_first(m);
    } else {
        settle_first(m);
    }
    return LK_OK;
}

/* The key just given may come again, from this source or another. */
static inline void note_key(lk_merge *m, const lk_source *s)
{
    m->last_key = s->key;
    m->last_len = s->key_len;
    m->last_head = s->head;
}

static inline bool is_repeat(const lk_merge *m, const lk_source *s)
{
    return m->last_key != NULL && s->head == m->last_head &&
           same_key(s->key, s->key_len, m->last_key, m->last_len);
}

/* Stands the source `n` rows further on in its block, or says that it is used up. */
static inline void advance(const lk_merge *m, lk_source *s, uint32_t n)
{
    if (m->walk.reverse) {
        s->high -= n;
    } else {
        s->low += n;
    }
    s->spent = s->low == s->high;
    if (!s->spent) lk_source_set_row(&m->walk, s, m->walk.reverse ? s->high - 1 : s->low);
}

static inline bool row_before(const lk_merge *m, const lk_block *b, uint32_t row,
                              const lk_source *rival)
{
    lk_bytes key = lk_block_key(b, row);
    uint64_t head = lk_walk_head(&m->walk, key.data, key.len);
    if (LK_LIKELY(head != rival->head)) return head < rival->head;
    return key_order(m, key.data, key.len, rival->key, rival->key_len) < 0;
}

/* How many rows of the source's block come before the rival's row, given that the first `n` do and
 * that the last one does not: by steps that double. */
static uint32_t gallop(const lk_merge *m, const lk_source *s, const lk_source *rival, uint32_t n)
{
    const lk_block *b = s->block;
    uint32_t way = m->walk.reverse ? UINT32_MAX : 1; /* wraps: a step of -1 */
    uint32_t high = s->high - s->low - 1, jump = 4;
    while (n + jump < high && row_before(m, b, s->at + (n + jump) * way, rival)) {
        n += jump + 1;
        jump *= 2;
    }
    if (n + jump < high) high = n + jump;
    while (n < high) {
        uint32_t middle = n + (high - n) / 2;
        if (row_before(m, b, s->at + middle * way, rival)) {
            n = middle + 1;
        } else {
            high = middle;
        }
    }
    return n;
}

/* Rows of the source, which comes first, that come before the rival's row, at least 1; the source
 * is moved past them. The next few are tried one by one, as sources that interleave want it; then
 * the last one, as those that do not. */
static uint32_t take_before(lk_merge *m, lk_source *s, const lk_source *rival)
{
    uint32_t left = s->high - s->low, first = s->at, n = 1;
    if (s->head == rival->head && same_key(s->key, s->key_len, rival->key, rival->key_len)) {
        note_key(m, s);
        advance(m, s, 1);
        return 1;
    }
    for (; n < 4 && n < left; n++) {
        advance(m, s, 1);
        if (!source_key_before(m, s, rival)) return n;
    }
    if (n == left) {
        advance(m, s, 1);
        return left;
    }
    /* Back to the first row: the search counts from there. */
    s->at = first;
    if (m->walk.reverse) {
        s->high += n - 1;
    } else {
        s->low -= n - 1;
    }
    uint32_t last = m->walk.reverse ? s->low : s->high - 1;
    n = row_before(m, s->block, last, rival) ? left : gallop(m, s, rival, n);
    advance(m, s, n);
    return n;
}

/* One row of a block in which a key may stand twice, or that repeats what came before. */
static void take_single(lk_merge *m, lk_source *s)
{
    note_key(m, s);
    if (s->grouped) {
        s->spent = !lk_source_next_in_group(&m->walk, s);
    } else {
        advance(m, s, 1);
    }
}

/* The source that comes second. */
static inline const lk_source *rival_of(const lk_merge *m)
{
    const lk_source *a = m->heap[1];
    if (m->heap_count == 2) return a;
    const lk_source *b = m->heap[2];
    return source_before(m, b, a) ? b : a;
}

static uint32_t take_several(lk_merge *m, lk_source *s)
{
    if (m->heap_count == 1) {
        uint32_t left = s->high - s->low;
        advance(m, s, left);
        return left;
    }
    return take_before(m, s, rival_of(m));
}

static void span_of_rows(lk_merge *m, lk_source *s, lk_span *out)
{
    uint32_t first = s->at, count = 1;
    out->block = s->block;
    out->table = s->table;
    out->block_index = s->block_index;
    if (out->repeat || !s->block->unique) {
        take_single(m, s);
    } else {
        m->last_key = NULL; /* unless the rival has it, nobody has */
        count = take_several(m, s);
    }
    out->first = m->walk.reverse && count > 1 ? first - (count - 1) : first;
    out->count = count;
    if (!s->spent) settle_first(m);
}

static void span_of_record(lk_merge *m, lk_source *s, lk_span *out)
{
    out->block = NULL;
    out->table = NULL;
    out->first = 0;
    out->count = 1;
    out->block_index = 0;
    out->record = s->record;
    out->seq = s->segment->base_seq + s->items[s->at].ordinal;
    note_key(m, s);
    bool more =
        s->grouped ? lk_source_next_in_group(&m->walk, s) : lk_source_next_record(&m->walk, s);
    if (more) {
        settle_first(m);
    } else {
        s->done = true;
        remove_first(m);
    }
}

/* ---- closed blocks ---- */

/* Whether the closed block that comes first lies before the rows of all other sources. */
static bool is_apart(const lk_merge *m, const lk_source *s)
{
    if (is_repeat(m, s)) return false; /* its first row may repeat the one given last */
    if (m->heap_count == 1) return true;
    const lk_source *rival = rival_of(m);
    lk_bytes last = lk_table_block_last_key(s->table, s->block_index);
    return lk_key_compare(last.data, last.len, rival->key, rival->key_len) < 0;
}

static lk_status open_first(lk_merge *m, lk_error *err)
{
    m->failed = lk_source_open(&m->walk, m->heap[0], err);
    if (m->failed == LK_OK) settle_first(m);
    return m->failed;
}

void lk_merge_allow_closed(lk_merge *m)
{
    LK_ASSERT(m->heap == NULL && !m->walk.reverse);
    m->walk.closed = true;
}

lk_status lk_merge_open(lk_merge *m, lk_error *err)
{
    LK_ASSERT(m->closed_given);
    m->closed_given = false;
    return open_first(m, err);
}

/* Opens blocks until the first source is open (out_given false), or gives a closed one out. */
static lk_status give_closed(lk_merge *m, lk_span *out, bool *out_given, lk_error *err)
{
    *out_given = false;
    while (m->heap[0]->closed) {
        const lk_source *s = m->heap[0];
        if (is_apart(m, s)) {
            *out = (lk_span){
                .rank = s->rank, .table = s->table, .block_index = s->block_index, .closed = true};
            m->last_key = NULL;
            m->closed_given = *out_given = true;
            return LK_OK;
        }
        lk_status st = open_first(m, err);
        if (st != LK_OK) return st;
    }
    return LK_OK;
}

lk_status lk_merge_next(lk_merge *m, lk_span *out, bool *out_any, lk_error *err)
{
    *out_any = false;
    LK_ASSERT(m->heap != NULL);
    if (LK_UNLIKELY(m->failed != LK_OK)) {
        return lk_fail(err, m->failed, 0, NULL, 0, 0, 0, "the merge has failed before");
    }
    if (!m->keep && m->kept_count > 0) lk_merge_release(m);
    if (m->heap_count > 0 && (m->heap[0]->spent || m->closed_given)) {
        m->closed_given = false;
        m->failed = leave_block(m, err);
        if (m->failed != LK_OK) return m->failed;
    }
    if (m->heap_count == 0) return LK_OK;
    if (LK_UNLIKELY(m->walk.closed)) {
        lk_status st = give_closed(m, out, out_any, err);
        if (st != LK_OK || *out_any) return st;
    }
    lk_source *s = m->heap[0];
    out->closed = false;
    out->rank = s->rank;
    out->repeat = is_repeat(m, s);
    if (s->segment != NULL) {
        span_of_record(m, s, out);
    } else {
        span_of_rows(m, s, out);
    }
    *out_any = true;
    return LK_OK;
}

/* ---- skipping ---- */

bool lk_merge_span_is_old(const lk_merge *m, const lk_span *span, uint64_t seq)
{
    if (span->table == NULL) return m->sources[span->rank].seq_max < seq;
    return lk_table_meta_of(span->table)->seq_max < seq;
}

/* All the way to `to`, or to a row that is not older. */
static lk_status skip_source(lk_merge *m, lk_source *s, lk_bytes to, uint64_t seq, lk_error *err)
{
    bool moved = true;
    while (moved && !s->done) {
        lk_block *left;
        lk_status st =
            grow((void **)&m->kept, &m->kept_capacity, m->kept_count + 1, sizeof(lk_block *), err);
        if (st != LK_OK) return st;
        st = lk_source_skip(&m->walk, s, m->tables, to, seq, &moved, &left, err);
        if (left != NULL) m->kept[m->kept_count++] = left;
        if (st != LK_OK) return st;
    }
    return LK_OK;
}

lk_status lk_merge_skip(lk_merge *m, lk_bytes to, uint64_t seq, lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t kept = 0, count = m->heap_count;
    LK_ASSERT(m->failed == LK_OK);
    if (m->last_key != NULL && m->last_key != m->last_copy) {
        LK_TRY(grow((void **)&m->last_copy, &m->last_capacity, m->last_len + 1, 1, err));
        memcpy(m->last_copy, m->last_key, m->last_len);
        m->last_key = m->last_copy;
    }
    if (m->heap_count > 0 && m->closed_given) {
        m->closed_given = false;
        LK_TRY(leave_block(m, err));
        count = m->heap_count;
    }
    for (uint32_t i = 0; i < count; i++) LK_TRY(skip_source(m, m->heap[i], to, seq, err));
    for (uint32_t i = 0; i < count; i++) {
        if (!m->heap[i]->done) m->heap[kept++] = m->heap[i];
    }
    m->heap_count = kept;
    /* One whose block is used up still stands at its last row, and is left by the next call. */
    for (uint32_t i = kept / 2; i-- > 0;) sift_down(m, i);
done:
    m->failed = st;
    return st;
}
