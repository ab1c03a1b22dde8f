/* A filter never denies a key that was added, lets about 1 % of the others pass at 10 bits a key,
 * and is refused when any of its bytes changed. */
#include "harness.h"

#include "filter.h"
#include "hash.h"

enum { NONCE = 99, OFFSET = 4096 };

static uint64_t key_hash(uint64_t i) { return lk_hash_key(3, (const uint8_t *)&i, sizeof i); }

typedef struct built {
    uint8_t *data;
    size_t bytes;
    lk_filter filter;
} built;

static built build(size_t count, uint32_t bits)
{
    lk_error err;
    lk_filter_builder b = {NULL, 0, 0};
    CHECK_OK(lk_filter_builder_reserve(&b, count, &err), &err);
    for (size_t i = 0; i < count; i++) lk_filter_builder_add(&b, key_hash(i));
    built out = {.bytes = (size_t)lk_filter_bytes(count, bits)};
    out.data = aligned_alloc(64, lk_align_up(out.bytes, 64));
    CHECK(out.data != NULL);
    lk_filter_builder_finish(&b, bits, NONCE, OFFSET, out.data);
    lk_filter_builder_deinit(&b);
    CHECK_OK(lk_filter_parse(out.data, out.bytes, "f", NONCE, OFFSET, &out.filter, &err), &err);
    return out;
}

LK_TEST(test_keys_that_were_added_are_never_denied)
{
    static const size_t COUNTS[] = {1, 2, 51, 52, 1000, 40000};
    static const uint32_t BITS[] = {1, 5, 8, 10, 12, 16, 20, 64};
    for (size_t c = 0; c < 6; c++) {
        for (size_t b = 0; b < 8; b++) {
            built f = build(COUNTS[c], BITS[b]);
            for (size_t i = 0; i < COUNTS[c]; i++) {
                CHECK(lk_filter_may_contain(&f.filter, key_hash(i)));
            }
            free(f.data);
        }
    }
}

LK_TEST(test_few_absent_keys_pass)
{
    static const struct {
        uint32_t bits;
        double percent_max;
    } CASES[] = {{5, 13.0}, {8, 3.0}, {10, 1.3}, {12, 0.7}, {16, 0.3}, {20, 0.2}};
    enum { COUNT = 100000 };
    for (size_t c = 0; c < 6; c++) {
        built f = build(COUNT, CASES[c].bits);
        uint64_t passed = 0;
        for (uint64_t i = COUNT; i < 4 * COUNT; i++) {
            passed += lk_filter_may_contain(&f.filter, key_hash(i));
        }
        CHECK(100.0 * (double)passed / (3.0 * COUNT) < CASES[c].percent_max);
        CHECK(f.bytes < 64 + 64 + COUNT * CASES[c].bits / 8);
        free(f.data);
    }
}

LK_TEST(test_no_filter_lets_everything_pass)
{
    lk_filter none = {NULL, 0, 0};
    CHECK(lk_filter_may_contain(&none, 12345));
}

LK_TEST(test_every_changed_byte_is_refused)
{
    built f = build(100, 10);
    lk_filter out;
    lk_error err;
    for (size_t i = 0; i < f.bytes; i++) {
        f.data[i] ^= 0x40;
        CHECK_EQ(lk_filter_parse(f.data, f.bytes, "f", NONCE, OFFSET, &out, &err), LK_CORRUPT);
        CHECK(out.lines == NULL);
        f.data[i] ^= 0x40;
    }
    CHECK_EQ(lk_filter_parse(f.data, f.bytes - 64, "f", NONCE, OFFSET, &out, &err), LK_CORRUPT);
    CHECK_EQ(lk_filter_parse(f.data, 60, "f", NONCE, OFFSET, &out, &err), LK_CORRUPT);
    CHECK_EQ(lk_filter_parse(f.data, f.bytes, "f", NONCE, OFFSET + 64, &out, &err), LK_CORRUPT);
    CHECK_EQ(lk_filter_parse(f.data, f.bytes, "f", NONCE + 1, OFFSET, &out, &err), LK_CORRUPT);
    CHECK_STR_EQ(err.path, "f");
    free(f.data);
}

static lk_status parse_resealed(built *f)
{
    lk_filter out;
    lk_store64(f->data, lk_hash_bytes(NONCE, OFFSET, f->data + 8, f->bytes - 8));
    return lk_filter_parse(f->data, f->bytes, "f", NONCE, OFFSET, &out, NULL);
}

LK_TEST(test_numbers_out_of_range_are_refused_though_the_checksum_holds)
{
    built f = build(100, 10);
    lk_store32(f.data + 8, 2);
    CHECK_EQ(parse_resealed(&f), LK_UNSUPPORTED);
    lk_store32(f.data + 8, 1);
    lk_store32(f.data + 12, 0);
    CHECK_EQ(parse_resealed(&f), LK_CORRUPT);
    lk_store32(f.data + 12, 99);
    CHECK_EQ(parse_resealed(&f), LK_CORRUPT);
    lk_store32(f.data + 12, 6);
    lk_store64(f.data + 16, 3);
    CHECK_EQ(parse_resealed(&f), LK_CORRUPT);
    lk_store64(f.data + 16, 2);
    CHECK_EQ(parse_resealed(&f), LK_OK);
    free(f.data);
}
