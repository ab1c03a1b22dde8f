/* test_recover.c: each row of the verdict table (recover.h): what is cut as a tail,
 * what is reported as damage, and what is neither.
 *
 * Method: logs are written by hand on a simulated machine, ended by a kill (same boot) or a power
 * cut (another boot), changed in their files, and recovered. Whatever is recovered is compared with
 * what was written, record by record: it is the first n, and n is the point of each test.
 */
#include "harness.h"

#include <errno.h>

#include "log_fixture.h"

typedef struct outcome {
    lk_status status;
    uint32_t records;
    uint64_t lost;
    lk_error err;
} outcome;

static outcome recover(const log *l)
{
    outcome o = {.lost = 0};
    o.status = log_recover_in(l, l->env, l->manifest, &o.records, &o.lost, &o.err);
    return o;
}

static void check_whole(const log *l)
{
    outcome o = recover(l);
    CHECK_OK(o.status, &o.err);
    CHECK_EQ(o.records, l->record_count);
    CHECK_EQ(o.lost, 0);
}

static void check_cut(const log *l, uint32_t records, uint64_t lost)
{
    outcome o = recover(l);
    CHECK_OK(o.status, &o.err);
    CHECK_EQ(o.records, records);
    CHECK_EQ(o.lost, lost);
}

static void check_damaged(const log *l, uint64_t generation)
{
    char path[LK_PATH_MAX];
    outcome o = recover(l);
    CHECK_EQ(o.status, LK_CORRUPT);
    lk_segment_path(LOG_DIR, generation, path, sizeof path);
    CHECK_STR_EQ(o.err.path, path);
}

/* Breaks frame i: in its header, or in its body. */
static void break_frame(const log *l, uint32_t i, bool header)
{
    const log_frame *f = &l->frames[i];
    log_flip(l->env, f->generation, f->offset + (header ? 3u : LK_FRAME_HEADER_BYTES + 10u), 2);
}

static uint64_t bytes_of_frames(const log *l, uint32_t from, uint32_t to)
{
    uint64_t bytes = 0;
    for (uint32_t i = from; i < to; i++) bytes += l->frames[i].end - l->frames[i].offset;
    return bytes;
}

/* ---- logs that are whole ---- */

static log log_of(bool mapped, uint32_t segments, uint32_t frames)
{
    log l = log_new(mapped, 16384);
    for (uint32_t s = 0; s < segments; s++) {
        log_rotate(&l);
        for (uint32_t i = 0; i < frames; i++) {
            if (mapped && i % 2 == 0) {
                log_put(&l, i % 3, i % 7);
            } else {
                log_batch(&l, 1 + i % 4, false);
            }
        }
    }
    return l;
}

LK_TEST(an_empty_directory_is_an_empty_log)
{
    log l = log_new(true, 16384);
    check_whole(&l);
    log_free(&l);
}

LK_TEST(what_a_killed_process_wrote_is_all_there)
{
    for (int mapped = 0; mapped < 2; mapped++) {
        for (uint32_t segments = 1; segments < 4; segments++) {
            log l = log_of(mapped != 0, segments, 20);
            log_kill(&l);
            check_whole(&l);
            check_whole(&l); /* reading changes nothing */
            log_kill(&l);
            check_whole(&l);
            log_free(&l);
        }
    }
}

LK_TEST(a_segment_without_frames_is_a_log_too)
{
    log l = log_of(true, 2, 5);
    log_rotate(&l);
    log_kill(&l);
    check_whole(&l);
    log_free(&l);

    l = log_new(true, 16384);
    log_rotate(&l);
    log_kill(&l);
    check_whole(&l);
    log_free(&l);
}

LK_TEST(recovered_segments_answer_as_they_did)
{
    lk_error err;
    lk_recovery r;
    for (int mapped = 0; mapped < 2; mapped++) {
        log l = log_of(mapped != 0, 3, 60);
        log_kill(&l);
        CHECK_OK(lk_recover(l.env, LOG_DIR, l.manifest, mapped != 0, false, &r, &err), &err);
        CHECK_EQ(r.count, 3);
        CHECK_EQ(r.max_generation, 3);
        for (size_t i = 0; i < r.count; i++) {
            CHECK(r.segments[i]->recovered);
            CHECK_EQ(r.segments[i]->mapped, mapped);
            log_check_segment(&l, r.segments[i]);
            CHECK_OK(lk_segment_verify(r.segments[i], r.segments[i]->count, NULL, &err), &err);
        }
        CHECK_EQ(r.end, r.segments[2]->position);
        CHECK_EQ(r.link, r.segments[2]->link);
        lk_recovery_deinit(&r);
        log_free(&l);
    }
}

