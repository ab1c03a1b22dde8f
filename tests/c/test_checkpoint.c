/* test_checkpoint.c: a checkpoint is a store of its own with all that was acknowledged before it, and
 * at its place stands at every moment what stood there, or the whole.
 *
 * Method: simulated machines. One is prepared up to the moment before a checkpoint, and cloned; each
 * clone stops at another call of its disk and loses power, and is then looked at.
 */
#include "harness.h"

#include <errno.h>

#include "checkpoint.h"
#include "destroy.h"
#include "store_fixture.h"

#define PLACE "/c"

static lk_status checkpoint(lk_store *s, const char *path, lk_error *err)
{
    CHECK_OK(lk_store_enter(s, err), err);
    lk_status st = lk_store_checkpoint(s, s->env, path, err);
    lk_store_leave(s);
    return st;
}

/* Keys "0".."rows - 1" of two trees, with this value. */
static void fill(lk_store *s, int first, int rows, const char *value)
{
    char key[16];
    for (int i = first; i < first + rows; i++) {
        (void)snprintf(key, sizeof key, "%04d", i);
        store_put(s, (uint32_t)i % 2, key, value);
    }
}

static void count_row(void *context, const lk_pair *pair)
{
    (void)context;
    (void)pair;
}

static uint64_t rows_of(lk_store *s)
{
    lk_error err;
    uint64_t rows[2];
    for (uint32_t tree = 0; tree < 2; tree++) {
        CHECK_OK(store_scan(s, tree, UINT64_MAX - 1, false, count_row, NULL, &rows[tree], &err),
                 &err);
    }
    return rows[0] + rows[1];
}

/* UINT64_MAX: there is no store. Everything in it is proved to be whole. */
static uint64_t rows_at(lk_sim *sim, const char *dir, bool read_only)
{
    lk_store_options o = store_options(true, 8192);
    o.read_only = read_only;
    o.create_if_missing = false;
    lk_error err;
    lk_store *s;
    lk_status st = lk_store_open(lk_sim_env(sim), dir, &o, &s, &err);
    if (st == LK_NOT_FOUND) return UINT64_MAX;
    CHECK_OK(st, &err);
    lk_view *v = lk_store_view(s);
    for (uint32_t tree = 0; tree < v->version->tree_count; tree++) {
        const lk_tree_version *t = v->version->trees[tree];
        for (uint32_t i = 0; t != NULL && i < t->file_count; i++) {
            lk_table_report report;
            CHECK_OK(lk_table_verify(t->files[i].table, &report, &err), &err);
        }
    }
    lk_view_unref(v);
    uint64_t rows = rows_of(s);
    store_close(s);
    return rows;
}

static size_t count_files(lk_sim *sim, const char *dir, lk_file_kind kind)
{
    lk_names names;
    lk_error err;
    size_t n = 0;
    CHECK_OK(lk_env_list(lk_sim_env(sim), dir, &names, &err), &err);
    for (size_t i = 0; i < names.count; i++) n += lk_file_kind_of(names.names[i], NULL) == kind;
    lk_names_free(&names);
    return n;
}

/* What the version names; the directory may hold more, for views that somebody still has. */
static size_t tables_of(lk_store *s)
{
    lk_view *v = lk_store_view(s);
    size_t n = 0;
    for (uint32_t tree = 0; tree < v->version->tree_count; tree++) {
        if (v->version->trees[tree] != NULL) n += v->version->trees[tree]->file_count;
    }
    lk_view_unref(v);
    return n;
}

LK_TEST(checkpoint_holds_what_was_acknowledged_before_it)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 8192);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    fill(s, 0, 200, "first");
    CHECK_OK(checkpoint(s, PLACE, &err), &err);
    fill(s, 200, 200, "second");
    CHECK_EQ(rows_at(sim, PLACE, true), 200);
    CHECK_EQ(count_files(sim, PLACE, LK_FILE_LOG), 0);
    CHECK_EQ(rows_of(s), 400);
    store_close(s);
    CHECK_EQ(rows_at(sim, PLACE, false), 200);
    CHECK_EQ(rows_at(sim, STORE_DIR, false), 400);
    lk_sim_free(sim);
}

