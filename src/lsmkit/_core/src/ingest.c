/* ingest.c: see ingest.h.
 *
 * Owns      the writers of its tables, until they are finished; the right to flush, while it takes its
 *           place.
 * Always    while writers are held, nothing but the rest of the log and the ends of the tables is
 *           written: the rows themselves are on the disk before.
 */
#include "ingest.h"

#include <stdlib.h>

#include "array.h"
#include "check.h"
#include "column_order.h"
#include "stamp.h"

#define ROWS 256u             /* handed to a table writer together */
#define STORED_BYTES 65536u   /* of values that are copied for their heads, unless one is larger */
#define REST_BYTES (1u << 20) /* of log that may be left for the time in which writers wait */
#define REST_TRIES 4          /* flushes after which it is as it is */

typedef struct ingest {
    lk_store *s;
    uint32_t tree;
    const lk_column *keys, *values;
    lk_column_order order;
    lk_table_options table;
    uint64_t table_bytes;
    lk_table_writer **writers;
    uint32_t count;
    size_t capacity;
    bool cut; /* the last table is large enough */
    lk_row rows[ROWS];
    uint8_t scratch[ROWS][2][8];
    uint32_t row_count;
    uint64_t row_bytes;
    lk_stamp stamp;  /* what rows of the tree are stored as */
    uint8_t *stored; /* values of `rows` behind their heads, where they have some */
    size_t stored_bytes, stored_capacity;
} ingest;

/* ---- tables ---- */

static lk_status table_begin(ingest *g, lk_error *err)
{
    lk_status st =
        lk_array_grow(&g->writers, g->count, &g->capacity, sizeof(lk_table_writer *), err);
    if (st != LK_OK) return st;
    st = lk_table_writer_new(g->s->env, g->s->dir, lk_manifest_next_file(g->s->manifest), g->tree,
                             &g->table, &g->writers[g->count], err);
    if (st == LK_OK) g->count++;
    return st;
}

static lk_status rows_write(ingest *g, lk_error *err)
{
    if (g->row_count == 0) return LK_OK;
    lk_table_writer *w = g->writers[g->count - 1];
    lk_status st = lk_table_writer_add(w, g->rows, g->row_count, err);
    g->row_count = 0;
    g->row_bytes = 0;
    g->stored_bytes = 0;
    if (st == LK_OK) g->cut = lk_table_writer_bytes(w) >= g->table_bytes;
    return st;
}

static lk_status table_end(ingest *g, lk_error *err)
{
    lk_status st = rows_write(g, err);
    g->cut = false;
    return st == LK_OK ? lk_table_writer_seal(g->writers[g->count - 1], err) : st;
}

/* Room for a value with its head, which is copied; rows that stand in the way are written. */
static lk_status room_make(ingest *g, size_t bytes, lk_error *err)
{
    if (g->stored_bytes + bytes <= g->stored_capacity) return LK_OK;
    lk_status st = rows_write(g, err);
    if (st != LK_OK || bytes <= g->stored_capacity) return st;
    size_t capacity = bytes < STORED_BYTES ? STORED_BYTES : bytes;
    free(g->stored);
    g->stored = malloc(capacity);
    g->stored_capacity = g->stored != NULL ? capacity : 0;
    return g->stored != NULL ? LK_OK : lk_fail_nomem(err, capacity);
}

static lk_bytes value_store(ingest *g, lk_bytes value)
{
    uint8_t *to = g->stored + g->stored_bytes;
    size_t head = g->stamp.head_bytes;
    memcpy(to, g->stamp.head, head);
    if (value.len > 0) memcpy(to + head, value.data, value.len);
    g->stored_bytes += head + value.len;
    return (lk_bytes){to, head + value.len};
}

static lk_status row_add(ingest *g, uint32_t row, lk_error *err)
{
    lk_status st = LK_OK;
    bool has_head = g->stamp.head_bytes > 0;
    /* Whether the table is large enough is looked at between the writes: they must not be large. */
    if (g->row_count == ROWS || g->row_bytes >= g->table_bytes / 8) {
        LK_TRY(rows_write(g, err));
    }
    if (has_head) {
        uint8_t scratch[8];
        size_t len = lk_column_row(g->values, row, scratch).len;
        LK_TRY(room_make(g, g->stamp.head_bytes + len, err));
    }
    if (g->cut) LK_TRY(table_end(g, err));
    if (g->row_count == 0 &&
        (g->count == 0 || lk_table_writer_is_sealed(g->writers[g->count - 1]))) {
        LK_TRY(table_begin(g, err));
    }
    uint8_t(*scratch)[8] = g->scratch[g->row_count];
    lk_bytes key = lk_column_row(g->keys, row, scratch[0]);
    lk_bytes value = lk_column_row(g->values, row, scratch[1]);
    if (has_head) value = value_store(g, value);
    g->row_bytes += (uint64_t)key.len + value.len;
    g->rows[g->row_count++] = (lk_row){
        .key = key.data,
        .value = value.data,
        .key_len = (uint32_t)key.len,
        .value_len = (uint32_t)value.len,
        .hash = lk_hash_key(g->tree, key.data, key.len),
        .kind = g->stamp.kind,
    };
done:
    return st;
}

static lk_status tables_write(ingest *g, lk_error *err)
{
    lk_status st = LK_OK;
    for (uint32_t i = 0; i < g->order.count; i++) {
        LK_TRY(row_add(g, lk_column_order_row(&g->order, i), err));
    }
    LK_TRY(table_end(g, err));
done:
    return st;
}

/* ---- the place in the commit order ---- */

