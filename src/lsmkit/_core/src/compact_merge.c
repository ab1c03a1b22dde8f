/* compact_merge.c: the inner loop of compaction.
 *
 * Rows of the merge are collected until there are some hundred, and go to the table writer together.
 * Versions of one key form a group; what fold.c makes of it is kept. What is collected points into
 * blocks that the merge keeps, and is written, and they released, at the end of a group, which is also
 * the only place where a table may end.
 *
 * A block that lies between the rows of the other inputs is copied as it stands on the disk, if it
 * can be without being decoded: 12 instead of 65 ns a row. It keeps its encoding and its sequences,
 * and is not taken when it is small, or something in it could be dropped.
 *
 * Sequences: in the last data of a key a row's sequence says nothing once every reader sees it: no
 * older version can be anywhere, newer ones are in newer runs, and all snapshots are younger. Such
 * rows get sequence 0, and the column vanishes from blocks in which all rows do.
 *
 * Range tombstones: rows that they hide from everybody are left out, and stretches of them skipped
 * unread. Where a snapshot is in between, a range tombstone takes part in the folding as a delete of
 * the key. A table says up to which range tombstone this was done (`swept`), so that these can go.
 * A row under one keeps its sequence, which says that it is newer.
 *
 * Values that stand apart stay where they are, and references to them are copied. Where most of their
 * file is dead, they move into the file of the output (values_move).
 *
 * Owns      merge, writer, rows collected.
 * Always    rows[group, count) are the kept versions of the key that came last; those before are
 *           whole groups.
 * Errors    see compact.h; the unfinished table is unlinked by the writer.
 */
#include "compact_merge.h"

#include <stdlib.h>

#include "array.h"
#include "check.h"
#include "hash.h"

enum {
    BATCH_ROWS = 512,
    BATCH_BYTES = 64 << 10,
    KEPT_BLOCKS_MAX = 32,
    GROUP_ROWS = 1024, /* versions of one key that are folded before the last has come */
};

typedef struct compactor {
    lk_compact_part *part;
    lk_merge *merge;
    lk_table_options table;
    lk_table_writer *writer; /* NULL: no table is begun */
    bool moves_values;       /* out of some file */
    lk_buffer value;         /* one that moves */

    lk_row *rows;
    uint32_t count, capacity, group;
    bool special;     /* some version in the open group is no plain put */
    uint32_t fold_at; /* so many versions are folded early */
    size_t batch_bytes, batch_bytes_max;
    lk_fold fold;
    uint64_t above;          /* sequence of the version above, in the group that is open */
    uint64_t visible_to_all; /* rows up to this are seen by every snapshot */
    uint32_t over;    /* of the part's range tombstones, the step over the open group; 0: none */
    bool hides;       /* one hides a row of the table in hand, for some snapshot */
    bool batch_hides; /* ... or one of the rows collected */
} compactor;

/* ---- outputs ---- */

static lk_status table_finish(compactor *x, lk_error *err)
{
    lk_status st = LK_OK;
    lk_compact_part *p = x->part;
    if (x->writer == NULL) return LK_OK;
    LK_TRY(lk_array_grow(&p->tables, p->table_count, &p->table_capacity, sizeof *p->tables, err));
    lk_table_meta *meta = &p->tables[p->table_count];
    LK_TRY(lk_table_writer_finish(x->writer, meta, err));
    meta->written = p->written_us;
    meta->made = p->now_us;
    if (p->tombs != NULL) {
        /* What snapshots still see is hidden by those alone that they do not see. */
        bool some = x->hides && x->visible_to_all < p->tombs->newest;
        meta->swept = some ? x->visible_to_all : p->tombs->newest;
    }
    x->hides = false;
    p->table_count++;
    lk_table_writer_free(x->writer);
    x->writer = NULL;
done:
    return st;
}

/* A writer for rows that begin a new key. */
static lk_status table_want(compactor *x, lk_error *err)
{
    lk_status st = LK_OK;
    lk_compact_part *p = x->part;
    if (x->writer != NULL && lk_table_writer_bytes(x->writer) >= p->job->cut_bytes) {
        LK_TRY(table_finish(x, err));
    }
    if (x->writer == NULL) {
        uint64_t file = lk_manifest_next_file(p->manifest);
        LK_TRY(lk_table_writer_new(p->env, p->dir, file, p->job->tree, &x->table, &x->writer, err));
    }
done:
    return st;
}

