/* trees.c: see trees.h. A sorted array: it is replaced when a keyspace comes or goes, which costs a
 * manifest edit anyway, and read by whoever flushes or compacts, once a tree.
 */
#include "trees.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"

/* ---- texts ---- */

/* The decimal number that is all of `text`. */
static bool read_number(lk_bytes text, uint64_t max, uint64_t *out)
{
    *out = 0;
    if (text.len == 0 || text.len > 19) return false;
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9') return false;
        *out = *out * 10 + (uint64_t)(text.data[i] - '0');
    }
    return *out <= max;
}

static bool is_text(lk_bytes text, const char *other)
{
    return lk_bytes_equal(text.data, text.len, (const uint8_t *)other, strlen(other));
}

/* What is wrong with a field that is known here; NULL when nothing is. */
static const char *read_field(lk_bytes field, lk_bytes value, lk_tree_shape *shape)
{
    uint64_t number;
    if (is_text(field, "table_bytes")) {
        if (!read_number(value, INT64_MAX, &shape->table_bytes)) return "table_bytes is no number";
    } else if (is_text(field, "block_bytes")) {
        if (!read_number(value, UINT32_MAX, &number)) return "block_bytes is no number";
        shape->block_bytes = (uint32_t)number;
    } else if (is_text(field, "filter_bits")) {
        if (!read_number(value, UINT32_MAX, &number)) return "filter_bits is no number";
        shape->filter_bits = (uint32_t)number;
    } else if (is_text(field, "blob_bytes")) {
        if (!read_number(value, UINT32_MAX, &number)) return "blob_bytes is no number";
        shape->blob_bytes = (uint32_t)number;
    } else if (is_text(field, "compression")) {
        bool is_none = is_text(value, "none"), is_lz4 = is_text(value, "lz4");
        if (!is_none && !is_lz4 && !is_text(value, "zstd")) return "compression is not known";
        shape->codec = is_none ? LK_CODEC_NONE : is_lz4 ? LK_CODEC_LZ4 : LK_CODEC_ZSTD;
    }
    return NULL;
}

/* The line at *at, without its end, which *at passes; false at the end of the text. */
static bool next_line(const char **at, lk_bytes *out)
{
    size_t n = strcspn(*at, "\n");
    *out = (lk_bytes){(const uint8_t *)*at, n};
    if (n == 0 && **at == 0) return false;
    *at += n + ((*at)[n] == '\n' ? 1 : 0);
    return true;
}

/* Reads a keyspace's text over `shape`; what is wrong with it, or NULL. */
static const char *read_text(const char *text, lk_tree_shape *shape)
{
    lk_bytes line;
    const char *fault = NULL;
    if (strncmp(text, "name=", 5) != 0 || text[5] == '\n' || text[5] == 0) {
        return "the text of a keyspace does not begin with its name";
    }
    while (fault == NULL && next_line(&text, &line)) {
        const uint8_t *equals = memchr(line.data, '=', line.len);
        if (equals == NULL) return "the text of a keyspace has a line without a value";
        size_t n = (size_t)(equals - line.data);
        lk_bytes field = {line.data, n}, value = {equals + 1, line.len - n - 1};
        fault = read_field(field, value, shape);
    }
    return fault;
}

static bool is_same_name(const char *a, const char *b)
{
    size_t n = strcspn(a, "\n");
    return n == strcspn(b, "\n") && memcmp(a, b, n) == 0;
}

/* ---- life ---- */

static lk_status trees_new(uint32_t room, lk_trees **out, lk_error *err)
{
    lk_trees *t = calloc(1, sizeof *t);
    lk_tree_entry *items = calloc((size_t)room + 1, sizeof *items);
    *out = t;
    if (t == NULL || items == NULL) {
        free(t);
        free(items);
        *out = NULL;
        return lk_fail_nomem(err, ((size_t)room + 1) * sizeof *items);
    }
    atomic_init(&t->refs, 1);
    t->items = items;
    return LK_OK;
}

