/* version_build.c: changes versions. See version_build.h and version.h.
 *
 * A tree is taken apart only when an edit touches it, a range only when it does, a run only when its
 * tables change; what stays is copied from the old layout as bytes, without looking at its tables.
 * Measured with 1000 tables in 256 ranges: an edit that puts a table into every range costs 40 us.
 *
 * Always    a file has one level and stamp, the same in every range it stands in: it is put into all
 *           ranges that it touches at once, and can be put again only when it has left all of them.
 *           Tables of one run do not overlap. Old layouts are never written to.
 */
#include "version_build.h"

#include <stdlib.h>

#include "array.h"
#include "check.h"
#include "version_blobs.h"
#include "version_work.h"

/* Tables times ranges of one tree: bounds what a small file can ask for. */
enum { STANDS_MAX = 1 << 22 };

struct lk_version_build {
    const lk_version *old;
    const lk_version *from; /* whose tables are taken rather than made anew; NULL: none */
    lk_env *env;
    const char *dir;
    lk_cache *cache;
    lk_work_tree **trees; /* NULL: as in `old` */
    uint32_t tree_capacity;
    uint64_t max_file;
    bool any_blobs;         /* of the tables added */
    lk_snapshots snapshots; /* of the last edit */
};

static lk_status misfit_file(const lk_version_build *b, uint32_t tree, uint64_t file,
                             const char *what, lk_error *err)
{
    return lk_fail_corrupt(err, b->dir, 0, 0, file, "table %llu of tree %u %s",
                           (unsigned long long)file, tree, what);
}

static lk_status misfit_tree(const lk_version_build *b, uint32_t tree, const char *what,
                             lk_error *err)
{
    return lk_fail_corrupt(err, b->dir, 0, 0, tree, "tree %u: %s", tree, what);
}

/* The tree, taken apart; an empty one where there is none. */
static lk_status build_tree(lk_version_build *b, uint32_t tree, lk_work_tree **out, lk_error *err)
{
    *out = NULL;
    if (tree >= LK_TREE_MAX) return misfit_tree(b, tree, "such a number is never given", err);
    if (tree >= b->tree_capacity) {
        uint32_t capacity = b->tree_capacity < 8 ? 16 : b->tree_capacity * 2;
        if (capacity <= tree) capacity = tree + 1;
        lk_work_tree **trees = realloc(b->trees, capacity * sizeof *trees);
        if (trees == NULL) return lk_fail_nomem(err, capacity * sizeof *trees);
        memset(trees + b->tree_capacity, 0, (capacity - b->tree_capacity) * sizeof *trees);
        b->trees = trees;
        b->tree_capacity = capacity;
    }
    lk_work_tree *t = b->trees[tree];
    if (t == NULL) {
        t = calloc(1, sizeof *t);
        if (t == NULL) return lk_fail_nomem(err, sizeof *t);
        b->trees[tree] = t;
        t->tree = tree;
        const lk_tree_version *old = b->old == NULL ? NULL : lk_version_tree(b->old, tree);
        lk_status st = old == NULL ? lk_work_tree_empty(t, err) : lk_work_tree_copy(t, old, err);
        if (st != LK_OK) return st;
    }
    *out = t;
    return LK_OK;
}

/* ---- removes ---- */

static lk_status build_remove(lk_version_build *b, const lk_edit_remove *remove, lk_error *err)
{
    lk_status st = LK_OK;
    lk_work_tree *t;
    LK_TRY(build_tree(b, remove->tree, &t, err));
    lk_work_range *g = lk_work_tree_range_at(t, remove->lower);
    if (g == NULL) {
        return misfit_file(b, remove->tree, remove->file, "leaves a range that is not there", err);
    }
    bool found;
    uint32_t f = lk_work_tree_file(t, remove->file, &found);
    if (!found) return misfit_file(b, remove->tree, remove->file, "leaves, and is not there", err);
    LK_TRY(lk_work_range_open(g, err));
    uint32_t r = lk_work_range_find(g, t->files[f].level, t->files[f].stamp, &found);
    uint32_t i = found ? lk_work_run_seek(&g->runs[r], lk_table_min(t->files[f].table)) : 0;
    if (!found || i == g->runs[r].count ||
        lk_work_run_tables(&g->runs[r])[i] != t->files[f].table) {
        return misfit_file(b, remove->tree, remove->file, "leaves a range where it is not", err);
    }
    lk_table **tables;
    lk_work_run *run = &g->runs[r];
    LK_TRY(lk_work_run_own(run, 0, &tables, err));
    run->count--;
    memmove(tables + i, tables + i + 1, (run->count - i) * sizeof *tables);
    if (run->count == 0) lk_work_range_remove(g, r);
    t->stands--;
    if (--t->files[f].ranges == 0) t->has_leavers = true;
done:
    return st;
}

