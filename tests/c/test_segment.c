/* test_segment.c: what is appended to a segment is found at once, stands in its file as its backing
 * promises, and what cannot be appended changes nothing.
 *
 * Method: segments on a simulated machine in both backings; log_fixture.h knows what was written.
 */
#include "harness.h"

#include <errno.h>

#include "log_fixture.h"

/* Bytes of the file of a segment that is still open, as another process reads them. */
static uint8_t *file_bytes(const log *l, const lk_segment *s)
{
    size_t bytes;
    uint8_t *data = log_read_file(l->env, s->generation, &bytes);
    CHECK_EQ(bytes, lk_align_up(s->capacity, LK_PAGE_BYTES) + LK_PAGE_BYTES);
    return data;
}

static uint64_t mark_of(const lk_segment *s, const uint8_t *file)
{
    return lk_load64(file + lk_align_up(s->capacity, LK_PAGE_BYTES)) - s->nonce;
}

static void check_file(const log *l, const lk_segment *s)
{
    uint8_t *file = file_bytes(l, s);
    lk_segment_header h;
    lk_error err;
    CHECK_OK(lk_segment_header_parse(file, "", &h, &err), &err);
    CHECK_EQ(h.generation, s->generation);
    CHECK_EQ(h.base_seq, s->base_seq);
    CHECK_EQ(h.marked, s->mapped);
    CHECK_MEM_EQ(file, s->base, s->tail);
    free(file);
}

static void both_backings(void (*run)(bool mapped))
{
    run(true);
    run(false);
}

/* ---- appending and finding ---- */

static void frames_by(bool mapped)
{
    uint64_t rng = lk_test_seed();
    lk_error err;
    log l = log_new(mapped, 65536);
    lk_segment *s = log_rotate(&l);
    for (;;) {
        uint32_t n = 1 + (uint32_t)lk_test_below(&rng, 40);
        bool staged = lk_test_below(&rng, 3) == 0;
        lk_status st;
        if (mapped && lk_test_below(&rng, 2) == 0) {
            uint32_t key = (uint32_t)lk_test_below(&rng, 30);
            lk_kind kind = lk_test_below(&rng, 4) == 0 ? LK_KIND_DELETE : LK_KIND_PUT;
            st = log_try_put(&l, (uint32_t)lk_test_below(&rng, 3), kind, key);
        } else {
            st = log_try_batch(&l, n, staged, &err);
        }
        if (st == LK_FULL) break;
        CHECK_EQ(st, LK_OK);
        CHECK_EQ(atomic_load(&s->published), l.record_count);
        if (lk_test_below(&rng, 20) == 0) log_sync(&l);
        if (lk_test_below(&rng, 20) == 0) log_check_segment(&l, s);
    }
    CHECK(l.record_count > 300);
    log_check_segment(&l, s);
    check_file(&l, s);
    CHECK_OK(lk_segment_verify(s, s->count, NULL, &err), &err);
    log_free(&l);
}

LK_TEST(all_that_was_appended_is_found_and_stands_in_the_file) { both_backings(frames_by); }

LK_TEST(records_of_many_trees_do_not_mix)
{
    log l = log_new(true, 65536);
    lk_segment *s = log_rotate(&l);
    static const uint32_t TREES[] = {0, 1, 2, 255, 65536, LK_TREE_MAX - 1};
    for (uint32_t round = 0; round < 5; round++) {
        for (size_t t = 0; t < 6; t++) log_put(&l, TREES[t], 5);
    }
    for (size_t t = 0; t < 6; t++) {
        lk_record r;
        uint32_t ordinal;
        uint64_t hash = lk_hash_key(TREES[t], (const uint8_t *)"key00005", 8);
        CHECK(lk_segment_find(s, TREES[t], (const uint8_t *)"key00005", 8, hash, s->count, &r,
                              &ordinal));
        CHECK_EQ(ordinal, 24 + t);
        CHECK_EQ(r.tree, TREES[t]);
    }
    lk_record r;
    uint32_t ordinal;
    CHECK(!lk_segment_find(s, 3, (const uint8_t *)"key00005", 8,
                           lk_hash_key(3, (const uint8_t *)"key00005", 8), s->count, &r, &ordinal));
    log_free(&l);
}

