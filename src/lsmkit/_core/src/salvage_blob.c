/* salvage_blob.c: see salvage_blob.h. */
#include "salvage_blob.h"

#include <stdlib.h>

#include "array.h"

static bool is_damage(lk_status st)
{
    return st == LK_CORRUPT || st == LK_UNSUPPORTED || st == LK_NOT_FOUND;
}

void lk_salvaged_values_deinit(lk_salvaged_values *v)
{
    for (size_t i = 0; i < v->count; i++) lk_blob_file_unref(v->files[i].file);
    free(v->files);
    lk_buffer_deinit(&v->value);
    memset(v, 0, sizeof *v);
}

/* The file, proved when it is asked for first. */
static lk_status file_find(lk_salvaged_values *v, uint64_t number, lk_salvaged_file **out,
                           lk_error *why, lk_error *err)
{
    lk_status st = LK_OK;
    uint64_t records, bytes;
    for (size_t i = 0; i < v->count; i++) {
        *out = &v->files[i];
        if (v->files[i].number == number) return LK_OK;
    }
    LK_TRY(lk_array_grow(&v->files, v->count, &v->capacity, sizeof *v->files, err));
    lk_salvaged_file *f = &v->files[v->count];
    *f = (lk_salvaged_file){.number = number};
    LK_TRY(lk_blob_file_new(v->env, v->dir, number, 0, &f->file, err));
    v->count++;
    st = lk_blob_file_verify(f->file, &records, &bytes, why);
    f->is_whole = st == LK_OK;
    if (is_damage(st)) st = LK_OK;
    if (st != LK_OK && err != NULL) *err = *why;
    *out = f;
done:
    return st;
}

lk_status lk_salvaged_values_check(lk_salvaged_values *v, const lk_table_meta *meta,
                                   bool *out_whole, lk_error *out_why, lk_error *err)
{
    *out_whole = true;
    for (uint32_t i = 0; i < meta->blob_count && *out_whole; i++) {
        lk_salvaged_file *f = NULL;
        lk_status st = file_find(v, meta->blobs[i].file, &f, out_why, err);
        if (st != LK_OK) return st;
        *out_whole = f->is_whole;
    }
    return LK_OK;
}

lk_status lk_salvaged_values_take(lk_salvaged_values *v, lk_row *row, bool *out_found,
                                  lk_error *err)
{
    lk_status st = LK_OK;
    lk_salvaged_file *f = NULL;
    lk_error why;
    lk_bytes value;
    size_t room;
    *out_found = true;
    if (!lk_kind_is_blob(row->kind)) return LK_OK;
    lk_blob_ref ref = lk_blob_ref_decode(row->value + lk_kind_head_bytes(row->kind));
    LK_TRY(file_find(v, ref.file, &f, &why, err));
    st = lk_blob_file_room(f->file, &ref, &room, &why);
    if (st == LK_OK) {
        v->value.len = 0;
        LK_TRY(lk_buffer_reserve(&v->value, room, err));
        st = lk_blob_file_read(f->file, &ref, v->value.data, &value, &why);
    }
    if (is_damage(st)) {
        *out_found = false;
        return LK_OK;
    }
    if (st != LK_OK) {
        if (err != NULL) *err = why;
        goto done;
    }
    lk_blob_row_take(row, value);
done:
    return st;
}
