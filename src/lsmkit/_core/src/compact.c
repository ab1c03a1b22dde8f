/* compact.c: from a job to an edit: is it still possible, where do its outputs stand, in which parts.
 *
 * Owns      the lists of inputs and of the tables below them, and the parts, for one call.
 * Callers   the store's workers. compact_merge.c does the merging.
 * Always    an output never changes sides, in age, with a table that shares a key with an input.
 * Errors    see compact.h.
 */
#include "compact.h"

#include <stdlib.h>

#include "check.h"
#include "compact_merge.h"
#include "lock.h"

typedef struct plan {
    lk_env *env;
    const char *dir;
    lk_manifest *manifest;
    const lk_job *job;
    const lk_view *view;
    uint64_t now_us;
    const uint64_t *snapshots;
    size_t snapshot_count;

    const lk_tree_version *tree;
    const lk_range *range;
    lk_bounds bounds;         /* of the range */
    lk_table_runs inputs;     /* by run, newest first */
    lk_table_runs below;      /* not inputs, in the newest input's run or older */
    lk_table_runs above;      /* not inputs, in the oldest input's run or newer */
    lk_table_runs alive;      /* inputs that some reader may still find a row in: to be read */
    lk_bytes least, greatest; /* of the inputs' keys, in the range */
    uint64_t stamp;           /* of the outputs; UINT64_MAX: the newest of their level */

    lk_compact_part parts[LK_JOB_PARTS_MAX];
    lk_bytes part_lowers[LK_JOB_PARTS_MAX]; /* where parts begin, but for the first */
    uint32_t part_count;
    atomic_bool stop;
} plan;

static lk_status misfit(const plan *p, uint64_t file, const char *what, lk_error *err)
{
    return lk_fail(err, LK_INVALID, 0, p->dir, 0, 0, file,
                   "a compaction of tree %u does not fit the version: %s (table %llu)",
                   p->job->tree, what, (unsigned long long)file);
}

/* ---- the range and its tables ---- */

static lk_status find_range(plan *p, const lk_version *version, lk_error *err)
{
    lk_bytes lower = p->job->lower;
    p->tree = lk_version_tree(version, p->job->tree);
    if (p->tree == NULL) return misfit(p, 0, "the tree has no tables", err);
    uint32_t i = lk_tree_version_range(p->tree, lower.data, lower.len);
    p->range = &p->tree->ranges[i];
    if (!lk_bytes_equal(p->range->lower.data, p->range->lower.len, lower.data, lower.len)) {
        return misfit(p, 0, "no range begins at that key", err);
    }
    p->bounds.lower = p->range->lower;
    if (i + 1 < p->tree->range_count) p->bounds.upper = p->tree->ranges[i + 1].lower;
    return LK_OK;
}

static bool is_input(const lk_job *job, const lk_table *table)
{
    uint64_t file = lk_table_meta_of(table)->file;
    for (size_t i = 0; i < job->file_count; i++) {
        if (job->files[i] == file) return true;
    }
    return false;
}

static lk_status runs_alloc(lk_table_runs *r, const lk_range *range, lk_error *err)
{
    size_t tables = 0;
    for (uint32_t i = 0; i < range->run_count; i++) tables += range->runs[i].count;
    size_t runs = range->run_count + (size_t)1;
    size_t bytes = (tables + 1) * sizeof *r->tables + 2 * runs * sizeof *r->ends;
    r->tables = malloc(bytes);
    if (r->tables == NULL) return lk_fail_nomem(err, bytes);
    r->ends = (uint32_t *)(r->tables + tables + 1);
    r->places = r->ends + runs;
    return LK_OK;
}

/* Adds to `r` the tables of a run that are inputs, or that are not. */
static void runs_add(lk_table_runs *r, const plan *p, uint32_t place, bool inputs)
{
    const lk_run *run = &p->range->runs[place];
    uint32_t from = r->run_count == 0 ? 0 : r->ends[r->run_count - 1], at = from;
    for (uint32_t i = 0; i < run->count; i++) {
        if (is_input(p->job, run->tables[i]) == inputs) r->tables[at++] = run->tables[i];
    }
    if (at == from) return;
    r->places[r->run_count] = place;
    r->ends[r->run_count++] = at;
}