/* Two keys whose hashes have the same upper half: the chain is theirs together. */
LK_TEST(keys_with_the_same_tag_are_told_apart)
{
    log l = log_new(true, 65536);
    lk_segment *s = log_rotate(&l);
    lk_error err;
    lk_record r;
    uint32_t ordinal;
    const uint64_t hash = 0xABCD000000000000u;
    for (uint8_t i = 0; i < 40; i++) {
        uint8_t key = (uint8_t)('a' + i % 3);
        CHECK_OK(lk_segment_put(s, 0, LK_KIND_PUT, &key, 1, &i, 1, hash, &err), &err);
        /* Those that wait for their entry and those that are linked answer alike. */
        for (uint8_t k = 0; k < 3 && k <= i; k++) {
            key = (uint8_t)('a' + k);
            CHECK(lk_segment_find(s, 0, &key, 1, hash, s->count, &r, &ordinal));
            CHECK_EQ(*r.key, key);
            CHECK_EQ(ordinal, i - (i - k) % 3);
            CHECK_EQ(*r.value, ordinal);
        }
    }
    uint8_t other = 'd';
    CHECK(!lk_segment_find(s, 0, &other, 1, hash, s->count, &r, &ordinal));
    log_free(&l);
}

LK_TEST(a_reader_sees_the_ordinals_that_its_sequence_allows)
{
    log l = log_new(true, 65536);
    lk_segment *s = log_rotate(&l);
    for (uint32_t i = 0; i < 5; i++) log_put(&l, 0, 1);
    CHECK_EQ(lk_segment_visible(s, 0), 0);
    CHECK_EQ(lk_segment_visible(s, 1), 1);
    CHECK_EQ(lk_segment_visible(s, 4), 4);
    CHECK_EQ(lk_segment_visible(s, 5), 5);
    CHECK_EQ(lk_segment_visible(s, 6), 5);
    CHECK_EQ(lk_segment_visible(s, UINT64_MAX - 1), 5);
    CHECK_EQ(lk_segment_visible(s, UINT64_MAX), 5);
    log_free(&l);
}

LK_TEST(empty_keys_and_values_are_records_too)
{
    log l = log_new(true, 4096);
    lk_segment *s = log_rotate(&l);
    lk_error err;
    lk_record r;
    uint32_t ordinal;
    uint64_t hash = lk_hash_key(0, NULL, 0);
    CHECK_OK(lk_segment_put(s, 0, LK_KIND_PUT, NULL, 0, NULL, 0, hash, &err), &err);
    CHECK(lk_segment_find(s, 0, NULL, 0, hash, 1, &r, &ordinal));
    CHECK(r.key_len == 0 && r.value_len == 0 && r.kind == LK_KIND_PUT);
    CHECK_OK(lk_segment_verify(s, 1, NULL, &err), &err);
    log_free(&l);
}

/* The index begins far too small, and grows under a reader's nose. */
LK_TEST(chains_live_through_growth_of_the_index)
{
    log l = log_new(true, 1 << 20);
    lk_segment_plan plan = log_plan(&l);
    lk_segment *s;
    lk_error err;
    plan.expected = 1;
    CHECK_OK(lk_segment_prepare(&plan, NULL, &s, &err), &err);
    log_activate(&l, s);
    size_t before = lk_index_memory(&s->index);
    for (uint32_t i = 0; i < 3000; i++) log_put(&l, i % 2, i % 500);
    CHECK(lk_index_memory(&s->index) > before);
    log_check_segment(&l, s);
    log_batch(&l, 2000, false);
    log_check_segment(&l, s);
    log_free(&l);
}

/* ---- what does not fit ---- */

static void full_by(bool mapped)
{
    lk_error err;
    log l = log_new(mapped, 8192);
    lk_segment *s = log_rotate(&l);
    while (s->capacity - s->position > 400) log_batch(&l, 3, false);
    lk_segment before = *s;
    uint8_t *to;
    uint64_t left = s->capacity - s->position;
    CHECK_EQ(lk_segment_begin(s, left - LK_FRAME_HEADER_BYTES + 1, 1, false, &to, &err), LK_FULL);
    CHECK_EQ(s->position, before.position);
    CHECK_EQ(s->count, before.count);
    CHECK_EQ(s->link, before.link);
    check_file(&l, s);

    /* A smaller frame still goes in, to the last byte. */
    uint32_t value = (uint32_t)(left - LK_FRAME_HEADER_BYTES - LK_RECORD_HEADER_BYTES - 1);
    uint8_t *bytes = calloc(1, value);
    CHECK(bytes != NULL);
    CHECK_OK(lk_segment_begin(s, value + 9, 1, false, &to, &err), &err);
    lk_record_write(to, 0, LK_KIND_PUT, (const uint8_t *)"k", 1, bytes, value);
    CHECK_OK(lk_segment_commit(s, value + 9, 1, false, &err), &err);
    CHECK_EQ(s->position, s->capacity);
    CHECK_EQ(lk_segment_begin(s, 8, 1, false, &to, &err), LK_FULL);
    if (mapped) {
        CHECK_EQ(lk_segment_put(s, 0, LK_KIND_DELETE, NULL, 0, NULL, 0, 1, &err), LK_FULL);
    }
    CHECK_OK(lk_segment_verify(s, s->count, NULL, &err), &err);
    free(bytes);
    log_free(&l);
}

