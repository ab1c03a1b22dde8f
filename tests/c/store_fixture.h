/* store_fixture.h: a store on a simulated machine, and its calls in one line each.
 *
 * Include after harness.h. Keys and values are texts; a value that is NULL is a delete. With `stop` an
 * operation deletes the range from its key on, "" stands for the end.
 */
#ifndef LK_STORE_FIXTURE_H
#define LK_STORE_FIXTURE_H

#include "env_sim.h"
#include "store.h"

#define STORE_DIR "/s"
#define STORE_VALUE_MAX 4096

typedef struct store_op { /* of a batch */
    uint32_t tree;
    const char *key, *value, *stop;
} store_op;

/* Small segments, so that little work makes many of them. */
LK_TEST_UNUSED static lk_store_options store_options(bool mapped, uint32_t segment_bytes)
{
    lk_store_options o;
    lk_store_options_init(&o);
    o.segment_bytes = segment_bytes;
    o.cache_bytes = 1 << 20;
    o.table_bytes = 1 << 20;
    o.block_bytes = 1024;
    o.background_threads = 1;
    o.late_min = 4096;
    o.log_io = mapped ? LK_LOG_MAPPED : LK_LOG_WRITTEN;
    return o;
}

LK_TEST_UNUSED static lk_store *store_open(lk_sim *sim, const lk_store_options *options)
{
    lk_error err;
    lk_store *s;
    CHECK_OK(lk_store_open(lk_sim_env(sim), STORE_DIR, options, &s, &err), &err);
    return s;
}

LK_TEST_UNUSED static void store_close(lk_store *s)
{
    lk_error err;
    CHECK_OK(lk_store_close(s, &err), &err);
    lk_store_free(s);
}

/* The process is killed: what the kernel had is kept, and the handle is of no use any more. */
LK_TEST_UNUSED static void store_kill(lk_sim *sim, lk_store *s)
{
    lk_sim_kill(sim);
    (void)lk_store_close(s, NULL);
    lk_store_free(s);
}

/* Closed, whatever becomes of its flush: for machines that are dead or full. */
LK_TEST_UNUSED static void store_abandon(lk_store *s)
{
    (void)lk_store_close(s, NULL);
    lk_store_free(s);
}

/* ---- writing ---- */

static lk_status store_call(lk_store *s, const lk_write *w, lk_error *err)
{
    lk_status st = lk_store_enter(s, err);
    if (st != LK_OK) return st;
    st = lk_store_write(s, w, err);
    lk_store_leave(s);
    return st;
}

LK_TEST_UNUSED static lk_status store_write(lk_store *s, uint32_t tree, const char *key,
                                            const char *value, lk_durability durability,
                                            lk_error *err)
{
    lk_kind kind = value != NULL ? LK_KIND_PUT : LK_KIND_DELETE;
    lk_bytes k = {(const uint8_t *)key, strlen(key)};
    lk_bytes v = {(const uint8_t *)value, value != NULL ? strlen(value) : 0};
    if (durability != LK_DURABILITY_SYNC) {
        lk_status st = lk_store_try_put(s, tree, kind, k.data, (uint32_t)k.len, v.data,
                                        (uint32_t)v.len, lk_hash_key(tree, k.data, k.len));
        if (st == LK_OK) return LK_OK;
    }
    lk_column keys = {.form = LK_COLUMN_SPANS, .count = 1, .spans = &k};
    lk_column values = {.form = LK_COLUMN_SPANS, .count = 1, .spans = &v};
    lk_write w = {
        .durability = durability,
        .timeout_ns = UINT64_MAX,
        .tree = tree,
        .kind = kind,
        .keys = &keys,
        .values = value != NULL ? &values : NULL,
        .records = 1,
    };
    return store_call(s, &w, err);
}

LK_TEST_UNUSED static void store_put(lk_store *s, uint32_t tree, const char *key, const char *value)
{
    lk_error err;
    CHECK_OK(store_write(s, tree, key, value, LK_DURABILITY_PROCESS, &err), &err);
}

