/* version_work.h: a tree of a version while it is being changed.
 *
 * Taken apart only as far as it changes: a range whose `old` is set is as it was, and so is a run;
 * what stays is laid out again by copying its bytes, without looking at its tables.
 *
 * Owns      a lk_work_tree its arrays, copies of new bounds, a reference to each of its tables.
 * Callers   version_build.c changes trees; version_layout.c turns them into lk_tree_versions.
 * Threads   belongs to one. The old version stays alive meanwhile and is never written to.
 */
#ifndef LK_VERSION_WORK_H
#define LK_VERSION_WORK_H

#include "version.h"

typedef struct lk_work_run {
    uint32_t level;
    uint32_t count;
    uint64_t stamp;
    const lk_run *old; /* not NULL: tables and heads are those of this run */
    lk_table **many;   /* when capacity is not 0 */
    lk_table *one;     /* else, when `old` is NULL */
    uint32_t capacity;
    uint32_t skip; /* set by the layout */
} lk_work_run;

typedef struct lk_work_range {
    lk_bytes lower;
    const lk_range *old; /* not NULL: as it was; the runs are not taken apart */
    lk_work_run *runs;
    uint32_t count;
    size_t capacity;
    bool owns_lower;
    bool changed; /* since the skyline was last pruned */
} lk_work_range;

typedef struct lk_work_tree {
    uint32_t tree;
    uint32_t range_count, file_count;
    size_t range_capacity, file_capacity;
    bool has_leavers; /* some file stands nowhere */
    uint64_t stands;  /* sum of files[].ranges */
    lk_work_range *ranges;
    lk_tree_file *files; /* by number; each with a reference to its table */
    lk_tombs *tombs;     /* with a reference; NULL: none */
    bool tombs_added;    /* ... since it was last pruned */
} lk_work_tree;

static inline lk_bytes lk_table_min(const lk_table *t)
{
    const lk_table_meta *meta = lk_table_meta_of(t);
    return (lk_bytes){meta->min_key, meta->min_len};
}

static inline lk_bytes lk_table_max(const lk_table *t)
{
    const lk_table_meta *meta = lk_table_meta_of(t);
    return (lk_bytes){meta->max_key, meta->max_len};
}

static inline int lk_bytes_compare(lk_bytes a, lk_bytes b)
{
    return lk_key_compare(a.data, a.len, b.data, b.len);
}

/* ---- runs ---- */

static inline lk_table *const *lk_work_run_tables(const lk_work_run *r)
{
    if (r->old != NULL) return r->old->tables;
    return r->capacity > 0 ? r->many : &r->one;
}

/* Makes the tables the run's own, with room for `extra` more, and gives them out to be changed. */
lk_status lk_work_run_own(lk_work_run *r, uint32_t extra, lk_table ***out, lk_error *err);
void lk_work_run_free(lk_work_run *r);
/* First table whose greatest key is not less than `key`. */
uint32_t lk_work_run_seek(const lk_work_run *r, lk_bytes key);

/* ---- ranges ---- */

/* Takes the range apart into runs, for it is to be changed. */
lk_status lk_work_range_open(lk_work_range *g, lk_error *err);
void lk_work_range_free(lk_work_range *g);
/* Where a run of this level and stamp stands, or belongs: levels ascend, stamps descend. */
uint32_t lk_work_range_find(const lk_work_range *g, uint32_t level, uint64_t stamp,
                            bool *out_found);
/* Puts `run` at place i; its tables now belong to the range. */
lk_status lk_work_range_insert(lk_work_range *g, uint32_t i, lk_work_run run, lk_error *err);
void lk_work_range_remove(lk_work_range *g, uint32_t i);

/* ---- trees ---- */

/* A zeroed tree becomes that of `old`. */
lk_status lk_work_tree_copy(lk_work_tree *t, const lk_tree_version *old, lk_error *err);
/* One range, no tables. */
lk_status lk_work_tree_empty(lk_work_tree *t, lk_error *err);
void lk_work_tree_free(lk_work_tree *t); /* NULL is accepted */
/* Index of the range that holds `key`; range 0 begins with "", so there is one. */
uint32_t lk_work_tree_range(const lk_work_tree *t, lk_bytes key);
/* The range that begins at `lower`, or NULL. */
lk_work_range *lk_work_tree_range_at(const lk_work_tree *t, lk_bytes lower);
/* Puts `range` at place i of its tree. */
lk_status lk_work_tree_insert(lk_work_tree *t, uint32_t i, const lk_work_range *range,
                              lk_error *err);
/* Where a file stands in the list, or belongs. */
uint32_t lk_work_tree_file(const lk_work_tree *t, uint64_t file, bool *out_found);
/* Takes out the files that stand nowhere. */
void lk_work_tree_sweep(lk_work_tree *t);
/* Leaves out of the skyline what hides no row of any table, or is seen by nobody. To be called after each
 * edit: what is not needed at one moment may seem to be at a later one. */
lk_status lk_work_tree_prune(lk_work_tree *t, const lk_snapshots *snapshots, lk_error *err);
/* The tree's layout, to which the references of the files and of the skyline go over; NULL where nothing is left. */
lk_status lk_work_tree_lay(lk_work_tree *t, lk_tree_version **out, lk_error *err);

#endif
