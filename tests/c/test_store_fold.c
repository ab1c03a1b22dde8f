/* test_store_fold.c: deadlines and operands in a store: what is read is what was written, whatever was
 * flushed, compacted, lost with the power or read back from the log, and whenever.
 *
 * A model keeps every write that was ever made, with its time, and evaluates it by the definition at
 * the head of fold.h. Random work with tiny segments on a simulated machine, whose clock the test
 * moves, is compared with it: point reads, scans in both directions, columns and snapshots.
 */
#include "harness.h"

#include "store_fixture.h"

enum { KEYS = 12, WRITES_MAX = 4000, PLAIN = 0, RENEWED = 1, TREES = 2 };

#define TREE_TTL_US 400000u /* of tree 1 */

/* ---- model ---- */

typedef struct entry {
    uint32_t tree, key;
    lk_kind kind;      /* without UNTIL */
    uint64_t deadline; /* UINT64_MAX: none */
    uint64_t written;
    uint64_t value;
} entry;

typedef struct model { /* write i has sequence i + 1 */
    entry writes[WRITES_MAX];
    uint32_t count;
} model;

/* What the writes up to `seq` say of a key at time t: a sum. */
static bool model_get(const model *m, uint32_t tree, uint32_t key, uint64_t seq, uint64_t t,
                      uint64_t *out)
{
    uint64_t sum = 0;
    bool any = false;
    uint64_t i = seq < m->count ? seq : m->count;
    while (i-- > 0) {
        const entry *w = &m->writes[i];
        if (w->tree != tree || w->key != key) continue;
        if (w->kind == LK_KIND_DELETE || t >= w->deadline) break;
        sum += w->value;
        any = true;
        if (w->kind == LK_KIND_PUT) break;
        if (w->deadline != UINT64_MAX) t = w->written;
    }
    *out = sum;
    return any;
}

/* ---- the store ---- */

typedef struct rig {
    lk_sim *sim;
    lk_store_options options;
    lk_store *s;
    model *m;
    uint64_t *rng;
    lk_snapshot *snapshots[3];
    uint32_t snapshot_count;
} rig;

static void key_of(uint32_t key, char *out) { (void)snprintf(out, 8, "k%02u", key); }

static uint64_t now_of(const rig *r) { return lk_env_wall_us(lk_sim_env(r->sim)); }

static lk_settings *settings_new(lk_sim *sim)
{
    lk_error err;
    lk_settings *out;
    lk_tree_settings trees[TREES] = {{.tree = PLAIN, .ttl_us = LK_TTL_NONE},
                                     {.tree = RENEWED, .ttl_us = TREE_TTL_US}};
    for (int i = 0; i < TREES; i++) {
        CHECK_OK(lk_operator_parse("add_int64", &trees[i].op, &err), &err);
    }
    CHECK_OK(lk_settings_new(lk_sim_env(sim), trees, TREES, &out, &err), &err);
    for (int i = 0; i < TREES; i++) lk_operator_unref(trees[i].op);
    return out;
}

static rig rig_new(uint64_t *rng, bool mapped)
{
    rig r = {
        .sim = lk_sim_new(lk_test_below(rng, 1000)), .rng = rng, .m = calloc(1, sizeof(model))};
    CHECK(r.m != NULL);
    r.options = store_options(mapped, 4096);
    r.options.block_bytes = 256;
    r.options.table_bytes = 4096;
    r.options.settings = settings_new(r.sim);
    r.s = store_open(r.sim, &r.options);
    return r;
}

static void drop_snapshots(rig *r)
{
    while (r->snapshot_count > 0) lk_store_release(r->s, r->snapshots[--r->snapshot_count]);
}

static void rig_free(rig *r)
{
    drop_snapshots(r);
    store_close(r->s);
    lk_settings_unref(r->options.settings);
    lk_sim_free(r->sim);
    free(r->m);
}

/* ---- writing ---- */

/* One row, by one of the ways into the log. The simulated clock moves with every call, so the time of
 * the write is taken from the record itself. */
