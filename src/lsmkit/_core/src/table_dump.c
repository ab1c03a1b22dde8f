/* table_dump.c: a table as text, for `lsmkit dump sst` and the golden tests.
 *
 * Callers   the command line, through the store; tests.
 * Always    the text is the same for the same file, but for the nonce and what is derived from it.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "table_parts.h"

enum { SHOWN_BYTES_MAX = 64, LINE_BYTES = 1024 };

typedef struct printer {
    void (*print)(void *context, const char *line);
    void *context;
} printer;

__attribute__((format(printf, 2, 3))) static void say(const printer *p, const char *format, ...)
{
    char line[LINE_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(line, sizeof line, format, args);
    va_end(args);
    p->print(p->context, line);
}

/* Quoted; bytes that are not printable ASCII as \xNN; cut after SHOWN_BYTES_MAX. `out` takes four
 * characters a byte and what says how much was cut. */
typedef struct quoted {
    char text[4 * SHOWN_BYTES_MAX + 40];
} quoted;

static const char *quote(lk_bytes bytes, quoted *out)
{
    size_t shown = bytes.len < SHOWN_BYTES_MAX ? bytes.len : SHOWN_BYTES_MAX;
    char *p = out->text, *end = out->text + sizeof out->text;
    *p++ = '"';
    for (size_t i = 0; i < shown; i++) {
        uint8_t c = bytes.data[i];
        if (c == '"' || c == '\\') {
            *p++ = '\\';
            *p++ = (char)c;
        } else if (c >= 0x20 && c < 0x7f) {
            *p++ = (char)c;
        } else {
            p += snprintf(p, (size_t)(end - p), "\\x%02x", c);
        }
    }
    *p++ = '"';
    *p = 0;
    if (shown < bytes.len) (void)snprintf(p, (size_t)(end - p), "... (%zu bytes)", bytes.len);
    return out->text;
}

static void dump_footer(const printer *p, const lk_table_parts *parts)
{
    const lk_table_footer *f = &parts->footer;
    say(p, "table %06" PRIu64 ", format %d, %" PRIu64 " bytes, nonce %016" PRIx64, f->file,
        LK_TABLE_VERSION, f->bytes, f->nonce);
    say(p, "  filter      at %" PRIu64 ", %" PRIu64 " bytes", f->filter.offset, f->filter.bytes);
    say(p, "  index       at %" PRIu64 ", %" PRIu64 " bytes", f->index.offset, f->index.bytes);
    say(p, "  properties  at %" PRIu64 ", %" PRIu64 " bytes", f->properties.offset,
        f->properties.bytes);
    if (parts->filter.lines == NULL) return;
    say(p, "filter: blocked bloom, %" PRIu32 " lines, %" PRIu32 " probes", parts->filter.line_count,
        parts->filter.probes);
}

static void dump_properties(const printer *p, const lk_table_parts *parts)
{
    const lk_table_properties *props = &parts->properties;
    quoted text;
    say(p, "properties");
    say(p, "  tree %" PRIu32 ", file %" PRIu64 ", blocks %" PRIu64, props->tree, props->file,
        props->blocks);
    say(p, "  rows %" PRIu64 ", tombstones %" PRIu64 ", raw bytes %" PRIu64, props->rows,
        props->tombstones, props->raw_bytes);
    if (props->operands > 0) say(p, "  operands %" PRIu64, props->operands);
    if (props->deadlines > 0) {
        say(p, "  deadlines %" PRIu64 ", %" PRIu64 "..%" PRIu64, props->deadlines,
            props->deadline_min, props->deadline_max);
    }
    for (size_t at = 0; at < props->uses.len; at += LK_BLOB_USE_BYTES) {
        lk_blob_use use = lk_blob_use_decode(props->uses.data + at);
        say(p, "  values in %06" PRIu64 ".blob, %" PRIu64 " rows, %" PRIu64 " of %" PRIu64 " bytes",
            use.file, use.rows, use.bytes, use.size);
    }
    say(p, "  sequences %" PRIu64 "..%" PRIu64, props->seq_min, props->seq_max);
    say(p, "  block bytes %" PRIu32 ", filter bits %" PRIu32 ", codec %s", props->block_bytes,
        props->filter_bits, lk_codec_name(props->codec));
    say(p, "  first key %s", quote(props->min_key, &text));
    say(p, "  last key %s", quote(props->max_key, &text));
}

