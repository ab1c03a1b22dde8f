/* Any bytes, with a checksum that holds: parsing and decoding give a block whose every byte may be
 * looked at, or an error; the memory they take stays in proportion. */
#include <stdint.h>
#include <stdlib.h>

#include "block.h"
#include "hash.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
extern volatile uint64_t fuzz_block_sink;

static const lk_block_source SOURCE = {"fuzz.sst", 7, 4096};

/* What was looked at, so that looking is not optimised away. */
volatile uint64_t fuzz_block_sink;

static uint64_t sum_of(lk_bytes bytes)
{
    uint64_t sum = bytes.len;
    for (size_t i = 0; i < bytes.len; i++) sum += bytes.data[i];
    return sum;
}

static uint64_t look_at(const lk_block *b)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < b->rows; i++) {
        lk_bytes key = lk_block_key(b, i);
        sum += sum_of(key) + sum_of(lk_block_value(b, i));
        sum += lk_block_seq(b, i) + (uint64_t)lk_block_kind(b, i);
        if (i > 64) continue;
        sum += lk_block_find(b, key.data, key.len, lk_hash_key(1, key.data, key.len), sum);
        sum += lk_block_lower_bound(b, key.data, key.len);
    }
    return sum;
}

static uint64_t look_at_image(const lk_block_image *image)
{
    static uint8_t scratch[LK_KEY_BYTES_MAX];
    uint64_t sum = lk_block_image_raw_bytes(image);
    for (uint32_t i = 0; i < image->rows; i++) sum += sum_of(lk_block_image_key(image, i, scratch));
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    lk_block_image image;
    lk_block *b = NULL;
    if (bytes < 8) return -1;
    uint8_t *copy = malloc(bytes);
    if (copy == NULL) return -1;
    memcpy(copy, data, bytes);
    lk_store64(copy, lk_hash_bytes(SOURCE.nonce, SOURCE.offset, copy + 8, bytes - 8));
    /* The length is most often wrong in what a fuzzer makes; it is set right half the time. */
    if (bytes >= LK_BLOCK_HEADER_BYTES && (data[0] & 1) != 0) {
        lk_store32(copy + 8, (uint32_t)bytes);
        lk_store64(copy, lk_hash_bytes(SOURCE.nonce, SOURCE.offset, copy + 8, bytes - 8));
    }
    if (lk_block_parse(copy, bytes, &SOURCE, &image, NULL) == LK_OK) {
        fuzz_block_sink += look_at_image(&image);
        if (lk_block_decode(&image, &SOURCE, &b, NULL) == LK_OK) {
            if (b->bytes > (32u << 20) + 40000 * bytes) abort();
            fuzz_block_sink += look_at(b);
            fuzz_block_sink += (uint64_t)lk_block_check(b, 1, &SOURCE, NULL);
        }
        lk_block_unref(b);
    }
    free(copy);
    return 0;
}
