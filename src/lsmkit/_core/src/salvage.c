/* salvage.c: see salvage.h. Every piece that is given out has passed its own checksum, in its place. */
#include "salvage.h"

#include <stdlib.h>

#include "array.h"
#include "frame.h"
#include "manifest_file.h"
#include "segment.h"
#include "table_parts.h"

/* ---- manifests ---- */

static lk_status note_table(lk_salvaged_lines *s, const lk_table_meta *meta, lk_error *err)
{
    for (size_t i = 0; i < s->table_count; i++) {
        if (s->tables[i].file == meta->file) return LK_OK;
    }
    lk_status st =
        lk_array_grow(&s->tables, s->table_count, &s->table_capacity, sizeof *s->tables, err);
    if (st == LK_OK) st = lk_table_meta_copy(meta, &s->tables[s->table_count], err);
    if (st == LK_OK) s->table_count++;
    return st;
}

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

static lk_status line_take(lk_salvaged_lines *s, uint8_t *json, size_t len, const char *path,
                           lk_error *err)
{
    lk_status st = LK_OK;
    lk_manifest_line line;
    lk_manifest_line_init(&line);
    if (lk_manifest_line_read(json, len, path, 0, &line, NULL) != LK_OK) {
        s->lines_lost++;
        goto done;
    }
    s->lines++;
    s->log_retired = larger(s->log_retired, line.edit.log_retired);
    s->last_seq = larger(s->last_seq, line.edit.last_seq);
    s->next_file = larger(s->next_file, line.state.next_file);
    LK_TRY(lk_properties_apply(&s->properties, &line.edit, err));
    for (size_t i = 0; i < line.edit.add_count; i++) {
        LK_TRY(note_table(s, &line.edit.adds[i].meta, err));
    }
done:
    lk_manifest_line_deinit(&line);
    return st;
}

lk_status lk_salvage_manifest(lk_env *env, const char *path, uint64_t number,
                              lk_salvaged_lines *out, lk_error *err)
{
    lk_status st = LK_OK;
    lk_file *file = NULL;
    lk_manifest_scan scan = {.data = NULL};
    LK_TRY(lk_env_open(env, path, LK_OPEN_READ, &file, err));
    LK_TRY(lk_manifest_scan_load(&scan, file, number, err));
    /* A line is seeded with the checksum of the one before: also with that of a damaged one, if its
     * digits are whole. */
    uint64_t chain = number;
    for (size_t at = 0, end; at < scan.size; at = end + 1) {
        uint8_t *newline = memchr(scan.data + at, '\n', scan.size - at);
        end = newline == NULL ? scan.size : (size_t)(newline - scan.data);
        uint64_t stored = 0;
        bool has_head = end - at > LK_MANIFEST_HEAD_BYTES && lk_hex16_read(scan.data + at, &stored);
        uint8_t *json = scan.data + at + LK_MANIFEST_HEAD_BYTES;
        size_t len = has_head ? end - at - LK_MANIFEST_HEAD_BYTES : 0;
        if (has_head && XXH3_64bits_withSeed(json, len, chain) == stored) {
            LK_TRY(line_take(out, json, len, path, err));
        } else {
            out->lines_lost++;
        }
        chain = stored;
    }
done:
    lk_manifest_scan_free(&scan);
    lk_file_close(file);
    return st;
}

void lk_salvaged_lines_deinit(lk_salvaged_lines *s)
{
    for (size_t i = 0; i < s->table_count; i++) lk_table_meta_deinit(&s->tables[i]);
    free(s->tables);
    lk_properties_free(&s->properties);
    memset(s, 0, sizeof *s);
}

const lk_table_meta *lk_salvaged_table(const lk_salvaged_lines *s, uint64_t file)
{
    for (size_t i = 0; i < s->table_count; i++) {
        if (s->tables[i].file == file) return &s->tables[i];
    }
    return NULL;
}

/* ---- tables ---- */