/* After a sync the log goes on at the next page; what lies between is not looked at. */
LK_TEST(a_log_goes_on_behind_the_padding_of_a_sync)
{
    for (int mapped = 0; mapped < 2; mapped++) {
        log l = log_new(mapped != 0, 65536);
        log_rotate(&l);
        for (uint32_t i = 0; i < 10; i++) {
            log_batch(&l, 1 + i, i % 3 == 0);
            if (i % 2 == 0) log_sync(&l);
            if (i % 2 == 0) CHECK_EQ(log_last(&l)->position % LK_PAGE_BYTES, 0);
        }
        log_kill(&l);
        check_whole(&l);
        log_reboot(&l, LK_SIM_KEEP_ALL, 1);
        check_whole(&l);
        for (uint32_t i = 1; i < l.frame_count; i++) { /* garbage in the padding */
            uint32_t from = l.frames[i - 1].end, to = l.frames[i].offset;
            if (from == to) continue;
            log_flip(l.env, 1, from, 1);
            log_flip(l.env, 1, to - 1, 1);
        }
        check_whole(&l);
        log_free(&l);
    }
}

/* The log that a recovery cut goes on in a new segment, linked to where it was cut. */
LK_TEST(a_new_segment_continues_where_the_log_was_cut)
{
    log l = log_of(true, 1, 10);
    log_reboot(&l, LK_SIM_KEEP_ALL, 1);
    break_frame(&l, 6, true);
    lk_error err;
    lk_recovery r;
    CHECK_OK(lk_recover(l.env, LOG_DIR, l.manifest, true, false, &r, &err), &err);
    l.record_count = log_check_recovery(&l, &r);
    CHECK_EQ(l.record_count, l.frames[6].first);
    l.previous_end = r.end;
    l.previous_link = r.link;
    l.generation = r.max_generation;
    lk_recovery_deinit(&r);
    l.frame_count = 6;
    log_rotate(&l);
    log_batch(&l, 20, false);
    log_kill(&l);
    /* Behind the cut there are valid frames still, but the chain goes on elsewhere. */
    check_whole(&l);
    log_reboot(&l, LK_SIM_KEEP_ALL, 2);
    check_whole(&l);
    log_free(&l);
}

/* A process that is killed just after it has activated a segment leaves a header that is not on the disk;
 * the segment behind it names it. */
LK_TEST(a_segment_behind_one_without_frames_is_not_lost_with_it)
{
    for (int mapped = 0; mapped < 2; mapped++) {
        lk_error err;
        lk_recovery r;
        log l = log_of(mapped != 0, 1, 10);
        log_sync(&l);
        log_rotate(&l);
        log_kill(&l);
        CHECK_OK(lk_recover(l.env, LOG_DIR, l.manifest, mapped != 0, false, &r, &err), &err);
        l.previous_end = r.end;
        l.previous_link = r.link;
        l.generation = r.max_generation;
        lk_recovery_deinit(&r);
        log_rotate(&l);
        log_batch(&l, 20, false);
        log_sync(&l);
        log_reboot(&l, LK_SIM_LOSE_UNSYNCED, 1);
        check_whole(&l);
        log_free(&l);
    }
}

/* ---- E < D ---- */

LK_TEST(a_gap_below_what_a_frame_knows_to_be_durable_is_damage)
{
    for (int mapped = 0; mapped < 2; mapped++) {
        for (int header = 0; header < 2; header++) {
            for (uint32_t i = 0; i < 6; i++) {
                log l = log_new(mapped != 0, 65536);
                log_rotate(&l);
                for (uint32_t k = 0; k < 6; k++) log_batch(&l, 3, true);
                log_sync(&l);
                log_batch(&l, 3, true); /* says so */
                log_reboot(&l, LK_SIM_KEEP_ALL, 1);
                check_whole(&l);
                break_frame(&l, i, header != 0);
                check_damaged(&l, 1);
                log_free(&l);
            }
        }
    }
}

LK_TEST(the_header_of_a_torn_frame_still_says_what_was_durable)
{
    log l = log_new(true, 65536);
    log_rotate(&l);
    log_batch(&l, 3, true);
    log_sync(&l);
    log_batch(&l, 3, true);
    log_reboot(&l, LK_SIM_KEEP_ALL, 1);
    break_frame(&l, 1, false);
    check_cut(&l, 3, bytes_of_frames(&l, 1, 2));
    break_frame(&l, 0, false);
    check_damaged(&l, 1);
    log_free(&l);
}