static lk_kind op_kind(const store_op *op)
{
    return op->stop != NULL    ? LK_KIND_DELETE_RANGE
           : op->value != NULL ? LK_KIND_PUT
                               : LK_KIND_DELETE;
}

static const char *op_value(const store_op *op)
{
    return op->stop != NULL ? op->stop : op->value != NULL ? op->value : "";
}

LK_TEST_UNUSED static lk_status store_batch(lk_store *s, const store_op *ops, size_t count,
                                            lk_durability durability, lk_error *err)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        size_t value_len = strlen(op_value(&ops[i]));
        bytes += lk_record_bytes(ops[i].tree, strlen(ops[i].key), value_len);
    }
    uint8_t *body = malloc(bytes), *to = body;
    CHECK(body != NULL);
    for (size_t i = 0; i < count; i++) {
        const char *value = op_value(&ops[i]);
        to = lk_record_write(to, ops[i].tree, op_kind(&ops[i]), (const uint8_t *)ops[i].key,
                             strlen(ops[i].key), (const uint8_t *)value, strlen(value));
    }
    lk_write w = {
        .durability = durability,
        .timeout_ns = UINT64_MAX,
        .body = body,
        .body_bytes = bytes,
        .records = count,
    };
    lk_status st = store_call(s, &w, err);
    free(body);
    return st;
}

LK_TEST_UNUSED static void store_delete_range(lk_store *s, uint32_t tree, const char *start,
                                              const char *stop)
{
    lk_error err;
    store_op op = {.tree = tree, .key = start, .stop = stop};
    CHECK_OK(store_batch(s, &op, 1, LK_DURABILITY_PROCESS, &err), &err);
}

LK_TEST_UNUSED static void store_flush(lk_store *s)
{
    lk_error err;
    CHECK_OK(lk_store_flush(s, &err), &err);
}

LK_TEST_UNUSED static void store_sync(lk_store *s)
{
    lk_error err;
    CHECK_OK(lk_store_sync(s, &err), &err);
}

/* ---- reading ---- */

/* The value as of `seq` in `out`, of STORE_VALUE_MAX bytes; false when there is none. */
LK_TEST_UNUSED static bool store_get_at(lk_store *s, uint32_t tree, const char *key, uint64_t seq,
                                        char *out)
{
    const uint8_t *k = (const uint8_t *)key;
    size_t len = strlen(key);
    uint64_t hash = lk_hash_key(tree, k, len);
    unsigned token;
    lk_answer answer = {.seq = 0};
    lk_error err;
    lk_view *v = lk_store_read_begin(s, &token);
    CHECK(v != NULL);
    lk_lookup found = lk_view_get(v, tree, k, len, hash, seq, &answer);
    if (found == LK_LOOKUP_VALUE) {
        CHECK(answer.value.len < STORE_VALUE_MAX);
        memcpy(out, answer.value.data, answer.value.len);
        out[answer.value.len] = 0;
    }
    lk_guard_exit(&s->guard, token);
    if (found != LK_LOOKUP_BLOCKED) return found == LK_LOOKUP_VALUE;
    lk_block *block;
    v = lk_store_view(s);
    CHECK_OK(lk_view_fetch(v, &s->guard, tree, k, len, hash, seq, &found, &answer, &block, &err),
             &err);
    if (found == LK_LOOKUP_VALUE) {
        CHECK(answer.value.len < STORE_VALUE_MAX);
        memcpy(out, answer.value.data, answer.value.len);
        out[answer.value.len] = 0;
    }
    lk_block_unref(block);
    lk_view_unref(v);
    return found == LK_LOOKUP_VALUE;
}

