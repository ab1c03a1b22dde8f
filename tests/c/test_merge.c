/* test_merge.c: a merge gives every version of every key in its bounds, in order, from whatever
 * mixture of tables and segments, in both directions. Compared with one sorted list of all. */
#include "harness.h"

#include "merge.h"
#include "scan_fixture.h"

/* All sources of one range's runs and all segments, newest first. */
static lk_merge *merge_of(const world *w, const lk_bounds *bounds, bool reverse, uint64_t seq)
{
    lk_merge *m;
    lk_error err;
    CHECK_OK(lk_merge_new(ROWS_TREE, bounds, reverse, true, &m, &err), &err);
    for (uint32_t i = w->segment_count; i-- > 0;) {
        lk_order *o;
        lk_segment *s = w->segments[i];
        uint32_t visible = lk_segment_visible(s, seq);
        CHECK_OK(lk_segment_order(s, visible, false, &o, &err), &err);
        CHECK_OK(lk_merge_add_order(m, s, o, visible, &err), &err);
        lk_order_unref(o);
    }
    const lk_tree_version *t = lk_version_tree(w->version, ROWS_TREE);
    for (uint32_t i = 0; t != NULL && i < t->ranges[0].run_count; i++) {
        const lk_run *run = &t->ranges[0].runs[i];
        CHECK_OK(lk_merge_add_tables(m, run->tables, run->count, &err), &err);
    }
    CHECK_OK(lk_merge_start(m, &err), &err);
    return m;
}

/* A store of one range. */
static world world_of_one_range(uint64_t *rng, uint32_t runs, uint32_t segments, size_t keys_max)
{
    world w = world_new(rng, keys_max);
    lk_table_options options = TABLE_OPTIONS;
    options.block_bytes = lk_test_below(rng, 2) == 0 ? 256 : 1024;
    for (uint32_t i = 0; i < runs + segments; i++) {
        size_t writes = 1 + lk_test_below(rng, w.keys.count * 2);
        size_t from = world_write_layer(&w, writes, lk_test_below(rng, 2) == 0, 20);
        if (i < runs) {
            world_add_run(&w, from, 0, 1 + (uint32_t)lk_test_below(rng, 5), &options);
        } else {
            world_add_segment(&w, from);
        }
    }
    return w;
}

typedef struct walk {
    const world *w;
    rows all; /* in table order */
    const lk_bounds *bounds;
    bool reverse;
    uint64_t seq;       /* records of segments from here on are left out */
    uint64_t table_seq; /* all rows of tables come */
    size_t at, given;
    const lk_row *last;
} walk;

static bool is_expected(const walk *x, const lk_row *row)
{
    if (!in_bounds(x->bounds, (lk_bytes){row->key, row->key_len})) return false;
    return row->seq <= x->seq || row->seq <= x->table_seq;
}

/* The next row of the list in the direction of the merge: keys descend in reverse, while versions
 * of one key come newest first all the same. */
static const lk_row *walk_next(walk *x)
{
    const lk_row *list = x->all.rows;
    while (x->given < x->all.count) {
        if (x->reverse) {
            if (x->given == 0) {
                x->at = x->all.count - 1;
            } else if (x->at + 1 < x->all.count && world_same_key(&list[x->at + 1], &list[x->at])) {
                x->at++;
                x->given++;
                if (is_expected(x, &list[x->at])) return &list[x->at];
                continue;
            } else {
                while (x->at > 0 && world_same_key(&list[x->at - 1], &list[x->at])) x->at--;
                x->at--;
            }
            while (x->at > 0 && world_same_key(&list[x->at - 1], &list[x->at])) x->at--;
        } else if (x->given > 0) {
            x->at++;
        }
        x->given++;
        if (is_expected(x, &list[x->at])) return &list[x->at];
    }
    return NULL;
}

static void check_row(walk *x, lk_bytes key, lk_bytes value, uint64_t seq, lk_kind kind,
                      bool repeat)
{
    const lk_row *row = walk_next(x);
    CHECK(row != NULL);
    CHECK(lk_bytes_equal(key.data, key.len, row->key, row->key_len));
    CHECK(lk_bytes_equal(value.data, value.len, row->value, row->value_len));
    CHECK_EQ(seq, row->seq);
    CHECK_EQ(kind, row->kind);
    CHECK_EQ(repeat, x->last != NULL && world_same_key(x->last, row));
    x->last = row;
}

