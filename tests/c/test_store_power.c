/* test_store_power.c: after a loss of power or a kill at any call, a store opens, and holds a prefix
 * of what was written, with everything in it that was promised.
 *
 * Method: a script of writes by chance (single ones, batches over two trees, deletes, also of ranges,
 * synced ones, flushes, compactions, snapshots, reopenings) runs on a simulated machine that stops at one call of
 * its disk. A model knows the state after each write, as a number; the state that is found after
 * reopening must be one of these, no older than what the durability of the writes promised. The
 * store has threads of its own, so that the n-th call is another one in each run: what is checked is
 * the state, never the call.
 *
 * LK_SEED repeats the script and the cuts; LK_SOAK=1 stops at every call instead of a sample.
 */
#include "harness.h"

#include <errno.h>

#include "store_fixture.h"

enum { KEYS = 24, TREES = 2, STEPS = 110, BATCH_MAX = 6, VALUE_MAX = 512, WRITES_MAX = 4096 };

/* ---- the model ---- */

typedef struct change {
    uint32_t tree, key;
    uint32_t value; /* 0: a delete */
    uint32_t upto;  /* a delete of the keys before this one; 0: of one key */
} change;

typedef struct write {
    change changes[BATCH_MAX];
    uint32_t count;
} write_;

typedef struct model {
    write_ writes[WRITES_MAX];
    uint64_t states[WRITES_MAX + 1]; /* after so many writes */
    uint32_t values[TREES][KEYS];    /* after all of them */
    uint32_t count;
    uint32_t acknowledged; /* writes that a killed process may not lose */
    uint32_t durable;      /* ... and neither may a power cut */
    uint32_t next_value;
} model;

static uint64_t state_of_row(uint32_t tree, uint32_t key, uint32_t value)
{
    uint64_t x = (uint64_t)value << 32 | tree << 16 | key;
    return value == 0 ? 0 : XXH3_64bits_withSeed(&x, sizeof x, 1);
}

static void model_apply(model *m, const write_ *w)
{
    CHECK(m->count < WRITES_MAX);
    uint64_t state = m->states[m->count];
    for (uint32_t i = 0; i < w->count; i++) {
        const change *c = &w->changes[i];
        uint32_t end = c->upto != 0 ? c->upto : c->key + 1;
        for (uint32_t key = c->key; key < end; key++) {
            state -= state_of_row(c->tree, key, m->values[c->tree][key]);
            m->values[c->tree][key] = c->value;
            state += state_of_row(c->tree, key, c->value);
        }
    }
    m->writes[m->count++] = *w;
    m->states[m->count] = state;
}

/* Forgets the writes that were lost, and goes on behind the first `count`. */
static void model_cut(model *m, uint32_t count)
{
    uint32_t all = count;
    m->count = 0;
    memset(m->values, 0, sizeof m->values);
    m->states[0] = 0;
    for (uint32_t i = 0; i < all; i++) {
        write_ w = m->writes[i];
        model_apply(m, &w);
    }
}

/* ---- where a failure happened ---- */

static struct {
    const char *what;
    uint64_t call, cut;
    bool mapped;
} at;

static void fail_here(const char *why, const model *m, uint64_t found, const lk_error *err)
{
    lk_test_fail(__FILE__, __LINE__,
                 "%s: %s log, %s, call %llu, cut %llu\n"
                 "    writes %u, acknowledged %u, durable %u, found %llu: %s",
                 why, at.mapped ? "mapped" : "written", at.what, (unsigned long long)at.call,
                 (unsigned long long)at.cut, m->count, m->acknowledged, m->durable,
                 (unsigned long long)found, err != NULL ? err->message : "");
}

/* ---- the script ---- */

typedef struct machine {
    lk_sim *sim;
    lk_store_options options;
    lk_store *store;
    bool is_stopped; /* from here on nothing is acknowledged */
    uint64_t rng;
    model *model;
} machine;

static const char *key_text(char *out, size_t room, uint32_t key)
{
    (void)snprintf(out, room, "key%03u", key);
    return out;
}

static void value_text(char *out, size_t room, uint32_t value)
{
    (void)snprintf(out, room, "%u:%0*d", value, (int)(value * 37 % 400), 0);
}

