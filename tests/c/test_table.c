/* A table gives back the rows it was written from, by block, by key and by many keys; copies of
 * blocks are as good as rows; and whatever happens to its bytes, the answer is right or it is
 * LK_CORRUPT. All on the simulated disk. */
#include "harness.h"

#include "table_fixture.h"

static rows some_rows(size_t keys)
{
    uint64_t rng = 4242;
    rows_shape shape = {.keys = keys,
                        .prefix_len = 3,
                        .key_min = 3,
                        .key_max = 9,
                        .value_min = 5,
                        .value_max = 60,
                        .versions_max = 2,
                        .delete_percent = 10,
                        .seq_base = 100,
                        .seq_span = 5000,
                        .alphabet = 256};
    return rows_make(&rng, &shape);
}

static void check_gets(disk *d, lk_table *t, const rows *r, uint64_t *rng)
{
    lk_error err;
    for (size_t i = 0; i < r->count; i += 1 + r->count / 50) {
        const lk_row *row = &r->rows[i];
        lk_bytes key = {row->key, row->key_len};
        CHECK_OK(table_check_get(d, t, r, key, LK_SEQ_MAX, &err), &err);
        CHECK_OK(table_check_get(d, t, r, key, row->seq, &err), &err);
        CHECK_OK(table_check_get(d, t, r, key, row->seq - 1, &err), &err);
        uint8_t other[256];
        memcpy(other, key.data, key.len);
        other[key.len] = (uint8_t)lk_test_below(rng, 256);
        CHECK_OK(table_check_get(d, t, r, (lk_bytes){other, key.len + 1}, LK_SEQ_MAX, &err), &err);
        if (key.len == 0) continue;
        other[lk_test_below(rng, key.len)] ^= 1;
        CHECK_OK(table_check_get(d, t, r, (lk_bytes){other, key.len}, LK_SEQ_MAX, &err), &err);
        CHECK_OK(table_check_get(d, t, r, (lk_bytes){key.data, key.len - 1}, LK_SEQ_MAX, &err),
                 &err);
    }
}

static void check_meta(const lk_table_meta *meta, const rows *r)
{
    uint64_t tombstones = 0, raw = 0, seq_min = UINT64_MAX, seq_max = 0;
    for (size_t i = 0; i < r->count; i++) {
        const lk_row *row = &r->rows[i];
        tombstones += row->kind == LK_KIND_DELETE;
        raw += row->key_len + row->value_len;
        seq_min = row->seq < seq_min ? row->seq : seq_min;
        seq_max = row->seq > seq_max ? row->seq : seq_max;
    }
    const lk_row *first = &r->rows[0], *last = &r->rows[r->count - 1];
    CHECK_EQ(meta->rows, r->count);
    CHECK_EQ(meta->tombstones, tombstones);
    CHECK_EQ(meta->raw_bytes, raw);
    CHECK_EQ(meta->seq_min, seq_min);
    CHECK_EQ(meta->seq_max, seq_max);
    CHECK(lk_bytes_equal(meta->min_key, meta->min_len, first->key, first->key_len));
    CHECK(lk_bytes_equal(meta->max_key, meta->max_len, last->key, last->key_len));
}

static void check_verify(lk_table *t, const rows *r)
{
    lk_table_report report;
    lk_error err;
    CHECK_OK(lk_table_verify(t, &report, &err), &err);
    CHECK_EQ(report.rows, r->count);
    CHECK_EQ(report.bytes, lk_table_meta_of(t)->bytes);
    CHECK_EQ(report.blocks, lk_table_block_count(t));
}

LK_TEST(test_tables_of_every_shape_give_back_their_rows)
{
    uint64_t rng = lk_test_seed();
    for (int round = 0; round < 120; round++) {
        rows_shape shape = rows_shape_random(&rng, round % 8 == 0 ? 3000 : 200);
        rows r = rows_make(&rng, &shape);
        disk d = disk_new(lk_test_below(&rng, 2) == 0 ? 20000 : 4 << 20);
        lk_table_options options = {.block_bytes = (uint32_t)(256 << lk_test_below(&rng, 5)),
                                    .filter_bits = (uint32_t)lk_test_below(&rng, 3) * 7,
                                    .codec = (lk_codec)(round % 3)};
        lk_error err;
        lk_table *t = table_make(&d, 1, &r, &options);
        check_meta(lk_table_meta_of(t), &r);
        CHECK_OK(table_check_rows(t, &r, false, &err), &err);
        check_gets(&d, t, &r, &rng);
        check_verify(t, &r);
        lk_table_unref(t);
        disk_free(&d);
        rows_free(&r);
    }
}

