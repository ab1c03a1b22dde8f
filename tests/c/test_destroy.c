/* test_destroy.c: a destroyed store is gone, and nothing else is.
 *
 * Method: simulated machines that stop at each call of the removal and lose power.
 */
#include "harness.h"

#include "destroy.h"
#include "store_fixture.h"

static void fill(lk_store *s)
{
    char key[16];
    for (int i = 0; i < 200; i++) {
        (void)snprintf(key, sizeof key, "%04d", i);
        store_put(s, 0, key, "value");
    }
}

static void touch(lk_sim *sim, const char *path, const char *text)
{
    lk_error err;
    lk_file *file;
    CHECK_OK(lk_env_open(lk_sim_env(sim), path, LK_OPEN_WRITE | LK_OPEN_CREATE, &file, &err), &err);
    CHECK_OK(lk_file_write(file, 0, text, strlen(text), &err), &err);
    CHECK_OK(lk_file_sync(file, &err), &err);
    lk_file_close(file);
}

static bool is_there(lk_sim *sim, const char *path)
{
    lk_error err;
    bool exists;
    CHECK_OK(lk_env_exists(lk_sim_env(sim), path, &exists, NULL, &err), &err);
    return exists;
}

static size_t files_in(lk_sim *sim, const char *dir)
{
    lk_error err;
    lk_names names;
    CHECK_OK(lk_env_list(lk_sim_env(sim), dir, &names, &err), &err);
    size_t n = names.count;
    lk_names_free(&names);
    return n;
}

LK_TEST(destroyed_store_is_gone_with_its_directory)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 8192);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    fill(s);
    store_flush(s);
    fill(s);
    CHECK_EQ(lk_store_destroy(lk_sim_env(sim), STORE_DIR, &err), LK_LOCKED);
    store_check(s, 0, "0007", "value");
    store_kill(sim, s);
    CHECK_OK(lk_store_destroy(lk_sim_env(sim), STORE_DIR, &err), &err);
    CHECK(!is_there(sim, STORE_DIR));
    CHECK_EQ(lk_store_destroy(lk_sim_env(sim), STORE_DIR, &err), LK_NOT_FOUND);
    lk_sim_free(sim);
}

LK_TEST(files_of_others_stay)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 8192);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    fill(s);
    store_close(s);
    touch(sim, STORE_DIR "/notes.txt", "mine");
    touch(sim, STORE_DIR "/7.sst", "mine too: no name that lsmkit makes");
    CHECK_OK(lk_store_destroy(lk_sim_env(sim), STORE_DIR, &err), &err);
    CHECK_EQ(files_in(sim, STORE_DIR), 2);
    lk_sim_free(sim);
}

LK_TEST(directory_of_another_engine_is_not_taken_for_a_store)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_error err;
    CHECK_OK(lk_env_mkdir(lk_sim_env(sim), STORE_DIR, NULL, &err), &err);
    touch(sim, STORE_DIR "/CURRENT", "MANIFEST-000001\n");
    touch(sim, STORE_DIR "/MANIFEST-000001", "\x56\xf9\xb8\xf8\x1c");
    touch(sim, STORE_DIR "/000003.log", "\x56\xf9\xb8\xf8\x1c");
    touch(sim, STORE_DIR "/000005.sst", "some rows");
    touch(sim, STORE_DIR "/LOCK", "");
    CHECK_EQ(lk_store_destroy(lk_sim_env(sim), STORE_DIR, &err), LK_NOT_FOUND);
    CHECK_EQ(files_in(sim, STORE_DIR), 5);
    lk_sim_free(sim);
}

LK_TEST(store_without_its_current_can_be_destroyed)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 8192);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    fill(s);
    store_close(s);
    CHECK_OK(lk_env_unlink(lk_sim_env(sim), STORE_DIR "/CURRENT", &err), &err);
    CHECK_OK(lk_store_destroy(lk_sim_env(sim), STORE_DIR, &err), &err);
    CHECK(!is_there(sim, STORE_DIR));
    lk_sim_free(sim);
}

LK_TEST(removal_that_was_broken_off_can_be_taken_up_again)
{
    lk_sim *before = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 8192);
    lk_store *s = store_open(before, &o);
    lk_error err;
    uint64_t rng = lk_test_seed(), n = 1;
    fill(s);
    store_flush(s);
    fill(s);
    store_sync(s);
    store_kill(before, s);
    for (bool is_dead = true; is_dead; n++) {
        lk_sim *sim = lk_sim_clone(before);
        lk_sim_crash_at(sim, lk_sim_calls(sim) + n);
        lk_status st = lk_store_destroy(lk_sim_env(sim), STORE_DIR, &err);
        is_dead = lk_sim_is_dead(sim);
        CHECK(is_dead || st == LK_OK);
        lk_sim_power_cut(sim, LK_SIM_RANDOM, lk_test_rand(&rng));
        st = lk_store_destroy(lk_sim_env(sim), STORE_DIR, &err);
        CHECK(st == LK_OK || st == LK_NOT_FOUND);
        /* What may be left, a lock file or a log that was never used, keeps nobody from making a
         * store there. */
        if (is_there(sim, STORE_DIR) && files_in(sim, STORE_DIR) > 0) {
            CHECK(files_in(sim, STORE_DIR) == 1 && is_there(sim, STORE_DIR "/LOCK"));
        }
        s = store_open(sim, &o);
        store_close(s);
        lk_sim_free(sim);
    }
    CHECK(n > 8);
    lk_sim_free(before);
}