static void machine_look(machine *x, lk_status st)
{
    if (st != LK_OK || lk_sim_is_dead(x->sim)) x->is_stopped = true;
}

static void step_write(machine *x, uint32_t count, bool sync)
{
    write_ w = {.count = count};
    store_op ops[BATCH_MAX];
    char keys[BATCH_MAX][16], stops[BATCH_MAX][16], values[BATCH_MAX][VALUE_MAX];
    for (uint32_t i = 0; i < count; i++) {
        change *c = &w.changes[i];
        c->tree = (uint32_t)lk_test_below(&x->rng, TREES);
        c->key = (uint32_t)lk_test_below(&x->rng, KEYS);
        c->value = lk_test_below(&x->rng, 5) == 0 ? 0 : ++x->model->next_value;
        key_text(keys[i], sizeof keys[i], c->key);
        value_text(values[i], sizeof values[i], c->value);
        c->upto = 0;
        ops[i] = (store_op){c->tree, keys[i], c->value != 0 ? values[i] : NULL, NULL};
        if (c->value == 0 && lk_test_below(&x->rng, 2) == 0) {
            c->upto = c->key + 1 + (uint32_t)lk_test_below(&x->rng, KEYS - c->key);
            ops[i].stop = c->upto == KEYS ? "" : key_text(stops[i], sizeof stops[i], c->upto);
        }
    }
    lk_durability d = sync ? LK_DURABILITY_SYNC : LK_DURABILITY_PROCESS;
    lk_error err;
    model_apply(x->model, &w);
    lk_status st = count == 1 && ops[0].stop == NULL
                       ? store_write(x->store, ops[0].tree, ops[0].key, ops[0].value, d, &err)
                       : store_batch(x->store, ops, count, d, &err);
    machine_look(x, st);
    if (x->is_stopped) return;
    x->model->acknowledged = x->model->count;
    if (sync) x->model->durable = x->model->count;
}

static void step_sync(machine *x)
{
    lk_error err;
    machine_look(x, lk_store_sync(x->store, &err));
    if (!x->is_stopped) x->model->durable = x->model->count;
}

static void step_flush(machine *x)
{
    lk_error err;
    machine_look(x, lk_store_flush(x->store, &err));
    if (!x->is_stopped) x->model->durable = x->model->count; /* tables are synced */
}

static void step_compact(machine *x)
{
    lk_status st;
    (void)store_compact(x->store, (uint32_t)lk_test_below(&x->rng, TREES), &st);
    machine_look(x, st);
}

static void step_snapshot(machine *x)
{
    lk_snapshot *snapshot;
    lk_error err;
    CHECK_OK(lk_store_snapshot(x->store, &snapshot, &err), &err);
    for (int i = 0; i < 3 && !x->is_stopped; i++) step_write(x, 1, false);
    if (!x->is_stopped) step_flush(x);
    lk_store_release(x->store, snapshot);
}

static void step_reopen(machine *x)
{
    lk_error err;
    lk_status st = lk_store_close(x->store, &err);
    lk_store_free(x->store);
    x->store = NULL;
    machine_look(x, st);
    if (x->is_stopped) return;
    x->model->durable = x->model->count; /* a clean close flushes */
    st = lk_store_open(lk_sim_env(x->sim), STORE_DIR, &x->options, &x->store, &err);
    machine_look(x, st);
}

static void step(machine *x)
{
    uint64_t what = lk_test_below(&x->rng, 100);
    if (what < 62) {
        step_write(x, 1, false);
    } else if (what < 70) {
        step_write(x, 1, true);
    } else if (what < 84) {
        step_write(x, 2 + (uint32_t)lk_test_below(&x->rng, BATCH_MAX - 1), false);
    } else if (what < 88) {
        step_write(x, 2 + (uint32_t)lk_test_below(&x->rng, BATCH_MAX - 1), true);
    } else if (what < 91) {
        step_sync(x);
    } else if (what < 94) {
        step_flush(x);
    } else if (what < 97) {
        step_compact(x);
    } else if (what < 98) {
        step_snapshot(x);
    } else {
        step_reopen(x);
    }
}

