/* version_blobs.c: see version_blobs.h. */
#include "version_blobs.h"

#include <stdlib.h>

static int by_file(const void *a, const void *b)
{
    const lk_blob_use *x = a, *y = b;
    return (x->file > y->file) - (x->file < y->file);
}

/* One after another of equal numbers becomes one with their sums; how many are left. */
static lk_status sum_uses(lk_blob_use *uses, size_t count, const char *dir, uint32_t *out,
                          lk_error *err)
{
    uint32_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        if (kept == 0 || uses[kept - 1].file != uses[i].file) {
            uses[kept++] = uses[i];
            continue;
        }
        lk_blob_use *sum = &uses[kept - 1];
        if (sum->size != uses[i].size) {
            return lk_fail_corrupt(err, dir, 0, sum->size, uses[i].size,
                                   "tables disagree on the size of the file of values %llu",
                                   (unsigned long long)sum->file);
        }
        sum->rows += uses[i].rows;
        sum->bytes += uses[i].bytes;
    }
    *out = kept;
    return LK_OK;
}

lk_status lk_version_blobs_gather(lk_tree_version *t, const lk_tree_version *old, lk_env *env,
                                  const char *dir, lk_error *err)
{
    lk_status st = LK_OK;
    size_t count = 0, at = 0;
    uint32_t kept = 0;
    lk_blob_files *files = NULL;
    for (uint32_t i = 0; i < t->file_count; i++) {
        count += lk_table_meta_of(t->files[i].table)->blob_count;
    }
    if (count == 0) return LK_OK;
    lk_blob_use *uses = malloc(count * sizeof *uses);
    if (uses == NULL) return lk_fail_nomem(err, count * sizeof *uses);
    for (uint32_t i = 0; i < t->file_count; i++) {
        const lk_table_meta *meta = lk_table_meta_of(t->files[i].table);
        for (uint32_t j = 0; j < meta->blob_count; j++) uses[at++] = meta->blobs[j];
    }
    qsort(uses, count, sizeof *uses, by_file);
    LK_TRY(sum_uses(uses, count, dir, &kept, err));
    files = lk_blob_files_new(kept);
    if (files == NULL) {
        st = lk_fail_nomem(err, kept * sizeof files->items[0]);
        goto done;
    }
    for (uint32_t i = 0; i < kept; i++) {
        lk_blob_item *item = &files->items[i];
        const lk_blob_item *known =
            lk_blob_files_find(old == NULL ? NULL : old->blobs, uses[i].file);
        if (known != NULL) {
            lk_blob_file_ref(known->file);
            item->file = known->file;
        } else {
            LK_TRY(lk_blob_file_new(env, dir, uses[i].file, uses[i].size, &item->file, err));
        }
        item->rows = uses[i].rows;
        item->bytes = uses[i].bytes;
    }
    t->blobs = files;
    files = NULL;
done:
    lk_blob_files_free(files);
    free(uses);
    return st;
}
