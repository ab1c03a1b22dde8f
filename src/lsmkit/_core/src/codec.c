/* codec.c: LZ4 and Zstandard behind one pair of calls.
 *
 * Owns      a few idle Zstandard decompression contexts, shared by all threads: making one costs
 *           more than a block's decompression. They stay until the process ends.
 * Threads   an idle context is taken and put back by one atomic exchange; nobody waits.
 * Always    what is not smaller than its input is not kept, so that compressing never costs space.
 */
#include "codec.h"

#include <limits.h>
#include <lz4.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "check.h"

enum {
    LZ4_ACCELERATION = 4, /* 28 ns for 100 bytes that halve, against 72 at 1; as small */
    ZSTD_LEVEL = 1,
    LZ4_EXPANSION_MAX = 255,    /* a length byte of 255 stands for that many bytes */
    ZSTD_EXPANSION_MAX = 32768, /* a repeated-byte block: 4 bytes stand for 128 KiB */
    ZSTD_IDLE_MAX = 4,
};

static _Atomic(ZSTD_DCtx *) zstd_idle[ZSTD_IDLE_MAX];

static ZSTD_DCtx *zstd_context_take(void)
{
    for (size_t i = 0; i < ZSTD_IDLE_MAX; i++) {
        if (atomic_load_explicit(&zstd_idle[i], memory_order_relaxed) == NULL) continue;
        ZSTD_DCtx *context = atomic_exchange_explicit(&zstd_idle[i], NULL, memory_order_acquire);
        if (context != NULL) return context;
    }
    return ZSTD_createDCtx();
}

static void zstd_context_give(ZSTD_DCtx *context)
{
    for (size_t i = 0; i < ZSTD_IDLE_MAX; i++) {
        ZSTD_DCtx *none = NULL;
        if (atomic_compare_exchange_strong_explicit(&zstd_idle[i], &none, context,
                                                    memory_order_release, memory_order_relaxed)) {
            return;
        }
    }
    (void)ZSTD_freeDCtx(context);
}

size_t lk_codec_bound(lk_codec codec, size_t n)
{
    switch (codec) {
    case LK_CODEC_LZ4:
        return n > LZ4_MAX_INPUT_SIZE ? 0 : (size_t)LZ4_compressBound((int)n);
    case LK_CODEC_ZSTD:
        return ZSTD_compressBound(n);
    case LK_CODEC_NONE:
        break;
    }
    return n;
}

uint64_t lk_codec_expansion_max(lk_codec codec, size_t n)
{
    switch (codec) {
    case LK_CODEC_LZ4:
        return (uint64_t)n * LZ4_EXPANSION_MAX;
    case LK_CODEC_ZSTD:
        return (uint64_t)n * ZSTD_EXPANSION_MAX;
    case LK_CODEC_NONE:
        break;
    }
    return n;
}

const char *lk_codec_name(lk_codec codec)
{
    switch (codec) {
    case LK_CODEC_NONE:
        return "none";
    case LK_CODEC_LZ4:
        return "lz4";
    case LK_CODEC_ZSTD:
        return "zstd";
    }
    return "unknown";
}

lk_status lk_compressor_init(lk_compressor *c, lk_codec codec, lk_error *err)
{
    *c = (lk_compressor){.codec = codec, .state = NULL};
    if (codec == LK_CODEC_LZ4) {
        c->state = malloc((size_t)LZ4_sizeofState());
        if (c->state == NULL) return lk_fail_nomem(err, LZ4_sizeofState());
    } else if (codec == LK_CODEC_ZSTD) {
        c->state = ZSTD_createCCtx();
        if (c->state == NULL) return lk_fail_nomem(err, 0);
    } else if (codec != LK_CODEC_NONE) {
        return lk_fail(err, LK_INVALID, 0, NULL, 0, LK_CODEC_ZSTD, (uint64_t)codec,
                       "there is no codec %d", (int)codec);
    }
    return LK_OK;
}

void lk_compressor_deinit(lk_compressor *c)
{
    if (c->codec == LK_CODEC_ZSTD) {
        (void)ZSTD_freeCCtx((ZSTD_CCtx *)c->state);
    } else {
        free(c->state);
    }
    *c = (lk_compressor){.codec = LK_CODEC_NONE, .state = NULL};
}

static int clamp_int(size_t n) { return n > INT_MAX ? INT_MAX : (int)n; }

size_t lk_compressor_run(lk_compressor *c, const uint8_t *in, size_t n, uint8_t *out,
                         size_t out_bytes)
{
    if (n == 0) return 0;
    size_t size = 0;
    if (c->codec == LK_CODEC_LZ4 && n <= LZ4_MAX_INPUT_SIZE) {
        int got = LZ4_compress_fast_extState(c->state, (const char *)in, (char *)out, (int)n,
                                             clamp_int(out_bytes), LZ4_ACCELERATION);
        size = got > 0 ? (size_t)got : 0;
    } else if (c->codec == LK_CODEC_ZSTD) {
        size_t got = ZSTD_compressCCtx((ZSTD_CCtx *)c->state, out, out_bytes, in, n, ZSTD_LEVEL);
        size = ZSTD_isError(got) ? 0 : got;
    }
    return size < n ? size : 0;
}

size_t lk_codec_compress(lk_codec codec, const uint8_t *in, size_t n, uint8_t *out,
                         size_t out_bytes)
{
    lk_compressor once;
    if (lk_compressor_init(&once, codec, NULL) != LK_OK) return 0;
    size_t size = lk_compressor_run(&once, in, n, out, out_bytes);
    lk_compressor_deinit(&once);
    return size;
}

static bool zstd_decompress(const uint8_t *in, size_t n, uint8_t *out, size_t out_bytes)
{
    ZSTD_DCtx *context = zstd_context_take();
    if (context == NULL) return false;
    size_t got = ZSTD_decompressDCtx(context, out, out_bytes, in, n);
    zstd_context_give(context);
    return !ZSTD_isError(got) && got == out_bytes;
}

bool lk_codec_decompress(lk_codec codec, const uint8_t *in, size_t n, uint8_t *out,
                         size_t out_bytes)
{
    switch (codec) {
    case LK_CODEC_NONE:
        if (n != out_bytes) return false;
        if (n > 0) memcpy(out, in, n);
        return true;
    case LK_CODEC_LZ4:
        if (n > INT_MAX || out_bytes > INT_MAX) return false;
        return LZ4_decompress_safe((const char *)in, (char *)out, (int)n, (int)out_bytes) ==
               (int)out_bytes;
    case LK_CODEC_ZSTD:
        return zstd_decompress(in, n, out, out_bytes);
    }
    return false;
}
