/* version_work.c: the lists that a tree consists of while it is being changed. See version_work.h. */
#include "version_work.h"

#include <stdlib.h>

#include "array.h"
#include "check.h"

/* ---- runs ---- */

lk_status lk_work_run_own(lk_work_run *r, uint32_t extra, lk_table ***out, lk_error *err)
{
    size_t need = (size_t)r->count + extra;
    bool fits = r->old == NULL && (r->capacity > 0 ? need <= r->capacity : need <= 1);
    if (!fits) {
        size_t capacity = need < 4 ? 4 : need + need / 2;
        if (need <= 1) capacity = need; /* goes into `one` */
        lk_table **many = NULL;
        if (capacity > 1) {
            many = capacity > UINT32_MAX ? NULL : malloc(capacity * sizeof *many);
            if (many == NULL) return lk_fail_nomem(err, capacity * sizeof *many);
            memcpy(many, lk_work_run_tables(r), r->count * sizeof *many);
        } else if (r->count == 1) {
            r->one = lk_work_run_tables(r)[0];
        }
        if (r->capacity > 0) free(r->many);
        r->many = many;
        r->capacity = capacity > 1 ? (uint32_t)capacity : 0;
        r->old = NULL;
    }
    *out = r->capacity > 0 ? r->many : &r->one;
    return LK_OK;
}

void lk_work_run_free(lk_work_run *r)
{
    if (r->capacity > 0) free(r->many);
}

