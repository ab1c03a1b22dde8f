/* Whatever call the machine stops at, a B+tree opens again with what was written up to some write, all
 * that was acknowledged as its durability says, and every page used once.
 *
 * The same writes are done again and again, and the machine stops one changing call later each time. */
#include "btree_fixture.h"
#include "hash.h"

enum { WRITES = 130, BATCH = 12 };

static uint64_t digests[WRITES + 1]; /* of the rows after so many writes */
static bool is_synced[WRITES];
static uint8_t key_bytes[LK_KEY_BYTES_MAX + 1], value_bytes[16384];

static uint64_t digest_of(lk_btree *t)
{
    lk_error err;
    lk_bytes none = {NULL, 0};
    lk_btree_scan s;
    uint64_t sum = 1;
    CHECK_OK(lk_btree_scan_init(&s, t, none, none, false, &err), &err);
    for (;;) {
        CHECK_OK(lk_btree_scan_fill(&s, LK_BTREE_ROWS, &err), &err);
        if (s.count == 0) break;
        for (uint32_t i = 0; i < s.count; i++) {
            lk_btree_row row = lk_btree_scan_row(&s, i);
            sum = lk_hash_bytes(sum, row.value.len, row.key.data, row.key.len);
            sum = lk_hash_bytes(sum, row.key.len, row.value.data, row.value.len);
        }
    }
    lk_btree_scan_deinit(&s);
    return sum;
}

/* Write number `i`: a batch, or one row; some wait for the disk. The same for the same seed. */
static lk_status write_at(lk_btree *t, uint64_t seed, uint32_t i, lk_error *err)
{
    static uint8_t body[BATCH * 16384];
    uint64_t rng = seed + i * UINT64_C(0x9E3779B97F4A7C15) + 1, records = 0;
    uint8_t *to = body;
    is_synced[i] = lk_test_below(&rng, 3) == 0;
    lk_durability durability = is_synced[i] ? LK_DURABILITY_SYNC : LK_DURABILITY_PROCESS;
    lk_bytes none = {NULL, 0};
    if (i % 3 != 0) {
        lk_bytes key = random_key(&rng, key_bytes, 160);
        if (i % 5 == 1) return tree_write(t, LK_KIND_DELETE, key, none, durability, err);
        return tree_write(t, LK_KIND_PUT, key, random_value(&rng, value_bytes), durability, err);
    }
    for (; records < BATCH; records++) {
        lk_bytes key = random_key(&rng, key_bytes, 160), value = random_value(&rng, value_bytes);
        bool is_delete = records % 4 == 3;
        to = lk_record_write(to, 0, is_delete ? LK_KIND_DELETE : LK_KIND_PUT, key.data, key.len,
                             value.data, is_delete ? 0 : value.len);
    }
    lk_btree_write w = {.durability = durability,
                        .body = body,
                        .body_bytes = (uint64_t)(to - body),
                        .records = records};
    return lk_btree_write_all(t, &w, err);
}

/* Opens, writes, closes; stops when the machine does. Gives the writes that were acknowledged, and
 * how many of them are covered by one that waited for the disk. */
static void run(lk_sim *sim, uint64_t seed, bool notes, uint32_t *out_done, uint32_t *out_synced)
{
    lk_btree_options o = small_options();
    lk_btree *t;
    lk_error err;
    *out_done = *out_synced = 0;
    if (lk_btree_open(lk_sim_env(sim), "/tree", &o, &t, &err) != LK_OK) return;
    if (notes) digests[0] = digest_of(t);
    for (uint32_t i = 0; i < WRITES; i++) {
        lk_status st = write_at(t, seed, i, &err);
        if (lk_sim_is_dead(sim)) break;
        CHECK_OK(st, &err);
        *out_done = i + 1;
        if (is_synced[i]) *out_synced = i + 1;
        if (notes) digests[i + 1] = digest_of(t);
    }
    (void)lk_btree_close(t, NULL);
    lk_btree_free(t);
}

/* Whether the tree is there as after some write, at least `least`. */
static void look(lk_sim *sim, uint32_t least, uint64_t n)
{
    lk_btree_options o = small_options();
    lk_btree *t;
    lk_error err;
    if (least == 0) {
        /* It may have been stopped before the tree was made. */
        CHECK_OK(lk_btree_open(lk_sim_env(sim), "/tree", &o, &t, &err), &err);
    } else {
        o.create_if_missing = false;
        CHECK_OK(lk_btree_open(lk_sim_env(sim), "/tree", &o, &t, &err), &err);
    }
    tree_prove(t);
    uint64_t digest = digest_of(t);
    uint32_t i = least;
    while (i <= WRITES && digests[i] != digest) i++;
    if (i > WRITES) {
        lk_test_fail(__FILE__, __LINE__, "stopped at call %llu: not as after any write from %u on",
                     (unsigned long long)n, least);
    }
    tree_close(t);
}

static void stop_everywhere(bool may_map, bool by_power)
{
    uint64_t seed = lk_test_seed();
    uint32_t done, synced;
    lk_sim *sim = lk_sim_new(seed);
    lk_sim_set_may_map(sim, may_map);
    run(sim, seed, true, &done, &synced);
    CHECK_EQ(done, WRITES);
    uint64_t calls = lk_sim_calls(sim);
    lk_sim_free(sim);
    CHECK(calls > 150);
    for (uint64_t n = 1; n <= calls; n++) {
        sim = lk_sim_new(seed + n);
        lk_sim_set_may_map(sim, may_map);
        lk_sim_set_writeback(sim, n % 3 == 0 ? 100 : 0);
        lk_sim_crash_at(sim, n);
        run(sim, seed, false, &done, &synced);
        if (by_power) {
            lk_sim_power_cut(sim, n % 4 == 0 ? LK_SIM_LOSE_UNSYNCED : LK_SIM_RANDOM, n);
        } else {
            lk_sim_kill(sim);
        }
        look(sim, by_power ? synced : done, n);
        lk_sim_free(sim);
    }
}

LK_TEST(power_may_go_at_any_call) { stop_everywhere(true, true); }
LK_TEST(power_may_go_at_any_call_where_the_log_is_written) { stop_everywhere(false, true); }
LK_TEST(the_process_may_be_killed_at_any_call) { stop_everywhere(true, false); }

/* Power that goes while a tree is being recovered takes nothing away. */
LK_TEST(power_may_go_while_it_is_recovered)
{
    uint64_t seed = lk_test_seed();
    uint32_t done, synced;
    lk_sim *sim = lk_sim_new(seed);
    run(sim, seed, true, &done, &synced);
    uint64_t calls = lk_sim_calls(sim);
    lk_sim_free(sim);
    for (uint64_t n = calls / 3; n <= calls; n += 7) {
        sim = lk_sim_new(seed + n);
        lk_sim_crash_at(sim, n);
        run(sim, seed, false, &done, &synced);
        lk_sim_power_cut(sim, LK_SIM_RANDOM, n);
        for (uint64_t more = 1; more < 30; more += 3) {
            lk_btree_options o = small_options();
            lk_btree *t;
            lk_sim_crash_at(sim, lk_sim_calls(sim) + more);
            if (lk_btree_open(lk_sim_env(sim), "/tree", &o, &t, NULL) == LK_OK) {
                (void)lk_btree_close(t, NULL);
                lk_btree_free(t);
            }
            lk_sim_power_cut(sim, LK_SIM_RANDOM, n + more);
        }
        look(sim, synced, n);
        lk_sim_free(sim);
    }
}