static lk_status check_stop(const lk_compact_part *p, lk_error *err)
{
    const atomic_bool *cancel = p->job->table.cancel;
    if ((cancel != NULL && atomic_load_explicit(cancel, memory_order_relaxed)) ||
        atomic_load_explicit(p->stop, memory_order_relaxed)) {
        return lk_fail(err, LK_CANCELLED, 0, p->dir, 0, 0, 0, "the compaction was cancelled");
    }
    return LK_OK;
}

/* ---- groups ---- */

static bool run_may_hold(lk_table *const *tables, uint32_t count, const uint8_t *key,
                         uint32_t key_len)
{
    uint32_t low = 0, high = count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const lk_table_meta *meta = lk_table_meta_of(tables[middle]);
        if (lk_key_compare(meta->max_key, meta->max_len, key, key_len) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == count) return false;
    const lk_table_meta *meta = lk_table_meta_of(tables[low]);
    return lk_key_compare(meta->min_key, meta->min_len, key, key_len) <= 0;
}

static bool runs_may_hold(const lk_table_runs *r, const lk_row *row)
{
    for (uint32_t i = 0; i < r->run_count; i++) {
        uint32_t from = i == 0 ? 0 : r->ends[i - 1];
        if (run_may_hold(r->tables + from, r->ends[i] - from, row->key, row->key_len)) return true;
    }
    return false;
}

/* Whether an older version of the key may be in a table that is no input. */
static bool may_be_below(const lk_compact_part *p, const lk_row *row)
{
    return !p->bottom && runs_may_hold(p->below, row);
}

/* Whether a newer version may be in a table that is no input, or in a segment. Without an operator
 * nobody looks back from there. */
static bool may_be_above(const compactor *x, const lk_row *row)
{
    const lk_compact_part *p = x->part;
    return x->fold.op != NULL &&
           (runs_may_hold(p->above, row) ||
            lk_view_has_newer(p->view, 0, p->job->tree, row->key, row->key_len, row->hash));
}

static __attribute__((noinline)) lk_status group_fold(compactor *x, bool is_whole, lk_error *err)
{
    lk_row *rows = x->rows + x->group;
    uint32_t n = x->count - x->group;
    bool is_oldest = is_whole && !may_be_below(x->part, rows);
    lk_status st = lk_fold_rows(&x->fold, rows, &n, &x->part->snapshots, 0, is_oldest,
                                !may_be_above(x, rows), err);
    if (is_whole) n = lk_fold_drop_ranges(rows, n, &x->batch_hides);
    x->count = x->group + n;
    return st;
}

static lk_status batch_room(compactor *x, uint32_t rows, lk_error *err)
{
    if (x->count + rows <= x->capacity) return LK_OK;
    uint32_t capacity = x->capacity * 2 > x->count + rows ? x->capacity * 2 : x->count + rows;
    if (capacity < BATCH_ROWS) capacity = BATCH_ROWS;
    lk_row *bigger = realloc(x->rows, capacity * sizeof *bigger);
    if (bigger == NULL) return lk_fail_nomem(err, capacity * sizeof *bigger);
    x->rows = bigger;
    x->capacity = capacity;
    return LK_OK;
}

/* Another version of the key of the open group, older than those before. */
static lk_status version_add(compactor *x, const lk_row *row, lk_error *err)
{
    lk_status st = LK_OK;
    bool wanted = x->count == x->group; /* the first */
    if (!wanted) {
        lk_kind last = x->rows[x->count - 1].kind;
        wanted = lk_fold_wants(&x->part->snapshots, last, row->seq, x->above);
    }
    x->above = row->seq;
    if (!wanted) return LK_OK;
    LK_TRY(batch_room(x, 1, err));
    x->rows[x->count++] = *row;
    x->batch_bytes += row->key_len + row->value_len;
    x->special |= row->kind != LK_KIND_PUT;
    if (LK_UNLIKELY(x->count - x->group >= x->fold_at)) {
        if (x->special) LK_TRY(group_fold(x, false, err));
        uint32_t left = x->count - x->group;
        x->fold_at = left < GROUP_ROWS / 2 ? GROUP_ROWS : 2 * left;
    }
done:
    return st;
}

/* The range tombstones over the open group that are newer than `seq` and older than its version that
 * came last take part as deletes of `of`'s key. */
