/* table_parts.c: opening a table file, finding a block in its index, reading a block.
 *
 * Always    sizes in the footer are checked against the size of the file before anything of that
 *           size is allocated; the index names the data blocks one behind the other, without gaps,
 *           from the first byte to the filter.
 */
#include "table_parts.h"

#include <stdlib.h>

#include "check.h"
#include "hash.h"

/* ---- opening ---- */

static lk_status read_footer(lk_table_parts *p, const lk_table_meta *meta, lk_error *err)
{
    lk_status st = LK_OK;
    const char *path = lk_file_path(p->file);
    uint64_t size = 0;
    uint8_t data[LK_TABLE_FOOTER_BYTES];
    LK_TRY(lk_file_size(p->file, &size, err));
    if (size != meta->bytes || size < LK_TABLE_FOOTER_BYTES) {
        return lk_fail_corrupt(err, path, size, meta->bytes, size,
                               "the table has %llu bytes where the manifest says %llu",
                               (unsigned long long)size, (unsigned long long)meta->bytes);
    }
    uint64_t at = size - LK_TABLE_FOOTER_BYTES;
    LK_TRY(lk_file_read_exact(p->file, at, data, sizeof data, err));
    LK_TRY(lk_table_footer_parse(data, path, at, &p->footer, err));
    p->nonce = p->footer.nonce;
    if (p->nonce != meta->nonce) {
        return lk_fail_corrupt(err, path, at + 16, meta->nonce, p->nonce,
                               "the table's nonce is not the one in the manifest");
    }
    if (p->footer.file != meta->file) {
        return lk_fail_corrupt(err, path, at + 24, meta->file, p->footer.file,
                               "the table's file number is not the one in the manifest");
    }
done:
    return st;
}

static lk_status read_filter(lk_table_parts *p, lk_error *err)
{
    lk_table_place at = p->footer.filter;
    if (at.bytes == 0) return LK_OK;
    size_t bytes = (size_t)lk_align_up(at.bytes, LK_FILTER_LINE_BYTES);
    p->filter_data = aligned_alloc(LK_FILTER_LINE_BYTES, bytes);
    if (p->filter_data == NULL) return lk_fail_nomem(err, bytes);
    p->memory += bytes;
    lk_status st = lk_file_read_exact(p->file, at.offset, p->filter_data, (size_t)at.bytes, err);
    if (st != LK_OK) return st;
    return lk_filter_parse(p->filter_data, (size_t)at.bytes, lk_file_path(p->file), p->nonce,
                           at.offset, &p->filter, err);
}

/* Reads and decodes the block that stands at a place of the footer. */
static lk_status read_part(const lk_table_parts *p, lk_table_place at, lk_block **out,
                           lk_error *err)
{
    lk_status st = LK_OK;
    lk_block_source source = {
        .path = lk_file_path(p->file), .nonce = p->nonce, .offset = at.offset};
    lk_block_image image;
    uint8_t *data = malloc(at.bytes > 0 ? (size_t)at.bytes : 1);
    if (data == NULL) return lk_fail_nomem(err, at.bytes);
    LK_TRY(lk_file_read_exact(p->file, at.offset, data, (size_t)at.bytes, err));
    LK_TRY(lk_block_parse(data, (size_t)at.bytes, &source, &image, err));
    LK_TRY(lk_block_decode(&image, &source, out, err));
done:
    free(data);
    return st;
}

void lk_table_parts_place(const lk_table_parts *p, uint32_t index, uint64_t *out_offset,
                          uint32_t *out_bytes, uint32_t *out_rows)
{
    LK_ASSERT(index < p->index->rows);
    const uint8_t *place = p->index->values + (size_t)index * LK_TABLE_PLACE_BYTES;
    *out_offset = lk_load64(place);
    *out_bytes = lk_load32(place + 8);
    *out_rows = lk_load32(place + 12);
}

/* The places of an index that was just read: whole, in order, within the data. */
static lk_status check_index(const lk_table_parts *p, const lk_table_meta *meta, lk_error *err)
{
    const char *path = lk_file_path(p->file);
    uint64_t at = p->footer.index.offset, next = 0, rows = 0;
    const lk_block *index = p->index;
    if (index->value_offsets != NULL || index->value_width != LK_TABLE_PLACE_BYTES) {
        return lk_fail_corrupt(err, path, at, LK_TABLE_PLACE_BYTES, index->value_width,
                               "the rows of the index are not places");
    }
    for (uint32_t i = 0; i < index->rows; i++) {
        uint64_t offset;
        uint32_t bytes, block_rows;
        lk_table_parts_place(p, i, &offset, &bytes, &block_rows);
        if (offset != next || bytes < LK_BLOCK_HEADER_BYTES || block_rows == 0 ||
            bytes > p->footer.filter.offset - next) {
            return lk_fail_corrupt(err, path, at, next, offset, "the index misplaces block %u", i);
        }
        next += bytes;
        rows += block_rows;
    }
    if (next != p->footer.filter.offset) {
        return lk_fail_corrupt(err, path, at, p->footer.filter.offset, next,
                               "the blocks of the index do not fill the file");
    }
    if (rows != meta->rows) {
        return lk_fail_corrupt(err, path, at, meta->rows, rows,
                               "the index counts other rows than the manifest");
    }
    return LK_OK;
}

