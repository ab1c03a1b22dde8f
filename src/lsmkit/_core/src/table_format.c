/* table_format.c: footer and properties, both ways.
 *
 * Footer, little-endian, the last 128 bytes (FORMAT.md, Tables, is the authority):
 *   0       8         12     16      24     32      40       56      72           88      120
 *   +-------+---------+------+-------+------+-------+--------+-------+------------+-------+----------+
 *   | magic | version | zero | nonce | file | bytes | filter | index | properties | zeros | checksum |
 *   +-------+---------+------+-------+------+-------+--------+-------+------------+-------+----------+
 */
#include "table_format.h"

#include "check.h"
#include "hash.h"

static const char MAGIC[8] = {'l', 's', 'm', 'k', '-', 's', 's', 't'};

enum { CHECKSUM_AT = 120, ZEROS_AT = 88 };

static void put_place(uint8_t *out, lk_table_place place)
{
    lk_store64(out, place.offset);
    lk_store64(out + 8, place.bytes);
}

static lk_table_place get_place(lk_reader *r)
{
    uint64_t offset = lk_reader_u64(r);
    return (lk_table_place){offset, lk_reader_u64(r)};
}

void lk_table_footer_encode(const lk_table_footer *footer, uint8_t *out)
{
    memset(out, 0, LK_TABLE_FOOTER_BYTES);
    memcpy(out, MAGIC, sizeof MAGIC);
    lk_store32(out + 8, LK_TABLE_VERSION);
    lk_store64(out + 16, footer->nonce);
    lk_store64(out + 24, footer->file);
    lk_store64(out + 32, footer->bytes);
    put_place(out + 40, footer->filter);
    put_place(out + 56, footer->index);
    put_place(out + 72, footer->properties);
    uint64_t at = footer->bytes - LK_TABLE_FOOTER_BYTES;
    lk_store64(out + CHECKSUM_AT, lk_hash_bytes(footer->nonce, at, out, CHECKSUM_AT));
}

static bool is_place_at(lk_table_place place, uint64_t from, uint64_t end, uint64_t *out_next)
{
    if (place.offset != from || place.bytes > end - from) return false;
    *out_next = from + place.bytes;
    return true;
}

/* Filter, index and properties fill the file between the data blocks and the footer. */
static bool are_places_good(const lk_table_footer *f, uint64_t end)
{
    uint64_t next = f->filter.offset;
    return f->filter.offset <= end && is_place_at(f->filter, next, end, &next) &&
           is_place_at(f->index, next, end, &next) &&
           is_place_at(f->properties, next, end, &next) && next == end;
}

lk_status lk_table_footer_parse(const uint8_t *data, const char *path, uint64_t offset,
                                lk_table_footer *out, lk_error *err)
{
    lk_reader r = lk_reader_make(data, LK_TABLE_FOOTER_BYTES);
    *out = (lk_table_footer){.nonce = 0};
    const uint8_t *magic = lk_reader_take(&r, sizeof MAGIC);
    uint32_t version = lk_reader_u32(&r);
    (void)lk_reader_u32(&r);
    out->nonce = lk_reader_u64(&r);
    out->file = lk_reader_u64(&r);
    out->bytes = lk_reader_u64(&r);
    out->filter = get_place(&r);
    out->index = get_place(&r);
    out->properties = get_place(&r);
    (void)lk_reader_take(&r, CHECKSUM_AT - ZEROS_AT);
    uint64_t stored = lk_reader_u64(&r);
    uint64_t computed = lk_hash_bytes(out->nonce, offset, data, CHECKSUM_AT);
    LK_ASSERT(!r.failed);
    if (memcmp(magic, MAGIC, sizeof MAGIC) != 0) {
        return lk_fail_corrupt(err, path, offset, lk_load64(MAGIC), lk_load64(magic),
                               "the file does not end with the footer of a table");
    }
    if (stored != computed) {
        return lk_fail_corrupt(err, path, offset, stored, computed,
                               "the checksum of the footer does not hold");
    }
    if (version != LK_TABLE_VERSION) {
        return lk_fail(err, LK_UNSUPPORTED, 0, path, offset + 8, LK_TABLE_VERSION, version,
                       "the table has format version %u; this code reads version %d", version,
                       LK_TABLE_VERSION);
    }
    if (out->bytes != offset + LK_TABLE_FOOTER_BYTES || !are_places_good(out, offset)) {
        return lk_fail_corrupt(err, path, offset + 32, offset + LK_TABLE_FOOTER_BYTES, out->bytes,
                               "the parts that the footer names do not fill the file");
    }
    return LK_OK;
}

/* ---- properties ---- */

