/* test_keyspace.c: keyspaces of a store are made and dropped whole, at any loss of power; what is
 * dropped is gone from tables, log and disk, and no number is given twice.
 *
 * Method: stores on a simulated machine. The power test runs a script of creations, drops, writes
 * and flushes, and stops it at one call of the disk after the other; a model says, for each step,
 * which keyspaces there are.
 */
#include "harness.h"

#include <errno.h>

#include "store_fixture.h"

static uint32_t create(lk_store *s, const char *text)
{
    uint32_t tree;
    lk_error err;
    CHECK_OK(lk_store_keyspace_create(s, text, &tree, &err), &err);
    return tree;
}

static void drop(lk_store *s, uint32_t tree)
{
    lk_error err;
    CHECK_OK(lk_store_keyspace_drop(s, tree, &err), &err);
}

static bool has(lk_store *s, uint32_t tree)
{
    lk_trees *t = lk_store_trees(s);
    bool found = lk_trees_has(t, tree);
    lk_trees_unref(t);
    return found;
}

static uint64_t rows_of(lk_store *s, uint32_t tree)
{
    uint64_t rows = store_table_rows(s, tree);
    return rows;
}

/* ---- texts ---- */

LK_TEST(a_text_says_how_tables_are_written)
{
    lk_sim *sim = lk_sim_new(1);
    lk_store_options o = store_options(true, 16384);
    lk_store *s = store_open(sim, &o);
    uint32_t plain = create(s, "name=a\n");
    uint32_t own = create(s, "name=b\nblock_bytes=512\nfilter_bits=0\ntable_bytes=4096\n"
                             "compression=zstd\ncompaction=leveled(runs=4)\nttl=7");
    for (int round = 0; round < 2; round++) {
        lk_trees *t = lk_store_trees(s);
        CHECK_EQ(t->count, 2);
        CHECK_EQ(t->next, 18);
        CHECK_EQ(lk_trees_shape(t, plain)->block_bytes, o.block_bytes);
        CHECK_EQ(lk_trees_shape(t, 0)->block_bytes, o.block_bytes);
        const lk_tree_shape *shape = lk_trees_shape(t, own);
        CHECK_EQ(shape->block_bytes, 512);
        CHECK_EQ(shape->filter_bits, 0);
        CHECK_EQ(shape->table_bytes, 4096);
        CHECK_EQ(shape->codec, LK_CODEC_ZSTD);
        CHECK_EQ(lk_trees_named(t, "name=b")->tree, own);
        CHECK(lk_trees_named(t, "name=") == NULL && lk_trees_named(t, "name=ab") == NULL);
        lk_trees_unref(t);
        store_close(s);
        s = store_open(sim, &o);
    }
    store_close(s);
    lk_sim_free(sim);
}

LK_TEST(texts_that_say_nothing_sensible_are_refused)
{
    static const char *const TEXTS[] = {
        "",
        "\n",
        "name=",
        "name=\n",
        "nam=a",
        "Name=a",
        "filter_bits=3\nname=a",
        "name=a\nnonsense",
        "name=a\n\nx=1",
        "name=a\nfilter_bits=",
        "name=a\nfilter_bits=-1",
        "name=a\nfilter_bits=x",
        "name=a\nfilter_bits=4294967296",
        "name=a\nblock_bytes=1e3",
        "name=a\ntable_bytes=99999999999999999999",
        "name=a\ncompression=gzip",
        "name=a\ncompression=",
    };
    lk_sim *sim = lk_sim_new(1);
    lk_store_options o = store_options(true, 16384);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    uint32_t tree;
    uint32_t kept = create(s, "name=kept");
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++) {
        CHECK_EQ(lk_store_keyspace_create(s, TEXTS[i], &tree, &err), LK_INVALID);
        CHECK_EQ(tree, 0);
        CHECK_EQ(lk_store_keyspace_change(s, kept, TEXTS[i], &err), LK_INVALID);
    }
    CHECK_EQ(create(s, "name=next"), kept + 1);
    store_close(s);
    lk_sim_free(sim);
}