/* ---- many keys at once ---- */

static void check_find_many(disk *d, lk_table *t, const rows *r, uint64_t *rng, uint64_t seq)
{
    enum { N = 150 };
    lk_bytes keys[N];
    uint64_t hashes[N];
    lk_find results[N], single;
    lk_hit hits[N], hit;
    uint8_t absent[N][4];
    for (size_t i = 0; i < N; i++) {
        const lk_row *row = &r->rows[lk_test_below(rng, r->count)];
        lk_test_fill(rng, absent[i], 4);
        keys[i] = i % 3 == 0 ? (lk_bytes){absent[i], 4} : (lk_bytes){row->key, row->key_len};
        hashes[i] = lk_hash_key(ROWS_TREE, keys[i].data, keys[i].len);
        results[i] = i % 7 == 0 ? LK_FIND_ROW : i % 7 == 1 ? LK_FIND_MISS : LK_FIND_ABSENT;
        hits[i] = (lk_hit){.seq = 1, .block_index = 77};
    }
    unsigned token = lk_guard_enter(d->guard);
    lk_table_find_many(t, N, keys, hashes, seq, results, hits);
    for (size_t i = 0; i < N; i++) {
        if (i % 7 < 2) { /* answered before: left alone */
            CHECK_EQ(results[i], i % 7 == 0 ? LK_FIND_ROW : LK_FIND_MISS);
            CHECK_EQ(hits[i].block_index, 77);
            continue;
        }
        single = lk_table_find(t, keys[i].data, keys[i].len, hashes[i], seq, &hit);
        CHECK_EQ(results[i], single);
        if (single == LK_FIND_MISS) CHECK_EQ(hits[i].block_index, hit.block_index);
        if (single != LK_FIND_ROW) continue;
        CHECK(hits[i].value.data == hit.value.data && hits[i].value.len == hit.value.len);
        CHECK_EQ(hits[i].seq, hit.seq);
        CHECK_EQ(hits[i].kind, hit.kind);
    }
    lk_guard_exit(d->guard, token);
}

LK_TEST(test_many_keys_get_the_answers_of_single_ones)
{
    uint64_t rng = lk_test_seed();
    for (int round = 0; round < 30; round++) {
        rows_shape shape = rows_shape_random(&rng, 1500);
        rows r = rows_make(&rng, &shape);
        disk d = disk_new(8 << 20);
        lk_error err;
        lk_table *t = table_make(&d, 1, &r, &TABLE_OPTIONS);
        check_find_many(&d, t, &r, &rng, LK_SEQ_MAX); /* not loaded */
        CHECK_OK(lk_table_load(t, &err), &err);
        check_find_many(&d, t, &r, &rng, LK_SEQ_MAX); /* no block in memory */
        for (uint32_t i = 0; i < lk_table_block_count(t); i += 2) {
            lk_block *b;
            CHECK_OK(lk_table_block(t, i, true, &b, &err), &err);
            lk_block_unref(b);
        }
        check_find_many(&d, t, &r, &rng, LK_SEQ_MAX); /* half of them */
        CHECK_OK(table_check_rows(t, &r, true, &err), &err);
        check_find_many(&d, t, &r, &rng, LK_SEQ_MAX);
        check_find_many(&d, t, &r, &rng, shape.seq_base + shape.seq_span / 2);
        lk_table_unref(t);
        disk_free(&d);
        rows_free(&r);
    }
}

/* ---- blocks copied whole ---- */