static uint32_t runs_tables(const lk_table_runs *r)
{
    return r->run_count == 0 ? 0 : r->ends[r->run_count - 1];
}

static lk_status find_tables(plan *p, lk_error *err)
{
    lk_status st = LK_OK;
    const lk_range *range = p->range;
    LK_TRY(runs_alloc(&p->inputs, range, err));
    LK_TRY(runs_alloc(&p->below, range, err));
    LK_TRY(runs_alloc(&p->above, range, err));
    LK_TRY(runs_alloc(&p->alive, range, err));
    for (uint32_t i = 0; i < range->run_count; i++) {
        runs_add(&p->inputs, p, i, true);
        if (p->inputs.run_count > 0) runs_add(&p->below, p, i, false);
    }
    uint32_t inputs = p->inputs.run_count;
    for (uint32_t i = 0; inputs > 0 && i <= p->inputs.places[inputs - 1]; i++) {
        runs_add(&p->above, p, i, false);
    }
    if (p->job->file_count == 0 || runs_tables(&p->inputs) != p->job->file_count) {
        st = misfit(p, p->job->file_count == 0 ? 0 : p->job->files[0],
                    "the inputs are not all in the range", err);
    }
done:
    return st;
}

/* ---- keys ---- */

static bool is_below_upper(const plan *p, const uint8_t *key, size_t len)
{
    lk_bytes upper = p->bounds.upper;
    return upper.data == NULL || lk_key_compare(key, len, upper.data, upper.len) < 0;
}

static bool overlaps(const lk_table_meta *a, const lk_table_meta *b)
{
    return lk_key_compare(a->min_key, a->min_len, b->max_key, b->max_len) <= 0 &&
           lk_key_compare(b->min_key, b->min_len, a->max_key, a->max_len) <= 0;
}

/* Whether both hold keys of the range between the same two keys. */
static bool overlaps_in_range(const plan *p, const lk_table_meta *a, const lk_table_meta *b)
{
    lk_bytes lower = p->bounds.lower;
    if (!overlaps(a, b)) return false;
    return lk_key_compare(a->max_key, a->max_len, lower.data, lower.len) >= 0 &&
           lk_key_compare(b->max_key, b->max_len, lower.data, lower.len) >= 0 &&
           is_below_upper(p, a->min_key, a->min_len) && is_below_upper(p, b->min_key, b->min_len);
}

static bool is_inside_range(const plan *p, const lk_table_meta *m)
{
    lk_bytes lower = p->bounds.lower;
    return lk_key_compare(m->min_key, m->min_len, lower.data, lower.len) >= 0 &&
           is_below_upper(p, m->max_key, m->max_len);
}

/* The least and the greatest key that an input may have in the range. */
static void find_ends(plan *p)
{
    lk_bytes lower = p->bounds.lower, upper = p->bounds.upper;
    for (uint32_t i = 0; i < runs_tables(&p->inputs); i++) {
        const lk_table_meta *m = lk_table_meta_of(p->inputs.tables[i]);
        if (i == 0 || lk_key_compare(m->min_key, m->min_len, p->least.data, p->least.len) < 0) {
            p->least = (lk_bytes){m->min_key, m->min_len};
        }
        if (i == 0 ||
            lk_key_compare(m->max_key, m->max_len, p->greatest.data, p->greatest.len) > 0) {
            p->greatest = (lk_bytes){m->max_key, m->max_len};
        }
    }
    if (lk_key_compare(p->least.data, p->least.len, lower.data, lower.len) < 0) p->least = lower;
    if (!is_below_upper(p, p->greatest.data, p->greatest.len)) p->greatest = upper;
}

