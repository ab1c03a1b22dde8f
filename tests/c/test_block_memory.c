/* Places for blocks do not overlap, are of the size asked for or a little more, and are used again,
 * so that memory stays near what is in use. */
#include "harness.h"

#include <stdatomic.h>
#include <sys/wait.h>

#include "block_memory.h"

enum { PLACES = 400 };

/* The address sanitizer's build leaves all to malloc. */
static void skip_if_plain(void)
{
    void *place = lk_block_memory_take(lk_block_memory_size(1000));
    size_t total = lk_block_memory_total();
    lk_block_memory_give(place, lk_block_memory_size(1000));
    if (total == 0) lk_test_skip("this build takes blocks from malloc");
}

typedef struct place {
    uint8_t *memory;
    size_t size;
    uint8_t mark;
} place;

static void place_take(place *p, size_t bytes, uint8_t mark)
{
    p->size = lk_block_memory_size(bytes);
    p->memory = lk_block_memory_take(p->size);
    p->mark = mark;
    CHECK(p->memory != NULL && p->size >= bytes);
    CHECK_EQ((uintptr_t)p->memory % 64, 0);
    memset(p->memory, mark, p->size);
}

static void place_give(place *p)
{
    for (size_t i = 0; i < p->size; i++) CHECK_EQ(p->memory[i], p->mark);
    lk_block_memory_give(p->memory, p->size);
    p->memory = NULL;
}

LK_TEST(test_size_is_little_more_than_asked_for)
{
    size_t before = 0;
    for (size_t bytes = 1; bytes < 300000; bytes += 1 + bytes / 100) {
        size_t size = lk_block_memory_size(bytes);
        CHECK(size >= bytes && size >= before && size % 64 == 0);
        CHECK(size <= 512 || size <= bytes + bytes / 16 + 64 || size <= bytes + 4095);
        CHECK_EQ(lk_block_memory_size(size), size);
        before = size;
    }
}

LK_TEST(test_places_do_not_overlap)
{
    uint64_t rng = lk_test_seed();
    place places[PLACES] = {{NULL, 0, 0}};
    for (int round = 0; round < 40000; round++) {
        place *p = &places[lk_test_below(&rng, PLACES)];
        if (p->memory != NULL) place_give(p);
        size_t bytes =
            lk_test_below(&rng, 10) == 0 ? lk_test_below(&rng, 300000) : lk_test_below(&rng, 6000);
        if (lk_test_below(&rng, 3) > 0) place_take(p, 1 + bytes, (uint8_t)round);
    }
    for (int i = 0; i < PLACES; i++) {
        if (places[i].memory != NULL) place_give(&places[i]);
    }
}

LK_TEST(test_memory_stays_near_what_is_in_use)
{
    skip_if_plain();
    enum { COUNT = 2000, BYTES_MIN = 15000, BYTES_SPAN = 4000 };
    uint64_t rng = lk_test_seed();
    place *places = calloc(COUNT, sizeof *places);
    size_t used = 0;
    for (int i = 0; i < COUNT; i++) {
        place_take(&places[i], BYTES_MIN + lk_test_below(&rng, BYTES_SPAN), 1);
        used += places[i].size;
    }
    for (int round = 0; round < 20000; round++) {
        place *p = &places[lk_test_below(&rng, COUNT)];
        used -= p->size;
        lk_block_memory_give(p->memory, p->size);
        place_take(p, BYTES_MIN + lk_test_below(&rng, BYTES_SPAN), 2);
        used += p->size;
        CHECK(lk_block_memory_total() < used + used / 8 + (4 << 20));
    }
    for (int i = 0; i < COUNT; i++) lk_block_memory_give(places[i].memory, places[i].size);
    free(places);
    CHECK(lk_block_memory_total() <= 2 << 20); /* one region is kept */
}

LK_TEST(test_large_block_goes_back_to_the_system)
{
    skip_if_plain();
    place p;
    size_t before = lk_block_memory_total();
    place_take(&p, 50 << 20, 3);
    CHECK(lk_block_memory_total() >= before + (50 << 20));
    place_give(&p);
    CHECK_EQ(lk_block_memory_total(), before);
}

static void *take_and_give(void *stop)
{
    while (!atomic_load((atomic_bool *)stop)) {
        lk_block_memory_give(lk_block_memory_take(4096), 4096);
    }
    return NULL;
}

LK_TEST(test_child_of_a_busy_process_has_memory_too)
{
    atomic_bool stop = false;
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, take_and_give, &stop), 0);
    int bad = 0;
    for (int i = 0; i < 200; i++) {
        pid_t child = fork();
        if (child == 0) {
            (void)alarm(20); /* ends a child that waits for ever */
            lk_block_memory_give(lk_block_memory_take(4096), 4096);
            _exit(0);
        }
        int status = 0;
        bad += waitpid(child, &status, 0) != child || status != 0;
    }
    atomic_store(&stop, true);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(bad, 0);
}