LK_TEST(a_later_segment_with_something_durable_makes_earlier_ones_durable)
{
    for (int header = 0; header < 2; header++) {
        for (uint32_t i = 0; i < 10; i++) {
            log l = log_of(true, 2, 5);
            log_rotate(&l);
            log_batch(&l, 2, true);
            log_sync(&l);
            log_batch(&l, 2, true);
            log_reboot(&l, LK_SIM_KEEP_ALL, 1);
            break_frame(&l, i, header != 0);
            check_damaged(&l, l.frames[i].generation);
            log_free(&l);
        }
    }
}

LK_TEST(what_the_manifest_calls_durable_must_be_there)
{
    lk_error err;
    for (uint32_t i = 0; i < 4; i++) {
        log l = log_of(true, 2, 2);
        lk_edit edit;
        lk_edit_init(&edit);
        edit.durable_generation = 2;
        edit.durable_end = l.frames[2].end;
        CHECK_OK(lk_manifest_append(l.manifest, &edit, NULL, &err), &err);
        lk_edit_deinit(&edit);
        log_reboot(&l, LK_SIM_KEEP_ALL, 1);
        check_whole(&l);
        break_frame(&l, i, true);
        if (i < 3) {
            check_damaged(&l, l.frames[i].generation);
        } else {
            check_cut(&l, l.frames[3].first, 0);
        }
        log_free(&l);
    }
    log l = log_of(true, 2, 2);
    lk_edit edit;
    char path[LK_PATH_MAX];
    lk_edit_init(&edit);
    edit.durable_generation = 2;
    edit.durable_end = 64;
    CHECK_OK(lk_manifest_append(l.manifest, &edit, NULL, &err), &err);
    lk_edit_deinit(&edit);
    log_reboot(&l, LK_SIM_KEEP_ALL, 1);
    lk_segment_path(LOG_DIR, 2, path, sizeof path);
    CHECK_OK(lk_env_unlink(l.env, path, &err), &err);
    check_damaged(&l, 2);
    log_free(&l);
}

/* ---- E >= D, nothing behind: a torn tail ---- */

LK_TEST(a_torn_tail_is_cut_after_a_reboot)
{
    for (int header = 0; header < 2; header++) {
        log l = log_of(true, 2, 8);
        log_reboot(&l, LK_SIM_KEEP_ALL, 1);
        uint32_t last = l.frame_count - 1;
        break_frame(&l, last, header != 0);
        check_cut(&l, l.frames[last].first, header ? 0 : bytes_of_frames(&l, last, last + 1));
        log_free(&l);
    }
}

/* A frame that a killed process had begun has no header: nothing tells of it. */
LK_TEST(a_frame_that_was_begun_when_the_process_was_killed_is_cut)
{
    lk_error err;
    for (int mapped = 0; mapped < 2; mapped++) {
        log l = log_of(mapped != 0, 1, 8);
        lk_segment *s = log_last(&l);
        uint8_t *to;
        CHECK_OK(lk_segment_begin(s, 1000, 2, false, &to, &err), &err);
        memset(to, 0xEE, 1000);
        if (!mapped) {
            CHECK_OK(lk_file_write(s->file, s->position + LK_FRAME_HEADER_BYTES, to, 1000, &err),
                     &err);
        }
        log_kill(&l);
        check_whole(&l);
        log_free(&l);
    }
}

/* ---- E >= D, valid frames behind ---- */

LK_TEST(frames_behind_a_gap_are_dropped_after_a_reboot_and_damage_in_the_same_boot)
{
    for (int mapped = 0; mapped < 2; mapped++) {
        for (int header = 0; header < 2; header++) {
            for (uint32_t i = 0; i < 9; i++) {
                log l = log_of(mapped != 0, 1, 10);
                log_kill(&l);
                break_frame(&l, i, header != 0);
                check_damaged(&l, 1);
                log_reboot(&l, LK_SIM_KEEP_ALL, 1);
                uint64_t lost = bytes_of_frames(&l, header ? i + 1 : i, 10);
                check_cut(&l, l.frames[i].first, lost);
                check_cut(&l, l.frames[i].first, lost); /* and so the next time */
                log_free(&l);
            }
        }
    }
}

LK_TEST(later_segments_behind_a_gap_are_dropped_after_a_reboot_and_damage_in_the_same_boot)
{
    for (int header = 0; header < 2; header++) {
        for (uint32_t i = 0; i < 10; i++) { /* of the first two segments */
            log l = log_of(true, 3, 5);
            log_kill(&l);
            break_frame(&l, i, header != 0);
            check_damaged(&l, l.frames[i].generation);
            for (uint64_t g = 1; g <= 3; g++) CHECK(log_file_exists(l.env, g));
            log_reboot(&l, LK_SIM_KEEP_ALL, 1);
            check_cut(&l, l.frames[i].first, bytes_of_frames(&l, header ? i + 1 : i, 15));
            CHECK(log_file_exists(l.env, 1));
            CHECK_EQ(log_file_exists(l.env, 2), l.frames[i].generation == 2);
            CHECK(!log_file_exists(l.env, 3));
            log_free(&l);
        }
    }
}