/* Opens and runs until the end of the script or of the machine. */
static void machine_run(machine *x, uint32_t steps)
{
    lk_error err;
    x->is_stopped = false;
    x->store = NULL;
    machine_look(x, lk_store_open(lk_sim_env(x->sim), STORE_DIR, &x->options, &x->store, &err));
    for (uint32_t i = 0; i < steps && !x->is_stopped; i++) step(x);
    if (x->store != NULL) store_abandon(x->store);
    x->store = NULL;
}

/* ---- the check ---- */

typedef struct sum {
    uint32_t tree;
    uint64_t state;
} sum;

static void sum_row(void *context, const lk_pair *pair)
{
    sum *s = context;
    char text[VALUE_MAX];
    unsigned key, value;
    CHECK(pair->key.len == 6 && pair->value.len < sizeof text);
    memcpy(text, pair->key.data, 6);
    text[6] = 0;
    CHECK(sscanf(text, "key%u", &key) == 1);
    memcpy(text, pair->value.data, pair->value.len);
    text[pair->value.len] = 0;
    CHECK(sscanf(text, "%u:", &value) == 1);
    char whole[VALUE_MAX];
    value_text(whole, sizeof whole, value);
    CHECK_STR_EQ(text, whole);
    s->state += state_of_row(s->tree, key, value);
}

static uint64_t store_state(lk_store *s)
{
    uint64_t state = 0;
    for (uint32_t tree = 0; tree < TREES; tree++) {
        sum of = {.tree = tree};
        uint64_t rows;
        lk_error err;
        CHECK_OK(store_scan(s, tree, UINT64_MAX - 1, false, sum_row, &of, &rows, &err), &err);
        state += of.state;
    }
    return state;
}

/* How many writes are in the store: the most that its state allows, and at least `least`. */
static uint32_t store_find(lk_store *s, const model *m, uint32_t least)
{
    uint64_t state = store_state(s);
    for (uint32_t n = m->count + 1; n-- > least;) {
        if (m->states[n] == state) return n;
    }
    for (uint32_t n = 0; n < least; n++) {
        if (m->states[n] == state) fail_here("promised writes are lost", m, n, NULL);
    }
    fail_here("the state is none that ever was", m, state, NULL);
    return 0;
}

/* Opens what is left, compares it, and sees that it can be gone on with. */
static uint32_t machine_check(lk_sim *sim, const lk_store_options *options, const model *m,
                              uint32_t least)
{
    lk_error err;
    lk_store *s;
    if (lk_store_open(lk_sim_env(sim), STORE_DIR, options, &s, &err) != LK_OK) {
        fail_here("the store does not open", m, 0, &err);
    }
    uint32_t n = store_find(s, m, least);
    CHECK_OK(store_write(s, TREES, "after", "it", LK_DURABILITY_SYNC, &err), &err);
    if (n != store_find(s, m, least)) fail_here("the state has changed", m, n, NULL);
    lk_sim_power_cut(sim, LK_SIM_LOSE_UNSYNCED, 1);
    store_abandon(s);
    if (lk_store_open(lk_sim_env(sim), STORE_DIR, options, &s, &err) != LK_OK) {
        fail_here("the store does not open again", m, 0, &err);
    }
    if (n != store_find(s, m, least)) fail_here("the state did not last", m, n, NULL);
    store_check(s, TREES, "after", "it");
    store_close(s);
    return n;
}

/* Stops the machine during recovery too, twice, before it is left alone. */
static void machine_nest(lk_sim *sim, const lk_store_options *options, uint64_t *rng, bool by_kill)
{
    for (int i = 0; i < 2; i++) {
        lk_error err;
        lk_store *s;
        uint64_t call = 1 + lk_test_below(rng, 25);
        if (by_kill) {
            CHECK(lk_sim_fail(sim, LK_SIM_ANY, 2 * call, EIO, true));
        } else {
            lk_sim_crash_at(sim, lk_sim_calls(sim) + call);
        }
        if (lk_store_open(lk_sim_env(sim), STORE_DIR, options, &s, &err) == LK_OK) {
            (void)lk_store_flush(s, NULL);
            store_abandon(s);
        }
        if (by_kill) {
            lk_sim_kill(sim);
        } else {
            lk_sim_power_cut(sim, LK_SIM_RANDOM, lk_test_rand(rng));
        }
    }
}

