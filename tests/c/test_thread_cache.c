/* Many threads on one small cache: readers follow slots inside guard sections while blocks are
 * loaded, evicted and freed around them; a block is loaded by one of those that want it. */
#include "harness.h"

#include <sched.h>

#include "block_write.h"
#include "cache.h"
#include "lock.h"

enum { SLOTS = 64, VALUE_BYTES = 3000, THREADS = 4, ROUNDS = 3000 };

typedef struct shared {
    lk_guard guard;
    lk_cache *cache;
    lk_cache_slot slots[SLOTS];
    atomic_uint loading[SLOTS]; /* threads inside the loader, each slot at most one */
    atomic_uint loads;
    atomic_bool is_slow, does_fail, go;
    lk_event never;
} shared;

static lk_block *encode_block(uint32_t index)
{
    lk_error err;
    uint8_t value[VALUE_BYTES];
    memset(value, (int)index, sizeof value);
    lk_row row = {.key = (const uint8_t *)"k",
                  .key_len = 1,
                  .value = value,
                  .value_len = sizeof value,
                  .seq = index + 1,
                  .kind = LK_KIND_PUT};
    lk_block_writer w;
    lk_block_source at = {.path = "x.sst", .nonce = 1};
    lk_block_image image;
    lk_block *out;
    CHECK_OK(lk_block_writer_init(&w, LK_CODEC_NONE, &err), &err);
    CHECK_OK(lk_block_writer_add(&w, &row, false, &err), &err);
    uint8_t *bytes = malloc(lk_block_writer_bound(&w));
    size_t n = lk_block_writer_finish(&w, at.nonce, at.offset, bytes);
    CHECK_OK(lk_block_parse(bytes, n, &at, &image, &err), &err);
    CHECK_OK(lk_block_decode(&image, &at, &out, &err), &err);
    lk_block_writer_deinit(&w);
    free(bytes);
    return out;
}

static lk_status load(void *context, uint32_t index, lk_block **out, lk_error *err)
{
    shared *s = context;
    CHECK_EQ(atomic_fetch_add(&s->loading[index], 1), 0);
    atomic_fetch_add(&s->loads, 1);
    if (atomic_load(&s->is_slow)) {
        (void)lk_event_wait_ns(&s->never, lk_event_generation(&s->never), 50000000);
    }
    *out = NULL;
    lk_status st = LK_OK;
    if (atomic_load(&s->does_fail)) {
        st = lk_fail(err, LK_IO, 5, "x.sst", index, 0, 0, "cannot read");
    } else {
        *out = encode_block(index);
    }
    atomic_fetch_sub(&s->loading[index], 1);
    return st;
}

static shared *shared_new(uint64_t capacity)
{
    lk_error err;
    shared *s = aligned_alloc(64, lk_align_up(sizeof *s, 64));
    memset(s, 0, sizeof *s);
    lk_guard_init(&s->guard);
    lk_event_init(&s->never);
    CHECK_OK(lk_cache_new(capacity, &s->guard, &s->cache, &err), &err);
    return s;
}

static void shared_free(shared *s)
{
    lk_cache_drop(s->cache, s->slots, SLOTS);
    lk_cache_free(s->cache);
    lk_event_deinit(&s->never);
    lk_guard_deinit(&s->guard);
    free(s);
}

static void check_block(const lk_block *b, uint32_t index)
{
    lk_bytes value = lk_block_value(b, 0);
    CHECK_EQ(lk_block_seq(b, 0), index + 1);
    CHECK_EQ(value.data[0], index);
    CHECK_EQ(value.data[value.len - 1], index);
}

static void *read_and_fill(void *arg)
{
    shared *s = arg;
    uint64_t rng = lk_test_seed() ^ (uint64_t)(uintptr_t)&rng;
    lk_error err;
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t index = (uint32_t)lk_test_below(&rng, SLOTS);
        unsigned token = lk_guard_enter(&s->guard);
        lk_block *b = atomic_load_explicit(&s->slots[index].block, memory_order_acquire);
        if (b != NULL) {
            if (i % 4 == 0) lk_cache_touch(b);
            check_block(b, index);
            if (i % 16 == 0) (void)sched_yield(); /* time for others to evict it */
            check_block(b, index);
        }
        lk_guard_exit(&s->guard, token);
        if (b != NULL) continue;
        CHECK_OK(lk_cache_get(s->cache, s->slots, index, load, s, &b, &err), &err);
        check_block(b, index);
        lk_block_unref(b);
    }
    return NULL;
}

static void run_threads(void *(*run)(void *), shared *s)
{
    pthread_t threads[THREADS];
    lk_error err;
    for (int i = 0; i < THREADS; i++) {
        CHECK_OK(lk_thread_start(run, s, &threads[i], "test", &err), &err);
    }
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

LK_TEST(test_readers_never_see_a_block_that_was_freed)
{
    shared *s = shared_new(SLOTS * VALUE_BYTES / 3); /* a third fits: eviction goes on always */
    run_threads(read_and_fill, s);
    lk_cache_stats stats;
    lk_cache_stats_of(s->cache, &stats);
    CHECK(stats.evictions > 100);
    CHECK(stats.used_bytes <= stats.capacity_bytes);
    shared_free(s);
}

static void *get_seven(void *arg)
{
    shared *s = arg;
    lk_block *b;
    lk_error err = {.code = LK_OK};
    while (!atomic_load(&s->go)) lk_pause();
    lk_status st = lk_cache_get(s->cache, s->slots, 7, load, s, &b, &err);
    if (atomic_load(&s->does_fail)) {
        CHECK_EQ(st, LK_IO);
        CHECK_EQ(err.offset, 7);
        CHECK_EQ(err.sys_errno, 5);
        CHECK(b == NULL);
    } else {
        CHECK_OK(st, &err);
        check_block(b, 7);
    }
    lk_block_unref(b);
    return NULL;
}

static void *start_all(void *arg)
{
    shared *s = arg;
    atomic_store(&s->go, true);
    return get_seven(arg);
}

LK_TEST(test_those_who_want_a_block_share_one_load)
{
    shared *s = shared_new(1 << 20);
    atomic_store(&s->is_slow, true);
    run_threads(start_all, s);
    CHECK_EQ(atomic_load(&s->loads), 1);
    shared_free(s);
}

LK_TEST(test_those_who_wait_get_the_error_of_the_load)
{
    shared *s = shared_new(1 << 20);
    atomic_store(&s->is_slow, true);
    atomic_store(&s->does_fail, true);
    run_threads(start_all, s);
    CHECK(atomic_load(&s->loads) >= 1);
    atomic_store(&s->does_fail, false);
    run_threads(start_all, s);
    shared_free(s);
}

static void *fix_and_unfix(void *arg)
{
    shared *s = arg;
    for (int i = 0; i < ROUNDS / 10; i++) {
        lk_cache_fix(s->cache, 30000);
        lk_cache_fix(s->cache, -30000);
    }
    return read_and_fill(arg);
}

LK_TEST(test_fixed_memory_changes_under_load)
{
    shared *s = shared_new(SLOTS * VALUE_BYTES / 2);
    run_threads(fix_and_unfix, s);
    lk_cache_stats stats;
    lk_cache_stats_of(s->cache, &stats);
    CHECK_EQ(stats.fixed_bytes, 0);
    CHECK(stats.used_bytes <= stats.capacity_bytes);
    shared_free(s);
}
