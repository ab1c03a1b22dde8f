/* block.c: reading blocks: from bytes to columns, and looking up keys in them.
 *
 * Callers   table_read.c parses and decodes; views, cursors and compaction look up.
 * Threads   blocks are immutable; only `refs` and `recent` change.
 * Always    no byte of a file is believed before its checksum held, and no length even then: a
 *           block that was made to harm is LK_CORRUPT, never a crash or a great allocation.
 *           The order of keys is the writer's promise; lk_block_check proves it.
 *
 * Block, little-endian (FORMAT.md, Tables, is the authority):
 *   0          8       12     16       17      18      19-21    22        24       28..64
 *   +----------+-------+------+--------+-------+-------+--------+---------+--------+---------+
 *   | checksum | bytes | rows | layout | codec | flags | widths | columns | prefix | lengths |
 *   +----------+-------+------+--------+-------+-------+--------+---------+--------+---------+
 *   | prefix | key ends | suffixes | fingerprints | kinds | sequences | value ends | values   |
 *   +--------+----------+----------+--------------+-------+-----------+------------+----------+
 */
#include "block.h"

#include "block_memory.h"
#include "check.h"
#include "hash.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

enum {
    FINGERPRINTS_AT = 128, /* from the block's address: lk_block_prefetch counts on it */
    STEP = 16,             /* fingerprints looked at together; the column is padded to it */
    SEQ_MIN_AT = 40,       /* in the header; the greatest one follows */
    TAIL_BYTES = 16,       /* behind the last value, so that wide loads stay inside */
};
_Static_assert(sizeof(lk_block) <= FINGERPRINTS_AT, "fingerprints follow the head at once");

/* ---- parsing ---- */

static lk_status corrupt(const lk_block_source *source, uint64_t at, uint64_t expected,
                         uint64_t found, const char *what, lk_error *err)
{
    return lk_fail_corrupt(err, source->path, source->offset + at, expected, found,
                           "block at %llu: %s", (unsigned long long)source->offset, what);
}

static lk_status parse_header(const uint8_t *data, size_t bytes, const lk_block_source *source,
                              lk_block_image *out, lk_error *err)
{
    if (bytes < LK_BLOCK_HEADER_BYTES) {
        return corrupt(source, 0, LK_BLOCK_HEADER_BYTES, bytes, "shorter than its header", err);
    }
    lk_reader r = lk_reader_make(data, LK_BLOCK_HEADER_BYTES);
    uint64_t stored = lk_reader_u64(&r);
    uint64_t computed = lk_hash_bytes(source->nonce, source->offset, data + 8, bytes - 8);
    if (stored != computed) {
        return corrupt(source, 0, stored, computed, "its checksum does not hold", err);
    }
    uint32_t whole = lk_reader_u32(&r);
    out->rows = lk_reader_u32(&r);
    uint8_t layout = lk_reader_u8(&r), codec = lk_reader_u8(&r), flags = lk_reader_u8(&r);
    out->key_end_width = lk_reader_u8(&r);
    out->value_end_width = lk_reader_u8(&r);
    out->seq_width = lk_reader_u8(&r);
    uint16_t columns = lk_reader_u16(&r);
    out->prefix_bytes = lk_reader_u16(&r);
    uint16_t zero = lk_reader_u16(&r);
    out->suffix_bytes = lk_reader_u32(&r);
    out->value_bytes = lk_reader_u32(&r);
    out->value_stored = lk_reader_u32(&r);
    out->seq_min = lk_reader_u64(&r);
    out->seq_max = lk_reader_u64(&r);
    out->tombstones = lk_reader_u32(&r);
    uint32_t zeros = lk_reader_u32(&r);
    if (layout != 0 || columns != 1 || zero != 0 || zeros != 0 ||
        (flags & ~(LK_BLOCK_FLAG_KINDS | LK_BLOCK_FLAG_VERSIONS)) != 0) {
        return lk_fail(err, LK_UNSUPPORTED, 0, source->path, source->offset + 16, 0, layout,
                       "block at %llu: its layout is not one that this version reads",
                       (unsigned long long)source->offset);
    }
    if (codec > LK_CODEC_ZSTD) {
        return lk_fail(err, LK_UNSUPPORTED, 0, source->path, source->offset + 17, LK_CODEC_ZSTD,
                       codec, "block at %llu: its codec is not one that this version reads",
                       (unsigned long long)source->offset);
    }
    if (whole != bytes) return corrupt(source, 8, bytes, whole, "its length is wrong", err);
    if (out->rows == 0) return corrupt(source, 12, 1, 0, "it has no rows", err);
    out->data = data;
    out->bytes = bytes;
    out->codec = (lk_codec)codec;
    out->unique = (flags & LK_BLOCK_FLAG_VERSIONS) == 0;
    out->kinds = (flags & LK_BLOCK_FLAG_KINDS) != 0 ? data : NULL; /* placed by parse_columns */
    return LK_OK;
}

