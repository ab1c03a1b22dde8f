/* log_dump.c: a log file as text, for people and golden tests.
 *
 * Reads with pread and trusts nothing: a frame whose body is not what was written is listed as BROKEN,
 * one that does not follow the frame before it as NOT LINKED. What is found behind the end of the
 * chain is what recovery finds there.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "frame.h"
#include "recover.h"

#define LINE_BYTES 512u
#define SHOWN_BYTES 40u /* of a key or value; the rest is an ellipsis */

typedef struct printer {
    void (*print)(void *context, const char *line);
    void *context;
} printer;

/* Printable bytes as they are, others as \xNN. */
static void show(char *out, size_t room, const uint8_t *p, size_t n)
{
    size_t at = 0, shown = n < SHOWN_BYTES ? n : SHOWN_BYTES;
    for (size_t i = 0; i < shown && at + 8 < room; i++) {
        bool plain = p[i] >= 0x20 && p[i] < 0x7F && p[i] != '\\' && p[i] != '"';
        at += (size_t)snprintf(out + at, room - at, plain ? "%c" : "\\x%02x", p[i]);
    }
    (void)snprintf(out + at, room - at, "%s", shown < n ? "..." : "");
}

static void record_print(const printer *to, const lk_record *r, uint64_t seq)
{
    char line[LINE_BYTES], key[192], value[192], until[32] = "";
    uint32_t head = lk_kind_head_bytes(r->kind);
    show(key, sizeof key, r->key, r->key_len);
    show(value, sizeof value, r->value + head, r->value_len - head);
    if (head > 0) {
        (void)snprintf(until, sizeof until, " until %" PRIu64, lk_kind_deadline(r->kind, r->value));
    }
    (void)snprintf(line, sizeof line, "  seq %" PRIu64 " tree %" PRIu32 " %s%s \"%s\" \"%s\"", seq,
                   r->tree, lk_kind_name(r->kind), until, key, value);
    to->print(to->context, line);
}

static void frame_print(const printer *to, const uint8_t *base, const lk_segment_header *h,
                        const lk_frame *f, lk_frame_state state, bool linked, bool records)
{
    char line[LINE_BYTES];
    (void)snprintf(line, sizeof line,
                   "frame at %" PRIu32 " bytes %" PRIu32 " seq %" PRIu64 " records %" PRIu32
                   " synced %" PRIu32 "%s%s",
                   f->offset, f->length, h->base_seq + f->ordinal, f->records, f->synced_upto,
                   state == LK_FRAME_BROKEN ? " BROKEN" : "", linked ? "" : " NOT LINKED");
    to->print(to->context, line);
    if (!records || state != LK_FRAME_WHOLE) return;
    uint32_t at = f->offset + LK_FRAME_HEADER_BYTES;
    for (uint32_t i = 0; i < f->records; i++) {
        lk_record r = lk_record_at(base + at);
        record_print(to, &r, h->base_seq + f->ordinal + i);
        at += (uint32_t)lk_record_bytes(r.tree, r.key_len, r.value_len);
    }
}

static void header_print(const printer *to, const lk_segment_header *h)
{
    char line[LINE_BYTES];
    (void)snprintf(
        line, sizeof line,
        "log generation %" PRIu64 " first seq %" PRIu64 " capacity %" PRIu32 " after %" PRIu32 "%s",
        h->generation, h->base_seq, h->capacity, h->previous_end, h->marked ? " marked" : "");
    to->print(to->context, line);
}

static void frames_print(const printer *to, const uint8_t *base, uint32_t end,
                         const lk_segment_header *h, bool records)
{
    uint32_t at = LK_SEGMENT_HEADER_BYTES, link = h->link, ordinal = 0;
    while (at + LK_FRAME_HEADER_BYTES <= end) {
        lk_frame f;
        lk_frame_state state = lk_frame_parse(base, end, h->nonce, at, &f);
        if (state == LK_FRAME_NONE || (state == LK_FRAME_BROKEN && f.link != link)) {
            at += 8;
            continue;
        }
        frame_print(to, base, h, &f, state, f.link == link && f.ordinal == ordinal, records);
        link = f.own_hash;
        ordinal = f.ordinal + f.records;
        at += (uint32_t)lk_frame_bytes(f.length);
    }
}

/* Where the last process stopped, as long as the machine runs. */
static void mark_print(const printer *to, const uint8_t *bytes, size_t n,
                       const lk_segment_header *h)
{
    char line[LINE_BYTES];
    uint64_t place = lk_align_up(h->capacity, LK_PAGE_BYTES);
    if (!h->marked) return;
    if (place + 8 > n) {
        (void)snprintf(line, sizeof line, "mark: the file ends before it");
    } else if (lk_load64(bytes + place) == h->nonce + LK_MARK_NONE) {
        (void)snprintf(line, sizeof line, "mark: none");
    } else {
        (void)snprintf(line, sizeof line, "mark: %" PRIu64, lk_load64(bytes + place) - h->nonce);
    }
    to->print(to->context, line);
}

lk_status lk_log_dump(lk_env *env, const char *path, bool records,
                      void (*print)(void *context, const char *line), void *context, lk_error *err)
{
    lk_status st = LK_OK;
    lk_file *file = NULL;
    uint8_t *bytes = NULL;
    uint64_t size;
    size_t got = 0;
    lk_segment_header h;
    printer to = {print, context};
    LK_TRY(lk_env_open(env, path, LK_OPEN_READ, &file, err));
    LK_TRY(lk_file_size(file, &size, err));
    if (size < LK_SEGMENT_HEADER_BYTES || size > (uint64_t)UINT32_MAX + LK_PAGE_BYTES) {
        st = lk_fail_corrupt(err, path, 0, LK_SEGMENT_HEADER_BYTES, size,
                             "%s: %" PRIu64 " bytes are no log segment", path, size);
        goto done;
    }
    bytes = malloc((size_t)size);
    if (bytes == NULL) {
        st = lk_fail_nomem(err, size);
        goto done;
    }
    LK_TRY(lk_file_read(file, 0, bytes, (size_t)size, &got, err));
    if (got < LK_SEGMENT_HEADER_BYTES) {
        st = lk_fail_corrupt(err, path, 0, LK_SEGMENT_HEADER_BYTES, got,
                             "%s: %zu bytes are no log segment", path, got);
        goto done;
    }
    if (lk_segment_header_is_blank(bytes)) {
        print(context, "log segment that was prepared and not used");
        goto done;
    }
    LK_TRY(lk_segment_header_parse(bytes, path, &h, err));
    header_print(&to, &h);
    frames_print(&to, bytes, h.capacity < got ? h.capacity : (uint32_t)got, &h, records);
    mark_print(&to, bytes, got, &h);
done:
    free(bytes);
    lk_file_close(file);
    return st;
}
