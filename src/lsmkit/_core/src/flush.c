/* flush.c: frozen segments in, one run of tables for each tree and an edit out.
 *
 * Owns      its writer and the orders of its segments, for the time of one call.
 * Callers   background.c, in a worker; recovery's segments come the same way.
 * Threads   one flush at a time; segments are frozen, so nothing moves under it.
 * Errors    LK_CORRUPT names the log file and the frame; LK_IO, LK_NOMEM, LK_CANCELLED.
 */
#include "flush.h"

#include <stdlib.h>

#include "check.h"
#include "fold.h"
#include "frame.h"
#include "order.h"

#define ROWS 256u        /* handed to the table writer together */
#define GROUP_ROWS 1024u /* versions of one key that are folded before the last has come */
#define UNSYNCED_MAX 64u /* files written and not yet synced: as many stay open */
#define AHEAD 32u        /* records touched together before they are gathered */

typedef struct source {
    const lk_segment *segment;
    lk_order *order;
    const lk_order_item *items;
    uint32_t at, count;
    uint32_t gathered; /* records of items below this were touched */
    uint64_t touched;
} source;

typedef struct flush {
    const lk_flush *in;
    lk_edit *edit;
    lk_flush_result *result;
    source sources[LK_FLUSH_SEGMENTS_MAX]; /* newest first */
    uint32_t source_count;
    lk_table_writer *writer;
    uint32_t tree;              /* of the records in hand */
    bool is_dropped;            /* that tree was */
    const lk_tree_shape *shape; /* of its tables */
    uint64_t stamp;             /* of the run being written */
    bool cut;                   /* the table is large enough: the next key begins another */
    bool any;                   /* a key was seen in this tree */
    lk_record newest;           /* first version of the key in hand */
    uint64_t prefix;            /* of that key */
    uint64_t newer_seq;         /* of the version before */
    lk_top *top;                /* counts the keys of this tree; NULL: nobody asks */
    uint64_t versions;          /* records of the key in hand */

    /* rows[group, count) are the versions of that key, as far as they may matter; those before are
     * whole keys. */
    lk_row *rows;
    uint32_t row_count, capacity, group;
    uint64_t row_bytes; /* keys and values of the whole keys */
    bool special;       /* some version in the group is no plain put */
    uint32_t fold_at;   /* so many versions are folded early */
    lk_tombs *tombs;    /* the ranges that the segments delete; NULL: none */
    uint64_t last_seq;  /* of the segments */
    uint32_t over;      /* its step that holds the key in hand; 0: nothing covers the key */
    bool hides;         /* a range tombstone hides a row of the table in hand, for some snapshot */
    lk_snapshots snapshots;
    lk_fold fold;

    lk_file *unsynced[UNSYNCED_MAX]; /* of finished tables */
    uint32_t unsynced_count;
} flush;

/* ---- output ---- */

static lk_status rows_write(flush *f, lk_error *err)
{
    lk_status st = LK_OK;
    LK_ASSERT(f->group == f->row_count);
    if (f->row_count == 0) return LK_OK;
    if (f->writer == NULL) {
        lk_table_options options = f->in->table;
        options.block_bytes = f->shape->block_bytes;
        options.filter_bits = f->shape->filter_bits;
        options.codec = f->shape->codec;
        options.blob_bytes = f->shape->blob_bytes;
        LK_TRY(lk_table_writer_new(f->in->env, f->in->dir, lk_manifest_next_file(f->in->manifest),
                                   f->tree, &options, &f->writer, err));
    }
    LK_TRY(lk_table_writer_add(f->writer, f->rows, f->row_count, err));
    f->result->rows_out += f->row_count;
    f->row_count = f->group = 0;
    f->row_bytes = 0;
    lk_fold_clear(&f->fold);
    f->cut = lk_table_writer_bytes(f->writer) >= f->shape->table_bytes;
done:
    return st;
}