static void check_span(walk *x, const lk_span *span)
{
    const lk_block *b = span->block;
    CHECK(span->count >= 1);
    if (b == NULL) {
        const lk_record *r = &span->record;
        CHECK_EQ(span->count, 1);
        CHECK_EQ(r->tree, ROWS_TREE);
        check_row(x, (lk_bytes){r->key, r->key_len}, (lk_bytes){r->value, r->value_len}, span->seq,
                  r->kind, span->repeat);
        return;
    }
    CHECK(span->first + span->count <= b->rows);
    CHECK(span->count == 1 || (b->unique && !span->repeat));
    for (uint32_t i = 0; i < span->count; i++) {
        uint32_t row = x->reverse ? span->first + span->count - 1 - i : span->first + i;
        check_row(x, lk_block_key(b, row), lk_block_value(b, row), lk_block_seq(b, row),
                  lk_block_kind(b, row), i == 0 && span->repeat);
    }
    lk_block *same; /* what a whole-block copy would take */
    lk_error err;
    CHECK_OK(lk_table_block(span->table, span->block_index, true, &same, &err), &err);
    CHECK_EQ(same->rows, b->rows);
    CHECK(lk_bytes_equal(lk_block_key(same, 0).data, lk_block_key(same, 0).len,
                         lk_block_key(b, 0).data, lk_block_key(b, 0).len));
    lk_block_unref(same);
}

/* The key that a span begins with must still be there after one more call. */
static lk_bytes span_key(const lk_span *span)
{
    if (span->block == NULL) return (lk_bytes){span->record.key, span->record.key_len};
    return lk_block_key(span->block, span->first);
}

static void check_merge(const world *w, const lk_bounds *bounds, bool reverse, uint64_t seq,
                        uint64_t table_seq, size_t *out_spans, size_t *out_rows)
{
    walk x = {.w = w,
              .all = world_rows(w, 0),
              .bounds = bounds,
              .reverse = reverse,
              .seq = seq,
              .table_seq = table_seq};
    lk_merge *m = merge_of(w, bounds, reverse, seq);
    lk_span span, before = {0};
    lk_error err;
    bool any;
    uint8_t copy[512];
    size_t copy_len = 0;
    for (size_t n = 0;; n++) {
        CHECK_OK(lk_merge_next(m, &span, &any, &err), &err);
        if (n > 0) {
            lk_bytes key = span_key(&before);
            CHECK(lk_bytes_equal(key.data, key.len, copy, copy_len));
        }
        if (!any) break;
        check_span(&x, &span);
        before = span;
        copy_len = span_key(&span).len;
        if (copy_len > 0) memcpy(copy, span_key(&span).data, copy_len);
        *out_spans += 1;
        *out_rows += span.count;
    }
    CHECK(walk_next(&x) == NULL);
    CHECK_OK(lk_merge_next(m, &span, &any, &err), &err); /* the end stays the end */
    CHECK(!any);
    lk_merge_free(m);
    free(x.all.rows);
}

LK_TEST(every_version_comes_in_order)
{
    uint64_t rng = lk_test_seed();
    size_t spans = 0, rows_given = 0;
    for (int i = 0; i < 150; i++) {
        world w = world_of_one_range(&rng, (uint32_t)lk_test_below(&rng, 5),
                                     (uint32_t)lk_test_below(&rng, 4), 200);
        uint64_t table_seq = w.segment_count > 0 ? w.segments[0]->base_seq - 1 : w.count;
        for (int j = 0; j < 6; j++) {
            bounds_by_chance b;
            uint64_t seq = j % 2 == 0 ? w.count : lk_test_below(&rng, w.count + 1);
            world_bounds(&w, &b);
            if (j == 0) b.bounds = (lk_bounds){{NULL, 0}, {NULL, 0}};
            check_merge(&w, &b.bounds, lk_test_below(&rng, 2) == 0, seq, table_seq, &spans,
                        &rows_given);
        }
        world_free(&w);
    }
    CHECK(spans < rows_given); /* some spans had several rows */
}

/* One write of each of the keys [from, to). */
static void write_keys(world *w, uint32_t from, uint32_t to, uint32_t step)
{
    for (uint32_t i = from; i < to; i += step) world_write(w, i, false);
}