void lk_trees_ref(lk_trees *t) { atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed); }

void lk_trees_unref(lk_trees *t)
{
    if (t == NULL) return;
    /* acq_rel: what other holders read of it happens before it goes. */
    if (atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) != 1) return;
    for (uint32_t i = 0; i < t->count; i++) free(t->items[i].text);
    free(t->items);
    free(t);
}

/* Appends a tree; the caller keeps the order, and has made room. */
static lk_status add(lk_trees *t, uint32_t tree, const char *text, const lk_tree_shape *shape,
                     lk_error *err)
{
    char *copy = strdup(text);
    if (copy == NULL) return lk_fail_nomem(err, strlen(text));
    t->items[t->count++] = (lk_tree_entry){.tree = tree, .text = copy, .shape = *shape};
    return LK_OK;
}

/* ---- from the manifest ---- */

static int by_number(const void *a, const void *b)
{
    const lk_tree_entry *x = a, *y = b;
    return (x->tree > y->tree) - (x->tree < y->tree);
}

static int by_name(const void *a, const void *b)
{
    const lk_tree_entry *x = *(const lk_tree_entry *const *)a,
                        *y = *(const lk_tree_entry *const *)b;
    size_t n = strcspn(x->text, "\n"), m = strcspn(y->text, "\n");
    return lk_key_compare((const uint8_t *)x->text, n, (const uint8_t *)y->text, m);
}

static lk_status load_property(lk_trees *t, const char *name, const char *text, const char *dir,
                               lk_error *err)
{
    size_t prefix = strlen(LK_TREE_TEXT_PREFIX);
    uint64_t number;
    lk_tree_shape shape = t->shape;
    if (strncmp(name, LK_TREE_TEXT_PREFIX, prefix) != 0) return LK_OK;
    lk_bytes digits = {(const uint8_t *)name + prefix, strlen(name) - prefix};
    char again[LK_TREE_PROPERTY_BYTES];
    bool is_number = read_number(digits, LK_TREE_MAX - 1, &number) && number >= LK_TREE_KEYSPACES;
    lk_trees_property((uint32_t)number, again);
    if (!is_number || strcmp(name, again) != 0 || number >= t->next) {
        return lk_fail_corrupt(err, dir, 0, t->next, number,
                               "%s: %s is no keyspace's number that was given", dir, name);
    }
    const char *fault = read_text(text, &shape);
    if (fault != NULL) return lk_fail_corrupt(err, dir, 0, 0, number, "%s: %s", dir, fault);
    return add(t, (uint32_t)number, text, &shape, err);
}

static lk_status check_names(const lk_trees *t, const char *dir, lk_error *err)
{
    lk_status st = LK_OK;
    size_t bytes = ((size_t)t->count + 1) * sizeof(lk_tree_entry *);
    const lk_tree_entry **sorted = malloc(bytes);
    if (sorted == NULL) return lk_fail_nomem(err, bytes);
    for (uint32_t i = 0; i < t->count; i++) sorted[i] = &t->items[i];
    qsort(sorted, t->count, sizeof *sorted, by_name);
    for (uint32_t i = 1; i < t->count && st == LK_OK; i++) {
        if (!is_same_name(sorted[i - 1]->text, sorted[i]->text)) continue;
        st = lk_fail_corrupt(err, dir, 0, sorted[i - 1]->tree, sorted[i]->tree,
                             "%s: keyspaces %u and %u have the same name", dir, sorted[i - 1]->tree,
                             sorted[i]->tree);
    }
    free(sorted);
    return st;
}