static bool is_end_width(uint8_t width) { return width == 0 || width == 2 || width == 4; }

static lk_status check_lengths(const lk_block_image *im, const lk_block_source *source,
                               lk_error *err)
{
    uint8_t s = im->seq_width;
    if (!is_end_width(im->key_end_width) || !is_end_width(im->value_end_width) ||
        !(s == 0 || s == 1 || s == 2 || s == 4 || s == 8)) {
        return corrupt(source, 19, 0, 0, "the width of a column is none of those allowed", err);
    }
    if ((im->key_end_width == 0 && im->suffix_bytes % im->rows != 0) ||
        (im->value_end_width == 0 && im->value_bytes % im->rows != 0)) {
        return corrupt(source, 28, 0, im->rows, "a column of one width is no multiple of the rows",
                       err);
    }
    uint64_t prefixes = (uint64_t)im->prefix_bytes * im->rows;
    if (im->rows > 1 && prefixes > LK_BLOCK_PREFIX_EXPANSION_MAX) {
        return corrupt(source, 24, LK_BLOCK_PREFIX_EXPANSION_MAX, prefixes,
                       "its prefix is too long for so many rows", err);
    }
    if (prefixes + im->suffix_bytes > UINT32_MAX) {
        return corrupt(source, 28, UINT32_MAX, prefixes, "its keys are too long", err);
    }
    if (im->codec == LK_CODEC_NONE
            ? im->value_stored != im->value_bytes
            : im->value_bytes > lk_codec_expansion_max(im->codec, im->value_stored)) {
        return corrupt(source, 32, im->value_stored, im->value_bytes,
                       "its values cannot have the length it says", err);
    }
    if (im->seq_min > im->seq_max || (s == 0 && im->seq_min != im->seq_max) ||
        im->seq_max > UINT64_MAX - source->seq_base) {
        return corrupt(source, 40, im->seq_min, im->seq_max, "its sequences are out of order", err);
    }
    return LK_OK;
}

static lk_status parse_columns(lk_block_image *im, const lk_block_source *source, lk_error *err)
{
    size_t rows = im->rows;
    lk_reader r = lk_reader_make(im->data, im->bytes);
    (void)lk_reader_take(&r, LK_BLOCK_HEADER_BYTES);
    im->prefix = lk_reader_take(&r, im->prefix_bytes);
    im->key_ends = lk_reader_take(&r, im->key_end_width * rows);
    im->suffixes = lk_reader_take(&r, im->suffix_bytes);
    im->fingerprints = lk_reader_take(&r, rows);
    if (im->kinds != NULL) im->kinds = lk_reader_take(&r, rows);
    im->seqs = lk_reader_take(&r, im->seq_width * rows);
    im->value_ends = lk_reader_take(&r, im->value_end_width * rows);
    im->values = lk_reader_take(&r, im->value_stored);
    if (r.failed || r.pos != im->bytes) {
        return corrupt(source, 8, r.pos, im->bytes, "its columns are not as long as it is", err);
    }
    return LK_OK;
}