typedef struct table_walk {
    lk_file *file;
    uint64_t size, nonce, seq_base;
    uint32_t tree;
    bool has_nonce, has_footer;
    lk_table_footer footer;
    lk_block *index;  /* NULL: not readable */
    lk_block *before; /* whose last key the next block must pass */
    lk_salvage_row *row;
    void *context;
    lk_salvage_counts *counts;
} table_walk;

static lk_status block_read(const table_walk *w, uint64_t offset, uint64_t bytes, uint64_t base,
                            lk_block **out, lk_error *err)
{
    lk_status st = LK_OK;
    lk_block_image image;
    lk_block_source source = {
        .path = lk_file_path(w->file), .nonce = w->nonce, .offset = offset, .seq_base = base};
    *out = NULL;
    if (bytes < LK_BLOCK_HEADER_BYTES || bytes > w->size || offset > w->size - bytes) return LK_OK;
    uint8_t *data = malloc((size_t)bytes);
    if (data == NULL) return lk_fail_nomem(err, bytes);
    LK_TRY(lk_file_read_exact(w->file, offset, data, (size_t)bytes, err));
    if (lk_block_parse(data, (size_t)bytes, &source, &image, NULL) == LK_OK) {
        (void)lk_block_decode(&image, &source, out, NULL);
    }
done:
    free(data);
    return st;
}

static lk_status parts_read(table_walk *w, const lk_table_meta *meta, lk_error *err)
{
    lk_status st = LK_OK;
    uint8_t bytes[LK_TABLE_FOOTER_BYTES];
    lk_block *block = NULL;
    lk_table_properties props;
    if (meta != NULL) {
        w->nonce = meta->nonce;
        w->tree = meta->tree;
        w->has_nonce = true;
    }
    if (w->size >= sizeof bytes) {
        uint64_t at = w->size - sizeof bytes;
        LK_TRY(lk_file_read_exact(w->file, at, bytes, sizeof bytes, err));
        w->has_footer =
            lk_table_footer_parse(bytes, lk_file_path(w->file), at, &w->footer, NULL) == LK_OK;
    }
    if (!w->has_footer) goto done;
    w->nonce = w->footer.nonce;
    w->has_nonce = true;
    LK_TRY(block_read(w, w->footer.properties.offset, w->footer.properties.bytes, 0, &block, err));
    lk_block_source source = {.path = lk_file_path(w->file), .nonce = w->nonce};
    if (block != NULL && lk_table_properties_parse(block, &source, &props, NULL) == LK_OK) {
        w->tree = props.tree;
        w->seq_base = props.seq_base;
    } else if (meta != NULL && meta->seq_min == meta->seq_max) {
        w->seq_base = meta->seq_max; /* of an ingested one; set to 0 where blocks have theirs */
    }
    LK_TRY(block_read(w, w->footer.index.offset, w->footer.index.bytes, 0, &w->index, err));
    bool places = w->index != NULL && w->index->value_offsets == NULL &&
                  w->index->value_width == LK_TABLE_PLACE_BYTES;
    if (!places) {
        lk_block_unref(w->index);
        w->index = NULL;
    }
done:
    lk_block_unref(block);
    return st;
}

