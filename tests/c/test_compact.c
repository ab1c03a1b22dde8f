/* test_compact.c: a compaction changes where rows are, never what a reader sees.
 *
 * The main test draws jobs by chance, sensible or not: each is refused, or leaves every snapshot and
 * the present as the plain list of all writes has them. The others look at what a job should have
 * done beside that: dropped, copied, cut, moved, and cleaned up when it failed.
 */
#include "harness.h"

#include <stdio.h>

#include "compact.h"
#include "cursor.h"
#include "scan_fixture.h"

enum { SNAPSHOTS_MAX = 4, FILES_MAX = 64 };

typedef struct yard { /* a store of tables alone, with what a compaction needs */
    world w;
    lk_manifest *manifest;
    uint64_t snapshots[SNAPSHOTS_MAX]; /* descending */
    size_t snapshot_count;
    lk_table_options options;
} yard;

static void yard_open_manifest(yard *y)
{
    lk_manifest_options options = {.rotate_bytes = 4 << 20};
    lk_error err;
    CHECK_OK(lk_manifest_create(y->w.disk.env, "/s", &options, y->w.disk.cache, &y->manifest, &err),
             &err);
    y->options = TABLE_OPTIONS;
}

static yard yard_new(uint64_t *rng, size_t keys_max)
{
    yard y = {.w = world_new(rng, keys_max)};
    yard_open_manifest(&y);
    return y;
}

static yard yard_of_numbers(uint64_t *rng, uint32_t keys)
{
    yard y = {.w = world_of_numbers(rng, keys)};
    yard_open_manifest(&y);
    return y;
}

static void yard_free(yard *y)
{
    lk_manifest_close(y->manifest);
    world_free(&y->w);
}

/* Numbers of tables and stamps come from one counter. */
static void yard_add_run(yard *y, size_t from, uint32_t level, uint32_t tables)
{
    y->w.next_file = lk_manifest_next_file(y->manifest);
    world_add_run(&y->w, from, level, tables, &y->options);
    lk_manifest_saw_file(y->manifest, y->w.next_file);
}

static void write_numbers(yard *y, uint32_t from, uint32_t to, uint32_t step, bool is_delete)
{
    for (uint32_t i = from; i < to; i += step) world_write(&y->w, i, is_delete);
}

static void run_of_numbers(yard *y, uint32_t from, uint32_t to, uint32_t step, bool is_delete,
                           uint32_t level, uint32_t tables)
{
    size_t begin = y->w.count;
    write_numbers(y, from, to, step, is_delete);
    yard_add_run(y, begin, level, tables);
}

/* A range ends before this key and another begins. */
static void cut_at(yard *y, uint32_t key)
{
    lk_edit edit;
    lk_error err;
    lk_edit_init(&edit);
    CHECK_OK(lk_edit_split(&edit, ROWS_TREE, world_key(&y->w, key), &err), &err);
    world_apply(&y->w, &edit);
    lk_edit_deinit(&edit);
}

static const lk_range *yard_range(const yard *y, uint32_t i)
{
    const lk_tree_version *t = lk_version_tree(y->w.version, ROWS_TREE);
    CHECK(t != NULL && i < t->range_count);
    return &t->ranges[i];
}

/* ---- looking ---- */

static void check_scan(const yard *y, uint64_t seq, bool reverse)
{
    const world *w = &y->w;
    size_t *expected = malloc((w->keys.count + 1) * sizeof *expected), at = 0, n;
    lk_bounds all = {{NULL, 0}, {NULL, 0}};
    lk_pair pairs[100];
    lk_cursor *c;
    lk_error err;
    lk_view *v = world_view(w);
    CHECK(expected != NULL);
    size_t count = world_scan(w, &all, seq, reverse, expected);
    CHECK_OK(lk_cursor_open(v, ROWS_TREE, seq, &all, reverse, &c, &err), &err);
    do {
        CHECK_OK(lk_cursor_next(c, pairs, 100, &n, &err), &err);
        for (size_t i = 0; i < n; i++, at++) {
            CHECK(at < count);
            const entry *e = &w->entries[expected[at]];
            lk_bytes key = world_key(w, e->key);
            CHECK(lk_bytes_equal(pairs[i].key.data, pairs[i].key.len, key.data, key.len));
            CHECK(lk_bytes_equal(pairs[i].value.data, pairs[i].value.len, e->value, e->value_len));
        }
    } while (n > 0);
    CHECK_EQ(at, count);
    lk_cursor_close(c);
    lk_view_unref(v);
    free(expected);
}

/* Every snapshot and the present, and point reads, are as the list has them. */
static void check_answers(const yard *y)
{
    const world *w = &y->w;
    check_scan(y, w->count, false);
    check_scan(y, w->count, true);
    for (size_t i = 0; i < y->snapshot_count; i++) check_scan(y, y->snapshots[i], i % 2 == 0);
}

static uint32_t count_files(const yard *y)
{
    lk_names names;
    lk_error err;
    uint32_t n = 0;
    CHECK_OK(lk_env_list(y->w.disk.env, "/s", &names, &err), &err);
    for (size_t i = 0; i < names.count; i++) n += strstr(names.names[i], ".sst") != NULL;
    lk_names_free(&names);
    return n;
}