uint32_t lk_work_run_seek(const lk_work_run *r, lk_bytes key)
{
    lk_table *const *tables = lk_work_run_tables(r);
    uint32_t low = 0, high = r->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (lk_bytes_compare(lk_table_max(tables[middle]), key) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* ---- ranges ---- */

lk_status lk_work_range_open(lk_work_range *g, lk_error *err)
{
    g->changed = true;
    if (g->old == NULL) return LK_OK;
    uint32_t count = g->old->run_count;
    g->runs = malloc(((size_t)count + 2) * sizeof *g->runs);
    if (g->runs == NULL) return lk_fail_nomem(err, ((size_t)count + 2) * sizeof *g->runs);
    for (uint32_t i = 0; i < count; i++) {
        const lk_run *run = &g->old->runs[i];
        g->runs[i] = (lk_work_run){
            .level = run->level, .count = run->count, .stamp = run->stamp, .old = run};
    }
    g->count = count;
    g->capacity = count + 2;
    g->old = NULL;
    return LK_OK;
}

void lk_work_range_free(lk_work_range *g)
{
    for (uint32_t i = 0; i < g->count; i++) lk_work_run_free(&g->runs[i]);
    free(g->runs);
    if (g->owns_lower) free((void *)(uintptr_t)g->lower.data);
}

uint32_t lk_work_range_find(const lk_work_range *g, uint32_t level, uint64_t stamp, bool *out_found)
{
    uint32_t i = 0;
    while (i < g->count &&
           (g->runs[i].level < level || (g->runs[i].level == level && g->runs[i].stamp > stamp))) {
        i++;
    }
    *out_found = i < g->count && g->runs[i].level == level && g->runs[i].stamp == stamp;
    return i;
}

lk_status lk_work_range_insert(lk_work_range *g, uint32_t i, lk_work_run run, lk_error *err)
{
    lk_status st = lk_array_grow(&g->runs, g->count, &g->capacity, sizeof *g->runs, err);
    if (st != LK_OK) return st;
    memmove(g->runs + i + 1, g->runs + i, (g->count - i) * sizeof *g->runs);
    g->runs[i] = run;
    g->count++;
    return LK_OK;
}

void lk_work_range_remove(lk_work_range *g, uint32_t i)
{
    lk_work_run_free(&g->runs[i]);
    g->count--;
    memmove(g->runs + i, g->runs + i + 1, (g->count - i) * sizeof *g->runs);
}

/* ---- trees ---- */

uint32_t lk_work_tree_range(const lk_work_tree *t, lk_bytes key)
{
    uint32_t low = 1, high = t->range_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (lk_bytes_compare(t->ranges[middle].lower, key) <= 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low - 1;
}

lk_work_range *lk_work_tree_range_at(const lk_work_tree *t, lk_bytes lower)
{
    lk_work_range *g = &t->ranges[lk_work_tree_range(t, lower)];
    return lk_bytes_compare(g->lower, lower) == 0 ? g : NULL;
}

uint32_t lk_work_tree_file(const lk_work_tree *t, uint64_t file, bool *out_found)
{
    uint32_t low = 0, high = t->file_count;
    if (high > 0 && t->files[high - 1].file < file) low = high;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (t->files[middle].file < file) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    *out_found = low < t->file_count && t->files[low].file == file;
    return low;
}

static void tree_clear(lk_work_tree *t)
{
    for (uint32_t i = 0; i < t->range_count; i++) lk_work_range_free(&t->ranges[i]);
    for (uint32_t i = 0; i < t->file_count; i++) lk_table_unref(t->files[i].table);
    t->range_count = t->file_count = 0;
    lk_tombs_unref(t->tombs);
    t->tombs = NULL;
    t->stands = 0;
    t->has_leavers = false;
}

void lk_work_tree_free(lk_work_tree *t)
{
    if (t == NULL) return;
    tree_clear(t);
    free(t->ranges);
    free(t->files);
    free(t);
}

lk_status lk_work_tree_empty(lk_work_tree *t, lk_error *err)
{
    tree_clear(t);
    lk_status st = lk_array_grow(&t->ranges, 0, &t->range_capacity, sizeof *t->ranges, err);
    if (st != LK_OK) return st;
    t->ranges[0] = (lk_work_range){.lower = {(const uint8_t *)"", 0}};
    t->range_count = 1;
    return LK_OK;
}

lk_status lk_work_tree_copy(lk_work_tree *t, const lk_tree_version *old, lk_error *err)
{
    size_t range_capacity = (size_t)old->range_count + 4,
           file_capacity = (size_t)old->file_count + 4;
    t->ranges = malloc(range_capacity * sizeof *t->ranges);
    t->files = malloc(file_capacity * sizeof *t->files);
    if (t->ranges == NULL || t->files == NULL || range_capacity > UINT32_MAX ||
        file_capacity > UINT32_MAX) {
        return lk_fail_nomem(err, range_capacity * sizeof *t->ranges);
    }
    for (uint32_t i = 0; i < old->range_count; i++) {
        t->ranges[i] = (lk_work_range){.lower = old->ranges[i].lower, .old = &old->ranges[i]};
    }
    memcpy(t->files, old->files, old->file_count * sizeof *t->files);
    for (uint32_t i = 0; i < old->file_count; i++) {
        lk_table_ref(old->files[i].table);
        t->stands += old->files[i].ranges;
    }
    if (old->tombs != NULL) lk_tombs_ref(old->tombs);
    t->tombs = old->tombs;
    t->range_count = old->range_count;
    t->range_capacity = range_capacity;
    t->file_count = old->file_count;
    t->file_capacity = file_capacity;
    return LK_OK;
}

lk_status lk_work_tree_insert(lk_work_tree *t, uint32_t i, const lk_work_range *range,
                              lk_error *err)
{
    lk_status st =
        lk_array_grow(&t->ranges, t->range_count, &t->range_capacity, sizeof *range, err);
    if (st != LK_OK) return st;
    memmove(t->ranges + i + 1, t->ranges + i, (t->range_count - i) * sizeof *range);
    t->ranges[i] = *range;
    t->range_count++;
    return LK_OK;
}

void lk_work_tree_sweep(lk_work_tree *t)
{
    if (!t->has_leavers) return;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < t->file_count; i++) {
        if (t->files[i].ranges == 0) {
            lk_table_unref(t->files[i].table);
        } else {
            t->files[kept++] = t->files[i];
        }
    }
    t->file_count = kept;
    t->has_leavers = false;
}
