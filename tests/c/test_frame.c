/* test_frame.c: frames and segment headers are read back as they were written, and nothing else is
 * taken for one.
 *
 * Method: a segment is written through segment.c; its bytes are then changed one bit at a time, moved,
 * cut off, and read.
 */
#include "harness.h"

#include "log_fixture.h"

static lk_segment_header header_example(void)
{
    return (lk_segment_header){.generation = 7,
                               .nonce = 0x1122334455667788u,
                               .base_seq = 1001,
                               .boot = 99,
                               .capacity = 65536,
                               .previous_end = 4096,
                               .previous_link = 0xABCDEF01u,
                               .marked = true};
}

LK_TEST(a_header_is_read_back)
{
    uint8_t bytes[LK_SEGMENT_HEADER_BYTES];
    lk_segment_header h = header_example(), back;
    lk_error err;
    uint32_t link = lk_segment_header_write(&h, bytes);
    CHECK(!lk_segment_header_is_blank(bytes));
    CHECK_OK(lk_segment_header_parse(bytes, "x.log", &back, &err), &err);
    CHECK_EQ(back.generation, h.generation);
    CHECK_EQ(back.nonce, h.nonce);
    CHECK_EQ(back.base_seq, h.base_seq);
    CHECK_EQ(back.boot, h.boot);
    CHECK_EQ(back.capacity, h.capacity);
    CHECK_EQ(back.previous_end, h.previous_end);
    CHECK_EQ(back.previous_link, h.previous_link);
    CHECK_EQ(back.link, link);
    CHECK(back.marked);
}

LK_TEST(each_bit_of_a_header_counts)
{
    uint8_t bytes[LK_SEGMENT_HEADER_BYTES];
    lk_segment_header h = header_example(), back;
    lk_error err;
    lk_segment_header_write(&h, bytes);
    for (uint32_t bit = 0; bit < 8 * sizeof bytes; bit++) {
        bytes[bit / 8] = (uint8_t)(bytes[bit / 8] ^ 1u << bit % 8);
        CHECK_EQ(lk_segment_header_parse(bytes, "x.log", &back, &err), LK_CORRUPT);
        CHECK_STR_EQ(err.path, "x.log");
        bytes[bit / 8] = (uint8_t)(bytes[bit / 8] ^ 1u << bit % 8);
    }
    CHECK_OK(lk_segment_header_parse(bytes, "x.log", &back, &err), &err);
}

/* Magic, version and checksum stand in the same places in all versions. */
LK_TEST(a_header_of_another_version_is_not_called_damaged)
{
    uint8_t bytes[LK_SEGMENT_HEADER_BYTES];
    lk_segment_header h = header_example(), back;
    lk_error err;
    for (uint32_t at = 4; at <= 6; at += 2) { /* the version, the flags */
        lk_segment_header_write(&h, bytes);
        lk_store16(bytes + at, 0x4002);
        lk_store64(bytes + 56, lk_hash_bytes(UINT64_C(0x6C6F675F68656164), 0, bytes, 56));
        CHECK_EQ(lk_segment_header_parse(bytes, "x.log", &back, &err), LK_UNSUPPORTED);
    }
    h.capacity = 10;
    lk_segment_header_write(&h, bytes);
    CHECK_EQ(lk_segment_header_parse(bytes, "x.log", &back, &err), LK_CORRUPT);
}

LK_TEST(a_boot_that_is_not_known_has_number_zero)
{
    lk_sim *sim = lk_sim_new(1);
    uint64_t first = lk_boot_number(lk_sim_env(sim));
    CHECK(first != 0 && first == lk_boot_number(lk_sim_env(sim)));
    lk_sim_power_cut(sim, LK_SIM_KEEP_ALL, 1);
    CHECK(lk_boot_number(lk_sim_env(sim)) != first);
    lk_sim_free(sim);
}

/* ---- frames ---- */

static log one_segment(void)
{
    log l = log_new(true, 16384);
    log_rotate(&l);
    log_put(&l, 0, 1);
    log_batch(&l, 3, false);
    log_put(&l, 9, 2);
    log_batch(&l, 40, true);
    log_sync(&l);
    log_put(&l, 0, 3);
    log_put(&l, 0, 4);
    return l;
}

LK_TEST(frames_are_read_back_with_their_places_and_links)
{
    log l = one_segment();
    const lk_segment *s = log_last(&l);
    uint32_t link = 0, synced = 0;
    for (uint32_t i = 0; i < l.frame_count; i++) {
        const log_frame *w = &l.frames[i];
        lk_frame f;
        if (i >= 4) synced = l.frames[3].end;
        CHECK_EQ(lk_frame_parse(s->base, s->capacity, s->nonce, w->offset, &f), LK_FRAME_WHOLE);
        CHECK_EQ(f.offset, w->offset);
        CHECK_EQ(f.offset + lk_frame_bytes(f.length), w->end);
        CHECK_EQ(f.ordinal, w->first);
        CHECK_EQ(f.records, w->records);
        CHECK_EQ(f.synced_upto, synced);
        if (i > 0) CHECK_EQ(f.link, link);
        link = f.own_hash;
        CHECK(lk_frame_header_parse(s->base, s->capacity, s->nonce, w->offset, &f));
    }
    CHECK_EQ(l.frames[4].offset % LK_PAGE_BYTES, 0); /* behind the sync */
    log_free(&l);
}

