/* table_fixture.h: tables on a simulated disk, for tests. Include after harness.h. */
#ifndef LK_TABLE_FIXTURE_H
#define LK_TABLE_FIXTURE_H

#include "env_sim.h"
#include "rows_fixture.h"
#include "table.h"

typedef struct disk {
    lk_sim *sim;
    lk_env *env;
    lk_guard *guard;
    lk_cache *cache;
} disk;

LK_TEST_UNUSED static disk disk_new(uint64_t cache_bytes)
{
    disk d = {.sim = lk_sim_new(5), .guard = malloc(sizeof(lk_guard))};
    lk_error err;
    CHECK(d.sim != NULL && d.guard != NULL);
    d.env = lk_sim_env(d.sim);
    lk_guard_init(d.guard);
    CHECK_OK(lk_cache_new(cache_bytes, d.guard, &d.cache, &err), &err);
    CHECK_OK(lk_env_mkdir(d.env, "/s", NULL, &err), &err);
    return d;
}

LK_TEST_UNUSED static void disk_free(disk *d)
{
    lk_cache_free(d->cache);
    lk_guard_deinit(d->guard);
    free(d->guard);
    lk_sim_free(d->sim);
}

LK_TEST_UNUSED static const lk_table_options TABLE_OPTIONS = {
    .block_bytes = 1024, .filter_bits = 10, .codec = LK_CODEC_LZ4};

/* Writes rows as table `file`, in calls of some rows each. */
LK_TEST_UNUSED static lk_status table_write(disk *d, uint64_t file, const rows *r,
                                            const lk_table_options *options, lk_table_meta *out,
                                            lk_error *err)
{
    lk_status st = LK_OK;
    lk_table_writer *w = NULL;
    *out = (lk_table_meta){.file = 0};
    LK_TRY(lk_table_writer_new(d->env, "/s", file, ROWS_TREE, options, &w, err));
    for (size_t i = 0; i < r->count; i += 37) {
        LK_TRY(lk_table_writer_add(w, r->rows + i, r->count - i < 37 ? r->count - i : 37, err));
    }
    LK_TRY(lk_table_writer_finish(w, out, err));
done:
    lk_table_writer_free(w);
    return st;
}

LK_TEST_UNUSED static lk_table *table_make(disk *d, uint64_t file, const rows *r,
                                           const lk_table_options *options)
{
    lk_error err;
    lk_table_meta meta;
    lk_table *t;
    CHECK_OK(table_write(d, file, r, options, &meta, &err), &err);
    CHECK_OK(lk_table_new(d->env, "/s", &meta, d->cache, &t, &err), &err);
    lk_table_meta_deinit(&meta);
    return t;
}

/* As a view reads: without blocking, and, when a block is missing, in the block that was loaded: it
 * need not have found room in the cache. */
LK_TEST_UNUSED static lk_status table_get(disk *d, lk_table *t, lk_bytes key, uint64_t seq,
                                          lk_find *out_find, lk_hit *out, uint8_t *value,
                                          lk_error *err)
{
    uint64_t hash = lk_hash_key(ROWS_TREE, key.data, key.len);
    for (;;) {
        unsigned token = lk_guard_enter(d->guard);
        *out_find = lk_table_find(t, key.data, key.len, hash, seq, out);
        if (*out_find == LK_FIND_ROW && out->value.len > 0) {
            memcpy(value, out->value.data, out->value.len);
        }
        lk_guard_exit(d->guard, token);
        if (*out_find != LK_FIND_MISS) return LK_OK;
        lk_status st = lk_table_load(t, err);
        if (st != LK_OK) return st;
        if (out->block_index == UINT32_MAX) continue;
        lk_block *b;
        st = lk_table_block(t, out->block_index, true, &b, err);
        if (st != LK_OK) return st;
        uint32_t row = lk_block_find(b, key.data, key.len, hash, seq);
        *out_find = row == b->rows ? LK_FIND_ABSENT : LK_FIND_ROW;
        if (row < b->rows) {
            *out = (lk_hit){lk_block_value(b, row), lk_block_seq(b, row), lk_block_kind(b, row), 0};
            if (out->value.len > 0) memcpy(value, out->value.data, out->value.len);
        }
        lk_block_unref(b);
        return LK_OK;
    }
}

/* Asks for `key` and compares with what the rows say. LK_OK, or the table's error. */
LK_TEST_UNUSED static lk_status table_check_get(disk *d, lk_table *t, const rows *r, lk_bytes key,
                                                uint64_t seq, lk_error *err)
{
    uint8_t value[70000];
    lk_find found;
    lk_hit hit;
    lk_status st = table_get(d, t, key, seq, &found, &hit, value, err);
    if (st != LK_OK) return st;
    const lk_row *expected = rows_find(r, key, seq);
    CHECK_EQ(found, expected == NULL ? LK_FIND_ABSENT : LK_FIND_ROW);
    if (expected == NULL) return LK_OK;
    CHECK_EQ(hit.seq, expected->seq);
    CHECK_EQ(hit.kind, expected->kind);
    CHECK(lk_bytes_equal(value, hit.value.len, expected->value, expected->value_len));
    return LK_OK;
}

/* Walks all blocks and compares every row. LK_OK, or the table's error. */
LK_TEST_UNUSED static lk_status table_check_rows(lk_table *t, const rows *r, bool fill,
                                                 lk_error *err)
{
    lk_status st = lk_table_load(t, err);
    if (st != LK_OK) return st;
    size_t at = 0;
    for (uint32_t i = 0; i < lk_table_block_count(t); i++) {
        lk_block *b;
        st = lk_table_block(t, i, fill, &b, err);
        if (st != LK_OK) return st;
        for (uint32_t j = 0; j < b->rows; j++, at++) {
            CHECK(at < r->count);
            const lk_row *row = &r->rows[at];
            lk_bytes key = lk_block_key(b, j), value = lk_block_value(b, j);
            CHECK(lk_bytes_equal(key.data, key.len, row->key, row->key_len));
            CHECK(lk_bytes_equal(value.data, value.len, row->value, row->value_len));
            CHECK_EQ(lk_block_seq(b, j), row->seq);
            CHECK_EQ(lk_block_kind(b, j), row->kind);
        }
        lk_bytes last = lk_block_key(b, b->rows - 1), named = lk_table_block_last_key(t, i);
        CHECK(lk_bytes_equal(last.data, last.len, named.data, named.len));
        lk_block_unref(b);
    }
    CHECK_EQ(at, r->count);
    return LK_OK;
}

#endif