/* The directory holds the tables of the version and no other. */
static void check_files(const yard *y)
{
    const lk_tree_version *t = lk_version_tree(y->w.version, ROWS_TREE);
    CHECK_EQ(count_files(y), t == NULL ? 0 : t->file_count);
}

static void check_tables(const yard *y)
{
    const lk_tree_version *t = lk_version_tree(y->w.version, ROWS_TREE);
    lk_table_report report;
    lk_error err;
    for (uint32_t i = 0; t != NULL && i < t->file_count; i++) {
        CHECK_OK(lk_table_verify(t->files[i].table, &report, &err), &err);
    }
}

/* ---- jobs ---- */

typedef struct job_files {
    lk_job job;
    uint64_t files[FILES_MAX];
} job_files;

static job_files job_of(const yard *y, lk_job_kind kind, uint32_t range, uint32_t out_level)
{
    return (job_files){.job = {.kind = kind,
                               .tree = ROWS_TREE,
                               .lower = yard_range(y, range)->lower,
                               .out_level = out_level,
                               .cut_bytes = 64 << 20,
                               .table = y->options}};
}

static void job_add(job_files *j, const lk_run *run)
{
    for (uint32_t i = 0; i < run->count && j->job.file_count < FILES_MAX; i++) {
        j->files[j->job.file_count++] = lk_table_meta_of(run->tables[i])->file;
    }
}

static lk_status run_job(yard *y, job_files *j, lk_job_result *out, lk_error *err)
{
    lk_edit edit;
    lk_edit_init(&edit);
    j->job.files = j->files;
    lk_view *v = world_view(&y->w);
    lk_status st =
        lk_compact_run(y->w.disk.env, "/s", y->manifest, v, lk_env_wall_us(y->w.disk.env), &j->job,
                       y->snapshots, y->snapshot_count, &edit, out, err);
    lk_view_unref(v);
    if (st == LK_OK) world_apply(&y->w, &edit);
    lk_edit_deinit(&edit);
    return st;
}

/* All runs of a range into one. */
static lk_job_result merge_range(yard *y, uint32_t range, uint32_t out_level)
{
    job_files j = job_of(y, LK_JOB_MERGE, range, out_level);
    lk_job_result result;
    lk_error err;
    const lk_range *r = yard_range(y, range);
    for (uint32_t i = 0; i < r->run_count; i++) job_add(&j, &r->runs[i]);
    CHECK_OK(run_job(y, &j, &result, &err), &err);
    return result;
}

/* ---- by chance ---- */

static job_files job_by_chance(const yard *y)
{
    uint64_t *rng = y->w.rng;
    const lk_tree_version *t = lk_version_tree(y->w.version, ROWS_TREE);
    uint32_t range = (uint32_t)lk_test_below(rng, t->range_count);
    uint32_t kind = (uint32_t)lk_test_below(rng, 8);
    job_files j = job_of(y,
                         kind == 7   ? LK_JOB_JOIN
                         : kind >= 5 ? LK_JOB_MOVE
                                     : LK_JOB_MERGE,
                         range, 0);
    const lk_range *r = &t->ranges[range];
    j.job.out_level =
        (uint32_t)lk_test_below(rng, 3) == 0 ? LK_LEVEL_LAST : (uint32_t)lk_test_below(rng, 3);
    j.job.cut_bytes = 300 + lk_test_below(rng, 6000);
    j.job.split_tables = (uint32_t)lk_test_below(rng, 4);
    j.job.parts = (uint32_t)lk_test_below(rng, 5);
    j.job.in_place = lk_test_below(rng, 3) == 0;
    bool sensible = lk_test_below(rng, 3) != 0; /* whole runs that follow one another */
    uint32_t from = (uint32_t)lk_test_below(rng, r->run_count + 1), to = from;
    if (from < r->run_count) to = from + 1 + (uint32_t)lk_test_below(rng, r->run_count - from);
    for (uint32_t i = 0; i < r->run_count; i++) {
        const lk_run *run = &r->runs[i];
        if (sensible && i >= from && i < to) job_add(&j, run);
        for (uint32_t k = 0; !sensible && k < run->count; k++) {
            if (lk_test_below(rng, 2) == 0) {
                j.files[j.job.file_count++] = lk_table_meta_of(run->tables[k])->file;
            }
            if (j.job.file_count == FILES_MAX) return j;
        }
    }
    return j;
}

static void snapshots_by_chance(yard *y)
{
    uint64_t *rng = y->w.rng;
    if (y->snapshot_count > 0 && lk_test_below(rng, 4) == 0) {
        size_t i = lk_test_below(rng, y->snapshot_count--);
        memmove(y->snapshots + i, y->snapshots + i + 1,
                (y->snapshot_count - i) * sizeof *y->snapshots);
    }
    if (y->snapshot_count < SNAPSHOTS_MAX && lk_test_below(rng, 4) == 0) {
        if (y->snapshot_count > 0 && y->snapshots[0] == y->w.count) return;
        memmove(y->snapshots + 1, y->snapshots, y->snapshot_count * sizeof *y->snapshots);
        y->snapshots[0] = y->w.count;
        y->snapshot_count++;
    }
}

