/* Rows of every shape come back from a block as they went in, lookups agree with a search of the
 * rows one by one, and bytes that are not what was written are refused, also when their checksum
 * was made to hold. */
#include "harness.h"

#include "block.h"
#include "block_write.h"
#include "rows_fixture.h"

static const lk_block_source SOURCE = {.path = "test.sst", .nonce = 0x1234, .offset = 8192};

typedef struct encoded {
    uint8_t *data;
    size_t bytes;
} encoded;

static encoded encode(const rows *r, lk_codec codec)
{
    lk_error err;
    lk_block_writer w;
    CHECK_OK(lk_block_writer_init(&w, codec, &err), &err);
    for (size_t i = 0; i < r->count; i++) {
        const lk_row *row = &r->rows[i], *before = i == 0 ? row : row - 1;
        bool is_version =
            i > 0 && lk_bytes_equal(row->key, row->key_len, before->key, before->key_len);
        CHECK_OK(lk_block_writer_add(&w, row, is_version, &err), &err);
    }
    encoded out = {.data = malloc(lk_block_writer_bound(&w))};
    CHECK(out.data != NULL);
    out.bytes = lk_block_writer_finish(&w, SOURCE.nonce, SOURCE.offset, out.data);
    CHECK_EQ(lk_block_writer_raw_bytes(&w), 0);
    lk_block_writer_deinit(&w);
    return out;
}

static lk_status decode(const encoded *e, lk_block **out, lk_error *err)
{
    /* A copy of exactly that length, so that reading past it is seen. */
    uint8_t *copy = malloc(e->bytes > 0 ? e->bytes : 1);
    lk_block_image image;
    *out = NULL;
    memcpy(copy, e->data, e->bytes);
    lk_status st = lk_block_parse(copy, e->bytes, &SOURCE, &image, err);
    if (st == LK_OK) st = lk_block_decode(&image, &SOURCE, out, err);
    free(copy);
    return st;
}

static void check_rows(const lk_block *b, const rows *r)
{
    CHECK_EQ(b->rows, r->count);
    for (uint32_t i = 0; i < b->rows; i++) {
        const lk_row *row = &r->rows[i];
        lk_bytes key = lk_block_key(b, i), value = lk_block_value(b, i);
        CHECK(lk_bytes_equal(key.data, key.len, row->key, row->key_len));
        CHECK(lk_bytes_equal(value.data, value.len, row->value, row->value_len));
        CHECK_EQ(lk_block_seq(b, i), row->seq);
        CHECK_EQ(lk_block_kind(b, i), row->kind);
    }
}

static uint32_t first_not_less(const rows *r, lk_bytes key)
{
    uint32_t i = 0;
    while (i < r->count &&
           lk_key_compare(r->rows[i].key, r->rows[i].key_len, key.data, key.len) < 0) {
        i++;
    }
    return i;
}

static void check_lookup(const lk_block *b, const rows *r, lk_bytes key, uint64_t seq)
{
    uint64_t hash = lk_hash_key(ROWS_TREE, key.data, key.len);
    const lk_row *expected = rows_find(r, key, seq);
    uint32_t found = lk_block_find(b, key.data, key.len, hash, seq);
    CHECK_EQ(found, expected == NULL ? b->rows : (uint32_t)(expected - r->rows));
    CHECK_EQ(lk_block_lower_bound(b, key.data, key.len), first_not_less(r, key));
}

/* Keys that are there, with each sequence about theirs, and keys a byte away. */
static void check_lookups(const lk_block *b, const rows *r, uint64_t *rng)
{
    for (size_t i = 0; i < r->count; i += 1 + r->count / 40) {
        const lk_row *row = &r->rows[i];
        lk_bytes key = {row->key, row->key_len};
        check_lookup(b, r, key, LK_SEQ_MAX);
        check_lookup(b, r, key, row->seq);
        check_lookup(b, r, key, row->seq - 1);
        uint8_t other[256];
        memcpy(other, key.data, key.len);
        other[key.len] = (uint8_t)lk_test_below(rng, 256);
        check_lookup(b, r, (lk_bytes){other, key.len + 1}, LK_SEQ_MAX);
        if (key.len == 0) continue;
        other[lk_test_below(rng, key.len)] ^= 1;
        check_lookup(b, r, (lk_bytes){other, key.len}, LK_SEQ_MAX);
        check_lookup(b, r, (lk_bytes){key.data, key.len - 1}, LK_SEQ_MAX);
    }
}

