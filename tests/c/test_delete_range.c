/* Deleted ranges are gone for who comes later and there for who came before, in the log and in tables,
 * through flush, compaction, reopening and kills; their space comes back, and they go too.
 *
 * Method: writes by chance over few keys of two trees, against an array that keeps every state that a
 * snapshot still sees; gets and scans both ways are compared with it, for the present and for each
 * snapshot.
 */
#include "harness.h"

#include "store_fixture.h"

enum { KEYS = 40, TREES = 2, SNAPSHOTS_MAX = 3, STEPS = 400 };

typedef struct state {
    uint32_t values[TREES][KEYS]; /* 0: none */
} state;

typedef struct world {
    lk_sim *sim;
    lk_store *store;
    lk_store_options options;
    uint64_t rng;
    state now;
    lk_snapshot *snapshots[SNAPSHOTS_MAX];
    state then[SNAPSHOTS_MAX];
    uint32_t snapshot_count, next_value;
} world;

static const char *key_text(char *out, size_t room, uint32_t key)
{
    (void)snprintf(out, room, "key%03u", key);
    return out;
}

static void value_text(char *out, size_t room, uint32_t value)
{
    (void)snprintf(out, room, "%u:%0*d", value, (int)(value * 37 % 100), 0);
}

/* ---- looking ---- */

typedef struct look {
    const uint32_t *values;
    int at; /* the key that the last row had */
    bool reverse;
} look;

static void look_row(void *context, const lk_pair *pair)
{
    look *l = context;
    char key[16], value[128];
    for (l->at += l->reverse ? -1 : 1; l->at >= 0 && l->at < KEYS; l->at += l->reverse ? -1 : 1) {
        if (l->values[l->at] != 0) break;
    }
    if (l->at < 0 || l->at >= KEYS) {
        lk_test_fail(__FILE__, __LINE__, "a row too many: %.*s", (int)pair->key.len,
                     (const char *)pair->key.data);
    }
    key_text(key, sizeof key, (uint32_t)l->at);
    value_text(value, sizeof value, l->values[l->at]);
    if (pair->key.len != strlen(key) || memcmp(pair->key.data, key, pair->key.len) != 0) {
        lk_test_fail(__FILE__, __LINE__, "%.*s instead of %s", (int)pair->key.len,
                     (const char *)pair->key.data, key);
    }
    CHECK(pair->value.len == strlen(value));
    CHECK_MEM_EQ(pair->value.data, value, pair->value.len);
}

static void check_state(world *w, const state *s, uint64_t seq)
{
    lk_error err;
    for (uint32_t tree = 0; tree < TREES; tree++) {
        uint64_t rows, expected = 0;
        for (uint32_t key = 0; key < KEYS; key++) {
            char text[16], value[128], found[STORE_VALUE_MAX];
            bool is_there =
                store_get_at(w->store, tree, key_text(text, sizeof text, key), seq, found);
            value_text(value, sizeof value, s->values[tree][key]);
            if (is_there != (s->values[tree][key] != 0)) {
                lk_test_fail(__FILE__, __LINE__, "tree %u %s is %s", tree, text,
                             is_there ? "there" : "missing");
            }
            if (is_there) CHECK_STR_EQ(found, value);
            expected += is_there;
        }
        for (int reverse = 0; reverse < 2; reverse++) {
            look l = {s->values[tree], reverse ? KEYS : -1, reverse == 1};
            CHECK_OK(store_scan(w->store, tree, seq, reverse == 1, look_row, &l, &rows, &err),
                     &err);
            CHECK_EQ(rows, expected);
        }
    }
}

static void check_all(world *w)
{
    check_state(w, &w->now, LK_SEQ_MAX - 1);
    for (uint32_t i = 0; i < w->snapshot_count; i++) {
        check_state(w, &w->then[i], w->snapshots[i]->seq);
    }
}

/* ---- steps ---- */

