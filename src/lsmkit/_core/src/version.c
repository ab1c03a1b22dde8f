/* version.c: reading versions: which range, which table; and letting go of them.
 *
 * Owns      nothing beyond version.h. Versions are made in version_build.c.
 * Callers   view.c and cursor.c, once a get for the range and once a run for the table, so that both
 *           searches touch the heads only and go to whole keys where heads are equal.
 */
#include "version.h"

#include <stdio.h>
#include <stdlib.h>

#include "check.h"

/* ---- references ---- */

lk_version *lk_version_empty(void)
{
    lk_version *v = calloc(1, sizeof *v);
    if (v != NULL) atomic_init(&v->refs, 1);
    return v;
}

void lk_version_ref(lk_version *v)
{
    uint32_t before = atomic_fetch_add_explicit(&v->refs, 1, memory_order_relaxed);
    LK_ASSERT(before > 0);
    (void)before;
}

static void tree_unref(lk_tree_version *t)
{
    if (t == NULL) return;
    /* acq_rel: what the other holders did with the tables happens before they go. */
    if (atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) != 1) return;
    for (uint32_t i = 0; i < t->file_count; i++) lk_table_unref(t->files[i].table);
    lk_tombs_unref(t->tombs);
    lk_blob_files_free(t->blobs);
    free(t);
}

void lk_version_unref(lk_version *v)
{
    if (v == NULL) return;
    uint32_t before = atomic_fetch_sub_explicit(&v->refs, 1, memory_order_acq_rel);
    LK_ASSERT(before > 0);
    if (before != 1) return;
    for (uint32_t i = 0; i < v->tree_count; i++) tree_unref(v->trees[i]);
    free(v->trees);
    free(v);
}

static void retire_blobs(const lk_tree_version *was, const lk_tree_version *is)
{
    for (uint32_t i = 0; was->blobs != NULL && i < was->blobs->count; i++) {
        lk_blob_file *file = was->blobs->items[i].file;
        const lk_blob_files *now = is == NULL ? NULL : is->blobs;
        if (lk_blob_files_find(now, lk_blob_file_number(file)) == NULL) {
            lk_blob_file_set_obsolete(file);
        }
    }
}

bool lk_version_uses_blob(const lk_version *v, uint64_t file)
{
    for (uint32_t i = 0; i < v->tree_count; i++) {
        if (lk_blob_files_find(lk_version_blobs(v, i), file) != NULL) return true;
    }
    return false;
}

void lk_version_retire(const lk_version *old, const lk_version *new_version)
{
    for (uint32_t i = 0; i < old->tree_count; i++) {
        const lk_tree_version *was = old->trees[i];
        const lk_tree_version *is = lk_version_tree(new_version, i);
        if (was == NULL || was == is) continue;
        retire_blobs(was, is);
        uint32_t k = 0, is_count = is == NULL ? 0 : is->file_count;
        for (uint32_t j = 0; j < was->file_count; j++) {
            while (k < is_count && is->files[k].file < was->files[j].file) k++;
            if (k == is_count || is->files[k].file != was->files[j].file) {
                lk_table_set_obsolete(was->files[j].table);
            }
        }
    }
}

const lk_tree_file *lk_tree_version_file(const lk_tree_version *t, uint64_t file)
{
    uint32_t low = 0, high = t->file_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (t->files[middle].file < file) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < t->file_count && t->files[low].file == file ? &t->files[low] : NULL;
}

/* ---- searches ---- */

/* How many of n ascending heads are less than `head`. */
static inline uint32_t heads_below(const uint64_t *heads, uint32_t n, uint64_t head)
{
    const uint64_t *base = heads;
    while (n > 1) {
        uint32_t half = n / 2;
        base += half & (0u - (uint32_t)(base[half - 1] < head)); /* no branch: it is a coin toss */
        n -= half;
    }
    return (uint32_t)(base - heads) + (n == 1 && *base < head);
}

/* Compares the beginning of a key with the bytes that a list's keys have in common: less, equal
 * (the heads decide) or greater than all keys of the list. */
static inline int skip_compare(const uint8_t *prefix, uint32_t skip, const uint8_t *key,
                               size_t key_len)
{
    if (skip == 0) return 0;
    size_t n = key_len < skip ? key_len : skip;
    int c = n == 0 ? 0 : memcmp(key, prefix, n);
    return c != 0 ? c : key_len < skip ? -1 : 0;
}

/* The range of a key whose head is that of bound `low`, and perhaps of those that follow. */
static uint32_t range_of_equal_heads(const lk_tree_version *t, uint32_t low, uint64_t head,
                                     const uint8_t *key, size_t key_len)
{
    uint32_t high = t->range_count; /* bounds below `low` are not greater than the key */
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        lk_bytes lower = t->ranges[middle].lower;
        if (t->heads[middle] > head ||
            (t->heads[middle] == head && lk_key_compare(lower.data, lower.len, key, key_len) > 0)) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low - 1;
}

uint32_t lk_tree_version_range(const lk_tree_version *t, const uint8_t *key, size_t key_len)
{
    uint32_t n = t->range_count;
    if (n == 1) return 0;
    int c = skip_compare(t->prefix, t->skip, key, key_len);
    if (LK_UNLIKELY(c != 0)) return c < 0 ? 0 : n - 1;
    uint64_t head = lk_key_prefix(key + t->skip, key_len - t->skip);
    /* Bound 0 is "", which is not greater than any key. */
    uint32_t low = 1 + heads_below(t->heads + 1, n - 1, head);
    if (LK_LIKELY(low == n || t->heads[low] != head)) return low - 1;
    return range_of_equal_heads(t, low, head, key, key_len);
}