static lk_status ranges_add(compactor *x, const lk_row *of, uint64_t seq, lk_error *err)
{
    const lk_tombs *t = x->part->tombs;
    lk_row range = *of;
    range.kind = LK_KIND_DELETE;
    range.value = lk_fold_range;
    range.value_len = 0;
    for (uint32_t i = t->steps[x->over - 1].first; i < t->steps[x->over].first; i++) {
        if (t->seqs[i] < seq) break;
        if (t->seqs[i] > x->above) continue;
        range.seq = t->seqs[i];
        lk_status st = version_add(x, &range, err);
        if (st != LK_OK) return st;
    }
    return LK_OK;
}

/* The group that is open is whole: its versions are folded, and deletes that hide nothing go. */
static inline lk_status close_group(compactor *x, lk_error *err)
{
    if (LK_UNLIKELY(x->over != 0) && x->count > x->group) {
        lk_row last = x->rows[x->count - 1];
        /* A version between the last one and a range tombstone may be in a table that is no input:
         * then the tombstone is not what comes next. */
        if (!may_be_below(x->part, &last)) {
            lk_status st = ranges_add(x, &last, 0, err);
            if (st != LK_OK) return st;
        }
    }
    lk_row *rows = x->rows;
    if (LK_UNLIKELY(x->special)) {
        x->special = false;
        lk_status st = group_fold(x, true, err);
        if (st != LK_OK) return st;
    }
    uint32_t n = x->count;
    if (x->part->bottom && n > x->group && rows[n - 1].seq <= x->visible_to_all && x->over == 0) {
        rows[n - 1].seq = 0; /* it is the last one: of those that all see only the newest stays */
    }
    x->group = n;
    return LK_OK;
}

/* ---- values that move ---- */

static bool moves(const compactor *x, const lk_row *row, lk_blob_ref *out)
{
    const lk_compact_part *p = x->part;
    if (!lk_kind_is_blob(row->kind)) return false;
    *out = lk_blob_ref_decode(row->value + lk_kind_head_bytes(row->kind));
    const lk_blob_item *item = lk_blob_files_find(p->blobs, out->file);
    return item != NULL && lk_blob_item_is_wasteful(item, p->job->max_garbage);
}

/* The row with its value, good until the next one is taken. */
static lk_status value_take(compactor *x, lk_row *row, const lk_blob_ref *ref, lk_error *err)
{
    lk_status st = LK_OK;
    lk_bytes value;
    size_t room;
    LK_TRY(lk_blob_files_room(x->part->blobs, ref, &room, err));
    x->value.len = 0;
    LK_TRY(lk_buffer_reserve(&x->value, room, err));
    LK_TRY(lk_blob_files_read(x->part->blobs, ref, x->value.data, &value, err));
    lk_blob_row_take(row, value);
done:
    return st;
}

static bool is_of_new_key(const compactor *x, uint32_t i)
{
    const lk_row *row = &x->rows[i], *before = row - 1;
    return i == 0 || !lk_bytes_equal(row->key, row->key_len, before->key, before->key_len);
}

/* The rows collected, one large value in memory at a time; a table may end before each of them. */
static lk_status values_move(compactor *x, lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t written = 0;
    x->hides |= x->batch_hides; /* which row it is is not known */
    for (uint32_t i = 0; i < x->count; i++) {
        lk_row row = x->rows[i];
        lk_blob_ref ref;
        if (!moves(x, &row, &ref)) continue;
        if (i > written) {
            LK_TRY(lk_table_writer_add(x->writer, x->rows + written, i - written, err));
        }
        if (is_of_new_key(x, i)) LK_TRY(table_want(x, err));
        x->hides |= x->batch_hides;
        LK_TRY(value_take(x, &row, &ref, err));
        LK_TRY(lk_table_writer_add(x->writer, &row, 1, err));
        written = i + 1;
    }
    if (x->count > written) {
        LK_TRY(lk_table_writer_add(x->writer, x->rows + written, x->count - written, err));
    }
done:
    return st;
}

static bool any_moves(const lk_compact_part *p)
{
    bool any = false;
    for (uint32_t i = 0; p->blobs != NULL && i < p->blobs->count && !any; i++) {
        any = lk_blob_item_is_wasteful(&p->blobs->items[i], p->job->max_garbage);
    }
    return any;
}

/* ---- batches ---- */