LK_TEST(any_job_is_refused_or_changes_no_answer)
{
    uint64_t rng = lk_test_seed();
    uint32_t done = 0, refused = 0, kinds[3] = {0}, ranges_max = 0;
    uint64_t copied = 0;
    for (int i = 0; i < 25; i++) {
        yard y = yard_new(&rng, i % 5 == 0 ? 1000 : 120);
        uint32_t deletes = (uint32_t)lk_test_below(&rng, 3) * 25;
        y.options.block_bytes = i % 2 == 0 ? 256 : 1024;
        for (int j = 0; j < 25; j++) {
            if (j % 3 == 0) {
                size_t writes = 1 + lk_test_below(&rng, y.w.keys.count);
                size_t from = world_write_layer(&y.w, writes, false, deletes);
                yard_add_run(&y, from, 0, 1 + (uint32_t)lk_test_below(&rng, 3));
                if (j % 9 == 0) world_cut(&y.w, 1);
            }
            snapshots_by_chance(&y);
            if (lk_version_tree(y.w.version, ROWS_TREE) == NULL) continue; /* all was deleted */
            job_files job = job_by_chance(&y);
            lk_job_result result;
            lk_error err;
            lk_status st = run_job(&y, &job, &result, &err);
            CHECK(st == LK_OK || st == LK_INVALID);
            done += st == LK_OK;
            refused += st == LK_INVALID;
            if (st == LK_OK) kinds[job.job.kind]++;
            copied += result.rows_copied;
            check_answers(&y);
            check_files(&y);
            const lk_tree_version *t = lk_version_tree(y.w.version, ROWS_TREE);
            uint32_t ranges = t == NULL ? 0 : t->range_count;
            ranges_max = ranges > ranges_max ? ranges : ranges_max;
        }
        check_tables(&y);
        yard_free(&y);
    }
    CHECK(done > 100 && refused > 50 && kinds[LK_JOB_MERGE] > 50 && kinds[LK_JOB_MOVE] > 5);
    CHECK(ranges_max > 3);
    CHECK(copied > 0);
}

/* ---- folding ---- */

LK_TEST(one_version_of_each_live_key_is_left_without_its_sequence)
{
    uint64_t rng = lk_test_seed();
    yard y = yard_of_numbers(&rng, 1000);
    run_of_numbers(&y, 0, 1000, 1, false, 0, 1);
    run_of_numbers(&y, 0, 1000, 2, false, 0, 1);
    run_of_numbers(&y, 0, 1000, 4, true, 0, 2); /* 250 deleted */
    lk_job_result r = merge_range(&y, 0, LK_LEVEL_LAST);
    CHECK_EQ(r.rows_in, 1750);
    CHECK_EQ(r.rows_out, 750);
    CHECK_EQ(r.tables_out, 1);
    CHECK(r.bytes_in > r.bytes_out && r.bytes_out > 0);
    const lk_range *range = yard_range(&y, 0);
    CHECK_EQ(range->run_count, 1);
    const lk_table_meta *m = lk_table_meta_of(range->runs[0].tables[0]);
    CHECK_EQ(m->tombstones, 0);
    CHECK_EQ(m->seq_max, 0);
    check_answers(&y);
    check_files(&y);
    yard_free(&y);
}

LK_TEST(versions_that_snapshots_see_stay)
{
    uint64_t rng = lk_test_seed();
    yard y = yard_of_numbers(&rng, 100);
    run_of_numbers(&y, 0, 100, 1, false, 0, 1);
    y.snapshots[1] = y.w.count;
    run_of_numbers(&y, 0, 100, 1, false, 0, 1); /* no snapshot sees these */
    run_of_numbers(&y, 0, 100, 2, true, 0, 1);
    y.snapshots[0] = y.w.count;
    y.snapshot_count = 2;
    run_of_numbers(&y, 0, 100, 4, false, 0, 1);
    lk_job_result r = merge_range(&y, 0, LK_LEVEL_LAST);
    /* Of each 4 keys: 3 versions (put, delete, put), 2 (put, put), 2 (delete, put), 2. */
    CHECK_EQ(r.rows_out, 25 * 9);
    CHECK_EQ(lk_table_meta_of(yard_range(&y, 0)->runs[0].tables[0])->tombstones, 50);
    check_answers(&y);
    y.snapshot_count = 0;
    r = merge_range(&y, 0, LK_LEVEL_LAST);
    CHECK_EQ(r.rows_out, 75);
    check_answers(&y);
    yard_free(&y);
}

LK_TEST(tombstones_stay_while_an_older_table_may_hold_their_key)
{
    uint64_t rng = lk_test_seed();
    yard y = yard_of_numbers(&rng, 400);
    lk_job_result result;
    lk_error err;
    run_of_numbers(&y, 100, 200, 1, false, LK_LEVEL_LAST, 1);
    run_of_numbers(&y, 0, 400, 1, true, 0, 1);
    run_of_numbers(&y, 0, 400, 40, false, 0, 1);
    job_files j = job_of(&y, LK_JOB_MERGE, 0, 1);
    job_add(&j, &yard_range(&y, 0)->runs[0]);
    job_add(&j, &yard_range(&y, 0)->runs[1]);
    CHECK_OK(run_job(&y, &j, &result, &err), &err);
    /* 10 puts; of the deletes those from 100 to 199, but for the keys 120 and 160 put again. */
    CHECK_EQ(result.rows_out, 10 + 100 - 2);
    CHECK_EQ(lk_table_meta_of(yard_range(&y, 0)->runs[0].tables[0])->tombstones, 98);
    CHECK(lk_table_meta_of(yard_range(&y, 0)->runs[0].tables[0])->seq_max > 0);
    check_answers(&y);
    result = merge_range(&y, 0, LK_LEVEL_LAST);
    CHECK_EQ(result.rows_out, 10);
    check_answers(&y);
    yard_free(&y);
}

