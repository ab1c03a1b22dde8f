/* fold.c: see fold.h.
 *
 * Both readers and writers walk from the newest version to older ones, gather operands, and stop at
 * what they stand on. A reader looks at one time, now. A writer does not know when its rows will be
 * read, only that it is later: until an operand with a deadline fixes the time, the end of a deadline
 * counts only if it is over for all who may look.
 */
#include "fold.h"

#include <stdlib.h>

#include "check.h"

void lk_fold_init(lk_fold *f, const lk_settings *settings, uint32_t tree, uint64_t now_us)
{
    memset(f, 0, offsetof(lk_fold, failure));
    f->env = settings->env;
    f->now_us = now_us;
    lk_fold_set_tree(f, settings, tree);
}

void lk_fold_set_tree(lk_fold *f, const lk_settings *settings, uint32_t tree)
{
    f->op = lk_settings_tree(settings, tree)->op;
}

void lk_fold_clear(lk_fold *f)
{
    for (uint32_t i = 0; i < f->made_count; i++) lk_buffer_deinit(&f->made[i]);
    f->made_count = 0;
    f->made_bytes = 0;
}

void lk_fold_deinit(lk_fold *f)
{
    lk_fold_clear(f);
    free(f->made);
    free(f->operands);
    memset(f, 0, sizeof *f);
}

uint64_t lk_fold_now(lk_fold *f)
{
    if (f->now_us == 0) f->now_us = lk_env_wall_us(f->env);
    return f->now_us;
}

/* ---- gathering ---- */

static lk_status add_operand(lk_fold *f, lk_bytes operand, lk_error *err)
{
    if (f->count == f->capacity) {
        uint32_t capacity = f->capacity < 16 ? 16 : f->capacity * 2;
        lk_bytes *grown = realloc(f->operands, capacity * sizeof *grown);
        if (grown == NULL) return lk_fail_nomem(err, capacity * sizeof *grown);
        f->operands = grown;
        f->capacity = capacity;
    }
    f->operands[f->count++] = operand;
    return LK_OK;
}

static lk_bytes strip(lk_kind kind, lk_bytes value)
{
    uint32_t head = lk_kind_head_bytes(kind);
    LK_ASSERT(value.len >= head);
    return head == 0 ? value : (lk_bytes){value.data + head, value.len - head};
}

static void decide(lk_fold *f, const lk_bytes *base)
{
    f->is_decided = true;
    f->has_base = base != NULL;
    f->is_apart = false;
    if (base != NULL) f->base = *base;
}

/* The next older version. `is_clear` says whether who looks back at an unknown time looks back from
 * later than now. False: it, and all behind it, must stay as they are. */
static lk_status gather(lk_fold *f, lk_kind kind, lk_bytes value, bool is_clear, bool *out_taken,
                        lk_error *err)
{
    lk_status st = LK_OK;
    lk_bytes content = strip(kind, value);
    *out_taken = true;
    if ((kind & LK_KIND_UNTIL) != 0) {
        uint64_t deadline = lk_kind_deadline(kind, value.data);
        bool is_over = deadline <= (f->is_fixed ? f->tau : lk_fold_now(f));
        if (!f->is_fixed && !(is_over && is_clear)) {
            *out_taken = false;
            return LK_OK;
        }
        if (is_over) {
            decide(f, NULL);
            return LK_OK;
        }
    }
    switch (kind) {
    case LK_KIND_MERGE_UNTIL:
        f->tau = lk_load64(value.data);
        f->is_fixed = true;
        LK_TRY(add_operand(f, content, err));
        break;
    case LK_KIND_MERGE:
        LK_TRY(add_operand(f, content, err));
        break;
    case LK_KIND_DELETE:
        decide(f, NULL);
        break;
    case LK_KIND_BLOB:
    case LK_KIND_BLOB_UNTIL:
        decide(f, &content);
        f->is_apart = true;
        break;
    default:
        decide(f, &content);
        break;
    }
done:
    return st;
}

static void gather_begin(lk_fold *f)
{
    f->count = 0;
    f->is_fixed = f->is_decided = f->has_base = f->is_apart = false;
}

/* ---- results ---- */

static lk_status made_new(lk_fold *f, size_t head, lk_buffer **out, lk_error *err)
{
    if (f->made_count == f->made_capacity) {
        uint32_t capacity = f->made_capacity < 8 ? 8 : f->made_capacity * 2;
        lk_buffer *grown = realloc(f->made, capacity * sizeof *grown);
        if (grown == NULL) return lk_fail_nomem(err, capacity * sizeof *grown);
        f->made = grown;
        f->made_capacity = capacity;
    }
    *out = &f->made[f->made_count++];
    **out = (lk_buffer){NULL, 0, 0};
    return head == 0 ? LK_OK : lk_buffer_reserve(*out, head + 32, err);
}

static void reverse_operands(lk_fold *f)
{
    for (uint32_t i = 0, j = f->count; i + 1 < j; i++) {
        lk_bytes swap = f->operands[i];
        f->operands[i] = f->operands[--j];
        f->operands[j] = swap;
    }
}