static lk_status batch_write(compactor *x, lk_error *err)
{
    lk_status st = LK_OK;
    LK_ASSERT(x->group == x->count);
    LK_TRY(check_stop(x->part, err));
    if (x->count > 0) {
        LK_TRY(table_want(x, err));
        LK_TRY(LK_UNLIKELY(x->moves_values)
                   ? values_move(x, err)
                   : lk_table_writer_add(x->writer, x->rows, x->count, err));
        x->hides |= x->batch_hides;
    }
    x->batch_hides = false;
    x->count = x->group = 0;
    x->batch_bytes = 0;
    lk_merge_release(x->merge);
    lk_fold_clear(&x->fold);
done:
    return st;
}

static bool batch_is_full(const compactor *x)
{
    return x->count >= BATCH_ROWS || x->batch_bytes >= x->batch_bytes_max ||
           lk_merge_kept(x->merge) >= KEPT_BLOCKS_MAX;
}

static inline lk_row row_make(uint32_t tree, lk_bytes key, lk_bytes value, uint64_t seq,
                              lk_kind kind)
{
    return (lk_row){.key = key.data,
                    .value = value.data,
                    .key_len = (uint32_t)key.len,
                    .value_len = (uint32_t)value.len,
                    .seq = seq,
                    .hash = lk_hash_key(tree, key.data, key.len),
                    .kind = kind};
}

/* ---- spans ---- */

/* A row of a new key follows. */
static lk_status group_begin(compactor *x, lk_error *err)
{
    lk_status st = LK_OK;
    LK_TRY(close_group(x, err));
    if (batch_is_full(x)) LK_TRY(batch_write(x, err));
    x->fold_at = GROUP_ROWS;
    x->over = 0;
done:
    return st;
}

/* One row, which may be a version of the key before. */
static lk_status add_single(compactor *x, const lk_span *span, lk_error *err)
{
    lk_status st = LK_OK;
    const lk_block *b = span->block;
    uint32_t i = span->first;
    if (!span->repeat) LK_TRY(group_begin(x, err));
    lk_row row = row_make(x->part->job->tree, lk_block_key(b, i), lk_block_value(b, i),
                          lk_block_seq(b, i), lk_block_kind(b, i));
    LK_TRY(version_add(x, &row, err));
done:
    return st;
}

/* Rows of which each is a group. */
static lk_status add_several(compactor *x, const lk_span *span, lk_error *err)
{
    lk_status st = LK_OK;
    const lk_block *b = span->block;
    uint32_t tree = x->part->job->tree;
    LK_TRY(close_group(x, err));
    x->over = 0;
    LK_TRY(batch_room(x, span->count, err));
    for (uint32_t i = span->first; i < span->first + span->count; i++) {
        lk_row row = row_make(tree, lk_block_key(b, i), lk_block_value(b, i), lk_block_seq(b, i),
                              lk_block_kind(b, i));
        x->rows[x->count++] = row;
        x->batch_bytes += row.key_len + row.value_len;
        x->special = row.kind != LK_KIND_PUT;
        LK_TRY(close_group(x, err));
        if (LK_UNLIKELY(batch_is_full(x))) LK_TRY(batch_write(x, err));
    }
done:
    return st;
}

/* Small blocks are never copied: rows between two copied blocks are packed, so that at most one small
 * block stands between them, however often a range is merged. */
static bool is_large(const compactor *x, uint64_t bytes)
{
    return bytes >= x->part->job->table.block_bytes / 2;
}

/* Bytes of keys and values in a block. */
static uint64_t raw_bytes(const lk_block *b)
{
    uint64_t bytes = (uint64_t)b->rows * b->key_width;
    if (b->key_offsets != NULL) bytes = b->key_offsets[b->rows] - b->key_offsets[0];
    if (b->value_offsets != NULL) return bytes + b->value_offsets[b->rows] - b->value_offsets[0];
    return bytes + (uint64_t)b->rows * b->value_width;
}

/* Whether a span is a block that would gain nothing from being written anew. */
static bool is_worth_copying(const compactor *x, const lk_span *span)
{
    const lk_block *b = span->block;
    if (span->count != b->rows || b->rows < 2 || b->kinds != NULL) return false;
    if (x->part->bottom && b->seqs != NULL && b->seq_max <= x->visible_to_all) return false;
    return is_large(x, raw_bytes(b));
}

