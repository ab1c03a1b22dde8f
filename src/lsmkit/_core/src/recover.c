/* recover.c: reading the log back, and the verdict on where it ends.
 *
 * Owns      the segments that it makes, until they are handed over.
 * Callers   store.c at open; lk_log_dump by the command line.
 * Threads   one.
 * Errors    LK_CORRUPT with file and offset; a read error is LK_IO and never a tail.
 */
#include "recover.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "frame.h"

typedef struct log_file {
    lk_segment *segment;
    lk_segment_header header;
    bool same_boot;
    uint32_t durable;   /* D of this file */
    uint32_t readable;  /* bytes in memory */
} log_file;

typedef struct recovery {
    lk_env *env;
    const char *dir;
    bool may_map, read_only;
    uint8_t boot_id[16];
    log_file *files;    /* in order of generation; those whose header is valid */
    size_t count;
    uint64_t *generations; /* of all live log files found */
    size_t generation_count;
} recovery;

/* ---- finding and opening files ---- */

static bool parse_name(const char *name, uint64_t *out)
{
    char *end;
    if (*name < '0' || *name > '9') return false;
    *out = strtoull(name, &end, 10);
    return strcmp(end, ".log") == 0;
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static lk_status remove_file(const recovery *r, uint64_t generation, lk_error *err)
{
    char path[LK_PATH_MAX];
    lk_segment_path(r->dir, generation, path, sizeof path);
    if (r->read_only) return LK_OK;
    lk_status st = lk_env_unlink(r->env, path, err);
    return st == LK_NOT_FOUND ? LK_OK : st;
}

static lk_status list_files(recovery *r, uint64_t retired, uint64_t *out_max, lk_error *err)
{
    lk_status st = LK_OK;
    lk_names names = {0};
    LK_TRY(lk_env_list(r->env, r->dir, &names, err));
    r->generations = calloc(names.count + 1, sizeof *r->generations);
    r->files = calloc(names.count + 1, sizeof *r->files);
    if (r->generations == NULL || r->files == NULL) {
        st = lk_fail_nomem(err, names.count * sizeof *r->files);
        goto done;
    }
    *out_max = retired;
    for (size_t i = 0; i < names.count; i++) {
        uint64_t generation;
        if (!parse_name(names.names[i], &generation)) continue;
        if (generation > *out_max) *out_max = generation;
        if (generation <= retired) {
            LK_TRY(remove_file(r, generation, err));
        } else {
            r->generations[r->generation_count++] = generation;
        }
    }
    qsort(r->generations, r->generation_count, sizeof *r->generations, by_number);
done:
    lk_names_free(&names);
    return st;
}

static lk_status segment_read(const recovery *r, lk_segment *s, uint64_t bytes, lk_error *err)
{
    lk_status st = LK_OK;
    size_t got;
    s->memory_bytes = (size_t)lk_align_up(bytes, LK_PAGE_BYTES);
    if (r->may_map && !r->read_only && bytes == s->memory_bytes) {
        s->mapped = true;
        return lk_file_map(s->file, s->memory_bytes, false, &s->base, err);
    }
    LK_TRY(lk_env_map_anonymous(r->env, s->memory_bytes, &s->base, err));
    LK_TRY(lk_file_read(s->file, 0, s->base, (size_t)bytes, &got, err));
done:
    return st;
}

static bool is_zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] != 0) return false;
    }
    return true;
}

/* A file that was prepared and never used has no header, or, when the clearing of a recycled one did
 * not reach the disk, the header of an earlier generation. Anything else must be a header. */
