/* codec.h: compression of a run of bytes; LZ4 and Zstandard are the system's libraries.
 *
 * Owns      an lk_compressor owns the working memory of its library, so that a writer that
 *           compresses block after block asks for it once.
 * Callers   block_write.c compresses, block.c decompresses.
 * Threads   a compressor belongs to one thread; the functions without one may be called by any.
 */
#ifndef LK_CODEC_H
#define LK_CODEC_H

#include "status.h"

/* Stored in block headers: the numbers are part of the format. */
typedef enum lk_codec {
    LK_CODEC_NONE = 0,
    LK_CODEC_LZ4 = 1,  /* acceleration 4: pays for itself in bytes not written */
    LK_CODEC_ZSTD = 2, /* level 1 */
} lk_codec;

/* Most bytes that compressing `n` can give. */
size_t lk_codec_bound(lk_codec codec, size_t n);

/* Bytes written to `out`, or 0 when it did not get smaller than `n` (the caller stores it plain). */
size_t lk_codec_compress(lk_codec codec, const uint8_t *in, size_t n, uint8_t *out,
                         size_t out_bytes);

/* False when `in` is not a whole compressed run of exactly `out_bytes`. */
bool lk_codec_decompress(lk_codec codec, const uint8_t *in, size_t n, uint8_t *out,
                         size_t out_bytes);

/* Most bytes that `n` compressed bytes can stand for: what a reader allocates never exceeds it. */
uint64_t lk_codec_expansion_max(lk_codec codec, size_t n);

/* "none", "lz4", "zstd", or "unknown". */
const char *lk_codec_name(lk_codec codec);

typedef struct lk_compressor {
    lk_codec codec;
    void *state; /* LZ4's hash table or Zstandard's context; NULL for LK_CODEC_NONE */
} lk_compressor;

lk_status lk_compressor_init(lk_compressor *c, lk_codec codec, lk_error *err);
void lk_compressor_deinit(lk_compressor *c); /* a zeroed one is accepted */
/* As lk_codec_compress. */
size_t lk_compressor_run(lk_compressor *c, const uint8_t *in, size_t n, uint8_t *out,
                         size_t out_bytes);

#endif