static void rig_write(rig *r, uint32_t tree, uint32_t key, lk_kind kind, uint64_t ttl_us)
{
    char name[8];
    lk_error err;
    uint64_t value = 1 + lk_test_below(r->rng, 1000);
    CHECK(r->m->count < WRITES_MAX);
    key_of(key, name);
    lk_bytes k = {(const uint8_t *)name, strlen(name)};
    lk_bytes v = {(const uint8_t *)&value, kind == LK_KIND_DELETE ? 0 : sizeof value};
    lk_column keys = {.form = LK_COLUMN_SPANS, .count = 1, .spans = &k};
    lk_column values = {.form = LK_COLUMN_SPANS, .count = 1, .spans = &v};
    lk_write w = {.timeout_ns = UINT64_MAX, .tree = tree, .kind = kind, .records = 1};
    uint8_t body[64];
    /* In a batch an operand lives as long as its tree says. */
    uint64_t of_tree = tree == RENEWED ? TREE_TTL_US : LK_TTL_NONE;
    switch (lk_test_below(r->rng, kind == LK_KIND_MERGE && ttl_us != of_tree ? 2 : 3)) {
    case 0:
        if (kind != LK_KIND_DELETE &&
            lk_store_try_put_for(r->s, tree, kind, k.data, (uint32_t)k.len, v.data, (uint32_t)v.len,
                                 ttl_us) == LK_OK) {
            break;
        }
        /* fall through */
    case 1:
        w.keys = &keys;
        w.values = kind == LK_KIND_DELETE ? NULL : &values;
        w.has_ttl = ttl_us != LK_TTL_NONE;
        w.ttl_us = ttl_us;
        CHECK_OK(store_call(r->s, &w, &err), &err);
        break;
    default: { /* as a batch has it: how long a put lives where the deadline will be */
        bool headed = kind == LK_KIND_PUT;
        uint8_t *end =
            lk_record_write_headed(body, tree, headed ? LK_KIND_PUT_UNTIL : kind, k.data, k.len,
                                   (const uint8_t *)&ttl_us, headed ? 8 : 0, v.data, v.len);
        w.body = body;
        w.body_bytes = (uint64_t)(end - body);
        w.stamp = true;
        CHECK_OK(store_call(r->s, &w, &err), &err);
    }
    }
    /* The record says when. */
    lk_view *view = lk_store_view(r->s);
    lk_record record = lk_segment_record(view->segments[0], view->segments[0]->count - 1);
    entry *note = &r->m->writes[r->m->count++];
    *note = (entry){.tree = tree, .key = key, .kind = kind, .value = value, .deadline = UINT64_MAX};
    CHECK_EQ((record.kind & LK_KIND_UNTIL) != 0, ttl_us != LK_TTL_NONE && kind != LK_KIND_DELETE);
    if ((record.kind & LK_KIND_UNTIL) != 0) {
        note->deadline = lk_kind_deadline(record.kind, record.value);
        note->written = note->deadline - ttl_us;
        if (lk_kind_is_merge(record.kind)) CHECK_EQ(lk_load64(record.value), note->written);
    }
    lk_view_unref(view);
}

static void rig_write_some(rig *r)
{
    static const lk_kind KINDS[] = {LK_KIND_PUT,   LK_KIND_PUT,   LK_KIND_DELETE, LK_KIND_MERGE,
                                    LK_KIND_MERGE, LK_KIND_MERGE, LK_KIND_MERGE};
    uint32_t tree = (uint32_t)lk_test_below(r->rng, TREES);
    uint32_t key = (uint32_t)lk_test_below(r->rng, KEYS);
    lk_kind kind = KINDS[lk_test_below(r->rng, sizeof KINDS / sizeof *KINDS)];
    uint64_t ttl_us = tree == RENEWED ? TREE_TTL_US : LK_TTL_NONE;
    if (kind == LK_KIND_PUT && lk_test_below(r->rng, 2) == 0) {
        ttl_us = lk_test_below(r->rng, 500000);
    }
    rig_write(r, tree, key, kind, ttl_us);
}

/* ---- comparing ---- */

static void check_value(const char *key, lk_bytes found, uint64_t expected)
{
    if (found.len == 8 && lk_load64(found.data) == expected) return;
    lk_test_fail(__FILE__, __LINE__, "%s: %zu bytes, %llu, not %llu", key, found.len,
                 (unsigned long long)(found.len == 8 ? lk_load64(found.data) : 0),
                 (unsigned long long)expected);
}

/* The clock moves with every reading: a row whose deadline falls into the time of the read may be there
 * or not. */
static bool is_there(const rig *r, uint32_t tree, uint32_t key, uint64_t seq, uint64_t from,
                     uint64_t to, uint64_t *out, bool *out_sure)
{
    uint64_t later;
    bool found = model_get(r->m, tree, key, seq, from, out);
    *out_sure = model_get(r->m, tree, key, seq, to, &later) == found && later == *out;
    return found;
}