/* ---- joins ---- */

/* Joins `right` (whose tables are then gone) into `left`; the bound between them is `at`. */
static lk_status join_run(lk_version_build *b, lk_work_tree *t, lk_work_range *left,
                          lk_work_run *right, lk_bytes at, lk_error *err)
{
    lk_status st = LK_OK;
    bool found;
    uint32_t i = lk_work_range_find(left, right->level, right->stamp, &found);
    lk_table *first = lk_work_run_tables(right)[0];
    if (!found) {
        if (lk_bytes_compare(lk_table_min(first), at) < 0) {
            return misfit_file(b, t->tree, lk_table_meta_of(first)->file,
                               "reaches over a bound that goes, and stands on one side", err);
        }
        LK_TRY(lk_work_range_insert(left, i, *right, err));
        right->capacity = 0; /* moved */
        return LK_OK;
    }
    lk_work_run *run = &left->runs[i];
    lk_table *last = lk_work_run_tables(run)[run->count - 1];
    bool crosses = lk_bytes_compare(lk_table_max(last), at) >= 0 ||
                   lk_bytes_compare(lk_table_min(first), at) < 0;
    if (crosses && first != last) {
        return misfit_file(b, t->tree, lk_table_meta_of(last)->file,
                           "or its neighbour reaches over a bound that goes, on one side", err);
    }
    uint32_t from = crosses ? 1 : 0;
    if (crosses) {
        uint32_t f = lk_work_tree_file(t, lk_table_meta_of(first)->file, &found);
        LK_ASSERT(found);
        t->files[f].ranges--;
        t->stands--;
    }
    lk_table **tables;
    LK_TRY(lk_work_run_own(run, right->count - from, &tables, err));
    memcpy(tables + run->count, lk_work_run_tables(right) + from,
           (right->count - from) * sizeof *tables);
    run->count += right->count - from;
done:
    return st;
}

static lk_status build_join(lk_version_build *b, const lk_edit_cut *join, lk_error *err)
{
    lk_status st = LK_OK;
    lk_work_tree *t;
    LK_TRY(build_tree(b, join->tree, &t, err));
    lk_work_range *right = lk_work_tree_range_at(t, join->at);
    if (right == NULL || right == t->ranges) {
        return misfit_tree(b, join->tree, "a join at what is no bound", err);
    }
    lk_work_range *left = right - 1;
    LK_TRY(lk_work_range_open(left, err));
    LK_TRY(lk_work_range_open(right, err));
    for (uint32_t i = 0; i < left->count; i++) {
        const lk_work_run *run = &left->runs[i];
        lk_table *last = lk_work_run_tables(run)[run->count - 1];
        bool found;
        if (lk_bytes_compare(lk_table_max(last), join->at) < 0) continue;
        (void)lk_work_range_find(right, run->level, run->stamp, &found);
        if (!found) {
            return misfit_file(b, t->tree, lk_table_meta_of(last)->file,
                               "reaches over a bound that goes, and stands on one side", err);
        }
    }
    for (uint32_t i = 0; i < right->count; i++) {
        LK_TRY(join_run(b, t, left, &right->runs[i], join->at, err));
    }
    lk_work_range_free(right);
    t->range_count--;
    memmove(right, right + 1, (size_t)(t->ranges + t->range_count - right) * sizeof *right);
done:
    return st;
}