/* ---- copying, cutting, splitting ---- */

LK_TEST(blocks_that_overlap_nothing_are_copied)
{
    uint64_t rng = lk_test_seed();
    yard y = yard_of_numbers(&rng, 4000);
    lk_job_result r;
    lk_error err;
    run_of_numbers(&y, 0, 4000, 3999, false, LK_LEVEL_LAST, 1); /* below, so sequences count */
    run_of_numbers(&y, 0, 2000, 1, false, 1, 1);
    run_of_numbers(&y, 2000, 4000, 1, false, 0, 1);
    job_files j = job_of(&y, LK_JOB_MERGE, 0, 1);
    job_add(&j, &yard_range(&y, 0)->runs[0]);
    job_add(&j, &yard_range(&y, 0)->runs[1]);
    CHECK_OK(run_job(&y, &j, &r, &err), &err);
    CHECK_EQ(r.rows_out, 4000);
    CHECK(r.rows_copied > 3800); /* all but the last block of each, if that is small */
    CHECK_EQ(r.rows_in, 4000);
    check_answers(&y);
    check_tables(&y);
    yard_free(&y);
}

LK_TEST(blocks_without_sequences_are_copied_unread)
{
    uint64_t rng = lk_test_seed();
    yard y = yard_of_numbers(&rng, 4000);
    run_of_numbers(&y, 0, 2000, 1, false, LK_LEVEL_LAST, 1);
    run_of_numbers(&y, 2000, 4000, 1, false, 0, 1);
    lk_job_result r = merge_range(&y, 0, LK_LEVEL_LAST);
    CHECK_EQ(r.rows_out, 4000);
    CHECK_EQ(r.rows_copied, 0); /* written anew for the last time: sequences go */
    run_of_numbers(&y, 1000, 4000, 1000, false, 0, 1);
    lk_cache_stats before, after;
    lk_cache_stats_of(y.w.disk.cache, &before);
    r = merge_range(&y, 0, LK_LEVEL_LAST);
    lk_cache_stats_of(y.w.disk.cache, &after);
    CHECK_EQ(before.fills, after.fills);
    CHECK_EQ(r.rows_in, 4003);
    CHECK_EQ(r.rows_out, 4000);
    CHECK(r.rows_copied > 3500);
    CHECK_EQ(lk_table_meta_of(yard_range(&y, 0)->runs[0].tables[0])->seq_max, 0);
    check_answers(&y);
    check_tables(&y);
    yard_free(&y);
}

LK_TEST(tombstones_that_hide_nothing_are_not_copied)
{
    uint64_t rng = lk_test_seed();
    yard y = yard_of_numbers(&rng, 4000);
    lk_error err;
    run_of_numbers(&y, 0, 2000, 1, false, LK_LEVEL_LAST, 1);
    (void)merge_range(&y, 0, LK_LEVEL_LAST);
    size_t begin = y.w.count;
    write_numbers(&y, 2000, 4000, 1, true);
    world_write(&y.w, 1999, false); /* of deletes alone it would not be read */
    yard_add_run(&y, begin, 0, 1);
    lk_job_result r = merge_range(&y, 0, LK_LEVEL_LAST);
    CHECK_EQ(r.rows_in, 4001);
    CHECK_EQ(r.rows_out, 2000);
    CHECK(r.rows_copied > 1900);
    /* The same where sequences are kept, because an older table holds other keys of the inputs. */
    run_of_numbers(&y, 0, 1000, 1, false, 0, 1);
    begin = y.w.count;
    write_numbers(&y, 2000, 4000, 1, true);
    world_write(&y.w, 1999, false);
    yard_add_run(&y, begin, 0, 1);
    job_files j = job_of(&y, LK_JOB_MERGE, 0, 1);
    job_add(&j, &yard_range(&y, 0)->runs[0]);
    job_add(&j, &yard_range(&y, 0)->runs[1]);
    CHECK_OK(run_job(&y, &j, &r, &err), &err);
    CHECK_EQ(r.rows_in, 3001);
    CHECK_EQ(r.rows_out, 1001);
    CHECK(r.rows_copied > 900);
    check_answers(&y);
    yard_free(&y);
}

LK_TEST(copying_never_leaves_small_blocks_side_by_side)
{
    enum { KEYS = 8000 };
    uint64_t rng = lk_test_seed();
    yard y = yard_of_numbers(&rng, KEYS);
    lk_job_result r;
    lk_error err;
    uint64_t copied = 0;
    run_of_numbers(&y, 0, KEYS, 2, false, LK_LEVEL_LAST, 1);
    for (uint32_t i = 0; i < 40; i++) { /* a new key in some of the blocks, again and again */
        run_of_numbers(&y, i * 8 + 1, KEYS, 700, false, 0, 1);
        r = merge_range(&y, 0, LK_LEVEL_LAST);
        copied += r.rows_copied;
    }
    lk_table *t = yard_range(&y, 0)->runs[0].tables[0];
    CHECK_OK(lk_table_load(t, &err), &err);
    uint32_t small = 0, blocks = lk_table_block_count(t);
    bool was_small = false;
    for (uint32_t i = 0; i < blocks; i++) {
        lk_block *b;
        CHECK_OK(lk_table_block(t, i, true, &b, &err), &err);
        bool is_small = b->rows * 17 < y.options.block_bytes / 2; /* 8 bytes of key, 9 of value */
        CHECK(!(is_small && was_small));
        was_small = is_small;
        small += is_small;
        lk_block_unref(b);
    }
    CHECK(copied > 0);
    CHECK(small > 0);
    check_answers(&y);
    yard_free(&y);
}