/* The names of dropped segments are gone for good before the log goes on. */
LK_TEST(dropped_segments_do_not_come_back)
{
    log l = log_of(true, 3, 5);
    log_end(&l);
    break_frame(&l, 7, true);
    log_reboot(&l, LK_SIM_KEEP_ALL, 1);
    check_cut(&l, l.frames[7].first, bytes_of_frames(&l, 8, 15));
    log_reboot(&l, LK_SIM_LOSE_UNSYNCED, 2);
    CHECK(log_file_exists(l.env, 2) && !log_file_exists(l.env, 3));
    check_cut(&l, l.frames[7].first, bytes_of_frames(&l, 8, 10));
    log_free(&l);
}

/* An older segment of another boot, with a newer one of this boot behind it: what the newer one holds
 * was acknowledged to this boot's processes. */
static void gap_before_this_boot(bool mapped)
{
    log l = log_of(mapped, 1, 10);
    lk_error err;
    lk_recovery r;
    log_reboot(&l, LK_SIM_KEEP_ALL, 1);
    CHECK_OK(lk_recover(l.env, LOG_DIR, l.manifest, mapped, false, &r, &err), &err);
    l.previous_end = r.end;
    l.previous_link = r.link;
    lk_recovery_deinit(&r);
    log_rotate(&l);
    log_batch(&l, 3, false);
    log_kill(&l);
    check_whole(&l);
    break_frame(&l, 9, true);
    check_damaged(&l, 1);
    log_free(&l);
}

LK_TEST(a_gap_before_a_segment_of_this_boot_is_damage)
{
    gap_before_this_boot(true);
    gap_before_this_boot(false);
}

LK_TEST(where_the_boot_is_not_known_nothing_is_of_the_same_boot)
{
    log l = log_of(true, 1, 10);
    uint8_t *file;
    size_t bytes;
    lk_segment_header h;
    lk_error err;
    log_kill(&l);
    file = log_read_file(l.env, 1, &bytes);
    CHECK_OK(lk_segment_header_parse(file, "", &h, &err), &err);
    break_frame(&l, 9, true);
    check_damaged(&l, 1);
    h.boot = 0; /* the chain breaks at once: its first link is the header's hash */
    lk_segment_header_write(&h, file);
    log_write_file(l.env, 1, 0, file, LK_SEGMENT_HEADER_BYTES);
    check_cut(&l, 0, bytes_of_frames(&l, 0, 9));
    free(file);
    log_free(&l);
}

/* ---- the mark ---- */

LK_TEST(a_lost_last_frame_is_seen_in_the_same_boot)
{
    for (int header = 0; header < 2; header++) {
        log l = log_of(true, 1, 9); /* the last one was stored */
        log_kill(&l);
        break_frame(&l, 8, header != 0);
        check_damaged(&l, 1);
        log_reboot(&l, LK_SIM_KEEP_ALL, 1); /* the mark means nothing after a reboot */
        check_cut(&l, l.frames[8].first, header ? 0 : bytes_of_frames(&l, 8, 9));
        log_free(&l);
    }
}

LK_TEST(a_lost_frame_before_one_that_went_by_pwrite_is_seen_too)
{
    for (int header = 0; header < 2; header++) {
        for (uint32_t i = 0; i < 2; i++) { /* stored, staged; the last is staged */
            log l = log_new(true, 65536);
            log_rotate(&l);
            log_put(&l, 0, 1);
            log_batch(&l, 2, true);
            log_batch(&l, 2, true);
            log_kill(&l);
            check_whole(&l);
            break_frame(&l, i, header != 0);
            check_damaged(&l, 1);
            log_free(&l);
        }
    }
}

LK_TEST(a_mark_that_no_process_can_have_stored_is_damage)
{
    static const uint64_t MARKS[] = {1, LK_SEGMENT_HEADER_BYTES - 1, 16384 + 1, UINT64_MAX};
    for (size_t i = 0; i < sizeof MARKS / sizeof *MARKS; i++) {
        log l = log_of(true, 1, 9);
        uint8_t bytes[8];
        lk_store64(bytes, log_last(&l)->nonce + MARKS[i]);
        log_kill(&l);
        log_write_file(l.env, 1, 16384, bytes, 8);
        check_damaged(&l, 1);
        log_reboot(&l, LK_SIM_KEEP_ALL, 1);
        check_whole(&l);
        log_free(&l);
    }
}