/* Whether a table that is no input, and older than one, may hold a key of the outputs. */
static bool is_bottom(const plan *p)
{
    for (uint32_t i = 0; i < runs_tables(&p->below); i++) {
        const lk_table_meta *m = lk_table_meta_of(p->below.tables[i]);
        if (lk_key_compare(m->min_key, m->min_len, p->greatest.data, p->greatest.len) <= 0 &&
            lk_key_compare(m->max_key, m->max_len, p->least.data, p->least.len) >= 0) {
            return false;
        }
    }
    return true;
}

/* ---- age ---- */

/* Whether a run stands before, that is, is newer than, outputs with this stamp. */
static bool is_before(const lk_run *run, uint32_t level, uint64_t stamp)
{
    return run->level < level || (run->level == level && run->stamp > stamp);
}

/* Whether outputs with this stamp would change sides with table `t`, which is no input and stands in
 * the run at `place`. */
static bool is_crossed(const plan *p, uint32_t place, const lk_table *t, uint64_t stamp)
{
    const lk_run *run = &p->range->runs[place];
    const lk_table_meta *m = lk_table_meta_of(t);
    const lk_table_runs *r = &p->inputs;
    bool before = is_before(run, p->job->out_level, stamp);
    for (uint32_t i = 0; i < r->run_count; i++) {
        for (uint32_t j = i == 0 ? 0 : r->ends[i - 1]; j < r->ends[i]; j++) {
            if (!overlaps_in_range(p, m, lk_table_meta_of(r->tables[j]))) continue;
            if (before != (place < r->places[i])) return true;
        }
    }
    return false;
}

/* Whether outputs with this stamp would change sides with any table; which one. */
static bool find_crossed(const plan *p, uint64_t stamp, uint64_t *out_file)
{
    for (uint32_t i = 0; i < p->range->run_count; i++) {
        const lk_run *run = &p->range->runs[i];
        for (uint32_t j = 0; j < run->count; j++) {
            if (is_input(p->job, run->tables[j])) continue;
            if (!is_crossed(p, i, run->tables[j], stamp)) continue;
            *out_file = lk_table_meta_of(run->tables[j])->file;
            return true;
        }
    }
    return false;
}

static lk_status choose_place(plan *p, lk_error *err)
{
    const lk_run *newest = &p->range->runs[p->inputs.places[0]];
    uint64_t file = 0, again;
    if (p->job->out_level > LK_LEVEL_LAST) return misfit(p, 0, "there is no such level", err);
    p->stamp = UINT64_MAX;
    if (!p->job->in_place && !find_crossed(p, p->stamp, &file)) return LK_OK;
    p->stamp = newest->stamp;
    if (newest->level == p->job->out_level && !find_crossed(p, p->stamp, &again)) return LK_OK;
    return misfit(p, file, "a table between the inputs and their new place shares keys with them",
                  err);
}

/* Whether a table with these keys would overlap what is left of a run. */
static bool fits_run(const plan *p, const lk_run *run, const lk_table_meta *m)
{
    for (uint32_t i = 0; i < run->count; i++) {
        if (is_input(p->job, run->tables[i])) continue;
        if (overlaps(m, lk_table_meta_of(run->tables[i]))) return false;
    }
    return true;
}

/* The newest run of the outputs' level that keeps a table; NULL when there is none. */
static const lk_run *newest_left(const plan *p)
{
    for (uint32_t i = 0; i < p->range->run_count; i++) {
        const lk_run *run = &p->range->runs[i];
        if (run->level != p->job->out_level) continue;
        for (uint32_t j = 0; j < run->count; j++) {
            if (!is_input(p->job, run->tables[j])) return run;
        }
    }
    return NULL;
}

/* The stamp that the outputs get: that of the run they join, or a new one. `metas` are theirs. */
static lk_status settle_stamp(plan *p, const lk_table_meta *const *metas, size_t count,
                              lk_error *err)
{
    const lk_run *run = NULL;
    bool fits = true;
    if (p->stamp == UINT64_MAX) {
        run = newest_left(p);
    } else {
        run = &p->range->runs[p->inputs.places[0]];
    }
    for (size_t i = 0; run != NULL && i < count; i++) fits = fits && fits_run(p, run, metas[i]);
    if (p->stamp != UINT64_MAX) {
        /* Inputs that reach over tables of their own run, which stays: they cannot stand in it. */
        return fits ? LK_OK : misfit(p, 0, "the outputs overlap the run that they would join", err);
    }
    p->stamp = run != NULL && fits ? run->stamp : lk_manifest_next_file(p->manifest);
    return LK_OK;
}