LK_TEST(test_rows_of_every_shape_come_back)
{
    uint64_t rng = lk_test_seed();
    for (int round = 0; round < 400; round++) {
        rows_shape shape = rows_shape_random(&rng, round % 10 == 0 ? 900 : 120);
        rows r = rows_make(&rng, &shape);
        encoded e = encode(&r, (lk_codec)(round % 3));
        lk_block *b;
        lk_error err;
        CHECK_OK(decode(&e, &b, &err), &err);
        check_rows(b, &r);
        CHECK_OK(lk_block_check(b, ROWS_TREE, &SOURCE, &err), &err);
        check_lookups(b, &r, &rng);
        CHECK(b->bytes >= sizeof *b);
        lk_block_unref(b);
        free(e.data);
        rows_free(&r);
    }
}

/* 50 rows that use every column. */
static rows small_rows(void)
{
    uint64_t rng = 77;
    rows_shape shape = {.keys = 30,
                        .prefix_len = 5,
                        .key_min = 2,
                        .key_max = 6,
                        .value_min = 10,
                        .value_max = 40,
                        .versions_max = 3,
                        .delete_percent = 20,
                        .seq_base = 9,
                        .seq_span = 1000,
                        .alphabet = 256};
    return rows_make(&rng, &shape);
}

LK_TEST(test_every_changed_byte_and_every_missing_one_is_refused)
{
    for (int codec = 0; codec < 3; codec++) {
        rows r = small_rows();
        encoded e = encode(&r, (lk_codec)codec);
        lk_block *b;
        lk_error err;
        for (size_t i = 0; i < e.bytes; i++) {
            e.data[i] ^= (uint8_t)(1u << (i % 8));
            CHECK_EQ(decode(&e, &b, &err), LK_CORRUPT);
            CHECK_EQ(err.offset, SOURCE.offset);
            CHECK_STR_EQ(err.path, SOURCE.path);
            e.data[i] ^= (uint8_t)(1u << (i % 8));
        }
        size_t whole = e.bytes;
        for (e.bytes = 0; e.bytes < whole; e.bytes++) CHECK_EQ(decode(&e, &b, &err), LK_CORRUPT);
        CHECK_OK(decode(&e, &b, &err), &err);
        lk_block_unref(b);
        free(e.data);
        rows_free(&r);
    }
}

static void reseal(encoded *e)
{
    lk_store64(e->data, lk_hash_bytes(SOURCE.nonce, SOURCE.offset, e->data + 8, e->bytes - 8));
}

/* Looks at every byte that the columns point to. */
static uint64_t touch(const lk_block *b)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < b->rows; i++) {
        lk_bytes key = lk_block_key(b, i), value = lk_block_value(b, i);
        for (size_t j = 0; j < key.len; j++) sum += key.data[j];
        for (size_t j = 0; j < value.len; j++) sum += value.data[j];
        sum += lk_block_seq(b, i) + (uint64_t)lk_block_kind(b, i);
    }
    sum += lk_block_find(b, (const uint8_t *)"ppppp", 5, 0, LK_SEQ_MAX);
    return sum + lk_block_lower_bound(b, (const uint8_t *)"ppppp", 5);
}

LK_TEST(test_bytes_made_to_harm_are_refused_or_harmless)
{
    uint64_t rng = lk_test_seed(), sum = 0, decoded = 0;
    for (int round = 0; round < 20000; round++) {
        rows r = small_rows();
        encoded e = encode(&r, (lk_codec)(round % 3));
        for (uint64_t n = 1 + lk_test_below(&rng, 3); n > 0; n--) {
            size_t at = 8 + lk_test_below(&rng, lk_test_below(&rng, 2) == 0 ? 56 : e.bytes - 8);
            e.data[at] = (uint8_t)(lk_test_below(&rng, 3) == 0 ? 0xff : lk_test_rand(&rng) >> 32);
        }
        reseal(&e);
        lk_block *b;
        lk_status st = decode(&e, &b, NULL);
        CHECK(st == LK_OK || st == LK_CORRUPT || st == LK_UNSUPPORTED);
        if (st == LK_OK) {
            decoded++;
            sum += touch(b);
            (void)lk_block_check(b, ROWS_TREE, &SOURCE, NULL);
            CHECK(b->bytes < 8u << 20);
        }
        lk_block_unref(b);
        free(e.data);
        rows_free(&r);
    }
    CHECK(decoded > 0 && sum > 0);
}