/* Killed between a frame and its mark. */
LK_TEST(a_mark_that_is_behind_its_frame_is_no_fault)
{
    log l = log_of(true, 1, 9);
    uint8_t bytes[8];
    lk_store64(bytes, log_last(&l)->nonce + l.frames[7].end);
    log_kill(&l);
    log_write_file(l.env, 1, 16384, bytes, 8);
    check_whole(&l);
    log_free(&l);
}

/* ---- files ---- */

LK_TEST(a_missing_first_segment_is_damage_unless_nothing_was_durable)
{
    lk_error err;
    char path[LK_PATH_MAX];
    lk_segment_path(LOG_DIR, 1, path, sizeof path);
    for (int synced = 0; synced < 2; synced++) {
        log l = log_of(true, 2, 5);
        if (synced) {
            log_sync(&l);
            log_put(&l, 0, 1);
        }
        log_kill(&l);
        CHECK_OK(lk_env_unlink(l.env, path, &err), &err);
        check_damaged(&l, 2);
        log_reboot(&l, LK_SIM_KEEP_ALL, 1);
        if (synced) {
            check_damaged(&l, 2);
        } else {
            check_cut(&l, 0, bytes_of_frames(&l, 5, 10));
            CHECK(!log_file_exists(l.env, 2));
        }
        log_free(&l);
    }
}

LK_TEST(a_missing_middle_segment_is_damage_unless_nothing_was_durable)
{
    lk_error err;
    char path[LK_PATH_MAX];
    lk_segment_path(LOG_DIR, 2, path, sizeof path);
    log l = log_of(true, 3, 5);
    log_kill(&l);
    CHECK_OK(lk_env_unlink(l.env, path, &err), &err);
    check_damaged(&l, 1);
    log_reboot(&l, LK_SIM_KEEP_ALL, 1);
    check_cut(&l, l.frames[5].first, bytes_of_frames(&l, 10, 15));
    log_free(&l);
}

/* Generations are not counted without gaps: a prepared segment may never have been used. */
LK_TEST(a_gap_in_the_generations_is_no_fault)
{
    log l = log_of(true, 1, 5);
    l.generation += 3;
    log_rotate(&l);
    log_batch(&l, 3, false);
    log_kill(&l);
    check_whole(&l);
    log_free(&l);
}

LK_TEST(prepared_segments_are_removed_and_retired_ones_too)
{
    log l = log_of(true, 2, 5);
    lk_segment_plan plan = log_plan(&l);
    lk_segment *spare;
    lk_edit edit;
    lk_error err;
    CHECK_OK(lk_segment_prepare(&plan, NULL, &spare, &err), &err);
    lk_segment_unref(spare);
    log_kill(&l);
    check_whole(&l);
    CHECK(log_file_exists(l.env, 2) && !log_file_exists(l.env, 3));

    lk_edit_init(&edit);
    edit.log_retired = 1;
    edit.last_seq = l.frames[5].first;
    CHECK_OK(lk_manifest_append(l.manifest, &edit, NULL, &err), &err);
    lk_edit_deinit(&edit);
    lk_recovery r;
    CHECK_OK(lk_recover(l.env, LOG_DIR, l.manifest, true, false, &r, &err), &err);
    CHECK(!log_file_exists(l.env, 1));
    CHECK_EQ(r.count, 1);
    CHECK_EQ(r.segments[0]->generation, 2);
    CHECK_EQ(r.last_seq, l.record_count);
    lk_recovery_deinit(&r);
    log_free(&l);
}

/* Power went between the rename of a recycled file and the blanking of its header: the old header is
 * of an earlier generation. In the same boot nothing explains it. */
LK_TEST(a_recycled_file_with_its_old_header_was_never_used)
{
    log l = log_of(true, 1, 5);
    lk_error err;
    char from[LK_PATH_MAX], to[LK_PATH_MAX];
    lk_segment_path(LOG_DIR, 1, from, sizeof from);
    lk_segment_path(LOG_DIR, 9, to, sizeof to);
    log_kill(&l);
    CHECK_OK(lk_env_link(l.env, from, to, &err), &err);
    check_damaged(&l, 9);
    log_reboot(&l, LK_SIM_KEEP_ALL, 1);
    check_whole(&l);
    CHECK(log_file_exists(l.env, 1) && !log_file_exists(l.env, 9));
    log_free(&l);

    l = log_of(true, 2, 5); /* a header of a later generation is damage in any boot */
    lk_segment_path(LOG_DIR, 2, from, sizeof from);
    lk_segment_path(LOG_DIR, 1, to, sizeof to);
    log_reboot(&l, LK_SIM_KEEP_ALL, 1);
    CHECK_OK(lk_env_rename(l.env, from, to, &err), &err);
    check_damaged(&l, 1);
    log_free(&l);
}