static inline uint64_t load_width(const uint8_t *column, uint8_t width, size_t i)
{
    switch (width) {
    case 1:
        return column[i];
    case 2:
        return lk_load16(column + 2 * i);
    case 4:
        return lk_load32(column + 4 * i);
    case 8:
        return lk_load64(column + 8 * i);
    default:
        return 0;
    }
}

/* The ends of a column ascend to its length, and no row is longer than `row_max`. */
static bool are_ends_good(const uint8_t *ends, uint8_t width, uint32_t rows, uint32_t bytes,
                          uint32_t row_max)
{
    if (width == 0) return bytes / rows <= row_max;
    uint64_t from = 0;
    bool good = true;
    for (uint32_t i = 0; i < rows; i++) {
        uint64_t to = load_width(ends, width, i);
        good &= to >= from && to - from <= row_max;
        from = to;
    }
    return good && from == bytes;
}

/* All are known, as many are deletes as it says, and values are as their kinds ask for. */
static bool are_kinds_good(const lk_block_image *im)
{
    uint32_t deletes = 0, bad = 0;
    uint64_t from = 0, width = im->value_bytes / im->rows;
    for (uint32_t i = 0; im->kinds != NULL && i < im->rows; i++) {
        uint8_t kind = im->kinds[i];
        uint64_t len = width;
        if (im->value_end_width > 0) {
            uint64_t to = load_width(im->value_ends, im->value_end_width, i);
            len = to - from;
            from = to;
        }
        deletes += kind == LK_KIND_DELETE;
        bad += !lk_kind_is_known(kind) || !lk_kind_fits((lk_kind)kind, len);
    }
    return bad == 0 && deletes == im->tombstones;
}

static lk_status check_columns(const lk_block_image *im, const lk_block_source *source,
                               lk_error *err)
{
    if (!are_ends_good(im->key_ends, im->key_end_width, im->rows, im->suffix_bytes,
                       LK_KEY_BYTES_MAX - im->prefix_bytes)) {
        return corrupt(source, (uint64_t)(im->key_ends - im->data), im->suffix_bytes, 0,
                       "the ends of its keys are out of order", err);
    }
    if (!are_ends_good(im->value_ends, im->value_end_width, im->rows, im->value_bytes,
                       LK_STORED_BYTES_MAX)) {
        return corrupt(source, (uint64_t)(im->value_ends - im->data), im->value_bytes, 0,
                       "the ends of its values are out of order", err);
    }
    if (!are_kinds_good(im)) {
        return corrupt(source, 56, im->tombstones, 0, "its kinds are not as it says", err);
    }
    uint64_t span = im->seq_max - im->seq_min;
    bool within = true;
    for (uint32_t i = 0; im->seq_width > 0 && i < im->rows; i++) {
        within &= load_width(im->seqs, im->seq_width, i) <= span;
    }
    if (!within) return corrupt(source, 48, im->seq_max, 0, "a sequence is over its limit", err);
    return LK_OK;
}

lk_status lk_block_parse(const uint8_t *data, size_t bytes, const lk_block_source *source,
                         lk_block_image *out, lk_error *err)
{
    lk_status st = LK_OK;
    *out = (lk_block_image){.data = NULL};
    LK_TRY(parse_header(data, bytes, source, out, err));
    LK_TRY(check_lengths(out, source, err));
    LK_TRY(parse_columns(out, source, err));
    LK_TRY(check_columns(out, source, err));
    out->seq_min += source->seq_base;
    out->seq_max += source->seq_base;
done:
    return st;
}

void lk_block_add_seq_base(uint8_t *data, uint64_t seq_base)
{
    lk_store64(data + SEQ_MIN_AT, lk_load64(data + SEQ_MIN_AT) + seq_base);
    lk_store64(data + SEQ_MIN_AT + 8, lk_load64(data + SEQ_MIN_AT + 8) + seq_base);
}