LK_TEST(tables_are_cut_between_keys_and_ranges_between_tables)
{
    uint64_t rng = lk_test_seed();
    yard y = yard_of_numbers(&rng, 3000);
    run_of_numbers(&y, 0, 3000, 1, false, 0, 1);
    y.snapshots[0] = y.w.count;
    y.snapshot_count = 1;
    run_of_numbers(&y, 0, 3000, 1, false, 0, 1);
    job_files j = job_of(&y, LK_JOB_MERGE, 0, LK_LEVEL_LAST);
    lk_job_result result;
    lk_error err;
    j.job.cut_bytes = 4000;
    j.job.split_tables = 4;
    job_add(&j, &yard_range(&y, 0)->runs[0]);
    job_add(&j, &yard_range(&y, 0)->runs[1]);
    CHECK_OK(run_job(&y, &j, &result, &err), &err);
    CHECK_EQ(result.rows_out, 6000);
    CHECK(result.tables_out > 8);
    const lk_tree_version *t = lk_version_tree(y.w.version, ROWS_TREE);
    CHECK(t->range_count >= result.tables_out / 4);
    uint32_t tables = 0;
    for (uint32_t i = 0; i < t->range_count; i++) {
        CHECK_EQ(t->ranges[i].run_count, 1);
        CHECK(t->ranges[i].runs[0].count <= 4);
        tables += t->ranges[i].runs[0].count;
    }
    CHECK_EQ(tables, result.tables_out);
    check_answers(&y);
    yard_free(&y);
}

LK_TEST(parts_come_to_the_same_as_the_whole)
{
    uint64_t rng = lk_test_seed();
    uint64_t rows_out[2];
    for (uint32_t i = 0; i < 2; i++) {
        yard y = yard_of_numbers(&rng, 3000);
        run_of_numbers(&y, 0, 3000, 1, false, 0, 2);
        run_of_numbers(&y, 0, 3000, 3, true, 0, 1);
        run_of_numbers(&y, 0, 3000, 7, false, 0, 3);
        job_files j = job_of(&y, LK_JOB_MERGE, 0, LK_LEVEL_LAST);
        lk_job_result result;
        lk_error err;
        j.job.parts = i == 0 ? 1 : 4;
        for (uint32_t k = 0; k < 3; k++) job_add(&j, &yard_range(&y, 0)->runs[k]);
        CHECK_OK(run_job(&y, &j, &result, &err), &err);
        CHECK_EQ(result.tables_out, i == 0 ? 1 : 4);
        CHECK_EQ(result.rows_in, 3000 + 1000 + 429);
        rows_out[i] = result.rows_out;
        check_answers(&y);
        check_files(&y);
        yard_free(&y);
    }
    CHECK_EQ(rows_out[0], rows_out[1]);
}

/* ---- moving and joining ---- */

LK_TEST(a_divided_job_may_have_nothing_left_to_read)
{
    uint64_t rng = lk_test_seed();
    yard y = yard_of_numbers(&rng, 3000);
    run_of_numbers(&y, 0, 3000, 1, false, 0, 2);
    lk_error err;
    lk_edit e;
    lk_edit_init(&e);
    lk_tomb all = {.start = {(const uint8_t *)"", 0}, .seq = 1u << 30, .tree = ROWS_TREE};
    CHECK_OK(lk_edit_delete_range(&e, &all, &err), &err);
    world_apply(&y.w, &e);
    lk_edit_deinit(&e);
    job_files j = job_of(&y, LK_JOB_MERGE, 0, LK_LEVEL_LAST);
    lk_job_result result;
    j.job.parts = 4;
    job_add(&j, &yard_range(&y, 0)->runs[0]);
    CHECK_OK(run_job(&y, &j, &result, &err), &err);
    CHECK_EQ(result.tables_out, 0);
    CHECK_EQ(result.rows_in, 0);
    CHECK_EQ(count_files(&y), 0);
    yard_free(&y);
}

LK_TEST(tables_that_are_appended_make_one_run_longer)
{
    uint64_t rng = lk_test_seed();
    yard y = yard_of_numbers(&rng, 1000);
    lk_job_result result;
    lk_error err;
    for (uint32_t i = 0; i < 5; i++) {
        run_of_numbers(&y, i * 200, i * 200 + 200, 1, false, 0, 1);
        lk_table *t = yard_range(&y, 0)->runs[0].tables[0];
        job_files j = job_of(&y, LK_JOB_MOVE, 0, LK_LEVEL_LAST);
        job_add(&j, &yard_range(&y, 0)->runs[0]);
        CHECK_OK(run_job(&y, &j, &result, &err), &err);
        CHECK_EQ(result.tables_out, 1);
        const lk_range *range = yard_range(&y, 0);
        CHECK_EQ(range->run_count, 1);
        CHECK_EQ(range->runs[0].level, LK_LEVEL_LAST);
        CHECK_EQ(range->runs[0].count, i + 1);
        CHECK(range->runs[0].tables[i] == t);
        check_answers(&y);
        check_files(&y);
    }
    yard_free(&y);
}

