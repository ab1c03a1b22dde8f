/* changes.c: see changes.h.
 *
 * A source is one segment, as a range of bytes: walked frame by frame. Between two sources there is
 * nothing but a sequence, so that a source may be flushed, and become a file, while nobody looks.
 */
#include "changes.h"

#include <inttypes.h>
#include <stdlib.h>

#include "check.h"
#include "frame.h"
#include "prove.h"

#define LINK_AT 56u            /* in a segment's header: the link of the first frame */
#define READ_BYTES (1u << 20)  /* of a file at a time */
#define GIVEN_BYTES (1u << 20) /* of keys and values in one call, but for one change */
#define WALK_BYTES (8u << 20)  /* of log in one call */
#define PAUSE_NS_MIN 50000u    /* between two looks at the log; doubled up to the other */
#define PAUSE_NS_MAX 5000000u

typedef struct source {
    bool is_open;
    lk_segment *live; /* the view holds it; NULL: a file */
    lk_file *file;    /* of the history ... */
    uint8_t *memory;  /* ... its bytes, up to `loaded` */
    size_t memory_bytes;
    uint64_t loaded;
    uint64_t tail; /* where its frames end; 0: not known */
    const uint8_t *base;
    const char *path;
    uint32_t end; /* frames end here at the latest */
    uint64_t nonce, generation, base_seq;
    uint32_t at, ordinal, link; /* the next frame: where it may begin, and what must stand in it */
} source;

struct lk_changes {
    lk_store *s;
    lk_view *view;
    uint32_t tree;
    lk_bytes prefix;
    uint8_t *prefix_end; /* the first key behind those with the prefix, of prefix_end_len bytes; */
    size_t prefix_end_len; /* 0: there is none */
    uint64_t upto;         /* the last that is wanted */
    uint64_t next_seq;     /* all before was given out or passed over */
    bool from_oldest;      /* ... and that was nothing so far: it may begin later */
    uint64_t ended;        /* generation of the file whose end was reached; 0: none */
    source source;
    uint32_t record_at, record_end; /* in the frame in hand */
    uint64_t record_seq;
};

/* ---- what there is ---- */

/* The last sequence that the view shows. */
static uint64_t view_last(const lk_view *v)
{
    if (v->segment_count == 0) return v->last_seq;
    return v->segments[0]->base_seq + lk_segment_visible(v->segments[0], LK_SEQ_MAX) - 1;
}

/* The oldest sequence behind `seq` from which on there is everything. */
static uint64_t oldest_after(lk_store *s, const lk_view *v, uint64_t seq)
{
    uint64_t oldest = view_last(v) + 1, past = lk_history_after(&s->history, seq);
    for (uint32_t i = 0; i < v->segment_count; i++) {
        if (v->segments[i]->base_seq > seq) oldest = v->segments[i]->base_seq;
    }
    return past != 0 && past < oldest ? past : oldest;
}

/* Whether the history, or a live segment, goes on with `seq` behind a file that begins with `base_seq`. */
static bool goes_on(lk_store *s, uint64_t base_seq, uint64_t seq)
{
    lk_view *v = lk_store_view(s);
    uint64_t next = oldest_after(s, v, base_seq);
    lk_view_unref(v);
    return next == seq;
}

/* ---- a source ---- */

static void source_close(lk_store *s, source *x)
{
    lk_env_unmap(s->env, x->memory, x->memory_bytes);
    lk_file_close(x->file);
    memset(x, 0, sizeof *x);
}

/* The bytes of a file up to `upto`, or to its end, which may come nearer: the file is cut to what it
 * holds when the last one lets go of the segment. */
static lk_status source_load(source *x, uint64_t upto, lk_error *err)
{
    size_t n;
    if (x->file == NULL || upto <= x->loaded || x->loaded == x->end) return LK_OK;
    uint64_t want = upto - x->loaded < READ_BYTES ? READ_BYTES : upto - x->loaded;
    if (want > x->end - x->loaded) want = x->end - x->loaded;
    lk_status st = lk_file_read(x->file, x->loaded, x->memory + x->loaded, (size_t)want, &n, err);
    if (st != LK_OK) return st;
    x->loaded += n;
    if (n < want) x->end = (uint32_t)x->loaded;
    return LK_OK;
}