LK_TEST(a_frame_that_does_not_fit_changes_nothing) { both_backings(full_by); }

LK_TEST(without_memory_for_the_index_nothing_is_appended)
{
    log l = log_new(true, 65536);
    lk_segment_plan plan = log_plan(&l);
    lk_segment *s;
    lk_error err;
    plan.expected = 1;
    CHECK_OK(lk_segment_prepare(&plan, NULL, &s, &err), &err);
    log_activate(&l, s);
    CHECK(lk_sim_fail(l.sim, LK_SIM_MAP_ANONYMOUS, 1, ENOMEM, true));
    while (log_try_put(&l, 0, LK_KIND_PUT, l.record_count) == LK_OK) {
    }
    CHECK(l.record_count > 30 && l.record_count < 60);
    CHECK_EQ(log_try_batch(&l, 100, false, &err), LK_NOMEM);
    log_check_segment(&l, s);
    lk_sim_clear_faults(l.sim);
    log_put(&l, 0, 1);
    log_batch(&l, 100, false);
    log_check_segment(&l, s);
    log_free(&l);
}

/* ---- what goes by pwrite, and the mark ---- */

LK_TEST(staged_frames_go_into_the_mapped_file_by_one_write)
{
    log l = log_new(true, 65536);
    lk_segment *s = log_rotate(&l);
    log_put(&l, 0, 1);
    uint64_t before = lk_sim_calls_of(l.sim, LK_SIM_WRITE);
    log_put(&l, 0, 2);
    log_batch(&l, 5, false);
    CHECK_EQ(lk_sim_calls_of(l.sim, LK_SIM_WRITE), before);
    log_batch(&l, 5, true);
    CHECK_EQ(lk_sim_calls_of(l.sim, LK_SIM_WRITE), before + 1);
    log_check_segment(&l, s);
    check_file(&l, s);
    log_free(&l);
}

LK_TEST(the_mark_is_the_end_of_the_last_frame_that_was_stored)
{
    log l = log_new(true, 8000); /* the mark stands on a page of its own */
    lk_segment *s = log_rotate(&l);
    for (int i = 0; i < 12; i++) {
        bool staged = i % 4 >= 2;
        if (i % 4 == 0) {
            log_put(&l, 0, 1);
        } else {
            log_batch(&l, 2, staged);
        }
        uint8_t *file = file_bytes(&l, s);
        CHECK_EQ(mark_of(s, file), staged ? LK_MARK_NONE : s->tail);
        free(file);
    }
    log_free(&l);
    l = log_new(true, 8192);
    s = log_rotate(&l);
    uint8_t *file = file_bytes(&l, s);
    CHECK_EQ(mark_of(s, file), LK_SEGMENT_HEADER_BYTES);
    free(file);
    log_free(&l);
}

/* A process killed between two pages of a pwrite leaves no header without its body. */
LK_TEST(the_page_with_the_header_is_written_last)
{
    lk_error err;
    for (uint32_t records = 1; records < 400; records += 13) {
        log l = log_new(false, 65536);
        log_rotate(&l);
        log_batch(&l, 90, false);
        uint32_t position = log_last(&l)->position;
        lk_sim_trace(l.sim, true);
        log_batch(&l, records, false);
        char *trace = lk_sim_trace_take(l.sim);
        unsigned long long at, n;
        CHECK(sscanf(trace, "write /s/000001.log %llu+%llu", &at, &n) == 2);
        const char *next = strchr(trace, '\n') + 1;
        if (at == position) {
            CHECK(*next == 0); /* at one go: no page behind that of the header's end */
            CHECK((position + LK_FRAME_HEADER_BYTES - 1) / 4096 == (position + n - 1) / 4096);
        } else {
            unsigned long long first, first_n;
            CHECK(sscanf(next, "write /s/000001.log %llu+%llu", &first, &first_n) == 2);
            CHECK(first == position && first + first_n == at && at % 4096 == 0);
            CHECK(first_n >= LK_FRAME_HEADER_BYTES);
        }
        free(trace);
        CHECK_OK(lk_segment_verify(log_last(&l), log_last(&l)->count, NULL, &err), &err);
        log_free(&l);
    }
}

