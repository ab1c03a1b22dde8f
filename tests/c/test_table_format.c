/* The bytes of a table are those that the document of the format shows, its dump is the text that
 * stands in the tree, and a footer or properties that lie are refused though their checksums hold.
 */
#include "harness.h"

#include "filter.h"
#include "golden.h"
#include "table_fixture.h"
#include "table_format.h"

/* The nonce of the example in the document. */
static const uint64_t NONCE = UINT64_C(0x15ac2814734a2214);

static void random_is_nonce(lk_env *env, void *out, size_t n)
{
    (void)env;
    CHECK_EQ(n, sizeof NONCE);
    memcpy(out, &NONCE, n);
}

/* The simulated machine, but that chance gives the nonce above. */
static disk disk_without_chance(lk_env_ops *ops)
{
    disk d = disk_new(1 << 20);
    *ops = *d.env->ops;
    ops->random = random_is_nonce;
    d.env->ops = ops;
    return d;
}

static lk_row example_rows[3] = {
    {.key = (const uint8_t *)"user:1",
     .key_len = 6,
     .value = (const uint8_t *)"ann",
     .value_len = 3,
     .seq = 12,
     .kind = LK_KIND_PUT},
    {.key = (const uint8_t *)"user:2", .key_len = 6, .seq = 15, .kind = LK_KIND_DELETE},
    {.key = (const uint8_t *)"user:2",
     .key_len = 6,
     .value = (const uint8_t *)"bob",
     .value_len = 3,
     .seq = 13,
     .kind = LK_KIND_PUT},
};

static rows example(void)
{
    for (size_t i = 0; i < 3; i++) {
        lk_row *row = &example_rows[i];
        row->hash = lk_hash_key(ROWS_TREE, row->key, row->key_len);
    }
    return (rows){.rows = example_rows, .count = 3};
}

static size_t read_table(disk *d, uint8_t *out, size_t out_bytes)
{
    lk_file *file;
    lk_error err;
    size_t n;
    CHECK_OK(lk_env_open(d->env, "/s/000001.sst", LK_OPEN_READ, &file, &err), &err);
    CHECK_OK(lk_file_read(file, 0, out, out_bytes, &n, &err), &err);
    lk_file_close(file);
    return n;
}

static void write_table(disk *d, const uint8_t *data, size_t bytes)
{
    lk_file *file;
    lk_error err;
    int flags = LK_OPEN_WRITE | LK_OPEN_CREATE | LK_OPEN_TRUNCATE;
    CHECK_OK(lk_env_open(d->env, "/s/000001.sst", flags, &file, &err), &err);
    CHECK_OK(lk_file_write(file, 0, data, bytes, &err), &err);
    lk_file_close(file);
}

static lk_status load(disk *d, const lk_table_meta *meta, lk_error *err)
{
    lk_table *t;
    CHECK_OK(lk_table_new(d->env, "/s", meta, d->cache, &t, err), err);
    lk_status st = lk_table_load(t, err);
    lk_table_unref(t);
    return st;
}

LK_TEST(test_example_of_the_document_is_what_is_written_and_read)
{
    uint8_t shown[4096], written[4096];
    lk_env_ops ops;
    disk d = disk_without_chance(&ops);
    lk_error err;
    lk_table_meta meta;
    lk_table *t;
    rows r = example();
    lk_table_options options = TABLE_OPTIONS;
    options.codec = LK_CODEC_NONE;
    size_t bytes = golden_example("table", "docs/FORMAT-tables.md", shown, sizeof shown);
    CHECK_OK(table_write(&d, 1, &r, &options, &meta, &err), &err);
    CHECK_EQ(read_table(&d, written, sizeof written), bytes);
    CHECK_MEM_EQ(shown, written, bytes);

    write_table(&d, shown, bytes);
    CHECK_OK(lk_table_new(d.env, "/s", &meta, d.cache, &t, &err), &err);
    CHECK_OK(table_check_rows(t, &r, true, &err), &err);
    for (uint64_t seq = 11; seq < 17; seq++) {
        lk_bytes key = {(const uint8_t *)"user:2", 6};
        CHECK_OK(table_check_get(&d, t, &r, key, seq, &err), &err);
    }
    lk_table_report report;
    CHECK_OK(lk_table_verify(t, &report, &err), &err);
    lk_table_unref(t);
    lk_table_meta_deinit(&meta);
    disk_free(&d);
}

