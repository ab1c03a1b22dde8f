/* version_tombs.c: which range tombstones a tree still needs.
 *
 * A range tombstone hides rows that are older than it. It is needed, over some stretch of keys, as long
 * as a table that stands there has such rows: a row of a table is as old as `seq_min` at most, and no
 * row of it is hidden by tombstones up to `swept`. The log is put into tables in its order, and what
 * compaction writes is no older than what it reads, so what was not needed once hides nothing later.
 * But later it could seem to: a row that no range tombstone is over may lose its sequence. So it goes
 * at once, with the edit that made it needless. Which those are follows from the edits alone: the
 * manifest does not say it, and who replays it comes to the same.
 *
 * Callers   version_build.c, for each tree that an edit has changed.
 */
#include <stdlib.h>

#include "check.h"
#include "version_work.h"

/* Range tombstones up to this sequence hide nothing of a table. */
static uint64_t applied_to(const lk_table *t)
{
    const lk_table_meta *m = lk_table_meta_of(t);
    return m->seq_min > m->swept ? m->seq_min : m->swept;
}

/* Lowers `*least` to that of each table of a run that has keys from `from` up to `to` (data NULL: to the
 * end). */
static void run_applied(lk_table *const *tables, uint32_t count, lk_bytes from, lk_bytes to,
                        uint64_t *least)
{
    uint32_t low = 0, high = count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (lk_bytes_compare(lk_table_max(tables[middle]), from) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    for (; low < count; low++) {
        if (to.data != NULL && lk_bytes_compare(lk_table_min(tables[low]), to) >= 0) return;
        uint64_t applied = applied_to(tables[low]);
        if (applied < *least) *least = applied;
    }
}

static uint64_t range_applied(const lk_work_range *g, lk_bytes from, lk_bytes to)
{
    uint64_t least = LK_SEQ_MAX;
    if (g->old != NULL) {
        for (uint32_t i = 0; i < g->old->run_count; i++) {
            run_applied(g->old->runs[i].tables, g->old->runs[i].count, from, to, &least);
        }
        return least;
    }
    for (uint32_t i = 0; i < g->count; i++) {
        run_applied(lk_work_run_tables(&g->runs[i]), g->runs[i].count, from, to, &least);
    }
    return least;
}

/* Of the step before `at`, over the keys from `from` up to `to` of a range. */
static lk_status prune_step(const lk_work_tree *t, const lk_work_range *g, uint32_t at,
                            lk_bytes from, lk_bytes to, const lk_snapshots *snapshots,
                            lk_tombs_writer *w, uint64_t *scratch, lk_error *err)
{
    const lk_tombs *old = t->tombs;
    uint32_t n = 0;
    if (at > 0 && old->steps[at].first > old->steps[at - 1].first) {
        bool as_it_was = !t->tombs_added && !g->changed;
        uint64_t least = as_it_was ? 0 : range_applied(g, from, to);
        for (uint32_t i = old->steps[at - 1].first; i < old->steps[at].first; i++) {
            uint64_t seq = old->seqs[i];
            if (seq <= least) break;
            if (n > 0 && !lk_snapshots_between(snapshots, seq, scratch[n - 1])) continue;
            scratch[n++] = seq;
        }
    }
    return lk_tombs_writer_step(w, t->tree, from, scratch, n, err);
}

static lk_status prune_range(const lk_work_tree *t, uint32_t index, const lk_snapshots *snapshots,
                             lk_tombs_writer *w, uint64_t *scratch, lk_error *err)
{
    const lk_work_range *g = &t->ranges[index];
    const lk_tombs *old = t->tombs;
    lk_bytes from = g->lower, end = {NULL, 0};
    if (index + 1 < t->range_count) end = t->ranges[index + 1].lower;
    uint32_t at = lk_tombs_seek(old, t->tree, from.data, from.len);
    for (bool more = true; more; at++) {
        lk_bytes to = end;
        more = false;
        if (at < old->count && old->steps[at].tree == t->tree) {
            lk_bytes next = {old->steps[at].key, old->steps[at].key_len};
            more = end.data == NULL || lk_bytes_compare(next, end) < 0;
            if (more) to = next;
        }
        lk_status st = prune_step(t, g, at, from, to, snapshots, w, scratch, err);
        if (st != LK_OK) return st;
        from = to;
    }
    return LK_OK;
}

static bool needs_pruning(const lk_work_tree *t)
{
    bool changed = t->tombs_added;
    for (uint32_t i = 0; i < t->range_count && !changed; i++) changed = t->ranges[i].changed;
    return changed;
}

lk_status lk_work_tree_prune(lk_work_tree *t, const lk_snapshots *snapshots, lk_error *err)
{
    lk_status st = LK_OK;
    lk_tombs_writer w = {0};
    lk_tombs *fresh = NULL;
    uint64_t *scratch = NULL;
    if (t->tombs == NULL || !needs_pruning(t)) return LK_OK;
    const lk_tombs *old = t->tombs;
    size_t bytes = (size_t)old->steps[old->count].first * sizeof *scratch;
    scratch = malloc(bytes);
    if (scratch == NULL) return lk_fail_nomem(err, bytes);
    for (uint32_t i = 0; i < t->range_count; i++) {
        LK_TRY(prune_range(t, i, snapshots, &w, scratch, err));
    }
    static const lk_bytes BEGIN = {(const uint8_t *)"", 0};
    LK_TRY(lk_tombs_writer_step(&w, t->tree + 1, BEGIN, NULL, 0, err));
    LK_TRY(lk_tombs_writer_finish(&w, true, &fresh, err));
    lk_tombs_unref(t->tombs);
    t->tombs = fresh;
    t->tombs_added = false;
    for (uint32_t i = 0; i < t->range_count; i++) t->ranges[i].changed = false;
done:
    lk_tombs_writer_deinit(&w);
    free(scratch);
    return st;
}

/* ---- for policies ---- */

/* Where a key lies between two others, as a number, behind the bytes that they have in common. */
static double place_of(lk_bytes key, size_t skip)
{
    return key.len <= skip ? 0.0 : (double)lk_key_prefix(key.data + skip, key.len - skip);
}

uint64_t lk_tree_version_covered(const lk_tree_version *t, const lk_table *table, uint64_t seq)
{
    const lk_table_meta *m = lk_table_meta_of(table);
    lk_bytes least = lk_table_min(table), greatest = lk_table_max(table), from = least;
    if (t->tombs == NULL) return 0;
    if (lk_tombs_cover_all(t->tombs, t->tree, least, greatest, m->seq_max, seq)) return m->bytes;
    size_t skip = lk_common_prefix(least.data, least.len, greatest.data, greatest.len);
    double share = 0.0, whole = place_of(greatest, skip) - place_of(least, skip);
    bool any = false;
    for (uint32_t at = lk_tombs_seek(t->tombs, t->tree, least.data, least.len);; at++) {
        lk_bytes to = greatest;
        bool more = at < t->tombs->count && t->tombs->steps[at].tree == t->tree;
        if (more) {
            lk_bytes next = {t->tombs->steps[at].key, t->tombs->steps[at].key_len};
            more = lk_bytes_compare(next, greatest) <= 0;
            if (more) to = next;
        }
        if (lk_tombs_newest(t->tombs, at, seq) > applied_to(table)) {
            any = true;
            share += place_of(to, skip) - place_of(from, skip);
        }
        if (!more) break;
        from = to;
    }
    if (!any) return 0;
    double bytes = whole > 0.0 ? (double)m->bytes * share / whole : 0.0;
    if (bytes >= (double)m->bytes) bytes = (double)m->bytes - 1.0; /* not all of it */
    return bytes < 1.0 ? 1 : (uint64_t)bytes;
}