/* After a failure the files that are left are closed all the same. */
static lk_status files_sync(flush *f, lk_error *err)
{
    lk_status st = LK_OK;
    for (uint32_t i = 0; i < f->unsynced_count; i++) {
        if (st == LK_OK) st = lk_file_sync(f->unsynced[i], err);
        lk_file_close(f->unsynced[i]);
    }
    f->unsynced_count = 0;
    return st;
}

static lk_status table_finish(flush *f, lk_error *err)
{
    lk_status st = LK_OK;
    lk_table_meta meta = {0};
    LK_TRY(rows_write(f, err));
    if (f->writer == NULL) return LK_OK;
    if (f->unsynced_count == UNSYNCED_MAX) LK_TRY(files_sync(f, err));
    LK_TRY(lk_table_writer_hand_over(f->writer, &meta, &f->unsynced[f->unsynced_count], err));
    f->unsynced_count++;
    f->result->bytes_out += lk_table_meta_written(&meta);
    meta.written = meta.made = f->in->now_us;
    if (f->tombs != NULL) {
        /* What snapshots still see is hidden by those alone that they do not see. */
        meta.swept = f->last_seq;
        if (f->hides) meta.swept = f->snapshots.seqs[f->snapshots.count - 1];
    }
    f->hides = false;
    LK_TRY(lk_edit_add_table(f->edit, &meta, 0, f->stamp, NULL, err));
done:
    lk_table_meta_deinit(&meta);
    lk_table_writer_free(f->writer);
    f->writer = NULL;
    f->cut = false;
    return st;
}

/* ---- folding ---- */

/* Whether an older version of the key may be in a table. */
static bool may_be_below(const flush *f, const lk_row *row)
{
    const lk_tree_version *t = lk_version_tree(f->in->view->version, f->tree);
    if (t == NULL) return false;
    const lk_range *range = &t->ranges[lk_tree_version_range(t, row->key, row->key_len)];
    for (uint32_t i = 0; i < range->run_count; i++) {
        if (lk_run_table(&range->runs[i], row->key, row->key_len) != NULL) return true;
    }
    return false;
}

/* Whether a newer version of the key is in a segment that is not flushed. Without an operator nobody
 * looks back from there. */
static bool may_be_above(const flush *f, const lk_row *row)
{
    uint64_t last = f->in->segments[f->in->segment_count - 1]->generation;
    return f->fold.op != NULL &&
           lk_view_has_newer(f->in->view, last, f->tree, row->key, row->key_len, row->hash);
}

static lk_status group_fold(flush *f, bool is_whole, lk_error *err)
{
    lk_row *rows = f->rows + f->group;
    uint32_t n = f->row_count - f->group;
    bool is_oldest = is_whole && !may_be_below(f, rows);
    lk_status st =
        lk_fold_rows(&f->fold, rows, &n, &f->snapshots, 0, is_oldest, !may_be_above(f, rows), err);
    if (is_whole) n = lk_fold_drop_ranges(rows, n, &f->hides);
    f->row_count = f->group + n;
    return st;
}

static __attribute__((noinline)) lk_status rows_grow(flush *f, lk_error *err)
{
    uint32_t capacity = f->capacity == 0 ? 2 * ROWS : f->capacity * 2;
    lk_row *grown = realloc(f->rows, capacity * sizeof *grown);
    if (grown == NULL) return lk_fail_nomem(err, capacity * sizeof *grown);
    f->rows = grown;
    f->capacity = capacity;
    return LK_OK;
}

static inline lk_status row_add(flush *f, const lk_record *r, uint64_t seq, lk_error *err)
{
    if (LK_UNLIKELY(f->row_count == f->capacity)) {
        lk_status st = rows_grow(f, err);
        if (st != LK_OK) return st;
    }
    f->rows[f->row_count++] = (lk_row){
        .key = r->key,
        .value = r->value,
        .key_len = r->key_len,
        .value_len = r->value_len,
        .seq = seq,
        .hash = lk_hash_key(r->tree, r->key, r->key_len),
        .kind = r->kind,
    };
    f->special |= r->kind != LK_KIND_PUT;
    return LK_OK;
}

