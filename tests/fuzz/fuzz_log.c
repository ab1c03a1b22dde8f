/* Any bytes as a log segment, with checksums that hold wherever a frame can be made out: recovery, in
 * the same boot and in another one, the proof of what it recovered, sorted order, lookups and the
 * dump end, with right answers or an error. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "env_sim.h"
#include "frame.h"
#include "manifest.h"
#include "order.h"
#include "recover.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { INPUT_BYTES_MAX = 1 << 14, CAPACITY_MAX = 1 << 15 };

static const char PATH[] = "/000001.log";

static void must(bool is_true, const char *what)
{
    if (is_true) return;
    fprintf(stderr, "not true: %s\n", what);
    abort();
}

/* The sum over the records of a body, as far as they can be made out. */
static uint64_t body_sum(const uint8_t *base, uint32_t at, uint32_t end, uint64_t nonce)
{
    uint64_t sum = 0;
    while (end - at >= LK_RECORD_HEADER_BYTES) {
        uint64_t head = lk_load64(base + at);
        uint64_t n = LK_RECORD_HEADER_BYTES + ((head >> 24 & LK_RECORD_TREE) != 0 ? 4 : 0) +
                     (head & 0xFFFF) + (head >> 32);
        if (n > end - at) break;
        lk_record r = lk_record_at(base + at);
        lk_kind kind = (lk_kind)(head >> 16 & 0xFF);
        if (lk_kind_is_known(kind)) {
            sum += lk_record_hash(&r, lk_hash_key(r.tree, r.key, r.key_len), nonce, at);
        }
        at += (uint32_t)n;
    }
    return sum;
}

/* Frames from the header on, each behind the other; a link of 0 becomes the right one. */
static void seal_frames(uint8_t *base, uint32_t end, uint64_t nonce, uint32_t link)
{
    for (uint32_t at = LK_SEGMENT_HEADER_BYTES; at + LK_FRAME_HEADER_BYTES <= end;) {
        uint8_t *p = base + at;
        uint32_t length = lk_load32(p), room = end - at - LK_FRAME_HEADER_BYTES;
        if (length < LK_RECORD_HEADER_BYTES || length > room) {
            at += 8;
            continue;
        }
        if (lk_load32(p + 12) == 0) lk_store32(p + 12, link);
        uint32_t from = at + LK_FRAME_HEADER_BYTES;
        uint32_t body = lk_frame_body_hash(body_sum(base, from, from + length, nonce));
        link = lk_frame_header_hash(lk_frame_seed(nonce, at), lk_load64(p), lk_load64(p + 8), body);
        lk_store32(p + 16, body);
        lk_store32(p + 20, link);
        at += (uint32_t)lk_frame_bytes(length);
    }
}

/* The whole file, in memory that the caller frees: of this boot with its mark, or of another. */
static uint8_t *seal(const uint8_t *data, size_t bytes, uint64_t boot, size_t *out_bytes)
{
    uint32_t capacity = lk_load32(data + 40) % CAPACITY_MAX;
    if (capacity < LK_SEGMENT_HEADER_BYTES) capacity = LK_SEGMENT_HEADER_BYTES;
    size_t place = (size_t)lk_align_up(capacity, LK_PAGE_BYTES), whole = place + LK_PAGE_BYTES;
    uint8_t *out = calloc(1, whole + INPUT_BYTES_MAX);
    must(out != NULL, "memory");
    memcpy(out, data, bytes);
    uint64_t nonce = lk_load64(data + 16);
    lk_segment_header h = {
        .generation = 1,
        .nonce = nonce,
        .base_seq = 1,
        .boot = boot,
        .capacity = capacity,
        .marked = (data[6] & 1) != 0,
    };
    uint32_t link = lk_segment_header_write(&h, out);
    *out_bytes = boot != 0 ? whole : bytes;
    seal_frames(out, capacity < *out_bytes ? capacity : (uint32_t)*out_bytes, nonce, link);
    if (boot != 0) lk_store64(out + place, nonce + lk_load16(data + 48));
    return out;
}

static void ignore_line(void *context, const char *line) { *(size_t *)context += strlen(line); }

static void read_segment(lk_segment *s)
{
    lk_order *order;
    must(lk_segment_verify(s, s->count, NULL, NULL) == LK_OK, "what was recovered is proved");
    must(lk_segment_order(s, s->count, true, &order, NULL) == LK_OK, "order");
    lk_order_unref(order);
    for (uint32_t i = 0; i < s->count; i++) {
        lk_record r = lk_segment_record(s, i), found;
        uint32_t ordinal;
        uint64_t hash = lk_hash_key(r.tree, r.key, r.key_len);
        must(lk_segment_find(s, r.tree, r.key, r.key_len, hash, i + 1, &found, &ordinal) &&
                 ordinal == i,
             "a record is found");
    }
}

static void recover(lk_env *env, lk_manifest *m, bool read_only)
{
    lk_recovery r;
    lk_error err = {.code = LK_OK};
    lk_status st = lk_recover(env, "/", m, true, read_only, &r, &err);
    must(st == LK_OK || st == LK_CORRUPT || st == LK_UNSUPPORTED, err.message);
    for (size_t i = 0; i < r.count; i++) read_segment(r.segments[i]);
    lk_recovery_deinit(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes > INPUT_BYTES_MAX || bytes == 0) return -1;
    lk_sim *sim = lk_sim_new(1);
    must(sim != NULL, "memory");
    lk_env *env = lk_sim_env(sim);
    lk_manifest *m;
    lk_file *file;
    must(lk_manifest_create(env, "/", NULL, NULL, &m, NULL) == LK_OK, "a manifest");
    must(lk_env_open(env, PATH, LK_OPEN_WRITE | LK_OPEN_CREATE, &file, NULL) == LK_OK, "open");
    if (bytes >= LK_SEGMENT_HEADER_BYTES && data[0] == 'l') {
        size_t whole_bytes;
        uint8_t *whole =
            seal(data, bytes, (data[32] & 1) != 0 ? lk_boot_number(env) : 0, &whole_bytes);
        must(lk_file_write(file, 0, whole, whole_bytes, NULL) == LK_OK, "write");
        free(whole);
    } else {
        must(lk_file_write(file, 0, data, bytes, NULL) == LK_OK, "write");
    }
    lk_file_close(file);
    size_t printed = 0;
    (void)lk_log_dump(env, PATH, true, ignore_line, &printed, NULL);
    recover(env, m, true);
    recover(env, m, false);
    lk_manifest_close(m);
    lk_sim_free(sim);
    return 0;
}
