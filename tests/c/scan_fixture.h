/* scan_fixture.h: a small store made by hand - tables in runs and ranges, segments above them - and
 * a plain list of all that was written, which knows the right answers.
 *
 * Include after harness.h. Writes go into layers, oldest first; each layer becomes a run of tables
 * or a segment. Keys come from a fixed, sorted list.
 */
#ifndef LK_SCAN_FIXTURE_H
#define LK_SCAN_FIXTURE_H

#include "segment_fixture.h"
#include "version.h"
#include "view.h"

/* Not every test that scans looks into single tables. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include "table_fixture.h"
#pragma GCC diagnostic pop

enum { WORLD_SEGMENTS_MAX = 8, WORLD_VALUE_MAX = 24 };

typedef struct entry { /* one write; entry i has sequence i + 1 */
    uint32_t key;      /* index of the key */
    lk_kind kind;
    uint32_t value_len;
    uint8_t value[WORLD_VALUE_MAX];
} entry;

typedef struct world {
    uint64_t *rng;
    disk disk;
    rows keys; /* each once, sorted; values are not used */
    entry *entries;
    size_t count, capacity;
    lk_version *version;
    lk_segment *segments[WORLD_SEGMENTS_MAX]; /* oldest first */
    uint32_t segment_count;
    uint64_t next_file;
    bool fixed_width; /* of values */
} world;

static lk_bytes world_key(const world *w, uint32_t i)
{
    return (lk_bytes){w->keys.rows[i].key, w->keys.rows[i].key_len};
}

static world world_new(uint64_t *rng, size_t keys_max)
{
    /* Sometimes no block stays in the cache: one that is not pinned is freed at once. */
    uint64_t cache_bytes = lk_test_below(rng, 2) == 0 ? 1 << 20 : 1 << 10;
    world w = {.rng = rng, .disk = disk_new(cache_bytes), .next_file = 1};
    rows_shape shape = rows_shape_random(rng, keys_max);
    shape.versions_max = 1;
    shape.value_min = shape.value_max = 0;
    shape.delete_percent = 0;
    w.keys = rows_make(rng, &shape);
    w.version = lk_version_empty();
    w.fixed_width = lk_test_below(rng, 2) == 0;
    CHECK(w.version != NULL && w.keys.count > 0);
    return w;
}

/* Keys are numbers: 8 bytes, big-endian, from 0 to keys - 1. */
LK_TEST_UNUSED static world world_of_numbers(uint64_t *rng, uint32_t keys)
{
    world w = {.rng = rng, .disk = disk_new(1 << 20), .next_file = 1, .fixed_width = true};
    w.keys = (rows){.rows = calloc(keys, sizeof(lk_row)), .count = keys, .bytes = malloc(keys * 8)};
    w.version = lk_version_empty();
    CHECK(w.keys.rows != NULL && w.keys.bytes != NULL && w.version != NULL);
    for (uint32_t i = 0; i < keys; i++) {
        lk_store64(w.keys.bytes + 8 * i, __builtin_bswap64(i));
        w.keys.rows[i] = (lk_row){.key = w.keys.bytes + 8 * i, .key_len = 8};
    }
    return w;
}

static void world_free(world *w)
{
    lk_version_unref(w->version);
    for (uint32_t i = 0; i < w->segment_count; i++) segment_free(w->segments[i]);
    free(w->entries);
    rows_free(&w->keys);
    disk_free(&w->disk);
}

/* Rows that world_rows gave. An empty key may have the pointer of another one. */
static bool world_same_key(const lk_row *a, const lk_row *b)
{
    return a->key == b->key && a->key_len == b->key_len;
}

/* ---- writing ---- */

static void world_write(world *w, uint32_t key, bool is_delete)
{
    if (w->count == w->capacity) {
        w->capacity = w->capacity == 0 ? 256 : w->capacity * 2;
        w->entries = realloc(w->entries, w->capacity * sizeof *w->entries);
        CHECK(w->entries != NULL);
    }
    entry *e = &w->entries[w->count++];
    *e = (entry){.key = key, .kind = is_delete ? LK_KIND_DELETE : LK_KIND_PUT};
    if (is_delete) return;
    e->value_len = w->fixed_width ? 9 : (uint32_t)lk_test_below(w->rng, WORLD_VALUE_MAX + 1);
    rows_fill_value(w->rng, e->value, e->value_len);
}