/* Another version of the key in hand, older than those before. */
static lk_status version_add(flush *f, const lk_record *r, uint64_t seq, lk_error *err)
{
    lk_status st = LK_OK;
    bool wanted = f->row_count == f->group; /* the first */
    if (!wanted) {
        lk_kind last = f->rows[f->row_count - 1].kind;
        wanted = lk_fold_wants(&f->snapshots, last, seq, f->newer_seq);
    }
    f->newer_seq = seq;
    if (!wanted) return LK_OK;
    LK_TRY(row_add(f, r, seq, err));
    if (f->row_count - f->group >= f->fold_at) {
        LK_TRY(group_fold(f, false, err));
        uint32_t left = f->row_count - f->group;
        f->fold_at = left < GROUP_ROWS / 2 ? GROUP_ROWS : 2 * left;
    }
done:
    return st;
}

/* The range tombstones over the key in hand that are newer than `seq` and older than its version that
 * came last take part as deletes of the key. */
static __attribute__((noinline)) lk_status ranges_add(flush *f, uint64_t seq, lk_error *err)
{
    lk_record range = f->newest;
    range.kind = LK_KIND_DELETE;
    range.value = lk_fold_range;
    range.value_len = 0;
    const lk_tomb_step *step = &f->tombs->steps[f->over - 1];
    for (uint32_t i = step->first; i < step[1].first; i++) {
        uint64_t at = f->tombs->seqs[i];
        if (at < seq) break;
        if (at > f->newer_seq) continue;
        lk_status st = version_add(f, &range, at, err);
        if (st != LK_OK) return st;
    }
    return LK_OK;
}

/* The versions of the key in hand have all come. */
static lk_status group_close(flush *f, lk_error *err)
{
    lk_status st = LK_OK;
    if (f->any && f->top != NULL) {
        lk_top_add(f->top, f->newest.key, f->newest.key_len, f->versions);
    }
    if (LK_UNLIKELY(f->over != 0 && f->any)) LK_TRY(ranges_add(f, 0, err));
    if (LK_UNLIKELY(f->special)) LK_TRY(group_fold(f, true, err));
    f->special = false;
    for (; f->group < f->row_count; f->group++) {
        f->row_bytes += (uint64_t)f->rows[f->group].key_len + f->rows[f->group].value_len;
    }
done:
    return st;
}

static lk_status record_fold(flush *f, const lk_record *r, uint64_t prefix, uint64_t seq,
                             lk_error *err)
{
    lk_status st = LK_OK;
    if (f->any && f->prefix == prefix &&
        lk_bytes_equal(f->newest.key, f->newest.key_len, r->key, r->key_len)) {
        f->versions++;
        if (LK_UNLIKELY(f->over != 0)) LK_TRY(ranges_add(f, seq, err));
        return version_add(f, r, seq, err);
    }
    LK_TRY(group_close(f, err));
    /* Whether the table is large enough is looked at between the writes: they must not be large. */
    if (f->row_count >= ROWS || f->row_bytes >= f->shape->table_bytes / 8) {
        LK_TRY(rows_write(f, err));
    }
    if (LK_UNLIKELY(f->cut)) LK_TRY(table_finish(f, err));
    f->any = true;
    f->versions = 1;
    f->newest = *r;
    f->prefix = prefix;
    f->newer_seq = seq;
    f->fold_at = GROUP_ROWS;
    if (LK_LIKELY(f->tombs == NULL)) return row_add(f, r, seq, err);
    f->over = lk_tombs_seek(f->tombs, r->tree, r->key, r->key_len);
    f->newer_seq = LK_SEQ_MAX;
    if (f->over != 0) LK_TRY(ranges_add(f, seq, err));
    LK_TRY(version_add(f, r, seq, err));
done:
    return st;
}

/* ---- the merged walk ---- */