static void check_cut(lk_sim *sim, const machine *x, lk_sim_cut mode, uint64_t *rng)
{
    static const char *const NAMES[] = {"all kept", "unsynced lost", "by chance"};
    lk_sim *copy = lk_sim_clone(sim);
    CHECK(copy != NULL);
    at.what = NAMES[mode];
    at.cut = lk_test_rand(rng);
    lk_sim_power_cut(copy, mode, at.cut);
    if (mode == LK_SIM_RANDOM && lk_test_below(rng, 3) == 0) {
        at.what = "by chance, and again in recovery";
        machine_nest(copy, &x->options, rng, false);
    }
    (void)machine_check(copy, &x->options, x->model, x->model->durable);
    lk_sim_free(copy);
}

/* ---- tests ---- */

static machine machine_new(bool mapped, uint64_t seed)
{
    machine x = {.sim = lk_sim_new(seed), .options = store_options(mapped, 4096), .rng = seed};
    x.model = calloc(1, sizeof *x.model);
    CHECK(x.sim != NULL && x.model != NULL);
    at.mapped = mapped;
    x.options.frozen_max = 1 + (uint32_t)lk_test_below(&x.rng, 3);
    x.options.segment_bytes = 4096u << lk_test_below(&x.rng, 3);
    x.options.blob_bytes = lk_test_below(&x.rng, 3) == 0 ? 0 : 60; /* values have up to 400 */
    x.options.max_garbage = lk_test_below(&x.rng, 2) == 0 ? 0.1 : 0.5;
    if (lk_test_below(&x.rng, 3) == 0) x.options.durability = LK_DURABILITY_SYNC; /* fills files */
    if (lk_test_below(&x.rng, 2) == 0) lk_sim_set_writeback(x.sim, 30);
    return x;
}

static void machine_free(machine *x)
{
    lk_sim_free(x->sim);
    free(x->model);
}

static uint64_t calls_of_a_run(bool mapped, uint64_t seed)
{
    machine x = machine_new(mapped, seed);
    machine_run(&x, STEPS);
    CHECK(!x.is_stopped && x.model->acknowledged == x.model->count);
    uint64_t calls = lk_sim_calls(x.sim);
    machine_free(&x);
    return calls;
}

/* How far to the next call that is tried. */
static uint64_t stride(uint64_t calls, uint64_t tries, uint64_t *rng)
{
    if (getenv("LK_SOAK") != NULL || calls <= tries) return 1;
    return 1 + lk_test_below(rng, 2 * (calls / tries));
}

static void power_cut_everywhere(bool mapped)
{
    uint64_t rng = lk_test_seed(), seed = lk_test_rand(&rng);
    uint64_t calls = calls_of_a_run(mapped, seed);
    for (uint64_t n = 1; n < calls + 5; n += stride(calls, 120, &rng)) {
        machine x = machine_new(mapped, seed);
        at.call = n;
        lk_sim_crash_at(x.sim, n);
        machine_run(&x, STEPS);
        check_cut(x.sim, &x, LK_SIM_KEEP_ALL, &rng);
        check_cut(x.sim, &x, LK_SIM_LOSE_UNSYNCED, &rng);
        for (int i = 0; i < 4; i++) check_cut(x.sim, &x, LK_SIM_RANDOM, &rng);
        machine_free(&x);
    }
}

LK_TEST(power_may_go_at_any_call_of_a_mapped_store) { power_cut_everywhere(true); }
LK_TEST(power_may_go_at_any_call_of_a_written_store) { power_cut_everywhere(false); }

/* The process is killed when one of its threads is at call n: the others come to nothing any more
 * with any call, but what they store until they notice is in the kernel. */
