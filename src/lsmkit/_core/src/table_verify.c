/* table_verify.c: proof that a table file is what was written.
 *
 * Callers   DB.verify() and the command line, through the store.
 * Threads   any; nothing of the loaded table is used, so that what is proved is the file as it
 *           stands now, not what was read from it once.
 * Errors    LK_CORRUPT at the first fault; LK_IO.
 */
#include <stdlib.h>

#include "check.h"
#include "file_names.h"
#include "hash.h"
#include "table_parts.h"

typedef struct totals {
    uint64_t rows, tombstones, raw_bytes;
    uint64_t operands, deadlines, deadline_min, deadline_max;
    uint64_t seq_min, seq_max;
    uint32_t use_count;
    lk_blob_use *uses;    /* as its properties say */
    lk_blob_use *found;   /* as its rows do */
    lk_blob_file **files; /* of those; opened anew */
} totals;

static lk_status corrupt(const lk_block_source *source, uint64_t expected, uint64_t found,
                         const char *what, lk_error *err)
{
    return lk_fail_corrupt(err, source->path, source->offset, expected, found, "block at %llu: %s",
                           (unsigned long long)source->offset, what);
}

static void add_deadline(totals *sum, lk_kind kind, const uint8_t *value)
{
    uint64_t deadline = lk_kind_deadline(kind, value);
    if (sum->deadlines == 0 || deadline < sum->deadline_min) sum->deadline_min = deadline;
    if (deadline > sum->deadline_max) sum->deadline_max = deadline;
    sum->deadlines++;
}

static void add_block(totals *sum, const lk_block *b)
{
    sum->rows += b->rows;
    for (uint32_t i = 0; i < b->rows; i++) {
        uint64_t seq = lk_block_seq(b, i);
        lk_kind kind = lk_block_kind(b, i);
        sum->tombstones += kind == LK_KIND_DELETE;
        sum->operands += lk_kind_is_merge(kind);
        if ((kind & LK_KIND_UNTIL) != 0) add_deadline(sum, kind, lk_block_value(b, i).data);
        sum->raw_bytes += lk_block_key(b, i).len + lk_block_value(b, i).len;
        if (seq < sum->seq_min) sum->seq_min = seq;
        if (seq > sum->seq_max) sum->seq_max = seq;
    }
}

/* The files of values that the properties name. */
static lk_status uses_begin(const lk_table *t, const lk_table_parts *p, totals *sum, lk_error *err)
{
    lk_status st = LK_OK;
    size_t n = p->properties.uses.len / LK_BLOB_USE_BYTES;
    char dir[LK_PATH_MAX];
    if (n == 0) return LK_OK;
    sum->uses = calloc(n, sizeof *sum->uses);
    sum->found = calloc(n, sizeof *sum->found);
    sum->files = calloc(n, sizeof *sum->files);
    if (sum->uses == NULL || sum->found == NULL || sum->files == NULL) {
        return lk_fail_nomem(err, n * (2 * sizeof *sum->uses + sizeof *sum->files));
    }
    lk_path_parent(lk_table_file_path(t), dir);
    for (size_t i = 0; i < n; i++) {
        lk_blob_use use = lk_blob_use_decode(p->properties.uses.data + i * LK_BLOB_USE_BYTES);
        LK_TRY(lk_blob_file_new(lk_table_env(t), dir, use.file, use.size, &sum->files[i], err));
        sum->uses[i] = use;
        sum->use_count++;
    }
done:
    return st;
}

static void uses_end(totals *sum)
{
    for (uint32_t i = 0; i < sum->use_count; i++) lk_blob_file_unref(sum->files[i]);
    free(sum->uses);
    free(sum->found);
    free(sum->files);
}

/* The values that rows refer to stand where they say, and are of their keys. What the values are is
 * proved file by file (lk_blob_file_verify). */
static lk_status check_uses(const lk_table_parts *p, totals *sum, const lk_block *b,
                            const lk_block_source *source, lk_error *err)
{
    for (uint32_t i = 0; b->kinds != NULL && i < b->rows; i++) {
        lk_kind kind = lk_block_kind(b, i);
        if (!lk_kind_is_blob(kind)) continue;
        lk_bytes key = lk_block_key(b, i);
        lk_blob_ref ref = lk_blob_ref_decode(lk_block_value(b, i).data + lk_kind_head_bytes(kind));
        uint32_t at = 0;
        while (at < sum->use_count && sum->uses[at].file != ref.file) at++;
        if (at == sum->use_count) {
            return corrupt(source, 0, ref.file,
                           "a row refers to a file of values that the table does not use", err);
        }
        uint64_t hash = lk_hash_key(p->properties.tree, key.data, key.len);
        lk_status st = lk_blob_file_check(sum->files[at], &ref, hash, err);
        if (st != LK_OK) return st;
        sum->found[at].rows++;
        sum->found[at].bytes += lk_blob_ref_bytes(&ref);
    }
    return LK_OK;
}