LK_TEST(each_bit_of_a_frame_counts_but_those_of_its_padding)
{
    log l = one_segment();
    const lk_segment *s = log_last(&l);
    uint8_t *copy = malloc(s->capacity);
    CHECK(copy != NULL);
    memcpy(copy, s->base, s->capacity);
    for (uint32_t i = 0; i < l.frame_count; i++) {
        lk_frame whole, f;
        uint32_t at = l.frames[i].offset;
        CHECK_EQ(lk_frame_parse(copy, s->capacity, s->nonce, at, &whole), LK_FRAME_WHOLE);
        uint32_t bytes = LK_FRAME_HEADER_BYTES + whole.length;
        for (uint32_t bit = 0; bit < 8 * bytes; bit++) {
            uint8_t *p = copy + at + bit / 8;
            *p = (uint8_t)(*p ^ 1u << bit % 8);
            lk_frame_state state = lk_frame_parse(copy, s->capacity, s->nonce, at, &f);
            CHECK_EQ(state, bit < 8 * LK_FRAME_HEADER_BYTES ? LK_FRAME_NONE : LK_FRAME_BROKEN);
            *p = (uint8_t)(*p ^ 1u << bit % 8);
        }
        for (uint32_t pad = at + bytes; pad < l.frames[i].end; pad++) {
            copy[pad] = 0xFF;
            CHECK_EQ(lk_frame_parse(copy, s->capacity, s->nonce, at, &f), LK_FRAME_WHOLE);
            copy[pad] = 0;
        }
    }
    free(copy);
    log_free(&l);
}

LK_TEST(a_frame_counts_in_its_place_and_in_its_life_of_the_file_alone)
{
    log l = one_segment();
    const lk_segment *s = log_last(&l);
    uint8_t *copy = calloc(2, s->capacity);
    lk_frame f;
    CHECK(copy != NULL);
    const log_frame *w = &l.frames[1];
    for (uint32_t to = 0; to < 4096; to += 8) {
        memset(copy, 0, s->capacity);
        memcpy(copy + to, s->base + w->offset, w->end - w->offset);
        CHECK_EQ(lk_frame_parse(copy, s->capacity, s->nonce, to, &f),
                 to == w->offset ? LK_FRAME_WHOLE : LK_FRAME_NONE);
    }
    CHECK_EQ(lk_frame_parse(s->base, s->capacity, s->nonce + 1, w->offset, &f), LK_FRAME_NONE);
    free(copy);
    log_free(&l);
}

LK_TEST(no_frame_reaches_over_the_end)
{
    log l = one_segment();
    const lk_segment *s = log_last(&l);
    const log_frame *w = &l.frames[1];
    lk_frame f;
    lk_frame_header_parse(s->base, s->capacity, s->nonce, w->offset, &f);
    uint32_t end = w->offset + LK_FRAME_HEADER_BYTES + f.length;
    /* A copy of exactly that length, so that a sanitizer sees what is read behind it. */
    for (uint32_t cut = 0; cut <= end; cut++) {
        uint8_t *copy = malloc(cut + 1);
        CHECK(copy != NULL);
        memcpy(copy, s->base, cut);
        uint8_t *exact = realloc(copy, cut > 0 ? cut : 1);
        lk_frame_state state = lk_frame_parse(exact, cut, s->nonce, w->offset, &f);
        CHECK_EQ(state, cut < end ? LK_FRAME_NONE : LK_FRAME_WHOLE);
        free(exact);
    }
    CHECK_EQ(lk_frame_parse(s->base, s->capacity, s->nonce, s->capacity, &f), LK_FRAME_NONE);
    CHECK_EQ(lk_frame_parse(s->base, s->capacity, s->nonce, UINT32_MAX - 7, &f), LK_FRAME_NONE);
    log_free(&l);
}

/* Makes the checksums of a frame right again after its body was changed. */
static void reseal(uint8_t *base, uint64_t nonce, uint32_t offset, uint64_t sum)
{
    uint8_t *p = base + offset;
    uint32_t body = lk_frame_body_hash(sum);
    lk_store32(p + 16, body);
    lk_store32(p + 20, lk_frame_header_hash(lk_frame_seed(nonce, offset), lk_load64(p),
                                            lk_load64(p + 8), body));
}