static lk_status source_open(flush *f, lk_segment *segment, lk_error *err)
{
    source *s = &f->sources[f->source_count];
    uint32_t n = segment->count, least = n;
    if (f->snapshots.count > 0) { /* the oldest of them needs what it sees */
        least = lk_segment_visible(segment, f->snapshots.seqs[f->snapshots.count - 1]);
    }
    lk_status st = lk_segment_order_live(segment, n, least, true, &s->order, err);
    if (st != LK_OK) return st;
    LK_ASSERT(s->order->run_count <= 1);
    s->segment = segment;
    if (s->order->run_count == 1) { /* there may be range tombstones alone */
        s->items = s->order->runs[0]->items;
        s->count = s->order->runs[0]->count;
    }
    f->source_count++;
    return LK_OK;
}

/* ---- range tombstones ---- */

/* The skyline of what all segments delete. */
static lk_status tombs_collect(flush *f, lk_error *err)
{
    lk_status st = LK_OK;
    lk_tomb *list = NULL;
    lk_tombs *fresh = NULL, *joined = NULL;
    size_t count;
    for (uint32_t i = 0; i < f->in->segment_count; i++) {
        const lk_segment *s = f->in->segments[i];
        if (!lk_segment_has_tombs(s)) continue;
        LK_TRY(lk_segment_tombs_list(s, s->count, &list, &count, err));
        LK_TRY(lk_tombs_make(list, count, &f->snapshots, false, &fresh, err));
        LK_TRY(lk_tombs_join(f->tombs, fresh, &f->snapshots, false, &joined, err));
        lk_tombs_unref(f->tombs);
        f->tombs = joined;
        lk_tombs_unref(fresh);
        fresh = NULL;
        free(list);
        list = NULL;
    }
done:
    lk_tombs_unref(fresh);
    free(list);
    return st;
}

static lk_status tomb_to_edit(void *context, const lk_tomb *range, lk_error *err)
{
    return lk_edit_delete_range((lk_edit *)context, range, err);
}

/* Touches the records of the items that come next. By loads, many at a time and independent of each
 * other: prefetches are dropped where the TLB misses, and in a segment of 64 MiB most do. */
static void source_gather(source *s)
{
    const lk_entry *entries = s->segment->index.entries;
    const uint8_t *base = s->segment->base;
    uint32_t n = s->count - s->at < AHEAD ? s->count - s->at : AHEAD, places[AHEAD];
    for (uint32_t i = 0; i < n; i++) places[i] = entries[s->items[s->at + i].ordinal].location;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += lk_load64(base + places[i]);
        __builtin_prefetch(base + places[i] + 64);
        __builtin_prefetch(base + places[i] + 128);
    }
    s->touched = sum; /* keeps the loads */
    s->gathered = s->at + n;
}

static bool item_before(const source *a, const source *b)
{
    const lk_order_item *x = &a->items[a->at], *y = &b->items[b->at];
    if (x->tree != y->tree) return x->tree < y->tree;
    if (x->prefix != y->prefix) return x->prefix < y->prefix;
    lk_record r = lk_segment_record(a->segment, x->ordinal);
    lk_record q = lk_segment_record(b->segment, y->ordinal);
    return lk_key_compare(r.key, r.key_len, q.key, q.key_len) < 0;
}

/* The source with the smallest key; of equal keys the newest source, which stands first. */
static source *source_next(flush *f)
{
    source *best = NULL;
    for (uint32_t i = 0; i < f->source_count; i++) {
        source *s = &f->sources[i];
        if (s->at == s->count) continue;
        if (best == NULL || item_before(s, best)) best = s;
    }
    return best;
}

/* Where there is no memory, its keys are not counted. */
static void top_begin(flush *f, uint32_t tree)
{
    bool is_asked = tree == 0 || tree >= LK_TREE_KEYSPACES;
    f->top = is_asked ? lk_top_new(tree) : NULL;
    if (f->top == NULL) return;
    f->top->next = f->result->tops;
    f->result->tops = f->top;
}