LK_TEST(test_layouts_and_codecs_to_come_are_unsupported)
{
    static const size_t FIELDS[] = {16, 17, 22, 18};
    rows r = small_rows();
    for (size_t i = 0; i < 4; i++) {
        encoded e = encode(&r, LK_CODEC_NONE);
        lk_block *b;
        lk_error err;
        e.data[FIELDS[i]] |= 0x50;
        reseal(&e);
        CHECK_EQ(decode(&e, &b, &err), LK_UNSUPPORTED);
        free(e.data);
    }
    rows_free(&r);
}

LK_TEST(test_rows_out_of_order_do_not_pass_the_check)
{
    rows r = small_rows();
    lk_error err;
    for (size_t i = 0; i + 1 < r.count; i++) {
        lk_row first = r.rows[i];
        r.rows[i] = r.rows[i + 1];
        r.rows[i + 1] = first;
        if (i == 0 || i + 2 == r.count) continue; /* the ends make the prefix */
        encoded e = encode(&r, LK_CODEC_NONE);
        lk_block *b;
        CHECK_OK(decode(&e, &b, &err), &err);
        CHECK_EQ(lk_block_check(b, ROWS_TREE, &SOURCE, &err), LK_CORRUPT);
        lk_block_unref(b);
        free(e.data);
        r.rows[i + 1] = r.rows[i];
        r.rows[i] = first;
    }
    rows_free(&r);
}

LK_TEST(test_block_that_lies_about_versions_does_not_pass_the_check)
{
    rows r = small_rows();
    encoded e = encode(&r, LK_CODEC_NONE);
    lk_block *b;
    lk_error err;
    e.data[18] ^= LK_BLOCK_FLAG_VERSIONS;
    reseal(&e);
    CHECK_OK(decode(&e, &b, &err), &err);
    CHECK(b->unique);
    CHECK_EQ(lk_block_check(b, ROWS_TREE, &SOURCE, &err), LK_CORRUPT);
    lk_block_unref(b);
    free(e.data);
    rows_free(&r);
}

LK_TEST(test_fingerprint_of_another_tree_does_not_pass_the_check)
{
    rows r = small_rows();
    encoded e = encode(&r, LK_CODEC_LZ4);
    lk_block *b;
    lk_error err;
    CHECK_OK(decode(&e, &b, &err), &err);
    CHECK_EQ(lk_block_check(b, ROWS_TREE + 1, &SOURCE, &err), LK_CORRUPT);
    lk_block_unref(b);
    free(e.data);
    rows_free(&r);
}

/* Versions of one long key: the prefix would be the whole key, and decoding would multiply it. */
LK_TEST(test_long_keys_with_many_versions_stay_in_proportion)
{
    enum { VERSIONS = 300, KEY_BYTES = 60000 };
    uint8_t *key = calloc(1, KEY_BYTES);
    rows r = {.rows = calloc(VERSIONS, sizeof(lk_row)), .count = VERSIONS};
    for (uint64_t i = 0; i < VERSIONS; i++) {
        r.rows[i] = (lk_row){.key = key,
                             .key_len = KEY_BYTES,
                             .seq = VERSIONS - i,
                             .hash = lk_hash_key(ROWS_TREE, key, KEY_BYTES),
                             .kind = LK_KIND_DELETE};
    }
    encoded e = encode(&r, LK_CODEC_LZ4);
    lk_block *b;
    lk_error err;
    CHECK_OK(decode(&e, &b, &err), &err);
    check_rows(b, &r);
    CHECK(b->bytes <= e.bytes + LK_BLOCK_PREFIX_EXPANSION_MAX + VERSIONS * 20 + 4096);
    CHECK_EQ(lk_block_find(b, key, KEY_BYTES, r.rows[0].hash, 17), VERSIONS - 17);
    lk_block_unref(b);
    free(e.data);
    free(key);
    rows_free(&r);
}