/* As for writers: while there are too many runs already, there is no more. */
static lk_status wait_for_room(lk_store *s, lk_error *err)
{
    for (;;) {
        uint64_t seen = lk_event_generation(&s->changed);
        if (!lk_store_is_open(s)) return lk_store_closed_error(s, err);
        lk_status st = lk_store_failure(s, err);
        if (st != LK_OK) return st;
        if (atomic_load_explicit(&s->stopped, memory_order_relaxed) == 0) return LK_OK;
        (void)lk_event_wait_ns(&s->changed, seen, 100000000);
    }
}

/* Flushes until little of the log is left, or writers are as fast as the flush. */
static lk_status log_flush(lk_store *s, lk_error *err)
{
    lk_status st = LK_OK;
    for (int i = 0; i < REST_TRIES && lk_store_log_bytes(s) > REST_BYTES; i++) {
        uint64_t generation;
        lk_store_freeze(s, &generation);
        while (lk_store_frozen(s) > 0) LK_TRY(lk_store_flush_now(s, err));
    }
    while (lk_store_frozen(s) > 0) LK_TRY(lk_store_flush_now(s, err));
done:
    return st;
}

static lk_status tables_finish(ingest *g, uint64_t seq, lk_edit *edit, lk_error *err)
{
    lk_status st = LK_OK;
    lk_table_meta meta = {0};
    uint64_t stamp = lk_manifest_next_file(g->s->manifest);
    uint64_t now_us = lk_env_wall_us(g->s->env);
    for (uint32_t i = 0; i < g->count; i++) {
        lk_table_writer_set_seq(g->writers[i], seq);
        LK_TRY(lk_table_writer_finish(g->writers[i], &meta, err));
        meta.written = now_us;
        LK_TRY(lk_edit_add_table(edit, &meta, 0, stamp, NULL, err));
    }
    LK_TRY(lk_env_sync_dir(g->s->env, g->s->dir, err));
    edit->last_seq = seq;
done:
    lk_table_meta_deinit(&meta);
    return st;
}

/* Writers are held, and `seq` is the next sequence. */
static lk_status publish_at(ingest *g, uint64_t seq, lk_error *err)
{
    lk_status st = LK_OK;
    lk_store *s = g->s;
    bool lost = false; /* the edit may be found on reopening */
    lk_flush_work work;
    lk_edit edit;
    lk_edit_init(&edit);
    LK_TRY(lk_store_flush_tables(s, &work, &edit, err));
    st = tables_finish(g, seq, &edit, err);
    if (st == LK_OK) {
        lk_gap_memory_forget(&s->gaps, seq);
        st = lk_store_publish(s, &edit, err);
        lost = st == LK_IO;
    }
    lk_store_flush_end(s, &work, st == LK_OK);
    /* The log does not have these rows, so its history begins anew behind them. */
    if (st == LK_OK) lk_store_trim_history(s, 0);
done:
    if (st != LK_OK && !lost) lk_edit_unlink_added(&edit, s->env, s->dir);
    lk_edit_deinit(&edit);
    return st;
}

static lk_status place_take(ingest *g, lk_error *err)
{
    lk_store *s = g->s;
    lk_status st = wait_for_room(s, err);
    if (st != LK_OK) return st;
    lk_store_flush_claim(s);
    st = log_flush(s, err);
    if (st == LK_OK) {
        uint64_t seq = lk_store_hold(s);
        st = publish_at(g, seq, err);
        lk_store_resume(s, st == LK_OK ? seq + 1 : seq);
    }
    lk_store_flush_release(s);
    return st;
}

/* Rows live from now on as long as those that are put. */
static lk_stamp stamp_of(lk_store *s, uint32_t tree)
{
    lk_view *v = lk_store_view(s);
    uint64_t ttl_us = lk_settings_tree(v->settings, tree)->ttl_us;
    lk_view_unref(v);
    return lk_stamp_make(LK_KIND_PUT, ttl_us, lk_env_wall_us(s->env));
}

static void shape_take(ingest *g)
{
    lk_trees *trees = lk_store_trees(g->s);
    const lk_tree_shape *shape = lk_trees_shape(trees, g->tree);
    g->table = lk_store_table_options(g->s, shape);
    g->table_bytes = shape->table_bytes;
    lk_trees_unref(trees);
}

lk_status lk_store_ingest(lk_store *s, uint32_t tree, const lk_column *keys,
                          const lk_column *values, lk_error *err)
{
    lk_status st = LK_OK;
    uint64_t bytes = 0;
    LK_ASSERT(keys->count == values->count);
    if (s->options.read_only) {
        return lk_fail(err, LK_READONLY, 0, s->dir, 0, 0, 0, "the store was opened read-only");
    }
    if (keys->count == 0) return LK_OK;
    ingest *g = calloc(1, sizeof *g);
    if (g == NULL) return lk_fail_nomem(err, sizeof *g);
    g->s = s;
    g->tree = tree;
    g->keys = keys;
    g->values = values;
    shape_take(g);
    g->stamp = stamp_of(s, tree);
    LK_TRY(lk_store_failure(s, err));
    LK_TRY(lk_column_order_make(keys, &g->order, err));
    LK_TRY(tables_write(g, err));
    for (uint32_t i = 0; i < g->count; i++) bytes += lk_table_writer_bytes(g->writers[i]);
    LK_TRY(lk_store_disk_full(s, lk_store_disk_bytes(s), bytes, err));
    LK_TRY(place_take(g, err));
done:
    /* A writer that is not finished takes its file with it. */
    for (uint32_t i = 0; i < g->count; i++) lk_table_writer_free(g->writers[i]);
    free(g->writers);
    free(g->stored);
    lk_column_order_free(&g->order);
    free(g);
    return st;
}