LK_TEST(sources_that_do_not_overlap_come_block_by_block)
{
    uint64_t rng = lk_test_seed();
    world w = world_of_numbers(&rng, 3000);
    lk_bounds all = {{NULL, 0}, {NULL, 0}};
    for (uint32_t i = 0; i < 3; i++) {
        size_t from = w.count;
        write_keys(&w, i * 1000, i * 1000 + 1000, 1);
        world_add_run(&w, from, 0, 2, &TABLE_OPTIONS);
    }
    uint32_t blocks = 0;
    const lk_range *range = &lk_version_tree(w.version, ROWS_TREE)->ranges[0];
    for (int reverse = 0; reverse < 2; reverse++) {
        size_t spans = 0, rows_given = 0;
        check_merge(&w, &all, reverse == 1, w.count, w.count, &spans, &rows_given);
        blocks = 0;
        for (uint32_t i = 0; i < range->run_count; i++) {
            for (uint32_t j = 0; j < range->runs[i].count; j++) {
                blocks += lk_table_block_count(range->runs[i].tables[j]);
            }
        }
        CHECK_EQ(rows_given, 3000);
        CHECK_EQ(spans, blocks);
    }
    CHECK(blocks > 10);
    world_free(&w);
}

LK_TEST(a_sparse_source_cuts_only_the_blocks_it_falls_into)
{
    uint64_t rng = lk_test_seed();
    world w = world_of_numbers(&rng, 4000);
    lk_bounds all = {{NULL, 0}, {NULL, 0}};
    size_t from = w.count;
    write_keys(&w, 0, 4000, 1);
    world_add_run(&w, from, LK_LEVEL_LAST, 1, &TABLE_OPTIONS);
    from = w.count;
    write_keys(&w, 100, 4000, 1000); /* 4 rows, each of a key that is there already */
    world_add_run(&w, from, 0, 1, &TABLE_OPTIONS);
    const lk_run *last = &lk_version_tree(w.version, ROWS_TREE)->ranges[0].runs[1];
    for (int reverse = 0; reverse < 2; reverse++) {
        size_t spans = 0, rows_given = 0;
        check_merge(&w, &all, reverse == 1, w.count, w.count, &spans, &rows_given);
        CHECK_EQ(rows_given, 4004);
        /* Each of the 4: before it, itself, the older version, behind it. */
        CHECK(spans <= lk_table_block_count(last->tables[0]) + 4 * 3);
    }
    world_free(&w);
}

/* A table of the numbers [from, to), all with one sequence; `delete_at`: one of them is a delete. */
static void add_uniform_table(world *w, uint32_t from, uint32_t to, uint64_t seq,
                              uint32_t delete_at)
{
    rows some = {.rows = calloc(to - from, sizeof(lk_row)), .count = to - from};
    lk_table_meta meta;
    lk_edit edit;
    lk_error err;
    CHECK(some.rows != NULL);
    for (uint32_t i = from; i < to; i++) {
        lk_bytes key = world_key(w, i);
        some.rows[i - from] = (lk_row){.key = key.data,
                                       .key_len = 8,
                                       .value = key.data,
                                       .value_len = i == delete_at ? 0 : 8,
                                       .seq = seq,
                                       .hash = lk_hash_key(ROWS_TREE, key.data, 8),
                                       .kind = i == delete_at ? LK_KIND_DELETE : LK_KIND_PUT};
    }
    lk_edit_init(&edit);
    uint64_t file = w->next_file++;
    CHECK_OK(table_write(&w->disk, file, &some, &TABLE_OPTIONS, &meta, &err), &err);
    CHECK_OK(lk_edit_add_table(&edit, &meta, 0, file, NULL, &err), &err);
    world_apply(w, &edit);
    lk_edit_deinit(&edit);
    free(some.rows);
}

/* Merges [from, to) with closed blocks allowed, opens each closed block whose number is a multiple
 * of `open_every` (0: none), and checks that every number comes once and in order. Returns how many stayed
 * closed. */
static uint32_t count_closed(const world *w, uint32_t from, uint32_t to, uint32_t open_every)
{
    lk_bounds bounds = {world_key(w, from), {NULL, 0}};
    if (to < w->keys.count) bounds.upper = world_key(w, to);
    const lk_range *range = &lk_version_tree(w->version, ROWS_TREE)->ranges[0];
    uint32_t closed = 0, met = 0, at = from;
    lk_merge *m;
    lk_error err;
    lk_span span;
    bool any;
    CHECK_OK(lk_merge_new(ROWS_TREE, &bounds, false, true, &m, &err), &err);
    for (uint32_t i = 0; i < range->run_count; i++) {
        CHECK_OK(lk_merge_add_tables(m, range->runs[i].tables, range->runs[i].count, &err), &err);
    }
    lk_merge_allow_closed(m);
    CHECK_OK(lk_merge_start(m, &err), &err);
    for (;;) {
        CHECK_OK(lk_merge_next(m, &span, &any, &err), &err);
        if (!any) break;
        lk_block *b = span.block;
        uint32_t first = span.first, end = span.first + span.count;
        if (span.closed) {
            CHECK(b == NULL && span.count == 0);
            if (open_every > 0 && met++ % open_every == 0) {
                CHECK_OK(lk_merge_open(m, &err), &err);
                continue;
            }
            closed++;
            CHECK_OK(lk_table_block(span.table, span.block_index, true, &b, &err), &err);
            first = 0;
            end = b->rows;
        }
        for (uint32_t i = first; i < end; i++, at++) {
            CHECK(at < to);
            CHECK(lk_bytes_equal(lk_block_key(b, i).data, 8, world_key(w, at).data, 8));
        }
        if (span.closed) lk_block_unref(b);
    }
    CHECK_EQ(at, to);
    lk_merge_free(m);
    return closed;
}