/* Otherwise a store that is only appended to would stay one range, and its first merge one job. */
LK_TEST(a_range_that_moves_make_too_long_is_split)
{
    uint64_t rng = lk_test_seed();
    yard y = yard_of_numbers(&rng, 1000);
    lk_job_result result;
    lk_error err;
    for (uint32_t i = 0; i < 5; i++) {
        run_of_numbers(&y, i * 200, i * 200 + 200, 1, false, 0, 1);
        uint32_t last = lk_version_tree(y.w.version, ROWS_TREE)->range_count - 1;
        job_files j = job_of(&y, LK_JOB_MOVE, last, LK_LEVEL_LAST);
        j.job.split_tables = 4;
        job_add(&j, &yard_range(&y, last)->runs[0]);
        CHECK_OK(run_job(&y, &j, &result, &err), &err);
        check_answers(&y);
        check_files(&y);
    }
    const lk_tree_version *t = lk_version_tree(y.w.version, ROWS_TREE);
    CHECK_EQ(t->range_count, 3);
    for (uint32_t i = 0; i < t->range_count; i++) CHECK(t->ranges[i].runs[0].count <= 2);
    yard_free(&y);
}

LK_TEST(what_would_change_age_is_refused)
{
    uint64_t rng = lk_test_seed();
    yard y = yard_of_numbers(&rng, 300);
    lk_job_result result;
    lk_error err;
    for (uint32_t i = 0; i < 3; i++) run_of_numbers(&y, 0, 300, 1, false, 0, 1);
    job_files j = job_of(&y, LK_JOB_MERGE, 0, 1); /* newest and oldest, past the one between */
    job_add(&j, &yard_range(&y, 0)->runs[0]);
    job_add(&j, &yard_range(&y, 0)->runs[2]);
    CHECK_EQ(run_job(&y, &j, &result, &err), LK_INVALID);
    j = job_of(&y, LK_JOB_MOVE, 0, 1); /* the newest below the older ones */
    job_add(&j, &yard_range(&y, 0)->runs[0]);
    CHECK_EQ(run_job(&y, &j, &result, &err), LK_INVALID);
    j = job_of(&y, LK_JOB_MERGE, 0, 0); /* the two older ones stay where they were */
    job_add(&j, &yard_range(&y, 0)->runs[1]);
    job_add(&j, &yard_range(&y, 0)->runs[2]);
    uint64_t stamp = yard_range(&y, 0)->runs[1].stamp;
    CHECK_OK(run_job(&y, &j, &result, &err), &err);
    CHECK_EQ(yard_range(&y, 0)->runs[1].stamp, stamp);
    check_answers(&y);
    yard_free(&y);
}

/* Outputs that must stay in the place of the newest input, but reach over another table there. */
LK_TEST(outputs_do_not_overlap_the_run_they_join)
{
    uint64_t rng = lk_test_seed();
    yard y = yard_of_numbers(&rng, 300);
    lk_job_result result;
    lk_error err;
    size_t begin = y.w.count;
    write_numbers(&y, 0, 100, 1, false);
    write_numbers(&y, 200, 300, 1, false);
    yard_add_run(&y, begin, 0, 2);
    run_of_numbers(&y, 0, 300, 1, false, 0, 3);
    run_of_numbers(&y, 0, 50, 1, false, 0, 1);
    const lk_range *range = yard_range(&y, 0);
    CHECK(range->runs[1].count == 3 && range->runs[2].count == 2);
    job_files j = job_of(&y, LK_JOB_MERGE, 0, 0);
    j.files[0] = lk_table_meta_of(range->runs[1].tables[0])->file;
    j.files[1] = lk_table_meta_of(range->runs[1].tables[2])->file;
    j.job.file_count = 2;
    job_add(&j, &range->runs[2]);
    CHECK_EQ(run_job(&y, &j, &result, &err), LK_INVALID);
    check_files(&y);
    check_answers(&y);
    yard_free(&y);
}

/* With a new stamp in level 0 it would stand before runs that are flushed while it is made. */
LK_TEST(what_is_merged_in_place_stays_there_although_nothing_forbids_another)
{
    uint64_t rng = lk_test_seed();
    yard y = yard_of_numbers(&rng, 300);
    lk_job_result result;
    lk_error err;
    for (uint32_t i = 0; i < 2; i++) run_of_numbers(&y, 0, 100, 1, false, 0, 1);
    run_of_numbers(&y, 200, 300, 1, false, 0, 1);
    uint64_t stamp = yard_range(&y, 0)->runs[1].stamp;
    job_files j = job_of(&y, LK_JOB_MERGE, 0, 1);
    j.job.in_place = true;
    job_add(&j, &yard_range(&y, 0)->runs[1]);
    job_add(&j, &yard_range(&y, 0)->runs[2]);
    CHECK_EQ(run_job(&y, &j, &result, &err), LK_INVALID); /* that place is in level 0 */
    j.job.out_level = 0;
    CHECK_OK(run_job(&y, &j, &result, &err), &err);
    CHECK_EQ(yard_range(&y, 0)->run_count, 2);
    CHECK_EQ(yard_range(&y, 0)->runs[1].stamp, stamp);
    check_answers(&y);
    yard_free(&y);
}