/* What the manifest says is not believed either. */
LK_TEST(properties_that_contradict_one_another_are_corruption)
{
    static const char *const CASES[][2] = {
        {"keyspace/16", "name=a"}, /* but the next number is 16 */
        {"keyspace/3", "name=a"},
        {"keyspace/016", "name=a"},
        {"keyspace/", "name=a"},
        {"keyspace/1048576", "name=a"},
        {"keyspace/99999999999999999999999", "name=a"},
        {"next_tree", "15"},
        {"next_tree", "1048577"},
        {"next_tree", ""},
        {"next_tree", "20x"},
    };
    lk_error err;
    lk_store *s;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        lk_sim *sim = lk_sim_new(1);
        lk_store_options o = store_options(true, 16384);
        s = store_open(sim, &o);
        CHECK_OK(lk_store_set_property(s, CASES[i][0], CASES[i][1], &err), &err);
        store_close(s);
        CHECK_EQ(lk_store_open(lk_sim_env(sim), STORE_DIR, &o, &s, &err), LK_CORRUPT);
        lk_sim_free(sim);
    }
    lk_sim *sim = lk_sim_new(1);
    lk_store_options o = store_options(true, 16384);
    s = store_open(sim, &o);
    create(s, "name=a\nfilter_bits=1");
    create(s, "name=b");
    CHECK_OK(lk_store_set_property(s, "keyspace/17", "name=a\nfilter_bits=2", &err), &err);
    store_close(s);
    CHECK_EQ(lk_store_open(lk_sim_env(sim), STORE_DIR, &o, &s, &err), LK_CORRUPT);
    CHECK(strstr(err.message, "same name") != NULL);
    lk_sim_free(sim);
}

/* ---- making and dropping ---- */

LK_TEST(a_name_is_taken_once_and_a_number_given_once)
{
    lk_sim *sim = lk_sim_new(1);
    lk_store_options o = store_options(true, 16384);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    uint32_t tree, a = create(s, "name=a"), b = create(s, "name=b");
    CHECK_EQ(a, LK_TREE_KEYSPACES);
    CHECK_EQ(b, a + 1);
    CHECK_EQ(lk_store_keyspace_create(s, "name=a\nfilter_bits=3", &tree, &err), LK_EXISTS);
    CHECK_EQ(lk_store_keyspace_change(s, b, "name=a", &err), LK_EXISTS);
    CHECK_OK(lk_store_keyspace_change(s, b, "name=b\nfilter_bits=3", &err), &err);
    drop(s, b);
    CHECK_EQ(lk_store_keyspace_drop(s, b, &err), LK_NOT_FOUND);
    CHECK_EQ(lk_store_keyspace_change(s, b, "name=b", &err), LK_NOT_FOUND);
    CHECK_EQ(lk_store_keyspace_drop(s, 3, &err), LK_NOT_FOUND);
    CHECK_EQ(lk_store_keyspace_drop(s, 99, &err), LK_NOT_FOUND);
    store_close(s);
    s = store_open(sim, &o);
    CHECK_EQ(create(s, "name=b"), b + 1);
    CHECK(has(s, a) && !has(s, b) && has(s, b + 1) && !has(s, b + 2));
    CHECK(has(s, 0) && has(s, 1) && has(s, 15));
    store_close(s);
    o.read_only = true;
    s = store_open(sim, &o);
    CHECK_EQ(lk_store_keyspace_create(s, "name=c", &tree, &err), LK_READONLY);
    CHECK_EQ(lk_store_keyspace_drop(s, a, &err), LK_READONLY);
    CHECK(has(s, a));
    store_close(s);
    lk_sim_free(sim);
}