uint64_t lk_block_image_raw_bytes(const lk_block_image *image)
{
    return (uint64_t)image->prefix_bytes * image->rows + image->suffix_bytes + image->value_bytes;
}

lk_bytes lk_block_image_key(const lk_block_image *im, uint32_t row, uint8_t *scratch)
{
    LK_ASSERT(row < im->rows);
    if (row == 0) memcpy(scratch, im->prefix, im->prefix_bytes);
    uint64_t from, to;
    if (im->key_end_width == 0) {
        uint32_t width = im->suffix_bytes / im->rows;
        from = (uint64_t)row * width;
        to = from + width;
    } else {
        from = row == 0 ? 0 : load_width(im->key_ends, im->key_end_width, row - 1);
        to = load_width(im->key_ends, im->key_end_width, row);
    }
    memcpy(scratch + im->prefix_bytes, im->suffixes + from, (size_t)(to - from));
    return (lk_bytes){scratch, im->prefix_bytes + (size_t)(to - from)};
}

/* ---- decoding ---- */

/* Where the columns stand in the one allocation; `bytes` is its length. */
typedef struct block_plan {
    size_t seqs, key_offsets, value_offsets, kinds, keys, values, bytes;
    size_t key_bytes;
} block_plan;

static block_plan plan_make(const lk_block_image *im)
{
    size_t rows = im->rows, at = FINGERPRINTS_AT + (size_t)lk_align_up(rows, STEP);
    block_plan plan = {.key_bytes = (size_t)im->prefix_bytes * rows + im->suffix_bytes};
    plan.seqs = at;
    at += im->seq_width > 0 ? rows * sizeof(uint64_t) : 0;
    plan.key_offsets = at;
    at += im->key_end_width > 0 ? (rows + 1) * sizeof(uint32_t) : 0;
    plan.value_offsets = at;
    at += im->value_end_width > 0 ? (rows + 1) * sizeof(uint32_t) : 0;
    plan.kinds = at;
    at += im->kinds != NULL ? rows : 0;
    plan.keys = at;
    at += plan.key_bytes;
    plan.values = at;
    plan.bytes = lk_block_memory_size(at + im->value_bytes + TAIL_BYTES);
    return plan;
}

/* Keys of one width: prefix and suffix side by side, again and again. */
static void fill_keys_fixed(const lk_block_image *im, uint8_t *keys)
{
    size_t prefix = im->prefix_bytes, width = im->suffix_bytes / im->rows;
    const uint8_t *suffix = im->suffixes;
    if (prefix == 0) {
        if (width > 0) memcpy(keys, suffix, im->suffix_bytes);
        return;
    }
    for (uint32_t i = 0; i < im->rows; i++) {
        memcpy(keys, im->prefix, prefix);
        memcpy(keys + prefix, suffix, width);
        keys += prefix + width;
        suffix += width;
    }
}

static void fill_keys(const lk_block_image *im, uint8_t *keys, uint32_t *offsets)
{
    uint64_t from = 0;
    uint8_t *p = keys;
    for (uint32_t i = 0; i < im->rows; i++) {
        uint64_t to = load_width(im->key_ends, im->key_end_width, i);
        offsets[i] = (uint32_t)(p - keys);
        memcpy(p, im->prefix, im->prefix_bytes);
        p += im->prefix_bytes;
        memcpy(p, im->suffixes + from, (size_t)(to - from));
        p += to - from;
        from = to;
    }
    offsets[im->rows] = (uint32_t)(p - keys);
}

static void fill_value_offsets(const lk_block_image *im, uint32_t *offsets)
{
    offsets[0] = 0;
    for (uint32_t i = 0; i < im->rows; i++) {
        offsets[i + 1] = (uint32_t)load_width(im->value_ends, im->value_end_width, i);
    }
}