/* A table of `r` that is older than `t`, whose run stands at `place`, and shares keys with it; `skip`
 * (NULL: none) says which do not count. */
static const lk_table *older_in(const plan *p, const lk_table_runs *r, const bool *skip,
                                const lk_table *t, uint32_t place)
{
    for (uint32_t i = r->run_count; i-- > 0 && r->places[i] > place;) {
        for (uint32_t j = i == 0 ? 0 : r->ends[i - 1]; j < r->ends[i]; j++) {
            const lk_table *other = r->tables[j];
            if (skip != NULL && skip[j]) continue;
            if (overlaps_in_range(p, lk_table_meta_of(t), lk_table_meta_of(other))) return other;
        }
    }
    return NULL;
}

/* ---- splitting ---- */

static int by_min_key(const void *a, const void *b)
{
    const lk_table_meta *x = *(const lk_table_meta *const *)a,
                        *y = *(const lk_table_meta *const *)b;
    return lk_key_compare(x->min_key, x->min_len, y->min_key, y->min_len);
}

/* Tables of the outputs' level that stay in the range, behind the `count` outputs in `all`. */
static size_t add_left(const plan *p, const lk_table_meta **all, size_t count)
{
    for (uint32_t i = 0; i < p->range->run_count; i++) {
        const lk_run *run = &p->range->runs[i];
        for (uint32_t j = 0; run->level == p->job->out_level && j < run->count; j++) {
            if (!is_input(p->job, run->tables[j])) all[count++] = lk_table_meta_of(run->tables[j]);
        }
    }
    return count;
}

/* Cuts the range into pieces of half as many tables as it may have, when it now has more. */
static lk_status split_range(const plan *p, const lk_table_meta *const *metas, size_t count,
                             lk_edit *edit, lk_error *err)
{
    lk_status st = LK_OK;
    size_t max = p->job->split_tables, room = count;
    if (max == 0) return LK_OK;
    for (uint32_t i = 0; i < p->range->run_count; i++) room += p->range->runs[i].count;
    const lk_table_meta **all = malloc((room + 1) * sizeof *all);
    if (all == NULL) return lk_fail_nomem(err, (room + 1) * sizeof *all);
    memcpy(all, metas, count * sizeof *all);
    count = add_left(p, all, count);
    size_t half = (max + 1) / 2, pieces = count <= max ? 1 : (count + half - 1) / half;
    qsort(all, count, sizeof *all, by_min_key);
    lk_bytes last = p->range->lower;
    for (size_t i = 1; i < pieces; i++) {
        const lk_table_meta *m = all[i * count / pieces];
        lk_bytes at = {m->min_key, m->min_len};
        /* A table that reaches in from the range before begins at or below the bound there is. */
        if (lk_key_compare(at.data, at.len, last.data, last.len) <= 0) continue;
        LK_TRY(lk_edit_split(edit, p->job->tree, at, err));
        last = at;
    }
done:
    free(all);
    return st;
}

/* ---- moving and joining ---- */

static lk_status remove_inputs(const plan *p, lk_edit *edit, lk_error *err)
{
    for (uint32_t i = 0; i < runs_tables(&p->inputs); i++) {
        uint64_t file = lk_table_meta_of(p->inputs.tables[i])->file;
        lk_status st = lk_edit_remove_table(edit, p->job->tree, p->range->lower, file, err);
        if (st != LK_OK) return st;
    }
    return LK_OK;
}