/* The value that the base refers to takes its place. */
static lk_status read_base(lk_fold *f, lk_error *err)
{
    lk_status st = LK_OK;
    lk_buffer *b = NULL;
    size_t room;
    lk_blob_ref ref = lk_blob_ref_decode(f->base.data);
    LK_TRY(lk_blob_files_room(f->blobs, &ref, &room, err));
    LK_TRY(made_new(f, 0, &b, err));
    LK_TRY(lk_buffer_reserve(b, room, err));
    LK_TRY(lk_blob_files_read(f->blobs, &ref, b->data, &f->base, err));
    f->made_bytes += room;
    f->is_apart = false;
done:
    return st;
}

/* What the operands make, behind a head of `head_bytes`; `is_value`: over the base, else of each
 * other. */
static lk_status make(lk_fold *f, const uint8_t *head, size_t head_bytes, bool is_value,
                      lk_bytes *out, lk_error *err)
{
    lk_status st = LK_OK;
    lk_buffer *b = NULL, content = {NULL, 0, 0};
    *out = (lk_bytes){NULL, 0};
    if (f->op == NULL) {
        return lk_fail(err, LK_UNSUPPORTED, 0, NULL, 0, 0, 0,
                       "the store holds operands of a merge and was opened without its operator");
    }
    reverse_operands(f);
    if (is_value) {
        if (f->is_apart) LK_TRY(read_base(f, err));
        LK_TRY(f->op->full(f->op, f->has_base ? &f->base : NULL, f->operands, f->count, &content,
                           err));
    } else {
        LK_TRY(f->op->partial(f->op, f->operands, f->count, &content, err));
    }
    if (content.len > LK_VALUE_BYTES_MAX) {
        st = lk_fail(err, LK_INVALID, 0, NULL, 0, LK_VALUE_BYTES_MAX, content.len,
                     "a merge makes a value of %llu bytes, more than the %u allowed",
                     (unsigned long long)content.len, LK_VALUE_BYTES_MAX);
        goto done;
    }
    LK_TRY(made_new(f, head_bytes, &b, err));
    if (head_bytes == 0) {
        *b = content;
        content = (lk_buffer){NULL, 0, 0};
    } else {
        LK_TRY(lk_buffer_append(b, head, head_bytes, err));
        LK_TRY(lk_buffer_append(b, content.data, content.len, err));
    }
    *out = (lk_bytes){b->data, b->len};
done:
    lk_buffer_deinit(&content);
    return st;
}

/* ---- reading ---- */

void lk_fold_begin(lk_fold *f, uint64_t cover)
{
    gather_begin(f);
    f->cover = cover;
}

lk_status lk_fold_take(lk_fold *f, lk_kind kind, lk_bytes value, uint64_t seq, bool *out_decided,
                       lk_error *err)
{
    bool taken = true;
    lk_status st = LK_OK;
    LK_ASSERT(!f->is_decided);
    if (seq < f->cover) {
        decide(f, NULL);
    } else {
        if (!f->is_fixed && (kind & LK_KIND_UNTIL) != 0) {
            f->tau = lk_fold_now(f);
            f->is_fixed = true;
        }
        st = gather(f, kind, value, true, &taken, err);
    }
    LK_ASSERT(taken);
    *out_decided = f->is_decided;
    return st;
}

lk_status lk_fold_value(lk_fold *f, bool *out_found, lk_bytes *out, lk_error *err)
{
    lk_status st = LK_OK;
    if (f->count == 0) {
        if (f->is_apart && !f->no_values) st = read_base(f, err);
        *out = f->base;
        *out_found = f->has_base;
        return st;
    }
    *out_found = true;
    return make(f, NULL, 0, true, out, err);
}

/* ---- writing ---- */

typedef struct rewrite {
    lk_fold *f;
    lk_row *rows;
    uint32_t from, end; /* of the stripe: rows between two snapshots */
    uint32_t out;       /* rows [0, out) are done */
    bool is_oldest, is_newest;
} rewrite;

/* Whether nobody looks at what comes next from a time before `deadline`, which is over. */
static bool is_clear(const rewrite *r, uint64_t deadline)
{
    for (uint32_t i = r->out; i-- > 0;) {
        const lk_row *row = &r->rows[i];
        if (row->kind == LK_KIND_MERGE) continue;
        return row->kind != LK_KIND_MERGE_UNTIL || lk_load64(row->value) >= deadline;
    }
    return r->is_newest;
}

/* Whether the row is as if it were deleted, for all who may look. */
static bool is_expired(const rewrite *r, const lk_row *row)
{
    if ((row->kind & LK_KIND_UNTIL) == 0) return false;
    uint64_t deadline = lk_kind_deadline(row->kind, row->value);
    return deadline <= lk_fold_now(r->f) && is_clear(r, deadline);
}

static void put_out(rewrite *r, const lk_row *row) { r->rows[r->out++] = *row; }

static void put_delete(rewrite *r, const lk_row *row)
{
    lk_row dead = *row;
    dead.kind = LK_KIND_DELETE;
    dead.value = NULL;
    dead.value_len = 0;
    put_out(r, &dead);
}