LK_TEST(older_checkpoint_gets_what_is_new_and_loses_what_is_old)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 8192);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    lk_status st;
    for (int i = 0; i < 6; i++) {
        fill(s, i * 100, 100, "row");
        CHECK_OK(checkpoint(s, PLACE, &err), &err);
        CHECK_EQ(rows_at(sim, PLACE, true), (uint64_t)(i + 1) * 100);
        CHECK_EQ(count_files(sim, PLACE, LK_FILE_MANIFEST), 1);
        if (i % 2 == 1) CHECK(store_compact(s, 0, &st) && st == LK_OK);
    }
    CHECK_OK(checkpoint(s, PLACE, &err), &err);
    CHECK_EQ(count_files(sim, PLACE, LK_FILE_TABLE), tables_of(s));
    uint64_t links = lk_sim_calls_of(sim, LK_SIM_LINK), calls = lk_sim_calls_of(sim, LK_SIM_RENAME);
    CHECK_OK(checkpoint(s, PLACE, &err), &err);
    CHECK_EQ(lk_sim_calls_of(sim, LK_SIM_LINK), links);
    CHECK_EQ(lk_sim_calls_of(sim, LK_SIM_RENAME), calls);
    store_close(s);
    lk_sim_free(sim);
}

LK_TEST(tables_are_copied_where_links_are_refused)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 8192);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    fill(s, 0, 300, "row");
    store_flush(s);
    CHECK(lk_sim_fail(sim, LK_SIM_LINK, 1, EXDEV, true));
    CHECK_OK(checkpoint(s, PLACE, &err), &err);
    CHECK(lk_sim_calls_of(sim, LK_SIM_LINK) == 1);
    CHECK_EQ(rows_at(sim, PLACE, true), 300);
    CHECK_EQ(checkpoint(s, "/d", &err), LK_OK);
    store_close(s);
    lk_sim_free(sim);
}

LK_TEST(what_is_no_checkpoint_of_the_store_is_refused_and_stays)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_env *env = lk_sim_env(sim);
    lk_store_options o = store_options(true, 8192);
    lk_store *s = store_open(sim, &o), *other;
    lk_error err;
    lk_file *file;
    fill(s, 0, 50, "row");
    CHECK_OK(lk_store_open(env, "/other", &o, &other, &err), &err);
    fill(other, 0, 70, "row");
    CHECK_EQ(checkpoint(s, "/other", &err), LK_LOCKED);
    store_close(other);
    CHECK_EQ(checkpoint(s, "/other", &err), LK_EXISTS);
    CHECK_EQ(rows_at(sim, "/other", false), 70);
    CHECK_EQ(checkpoint(s, STORE_DIR, &err), LK_LOCKED);
    CHECK_OK(lk_env_mkdir(env, "/foreign", NULL, &err), &err);
    CHECK_OK(lk_env_open(env, "/foreign/a", LK_OPEN_WRITE | LK_OPEN_CREATE, &file, &err), &err);
    lk_file_close(file);
    CHECK_EQ(checkpoint(s, "/foreign", &err), LK_EXISTS);
    CHECK_EQ(checkpoint(s, "/foreign/a", &err), LK_EXISTS);
    /* One that was written to has become a store of its own. */
    CHECK_OK(checkpoint(s, PLACE, &err), &err);
    CHECK_OK(lk_store_open(env, PLACE, &o, &other, &err), &err);
    CHECK_EQ(checkpoint(s, PLACE, &err), LK_LOCKED);
    store_close(other);
    CHECK_EQ(checkpoint(s, PLACE, &err), LK_EXISTS);
    store_close(s);
    lk_sim_free(sim);
}

