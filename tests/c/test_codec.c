/* What is compressed comes back byte by byte, what cannot shrink is left alone, and no run of bytes
 * makes decompression write outside its output. */
#include "harness.h"

#include "codec.h"

static const lk_codec CODECS[] = {LK_CODEC_LZ4, LK_CODEC_ZSTD};

static void fill_text(uint64_t *rng, uint8_t *out, size_t n)
{
    static const unsigned char WORDS[] = "temperature humidity pressure ";
    for (size_t i = 0; i < n; i++) {
        out[i] = i % 37 == 0 ? (uint8_t)lk_test_below(rng, 256) : WORDS[i % 30];
    }
}

LK_TEST(test_compressed_text_comes_back)
{
    uint64_t rng = lk_test_seed();
    static const size_t SIZES[] = {64, 1000, 16384, 300000};
    for (size_t c = 0; c < 2; c++) {
        lk_compressor compressor;
        lk_error err;
        CHECK_OK(lk_compressor_init(&compressor, CODECS[c], &err), &err);
        for (size_t i = 0; i < 4; i++) {
            size_t n = SIZES[i], bound = lk_codec_bound(CODECS[c], n);
            uint8_t *in = malloc(n), *packed = malloc(bound), *back = malloc(n);
            fill_text(&rng, in, n);
            size_t size = lk_compressor_run(&compressor, in, n, packed, bound);
            CHECK(size > 0 && size < n);
            CHECK_EQ(lk_codec_compress(CODECS[c], in, n, packed, bound), size);
            CHECK(lk_codec_expansion_max(CODECS[c], size) >= n);
            CHECK(lk_codec_decompress(CODECS[c], packed, size, back, n));
            CHECK_MEM_EQ(in, back, n);
            CHECK(!lk_codec_decompress(CODECS[c], packed, size, back, n - 1));
            CHECK(!lk_codec_decompress(CODECS[c], packed, size - 1, back, n));
            free(in);
            free(packed);
            free(back);
        }
        lk_compressor_deinit(&compressor);
    }
}

LK_TEST(test_random_bytes_are_left_plain)
{
    uint64_t rng = lk_test_seed();
    uint8_t in[4096], out[8192];
    lk_test_fill(&rng, in, sizeof in);
    CHECK_EQ(lk_codec_compress(LK_CODEC_LZ4, in, sizeof in, out, sizeof out), 0);
    CHECK_EQ(lk_codec_compress(LK_CODEC_ZSTD, in, sizeof in, out, sizeof out), 0);
    CHECK_EQ(lk_codec_compress(LK_CODEC_NONE, in, sizeof in, out, sizeof out), 0);
    CHECK_EQ(lk_codec_compress(LK_CODEC_LZ4, in, 0, out, sizeof out), 0);
}

LK_TEST(test_plain_bytes_are_copied_only_when_lengths_agree)
{
    uint8_t in[4] = {1, 2, 3, 4}, out[4] = {0};
    CHECK(lk_codec_decompress(LK_CODEC_NONE, in, 4, out, 4));
    CHECK_MEM_EQ(in, out, 4);
    CHECK(!lk_codec_decompress(LK_CODEC_NONE, in, 4, out, 3));
    CHECK(!lk_codec_decompress((lk_codec)9, in, 4, out, 4));
}

LK_TEST(test_expansion_bound_covers_the_most_compressible_bytes)
{
    size_t n = 8 << 20;
    uint8_t *in = calloc(1, n), *out = malloc(lk_codec_bound(LK_CODEC_LZ4, n));
    for (size_t c = 0; c < 2; c++) {
        size_t size = lk_codec_compress(CODECS[c], in, n, out, lk_codec_bound(CODECS[c], n));
        CHECK(size > 0 && lk_codec_expansion_max(CODECS[c], size) >= n);
    }
    free(in);
    free(out);
}

LK_TEST(test_damaged_input_never_writes_outside)
{
    uint64_t rng = lk_test_seed();
    uint8_t in[600], packed[800], back[600];
    for (size_t c = 0; c < 2; c++) {
        fill_text(&rng, in, sizeof in);
        size_t size = lk_codec_compress(CODECS[c], in, sizeof in, packed, sizeof packed);
        CHECK(size > 0);
        for (int round = 0; round < 3000; round++) {
            size_t at = lk_test_below(&rng, size);
            uint8_t before = packed[at];
            packed[at] ^= (uint8_t)(1 + lk_test_below(&rng, 255));
            (void)lk_codec_decompress(CODECS[c], packed, size, back, sizeof back);
            packed[at] = before;
        }
        CHECK(lk_codec_decompress(CODECS[c], packed, size, back, sizeof back));
        CHECK_MEM_EQ(in, back, sizeof in);
    }
}

LK_TEST(test_codec_that_does_not_exist_is_refused)
{
    lk_compressor compressor;
    lk_error err;
    CHECK_EQ(lk_compressor_init(&compressor, (lk_codec)77, &err), LK_INVALID);
    CHECK_STR_EQ(lk_codec_name(LK_CODEC_ZSTD), "zstd");
    CHECK_STR_EQ(lk_codec_name((lk_codec)77), "unknown");
}
