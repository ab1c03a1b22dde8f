/* btree_log.c: the redo log of a B+tree; see btree_log.h. */
#include "btree_log.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

/* Blocks are written once ahead of frames that will be synced: an fdatasync that must also turn an
 * unwritten extent into a written one costs a third more. */
#define FILL_BYTES (1u << 20)

lk_status lk_redo_init(lk_redo *r, lk_env *env, const char *path, bool may_map, lk_error *err)
{
    memset(r, 0, sizeof *r);
    r->env = env;
    r->may_map = may_map;
    r->boot = lk_boot_number(env);
    atomic_init(&r->written, 0);
    if (pthread_mutex_init(&r->mutex, NULL) != 0 || pthread_cond_init(&r->cond, NULL) != 0) abort();
    return lk_env_open(env, path, LK_OPEN_WRITE | LK_OPEN_CREATE, &r->file, err);
}

void lk_redo_deinit(lk_redo *r)
{
    if (r->env == NULL) return;
    if (r->map != NULL) lk_env_unmap(r->env, r->map, r->map_bytes);
    lk_file_close(r->file);
    free(r->aside);
    (void)pthread_cond_destroy(&r->cond);
    (void)pthread_mutex_destroy(&r->mutex);
    memset(r, 0, sizeof *r);
}

/* ---- generations ---- */

static lk_status room_make(lk_redo *r, uint32_t capacity, lk_error *err)
{
    lk_status st = LK_OK;
    size_t bytes = (size_t)lk_align_up(capacity, LK_PAGE_BYTES);
    uint64_t size;
    if (capacity == r->capacity) return LK_OK;
    if (r->map != NULL) lk_env_unmap(r->env, r->map, r->map_bytes);
    r->map = NULL;
    LK_TRY(lk_file_size(r->file, &size, err));
    if (size > bytes) LK_TRY(lk_file_truncate(r->file, bytes, err));
    LK_TRY(lk_file_allocate(r->file, bytes, err));
    if (r->may_map) {
        LK_TRY(lk_file_map(r->file, bytes, true, &r->map, err));
        r->map_bytes = bytes;
    }
    r->capacity = capacity;
done:
    return st;
}

lk_status lk_redo_restart(lk_redo *r, uint64_t generation, uint32_t capacity, lk_error *err)
{
    lk_status st = LK_OK;
    uint8_t bytes[LK_SEGMENT_HEADER_BYTES];
    LK_TRY(room_make(r, capacity, err));
    lk_env_random(r->env, &r->nonce, sizeof r->nonce);
    lk_segment_header h = {
        .generation = generation, .nonce = r->nonce, .boot = r->boot, .capacity = r->capacity};
    r->link = lk_segment_header_write(&h, bytes);
    LK_TRY(lk_file_write(r->file, 0, bytes, sizeof bytes, err));
    r->base += r->position;
    r->generation = generation;
    r->position = LK_SEGMENT_HEADER_BYTES;
    r->ordinal = 0;
    pthread_mutex_lock(&r->mutex);
    r->durable = r->base;
    pthread_cond_broadcast(&r->cond);
    pthread_mutex_unlock(&r->mutex);
    atomic_store_explicit(&r->written, r->base + r->position, memory_order_release);
done:
    return st;
}

/* ---- appending ---- */

lk_status lk_redo_begin(lk_redo *r, uint64_t body_bytes, bool aside, uint8_t **out, lk_error *err)
{
    uint64_t bytes = lk_frame_bytes(body_bytes);
    *out = NULL;
    if (bytes > r->capacity - r->position) return LK_FULL;
    if (!aside && r->map != NULL) {
        *out = r->map + r->position + LK_FRAME_HEADER_BYTES;
        return LK_OK;
    }
    if (bytes > r->aside_bytes) {
        size_t want = bytes > 4096 ? (size_t)bytes : 4096;
        uint8_t *larger = realloc(r->aside, want);
        if (larger == NULL) return lk_fail_nomem(err, want);
        r->aside = larger;
        r->aside_bytes = want;
    }
    *out = r->aside + LK_FRAME_HEADER_BYTES;
    return LK_OK;
}

