/* btree_write.c: writing to a B+tree: into the log, then into its pages, then waiting for the disk. */
#include <stdlib.h>

#include "btree.h"
#include "check.h"
#include "column_order.h"

static lk_status failed_error(const lk_btree *t, lk_error *err)
{
    if (err != NULL) *err = t->failed;
    return t->failed.code;
}

/* The first failure stays: every later write gets it. */
static void fail(lk_btree *t, const lk_error *why)
{
    if (t->failed.code == LK_OK) t->failed = *why;
}

/* Only "periodic" leaves it to the thread. */
static void want_sync(lk_btree *t, lk_durability durability)
{
    if (durability != LK_DURABILITY_PERIODIC) return;
    if (!atomic_load_explicit(&t->wants_sync, memory_order_relaxed)) {
        atomic_store(&t->wants_sync, true);
    }
}

static bool is_full(const lk_btree *t) { return t->cache.dirty_count >= t->dirty_max; }

/* ---- cells ---- */

static lk_status extent_make(lk_btree *t, const uint8_t *data, uint32_t bytes, uint8_t *ref_at,
                             lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t page;
    lk_ref ref;
    pthread_rwlock_wrlock(&t->latch); /* readers look at how many pages there are */
    st = lk_space_take(&t->space, lk_extent_pages(&t->file, bytes), lk_file_path(t->file.file),
                       &page, err);
    pthread_rwlock_unlock(&t->latch);
    if (st != LK_OK) goto done;
    LK_TRY(lk_extent_write(&t->file, page, data, bytes, &ref, err));
    lk_ref_store(ref_at, ref);
    t->file_is_dirty = true;
    t->counters.extent_bytes += bytes;
done:
    return st;
}

static bool is_plain(const lk_btree *t, lk_bytes key, size_t value_len)
{
    return key.len <= lk_page_key_max(t->file.page_bytes) &&
           lk_page_is_inline(t->file.page_bytes, (uint32_t)key.len, (uint32_t)value_len);
}

static lk_cell plain_cell(lk_bytes key, lk_bytes value)
{
    return (lk_cell){.suffix = key.data,
                     .suffix_len = (uint32_t)key.len,
                     .key_len = (uint32_t)key.len,
                     .word = (uint32_t)value.len,
                     .tail = value.data,
                     .tail_len = (uint32_t)value.len};
}

/* A cell for the row; what is long is written to extents, and the refs stand in `tail`. */
static lk_status cell_make(lk_btree *t, lk_bytes key, lk_bytes value, lk_cell *out, lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t key_max = lk_page_key_max(t->file.page_bytes), used = 0;
    *out = plain_cell(key, value);
    if (is_plain(t, key, value.len)) return LK_OK;
    if (key.len > key_max) {
        LK_TRY(extent_make(t, key.data, out->key_len, t->tail, err));
        out->suffix_len = key_max;
        used = LK_REF_BYTES;
    }
    if (!lk_page_is_inline(t->file.page_bytes, out->key_len, out->word)) {
        LK_TRY(extent_make(t, value.data, out->word, t->tail + used, err));
        used += LK_REF_BYTES;
    } else {
        if (value.len != 0) memcpy(t->tail + used, value.data, value.len);
        used += out->word;
    }
    out->tail = t->tail;
    out->tail_len = used;
done:
    return st;
}

/* ---- applying ---- */

/* Runs one edit until nothing is missing. */
static lk_status edit(lk_btree *t, lk_kind kind, lk_bytes key, const lk_cell *cell, lk_error *err)
{
    for (;;) {
        pthread_rwlock_wrlock(&t->latch);
        lk_status st = LK_OK;
        if (!lk_page_cache_reserve(&t->cache, t->head.levels + 4)) {
            st = lk_fail_nomem(err, t->file.page_bytes);
        } else if (kind == LK_KIND_PUT) {
            st = lk_edit_put(t, key, cell, err);
        } else {
            st = lk_edit_delete(t, key, err);
            while (st == LK_OK && t->wants_mend) {
                st = lk_edit_mend(t, key, err);
                if (st == LK_OK) t->wants_mend = false;
                if (st != LK_MISS) break;
                pthread_rwlock_unlock(&t->latch);
                st = lk_btree_bring(t, t->missing, err);
                pthread_rwlock_wrlock(&t->latch);
            }
        }
        pthread_rwlock_unlock(&t->latch);
        if (st != LK_MISS) return st;
        st = lk_btree_bring(t, t->missing, err);
        if (st != LK_OK) return st;
    }
}

