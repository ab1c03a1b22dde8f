/* test_prove.c: a segment that is given out before it is proved never gives a wrong answer: keys are
 * found as soon as their newest version is proved, damage is told to everybody who meets it, and a
 * store of which a part is damaged takes no write.
 *
 * Method: logs of a killed process on a simulated machine, recovered with tiny pieces; then a store.
 */
#include "harness.h"

#include <errno.h>

#include "log_fixture.h"
#include "store_fixture.h"

enum { LATE_MIN = 1024, FRAMES = 400 };

/* One mapped segment with frames of one and of several records, and the padding of a sync. */
static log log_of_frames(void)
{
    log l = log_new(true, 256 << 10);
    log_rotate(&l);
    for (uint32_t i = 0; i < FRAMES; i++) {
        if (i % 5 == 3) {
            log_batch(&l, 1 + i % 40, false);
        } else {
            log_put(&l, i % 3, 100 + i);
        }
        if (i == FRAMES / 2) log_sync(&l);
    }
    log_kill(&l);
    return l;
}

static lk_recovery recover_late(const log *l)
{
    lk_recovery r;
    lk_error err;
    CHECK_OK(lk_recover_late(l->env, LOG_DIR, l->manifest, true, false, LATE_MIN, &r, &err), &err);
    CHECK_EQ(r.count, 1);
    CHECK_EQ(r.records, l->record_count);
    CHECK(lk_proof_is_open(r.segments[0]));
    return r;
}

static lk_status find(lk_segment *s, const log_record *w, uint32_t visible, bool *out_found,
                      uint32_t *out_ordinal, lk_error *err)
{
    lk_record r;
    const uint8_t *key = (const uint8_t *)w->key;
    size_t len = strlen(w->key);
    return lk_proof_find(s, w->tree, key, len, lk_hash_key(w->tree, key, len), visible, out_found,
                         &r, out_ordinal, err);
}

/* The newest of the first `visible` records with the same key, as the list has it. */
static uint32_t newest_of(const log *l, const log_record *w, uint32_t visible)
{
    for (uint32_t i = visible; i-- > 0;) {
        const log_record *r = &l->records[i];
        if (r->tree == w->tree && strcmp(r->key, w->key) == 0) return i;
    }
    return UINT32_MAX;
}

LK_TEST(a_key_is_found_as_soon_as_its_newest_version_is_proved)
{
    log l = log_of_frames();
    lk_error err;
    lk_recovery r = recover_late(&l);
    lk_segment *s = r.segments[0];
    bool found;
    uint32_t ordinal;
    CHECK_OK(find(s, &l.records[l.record_count - 1], l.record_count, &found, &ordinal, &err), &err);
    CHECK(found);
    CHECK_EQ(ordinal, l.record_count - 1);
    CHECK(lk_proof_is_open(s));
    log_record absent = {.key = "nobody"};
    CHECK_OK(find(s, &absent, l.record_count, &found, &ordinal, &err), &err);
    CHECK(!found);
    CHECK(!lk_proof_is_open(s)); /* nothing less says that it is not there */
    log_check_segment(&l, s);
    lk_recovery_deinit(&r);
    log_free(&l);
}

LK_TEST(every_version_is_found_at_any_stage_of_the_proof)
{
    uint64_t rng = lk_test_seed();
    log l = log_of_frames();
    lk_error err;
    for (uint32_t turn = 0; turn < 30; turn++) {
        lk_recovery r = recover_late(&l);
        for (uint32_t i = 0; i < 20; i++) {
            /* The first ones near the end, so that the proof does not go far at once. */
            uint32_t back = 1 + (uint32_t)lk_test_below(&rng, l.record_count * (i + 1) / 20);
            const log_record *w = &l.records[l.record_count - back];
            uint32_t visible = l.record_count - (uint32_t)lk_test_below(&rng, back), ordinal;
            bool found;
            CHECK_OK(find(r.segments[0], w, visible, &found, &ordinal, &err), &err);
            CHECK(found);
            CHECK_EQ(ordinal, newest_of(&l, w, visible));
        }
        CHECK_OK(lk_proof_finish(r.segments[0], &err), &err);
        log_check_segment(&l, r.segments[0]);
        lk_recovery_deinit(&r);
    }
    log_free(&l);
}

LK_TEST(what_is_behind_damage_is_found_and_the_rest_is_reported)
{
    for (uint32_t header = 0; header < 2; header++) {
        log l = log_of_frames();
        lk_error err;
        const log_frame *f = &l.frames[FRAMES / 4];
        log_flip(l.env, 1, f->offset + (header != 0 ? 3u : LK_FRAME_HEADER_BYTES + 10u), 2);
        lk_recovery r = recover_late(&l);
        lk_segment *s = r.segments[0];
        bool found;
        uint32_t ordinal;
        const log_record *newest = &l.records[l.record_count - 1], *oldest = &l.records[0];
        CHECK_OK(find(s, newest, l.record_count, &found, &ordinal, &err), &err);
        CHECK(found);
        for (int again = 0; again < 2; again++) {
            CHECK_EQ(find(s, oldest, l.record_count, &found, &ordinal, &err), LK_CORRUPT);
            CHECK_EQ(err.offset, f->offset);
            CHECK_STR_EQ(err.path, lk_file_path(s->file));
            CHECK_EQ(lk_proof_finish(s, &err), LK_CORRUPT);
            CHECK_EQ(err.offset, f->offset);
        }
        CHECK_OK(find(s, newest, l.record_count, &found, &ordinal, &err), &err);
        CHECK(found);
        lk_recovery_deinit(&r);
        log_free(&l);
    }
}

