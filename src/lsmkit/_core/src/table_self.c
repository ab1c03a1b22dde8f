/* table_self.c: a table file asked what it is, without a manifest: for dumps and for repair.
 *
 * Owns      nothing beyond a call.
 * Errors    LK_CORRUPT where footer or properties are not what was written.
 */
#include <stdio.h>
#include <stdlib.h>

#include "table.h"
#include "table_format.h"

static lk_status read_properties(lk_file *file, const lk_table_footer *footer, lk_block **out,
                                 lk_table_properties *props, lk_error *err)
{
    lk_status st = LK_OK;
    size_t bytes = (size_t)footer->properties.bytes;
    lk_block_source source = {
        .path = lk_file_path(file), .nonce = footer->nonce, .offset = footer->properties.offset};
    lk_block_image image;
    uint8_t *data = malloc(bytes > 0 ? bytes : 1);
    if (data == NULL) return lk_fail_nomem(err, bytes);
    LK_TRY(lk_file_read_exact(file, footer->properties.offset, data, bytes, err));
    LK_TRY(lk_block_parse(data, bytes, &source, &image, err));
    LK_TRY(lk_block_decode(&image, &source, out, err));
    LK_TRY(lk_table_properties_parse(*out, &source, props, err));
done:
    free(data);
    return st;
}

lk_status lk_table_meta_read(lk_env *env, const char *path, lk_table_meta *out, lk_error *err)
{
    lk_status st = LK_OK;
    lk_file *file = NULL;
    lk_block *block = NULL;
    uint64_t size = 0;
    uint8_t data[LK_TABLE_FOOTER_BYTES];
    lk_table_footer footer;
    lk_table_properties props;
    lk_blob_use *uses = NULL;
    memset(out, 0, sizeof *out);
    LK_TRY(lk_env_open(env, path, LK_OPEN_READ, &file, err));
    LK_TRY(lk_file_size(file, &size, err));
    if (size < sizeof data) {
        st = lk_fail_corrupt(err, path, size, sizeof data, size, "%s: too short for a table", path);
        goto done;
    }
    LK_TRY(lk_file_read_exact(file, size - sizeof data, data, sizeof data, err));
    LK_TRY(lk_table_footer_parse(data, path, size - sizeof data, &footer, err));
    LK_TRY(read_properties(file, &footer, &block, &props, err));
    lk_table_meta meta = {
        .file = footer.file,
        .nonce = footer.nonce,
        .bytes = size,
        .rows = props.rows,
        .tombstones = props.tombstones,
        .operands = props.operands,
        .deadlines = props.deadlines,
        .deadline_min = props.deadline_min,
        .deadline_max = props.deadline_max,
        .raw_bytes = props.raw_bytes,
        .seq_min = props.seq_min,
        .seq_max = props.seq_max,
        .tree = props.tree,
        .min_len = (uint32_t)props.min_key.len,
        .max_len = (uint32_t)props.max_key.len,
        .min_key = (uint8_t *)(uintptr_t)props.min_key.data,
        .max_key = (uint8_t *)(uintptr_t)props.max_key.data,
        .blob_count = (uint32_t)(props.uses.len / LK_BLOB_USE_BYTES),
    };
    uses = malloc((meta.blob_count + (size_t)1) * sizeof *uses);
    if (uses == NULL) {
        st = lk_fail_nomem(err, meta.blob_count * sizeof *uses);
        goto done;
    }
    for (uint32_t i = 0; i < meta.blob_count; i++) {
        uses[i] = lk_blob_use_decode(props.uses.data + i * (size_t)LK_BLOB_USE_BYTES);
    }
    meta.blobs = uses;
    LK_TRY(lk_table_meta_copy(&meta, out, err));
done:
    free(uses);
    lk_block_unref(block);
    lk_file_close(file);
    return st;
}

lk_status lk_table_dump_file(lk_env *env, const char *path, bool rows,
                             void (*print)(void *context, const char *line), void *context,
                             lk_error *err)
{
    lk_status st = LK_OK;
    lk_table_meta meta = {0};
    lk_table *table = NULL;
    char dir[LK_PATH_MAX];
    const char *slash = strrchr(path, '/');
    (void)snprintf(dir, sizeof dir, "%.*s", slash == NULL ? 1 : (int)(slash - path),
                   slash == NULL ? "." : path);
    LK_TRY(lk_table_meta_read(env, path, &meta, err));
    LK_TRY(lk_table_new(env, dir, &meta, NULL, &table, err));
    LK_TRY(lk_table_dump(table, rows, print, context, err));
done:
    lk_table_unref(table);
    lk_table_meta_deinit(&meta);
    return st;
}