LK_TEST(blocks_stay_closed_only_where_all_of_them_is_wanted)
{
    uint64_t rng = lk_test_seed();
    world w = world_of_numbers(&rng, 3000);
    add_uniform_table(&w, 0, 1000, 5, UINT32_MAX);
    add_uniform_table(&w, 1000, 2000, 6, UINT32_MAX);
    uint32_t all = count_closed(&w, 0, 2000, 0);
    CHECK(all > 20);
    CHECK_EQ(count_closed(&w, 0, 2000, 1), 0);
    CHECK(count_closed(&w, 0, 2000, 3) < all);
    for (uint32_t i = 0; i < 100; i++) { /* bounds in the middle of blocks */
        uint32_t from = (uint32_t)lk_test_below(&rng, 1990);
        uint32_t to = from + 1 + (uint32_t)lk_test_below(&rng, 1999 - from);
        CHECK(count_closed(&w, from, to, 1 + (uint32_t)lk_test_below(&rng, 4)) < all);
    }
    add_uniform_table(&w, 2000, 3000, 7, 2500); /* has a delete, which may have to go */
    CHECK_EQ(count_closed(&w, 2000, 3000, 0), 0);
    CHECK_EQ(count_closed(&w, 0, 3000, 0), all);
    world_free(&w);
}

LK_TEST(kept_blocks_stay_until_they_are_released)
{
    uint64_t rng = lk_test_seed();
    world w = world_of_numbers(&rng, 2000);
    lk_bounds all = {{NULL, 0}, {NULL, 0}};
    write_keys(&w, 0, 2000, 1);
    world_add_run(&w, 0, 0, 2, &TABLE_OPTIONS);
    lk_merge *m = merge_of(&w, &all, false, w.count);
    lk_span spans[200];
    uint32_t n = 0, row = 0;
    lk_error err;
    bool any;
    lk_merge_keep(m);
    for (;; n++) {
        CHECK(n < 200);
        CHECK_OK(lk_merge_next(m, &spans[n], &any, &err), &err);
        if (!any) break;
    }
    CHECK_EQ(lk_merge_kept(m), n);
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = 0; j < spans[i].count; j++, row++) {
            lk_bytes key = lk_block_key(spans[i].block, spans[i].first + j);
            CHECK(lk_bytes_equal(key.data, key.len, world_key(&w, row).data, 8));
        }
    }
    CHECK_EQ(row, 2000);
    lk_merge_release(m);
    CHECK_EQ(lk_merge_kept(m), 0);
    lk_merge_free(m);
    world_free(&w);
}

LK_TEST(a_damaged_block_is_an_error_and_stays_one)
{
    uint64_t rng = lk_test_seed();
    world w = world_of_numbers(&rng, 2000);
    lk_bounds all = {{NULL, 0}, {NULL, 0}};
    write_keys(&w, 0, 2000, 1);
    world_add_run(&w, 0, 0, 1, &TABLE_OPTIONS);
    lk_merge *m = merge_of(&w, &all, false, w.count);
    lk_span span;
    lk_error err;
    bool any;
    CHECK_OK(lk_merge_next(m, &span, &any, &err), &err);
    CHECK(any);
    CHECK(lk_sim_fail(w.disk.sim, LK_SIM_READ, 2, 5, false));
    lk_status st = LK_OK;
    uint32_t good = 0;
    while (st == LK_OK && any) {
        st = lk_merge_next(m, &span, &any, &err);
        good += st == LK_OK;
    }
    CHECK_EQ(st, LK_IO);
    CHECK(!any);
    CHECK_EQ(good, 1);
    CHECK_EQ(lk_merge_next(m, &span, &any, &err), LK_IO);
    CHECK(!any);
    lk_merge_free(m);
    world_free(&w);
}