/* ---- splits ---- */

static lk_status count_stand(lk_version_build *b, lk_work_tree *t, lk_tree_file *file,
                             lk_error *err)
{
    if (t->stands == STANDS_MAX) {
        return misfit_tree(b, t->tree, "its tables stand in too many ranges", err);
    }
    t->stands++;
    file->ranges++;
    return LK_OK;
}

/* Cuts a run at `at`: what lies behind goes to `out`, a table that reaches over is in both. */
static lk_status split_run(lk_version_build *b, lk_work_tree *t, lk_work_run *run, lk_bytes at,
                           lk_work_run *out, lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t from = lk_work_run_seek(run, at);
    *out = (lk_work_run){.level = run->level, .stamp = run->stamp};
    if (from == run->count) return LK_OK;
    lk_table *const *tables = lk_work_run_tables(run);
    bool crosses = lk_bytes_compare(lk_table_min(tables[from]), at) < 0;
    if (crosses) {
        bool found;
        uint32_t f = lk_work_tree_file(t, lk_table_meta_of(tables[from])->file, &found);
        LK_ASSERT(found);
        LK_TRY(count_stand(b, t, &t->files[f], err));
    }
    lk_table **right;
    LK_TRY(lk_work_run_own(out, run->count - from, &right, err));
    memcpy(right, tables + from, (run->count - from) * sizeof *right);
    out->count = run->count - from;
    uint32_t keep = from + (crosses ? 1 : 0);
    if (keep < run->count) {
        lk_table **left;
        LK_TRY(lk_work_run_own(run, 0, &left, err));
        run->count = keep;
    }
done:
    return st;
}

/* A copy of a bound, kept until the build ends. */
static lk_status own_bound(lk_bytes at, lk_bytes *out, lk_error *err)
{
    uint8_t *data = malloc(at.len + 1);
    if (data == NULL) return lk_fail_nomem(err, at.len + 1);
    memcpy(data, at.data, at.len);
    *out = (lk_bytes){data, at.len};
    return LK_OK;
}

static lk_status build_split(lk_version_build *b, const lk_edit_cut *split, lk_error *err)
{
    lk_status st = LK_OK;
    lk_work_tree *t;
    lk_work_range right = {.lower = {NULL, 0}};
    LK_TRY(build_tree(b, split->tree, &t, err));
    uint32_t i = lk_work_tree_range(t, split->at);
    if (lk_bytes_compare(t->ranges[i].lower, split->at) == 0) {
        return misfit_tree(b, split->tree, "a split where a range begins already", err);
    }
    LK_TRY(own_bound(split->at, &right.lower, err));
    right.owns_lower = right.changed = true;
    LK_TRY(lk_work_range_open(&t->ranges[i], err));
    lk_work_range *left = &t->ranges[i];
    for (uint32_t r = 0; r < left->count;) {
        lk_work_run run;
        st = split_run(b, t, &left->runs[r], split->at, &run, err);
        if (st == LK_OK && run.count > 0) st = lk_work_range_insert(&right, right.count, run, err);
        if (st != LK_OK) {
            lk_work_run_free(&run);
            goto done;
        }
        /* All of it lies behind the cut: split_run leaves a run of the left side empty. */
        if (left->runs[r].count == 0) {
            lk_work_range_remove(left, r);
        } else {
            r++;
        }
    }
    LK_TRY(lk_work_tree_insert(t, i + 1, &right, err));
    return LK_OK;
done:
    lk_work_range_free(&right);
    return st;
}

/* ---- adds ---- */

static bool are_uses_good(const lk_table_meta *m)
{
    uint64_t before = 0, rows = 0;
    for (uint32_t i = 0; i < m->blob_count; i++) {
        const lk_blob_use *use = &m->blobs[i];
        if (use->file <= before || use->file >= LK_FILE_MAX || use->rows > m->rows) return false;
        if (use->size < LK_BLOB_HEADER_BYTES || use->bytes > use->size) return false;
        before = use->file;
        rows += use->rows;
    }
    return rows <= m->rows;
}