static lk_status apply_row(lk_btree *t, lk_kind kind, lk_bytes key, lk_bytes value, lk_error *err)
{
    lk_status st = LK_OK;
    lk_cell cell = {0};
    if (is_full(t)) LK_TRY(lk_btree_checkpoint(t, true, 0, err));
    if (kind == LK_KIND_PUT) LK_TRY(cell_make(t, key, value, &cell, err));
    st = edit(t, kind, key, &cell, err);
done:
    return st;
}

/* Deletes row after row: the log has one record, the tree no ranges. */
static lk_status apply_range(lk_btree *t, lk_bytes start, lk_bytes stop, lk_error *err)
{
    lk_status st = LK_OK;
    lk_btree_scan *s = malloc(sizeof *s);
    if (s == NULL) return lk_fail_nomem(err, sizeof *s);
    lk_bytes none = {NULL, 0};
    LK_TRY(lk_btree_scan_init(s, t, start, stop.len == 0 ? none : stop, false, err));
    for (;;) {
        LK_TRY(lk_btree_scan_fill(s, LK_BTREE_ROWS, err));
        if (s->count == 0) break;
        for (uint32_t i = 0; i < s->count; i++) {
            LK_TRY(apply_row(t, LK_KIND_DELETE, lk_btree_scan_row(s, i).key, none, err));
        }
    }
done:
    lk_btree_scan_deinit(s);
    free(s);
    return st;
}

lk_status lk_btree_apply(lk_btree *t, const uint8_t *body, uint64_t bytes, uint64_t *out_records,
                         lk_error *err)
{
    lk_status st = LK_OK;
    for (uint64_t at = 0; at < bytes;) {
        lk_record r = lk_record_at(body + at);
        lk_bytes key = {r.key, r.key_len}, value = {r.value, r.value_len};
        if (r.kind == LK_KIND_DELETE_RANGE) {
            LK_TRY(apply_range(t, key, value, err));
        } else if (r.kind == LK_KIND_PUT || r.kind == LK_KIND_DELETE) {
            LK_TRY(apply_row(t, r.kind, key, value, err));
        } else {
            const char *path = lk_file_path(t->log.file);
            st = lk_fail_corrupt(err, path, 0, LK_KIND_PUT, r.kind,
                                 "%s: a record of kind %u in the log of a tree", path,
                                 (unsigned)r.kind);
            goto done;
        }
        at += lk_record_bytes(r.tree, r.key_len, r.value_len);
        if (out_records != NULL) ++*out_records;
    }
done:
    return st;
}

/* ---- frames ---- */

/* Columns in the order in which their rows go into the tree. */
typedef struct rows {
    const lk_btree_write *w;
    lk_column_order order;
    uint64_t body_bytes, records, user_bytes;
} rows;

static lk_bytes row_value(const lk_btree_write *w, uint32_t row, uint8_t *scratch)
{
    if (w->values == NULL) return (lk_bytes){NULL, 0};
    return lk_column_row(w->values, row, scratch);
}

static lk_status rows_init(rows *r, const lk_btree_write *w, lk_error *err)
{
    memset(r, 0, sizeof *r);
    r->w = w;
    r->body_bytes = w->body_bytes;
    r->records = w->records;
    if (w->keys == NULL) {
        r->user_bytes = w->body_bytes - w->records * LK_RECORD_HEADER_BYTES;
        return LK_OK;
    }
    lk_status st = lk_column_order_make(w->keys, &r->order, err);
    if (st != LK_OK) return st;
    uint8_t a[8], b[8];
    for (uint32_t i = 0; i < r->order.count; i++) {
        uint32_t row = lk_column_order_row(&r->order, i);
        r->user_bytes += lk_column_row(w->keys, row, a).len + row_value(w, row, b).len;
    }
    r->records = r->order.count;
    r->body_bytes = r->user_bytes + r->records * LK_RECORD_HEADER_BYTES;
    return LK_OK;
}