static lk_status move_table(const plan *p, lk_table *t, lk_edit *edit, lk_error *err)
{
    lk_table_meta meta;
    lk_status st = lk_table_meta_copy(lk_table_meta_of(t), &meta, err);
    if (st != LK_OK) return st;
    lk_table_ref(t);
    st = lk_edit_add_table(edit, &meta, p->job->out_level, p->stamp, t, err);
    if (st != LK_OK) {
        lk_table_unref(t);
        lk_table_meta_deinit(&meta);
    }
    return st;
}

static lk_status run_move(plan *p, lk_edit *edit, lk_job_result *out, lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t count = runs_tables(&p->inputs);
    const lk_table_meta **metas = malloc((count + 1) * sizeof *metas);
    if (metas == NULL) return lk_fail_nomem(err, (count + 1) * sizeof *metas);
    for (uint32_t i = 0; i < count; i++) {
        metas[i] = lk_table_meta_of(p->inputs.tables[i]);
        if (!is_inside_range(p, metas[i])) {
            LK_TRY(misfit(p, metas[i]->file, "a table that moves reaches out of the range", err));
        }
        for (uint32_t j = 0; j < i; j++) {
            if (!overlaps(metas[i], metas[j])) continue;
            LK_TRY(misfit(p, metas[i]->file, "tables that move together overlap", err));
        }
    }
    LK_TRY(settle_stamp(p, metas, count, err));
    LK_TRY(remove_inputs(p, edit, err));
    LK_TRY(split_range(p, metas, count, edit, err));
    for (uint32_t i = 0; i < count; i++) LK_TRY(move_table(p, p->inputs.tables[i], edit, err));
    out->tables_out = count;
done:
    free(metas);
    return st;
}

static lk_status run_join(const plan *p, lk_edit *edit, lk_error *err)
{
    lk_bytes lower = p->range->lower;
    if (p->range == p->tree->ranges) return misfit(p, 0, "the first range has none before", err);
    if (p->range->run_count > 0) return misfit(p, 0, "the range to be joined has tables", err);
    const lk_range *before = p->range - 1;
    for (uint32_t i = 0; i < before->run_count; i++) {
        const lk_run *run = &before->runs[i];
        const lk_table_meta *m = lk_table_meta_of(run->tables[run->count - 1]);
        if (lk_key_compare(m->max_key, m->max_len, lower.data, lower.len) < 0) continue;
        return misfit(p, m->file, "a table of the range before reaches into this one", err);
    }
    return lk_edit_join(edit, p->job->tree, lower, err);
}

/* Whether no table that stays, and is older than an input, shares keys with it. */
static lk_status check_oldest(const plan *p, lk_error *err)
{
    const lk_table_runs *in = &p->inputs, *below = &p->below;
    for (uint32_t i = 0; i < in->run_count; i++) {
        for (uint32_t j = i == 0 ? 0 : in->ends[i - 1]; j < in->ends[i]; j++) {
            const lk_table *under = older_in(p, below, NULL, in->tables[j], in->places[i]);
            if (under == NULL) continue;
            return misfit(p, lk_table_meta_of(under)->file,
                          "it is older than one that shall be dropped, and would come back", err);
        }
    }
    return LK_OK;
}

/* ---- parts ---- */

/* Whether range tombstones hide from everybody all that the table holds in the range. */
static bool is_deleted(const plan *p, const lk_table *t)
{
    const lk_table_meta *m = lk_table_meta_of(t);
    lk_bytes least = {m->min_key, m->min_len}, greatest = {m->max_key, m->max_len};
    if (p->tree->tombs == NULL) return false;
    if (lk_key_compare(least.data, least.len, p->bounds.lower.data, p->bounds.lower.len) < 0) {
        least = p->bounds.lower;
    }
    if (!is_below_upper(p, greatest.data, greatest.len)) greatest = p->bounds.upper;
    uint64_t all_see = p->snapshot_count == 0 ? LK_SEQ_MAX : p->snapshots[p->snapshot_count - 1];
    return lk_tombs_cover_all(p->tree->tombs, p->tree->tree, least, greatest, m->seq_max, all_see);
}

/* Whether a table of nothing but deletes and rows past their deadline hides nothing either. With an
 * operator a newer operand may have renewed a row before its deadline, which only folding can tell. */