/* Writes what `from` holds again: some blocks copied, the rows of others added. */
static lk_table *rewrite(disk *d, lk_table *from, uint64_t file, uint64_t *rng)
{
    lk_error err;
    lk_table_writer *w;
    lk_table_meta meta;
    lk_table *out;
    CHECK_OK(lk_table_load(from, &err), &err);
    CHECK_OK(lk_table_writer_new(d->env, "/s", file, ROWS_TREE, &TABLE_OPTIONS, &w, &err), &err);
    for (uint32_t i = 0; i < lk_table_block_count(from); i++) {
        if (lk_test_below(rng, 2) == 0) {
            CHECK_OK(lk_table_writer_add_block(w, from, i, &err), &err);
            continue;
        }
        lk_block *b;
        CHECK_OK(lk_table_block(from, i, false, &b, &err), &err);
        for (uint32_t j = 0; j < b->rows; j++) {
            lk_bytes key = lk_block_key(b, j), value = lk_block_value(b, j);
            lk_row row = {.key = key.data,
                          .key_len = (uint32_t)key.len,
                          .value = value.data,
                          .value_len = (uint32_t)value.len,
                          .seq = lk_block_seq(b, j),
                          .hash = lk_hash_key(ROWS_TREE, key.data, key.len),
                          .kind = lk_block_kind(b, j)};
            CHECK_OK(lk_table_writer_add(w, &row, 1, &err), &err);
        }
        lk_block_unref(b);
    }
    CHECK_EQ(lk_table_writer_rows(w), lk_table_meta_of(from)->rows);
    CHECK_OK(lk_table_writer_finish(w, &meta, &err), &err);
    lk_table_writer_free(w);
    CHECK_OK(lk_table_new(d->env, "/s", &meta, d->cache, &out, &err), &err);
    lk_table_meta_deinit(&meta);
    return out;
}

LK_TEST(test_copied_blocks_are_as_good_as_rows)
{
    uint64_t rng = lk_test_seed();
    for (int round = 0; round < 60; round++) {
        rows_shape shape = rows_shape_random(&rng, 800);
        rows r = rows_make(&rng, &shape);
        disk d = disk_new(1 << 20);
        lk_error err;
        lk_table_options options = TABLE_OPTIONS;
        options.codec = (lk_codec)(round % 3);
        options.filter_bits = round % 4 == 0 ? 0 : 10;
        lk_table *first = table_make(&d, 1, &r, &options);
        lk_table *second = rewrite(&d, first, 2, &rng);
        CHECK(lk_table_meta_of(first)->nonce != lk_table_meta_of(second)->nonce);
        check_meta(lk_table_meta_of(second), &r);
        CHECK_OK(table_check_rows(second, &r, false, &err), &err);
        check_gets(&d, second, &r, &rng);
        check_verify(second, &r);
        lk_table_unref(first);
        lk_table_unref(second);
        disk_free(&d);
        rows_free(&r);
    }
}

/* ---- bytes of a file, for tests that change them ---- */

static uint8_t *read_file(disk *d, const char *path, size_t *out_bytes)
{
    lk_error err;
    lk_file *file;
    uint64_t size;
    CHECK_OK(lk_env_open(d->env, path, LK_OPEN_READ, &file, &err), &err);
    CHECK_OK(lk_file_size(file, &size, &err), &err);
    uint8_t *data = malloc(size);
    CHECK_OK(lk_file_read_exact(file, 0, data, size, &err), &err);
    lk_file_close(file);
    *out_bytes = (size_t)size;
    return data;
}

static void write_file(disk *d, const char *path, const uint8_t *data, size_t bytes)
{
    lk_error err;
    lk_file *file;
    int flags = LK_OPEN_WRITE | LK_OPEN_CREATE | LK_OPEN_TRUNCATE;
    CHECK_OK(lk_env_open(d->env, path, flags, &file, &err), &err);
    CHECK_OK(lk_file_write(file, 0, data, bytes, &err), &err);
    lk_file_close(file);
}

/* Everything that can be asked of a table. LK_OK when every answer was right, else the error;
 * answers that are wrong fail the test. */