LK_TEST(files_with_other_names_are_left)
{
    static const char *const NAMES[] = {
        "/s/7.log",          "/s/0000001.log", "/s/99999999999999999999.log",
        "/s/000001.log.bak", "/s/notes.log",   "/s/000001.txt"};
    log l = log_of(true, 1, 5);
    lk_error err;
    bool exists;
    log_kill(&l);
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        lk_file *file;
        CHECK_OK(lk_env_open(l.env, NAMES[i], LK_OPEN_WRITE | LK_OPEN_CREATE, &file, &err), &err);
        lk_file_close(file);
    }
    check_whole(&l);
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        CHECK_OK(lk_env_exists(l.env, NAMES[i], &exists, NULL, &err), &err);
        CHECK(exists);
    }
    log_free(&l);
}

LK_TEST(a_damaged_header_is_damage_in_any_boot)
{
    for (uint32_t at = 0; at < LK_SEGMENT_HEADER_BYTES; at++) {
        log l = log_of(true, 2, 3);
        log_kill(&l);
        log_flip(l.env, 1, at, at % 8);
        check_damaged(&l, 1);
        log_reboot(&l, LK_SIM_KEEP_ALL, 1);
        check_damaged(&l, 1);
        log_free(&l);
    }
}

/* ---- errors that are no verdicts ---- */

LK_TEST(a_read_error_is_never_a_tail)
{
    static const lk_sim_op OPS[] = {LK_SIM_OPEN, LK_SIM_READ, LK_SIM_SIZE, LK_SIM_LIST, LK_SIM_MAP};
    for (int mapped = 0; mapped < 2; mapped++) {
        for (int reboot = 0; reboot < 2; reboot++) {
            for (size_t op = 0; op < sizeof OPS / sizeof *OPS; op++) {
                for (uint64_t nth = 1; nth < 20; nth++) {
                    log l = log_of(mapped != 0, 3, 5);
                    if (reboot) {
                        log_reboot(&l, LK_SIM_KEEP_ALL, 1);
                    } else {
                        log_kill(&l);
                    }
                    uint64_t before = lk_sim_calls_of(l.sim, OPS[op]);
                    CHECK(lk_sim_fail(l.sim, OPS[op], nth, EIO, false));
                    outcome o = recover(&l);
                    bool struck = lk_sim_calls_of(l.sim, OPS[op]) - before >= nth;
                    CHECK_EQ(o.status, struck ? LK_IO : LK_OK);
                    lk_sim_clear_faults(l.sim);
                    check_whole(&l);
                    log_free(&l);
                    if (!struck) break;
                }
            }
        }
    }
}

LK_TEST(without_memory_recovery_fails_and_removes_nothing)
{
    for (uint64_t nth = 1; nth < 10; nth++) {
        log l = log_of(true, 3, 5);
        log_reboot(&l, LK_SIM_KEEP_ALL, 1);
        break_frame(&l, 7, true);
        CHECK(lk_sim_fail(l.sim, LK_SIM_MAP_ANONYMOUS, nth, ENOMEM, false));
        outcome o = recover(&l);
        if (o.status != LK_OK) {
            CHECK_EQ(o.status, LK_NOMEM);
            CHECK(log_file_exists(l.env, 3));
            lk_sim_clear_faults(l.sim);
            check_cut(&l, l.frames[7].first, bytes_of_frames(&l, 8, 15));
        }
        log_free(&l);
    }
}

/* ---- a reader beside the owner ---- */

/* A living owner writes on while the log is read; what was there before is seen, nothing is called
 * damage, nothing is changed. */
LK_TEST(a_reader_beside_the_owner_sees_the_log_and_changes_nothing)
{
    lk_error err;
    lk_recovery r;
    for (int mapped = 0; mapped < 2; mapped++) {
        log l = log_of(mapped != 0, 3, 5);
        lk_segment_plan plan = log_plan(&l);
        lk_segment *spare;
        CHECK_OK(lk_segment_prepare(&plan, NULL, &spare, &err), &err);
        uint64_t calls = lk_sim_calls(l.sim);
        CHECK_OK(lk_recover(l.env, LOG_DIR, l.manifest, mapped != 0, true, &r, &err), &err);
        CHECK_EQ(log_check_recovery(&l, &r), l.record_count);
        for (size_t i = 0; i < r.count; i++) CHECK(!r.segments[i]->mapped);
        log_batch(&l, 5, false);
        CHECK_EQ(r.last_seq, l.record_count - 5);
        lk_recovery_deinit(&r);
        CHECK_EQ(lk_sim_calls(l.sim), calls + (mapped ? 0 : 1));
        lk_segment_unref(spare);
        log_free(&l);
    }
}