static lk_status header_check(const recovery *r, log_file *f, uint64_t generation,
                              const uint8_t *bytes, bool *out_used, lk_error *err)
{
    const char *path = lk_file_path(f->segment->file);
    *out_used = false;
    if (is_zero(bytes, LK_SEGMENT_HEADER_BYTES)) return LK_OK;
    if (!lk_segment_header_parse(bytes, &f->header)) {
        return lk_fail_corrupt(err, path, 0, 0, lk_load64(bytes + 120),
                               "%s: the header of the log segment is damaged", path);
    }
    f->same_boot = memcmp(f->header.boot_id, r->boot_id, 16) == 0 && !is_zero(r->boot_id, 16);
    if (f->header.generation < generation && !f->same_boot) return LK_OK;
    if (f->header.generation != generation) {
        return lk_fail_corrupt(err, path, 16, generation, f->header.generation,
                               "%s: holds log generation %" PRIu64, path, f->header.generation);
    }
    *out_used = true;
    return LK_OK;
}

static lk_status file_open(recovery *r, uint64_t generation, lk_error *err)
{
    lk_status st = LK_OK;
    char path[LK_PATH_MAX];
    uint8_t bytes[LK_SEGMENT_HEADER_BYTES] = {0};
    uint64_t size;
    size_t got;
    bool used = false;
    log_file *f = &r->files[r->count];
    lk_segment_path(r->dir, generation, path, sizeof path);
    LK_TRY(lk_segment_adopt(r->env, path, &f->segment, err));
    LK_TRY(lk_file_size(f->segment->file, &size, err));
    LK_TRY(lk_file_read(f->segment->file, 0, bytes, sizeof bytes, &got, err));
    LK_TRY(header_check(r, f, generation, bytes, &used, err));
    if (!used) goto done;
    if (size < f->header.capacity) {
        st = lk_fail_corrupt(err, path, size, f->header.capacity, size,
                             "%s: %" PRIu64 " bytes of a log segment of %u", path, size,
                             f->header.capacity);
        goto done;
    }
    LK_TRY(segment_read(r, f->segment, size, err));
    f->readable = f->header.capacity;
    lk_segment *s = f->segment;
    s->generation = generation;
    s->nonce = f->header.nonce;
    s->base_seq = f->header.base_seq;
    s->capacity = f->header.capacity;
    s->link = f->header.link;
    s->position = s->tail = LK_SEGMENT_HEADER_BYTES;
    s->recovered = true;
    LK_TRY(lk_index_init(&s->index, r->env, 64, s->capacity / LK_RECORD_HEADER_BYTES, err));
    r->count++;
    f = NULL;
done:
    if (f != NULL) {
        lk_segment_unref(f->segment);
        memset(f, 0, sizeof *f);
        if (st == LK_OK) st = remove_file(r, generation, err);
    }
    return st;
}

/* ---- the chain of one file ---- */

static lk_status frame_adopt(log_file *f, const lk_frame *frame, lk_error *err)
{
    lk_segment *s = f->segment;
    lk_status st = lk_index_reserve(&s->index, frame->records, err);
    if (st != LK_OK) return st;
    uint32_t at = frame->offset + LK_FRAME_HEADER_BYTES;
    for (uint32_t i = 0; i < frame->records; i++) {
        lk_record r = lk_record_at(s->base + at);
        uint64_t hash = lk_hash_key(r.tree, r.key, r.key_len);
        lk_index_add(&s->index, lk_index_tag(hash), s->count + i, at);
        at += (uint32_t)lk_record_bytes(r.tree, r.key_len, r.value_len);
    }
    s->count += frame->records;
    s->position = s->tail = frame->offset + (uint32_t)lk_frame_bytes(frame->length);
    s->link = frame->own_hash;
    if (frame->synced_upto > f->durable) f->durable = frame->synced_upto;
    return LK_OK;
}

/* The frame that continues the chain: behind the last one, or where a sync began a new page. */
static lk_frame_state chain_next(const log_file *f, lk_frame *out)
{
    const lk_segment *s = f->segment;
    uint32_t page = (uint32_t)lk_align_up(s->position, LK_PAGE_BYTES);
    for (int i = 0; i < 2; i++) {
        uint32_t at = i == 0 ? s->position : page;
        lk_frame_state state = lk_frame_parse(s->base, f->readable, s->nonce, at, out);
        if (state != LK_FRAME_NONE && out->link == s->link && out->ordinal == s->count) return state;
    }
    return LK_FRAME_NONE;
}