static uint64_t body_sum(const lk_redo *r, const uint8_t *body, uint32_t at, uint32_t records)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < records; i++) {
        lk_record rec = lk_record_at(body);
        size_t n = lk_record_bytes(rec.tree, rec.key_len, rec.value_len);
        sum += lk_record_hash(&rec, lk_hash_key(rec.tree, rec.key, rec.key_len), r->nonce, at);
        body += n;
        at += (uint32_t)n;
    }
    return sum;
}

/* The first frames of a new file that are waited for: see FILL_BYTES. */
static lk_status fill(lk_redo *r, uint32_t upto, lk_error *err)
{
    static const uint8_t ZEROS[1 << 16];
    lk_status st = LK_OK;
    if (r->filled < r->position) r->filled = r->position;
    if (upto <= r->filled) return LK_OK;
    uint64_t end = (uint64_t)r->filled + FILL_BYTES;
    if (end < upto) end = upto;
    if (end > r->capacity) end = r->capacity;
    while (r->filled < end) {
        uint64_t n = end - r->filled < sizeof ZEROS ? end - r->filled : sizeof ZEROS;
        LK_TRY(lk_file_write(r->file, r->filled, ZEROS, (size_t)n, err));
        r->filled += (uint32_t)n;
    }
done:
    return st;
}

lk_status lk_redo_commit(lk_redo *r, uint64_t body_bytes, uint32_t records, bool aside,
                         lk_error *err)
{
    uint32_t length = (uint32_t)body_bytes, bytes = (uint32_t)lk_frame_bytes(body_bytes);
    bool by_pwrite = aside || r->map == NULL;
    uint8_t *frame = by_pwrite ? r->aside : r->map + r->position;
    uint8_t *body = frame + LK_FRAME_HEADER_BYTES;
    memset(body + length, 0, bytes - LK_FRAME_HEADER_BYTES - length);
    uint64_t sum = body_sum(r, body, r->position + LK_FRAME_HEADER_BYTES, records);
    uint32_t synced = 0;
    if (aside) { /* a lock, which only those pay who wait for the disk anyway */
        pthread_mutex_lock(&r->mutex);
        if (r->durable > r->base) synced = (uint32_t)(r->durable - r->base);
        pthread_mutex_unlock(&r->mutex);
    }
    uint64_t w0 = (uint64_t)length | (uint64_t)r->ordinal << 32;
    uint64_t w1 = (uint64_t)(synced / 8) | (uint64_t)r->link << 32;
    uint32_t body_hash = lk_frame_body_hash(sum);
    uint32_t hash = lk_frame_header_hash(lk_frame_seed(r->nonce, r->position), w0, w1, body_hash);
    /* The header must not be there before the body: see segment.c. */
    atomic_signal_fence(memory_order_seq_cst);
    lk_store64(frame, w0);
    lk_store64(frame + 8, w1);
    lk_store32(frame + 16, body_hash);
    lk_store32(frame + 20, hash);
    if (by_pwrite) {
        lk_status st = aside ? fill(r, r->position + bytes, err) : LK_OK;
        if (st == LK_OK) st = lk_file_write(r->file, r->position, frame, bytes, err);
        if (st != LK_OK) return st;
    }
    r->position += bytes;
    r->ordinal += records;
    r->link = hash;
    r->frames++;
    atomic_store_explicit(&r->written, r->base + r->position, memory_order_release);
    return LK_OK;
}

/* ---- waiting for the disk ---- */

/* One of those that wait, without the mutex: what is written by now is durable then. */
static void sync_for_all(lk_redo *r)
{
    lk_error failure;
    r->is_syncing = true;
    pthread_mutex_unlock(&r->mutex);
    uint64_t upto = lk_redo_written(r);
    lk_status st = lk_file_datasync(r->file, &failure);
    pthread_mutex_lock(&r->mutex);
    r->is_syncing = false;
    r->syncs++;
    if (st == LK_OK) {
        if (upto > r->durable) r->durable = upto;
    } else if (r->failed.code == LK_OK) {
        r->failed = failure;
    }
    pthread_cond_broadcast(&r->cond);
}

lk_status lk_redo_sync(lk_redo *r, uint64_t upto, lk_error *err)
{
    lk_status st = LK_OK;
    pthread_mutex_lock(&r->mutex);
    while (r->durable < upto && r->failed.code == LK_OK) {
        if (r->is_syncing) {
            pthread_cond_wait(&r->cond, &r->mutex);
        } else {
            sync_for_all(r);
        }
    }
    if (r->durable < upto) {
        st = r->failed.code;
        if (err != NULL) *err = r->failed;
    }
    pthread_mutex_unlock(&r->mutex);
    return st;
}