/* The block's rows, if it is whole and stands behind the one before. */
static lk_status block_take(table_walk *w, uint64_t offset, uint64_t bytes, bool *out_whole,
                            lk_error *err)
{
    lk_status st = LK_OK;
    lk_block *b = NULL;
    *out_whole = false;
    LK_TRY(block_read(w, offset, bytes, w->seq_base, &b, err));
    lk_block_source source = {.path = lk_file_path(w->file), .nonce = w->nonce, .offset = offset};
    bool whole = b != NULL && lk_block_check(b, w->tree, &source, NULL) == LK_OK;
    if (whole && w->before != NULL) {
        lk_bytes last = lk_block_key(w->before, w->before->rows - 1), first = lk_block_key(b, 0);
        whole = lk_key_compare(last.data, last.len, first.data, first.len) < 0;
    }
    if (!whole) {
        w->counts->blocks_lost++;
        goto done;
    }
    for (uint32_t i = 0; i < b->rows; i++) {
        lk_bytes key = lk_block_key(b, i), value = lk_block_value(b, i);
        lk_row row = {.key = key.data,
                      .value = value.data,
                      .key_len = (uint32_t)key.len,
                      .value_len = (uint32_t)value.len,
                      .seq = lk_block_seq(b, i),
                      .hash = lk_hash_key(w->tree, key.data, key.len),
                      .kind = lk_block_kind(b, i)};
        LK_TRY(w->row(w->context, w->tree, &row, err));
        w->counts->rows++;
    }
    w->counts->blocks++;
    lk_block_unref(w->before);
    w->before = b;
    b = NULL;
    *out_whole = true;
done:
    lk_block_unref(b);
    return st;
}

/* From block to block by their lengths. Where the footer does not say where the data ends, an index
 * could be taken for data: it is not, because its first place is that of the first block. */
static lk_status blocks_walk(table_walk *w, lk_error *err)
{
    lk_status st = LK_OK;
    uint64_t end = w->has_footer ? w->footer.filter.offset : w->size, first_bytes = 0;
    for (uint64_t at = 0; end - at >= LK_BLOCK_HEADER_BYTES;) {
        uint8_t head[16];
        bool whole;
        lk_block *b = NULL;
        LK_TRY(lk_file_read_exact(w->file, at, head, sizeof head, err));
        uint64_t bytes = lk_load32(head + 8);
        if (bytes < LK_BLOCK_HEADER_BYTES || bytes > end - at) break;
        if (!w->has_footer && at > 0) {
            LK_TRY(block_read(w, at, bytes, 0, &b, err));
            bool is_index = b != NULL && b->value_offsets == NULL &&
                            b->value_width == LK_TABLE_PLACE_BYTES && lk_load64(b->values) == 0 &&
                            lk_load32(b->values + 8) == first_bytes;
            lk_block_unref(b);
            if (is_index) break;
        }
        LK_TRY(block_take(w, at, bytes, &whole, err));
        if (at == 0) first_bytes = bytes;
        at += bytes;
    }
done:
    return st;
}

lk_status lk_salvage_table(lk_env *env, const char *path, const lk_table_meta *meta,
                           lk_salvage_row *row, void *context, lk_salvage_counts *out,
                           lk_error *err)
{
    lk_status st = LK_OK;
    bool whole;
    table_walk w = {.row = row, .context = context, .counts = out};
    memset(out, 0, sizeof *out);
    LK_TRY(lk_env_open(env, path, LK_OPEN_READ, &w.file, err));
    LK_TRY(lk_file_size(w.file, &w.size, err));
    LK_TRY(parts_read(&w, meta, err));
    if (!w.has_nonce) goto done; /* no checksum can be told from chance */
    if (w.index == NULL) {
        LK_TRY(blocks_walk(&w, err));
        goto done;
    }
    for (uint32_t i = 0; i < w.index->rows; i++) {
        const uint8_t *place = lk_block_value(w.index, i).data;
        LK_TRY(block_take(&w, lk_load64(place), lk_load32(place + 8), &whole, err));
    }
done:
    lk_block_unref(w.index);
    lk_block_unref(w.before);
    lk_file_close(w.file);
    return st;
}

/* ---- the log ---- */

static int record_order(const void *a, const void *b)
{
    const lk_salvaged_record *x = a, *y = b;
    lk_record r = lk_record_at(x->at), q = lk_record_at(y->at);
    if (r.tree != q.tree) return r.tree < q.tree ? -1 : 1;
    int c = lk_key_compare(r.key, r.key_len, q.key, q.key_len);
    return c != 0 ? c : (x->seq < y->seq) - (x->seq > y->seq);
}