static lk_status ask_everything(disk *d, const lk_table_meta *meta, const rows *r)
{
    lk_status st = LK_OK;
    lk_error err = {.code = LK_OK};
    lk_table *t;
    lk_table_report report;
    CHECK_OK(lk_table_new(d->env, "/s", meta, d->cache, &t, &err), &err);
    lk_status verified = lk_table_verify(t, &report, &err);
    for (size_t i = 0; i < r->count && st == LK_OK; i += 3) {
        lk_bytes key = {r->rows[i].key, r->rows[i].key_len};
        st = table_check_get(d, t, r, key, LK_SEQ_MAX, &err);
        if (st == LK_OK) st = table_check_get(d, t, r, key, r->rows[i].seq, &err);
    }
    if (st == LK_OK) st = table_check_rows(t, r, true, &err);
    if (st != LK_OK) {
        CHECK_STR_EQ(err.path, "/s/000001.sst");
        CHECK(verified != LK_OK);
    }
    lk_table_unref(t);
    return verified;
}

LK_TEST(test_every_changed_byte_is_corruption_or_harmless)
{
    static const uint8_t PATTERNS[] = {0x01, 0x80, 0xff};
    rows r = some_rows(60);
    disk d = disk_new(1 << 20);
    lk_error err;
    lk_table_meta meta;
    size_t bytes;
    CHECK_OK(table_write(&d, 1, &r, &TABLE_OPTIONS, &meta, &err), &err);
    uint8_t *data = read_file(&d, "/s/000001.sst", &bytes);
    CHECK_EQ(ask_everything(&d, &meta, &r), LK_OK);
    for (size_t i = 0; i < bytes; i++) {
        for (size_t p = 0; p < 3; p++) {
            data[i] ^= PATTERNS[p];
            write_file(&d, "/s/000001.sst", data, bytes);
            CHECK_EQ(ask_everything(&d, &meta, &r), LK_CORRUPT);
            data[i] ^= PATTERNS[p];
        }
    }
    free(data);
    lk_table_meta_deinit(&meta);
    disk_free(&d);
    rows_free(&r);
}

LK_TEST(test_every_truncation_is_corruption)
{
    rows r = some_rows(40);
    disk d = disk_new(1 << 20);
    lk_error err;
    lk_table_meta meta;
    size_t bytes;
    CHECK_OK(table_write(&d, 1, &r, &TABLE_OPTIONS, &meta, &err), &err);
    uint8_t *data = read_file(&d, "/s/000001.sst", &bytes);
    for (size_t n = 0; n < bytes; n++) {
        write_file(&d, "/s/000001.sst", data, n);
        CHECK_EQ(ask_everything(&d, &meta, &r), LK_CORRUPT);
        /* Also when the manifest believes the length. */
        meta.bytes = n;
        CHECK_EQ(ask_everything(&d, &meta, &r), LK_CORRUPT);
        meta.bytes = bytes;
    }
    free(data);
    lk_table_meta_deinit(&meta);
    disk_free(&d);
    rows_free(&r);
}

LK_TEST(test_blocks_that_changed_places_are_corruption)
{
    rows r = some_rows(200);
    disk d = disk_new(1 << 20);
    lk_error err;
    lk_table_meta meta;
    size_t bytes;
    lk_table_options options = TABLE_OPTIONS;
    options.codec = LK_CODEC_NONE;
    CHECK_OK(table_write(&d, 1, &r, &options, &meta, &err), &err);
    uint8_t *data = read_file(&d, "/s/000001.sst", &bytes);
    /* The first block once more, in the place of the second. */
    uint32_t first = lk_load32(data + 8);
    memmove(data + first, data, first);
    write_file(&d, "/s/000001.sst", data, bytes);
    CHECK_EQ(ask_everything(&d, &meta, &r), LK_CORRUPT);
    free(data);
    lk_table_meta_deinit(&meta);
    disk_free(&d);
    rows_free(&r);
}