/* The records that follow are of another tree: what was written of the one before is a table. */
static lk_status tree_begin(flush *f, const source *s, uint32_t tree, lk_error *err)
{
    lk_status st = LK_OK;
    LK_TRY(group_close(f, err));
    LK_TRY(table_finish(f, err));
    top_begin(f, tree);
    f->tree = tree;
    f->any = false;
    f->is_dropped = !lk_trees_has(f->in->trees, tree);
    f->shape = lk_trees_shape(f->in->trees, tree);
    f->stamp = f->is_dropped ? 0 : lk_manifest_next_file(f->in->manifest);
    lk_fold_set_tree(&f->fold, f->in->view->settings, tree);
    if (tree >= f->in->trees->next && tree >= LK_TREE_KEYSPACES) {
        /* The edit that made it was durable before its first record. */
        const char *path = lk_file_path(s->segment->file);
        st = lk_fail_corrupt(err, path, 0, f->in->trees->next, tree,
                             "%s: records of tree %u, which the manifest has never made", path,
                             tree);
    }
done:
    return st;
}

static lk_status walk(flush *f, lk_error *err)
{
    lk_status st = LK_OK;
    bool is_begun = false;
    for (source *s; (s = source_next(f)) != NULL; s->at++) {
        if (s->at >= s->gathered) source_gather(s);
        const lk_order_item *item = &s->items[s->at];
        if (LK_UNLIKELY(!is_begun || item->tree != f->tree)) {
            LK_TRY(tree_begin(f, s, item->tree, err));
            is_begun = true;
        }
        if (LK_UNLIKELY(f->is_dropped)) continue;
        lk_record r = lk_segment_record(s->segment, item->ordinal);
        LK_TRY(record_fold(f, &r, item->prefix, s->segment->base_seq + item->ordinal, err));
    }
done:
    return st;
}

lk_status lk_flush_run(const lk_flush *in, lk_edit *edit, lk_flush_result *out, lk_error *err)
{
    lk_status st = LK_OK;
    LK_ASSERT(in->segment_count > 0 && in->segment_count <= LK_FLUSH_SEGMENTS_MAX);
    memset(out, 0, sizeof *out);
    flush *f = calloc(1, sizeof *f);
    if (f == NULL) return lk_fail_nomem(err, sizeof *f);
    const lk_segment *last = in->segments[in->segment_count - 1];
    f->last_seq = last->base_seq + last->count - 1;
    f->in = in;
    f->edit = edit;
    f->result = out;
    f->snapshots = (lk_snapshots){in->snapshots, in->snapshot_count};
    lk_fold_init(&f->fold, in->view->settings, 0, in->now_us);
    for (uint32_t i = in->segment_count; i-- > 0;) {
        lk_segment *s = in->segments[i];
        /* A segment made for a large frame stays empty when a still larger one came before it. */
        if (s->count == 0) continue;
        LK_TRY(lk_segment_verify(s, s->count, NULL, err));
        LK_TRY(source_open(f, s, err));
        out->records_in += s->count;
    }
    LK_TRY(tombs_collect(f, err));
    LK_TRY(walk(f, err));
    LK_TRY(group_close(f, err));
    LK_TRY(table_finish(f, err));
    if (f->tombs != NULL) LK_TRY(lk_tombs_each(f->tombs, tomb_to_edit, edit, err));
    out->merge_failures = f->fold.failures;
    if (f->fold.failures > 0) out->merge_failure = f->fold.failure;
    LK_TRY(files_sync(f, err));
    if (edit->add_count > 0) LK_TRY(lk_env_sync_dir(in->env, in->dir, err));
    edit->log_retired = last->generation;
    edit->last_seq = f->last_seq;
done:
    lk_table_writer_free(f->writer);
    for (uint32_t i = 0; i < f->unsynced_count; i++) lk_file_close(f->unsynced[i]);
    for (uint32_t i = 0; i < f->source_count; i++) lk_order_unref(f->sources[i].order);
    if (st != LK_OK) {
        lk_edit_unlink_added(edit, in->env, in->dir);
        lk_top_free_list(out->tops);
        out->tops = NULL;
    }
    lk_tombs_unref(f->tombs);
    lk_fold_deinit(&f->fold);
    free(f->rows);
    free(f);
    return st;
}