/* The search array: see lk_table_parts_seek. */
static lk_status make_heads(lk_table_parts *p, lk_error *err)
{
    const lk_block *index = p->index;
    lk_bytes first = lk_block_key(index, 0), last = lk_block_key(index, index->rows - 1);
    size_t bytes = index->rows * sizeof(uint64_t);
    uint64_t *heads = malloc(bytes);
    if (heads == NULL) return lk_fail_nomem(err, bytes);
    p->heads = heads;
    p->prefix_len = (uint32_t)lk_common_prefix(first.data, first.len, last.data, last.len);
    p->memory += bytes + index->bytes;
    for (uint32_t i = 0; i < index->rows; i++) {
        lk_bytes key = lk_block_key(index, i);
        bool starts = key.len >= p->prefix_len && memcmp(key.data, first.data, p->prefix_len) == 0;
        heads[i] = starts ? lk_key_prefix(key.data + p->prefix_len, key.len - p->prefix_len) : 0;
        if (!starts || (i > 0 && heads[i] < heads[i - 1])) {
            return lk_fail_corrupt(err, lk_file_path(p->file), p->footer.index.offset, i - 1, i,
                                   "the keys of the index are out of order");
        }
    }
    p->block_count = index->rows;
    return LK_OK;
}

static lk_status check_number(const lk_table_parts *p, const char *name, uint64_t expected,
                              uint64_t found, lk_error *err)
{
    if (expected == found) return LK_OK;
    return lk_fail_corrupt(err, lk_file_path(p->file), p->footer.properties.offset, expected, found,
                           "the table's %s is %llu where the manifest says %llu", name,
                           (unsigned long long)found, (unsigned long long)expected);
}

static lk_status check_properties(const lk_table_parts *p, const lk_table_meta *meta, lk_error *err)
{
    lk_status st = LK_OK;
    const lk_table_properties *props = &p->properties;
    LK_TRY(check_number(p, "file number", meta->file, props->file, err));
    LK_TRY(check_number(p, "tree", meta->tree, props->tree, err));
    LK_TRY(check_number(p, "number of rows", meta->rows, props->rows, err));
    LK_TRY(check_number(p, "number of tombstones", meta->tombstones, props->tombstones, err));
    LK_TRY(check_number(p, "number of operands", meta->operands, props->operands, err));
    LK_TRY(check_number(p, "number of deadlines", meta->deadlines, props->deadlines, err));
    LK_TRY(check_number(p, "first deadline", meta->deadline_min, props->deadline_min, err));
    LK_TRY(check_number(p, "last deadline", meta->deadline_max, props->deadline_max, err));
    LK_TRY(check_number(p, "raw length", meta->raw_bytes, props->raw_bytes, err));
    LK_TRY(check_number(p, "first sequence", meta->seq_min, props->seq_min, err));
    LK_TRY(check_number(p, "last sequence", meta->seq_max, props->seq_max, err));
    LK_TRY(check_number(p, "number of blocks", p->block_count, props->blocks, err));
    LK_TRY(check_number(p, "number of files of values", meta->blob_count,
                        props->uses.len / LK_BLOB_USE_BYTES, err));
    for (uint32_t i = 0; i < meta->blob_count; i++) {
        uint8_t use[LK_BLOB_USE_BYTES];
        lk_blob_use_encode(&meta->blobs[i], use);
        if (memcmp(use, props->uses.data + i * sizeof use, sizeof use) == 0) continue;
        return lk_fail_corrupt(err, lk_file_path(p->file), p->footer.properties.offset, 0,
                               meta->blobs[i].file,
                               "the table uses a file of values otherwise than the manifest says");
    }
    lk_bytes last = lk_block_key(p->index, p->block_count - 1);
    if (!lk_bytes_equal(meta->min_key, meta->min_len, props->min_key.data, props->min_key.len) ||
        !lk_bytes_equal(meta->max_key, meta->max_len, props->max_key.data, props->max_key.len) ||
        !lk_bytes_equal(meta->max_key, meta->max_len, last.data, last.len)) {
        return lk_fail_corrupt(err, lk_file_path(p->file), p->footer.properties.offset, 0, 0,
                               "the first or last key of the table is not that in the manifest");
    }
done:
    return st;
}

