/* recover.c: reading the log back, and the verdict on where it ends.
 *
 * Owns      the segments that it makes, until they are handed over.
 * Callers   store.c at open.
 * Threads   one.
 * Always    nothing that may be part of the log is removed before the verdict on all of it.
 * Errors    LK_CORRUPT with file and offset; a read error is LK_IO and never a tail.
 */
#include "recover.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "frame.h"
#include "prove.h"

#define GENERATION_MAX (UINT64_C(1) << 62)
#define LAST_FRAME_BYTES_MAX (1u << 20) /* a larger one is found by walking */
#define WAITING 16u /* records between the prefetch of a slot and its use; a power of two */

typedef struct log_file {
    lk_segment *segment;
    lk_segment_header header;
    bool same_boot;
    bool exact;        /* the mark tells where the last process stopped */
    uint32_t durable;  /* D of this file */
    uint32_t readable; /* bytes in memory that may hold frames */
    uint32_t *tags;  /* of the records of the frame in hand; address space, touched as it is used */
    uint32_t linked; /* records that are in the index; the next ones wait for their slot's memory */
    uint32_t waiting[WAITING];
} log_file;

typedef struct recovery {
    lk_env *env;
    const char *dir;
    bool may_map, read_only;
    uint32_t late_min; /* see lk_recover_late */
    bool follows;      /* files are read piece by piece, later */
    uint64_t boot;
    uint64_t lost_bytes;
    log_file *files; /* in order of generation; those that are part of the log */
    size_t count;
    bool dropped;          /* files that were part of it are to be removed */
    uint64_t *generations; /* of all live log files found, ascending */
    size_t generation_count;
} recovery;

/* ---- finding and opening files ---- */