/* Thirty readings of three devices; every fifth was written twice, every seventh deleted. */
typedef struct readings {
    char keys[30][24], values[60][40];
    lk_row rows[60];
    rows all;
} readings;

static void make_readings(readings *out)
{
    *out = (readings){.all = {.rows = out->rows}};
    size_t n = 0;
    for (uint32_t i = 0; i < 30; i++) {
        char *key = out->keys[i];
        int len = snprintf(key, sizeof out->keys[i], "device-%u/%05u", i / 10, 60 * (i % 10));
        for (uint32_t version = 0; version < (i % 5 == 0 ? 2 : 1); version++, n++) {
            bool is_delete = i % 7 == 0 && version == 0;
            int value_len = snprintf(out->values[n], sizeof out->values[n],
                                     "{\"temperature\": %u.%u}", 15 + i % 9, i % 10);
            out->rows[n] = (lk_row){
                .key = (const uint8_t *)key,
                .key_len = (uint32_t)len,
                .value = (const uint8_t *)out->values[n],
                .value_len = is_delete ? 0 : (uint32_t)value_len,
                .seq = 1000 + i + (version == 0 ? 100 : 0),
                .hash = lk_hash_key(ROWS_TREE, (const uint8_t *)key, (size_t)len),
                .kind = is_delete ? LK_KIND_DELETE : LK_KIND_PUT,
            };
        }
    }
    out->all.count = n;
}

LK_TEST(test_dump_is_the_text_in_the_tree)
{
    readings r;
    lk_env_ops ops;
    disk d = disk_without_chance(&ops);
    lk_error err;
    make_readings(&r);
    lk_table_options options = {.block_bytes = 512,
                                .filter_bits = 10,
                                .codec = LK_CODEC_NONE}; /* the libraries may come to pack better */
    lk_table *t = table_make(&d, 1, &r.all, &options);
    golden_text text = {NULL, 0};
    CHECK_OK(lk_table_dump(t, true, golden_print, &text, &err), &err);
    golden_check("table.txt", &text);
    size_t whole = text.len;
    free(text.text);
    text = (golden_text){NULL, 0};
    CHECK_OK(lk_table_dump(t, false, golden_print, &text, &err), &err);
    CHECK(text.len > 0 && text.len < whole && strstr(text.text, " = ") == NULL);
    free(text.text);
    lk_table_unref(t);
    disk_free(&d);
}

typedef struct written {
    disk disk;
    lk_table_meta meta;
    uint8_t data[4096];
    size_t bytes;
} written;

static written write_example(void)
{
    written w = {.disk = disk_new(1 << 20)};
    lk_error err;
    rows r = example();
    CHECK_OK(table_write(&w.disk, 1, &r, &TABLE_OPTIONS, &w.meta, &err), &err);
    w.bytes = read_table(&w.disk, w.data, sizeof w.data);
    return w;
}

static void written_free(written *w)
{
    lk_table_meta_deinit(&w->meta);
    disk_free(&w->disk);
}

/* Loads the table with one 8-byte field of its footer changed and the checksum made to hold. */
static lk_status load_with_footer(written *w, size_t at, uint64_t value, lk_error *err)
{
    uint8_t data[4096];
    uint64_t offset = w->bytes - LK_TABLE_FOOTER_BYTES;
    memcpy(data, w->data, w->bytes);
    uint8_t *footer = data + offset;
    lk_store64(footer + at, value);
    lk_store64(footer + 120, lk_hash_bytes(lk_load64(footer + 16), offset, footer, 120));
    write_table(&w->disk, data, w->bytes);
    return load(&w->disk, &w->meta, err);
}

LK_TEST(test_other_version_is_unsupported)
{
    written w = write_example();
    lk_error err;
    CHECK_EQ(load_with_footer(&w, 8, 2, &err), LK_UNSUPPORTED);
    CHECK_EQ(err.found, 2);
    CHECK_EQ(err.expected, LK_TABLE_VERSION);
    CHECK_EQ(load_with_footer(&w, 8, LK_TABLE_VERSION, &err), LK_OK);
    written_free(&w);
}