/* Writes a layer's worth; `unique`: no key twice. Returns the index of the first entry. */
static size_t world_write_layer(world *w, size_t writes, bool unique, uint32_t delete_percent)
{
    size_t from = w->count, n = w->keys.count;
    uint8_t *seen = calloc(n, 1);
    CHECK(seen != NULL);
    /* Layers that hold a part of the keys alone make long spans and whole blocks. */
    uint32_t low = 0, width = (uint32_t)n;
    if (lk_test_below(w->rng, 3) == 0) {
        low = (uint32_t)lk_test_below(w->rng, n);
        width = 1 + (uint32_t)lk_test_below(w->rng, n - low);
    }
    for (size_t i = 0; i < writes; i++) {
        uint32_t key = low + (uint32_t)lk_test_below(w->rng, width);
        if (unique && seen[key]) continue;
        seen[key] = 1;
        world_write(w, key, lk_test_below(w->rng, 100) < delete_percent);
    }
    free(seen);
    return from;
}

static const world *sorting;

static int world_compare_entries(const void *a, const void *b)
{
    size_t i = *(const size_t *)a, j = *(const size_t *)b;
    const entry *x = &sorting->entries[i], *y = &sorting->entries[j];
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return i > j ? -1 : i < j;
}

/* Entries [from, count) as rows in table order; they point into the world. */
static rows world_rows(const world *w, size_t from)
{
    size_t n = w->count - from, *order = malloc((n + 1) * sizeof *order);
    rows out = {.rows = calloc(n + 1, sizeof(lk_row)), .count = n};
    CHECK(order != NULL && out.rows != NULL);
    for (size_t i = 0; i < n; i++) order[i] = from + i;
    sorting = w;
    qsort(order, n, sizeof *order, world_compare_entries);
    for (size_t i = 0; i < n; i++) {
        const entry *e = &w->entries[order[i]];
        lk_bytes key = world_key(w, e->key);
        out.rows[i] = (lk_row){.key = key.data,
                               .key_len = (uint32_t)key.len,
                               .value = e->value,
                               .value_len = e->value_len,
                               .seq = order[i] + 1,
                               .hash = lk_hash_key(ROWS_TREE, key.data, key.len),
                               .kind = e->kind};
    }
    free(order);
    return out;
}

static void world_apply(world *w, const lk_edit *edit)
{
    lk_error err;
    lk_version *next;
    CHECK_OK(lk_version_apply(w->version, edit, w->disk.env, "/s", w->disk.cache, &next, &err),
             &err);
    lk_version_retire(w->version, next);
    lk_version_unref(w->version);
    w->version = next;
}

/* Entries from `from` on become a run of up to `tables_max` tables. */
static void world_add_run(world *w, size_t from, uint32_t level, uint32_t tables_max,
                          const lk_table_options *options)
{
    rows all = world_rows(w, from);
    lk_edit edit;
    lk_error err;
    uint64_t stamp = w->next_file++;
    size_t most = (all.count + tables_max - 1) / tables_max;
    lk_edit_init(&edit);
    for (size_t i = 0; i < all.count;) {
        size_t end = i + most < all.count ? i + most : all.count;
        while (end < all.count && world_same_key(&all.rows[end], &all.rows[end - 1])) end++;
        rows some = {.rows = all.rows + i, .count = end - i};
        lk_table_meta meta;
        CHECK_OK(table_write(&w->disk, w->next_file++, &some, options, &meta, &err), &err);
        CHECK_OK(lk_edit_add_table(&edit, &meta, level, stamp, NULL, &err), &err);
        i = end;
    }
    world_apply(w, &edit);
    lk_edit_deinit(&edit);
    free(all.rows);
}

/* Entries from `from` on become a segment. */
static void world_add_segment(world *w, size_t from)
{
    CHECK(w->segment_count < WORLD_SEGMENTS_MAX);
    size_t n = w->count - from;
    lk_segment *s = segment_new(from + 1, (uint32_t)n, n * (WORLD_VALUE_MAX + 256) + 64);
    for (size_t i = from; i < w->count; i++) {
        const entry *e = &w->entries[i];
        segment_add(s, ROWS_TREE, e->kind, world_key(w, e->key),
                    (lk_bytes){e->value, e->value_len});
        if (lk_test_below(w->rng, 10) == 0) { /* a sort in between: several runs */
            lk_order *o;
            lk_error err;
            CHECK_OK(lk_segment_order(s, s->count, false, &o, &err), &err);
            lk_order_unref(o);
        }
    }
    w->segments[w->segment_count++] = s;
}

/* Cuts the tree into ranges at some keys. */
static void world_cut(world *w, uint32_t cuts)
{
    lk_edit edit;
    lk_error err;
    for (uint32_t i = 0; i < cuts; i++) {
        lk_bytes at = world_key(w, (uint32_t)lk_test_below(w->rng, w->keys.count));
        const lk_tree_version *t = lk_version_tree(w->version, ROWS_TREE);
        if (t == NULL || at.len == 0) continue;
        const lk_range *r = &t->ranges[lk_tree_version_range(t, at.data, at.len)];
        if (lk_bytes_equal(r->lower.data, r->lower.len, at.data, at.len)) continue;
        lk_edit_init(&edit);
        CHECK_OK(lk_edit_split(&edit, ROWS_TREE, at, &err), &err);
        world_apply(w, &edit);
        lk_edit_deinit(&edit);
    }
}