/* A file that was cut says at its end where its frames end. */
static lk_status tail_read(source *x, uint64_t bytes, uint64_t nonce, lk_error *err)
{
    uint8_t end[8];
    size_t n;
    lk_status st = lk_file_read(x->file, bytes - sizeof end, end, sizeof end, &n, err);
    if (st != LK_OK || n < sizeof end) return st;
    uint64_t tail = lk_load64(end) - nonce;
    if (tail >= LK_SEGMENT_HEADER_BYTES && tail < bytes && lk_segment_kept_bytes(tail) == bytes) {
        x->tail = tail;
    }
    return LK_OK;
}

static lk_status source_open_file(lk_store *s, source *x, const lk_past *past, lk_error *err)
{
    lk_status st = LK_OK;
    char path[LK_PATH_MAX];
    uint64_t bytes;
    lk_segment_header header;
    LK_ASSERT(!x->is_open);
    lk_segment_path(s->dir, past->generation, path, sizeof path);
    LK_TRY(lk_env_open(s->env, path, LK_OPEN_READ, &x->file, err));
    x->path = lk_file_path(x->file);
    LK_TRY(lk_file_size(x->file, &bytes, err));
    if (bytes > LK_SEGMENT_BYTES_MAX) bytes = LK_SEGMENT_BYTES_MAX;
    x->memory_bytes = (size_t)lk_align_up(bytes + 1, LK_PAGE_BYTES);
    LK_TRY(lk_env_map_anonymous(s->env, x->memory_bytes, &x->memory, err));
    x->end = (uint32_t)bytes;
    LK_TRY(source_load(x, LK_SEGMENT_HEADER_BYTES, err));
    LK_TRY(lk_segment_header_parse(x->memory, path, &header, err));
    if (header.generation != past->generation || header.base_seq != past->base_seq) {
        st = lk_fail_corrupt(err, path, 8, past->generation, header.generation,
                             "%s: holds log generation %" PRIu64, path, header.generation);
        goto done;
    }
    LK_TRY(tail_read(x, bytes, header.nonce, err));
    x->base = x->memory;
    x->nonce = header.nonce;
    x->generation = past->generation;
    x->base_seq = past->base_seq;
    x->link = header.link;
    x->at = LK_SEGMENT_HEADER_BYTES;
    x->is_open = true;
done:
    if (st != LK_OK) source_close(s, x);
    return st;
}

/* To the frame with a record of a segment whose index is there: frames of one record by a look, larger
 * ones by a search backwards for their first. */
static void source_seek(source *x, const lk_segment *segment, uint32_t ordinal)
{
    for (uint32_t o = ordinal + 1; o-- > 0;) {
        lk_frame frame;
        uint32_t place = segment->index.entries[o].location;
        if (place < LK_SEGMENT_HEADER_BYTES + LK_FRAME_HEADER_BYTES) continue;
        place -= LK_FRAME_HEADER_BYTES;
        if (place % 8 != 0) continue;
        if (!lk_frame_header_parse(x->base, x->end, x->nonce, place, &frame)) continue;
        if (frame.ordinal != o) continue;
        x->at = place;
        x->ordinal = o;
        x->link = frame.link;
        return;
    }
}

static void source_open_live(source *x, lk_segment *segment, uint64_t seq, uint32_t visible)
{
    LK_ASSERT(!x->is_open && seq >= segment->base_seq && seq - segment->base_seq < visible);
    uint64_t frames = segment->capacity;
    if (frames > segment->memory_bytes) frames = segment->memory_bytes;
    x->live = segment;
    x->base = segment->base;
    x->path = lk_file_path(segment->file);
    x->end = (uint32_t)frames;
    x->nonce = segment->nonce;
    x->generation = segment->generation;
    x->base_seq = segment->base_seq;
    x->at = LK_SEGMENT_HEADER_BYTES;
    x->is_open = true;
    if (lk_proof_is_open(segment)) {
        x->link = lk_load32(segment->base + LINK_AT);
    } else {
        source_seek(x, segment, (uint32_t)(seq - segment->base_seq));
    }
}