static bool is_before(lk_bytes a, lk_bytes b, bool reverse)
{
    int c = lk_key_compare(a.data, a.len, b.data, b.len);
    return reverse ? c > 0 : c < 0;
}

/* Whether the row is one that a skip from the place of `at` to `to` may leave out. */
static bool may_be_skipped(const lk_row *row, lk_bytes at, lk_bytes to, uint64_t seq, bool reverse)
{
    int from = lk_key_compare(row->key, row->key_len, at.data, at.len);
    int upto = lk_key_compare(row->key, row->key_len, to.data, to.len);
    return row->seq < seq && (reverse ? from <= 0 && upto >= 0 : from >= 0 && upto < 0);
}

/* After some spans the merge is told to skip; what then still comes is what the list says, but for
 * old rows of the stretch. */
static void check_skip(const world *w, uint64_t *rng, bool reverse, size_t *out_skipped)
{
    lk_bounds all = {{NULL, 0}, {NULL, 0}};
    walk x = {.w = w,
              .all = world_rows(w, 0),
              .bounds = &all,
              .reverse = reverse,
              .seq = w->count,
              .table_seq = w->count};
    lk_merge *m = merge_of(w, &all, reverse, w->count);
    lk_span span;
    lk_error err;
    bool any, skipping = false;
    lk_bytes at = {NULL, 0}, to = {NULL, 0};
    uint64_t seq = 0;
    const lk_table *last = NULL;
    bool again = false;
    if (lk_test_below(rng, 2) == 0) lk_merge_keep(m);
    for (;;) {
        CHECK_OK(lk_merge_next(m, &span, &any, &err), &err);
        if (!any) break;
        for (uint32_t i = 0; i < span.count; i++) {
            const lk_row *row;
            uint32_t at_row = span.first + (reverse ? span.count - 1 - i : i);
            lk_bytes key = {span.record.key, span.record.key_len};
            if (span.block != NULL) key = lk_block_key(span.block, at_row);
            uint64_t got = span.block == NULL ? span.seq : lk_block_seq(span.block, at_row);
            for (;; *out_skipped += 1) {
                row = walk_next(&x);
                CHECK(row != NULL);
                if (row->seq == got && lk_bytes_equal(key.data, key.len, row->key, row->key_len)) {
                    break;
                }
                CHECK(skipping && may_be_skipped(row, at, to, seq, reverse));
            }
            again = skipping && may_be_skipped(row, at, to, seq, reverse) &&
                    lk_merge_span_is_old(m, &span, seq);
        }
        if (again) { /* a table that is old came behind one of its run that is not */
            CHECK_OK(lk_merge_skip(m, to, seq, &err), &err);
            CHECK(span.table != NULL && span.table != last);
            last = span.table;
            continue;
        }
        if (lk_test_below(rng, 6) != 0) continue;
        lk_bytes next = world_key(w, (uint32_t)lk_test_below(rng, w->keys.count));
        at = (lk_bytes){x.all.rows[x.at].key, x.all.rows[x.at].key_len};
        /* One stretch after the other; backwards `to` belongs to it. */
        int ahead = skipping ? lk_key_compare(at.data, at.len, to.data, to.len) : 0;
        if (skipping && (reverse ? ahead >= 0 : ahead < 0)) continue;
        if (!is_before(at, next, reverse)) continue;
        /* Of the key given last older versions may still come, and belong to the stretch. */
        skipping = true;
        to = next;
        seq = 1 + lk_test_below(rng, w->count + 1);
        CHECK_OK(lk_merge_skip(m, to, seq, &err), &err);
    }
    for (const lk_row *row; (row = walk_next(&x)) != NULL; *out_skipped += 1) {
        CHECK(skipping && may_be_skipped(row, at, to, seq, reverse));
    }
    lk_merge_free(m);
    free(x.all.rows);
}

LK_TEST(what_is_skipped_is_old_and_in_the_stretch)
{
    uint64_t rng = lk_test_seed();
    size_t skipped = 0;
    for (int i = 0; i < 200; i++) {
        world w = world_of_one_range(&rng, (uint32_t)lk_test_below(&rng, 5),
                                     (uint32_t)lk_test_below(&rng, 4), 200);
        for (int j = 0; j < 4; j++) check_skip(&w, &rng, j % 2 == 1, &skipped);
        world_free(&w);
    }
    CHECK(skipped > 1000);
}