static void step_write(world *w)
{
    enum { MAX = 5 };
    store_op ops[MAX];
    char keys[MAX][16], stops[MAX][16], values[MAX][128];
    size_t n = 1 + lk_test_below(&w->rng, MAX);
    lk_error err;
    for (size_t i = 0; i < n; i++) {
        uint32_t tree = (uint32_t)lk_test_below(&w->rng, TREES);
        uint32_t from = (uint32_t)lk_test_below(&w->rng, KEYS), to = from + 1, value = 0;
        ops[i] = (store_op){tree, key_text(keys[i], sizeof keys[i], from), NULL, NULL};
        uint64_t what = lk_test_below(&w->rng, 10);
        if (what < 2) {
            to = from + 1 + (uint32_t)lk_test_below(&w->rng, KEYS - from);
            ops[i].stop = to == KEYS ? "" : key_text(stops[i], sizeof stops[i], to);
        } else if (what < 8) {
            value = ++w->next_value;
            value_text(values[i], sizeof values[i], value);
            ops[i].value = values[i];
        }
        for (uint32_t key = from; key < to; key++) w->now.values[tree][key] = value;
    }
    lk_durability d = lk_test_below(&w->rng, 8) == 0 ? LK_DURABILITY_SYNC : LK_DURABILITY_PROCESS;
    CHECK_OK(store_batch(w->store, ops, n, d, &err), &err);
}

static void release(world *w, uint32_t i)
{
    lk_store_release(w->store, w->snapshots[i]);
    w->snapshot_count--;
    w->snapshots[i] = w->snapshots[w->snapshot_count];
    w->then[i] = w->then[w->snapshot_count];
}

static void step(world *w)
{
    lk_error err;
    lk_status st;
    switch (lk_test_below(&w->rng, 24)) {
    case 0:
    case 1:
        store_flush(w->store);
        break;
    case 2:
        (void)store_compact(w->store, (uint32_t)lk_test_below(&w->rng, TREES), &st);
        CHECK_EQ(st, LK_OK);
        break;
    case 3:
        if (w->snapshot_count == SNAPSHOTS_MAX) break;
        CHECK_OK(lk_store_snapshot(w->store, &w->snapshots[w->snapshot_count], &err), &err);
        w->then[w->snapshot_count++] = w->now;
        break;
    case 4:
        if (w->snapshot_count > 0) release(w, (uint32_t)lk_test_below(&w->rng, w->snapshot_count));
        break;
    case 5:
        while (w->snapshot_count > 0) release(w, 0);
        if (lk_test_below(&w->rng, 2) == 0) {
            store_close(w->store);
        } else {
            store_kill(w->sim, w->store);
        }
        w->store = store_open(w->sim, &w->options);
        break;
    default:
        step_write(w);
        break;
    }
}

static void run(bool mapped)
{
    uint64_t rng = lk_test_seed();
    for (int round = 0; round < 12; round++) {
        world w = {.rng = lk_test_rand(&rng), .options = store_options(mapped, 4096)};
        w.options.block_bytes = 256;
        w.options.table_bytes = 2048;
        w.options.late_min = round % 2 == 0 ? 1024 : 0; /* logs that are proved after opening */
        w.sim = lk_sim_new(w.rng);
        CHECK(w.sim != NULL);
        w.store = store_open(w.sim, &w.options);
        for (int i = 0; i < STEPS; i++) {
            step(&w);
            if (lk_test_below(&w.rng, 4) == 0) check_all(&w);
        }
        check_all(&w);
        while (w.snapshot_count > 0) release(&w, 0);
        store_close(w.store);
        lk_sim_free(w.sim);
    }
}

LK_TEST(deleted_ranges_are_gone_and_snapshots_still_see_them_in_a_mapped_store) { run(true); }

LK_TEST(deleted_ranges_are_gone_and_snapshots_still_see_them_in_a_written_store) { run(false); }

LK_TEST(what_is_stored_after_a_deleted_range_lives)
{
    lk_sim *sim = lk_sim_new(1);
    lk_store_options o = store_options(true, 4096);
    lk_store *s = store_open(sim, &o);
    store_put(s, 0, "a", "1");
    store_put(s, 0, "b", "2");
    store_delete_range(s, 0, "b", "c");
    store_put(s, 0, "b2", "3");
    store_put(s, 0, "d", "4");
    store_flush(s);
    store_check(s, 0, "a", "1");
    store_check(s, 0, "b", NULL);
    store_check(s, 0, "b2", "3");
    store_check(s, 0, "d", "4");
    store_close(s);
    lk_sim_free(sim);
}
