/* test_refresh.c: a store that is only read moves on beside its owner, whatever fails meanwhile; and
 * what the owner keeps for it.
 *
 * Owner and reader stand on one simulated machine; their locks meet there as those of two processes
 * do. Every call of a refresh is made to fail in turn.
 */
#include "harness.h"

#include "store_fixture.h"

#include <errno.h>

#include "readers.h"

static lk_store *reader_open(lk_sim *sim, const lk_store_options *options)
{
    lk_store_options o = *options;
    o.read_only = true;
    return store_open(sim, &o);
}

static lk_status refresh(lk_store *s, bool *out_moved, lk_error *err)
{
    lk_status st = lk_store_enter(s, err);
    if (st != LK_OK) return st;
    st = lk_store_refresh(s, out_moved, err);
    lk_store_leave(s);
    return st;
}

static bool refreshed(lk_store *s)
{
    lk_error err;
    bool moved;
    CHECK_OK(refresh(s, &moved, &err), &err);
    return moved;
}

static void put_round(lk_store *s, unsigned round)
{
    char key[32], value[64];
    for (unsigned i = 0; i < 20; i++) {
        (void)snprintf(key, sizeof key, "key%03u", i);
        (void)snprintf(value, sizeof value, "value %u of round %u", i, round);
        store_put(s, 0, key, value);
    }
}

static void check_round(lk_store *s, unsigned round)
{
    char key[32], value[64];
    for (unsigned i = 0; i < 20; i++) {
        (void)snprintf(key, sizeof key, "key%03u", i);
        (void)snprintf(value, sizeof value, "value %u of round %u", i, round);
        store_check(s, 0, key, value);
    }
}

static bool has_file(lk_sim *sim, const char *name)
{
    char path[256];
    bool exists;
    lk_error err;
    (void)snprintf(path, sizeof path, "%s/%s", STORE_DIR, name);
    CHECK_OK(lk_env_exists(lk_sim_env(sim), path, &exists, NULL, &err), &err);
    return exists;
}

static size_t readers_registered(lk_sim *sim)
{
    lk_names names = {0};
    lk_error err;
    size_t n = 0;
    lk_status st = lk_env_list(lk_sim_env(sim), STORE_DIR "/readers", &names, &err);
    if (st == LK_NOT_FOUND) return 0;
    CHECK_OK(st, &err);
    for (size_t i = 0; i < names.count; i++) n += strstr(names.names[i], ".lock") != NULL;
    lk_names_free(&names);
    return n;
}

LK_TEST(a_reader_moves_through_log_flushes_and_compactions)
{
    for (int mapped = 0; mapped < 2; mapped++) {
        lk_sim *sim = lk_sim_new(lk_test_seed());
        lk_store_options o = store_options(mapped != 0, 8192);
        lk_store *s = store_open(sim, &o);
        lk_status st;
        put_round(s, 0);
        lk_store *r = reader_open(sim, &o);
        CHECK(!refreshed(r));
        CHECK(!lk_store_is_behind(r));
        for (unsigned round = 1; round < 60; round++) {
            put_round(s, round);
            if (round % 5 == 0) store_flush(s);
            if (round % 20 == 0) (void)store_compact(s, 0, &st);
            CHECK(lk_store_is_behind(r));
            check_round(r, round - 1);
            CHECK(refreshed(r));
            check_round(r, round);
            CHECK(!refreshed(r));
        }
        store_close(s);
        (void)refreshed(r);
        check_round(r, 59);
        store_close(r);
        lk_sim_free(sim);
    }
}

LK_TEST(a_reader_goes_from_owner_to_owner)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 8192);
    lk_store *s = store_open(sim, &o);
    put_round(s, 0);
    lk_store *r = reader_open(sim, &o);
    for (unsigned round = 1; round < 20; round++) {
        store_close(s);
        s = store_open(sim, &o);
        put_round(s, round);
        CHECK(refreshed(r));
        check_round(r, round);
    }
    store_close(s);
    store_close(r);
    lk_sim_free(sim);
}