static void rows_encode(const rows *r, uint8_t *to)
{
    const lk_btree_write *w = r->w;
    uint8_t a[8], b[8];
    if (w->keys == NULL) {
        memcpy(to, w->body, w->body_bytes);
        return;
    }
    for (uint32_t i = 0; i < r->order.count; i++) {
        uint32_t row = lk_column_order_row(&r->order, i);
        lk_bytes key = lk_column_row(w->keys, row, a), value = row_value(w, row, b);
        to = lk_record_write(to, 0, w->kind, key.data, key.len, value.data, value.len);
    }
}

static lk_status rows_apply(lk_btree *t, const rows *r, lk_error *err)
{
    lk_status st = LK_OK;
    const lk_btree_write *w = r->w;
    uint8_t a[8], b[8];
    if (w->keys == NULL) return lk_btree_apply(t, w->body, w->body_bytes, NULL, err);
    for (uint32_t i = 0; i < r->order.count; i++) {
        uint32_t row = lk_column_order_row(&r->order, i);
        LK_TRY(apply_row(t, w->kind, lk_column_row(w->keys, row, a), row_value(w, row, b), err));
    }
done:
    return st;
}

/* Puts the rows into the log, and makes room for them there first. */
static lk_status log_rows(lk_btree *t, const rows *r, bool aside, lk_error *err)
{
    lk_status st = LK_OK;
    uint8_t *body;
    uint64_t limit = LK_SEGMENT_BYTES_MAX - LK_SEGMENT_HEADER_BYTES - LK_PAGE_BYTES;
    if (lk_frame_bytes(r->body_bytes) > limit || r->records > INT32_MAX) {
        return lk_fail(err, LK_INVALID, 0, NULL, 0, limit, r->body_bytes,
                       "a batch of %llu bytes is more than a frame of the log can have",
                       (unsigned long long)r->body_bytes);
    }
    if (is_full(t) || lk_frame_bytes(r->body_bytes) > t->log.capacity - t->log.position) {
        LK_TRY(lk_btree_checkpoint(t, false, r->body_bytes, err));
    }
    LK_TRY(lk_redo_begin(&t->log, r->body_bytes, aside, &body, err));
    rows_encode(r, body);
    LK_TRY(lk_redo_commit(&t->log, r->body_bytes, (uint32_t)r->records, aside, err));
    t->counters.records += r->records;
    t->counters.user_bytes += r->user_bytes;
    t->counters.frames++;
    t->counters.log_bytes += lk_frame_bytes(r->body_bytes);
done:
    return st;
}

/* write_lock is held. `*out_upto`: what a sync must reach. */
static lk_status write_rows(lk_btree *t, const rows *r, uint64_t *out_upto, lk_error *err)
{
    lk_error why;
    if (t->failed.code != LK_OK) return failed_error(t, err);
    lk_status st = log_rows(t, r, r->w->durability == LK_DURABILITY_SYNC, &why);
    if (st == LK_OK) st = rows_apply(t, r, &why);
    *out_upto = lk_redo_written(&t->log);
    want_sync(t, r->w->durability);
    if (st == LK_OK) return LK_OK;
    if (st != LK_INVALID) fail(t, &why);
    if (err != NULL) *err = why;
    return st;
}

static lk_status wait_durable(lk_btree *t, uint64_t upto, lk_error *err)
{
    lk_error why;
    lk_status st = lk_redo_sync(&t->log, upto, &why);
    if (st == LK_OK) return LK_OK;
    lk_lock_acquire(&t->write_lock);
    fail(t, &why);
    lk_lock_release(&t->write_lock);
    if (err != NULL) *err = why;
    return st;
}

lk_status lk_btree_write_all(lk_btree *t, const lk_btree_write *w, lk_error *err)
{
    lk_status st = LK_OK;
    rows r;
    uint64_t upto = 0;
    LK_TRY(rows_init(&r, w, err));
    lk_lock_acquire(&t->write_lock);
    st = write_rows(t, &r, &upto, err);
    lk_lock_release(&t->write_lock);
    if (st == LK_OK && w->durability == LK_DURABILITY_SYNC) st = wait_durable(t, upto, err);
done:
    lk_column_order_free(&r.order);
    return st;
}