/* The frame at the end was half there, and one that came later is whole: two moments, which look like
 * a hole. The store reads anew, and the second time both are there; real damage would be too. */
LK_TEST(a_reader_beside_the_owner_reports_a_hole_and_reads_all_the_next_time)
{
    lk_error err;
    lk_recovery r;
    log l = log_of(false, 1, 8);
    log_end(&l);
    break_frame(&l, 6, true);
    CHECK_EQ(lk_recover(l.env, LOG_DIR, l.manifest, false, true, &r, &err), LK_CORRUPT);
    CHECK_EQ(err.offset, l.frames[6].offset);
    break_frame(&l, 6, true);
    CHECK_OK(lk_recover(l.env, LOG_DIR, l.manifest, false, true, &r, &err), &err);
    CHECK_EQ(log_check_recovery(&l, &r), l.record_count);
    lk_recovery_deinit(&r);
    log_free(&l);
}

/* ---- every bit, every length ---- */

/* A small log with all that a log can have: two segments, both kinds of frames, a sync's padding. The
 * last frame was stored, so that the mark knows of it. */
static log small_log(bool mapped)
{
    log l = log_new(mapped, 8192);
    log_rotate(&l);
    log_batch(&l, 2, false);
    log_batch(&l, 3, true);
    log_rotate(&l);
    log_batch(&l, 2, true);
    log_sync(&l);
    if (mapped) log_put(&l, 5, 1);
    log_batch(&l, 2, false);
    return l;
}

/* Whether a flip of this bit may go unseen, with all records there: what no frame covers. Where a
 * frame's padding lies, and where nothing was written yet, nothing is checked; of the mark page only
 * the first 8 bytes are used, and a mark below its place is what a process leaves that is killed
 * between a frame and its mark. */
static bool may_go_unseen(const log *l, uint64_t generation, uint64_t at)
{
    if (at < LK_SEGMENT_HEADER_BYTES) return false;
    if (at >= l->capacity) return true;
    for (uint32_t i = 0; i < l->frame_count; i++) {
        const log_frame *f = &l->frames[i];
        if (f->generation != generation || at < f->offset || at >= f->end) continue;
        return at + 8 > f->end; /* perhaps in the padding */
    }
    return true;
}

/* In the written backing no mark tells where the last process stopped: when the header of the very
 * last frame is damaged, it looks like one that was never completed. */
static bool may_lose_last(const log *l, uint64_t generation, uint64_t at)
{
    const log_frame *f = &l->frames[l->frame_count - 1];
    return !l->mapped && generation == f->generation && at >= f->offset &&
           at < f->offset + LK_FRAME_HEADER_BYTES;
}

static void flip_every_bit(bool mapped)
{
    log l = small_log(mapped);
    log_kill(&l);
    check_whole(&l);
    uint32_t seen = 0, unseen = 0;
    for (uint64_t g = 1; g <= 2; g++) {
        size_t bytes;
        uint8_t *file = log_read_file(l.env, g, &bytes);
        for (uint64_t bit = 0; bit < 8 * bytes; bit++) {
            uint64_t at = bit / 8;
            /* Most of the empty pages is left out. */
            if (may_go_unseen(&l, g, at) && at % 512 > 64 && file[at] == 0) continue;
            uint8_t flipped = (uint8_t)(file[at] ^ 1u << bit % 8);
            log_write_file(l.env, g, at, &flipped, 1);
            outcome o = recover(&l);
            if (o.status == LK_OK) {
                bool whole = o.records == l.record_count;
                bool last = o.records == l.frames[l.frame_count - 1].first;
                if (!(whole && may_go_unseen(&l, g, at)) && !(last && may_lose_last(&l, g, at))) {
                    lk_test_fail(__FILE__, __LINE__,
                                 "segment %d, bit %d of byte %d: %u of %u records", (int)g,
                                 (int)(bit % 8), (int)at, o.records, l.record_count);
                }
                unseen++;
            } else {
                CHECK_EQ(o.status, LK_CORRUPT);
                seen++;
            }
            log_write_file(l.env, g, at, &file[at], 1);
        }
        free(file);
    }
    CHECK(seen > 3000 && unseen > 100);
    check_whole(&l);
    log_free(&l);
}

LK_TEST(no_flipped_bit_loses_a_record_unseen_in_a_mapped_log) { flip_every_bit(true); }
LK_TEST(no_flipped_bit_loses_a_record_unseen_in_a_written_log) { flip_every_bit(false); }