lk_status lk_table_parts_open(lk_env *env, const char *path, const lk_table_meta *meta,
                              lk_table_parts *out, lk_error *err)
{
    lk_status st = LK_OK;
    lk_block *index = NULL;
    *out = (lk_table_parts){.file = NULL};
    LK_TRY(lk_env_open(env, path, LK_OPEN_READ, &out->file, err));
    LK_TRY(read_footer(out, meta, err));
    LK_TRY(read_filter(out, err));
    LK_TRY(read_part(out, out->footer.index, &index, err));
    out->index = index;
    LK_TRY(check_index(out, meta, err));
    LK_TRY(make_heads(out, err));
    LK_TRY(read_part(out, out->footer.properties, &out->property_block, err));
    lk_block_source source = {
        .path = path, .nonce = out->nonce, .offset = out->footer.properties.offset};
    LK_TRY(lk_table_properties_parse(out->property_block, &source, &out->properties, err));
    LK_TRY(check_properties(out, meta, err));
    out->memory += out->property_block->bytes;
done:
    if (st != LK_OK) lk_table_parts_close(out);
    return st;
}

void lk_table_parts_close(lk_table_parts *p)
{
    lk_file_close(p->file);
    free(p->filter_data);
    free((void *)(uintptr_t)p->heads);
    lk_block_unref((lk_block *)(uintptr_t)p->index);
    lk_block_unref(p->property_block);
    *p = (lk_table_parts){.file = NULL};
}

/* ---- the index ---- */

/* Among blocks low..high - 1 whose heads are equal, by whole keys. */
static uint32_t seek_ties(const lk_table_parts *p, uint32_t low, uint32_t high, const uint8_t *key,
                          size_t key_len)
{
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        lk_bytes last = lk_block_key(p->index, middle);
        if (lk_key_compare(last.data, last.len, key, key_len) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* First of `count` ascending numbers that is not less than `head`. Without branches: each step
 * adds its half or nothing, so that no guess of the processor goes wrong. */
static inline uint32_t lower_head(const uint64_t *heads, uint32_t count, uint64_t head)
{
    const uint64_t *base = heads;
    while (count > 1) {
        uint32_t half = count / 2;
        base += (size_t)half & -(size_t)(base[half - 1] < head);
        count -= half;
    }
    return (uint32_t)(base - heads) + (*base < head);
}

uint32_t lk_table_parts_seek(const lk_table_parts *p, const uint8_t *key, size_t key_len)
{
    size_t prefix = p->prefix_len;
    if (prefix > 0) {
        size_t n = key_len < prefix ? key_len : prefix;
        int order = n == 0 ? 0 : memcmp(key, lk_block_key(p->index, 0).data, n);
        if (order > 0) return p->block_count;
        if (order < 0 || key_len < prefix) return 0;
    }
    uint64_t head = lk_key_prefix(key + prefix, key_len - prefix);
    uint32_t low = lower_head(p->heads, p->block_count, head);
    if (low == p->block_count || p->heads[low] != head) return low;
    uint32_t high =
        head == UINT64_MAX ? p->block_count : lower_head(p->heads, p->block_count, head + 1);
    return seek_ties(p, low, high, key, key_len);
}

/* ---- blocks ---- */

lk_status lk_table_parts_image(const lk_table_parts *p, uint32_t index, uint8_t *buffer,
                               lk_block_image *out, lk_block_source *out_source, lk_error *err)
{
    lk_status st = LK_OK;
    uint64_t offset;
    uint32_t bytes, rows;
    lk_table_parts_place(p, index, &offset, &bytes, &rows);
    *out_source = (lk_block_source){.path = lk_file_path(p->file),
                                    .nonce = p->nonce,
                                    .offset = offset,
                                    .seq_base = p->properties.seq_base};
    LK_TRY(lk_file_read_exact(p->file, offset, buffer, bytes, err));
    LK_TRY(lk_block_parse(buffer, bytes, out_source, out, err));
    if (out->rows != rows) {
        return lk_fail_corrupt(err, out_source->path, offset + 12, rows, out->rows,
                               "the block at %llu has other rows than the index says",
                               (unsigned long long)offset);
    }
done:
    return st;
}

lk_status lk_table_parts_block(const lk_table_parts *p, uint32_t index, lk_block **out,
                               lk_error *err)
{
    lk_status st = LK_OK;
    uint64_t offset;
    uint32_t bytes, rows;
    lk_block_image image;
    lk_block_source source;
    *out = NULL;
    lk_table_parts_place(p, index, &offset, &bytes, &rows);
    uint8_t *buffer = malloc(bytes);
    if (buffer == NULL) return lk_fail_nomem(err, bytes);
    LK_TRY(lk_table_parts_image(p, index, buffer, &image, &source, err));
    LK_TRY(lk_block_decode(&image, &source, out, err));
done:
    free(buffer);
    return st;
}