/* Counts the failure; NULL memory is another matter. */
static lk_status put_aside(lk_fold *f, lk_status st, const lk_error *failed, lk_error *err)
{
    if (st == LK_OK) return LK_OK;
    if (st == LK_NOMEM) {
        if (err != NULL) *err = *failed;
        return st;
    }
    if (f->failures++ == 0) f->failure = *failed;
    return LK_OK;
}

/* One row in place of rows [at, end), which were gathered; false when the operator failed. */
static lk_status put_made(rewrite *r, uint32_t at, bool is_value, bool *out_done, lk_error *err)
{
    lk_fold *f = r->f;
    lk_row row = r->rows[at];
    uint8_t head[LK_HEAD_BYTES_MAX];
    size_t head_bytes = 0;
    lk_kind kind = is_value ? LK_KIND_PUT : LK_KIND_MERGE;
    if (row.kind == LK_KIND_MERGE_UNTIL) {
        if (!is_value) {
            lk_store64(head, f->tau);
            head_bytes = 8;
        }
        lk_store64(head + head_bytes, lk_kind_deadline(row.kind, row.value));
        head_bytes += 8;
        kind |= LK_KIND_UNTIL;
    }
    lk_bytes value;
    lk_error failed = {0};
    lk_status st = make(f, head, head_bytes, is_value, &value, &failed);
    *out_done = st == LK_OK;
    if (st != LK_OK) return put_aside(f, st, &failed, err);
    row.kind = kind;
    row.value = value.data;
    row.value_len = (uint32_t)value.len;
    put_out(r, &row);
    return LK_OK;
}

/* Operands from row `at` on, as far as they go together: becomes one row, or stays. Gives the row
 * behind those that are done; the end of the stripe when nothing behind them matters. */
static lk_status chain(rewrite *r, uint32_t at, uint32_t *out_next, lk_error *err)
{
    lk_status st = LK_OK;
    lk_fold *f = r->f;
    const lk_row *first = &r->rows[at];
    bool done = false, taken = true;
    uint32_t i = at + 1;
    gather_begin(f);
    LK_TRY(add_operand(f, strip(first->kind, (lk_bytes){first->value, first->value_len}), err));
    if (first->kind == LK_KIND_MERGE_UNTIL) {
        f->is_fixed = true;
        f->tau = lk_load64(first->value);
    }
    for (; i < r->end && !f->is_decided; i++) {
        const lk_row *row = &r->rows[i];
        bool clear = f->is_fixed || (row->kind & LK_KIND_UNTIL) == 0 ||
                     is_clear(r, lk_kind_deadline(row->kind, row->value));
        LK_TRY(gather(f, row->kind, (lk_bytes){row->value, row->value_len}, clear, &taken, err));
        if (!taken) break;
    }
    if (i == r->end && r->is_oldest && !f->is_decided) decide(f, NULL);
    if (f->is_decided) {
        LK_TRY(put_made(r, at, true, &done, err));
    } else if (f->count > 1 && f->op != NULL && f->op->partial != NULL) {
        LK_TRY(put_made(r, at, false, &done, err));
    }
    for (uint32_t j = at; j < i && !done; j++) put_out(r, &r->rows[j]);
    *out_next = f->is_decided ? r->end : i;
done:
    return st;
}

static lk_status stripe(rewrite *r, lk_error *err)
{
    for (uint32_t i = r->from; i < r->end;) {
        lk_row row = r->rows[i];
        if (is_expired(r, &row)) {
            put_delete(r, &row);
            break;
        }
        if (!lk_kind_is_merge(row.kind)) {
            put_out(r, &row);
            break;
        }
        lk_status st = chain(r, i, &i, err);
        if (st != LK_OK) return st;
    }
    return LK_OK;
}

lk_status lk_fold_rows(lk_fold *f, lk_row *rows, uint32_t *count, const lk_snapshots *snapshots,
                       uint64_t cover, bool is_oldest, bool is_newest, lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t n = *count;
    while (n > 0 && rows[n - 1].seq < cover) {
        n--;
        is_oldest = true;
    }
    rewrite r = {.f = f, .rows = rows, .is_newest = is_newest};
    for (; r.from < n; r.from = r.end) {
        r.end = r.from + 1;
        while (r.end < n && !lk_snapshots_between(snapshots, rows[r.end].seq, rows[r.end - 1].seq))
            r.end++;
        r.is_oldest = is_oldest && r.end == n;
        LK_TRY(stripe(&r, err));
    }
    n = r.out;
    while (is_oldest && n > 0 && rows[n - 1].kind == LK_KIND_DELETE) n--;
    *count = n;
done:
    return st;
}

/* ---- range tombstones ---- */

const uint8_t lk_fold_range[1];

uint32_t lk_fold_drop_ranges(lk_row *rows, uint32_t count, bool *out_hides)
{
    uint32_t kept = 0;
    bool hidden = false;
    for (uint32_t i = 0; i < count; i++) {
        if (rows[i].value == lk_fold_range) {
            hidden = true;
            continue;
        }
        *out_hides |= hidden;
        rows[kept++] = rows[i];
    }
    return kept;
}