/* Bytes of keys and values in a block that was not read, by the table's mean. */
static uint64_t closed_raw_bytes(const lk_span *span)
{
    const lk_table_meta *meta = lk_table_meta_of(span->table);
    uint64_t offset;
    uint32_t bytes;
    lk_table_block_place(span->table, span->block_index, &offset, &bytes);
    double factor = meta->bytes == 0 ? 1.0 : (double)meta->raw_bytes / (double)meta->bytes;
    return (uint64_t)((double)bytes * factor);
}

static lk_status copy_block(compactor *x, const lk_span *span, lk_error *err)
{
    lk_status st = LK_OK;
    LK_TRY(close_group(x, err));
    LK_TRY(batch_write(x, err));
    LK_TRY(table_want(x, err));
    uint64_t rows = lk_table_writer_rows(x->writer);
    LK_TRY(lk_table_writer_add_block(x->writer, span->table, span->block_index, err));
    rows = lk_table_writer_rows(x->writer) - rows;
    x->part->rows_in += span->closed ? rows : 0;
    x->part->rows_copied += rows;
done:
    return st;
}

static lk_status add_closed(compactor *x, const lk_span *span, lk_error *err)
{
    if (!is_large(x, closed_raw_bytes(span))) return lk_merge_open(x->merge, err);
    return copy_block(x, span, err);
}

/* ---- under range tombstones ---- */

/* A row that range tombstones are over, perhaps older ones than itself. */
static lk_status add_covered(compactor *x, const lk_span *span, uint32_t i, bool repeat,
                             lk_error *err)
{
    lk_status st = LK_OK;
    const lk_compact_part *p = x->part;
    const lk_block *b = span->block;
    lk_bytes key = lk_block_key(b, i);
    if (!repeat) {
        LK_TRY(group_begin(x, err));
        uint32_t at = lk_tombs_seek(p->tombs, p->job->tree, key.data, key.len);
        x->over = lk_tombs_newest(p->tombs, at, LK_SEQ_MAX) == 0 ? 0 : at;
        x->above = LK_SEQ_MAX;
    }
    lk_row row =
        row_make(p->job->tree, key, lk_block_value(b, i), lk_block_seq(b, i), lk_block_kind(b, i));
    if (x->over != 0) {
        if (row.seq < lk_tombs_newest(p->tombs, x->over, x->visible_to_all)) return LK_OK;
        LK_TRY(ranges_add(x, &row, row.seq, err));
    }
    LK_TRY(version_add(x, &row, err));
done:
    return st;
}

/* The keys between which the rows of a span lie. */
static void span_ends(const lk_span *span, lk_bytes *out_least, lk_bytes *out_greatest)
{
    if (!span->closed) {
        *out_least = lk_block_key(span->block, span->first);
        *out_greatest = lk_block_key(span->block, span->first + span->count - 1);
        return;
    }
    const lk_table_meta *meta = lk_table_meta_of(span->table);
    *out_least = (lk_bytes){meta->min_key, meta->min_len};
    if (span->block_index > 0) {
        *out_least = lk_table_block_last_key(span->table, span->block_index - 1);
    }
    *out_greatest = lk_table_block_last_key(span->table, span->block_index);
}

/* All rows of the span are hidden from everybody; so are perhaps others that follow. */
static lk_status skip_dead(compactor *x, const lk_span *span, lk_bytes greatest, lk_error *err)
{
    const lk_tombs *t = x->part->tombs;
    uint32_t tree = x->part->job->tree, at = lk_tombs_seek(t, tree, greatest.data, greatest.len);
    uint64_t seq = lk_tombs_newest(t, at, x->visible_to_all);
    if (!lk_merge_span_is_old(x->merge, span, seq)) return LK_OK;
    lk_bytes to = {NULL, 0};
    if (t->steps[at].tree == tree) to = (lk_bytes){t->steps[at].key, t->steps[at].key_len};
    return lk_merge_skip(x->merge, to, seq, err);
}