/* A header that itself lies on two pages. */
LK_TEST(a_header_over_a_page_boundary_is_whole_in_the_last_write)
{
    lk_error err;
    for (uint32_t gap = 8; gap < 32; gap += 8) { /* bytes of the page that are left */
        log l = log_new(false, 32768);
        lk_segment *s = log_rotate(&l);
        s->position = s->tail = LK_PAGE_BYTES - gap;
        lk_sim_trace(l.sim, true);
        log_batch(&l, 300, false);
        char *trace = lk_sim_trace_take(l.sim);
        unsigned long long first, n;
        CHECK(sscanf(strchr(trace, '\n') + 1, "write /s/000001.log %llu+%llu", &first, &n) == 2);
        CHECK_EQ(first, LK_PAGE_BYTES - gap);
        CHECK_EQ(first + n, gap < LK_FRAME_HEADER_BYTES ? 2 * LK_PAGE_BYTES : LK_PAGE_BYTES);
        lk_frame f;
        CHECK_EQ(lk_frame_parse(s->base, s->capacity, s->nonce, (uint32_t)first, &f),
                 LK_FRAME_WHOLE);
        CHECK_OK(lk_file_datasync(s->file, &err), &err);
        free(trace);
        log_free(&l);
    }
}

LK_TEST(a_write_that_fails_is_wholly_out)
{
    lk_error err;
    for (int mapped = 0; mapped < 2; mapped++) {
        for (size_t kept = 0; kept < 200; kept += 8) {
            log l = log_new(mapped != 0, 65536);
            lk_segment *s = log_rotate(&l);
            log_batch(&l, 3, true);
            CHECK(lk_sim_short(l.sim, 1, kept, EIO));
            CHECK_EQ(log_try_batch(&l, 4, true, &err), LK_IO);
            CHECK_EQ(err.sys_errno, EIO);
            CHECK_EQ(atomic_load(&s->published), 3);
            log_check_segment(&l, s);
            uint8_t *file = file_bytes(&l, s);
            lk_frame f;
            CHECK_EQ(lk_frame_parse(file, s->capacity, s->nonce, s->position, &f), LK_FRAME_NONE);
            free(file);
            uint64_t lost;
            log_kill(&l);
            CHECK_EQ(log_recover_all(&l, &lost), 3);
            log_free(&l);
        }
    }
}

/* ---- the life of a file ---- */

LK_TEST(a_prepared_segment_has_its_blocks_and_no_header)
{
    lk_error err;
    for (int fill = 0; fill < 2; fill++) {
        log l = log_new(true, 65536);
        lk_segment_plan plan = log_plan(&l);
        lk_segment *s;
        plan.fill = fill != 0;
        uint64_t used = lk_sim_used_bytes(l.sim);
        CHECK_OK(lk_segment_prepare(&plan, NULL, &s, &err), &err);
        CHECK_EQ(lk_sim_used_bytes(l.sim), used + 65536 + 4096);
        CHECK_EQ(lk_sim_calls_of(l.sim, LK_SIM_DATASYNC), fill);
        uint8_t *file = file_bytes(&l, s);
        CHECK(lk_segment_header_is_blank(file));
        free(file);
        size_t unused = lk_segment_memory(s);
        CHECK(unused < 65536); /* nothing of the mapping was touched */
        atomic_store(&s->populated, 40000);
        CHECK_EQ(lk_segment_memory(s) - unused, 40000 - LK_SEGMENT_HEADER_BYTES);
        lk_segment_unref(s);
        log_free(&l);
    }
}

LK_TEST(what_a_full_disk_left_half_made_is_removed)
{
    static const lk_sim_op OPS[] = {LK_SIM_OPEN,          LK_SIM_ALLOCATE, LK_SIM_MAP,
                                    LK_SIM_MAP_ANONYMOUS, LK_SIM_WRITE,    LK_SIM_DATASYNC};
    lk_error err;
    for (size_t i = 0; i < sizeof OPS / sizeof *OPS; i++) {
        log l = log_new(true, 65536);
        lk_segment_plan plan = log_plan(&l);
        lk_segment *s;
        plan.fill = true;
        uint64_t used = lk_sim_used_bytes(l.sim);
        CHECK(lk_sim_fail(l.sim, OPS[i], 1, ENOSPC, false));
        CHECK(lk_segment_prepare(&plan, NULL, &s, &err) != LK_OK);
        CHECK(s == NULL && !log_file_exists(l.env, plan.generation));
        CHECK_EQ(lk_sim_used_bytes(l.sim), used);
        CHECK_OK(lk_segment_prepare(&plan, NULL, &s, &err), &err);
        lk_segment_unref(s);
        log_free(&l);
    }
}

