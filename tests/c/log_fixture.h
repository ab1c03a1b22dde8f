/* log_fixture.h: logs on a simulated machine, written segment by segment, and a list of all that was
 * written, which knows what reading it back must give.
 *
 * Include after harness.h.
 */
#ifndef LK_LOG_FIXTURE_H
#define LK_LOG_FIXTURE_H

#include "env_sim.h"
#include "frame.h"
#include "manifest.h"
#include "order.h"
#include "prove.h"
#include "recover.h"

#define LOG_DIR "/s"
#ifndef LOG_LATE_MIN
#define LOG_LATE_MIN 0u /* see lk_recover_late */
#endif
enum { LOG_SEGMENTS_MAX = 64, LOG_RECORDS_MAX = 8192, LOG_KEY_MAX = 24, LOG_VALUE_MAX = 40 };

typedef struct log_record {
    uint32_t tree;
    lk_kind kind;
    char key[LOG_KEY_MAX], value[LOG_VALUE_MAX];
} log_record;

typedef struct log_frame { /* of log_record: the first one, and how many */
    uint32_t first, records;
    uint64_t generation;
    uint32_t offset, end;
} log_frame;

typedef struct log {
    lk_sim *sim;
    lk_env *env;
    lk_manifest *manifest;
    bool mapped;
    uint32_t capacity;
    lk_segment *segments[LOG_SEGMENTS_MAX]; /* those of this process */
    uint32_t count;
    uint64_t generation;
    uint32_t previous_end, previous_link; /* when there is no segment before */
    log_record *records;                  /* all that were written; record i has sequence i + 1 */
    log_frame *frames;
    uint32_t record_count, frame_count;
} log;

LK_TEST_UNUSED static log log_new(bool mapped, uint32_t capacity)
{
    lk_error err;
    log l = {.mapped = mapped, .capacity = capacity};
    l.sim = lk_sim_new(lk_test_seed());
    l.records = calloc(LOG_RECORDS_MAX, sizeof *l.records);
    l.frames = calloc(LOG_RECORDS_MAX, sizeof *l.frames);
    CHECK(l.sim != NULL && l.records != NULL && l.frames != NULL);
    l.env = lk_sim_env(l.sim);
    CHECK_OK(lk_env_mkdir(l.env, LOG_DIR, NULL, &err), &err);
    CHECK_OK(lk_env_sync_dir(l.env, "/", &err), &err);
    CHECK_OK(lk_manifest_create(l.env, LOG_DIR, NULL, NULL, &l.manifest, &err), &err);
    return l;
}

/* The process lets go of its segments; what it stored is in the kernel. */
LK_TEST_UNUSED static void log_end(log *l)
{
    for (uint32_t i = 0; i < l->count; i++) lk_segment_unref(l->segments[i]);
    l->count = 0;
}

LK_TEST_UNUSED static void log_free(log *l)
{
    log_end(l);
    lk_manifest_close(l->manifest);
    lk_sim_free(l->sim);
    free(l->records);
    free(l->frames);
}

/* The manifest is read again: its handle does not outlive a machine. */
LK_TEST_UNUSED static void log_open_manifest(log *l)
{
    lk_error err;
    lk_manifest_close(l->manifest);
    CHECK_OK(lk_manifest_open(l->env, LOG_DIR, NULL, NULL, &l->manifest, &err), &err);
}

LK_TEST_UNUSED static void log_kill(log *l)
{
    log_end(l);
    lk_sim_kill(l->sim);
    log_open_manifest(l);
}

LK_TEST_UNUSED static void log_reboot(log *l, lk_sim_cut mode, uint64_t seed)
{
    log_end(l);
    lk_sim_power_cut(l->sim, mode, seed);
    log_open_manifest(l);
}

/* ---- writing ---- */

static lk_segment *log_last(const log *l)
{
    CHECK(l->count > 0);
    return l->segments[l->count - 1];
}