LK_TEST_UNUSED static void store_check(lk_store *s, uint32_t tree, const char *key,
                                       const char *value)
{
    char found[STORE_VALUE_MAX];
    bool is_there = store_get_at(s, tree, key, UINT64_MAX - 1, found);
    if (value == NULL) {
        if (is_there) lk_test_fail(__FILE__, __LINE__, "%s is there: %s", key, found);
    } else {
        if (!is_there) lk_test_fail(__FILE__, __LINE__, "%s is not there", key);
        CHECK_STR_EQ(found, value);
    }
}

/* Calls `row` for each row of a tree, in order; gives an error, or how many. */
LK_TEST_UNUSED static lk_status store_scan(lk_store *s, uint32_t tree, uint64_t seq, bool reverse,
                                           void (*row)(void *context, const lk_pair *pair),
                                           void *context, uint64_t *out_rows, lk_error *err)
{
    lk_status st = LK_OK;
    uint64_t now;
    lk_cursor *c = NULL;
    lk_view *v = lk_store_view_now(s, &now);
    lk_bounds all = {{NULL, 0}, {NULL, 0}};
    *out_rows = 0;
    LK_TRY(lk_cursor_open(v, tree, seq < now ? seq : now, &all, reverse, &c, err));
    for (;;) {
        lk_pair pairs[64];
        size_t n;
        LK_TRY(lk_cursor_next(c, pairs, 64, &n, err));
        if (n == 0) break;
        for (size_t i = 0; i < n; i++) row(context, &pairs[i]);
        *out_rows += n;
    }
done:
    lk_cursor_close(c);
    lk_view_unref(v);
    return st;
}

/* ---- jobs ---- */

/* Merges all tables of a tree's first range into its last run; false when there are fewer than two.
 * Waits for the report. */
LK_TEST_UNUSED static bool store_compact(lk_store *s, uint32_t tree, lk_status *out_status)
{
    lk_error err;
    uint64_t files[256], id;
    size_t n = 0;
    lk_view *v = lk_store_view(s);
    const lk_tree_version *t = lk_version_tree(v->version, tree);
    for (uint32_t i = 0; t != NULL && i < t->file_count && n < 256; i++)
        files[n++] = t->files[i].file;
    bool worth = n > 1 && t->range_count == 1;
    lk_view_unref(v);
    *out_status = LK_OK;
    if (!worth) return false;
    lk_job job = {
        .kind = LK_JOB_MERGE,
        .tree = tree,
        .files = files,
        .file_count = n,
        .out_level = LK_LEVEL_LAST,
        .cut_bytes = 64 << 10,
    };
    *out_status = lk_store_submit(s, &job, &id, &err);
    if (*out_status != LK_OK) return false;
    lk_job_report report;
    for (;;) {
        uint64_t seen = lk_event_generation(&s->decide);
        if (lk_store_take_report(s, &report)) break;
        (void)lk_event_wait_ns(&s->decide, seen, 100000000);
    }
    CHECK_EQ(report.id, id);
    *out_status = report.status;
    return true;
}

/* Rows that the tables of a tree hold, versions and deletes too. */
LK_TEST_UNUSED static uint64_t store_table_rows(lk_store *s, uint32_t tree)
{
    uint64_t rows = 0;
    lk_view *v = lk_store_view(s);
    const lk_tree_version *t = lk_version_tree(v->version, tree);
    for (uint32_t i = 0; t != NULL && i < t->file_count; i++) {
        rows += lk_table_meta_of(t->files[i].table)->rows;
    }
    lk_view_unref(v);
    return rows;
}

LK_TEST_UNUSED static size_t store_count_files(lk_sim *sim, const char *ending)
{
    lk_names names;
    lk_error err;
    size_t n = 0;
    CHECK_OK(lk_env_list(lk_sim_env(sim), STORE_DIR, &names, &err), &err);
    for (size_t i = 0; i < names.count; i++) {
        size_t len = strlen(names.names[i]), end = strlen(ending);
        n += len > end && strcmp(names.names[i] + len - end, ending) == 0;
    }
    lk_names_free(&names);
    return n;
}

#endif