static bool is_zero(const uint8_t *data, uint64_t from, uint64_t to)
{
    while (from < to && data[from] == 0) from++;
    return from >= to;
}

/* In the same boot a file that is shorter is damage. An empty one is not: a process that was killed
 * while it prepared a segment leaves it so; the log then ends before it, unless another segment
 * comes behind. After a reboot a length may be lost with what is behind it. */
static void truncate_everywhere(bool mapped)
{
    for (uint64_t g = 1; g <= 2; g++) {
        for (uint64_t bytes = 0; bytes <= 12288; bytes += bytes < 1024 || bytes > 12200 ? 1 : 97) {
            log l = small_log(mapped);
            size_t size;
            uint8_t *header = log_read_file(l.env, g, &size);
            /* By chance the nonce begins, or the checksum ends, with zeros: what is cut off then looks
             * like a file that was never begun, or is not missed. */
            bool as_whole =
                is_zero(header, 0, bytes) || is_zero(header, bytes, LK_SEGMENT_HEADER_BYTES);
            free(header);
            log_kill(&l);
            log_truncate(l.env, g, bytes);
            if (bytes == 12288) {
                check_whole(&l);
            } else if (bytes == 0 && g == 2) {
                check_cut(&l, l.frames[2].first, 0);
            } else {
                CHECK_EQ(recover(&l).status, LK_CORRUPT);
            }
            if (bytes > 0 && g == 2) {
                log_reboot(&l, LK_SIM_KEEP_ALL, 1);
                outcome o = recover(&l);
                uint32_t durable = l.frames[2].end;
                if (bytes < LK_SEGMENT_HEADER_BYTES) {
                    /* A header is written at one go. */
                    CHECK_EQ(o.status, as_whole ? LK_OK : LK_CORRUPT);
                } else if (bytes >= l.frames[l.frame_count - 1].end) {
                    CHECK_EQ(o.records, l.record_count);
                } else if (bytes < l.frames[3].offset + LK_FRAME_HEADER_BYTES) {
                    /* No frame is left that knows of the sync. */
                    CHECK_EQ(o.status, LK_OK);
                    if (bytes + 8 <= durable) CHECK_EQ(o.records, l.frames[2].first);
                    if (bytes >= durable) CHECK_EQ(o.records, l.frames[3].first);
                } else {
                    CHECK_EQ(o.status, LK_OK);
                    CHECK(o.records >= l.frames[3].first);
                }
            }
            log_free(&l);
        }
    }
}

LK_TEST(a_mapped_log_cut_to_any_length_is_damage_or_a_tail) { truncate_everywhere(true); }
LK_TEST(a_written_log_cut_to_any_length_is_damage_or_a_tail) { truncate_everywhere(false); }

/* ---- power cuts ---- */

/* What was synced is there, the rest is a prefix, and no power cut looks like damage. */
static void cut_by_chance(bool mapped)
{
    uint64_t rng = lk_test_seed();
    for (int round = 0; round < 150; round++) {
        log l = log_new(mapped, 8192);
        uint32_t synced = 0;
        lk_error err;
        if (lk_test_below(&rng, 2) == 0) lk_sim_set_writeback(l.sim, 100);
        log_rotate(&l);
        uint64_t steps = 1 + lk_test_below(&rng, 80);
        for (uint64_t i = 0; i < steps; i++) {
            if (lk_test_below(&rng, 10) == 0) {
                log_sync(&l);
                synced = l.record_count;
                continue;
            }
            bool staged = lk_test_below(&rng, 3) == 0;
            if (log_try_batch(&l, 1 + (uint32_t)lk_test_below(&rng, 20), staged, &err) == LK_FULL) {
                log_rotate(&l);
            }
        }
        uint64_t seed = lk_test_rand(&rng);
        lk_sim_cut mode = (lk_sim_cut)lk_test_below(&rng, 3);
        log_reboot(&l, mode, seed);
        outcome o = recover(&l);
        CHECK_OK(o.status, &o.err);
        CHECK(o.records >= synced);
        if (mode == LK_SIM_KEEP_ALL) CHECK_EQ(o.records, l.record_count);
        bool at_frame = o.records == l.record_count;
        for (uint32_t i = 0; i < l.frame_count; i++) {
            at_frame = at_frame || l.frames[i].first == o.records;
        }
        CHECK(at_frame);
        check_cut(&l, o.records, recover(&l).lost);
        log_free(&l);
    }
}

LK_TEST(a_power_cut_never_looks_like_damage_to_a_mapped_log) { cut_by_chance(true); }
LK_TEST(a_power_cut_never_looks_like_damage_to_a_written_log) { cut_by_chance(false); }