/* Only the names that lk_segment_path makes: other files are not ours. */
static bool parse_name(const char *name, uint64_t *out)
{
    char *end, made[LK_PATH_MAX];
    if (*name < '0' || *name > '9') return false;
    *out = strtoull(name, &end, 10);
    if (strcmp(end, ".log") != 0 || *out >= GENERATION_MAX) return false;
    lk_segment_path("", *out, made, sizeof made);
    return strcmp(made + 1, name) == 0;
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static lk_status list_files(recovery *r, uint64_t retired, lk_recovery *out, lk_error *err)
{
    lk_status st = LK_OK;
    lk_names names = {0};
    LK_TRY(lk_env_list(r->env, r->dir, &names, err));
    r->generations = calloc(names.count + 1, sizeof *r->generations);
    r->files = calloc(names.count + 1, sizeof *r->files);
    out->unused = calloc(names.count + 1, sizeof *out->unused);
    if (r->generations == NULL || r->files == NULL || out->unused == NULL) {
        st = lk_fail_nomem(err, names.count * sizeof *r->files);
        goto done;
    }
    out->max_generation = retired;
    for (size_t i = 0; i < names.count; i++) {
        uint64_t generation;
        if (!parse_name(names.names[i], &generation)) continue;
        if (generation > out->max_generation) out->max_generation = generation;
        if (generation <= retired) {
            out->unused[out->unused_count++] = generation;
        } else {
            r->generations[r->generation_count++] = generation;
        }
    }
    qsort(r->generations, r->generation_count, sizeof *r->generations, by_number);
done:
    lk_names_free(&names);
    return st;
}

/* Whether it is large, and all that the last process wrote is there as long as the kernel is. */
static bool may_be_late(const recovery *r, const log_file *f)
{
    return r->late_min != 0 && f->exact && f->durable >= r->late_min;
}

/* Mapped where it was written in this boot: then the kernel has it, or has read it lately. After a
 * reboot it is read, because a sector that cannot be read is an error of read, but in a mapping the
 * end of the process. */
static lk_status segment_load(const recovery *r, log_file *f, uint64_t bytes, lk_error *err)
{
    lk_segment *s = f->segment;
    s->memory_bytes = (size_t)lk_align_up(bytes, LK_PAGE_BYTES);
    if (r->follows) return lk_env_map_anonymous(r->env, s->memory_bytes, &s->base, err);
    if (r->may_map && !r->read_only && f->same_boot && bytes == s->memory_bytes) {
        s->mapped = true;
        lk_status mapped = lk_file_map(s->file, s->memory_bytes, false, &s->base, err);
        if (mapped != LK_OK) return mapped;
        if (!may_be_late(r, f)) {
            lk_env_populate(r->env, s->base, f->exact ? f->durable : s->memory_bytes, false);
        }
        return LK_OK;
    }
    lk_status st = lk_env_map_anonymous(r->env, s->memory_bytes, &s->base, err);
    return st == LK_OK ? lk_file_read_exact(s->file, 0, s->base, (size_t)bytes, err) : st;
}

/* In the same boot the kernel still has what the last process stored: where it stopped is exact. Read
 * before the frames, so that beside a living owner it is no newer than they are. */
static lk_status mark_read(log_file *f, lk_error *err)
{
    const char *path = lk_file_path(f->segment->file);
    uint64_t place = lk_align_up(f->header.capacity, LK_PAGE_BYTES);
    uint8_t bytes[8];
    if (!f->same_boot || !f->header.marked) return LK_OK;
    lk_status st = lk_file_read_exact(f->segment->file, place, bytes, sizeof bytes, err);
    if (st != LK_OK) return st;
    uint64_t end = lk_load64(bytes) - f->header.nonce;
    if (end == LK_MARK_NONE) return LK_OK;
    if (end < LK_SEGMENT_HEADER_BYTES || end > f->header.capacity) {
        return lk_fail_corrupt(err, path, place, f->header.capacity, end,
                               "%s: the mark of the last write is damaged", path);
    }
    f->durable = (uint32_t)end;
    f->exact = true;
    return LK_OK;
}

/* A file that was prepared and never used has a blank header, or, when the blanking of a recycled
 * one did not reach the disk, the header of an earlier generation. Anything else must be a header. */
static lk_status header_read(const recovery *r, log_file *f, uint64_t generation, bool *out_used,
                             lk_error *err)
{
    uint8_t bytes[LK_SEGMENT_HEADER_BYTES] = {0};
    const char *path = lk_file_path(f->segment->file);
    size_t got;
    *out_used = false;
    lk_status st = lk_file_read(f->segment->file, 0, bytes, sizeof bytes, &got, err);
    if (st != LK_OK || lk_segment_header_is_blank(bytes)) return st;
    st = lk_segment_header_parse(bytes, path, &f->header, err);
    if (st != LK_OK) return st;
    f->same_boot = f->header.boot == r->boot && r->boot != 0;
    if (f->header.generation < generation && !f->same_boot) return LK_OK;
    if (f->header.generation != generation) {
        return lk_fail_corrupt(err, path, 8, generation, f->header.generation,
                               "%s: holds log generation %" PRIu64, path, f->header.generation);
    }
    *out_used = true;
    return LK_OK;
}

/* After a reboot a file may have lost its length too; what it lacks has no frames then. */
static lk_status length_check(log_file *f, uint64_t *out_bytes, lk_error *err)
{
    const char *path = lk_file_path(f->segment->file);
    uint64_t whole = lk_align_up(f->header.capacity, LK_PAGE_BYTES) + LK_PAGE_BYTES;
    lk_status st = lk_file_size(f->segment->file, out_bytes, err);
    if (st != LK_OK) return st;
    if (f->same_boot && *out_bytes < whole) {
        return lk_fail_corrupt(err, path, *out_bytes, whole, *out_bytes,
                               "%s: %" PRIu64 " bytes of a log segment of %" PRIu64, path,
                               *out_bytes, whole);
    }
    if (*out_bytes > whole) *out_bytes = whole;
    uint64_t frames = f->header.capacity;
    f->readable = (uint32_t)(*out_bytes < frames ? *out_bytes : frames);
    return LK_OK;
}

static lk_status file_open(recovery *r, uint64_t generation, lk_error *err)
{
    lk_status st = LK_OK;
    char path[LK_PATH_MAX];
    uint64_t bytes;
    bool used = false;
    log_file *f = &r->files[r->count];
    lk_segment_path(r->dir, generation, path, sizeof path);
    LK_TRY(lk_segment_adopt(r->env, path, &f->segment, err));
    LK_TRY(header_read(r, f, generation, &used, err));
    if (!used) goto done;
    LK_TRY(length_check(f, &bytes, err));
    LK_TRY(mark_read(f, err));
    LK_TRY(segment_load(r, f, bytes, err));
    lk_segment *s = f->segment;
    s->generation = generation;
    s->nonce = f->header.nonce;
    s->base_seq = f->header.base_seq;
    s->capacity = f->header.capacity;
    s->link = f->header.link;
    s->position = s->tail = LK_SEGMENT_HEADER_BYTES;
    s->recovered = true;
    r->count++;
    f = NULL;
done:
    if (f != NULL) {
        lk_segment_unref(f->segment);
        memset(f, 0, sizeof *f);
    }
    return st;
}

/* ---- the chain of one file ---- */

static size_t tags_bytes(const log_file *f)
{
    return (size_t)f->readable / LK_RECORD_HEADER_BYTES * sizeof(uint32_t);
}

static void link_next(log_file *f)
{
    lk_segment *s = f->segment;
    if (LK_UNLIKELY(lk_segment_record(s, f->linked).kind == LK_KIND_DELETE_RANGE)) {
        lk_tomb_log_add(s, f->linked);
    } else {
        lk_index_link(&s->index, f->waiting[f->linked % WAITING], f->linked);
    }
    f->linked++;
}

static void frame_adopt(log_file *f, const lk_frame *frame)
{
    lk_segment *s = f->segment;
    s->count += frame->records;
    s->position = s->tail = frame->offset + (uint32_t)lk_frame_bytes(frame->length);
    s->link = frame->own_hash;
    if (frame->synced_upto > f->durable) f->durable = frame->synced_upto;
}

static lk_status frame_index(log_file *f, const lk_frame *frame, lk_error *err)
{
    lk_segment *s = f->segment;
    /* Before anything is linked: a frame is in the index as a whole, or not at all. */
    lk_status st = lk_index_reserve(&s->index, frame->records + WAITING, err);
    if (st != LK_OK) return st;
    for (uint32_t i = 0; i < frame->records; i++) {
        uint32_t ordinal = s->count + i;
        if (ordinal - f->linked == WAITING) link_next(f);
        f->waiting[ordinal % WAITING] = f->tags[i];
        lk_index_prefetch(&s->index, f->tags[i]);
    }
    return LK_OK;
}

/* The frame that continues the chain: behind the last one, or where a sync began a new page. Tags and
 * entries are made where there is room for them. */
static bool chain_next(const log_file *f, lk_frame *out)
{
    const lk_segment *s = f->segment;
    uint32_t page = (uint32_t)lk_align_up(s->position, LK_PAGE_BYTES);
    lk_entry *entries = f->tags == NULL ? NULL : s->index.entries + s->count;
    for (int i = 0; i < 2; i++) {
        lk_frame_state state = lk_frame_read(s->base, f->readable, s->nonce,
                                             i == 0 ? s->position : page, f->tags, entries, out);
        if (state == LK_FRAME_NONE || out->link != s->link || out->ordinal != s->count) continue;
        return state == LK_FRAME_WHOLE;
    }
    return false;
}

/* Records of the usual size; smaller ones make the index grow. */
static lk_status index_prepare(lk_segment *s, uint32_t bytes, lk_error *err)
{
    return lk_index_init(&s->index, s->env, bytes / 128, bytes / LK_RECORD_HEADER_BYTES, err);
}

/* Takes in the frames that continue the chain, with room for their tags given. */
static lk_status chain_adopt(log_file *f, lk_error *err)
{
    lk_frame frame;
    lk_segment *s = f->segment;
    lk_status st = LK_OK;
    while (st == LK_OK && chain_next(f, &frame)) {
        st = frame_index(f, &frame, err);
        if (st == LK_OK) frame_adopt(f, &frame);
    }
    while (f->linked < s->count) link_next(f);
    return st;
}

static lk_status chain_walk(log_file *f, lk_error *err)
{
    lk_segment *s = f->segment;
    uint8_t *tags;
    lk_status st = lk_env_map_anonymous(s->env, tags_bytes(f), &tags, err);
    if (st != LK_OK) return st;
    f->tags = (uint32_t *)(void *)tags;
    LK_TRY(index_prepare(s, f->readable, err));
    LK_TRY(chain_adopt(f, err));
    lk_segment_show(s);
done:
    lk_env_unmap(s->env, tags, tags_bytes(f));
    f->tags = NULL;
    return st;
}

/* The last frame before the mark, searched for backwards. */
static bool last_frame(const log_file *f, lk_frame *out)
{
    const lk_segment *s = f->segment;
    uint32_t end = f->durable;
    uint32_t low = end > LAST_FRAME_BYTES_MAX ? end - LAST_FRAME_BYTES_MAX : 0;
    if (low < LK_SEGMENT_HEADER_BYTES) low = LK_SEGMENT_HEADER_BYTES;
    for (uint32_t at = end; at >= low + 8;) {
        at -= 8;
        if (!lk_frame_header_parse(s->base, end, s->nonce, at, out)) continue;
        if (at + lk_frame_bytes(out->length) != end) continue;
        if (out->ordinal > at / LK_RECORD_HEADER_BYTES) continue;
        if (lk_frame_parse(s->base, end, s->nonce, at, out) == LK_FRAME_WHOLE) return true;
    }
    return false;
}

/* Takes over the end of a log that the mark tells of; the rest is proved later. False: it must be
 * walked now, to find out what is there. */
static lk_status end_adopt(const recovery *r, log_file *f, bool *out_done, lk_error *err)
{
    lk_segment *s = f->segment;
    lk_frame frame;
    *out_done = false;
    if (!may_be_late(r, f) || !s->mapped || !last_frame(f, &frame)) return LK_OK;
    s->count = frame.ordinal;
    frame_adopt(f, &frame);
    /* A process may be killed between a frame and its mark. */
    while (chain_next(f, &frame)) frame_adopt(f, &frame);
    uint32_t piece = (uint32_t)lk_align_up(r->late_min / 16, 8);
    lk_status st = lk_proof_new(s, f->header.link, piece, err);
    if (st != LK_OK) return st;
    lk_segment_show(s);
    *out_done = true;
    return LK_OK;
}

/* Bytes of frames behind the end of the chain, and what they say of durability. A header alone may
 * be chance (32 bits, and millions of places), so a frame counts when its body is whole as well, or
 * when it is linked to the one found before it. */
static uint64_t behind(log_file *f)
{
    const lk_segment *s = f->segment;
    uint64_t bytes = 0;
    uint32_t at = s->position, link = s->link;
    lk_frame frame;
    while (at < f->readable) {
        lk_frame_state state = lk_frame_parse(s->base, f->readable, s->nonce, at, &frame);
        if (state == LK_FRAME_NONE || (state == LK_FRAME_BROKEN && frame.link != link)) {
            at += 8;
            continue;
        }
        if (frame.synced_upto > f->durable) f->durable = frame.synced_upto;
        link = frame.own_hash;
        bytes += lk_frame_bytes(frame.length);
        at += (uint32_t)lk_frame_bytes(frame.length);
    }
    return bytes;
}

static lk_status damaged(const log_file *f, const char *why, lk_error *err)
{
    const char *path = lk_file_path(f->segment->file);
    return lk_fail_corrupt(err, path, f->segment->position, f->durable, f->segment->position,
                           "%s: the log breaks off at byte %u, %s", path, f->segment->position,
                           why);
}

/* ---- the verdict ---- */

/* Of file i, whose chain ended before it continues in file i + 1 (if there is one): what is behind
 * may be dropped, or it is damage. */
static lk_status verdict(recovery *r, size_t i, lk_error *err)
{
    log_file *f = &r->files[i];
    bool last = i + 1 == r->count, same_boot = f->same_boot;
    /* A mark that is exact has nothing behind it. Beside a living owner a hole may be two moments of
     * one reading; then the store reads anew, and what is damage says the same again. */
    uint64_t bytes = last && f->exact ? 0 : behind(f);
    for (size_t j = i + 1; j < r->count; j++) {
        bytes += behind(&r->files[j]);
        /* Segments are synced oldest first: something safe there means all of this one was. */
        if (r->files[j].durable > 0) f->durable = UINT32_MAX;
        same_boot = same_boot || r->files[j].same_boot;
    }
    if (f->segment->position < f->durable) {
        return damaged(f, "before a place that is known to have been written", err);
    }
    if ((bytes > 0 || !last) && same_boot) {
        return damaged(f, "with valid frames behind it, and the machine was not restarted", err);
    }
    r->lost_bytes += bytes;
    return LK_OK;
}

static bool continues(const log_file *f, const log_file *next)
{
    return next->header.previous_end == f->segment->position &&
           next->header.previous_link == f->segment->link &&
           next->header.base_seq == f->segment->base_seq + f->segment->count;
}

/* The first file must go on where the tables end: else one before it is missing. */
static lk_status first_check(recovery *r, uint64_t expected_seq, bool *out_drop, lk_error *err)
{
    const log_file *first = &r->files[0];
    *out_drop = first->header.base_seq != expected_seq;
    if (!*out_drop) return LK_OK;
    for (size_t j = 0; j < r->count; j++) {
        r->lost_bytes += behind(&r->files[j]);
        if (r->files[j].durable > 0 || r->files[j].same_boot) {
            const char *path = lk_file_path(first->segment->file);
            return lk_fail_corrupt(err, path, 24, expected_seq, first->header.base_seq,
                                   "%s: begins at sequence %" PRIu64 " where %" PRIu64
                                   " comes next: the log before it is missing",
                                   path, first->header.base_seq, expected_seq);
        }
    }
    return LK_OK;
}

/* The manifest may know of a place in the log that was durable. */
static lk_status manifest_check(recovery *r, const lk_manifest *manifest, lk_error *err)
{
    uint64_t generation, end;
    bool found = false;
    lk_manifest_durable(manifest, &generation, &end);
    for (size_t i = 0; i < r->count; i++) {
        log_file *f = &r->files[i];
        if (f->segment->generation > generation) continue;
        bool is_it = f->segment->generation == generation;
        uint64_t least = is_it ? end : 1; /* of an older one only: it was there */
        if (least > f->durable) f->durable = least > UINT32_MAX ? UINT32_MAX : (uint32_t)least;
        found = found || is_it;
    }
    if (generation > lk_manifest_log_retired(manifest) && !found) {
        char path[LK_PATH_MAX];
        lk_segment_path(r->dir, generation, path, sizeof path);
        return lk_fail_corrupt(err, path, 0, end, 0,
                               "%s: is missing, and was durable to byte %" PRIu64, path, end);
    }
    return LK_OK;
}

static void drop_from(recovery *r, size_t i)
{
    for (size_t j = i; j < r->count; j++) {
        lk_segment_unref(r->files[j].segment);
        r->files[j].segment = NULL;
        r->dropped = true;
    }
    r->count = i;
}

static lk_status judge(recovery *r, uint64_t expected_seq, lk_error *err)
{
    lk_status st = LK_OK;
    bool drop;
    if (r->count == 0) return LK_OK;
    LK_TRY(first_check(r, expected_seq, &drop, err));
    if (drop) drop_from(r, 0);
    for (size_t i = 0; i < r->count; i++) {
        bool done;
        LK_TRY(end_adopt(r, &r->files[i], &done, err));
        if (!done) LK_TRY(chain_walk(&r->files[i], err));
        if (i + 1 < r->count && continues(&r->files[i], &r->files[i + 1])) continue;
        LK_TRY(verdict(r, i, err));
        drop_from(r, i + 1);
    }
done:
    return st;
}

/* Files that were prepared and not used, and those that the verdict dropped. The latter must not
 * come back: the next segment continues where the log was cut. */
static void name_unused(const recovery *r, lk_recovery *out)
{
    size_t kept = 0;
    for (size_t i = 0; i < r->generation_count; i++) {
        if (kept < r->count && r->files[kept].segment->generation == r->generations[i]) {
            kept++;
        } else {
            out->unused[out->unused_count++] = r->generations[i];
        }
    }
    out->dropped = r->dropped;
}

/* A segment without frames is not handed over, so no sync of what comes would include it; but the next
 * one names it as its predecessor. */
static lk_status empty_sync(const recovery *r, const lk_segment *s, lk_error *err)
{
    return r->read_only ? LK_OK : lk_file_datasync(s->file, err);
}

static lk_status hand_over(recovery *r, lk_recovery *out, lk_error *err)
{
    lk_status st = LK_OK;
    out->segments = calloc(r->count + 1, sizeof *out->segments);
    if (out->segments == NULL) return lk_fail_nomem(err, r->count * sizeof *out->segments);
    for (size_t i = 0; i < r->count; i++) {
        lk_segment *s = r->files[i].segment;
        out->records += s->count;
        out->bytes += s->position;
        out->last_seq = s->base_seq + s->count - 1;
        out->end = s->position;
        out->link = s->link;
        if (s->count == 0) {
            LK_TRY(empty_sync(r, s, err));
            continue;
        }
        out->segments[out->count++] = s;
        r->files[i].segment = NULL;
    }
    out->lost_bytes = r->lost_bytes;
done:
    return st;
}

lk_status lk_recover_late(lk_env *env, const char *dir, lk_manifest *manifest, bool may_map,
                          bool read_only, uint32_t late_min, lk_recovery *out, lk_error *err)
{
    lk_status st = LK_OK;
    recovery r = {
        .env = env, .dir = dir, .may_map = may_map, .read_only = read_only, .late_min = late_min};
    memset(out, 0, sizeof *out);
    out->last_seq = lk_manifest_last_seq(manifest);
    r.boot = lk_boot_number(env);
    LK_TRY(list_files(&r, lk_manifest_log_retired(manifest), out, err));
    for (size_t i = 0; i < r.generation_count; i++) LK_TRY(file_open(&r, r.generations[i], err));
    LK_TRY(manifest_check(&r, manifest, err));
    LK_TRY(judge(&r, out->last_seq + 1, err));
    name_unused(&r, out);
    LK_TRY(hand_over(&r, out, err));
done:
    for (size_t i = 0; i < r.count; i++) lk_segment_unref(r.files[i].segment);
    free(r.files);
    free(r.generations);
    if (st != LK_OK) lk_recovery_deinit(out);
    return st;
}

lk_status lk_recovery_remove(lk_env *env, const char *dir, const lk_recovery *r, lk_error *err)
{
    for (size_t i = 0; i < r->unused_count; i++) {
        char path[LK_PATH_MAX];
        lk_segment_path(dir, r->unused[i], path, sizeof path);
        lk_status st = lk_env_unlink(env, path, err);
        if (st != LK_OK && st != LK_NOT_FOUND) return st;
    }
    return r->dropped ? lk_env_sync_dir(env, dir, err) : LK_OK;
}

lk_status lk_recover(lk_env *env, const char *dir, lk_manifest *manifest, bool may_map,
                     bool read_only, lk_recovery *out, lk_error *err)
{
    lk_status st = LK_OK;
    LK_TRY(lk_recover_late(env, dir, manifest, may_map, read_only, 0, out, err));
    if (!read_only) LK_TRY(lk_recovery_remove(env, dir, out, err));
done:
    if (st != LK_OK) lk_recovery_deinit(out);
    return st;
}

void lk_recovery_deinit(lk_recovery *r)
{
    for (size_t i = 0; i < r->count; i++) lk_segment_unref(r->segments[i]);
    free(r->segments);
    free(r->unused);
    memset(r, 0, sizeof *r);
}

/* ---- following ---- */

#define FOLLOW_BYTES (64u << 10) /* read at once, at first */
#define FOLLOW_BYTES_MAX (4u << 20)
#define FOLLOW_TRIES 1000 /* for a body whose bytes are still on their way behind its header */

lk_status lk_log_list(lk_env *env, const char *dir, uint64_t after, uint64_t **out,
                      size_t *out_count, lk_error *err)
{
    recovery r = {.env = env, .dir = dir, .read_only = true};
    lk_recovery found = {.count = 0};
    *out = NULL;
    *out_count = 0;
    lk_status st = list_files(&r, after, &found, err);
    lk_recovery_deinit(&found);
    free(r.files);
    if (st == LK_OK) {
        *out = r.generations;
        *out_count = r.generation_count;
    } else {
        free(r.generations);
    }
    return st;
}

lk_status lk_log_follow_open(lk_env *env, const char *dir, uint64_t generation,
                             const lk_segment *previous, lk_segment **out, lk_error *err)
{
    log_file f = {.segment = NULL};
    recovery r = {.env = env, .dir = dir, .read_only = true, .follows = true, .files = &f};
    r.boot = lk_boot_number(env);
    *out = NULL;
    lk_status st = file_open(&r, generation, err);
    if (st != LK_OK || r.count == 0) return st;
    if (previous != NULL &&
        (f.header.previous_end != previous->position || f.header.previous_link != previous->link ||
         f.header.base_seq != previous->base_seq + previous->count)) {
        st = lk_fail_corrupt(err, lk_file_path(f.segment->file), 44, previous->position,
                             f.header.previous_end, "%s: does not continue the segment before",
                             lk_file_path(f.segment->file));
        lk_segment_unref(f.segment);
        return st;
    }
    st = index_prepare(f.segment, f.segment->capacity, err);
    if (st != LK_OK) {
        lk_segment_unref(f.segment);
        return st;
    }
    *out = f.segment;
    return LK_OK;
}

/* Whether the file still is the segment: its first bytes are cleared before it is used again. */
static lk_status follow_check(const lk_segment *s, lk_error *err)
{
    uint8_t bytes[LK_SEGMENT_HEADER_BYTES];
    const char *path = lk_file_path(s->file);
    lk_status st = lk_file_read_exact(s->file, 0, bytes, sizeof bytes, err);
    if (st != LK_OK) return st;
    if (lk_load64(bytes + 16) == s->nonce && !lk_segment_header_is_blank(bytes)) return LK_OK;
    return lk_fail_corrupt(err, path, 16, s->nonce, lk_load64(bytes + 16),
                           "%s: was used again for another segment", path);
}

/* The header of the frame that continues the chain, if it is in memory below `end`; how far its bytes
 * reach, 0: there is none. */
static uint64_t follow_reach(const lk_segment *s, uint32_t end)
{
    uint32_t places[2] = {s->position, (uint32_t)lk_align_up(s->position, LK_PAGE_BYTES)};
    for (int i = 0; i < 2; i++) {
        lk_frame frame;
        if (places[i] + LK_FRAME_HEADER_BYTES > end ||
            !lk_frame_header_parse(s->base, s->capacity, s->nonce, places[i], &frame) ||
            frame.link != s->link || frame.ordinal != s->count) {
            continue;
        }
        return places[i] + lk_frame_bytes(frame.length);
    }
    return 0;
}

/* Reads from `position` on, so much that the next frame's header would be in it, and its body when it
 * is `reach` long. Nobody looks at these bytes before their records are published. */
static lk_status follow_read(const lk_segment *s, uint64_t bytes, uint64_t reach, uint32_t *out_end,
                             lk_error *err)
{
    size_t got;
    uint64_t end = lk_align_up(s->position, LK_PAGE_BYTES) + LK_PAGE_BYTES;
    if (end < s->position + bytes) end = s->position + bytes;
    if (end < reach) end = reach;
    if (end > s->capacity) end = s->capacity;
    lk_status st = lk_file_read(s->file, s->position, s->base + s->position,
                                (size_t)(end - s->position), &got, err);
    *out_end = s->position + (uint32_t)got;
    return st;
}

/* Takes in what was read. It is shown by the reader, with all else that is new. */
static lk_status follow_walk(lk_segment *s, uint32_t end, lk_error *err)
{
    log_file f = {.segment = s, .readable = end, .linked = s->count};
    size_t bytes = (end - s->position) / LK_RECORD_HEADER_BYTES * sizeof *f.tags;
    f.tags = malloc(bytes + 1);
    if (f.tags == NULL) return lk_fail_nomem(err, bytes);
    lk_status st = chain_adopt(&f, err);
    free(f.tags);
    return st;
}

lk_status lk_log_follow(lk_segment *s, lk_error *err)
{
    lk_status st = LK_OK;
    uint64_t bytes = 0, reach = 0;
    uint32_t end;
    for (int tries = 0; tries < FOLLOW_TRIES;) {
        uint32_t before = s->count;
        LK_TRY(follow_read(s, bytes, reach, &end, err));
        reach = follow_reach(s, end);
        if (reach == 0) break;
        if (reach <= end) LK_TRY(follow_walk(s, end, err));
        if (s->count != before) {
            reach = follow_reach(s, end);
            if (reach == 0 &&
                lk_align_up(s->position, LK_PAGE_BYTES) + LK_FRAME_HEADER_BYTES <= end)
                break; /* what comes next would have been seen */
            bytes = bytes == 0 ? FOLLOW_BYTES : bytes * 4;
            if (bytes > FOLLOW_BYTES_MAX) bytes = FOLLOW_BYTES_MAX;
        } else if (reach <= end) {
            tries++; /* the header is there, and the body not yet */
        }
    }
    if (reach != 0) {
        log_file f = {.segment = s, .durable = (uint32_t)reach};
        return damaged(&f, "in a frame that its writer has completed", err);
    }
    LK_TRY(follow_check(s, err));
done:
    return st;
}