static lk_status check_meta(const lk_version_build *b, const lk_table_meta *m, uint32_t level,
                            uint64_t stamp, lk_error *err)
{
    const char *what = NULL;
    if (m->file == 0 || m->file >= LK_FILE_MAX || stamp >= LK_FILE_MAX) {
        what = "has a number or a stamp that is never given";
    } else if (level > LK_LEVEL_LAST) {
        what = "is at a level that there is not";
    } else if (m->min_len > LK_KEY_BYTES_MAX || m->max_len > LK_KEY_BYTES_MAX) {
        what = "has a key that is too long";
    } else if (lk_key_compare(m->min_key, m->min_len, m->max_key, m->max_len) > 0) {
        what = "has its least key behind its greatest";
    } else if (!are_uses_good(m)) {
        what = "uses files of values in a way that cannot be";
    } else if (m->seq_min > m->seq_max || m->tombstones > m->rows || m->operands > m->rows ||
               m->deadlines > m->rows || m->deadline_min > m->deadline_max) {
        what = "has counts or sequences that contradict one another";
    }
    return what == NULL ? LK_OK : misfit_file(b, m->tree, m->file, what, err);
}

/* Whether another tree holds the file. Numbers grow, so mostly nothing is searched. */
static bool is_in_another_tree(const lk_version_build *b, uint32_t tree, uint64_t file)
{
    if (file > b->max_file) return false;
    for (uint32_t i = 0; i < b->tree_capacity; i++) {
        bool found = false;
        if (i == tree || b->trees[i] == NULL) continue;
        (void)lk_work_tree_file(b->trees[i], file, &found);
        if (found) return true;
    }
    for (uint32_t i = 0; b->old != NULL && i < b->old->tree_count; i++) {
        if (i == tree || (i < b->tree_capacity && b->trees[i] != NULL)) continue;
        const lk_tree_version *t = b->old->trees[i];
        if (t != NULL && lk_tree_version_file(t, file) != NULL) return true;
    }
    return false;
}

static bool is_same_table(const lk_table_meta *a, const lk_table_meta *b)
{
    return a->file == b->file && a->nonce == b->nonce && a->bytes == b->bytes &&
           a->rows == b->rows && lk_bytes_equal(a->min_key, a->min_len, b->min_key, b->min_len) &&
           lk_bytes_equal(a->max_key, a->max_len, b->max_key, b->max_len);
}

static lk_table *table_shared(const lk_version_build *b, const lk_table_meta *meta)
{
    const lk_tree_version *t = b->from == NULL ? NULL : lk_version_tree(b->from, meta->tree);
    const lk_tree_file *f = t == NULL ? NULL : lk_tree_version_file(t, meta->file);
    return f != NULL && is_same_table(lk_table_meta_of(f->table), meta) ? f->table : NULL;
}

/* Makes the file known to its tree, standing nowhere yet; `out_index` is its place in the list. */
static lk_status build_file(lk_version_build *b, const lk_table_meta *meta, uint32_t level,
                            uint64_t stamp, lk_table *table, lk_work_tree **out_tree,
                            uint32_t *out_index, lk_error *err)
{
    lk_status st = LK_OK;
    bool found;
    LK_TRY(check_meta(b, meta, level, stamp, err));
    b->any_blobs |= meta->blob_count > 0;
    LK_TRY(build_tree(b, meta->tree, out_tree, err));
    lk_work_tree *t = *out_tree;
    uint32_t i = lk_work_tree_file(t, meta->file, &found);
    *out_index = i;
    if (found) {
        if (t->files[i].ranges > 0 || !is_same_table(lk_table_meta_of(t->files[i].table), meta)) {
            return misfit_file(b, meta->tree, meta->file, "comes, and is there already", err);
        }
        t->files[i].level = level;
        t->files[i].stamp = stamp;
        return LK_OK;
    }
    if (is_in_another_tree(b, meta->tree, meta->file)) {
        return misfit_file(b, meta->tree, meta->file, "is one of another tree", err);
    }
    LK_TRY(lk_array_grow(&t->files, t->file_count, &t->file_capacity, sizeof *t->files, err));
    if (table == NULL) table = table_shared(b, meta);
    if (table != NULL) {
        LK_ASSERT(is_same_table(lk_table_meta_of(table), meta));
        lk_table_ref(table);
    } else {
        LK_TRY(lk_table_new(b->env, b->dir, meta, b->cache, &table, err));
    }
    memmove(t->files + i + 1, t->files + i, (t->file_count - i) * sizeof *t->files);
    t->files[i] = (lk_tree_file){
        .file = meta->file, .table = table, .stamp = stamp, .level = level, .ranges = 0};
    t->file_count++;
    if (meta->file > b->max_file) b->max_file = meta->file;
done:
    return st;
}