LK_TEST(test_table_that_is_not_the_manifests_is_corruption)
{
    rows r = some_rows(60);
    disk d = disk_new(1 << 20);
    lk_error err;
    lk_table_meta meta;
    CHECK_OK(table_write(&d, 1, &r, &TABLE_OPTIONS, &meta, &err), &err);
    uint64_t *numbers[] = {&meta.nonce,     &meta.bytes,        &meta.rows,        &meta.tombstones,
                           &meta.raw_bytes, &meta.seq_min,      &meta.seq_max,     &meta.operands,
                           &meta.deadlines, &meta.deadline_min, &meta.deadline_max};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        (*numbers[i])++;
        CHECK_EQ(ask_everything(&d, &meta, &r), LK_CORRUPT);
        (*numbers[i])--;
    }
    meta.tree++;
    CHECK_EQ(ask_everything(&d, &meta, &r), LK_CORRUPT);
    meta.tree--;
    meta.min_key[0]++;
    CHECK_EQ(ask_everything(&d, &meta, &r), LK_CORRUPT);
    meta.min_key[0]--;
    meta.max_len--;
    CHECK_EQ(ask_everything(&d, &meta, &r), LK_CORRUPT);
    meta.max_len++;
    CHECK_EQ(ask_everything(&d, &meta, &r), LK_OK);
    /* The same bytes under another number. */
    CHECK_OK(lk_env_rename(d.env, "/s/000001.sst", "/s/000002.sst", &err), &err);
    meta.file = 2;
    lk_table *t;
    CHECK_OK(lk_table_new(d.env, "/s", &meta, d.cache, &t, &err), &err);
    CHECK_EQ(lk_table_load(t, &err), LK_CORRUPT);
    CHECK_STR_EQ(err.path, "/s/000002.sst");
    lk_table_unref(t);
    lk_table_meta_deinit(&meta);
    disk_free(&d);
    rows_free(&r);
}

/* ---- loading ---- */

LK_TEST(test_failed_load_may_be_tried_again)
{
    rows r = some_rows(60);
    disk d = disk_new(1 << 20);
    lk_error err;
    lk_table *t = table_make(&d, 1, &r, &TABLE_OPTIONS);
    lk_hit hit;
    for (uint64_t nth = 1; nth <= 4; nth++) {
        CHECK(lk_sim_fail(d.sim, LK_SIM_READ, nth, 5, false));
        CHECK_EQ(lk_table_load(t, &err), LK_IO);
        CHECK_EQ(err.sys_errno, 5);
        CHECK(!lk_table_is_loaded(t));
        CHECK_EQ(lk_table_memory(t), 0);
        CHECK_EQ(
            lk_table_find(t, r.rows[0].key, r.rows[0].key_len, r.rows[0].hash, LK_SEQ_MAX, &hit),
            LK_FIND_MISS);
        CHECK_EQ(hit.block_index, UINT32_MAX);
        lk_sim_clear_faults(d.sim);
    }
    CHECK_OK(lk_table_load(t, &err), &err);
    CHECK(lk_table_memory(t) > 0);
    lk_cache_stats stats;
    lk_cache_stats_of(d.cache, &stats);
    CHECK_EQ(stats.fixed_bytes, lk_table_memory(t));
    lk_block *b;
    CHECK_EQ(lk_table_block(t, lk_table_block_count(t), true, &b, &err), LK_INVALID);
    lk_table_unref(t);
    lk_cache_stats_of(d.cache, &stats);
    CHECK_EQ(stats.fixed_bytes, 0);
    disk_free(&d);
    rows_free(&r);
}

LK_TEST(test_missing_file_is_told)
{
    rows r = some_rows(5);
    disk d = disk_new(1 << 20);
    lk_error err;
    lk_table *t = table_make(&d, 1, &r, &TABLE_OPTIONS);
    CHECK_OK(lk_env_unlink(d.env, "/s/000001.sst", &err), &err);
    CHECK_EQ(lk_table_load(t, &err), LK_CORRUPT); /* the manifest names it */
    lk_table_unref(t);
    disk_free(&d);
    rows_free(&r);
}

static bool is_there(disk *d, const char *path)
{
    bool exists = false;
    lk_error err;
    CHECK_OK(lk_env_exists(d->env, path, &exists, NULL, &err), &err);
    return exists;
}