LK_TEST(a_drop_takes_tables_files_and_what_the_log_holds)
{
    lk_sim *sim = lk_sim_new(1);
    lk_store_options o = store_options(true, 16384);
    lk_store *s = store_open(sim, &o);
    uint32_t a = create(s, "name=a"), b = create(s, "name=b");
    for (int round = 0; round < 2; round++) {
        store_put(s, 0, "k", "0");
        store_put(s, a, "k", "1");
        store_put(s, b, "k", "2");
        store_flush(s);
    }
    size_t files = store_count_files(sim, ".sst");
    store_put(s, a, "in the log", "1");
    store_put(s, b, "in the log", "2");
    drop(s, a);
    store_put(s, a, "behind the drop", "1");
    store_check(s, b, "k", "2");
    store_flush(s);
    CHECK_EQ(rows_of(s, a), 0);
    CHECK_EQ(rows_of(s, b), 3);
    store_check(s, b, "in the log", "2");
    store_put(s, a, "and again", "1");
    uint64_t written = s->counters.flush_bytes;
    store_flush(s);
    CHECK_EQ(s->counters.flush_bytes, written);
    store_put(s, a, "and once more", "1");
    store_kill(sim, s);
    s = store_open(sim, &o);
    store_flush(s);
    CHECK_EQ(rows_of(s, a), 0);
    CHECK_EQ(store_count_files(sim, ".sst"), files - 2 + 1);
    uint32_t again = create(s, "name=a");
    store_check(s, again, "k", NULL);
    store_close(s);
    lk_sim_free(sim);
}

/* A log that speaks of a tree which the manifest has not made: an edit was lost, and with it who
 * the rows belong to. */
LK_TEST(records_of_a_tree_that_was_never_made_are_damage)
{
    lk_sim *sim = lk_sim_new(1);
    lk_store_options o = store_options(true, 16384);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    store_put(s, create(s, "name=a") + 1, "k", "1");
    CHECK_EQ(lk_store_flush(s, &err), LK_CORRUPT);
    CHECK(strstr(err.message, "tree 17") != NULL);
    store_abandon(s);
    lk_sim_free(sim);
}

/* A flush, or a compaction, that has seen the tree before it was dropped. */
LK_TEST(an_edit_that_a_drop_has_overtaken_brings_nothing_back)
{
    lk_sim *sim = lk_sim_new(1);
    lk_store_options o = store_options(true, 16384);
    lk_store *s = store_open(sim, &o);
    lk_error err;
    uint32_t a = create(s, "name=a"), b = create(s, "name=b");
    for (int round = 0; round < 2; round++) {
        store_put(s, a, "k", "1");
        store_put(s, b, "k", "1");
        store_flush(s);
    }
    lk_view *v = lk_store_view(s);
    const lk_tree_version *t = lk_version_tree(v->version, a);
    uint64_t files[2] = {t->files[0].file, t->files[1].file};
    lk_edit edit, of_a;
    lk_job_result result;
    lk_job job = {
        .tree = a, .files = files, .file_count = 2, .out_level = LK_LEVEL_LAST, .cut_bytes = 4096};
    lk_edit_init(&edit);
    lk_edit_init(&of_a);
    CHECK_OK(lk_compact_run(s->env, s->dir, s->manifest, v, 0, &job, NULL, 0, &edit, &result, &err),
             &err);
    size_t sst = store_count_files(sim, ".sst");
    drop(s, a);
    /* Beside what is to be left out, something that is not. */
    CHECK_OK(lk_edit_split(&edit, b, (lk_bytes){(const uint8_t *)"x", 1}, &err), &err);
    CHECK_OK(lk_edit_split(&edit, a, (lk_bytes){(const uint8_t *)"x", 1}, &err), &err);
    CHECK_OK(lk_edit_join(&edit, a, (lk_bytes){(const uint8_t *)"x", 1}, &err), &err);
    CHECK_OK(lk_store_publish(s, &edit, &err), &err);
    CHECK_EQ(edit.add_count + edit.remove_count + edit.join_count, 0);
    CHECK_EQ(edit.split_count, 1);
    lk_edit_deinit(&edit);
    lk_view_unref(v);
    v = lk_store_view(s);
    CHECK(lk_version_tree(v->version, a) == NULL);
    CHECK_EQ(lk_version_tree(v->version, b)->range_count, 2);
    lk_view_unref(v);
    CHECK(store_count_files(sim, ".sst") < sst);
    store_close(s);
    s = store_open(sim, &o);
    CHECK_EQ(store_count_files(sim, ".sst"), 2);
    /* A job of a tree that was dropped before it began is no failure. */
    uint64_t id;
    lk_job_report report;
    CHECK_OK(lk_store_submit(s, &job, &id, &err), &err);
    for (;;) {
        uint64_t seen = lk_event_generation(&s->decide);
        if (lk_store_take_report(s, &report)) break;
        (void)lk_event_wait_ns(&s->decide, seen, 100000000);
    }
    CHECK_EQ(report.status, LK_OK);
    store_close(s);
    lk_sim_free(sim);
}