static void recycle_by(bool mapped)
{
    lk_error err;
    log l = log_new(mapped, 16384);
    lk_segment *s = log_rotate(&l);
    lk_order *order;
    log_batch(&l, 100, false);
    CHECK_OK(lk_segment_order(s, 100, true, &order, &err), &err);
    lk_order_unref(order);
    uint64_t nonce = s->nonce;
    uint8_t *base = s->base;

    l.count = 0; /* retired: it is given on */
    lk_segment_plan plan = log_plan(&l);
    lk_segment *again;
    uint64_t allocated = lk_sim_calls_of(l.sim, LK_SIM_ALLOCATE);
    CHECK_OK(lk_segment_prepare(&plan, s, &again, &err), &err);
    CHECK_EQ(lk_sim_calls_of(l.sim, LK_SIM_ALLOCATE), allocated);
    CHECK(again->base == base && again->nonce != nonce && again->generation == 2);
    CHECK_STR_EQ(lk_file_path(again->file), "/s/000002.log");
    CHECK(!log_file_exists(l.env, 1) && log_file_exists(l.env, 2));
    uint8_t *file = file_bytes(&l, again);
    CHECK(lk_segment_header_is_blank(file));
    free(file);
    CHECK_EQ(atomic_load(&again->published), 0);
    CHECK_EQ(lk_segment_visible(again, UINT64_MAX), 0);

    l.record_count = l.frame_count = 0;
    log_activate(&l, again);
    log_batch(&l, 10, false);
    log_check_segment(&l, again);
    check_file(&l, again);
    /* The old frames behind the new ones are no frames any more. */
    lk_frame f;
    for (uint32_t at = again->position; at < again->capacity; at += 8) {
        CHECK_EQ(lk_frame_parse(again->base, again->capacity, again->nonce, at, &f), LK_FRAME_NONE);
    }
    uint64_t lost;
    log_kill(&l);
    CHECK_EQ(log_recover_all(&l, &lost), 10);
    log_free(&l);
}

LK_TEST(a_recycled_file_forgets_its_earlier_life) { both_backings(recycle_by); }

LK_TEST(memory_counts_what_was_touched_until_it_is_evicted)
{
    lk_error err;
    log l = log_new(true, 65536);
    lk_segment *s = log_rotate(&l);
    lk_order *order;
    size_t before = lk_segment_memory(s) - lk_index_memory(&s->index);
    log_batch(&l, 100, false);
    size_t written = lk_segment_memory(s) - lk_index_memory(&s->index);
    uint64_t padding = 8; /* of the frame, at most */
    uint64_t least = s->tail - LK_SEGMENT_HEADER_BYTES - padding + 100 * sizeof(lk_entry);
    CHECK(written - before >= least && written - before <= least + padding);
    CHECK_OK(lk_segment_order(s, 100, true, &order, &err), &err);
    size_t ordered = lk_segment_memory(s);
    CHECK(ordered - lk_index_memory(&s->index) >= written + 100 * sizeof(lk_order_item));
    lk_order_unref(order);
    lk_segment_evict(s);
    CHECK_EQ(ordered - lk_segment_memory(s), written - 100 * sizeof(lk_entry));
    check_file(&l, s);
    log_check_segment(&l, s); /* what is evicted can still be read */
    log_free(&l);
}

LK_TEST(a_recycling_that_fails_gives_everything_back)
{
    static const lk_sim_op OPS[] = {LK_SIM_WRITE, LK_SIM_RENAME, LK_SIM_PROTECT,
                                    LK_SIM_MAP_ANONYMOUS};
    lk_error err;
    for (size_t i = 0; i < sizeof OPS / sizeof *OPS; i++) {
        log l = log_new(true, 16384);
        lk_segment *s = log_rotate(&l), *out;
        log_batch(&l, 100, false);
        l.count = 0;
        lk_segment_plan plan = log_plan(&l);
        plan.expected = 100000; /* the index needs a larger table */
        CHECK(lk_sim_fail(l.sim, OPS[i], 1, EIO, false));
        CHECK(lk_segment_prepare(&plan, s, &out, &err) != LK_OK);
        CHECK(out == NULL && !log_file_exists(l.env, 2));
        log_free(&l);
    }
}

LK_TEST(references_keep_a_segment)
{
    log l = log_new(true, 16384);
    lk_segment *s = log_rotate(&l);
    log_batch(&l, 10, false);
    lk_segment_ref(s);
    log_end(&l);
    log_check_segment(&l, s);
    lk_segment_unref(s);
    lk_segment_unref(NULL);
    log_free(&l);
}