/* Pieces in its middle have no first frame. */
LK_TEST(a_frame_larger_than_pieces_is_proved_whole)
{
    log l = log_new(true, 256 << 10);
    lk_error err;
    log_rotate(&l);
    log_put(&l, 0, 1);
    log_batch(&l, 900, false);
    log_put(&l, 0, 2);
    log_batch(&l, 900, false);
    log_put(&l, 0, 3);
    log_kill(&l);
    lk_recovery r = recover_late(&l);
    CHECK_OK(lk_proof_finish(r.segments[0], &err), &err);
    lk_segment *s = r.segments[0];
    for (uint32_t i = 0; i < s->count; i++) {
        lk_record record = lk_segment_record(s, i);
        log_check_record(&l, i + 1, &record);
    }
    lk_recovery_deinit(&r);
    log_free(&l);
}

LK_TEST(without_memory_for_a_proof_recovery_fails_and_frees_all)
{
    log l = log_of_frames();
    lk_recovery r;
    lk_error err;
    for (uint32_t n = 1; n < 200; n++) {
        CHECK(lk_sim_fail(l.sim, LK_SIM_MAP_ANONYMOUS, n, ENOMEM, false));
        lk_status st = lk_recover_late(l.env, LOG_DIR, l.manifest, true, false, LATE_MIN, &r, &err);
        lk_sim_clear_faults(l.sim);
        if (st == LK_OK) {
            lk_recovery_deinit(&r);
            CHECK(n > 3);
            break;
        }
        CHECK_EQ(st, LK_NOMEM);
    }
    log_free(&l);
}

/* ---- a store ---- */

static void key_of(uint32_t i, char *out) { (void)snprintf(out, 16, "key %05u", i); }

/* A store whose process was killed with 500 rows in its log; the files are the same after it. */
static void killed_store(lk_sim *sim, const lk_store_options *o)
{
    lk_store *s = store_open(sim, o);
    for (uint32_t i = 0; i < 500; i++) {
        char key[16];
        key_of(i, key);
        store_put(s, 0, key, "a value");
    }
    store_kill(sim, s);
}

LK_TEST(a_store_with_a_large_log_is_open_before_that_is_proved)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 1 << 20);
    killed_store(sim, &o);
    lk_store *s = store_open(sim, &o);
    for (uint32_t i = 0; i < 500; i++) {
        char key[16];
        key_of(499 - i, key);
        store_check(s, 0, key, "a value");
    }
    store_check(s, 0, "key 00500", NULL);
    store_put(s, 0, "key 00500", "more");
    store_flush(s);
    CHECK(!atomic_load(&s->unproved));
    store_check(s, 0, "key 00000", "a value");
    store_check(s, 0, "key 00500", "more");
    CHECK_EQ(atomic_load(&s->counters.recovered_records), 500);
    store_close(s);
    CHECK_EQ(store_count_files(sim, ".log"), 0);
    lk_sim_free(sim);
}

LK_TEST(a_store_with_a_damaged_log_takes_no_write_and_changes_nothing)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 1 << 20);
    killed_store(sim, &o);
    log_flip(lk_sim_env(sim), 1, 200, 1);
    size_t before_bytes, after_bytes;
    uint8_t *before = log_read_file(lk_sim_env(sim), 1, &before_bytes);
    for (int again = 0; again < 2; again++) {
        lk_error err;
        lk_store *s = store_open(sim, &o);
        CHECK_EQ(store_write(s, 0, "key", "value", LK_DURABILITY_PROCESS, &err), LK_CORRUPT);
        CHECK_EQ(store_write(s, 0, "key", "value", LK_DURABILITY_SYNC, &err), LK_CORRUPT);
        store_check(s, 0, "key 00499", "a value");
        uint64_t rows;
        lk_status st = store_scan(s, 0, LK_SEQ_MAX - 1, false, NULL, NULL, &rows, &err);
        CHECK_EQ(st, LK_CORRUPT);
        CHECK_EQ(lk_store_flush(s, &err), LK_CORRUPT);
        CHECK_EQ(lk_store_close(s, &err), LK_CORRUPT);
        lk_store_free(s);
        uint8_t *after = log_read_file(lk_sim_env(sim), 1, &after_bytes);
        CHECK_EQ(after_bytes, before_bytes);
        CHECK_MEM_EQ(after, before, before_bytes);
        free(after);
    }
    free(before);
    lk_sim_free(sim);
}