static lk_status chain_walk(log_file *f, lk_frame_state *out_end, lk_error *err)
{
    lk_frame frame;
    while ((*out_end = chain_next(f, &frame)) == LK_FRAME_WHOLE) {
        lk_status st = frame_adopt(f, &frame, err);
        if (st != LK_OK) return st;
    }
    atomic_store_explicit(&f->segment->indexed, f->segment->count, memory_order_relaxed);
    atomic_store_explicit(&f->segment->published, f->segment->count, memory_order_release);
    return LK_OK;
}

/* Bytes of valid frames behind the end of the chain, and what they say of durability. */
static uint64_t behind(log_file *f)
{
    lk_segment *s = f->segment;
    uint64_t bytes = 0;
    uint32_t at = (uint32_t)lk_align_up(s->position, 8);
    lk_frame frame;
    while (at + LK_FRAME_HEADER_BYTES <= f->readable) {
        if (!lk_frame_header_parse(s->base, f->readable, s->nonce, at, &frame)) {
            at += 8;
            continue;
        }
        if (frame.synced_upto > f->durable) f->durable = frame.synced_upto;
        bytes += lk_frame_bytes(frame.length);
        at += (uint32_t)lk_frame_bytes(frame.length);
    }
    return bytes;
}

/* In the same boot the kernel still has what the last process stored: where it stopped is exact. */
static lk_status mark_read(log_file *f, bool *out_exact, lk_error *err)
{
    const lk_segment *s = f->segment;
    *out_exact = false;
    if (!f->same_boot || !f->header.marked) return LK_OK;
    uint64_t place = lk_align_up(s->capacity, LK_PAGE_BYTES);
    if (place + 8 > s->memory_bytes) return LK_OK;
    uint64_t end = lk_load64(s->base + place) - s->nonce;
    if (end < LK_SEGMENT_HEADER_BYTES || end > s->capacity) {
        return lk_fail_corrupt(err, lk_file_path(s->file), place, s->position, end,
                               "%s: the mark of the last write is damaged", lk_file_path(s->file));
    }
    if (end > f->durable) f->durable = (uint32_t)end;
    *out_exact = true;
    return LK_OK;
}

static lk_status damaged(const log_file *f, const char *why, lk_error *err)
{
    const char *path = lk_file_path(f->segment->file);
    return lk_fail_corrupt(err, path, f->segment->position, f->durable, f->segment->position,
                           "%s: the log breaks off at byte %u, %s", path, f->segment->position, why);
}

/* ---- the verdict ---- */

/* Of file i, whose chain ended before it continues in file i + 1 (if there is one). Says whether
 * the later files are to be dropped. */
static lk_status verdict(recovery *r, size_t i, lk_frame_state end, uint64_t *lost, lk_error *err)
{
    log_file *f = &r->files[i];
    bool exact, last = i + 1 == r->count;
    lk_status st = mark_read(f, &exact, err);
    if (st != LK_OK) return st;
    bool skip_scan = exact && last && end == LK_FRAME_NONE && f->segment->position >= f->durable;
    uint64_t behind_bytes = skip_scan ? 0 : behind(f);
    for (size_t j = i + 1; j < r->count; j++) {
        log_file *later = &r->files[j];
        uint64_t bytes = behind(later);
        behind_bytes += bytes;
        /* Segments are synced oldest first: something durable there means all of this one was. */
        if (later->durable > 0) f->durable = UINT32_MAX;
    }
    if (f->segment->position < f->durable) {
        return damaged(f, "before a place that is known to have been written", err);
    }
    bool more = behind_bytes > 0 || !last;
    if (more && f->same_boot) {
        return damaged(f, "with valid frames behind it, and the machine was not restarted", err);
    }
    *lost += behind_bytes;
    return LK_OK;
}

static bool continues(const log_file *f, const log_file *next)
{
    return next->header.previous_end == f->segment->position &&
           next->header.previous_link == f->segment->link &&
           next->header.base_seq == f->segment->base_seq + f->segment->count;
}