/* ---- reading back ---- */

/* How far any frame behind `from` says that the log was durable; `*out_any`: there is one. */
static uint32_t look_behind(const lk_redo_scan *s, uint32_t from, bool *out_any)
{
    uint32_t durable = 0;
    *out_any = false;
    lk_frame frame;
    for (uint32_t at = from; at + LK_FRAME_HEADER_BYTES < s->length; at += 8) {
        if (lk_load32(s->bytes + at) == 0) continue;
        if (!lk_frame_header_parse(s->bytes, (uint32_t)s->length, s->nonce, at, &frame)) continue;
        if (lk_frame_parse(s->bytes, (uint32_t)s->length, s->nonce, at, &frame) != LK_FRAME_WHOLE) {
            continue;
        }
        *out_any = true;
        if (frame.synced_upto > durable) durable = frame.synced_upto;
    }
    return durable;
}

static void find_end(lk_redo_scan *s)
{
    uint32_t at = LK_SEGMENT_HEADER_BYTES, ordinal = 0, link = s->link;
    lk_frame frame;
    while (lk_frame_parse(s->bytes, (uint32_t)s->length, s->nonce, at, &frame) == LK_FRAME_WHOLE &&
           frame.link == link && frame.ordinal == ordinal) {
        link = frame.own_hash;
        ordinal += frame.records;
        at += (uint32_t)lk_frame_bytes(frame.length);
    }
    s->end = at;
}

/* DESIGN's recovery verdict: what ends before a point that was durable is damage; frames behind the
 * end are what a power loss may leave, and a killed process may not. */
static lk_status judge(const lk_redo_scan *s, const char *path, lk_error *err)
{
    bool any;
    uint32_t durable = look_behind(s, s->end, &any);
    if (durable > s->end || (any && s->is_same_boot)) {
        return lk_fail_corrupt(err, path, s->end, durable, s->end,
                               "%s: the frame at byte %u is damaged: there are good ones behind it",
                               path, s->end);
    }
    return LK_OK;
}

lk_status lk_redo_scan_init(lk_redo_scan *out, lk_redo *r, uint64_t generation, lk_error *err)
{
    lk_status st = LK_OK;
    const char *path = lk_file_path(r->file);
    lk_segment_header h;
    size_t got = 0;
    memset(out, 0, sizeof *out);
    LK_TRY(lk_file_size(r->file, &out->length, err));
    if (out->length < LK_SEGMENT_HEADER_BYTES) goto done; /* never begun */
    if (out->length > LK_SEGMENT_BYTES_MAX) out->length = LK_SEGMENT_BYTES_MAX;
    out->bytes = malloc(out->length);
    if (out->bytes == NULL) {
        st = lk_fail_nomem(err, out->length);
        goto done;
    }
    LK_TRY(lk_file_read(r->file, 0, out->bytes, out->length, &got, err));
    out->length = got;
    if (got < LK_SEGMENT_HEADER_BYTES || lk_segment_header_is_blank(out->bytes)) goto done;
    LK_TRY(lk_segment_header_parse(out->bytes, path, &h, err));
    if (h.generation < generation) goto done;
    if (h.generation > generation) {
        st = lk_fail_corrupt(err, path, 8, generation, h.generation,
                             "%s: the log is newer than the tree", path);
        goto done;
    }
    out->generation = h.generation;
    out->nonce = h.nonce;
    out->link = h.link;
    out->is_same_boot = h.boot != 0 && h.boot == r->boot;
    out->at = LK_SEGMENT_HEADER_BYTES;
    find_end(out);
    LK_TRY(judge(out, path, err));
done:
    if (st != LK_OK) lk_redo_scan_deinit(out);
    return st;
}

void lk_redo_scan_deinit(lk_redo_scan *scan)
{
    free(scan->bytes);
    memset(scan, 0, sizeof *scan);
}

bool lk_redo_scan_next(lk_redo_scan *scan, const uint8_t **out, uint32_t *out_bytes)
{
    if (scan->at >= scan->end) return false;
    *out = scan->bytes + scan->at + LK_FRAME_HEADER_BYTES;
    *out_bytes = lk_load32(scan->bytes + scan->at);
    scan->at += (uint32_t)lk_frame_bytes(*out_bytes);
    return true;
}