/* A block of some 60 KB whose 100 rows would take 6 MB of keys. */
LK_TEST(test_prefix_that_multiplies_the_file_is_refused)
{
    enum { ROWS = 100, PREFIX = 60000 };
    encoded e = {.bytes = LK_BLOCK_HEADER_BYTES + PREFIX + ROWS};
    e.data = calloc(1, e.bytes);
    lk_store32(e.data + 8, (uint32_t)e.bytes);
    lk_store32(e.data + 12, ROWS);
    e.data[18] = LK_BLOCK_FLAG_VERSIONS;
    lk_store16(e.data + 22, 1);
    lk_store16(e.data + 24, PREFIX);
    reseal(&e);
    lk_block *b;
    lk_error err;
    CHECK_EQ(decode(&e, &b, &err), LK_CORRUPT);
    CHECK_EQ(err.expected, LK_BLOCK_PREFIX_EXPANSION_MAX);
    CHECK_EQ(err.found, ROWS * PREFIX);
    free(e.data);
}

LK_TEST(test_large_value_has_a_block_of_its_own)
{
    size_t n = 40u << 20;
    uint8_t *value = calloc(1, n);
    uint64_t rng = lk_test_seed();
    lk_test_fill(&rng, value, n / 8);
    lk_row row = {.key = (const uint8_t *)"k",
                  .key_len = 1,
                  .value = value,
                  .value_len = (uint32_t)n,
                  .seq = 5,
                  .hash = lk_hash_key(ROWS_TREE, (const uint8_t *)"k", 1),
                  .kind = LK_KIND_PUT};
    rows r = {.rows = &row, .count = 1};
    for (int codec = 0; codec < 3; codec++) {
        encoded e = encode(&r, (lk_codec)codec);
        lk_block *b;
        lk_error err;
        CHECK(codec == 0 || e.bytes < n / 4);
        CHECK_OK(decode(&e, &b, &err), &err);
        CHECK_EQ(lk_block_value(b, 0).len, n);
        CHECK(memcmp(lk_block_value(b, 0).data, value, n) == 0);
        lk_block_unref(b);
        free(e.data);
    }
    free(value);
}

LK_TEST(test_padding_of_fingerprints_is_no_row)
{
    /* A key whose fingerprint is zero, like the padding, and is not in the block. */
    uint8_t key[8] = {0};
    uint64_t hash;
    do {
        lk_store64(key, lk_load64(key) + 1);
        hash = lk_hash_key(ROWS_TREE, key, sizeof key);
    } while (lk_hash_fingerprint(hash) != 0);
    rows r = small_rows();
    r.count = 1;
    encoded e = encode(&r, LK_CODEC_NONE);
    lk_block *b;
    lk_error err;
    CHECK_OK(decode(&e, &b, &err), &err);
    CHECK(lk_hash_fingerprint(r.rows[0].hash) != 0);
    CHECK_EQ(lk_block_candidate(b, hash, 0), b->rows);
    CHECK_EQ(lk_block_find(b, key, sizeof key, hash, LK_SEQ_MAX), b->rows);
    lk_block_unref(b);
    free(e.data);
    rows_free(&r);
}

LK_TEST(test_versions_beyond_the_limit_of_a_block_are_refused)
{
    /* The same memory serves as every value; the writer refuses before it copies beyond the limit,
     * so the limit is set near by what was added, not reached by copying. */
    lk_block_writer w;
    lk_error err;
    CHECK_OK(lk_block_writer_init(&w, LK_CODEC_NONE, &err), &err);
    w.key_bytes = 10;
    w.value_bytes = LK_BLOCK_RAW_MAX - 1000;
    lk_row row = {.key = (const uint8_t *)"k",
                  .key_len = 1,
                  .value = (const uint8_t *)"v",
                  .value_len = 1000,
                  .seq = 1,
                  .kind = LK_KIND_PUT};
    CHECK_EQ(lk_block_writer_add(&w, &row, true, &err), LK_INVALID);
    w.key_bytes = w.value_bytes = 0;
    lk_block_writer_deinit(&w);
}