LK_TEST(only_what_nothing_is_older_than_is_dropped)
{
    uint64_t rng = lk_test_seed();
    yard y = yard_of_numbers(&rng, 300);
    lk_job_result result;
    lk_error err;
    run_of_numbers(&y, 0, 150, 1, false, 0, 1);
    run_of_numbers(&y, 100, 300, 1, false, 0, 2);
    const lk_range *r = yard_range(&y, 0);
    job_files j = job_of(&y, LK_JOB_DROP, 0, 0);
    j.files[j.job.file_count++] = lk_table_meta_of(r->runs[0].tables[0])->file;
    CHECK_EQ(run_job(&y, &j, &result, &err), LK_INVALID);
    CHECK_EQ(err.found, lk_table_meta_of(r->runs[1].tables[0])->file);
    j.files[0] = lk_table_meta_of(r->runs[0].tables[1])->file; /* overlaps nothing */
    CHECK_OK(run_job(&y, &j, &result, &err), &err);
    CHECK_EQ(result.rows_in, 0);
    r = yard_range(&y, 0);
    CHECK_EQ(r->runs[0].count, 1);
    j = job_of(&y, LK_JOB_DROP, 0, 0); /* both together: nothing stays */
    job_add(&j, &r->runs[0]);
    job_add(&j, &r->runs[1]);
    CHECK_OK(run_job(&y, &j, &result, &err), &err);
    CHECK(lk_version_tree(y.w.version, ROWS_TREE) == NULL);
    check_files(&y);
    yard_free(&y);
}

LK_TEST(tables_of_deletes_over_nothing_go_unread_and_others_stay)
{
    uint64_t rng = lk_test_seed();
    yard y = yard_of_numbers(&rng, 300);
    lk_job_result result;
    lk_error err;
    run_of_numbers(&y, 0, 100, 1, false, LK_LEVEL_LAST, 1);
    run_of_numbers(&y, 0, 300, 1, true, 0, 3);
    job_files j = job_of(&y, LK_JOB_MERGE, 0, 0);
    j.job.in_place = true;
    job_add(&j, &yard_range(&y, 0)->runs[0]);
    CHECK_OK(run_job(&y, &j, &result, &err), &err);
    CHECK_EQ(result.rows_in, 100);
    CHECK_EQ(result.rows_out, 100);
    check_answers(&y);
    result = merge_range(&y, 0, LK_LEVEL_LAST);
    CHECK_EQ(result.rows_out, 0);
    check_answers(&y);
    check_files(&y);
    yard_free(&y);
}

LK_TEST(a_table_that_reaches_out_of_its_range_does_not_move)
{
    uint64_t rng = lk_test_seed();
    yard y = yard_of_numbers(&rng, 300);
    lk_job_result result;
    lk_error err;
    run_of_numbers(&y, 0, 300, 1, false, 0, 1);
    cut_at(&y, 150);
    for (uint32_t range = 0; range < 2; range++) {
        job_files j = job_of(&y, LK_JOB_MOVE, range, LK_LEVEL_LAST);
        job_add(&j, &yard_range(&y, range)->runs[0]);
        CHECK_EQ(run_job(&y, &j, &result, &err), LK_INVALID);
    }
    result = merge_range(&y, 1, LK_LEVEL_LAST);
    CHECK_EQ(result.rows_in, 150);
    CHECK(result.bytes_in < lk_table_meta_of(yard_range(&y, 0)->runs[0].tables[0])->bytes);
    check_answers(&y);
    check_files(&y);
    yard_free(&y);
}

LK_TEST(an_empty_range_joins_the_one_before_it)
{
    uint64_t rng = lk_test_seed();
    yard y = yard_of_numbers(&rng, 300);
    lk_job_result result;
    lk_error err;
    run_of_numbers(&y, 0, 100, 1, false, 0, 1);
    run_of_numbers(&y, 100, 300, 1, false, 0, 1);
    cut_at(&y, 100);
    job_files j = job_of(&y, LK_JOB_JOIN, 1, 0);
    CHECK_EQ(run_job(&y, &j, &result, &err), LK_INVALID); /* it has tables */
    run_of_numbers(&y, 100, 300, 1, true, 0, 1);
    result = merge_range(&y, 1, LK_LEVEL_LAST); /* all deleted */
    CHECK_EQ(result.tables_out, 0);
    CHECK_EQ(yard_range(&y, 1)->run_count, 0);
    j = job_of(&y, LK_JOB_JOIN, 1, 0);
    CHECK_OK(run_job(&y, &j, &result, &err), &err);
    CHECK_EQ(lk_version_tree(y.w.version, ROWS_TREE)->range_count, 1);
    j = job_of(&y, LK_JOB_JOIN, 0, 0);
    CHECK_EQ(run_job(&y, &j, &result, &err), LK_INVALID); /* none before it */
    check_answers(&y);
    yard_free(&y);
}

