/* edit.c: lists of what one edit changes; plain arrays that grow.
 *
 * Owns      copies of all bytes it was given, the metas and the table references.
 * Callers   flush.c, compact.c and the border fill edits; manifest_line.c reads them from files.
 * Threads   an edit belongs to one thread.
 */
#include <stdlib.h>

#include "array.h"
#include "check.h"
#include "manifest_json.h"
#include "version.h"

/* The order of lk_edit.capacity. */
enum { REMOVES, JOINS, SPLITS, ADDS, PROPERTIES, DROPS, DELETES };

_Static_assert(sizeof((lk_edit *)0)->capacity / sizeof(size_t) == DELETES + 1,
               "one for each array");

void lk_edit_init(lk_edit *e) { memset(e, 0, sizeof *e); }

static void free_bytes(lk_bytes bytes) { free((void *)(uintptr_t)bytes.data); }

void lk_edit_deinit(lk_edit *e)
{
    for (size_t i = 0; i < e->remove_count; i++) free_bytes(e->removes[i].lower);
    for (size_t i = 0; i < e->join_count; i++) free_bytes(e->joins[i].at);
    for (size_t i = 0; i < e->split_count; i++) free_bytes(e->splits[i].at);
    for (size_t i = 0; i < e->add_count; i++) {
        lk_table_meta_deinit(&e->adds[i].meta);
        lk_table_unref(e->adds[i].table);
    }
    for (size_t i = 0; i < e->property_count; i++) {
        free(e->properties[i].name);
        free(e->properties[i].value);
    }
    for (size_t i = 0; i < e->delete_count; i++) {
        free_bytes(e->deletes[i].start);
        free_bytes(e->deletes[i].stop);
    }
    free(e->removes);
    free(e->joins);
    free(e->splits);
    free(e->adds);
    free(e->properties);
    free(e->drops);
    free(e->deletes);
    lk_edit_init(e);
}

/* `array` with room for one more item of `size` bytes, or NULL. */
static void *grow(lk_edit *e, int which, void *array, size_t count, size_t size, lk_error *err)
{
    return lk_array_grow(&array, count, &e->capacity[which], size, err) == LK_OK ? array : NULL;
}

/* A copy of at least one byte, so that NULL means no memory. */
static lk_status copy_bytes(lk_bytes from, lk_bytes *out, lk_error *err)
{
    *out = (lk_bytes){NULL, 0};
    if (from.len > LK_KEY_BYTES_MAX) {
        return lk_fail(err, LK_INVALID, 0, NULL, 0, LK_KEY_BYTES_MAX, from.len,
                       "a range bound of %zu bytes is longer than any key", from.len);
    }
    uint8_t *data = malloc(from.len + 1);
    if (data == NULL) return lk_fail_nomem(err, from.len + 1);
    if (from.len > 0) memcpy(data, from.data, from.len);
    *out = (lk_bytes){data, from.len};
    return LK_OK;
}

lk_status lk_edit_remove_table(lk_edit *e, uint32_t tree, lk_bytes lower, uint64_t file,
                               lk_error *err)
{
    lk_edit_remove *removes =
        grow(e, REMOVES, e->removes, e->remove_count, sizeof *e->removes, err);
    if (removes == NULL) return LK_NOMEM;
    e->removes = removes;
    lk_bytes copy;
    lk_status st = copy_bytes(lower, &copy, err);
    if (st != LK_OK) return st;
    e->removes[e->remove_count++] = (lk_edit_remove){.tree = tree, .file = file, .lower = copy};
    return LK_OK;
}

static lk_status add_cut(lk_edit *e, int which, lk_edit_cut **cuts, size_t *count, uint32_t tree,
                         lk_bytes at, lk_error *err)
{
    lk_edit_cut *bigger = grow(e, which, *cuts, *count, sizeof **cuts, err);
    if (bigger == NULL) return LK_NOMEM;
    *cuts = bigger;
    lk_bytes copy;
    lk_status st = copy_bytes(at, &copy, err);
    if (st != LK_OK) return st;
    bigger[(*count)++] = (lk_edit_cut){.tree = tree, .at = copy};
    return LK_OK;
}

lk_status lk_edit_join(lk_edit *e, uint32_t tree, lk_bytes at, lk_error *err)
{
    return add_cut(e, JOINS, &e->joins, &e->join_count, tree, at, err);
}

lk_status lk_edit_split(lk_edit *e, uint32_t tree, lk_bytes at, lk_error *err)
{
    return add_cut(e, SPLITS, &e->splits, &e->split_count, tree, at, err);
}

lk_status lk_edit_add_table(lk_edit *e, lk_table_meta *meta, uint32_t level, uint64_t stamp,
                            lk_table *table, lk_error *err)
{
    LK_ASSERT(table == NULL || lk_table_meta_of(table)->file == meta->file);
    lk_edit_add *adds = grow(e, ADDS, e->adds, e->add_count, sizeof *e->adds, err);
    if (adds == NULL) return LK_NOMEM;
    e->adds = adds;
    e->adds[e->add_count++] =
        (lk_edit_add){.meta = *meta, .level = level, .stamp = stamp, .table = table};
    memset(meta, 0, sizeof *meta);
    return LK_OK;
}