/* Whatever a header or a record says, nothing outside the body is read. */
LK_TEST(lengths_that_lie_break_a_frame)
{
    log l = log_new(true, 4096);
    lk_segment *s = log_rotate(&l);
    log_put(&l, 7, 1);
    uint32_t at = l.frames[0].offset, body = at + LK_FRAME_HEADER_BYTES;
    uint64_t head = lk_load64(s->base + body);
    lk_frame f;
    static const uint64_t LIES[] = {
        0,                   /* kind 0 */
        0xFFFFFFFFFFFFFFFFu, /* everything */
        0xFFFFFFFF00010000u, /* a value of 4 GiB */
        0x000000000001FFFFu, /* a key longer than the body */
        0x0000000102010000u, /* a flag that nobody knows */
        0x0000000100030000u, /* a kind that nobody knows */
        0x8000000100010000u, /* a value over the bound */
    };
    for (size_t i = 0; i < sizeof LIES / sizeof *LIES; i++) {
        lk_store64(s->base + body, LIES[i]);
        reseal(s->base, s->nonce, at, 0);
        CHECK_EQ(lk_frame_parse(s->base, s->capacity, s->nonce, at, &f), LK_FRAME_BROKEN);
    }
    lk_store64(s->base + body, head);
    /* Tree 0, said in full. */
    lk_store32(s->base + body + LK_RECORD_HEADER_BYTES, 0);
    lk_record r = lk_record_at(s->base + body);
    uint64_t sum = lk_record_hash(&r, lk_hash_key(r.tree, r.key, r.key_len), s->nonce, body);
    reseal(s->base, s->nonce, at, sum);
    CHECK_EQ(lk_frame_parse(s->base, s->capacity, s->nonce, at, &f), LK_FRAME_BROKEN);
    lk_store32(s->base + body + LK_RECORD_HEADER_BYTES, 7);
    r = lk_record_at(s->base + body);
    sum = lk_record_hash(&r, lk_hash_key(r.tree, r.key, r.key_len), s->nonce, body);
    reseal(s->base, s->nonce, at, sum);
    CHECK_EQ(lk_frame_parse(s->base, s->capacity, s->nonce, at, &f), LK_FRAME_WHOLE);
    /* Bodies that are too short for their last record, down to none at all. */
    uint32_t length = lk_load32(s->base + at);
    for (uint32_t n = 0; n < length; n++) {
        lk_store32(s->base + at, n);
        reseal(s->base, s->nonce, at, 0);
        CHECK(lk_frame_parse(s->base, s->capacity, s->nonce, at, &f) != LK_FRAME_WHOLE);
    }
    /* Nobody knows that bytes behind his own place are durable. */
    lk_store32(s->base + at, length);
    for (uint32_t synced = 0; synced < 64; synced++) {
        lk_store32(s->base + at + 8, synced);
        reseal(s->base, s->nonce, at, 0);
        lk_frame_state state = lk_frame_parse(s->base, s->capacity, s->nonce, at, &f);
        CHECK_EQ(state, synced * 8 <= at ? LK_FRAME_BROKEN : LK_FRAME_NONE);
    }
    log_free(&l);
}

LK_TEST(random_bytes_are_no_frames)
{
    uint64_t rng = lk_test_seed();
    uint8_t *bytes = malloc(1 << 20);
    lk_frame f;
    uint32_t found = 0;
    CHECK(bytes != NULL);
    lk_test_fill(&rng, bytes, 1 << 20);
    for (uint32_t at = 0; at < 1 << 20; at += 8) {
        found += lk_frame_parse(bytes, 1 << 20, 1, at, &f) != LK_FRAME_NONE;
    }
    CHECK_EQ(found, 0);
    free(bytes);
}

LK_TEST(verify_proves_every_frame_and_names_the_broken_one)
{
    log l = one_segment();
    const lk_segment *s = log_last(&l);
    lk_error err;
    uint64_t bytes, all = 0;
    CHECK_OK(lk_segment_verify(s, s->count, &bytes, &err), &err);
    for (uint32_t i = 0; i < l.frame_count; i++) all += l.frames[i].end - l.frames[i].offset;
    CHECK_EQ(bytes, all);
    CHECK_OK(lk_segment_verify(s, 0, &bytes, &err), &err);
    CHECK_EQ(bytes, 0);
    for (uint32_t i = 0; i < l.frame_count; i++) {
        uint8_t *p = s->base + l.frames[i].offset + LK_FRAME_HEADER_BYTES + 9;
        *p ^= 4;
        CHECK_EQ(lk_segment_verify(s, s->count, NULL, &err), LK_CORRUPT);
        CHECK_EQ(err.offset, l.frames[i].offset);
        CHECK_STR_EQ(err.path, lk_file_path(s->file));
        CHECK_OK(lk_segment_verify(s, l.frames[i].first, NULL, &err), &err);
        *p ^= 4;
    }
    log_free(&l);
}