/* An edit that sets what is set already, or a flush, is no news. */
LK_TEST(a_reader_has_moved_only_if_there_is_more)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 8192);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    put_round(s, 0);
    lk_store *r = reader_open(sim, &o);
    CHECK_OK(lk_store_set_property(s, "colour", "blue", &err), &err);
    CHECK(refreshed(r));
    CHECK_OK(lk_store_set_property(s, "colour", "blue", &err), &err);
    CHECK(!refreshed(r));
    store_flush(s);
    CHECK(!refreshed(r));
    check_round(r, 0);
    store_close(s);
    store_close(r);
    lk_sim_free(sim);
}

/* The n-th call of a kind fails while a reader moves over a flush and new segments: it says so and is
 * where it was, and then moves on. False when there are not so many calls. */
static bool fail_once(lk_sim_op op, uint64_t n)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(false, 4096);
    lk_error err;
    bool moved;
    lk_store *s = store_open(sim, &o);
    put_round(s, 0);
    store_flush(s);
    put_round(s, 1);
    lk_store *r = reader_open(sim, &o);
    (void)refreshed(r);
    check_round(r, 1); /* blocks are in memory, so that looking makes no call */
    put_round(s, 2);
    store_flush(s);
    put_round(s, 3);
    uint64_t before = lk_sim_calls_of(sim, op);
    CHECK(lk_sim_fail(sim, op, n, EIO, false));
    lk_status st = refresh(r, &moved, &err);
    bool reached = lk_sim_calls_of(sim, op) >= before + n;
    lk_sim_clear_faults(sim);
    if (st != LK_OK) {
        CHECK(!moved);
        check_round(r, 1);
    } else {
        CHECK(moved);
        check_round(r, 3);
    }
    (void)refreshed(r);
    check_round(r, 3);
    store_close(r);
    store_close(s);
    lk_sim_free(sim);
    return reached;
}

LK_TEST(any_call_of_a_refresh_may_fail)
{
    static const lk_sim_op OPS[] = {LK_SIM_OPEN, LK_SIM_READ,  LK_SIM_SIZE, LK_SIM_MAP_ANONYMOUS,
                                    LK_SIM_LIST, LK_SIM_WRITE, LK_SIM_ANY};
    for (size_t i = 0; i < sizeof OPS / sizeof *OPS; i++) {
        uint64_t n = 1;
        while (n < 200 && fail_once(OPS[i], n)) n++;
        CHECK(n > 1 && n < 200);
    }
}

/* Whatever a reader fails to do when it registers, it reads; and then it holds its tables open. */
LK_TEST(a_reader_that_cannot_register_reads_what_the_owner_deletes)
{
    static const lk_sim_op OPS[] = {LK_SIM_MKDIR, LK_SIM_LOCK};
    for (size_t i = 0; i < sizeof OPS / sizeof *OPS; i++) {
        lk_sim *sim = lk_sim_new(lk_test_seed());
        lk_store_options o = store_options(true, 8192);
        lk_store *s = store_open(sim, &o);
        lk_status st;
        for (unsigned round = 0; round < 3; round++) {
            put_round(s, round);
            store_flush(s);
        }
        CHECK(lk_sim_fail_on(sim, OPS[i], "readers", 1, EROFS, true));
        lk_store *r = reader_open(sim, &o);
        lk_sim_clear_faults(sim);
        CHECK(!lk_store_is_registered(r));
        CHECK_EQ(readers_registered(sim), 0);
        CHECK(store_compact(s, 0, &st));
        put_round(s, 3);
        store_flush(s);
        check_round(r, 2);
        CHECK(refreshed(r));
        check_round(r, 3);
        store_close(r);
        store_close(s);
        lk_sim_free(sim);
    }
}