/* Finds the next frame and proves it. False: there is none. */
static lk_status source_frame(lk_store *s, source *x, lk_frame *out, bool *out_found, lk_error *err)
{
    uint32_t page = (uint32_t)lk_align_up(x->at, LK_PAGE_BYTES); /* where it begins after a sync */
    *out_found = false;
    if (x->live != NULL && x->ordinal >= lk_segment_visible(x->live, LK_SEQ_MAX)) return LK_OK;
    for (int i = 0; i < 2; i++) {
        uint32_t place = i == 0 ? x->at : page;
        lk_status st = source_load(x, (uint64_t)place + LK_FRAME_HEADER_BYTES, err);
        if (st != LK_OK) return st;
        if (!lk_frame_header_parse(x->base, x->end, x->nonce, place, out)) continue;
        if (out->link != x->link || out->ordinal != x->ordinal) continue;
        st = source_load(x, place + lk_frame_bytes(out->length), err);
        if (st != LK_OK) return st;
        *out_found = true;
        if (lk_frame_parse(x->base, x->end, x->nonce, place, out) == LK_FRAME_WHOLE) {
            x->at = place + (uint32_t)lk_frame_bytes(out->length);
            x->ordinal += out->records;
            x->link = out->own_hash;
            return LK_OK;
        }
        return lk_fail_corrupt(err, x->path, place, out->body_expected, out->body_found,
                               "%s: the frame at byte %u is not what was written", x->path, place);
    }
    bool is_early = x->live != NULL || (x->tail != 0 && x->at != x->tail);
    if (!is_early || goes_on(s, x->base_seq, x->base_seq + x->ordinal)) return LK_OK;
    return lk_fail_corrupt(err, x->path, x->at, 0, 0, "%s: the log breaks off at byte %u", x->path,
                           x->at);
}

/* ---- from source to source ---- */

static lk_status lost(const lk_changes *c, lk_error *err)
{
    uint64_t oldest = oldest_after(c->s, c->view, c->next_seq);
    return lk_fail(err, LK_LOST, 0, c->s->dir, 0, oldest, c->next_seq,
                   "changes from sequence %" PRIu64
                   " on are not kept any more; what is kept begins "
                   "at %" PRIu64,
                   c->next_seq, oldest);
}

static lk_segment *segment_with(const lk_view *v, uint64_t seq, uint32_t *out_visible)
{
    for (uint32_t i = 0; i < v->segment_count; i++) {
        lk_segment *segment = v->segments[i];
        *out_visible = lk_segment_visible(segment, LK_SEQ_MAX);
        if (seq >= segment->base_seq && seq - segment->base_seq < *out_visible) return segment;
    }
    return NULL;
}

static lk_status open_history(lk_changes *c, lk_error *err)
{
    lk_past past;
    lk_history *h = &c->s->history;
    while (lk_history_find(h, c->next_seq, &past) && past.generation != c->ended) {
        lk_status st = source_open_file(c->s, &c->source, &past, err);
        if (st != LK_NOT_FOUND) return st;
        lk_history_forget(h, past.generation); /* removed meanwhile, perhaps by another process */
    }
    if (!c->from_oldest) return lost(c, err);
    c->next_seq = oldest_after(c->s, c->view, c->next_seq);
    return LK_OK;
}

