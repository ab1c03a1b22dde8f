/* bytes.h: little-endian loads and stores, key order, and the bounded reader.
 *
 * Every number that comes from a file is read through lk_reader, which refuses to go past its end
 * and remembers that it did, so that a parser reads all its fields and asks once.
 */
#ifndef LK_BYTES_H
#define LK_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LK_KEY_BYTES_MAX 65535u
#define LK_VALUE_BYTES_MAX (1u << 30)

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "lsmkit reads and writes its files as little-endian memory"
#endif

static inline uint16_t lk_load16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint32_t lk_load32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint64_t lk_load64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void lk_store16(void *p, uint16_t v) { memcpy(p, &v, sizeof v); }
static inline void lk_store32(void *p, uint32_t v) { memcpy(p, &v, sizeof v); }
static inline void lk_store64(void *p, uint64_t v) { memcpy(p, &v, sizeof v); }

static inline uint64_t lk_align_up(uint64_t n, uint64_t to) { return (n + to - 1) & ~(to - 1); }

/* A borrowed run of bytes. */
typedef struct lk_bytes {
    const uint8_t *data;
    size_t len;
} lk_bytes;

/* Keys sort as unsigned bytes; a prefix sorts before what it begins. */
static inline int lk_key_compare(const uint8_t *a, size_t alen, const uint8_t *b, size_t blen)
{
    size_t n = alen < blen ? alen : blen;
    int c = n == 0 ? 0 : memcmp(a, b, n);
    if (c != 0) return c;
    return (alen > blen) - (alen < blen);
}

static inline bool lk_bytes_equal(const uint8_t *a, size_t alen, const uint8_t *b, size_t blen)
{
    return alen == blen && (alen == 0 || memcmp(a, b, alen) == 0);
}

/* The first 8 bytes of a key as a number that sorts as the key does; short keys are padded with
 * zeros, so equal prefixes say nothing and the whole keys must be compared. */
static inline uint64_t lk_key_prefix(const uint8_t *key, size_t len)
{
    uint64_t v = 0;
    if (len >= 8) {
        memcpy(&v, key, 8);
        return __builtin_bswap64(v);
    }
    for (size_t i = 0; i < len; i++) v |= (uint64_t)key[i] << (56 - 8 * i);
    return v;
}

/* Bytes that two keys have in common at their beginning. */
static inline size_t lk_common_prefix(const uint8_t *a, size_t alen, const uint8_t *b, size_t blen)
{
    size_t n = alen < blen ? alen : blen, i = 0;
    while (i + 8 <= n) {
        uint64_t x = lk_load64(a + i) ^ lk_load64(b + i);
        if (x != 0) return i + (size_t)(__builtin_ctzll(x) >> 3);
        i += 8;
    }
    while (i < n && a[i] == b[i]) i++;
    return i;
}

/* Reads forward over untrusted bytes. After an overrun every read gives zeros and `failed` is set. */
typedef struct lk_reader {
    const uint8_t *data;
    size_t len;
    size_t pos;
    bool failed;
} lk_reader;

static inline lk_reader lk_reader_make(const void *data, size_t len)
{
    return (lk_reader){.data = (const uint8_t *)data, .len = len, .pos = 0, .failed = false};
}

/* The next `n` bytes, or NULL (and `failed`) when fewer are left. */
static inline const uint8_t *lk_reader_take(lk_reader *r, size_t n)
{
    if (r->failed || n > r->len - r->pos) {
        r->failed = true;
        return NULL;
    }
    const uint8_t *p = r->data + r->pos;
    r->pos += n;
    return p;
}
static inline uint8_t lk_reader_u8(lk_reader *r)
{
    const uint8_t *p = lk_reader_take(r, 1);
    return p == NULL ? 0 : *p;
}
static inline uint16_t lk_reader_u16(lk_reader *r)
{
    const uint8_t *p = lk_reader_take(r, 2);
    return p == NULL ? 0 : lk_load16(p);
}
static inline uint32_t lk_reader_u32(lk_reader *r)
{
    const uint8_t *p = lk_reader_take(r, 4);
    return p == NULL ? 0 : lk_load32(p);
}
static inline uint64_t lk_reader_u64(lk_reader *r)
{
    const uint8_t *p = lk_reader_take(r, 8);
    return p == NULL ? 0 : lk_load64(p);
}

#endif