LK_TEST(what_a_reader_pins_is_held_and_nothing_else)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_env *env = lk_sim_env(sim);
    lk_error err;
    lk_registration *a, *b;
    lk_readers readers;
    CHECK_OK(lk_env_mkdir(env, STORE_DIR, NULL, &err), &err);
    CHECK_OK(lk_readers_init(&readers, env, STORE_DIR, &err), &err);
    CHECK(!lk_readers_arrive(&readers));
    CHECK_OK(lk_registration_new(env, STORE_DIR, &a, &err), &err);
    CHECK_OK(lk_registration_new(env, STORE_DIR, &b, &err), &err);
    CHECK(lk_readers_arrive(&readers)); /* they have pinned nothing in particular yet */
    uint64_t seven = 7, many[] = {3, 9};
    CHECK_OK(lk_registration_pin(a, &seven, 1, &err), &err);
    CHECK_OK(lk_registration_pin(b, many, 2, &err), &err);
    CHECK(!lk_readers_arrive(&readers));
    lk_version *versions[11];
    for (uint64_t i = 0; i < 11; i++) {
        versions[i] = lk_version_empty();
        CHECK(versions[i] != NULL);
        versions[i]->number = i;
        lk_readers_hold(&readers, versions[i]);
    }
    for (uint64_t i = 0; i < 11; i++) {
        CHECK_EQ(atomic_load(&versions[i]->refs), i == 3 || i == 7 || i == 9 ? 2u : 1u);
    }
    CHECK(!lk_readers_begin(&readers, versions[3]));
    CHECK(lk_readers_begin(&readers, versions[4]));
    CHECK_EQ(atomic_load(&versions[4]->refs), 2u);
    lk_readers_sweep(&readers);
    CHECK_EQ(atomic_load(&versions[4]->refs), 2u);
    lk_registration_free(b);
    lk_readers_sweep(&readers);
    for (uint64_t i = 0; i < 11; i++) {
        CHECK_EQ(atomic_load(&versions[i]->refs), i == 7 ? 2u : 1u);
    }
    CHECK_OK(lk_registration_pin(a, NULL, 0, &err), &err);
    lk_readers_hold(&readers, versions[10]);
    CHECK_EQ(atomic_load(&versions[10]->refs), 2u);
    lk_registration_free(a);
    CHECK_EQ(readers_registered(sim), 0);
    CHECK(!has_file(sim, "readers"));
    lk_readers_sweep(&readers);
    for (uint64_t i = 0; i < 11; i++) {
        CHECK_EQ(atomic_load(&versions[i]->refs), 1u);
        lk_version_unref(versions[i]);
    }
    lk_readers_deinit(&readers);
    lk_sim_free(sim);
}

LK_TEST(a_pin_that_is_not_whole_pins_everything_and_a_dead_reader_nothing)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_env *env = lk_sim_env(sim);
    lk_error err;
    lk_registration *a;
    lk_readers readers;
    lk_names names;
    lk_file *file;
    char path[256];
    uint64_t seven = 7;
    CHECK_OK(lk_env_mkdir(env, STORE_DIR, NULL, &err), &err);
    CHECK_OK(lk_readers_init(&readers, env, STORE_DIR, &err), &err);
    CHECK_OK(lk_registration_new(env, STORE_DIR, &a, &err), &err);
    CHECK_OK(lk_registration_pin(a, &seven, 1, &err), &err);
    CHECK(!lk_readers_arrive(&readers));
    CHECK_OK(lk_env_list(env, STORE_DIR "/readers", &names, &err), &err);
    CHECK_EQ(names.count, 2u);
    (void)snprintf(path, sizeof path, STORE_DIR "/readers/%s", names.names[1]);
    lk_names_free(&names);
    CHECK_OK(lk_env_open(env, path, LK_OPEN_WRITE, &file, &err), &err);
    CHECK_OK(lk_file_write(file, 17, "?", 1, &err), &err);
    lk_file_close(file);
    CHECK(lk_readers_arrive(&readers));
    lk_sim_kill(sim);
    CHECK(!lk_readers_arrive(&readers));
    CHECK_EQ(readers_registered(sim), 0);
    lk_registration_free(a);
    lk_readers_deinit(&readers);
    lk_sim_free(sim);
}