/* Its keys lie behind `before`, end as the index says, and pass the filter. */
static lk_status check_place(const lk_table_parts *p, uint32_t index, const lk_block *b,
                             const lk_block_source *source, lk_error *err)
{
    lk_bytes first = lk_block_key(b, 0), last = lk_block_key(b, b->rows - 1);
    lk_bytes named = lk_block_key(p->index, index);
    if (!lk_bytes_equal(last.data, last.len, named.data, named.len)) {
        return corrupt(source, 0, 0, "its last key is not the one in the index", err);
    }
    if (index == 0) {
        lk_bytes least = p->properties.min_key;
        if (!lk_bytes_equal(first.data, first.len, least.data, least.len)) {
            return corrupt(source, 0, 0, "its first key is not the table's first", err);
        }
    } else {
        lk_bytes before = lk_block_key(p->index, index - 1);
        if (lk_key_compare(before.data, before.len, first.data, first.len) >= 0) {
            return corrupt(source, 0, 0, "its first key does not follow the block before", err);
        }
    }
    for (uint32_t i = 0; i < b->rows; i++) {
        lk_bytes key = lk_block_key(b, i);
        uint64_t hash = lk_hash_key(p->properties.tree, key.data, key.len);
        if (!lk_filter_may_contain(&p->filter, hash)) {
            return corrupt(source, 1, 0, "the filter denies one of its keys", err);
        }
    }
    return LK_OK;
}

static lk_status check_block(const lk_table_parts *p, uint32_t index, totals *sum, lk_error *err)
{
    lk_status st = LK_OK;
    lk_block *b = NULL;
    uint64_t offset;
    uint32_t bytes, rows;
    lk_table_parts_place(p, index, &offset, &bytes, &rows);
    lk_block_source source = {.path = lk_file_path(p->file), .nonce = p->nonce, .offset = offset};
    LK_TRY(lk_table_parts_block(p, index, &b, err));
    LK_TRY(lk_block_check(b, p->properties.tree, &source, err));
    LK_TRY(check_place(p, index, b, &source, err));
    LK_TRY(check_uses(p, sum, b, &source, err));
    add_block(sum, b);
done:
    lk_block_unref(b);
    return st;
}

static lk_status check_totals(const lk_table_parts *p, const totals *sum, lk_error *err)
{
    const lk_table_properties *props = &p->properties;
    lk_block_source source = {
        .path = lk_file_path(p->file), .nonce = p->nonce, .offset = p->footer.properties.offset};
    if (sum->rows != props->rows) {
        return corrupt(&source, props->rows, sum->rows, "there are other rows than it says", err);
    }
    if (sum->tombstones != props->tombstones) {
        return corrupt(&source, props->tombstones, sum->tombstones,
                       "there are other tombstones than it says", err);
    }
    if (sum->operands != props->operands) {
        return corrupt(&source, props->operands, sum->operands,
                       "there are other operands than it says", err);
    }
    if (sum->deadlines != props->deadlines || sum->deadline_min != props->deadline_min ||
        sum->deadline_max != props->deadline_max) {
        return corrupt(&source, props->deadlines, sum->deadlines,
                       "the rows have other deadlines than it says", err);
    }
    if (sum->raw_bytes != props->raw_bytes) {
        return corrupt(&source, props->raw_bytes, sum->raw_bytes,
                       "the rows have another length than it says", err);
    }
    if (sum->seq_min != props->seq_min || sum->seq_max != props->seq_max) {
        return corrupt(&source, props->seq_max, sum->seq_max,
                       "the rows have other sequences than it says", err);
    }
    for (uint32_t i = 0; i < sum->use_count; i++) {
        if (sum->found[i].rows == sum->uses[i].rows && sum->found[i].bytes == sum->uses[i].bytes) {
            continue;
        }
        return corrupt(&source, sum->uses[i].rows, sum->found[i].rows,
                       "its rows use a file of values otherwise than it says", err);
    }
    return LK_OK;
}

lk_status lk_table_verify(lk_table *t, lk_table_report *out, lk_error *err)
{
    lk_status st = LK_OK;
    lk_table_parts parts = {.file = NULL};
    totals sum = {.seq_min = UINT64_MAX};
    *out = (lk_table_report){.blocks = 0};
    LK_TRY(lk_table_parts_open(lk_table_env(t), lk_table_file_path(t), lk_table_meta_of(t), &parts,
                               err));
    lk_block_source source = {.path = lk_file_path(parts.file),
                              .nonce = parts.nonce,
                              .offset = parts.footer.index.offset};
    LK_TRY(lk_block_check(parts.index, parts.properties.tree, &source, err));
    source.offset = parts.footer.properties.offset;
    LK_TRY(lk_block_check(parts.property_block, 0, &source, err));
    LK_TRY(uses_begin(t, &parts, &sum, err));
    for (uint32_t i = 0; i < parts.block_count; i++) {
        LK_TRY(check_block(&parts, i, &sum, err));
        out->blocks++;
        out->rows = sum.rows;
    }
    LK_TRY(check_totals(&parts, &sum, err));
    out->bytes = parts.footer.bytes;
done:
    uses_end(&sum);
    lk_table_parts_close(&parts);
    return st;
}
