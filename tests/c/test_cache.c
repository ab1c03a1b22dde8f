/* Blocks are read once, kept within the capacity, evicted by CLOCK, and never freed under a reader
 * that holds a reference. (Threads: test_thread_cache.c.) */
#include "harness.h"

#include "block_write.h"
#include "cache.h"
#include "hash.h"

enum { SLOTS = 1000, VALUE_BYTES = 4000 };

typedef struct source {
    uint64_t loads;
    size_t value_bytes;
    lk_status fail;
} source;

/* A block with the one row "k" -> index, index, index, ... */
static lk_status make_block(void *context, uint32_t index, lk_block **out, lk_error *err)
{
    source *s = context;
    s->loads++;
    *out = NULL;
    if (s->fail != LK_OK) {
        return lk_fail(err, s->fail, 0, "x.sst", index, 0, 0, "block %u is bad", index);
    }
    uint8_t *value = malloc(s->value_bytes);
    for (size_t i = 0; i < s->value_bytes; i++) value[i] = (uint8_t)index;
    lk_row row = {.key = (const uint8_t *)"k",
                  .key_len = 1,
                  .value = value,
                  .value_len = (uint32_t)s->value_bytes,
                  .seq = index + 1,
                  .kind = LK_KIND_PUT};
    lk_block_writer w;
    lk_block_source at = {.path = "x.sst", .nonce = 1};
    lk_block_image image;
    CHECK_OK(lk_block_writer_init(&w, LK_CODEC_NONE, err), err);
    CHECK_OK(lk_block_writer_add(&w, &row, false, err), err);
    uint8_t *bytes = malloc(lk_block_writer_bound(&w));
    size_t n = lk_block_writer_finish(&w, at.nonce, at.offset, bytes);
    CHECK_OK(lk_block_parse(bytes, n, &at, &image, err), err);
    lk_status st = lk_block_decode(&image, &at, out, err);
    lk_block_writer_deinit(&w);
    free(bytes);
    free(value);
    return st;
}

typedef struct fixture {
    lk_guard guard;
    lk_cache *cache;
    lk_cache_slot *slots;
    source source;
} fixture;

static fixture *fixture_new(uint64_t capacity)
{
    fixture *f = aligned_alloc(64, lk_align_up(sizeof *f, 64));
    lk_error err;
    memset(f, 0, sizeof *f);
    lk_guard_init(&f->guard);
    CHECK_OK(lk_cache_new(capacity, &f->guard, &f->cache, &err), &err);
    f->slots = calloc(SLOTS, sizeof *f->slots);
    f->source.value_bytes = VALUE_BYTES;
    return f;
}

static void fixture_free(fixture *f)
{
    lk_cache_drop(f->cache, f->slots, SLOTS);
    lk_cache_stats stats;
    lk_cache_stats_of(f->cache, &stats);
    CHECK_EQ(stats.used_bytes, stats.limbo_bytes);
    lk_cache_free(f->cache);
    lk_guard_deinit(&f->guard);
    free(f->slots);
    free(f);
}

static void get_and_check(fixture *f, uint32_t index)
{
    lk_block *b;
    lk_error err;
    CHECK_OK(lk_cache_get(f->cache, f->slots, index, make_block, &f->source, &b, &err), &err);
    CHECK_EQ(lk_block_seq(b, 0), index + 1);
    CHECK_EQ(lk_block_value(b, 0).data[0], (uint8_t)index);
    lk_block_unref(b);
}

static uint32_t resident(const fixture *f)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < SLOTS; i++) n += atomic_load(&f->slots[i].block) != NULL;
    return n;
}

LK_TEST(test_block_is_loaded_once)
{
    fixture *f = fixture_new(8 << 20);
    for (int round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < 100; i++) get_and_check(f, i);
    }
    CHECK_EQ(f->source.loads, 100);
    CHECK_EQ(resident(f), 100);
    lk_cache_stats stats;
    lk_cache_stats_of(f->cache, &stats);
    CHECK_EQ(stats.fills, 100);
    CHECK_EQ(stats.evictions, 0);
    CHECK_EQ(stats.capacity_bytes, 8 << 20);
    fixture_free(f);
}

LK_TEST(test_memory_stays_within_the_capacity)
{
    static const uint64_t CAPACITIES[] = {20000, 300000, 1 << 20, 9 << 20};
    uint64_t rng = lk_test_seed();
    for (size_t c = 0; c < 4; c++) {
        fixture *f = fixture_new(CAPACITIES[c]);
        for (int i = 0; i < 5000; i++) {
            f->source.value_bytes = 100 + lk_test_below(&rng, 9000);
            get_and_check(f, (uint32_t)lk_test_below(&rng, SLOTS));
            lk_cache_stats stats;
            lk_cache_stats_of(f->cache, &stats);
            CHECK(stats.used_bytes <= stats.capacity_bytes);
        }
        CHECK(resident(f) > 0);
        CHECK(f->source.loads > SLOTS / 2);
        fixture_free(f);
    }
}

