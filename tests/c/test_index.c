/* test_index.c: the hash index of a segment finds what was put in, in order of age, however full it
 * is and while it grows.
 *
 * Method: a plain list of (tag, location) is the model; heads and chains are compared with it.
 */
#include "harness.h"

#include <errno.h>

#include "env_sim.h"
#include "index.h"

enum { RECORDS_MAX = 20000 };

typedef struct fixture {
    lk_sim *sim;
    lk_index index;
    uint32_t tags[RECORDS_MAX];
    uint32_t count;
} fixture;

static fixture *fixture_new(uint32_t expected)
{
    fixture *f = calloc(1, sizeof *f);
    lk_error err;
    CHECK(f != NULL);
    f->sim = lk_sim_new(lk_test_seed());
    CHECK(f->sim != NULL);
    CHECK_OK(lk_index_init(&f->index, lk_sim_env(f->sim), expected, RECORDS_MAX, &err), &err);
    return f;
}

static void fixture_free(fixture *f)
{
    lk_index_deinit(&f->index);
    lk_sim_free(f->sim);
    free(f);
}

static uint32_t location_of(uint32_t ordinal) { return 1000 + ordinal * 8; }

static void add(fixture *f, uint32_t tag)
{
    lk_error err;
    CHECK_OK(lk_index_reserve(&f->index, 1, &err), &err);
    lk_index_prefetch(&f->index, tag);
    lk_index_add(&f->index, tag, f->count, location_of(f->count));
    f->tags[f->count++] = tag;
}

/* The chain of a tag is every record with it, newest first, with the places that were given. */
static void check_tag(const fixture *f, uint32_t tag)
{
    uint32_t at = lk_index_head(&f->index, tag);
    for (uint32_t i = f->count; i-- > 0;) {
        if (f->tags[i] != tag) continue;
        CHECK_EQ(at, i + 1);
        CHECK_EQ(f->index.entries[i].location, location_of(i));
        at = f->index.entries[i].previous;
    }
    CHECK_EQ(at, 0);
}

static void check_all(const fixture *f)
{
    for (uint32_t i = 0; i < f->count; i++) {
        uint32_t at = lk_index_head(&f->index, f->tags[i]);
        CHECK(at >= i + 1 && f->tags[at - 1] == f->tags[i]);
    }
    for (uint32_t i = 0; i < f->count; i += 1 + f->count / 97) check_tag(f, f->tags[i]);
}

LK_TEST(an_empty_index_finds_nothing)
{
    fixture *f = fixture_new(0);
    CHECK_EQ(lk_index_head(&f->index, 0), 0);
    CHECK_EQ(lk_index_head(&f->index, UINT32_MAX), 0);
    fixture_free(f);
}

LK_TEST(records_of_one_tag_are_chained_newest_first)
{
    fixture *f = fixture_new(16);
    for (uint32_t i = 0; i < 300; i++) add(f, i % 3 == 0 ? 77 : 0x80000000u + i);
    check_tag(f, 77);
    check_all(f);
    fixture_free(f);
}

LK_TEST(tags_zero_and_all_ones_are_tags_like_others)
{
    fixture *f = fixture_new(16);
    add(f, 0);
    add(f, UINT32_MAX);
    add(f, 0);
    check_tag(f, 0);
    check_tag(f, UINT32_MAX);
    CHECK_EQ(lk_index_head(&f->index, 1), 0);
    fixture_free(f);
}

/* Neighbouring tags have the same home slot, and the last slots of the table go on at the first. */
LK_TEST(collisions_wrap_around_the_end_of_the_table)
{
    fixture *f = fixture_new(16);
    for (uint32_t i = 0; i < 30; i++) add(f, UINT32_MAX - i);
    for (uint32_t i = 0; i < 5; i++) add(f, i);
    for (uint32_t i = 0; i < 30; i++) check_tag(f, UINT32_MAX - i);
    for (uint32_t i = 0; i < 5; i++) check_tag(f, i);
    CHECK_EQ(lk_index_head(&f->index, 0x12345678), 0);
    fixture_free(f);
}