/* Opens what holds `next_seq`. False: nothing does yet. */
static lk_status source_find(lk_changes *c, bool *out_found, lk_error *err)
{
    *out_found = false;
    c->record_at = c->record_end = 0;
    while (c->next_seq <= c->upto) {
        if (c->next_seq > view_last(c->view)) {
            lk_view *fresh = lk_store_view(c->s);
            bool is_new = fresh != c->view;
            lk_view_unref(c->view);
            c->view = fresh;
            if (!is_new) return LK_OK;
            continue;
        }
        uint32_t visible;
        lk_segment *segment = segment_with(c->view, c->next_seq, &visible);
        if (segment != NULL) {
            source_open_live(&c->source, segment, c->next_seq, visible);
        } else {
            lk_status st = open_history(c, err);
            if (st != LK_OK) return st;
        }
        *out_found = c->source.is_open;
        if (*out_found) return LK_OK;
    }
    return LK_OK;
}

/* What comes behind the end of a source. */
static void source_leave(lk_changes *c)
{
    source *x = &c->source;
    uint64_t end = x->base_seq + x->ordinal;
    if (x->live == NULL) c->ended = x->generation;
    if (end > c->next_seq) c->next_seq = end;
    source_close(c->s, x);
}

/* ---- changes ---- */

static bool is_wanted(const lk_changes *c, const lk_record *r)
{
    if (r->tree != c->tree) return false;
    if (c->prefix.len == 0) return true;
    if (r->kind != LK_KIND_DELETE_RANGE) {
        return r->key_len >= c->prefix.len && memcmp(r->key, c->prefix.data, c->prefix.len) == 0;
    }
    if (r->value_len > 0 &&
        lk_key_compare(r->value, r->value_len, c->prefix.data, c->prefix.len) <= 0) {
        return false;
    }
    return c->prefix_end_len == 0 ||
           lk_key_compare(r->key, r->key_len, c->prefix_end, c->prefix_end_len) < 0;
}

static lk_change change_of(const lk_record *r, uint64_t seq)
{
    uint32_t head = lk_kind_head_bytes(r->kind);
    return (lk_change){
        .seq = seq,
        .until_us = head > 0 ? lk_kind_deadline(r->kind, r->value) : 0,
        .kind = (lk_kind)(r->kind & ~(unsigned)LK_KIND_UNTIL),
        .key = {r->key, r->key_len},
        .value = {r->value + head, r->value_len - head},
    };
}

/* Records of the frame in hand. */
static size_t records_take(lk_changes *c, lk_change *out, size_t max, uint64_t *bytes)
{
    size_t n = 0;
    while (n < max && c->record_at < c->record_end && *bytes < GIVEN_BYTES) {
        lk_record r = lk_record_at(c->source.base + c->record_at);
        uint64_t seq = c->record_seq++;
        c->record_at += (uint32_t)lk_record_bytes(r.tree, r.key_len, r.value_len);
        if (seq < c->next_seq) continue;
        c->next_seq = seq + 1;
        if (!is_wanted(c, &r)) continue;
        out[n++] = change_of(&r, seq);
        *bytes += r.key_len + (uint64_t)r.value_len;
    }
    return n;
}

lk_status lk_changes_next(lk_changes *c, lk_change *out, size_t max, size_t *out_count,
                          bool *out_end, lk_error *err)
{
    lk_status st = LK_OK;
    uint64_t given = 0, walked = 0;
    bool found;
    *out_count = 0;
    *out_end = false;
    while (*out_count < max && given < GIVEN_BYTES && walked < WALK_BYTES) {
        if (!c->source.is_open) {
            LK_TRY(source_find(c, &found, err));
            *out_end = !found;
            if (!found) break;
        }
        if (c->record_at == c->record_end) {
            lk_frame frame;
            found = c->next_seq <= c->upto;
            if (found) LK_TRY(source_frame(c->s, &c->source, &frame, &found, err));
            if (!found) {
                if (*out_count > 0) break; /* they stand in this source */
                source_leave(c);
                continue;
            }
            c->record_at = frame.offset + LK_FRAME_HEADER_BYTES;
            c->record_end = c->record_at + frame.length;
            c->record_seq = c->source.base_seq + frame.ordinal;
            walked += frame.length;
        }
        *out_count += records_take(c, out + *out_count, max - *out_count, &given);
        c->from_oldest = c->from_oldest && *out_count == 0;
    }
done:
    return st;
}