static void check_gets(rig *r, uint32_t tree, uint64_t seq)
{
    for (uint32_t i = 0; i < KEYS; i++) {
        char key[8], found[STORE_VALUE_MAX];
        uint64_t expected, from = now_of(r);
        bool sure;
        key_of(i, key);
        bool got = store_get_at(r->s, tree, key, seq, found);
        bool there = is_there(r, tree, i, seq, from, now_of(r), &expected, &sure);
        if (!sure) continue;
        if (there != got) {
            lk_test_fail(__FILE__, __LINE__, "%s of tree %u is %s", key, tree,
                         got ? "there" : "not there");
        }
        if (got) check_value(key, (lk_bytes){(const uint8_t *)found, 8}, expected);
    }
}

/* Rows of a scan, or of columns, against the model, in either direction. */
static void check_rows(rig *r, uint32_t tree, uint64_t seq, bool reverse, uint64_t from,
                       const lk_pair *rows, size_t count)
{
    size_t at = 0;
    for (uint32_t j = 0; j < KEYS; j++) {
        uint32_t i = reverse ? KEYS - 1 - j : j;
        char key[8];
        uint64_t expected;
        bool sure, got, there = is_there(r, tree, i, seq, from, now_of(r), &expected, &sure);
        key_of(i, key);
        got = at < count && lk_bytes_equal(rows[at].key.data, rows[at].key.len,
                                           (const uint8_t *)key, strlen(key));
        if (sure && got != there) {
            lk_test_fail(__FILE__, __LINE__, "%s of tree %u is %s in a scan", key, tree,
                         got ? "there" : "not there");
        }
        if (got && sure) check_value(key, rows[at].value, expected);
        at += got;
    }
    CHECK_EQ(at, count);
}

static void *grow(void *old, size_t old_bytes, size_t new_bytes)
{
    (void)old_bytes;
    return realloc(old, new_bytes);
}

static void check_scan(rig *r, uint32_t tree, uint64_t seq, bool reverse, bool columns)
{
    lk_error err;
    lk_cursor *c;
    lk_pair rows[KEYS + 1];
    size_t count = 0, n;
    uint64_t now, from = now_of(r), counted;
    lk_bounds all = {{NULL, 0}, {NULL, 0}};
    lk_view *v = lk_store_view_now(r->s, &now);
    if (seq > now) seq = now;
    CHECK_OK(lk_cursor_open(v, tree, seq, &all, reverse, &c, &err), &err);
    if (columns) {
        lk_columns_out out = {.grow = grow};
        CHECK_OK(lk_cursor_next_columns(c, KEYS + 1, &out, &err), &err);
        for (size_t i = 0; i < out.rows; i++) {
            CHECK(out.key_width == 3 && out.value_width == 8);
            rows[i] = (lk_pair){{out.keys + 3 * i, 3}, {out.values + 8 * i, 8}};
        }
        check_rows(r, tree, seq, reverse, from, rows, out.rows);
        free(out.keys);
        free(out.values);
        free(out.key_offsets);
        free(out.value_offsets);
    } else {
        /* Rows of one call are good until the next: one call for all of them, but at range ends. */
        CHECK_OK(lk_cursor_next(c, rows, KEYS + 1, &n, &err), &err);
        count = n;
        check_rows(r, tree, seq, reverse, from, rows, count);
        CHECK_OK(lk_cursor_next(c, rows, KEYS + 1, &n, &err), &err);
        CHECK_EQ(n, 0);
    }
    CHECK_OK(lk_cursor_count(c, &counted, &err), &err);
    CHECK_EQ(counted, 0);
    lk_cursor_close(c);
    lk_view_unref(v);
}

static void check_everything(rig *r)
{
    for (uint32_t tree = 0; tree < TREES; tree++) {
        check_gets(r, tree, LK_SEQ_MAX - 1);
        check_scan(r, tree, LK_SEQ_MAX - 1, lk_test_below(r->rng, 2) == 0,
                   lk_test_below(r->rng, 2) == 0);
        for (uint32_t i = 0; i < r->snapshot_count; i++) {
            check_gets(r, tree, r->snapshots[i]->seq);
            check_scan(r, tree, r->snapshots[i]->seq, lk_test_below(r->rng, 2) == 0, false);
        }
    }
}

/* ---- the work ---- */

/* What a power cut leaves is a prefix of the writes, and the model is cut to it. */
static void end_and_reopen(rig *r)
{
    uint64_t last;
    switch (lk_test_below(r->rng, 3)) {
    case 0:
        store_kill(r->sim, r->s);
        break;
    case 1:
        if (lk_test_below(r->rng, 2) == 0) store_sync(r->s);
        lk_sim_power_cut(r->sim, LK_SIM_RANDOM, lk_test_rand(r->rng));
        store_abandon(r->s);
        break;
    default:
        store_close(r->s);
        break;
    }
    r->s = store_open(r->sim, &r->options);
    lk_view_unref(lk_store_view_now(r->s, &last));
    CHECK(last <= r->m->count);
    r->m->count = (uint32_t)last;
}

