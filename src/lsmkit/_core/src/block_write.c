/* block_write.c: encoding of a block; block.c is its reader.
 *
 * The loop over rows copies each key and value once into columns. At the end the common prefix is
 * that of the first and the last key, since they are sorted, and the rest is copied straight into
 * the caller's output buffer. Lengths are watched while adding, so that columns of one width, the
 * usual case, need no second look.
 */
#include "block_write.h"

#include <stdlib.h>

#include "check.h"
#include "hash.h"

enum {
    ROWS_MIN = 256,
    COLUMN_BYTES_MIN = 32768,
    COLUMN_BYTES_KEPT = 8 << 20, /* a larger staging column is given back after its block */
    GAIN_SHARE = 16, /* compressed values are kept when they save 1/16: else reading is dearer */
};

lk_status lk_block_writer_init(lk_block_writer *w, lk_codec codec, lk_error *err)
{
    *w = (lk_block_writer){.seq_min = UINT64_MAX, .deadline_min = UINT64_MAX};
    return lk_compressor_init(&w->compressor, codec, err);
}

void lk_block_writer_deinit(lk_block_writer *w)
{
    lk_compressor_deinit(&w->compressor);
    free(w->keys);
    free(w->values);
    free(w->key_ends);
    free(w->value_ends);
    free(w->fingerprints);
    free(w->kinds);
    free(w->seqs);
    *w = (lk_block_writer){.rows = 0};
}

static lk_status grow_bytes(uint8_t **column, size_t *capacity, size_t need, lk_error *err)
{
    size_t bytes = *capacity < COLUMN_BYTES_MIN ? COLUMN_BYTES_MIN : 2 * *capacity;
    if (bytes < need) bytes = need;
    uint8_t *grown = realloc(*column, bytes);
    if (grown == NULL) return lk_fail_nomem(err, bytes);
    *column = grown;
    *capacity = bytes;
    return LK_OK;
}

static lk_status grow_column(void **column, size_t bytes, lk_error *err)
{
    void *grown = realloc(*column, bytes);
    if (grown == NULL) return lk_fail_nomem(err, bytes);
    *column = grown;
    return LK_OK;
}

static lk_status grow_rows(lk_block_writer *w, lk_error *err)
{
    lk_status st = LK_OK;
    size_t n = w->row_capacity < ROWS_MIN ? ROWS_MIN : 2 * (size_t)w->row_capacity;
    LK_TRY(grow_column((void **)&w->key_ends, n * sizeof *w->key_ends, err));
    LK_TRY(grow_column((void **)&w->value_ends, n * sizeof *w->value_ends, err));
    LK_TRY(grow_column((void **)&w->fingerprints, n, err));
    LK_TRY(grow_column((void **)&w->kinds, n, err));
    LK_TRY(grow_column((void **)&w->seqs, n * sizeof *w->seqs, err));
    w->row_capacity = (uint32_t)n;
done:
    return st;
}

/* Room for one more row. Cold: most rows find it. */
static __attribute__((noinline)) lk_status make_room(lk_block_writer *w, const lk_row *row,
                                                     lk_error *err)
{
    lk_status st = LK_OK;
    uint64_t raw = (uint64_t)lk_block_writer_raw_bytes(w) + row->key_len + row->value_len;
    /* 24 bytes are what the other columns can take of a row. */
    uint64_t other = ((uint64_t)w->rows + 1) * 24 + LK_BLOCK_HEADER_BYTES;
    if (raw + other > LK_BLOCK_RAW_MAX) {
        return lk_fail(err, LK_INVALID, 0, NULL, 0, LK_BLOCK_RAW_MAX, raw + other,
                       "versions of one key that must stand together have %llu bytes, over the "
                       "limit of %llu",
                       (unsigned long long)(raw + other), (unsigned long long)LK_BLOCK_RAW_MAX);
    }
    if (w->rows == w->row_capacity) LK_TRY(grow_rows(w, err));
    if (w->key_bytes + row->key_len > w->key_capacity) {
        LK_TRY(grow_bytes(&w->keys, &w->key_capacity, w->key_bytes + row->key_len, err));
    }
    if (w->value_bytes + row->value_len > w->value_capacity) {
        LK_TRY(grow_bytes(&w->values, &w->value_capacity, w->value_bytes + row->value_len, err));
    }
done:
    return st;
}

/* Keys are short: two overlapping moves are cheaper than a call. */
static inline void copy_short(uint8_t *out, const uint8_t *in, size_t n)
{
    if (n > 32) {
        memcpy(out, in, n);
    } else if (n > 16) {
        memcpy(out, in, 16);
        memcpy(out + n - 16, in + n - 16, 16);
    } else if (n >= 8) {
        uint64_t head = lk_load64(in), tail = lk_load64(in + n - 8);
        lk_store64(out, head);
        lk_store64(out + n - 8, tail);
    } else {
        for (size_t i = 0; i < n; i++) out[i] = in[i];
    }
}