LK_TEST(test_last_reference_to_an_obsolete_table_unlinks_it)
{
    rows r = some_rows(60);
    disk d = disk_new(1 << 20);
    lk_error err;
    lk_table *kept = table_make(&d, 1, &r, &TABLE_OPTIONS);
    lk_table *dropped = table_make(&d, 2, &r, &TABLE_OPTIONS);
    lk_block *b;
    CHECK_OK(lk_table_block(dropped, 0, true, &b, &err), &err);
    lk_table_ref(dropped);
    lk_table_set_obsolete(dropped);
    lk_table_unref(dropped);
    CHECK(is_there(&d, "/s/000002.sst"));
    lk_table_unref(dropped);
    CHECK(!is_there(&d, "/s/000002.sst"));
    CHECK(lk_bytes_equal(lk_block_key(b, 0).data, lk_block_key(b, 0).len, r.rows[0].key,
                         r.rows[0].key_len));
    lk_block_unref(b);
    lk_table_unref(kept);
    CHECK(is_there(&d, "/s/000001.sst"));
    disk_free(&d);
    rows_free(&r);
}

/* ---- seeking ---- */

LK_TEST(test_seek_agrees_with_a_search_of_all_last_keys)
{
    uint64_t rng = lk_test_seed();
    for (int round = 0; round < 60; round++) {
        rows_shape shape = rows_shape_random(&rng, 1500);
        rows r = rows_make(&rng, &shape);
        disk d = disk_new(1 << 20);
        lk_error err;
        lk_table_options options = TABLE_OPTIONS;
        options.block_bytes = 256;
        lk_table *t = table_make(&d, 1, &r, &options);
        CHECK_OK(lk_table_load(t, &err), &err);
        for (int i = 0; i < 300; i++) {
            const lk_row *row = &r.rows[lk_test_below(&rng, r.count)];
            uint8_t key[300];
            size_t len = row->key_len;
            memcpy(key, row->key, len);
            if (i % 3 == 0) key[len++] = 0;
            if (i % 3 == 1 && len > 0) key[lk_test_below(&rng, len)] ^= 1;
            if (i % 5 == 0 && len > 0) len -= 1 + lk_test_below(&rng, len);
            uint32_t expected = 0;
            while (expected < lk_table_block_count(t)) {
                lk_bytes last = lk_table_block_last_key(t, expected);
                if (lk_key_compare(last.data, last.len, key, len) >= 0) break;
                expected++;
            }
            CHECK_EQ(lk_table_seek(t, key, len), expected);
        }
        lk_table_unref(t);
        disk_free(&d);
        rows_free(&r);
    }
}

/* ---- writing that fails ---- */

LK_TEST(test_every_failing_call_of_a_writer_is_told_and_leaves_no_file)
{
    static const lk_sim_op OPS[] = {LK_SIM_OPEN, LK_SIM_WRITE, LK_SIM_SYNC};
    rows r = some_rows(20000); /* more than one write */
    for (size_t i = 0; i < 3; i++) {
        for (uint64_t nth = 1;; nth++) {
            disk d = disk_new(1 << 20);
            lk_error err;
            lk_table_meta meta;
            CHECK(lk_sim_fail(d.sim, OPS[i], nth, 28, false));
            lk_status st = table_write(&d, 1, &r, &TABLE_OPTIONS, &meta, &err);
            bool left = is_there(&d, "/s/000001.sst");
            disk_free(&d);
            lk_table_meta_deinit(&meta);
            if (st == LK_OK) {
                CHECK(nth > 1 && left);
                break;
            }
            CHECK_EQ(st, LK_IO);
            CHECK_EQ(err.sys_errno, 28);
            CHECK(!left);
        }
    }
    rows_free(&r);
}

LK_TEST(test_writer_that_failed_refuses_to_go_on)
{
    rows r = some_rows(20000);
    disk d = disk_new(1 << 20);
    lk_error err;
    lk_table_meta meta;
    lk_table_writer *w;
    CHECK_OK(lk_table_writer_new(d.env, "/s", 1, ROWS_TREE, &TABLE_OPTIONS, &w, &err), &err);
    CHECK(lk_sim_fail(d.sim, LK_SIM_WRITE, 1, 28, false));
    CHECK_EQ(lk_table_writer_add(w, r.rows, r.count, &err), LK_IO);
    CHECK_EQ(lk_table_writer_add(w, r.rows, 1, &err), LK_IO);
    CHECK_EQ(lk_table_writer_finish(w, &meta, &err), LK_IO);
    CHECK(meta.max_key == NULL);
    lk_table_writer_free(w);
    disk_free(&d);
    rows_free(&r);
}