static bool is_over(const plan *p, const bool *gone, const lk_table *t, uint32_t place)
{
    const lk_table_meta *m = lk_table_meta_of(t);
    if (m->deadlines + m->tombstones < m->rows || m->deadline_max > p->now_us) return false;
    const lk_tree_settings *of = lk_settings_tree(p->view->settings, p->job->tree);
    if (of != NULL && of->op != NULL) return false;
    return older_in(p, &p->below, NULL, t, place) == NULL &&
           older_in(p, &p->inputs, gone, t, place) == NULL;
}

static lk_status find_alive(plan *p, lk_error *err)
{
    const lk_table_runs *from = &p->inputs;
    lk_table_runs *to = &p->alive;
    uint32_t at = 0;
    bool *gone = calloc(runs_tables(from), sizeof *gone);
    if (gone == NULL) return lk_fail_nomem(err, runs_tables(from) * sizeof *gone);
    /* From the oldest on, because what is gone is nothing to hide for those above it. */
    for (uint32_t i = from->run_count; i-- > 0;) {
        for (uint32_t j = i == 0 ? 0 : from->ends[i - 1]; j < from->ends[i]; j++) {
            const lk_table *t = from->tables[j];
            gone[j] = is_deleted(p, t) || is_over(p, gone, t, from->places[i]);
        }
    }
    for (uint32_t i = 0; i < from->run_count; i++) {
        uint32_t begin = at;
        for (uint32_t j = i == 0 ? 0 : from->ends[i - 1]; j < from->ends[i]; j++) {
            if (!gone[j]) to->tables[at++] = from->tables[j];
        }
        if (at == begin) continue;
        to->places[to->run_count] = from->places[i];
        to->ends[to->run_count++] = at;
    }
    free(gone);
    return LK_OK;
}

/* Of the run of inputs with the most blocks, keys at even distances. */
static lk_status cut_parts(plan *p, lk_error *err)
{
    const lk_table_runs *r = &p->alive;
    uint32_t want = p->job->parts < LK_JOB_PARTS_MAX ? p->job->parts : LK_JOB_PARTS_MAX;
    uint64_t most = 0;
    uint32_t best = 0;
    p->part_count = 1;
    if (want < 2 || r->run_count == 0) return LK_OK;
    for (uint32_t i = 0; i < r->run_count; i++) {
        uint64_t blocks = 0;
        for (uint32_t j = i == 0 ? 0 : r->ends[i - 1]; j < r->ends[i]; j++) {
            lk_status st = lk_table_load(r->tables[j], err);
            if (st != LK_OK) return st;
            blocks += lk_table_block_count(r->tables[j]);
        }
        if (blocks > most) {
            most = blocks;
            best = i;
        }
    }
    LK_ASSERT(best < r->run_count);
    uint64_t seen = 0;
    for (uint32_t j = best == 0 ? 0 : r->ends[best - 1]; j < r->ends[best]; j++) {
        uint32_t blocks = lk_table_block_count(r->tables[j]);
        for (uint32_t b = 0; b < blocks && p->part_count < want; b++, seen++) {
            if (seen < most * p->part_count / want) continue;
            lk_bytes key = lk_table_block_last_key(r->tables[j], b);
            lk_bytes last = p->part_count == 1 ? p->least : p->part_lowers[p->part_count - 1];
            if (lk_key_compare(key.data, key.len, last.data, last.len) <= 0) continue;
            if (!is_below_upper(p, key.data, key.len)) continue;
            p->part_lowers[p->part_count++] = key;
        }
    }
    return LK_OK;
}