/* Counts a row that is no plain put. Cold: most are. */
static __attribute__((noinline)) void note_special(lk_block_writer *w, const lk_row *row)
{
    LK_ASSERT(lk_kind_is_known(row->kind) && lk_kind_fits(row->kind, row->value_len));
    LK_ASSERT(row->kind != LK_KIND_DELETE || row->value_len == 0);
    w->specials++;
    w->tombstones += row->kind == LK_KIND_DELETE;
    w->operands += lk_kind_is_merge(row->kind);
    if ((row->kind & LK_KIND_UNTIL) == 0) return;
    uint64_t deadline = lk_kind_deadline(row->kind, row->value);
    w->deadlines++;
    if (deadline < w->deadline_min) w->deadline_min = deadline;
    if (deadline > w->deadline_max) w->deadline_max = deadline;
}

lk_status lk_block_writer_add(lk_block_writer *w, const lk_row *row, bool is_version, lk_error *err)
{
    LK_ASSERT(row->key_len <= LK_KEY_BYTES_MAX && row->value_len <= LK_STORED_BYTES_MAX);
    size_t key_end = w->key_bytes + row->key_len;
    size_t value_end = w->value_bytes + row->value_len;
    /* The half of the limit is far above any block that holds more than one key. */
    if (LK_UNLIKELY(w->rows == w->row_capacity || key_end > w->key_capacity ||
                    value_end > w->value_capacity || key_end + value_end > LK_BLOCK_RAW_MAX / 2)) {
        lk_status st = make_room(w, row, err);
        if (st != LK_OK) return st;
    }
    uint32_t i = w->rows;
    copy_short(w->keys + w->key_bytes, row->key, row->key_len);
    if (row->value_len > 0) memcpy(w->values + w->value_bytes, row->value, row->value_len);
    w->key_ends[i] = (uint32_t)key_end;
    w->value_ends[i] = (uint32_t)value_end;
    w->fingerprints[i] = lk_hash_fingerprint(row->hash);
    w->kinds[i] = (uint8_t)row->kind;
    w->seqs[i] = row->seq;
    if (i == 0) {
        w->first_key_len = row->key_len;
        w->first_value_len = row->value_len;
    }
    w->key_len_mix |= row->key_len ^ w->first_key_len;
    w->value_len_mix |= row->value_len ^ w->first_value_len;
    w->seq_min = row->seq < w->seq_min ? row->seq : w->seq_min;
    w->seq_max = row->seq > w->seq_max ? row->seq : w->seq_max;
    if (LK_UNLIKELY(row->kind != LK_KIND_PUT)) note_special(w, row);
    w->has_versions |= is_version;
    w->key_bytes = key_end;
    w->value_bytes = value_end;
    w->rows = i + 1;
    return LK_OK;
}

size_t lk_block_writer_bound(const lk_block_writer *w)
{
    size_t compressed = lk_codec_bound(w->compressor.codec, w->value_bytes);
    if (compressed < w->value_bytes) compressed = w->value_bytes;
    return LK_BLOCK_HEADER_BYTES + w->key_bytes + compressed + (size_t)w->rows * 24;
}

static uint8_t seq_width(uint64_t span)
{
    if (span == 0) return 0;
    if (span <= UINT8_MAX) return 1;
    if (span <= UINT16_MAX) return 2;
    return span <= UINT32_MAX ? 4 : 8;
}

static uint8_t *put_ends(uint8_t *out, const uint32_t *ends, uint32_t rows, uint32_t step,
                         uint8_t width)
{
    /* `step` is what each row's key leaves out: the prefix. */
    uint32_t left_out = step;
    if (width == 2) {
        for (uint32_t i = 0; i < rows; i++, left_out += step) {
            lk_store16(out + 2 * (size_t)i, (uint16_t)(ends[i] - left_out));
        }
    } else if (width == 4) {
        for (uint32_t i = 0; i < rows; i++, left_out += step) {
            lk_store32(out + 4 * (size_t)i, ends[i] - left_out);
        }
    }
    return out + (size_t)width * rows;
}

static uint8_t *put_suffixes(const lk_block_writer *w, uint32_t prefix, uint8_t *out)
{
    if (prefix == 0) {
        if (w->key_bytes > 0) memcpy(out, w->keys, w->key_bytes);
        return out + w->key_bytes;
    }
    uint32_t from = 0;
    for (uint32_t i = 0; i < w->rows; i++) {
        size_t n = w->key_ends[i] - from - prefix;
        copy_short(out, w->keys + from + prefix, n);
        out += n;
        from = w->key_ends[i];
    }
    return out;
}

static uint8_t *put_seqs(const lk_block_writer *w, uint8_t width, uint8_t *out)
{
    uint64_t base = w->seq_min;
    uint32_t rows = w->rows;
    switch (width) {
    case 1:
        for (uint32_t i = 0; i < rows; i++) out[i] = (uint8_t)(w->seqs[i] - base);
        break;
    case 2:
        for (uint32_t i = 0; i < rows; i++) {
            lk_store16(out + 2 * (size_t)i, (uint16_t)(w->seqs[i] - base));
        }
        break;
    case 4:
        for (uint32_t i = 0; i < rows; i++) {
            lk_store32(out + 4 * (size_t)i, (uint32_t)(w->seqs[i] - base));
        }
        break;
    case 8:
        for (uint32_t i = 0; i < rows; i++) {
            lk_store64(out + 8 * (size_t)i, w->seqs[i] - base);
        }
        break;
    default:
        break;
    }
    return out + (size_t)width * rows;
}