LK_TEST(test_cancelled_writer_stops)
{
    rows r = some_rows(20000);
    disk d = disk_new(1 << 20);
    lk_error err;
    lk_table_meta meta;
    atomic_bool cancel = true;
    lk_table_options options = TABLE_OPTIONS;
    options.cancel = &cancel;
    CHECK_EQ(table_write(&d, 1, &r, &options, &meta, &err), LK_CANCELLED);
    CHECK(!is_there(&d, "/s/000001.sst"));
    disk_free(&d);
    rows_free(&r);
}

LK_TEST(test_table_without_rows_is_refused)
{
    rows none = {.count = 0};
    disk d = disk_new(1 << 20);
    lk_error err;
    lk_table_meta meta;
    CHECK_EQ(table_write(&d, 1, &none, &TABLE_OPTIONS, &meta, &err), LK_INVALID);
    CHECK(!is_there(&d, "/s/000001.sst"));
    disk_free(&d);
}

LK_TEST(test_leftover_file_is_replaced_but_not_its_other_name)
{
    rows r = some_rows(60);
    disk d = disk_new(1 << 20);
    lk_error err;
    size_t bytes;
    write_file(&d, "/s/000001.sst", (const uint8_t *)"old", 3);
    CHECK_OK(lk_env_link(d.env, "/s/000001.sst", "/s/checkpoint", &err), &err);
    lk_table *t = table_make(&d, 1, &r, &TABLE_OPTIONS);
    check_gets(&d, t, &r, &(uint64_t){9});
    uint8_t *data = read_file(&d, "/s/checkpoint", &bytes);
    CHECK_EQ(bytes, 3);
    CHECK_MEM_EQ(data, "old", 3);
    free(data);
    lk_table_unref(t);
    disk_free(&d);
    rows_free(&r);
}

LK_TEST(test_estimate_is_near_the_file)
{
    rows r = some_rows(20000);
    disk d = disk_new(1 << 20);
    lk_error err;
    lk_table_meta meta;
    lk_table_writer *w;
    CHECK_OK(lk_table_writer_new(d.env, "/s", 1, ROWS_TREE, &TABLE_OPTIONS, &w, &err), &err);
    CHECK_OK(lk_table_writer_add(w, r.rows, r.count, &err), &err);
    uint64_t estimate = lk_table_writer_bytes(w);
    CHECK_EQ(lk_table_writer_rows(w), r.count);
    CHECK_OK(lk_table_writer_finish(w, &meta, &err), &err);
    CHECK(estimate > meta.bytes - meta.bytes / 20 && estimate < meta.bytes + meta.bytes / 20);
    lk_table_writer_free(w);
    lk_table_meta_deinit(&meta);
    disk_free(&d);
    rows_free(&r);
}

LK_TEST(test_limiter_holds_the_rate)
{
    disk d = disk_new(1 << 20);
    lk_limiter limiter;
    struct timespec before, after;
    atomic_bool cancel = false;
    lk_limiter_init(&limiter, lk_env_posix(), 10 << 20);
    clock_gettime(CLOCK_MONOTONIC, &before);
    for (int i = 0; i < 5; i++) lk_limiter_take(&limiter, 256 << 10, &cancel);
    clock_gettime(CLOCK_MONOTONIC, &after);
    double seconds =
        (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) / 1e9;
    CHECK(seconds > 0.095 && seconds < 1.5); /* 4 x 25 ms: the last pays later */
    cancel = true;
    lk_limiter_take(&limiter, 1 << 30, &cancel);
    lk_limiter_take(&limiter, 1 << 30, &cancel);
    clock_gettime(CLOCK_MONOTONIC, &before);
    CHECK(before.tv_sec - after.tv_sec < 5);
    lk_limiter_deinit(&limiter);
    disk_free(&d);
}