static void fill_parts(plan *p)
{
    bool bottom = is_bottom(p);
    uint64_t written_us = 0;
    for (uint32_t i = 0; i < runs_tables(&p->inputs); i++) {
        uint64_t then = lk_table_meta_of(p->inputs.tables[i])->written;
        if (then > written_us) written_us = then;
    }
    for (uint32_t i = 0; i < p->part_count; i++) {
        lk_compact_part *part = &p->parts[i];
        *part = (lk_compact_part){.env = p->env,
                                  .dir = p->dir,
                                  .manifest = p->manifest,
                                  .job = p->job,
                                  .bounds = p->bounds,
                                  .inputs = &p->alive,
                                  .below = &p->below,
                                  .above = &p->above,
                                  .view = p->view,
                                  .now_us = p->now_us,
                                  .written_us = written_us,
                                  .snapshots = {p->snapshots, p->snapshot_count},
                                  .tombs = p->tree->tombs,
                                  .blobs = p->tree->blobs,
                                  .bottom = bottom,
                                  .stop = &p->stop};
        if (i > 0) part->bounds.lower = p->part_lowers[i];
        if (i + 1 < p->part_count) part->bounds.upper = p->part_lowers[i + 1];
    }
}

typedef struct part_thread {
    lk_compact_part *part;
    pthread_t thread;
    bool started;
    lk_status st;
    lk_error error;
} part_thread;

static void part_thread_run(part_thread *t)
{
    t->st = lk_compact_part_run(t->part, &t->error);
    if (t->st != LK_OK) atomic_store_explicit(t->part->stop, true, memory_order_relaxed);
}

static void *part_thread_main(void *arg)
{
    part_thread_run((part_thread *)arg);
    return NULL;
}

/* All parts at once, the first one in this thread. Of several errors the first part's is told, but
 * for a cancellation that another part's failure brought about. */
static lk_status run_parts(plan *p, lk_error *err)
{
    lk_status st = LK_OK;
    if (p->part_count == 1) return lk_compact_part_run(&p->parts[0], err);
    part_thread *threads = calloc(p->part_count, sizeof *threads);
    if (threads == NULL) return lk_fail_nomem(err, p->part_count * sizeof *threads);
    for (uint32_t i = 0; i < p->part_count; i++) threads[i].part = &p->parts[i];
    for (uint32_t i = 1; i < p->part_count; i++) {
        threads[i].started = lk_thread_start(part_thread_main, &threads[i], &threads[i].thread,
                                             "lsmkit-part", &threads[i].error) == LK_OK;
    }
    part_thread_run(&threads[0]);
    for (uint32_t i = 1; i < p->part_count; i++) {
        if (threads[i].started) {
            (void)pthread_join(threads[i].thread, NULL);
        } else { /* no thread was to be had: its part is done here */
            part_thread_run(&threads[i]);
        }
    }
    for (uint32_t i = 0; i < p->part_count; i++) {
        if (threads[i].st == LK_OK || (st != LK_OK && st != LK_CANCELLED)) continue;
        if (st == LK_CANCELLED && threads[i].st == LK_CANCELLED) continue;
        st = threads[i].st;
        if (err != NULL) *err = threads[i].error;
    }
    free(threads);
    return st;
}

/* ---- the edit of a merge ---- */

/* Bytes of the inputs' blocks that hold keys of the range. */
static uint64_t bytes_read(const plan *p)
{
    uint64_t bytes = 0;
    lk_bytes lower = p->bounds.lower, upper = p->bounds.upper;
    for (uint32_t i = 0; i < runs_tables(&p->alive); i++) {
        const lk_table *t = p->alive.tables[i];
        uint32_t blocks = lk_table_is_loaded(t) ? lk_table_block_count(t) : 0;
        uint32_t from = blocks == 0 ? 0 : lk_table_seek(t, lower.data, lower.len), to = blocks;
        if (blocks > 0 && upper.data != NULL) to = lk_table_seek(t, upper.data, upper.len) + 1;
        if (to > blocks) to = blocks;
        if (from >= to) continue;
        uint64_t begin, end;
        uint32_t first_bytes, last_bytes;
        lk_table_block_place(t, from, &begin, &first_bytes);
        lk_table_block_place(t, to - 1, &end, &last_bytes);
        bytes += end + last_bytes - begin;
    }
    return bytes;
}