/* Bytes of the prefix that all keys share, no more than a reader accepts. */
static uint32_t common_prefix(const lk_block_writer *w)
{
    lk_bytes last = lk_block_writer_last_key(w);
    size_t n = lk_common_prefix(w->keys, w->first_key_len, last.data, last.len);
    if (n * w->rows > LK_BLOCK_PREFIX_EXPANSION_MAX && w->rows > 1) {
        n = LK_BLOCK_PREFIX_EXPANSION_MAX / w->rows;
    }
    return (uint32_t)n;
}

/* Compressed into `out`, or as they are. */
static size_t put_values(lk_block_writer *w, uint8_t *out, lk_codec *out_codec)
{
    size_t raw = w->value_bytes;
    *out_codec = w->compressor.codec;
    size_t stored = 0;
    if (*out_codec != LK_CODEC_NONE) {
        stored =
            lk_compressor_run(&w->compressor, w->values, raw, out, lk_codec_bound(*out_codec, raw));
    }
    if (stored == 0 || stored > raw - raw / GAIN_SHARE) {
        *out_codec = LK_CODEC_NONE;
        if (raw > 0) memcpy(out, w->values, raw);
        stored = raw;
    }
    return stored;
}

static void trim(uint8_t **column, size_t *capacity)
{
    if (*capacity <= COLUMN_BYTES_KEPT) return;
    free(*column);
    *column = NULL;
    *capacity = 0;
}

static void reset(lk_block_writer *w)
{
    w->key_bytes = w->value_bytes = 0;
    w->rows = w->tombstones = w->specials = w->operands = w->deadlines = 0;
    w->deadline_min = UINT64_MAX;
    w->deadline_max = 0;
    w->seq_min = UINT64_MAX;
    w->seq_max = 0;
    w->key_len_mix = w->value_len_mix = 0;
    w->has_versions = false;
    trim(&w->keys, &w->key_capacity);
    trim(&w->values, &w->value_capacity);
}

size_t lk_block_writer_finish(lk_block_writer *w, uint64_t nonce, uint64_t offset, uint8_t *out)
{
    LK_ASSERT(w->rows > 0);
    uint32_t rows = w->rows, prefix = common_prefix(w);
    uint32_t suffix_bytes = (uint32_t)(w->key_bytes - (size_t)prefix * rows);
    uint8_t key_ends = w->key_len_mix == 0 ? 0 : suffix_bytes <= UINT16_MAX ? 2 : 4;
    uint8_t value_ends = w->value_len_mix == 0 ? 0 : w->value_bytes <= UINT16_MAX ? 2 : 4;
    uint8_t seqs = seq_width(w->seq_max - w->seq_min);

    uint8_t *p = out + LK_BLOCK_HEADER_BYTES;
    if (prefix > 0) memcpy(p, w->keys, prefix);
    p = put_ends(p + prefix, w->key_ends, rows, prefix, key_ends);
    p = put_suffixes(w, prefix, p);
    memcpy(p, w->fingerprints, rows);
    p += rows;
    if (w->specials > 0) {
        memcpy(p, w->kinds, rows);
        p += rows;
    }
    p = put_seqs(w, seqs, p);
    p = put_ends(p, w->value_ends, rows, 0, value_ends);
    lk_codec codec;
    size_t stored = put_values(w, p, &codec);
    size_t bytes = (size_t)(p - out) + stored;
    LK_ASSERT(bytes <= lk_block_writer_bound(w) && bytes <= UINT32_MAX);

    memset(out, 0, LK_BLOCK_HEADER_BYTES);
    lk_store32(out + 8, (uint32_t)bytes);
    lk_store32(out + 12, rows);
    out[17] = (uint8_t)codec;
    out[18] = (uint8_t)((w->specials > 0 ? LK_BLOCK_FLAG_KINDS : 0) |
                        (w->has_versions ? LK_BLOCK_FLAG_VERSIONS : 0));
    out[19] = key_ends;
    out[20] = value_ends;
    out[21] = seqs;
    lk_store16(out + 22, 1);
    lk_store16(out + 24, (uint16_t)prefix);
    lk_store32(out + 28, suffix_bytes);
    lk_store32(out + 32, (uint32_t)w->value_bytes);
    lk_store32(out + 36, (uint32_t)stored);
    lk_store64(out + 40, w->seq_min);
    lk_store64(out + 48, w->seq_max);
    lk_store32(out + 56, w->tombstones);
    lk_store64(out, lk_hash_bytes(nonce, offset, out + 8, bytes - 8));
    reset(w);
    return bytes;
}