lk_status lk_btree_sync(lk_btree *t, lk_error *err)
{
    lk_status st = LK_OK;
    lk_lock_acquire(&t->write_lock);
    if (t->failed.code != LK_OK) st = failed_error(t, err);
    lk_lock_release(&t->write_lock);
    return st == LK_OK ? wait_durable(t, lk_redo_written(&t->log), err) : st;
}

lk_status lk_btree_exchange(lk_btree *t, lk_kind kind, lk_bytes key, lk_bytes value,
                            lk_durability durability, uint8_t **out, uint32_t *out_len,
                            lk_error *err)
{
    lk_status st = LK_OK;
    lk_column keys = {.form = LK_COLUMN_SPANS, .count = 1, .spans = &key};
    lk_column values = {.form = LK_COLUMN_SPANS, .count = 1, .spans = &value};
    lk_btree_write w = {.durability = durability,
                        .kind = kind,
                        .keys = &keys,
                        .values = kind == LK_KIND_PUT ? &values : NULL};
    rows r = {0};
    uint64_t upto = 0;
    bool writes = false;
    *out = NULL;
    LK_TRY(rows_init(&r, &w, err));
    lk_lock_acquire(&t->write_lock);
    st = lk_btree_get(t, key, out, out_len, err);
    writes = st == LK_OK && (*out == NULL) == (kind == LK_KIND_PUT);
    if (writes) st = write_rows(t, &r, &upto, err);
    lk_lock_release(&t->write_lock);
    if (st == LK_OK && writes && durability == LK_DURABILITY_SYNC) st = wait_durable(t, upto, err);
done:
    lk_column_order_free(&r.order);
    if (st != LK_OK) {
        free(*out);
        *out = NULL;
    }
    return st;
}

/* ---- without waiting ---- */

/* Both locks are held. The edit comes before the frame: a page that is not there has then changed
 * nothing, and the frame, plain stores into a mapping that has room for it, cannot fail. */
static lk_status try_locked(lk_btree *t, lk_kind kind, lk_bytes key, lk_bytes value, lk_error *err)
{
    uint8_t *body;
    uint64_t bytes = lk_record_bytes(0, key.len, value.len);
    if (t->failed.code != LK_OK || is_full(t) || t->log.map == NULL ||
        lk_frame_bytes(bytes) > t->log.capacity - t->log.position || !is_plain(t, key, value.len) ||
        !lk_page_cache_reserve(&t->cache, t->head.levels + 4)) {
        return LK_MISS;
    }
    lk_cell cell = plain_cell(key, value);
    lk_status st =
        kind == LK_KIND_PUT ? lk_edit_put(t, key, &cell, err) : lk_edit_delete(t, key, err);
    if (st == LK_MISS) return st;
    if (st == LK_OK && kind == LK_KIND_DELETE && t->wants_mend) {
        st = lk_edit_mend(t, key, err);
        if (st == LK_MISS) st = LK_OK; /* a page stays nearly empty until its next delete */
    }
    if (st == LK_OK) st = lk_redo_begin(&t->log, bytes, false, &body, err);
    if (st == LK_OK) {
        (void)lk_record_write(body, 0, kind, key.data, key.len, value.data, value.len);
        st = lk_redo_commit(&t->log, bytes, 1, false, err);
    }
    if (st != LK_OK) {
        fail(t, err);
        return st;
    }
    t->counters.records++;
    t->counters.frames++;
    t->counters.user_bytes += key.len + value.len;
    t->counters.log_bytes += lk_frame_bytes(bytes);
    return LK_OK;
}

lk_status lk_btree_try(lk_btree *t, lk_kind kind, lk_bytes key, lk_bytes value,
                       lk_durability durability, lk_error *err)
{
    LK_ASSERT(durability != LK_DURABILITY_SYNC);
    if (!lk_btree_is_open(t)) return LK_BUSY;
    if (!lk_lock_try(&t->write_lock)) return LK_BUSY;
    lk_status st = LK_BUSY;
    if (pthread_rwlock_trywrlock(&t->latch) == 0) {
        if (lk_btree_is_open(t)) st = try_locked(t, kind, key, value, err);
        pthread_rwlock_unlock(&t->latch);
    }
    lk_lock_release(&t->write_lock);
    if (st == LK_OK) want_sync(t, durability);
    return st;
}