/* In the order of their names, as rows of a block must be. */
enum {
    PROP_BLOBS,
    PROP_BLOCK_BYTES,
    PROP_BLOCKS,
    PROP_CODEC,
    PROP_DEADLINE_MAX,
    PROP_DEADLINE_MIN,
    PROP_DEADLINES,
    PROP_FILE,
    PROP_FILTER_BITS,
    PROP_MAX_KEY,
    PROP_MIN_KEY,
    PROP_OPERANDS,
    PROP_RAW_BYTES,
    PROP_ROWS,
    PROP_SEQ_BASE,
    PROP_SEQ_MAX,
    PROP_SEQ_MIN,
    PROP_TOMBSTONES,
    PROP_TREE,
    PROP_COUNT,
};

static const char *const PROP_NAMES[PROP_COUNT] = {
    [PROP_BLOBS] = "blobs",
    [PROP_BLOCK_BYTES] = "block_bytes",
    [PROP_BLOCKS] = "blocks",
    [PROP_CODEC] = "codec",
    [PROP_DEADLINE_MAX] = "deadline_max",
    [PROP_DEADLINE_MIN] = "deadline_min",
    [PROP_DEADLINES] = "deadlines",
    [PROP_FILE] = "file",
    [PROP_FILTER_BITS] = "filter_bits",
    [PROP_MAX_KEY] = "max_key",
    [PROP_MIN_KEY] = "min_key",
    [PROP_OPERANDS] = "operands",
    [PROP_RAW_BYTES] = "raw_bytes",
    [PROP_ROWS] = "rows",
    [PROP_SEQ_BASE] = "seq_base",
    [PROP_SEQ_MAX] = "seq_max",
    [PROP_SEQ_MIN] = "seq_min",
    [PROP_TOMBSTONES] = "tombstones",
    [PROP_TREE] = "tree",
};

static uint64_t number_of(const lk_table_properties *props, int which)
{
    switch (which) {
    case PROP_BLOCK_BYTES:
        return props->block_bytes;
    case PROP_BLOCKS:
        return props->blocks;
    case PROP_CODEC:
        return (uint64_t)props->codec;
    case PROP_DEADLINE_MAX:
        return props->deadline_max;
    case PROP_DEADLINE_MIN:
        return props->deadline_min;
    case PROP_DEADLINES:
        return props->deadlines;
    case PROP_FILE:
        return props->file;
    case PROP_FILTER_BITS:
        return props->filter_bits;
    case PROP_OPERANDS:
        return props->operands;
    case PROP_RAW_BYTES:
        return props->raw_bytes;
    case PROP_ROWS:
        return props->rows;
    case PROP_SEQ_BASE:
        return props->seq_base;
    case PROP_SEQ_MAX:
        return props->seq_max;
    case PROP_SEQ_MIN:
        return props->seq_min;
    case PROP_TOMBSTONES:
        return props->tombstones;
    case PROP_TREE:
        return props->tree;
    default:
        return 0;
    }
}

/* Of rows that most tables do not have: absent stands for 0. */
static bool is_optional(int which)
{
    return which == PROP_BLOBS || which == PROP_OPERANDS || which == PROP_DEADLINES ||
           which == PROP_DEADLINE_MIN || which == PROP_DEADLINE_MAX || which == PROP_SEQ_BASE;
}

lk_status lk_table_properties_add(const lk_table_properties *props, lk_block_writer *w,
                                  lk_error *err)
{
    LK_ASSERT(w->rows == 0);
    for (int i = 0; i < PROP_COUNT; i++) {
        uint8_t number[8];
        bool is_zero = i == PROP_BLOBS ? props->uses.len == 0 : number_of(props, i) == 0;
        if (is_optional(i) && is_zero) continue;
        lk_store64(number, number_of(props, i));
        lk_bytes value = i == PROP_MIN_KEY   ? props->min_key
                         : i == PROP_BLOBS   ? props->uses
                         : i == PROP_MAX_KEY ? props->max_key
                                             : (lk_bytes){number, sizeof number};
        const uint8_t *name = (const uint8_t *)PROP_NAMES[i];
        size_t name_len = strlen(PROP_NAMES[i]);
        lk_row row = {.key = name,
                      .key_len = (uint32_t)name_len,
                      .value = value.data,
                      .value_len = (uint32_t)value.len,
                      .hash = lk_hash_key(0, name, name_len),
                      .kind = LK_KIND_PUT};
        lk_status st = lk_block_writer_add(w, &row, false, err);
        if (st != LK_OK) return st;
    }
    return LK_OK;
}