static lk_status copy_text(const char *text, size_t len_min, size_t len_max, const char *what,
                           char **out, lk_error *err)
{
    *out = NULL;
    size_t len = strlen(text);
    if (len < len_min || len > len_max) {
        return lk_fail(err, LK_INVALID, 0, NULL, 0, len_max, len,
                       "the %s of a property has %zu bytes, and may have %zu to %zu", what, len,
                       len_min, len_max);
    }
    if (!lk_json_is_utf8((const uint8_t *)text, len)) {
        return lk_fail(err, LK_INVALID, 0, NULL, 0, 0, 0, "the %s of a property is not UTF-8",
                       what);
    }
    *out = malloc(len + 1);
    if (*out == NULL) return lk_fail_nomem(err, len + 1);
    memcpy(*out, text, len + 1);
    return LK_OK;
}

lk_status lk_edit_set(lk_edit *e, const char *name, const char *value, lk_error *err)
{
    lk_status st = LK_OK;
    char *name_copy = NULL, *value_copy = NULL;
    lk_edit_property *properties =
        grow(e, PROPERTIES, e->properties, e->property_count, sizeof *e->properties, err);
    if (properties == NULL) return LK_NOMEM;
    e->properties = properties;
    LK_TRY(copy_text(name, 1, LK_PROPERTY_NAME_MAX, "name", &name_copy, err));
    if (value != NULL) {
        LK_TRY(copy_text(value, 0, LK_PROPERTY_VALUE_MAX, "value", &value_copy, err));
    }
    e->properties[e->property_count++] = (lk_edit_property){name_copy, value_copy};
    name_copy = value_copy = NULL;
done:
    free(name_copy);
    free(value_copy);
    return st;
}

lk_status lk_edit_drop(lk_edit *e, uint32_t tree, lk_error *err)
{
    uint32_t *drops = grow(e, DROPS, e->drops, e->drop_count, sizeof *e->drops, err);
    if (drops == NULL) return LK_NOMEM;
    e->drops = drops;
    e->drops[e->drop_count++] = tree;
    return LK_OK;
}

void lk_edit_unlink_added(const lk_edit *e, lk_env *env, const char *dir)
{
    for (size_t i = 0; i < e->add_count; i++) lk_table_unlink(env, dir, &e->adds[i].meta);
}

lk_status lk_edit_delete_range(lk_edit *e, const lk_tomb *range, lk_error *err)
{
    lk_status st = LK_OK;
    lk_bytes start = {NULL, 0}, stop = {NULL, 0};
    lk_tomb *deletes = grow(e, DELETES, e->deletes, e->delete_count, sizeof *e->deletes, err);
    if (deletes == NULL) return LK_NOMEM;
    e->deletes = deletes;
    LK_TRY(copy_bytes(range->start, &start, err));
    if (range->stop.data != NULL) LK_TRY(copy_bytes(range->stop, &stop, err));
    e->deletes[e->delete_count++] =
        (lk_tomb){.start = start, .stop = stop, .seq = range->seq, .tree = range->tree};
    start.data = stop.data = NULL;
done:
    free_bytes(start);
    free_bytes(stop);
    return st;
}

static size_t keep_cuts(lk_edit_cut *cuts, size_t count, bool (*has)(const void *, uint32_t),
                        const void *context)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        if (has(context, cuts[i].tree)) {
            cuts[kept++] = cuts[i];
        } else {
            free_bytes(cuts[i].at);
        }
    }
    return kept;
}

void lk_edit_keep_trees(lk_edit *e, bool (*has)(const void *context, uint32_t tree),
                        const void *context)
{
    size_t kept = 0;
    for (size_t i = 0; i < e->remove_count; i++) {
        if (has(context, e->removes[i].tree)) {
            e->removes[kept++] = e->removes[i];
        } else {
            free_bytes(e->removes[i].lower);
        }
    }
    e->remove_count = kept;
    e->join_count = keep_cuts(e->joins, e->join_count, has, context);
    e->split_count = keep_cuts(e->splits, e->split_count, has, context);
    kept = 0;
    for (size_t i = 0; i < e->add_count; i++) {
        if (has(context, e->adds[i].meta.tree)) {
            e->adds[kept++] = e->adds[i];
        } else {
            lk_table_meta_deinit(&e->adds[i].meta);
            lk_table_unref(e->adds[i].table);
        }
    }
    e->add_count = kept;
    kept = 0;
    for (size_t i = 0; i < e->delete_count; i++) {
        if (has(context, e->deletes[i].tree)) {
            e->deletes[kept++] = e->deletes[i];
        } else {
            free_bytes(e->deletes[i].start);
            free_bytes(e->deletes[i].stop);
        }
    }
    e->delete_count = kept;
}