static void one_step(rig *r)
{
    lk_error err;
    lk_status st;
    switch (lk_test_below(r->rng, 24)) {
    case 0:
        store_flush(r->s);
        break;
    case 1:
        (void)store_compact(r->s, (uint32_t)lk_test_below(r->rng, TREES), &st);
        CHECK_EQ(st, LK_OK);
        break;
    case 2:
        if (r->snapshot_count == 3) {
            drop_snapshots(r);
        } else {
            CHECK_OK(lk_store_snapshot(r->s, &r->snapshots[r->snapshot_count++], &err), &err);
        }
        break;
    case 3:
        lk_sim_advance(r->sim, lk_test_below(r->rng, 300000000));
        break;
    case 4:
        drop_snapshots(r);
        end_and_reopen(r);
        break;
    default:
        rig_write_some(r);
        break;
    }
}

static void play(uint64_t *rng, bool mapped, int steps)
{
    rig r = rig_new(rng, mapped);
    for (int i = 0; i < steps; i++) {
        one_step(&r);
        if (i % 7 == 0) check_everything(&r);
    }
    check_everything(&r);
    rig_free(&r);
}

LK_TEST(every_read_is_what_the_writes_say_in_a_mapped_store)
{
    uint64_t rng = lk_test_seed();
    for (int i = 0; i < 6; i++) play(&rng, true, 400);
}

LK_TEST(every_read_is_what_the_writes_say_in_a_written_store)
{
    uint64_t rng = lk_test_seed();
    for (int i = 0; i < 4; i++) play(&rng, false, 400);
}

/* ---- what is left on the disk ---- */

LK_TEST(expired_rows_leave_the_tables)
{
    uint64_t rng = lk_test_seed();
    rig r = rig_new(&rng, true);
    lk_status st;
    for (uint32_t round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < KEYS; i++) rig_write(&r, RENEWED, i, LK_KIND_PUT, 1000000);
        store_flush(r.s);
    }
    CHECK_EQ(store_table_rows(r.s, RENEWED), 2 * KEYS);
    lk_sim_advance(r.sim, 2000000000);
    CHECK(store_compact(r.s, RENEWED, &st));
    CHECK_EQ(st, LK_OK);
    CHECK_EQ(store_table_rows(r.s, RENEWED), 0);
    rig_free(&r);
}

LK_TEST(a_row_that_was_renewed_in_the_log_does_not_leave_the_tables)
{
    uint64_t rng = lk_test_seed();
    rig r = rig_new(&rng, true);
    lk_status st;
    for (uint32_t round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < KEYS; i++) rig_write(&r, RENEWED, i, LK_KIND_PUT, 1000000);
        store_flush(r.s);
    }
    rig_write(&r, RENEWED, 3, LK_KIND_MERGE, 3000000);
    lk_sim_advance(r.sim, 2000000000);
    CHECK(store_compact(r.s, RENEWED, &st));
    CHECK_EQ(st, LK_OK);
    CHECK_EQ(store_table_rows(r.s, RENEWED), 1);
    check_everything(&r);
    rig_free(&r);
}

LK_TEST(what_is_not_proved_yet_may_have_renewed_any_row)
{
    uint64_t rng = lk_test_seed(), hash = lk_hash_key(RENEWED, (const uint8_t *)"k99", 3);
    rig r = rig_new(&rng, true);
    rig_write(&r, RENEWED, 1, LK_KIND_PUT, 1000000);
    lk_view *v = lk_store_view(r.s);
    lk_view *copy = lk_view_new(v->segments, v->segment_count, v->version, v->settings);
    CHECK(copy != NULL);
    CHECK(!lk_view_has_newer(copy, 0, RENEWED, (const uint8_t *)"k99", 3, hash));
    copy->unproved = true;
    CHECK(lk_view_has_newer(copy, 0, RENEWED, (const uint8_t *)"k99", 3, hash));
    lk_view_unref(copy);
    lk_view_unref(v);
    rig_free(&r);
}

LK_TEST(operands_become_one_row_where_nothing_is_older)
{
    uint64_t rng = lk_test_seed();
    rig r = rig_new(&rng, true);
    for (int i = 0; i < 3000; i++)
        rig_write(&r, PLAIN, (uint32_t)i % 2, LK_KIND_MERGE, LK_TTL_NONE);
    store_flush(r.s);
    check_everything(&r);
    lk_status st;
    (void)store_compact(r.s, PLAIN, &st);
    CHECK_EQ(st, LK_OK);
    CHECK_EQ(store_table_rows(r.s, PLAIN), 2);
    check_everything(&r);
    rig_free(&r);
}