LK_TEST(a_creation_that_fails_leaves_the_store_as_it_was)
{
    lk_error err;
    uint32_t tree;
    for (uint64_t nth = 1; nth <= 2; nth++) {
        lk_sim *sim = lk_sim_new(1);
        lk_store_options o = store_options(true, 16384);
        lk_store *s = store_open(sim, &o);
        uint32_t a = create(s, "name=a");
        store_put(s, a, "k", "1");
        CHECK(lk_sim_fail_on(sim, nth == 1 ? LK_SIM_WRITE : LK_SIM_DATASYNC, "MANIFEST", 1, EIO,
                             false));
        CHECK_EQ(lk_store_keyspace_create(s, "name=b", &tree, &err), LK_IO);
        CHECK(!has(s, a + 1));
        /* Whether it is on the disk is not known: nothing more is written. */
        CHECK_EQ(lk_store_keyspace_create(s, "name=c", &tree, &err), LK_IO);
        CHECK_EQ(lk_store_keyspace_drop(s, a, &err), LK_IO);
        CHECK_EQ(store_write(s, a, "k", "2", LK_DURABILITY_PROCESS, &err), LK_IO);
        store_check(s, a, "k", "1");
        store_abandon(s);
        s = store_open(sim, &o);
        store_check(s, a, "k", "1");
        CHECK(create(s, "name=c") > a);
        store_close(s);
        lk_sim_free(sim);
    }
}

/* ---- power ---- */

enum { SLOTS = 4, STEPS = 60 };

typedef struct slot { /* a name, and the keyspace that bears it */
    uint32_t tree;    /* 0: there is none */
    uint32_t value;   /* of its row, which is durable; 0: there is none */
} slot;

typedef struct script {
    lk_sim *sim;
    lk_store *store;
    uint64_t rng;
    slot before[SLOTS], after[SLOTS]; /* the step in hand: either may be found */
    uint32_t given;                   /* the greatest number that was given */
    bool is_stopped;
} script;

static void name_text(uint32_t i, char out[32]) { (void)snprintf(out, 32, "name=ks%u\n", i); }

static void look(script *x, lk_status st)
{
    if (st != LK_OK || lk_sim_is_dead(x->sim)) x->is_stopped = true;
}

static void script_step(script *x, uint32_t number)
{
    lk_error err;
    uint32_t i = (uint32_t)lk_test_below(&x->rng, SLOTS);
    uint64_t what = lk_test_below(&x->rng, 10);
    slot *at = &x->after[i];
    char text[32], value[32];
    name_text(i, text);
    (void)snprintf(value, sizeof value, "%u", number);
    if (at->tree == 0) {
        *at = (slot){.tree = x->given + 1}; /* found also where the answer is not heard */
        uint32_t tree;
        lk_status st = lk_store_keyspace_create(x->store, text, &tree, &err);
        look(x, st);
        if (st == LK_OK) CHECK_EQ(tree, x->given + 1);
        if (st == LK_OK) x->given = tree;
    } else if (what < 3) {
        uint32_t tree = at->tree;
        *at = (slot){.tree = 0};
        look(x, lk_store_keyspace_drop(x->store, tree, &err));
    } else if (what < 9) {
        at->value = number;
        store_op ops[2] = {{at->tree, "row", value, NULL}, {0, "row", value, NULL}};
        look(x, store_batch(x->store, ops, 2, LK_DURABILITY_SYNC, &err));
    } else {
        look(x, lk_store_flush(x->store, &err));
        lk_status st;
        if (!x->is_stopped) (void)store_compact(x->store, at->tree, &st);
        if (!x->is_stopped) look(x, st);
    }
    if (!x->is_stopped) memcpy(x->before, x->after, sizeof x->before);
}