static void count_outputs(const plan *p, lk_job_result *out)
{
    out->bytes_in = bytes_read(p);
    for (uint32_t i = 0; i < p->part_count; i++) {
        const lk_compact_part *part = &p->parts[i];
        out->rows_in += part->rows_in;
        out->rows_copied += part->rows_copied;
        out->tables_out += part->table_count;
        if (out->merge_failures == 0) out->merge_failure = part->merge_failure;
        out->merge_failures += part->merge_failures;
        for (uint32_t j = 0; j < part->table_count; j++) {
            out->rows_out += part->tables[j].rows;
            out->bytes_out += lk_table_meta_written(&part->tables[j]);
        }
    }
}

static lk_status edit_of_merge(plan *p, size_t count, lk_edit *edit, lk_error *err)
{
    lk_status st = LK_OK;
    size_t at = 0;
    lk_table_meta **metas = malloc((count + 1) * sizeof *metas);
    if (metas == NULL) return lk_fail_nomem(err, (count + 1) * sizeof *metas);
    for (uint32_t i = 0; i < p->part_count; i++) {
        for (uint32_t j = 0; j < p->parts[i].table_count; j++) {
            metas[at++] = &p->parts[i].tables[j];
        }
    }
    LK_ASSERT(at == count);
    LK_TRY(settle_stamp(p, (const lk_table_meta *const *)metas, count, err));
    LK_TRY(remove_inputs(p, edit, err));
    LK_TRY(split_range(p, (const lk_table_meta *const *)metas, count, edit, err));
    /* Copies: until all are in the edit the parts own the files, which go if anything fails. */
    for (size_t i = 0; i < count; i++) {
        lk_table_meta meta;
        LK_TRY(lk_table_meta_copy(metas[i], &meta, err));
        st = lk_edit_add_table(edit, &meta, p->job->out_level, p->stamp, NULL, err);
        if (st != LK_OK) lk_table_meta_deinit(&meta);
        LK_TRY(st);
    }
done:
    free(metas);
    return st;
}

static lk_status run_merge(plan *p, lk_edit *edit, lk_job_result *out, lk_error *err)
{
    lk_status st = LK_OK;
    find_ends(p);
    LK_TRY(find_alive(p, err));
    LK_TRY(cut_parts(p, err));
    fill_parts(p);
    LK_TRY(run_parts(p, err));
    count_outputs(p, out);
    LK_TRY(edit_of_merge(p, out->tables_out, edit, err));
done:
    for (uint32_t i = 0; i < p->part_count; i++) {
        lk_compact_part_deinit(&p->parts[i], st != LK_OK);
    }
    return st;
}

lk_status lk_compact_run(lk_env *env, const char *dir, lk_manifest *manifest, const lk_view *view,
                         uint64_t now_us, const lk_job *job, const uint64_t *snapshots,
                         size_t snapshot_count, lk_edit *edit, lk_job_result *out, lk_error *err)
{
    lk_status st = LK_OK;
    uint64_t begun = lk_env_now_ns(env);
    plan p = {.env = env,
              .dir = dir,
              .manifest = manifest,
              .job = job,
              .view = view,
              .now_us = now_us,
              .snapshots = snapshots,
              .snapshot_count = snapshot_count};
    *out = (lk_job_result){0};
    LK_TRY(find_range(&p, view->version, err));
    if (job->kind == LK_JOB_JOIN) {
        LK_TRY(run_join(&p, edit, err));
        goto done;
    }
    LK_TRY(find_tables(&p, err));
    if (job->kind == LK_JOB_DROP) {
        LK_TRY(check_oldest(&p, err));
        LK_TRY(remove_inputs(&p, edit, err));
        goto done;
    }
    LK_TRY(choose_place(&p, err));
    LK_TRY(job->kind == LK_JOB_MOVE ? run_move(&p, edit, out, err) : run_merge(&p, edit, out, err));
done:
    out->ns = lk_env_now_ns(env) - begun;
    free(p.inputs.tables);
    free(p.below.tables);
    free(p.above.tables);
    free(p.alive.tables);
    return st;
}