static void fill_columns(const lk_block_image *im, const block_plan *plan, lk_block *b)
{
    uint8_t *base = (uint8_t *)b;
    uint32_t rows = im->rows;
    memcpy(base + FINGERPRINTS_AT, im->fingerprints, rows);
    memset(base + FINGERPRINTS_AT + rows, 0, plan->seqs - FINGERPRINTS_AT - rows);
    b->fingerprints = base + FINGERPRINTS_AT;
    if (im->seq_width > 0) {
        uint64_t *seqs = (uint64_t *)(void *)(base + plan->seqs);
        for (uint32_t i = 0; i < rows; i++) {
            seqs[i] = im->seq_min + load_width(im->seqs, im->seq_width, i);
        }
        b->seqs = seqs;
    }
    b->keys = base + plan->keys;
    if (im->key_end_width > 0) {
        uint32_t *offsets = (uint32_t *)(void *)(base + plan->key_offsets);
        fill_keys(im, base + plan->keys, offsets);
        b->key_offsets = offsets;
    } else {
        b->key_width = im->prefix_bytes + im->suffix_bytes / rows;
        fill_keys_fixed(im, base + plan->keys);
    }
    b->values = base + plan->values;
    if (im->value_end_width > 0) {
        uint32_t *offsets = (uint32_t *)(void *)(base + plan->value_offsets);
        fill_value_offsets(im, offsets);
        b->value_offsets = offsets;
    } else {
        b->value_width = im->value_bytes / rows;
    }
    if (im->kinds != NULL) {
        memcpy(base + plan->kinds, im->kinds, rows);
        b->kinds = base + plan->kinds;
    }
}

lk_status lk_block_decode(const lk_block_image *image, const lk_block_source *source,
                          lk_block **out, lk_error *err)
{
    *out = NULL;
    block_plan plan = plan_make(image);
    lk_block *b = lk_block_memory_take(plan.bytes);
    if (b == NULL) return lk_fail_nomem(err, plan.bytes);
    memset(b, 0, sizeof *b);
    atomic_init(&b->refs, 1);
    b->rows = image->rows;
    b->bytes = plan.bytes;
    b->seq_min = image->seq_min;
    b->seq_max = image->seq_max;
    b->unique = image->unique;
    fill_columns(image, &plan, b);
    if (!lk_codec_decompress(image->codec, image->values, image->value_stored,
                             (uint8_t *)b + plan.values, image->value_bytes)) {
        lk_block_memory_give(b, plan.bytes);
        return corrupt(source, (uint64_t)(image->values - image->data), image->value_bytes, 0,
                       "its values do not decompress", err);
    }
    *out = b;
    return LK_OK;
}

void lk_block_unref(lk_block *b)
{
    if (b == NULL) return;
    uint32_t before = atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel);
    LK_ASSERT(before > 0);
    if (before == 1) lk_block_memory_give(b, b->bytes);
}

/* ---- looking up ---- */