LK_TEST_UNUSED static lk_segment_plan log_plan(log *l)
{
    return (lk_segment_plan){
        .env = l->env,
        .dir = LOG_DIR,
        .generation = ++l->generation,
        .capacity = l->capacity,
        .expected = 64,
        .mapped = l->mapped,
    };
}

LK_TEST_UNUSED static void log_activate(log *l, lk_segment *s)
{
    lk_error err;
    uint32_t end = l->previous_end, link = l->previous_link;
    CHECK(l->count < LOG_SEGMENTS_MAX);
    if (l->count > 0) {
        end = log_last(l)->tail;
        link = log_last(l)->link;
    }
    CHECK_OK(lk_env_sync_dir(l->env, LOG_DIR, &err), &err);
    CHECK_OK(lk_segment_activate(s, l->record_count + 1, end, link, &err), &err);
    l->segments[l->count++] = s;
}

LK_TEST_UNUSED static lk_segment *log_rotate(log *l)
{
    lk_error err;
    lk_segment *s;
    lk_segment_plan plan = log_plan(l);
    CHECK_OK(lk_segment_prepare(&plan, NULL, &s, &err), &err);
    log_activate(l, s);
    return s;
}

/* As the store syncs: what comes next begins a new page. */
LK_TEST_UNUSED static void log_sync(log *l)
{
    lk_error err;
    for (uint32_t i = 0; i < l->count; i++) {
        lk_segment *s = l->segments[i];
        if (s->synced >= s->tail) continue;
        uint64_t page = lk_align_up(s->tail, LK_PAGE_BYTES);
        s->position = page < s->capacity ? (uint32_t)page : s->capacity;
        CHECK_OK(lk_file_datasync(s->file, &err), &err);
        s->synced = s->tail;
    }
}

static log_record *log_note(log *l, uint32_t tree, lk_kind kind, uint32_t key)
{
    CHECK(l->record_count < LOG_RECORDS_MAX);
    log_record *r = &l->records[l->record_count];
    r->tree = tree;
    r->kind = kind;
    (void)snprintf(r->key, sizeof r->key, "key%05u", key);
    (void)snprintf(r->value, sizeof r->value, "%s", "");
    if (kind == LK_KIND_PUT) {
        (void)snprintf(r->value, sizeof r->value, "value %u of %u", l->record_count, key);
    }
    l->record_count++;
    return r;
}

static void log_frame_note(log *l, uint32_t first)
{
    const lk_segment *s = log_last(l);
    uint32_t n = l->record_count - first;
    uint64_t body = 0;
    for (uint32_t i = first; i < l->record_count; i++) {
        const log_record *r = &l->records[i];
        body += lk_record_bytes(r->tree, strlen(r->key), strlen(r->value));
    }
    uint32_t bytes = (uint32_t)lk_frame_bytes(body);
    l->frames[l->frame_count++] = (log_frame){first, n, s->generation, s->tail - bytes, s->tail};
}

/* One record through the hot path (mapped segments alone); LK_FULL is the caller's. */
LK_TEST_UNUSED static lk_status log_try_put(log *l, uint32_t tree, lk_kind kind, uint32_t key)
{
    lk_error err;
    const log_record *r = log_note(l, tree, kind, key);
    const uint8_t *k = (const uint8_t *)r->key, *v = (const uint8_t *)r->value;
    size_t klen = strlen(r->key), vlen = strlen(r->value);
    lk_status st = lk_segment_put(log_last(l), tree, kind, k, (uint32_t)klen, v, (uint32_t)vlen,
                                  lk_hash_key(tree, k, klen), &err);
    if (st != LK_OK) {
        l->record_count--;
        return st;
    }
    log_frame_note(l, l->record_count - 1);
    return LK_OK;
}

