/* test_log_dump.c: a log as text: what stands in it, what is broken, and how frames, syncs and the mark
 * come about.
 *
 * Method: golden texts. The machine has a fixed seed, and what is printed holds no chance.
 */
#include "harness.h"

#include <errno.h>

#include "golden.h"
#include "log_fixture.h"

static void dump(const log *l, uint64_t generation, bool records, golden_text *text)
{
    char path[LK_PATH_MAX];
    lk_error err;
    lk_segment_path(LOG_DIR, generation, path, sizeof path);
    CHECK_OK(lk_log_dump(l->env, path, records, golden_print, text, &err), &err);
}

/* Two segments with everything that a log can hold. */
static log everything(void)
{
    log l = log_new(true, 16384);
    lk_error err;
    log_rotate(&l);
    log_put(&l, 0, 1);
    log_put(&l, 7, 2);
    CHECK_EQ(log_try_put(&l, 0, LK_KIND_DELETE, 1), LK_OK);
    log_batch(&l, 6, true);
    log_sync(&l);
    log_batch(&l, 2, true);
    lk_segment *s = log_rotate(&l);
    log_put(&l, 0, 3);
    static const uint8_t ODD[] = "\0\x01\"\\ quoted \xff and far too long to be shown as a whole";
    uint64_t hash = lk_hash_key(3, ODD, sizeof ODD - 1);
    CHECK_OK(lk_segment_put(s, 3, LK_KIND_PUT, ODD, sizeof ODD - 1, ODD, 4, hash, &err), &err);
    l.record_count++;
    log_put(&l, 0, 4);
    log_put(&l, 0, 5);
    return l;
}

LK_TEST(the_text_of_a_log_is_as_it_was)
{
    log l = everything();
    golden_text text = {NULL, 0};
    dump(&l, 1, true, &text);
    golden_add(&text, "");
    dump(&l, 2, true, &text);
    golden_add(&text, "");
    golden_add(&text, "# without records");
    dump(&l, 1, false, &text);
    golden_add(&text, "");
    golden_add(&text, "# a body was changed, and the header of another frame");
    log_flip(l.env, 2, LK_SEGMENT_HEADER_BYTES + LK_FRAME_HEADER_BYTES + 10, 0);
    log_flip(l.env, 2, l.frames[l.frame_count - 2].offset, 0);
    dump(&l, 2, false, &text);
    golden_check("log.txt", &text);
    free(text.text);
    log_free(&l);
}

static void count_line(void *context, const char *line)
{
    CHECK(strlen(line) < 512);
    *(uint32_t *)context += 1;
}

/* Whatever bytes a file has, its text comes to an end, or an error does. */
LK_TEST(no_file_makes_the_dump_fail_otherwise_than_by_an_error)
{
    uint64_t rng = lk_test_seed();
    log l = everything();
    lk_error err;
    log_kill(&l);
    size_t bytes;
    uint8_t *file = log_read_file(l.env, 1, &bytes);
    for (int i = 0; i < 3000; i++) {
        uint8_t noise[16];
        uint64_t at = lk_test_below(&rng, i % 2 == 0 ? 600 : bytes - sizeof noise);
        size_t n = 1 + lk_test_below(&rng, sizeof noise);
        lk_test_fill(&rng, noise, n);
        log_write_file(l.env, 1, at, noise, n);
        uint32_t lines = 0;
        lk_status st = lk_log_dump(l.env, "/s/000001.log", true, count_line, &lines, &err);
        CHECK(st == LK_OK ? lines >= 1 : (st == LK_CORRUPT || st == LK_UNSUPPORTED));
        if (i % 3 != 2) log_write_file(l.env, 1, 0, file, bytes);
    }
    log_write_file(l.env, 1, 0, file, bytes);
    free(file);
    for (uint64_t size = bytes; size-- > 0; size -= size > 300 ? 200 : 0) {
        uint32_t lines = 0;
        log_truncate(l.env, 1, size);
        lk_status st = lk_log_dump(l.env, "/s/000001.log", true, count_line, &lines, &err);
        CHECK_EQ(st, size < LK_SEGMENT_HEADER_BYTES ? LK_CORRUPT : LK_OK);
    }
    CHECK(lk_sim_fail(l.sim, LK_SIM_READ, 1, EIO, false));
    uint32_t lines = 0;
    CHECK_EQ(lk_log_dump(l.env, "/s/000002.log", true, count_line, &lines, &err), LK_IO);
    CHECK_EQ(lk_log_dump(l.env, "/s/000009.log", true, count_line, &lines, &err), LK_NOT_FOUND);
    log_free(&l);
}