bool lk_changes_wait(lk_changes *c, uint64_t timeout_ns)
{
    lk_store *s = c->s;
    uint64_t started = lk_env_now_ns(s->env), pause = PAUSE_NS_MIN;
    for (;;) {
        uint64_t seq, seen = lk_event_generation(&s->changed);
        if (!lk_store_is_open(s)) return true;
        lk_view_unref(lk_store_view_now(s, &seq));
        if (seq >= c->next_seq) return true;
        uint64_t passed = lk_env_now_ns(s->env) - started;
        if (passed >= timeout_ns) return false;
        uint64_t left = timeout_ns - passed;
        (void)lk_event_wait_ns(&s->changed, seen, pause < left ? pause : left);
        pause = 2 * pause < PAUSE_NS_MAX ? 2 * pause : PAUSE_NS_MAX;
    }
}

uint64_t lk_changes_seq(const lk_changes *c) { return c->next_seq - 1; }

/* ---- opening and closing ---- */

static lk_status prefix_set(lk_changes *c, lk_bytes prefix, lk_error *err)
{
    uint8_t *copy = malloc(2 * prefix.len + 1);
    if (copy == NULL) return lk_fail_nomem(err, 2 * prefix.len);
    if (prefix.len > 0) memcpy(copy, prefix.data, prefix.len);
    c->prefix = (lk_bytes){copy, prefix.len};
    c->prefix_end = copy + prefix.len;
    size_t n = prefix.len;
    if (n > 0) memcpy(c->prefix_end, prefix.data, n);
    while (n > 0 && c->prefix_end[n - 1] == 0xFF) n--;
    if (n > 0) c->prefix_end[n - 1]++;
    c->prefix_end_len = n;
    return LK_OK;
}

lk_status lk_changes_open(lk_store *s, uint64_t since, uint32_t tree, lk_bytes prefix, bool follow,
                          lk_changes **out, lk_error *err)
{
    lk_status st = LK_OK;
    uint64_t now;
    *out = NULL;
    lk_changes *c = calloc(1, sizeof *c);
    if (c == NULL) return lk_fail_nomem(err, sizeof *c);
    c->s = s;
    c->tree = tree;
    c->view = lk_store_view_now(s, &now);
    c->upto = follow ? UINT64_MAX : now;
    c->from_oldest = since == 0;
    c->next_seq = since == 0 ? oldest_after(s, c->view, 0) : since + 1;
    LK_TRY(prefix_set(c, prefix, err));
    if (since > now) {
        st = lk_fail(err, LK_LOST, 0, s->dir, 0, oldest_after(s, c->view, 0), since,
                     "there is no sequence %" PRIu64 ": the last change has %" PRIu64, since, now);
        goto done;
    }
    *out = c;
    c = NULL;
done:
    lk_changes_close(c);
    return st;
}

void lk_changes_close(lk_changes *c)
{
    if (c == NULL) return;
    source_close(c->s, &c->source);
    lk_view_unref(c->view);
    free((void *)(uintptr_t)c->prefix.data);
    free(c);
}

/* ---- verifying ---- */

lk_status lk_history_verify(lk_store *s, const lk_past *past, uint64_t *out_records,
                            uint64_t *out_bytes, lk_error *err)
{
    lk_status st = LK_OK;
    bool found = true;
    source x = {.is_open = false};
    *out_records = *out_bytes = 0;
    LK_TRY(source_open_file(s, &x, past, err));
    while (found) {
        lk_frame frame;
        LK_TRY(source_frame(s, &x, &frame, &found, err));
        if (!found) break;
        *out_records += frame.records;
        *out_bytes += lk_frame_bytes(frame.length);
    }
done:
    source_close(s, &x);
    return st;
}