/* A frame of `n` records through begin and commit, over trees 0, 1, 2, every fifth a delete. */
LK_TEST_UNUSED static lk_status log_try_batch(log *l, uint32_t n, bool staged, lk_error *err)
{
    uint32_t first = l->record_count;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n; i++) {
        lk_kind kind = l->record_count % 5 == 4 ? LK_KIND_DELETE : LK_KIND_PUT;
        const log_record *r = log_note(l, l->record_count % 3, kind, l->record_count % 17);
        bytes += lk_record_bytes(r->tree, strlen(r->key), strlen(r->value));
    }
    uint8_t *to;
    lk_status st = lk_segment_begin(log_last(l), bytes, n, staged, &to, err);
    for (uint32_t i = first; st == LK_OK && i < l->record_count; i++) {
        const log_record *r = &l->records[i];
        to = lk_record_write(to, r->tree, r->kind, (const uint8_t *)r->key, strlen(r->key),
                             (const uint8_t *)r->value, strlen(r->value));
    }
    if (st == LK_OK) st = lk_segment_commit(log_last(l), bytes, n, staged, err);
    if (st != LK_OK) {
        l->record_count = first;
        return st;
    }
    log_frame_note(l, first);
    return LK_OK;
}

LK_TEST_UNUSED static void log_put(log *l, uint32_t tree, uint32_t key)
{
    CHECK_EQ(log_try_put(l, tree, LK_KIND_PUT, key), LK_OK);
}

LK_TEST_UNUSED static void log_batch(log *l, uint32_t n, bool staged)
{
    lk_error err;
    CHECK_OK(log_try_batch(l, n, staged, &err), &err);
}

/* ---- files ---- */

LK_TEST_UNUSED static uint8_t *log_read_file(lk_env *env, uint64_t generation, size_t *out_bytes)
{
    char path[LK_PATH_MAX];
    lk_error err;
    lk_file *file;
    uint64_t bytes;
    lk_segment_path(LOG_DIR, generation, path, sizeof path);
    CHECK_OK(lk_env_open(env, path, LK_OPEN_READ, &file, &err), &err);
    CHECK_OK(lk_file_size(file, &bytes, &err), &err);
    uint8_t *data = malloc((size_t)bytes + 1);
    CHECK(data != NULL);
    CHECK_OK(lk_file_read_exact(file, 0, data, (size_t)bytes, &err), &err);
    lk_file_close(file);
    *out_bytes = (size_t)bytes;
    return data;
}

LK_TEST_UNUSED static void log_write_file(lk_env *env, uint64_t generation, uint64_t offset,
                                          const void *data, size_t n)
{
    char path[LK_PATH_MAX];
    lk_error err;
    lk_file *file;
    lk_segment_path(LOG_DIR, generation, path, sizeof path);
    CHECK_OK(lk_env_open(env, path, LK_OPEN_WRITE, &file, &err), &err);
    CHECK_OK(lk_file_write(file, offset, data, n, &err), &err);
    lk_file_close(file);
}

LK_TEST_UNUSED static void log_flip(lk_env *env, uint64_t generation, uint64_t offset, unsigned bit)
{
    size_t bytes;
    uint8_t *data = log_read_file(env, generation, &bytes);
    CHECK(offset < bytes);
    data[offset] = (uint8_t)(data[offset] ^ 1u << bit);
    log_write_file(env, generation, offset, data + offset, 1);
    free(data);
}

LK_TEST_UNUSED static void log_truncate(lk_env *env, uint64_t generation, uint64_t bytes)
{
    char path[LK_PATH_MAX];
    lk_error err;
    lk_file *file;
    lk_segment_path(LOG_DIR, generation, path, sizeof path);
    CHECK_OK(lk_env_open(env, path, LK_OPEN_WRITE, &file, &err), &err);
    CHECK_OK(lk_file_truncate(file, bytes, &err), &err);
    lk_file_close(file);
}

LK_TEST_UNUSED static bool log_file_exists(lk_env *env, uint64_t generation)
{
    char path[LK_PATH_MAX];
    lk_error err;
    bool exists;
    lk_segment_path(LOG_DIR, generation, path, sizeof path);
    CHECK_OK(lk_env_exists(env, path, &exists, NULL, &err), &err);
    return exists;
}

/* ---- reading back ---- */