lk_status lk_trees_load(const lk_manifest *m, const char *dir, const lk_tree_shape *shape,
                        lk_trees **out, lk_error *err)
{
    lk_status st = LK_OK;
    lk_trees *t = NULL;
    const char *next = lk_manifest_property(m, LK_TREE_NEXT), *name, *text;
    uint64_t number = LK_TREE_KEYSPACES;
    size_t count = lk_manifest_property_count(m);
    *out = NULL;
    if (next != NULL &&
        (!read_number((lk_bytes){(const uint8_t *)next, strlen(next)}, LK_TREE_MAX, &number) ||
         number < LK_TREE_KEYSPACES)) {
        return lk_fail_corrupt(err, dir, 0, LK_TREE_MAX, number, "%s: %s is no tree's number", dir,
                               LK_TREE_NEXT);
    }
    if (count > LK_TREE_MAX) {
        return lk_fail_corrupt(err, dir, 0, LK_TREE_MAX, count, "%s: too many properties", dir);
    }
    LK_TRY(trees_new((uint32_t)count, &t, err));
    t->next = (uint32_t)number;
    t->shape = *shape;
    for (size_t i = 0; i < count; i++) {
        lk_manifest_property_at(m, i, &name, &text);
        LK_TRY(load_property(t, name, text, dir, err));
    }
    qsort(t->items, t->count, sizeof *t->items, by_number);
    LK_TRY(check_names(t, dir, err));
    *out = t;
    t = NULL;
done:
    lk_trees_unref(t);
    return st;
}

/* ---- changes ---- */

lk_status lk_trees_change(const lk_trees *old, uint32_t tree, const char *text, lk_trees **out,
                          lk_error *err)
{
    lk_status st = LK_OK;
    lk_trees *t = NULL;
    lk_tree_shape shape = old->shape;
    *out = NULL;
    LK_ASSERT(tree >= LK_TREE_KEYSPACES && tree <= old->next);
    const char *fault = text == NULL ? NULL : read_text(text, &shape);
    if (fault != NULL) return lk_fail(err, LK_INVALID, 0, NULL, 0, 0, tree, "%s", fault);
    const lk_tree_entry *same = text == NULL ? NULL : lk_trees_named(old, text);
    if (same != NULL && same->tree != tree) {
        return lk_fail(err, LK_EXISTS, 0, NULL, 0, 0, same->tree,
                       "there is a keyspace of this name already");
    }
    LK_TRY(trees_new(old->count + 1, &t, err));
    t->shape = old->shape;
    t->next = tree == old->next ? tree + 1 : old->next;
    for (uint32_t i = 0; i < old->count; i++) {
        const lk_tree_entry *e = &old->items[i];
        if (e->tree != tree) {
            LK_TRY(add(t, e->tree, e->text, &e->shape, err));
        } else if (text != NULL) {
            LK_TRY(add(t, tree, text, &shape, err));
        }
    }
    if (tree == old->next) LK_TRY(add(t, tree, text, &shape, err));
    *out = t;
    t = NULL;
done:
    lk_trees_unref(t);
    return st;
}

/* ---- questions ---- */

const lk_tree_entry *lk_trees_find(const lk_trees *t, uint32_t tree)
{
    uint32_t low = 0, high = t->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (t->items[middle].tree < tree) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < t->count && t->items[low].tree == tree ? &t->items[low] : NULL;
}

const lk_tree_entry *lk_trees_named(const lk_trees *t, const char *line)
{
    for (uint32_t i = 0; i < t->count; i++) {
        if (is_same_name(t->items[i].text, line)) return &t->items[i];
    }
    return NULL;
}

const lk_tree_shape *lk_trees_shape(const lk_trees *t, uint32_t tree)
{
    const lk_tree_entry *e = tree < LK_TREE_KEYSPACES ? NULL : lk_trees_find(t, tree);
    return e != NULL ? &e->shape : &t->shape;
}

void lk_trees_property(uint32_t tree, char out[LK_TREE_PROPERTY_BYTES])
{
    (void)snprintf(out, LK_TREE_PROPERTY_BYTES, LK_TREE_TEXT_PREFIX "%" PRIu32, tree);
}