/* First table of a run whose greatest key is not less than a key of this head. */
static uint32_t run_of_equal_heads(const lk_run *run, uint32_t low, uint64_t head,
                                   const uint8_t *key, size_t key_len)
{
    uint32_t high = run->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const lk_table_meta *meta = lk_table_meta_of(run->tables[middle]);
        if (run->heads[middle] > head ||
            lk_key_compare(meta->max_key, meta->max_len, key, key_len) >= 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

uint32_t lk_run_seek(const lk_run *run, const uint8_t *key, size_t key_len)
{
    uint32_t n = run->count;
    int c = skip_compare((const uint8_t *)(run->heads + 2 * (size_t)n), run->skip, key, key_len);
    if (LK_UNLIKELY(c != 0)) return c < 0 ? 0 : n;
    uint64_t head = lk_key_prefix(key + run->skip, key_len - run->skip);
    uint32_t low = heads_below(run->heads, n, head);
    if (LK_LIKELY(low == n || run->heads[low] != head)) return low;
    return run_of_equal_heads(run, low, head, key, key_len);
}

lk_table *lk_run_table(const lk_run *run, const uint8_t *key, size_t key_len)
{
    uint32_t n = run->count;
    int c = skip_compare((const uint8_t *)(run->heads + 2 * (size_t)n), run->skip, key, key_len);
    if (c != 0) return NULL;
    uint64_t head = lk_key_prefix(key + run->skip, key_len - run->skip);
    uint32_t low = heads_below(run->heads, n, head);
    if (low < n && LK_UNLIKELY(run->heads[low] == head)) {
        low = run_of_equal_heads(run, low, head, key, key_len);
    }
    if (low == n) return NULL;
    uint64_t least = run->heads[n + low];
    if (least > head) return NULL;
    lk_table *table = run->tables[low];
    if (LK_LIKELY(least < head)) return table;
    const lk_table_meta *meta = lk_table_meta_of(table);
    return lk_key_compare(meta->min_key, meta->min_len, key, key_len) <= 0 ? table : NULL;
}

/* ---- dump ---- */

/* At most 32 bytes of a key in hexadecimal, ".." where there are more. */
static const char *dump_key(lk_bytes key, char out[68])
{
    size_t n = key.len < 32 ? key.len : 32;
    for (size_t i = 0; i < n; i++) (void)snprintf(out + 2 * i, 3, "%02x", key.data[i]);
    (void)snprintf(out + 2 * n, 3, "%s", n < key.len ? ".." : "");
    return out;
}

static void dump_run(const lk_run *run, void (*print)(void *context, const char *line),
                     void *context)
{
    char line[512], least[68], greatest[68];
    (void)snprintf(line, sizeof line, "    level %u stamp %llu: %u tables", run->level,
                   (unsigned long long)run->stamp, run->count);
    print(context, line);
    for (uint32_t i = 0; i < run->count; i++) {
        const lk_table_meta *meta = lk_table_meta_of(run->tables[i]);
        (void)snprintf(line, sizeof line,
                       "      table %llu: %llu bytes, %llu rows (%llu deletes), seq %llu..%llu, "
                       "key %s..%s",
                       (unsigned long long)meta->file, (unsigned long long)meta->bytes,
                       (unsigned long long)meta->rows, (unsigned long long)meta->tombstones,
                       (unsigned long long)meta->seq_min, (unsigned long long)meta->seq_max,
                       dump_key((lk_bytes){meta->min_key, meta->min_len}, least),
                       dump_key((lk_bytes){meta->max_key, meta->max_len}, greatest));
        print(context, line);
    }
}

static void dump_tombs(const lk_tombs *t, void (*print)(void *context, const char *line),
                       void *context)
{
    char line[512], key[68];
    for (uint32_t i = 0; i < t->count; i++) {
        const lk_tomb_step *step = &t->steps[i];
        int n = snprintf(line, sizeof line,
                         "  deleted from %s:", dump_key((lk_bytes){step->key, step->key_len}, key));
        for (uint32_t j = step->first; j < step[1].first && n < (int)sizeof line - 24; j++) {
            n += snprintf(line + n, sizeof line - (size_t)n, " seq %llu",
                          (unsigned long long)t->seqs[j]);
        }
        print(context, line);
    }
}

void lk_version_dump(const lk_version *v, void (*print)(void *context, const char *line),
                     void *context)
{
    char line[512], key[68];
    (void)snprintf(line, sizeof line, "version %llu", (unsigned long long)v->number);
    print(context, line);
    for (uint32_t i = 0; i < v->tree_count; i++) {
        const lk_tree_version *t = v->trees[i];
        if (t == NULL) continue;
        for (uint32_t j = 0; j < t->range_count; j++) {
            const lk_range *range = &t->ranges[j];
            (void)snprintf(line, sizeof line, "  tree %u range %s: %u runs", i,
                           j == 0 ? "-" : dump_key(range->lower, key), range->run_count);
            print(context, line);
            for (uint32_t k = 0; k < range->run_count; k++) {
                dump_run(&range->runs[k], print, context);
            }
        }
        if (t->tombs != NULL) dump_tombs(t->tombs, print, context);
    }
}