static void log_check_record(const log *l, uint64_t seq, const lk_record *r)
{
    CHECK(seq >= 1 && seq <= l->record_count);
    const log_record *w = &l->records[seq - 1];
    CHECK_EQ(r->tree, w->tree);
    CHECK_EQ(r->kind, w->kind);
    CHECK(lk_bytes_equal(r->key, r->key_len, (const uint8_t *)w->key, strlen(w->key)));
    CHECK(lk_bytes_equal(r->value, r->value_len, (const uint8_t *)w->value, strlen(w->value)));
}

/* Every record of a segment stands where its index says, and is found as the newest of its key. */
LK_TEST_UNUSED static void log_check_segment(const log *l, const lk_segment *s)
{
    uint32_t n = atomic_load(&s->published);
    for (uint32_t i = 0; i < n; i++) {
        lk_record r = lk_segment_record(s, i), found;
        uint32_t ordinal, newest = i;
        log_check_record(l, s->base_seq + i, &r);
        for (uint32_t j = i + 1; j < n; j++) {
            const log_record *w = &l->records[s->base_seq + j - 1];
            if (w->tree == r.tree && strlen(w->key) == r.key_len &&
                memcmp(w->key, r.key, r.key_len) == 0) {
                newest = j;
            }
        }
        uint64_t hash = lk_hash_key(r.tree, r.key, r.key_len);
        CHECK(lk_segment_find(s, r.tree, r.key, r.key_len, hash, n, &found, &ordinal));
        CHECK_EQ(ordinal, newest);
        CHECK(lk_segment_find(s, r.tree, r.key, r.key_len, hash, i + 1, &found, &ordinal));
        CHECK_EQ(ordinal, i);
    }
}

/* Checks that what was recovered is the records 1 to n that were written; gives n. */
LK_TEST_UNUSED static uint32_t log_check_recovery(const log *l, const lk_recovery *r)
{
    uint64_t seq = 0;
    for (size_t i = 0; i < r->count; i++) {
        const lk_segment *s = r->segments[i];
        CHECK_EQ(s->base_seq, seq + 1);
        CHECK_EQ(s->count, atomic_load(&s->published));
        for (uint32_t k = 0; k < s->count; k++) {
            lk_record record = lk_segment_record(s, k);
            log_check_record(l, ++seq, &record);
        }
    }
    CHECK_EQ(r->records, seq);
    CHECK_EQ(r->last_seq, seq);
    return (uint32_t)seq;
}

/* What is found when all of it was proved, after the segments were given out. */
static lk_status log_recover_late(lk_env *env, lk_manifest *manifest, bool mapped, lk_recovery *r,
                                  lk_error *err)
{
    lk_status st = LK_OK;
    LK_TRY(lk_recover_late(env, LOG_DIR, manifest, mapped, false, LOG_LATE_MIN, r, err));
    for (size_t i = 0; i < r->count; i++) LK_TRY(lk_proof_finish(r->segments[i], err));
    LK_TRY(lk_recovery_remove(env, LOG_DIR, r, err));
done:
    return st;
}

/* Recovers as the owner would; gives how many records there are (*out_lost: bytes cut off). */
LK_TEST_UNUSED static lk_status log_recover_in(const log *l, lk_env *env, lk_manifest *manifest,
                                               uint32_t *out_records, uint64_t *out_lost,
                                               lk_error *err)
{
    lk_recovery r;
    *out_records = 0;
    lk_status st = LOG_LATE_MIN == 0 ? lk_recover(env, LOG_DIR, manifest, l->mapped, false, &r, err)
                                     : log_recover_late(env, manifest, l->mapped, &r, err);
    if (st == LK_OK) {
        *out_records = log_check_recovery(l, &r);
        *out_lost = r.lost_bytes;
    }
    lk_recovery_deinit(&r);
    return st;
}

LK_TEST_UNUSED static uint32_t log_recover_all(const log *l, uint64_t *out_lost)
{
    lk_error err;
    uint32_t n;
    CHECK_OK(log_recover_in(l, l->env, l->manifest, &n, out_lost, &err), &err);
    return n;
}

#endif