static void kill_everywhere(bool mapped)
{
    uint64_t rng = lk_test_seed() ^ 1, seed = lk_test_rand(&rng);
    uint64_t calls = 2 * calls_of_a_run(mapped, seed);
    for (uint64_t n = 1; n < calls + 5; n += stride(calls, 120, &rng)) {
        machine x = machine_new(mapped, seed);
        at.call = n;
        at.cut = 0;
        at.what = "killed";
        CHECK(lk_sim_fail(x.sim, LK_SIM_ANY, n, EIO, true));
        machine_run(&x, STEPS);
        lk_sim_kill(x.sim);
        lk_sim *copy = lk_sim_clone(x.sim);
        if (lk_test_below(&rng, 3) == 0) {
            at.what = "killed, and again in recovery";
            machine_nest(copy, &x.options, &rng, true);
        }
        (void)machine_check(copy, &x.options, x.model, x.model->acknowledged);
        lk_sim_free(copy);
        check_cut(x.sim, &x, LK_SIM_RANDOM, &rng);
        machine_free(&x);
    }
}

LK_TEST(a_process_may_be_killed_at_any_call_of_a_mapped_store) { kill_everywhere(true); }
LK_TEST(a_process_may_be_killed_at_any_call_of_a_written_store) { kill_everywhere(false); }

/* In the written backing the log is in the kernel alone, so that the machine can be stopped in the
 * middle of a pwrite, at the end of some page. */
LK_TEST(a_process_may_be_killed_within_any_write_of_a_written_store)
{
    uint64_t rng = lk_test_seed() ^ 2, seed = lk_test_rand(&rng);
    uint64_t calls = calls_of_a_run(false, seed);
    for (uint64_t n = 1; n < calls + 5; n += stride(calls, 120, &rng)) {
        machine x = machine_new(false, seed);
        x.options.segment_bytes = 65536; /* of many pages, which frames lie across */
        at.call = n;
        at.cut = 0;
        at.what = "killed within a write";
        lk_sim_crash_at(x.sim, n);
        machine_run(&x, STEPS);
        lk_sim_kill(x.sim);
        (void)machine_check(x.sim, &x.options, x.model, x.model->acknowledged);
        machine_free(&x);
    }
}

/* One store through many lives, each of which ends badly; what a life leaves is the next one's. */
static void many_lives(bool mapped)
{
    uint64_t rng = lk_test_seed() ^ 3;
    int rounds = getenv("LK_SOAK") != NULL ? 200 : 40;
    for (int round = 0; round < rounds; round++) {
        machine x = machine_new(mapped, lk_test_rand(&rng));
        for (int life = 0; life < 12; life++) {
            bool kill = lk_test_below(&rng, 2) == 0;
            uint64_t n = 1 + lk_test_below(&rng, lk_test_below(&rng, 2) == 0 ? 20 : 200);
            at.call = n;
            at.cut = lk_test_rand(&rng);
            at.what = kill ? "a life that was killed" : "a life without power";
            if (kill) {
                CHECK(lk_sim_fail(x.sim, LK_SIM_ANY, n, EIO, true));
            } else {
                lk_sim_crash_at(x.sim, lk_sim_calls(x.sim) + n);
            }
            machine_run(&x, STEPS);
            if (kill) {
                lk_sim_kill(x.sim);
            } else {
                lk_sim_power_cut(x.sim, (lk_sim_cut)lk_test_below(&rng, 3), at.cut);
            }
            lk_error err;
            lk_store *s;
            lk_sim *copy = lk_sim_clone(x.sim);
            lk_store_options ro = x.options;
            ro.read_only = true;
            lk_status st = lk_store_open(lk_sim_env(copy), STORE_DIR, &ro, &s, &err);
            if (st == LK_NOT_FOUND && x.model->acknowledged == 0) {
                lk_sim_free(copy); /* it died before it made anything */
                model_cut(x.model, 0);
                continue;
            }
            if (st != LK_OK) fail_here("the store does not open", x.model, 0, &err);
            uint32_t least = kill ? x.model->acknowledged : x.model->durable;
            uint32_t found = store_find(s, x.model, least);
            store_close(s);
            lk_sim_free(copy);
            model_cut(x.model, found);
            x.model->acknowledged = found;
            if (!kill) x.model->durable = found;
        }
        at.what = "after its last life";
        (void)machine_check(x.sim, &x.options, x.model, x.model->acknowledged);
        machine_free(&x);
    }
}

LK_TEST(a_mapped_store_lives_through_many_ends) { many_lives(true); }
LK_TEST(a_written_store_lives_through_many_ends) { many_lives(false); }