/* A span that range tombstones are over; false in `out_taken`: there are none. */
static __attribute__((noinline)) lk_status take_covered(compactor *x, const lk_span *span,
                                                        bool *out_taken, lk_error *err)
{
    lk_status st = LK_OK;
    const lk_compact_part *p = x->part;
    uint32_t tree = p->job->tree;
    lk_bytes least, greatest;
    span_ends(span, &least, &greatest);
    *out_taken = lk_tombs_touch(p->tombs, tree, least, greatest, 0);
    if (!*out_taken) return LK_OK;
    const lk_table_meta *meta = lk_table_meta_of(span->table);
    uint64_t newest = span->closed ? meta->seq_max : span->block->seq_max;
    uint64_t oldest = span->closed ? meta->seq_min : span->block->seq_min;
    if (lk_tombs_cover_all(p->tombs, tree, least, greatest, newest, x->visible_to_all)) {
        return skip_dead(x, span, greatest, err);
    }
    /* What is copied keeps its sequences, so only rows that are hidden forbid it. */
    bool is_whole = !lk_tombs_touch(p->tombs, tree, least, greatest, oldest);
    if (span->closed) return is_whole ? add_closed(x, span, err) : lk_merge_open(x->merge, err);
    if (is_whole && span->count > 1 && is_worth_copying(x, span)) return copy_block(x, span, err);
    for (uint32_t i = 0; i < span->count; i++) {
        LK_TRY(add_covered(x, span, span->first + i, i == 0 && span->repeat, err));
    }
done:
    return st;
}

/* ---- all of it ---- */

static lk_status add_inputs(compactor *x, lk_error *err)
{
    lk_status st = LK_OK;
    const lk_compact_part *p = x->part;
    const lk_table_runs *r = p->inputs;
    LK_TRY(lk_merge_new(p->job->tree, &p->bounds, false, false, &x->merge, err));
    for (uint32_t i = 0; i < r->run_count; i++) {
        uint32_t from = i == 0 ? 0 : r->ends[i - 1];
        LK_TRY(lk_merge_add_tables(x->merge, r->tables + from, r->ends[i] - from, err));
    }
    lk_merge_allow_closed(x->merge);
    LK_TRY(lk_merge_start(x->merge, err));
    lk_merge_keep(x->merge);
done:
    return st;
}

lk_status lk_compact_part_run(lk_compact_part *p, lk_error *err)
{
    lk_status st = LK_OK;
    compactor x = {.part = p, .batch_bytes_max = BATCH_BYTES, .table = p->job->table};
    x.table.blobs = p->blobs;
    x.moves_values = any_moves(p);
    /* Tables are cut between batches, so these must not be large beside tables. */
    if (p->job->cut_bytes / 8 < BATCH_BYTES) x.batch_bytes_max = p->job->cut_bytes / 8;
    const lk_snapshots *snapshots = &p->snapshots;
    x.visible_to_all = snapshots->count == 0 ? LK_SEQ_MAX : snapshots->seqs[snapshots->count - 1];
    lk_fold_init(&x.fold, p->view->settings, p->job->tree, p->now_us);
    x.fold.blobs = p->blobs;
    LK_TRY(check_stop(p, err));
    LK_TRY(add_inputs(&x, err));
    for (;;) {
        lk_span span;
        bool any;
        LK_TRY(lk_merge_next(x.merge, &span, &any, err));
        if (!any) break;
        p->rows_in += span.count;
        if (LK_UNLIKELY(p->tombs != NULL)) {
            bool taken;
            LK_TRY(take_covered(&x, &span, &taken, err));
            if (taken) continue;
        }
        if (span.closed) {
            LK_TRY(add_closed(&x, &span, err));
        } else if (span.count == 1) {
            LK_TRY(add_single(&x, &span, err));
        } else if (is_worth_copying(&x, &span)) {
            LK_TRY(copy_block(&x, &span, err));
        } else {
            LK_TRY(add_several(&x, &span, err));
        }
    }
    LK_TRY(close_group(&x, err));
    LK_TRY(batch_write(&x, err));
    LK_TRY(table_finish(&x, err));
    p->merge_failures = x.fold.failures;
    if (x.fold.failures > 0) p->merge_failure = x.fold.failure;
done:
    lk_table_writer_free(x.writer);
    lk_merge_free(x.merge);
    lk_fold_deinit(&x.fold);
    lk_buffer_deinit(&x.value);
    free(x.rows);
    return st;
}

void lk_compact_part_deinit(lk_compact_part *p, bool unlink)
{
    for (uint32_t i = 0; i < p->table_count; i++) {
        /* The first error stands. A file that stays is swept away when the store is opened. */
        if (unlink) lk_table_unlink(p->env, p->dir, &p->tables[i]);
        lk_table_meta_deinit(&p->tables[i]);
    }
    free(p->tables);
    p->tables = NULL;
    p->table_count = 0;
    p->table_capacity = 0;
}