LK_TEST(test_blocks_in_use_outlive_those_used_once)
{
    fixture *f = fixture_new(1 << 20); /* one shard, room for some 250 blocks */
    for (uint32_t hot = 0; hot < 10; hot++) get_and_check(f, hot);
    for (uint32_t i = 0; i < 900; i++) {
        get_and_check(f, 10 + i);
        for (uint32_t hot = 0; hot < 10; hot++) get_and_check(f, hot);
    }
    CHECK(f->source.loads <= 900 + 10);
    lk_cache_stats stats;
    lk_cache_stats_of(f->cache, &stats);
    CHECK(stats.evictions > 500);
    fixture_free(f);
}

LK_TEST(test_pass_over_a_table_leaves_the_reference_bit)
{
    fixture *f = fixture_new(1 << 20);
    get_and_check(f, 3);
    lk_block *b = lk_cache_peek(f->cache, f->slots, 3);
    CHECK(b != NULL);
    CHECK_EQ(atomic_load(&b->recent), 0);
    lk_cache_touch(b);
    CHECK_EQ(atomic_load(&b->recent), 1);
    lk_block_unref(b);
    CHECK(lk_cache_peek(f->cache, f->slots, 4) == NULL);
    fixture_free(f);
}

LK_TEST(test_block_with_no_room_is_handed_out_but_not_kept)
{
    fixture *f = fixture_new(1 << 20);
    get_and_check(f, 1);
    f->source.value_bytes = 2 << 20;
    get_and_check(f, 2);
    get_and_check(f, 2);
    CHECK_EQ(f->source.loads, 3);
    CHECK(atomic_load(&f->slots[2].block) == NULL);
    CHECK(atomic_load(&f->slots[1].block) != NULL);
    fixture_free(f);
}

LK_TEST(test_failed_load_is_told_and_may_be_tried_again)
{
    fixture *f = fixture_new(1 << 20);
    lk_block *b;
    lk_error err;
    f->source.fail = LK_CORRUPT;
    CHECK_EQ(lk_cache_get(f->cache, f->slots, 9, make_block, &f->source, &b, &err), LK_CORRUPT);
    CHECK(b == NULL);
    CHECK_EQ(err.offset, 9);
    CHECK_STR_EQ(err.path, "x.sst");
    f->source.fail = LK_OK;
    get_and_check(f, 9);
    fixture_free(f);
}

LK_TEST(test_fixed_memory_takes_room_from_blocks_but_not_all)
{
    fixture *f = fixture_new(1 << 20);
    lk_cache_stats stats;
    for (uint32_t i = 0; i < 300; i++) get_and_check(f, i);
    lk_cache_fix(f->cache, 600 << 10);
    lk_cache_stats_of(f->cache, &stats);
    CHECK_EQ(stats.fixed_bytes, 600 << 10);
    CHECK(stats.used_bytes + stats.fixed_bytes <= stats.capacity_bytes);
    lk_cache_fix(f->cache, 9 << 20);
    for (uint32_t i = 0; i < 300; i++) get_and_check(f, i);
    lk_cache_stats_of(f->cache, &stats);
    CHECK(stats.used_bytes > 100000 && stats.used_bytes <= stats.capacity_bytes / 8);
    lk_cache_fix(f->cache, -(9 << 20) - (600 << 10));
    for (uint32_t i = 0; i < 200; i++) get_and_check(f, i);
    lk_cache_stats_of(f->cache, &stats);
    CHECK(stats.used_bytes > 700000);
    fixture_free(f);
}

LK_TEST(test_pressure_takes_room_from_blocks_until_it_ends)
{
    fixture *f = fixture_new(1 << 20);
    lk_cache_stats stats;
    for (uint32_t i = 0; i < 300; i++) get_and_check(f, i);
    lk_cache_press(f->cache, 700 << 10);
    lk_cache_stats_of(f->cache, &stats);
    CHECK(stats.used_bytes <= 324 << 10);
    CHECK_EQ(stats.capacity_bytes, 1 << 20);
    lk_cache_press(f->cache, 9 << 20);
    for (uint32_t i = 0; i < 300; i++) get_and_check(f, i);
    lk_cache_stats_of(f->cache, &stats);
    CHECK(stats.used_bytes > 100000 && stats.used_bytes <= stats.capacity_bytes / 8);
    lk_cache_press(f->cache, 0);
    for (uint32_t i = 0; i < 200; i++) get_and_check(f, i);
    lk_cache_stats_of(f->cache, &stats);
    CHECK(stats.used_bytes > 700000);
    fixture_free(f);
}

LK_TEST(test_reference_outlives_eviction_and_drop)
{
    fixture *f = fixture_new(100000);
    lk_block *b;
    lk_error err;
    CHECK_OK(lk_cache_get(f->cache, f->slots, 5, make_block, &f->source, &b, &err), &err);
    for (uint32_t i = 10; i < 500; i++) get_and_check(f, i);
    CHECK(atomic_load(&f->slots[5].block) == NULL);
    CHECK_EQ(lk_block_value(b, 0).data[VALUE_BYTES - 1], 5);
    fixture_free(f);
    CHECK_EQ(lk_block_value(b, 0).data[0], 5);
    lk_block_unref(b);
}