/* Lets the file stand in range `index`. */
static lk_status build_stand(lk_version_build *b, lk_work_tree *t, uint32_t index,
                             lk_tree_file *file, lk_error *err)
{
    lk_status st = LK_OK;
    bool found;
    lk_work_range *g = &t->ranges[index];
    LK_TRY(lk_work_range_open(g, err));
    LK_TRY(count_stand(b, t, file, err));
    uint32_t r = lk_work_range_find(g, file->level, file->stamp, &found);
    if (!found) {
        lk_work_run run = {
            .level = file->level, .count = 1, .stamp = file->stamp, .one = file->table};
        return lk_work_range_insert(g, r, run, err);
    }
    lk_work_run *run = &g->runs[r];
    uint32_t i = lk_work_run_seek(run, lk_table_min(file->table));
    if (i < run->count && lk_bytes_compare(lk_table_min(lk_work_run_tables(run)[i]),
                                           lk_table_max(file->table)) <= 0) {
        return misfit_file(b, t->tree, file->file, "overlaps another one of its run", err);
    }
    lk_table **tables;
    LK_TRY(lk_work_run_own(run, 1, &tables, err));
    memmove(tables + i + 1, tables + i, (run->count - i) * sizeof *tables);
    tables[i] = file->table;
    run->count++;
done:
    return st;
}

static lk_status build_add(lk_version_build *b, const lk_edit_add *add, lk_error *err)
{
    lk_status st = LK_OK;
    lk_work_tree *t;
    uint32_t f;
    LK_TRY(build_file(b, &add->meta, add->level, add->stamp, add->table, &t, &f, err));
    uint32_t first = lk_work_tree_range(t, lk_table_min(t->files[f].table));
    uint32_t last = lk_work_tree_range(t, lk_table_max(t->files[f].table));
    for (uint32_t i = first; i <= last; i++) {
        LK_TRY(build_stand(b, t, i, &t->files[f], err));
    }
done:
    return st;
}

/* ---- deletes ---- */

lk_status lk_version_build_delete(lk_version_build *b, const lk_tomb *ranges, size_t count,
                                  lk_error *err)
{
    lk_status st = LK_OK;
    lk_tombs *fresh = NULL, *joined = NULL;
    for (size_t i = 0, n; i < count; i += n) {
        lk_work_tree *t;
        for (n = 1; i + n < count && ranges[i + n].tree == ranges[i].tree;) n++;
        LK_TRY(build_tree(b, ranges[i].tree, &t, err));
        LK_TRY(lk_tombs_make(ranges + i, n, &b->snapshots, false, &fresh, err));
        LK_TRY(lk_tombs_join(t->tombs, fresh, &b->snapshots, true, &joined, err));
        lk_tombs_unref(fresh);
        lk_tombs_unref(t->tombs);
        fresh = NULL;
        t->tombs = joined;
        t->tombs_added = true;
    }
done:
    lk_tombs_unref(fresh);
    return st;
}

/* ---- whole edits, whole states ---- */

lk_status lk_version_build_new(const lk_version *old, lk_env *env, const char *dir, lk_cache *cache,
                               lk_version_build **out, lk_error *err)
{
    *out = NULL;
    lk_version_build *b = calloc(1, sizeof *b);
    if (b == NULL) return lk_fail_nomem(err, sizeof *b);
    b->old = old;
    b->env = env;
    b->dir = dir;
    b->cache = cache;
    b->max_file = old == NULL ? 0 : old->max_file;
    *out = b;
    return LK_OK;
}