/* Rows of a range that a compaction has dropped are still in a table that another range holds. */
LK_TEST(a_range_that_a_table_reaches_into_is_not_joined)
{
    uint64_t rng = lk_test_seed();
    yard y = yard_of_numbers(&rng, 300);
    lk_job_result result;
    lk_error err;
    run_of_numbers(&y, 0, 300, 1, false, 0, 1);
    cut_at(&y, 150);
    run_of_numbers(&y, 150, 300, 1, true, 0, 1);
    (void)merge_range(&y, 1, LK_LEVEL_LAST);
    CHECK_EQ(yard_range(&y, 1)->run_count, 0);
    job_files j = job_of(&y, LK_JOB_JOIN, 1, 0);
    CHECK_EQ(run_job(&y, &j, &result, &err), LK_INVALID);
    (void)merge_range(&y, 0, LK_LEVEL_LAST);
    j = job_of(&y, LK_JOB_JOIN, 1, 0);
    CHECK_OK(run_job(&y, &j, &result, &err), &err);
    CHECK_EQ(lk_version_tree(y.w.version, ROWS_TREE)->range_count, 1);
    check_answers(&y);
    yard_free(&y);
}

LK_TEST(jobs_of_another_version_are_refused)
{
    uint64_t rng = lk_test_seed();
    yard y = yard_of_numbers(&rng, 100);
    lk_job_result result;
    lk_error err;
    run_of_numbers(&y, 0, 100, 1, false, 0, 1);
    job_files j = job_of(&y, LK_JOB_MERGE, 0, 1);
    CHECK_EQ(run_job(&y, &j, &result, &err), LK_INVALID); /* no inputs */
    j.files[0] = 4711;
    j.job.file_count = 1;
    CHECK_EQ(run_job(&y, &j, &result, &err), LK_INVALID);
    CHECK_EQ(err.found, 4711);
    j = job_of(&y, LK_JOB_MERGE, 0, 1);
    job_add(&j, &yard_range(&y, 0)->runs[0]);
    j.job.lower = (lk_bytes){(const uint8_t *)"x", 1};
    CHECK_EQ(run_job(&y, &j, &result, &err), LK_INVALID);
    j.job.tree = 99;
    CHECK_EQ(run_job(&y, &j, &result, &err), LK_INVALID);
    j = job_of(&y, LK_JOB_MERGE, 0, 16);
    job_add(&j, &yard_range(&y, 0)->runs[0]);
    CHECK_EQ(run_job(&y, &j, &result, &err), LK_INVALID);
    check_answers(&y);
    yard_free(&y);
}

/* ---- failing ---- */

static yard yard_of_two_runs(uint64_t *rng)
{
    yard y = yard_of_numbers(rng, 1500);
    run_of_numbers(&y, 0, 1500, 1, false, 0, 1);
    run_of_numbers(&y, 0, 1500, 2, false, 0, 1);
    return y;
}

static job_files job_of_two_runs(const yard *y, uint32_t parts)
{
    job_files j = job_of(y, LK_JOB_MERGE, 0, LK_LEVEL_LAST);
    j.job.cut_bytes = 4000;
    j.job.parts = parts;
    job_add(&j, &yard_range(y, 0)->runs[0]);
    job_add(&j, &yard_range(y, 0)->runs[1]);
    return j;
}

LK_TEST(a_cancelled_job_leaves_nothing_behind)
{
    uint64_t rng = lk_test_seed();
    for (uint32_t parts = 1; parts < 4; parts += 2) {
        yard y = yard_of_two_runs(&rng);
        atomic_bool cancel = true;
        job_files j = job_of_two_runs(&y, parts);
        lk_job_result result;
        lk_error err;
        j.job.table.cancel = &cancel;
        CHECK_EQ(run_job(&y, &j, &result, &err), LK_CANCELLED);
        check_files(&y);
        cancel = false;
        CHECK_OK(run_job(&y, &j, &result, &err), &err);
        check_answers(&y);
        check_files(&y);
        yard_free(&y);
    }
}

/* Fails the nth call of one kind, for every n that there is. */
static void check_faults(uint64_t *rng, lk_sim_op op, uint32_t parts)
{
    for (uint64_t n = 1;; n++) {
        yard y = yard_of_two_runs(rng);
        job_files j = job_of_two_runs(&y, parts);
        lk_job_result result;
        lk_error err;
        memset(&err, 0, sizeof err);
        CHECK(n < 200);
        CHECK(lk_sim_fail(y.w.disk.sim, op, n, 5, false));
        lk_status st = run_job(&y, &j, &result, &err);
        lk_sim_clear_faults(y.w.disk.sim);
        if (st != LK_OK) {
            CHECK_EQ(st, LK_IO);
            CHECK_EQ(err.sys_errno, 5);
        }
        check_files(&y);
        check_answers(&y);
        yard_free(&y);
        if (st == LK_OK) break;
    }
}

LK_TEST(a_failed_job_leaves_nothing_behind)
{
    uint64_t rng = lk_test_seed();
    check_faults(&rng, LK_SIM_READ, 1);
    check_faults(&rng, LK_SIM_WRITE, 1);
    check_faults(&rng, LK_SIM_SYNC, 1);
    check_faults(&rng, LK_SIM_DATASYNC, 1);
    check_faults(&rng, LK_SIM_OPEN, 1);
    check_faults(&rng, LK_SIM_WRITE, 3);
}