LK_TEST(checkpoint_that_fails_leaves_nothing_behind)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 8192);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    bool exists;
    fill(s, 0, 200, "row");
    store_flush(s);
    for (int round = 0; round < 2; round++) {
        uint64_t before = round == 0 ? UINT64_MAX : 200;
        const lk_sim_op ops[] = {LK_SIM_LINK, LK_SIM_SYNC_DIR, LK_SIM_SYNC, LK_SIM_RENAME};
        for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
            /* A link is called by the name that it is made of. */
            const char *part = ops[i] == LK_SIM_LINK ? ".sst" : PLACE;
            CHECK(lk_sim_fail_on(sim, ops[i], part, 1, EIO, false));
            lk_status st = checkpoint(s, PLACE, &err);
            lk_sim_clear_faults(sim);
            CHECK_EQ(st, LK_IO);
            CHECK_EQ(rows_at(sim, PLACE, true), before);
            CHECK_OK(lk_env_exists(lk_sim_env(sim), PLACE ".making", &exists, NULL, &err), &err);
            CHECK(!exists);
        }
        CHECK_OK(checkpoint(s, PLACE, &err), &err);
        fill(s, 200, 100, "row");
        store_flush(s);
    }
    store_close(s);
    lk_sim_free(sim);
}

/* ---- power ---- */

/* A store with 300 rows, 200 of them in a checkpoint when `onto`, and all flushed but the last. */
static lk_sim *prepared(bool onto)
{
    lk_sim *sim = lk_sim_new(lk_test_seed());
    lk_store_options o = store_options(true, 8192);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    lk_status st;
    fill(s, 0, 200, "old");
    store_flush(s);
    if (onto) CHECK_OK(checkpoint(s, PLACE, &err), &err);
    fill(s, 200, 50, "new");
    store_flush(s);
    (void)store_compact(s, 0, &st);
    fill(s, 250, 50, "new");
    store_sync(s);
    store_close(s);
    return sim;
}

/* Stops at the n-th call of the checkpoint; false when it needs fewer. */
static bool power_cut_at(lk_sim *before, uint64_t n, bool onto, uint64_t seed)
{
    lk_sim *sim = lk_sim_clone(before);
    lk_store_options o = store_options(true, 8192);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    lk_sim_crash_at(sim, lk_sim_calls(sim) + n);
    lk_status st = checkpoint(s, PLACE, &err);
    bool is_dead = lk_sim_is_dead(sim);
    CHECK(is_dead || st == LK_OK);
    lk_sim_power_cut(sim, seed % 3 == 0 ? LK_SIM_LOSE_UNSYNCED : LK_SIM_RANDOM, seed);
    store_abandon(s);
    uint64_t rows = rows_at(sim, PLACE, true);
    bool old = onto ? rows == 200 : rows == UINT64_MAX;
    bool whole = rows == 300;
    if (!(whole || (old && st != LK_OK))) {
        lk_test_fail(__FILE__, __LINE__, "call %llu, seed %llu: status %d, %llu rows",
                     (unsigned long long)n, (unsigned long long)seed, (int)st,
                     (unsigned long long)rows);
    }
    CHECK_EQ(rows_at(sim, STORE_DIR, false), 300);
    /* And the next one is made all the same. */
    s = store_open(sim, &o);
    CHECK_OK(checkpoint(s, PLACE, &err), &err);
    CHECK_EQ(rows_at(sim, PLACE, true), 300);
    CHECK_EQ(count_files(sim, PLACE, LK_FILE_MANIFEST), 1);
    store_close(s);
    lk_sim_free(sim);
    return is_dead;
}

static void power_test(bool onto)
{
    uint64_t rng = lk_test_seed(), n = 1;
    lk_sim *before = prepared(onto);
    while (power_cut_at(before, n, onto, lk_test_rand(&rng))) n++;
    CHECK(n > 10);
    lk_sim_free(before);
}

LK_TEST(power_lost_in_a_first_checkpoint_leaves_none_or_the_whole) { power_test(false); }

LK_TEST(power_lost_in_a_further_checkpoint_leaves_the_old_one_or_the_new) { power_test(true); }