static lk_status find_value(const lk_block *b, int which, const lk_block_source *source,
                            lk_bytes *out, lk_error *err)
{
    const uint8_t *name = (const uint8_t *)PROP_NAMES[which];
    size_t len = strlen(PROP_NAMES[which]);
    uint32_t row = lk_block_find(b, name, len, lk_hash_key(0, name, len), LK_SEQ_MAX);
    if (row == b->rows && is_optional(which)) return LK_OK; /* `*out` stays */
    if (row == b->rows) {
        return lk_fail_corrupt(err, source->path, source->offset, 0, 0, "the properties lack %s",
                               PROP_NAMES[which]);
    }
    *out = lk_block_value(b, row);
    return LK_OK;
}

static lk_status find_number(const lk_block *b, int which, const lk_block_source *source,
                             uint64_t max, uint64_t *out, lk_error *err)
{
    static const uint8_t ZERO[8];
    lk_bytes value = {ZERO, sizeof ZERO};
    lk_status st = find_value(b, which, source, &value, err);
    if (st != LK_OK) return st;
    *out = value.len == 8 ? lk_load64(value.data) : 0;
    if (value.len != 8 || *out > max) {
        return lk_fail_corrupt(err, source->path, source->offset, max, *out,
                               "the property %s is out of range", PROP_NAMES[which]);
    }
    return LK_OK;
}

static lk_status find_uses(const lk_block *b, const lk_block_source *source, lk_bytes *out,
                           lk_error *err)
{
    lk_status st = find_value(b, PROP_BLOBS, source, out, err);
    if (st != LK_OK) return st;
    bool good = out->len % LK_BLOB_USE_BYTES == 0;
    uint64_t before = 0;
    for (size_t at = 0; good && at < out->len; at += LK_BLOB_USE_BYTES) {
        lk_blob_use use = lk_blob_use_decode(out->data + at);
        good = use.file > before && use.size >= LK_BLOB_HEADER_BYTES;
        before = use.file;
    }
    if (good) return LK_OK;
    return lk_fail_corrupt(err, source->path, source->offset, 0, out->len,
                           "the property %s is no list of files of values", PROP_NAMES[PROP_BLOBS]);
}

lk_status lk_table_properties_parse(const lk_block *b, const lk_block_source *source,
                                    lk_table_properties *out, lk_error *err)
{
    lk_status st = LK_OK;
    uint64_t tree = 0, block_bytes = 0, filter_bits = 0, codec = 0;
    *out = (lk_table_properties){.file = 0};
    LK_TRY(find_number(b, PROP_FILE, source, UINT64_MAX, &out->file, err));
    LK_TRY(find_number(b, PROP_ROWS, source, UINT64_MAX, &out->rows, err));
    LK_TRY(find_number(b, PROP_TOMBSTONES, source, UINT64_MAX, &out->tombstones, err));
    LK_TRY(find_number(b, PROP_OPERANDS, source, UINT64_MAX, &out->operands, err));
    LK_TRY(find_number(b, PROP_DEADLINES, source, UINT64_MAX, &out->deadlines, err));
    LK_TRY(find_number(b, PROP_DEADLINE_MIN, source, UINT64_MAX, &out->deadline_min, err));
    LK_TRY(find_number(b, PROP_DEADLINE_MAX, source, UINT64_MAX, &out->deadline_max, err));
    LK_TRY(find_number(b, PROP_RAW_BYTES, source, UINT64_MAX, &out->raw_bytes, err));
    LK_TRY(find_number(b, PROP_SEQ_BASE, source, UINT64_MAX, &out->seq_base, err));
    LK_TRY(find_number(b, PROP_SEQ_MIN, source, UINT64_MAX, &out->seq_min, err));
    LK_TRY(find_number(b, PROP_SEQ_MAX, source, UINT64_MAX, &out->seq_max, err));
    LK_TRY(find_number(b, PROP_BLOCKS, source, UINT32_MAX, &out->blocks, err));
    LK_TRY(find_number(b, PROP_TREE, source, UINT32_MAX, &tree, err));
    LK_TRY(find_number(b, PROP_BLOCK_BYTES, source, UINT32_MAX, &block_bytes, err));
    LK_TRY(find_number(b, PROP_FILTER_BITS, source, UINT32_MAX, &filter_bits, err));
    LK_TRY(find_number(b, PROP_CODEC, source, LK_CODEC_ZSTD, &codec, err));
    LK_TRY(find_uses(b, source, &out->uses, err));
    LK_TRY(find_value(b, PROP_MIN_KEY, source, &out->min_key, err));
    LK_TRY(find_value(b, PROP_MAX_KEY, source, &out->max_key, err));
    out->tree = (uint32_t)tree;
    out->block_bytes = (uint32_t)block_bytes;
    out->filter_bits = (uint32_t)filter_bits;
    out->codec = (lk_codec)codec;
done:
    return st;
}
