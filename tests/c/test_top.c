/* test_top.c: the keys with the highest counts are kept, exactly, and all others have no more than `rest`.
 *
 * Method: random counts, and random records of segments, against an array of counts.
 */
#include "harness.h"

#include "hot.h"
#include "store_fixture.h"

enum { KEYS = 3000 };

static void key_of(unsigned k, char *out) { (void)snprintf(out, 16, "key%u", k); }

/* Skewed: small numbers come most often. */
static unsigned draw(uint64_t *rng, unsigned n)
{
    unsigned bound = 1 + (unsigned)(lk_test_rand(rng) % n);
    bound = 1 + (unsigned)(lk_test_rand(rng) % bound);
    return (unsigned)(lk_test_rand(rng) % bound);
}

static void check_top(const lk_top *top, const uint64_t *counts)
{
    bool is_kept[KEYS] = {false};
    uint64_t least = UINT64_MAX, total = 0;
    for (uint32_t i = 0; i < top->count; i++) {
        unsigned k = (unsigned)strtoul((const char *)top->keys[i].key + 3, NULL, 10);
        CHECK(k < KEYS && !is_kept[k]);
        is_kept[k] = true;
        CHECK_EQ(top->keys[i].count, counts[k]);
        if (counts[k] < least) least = counts[k];
    }
    for (unsigned k = 0; k < KEYS; k++) {
        total += counts[k];
        if (!is_kept[k]) CHECK(counts[k] <= top->rest);
    }
    CHECK_EQ(top->total, total);
    CHECK(top->count <= LK_TOP_KEYS_MAX);
    if (top->count == LK_TOP_KEYS_MAX) CHECK(top->rest <= least);
}

LK_TEST(keys_that_come_one_by_one)
{
    uint64_t rng = lk_test_seed();
    for (unsigned some = 1; some <= KEYS; some = 2 * some + 1) {
        uint64_t counts[KEYS] = {0};
        lk_top *top = lk_top_new(0);
        for (unsigned k = 0; k < some; k++) {
            char key[16];
            key_of(k, key);
            counts[k] = 1 + draw(&rng, 1000);
            lk_top_add(top, (const uint8_t *)key, (uint32_t)strlen(key) + 1, counts[k]);
            check_top(top, counts);
        }
        lk_top_free_list(top);
    }
}

/* ---- of a store ---- */

static void check_hot(lk_store *s, const uint64_t *counts, size_t n)
{
    lk_error err;
    lk_hot_key *keys;
    size_t found;
    uint64_t total, sum = 0, distinct = 0;
    for (unsigned k = 0; k < KEYS; k++) {
        sum += counts[k];
        distinct += counts[k] > 0;
    }
    CHECK_OK(lk_store_hot_keys(s, 0, n, &keys, &found, &total, &err), &err);
    CHECK_EQ(total, sum);
    CHECK(found == n || found <= distinct);
    bool is_there[KEYS] = {false};
    uint64_t most = 0;
    for (size_t i = 0; i < found; i++) {
        char text[16] = "";
        memcpy(text, keys[i].key, keys[i].key_len);
        unsigned k = (unsigned)strtoul(text + 3, NULL, 10);
        CHECK(k < KEYS && !is_there[k]);
        is_there[k] = true;
        CHECK(keys[i].count >= counts[k] && keys[i].count - keys[i].error <= counts[k]);
        if (i > 0) CHECK(keys[i].count <= keys[i - 1].count);
        if (keys[i].error > most) most = keys[i].error;
    }
    /* What is not there is no heavier than what is, but for the errors. */
    for (unsigned k = 0; k < KEYS && found > 0; k++) {
        if (!is_there[k]) CHECK(counts[k] <= keys[found - 1].count + most);
    }
    lk_hot_keys_free(keys, found);
}

static void run(bool mapped, unsigned spread)
{
    uint64_t rng = lk_test_seed(), counts[KEYS] = {0};
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(mapped, 65536);
    lk_store *s = store_open(sim, &o);
    check_hot(s, counts, 10);
    for (unsigned i = 0; i < 6000; i++) {
        char key[16];
        unsigned k = spread == 0 ? draw(&rng, KEYS) : (unsigned)(lk_test_rand(&rng) % spread);
        key_of(k, key);
        store_put(s, 0, key, i % 7 == 0 ? NULL : "v");
        counts[k]++;
        if (i % 100 == 0) store_put(s, LK_TREE_POSITIONS, key, "12345678");
        if (i % 2000 == 999) store_flush(s);
        if (i % 500 == 0) check_hot(s, counts, 1 + i % 150);
    }
    check_hot(s, counts, 20);
    store_flush(s);
    check_hot(s, counts, 20);
    check_hot(s, counts, 0);
    store_close(s);
    lk_sim_free(sim);
}

LK_TEST(hot_keys_are_within_their_bounds)
{
    run(true, 0);
    run(false, 0);
    run(true, 50);   /* all are kept: no error */
    run(true, KEYS); /* all alike: none is hot */
}

LK_TEST(what_was_long_ago_is_forgotten)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 4096);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    lk_hot_key *keys;
    size_t found;
    uint64_t total;
    char key[16];
    for (unsigned i = 0; i < 100; i++) store_put(s, 0, "once", "v");
    for (unsigned i = 0; i < 2000; i++) {
        key_of(i % 10, key);
        store_put(s, 0, key, "v");
        if (i % 100 == 0) store_flush(s);
    }
    store_flush(s);
    CHECK_OK(lk_store_hot_keys(s, 0, 50, &keys, &found, &total, &err), &err);
    CHECK_EQ(found, 10);
    CHECK(total >= 100 && total < 2000);
    for (size_t i = 0; i < found; i++) CHECK(keys[i].count * 5 < total && keys[i].error == 0);
    lk_hot_keys_free(keys, found);
    store_close(s);
    lk_sim_free(sim);
}