/* Bit i: fingerprint i of the 16 at `p` is `wanted`. */
static inline uint32_t match_step(const uint8_t *p, uint8_t wanted)
{
#if defined(__SSE2__)
    __m128i same = _mm_cmpeq_epi8(_mm_load_si128((const __m128i *)(const void *)p),
                                  _mm_set1_epi8((char)wanted));
    return (uint32_t)_mm_movemask_epi8(same);
#elif defined(__ARM_NEON) && defined(__aarch64__)
    static const uint8_t BITS[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x16_t same = vandq_u8(vceqq_u8(vld1q_u8(p), vdupq_n_u8(wanted)), vld1q_u8(BITS));
    return (uint32_t)vaddv_u8(vget_low_u8(same)) | (uint32_t)vaddv_u8(vget_high_u8(same)) << 8;
#else
    uint32_t bits = 0;
    for (uint32_t i = 0; i < STEP; i++) bits |= (uint32_t)(p[i] == wanted) << i;
    return bits;
#endif
}

uint32_t lk_block_candidate(const lk_block *b, uint64_t hash, uint32_t from)
{
    uint8_t wanted = lk_hash_fingerprint(hash);
    uint32_t at = from & ~(uint32_t)(STEP - 1);
    uint32_t skip = ~UINT32_C(0) << (from - at);
    for (; at < b->rows; at += STEP, skip = ~UINT32_C(0)) {
        uint32_t bits = match_step(b->fingerprints + at, wanted) & skip;
        /* A match in the padding begins at row `rows`, which says that there is none. */
        if (bits != 0) return at + (uint32_t)__builtin_ctz(bits);
    }
    return b->rows;
}

static inline bool is_key_equal(const uint8_t *a, const uint8_t *b, size_t n)
{
    if (n < 8) {
        for (size_t i = 0; i < n; i++) {
            if (a[i] != b[i]) return false;
        }
        return true;
    }
    for (size_t i = 0; i + 8 < n; i += 8) {
        if (lk_load64(a + i) != lk_load64(b + i)) return false;
    }
    return lk_load64(a + n - 8) == lk_load64(b + n - 8);
}

static inline bool is_row_key(const lk_block *b, uint32_t row, const uint8_t *key, size_t key_len)
{
    lk_bytes k = lk_block_key(b, row);
    return k.len == key_len && is_key_equal(k.data, key, key_len);
}

uint32_t lk_block_find_from(const lk_block *b, uint32_t candidate, const uint8_t *key,
                            size_t key_len, uint64_t hash, uint64_t seq)
{
    uint32_t row = candidate;
    while (row < b->rows && !is_row_key(b, row, key, key_len)) {
        row = lk_block_candidate(b, hash, row + 1);
    }
    /* Versions of the key follow, newest first. */
    while (row < b->rows && lk_block_seq(b, row) > seq) {
        row++;
        if (b->unique || row == b->rows || !is_row_key(b, row, key, key_len)) return b->rows;
    }
    return row;
}

uint32_t lk_block_find(const lk_block *b, const uint8_t *key, size_t key_len, uint64_t hash,
                       uint64_t seq)
{
    uint32_t row = lk_block_candidate(b, hash, 0);
    /* The value is fetched while the key is compared. */
    if (b->value_offsets == NULL) {
        __builtin_prefetch(b->values + (size_t)row * b->value_width);
        __builtin_prefetch(b->values + (size_t)row * b->value_width + 64);
    } else {
        __builtin_prefetch(b->value_offsets + row);
    }
    return lk_block_find_from(b, row, key, key_len, hash, seq);
}

uint32_t lk_block_lower_bound(const lk_block *b, const uint8_t *key, size_t key_len)
{
    uint32_t low = 0, count = b->rows;
    while (count > 0) {
        uint32_t half = count / 2;
        lk_bytes middle = lk_block_key(b, low + half);
        bool less = lk_key_compare(middle.data, middle.len, key, key_len) < 0;
        low = less ? low + half + 1 : low;
        count = less ? count - half - 1 : half;
    }
    return low;
}

/* ---- checking ---- */

lk_status lk_block_check(const lk_block *b, uint32_t tree, const lk_block_source *source,
                         lk_error *err)
{
    bool unique = true;
    for (uint32_t i = 0; i < b->rows; i++) {
        lk_bytes key = lk_block_key(b, i);
        uint8_t print = lk_hash_fingerprint(lk_hash_key(tree, key.data, key.len));
        if (print != b->fingerprints[i]) {
            return corrupt(source, 0, print, b->fingerprints[i],
                           "a fingerprint is not that of its key", err);
        }
        if (i == 0) continue;
        lk_bytes before = lk_block_key(b, i - 1);
        int order = lk_key_compare(before.data, before.len, key.data, key.len);
        if (order > 0 || (order == 0 && lk_block_seq(b, i - 1) <= lk_block_seq(b, i))) {
            return corrupt(source, 0, i - 1, i, "its rows are out of order", err);
        }
        unique &= order != 0;
    }
    if (unique != b->unique) {
        return corrupt(source, 18, unique, b->unique, "what it says of versions is wrong", err);
    }
    return LK_OK;
}