LK_TEST(test_footer_that_lies_is_refused)
{
    static const uint64_t LIES[] = {
        0, 1, 92, 94, 4096, UINT64_MAX, UINT64_MAX - 90, UINT64_C(1) << 63};
    written w = write_example();
    lk_error err;
    for (size_t at = 16; at < 88; at += 8) {
        uint64_t truth = lk_load64(w.data + w.bytes - LK_TABLE_FOOTER_BYTES + at);
        for (size_t i = 0; i < sizeof LIES / sizeof *LIES; i++) {
            if (LIES[i] == truth) continue;
            CHECK_EQ(load_with_footer(&w, at, LIES[i], &err), LK_CORRUPT);
            CHECK_STR_EQ(err.path, "/s/000001.sst");
        }
        CHECK_EQ(load_with_footer(&w, at, truth, &err), LK_OK);
    }
    written_free(&w);
}

/* Loads and verifies with one byte of index or properties changed and their checksum made to hold. */
static lk_status verify_with_byte(written *w, size_t begin, size_t bytes, size_t at, uint8_t mask)
{
    uint8_t data[4096];
    lk_error err;
    lk_table *t;
    lk_table_report report;
    memcpy(data, w->data, w->bytes);
    data[begin + at] ^= mask;
    lk_store64(data + begin, lk_hash_bytes(w->meta.nonce, begin, data + begin + 8, bytes - 8));
    write_table(&w->disk, data, w->bytes);
    CHECK_OK(lk_table_new(w->disk.env, "/s", &w->meta, w->disk.cache, &t, &err), &err);
    lk_status st = lk_table_verify(t, &report, &err);
    lk_table_unref(t);
    return st;
}

LK_TEST(test_index_and_properties_that_lie_are_refused)
{
    written w = write_example();
    const uint8_t *footer = w.data + w.bytes - LK_TABLE_FOOTER_BYTES;
    for (size_t part = 56; part <= 72; part += 16) {
        size_t begin = lk_load64(footer + part), bytes = lk_load64(footer + part + 8);
        size_t accepted = 0;
        for (size_t at = 8; at < bytes; at++) {
            lk_status st = verify_with_byte(&w, begin, bytes, at, 0x11);
            CHECK(st == LK_OK || st == LK_CORRUPT || st == LK_UNSUPPORTED);
            accepted += st == LK_OK;
        }
        /* What may be otherwise: sequences of these rows; properties that only inform. */
        CHECK(accepted <= (part == 56 ? 16u : 16u + 24u));
    }
    written_free(&w);
}

/* A table of several blocks, with one part changed under a checksum that holds. */
static lk_status verify_readings(size_t footer_at, size_t at, uint8_t mask, uint8_t keep)
{
    readings r;
    written w = {.disk = disk_new(1 << 20)};
    lk_error err;
    lk_table_options options = {.block_bytes = 512, .filter_bits = 10, .codec = LK_CODEC_LZ4};
    make_readings(&r);
    CHECK_OK(table_write(&w.disk, 1, &r.all, &options, &w.meta, &err), &err);
    w.bytes = read_table(&w.disk, w.data, sizeof w.data);
    const uint8_t *place = w.data + w.bytes - LK_TABLE_FOOTER_BYTES + footer_at;
    size_t begin = lk_load64(place), bytes = lk_load64(place + 8);
    for (size_t i = 0; i < bytes; i++) {
        if (i >= at) w.data[begin + i] &= keep;
    }
    lk_status st = verify_with_byte(&w, begin, bytes, at, mask);
    written_free(&w);
    return st;
}

LK_TEST(test_filter_that_denies_a_key_does_not_verify)
{
    CHECK_EQ(verify_readings(40, LK_FILTER_HEADER_BYTES, 0, 0xff), LK_OK);
    CHECK_EQ(verify_readings(40, LK_FILTER_HEADER_BYTES, 0, 0x00), LK_CORRUPT);
}

LK_TEST(test_index_with_a_key_that_is_not_the_blocks_last_does_not_verify)
{
    /* Behind the header and the prefix "device-": the last byte of the first block's key. */
    size_t at = LK_BLOCK_HEADER_BYTES + strlen("device-") + strlen("1/00120") - 1;
    CHECK_EQ(verify_readings(56, at, 0, 0xff), LK_OK);
    CHECK_EQ(verify_readings(56, at, 1, 0xff), LK_CORRUPT);
}