/* The first file must go on where the tables end: else one before it is missing. */
static lk_status first_check(recovery *r, uint64_t expected_seq, uint64_t *lost, bool *out_drop,
                             lk_error *err)
{
    log_file *f = &r->files[0];
    *out_drop = f->header.base_seq != expected_seq;
    if (!*out_drop) return LK_OK;
    for (size_t j = 0; j < r->count; j++) {
        *lost += behind(&r->files[j]);
        if (r->files[j].durable > 0 || r->files[j].same_boot) {
            const char *path = lk_file_path(f->segment->file);
            return lk_fail_corrupt(err, path, 32, expected_seq, f->header.base_seq,
                                   "%s: begins at sequence %" PRIu64 " where %" PRIu64
                                   " comes next: the log before it is missing",
                                   path, f->header.base_seq, expected_seq);
        }
    }
    return LK_OK;
}

static lk_status drop_from(recovery *r, size_t i, lk_error *err)
{
    lk_status st = LK_OK;
    for (size_t j = i; j < r->count; j++) {
        LK_TRY(remove_file(r, r->files[j].segment->generation, err));
        lk_segment_unref(r->files[j].segment);
        r->files[j].segment = NULL;
    }
    if (i < r->count && !r->read_only) LK_TRY(lk_env_sync_dir(r->env, r->dir, err));
    r->count = i;
done:
    return st;
}

static lk_status judge(recovery *r, uint64_t expected_seq, uint64_t *lost, lk_error *err)
{
    lk_status st = LK_OK;
    bool drop;
    if (r->count == 0) return LK_OK;
    LK_TRY(first_check(r, expected_seq, lost, &drop, err));
    if (drop) return drop_from(r, 0, err);
    for (size_t i = 0; i < r->count; i++) {
        lk_frame_state end;
        LK_TRY(chain_walk(&r->files[i], &end, err));
        if (i + 1 < r->count && continues(&r->files[i], &r->files[i + 1])) continue;
        LK_TRY(verdict(r, i, end, lost, err));
        LK_TRY(drop_from(r, i + 1, err));
    }
done:
    return st;
}

lk_status lk_recover(lk_env *env, const char *dir, lk_manifest *manifest, bool may_map,
                     bool read_only, lk_recovery *out, lk_error *err)
{
    lk_status st = LK_OK;
    recovery r = {.env = env, .dir = dir, .may_map = may_map, .read_only = read_only};
    memset(out, 0, sizeof *out);
    out->last_seq = lk_manifest_last_seq(manifest);
    lk_env_boot_id(env, r.boot_id);
    LK_TRY(list_files(&r, lk_manifest_log_retired(manifest), &out->max_generation, err));
    for (size_t i = 0; i < r.generation_count; i++) LK_TRY(file_open(&r, r.generations[i], err));
    LK_TRY(judge(&r, out->last_seq + 1, &out->lost_bytes, err));
    out->segments = calloc(r.count + 1, sizeof *out->segments);
    if (out->segments == NULL) {
        st = lk_fail_nomem(err, r.count * sizeof *out->segments);
        goto done;
    }
    for (size_t i = 0; i < r.count; i++) {
        lk_segment *s = r.files[i].segment;
        out->records += s->count;
        out->bytes += s->position;
        out->last_seq = s->base_seq + s->count - 1;
        out->end = s->position;
        out->link = s->link;
        if (s->count == 0) continue;
        out->segments[out->count++] = s;
        r.files[i].segment = NULL;
    }
done:
    for (size_t i = 0; i < r.count; i++) lk_segment_unref(r.files[i].segment);
    free(r.files);
    free(r.generations);
    return st;
}

void lk_recovery_deinit(lk_recovery *r)
{
    for (size_t i = 0; i < r->count; i++) lk_segment_unref(r->segments[i]);
    free(r->segments);
    memset(r, 0, sizeof *r);
}