static void dump_image(const printer *p, uint32_t index, const lk_block_image *im, uint64_t offset)
{
    quoted text;
    say(p, "block %" PRIu32 " at %" PRIu64 ": %zu bytes, %" PRIu32 " rows%s", index, offset,
        im->bytes, im->rows, im->unique ? "" : ", versions");
    say(p, "  prefix %s", quote((lk_bytes){im->prefix, im->prefix_bytes}, &text));
    say(p, "  suffixes %" PRIu32 " bytes, end width %u", im->suffix_bytes, im->key_end_width);
    say(p, "  values %" PRIu32 " bytes, end width %u, stored as %s in %" PRIu32, im->value_bytes,
        im->value_end_width, lk_codec_name(im->codec), im->value_stored);
    say(p, "  tombstones %" PRIu32 ", sequences %" PRIu64 "..%" PRIu64 " in width %u",
        im->tombstones, im->seq_min, im->seq_max, im->seq_width);
}

static void dump_rows(const printer *p, const lk_block *b)
{
    quoted key, value;
    for (uint32_t i = 0; i < b->rows; i++) {
        lk_kind kind = lk_block_kind(b, i);
        lk_bytes stored = lk_block_value(b, i);
        uint32_t head = lk_kind_head_bytes(kind);
        char until[32] = "";
        (void)quote(lk_block_key(b, i), &key);
        if (head > 0) {
            (void)snprintf(until, sizeof until, " until %" PRIu64,
                           lk_kind_deadline(kind, stored.data));
        }
        if (kind == LK_KIND_DELETE) {
            say(p, "    %s @%" PRIu64 " delete", key.text, lk_block_seq(b, i));
            continue;
        }
        if (lk_kind_is_blob(kind)) {
            lk_blob_ref ref = lk_blob_ref_decode(stored.data + head);
            say(p,
                "    %s @%" PRIu64 "%s in %06" PRIu64 ".blob at %" PRIu64 ", %" PRIu32 " bytes%s",
                key.text, lk_block_seq(b, i), until, ref.file, ref.offset, ref.raw,
                ref.stored < ref.raw ? ", compressed" : "");
            continue;
        }
        (void)quote((lk_bytes){stored.data + head, stored.len - head}, &value);
        say(p, "    %s @%" PRIu64 "%s %s %s", key.text, lk_block_seq(b, i), until,
            lk_kind_is_merge(kind) ? "merge" : "=", value.text);
    }
}

static lk_status dump_block(const printer *p, const lk_table_parts *parts, uint32_t index,
                            bool rows, lk_error *err)
{
    lk_status st = LK_OK;
    uint64_t offset;
    uint32_t bytes, row_count;
    lk_block_image image;
    lk_block_source source;
    lk_block *b = NULL;
    lk_table_parts_place(parts, index, &offset, &bytes, &row_count);
    uint8_t *buffer = malloc(bytes);
    if (buffer == NULL) return lk_fail_nomem(err, bytes);
    LK_TRY(lk_table_parts_image(parts, index, buffer, &image, &source, err));
    dump_image(p, index, &image, offset);
    if (!rows) goto done;
    LK_TRY(lk_block_decode(&image, &source, &b, err));
    dump_rows(p, b);
done:
    lk_block_unref(b);
    free(buffer);
    return st;
}

static void dump_index(const printer *p, const lk_table_parts *parts)
{
    quoted text;
    say(p, "index: prefix of %" PRIu32 " bytes", parts->prefix_len);
    for (uint32_t i = 0; i < parts->block_count; i++) {
        uint64_t offset;
        uint32_t bytes, rows;
        lk_table_parts_place(parts, i, &offset, &bytes, &rows);
        say(p, "  %s -> at %" PRIu64 ", %" PRIu32 " bytes, %" PRIu32 " rows",
            quote(lk_block_key(parts->index, i), &text), offset, bytes, rows);
    }
}

lk_status lk_table_dump(lk_table *t, bool rows, void (*print)(void *context, const char *line),
                        void *context, lk_error *err)
{
    lk_status st = LK_OK;
    printer p = {print, context};
    LK_TRY(lk_table_load(t, err));
    const lk_table_parts *parts = lk_table_parts_of(t);
    dump_footer(&p, parts);
    dump_properties(&p, parts);
    dump_index(&p, parts);
    for (uint32_t i = 0; i < parts->block_count; i++) {
        LK_TRY(dump_block(&p, parts, i, rows, err));
    }
done:
    return st;
}