void lk_version_build_free(lk_version_build *b)
{
    if (b == NULL) return;
    for (uint32_t i = 0; i < b->tree_capacity; i++) lk_work_tree_free(b->trees[i]);
    free(b->trees);
    free(b);
}

/* The trees that the edit names. */
static lk_status build_prune(lk_version_build *b, const lk_edit *e, lk_error *err)
{
    lk_status st = LK_OK;
    const lk_snapshots *s = &b->snapshots;
    for (size_t i = 0; i < e->remove_count; i++) {
        LK_TRY(lk_work_tree_prune(b->trees[e->removes[i].tree], s, err));
    }
    for (size_t i = 0; i < e->add_count; i++) {
        LK_TRY(lk_work_tree_prune(b->trees[e->adds[i].meta.tree], s, err));
    }
    for (size_t i = 0; i < e->delete_count; i++) {
        LK_TRY(lk_work_tree_prune(b->trees[e->deletes[i].tree], s, err));
    }
done:
    return st;
}

void lk_version_build_share(lk_version_build *b, const lk_version *from) { b->from = from; }

lk_status lk_version_build_edit(lk_version_build *b, const lk_edit *e, lk_error *err)
{
    lk_status st = LK_OK;
    lk_work_tree *t;
    b->snapshots = e->snapshots;
    for (size_t i = 0; i < e->drop_count; i++) {
        LK_TRY(build_tree(b, e->drops[i], &t, err));
        LK_TRY(lk_work_tree_empty(t, err));
    }
    for (size_t i = 0; i < e->remove_count; i++) LK_TRY(build_remove(b, &e->removes[i], err));
    for (size_t i = 0; i < e->join_count; i++) LK_TRY(build_join(b, &e->joins[i], err));
    for (size_t i = 0; i < e->split_count; i++) LK_TRY(build_split(b, &e->splits[i], err));
    for (size_t i = 0; i < e->add_count; i++) LK_TRY(build_add(b, &e->adds[i], err));
    for (size_t i = 0; i < e->remove_count; i++) lk_work_tree_sweep(b->trees[e->removes[i].tree]);
    for (size_t i = 0; i < e->add_count; i++) lk_work_tree_sweep(b->trees[e->adds[i].meta.tree]);
    LK_TRY(lk_version_build_delete(b, e->deletes, e->delete_count, err));
    LK_TRY(build_prune(b, e, err));
done:
    return st;
}

lk_status lk_version_build_define(lk_version_build *b, const lk_table_meta *meta, uint32_t level,
                                  uint64_t stamp, lk_error *err)
{
    lk_work_tree *t;
    uint32_t index;
    return build_file(b, meta, level, stamp, NULL, &t, &index, err);
}

/* Tables that stand in the range before keep standing there alone: a state names all of them. */
lk_status lk_version_build_range(lk_version_build *b, uint32_t tree, lk_bytes lower, lk_error *err)
{
    lk_status st = LK_OK;
    lk_work_tree *t;
    lk_work_range range = {.owns_lower = true, .changed = true};
    LK_TRY(build_tree(b, tree, &t, err));
    if (lk_work_tree_range_at(t, lower) != NULL) return LK_OK;
    LK_TRY(own_bound(lower, &range.lower, err));
    LK_TRY(lk_work_tree_insert(t, lk_work_tree_range(t, lower) + 1, &range, err));
    return LK_OK;
done:
    lk_work_range_free(&range);
    return st;
}

lk_status lk_version_build_place(lk_version_build *b, uint32_t tree, lk_bytes lower, uint64_t file,
                                 lk_error *err)
{
    lk_status st = LK_OK;
    lk_work_tree *t;
    bool found;
    LK_TRY(build_tree(b, tree, &t, err));
    lk_work_range *g = lk_work_tree_range_at(t, lower);
    uint32_t f = lk_work_tree_file(t, file, &found);
    if (g == NULL || !found) {
        return misfit_file(b, tree, file, "stands in a range, and one of the two is not there",
                           err);
    }
    LK_TRY(build_stand(b, t, (uint32_t)(g - t->ranges), &t->files[f], err));
done:
    return st;
}

