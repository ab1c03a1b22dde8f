/* manifest_table.c: see manifest_table.h and FORMAT-manifest.md. */
#include "manifest_table.h"

#include <stdlib.h>

#include "array.h"

void lk_manifest_table_write(lk_json_writer *w, const lk_table_meta *meta, uint32_t level,
                             uint64_t stamp)
{
    char nonce[17] = {0};
    lk_hex16_write(meta->nonce, nonce);
    lk_json_open(w, '{');
    lk_json_field(w, "tree", meta->tree);
    lk_json_field(w, "file", meta->file);
    lk_json_field(w, "level", level);
    lk_json_field(w, "stamp", stamp);
    lk_json_field(w, "bytes", meta->bytes);
    lk_json_field(w, "rows", meta->rows);
    lk_json_field(w, "tombstones", meta->tombstones);
    if (meta->operands > 0) lk_json_field(w, "operands", meta->operands);
    if (meta->deadlines > 0) {
        lk_json_field(w, "deadlines", meta->deadlines);
        lk_json_field(w, "deadline_min", meta->deadline_min);
        lk_json_field(w, "deadline_max", meta->deadline_max);
    }
    lk_json_field(w, "raw_bytes", meta->raw_bytes);
    lk_json_field(w, "seq_min", meta->seq_min);
    lk_json_field(w, "seq_max", meta->seq_max);
    if (meta->written != 0) lk_json_field(w, "written", meta->written);
    if (meta->made != 0 && meta->deadlines > 0) lk_json_field(w, "made", meta->made);
    if (meta->swept != 0) lk_json_field(w, "swept", meta->swept);
    if (meta->blob_count > 0) {
        lk_json_name(w, "blobs");
        lk_json_open(w, '[');
        for (uint32_t i = 0; i < meta->blob_count; i++) {
            lk_json_open(w, '[');
            lk_json_write_u64(w, meta->blobs[i].file);
            lk_json_write_u64(w, meta->blobs[i].size);
            lk_json_write_u64(w, meta->blobs[i].rows);
            lk_json_write_u64(w, meta->blobs[i].bytes);
            lk_json_close(w, ']');
        }
        lk_json_close(w, ']');
    }
    lk_json_name(w, "nonce");
    lk_json_write_string(w, nonce);
    lk_json_field_hex(w, "min", meta->min_key, meta->min_len);
    lk_json_field_hex(w, "max", meta->max_key, meta->max_len);
    lk_json_close(w, '}');
}

bool lk_manifest_read_key(lk_json_reader *r, lk_bytes *out)
{
    if (!lk_json_read_hex(r, out)) return false;
    return out->len <= LK_KEY_BYTES_MAX || lk_json_fault(r, "a key is too long");
}

static bool read_nonce(lk_json_reader *r, uint64_t *out)
{
    lk_bytes text;
    *out = 0;
    if (!lk_json_read_string(r, &text)) return false;
    if (text.len != 16 || !lk_hex16_read(text.data, out)) {
        return lk_json_fault(r, "a nonce is not 16 hexadecimal digits");
    }
    return true;
}

enum {
    TABLE_TREE = 1 << 0,
    TABLE_FILE = 1 << 1,
    TABLE_LEVEL = 1 << 2,
    TABLE_STAMP = 1 << 3,
    TABLE_BYTES = 1 << 4,
    TABLE_ROWS = 1 << 5,
    TABLE_TOMBSTONES = 1 << 6,
    TABLE_RAW_BYTES = 1 << 7,
    TABLE_SEQ_MIN = 1 << 8,
    TABLE_SEQ_MAX = 1 << 9,
    TABLE_NONCE = 1 << 10,
    TABLE_MIN = 1 << 11,
    TABLE_MAX = 1 << 12,
    TABLE_ALL = (1 << 13) - 1, /* those that must be there */
    TABLE_OPERANDS = 1 << 13,
    TABLE_DEADLINES = 1 << 14,
    TABLE_DEADLINE_MIN = 1 << 15,
    TABLE_DEADLINE_MAX = 1 << 16,
    TABLE_SWEPT = 1 << 17,
    TABLE_BLOBS = 1 << 18,
    TABLE_WRITTEN = 1 << 19,
    TABLE_MADE = 1 << 20,
};