static lk_status records_take(lk_salvaged_log *log, const lk_segment_header *h,
                              const lk_frame *frame, const lk_entry *entries, lk_error *err)
{
    if (log->count + frame->records > log->capacity) {
        size_t capacity = 2 * log->capacity + frame->records + 1024;
        lk_salvaged_record *more = realloc(log->records, capacity * sizeof *more);
        if (more == NULL) return lk_fail_nomem(err, capacity * sizeof *more);
        log->records = more;
        log->capacity = capacity;
    }
    for (uint32_t i = 0; i < frame->records; i++) {
        log->records[log->count++] = (lk_salvaged_record){.at = log->data + entries[i].location,
                                                          .seq = h->base_seq + frame->ordinal + i};
    }
    return LK_OK;
}

static lk_status frames_walk(lk_salvaged_log *log, const lk_segment_header *h, uint32_t end,
                             lk_error *err)
{
    lk_status st = LK_OK;
    size_t most = end / LK_RECORD_HEADER_BYTES + 1;
    uint32_t *tags = malloc(most * sizeof *tags);
    lk_entry *entries = malloc(most * sizeof *entries);
    if (tags == NULL || entries == NULL) {
        st = lk_fail_nomem(err, most * (sizeof *tags + sizeof *entries));
        goto done;
    }
    uint64_t broken = 0;
    for (uint32_t at = LK_SEGMENT_HEADER_BYTES; at + LK_FRAME_HEADER_BYTES <= end;) {
        lk_frame frame;
        lk_frame_state state = lk_frame_read(log->data, end, h->nonce, at, tags, entries, &frame);
        if (state != LK_FRAME_WHOLE) {
            uint32_t step = state == LK_FRAME_BROKEN ? (uint32_t)lk_frame_bytes(frame.length) : 8;
            broken += step;
            at += step;
            continue;
        }
        /* What lies between two frames is lost, but for the rest of a page that a sync leaves. */
        if (broken >= LK_PAGE_BYTES || at % LK_PAGE_BYTES != 0) log->bytes_lost += broken;
        broken = 0;
        LK_TRY(records_take(log, h, &frame, entries, err));
        at += (uint32_t)lk_frame_bytes(frame.length);
    }
done:
    free(tags);
    free(entries);
    return st;
}

lk_status lk_salvage_log(lk_env *env, const char *path, uint64_t generation, lk_salvaged_log *out,
                         lk_error *err)
{
    lk_status st = LK_OK;
    lk_file *file = NULL;
    lk_segment_header header;
    uint64_t bytes;
    memset(out, 0, sizeof *out);
    LK_TRY(lk_env_open(env, path, LK_OPEN_READ, &file, err));
    LK_TRY(lk_file_size(file, &bytes, err));
    if (bytes < LK_SEGMENT_HEADER_BYTES || bytes > UINT32_MAX) goto done;
    out->data_bytes = (size_t)lk_align_up(bytes, LK_PAGE_BYTES);
    LK_TRY(lk_env_map_anonymous(env, out->data_bytes, &out->data, err));
    LK_TRY(lk_file_read_exact(file, 0, out->data, (size_t)bytes, err));
    if (lk_segment_header_is_blank(out->data)) goto done;
    if (lk_segment_header_parse(out->data, path, &header, NULL) != LK_OK) {
        out->bytes_lost = bytes;
        goto done;
    }
    if (header.generation != generation) goto done; /* prepared for later, from an older one */
    uint64_t end = bytes < header.capacity ? bytes : header.capacity;
    LK_TRY(frames_walk(out, &header, (uint32_t)end, err));
    if (out->count > 0) qsort(out->records, out->count, sizeof *out->records, record_order);
done:
    lk_file_close(file);
    return st;
}

void lk_salvaged_log_deinit(lk_env *env, lk_salvaged_log *log)
{
    lk_env_unmap(env, log->data, log->data_bytes);
    free(log->records);
    memset(log, 0, sizeof *log);
}