LK_TEST(growth_keeps_every_chain)
{
    uint64_t rng = lk_test_seed();
    fixture *f = fixture_new(1);
    const lk_index_table *first = atomic_load(&f->index.table);
    for (uint32_t i = 0; i < RECORDS_MAX; i++) {
        /* Half of the records have a tag of their own, the rest one of a few hundred. */
        uint32_t tag = (uint32_t)lk_test_rand(&rng);
        add(f, lk_test_below(&rng, 2) == 0 ? tag : (uint32_t)lk_test_below(&rng, 300) << 22);
        if (i % 1999 == 0) check_all(f);
    }
    check_all(f);
    CHECK(atomic_load(&f->index.table) != first);
    const lk_index_table *now = atomic_load(&f->index.table);
    CHECK(f->index.used <= f->index.grow_at && f->index.grow_at < now->mask + 1);
    fixture_free(f);
}

/* A reader that took the table before it grew still finds what it may see. */
LK_TEST(tables_that_grew_too_small_stay_for_their_readers)
{
    fixture *f = fixture_new(1);
    for (uint32_t i = 0; i < 40; i++) add(f, i << 24);
    lk_index_table *old = atomic_load(&f->index.table);
    size_t memory = lk_index_memory(&f->index);
    for (uint32_t i = 40; i < 400; i++) add(f, i << 23 | 1);
    CHECK(atomic_load(&f->index.table) != old);
    CHECK(lk_index_memory(&f->index) > memory);
    lk_index reader = f->index;
    atomic_store(&reader.table, old);
    for (uint32_t i = 0; i < 40; i++) CHECK_EQ(lk_index_head(&reader, i << 24), i + 1);
    fixture_free(f);
}

LK_TEST(room_is_made_for_all_records_of_a_batch_at_once)
{
    fixture *f = fixture_new(1);
    lk_error err;
    CHECK_OK(lk_index_reserve(&f->index, 5000, &err), &err);
    const lk_index_table *table = atomic_load(&f->index.table);
    for (uint32_t i = 0; i < 5000; i++) add(f, i * 2654435761u);
    CHECK(atomic_load(&f->index.table) == table);
    check_all(f);
    fixture_free(f);
}

LK_TEST(records_may_be_placed_first_and_linked_later)
{
    fixture *f = fixture_new(64);
    for (uint32_t i = 0; i < 8; i++) {
        lk_index_place(&f->index, i, location_of(i));
        CHECK_EQ(lk_index_head(&f->index, 5), 0);
    }
    for (uint32_t i = 0; i < 8; i++) {
        lk_index_link(&f->index, 5, i);
        f->tags[f->count++] = 5;
        check_tag(f, 5);
    }
    fixture_free(f);
}

LK_TEST(a_cleared_index_is_empty_and_has_the_size_that_is_wanted)
{
    fixture *f = fixture_new(1);
    lk_error err;
    for (uint32_t i = 0; i < 10000; i++) add(f, i * 2654435761u);
    size_t full = lk_index_memory(&f->index);
    static const uint32_t WANTED[] = {10000, 8000, 10, 20000, 1};
    for (size_t i = 0; i < sizeof WANTED / sizeof *WANTED; i++) {
        CHECK_OK(lk_index_clear(&f->index, WANTED[i], &err), &err);
        for (uint32_t k = 0; k < 10000; k += 7) {
            CHECK_EQ(lk_index_head(&f->index, k * 2654435761u), 0);
        }
        const lk_index_table *t = atomic_load(&f->index.table);
        CHECK(t->older == NULL);
        CHECK((uint64_t)t->mask + 1 >= WANTED[i]);
        if (WANTED[i] <= 10) CHECK(lk_index_memory(&f->index) < full / 10);
        f->count = 0;
        for (uint32_t k = 0; k < 500; k++) add(f, k << 22);
        check_all(f);
    }
    fixture_free(f);
}

LK_TEST(without_memory_growth_fails_and_what_was_there_stays)
{
    fixture *f = fixture_new(1);
    lk_error err;
    for (uint32_t i = 0; f->index.used < f->index.grow_at; i++) add(f, i << 23);
    CHECK(lk_sim_fail(f->sim, LK_SIM_MAP_ANONYMOUS, 1, ENOMEM, false));
    CHECK_EQ(lk_index_reserve(&f->index, 1, &err), LK_NOMEM);
    check_all(f);
    add(f, 0x7654321);
    check_all(f);

    CHECK(lk_sim_fail(f->sim, LK_SIM_MAP_ANONYMOUS, 1, ENOMEM, true));
    lk_index none;
    CHECK_EQ(lk_index_init(&none, lk_sim_env(f->sim), 100, 100, &err), LK_NOMEM);
    lk_index_deinit(&none);
    fixture_free(f);
}