/* A member that is a plain 64-bit number: where it goes, and its bit. */
static uint64_t *table_number(lk_bytes name, lk_table_meta *m, uint64_t *stamp, uint32_t *out_bit)
{
    struct {
        const char *name;
        uint64_t *value;
        uint32_t bit;
    } numbers[] = {
        {"file", &m->file, TABLE_FILE},
        {"stamp", stamp, TABLE_STAMP},
        {"bytes", &m->bytes, TABLE_BYTES},
        {"rows", &m->rows, TABLE_ROWS},
        {"tombstones", &m->tombstones, TABLE_TOMBSTONES},
        {"operands", &m->operands, TABLE_OPERANDS},
        {"deadlines", &m->deadlines, TABLE_DEADLINES},
        {"deadline_min", &m->deadline_min, TABLE_DEADLINE_MIN},
        {"deadline_max", &m->deadline_max, TABLE_DEADLINE_MAX},
        {"raw_bytes", &m->raw_bytes, TABLE_RAW_BYTES},
        {"seq_min", &m->seq_min, TABLE_SEQ_MIN},
        {"seq_max", &m->seq_max, TABLE_SEQ_MAX},
        {"swept", &m->swept, TABLE_SWEPT},
        {"written", &m->written, TABLE_WRITTEN},
        {"made", &m->made, TABLE_MADE},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (!lk_json_is(name, numbers[i].name)) continue;
        *out_bit = numbers[i].bit;
        return numbers[i].value;
    }
    return NULL;
}

/* Files of values, [file, size, rows, bytes] each. */
static lk_status read_blobs(lk_json_reader *r, lk_table_meta *out, lk_error *err)
{
    lk_status st;
    size_t capacity = 0;
    if (!lk_json_enter(r, '[')) return LK_OK;
    while (lk_json_element(r)) {
        lk_blob_use use = {0};
        uint64_t *parts[] = {&use.file, &use.size, &use.rows, &use.bytes};
        if (!lk_json_enter(r, '[')) return LK_OK;
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            if (!lk_json_element(r)) {
                (void)lk_json_fault(r, "a file of values has four numbers");
            }
            if (r->fault != NULL || !lk_json_read_u64(r, parts[i])) return LK_OK;
        }
        if (lk_json_element(r)) (void)lk_json_fault(r, "a file of values has four numbers");
        if (r->fault != NULL) return LK_OK;
        st = lk_array_grow(&out->blobs, out->blob_count, &capacity, sizeof use, err);
        if (st != LK_OK) return st;
        out->blobs[out->blob_count++] = use;
    }
    return LK_OK;
}

/* `out`'s keys point into the text; its uses are owned. */
static lk_status read_members(lk_json_reader *r, lk_table_meta *out, uint32_t *out_level,
                              uint64_t *out_stamp, lk_error *err)
{
    lk_status st = LK_OK;
    lk_bytes name, min = {NULL, 0}, max = {NULL, 0};
    uint32_t seen = 0, bit;
    memset(out, 0, sizeof *out);
    *out_level = 0;
    *out_stamp = 0;
    if (!lk_json_enter(r, '{')) return LK_OK;
    while (lk_json_member(r, &name)) {
        uint64_t *number = table_number(name, out, out_stamp, &bit);
        if (number != NULL) {
            (void)(lk_json_first_time(r, &seen, bit) && lk_json_read_u64(r, number));
        } else if (lk_json_is(name, "tree")) {
            (void)(lk_json_first_time(r, &seen, TABLE_TREE) &&
                   lk_json_read_u32(r, LK_TREE_MAX - 1, &out->tree));
        } else if (lk_json_is(name, "level")) {
            (void)(lk_json_first_time(r, &seen, TABLE_LEVEL) &&
                   lk_json_read_u32(r, LK_LEVEL_LAST, out_level));
        } else if (lk_json_is(name, "nonce")) {
            (void)(lk_json_first_time(r, &seen, TABLE_NONCE) && read_nonce(r, &out->nonce));
        } else if (lk_json_is(name, "min")) {
            (void)(lk_json_first_time(r, &seen, TABLE_MIN) && lk_manifest_read_key(r, &min));
        } else if (lk_json_is(name, "max")) {
            (void)(lk_json_first_time(r, &seen, TABLE_MAX) && lk_manifest_read_key(r, &max));
        } else if (lk_json_is(name, "blobs")) {
            if (lk_json_first_time(r, &seen, TABLE_BLOBS)) LK_TRY(read_blobs(r, out, err));
        } else {
            (void)lk_json_skip(r);
        }
    }
    if (r->fault == NULL && (seen & TABLE_ALL) != TABLE_ALL) {
        (void)lk_json_fault(r, "a member of a table is missing before");
    }
    out->min_key = r->text + (min.data == NULL ? 0 : min.data - r->text);
    out->max_key = r->text + (max.data == NULL ? 0 : max.data - r->text);
    out->min_len = (uint32_t)min.len;
    out->max_len = (uint32_t)max.len;
done:
    return st;
}

lk_status lk_manifest_table_read(lk_json_reader *r, lk_table_meta *out, uint32_t *out_level,
                                 uint64_t *out_stamp, lk_error *err)
{
    lk_table_meta meta;
    memset(out, 0, sizeof *out);
    lk_status st = read_members(r, &meta, out_level, out_stamp, err);
    if (st == LK_OK && r->fault == NULL) st = lk_table_meta_copy(&meta, out, err);
    free(meta.blobs);
    return st;
}