/* Whether each table of the range has keys in it, by its bounds. */
static lk_status check_range(const lk_version_build *b, const lk_work_tree *t, uint32_t index,
                             lk_error *err)
{
    const lk_work_range *g = &t->ranges[index];
    for (uint32_t r = 0; r < g->count; r++) {
        const lk_work_run *run = &g->runs[r];
        for (uint32_t i = 0; i < run->count; i++) {
            const lk_table *table = lk_work_run_tables(run)[i];
            bool ends_before = lk_bytes_compare(lk_table_max(table), g->lower) < 0;
            bool begins_after =
                index + 1 < t->range_count &&
                lk_bytes_compare(lk_table_min(table), t->ranges[index + 1].lower) >= 0;
            if (ends_before || begins_after) {
                return misfit_file(b, t->tree, lk_table_meta_of(table)->file,
                                   "stands in a range that its keys do not touch", err);
            }
        }
    }
    return LK_OK;
}

lk_status lk_version_build_whole(const lk_version_build *b, lk_error *err)
{
    lk_status st = LK_OK;
    for (uint32_t i = 0; i < b->tree_capacity; i++) {
        const lk_work_tree *t = b->trees[i];
        if (t == NULL) continue;
        for (uint32_t f = 0; f < t->file_count; f++) {
            if (t->files[f].ranges == 0) {
                return misfit_file(b, i, t->files[f].file, "stands in no range", err);
            }
        }
        for (uint32_t r = 0; r < t->range_count; r++) LK_TRY(check_range(b, t, r, err));
    }
done:
    return st;
}

lk_status lk_version_build_finish(lk_version_build *b, uint64_t number, lk_version **out,
                                  lk_error *err)
{
    lk_status st = LK_OK;
    *out = NULL;
    uint32_t count = b->old == NULL ? 0 : b->old->tree_count;
    for (uint32_t i = count; i < b->tree_capacity; i++) {
        if (b->trees[i] != NULL) count = i + 1;
    }
    lk_version *v = lk_version_empty();
    if (v == NULL) return lk_fail_nomem(err, sizeof *v);
    v->number = number;
    v->max_file = b->max_file;
    v->trees = calloc(count > 0 ? count : 1, sizeof *v->trees);
    if (v->trees == NULL) {
        st = lk_fail_nomem(err, count * sizeof *v->trees);
        goto done;
    }
    v->tree_count = count;
    for (uint32_t i = 0; i < count; i++) {
        if (i < b->tree_capacity && b->trees[i] != NULL) {
            LK_TRY(lk_work_tree_lay(b->trees[i], &v->trees[i], err));
            if (v->trees[i] == NULL) continue;
            v->trees[i]->number = number;
            const lk_tree_version *old = b->old == NULL ? NULL : lk_version_tree(b->old, i);
            if (!b->any_blobs && (old == NULL || old->blobs == NULL)) continue;
            LK_TRY(lk_version_blobs_gather(v->trees[i], old, b->env, b->dir, err));
            continue;
        }
        lk_tree_version *shared =
            b->old == NULL || i >= b->old->tree_count ? NULL : b->old->trees[i];
        if (shared != NULL) atomic_fetch_add_explicit(&shared->refs, 1, memory_order_relaxed);
        v->trees[i] = shared;
    }
    *out = v;
    v = NULL;
done:
    lk_version_unref(v);
    return st;
}

lk_status lk_version_apply(const lk_version *old, const lk_edit *edit, lk_env *env, const char *dir,
                           lk_cache *cache, lk_version **out, lk_error *err)
{
    lk_status st = LK_OK;
    lk_version_build *b = NULL;
    *out = NULL;
    LK_TRY(lk_version_build_new(old, env, dir, cache, &b, err));
    LK_TRY(lk_version_build_edit(b, edit, err));
    LK_TRY(lk_version_build_finish(b, old->number + 1, out, err));
done:
    lk_version_build_free(b);
    return st;
}
