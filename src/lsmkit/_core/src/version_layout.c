/* version_layout.c: a tree in one allocation, in the order in which a read walks it. See version.h.
 *
 *   lk_tree_version | heads of ranges | lk_range ... | for each range: lk_run ..., for each of them
 *   heads, bytes in common, tables | files | lower bounds
 */
#include <stdlib.h>

#include "check.h"
#include "version_work.h"

enum { RUN_SKIP_MAX = 64 }; /* copied beside each run's heads, so bounded */

/* Bytes of a run behind its lk_run: heads, what they skip, tables. */
static size_t run_bytes(uint32_t count, uint32_t skip)
{
    return (size_t)count * (2 * sizeof(uint64_t) + sizeof(lk_table *)) + lk_align_up(skip, 8);
}

/* All that a tree's layout needs; sets the `skip` of each changed run. */
static size_t layout_bytes(lk_work_tree *t)
{
    size_t bytes = sizeof(lk_tree_version) + t->file_count * sizeof(lk_tree_file) +
                   t->range_count * (sizeof(uint64_t) + sizeof(lk_range));
    for (uint32_t i = 0; i < t->range_count; i++) {
        lk_work_range *g = &t->ranges[i];
        uint32_t count = g->old != NULL ? g->old->run_count : g->count;
        bytes += g->lower.len + count * sizeof(lk_run);
        for (uint32_t r = 0; r < count; r++) {
            const lk_run *old = g->old != NULL ? &g->old->runs[r] : g->runs[r].old;
            if (old != NULL) {
                bytes += run_bytes(old->count, old->skip);
                continue;
            }
            lk_work_run *run = &g->runs[r];
            lk_table *const *tables = lk_work_run_tables(run);
            lk_bytes low = lk_table_min(tables[0]), high = lk_table_max(tables[run->count - 1]);
            size_t skip = lk_common_prefix(low.data, low.len, high.data, high.len);
            run->skip = (uint32_t)(skip < RUN_SKIP_MAX ? skip : RUN_SKIP_MAX);
            bytes += run_bytes(run->count, run->skip);
        }
    }
    return bytes;
}

static void *carve(uint8_t **at, size_t bytes)
{
    void *p = *at;
    *at += bytes;
    return p;
}

static void lay_old_run(const lk_run *old, lk_run *run, uint8_t **at)
{
    size_t heads = 2 * sizeof(uint64_t) * old->count + lk_align_up(old->skip, 8);
    *run = *old;
    run->heads = carve(at, heads);
    run->tables = carve(at, old->count * sizeof *run->tables);
    memcpy((void *)(uintptr_t)run->heads, old->heads, heads);
    memcpy(run->tables, old->tables, old->count * sizeof *run->tables);
}

static void lay_new_run(const lk_work_run *from, lk_run *run, uint8_t **at)
{
    uint32_t count = from->count, skip = from->skip;
    uint64_t *heads = carve(at, 2 * sizeof(uint64_t) * count + lk_align_up(skip, 8));
    *run = (lk_run){.level = from->level,
                    .count = count,
                    .stamp = from->stamp,
                    .tables = carve(at, count * sizeof *run->tables),
                    .heads = heads,
                    .skip = skip};
    memcpy(run->tables, lk_work_run_tables(from), count * sizeof *run->tables);
    for (uint32_t i = 0; i < count; i++) {
        lk_bytes low = lk_table_min(run->tables[i]), high = lk_table_max(run->tables[i]);
        LK_ASSERT(low.len >= skip && high.len >= skip);
        LK_ASSERT_SLOW(i == 0 || lk_bytes_compare(lk_table_max(run->tables[i - 1]), low) < 0);
        heads[i] = lk_key_prefix(high.data + skip, high.len - skip);
        heads[count + i] = lk_key_prefix(low.data + skip, low.len - skip);
    }
    if (skip > 0) {
        heads[2 * (size_t)count + (skip - 1) / 8] = 0; /* the padding is never read, but copied */
        memcpy(heads + 2 * (size_t)count, lk_table_min(run->tables[0]).data, skip);
    }
}

static void lay_range(const lk_work_range *g, lk_range *range, uint8_t **at)
{
    range->run_count = g->old != NULL ? g->old->run_count : g->count;
    range->runs = carve(at, range->run_count * sizeof *range->runs);
    for (uint32_t r = 0; r < range->run_count; r++) {
        const lk_run *old = g->old != NULL ? &g->old->runs[r] : g->runs[r].old;
        LK_ASSERT_SLOW(r == 0 || g->old != NULL || g->runs[r - 1].level < g->runs[r].level ||
                       g->runs[r - 1].stamp > g->runs[r].stamp);
        if (old != NULL) {
            lay_old_run(old, &range->runs[r], at);
        } else {
            lay_new_run(&g->runs[r], &range->runs[r], at);
        }
    }
}

/* Heads of the bounds: all but the first, which is "", without what they have in common. */
static void lay_bounds(lk_tree_version *v, uint64_t *heads)
{
    uint32_t n = v->range_count;
    heads[0] = 0;
    v->skip = 0;
    v->prefix = NULL;
    if (n == 1) return;
    lk_bytes low = v->ranges[1].lower, high = v->ranges[n - 1].lower;
    v->skip = (uint32_t)lk_common_prefix(low.data, low.len, high.data, high.len);
    v->prefix = low.data;
    for (uint32_t i = 1; i < n; i++) {
        lk_bytes lower = v->ranges[i].lower;
        heads[i] = lk_key_prefix(lower.data + v->skip, lower.len - v->skip);
    }
}

lk_status lk_work_tree_lay(lk_work_tree *t, lk_tree_version **out, lk_error *err)
{
    *out = NULL;
    lk_work_tree_sweep(t);
    LK_ASSERT(t->tombs == NULL || t->file_count > 0);
    if (t->file_count == 0 && t->range_count == 1) return LK_OK;
    size_t bytes = layout_bytes(t);
    uint8_t *at = malloc(bytes);
    if (at == NULL) return lk_fail_nomem(err, bytes);
    const uint8_t *end = at + bytes;
    lk_tree_version *v = carve(&at, sizeof *v);
    atomic_init(&v->refs, 1);
    v->tree = t->tree;
    v->range_count = t->range_count;
    v->bytes = bytes;
    v->tombs = t->tombs;
    v->blobs = NULL;
    t->tombs = NULL;
    uint64_t *heads = carve(&at, t->range_count * sizeof *heads);
    v->heads = heads;
    v->ranges = carve(&at, t->range_count * sizeof *v->ranges);
    for (uint32_t i = 0; i < t->range_count; i++) lay_range(&t->ranges[i], &v->ranges[i], &at);
    v->file_count = t->file_count;
    v->files = carve(&at, t->file_count * sizeof *v->files);
    if (t->file_count > 0) memcpy(v->files, t->files, t->file_count * sizeof *v->files);
    t->file_count = 0;
    for (uint32_t i = 0; i < t->range_count; i++) {
        lk_bytes lower = t->ranges[i].lower;
        uint8_t *copy = carve(&at, lower.len);
        memcpy(copy, lower.data, lower.len);
        v->ranges[i].lower = (lk_bytes){copy, lower.len};
    }
    lay_bounds(v, heads);
    LK_ASSERT(at == end);
    (void)end;
    *out = v;
    return LK_OK;
}