LK_TEST_UNUSED static lk_view *world_view(const world *w)
{
    lk_segment *newest_first[WORLD_SEGMENTS_MAX];
    for (uint32_t i = 0; i < w->segment_count; i++) {
        newest_first[i] = w->segments[w->segment_count - 1 - i];
    }
    lk_error err;
    lk_settings *settings;
    CHECK_OK(lk_settings_new(w->disk.env, NULL, 0, &settings, &err), &err);
    lk_view *v = lk_view_new(newest_first, w->segment_count, w->version, settings);
    lk_settings_unref(settings);
    CHECK(v != NULL);
    return v;
}

/* A store by chance: some runs of tables, some segments, some ranges. */
LK_TEST_UNUSED static world world_random(uint64_t *rng, size_t keys_max)
{
    world w = world_new(rng, keys_max);
    lk_table_options options = TABLE_OPTIONS;
    options.block_bytes = lk_test_below(rng, 2) == 0 ? 256 : 1024;
    options.blob_bytes = lk_test_below(rng, 3) == 0 ? 6 : 0;
    uint32_t layers = (uint32_t)lk_test_below(rng, 7),
             deletes = (uint32_t)lk_test_below(rng, 3) * 20;
    uint32_t tables = (uint32_t)lk_test_below(rng, layers + 1);
    for (uint32_t i = 0; i < layers; i++) {
        size_t writes = 1 + lk_test_below(rng, w.keys.count * 2);
        size_t from = world_write_layer(&w, writes, lk_test_below(rng, 2) == 0, deletes);
        if (i < tables) {
            world_add_run(&w, from, i == 0 ? LK_LEVEL_LAST : 0, 1 + (uint32_t)lk_test_below(rng, 4),
                          &options);
            world_cut(&w, (uint32_t)lk_test_below(rng, 3));
        } else {
            world_add_segment(&w, from);
        }
    }
    return w;
}

/* ---- bounds and answers ---- */

/* A bound near a key: the key, its beginning, or the key and a zero. */
static lk_bytes world_bound(const world *w, uint8_t *bytes)
{
    lk_bytes key = world_key(w, (uint32_t)lk_test_below(w->rng, w->keys.count));
    size_t len = key.len;
    if (len > 0) memcpy(bytes, key.data, len);
    switch (lk_test_below(w->rng, 3)) {
    case 0:
        bytes[len++] = 0;
        break;
    case 1:
        if (len > 0) len = lk_test_below(w->rng, len + 1);
        break;
    default:
        break;
    }
    return (lk_bytes){bytes, len};
}

typedef struct bounds_by_chance {
    lk_bounds bounds;
    uint8_t lower[260], upper[260];
} bounds_by_chance;

LK_TEST_UNUSED static void world_bounds(const world *w, bounds_by_chance *out)
{
    *out = (bounds_by_chance){.bounds = {{NULL, 0}, {NULL, 0}}};
    if (lk_test_below(w->rng, 2) == 0) out->bounds.lower = world_bound(w, out->lower);
    if (lk_test_below(w->rng, 2) == 0) out->bounds.upper = world_bound(w, out->upper);
}

static bool in_bounds(const lk_bounds *b, lk_bytes key)
{
    if (lk_key_compare(key.data, key.len, b->lower.data, b->lower.len) < 0) return false;
    return b->upper.data == NULL ||
           lk_key_compare(key.data, key.len, b->upper.data, b->upper.len) < 0;
}

/* Indexes of the entries that a scan at `seq` gives, in order. */
LK_TEST_UNUSED static size_t world_scan(const world *w, const lk_bounds *bounds, uint64_t seq,
                                        bool reverse, size_t *out)
{
    size_t *newest = malloc((w->keys.count + 1) * sizeof *newest), n = 0;
    CHECK(newest != NULL);
    for (size_t i = 0; i < w->keys.count; i++) newest[i] = SIZE_MAX;
    for (size_t i = 0; i < w->count && i < seq; i++) newest[w->entries[i].key] = i;
    for (size_t i = 0; i < w->keys.count; i++) {
        size_t k = reverse ? w->keys.count - 1 - i : i;
        if (newest[k] == SIZE_MAX || w->entries[newest[k]].kind != LK_KIND_PUT) continue;
        if (in_bounds(bounds, world_key(w, (uint32_t)k))) out[n++] = newest[k];
    }
    free(newest);
    return n;
}

#endif