static void script_run(script *x, const lk_store_options *o)
{
    lk_error err;
    x->given = LK_TREE_KEYSPACES - 1;
    look(x, lk_store_open(lk_sim_env(x->sim), STORE_DIR, o, &x->store, &err));
    for (uint32_t i = 1; i <= STEPS && !x->is_stopped; i++) script_step(x, i);
    if (x->store != NULL) store_abandon(x->store);
}

static bool slot_is(lk_store *s, uint32_t i, const slot *expected)
{
    char text[32], value[32], found[STORE_VALUE_MAX];
    name_text(i, text);
    lk_trees *t = lk_store_trees(s);
    const lk_tree_entry *e = lk_trees_named(t, text);
    uint32_t tree = e == NULL ? 0 : e->tree;
    lk_trees_unref(t);
    if (tree != expected->tree) return false;
    if (tree == 0) return true;
    bool is_there = store_get_at(s, tree, "row", UINT64_MAX - 1, found);
    if (expected->value == 0) return !is_there;
    (void)snprintf(value, sizeof value, "%u", expected->value);
    return is_there && strcmp(found, value) == 0;
}

static void script_check(const script *x, lk_sim *sim, const lk_store_options *o, uint64_t call)
{
    lk_error err;
    lk_store *s;
    CHECK_OK(lk_store_open(lk_sim_env(sim), STORE_DIR, o, &s, &err), &err);
    for (uint32_t i = 0; i < SLOTS; i++) {
        if (slot_is(s, i, &x->before[i]) || slot_is(s, i, &x->after[i])) continue;
        lk_test_fail(__FILE__, __LINE__, "call %llu: keyspace %u is neither as it was nor as it is",
                     (unsigned long long)call, i);
    }
    store_flush(s);
    /* No table of a tree that is not there, and no file that belongs to nobody. */
    lk_view *v = lk_store_view(s);
    size_t tables = 0;
    for (uint32_t tree = 0; tree < v->version->tree_count; tree++) {
        const lk_tree_version *t = lk_version_tree(v->version, tree);
        tables += t == NULL ? 0 : t->file_count;
        CHECK(t == NULL || has(s, tree));
    }
    lk_view_unref(v);
    CHECK_EQ(store_count_files(sim, ".sst"), tables);
    uint32_t fresh = create(s, "name=fresh");
    CHECK(fresh > x->given);
    store_check(s, fresh, "row", NULL);
    store_close(s);
}

static void power_cut_everywhere(bool mapped)
{
    uint64_t rng = lk_test_seed() ^ 5, seed = lk_test_rand(&rng);
    uint64_t stride = getenv("LK_SOAK") != NULL ? 1 : 7;
    bool is_over = false;
    for (uint64_t n = 1; !is_over; n += 1 + lk_test_below(&rng, stride)) {
        lk_store_options o = store_options(mapped, 8192);
        script x = {.sim = lk_sim_new(seed), .rng = seed};
        lk_sim_crash_at(x.sim, n);
        script_run(&x, &o);
        is_over = !x.is_stopped;
        for (int cut = 0; cut < 3; cut++) {
            lk_sim *copy = lk_sim_clone(x.sim);
            lk_sim_power_cut(copy, (lk_sim_cut)cut, lk_test_rand(&rng));
            script_check(&x, copy, &o, n);
            lk_sim_free(copy);
        }
        lk_sim_free(x.sim);
    }
}

LK_TEST(keyspaces_are_made_and_dropped_whole_by_a_mapped_store) { power_cut_everywhere(true); }
LK_TEST(keyspaces_are_made_and_dropped_whole_by_a_written_store) { power_cut_everywhere(false); }
